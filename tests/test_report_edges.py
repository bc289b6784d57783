"""Stores that say little: an empty one, one method, one sample, no score, two devices.

Each has tables, figures and a page, which say so in words, and show nothing undefined as a number.
"""

from __future__ import annotations

import re
from html import unescape
from pathlib import Path
from typing import Any

import pytest

from rr_bench.report import write_report
from tests.fabricate import FULL, RR, open_cell, record, write_cell
from tests.fabricate_latency import row, write_latency


def _empty(out: Path) -> None:
    (out / "cells").mkdir()


def _one_method(out: Path) -> None:
    write_cell(out, FULL, [1.0, 0.0])


def _two_devices(out: Path) -> None:
    write_cell(out, FULL, [1.0])
    write_cell(out, RR, [1.0], device="cuda 9.0")


def _one_sample(out: Path) -> None:
    write_cell(out, FULL, [1.0])
    write_cell(out, RR, [1.0])


def _no_dense_score(out: Path) -> None:
    write_cell(out, FULL, [0.0, 0.0])
    write_cell(out, RR, [1.0, 0.0])


def _all_failed(out: Path) -> None:
    write_cell(out, FULL, [None])
    write_cell(out, RR, [None])


def _one_prompt_of_helmet(out: Path) -> None:
    for method, score in ((FULL, 0.0), (RR, 1.0)):
        write_cell(out, method, [score], task="msmarco_rerank", source="helmet")


def _one_question_about_a_video(out: Path) -> None:
    labels = {"video_id": "1", "question_id": "1-1", "duration": "short"}
    for method in (FULL, RR):
        with open_cell(out, method, task="videomme_short") as cell:
            sample = record(
                "1", None, task="videomme_short", labels=labels, density=None, prefill_s=None
            )
            cell.append(sample)
            cell.finish(1)


def _one_time_and_one_that_failed(out: Path) -> None:
    write_cell(out, FULL, [1.0])
    failed = row("both", "mine", "triton", 8192, 1.0, status="failed", reason="out of memory")
    write_latency(out, [row("both", "rr", "triton", 4096, 1.0), failed])


@pytest.mark.parametrize(
    ("fill", "words"),
    [
        (_one_prompt_of_helmet, "the dense score is 0"),
        (_one_question_about_a_video, "no verdict"),
        (_one_time_and_one_that_failed, "no verdict"),
        (_empty, "no verdict"),
        (_one_method, "no verdict"),
        (_two_devices, "device: cuda 9.0 | cpu"),
        (_one_sample, "undecided: rr"),
        (_no_dense_score, "the dense score is 0"),
        (_all_failed, "no verdict"),
    ],
)
def test_tables_and_page_say_so_and_show_nothing_undefined(
    tmp_path: Path, fill: Any, words: str
) -> None:
    fill(tmp_path)
    write_report(tmp_path)
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    shown = unescape(re.sub(r"<(script|style).*?</\1>|<[^>]*>", " ", page, flags=re.DOTALL))
    assert words in " ".join(shown.split())
    tables = [path for path in tmp_path.rglob("*") if path.suffix in (".md", ".tex")]
    assert (tmp_path / "summary.md") in tables
    for text in (shown, *(path.read_text() for path in tables)):
        assert not re.search(r"\bnan\b|<NA>|None|\bNaN\b", text)
