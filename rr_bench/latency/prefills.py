"""The rows that run selection and attention as one: alone, in a decoder layer, in a whole prefill.

Layers and whole prefills are those of models with random weights, and whole prefills also those of the
model at hand over a prompt of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from method.attention import PrefillResult, SparsePrefill
from method.base import Method
from method.blocks import BlockMask
from method.keep import NO_KEEP, KeepPolicy
from rr_bench.latency.baselines import Absent, DenseAttend
from rr_bench.latency.forward import Forward
from rr_bench.latency.gate import check_native, check_output
from rr_bench.latency.inputs import Inputs
from rr_bench.latency.levels import Bench, Entry, checked_dense, dense_names, dense_rows
from rr_bench.latency.timing import Candidate, Prepared
from rr_bench.model.hook import Prefill


class Replay(Method):
    """Select a given mask, or note what another method selects.

    Args:
        selecting: a method whose selection is made first.
        mask: taken in place of that selection; ``None``: the selection itself is taken.
        keep: blocks that the other method must keep.
    """

    paper_keep = NO_KEEP

    def __init__(
        self, selecting: Method | None, mask: BlockMask | None = None, keep: KeepPolicy = NO_KEEP
    ) -> None:
        self._selecting, self._given, self._keep = selecting, mask, keep
        self.mask = mask

    def select(
        self, query: Tensor, key: Tensor, *, scale: float, layer: int, keep: KeepPolicy
    ) -> BlockMask:
        """The mask; see :meth:`method.base.Method.select`."""
        chosen = self._given
        if self._selecting is not None:
            own = self._selecting.select(query, key, scale=scale, layer=layer, keep=self._keep)
            chosen = own if self._given is None else self._given
        assert chosen is not None
        self.mask = chosen
        return chosen


def run_prefill(inputs: Inputs, prefill: Callable[..., PrefillResult]) -> PrefillResult:
    """A layer's prefill on inputs."""
    return prefill(*inputs.tensors, scale=inputs.shape.scale, layer=inputs.layer)


def both_rows(bench: Bench, inputs: Inputs) -> Iterator[Candidate]:
    """Level ``both``: selection and attention as a layer runs them, on the selection's own mask and,
    for random inputs, on a random mask of a given density in its place.
    """

    def replayed(entry: Entry, density: float) -> Prepared:
        return checked_replay(bench, inputs, entry, density)[1]

    yield from dense_rows(bench, inputs, "both")
    for entry in bench.entries:
        row = bench.row(inputs, "both", entry.spec.label)
        yield Candidate(row, partial(_own_prefill, bench, inputs, entry))
    for density in bench.settings.latency.replay if inputs.kind == "random" else ():
        for entry in bench.selecting(inputs):
            row = bench.row(inputs, "both", entry.spec.label, None, density, "replay")
            yield Candidate(row, partial(replayed, entry, density))


def host_rows(bench: Bench, inputs: Inputs) -> Iterator[Candidate]:
    """Level ``host``: what it costs the host to queue selection and attention."""

    def prepare(entry: Entry) -> Prepared:
        if bench.device.type != "cuda":
            raise Absent("needs a GPU: a CPU queues nothing")
        return replace(_own_prefill(bench, inputs, entry), uncounted_mib=None)

    for entry in bench.entries:
        yield Candidate(bench.row(inputs, "host", entry.spec.label), partial(prepare, entry))


def checked_replay(
    bench: Bench, inputs: Inputs, entry: Entry, density: float
) -> tuple[SparsePrefill, Prepared]:
    """A prefill that selects and then attends to a random mask, and what its gate found."""
    moved = bench.gate.selection(entry.method, entry.keep, inputs)
    mask = inputs.mask(density)
    prefill = bench.prefill(Replay(entry.method, mask, entry.keep), entry.keep)
    result = run_prefill(inputs, prefill)
    error = max(check_output(result.output, _truth(bench, inputs, result, mask)), moved or 0.0)
    call = partial(run_prefill, inputs, prefill)
    return prefill, Prepared(call, result.kernel, 1.0 if _ran_dense(result) else None, error)


def _own_prefill(bench: Bench, inputs: Inputs, entry: Entry) -> Prepared:
    """A method's prefill as a run has it, checked; too short a prompt runs dense."""
    call = partial(run_prefill, inputs, bench.prefill(entry.method, entry.keep))
    if inputs.shape.length < bench.settings.dense_below:
        result = call()
        error = check_output(result.output, bench.gate.truth(inputs, inputs.mask(1.0)))
    elif entry.native(inputs.heads, inputs.layer):
        error = check_native(entry.method, entry.keep, inputs.shape, inputs.layer, bench.device)
        result = call()
    else:
        bench.gate.selection(entry.method, entry.keep, inputs)
        noting = Replay(entry.method, keep=entry.keep)
        result = run_prefill(inputs, bench.prefill(noting, entry.keep))
        assert noting.mask is not None
        error = check_output(result.output, _truth(bench, inputs, result, noting.mask))
    return Prepared(call, result.kernel, float(result.density.mean()), error)


def _ran_dense(result: PrefillResult) -> bool:
    """Whether the executor ran dense, as it may where that is faster."""
    return result.kernel.startswith("dense:")


def _truth(bench: Bench, inputs: Inputs, result: PrefillResult, mask: BlockMask) -> Tensor:
    """What the result should be."""
    return bench.gate.truth(inputs, inputs.mask(1.0) if _ran_dense(result) else mask)


def dense_prefill_by(name: str, attend: DenseAttend) -> Prefill:
    """A dense back end as the prefill of every layer."""

    def prefill(
        query: Tensor, key: Tensor, value: Tensor, *, scale: float, layer: int
    ) -> PrefillResult:
        density = torch.ones(query.shape[:2], dtype=torch.float32, device=query.device)
        return PrefillResult(attend(query, key, value, scale), density, f"dense:{name}")

    return prefill


def model_rows(
    bench: Bench, inputs: Inputs, level: str, entries: list[Entry], forward: Forward
) -> Iterator[Candidate]:
    """A layer or a whole model by every dense back end and by methods.

    On random weights methods take a replayed mask of the first density; on a prompt's own inputs they
    take what they select, and the density is that of all layers. Each prefill is checked on one
    layer's inputs of the very size that the model gives it.

    Args:
        bench: what all groups share.
        inputs: random inputs of the model's shape, or those captured from it.
        level: ``layer`` or ``prefill``.
        entries: methods to run.
        forward: the forward pass.
    """
    memory = 0.0 if level == "layer" else None
    own = inputs.kind != "random"
    density = bench.settings.latency.replay[0]
    graph = level == "prefill" and bench.settings.latency.graph
    suffix = "+graph" if graph else ""

    def call_of(prefill: Prefill) -> Callable[[], object]:
        return forward.captured(prefill) if graph else partial(forward, prefill)

    def by_dense(name: str) -> Prepared:
        attend, error = checked_dense(inputs, name)
        call = call_of(dense_prefill_by(name, attend))
        return Prepared(call, error=error, uncounted_mib=memory)

    def by_method(entry: Entry) -> Prepared:
        if own:
            prefill = bench.prefill(entry.method, entry.keep)
            prepared = _own_prefill(bench, inputs, entry)
            prepared = replace(prepared, density=forward.density(prefill))
        else:
            prefill, prepared = checked_replay(bench, inputs, entry, density)
        kernel = f"{prepared.backend}{suffix}"
        return replace(prepared, call=call_of(prefill), backend=kernel, uncounted_mib=memory)

    chosen = bench.settings.latency.prefill_dense if level == "prefill" else None
    for name in dense_names(bench.device, chosen):
        row = bench.row(inputs, level, "full", f"dense:{name}{suffix}", 1.0)
        yield Candidate(row, partial(by_dense, name))
    for entry in entries if own else bench.selecting(inputs, entries):
        case = (None, None) if own else (density, "replay")
        row = bench.row(inputs, level, entry.spec.label, None, *case)
        yield Candidate(row, partial(by_method, entry))
