"""``latency.md``: every time with its density and repeats, and by name what could not be timed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pandas as pd
from tabulate import tabulate

from rr_bench.report.environment import MACHINE, environment_lines, sessions
from rr_bench.report.latency import LEVELS, RIVALS, Latency, strongest_text
from rr_bench.report.load import natural
from rr_bench.report.style import length_label
from rr_bench.store.latency_table import DONE, FAILED, MISSING, STATUSES
from rr_bench.store.redact import redact

DEFINITIONS = """\
- **ms**: median device time of a call; **p20–p80**: 20th to 80th percentile of its **n** calls.
  Batch 1, causal, prefill only.
- **vs strongest dense**: time of dense causal attention by the named back end, the fastest of those
  timed (cuDNN, FlashAttention-2, -3, -4) at the same level and length in the same run, divided by the
  row's time; above 1 the row is faster.
- **density**: percent of the causal blocks that attention computes. A speed-up holds for its density.
- inputs **mask**: a block mask of a set density, the kernel alone. **replay**: selection timed in full,
  attention over a mask of the set density. **random**, **captured**: attention over what the method
  selected on random inputs, or on queries and keys of the named model's own prompt.
- **TFLOP/s** counts the kept blocks alone, of a diagonal block its lower triangle.
- **of strongest dense**: a selection's time in percent of the fastest dense attention's, a kernel's
  rate as a part of its rate.
- **MiB**: memory allocated at most during a call, its result included, a selection's index lists not.
- **error**: what the check before the timing found: of attention the relative error, of a selection the
  share of blocks that its PyTorch twin chose otherwise.
"""

Columns = Mapping[str, Callable[[pd.Series], str]]


def to_markdown(latency: Latency) -> str:
    """The page of a ``latency.csv``: environment, one table per level and model, what is missing."""
    parts = ["# Latency", *environment_lines(latency_records(latency), [*MACHINE, "gpu_state"]), ""]
    for title, table in latency_tables(latency):
        text = tabulate(table, "keys", "github", showindex=False, disable_numparse=True)
        parts += [f"## {title}", "", text, ""]
    lines = not_timed(latency.frame)
    if lines:
        parts += ["## Not timed", "", *(f"- {line}" for line in lines), ""]
    parts += ["## Terms", "", DEFINITIONS]
    return "\n".join(parts).rstrip() + "\n"


def latency_records(latency: Latency) -> list[dict[str, Any]]:
    """What to name of the environment: every session, but the commits of the rows that there are."""
    env = latency.env or {"device": latency.device}
    code = [
        {"commit": group["commit"], "dirty": group["dirty"]}
        for group in env.get("groups", {}).values()
        if "commit" in group
    ]
    if not code:
        return [dict(env)]
    machine = [name for name in env if name not in ("commit", "dirty")]
    return [{name: session[name] for name in machine} for session in sessions(env)] + code


def to_text(latency: Latency) -> str:
    """For a terminal: per level and model a line per method, its times and speed-ups by length."""
    parts = [f"latency on {latency.device}: ms (speed-up over the strongest dense attention)"]
    done = latency.done
    for (level, model, inputs), rows in _groups(
        done[done["level"] != "ceiling"], ["level", "model", "inputs"]
    ):
        against = "% of strongest dense" if level == "selection" else "strongest dense"
        title = f"{LEVELS[level]}, {model}, {inputs}; {against}: {strongest_text(rows)}"
        parts.append(f"{title}\n{_by_length(rows)}")
    ceilings = []
    for row in done[done["level"] == "ceiling"].to_dict("records"):
        rate = f"{row['gb_s']:.0f} GB/s" if row["gb_s"] > 0 else f"{row['tflops']:.0f} TFLOP/s"
        ceilings.append(f"{row['method']} {rate}")
    parts += [f"ceilings: {', '.join(ceilings)}"] if ceilings else []
    counts = [f"{(latency.frame['status'] == status).sum()} {status}" for status in STATUSES]
    notes = [f"rows: {', '.join(counts)}"]
    failed = latency.frame[latency.frame["status"] == FAILED]
    notes += [f"note: {line}" for line in not_timed(failed)]
    absent = int((latency.frame["status"] == MISSING).sum())
    notes += [f"note: missing cases: {absent}, named in latency.md"] if absent else []
    return "\n\n".join([*parts, "\n".join(notes)])


def _by_length(rows: pd.DataFrame) -> str:
    """A line per method, back end and density, a column per length."""
    lengths = sorted(rows["length"].unique())
    lines = []
    for (method, backend, density), own in _groups(
        rows.assign(density=rows["density"].round(2)), ["method", "backend", "density"]
    ):
        times = {row["length"]: _cell(row) for row in own.to_dict("records")}
        cells = [times.get(length, "–") for length in lengths]
        lines.append([method, backend, f"{100 * density:.0f}", *cells])
    heads = ["method", "backend", "density", *(length_label(int(one)) for one in lengths)]
    return tabulate(lines, headers=heads, tablefmt="simple", disable_numparse=True)


def not_timed(frame: pd.DataFrame) -> list[str]:
    """The rows that are not done, with reasons; lengths that share all else share a line."""
    found: dict[tuple[str, str, str], list[str]] = {}
    for row in frame[frame["status"] != DONE].to_dict("records"):
        names = [row[name] for name in ("level", "model", "inputs", "method", "backend") if row[name]]
        names += [f"density {_percent(row['density'])} %"] if row["density"] > 0 else []
        reason = redact(str(row["reason"])).replace("\n", " ") or "no reason given"
        lengths = found.setdefault((" ".join(names), row["status"], reason), [])
        lengths += [length_label(int(row["length"]))] if row["length"] > 0 else []
    return [
        f"{', '.join([names, ' '.join(lengths)] if lengths else [names])}: {status}: {reason}"
        for (names, status, reason), lengths in found.items()
    ]


def latency_tables(latency: Latency) -> Iterator[tuple[str, pd.DataFrame]]:
    """Title and text columns of the table of every level and model."""
    for title, rows, columns in _sections(latency):
        yield title, _table(rows, columns)


def _sections(latency: Latency) -> Iterator[tuple[str, pd.DataFrame, Columns]]:
    """Title, rows and columns of every table; the kernel on set masks has one of its own."""
    done = latency.done
    kernel = (done["level"] == "attention") & (done["inputs"] == "mask")
    for (level, model), rows in _groups(done[~kernel], ["level", "model"]):
        title = LEVELS.get(level, level)
        columns = {"ceiling": _CEILINGS, "selection": _SELECTION}.get(str(level), _TIMES)
        yield f"{title}, {model}" if model else title, rows, columns
    for (model,), rows in _groups(done[kernel], ["model"]):
        dense = rows[rows["method"] == "full"].groupby("length")["tflops"].max()
        pairs = pd.MultiIndex.from_frame(rows[["length", "density"]])
        ratios, columns = {"of_rate": rows["tflops"] / rows["length"].map(dense)}, dict(_KERNEL)
        for backend, name in RIVALS.items():
            rival = rows[rows["backend"] == backend].set_index(["length", "density"])["tflops"]
            if backend != "flex_attention" and rival.empty:
                continue
            ratios[backend] = rows["tflops"].to_numpy() / rival.reindex(pairs).to_numpy()
            columns[f"of {name}'s rate"] = _number(backend, lambda value: f"{value:.2f}")
        title = f"attention kernel on masks of set density, {model}"
        yield title, rows.assign(**ratios), {**columns, **_ERROR, **_N}


def _groups(frame: pd.DataFrame, names: list[str]) -> Iterator[tuple[tuple[Any, ...], pd.DataFrame]]:
    """Groups in reading order: levels as on the page, names with 8 before 16."""
    order = {level: i for i, level in enumerate(LEVELS)}

    def rank(item: tuple[tuple[Any, ...], pd.DataFrame]) -> list[Any]:
        parts = zip(names, item[0], strict=True)
        return [order.get(v, len(order)) if k == "level" else natural(str(v)) for k, v in parts]

    yield from sorted(frame.groupby(names, dropna=False), key=rank)


def _table(rows: pd.DataFrame, columns: Columns) -> pd.DataFrame:
    """Rows by inputs, method, back end, density (falling) and length; a column without values goes."""
    rows = rows.sort_values(
        ["inputs", "method", "backend", "density", "length"],
        key=lambda one: -one if one.name == "density" else one,
    )
    text = pd.DataFrame(
        {name: [show(row) for _, row in rows.iterrows()] for name, show in columns.items()}
    )
    return text.drop(columns=[name for name in text if (text[name] == "–").all()])


def _cell(row: Mapping[Any, Any]) -> str:
    if row["of_dense"] > 0:
        return f"{_ms(row['median_ms'])} ({_percent(row['of_dense'])} %)"
    return f"{_ms(row['median_ms'])} ({_times(row['speedup'])})"


def _beside(name: str, show: Callable[[float], str]) -> Callable[[pd.Series], str]:
    """A ratio to the strongest dense back end, with that one's name."""
    return lambda row: "–" if pd.isna(row[name]) else f"{show(row[name])} {row['strongest']}"


def _text(name: str) -> Callable[[pd.Series], str]:
    return lambda row: str(row[name]).replace("|", "/") or "–"


def _number(name: str, show: Callable[[float], str]) -> Callable[[pd.Series], str]:
    return lambda row: "–" if pd.isna(row[name]) else show(row[name])


def _ms(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.3f}"


def _times(value: float) -> str:
    return "–" if pd.isna(value) else f"{value:.2f}×" if value < 10 else f"{value:.1f}×"


def _percent(value: float) -> str:
    return f"{100 * value:.3g}"


_CASE_COLUMNS: Columns = {
    "inputs": _text("inputs"),
    "method": _text("method"),
    "backend": _text("backend"),
    "density (%)": _number("density", _percent),
    "length": _number("length", lambda value: f"{value:.0f}"),
}
_TIME_COLUMNS: Columns = {
    "ms": _number("median_ms", _ms),
    "p20–p80": lambda row: f"{_ms(row['p20_ms'])}–{_ms(row['p80_ms'])}",
    "vs strongest dense": _beside("speedup", _times),
}
_ERROR: Columns = {"error": _number("error", lambda value: f"{value:.2g}")}
_N: Columns = {"n": _number("n", lambda value: f"{value:.0f}")}
_TIMES: Columns = {
    **_CASE_COLUMNS,
    **_TIME_COLUMNS,
    "MiB": _number("peak_extra_mib", lambda value: f"{value:.0f}"),
    **_ERROR,
    **_N,
}
_SELECTION: Columns = {
    **_TIMES,
    "of strongest dense (%)": _beside("of_dense", _percent),
}
_KERNEL: Columns = {
    **{name: show for name, show in _CASE_COLUMNS.items() if name != "inputs"},
    **_TIME_COLUMNS,
    "TFLOP/s": _number("tflops", lambda value: f"{value:.0f}"),
    "of strongest dense's rate": _beside("of_rate", lambda value: f"{value:.2f}"),
}
_CEILINGS: Columns = {
    "method": _text("method"),
    "backend": _text("backend"),
    "length": _number("length", lambda value: f"{value:.0f}"),
    "TFLOP/s": _number("tflops", lambda value: f"{value:.0f}"),
    "GB/s": _number("gb_s", lambda value: f"{value:.0f}"),
    **_N,
}
