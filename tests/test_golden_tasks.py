"""Prompts and scores of fixed rows and answers, stored with the versions of what made them."""

from __future__ import annotations

import functools
import hashlib
import tempfile
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any

import pytest

from rr_bench.tasks.helmet_table import DATASETS
from rr_bench.tasks.sources import TASKS, module_of, rows_of
from rr_bench.tasks.task import process_results
from tests import fabricate_helmet, golden
from tests.golden import Output, check, complaints, read, rewrite
from tests.helmet_layout import word_tokenizer_dir

LENGTH = 4096
ANSWERS = (
    "",
    " gold",
    " It is Gold [1][2], perhaps.\nAnswer: the ore.",
    " B. gold\nSummary: the golden ore of the mine",
    " 1 > 4 > 3 > 2",
    " ID: 2 > [ID: 9] > 1 > 1 > 3\n\nRanking: 5",
    " label: gold label: ore",
    " yes",
    "thought </think> gold",
)
"""Each brings out another rule of some scorer."""


def cases(tasks: Iterable[str] = ()) -> dict[str, Output]:
    """Every task's prompts, of files and generated, and its scores; or those of some tasks."""
    wanted = set(tasks or (*DATASETS, *TASKS))
    with tempfile.TemporaryDirectory() as folder:
        return {**prompts(Path(folder), wanted), **scores(wanted)}


def prompts(folder: Path, tasks: Collection[str]) -> dict[str, Output]:
    """SHA-256 and characters of prompts, tokens, and tokens cut; chat prompts after the others."""
    root = fabricate_helmet.helmet(folder / "helmet", LENGTH)
    made = functools.partial(
        _prompts, {chat: word_tokenizer_dir(folder / str(chat), chat=chat) for chat in (False, True)}
    )
    found = {}
    for task in [one for one in DATASETS if one in tasks]:
        given = {"helmet_dir": str(root), "document_floor": 0, "recall": "files"}
        found[f"prompts of {task}"] = made(task, **given)
    for task in [one for one in TASKS if one in tasks]:
        found[f"generated prompts of {task}"] = made(task)
    return found


def _prompts(tokenizers: dict[bool, str], task: str, **given: Any) -> Output:
    values = []
    for chat in (False, True) if task in DATASETS and DATASETS[task].chat else (False,):
        options = {"chat": "always"} if chat else {"chat": "never"}
        options |= {"length": LENGTH, "samples": 3, "tokenizer": tokenizers[chat]}
        for row in rows_of(task, **options, **given):
            sha = hashlib.sha256(row["prompt"].encode()).hexdigest()[:12]
            values.append([sha, len(row["prompt"]), row["input_len"], row["removed_tokens"]])
    module = module_of(task)
    return Output(f"{module.__name__}.PROMPTS", module.PROMPTS, values)


def scores(tasks: Collection[str]) -> dict[str, Output]:
    """All metrics of every answer; without thoughts, and of the last one with them."""
    found = {}
    for task in [one for one in DATASETS if one in tasks]:
        module, row = module_of(task), fabricate_helmet.doc(task)
        values = [process_results(row, [answer]) for answer in ANSWERS]
        values.append(process_results({**row, "thinking": True}, [ANSWERS[-1]]))
        names = list(values[0])
        table = [names, *([float(one[name]) for name in names] for one in values)]
        found[f"scores of {task}"] = Output(f"{module.__name__}.SCORER", module.SCORER, table)
    return found


@pytest.fixture(scope="module")
def now() -> dict[str, Output]:
    return cases()


def test_prompts_and_scores_are_the_stored_ones(now):
    check("tasks", now)


def test_the_fixed_rows_reach_every_rule(now):
    """Some prompts are cut, some are not; no scorer gives the same for all answers."""
    cut = {
        name: [row[3] > 0 for row in output.values]
        for name, output in now.items()
        if name.startswith("prompts")
    }
    assert any(map(any, cut.values())) and not all(map(all, cut.values()))
    for name, output in now.items():
        if name.startswith("scores"):
            assert len({tuple(row) for row in output.values[1:]}) > 1, name


@pytest.mark.parametrize(
    ("module", "old", "new", "task"),
    [
        ("rr_bench.tasks.datasets.kilt", "Question: {question}", "Question:  {question}", "kilt_nq"),
        ("rr_bench.tasks.prompts.templates", "Key: {question}", "key: {question}", "json_kv"),
        ("rr_bench.tasks.datasets.icl", "Only output", "only output", "icl_nlu"),
        ("rr_bench.tasks.metrics.ranking", "rank + 2", "rank + 3", "msmarco_rerank"),
        ("rr_bench.tasks.metrics.citations", "TOP = 5", "TOP = 1", "alce_qampari"),
        ("rr_bench.tasks.metrics.answers", "text.lower()", "text", "kilt_triviaqa"),
    ],
)
def test_a_changed_template_or_constant_is_noticed(monkeypatch, module, old, new, task):
    stored = {name: one for name, one in read("tasks").items() if name.endswith(f" {task}")}
    assert complaints(stored, cases([task])) == []
    rewrite(monkeypatch, module, old, new)
    found = complaints(stored, cases([task]))
    assert found and all("bump the version of" in line and task in line for line in found)


def test_the_kind_is_listed():
    assert golden.KINDS["tasks"] == __name__
