"""Tables by hand: text, Markdown, LaTeX, what is chosen for the headline, published rows beside."""

from __future__ import annotations

import io
import math
import re
from pathlib import Path

import pandas as pd
import pytest

from rr_bench.report import write_report
from rr_bench.report.headline import FEW, equal_density, headline
from rr_bench.report.recovery import Recovery
from rr_bench.report.series import points
from rr_bench.report.table import Column, Table
from rr_bench.report.verdict import Standing
from tests.fabricate import FULL, RR, change_environment, open_cell, record, write_cell
from tests.source import ROOT

pytestmark = pytest.mark.usefixtures("undrawn")

COLUMNS = {
    "method": Column("who"),
    "recovery": Column("how much", 1, ("lo", "hi")),
    "lo": Column("lower end"),
    "hi": Column("upper end"),
    "speedup": Column("how fast", 2, unit="×"),
    "empty": Column("nothing"),
}
FRAME = pd.DataFrame(
    [("a_b(x=1)", 97.26, 95.0, 99.0, 1.5, None), ("100 %", math.nan, math.nan, math.nan, 2.0, "")],
    columns=list(COLUMNS),
)


def test_a_table_as_text_markdown_latex_and_csv() -> None:
    table = Table("t", "Title", FRAME, COLUMNS, "Said.", frozenset({(0, "recovery")}))
    text = table.text()
    assert list(text) == ["method", "recovery", "speedup"]
    assert text.values.tolist() == [["a_b(x=1)", "97.3 (95.0–99.0)", "1.50×"], ["100 %", "–", "2.00×"]]
    assert "**97.3 (95.0–99.0)**" in table.markdown() and "- **speedup**: how fast" in table.markdown()
    lines = table.latex().splitlines()
    assert lines[:3] == ["% Title", "% Said.", r"\begin{tabular}{lrr}"]
    assert [line for line in lines if line.endswith("rule")] == [
        r"\toprule",
        r"\midrule",
        r"\bottomrule",
    ]
    assert r"a\_b(x=1) & \textbf{97.3 (95.0--99.0)} & 1.50$\times$ \\" in lines
    assert r"100 \% & -- & 2.00$\times$ \\" in lines
    assert pd.read_csv(io.StringIO(table.csv()))["recovery"][0] == 97.26


def test_rows_of_a_tabular_stand_in_the_groups_of_a_column() -> None:
    frame = pd.DataFrame({"model": "m", "level": ["a", "a", "b"], "who": ["x", "y", "x"]})
    tabular = Table("t", "T", frame, {name: Column("") for name in frame}).latex()
    body = tabular.split("midrule\n")[1].split("\\bottomrule")[0]
    assert body.splitlines()[2] == r"\addlinespace" and body.count("addlinespace") == 1


def latex_problems(text: str) -> list[str]:
    """What would keep a table from compiling with booktabs alone, or set it wrong."""
    found = [f"not ASCII: {one!r}" for one in sorted({one for one in text if ord(one) > 126})]
    lines = [line for line in text.splitlines() if not line.startswith("% ")]
    (aligned,) = re.fullmatch(r"\\begin\{tabular\}\{([lr]+)\}", lines[0]).groups()
    rules = [line for line in lines if re.fullmatch(r"\\(top|mid|bottom)rule", line)]
    if lines[-1] != r"\end{tabular}" or rules != [r"\toprule", r"\midrule", r"\bottomrule"]:
        found.append("the frame of the tabular is broken")
    rows = [line for line in lines[1:-1] if line not in [*rules, r"\addlinespace"]]
    for line in rows:
        escaped = r"\\(textbackslash|textasciitilde|\^)\{\}|\\[&%$#_{}]|\$\\(times|pm)\$"
        bare = re.sub(r"\\textbf\{([^{}]*)\}", r"\1", re.sub(escaped, "", line))
        cells = bare.removesuffix(r" \\")
        if cells.count("&") != len(aligned) - 1 or cells == bare:
            found.append(f"{cells.count('&') + 1} cells for {len(aligned)} columns: {line}")
        if set(cells) & set("%$#_{}~^\\"):
            found.append(f"not escaped: {line}")
    return found


ODD = r"50 % & a_b #1 $x {y} ~z ^2 \t"
COMMITTED = sorted((ROOT / "results").rglob("*.tex"))


def test_what_latex_would_stumble_over_is_escaped() -> None:
    frame = pd.DataFrame({"a_b %": [ODD, "–"], "&": ["± 1", "2 ×"]})
    columns = {"a_b %": Column("x"), "&": Column("y")}
    tabular = Table("t", "T", frame, columns, "50 %", frozenset({(0, "a_b %")})).latex()
    assert latex_problems(tabular) == []
    for bad in (
        tabular.replace(r"\%", "%"),
        tabular.replace(r"\_", "_"),
        tabular.replace(" & ", " ", 1),
    ):
        assert latex_problems(bad)
    for bad in (
        tabular.replace("--", "–"),
        tabular.replace(r"\midrule", ""),
        tabular[: -len("tabular}\n")],
    ):
        assert latex_problems(bad)


def test_committed_tables_are_sound_latex() -> None:
    assert COMMITTED
    assert {path.name: found for path in COMMITTED if (found := latex_problems(path.read_text()))} == {}


def standing(series: str, line: str, value: float, density: float, half: float = 1.0) -> Standing:
    found = Recovery(200, value, 100.0, value, value - half, value + half)
    return Standing("probe", series, found, density, 3, 3, 1.5, 2.0, line)


def test_a_headline_of_many_has_the_sparsest_setting_that_kept_the_score() -> None:
    many = [standing(f"m{i}(tau={tau})", f"m{i}", 100 - 10 * (1 - tau), 100 * tau)
            for i in range(5) for tau in (0.2, 0.9, 0.95)]  # fmt: skip
    assert len(many) > FEW
    table = headline(many)
    assert table.frame["method"].tolist() == [f"m{i}(tau=0.9)" for i in range(5)]
    assert "5 of 15" in table.caption
    assert len(headline(many[:6]).frame) == 6 and headline(many[:6]).caption == ""


def test_the_best_at_equal_density_is_marked_where_intervals_allow() -> None:
    found = [standing("a @ 20 %", "a", 90, 19), standing("b @ 20 %", "b", 80, 21)]
    found += [standing("a @ 50 %", "a", 99, 50), standing("b @ 50 %", "b", 98, 50)]
    (table,) = equal_density(found)
    assert table.best == {(0, "at 20 %")} and table.frame["at 50 %"].tolist() == [99, 98]
    assert equal_density(found[:1]) == []


def test_settings_chosen_for_one_length_count_as_one_method() -> None:
    rows = [("rr(tau=0.9)", n, 40.0) for n in (1, 2)]
    rows += [("rr(tau=0.5)", 1, 19.0), ("rr(tau=0.6)", 2, 21.0), ("rr(tau=0.7)", 1, 30.0)]
    frame = pd.DataFrame(rows, columns=["series", "length", "density"])
    frame = frame.assign(setup="s", line="rr", task="t", dense=False)
    assert points(frame).tolist() == ["rr(tau=0.9)"] * 2 + ["rr @ 20 %"] * 2 + ["rr(tau=0.7)"]


def test_speed_is_compared_on_one_kind_of_device_only(tmp_path: Path) -> None:
    write_cell(tmp_path, FULL, [1.0])
    write_cell(tmp_path, RR, [1.0])
    frame = write_report(tmp_path, pdf=False).frame
    assert frame.loc[~frame["dense"], "speedup"].tolist() == [1.0]
    for folder in tmp_path.glob("cells/full*"):
        change_environment(folder, device="another")
    frame = write_report(tmp_path, pdf=False).frame
    assert len(frame) == 2 and frame.loc[~frame["dense"], "speedup"].isna().all()


def test_a_wider_margin_keeps_more(tmp_path: Path) -> None:
    write_cell(tmp_path, FULL, [1.0] * 150)
    write_cell(tmp_path, RR, [1.0] * 146 + [0.0] * 4)
    assert write_report(tmp_path, pdf=False).frame["verdict"].dropna().tolist() == ["lost"]
    assert write_report(tmp_path, margin=10, pdf=False).frame["verdict"].dropna().tolist() == ["kept"]
    assert "keeps the dense score within 10 points" in (tmp_path / "summary.md").read_text()


@pytest.mark.parametrize("name", ["headline"])
def test_tables_are_written_in_three_formats(tmp_path: Path, name: str) -> None:
    write_cell(tmp_path, FULL, [1.0])
    write_cell(tmp_path, RR, [1.0])
    write_report(tmp_path, pdf=False)
    assert {path.name for path in (tmp_path / "tables").iterdir()} == {
        f"{name}.{end}" for end in ("csv", "md", "tex")
    }


def test_multiple_choice_says_how_many_outputs_name_an_option(tmp_path: Path) -> None:
    for method, named in ((FULL, [True, True]), (RR, [True, False])):
        with open_cell(tmp_path, method) as cell:
            for uid, one in enumerate(named):
                cell.append(record(str(uid), 1.0, answered=one))
            cell.finish(2)
    report = write_report(tmp_path, pdf=False)
    assert report.frame["answered"].tolist() == [100, 50]
    assert "answered" in report.table and "| 50.0 " in (tmp_path / "summary.md").read_text()


def test_other_stores_have_no_such_column(tmp_path: Path) -> None:
    write_cell(tmp_path, FULL, [1.0])
    assert "answered" not in write_report(tmp_path, pdf=False).frame
