"""The one timing loop: methods take turns, the cache is flushed, the median is reported.

A group of rows goes through it together: each candidate passes its gate, then all are timed in turns.
"""

from __future__ import annotations

import gc
import os
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from statistics import median, quantiles

import torch

from rr_bench.latency.baselines import Absent
from rr_bench.latency.gate import GateFailed
from rr_bench.store.latency_table import DONE, FAILED, MISSING, Row
from rr_bench.store.redact import redact

FLUSH_BYTES = 1 << 30
FLUSHES = 8
"""How often that much is written before every call. Once empties the cache; the rest, some
milliseconds, lets the host queue the call before the device gets to it, so that short calls are
timed as the device runs them. What launches cost the host shows in a layer or a whole prefill."""

WARM_UP = 3


@dataclass(frozen=True)
class Timing:
    """Milliseconds of one method.

    Attributes:
        median_ms: median.
        p20_ms: 20th percentile.
        p80_ms: 80th percentile.
        n: calls that were timed.
    """

    median_ms: float
    p20_ms: float
    p80_ms: float
    n: int


class CallFailed(RuntimeError):
    """A timed function raised; the exception is this one's cause.

    Attributes:
        name: the function's.
    """

    def __init__(self, name: str) -> None:
        super().__init__(f"{name} failed while it was timed")
        self.name = name


def summarise(times: Sequence[float]) -> Timing:
    """Median and 20th and 80th percentiles of times in milliseconds."""
    if len(times) < 2:
        return Timing(times[0], times[0], times[0], len(times))
    fifths = quantiles(times, n=5, method="inclusive")
    return Timing(median(times), fifths[0], fifths[3], len(times))


def measure(
    calls: Mapping[str, Callable[[], object]],
    *,
    device: torch.device | None = None,
    calls_wanted: int = 20,
    budget_ms: float = 4000.0,
) -> dict[str, Timing]:
    """Time functions, each in turn, round after round.

    On a GPU every call is timed by a pair of events, after the cache was flushed; the device is
    waited for once a round. Nothing but the call lies between the events. On a CPU the clock is read
    before and after each call.

    Args:
        calls: name and function; every function must have been called once before (compiled).
        device: where the functions work; by default the current CUDA device.
        calls_wanted: calls of each function, after ``WARM_UP`` untimed ones.
        budget_ms: device time to spend; fewer calls are made, at least 3 (or ``calls_wanted``),
            where these would take longer.

    Returns:
        The timing of every function.

    Raises:
        CallFailed: a function raised.
    """
    on_gpu = device is None or device.type == "cuda"
    flush = (
        torch.empty(FLUSH_BYTES // 4, dtype=torch.int32, device=device or "cuda") if on_gpu else None
    )
    times: dict[str, list[float]] = {name: [] for name in calls}
    spent, done, warm = 0.0, 0, WARM_UP
    while done < calls_wanted and (done < 3 or spent < budget_ms):
        taken = _host_round(calls) if flush is None else _device_round(calls, flush)
        spent += sum(taken.values())
        if warm and spent < budget_ms / 4:
            warm -= 1
            continue
        warm = 0
        done += 1
        for name, value in taken.items():
            times[name].append(value)
    return {name: summarise(values) for name, values in times.items()}


def _device_round(calls: Mapping[str, Callable[[], object]], flush: torch.Tensor) -> dict[str, float]:
    """Milliseconds of one call of each function on the GPU."""
    events = {}
    name = ""
    try:
        for name, call in calls.items():
            for _ in range(FLUSHES):
                flush.zero_()
            begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            begin.record()
            call()
            end.record()
            events[name] = (begin, end)
        torch.cuda.synchronize()
    except Exception as error:
        raise CallFailed(name) from error
    return {name: begin.elapsed_time(end) for name, (begin, end) in events.items()}


def _host_round(calls: Mapping[str, Callable[[], object]]) -> dict[str, float]:
    """Milliseconds of one call of each function on the CPU."""
    taken = {}
    for name, call in calls.items():
        begin = time.perf_counter()
        try:
            call()
        except Exception as error:
            raise CallFailed(name) from error
        taken[name] = 1e3 * (time.perf_counter() - begin)
    return taken


def peak_extra_mib(call: Callable[[], object]) -> float:
    """MiB allocated at most during a call, beyond what was held before; its result included."""
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    result = call()
    torch.cuda.synchronize()
    peak = torch.cuda.max_memory_allocated()
    del result
    return (peak - before) / 2**20


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
    candidates: Sequence[Candidate], device: torch.device, calls: int, budget_ms: float
) -> list[Row]:
    """Rows of all candidates, in their order; one that fails has a reason and no numbers.

    Args:
        candidates: rows to be.
        device: where to measure.
        calls: timed calls of each.
        budget_ms: device time of all together, see :func:`measure`.
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
            timings = measure(functions, device=device, calls_wanted=calls, budget_ms=budget_ms)
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
