"""The one timing loop: functions take turns, the cache is flushed, the median is reported."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median, quantiles

import torch

FLUSH_BYTES = 1 << 30
FLUSHES = 8
"""How often that much is written before every call. Once empties the cache; the rest, some
milliseconds, lets the host queue the call before the device gets to it, so that short calls are
timed as the device runs them. What launches cost the host shows in a layer or a whole prefill."""

QUEUED = 5
"""Calls that are queued one after the other where the host is timed, as layers of a model are."""

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
    host: bool = False,
) -> dict[str, Timing]:
    """Time functions round after round, in another order every round.

    A long call leaves a GPU warm and its clock low for whatever follows; a fixed order would favour
    some.

    On a GPU every call is timed by a pair of events, after the cache was flushed; the device is
    waited for once a round. Nothing but the call lies between the events. On a CPU the clock is read
    before and after each call.

    Args:
        calls: name and function; every function must have been called once before (compiled).
        device: where the functions work; by default the current CUDA device.
        calls_wanted: calls of each function, after ``WARM_UP`` untimed ones.
        budget_ms: device time to spend; fewer calls are made, at least 3 (or ``calls_wanted``),
            where these would take longer.
        host: time what the host takes to queue a call while a GPU is busy, not the call.

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
    order, shuffled = list(calls), random.Random(0)
    while done < calls_wanted and (done < 3 or spent < budget_ms):
        shuffled.shuffle(order)
        turn = {name: calls[name] for name in order}
        if flush is None:
            taken = _host_round(turn)
        else:
            taken = (_queue_round if host else _device_round)(turn, flush)
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


def _queue_round(calls: Mapping[str, Callable[[], object]], flush: torch.Tensor) -> dict[str, float]:
    """Milliseconds that the host takes to queue a call of each function, the GPU being busy."""
    taken: dict[str, float] = {}
    for name, call in calls.items():
        for _ in range(FLUSHES):
            flush.zero_()
        taken |= _host_round({name: lambda call=call: [call() for _ in range(QUEUED)]})  # type: ignore[misc]
        taken[name] /= QUEUED
        torch.cuda.synchronize()
    return taken


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
