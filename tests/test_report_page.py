"""``report.html`` as text: what it holds, what it leaves out, and that nothing stored can break it."""

from __future__ import annotations

import json
import re
from functools import cache
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from rr_bench.report import write_report
from rr_bench.report.latency import read_latency
from rr_bench.report.page import render
from rr_bench.report.page.content import (
    FIGURES_ROOM,
    Page,
    joined,
    page_table,
    script_json,
    summary_page,
    with_figures,
)
from rr_bench.report.page.latency import latency_page
from rr_bench.report.page.samples import OUTPUT, ROOM, difference, sample_data
from rr_bench.report.tables import summarise
from rr_bench.store.freeze import freeze
from rr_bench.store.reading import read_store
from rr_bench.store.records import CellInfo, SampleRecord
from rr_bench.store.stored import StoredCell
from tests.fabricate import (
    FULL,
    RR,
    change_environment,
    open_cell,
    record,
    settings,
    write_cell,
)
from tests.fabricate_latency import DEVICE, rows, write_latency

LOADING = ("href", "src", "xlink:href")


class Reader(HTMLParser):
    """Text, links and elements of a page."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.names: list[str] = []
        self.addresses: list[str] = []
        self.texts: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.names.append(tag)
        self.addresses += [value or "" for name, value in attrs if name in LOADING]

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


def page_of(out: Path) -> str:
    """The page without figures, which are what takes time."""
    return render(summary_page(summarise(*read_store(out)), out, pd.DataFrame(), []))


def written(out: Path) -> str:
    """The whole page as a report writes it."""
    write_report(out)
    return (out / "report.html").read_text(encoding="utf-8")


def data_of(page: str) -> dict[str, Any]:
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)
    assert found is not None
    data = json.loads(found[1])
    assert isinstance(data, dict)
    return data


def write_outputs(out: Path, method: dict[str, Any], outputs: list[str], **fields: Any) -> None:
    """A cell whose samples have these outputs; right is what starts with "7"."""
    with open_cell(out, method) as cell:
        for uid, output in enumerate(outputs):
            score = float(output.startswith("7"))
            cell.append(record(str(uid), score, output=output, **fields))
        cell.finish(len(outputs))


@pytest.fixture
def pair(tmp_path: Path) -> Path:
    """Dense and sparse answers to three prompts."""
    ends = {"prompt_head": "Which number", "prompt_tail": "is it?"}
    write_outputs(tmp_path, FULL, ["7 it is", "7 it is", "8"], density=1.0, **ends)
    write_outputs(tmp_path, RR, ["7 it is", "7 is it", "7"], density=0.4)
    return tmp_path


def test_a_sample_stands_beside_the_dense_one(pair: Path) -> None:
    data = data_of(page_of(pair))
    (sparse,) = [cell for cell in data["cells"].values() if "rr(" in cell["label"]]
    by_uid = {data["prompts"][one["p"]]["uid"]: one for one in sparse["samples"]}
    assert "at" not in by_uid["0"] and by_uid["1"]["at"] == 3
    assert by_uid["1"]["d"] == 40 and data["answers"][by_uid["2"]["a"]] == {"o": "8", "s": 0}
    prompt = data["prompts"][by_uid["1"]["p"]]
    assert (prompt["head"], prompt["tail"], prompt["gold"]) == ("Which number", "is it?", "7")
    assert sparse["link"].startswith("cells/") and (pair / sparse["link"]).is_file()


def test_what_lost_most_comes_first(tmp_path: Path) -> None:
    write_cell(tmp_path, FULL, [1.0, 1.0, 1.0, 0.0])
    write_cell(tmp_path, RR, [1.0, 0.25, None, 1.0])
    data = data_of(page_of(tmp_path))
    (sparse,) = [cell for cell in data["cells"].values() if "rr(" in cell["label"]]
    uids = [data["prompts"][one["p"]]["uid"] for one in sparse["samples"]]
    assert uids == ["2", "1", "0", "3"] and sparse["samples"][0]["e"] == "out of memory"


@pytest.mark.parametrize(
    ("sparse", "dense", "at"),
    [("a", "a", None), ("ab", "ac", 1), ("ab", "a", 1), ("", "a", 0), ("", "", None)],
)
def test_first_difference(sparse: str, dense: str, at: int | None) -> None:
    assert difference(sparse, dense) == at


def test_a_difference_behind_the_cut_is_shown_by_itself(tmp_path: Path) -> None:
    same = "7" + "x" * OUTPUT
    write_outputs(tmp_path, FULL, [same + "dense"])
    write_outputs(tmp_path, RR, [same + "sparse"])
    (sample,) = [
        one
        for cell in data_of(page_of(tmp_path))["cells"].values()
        for one in cell["samples"]
        if "w" in one
    ]
    assert sample["at"] == len(same) and sample["o"].endswith("characters more")
    assert [text.strip("x") for text in sample["w"]] == ["sparse", "dense"]


def test_a_page_loads_nothing_and_equal_stores_give_equal_pages(pair: Path) -> None:
    page = written(pair)
    assert written(pair) == page
    found = Reader(page)
    assert "default-src 'none'" in page
    outside = [one for one in found.addresses if not one.startswith(("#", "data:,"))]
    assert all((pair / one).exists() for one in outside)
    assert {"img", "iframe", "object"}.isdisjoint(found.names)
    assert not re.search("https?:", re.sub(r'xmlns:xlink="[^"]*"', "", page))


HOSTILE = "</script><script>alert(1)</script><!-- <b>&amp;"


def test_nothing_stored_becomes_part_of_the_page(tmp_path: Path) -> None:
    write_outputs(tmp_path, FULL, ["7" + HOSTILE], golds=[HOSTILE], prompt_head=HOSTILE)
    write_outputs(tmp_path, RR | {"label": f"rr({HOSTILE})"}, ["8" + HOSTILE])
    page = page_of(tmp_path)
    clean = Reader(page)
    assert clean.names.count("script") == 2 and "b" not in clean.names[: clean.names.index("details")]
    assert data_of(page)["prompts"][0]["head"] == HOSTILE
    assert f"rr({HOSTILE})" in clean.texts
    assert json.loads(script_json({"a": HOSTILE})) == {"a": HOSTILE}


def test_a_frozen_store_says_where_its_samples_are(pair: Path, tmp_path: Path) -> None:
    freeze(pair, tmp_path / "frozen")
    cells = data_of(page_of(tmp_path / "frozen"))["cells"]
    assert {cell["link"] for cell in cells.values()} == {"samples.jsonl.gz"}


def test_environment_and_command_are_at_the_bottom(pair: Path) -> None:
    for place, part in zip(sorted(pair.glob("cells/*/env.json")), ("1/2", "2/2"), strict=True):
        command = f"python -m rr_bench tasks=[json_kv] slice={part} samples=3"
        change_environment(place.parent, command=command)
    page = page_of(pair)
    bottom = page[page.index('id="environment"') :]
    assert "<dt>device</dt><dd>cpu</dd>" in bottom and "abc with uncommitted changes" in bottom
    assert bottom.count("<pre") == 1
    assert "python -m rr_bench tasks=[json_kv] slice=&lt;i&gt;/2 samples=3" in bottom


def test_a_store_from_before_commands_and_prompts_says_so(tmp_path: Path) -> None:
    write_cell(tmp_path, FULL, [1.0])
    page = page_of(tmp_path)
    assert "Not recorded" in page and "head" not in data_of(page)["prompts"][0]


def test_500_cells_of_100_samples_stay_below_5_megabytes() -> None:
    cells = [_big_cell(method, length) for length in range(1001, 1026) for method in range(20)]
    data = sample_data(cells, frozen=False)
    shown = [len(cell["samples"]) for cell in data.cells.values()]
    assert min(shown) > 5 and max(shown) < 100 and data.room < 10_000
    assert {cell["n"] for cell in data.cells.values()} == {100}
    samples = script_json(data.plain)
    assert len(samples.encode()) < 1.1 * ROOM
    names = ["method", "task", "length", "n", "score", "dense", "recovery", "density", "verdict"]
    text = pd.DataFrame([["minference_native(ratio=0.123)", *names[1:]]] * 500, columns=names)
    keys = list(data.cells)
    pictures = [(f"figure-{i}", script_json("x" * 100_000)) for i in range(40)]
    tables = [page_table("Methods", text), page_table("Cells", text, keys)]
    page = with_figures(Page("Title", "", [], tables=tables, samples=samples), pictures)
    assert sum(len(figure.svg) for figure in page.figures) <= FIGURES_ROOM
    assert page.figures[-1].link == "figures/figure-39.png"
    assert len(render(page).encode()) < 5_000_000


def _big_cell(method: int, length: int) -> StoredCell:
    """100 samples of one method at one length, each with 60 words of output."""
    name = FULL if method == 0 else RR | {"label": f"rr(tau={method})", "params": {"tau": method}}
    key = f"{method:03d}{length:04d}" + "0" * 57
    info = CellInfo(
        key=key,
        label=f"{name['label']}-json_kv-{length}",
        model={"name": "m", "path": "m"},
        method=name,
        settings=settings(name, length=length),
    )
    return StoredCell(info, {}, _big_samples(length, name["dense"]), done=100)


@cache
def _big_samples(length: int, dense: bool) -> list[SampleRecord]:
    fields = {"length": length, "prompt_head": "p" * 300}
    return [record(str(uid), 0.5, output=f"{uid} {dense} word" * 40, **fields) for uid in range(100)]


def test_a_latency_run_has_a_page_and_shares_one_with_a_store(tmp_path: Path) -> None:
    write_latency(tmp_path, list(rows()))
    alone = latency_page(read_latency(tmp_path), tmp_path)
    found = Reader(render(alone))
    text = " ".join(found.texts)
    assert f"Latency on {DEVICE}" in text and "times as fast as" in text
    assert found.names.count("table") > 2 and "select" not in found.names
    write_cell(tmp_path, FULL, [1.0])
    store = summary_page(summarise(*read_store(tmp_path)), tmp_path, pd.DataFrame(), [])
    both = " ".join(Reader(render(joined(store, alone))).texts)
    assert "Score recovery" in both and "times as fast as" in both and "Cells" in both


def test_no_page_is_written_where_none_is_wanted(tmp_path: Path) -> None:
    write_cell(tmp_path, FULL, [1.0])
    report = write_report(tmp_path, pdf=False, page=False)
    assert not (tmp_path / "report.html").exists()
    assert {path.suffix for path in report.paths} == {".csv", ".md", ".png"}
