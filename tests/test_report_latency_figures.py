"""What latency figures draw: which rows, beside which dense attention, in which panels."""

from __future__ import annotations

from pathlib import Path

import matplotlib
import pytest
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from rr_bench.report import write_report
from rr_bench.report.latency import (
    density_text,
    kernel_names,
    methods_at,
    read_latency,
    split_shares,
    strongest_text,
)
from rr_bench.report.latency_figures import rate_figure, speedup_figure, time_figure
from rr_bench.report.series import MOST
from rr_bench.report.style import RC
from tests.fabricate_latency import MODEL, dense, row, rows, write_latency

ROOT = Path(__file__).resolve().parent.parent
STEMS = {f"latency_{name}-{MODEL}" for name in ("time", "speedup", "split", "rate")}
RR = "rr(tau=0.95, stride=8)"


def test_figures_take_the_preferred_inputs_and_the_nearest_density(tmp_path: Path) -> None:
    write_latency(
        tmp_path,
        [
            row("both", RR, "hopper", 8192, 1.0, density=0.5),
            row("both", RR, "hopper", 8192, 0.7, density=0.34),
            row("both", RR, "dense:cudnn", 4096, 0.2, density=1.0),
            row("both", RR, "hopper", 8192, 0.1, inputs="random"),
            row("both", "streaming", "hopper", 8192, 0.5),
            row("both", "streaming", "triton", 8192, 0.6),
        ],
    )
    shown = methods_at(read_latency(tmp_path).done, "both")
    found = {(one["series"], one["length"]): one["median_ms"] for one in shown.to_dict("records")}
    assert found == {
        (RR, 8192): 0.7,
        (RR, 4096): 0.2,  # where it ran dense, its line goes on
        ("streaming, hopper", 8192): 0.5,
        ("streaming, triton", 8192): 0.6,
    }
    assert density_text(shown) == "densities 34 to 100 %"


def lines_of(axes: Axes) -> dict[str, Line2D]:
    return {str(line.get_label()): line for line in axes.lines}


def test_drawn_values_are_the_rows(tmp_path: Path) -> None:
    write_latency(tmp_path, list(rows()))
    done = read_latency(tmp_path).done
    with matplotlib.rc_context(RC):
        time = time_figure(done, "x")
        speedup = speedup_figure(done, "x")
        rate = rate_figure(done, "x")
    assert time is not None and speedup is not None and rate is not None
    times = lines_of(time.axes[0])
    assert times["dense, cuDNN"].get_ydata()[-1] == 250 and times["dense, FA2"].get_ydata()[-1] == 430
    assert time.axes[0].get_xscale() == time.axes[0].get_yscale() == "log"
    drawn = lines_of(speedup.axes[0])["rr"].get_ydata()
    assert drawn[-1] == pytest.approx(250 / times["rr"].get_ydata()[-1])
    assert len(speedup.axes) == 3 and len(rate.axes) == 3
    assert list(lines_of(rate.axes[0])["matmul"].get_ydata()) == [788, 788]


def test_one_kernel_by_several_names_is_one_panel(tmp_path: Path) -> None:
    case = {"inputs": "mask", "density": 0.5, "tflops": 500}
    table = [
        row("attention", "mask", "triton", 4096, 0.2, **case),
        row("attention", "mask", "hopper", 8192, 0.3, **case),
        row("attention", "mask", "flex_attention", 8192, 0.9, **case),
    ]
    write_latency(tmp_path, table)
    assert set(kernel_names(read_latency(tmp_path).done)) == {"hopper or triton", "flex_attention"}
    write_latency(tmp_path, [*table, row("attention", "mask", "triton", 8192, 0.4, **case)])
    assert set(kernel_names(read_latency(tmp_path).done)) == {"hopper", "triton", "flex_attention"}


def test_the_strongest_dense_is_the_fastest_measured_at_each_length(tmp_path: Path) -> None:
    write_latency(
        tmp_path,
        [
            row("both", "full", "dense:cudnn", 4096, 0.2, inputs="random"),
            row("both", "full", "dense:fa3", 4096, 0.3, inputs="random"),
            row("both", "full", "dense:fa4", 4096, 0.1, inputs="random", status="failed"),
            row("both", "full", "dense:cudnn", 8192, 1.0, inputs="random"),
            row("both", "full", "dense:fa3", 8192, 0.5, inputs="random"),
            row("both", RR, "hopper", 4096, 0.1),
            row("both", RR, "hopper", 8192, 0.4),
            row("layer", RR, "hopper", 8192, 0.4),
            row("selection", RR, "triton", 8192, 0.05, inputs="random"),
        ],
    )
    done = read_latency(tmp_path).done
    found = done[done["method"] == RR].set_index(["level", "length"])
    assert found.loc["both"]["speedup"].tolist() == pytest.approx([2.0, 1.25])
    assert found.loc["both"]["strongest"].tolist() == ["cuDNN", "FA3"]
    assert found.loc["layer"][["speedup", "strongest"]].isna().all(axis=None)  # no dense layer there
    chosen = found.loc["selection"].iloc[0]
    assert chosen["of_dense"] == pytest.approx(0.1) and chosen["strongest"] == "FA3"
    assert strongest_text(done) == "cuDNN at 4K, FA3 at 8K"
    write_report(tmp_path)
    page = (tmp_path / "latency.md").read_text()
    assert "1.25× FA3" in page and "2.00× cuDNN" in page and "10 FA3" in page
    with matplotlib.rc_context(RC):
        figure = speedup_figure(done, "x")
    assert figure is not None
    assert "strongest dense = 1: cuDNN at 4K, FA3 at 8K" in [
        text.get_text() for text in figure.legends[0].get_texts()
    ]


def test_replayed_masks_that_ran_dense_may_coincide(tmp_path: Path) -> None:
    one = row("both", RR, "dense:cudnn", 4096, 0.25, density=1.0)
    write_latency(tmp_path, [one, one])
    assert len(read_latency(tmp_path).done) == 2
    assert len(methods_at(read_latency(tmp_path).done, "both")) == 1


def test_split_is_of_the_strongest_dense_and_falls_back_on_the_kernel(tmp_path: Path) -> None:
    write_latency(
        tmp_path,
        [
            dense("both", 131072),
            row("attention", "mask", "hopper", 131072, 100.0, inputs="mask", density=0.351),
            row("selection", RR, "hopper", 131072, 5.0),
            row("both", RR, "hopper", 131072, 106.0),
            row("both", "streaming", "hopper", 131072, 90.0),  # its parts were not timed
        ],
    )
    (part,) = split_shares(read_latency(tmp_path).done).to_dict("records")
    assert part["method"] == RR and part["selection"] == pytest.approx(2.0)
    assert part["attention"] == pytest.approx(40.0) and part["both"] == pytest.approx(42.4)


def test_a_method_is_named_and_drawn_alike_in_every_part_of_a_figure(tmp_path: Path) -> None:
    names = [f"mine(size={i})" for i in range(MOST + 1)]
    made = [row("both", name, "triton", n, n / 4096) for name in names for n in (4096, 8192)]
    write_latency(tmp_path, [*made, *(dense("both", n) for n in (4096, 8192))])
    done = read_latency(tmp_path).done
    parts = [done[done["method"].isin([*own, "full"])] for own in (names[:1], names[1:2])]
    with matplotlib.rc_context(RC):
        drawn = [
            lines_of(figure.axes[0]) for one in parts if (figure := speedup_figure(one, "x", done))
        ]
    first, second = drawn[0]["mine (size=0)"], drawn[1]["mine (size=1)"]
    assert first.get_color() == second.get_color() and first.get_marker() == second.get_marker()
    assert first.get_fillstyle() != second.get_fillstyle()


def test_a_label_names_its_densities_where_methods_differ(tmp_path: Path) -> None:
    rows_of = [row("both", RR, "triton", n, 1.0, density=d) for n, d in ((4096, 0.5), (8192, 0.4))]
    write_latency(tmp_path, [*rows_of, *(dense("both", n) for n in (4096, 8192))])
    with matplotlib.rc_context(RC):
        figure = speedup_figure(read_latency(tmp_path).done, "x")
    assert figure is not None and "rr, 40 to 50 %" in lines_of(figure.axes[0])
