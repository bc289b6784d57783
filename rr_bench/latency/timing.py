"""Times by device events: methods take turns, the cache is flushed, the median is reported."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median, quantiles

import torch

FLUSH_BYTES = 1 << 30
"""Written before every call: it empties the cache and gives the host time to run ahead."""

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


def summarise(times: Sequence[float]) -> Timing:
    """Median and 20th and 80th percentiles of times in milliseconds."""
    if len(times) < 2:
        return Timing(times[0], times[0], times[0], len(times))
    fifths = quantiles(times, n=5, method="inclusive")
    return Timing(median(times), fifths[0], fifths[3], len(times))


def measure(
    calls: Mapping[str, Callable[[], object]], *, calls_wanted: int = 20, budget_ms: float = 4000.0
) -> dict[str, Timing]:
    """Time functions that put work on the current CUDA device, each in turn, round after round.

    Every call is timed by a pair of events, after the cache was flushed; the device is waited for
    once a round. Nothing but the call lies between the events.

    Args:
        calls: name and function; every function must have been called once before (compiled).
        calls_wanted: calls of each function, after ``WARM_UP`` untimed ones.
        budget_ms: device time to spend; fewer calls are made, at least 3, where these would take
            longer.

    Returns:
        The timing of every function.
    """
    flush = torch.empty(FLUSH_BYTES // 4, dtype=torch.int32, device="cuda")
    times: dict[str, list[float]] = {name: [] for name in calls}
    spent, done, warm = 0.0, 0, WARM_UP
    while done < calls_wanted and (done < 3 or spent < budget_ms):
        events = {}
        for name, call in calls.items():
            flush.fill_(done)
            begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            begin.record()
            call()
            end.record()
            events[name] = (begin, end)
        torch.cuda.synchronize()
        taken = {name: begin.elapsed_time(end) for name, (begin, end) in events.items()}
        spent += sum(taken.values())
        if warm and spent < budget_ms / 4:
            warm -= 1
            continue
        warm = 0
        done += 1
        for name, value in taken.items():
            times[name].append(value)
    return {name: summarise(values) for name, values in times.items()}


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
