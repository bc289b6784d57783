"""Figures of scores: which lines a store of many methods is given, and that drawn points are rows."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import matplotlib
import pandas as pd
import pytest
from matplotlib.axes import Axes

from rr_bench.report import figures, pareto, write_report
from rr_bench.report.ablation import row_labels
from rr_bench.report.load import natural
from rr_bench.report.series import (
    MOST,
    control_bases,
    control_lines,
    density_lines,
    keep_bases,
    line_of,
    main_lines,
    spread,
)
from rr_bench.report.style import (
    DENSITIES,
    PARTS,
    RC,
    family_looks,
    legend_labels,
    method_styles,
    scale,
    split_label,
)
from tests.fabricate import FULL, RR, write_cell

BASE = "rr(tau=0.9, selector=top_p)"
RR_LINES = [BASE, "rr(tau=0.95, selector=top_p)"]
CONTROLS = [f"rr(tau=0.9, selector=top_p, offset={offset})" for offset in ("0", "mean", "random")]
CONTROLS += [f"rr(tau={tau}, stride=16, selector=top_p)" for tau in ("0.9", "0.95")]
CALIBRATED = ["rr(tau=0.83, selector=top_p)", "xattention(tau=0.7)"]
OTHERS = [
    "flexprefill(gamma=0.95)",
    "minference(patterns=probe, ratio=1.0)",
    "new(size=3)",
    "oracle(tau=0.9)",
    "xattention(tau=0.9)",
    "xattention(tau=0.9, stride=16)",
]
STORE = [*RR_LINES, *CONTROLS, *OTHERS, *CALIBRATED]
LENGTHS = {label: {4096} if label in CALIBRATED else {4096, 8192, 16384} for label in STORE}
KNOBS = {"rr": "tau", "xattention": "tau", "oracle": "tau", "flexprefill": "gamma"}
KNOBS |= {"minference": "ratio", "new": "size"}


def lines(labels: list[str]) -> dict[str, str]:
    return {label: line_of(label, KNOBS.get(split_label(label)[0])) for label in labels}


def test_few_methods_are_all_shown() -> None:
    few = [*RR_LINES, *CONTROLS]
    assert len(few) <= MOST
    assert main_lines({label: {4096} for label in few}) == [few] and control_lines(few) == []
    (shown,) = density_lines(lines(few))
    assert shown == few and len(set(lines(few).values())) == 5  # two strides, three offsets


def test_many_methods_are_shown_without_controls_and_what_few_lengths_have() -> None:
    (shown,) = main_lines(LENGTHS)
    assert set(shown) == {*RR_LINES, *OTHERS} - {OTHERS[-1]}
    of_rr, of_xattention = control_lines(STORE)
    assert of_rr == [BASE, *CONTROLS[:4], RR_LINES[1], CONTROLS[4]] and of_xattention == OTHERS[-2:]
    wanted = dict.fromkeys(CONTROLS[:4], BASE) | {CONTROLS[4]: RR_LINES[1], OTHERS[-1]: OTHERS[-2]}
    assert control_bases(STORE) == wanted
    # What was calibrated to a density is another method, whose name lacks the knob.
    assert control_bases([*STORE, "rr(selector=top_p) @ 25 %"]) == wanted


def test_every_control_stands_below_its_base_however_many_there_are() -> None:
    labels = [f"rr(tau={tau}{more})" for tau in range(4) for more in ("", ", a=1", ", a=2")]
    labels += [f"new(size=1, b={i})" for i in range(9)] + ["new(size=1)"]
    figures = control_lines(labels)
    assert {label for names in figures for label in names} == set(labels)
    assert all(len(names) <= MOST and set(control_bases(names)) != set(names) for names in figures)
    drawn = {name: base for names in figures for name, base in control_bases(names).items()}
    assert drawn == control_bases(labels)
    assert row_labels(figures[0], control_bases(figures[0]))[:3] == ["rr (tau=0)", "a=1", "a=2"]


@pytest.mark.usefixtures("undrawn")
def test_rules_of_kept_blocks_have_figures_of_their_own(tmp_path: Path) -> None:
    write_cell(tmp_path, FULL, [1.0, 1.0])
    for sink, last_row in ((True, True), (True, False), (False, False)):
        keep = {"sink": sink, "diagonal": False, "last_row": last_row}
        write_cell(tmp_path, RR, [1.0, 0.5], density=0.5, keep=keep)
    report = write_report(tmp_path, pdf=False)
    assert "ablation-keep-rr-json_kv.png" in {path.name for path in report.paths}
    points = sorted(report.frame["point"].dropna().unique(), key=len)[-3:]
    none, sink, both = points
    bases = keep_bases([*points, "streaming, keep none"])
    assert bases == {sink: both, none: both} and list(bases) == [sink, none]
    assert row_labels(points, bases) == ["keep none", "keep sink", "rr, keep sink+last_row (tau=0.95)"]


def test_more_lines_than_one_figure_holds_go_on_in_the_next() -> None:
    many = [f"one(size={i})" for i in range(12)] + [f"two(size={i})" for i in range(9)]
    shown = main_lines({label: {4096} for label in many})
    assert [len(part) for part in shown] == [7, 7, 7] and [x for part in shown for x in part] == many
    several = density_lines({label: label for label in many})
    assert several == shown
    assert density_lines({label: label[:3] for label in many}) == [many]


def test_of_a_knobs_many_settings_figures_by_length_show_some_from_end_to_end() -> None:
    many = {f"rr(tau={place / 1000})": "rr" for place in range(500, 900)}
    shown = spread(many | {"streaming(window=512)": "streaming"})
    assert len(shown) == MOST + 1 and shown[-1] == "streaming(window=512)"
    assert shown[0] == "rr(tau=0.5)" and shown[-2] == "rr(tau=0.899)"
    few = dict(list(many.items())[:MOST])
    assert spread(few) == list(few)


def test_lines_by_density_join_what_only_the_knob_tells_apart() -> None:
    named = lines(STORE)
    (shown,) = density_lines(named)
    assert set(shown) == set(STORE) - set(CONTROLS) - {OTHERS[-1]}
    assert named[BASE] == named[CALIBRATED[0]] == named[RR_LINES[1]] == "rr(selector=top_p)"
    assert named["minference(patterns=probe, ratio=1.0)"] == "minference(patterns=probe)"
    assert named["new(size=3)"] == "new"
    assert line_of("a(size=3), keep none", None) == "a(size=3), keep none"


def test_labels_are_taken_apart_and_shortened() -> None:
    assert split_label("rr(tau=0.9, offset=mean), keep none") == (
        "rr",
        {"tau": "0.9", "offset": "mean"},
        ", keep none",
    )
    assert split_label("streaming, keep none") == ("streaming", {}, ", keep none")
    short = legend_labels([BASE, CONTROLS[1], OTHERS[0], "xattention(tau=0.9), keep none", "full"])
    assert list(short.values()) == [
        "rr",
        "rr (offset=mean)",
        "flexprefill",
        "xattention, keep none",
        "full",
    ]
    kept = ["xattention(tau=0.9), keep none", "xattention(tau=0.9), keep paper"]
    assert list(legend_labels(kept).values()) == ["xattention, keep none", "xattention, keep paper"]


def test_families_look_different_and_so_do_variants_of_one() -> None:
    names = ["rr", "xattention", "minference", "flexprefill", "flexprefill_no_minimum", "streaming"]
    names += ["trianglemix", "oracle", "oracle_max", "full", *(f"new{i}" for i in range(7))]
    looks = method_styles((name, name) for name in names)
    assert len({(style["color"], style["marker"]) for style in looks.values()}) == len(names)
    alone = method_styles(("rr", label) for label in [BASE, *CONTROLS])
    assert {style["color"] for style in alone.values()} == {"#0072B2"}


def test_a_method_of_the_users_keeps_its_look_from_figure_to_figure() -> None:
    by_itself = family_looks(["mine"])["mine"]
    assert family_looks(["full", "mine", "rr", "zeta"])["mine"] == by_itself
    known = {color for color, _ in family_looks(["full", "rr", "xattention", "streaming"]).values()}
    assert by_itself[0] not in known


def test_what_is_no_method_has_no_methods_colour() -> None:
    methods = {
        color for color, _ in family_looks([*KNOBS, "full", "streaming", "trianglemix"]).values()
    }
    assert methods.isdisjoint([*PARTS.values(), *scale(DENSITIES, 4)])


def method(label: str) -> dict[str, Any]:
    name, settings, _ = split_label(label)
    return {**RR, "name": name, "label": label, "params": settings, "knob": KNOBS.get(name)}


def write_store(out: Path) -> pd.DataFrame:
    """The whole store on recall_prefill, rr's base alone on json_kv."""
    for length in (4096, 8192, 16384):
        for task in ("recall_prefill", "json_kv"):
            write_cell(out, FULL, [1.0, 1.0, 1.0], length=length, task=task)
        write_cell(out, method(BASE), [1.0, 1.0, 0.5], length=length, task="json_kv")
        for i, label in enumerate(sorted(STORE, key=natural)):
            scores = [1.0 - 0.02 * i, 0.9 - 0.05 * i, 0.8 - 0.05 * i]
            if length > 4096 and label in CALIBRATED:
                continue
            write_cell(
                out, method(label), scores, density=0.9 - 0.05 * i, length=length, task="recall_prefill"
            )
    return write_report(out).frame


def test_a_store_of_many_methods_has_a_figure_of_controls_and_one_per_task(tmp_path: Path) -> None:
    frame = write_store(tmp_path)
    names = {path.name for path in (tmp_path / "figures").iterdir()}
    wanted = {"ablation-rr-recall_prefill.png", "ablation-xattention-recall_prefill.png"}
    assert {*wanted, "recovery_by_density-recall_prefill.pdf"} <= names
    # The table leaves nothing out.
    assert len(frame[frame["status"] == "done"]) == 9 + 3 * len(STORE) - 2 * len(CALIBRATED)
    assert f"{MOST} sparse methods at most" in (tmp_path / "summary.md").read_text()


def drawn(axes: Axes) -> list[tuple[list[float], list[float]]]:
    return [(list(line.get_xdata()), list(line.get_ydata())) for line in axes.lines[1:]]


@pytest.mark.usefixtures("undrawn")
def test_line_by_density_is_of_the_tables_rows_in_their_order(tmp_path: Path) -> None:
    frame = write_store(tmp_path)
    rows = frame[(frame["task"] == "recall_prefill") & ~frame["dense"] & (frame["family"] == "rr")]
    rows = rows[rows["method"].isin([BASE, RR_LINES[1], CALIBRATED[0]])]
    with matplotlib.rc_context(RC):
        figure = pareto._figure(rows, "recall_prefill", (0, 110))
    assert set(rows["line"]) == {"rr(selector=top_p)"}
    assert [axes.get_title() for axes in figure.axes] == ["4K", "8K", "16K"]
    wanted = rows[rows["length"] == 4096].sort_values("density")
    ((x, y),) = [line for line in drawn(figure.axes[0]) if len(line[0]) == 3]
    assert x == list(wanted["density"]) and y == list(wanted["recovery"]) and len(x) == 3


@pytest.mark.usefixtures("undrawn")
def test_the_task_of_most_methods_is_wide_and_keeps_its_own_range(tmp_path: Path) -> None:
    rows = write_store(tmp_path)
    rows = pd.concat([rows, rows[rows["task"] == "json_kv"].assign(task="another")])
    rows = rows[~rows["dense"] & rows["recovery"].notna()]
    with matplotlib.rc_context(RC):
        figure = figures.by_length(figures._RECOVERY, rows)
        figure.draw_without_rendering()
    narrow, second, wide = figure.axes
    assert [axes.get_title() for axes in figure.axes] == ["another", "json_kv", "recall_prefill"]
    assert wide.get_position().width > 2 * narrow.get_position().width
    assert narrow.get_ylim() == second.get_ylim() != wide.get_ylim()


@pytest.mark.usefixtures("undrawn")
def test_a_gap_in_one_panel_of_two_is_a_gap_and_no_range(tmp_path: Path) -> None:
    for task in ("json_kv", "recall_prefill"):
        for length in (4096, 8192, 16384):
            write_cell(tmp_path, FULL, [1.0, 1.0], length=length, task=task)
            if (task, length) != ("json_kv", 8192):
                write_cell(tmp_path, method(BASE), [1.0, 0.5], length=length, task=task)
            write_cell(tmp_path, method(OTHERS[0]), [0.5, 0.5], length=length, task=task)
    rows = write_report(tmp_path).frame
    rows = rows[rows["recovery"].notna()]
    with matplotlib.rc_context(RC):
        first, second = figures.by_length(figures._RECOVERY, rows).axes
    lines = [y for _, y in drawn(first) if len(y) == 3]
    assert any(pd.isna(y[1]) and y[0] == y[2] == 75 for y in lines)
    assert first.get_ylim() == second.get_ylim() and first.get_ylim()[0] > 0


def test_figures_are_readable_files_and_do_not_change(tmp_path: Path) -> None:
    for length in (4096, 8192):
        write_cell(tmp_path, FULL, [1.0, 1.0], length=length)
        write_cell(tmp_path, RR, [1.0, 0.5], density=0.25, length=length)
    paths = [path for path in write_report(tmp_path).paths if path.parent.name == "figures"]
    by_length = {"recovery_by_length", "density_by_length", "score_by_length"}
    stems = {"recovery_by_density-json_kv", *by_length}
    assert {path.stem for path in paths} == stems and len(paths) == 8
    before = {path: path.read_bytes() for path in paths}
    assert all(
        data.startswith(b"\x89PNG" if path.suffix == ".png" else b"%PDF")
        for path, data in before.items()
    )
    write_report(tmp_path)
    assert {path: path.read_bytes() for path in paths} == before


def test_one_length_has_no_figures_by_length(tmp_path: Path) -> None:
    write_cell(tmp_path, FULL, [1.0, 1.0])
    write_cell(tmp_path, RR, [1.0, 0.5], density=0.25)
    found = {path.stem for path in write_report(tmp_path).paths if path.parent.name == "figures"}
    assert found == {"recovery_by_density-json_kv"}


def test_only_dense_cells_have_a_figure_of_scores(tmp_path: Path) -> None:
    write_cell(tmp_path, FULL, [1.0, 0.0])
    report = write_report(tmp_path)
    assert report.problems == [] and report.frame["score"].tolist() == [50]
    assert {path.stem for path in report.paths} == {"summary", "report", "score_by_length"}


def test_three_lengths_at_most() -> None:
    lengths = [4096, 8192, 16384, 32768, 65536, 131072]
    assert pareto.some_lengths(lengths) == [4096, 32768, 131072]
    assert pareto.some_lengths(lengths[:2]) == lengths[:2]


@pytest.mark.parametrize("count", [1, 2, 5])
def test_variants_of_a_family_are_told_apart_in_grey(count: int) -> None:
    labels = [f"rr(tau=0.{i + 1})" for i in range(count)]
    styles = method_styles([*(("rr", label) for label in labels), ("oracle", "oracle")])
    looks = [json.dumps([styles[one]["fillstyle"], styles[one]["linestyle"]]) for one in labels]
    assert len(set(looks)) == count
