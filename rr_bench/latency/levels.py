"""The rows of the levels below a layer: ceilings, attention, selection, and both together."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import partial

import torch

from method.attention import PrefillResult
from method.blocks import BlockMask
from method.density import check_causal, density_by_head
from method.ops.dense import dense_prefill
from rr_bench.latency.baselines import (
    BASELINES,
    CPU,
    DENSE,
    Absent,
    Attend,
    DenseAttend,
    dense_attention,
    flex,
)
from rr_bench.latency.bench import Bench, Entry, Source, estimator
from rr_bench.latency.candidate import Candidate, Prepared
from rr_bench.latency.cases import attention_flops, dense_flops
from rr_bench.latency.inputs import Fixed, Inputs, Noting
from rr_bench.latency.parity import check_native, check_output, other_kernel, poison
from rr_bench.latency.table import Row


def ceiling_rows(bench: Bench) -> Iterator[Candidate]:
    """A large matrix product and a large copy: what the device can do at best."""
    on_gpu = bench.device.type == "cuda"
    side, size = (8192, 1 << 30) if on_gpu else (512, 1 << 24)

    def row(method: str) -> Row:
        return Row("ceiling", "", "random", method, "torch", None, device=bench.device_name)

    def matmul() -> Prepared:
        dtype = torch.bfloat16 if on_gpu else torch.float32
        left, right = torch.randn(2, side, side, device=bench.device).to(dtype).unbind()
        return Prepared(partial(torch.matmul, left, right), flops=2.0 * side**3)

    def copy() -> Prepared:
        source = torch.randint(0, 255, (size,), dtype=torch.uint8, device=bench.device)
        target = torch.empty_like(source)
        return Prepared(partial(target.copy_, source), bytes=2.0 * size)

    yield Candidate(row("matmul"), matmul)
    yield Candidate(row("copy"), copy)


def dense_rows(
    bench: Bench, source: Source, level: str, kind: str | None = None
) -> Iterator[Candidate]:
    """Dense attention by every back end that there is, and those that are not; above the level
    ``attention`` only by PyTorch's own.
    """
    names = BASELINES if level == "attention" else (*DENSE, CPU)
    for name in names:
        if name == CPU and bench.device.type == "cuda":
            continue
        row = source.row(bench, level, "full", f"dense:{name}", 1.0, kind)
        yield Candidate(row, partial(_prepare_dense, source.inputs, name))


def checked_dense(inputs: Inputs, name: str) -> tuple[DenseAttend, float]:
    """A dense back end and its error against the portable block-sparse kernel on a full mask."""
    attend = dense_attention(name, *inputs.tensors)
    run = other_kernel("", inputs.tensors[0])
    truth = run(*inputs.tensors, inputs.mask(1.0), scale=inputs.shape.scale)
    poison(inputs.device)
    return attend, check_output(attend(*inputs.tensors, inputs.shape.scale), truth)


def _prepare_dense(inputs: Inputs, name: str) -> Prepared:
    attend, error = checked_dense(inputs, name)
    call = partial(attend, *inputs.tensors, inputs.shape.scale)
    return Prepared(call, error=error, flops=dense_flops(inputs.shape))


def mask_rows(bench: Bench, source: Source) -> Iterator[Candidate]:
    """The executor and ``flex_attention`` on random masks."""
    inputs = source.inputs
    if bench.device.type == "cuda":
        # Every length is a compilation of its own, and PyTorch allows a function only so many.
        torch.compiler.reset()
    compiled = flex()

    def on_mask(density: float) -> Prepared:
        return _prepare_mask(inputs, inputs.mask(density), density)

    def on_flex(density: float) -> Prepared:
        if bench.device.type != "cuda":
            raise Absent("flex_attention is compared on GPUs only")
        mask = inputs.mask(density)
        return _checked_mask(inputs, mask, compiled, density)

    for density in bench.densities:
        row = source.row(bench, "attention", "mask", None, density, "mask")
        yield Candidate(row, partial(on_mask, density))
        yield Candidate(replace(row, backend="flex_attention"), partial(on_flex, density))


def _prepare_mask(inputs: Inputs, mask: BlockMask, wanted: float | None = None) -> Prepared:
    """The executor on a mask, checked."""
    prepared = _checked_mask(inputs, mask, inputs.attend, wanted)
    # Asking for the name runs the short check as well.
    return replace(prepared, backend=inputs.kernel_on(mask) if inputs.kernel else None)


def _checked_mask(inputs: Inputs, mask: BlockMask, attend: Attend, wanted: float | None) -> Prepared:
    """A kernel on a mask: at density 1 checked against dense attention, else another kernel."""
    scale = inputs.shape.scale
    dense = wanted == 1.0
    truth = dense_prefill(*inputs.tensors, scale=scale)[0] if dense else inputs.truth(mask)
    poison(inputs.device)
    error = check_output(attend(*inputs.tensors, mask, scale), truth)
    call = partial(attend, *inputs.tensors, mask, scale)
    flops = attention_flops(mask, inputs.shape.dim)
    return Prepared(call, density=wanted or mean_density(mask), error=error, flops=flops)


def mean_density(mask: BlockMask) -> float:
    """Mean over the heads."""
    return float(density_by_head(mask).mean())


def own_mask_rows(bench: Bench, source: Source) -> Iterator[Candidate]:
    """The executor on what each method selects: the part of ``both`` that is no selection."""
    inputs = source.inputs

    def prepare(entry: Entry) -> Prepared:
        bench.check_selection(entry, inputs)
        return _prepare_mask(inputs, inputs.select(entry.method, entry.keep))

    for entry in bench.entries:
        if not source.native(entry):
            yield Candidate(source.row(bench, "attention", entry.label), partial(prepare, entry))


def attention_rows(bench: Bench, source: Source) -> Iterator[Candidate]:
    """Level ``attention``: dense, random masks (for random inputs), and the methods' own masks."""
    if source.kind == "random":
        yield from dense_rows(bench, source, "attention", "mask")
        yield from mask_rows(bench, source)
    else:
        yield from dense_rows(bench, source, "attention")
    yield from own_mask_rows(bench, source)


def selection_rows(bench: Bench, source: Source) -> Iterator[Candidate]:
    """Level ``selection``: queries and keys in, block lists out."""
    inputs = source.inputs

    def prepare(entry: Entry) -> Prepared:
        error = bench.check_selection(entry, inputs)
        call = partial(inputs.select, entry.method, entry.keep)
        mask = call()
        check_causal(mask)
        lists = sum(one.untyped_storage().nbytes() for one in (mask.indices, mask.counts))
        return Prepared(call, density=mean_density(mask), error=error, uncounted_mib=lists / 2**20)

    for entry in bench.entries:
        if not source.native(entry):
            row = source.row(bench, "selection", entry.label, estimator(entry, bench.device))
            yield Candidate(row, partial(prepare, entry))


def both_rows(bench: Bench, source: Source) -> Iterator[Candidate]:
    """Level ``both``: selection and attention as a layer runs them, on the selection's own mask and,
    for random inputs, on a random mask of a given density in its place.
    """
    yield from dense_rows(bench, source, "both")
    for entry in bench.entries:
        row = source.row(bench, "both", entry.label)
        yield Candidate(row, partial(_prepare_both, bench, source.inputs, entry))
    if source.kind == "random":
        for density in bench.replay:
            yield from replay_rows(bench, source, "both", density)


def replay_rows(bench: Bench, source: Source, level: str, density: float) -> Iterator[Candidate]:
    """Every selecting method with its mask exchanged for a random one."""

    def prepare(entry: Entry) -> Prepared:
        prefill, prepared = checked_replay(bench, source.inputs, entry, density)
        return replace(prepared, call=partial(source.inputs.prefill, prefill))

    for entry in bench.entries:
        if not source.native(entry):
            row = source.row(bench, level, entry.label, None, density, "replay")
            yield Candidate(row, partial(prepare, entry))


def checked_replay(
    bench: Bench, inputs: Inputs, entry: Entry, density: float
) -> tuple[Callable[..., PrefillResult], Prepared]:
    """A prefill that selects and then attends to a random mask, and what its gate found."""
    error = bench.check_selection(entry, inputs)
    mask = inputs.mask(density)
    prefill = bench.prefill(Fixed(mask, entry.method, entry.keep), entry.keep)
    result = inputs.prefill(prefill)
    found = check_output(result.output, _truth_of(inputs, result, mask))
    prepared = Prepared(
        partial(inputs.prefill, prefill),
        backend=result.kernel,
        density=1.0 if _ran_dense(result) else None,
        error=max(found, error or 0.0),
    )
    return prefill, prepared


def _prepare_both(bench: Bench, inputs: Inputs, entry: Entry) -> Prepared:
    call = partial(inputs.prefill, bench.prefill(entry.method, entry.keep))
    if inputs.shape.length < bench.dense_below:
        result = call()
        error = check_output(result.output, inputs.truth(inputs.mask(1.0)))
    elif entry.native(inputs.shape.heads, inputs.layer):
        error = check_native(entry.method, entry.keep, inputs.shape, inputs.layer, bench.device)
        result = call()
    else:
        bench.check_selection(entry, inputs)
        noting = Noting(entry.method)
        result = inputs.prefill(bench.prefill(noting, entry.keep))
        assert noting.mask is not None
        error = check_output(result.output, _truth_of(inputs, result, noting.mask))
    density = float(result.density.mean())
    return Prepared(call, backend=result.kernel, density=density, error=error)


def _ran_dense(result: PrefillResult) -> bool:
    """Whether the executor ran dense, as it may where that is faster."""
    return result.kernel.startswith("dense:")


def _truth_of(inputs: Inputs, result: PrefillResult, mask: BlockMask) -> torch.Tensor:
    """What the result should be."""
    return inputs.truth(inputs.mask(1.0) if _ran_dense(result) else mask)


KERNEL_LEVELS: Mapping[str, Callable[[Bench, Source], Iterator[Candidate]]] = {
    "attention": attention_rows,
    "selection": selection_rows,
    "both": both_rows,
}
