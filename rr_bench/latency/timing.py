"""A group of rows is timed together: each candidate passes its gate, then all take turns."""

from __future__ import annotations

import gc
import os
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace

import torch

from rr_bench.latency.baselines import Absent
from rr_bench.latency.clock import CallFailed, Timing, measure, peak_extra_mib
from rr_bench.latency.gate import GateFailed
from rr_bench.store.latency_table import DONE, FAILED, MISSING, Row
from rr_bench.store.redact import redact


@dataclass(frozen=True)
class Prepared:
    """A candidate that passed its gate.

    Attributes:
        call: what is timed.
        backend: the kernel that computes attention, where it was not known before.
        density: share of the causal blocks, where it was not known before.
        error: what the gate found.
        flops: floating-point operations of a call.
        bytes: bytes that a call reads and writes.
        uncounted_mib: memory that does not count as extra; ``None``: the call is too long to be made
            only to measure its memory.
    """

    call: Callable[[], object]
    backend: str | None = None
    density: float | None = None
    error: float | None = None
    flops: float | None = None
    bytes: float | None = None
    uncounted_mib: float | None = 0.0


@dataclass(frozen=True)
class Candidate:
    """A row to be, and the function that checks it and makes it ready to be timed.

    ``prepare`` raises :class:`GateFailed`, :class:`Absent`, or whatever a broken method raises.
    """

    row: Row
    prepare: Callable[[], Prepared]


def run_group(
    candidates: Sequence[Candidate],
    device: torch.device,
    calls: int,
    budget_ms: float,
    host: bool = False,
) -> list[Row]:
    """Rows of all candidates, in their order; one that fails has a reason and no numbers.

    Args:
        candidates: rows to be.
        device: where to measure.
        calls: timed calls of each.
        budget_ms: device time of all together, see :func:`measure`.
        host: see there.
    """
    rows = [candidate.row for candidate in candidates]
    ready: dict[str, Prepared] = {}
    for index, candidate in enumerate(candidates):
        try:
            prepared = candidate.prepare()
            rows[index] = _filled(rows[index], prepared, device)
        except Exception as error:
            rows[index] = failed(rows[index], error, device)
        else:
            ready[str(index)] = prepared
    while ready:
        functions = {name: prepared.call for name, prepared in ready.items()}
        try:
            timings = measure(
                functions, device=device, calls_wanted=calls, budget_ms=budget_ms, host=host
            )
        except CallFailed as error:
            index = int(error.name)
            rows[index] = failed(candidates[index].row, error.__cause__ or error, device)
            del ready[error.name]
        except RuntimeError as error:
            # No memory for the loop itself, or a device that answers nothing any more.
            for name in ready:
                rows[int(name)] = failed(candidates[int(name)].row, error, device)
            break
        else:
            for name, timing in timings.items():
                rows[int(name)] = _timed(rows[int(name)], ready[name], timing)
            break
    return rows


def failed(row: Row, error: BaseException, device: torch.device) -> Row:
    """The row of a candidate that raised: missing where nothing could be expected, else failed."""
    if os.environ.get("HYDRA_FULL_ERROR") == "1":
        traceback.print_exception(error)
    reason = redact(" ".join(str(error).split()))[:300] or type(error).__name__
    if not isinstance(error, Absent | GateFailed):
        reason = f"{type(error).__name__}: {reason}"
    status = MISSING if isinstance(error, Absent) else FAILED
    gate = error.error if isinstance(error, GateFailed) else None
    # What the traceback holds would keep the memory of a failed allocation.
    error.__traceback__ = None
    release(device)
    return replace(row, status=status, reason=reason, error=gate)


def release(device: torch.device) -> None:
    """Give memory that nothing uses back to a GPU."""
    if device.type == "cuda":
        gc.collect()
        # A device that is lost says so here as well; whoever goes on using it will notice.
        with suppress(RuntimeError):
            torch.cuda.empty_cache()


def _filled(row: Row, prepared: Prepared, device: torch.device) -> Row:
    """What is known before timing; the first call, on which kernels are compiled, is made here."""
    peak = None
    if prepared.uncounted_mib is not None:
        prepared.call()
        if device.type == "cuda":
            peak = max(0.0, peak_extra_mib(prepared.call) - prepared.uncounted_mib)
    return replace(
        row,
        backend=prepared.backend or row.backend,
        density=row.density if prepared.density is None else prepared.density,
        error=prepared.error,
        peak_extra_mib=peak,
    )


def _timed(row: Row, prepared: Prepared, timing: Timing) -> Row:
    return replace(
        row,
        median_ms=timing.median_ms,
        p20_ms=timing.p20_ms,
        p80_ms=timing.p80_ms,
        n=timing.n,
        tflops=None if prepared.flops is None else prepared.flops / timing.median_ms / 1e9,
        gb_s=None if prepared.bytes is None else prepared.bytes / timing.median_ms / 1e6,
        status=DONE,
    )
