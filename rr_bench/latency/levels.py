"""The rows of the levels ceiling, attention and selection, and what the rows of all levels share."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial

import torch

from method.attention import SparsePrefill
from method.base import Method
from method.blocks import BlockMask
from method.density import check_causal, density_by_head
from method.keep import KeepPolicy
from method.ops.dense import dense_prefill
from method.ops.launch import Launches
from rr_bench.config.errors import ConfigError, nearest
from rr_bench.config.registry import MethodSpec
from rr_bench.config.schema import RunSettings
from rr_bench.latency.baselines import (
    BASELINES,
    CPU,
    RIVALS,
    Absent,
    Attend,
    DenseAttend,
    dense_attention,
)
from rr_bench.latency.gate import Gate, check_output, other_kernel, poison
from rr_bench.latency.inputs import Inputs, attention_flops, dense_flops
from rr_bench.latency.timing import Candidate, Prepared
from rr_bench.store.latency_table import Row


@dataclass(frozen=True)
class Entry:
    """A method to be timed, with the blocks that it must keep."""

    spec: MethodSpec
    method: Method
    keep: KeepPolicy

    def native(self, heads: int, layer: int) -> bool:
        """Whether the method attends by a kernel of its own instead of selecting blocks."""
        if type(self.method).attend is Method.attend:
            return False
        tiny = torch.randn(1, heads, 128, 64)
        try:
            own = self.method.attend(tiny, tiny, tiny, scale=0.125, layer=layer, keep=self.keep)
        except ValueError:
            return False  # its settings do not fit the model, as its row will say
        return own is not None

    def select(self, inputs: Inputs) -> BlockMask:
        """What it selects from inputs."""
        query, key, _ = inputs.tensors
        return self.method.select(
            query, key, scale=inputs.shape.scale, layer=inputs.layer, keep=self.keep
        )

    def estimator(self, device: torch.device) -> str:
        """What its selection runs on: Triton where there is a kernel and it is taken, else PyTorch."""
        setting = str(getattr(self.method, "estimator", "torch")) if self.method.has_kernel else "torch"
        return ("triton" if device.type == "cuda" else "torch") if setting == "auto" else setting


@dataclass(frozen=True)
class Bench:
    """What all rows share.

    Attributes:
        settings: the run's settings.
        device: where to measure.
        device_name: its name in the table.
        entries: methods, the dense one left out.
        gate: the checks.
    """

    settings: RunSettings
    device: torch.device
    device_name: str
    entries: list[Entry]
    gate: Gate

    def selecting(self, inputs: Inputs, entries: list[Entry] | None = None) -> list[Entry]:
        """The methods that have no kernel of their own for these inputs."""
        every = self.entries if entries is None else entries
        return [entry for entry in every if not entry.native(inputs.heads, inputs.layer)]

    def prefill(self, method: Method, keep: KeepPolicy) -> SparsePrefill:
        """A layer's prefill as the executor's settings have it."""
        return SparsePrefill(method, keep, self.settings.backend, self.settings.dense_below)

    def row(
        self,
        inputs: Inputs,
        level: str,
        method: str,
        backend: str | None = None,
        density: float | None = None,
        kind: str | None = None,
    ) -> Row:
        """A row without times."""
        case = level, inputs.model, kind or inputs.kind, method, backend, inputs.length
        return Row(*case, density=density, device=self.device_name)


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


def dense_rows(bench: Bench, inputs: Inputs, level: str) -> Iterator[Candidate]:
    """Dense attention by every back end that there is, and those that are not."""

    def prepare(name: str) -> Prepared:
        attend, error = checked_dense(inputs, name)
        call = partial(attend, *inputs.tensors, inputs.shape.scale)
        return Prepared(call, error=error, flops=dense_flops(inputs.shape))

    kind = "mask" if level == "attention" and inputs.kind == "random" else None
    for name in dense_names(bench.device):
        row = bench.row(inputs, level, "full", f"dense:{name}", 1.0, kind)
        yield Candidate(row, partial(prepare, name))


def dense_names(device: torch.device, chosen: list[str] | None = None) -> list[str]:
    """Dense back ends that have rows: all or the chosen; on a GPU without PyTorch's CPU kernel.

    Raises:
        ConfigError: a chosen one is unknown.
    """
    for name in chosen or ():
        if name not in BASELINES:
            raise ConfigError(f"latency.prefill_dense: unknown {name!r}: {nearest(name, BASELINES)}")
    there = [name for name in BASELINES if name != CPU or device.type == "cpu"]
    return there if chosen is None else [name for name in there if name in chosen]


def checked_dense(inputs: Inputs, name: str) -> tuple[DenseAttend, float]:
    """A dense back end and its error against the portable block-sparse kernel on a full mask."""
    attend = dense_attention(name, *inputs.tensors)
    run = other_kernel("", inputs.tensors[0])
    truth = run(*inputs.tensors, inputs.mask(1.0), scale=inputs.shape.scale)
    poison(inputs.device)
    return attend, check_output(attend(*inputs.tensors, inputs.shape.scale), truth)


def attention_rows(bench: Bench, inputs: Inputs) -> Iterator[Candidate]:
    """Level ``attention``: dense, random masks (for random inputs), and the methods' own masks, which
    are the part of ``both`` that is no selection.
    """

    def on_own_mask(entry: Entry) -> Prepared:
        bench.gate.selection(entry.method, entry.keep, inputs)
        kernel = bench.gate.kernel(inputs)
        return _on_mask(bench, inputs, entry.select(inputs), bench.gate.attend, kernel)

    yield from dense_rows(bench, inputs, "attention")
    if inputs.kind == "random":
        yield from mask_rows(bench, inputs)
    for entry in bench.selecting(inputs):
        row = bench.row(inputs, "attention", entry.spec.label)
        yield Candidate(row, partial(on_own_mask, entry))


def mask_rows(bench: Bench, inputs: Inputs) -> Iterator[Candidate]:
    """The executor and the kernels of others on random masks."""
    if bench.device.type == "cuda":
        # Every length is a compilation of its own, and PyTorch allows a function only so many.
        torch.compiler.reset()
    rivals = {name: make() for name, make in RIVALS.items()}

    def by_executor(density: float) -> Prepared:
        mask, kernel = inputs.mask(density), bench.gate.kernel(inputs)
        return _on_mask(bench, inputs, mask, bench.gate.attend, kernel, density)

    def by_rival(name: str, density: float) -> Prepared:
        if bench.device.type != "cuda":
            raise Absent(f"{name} is compared on GPUs only")
        return _on_mask(bench, inputs, inputs.mask(density), rivals[name], None, density)

    for density in bench.settings.latency.densities:
        row = bench.row(inputs, "attention", "mask", None, density, "mask")
        yield Candidate(row, partial(by_executor, density))
        for name in rivals:
            if name != bench.settings.backend:
                yield Candidate(replace(row, backend=name), partial(by_rival, name, density))


def _on_mask(
    bench: Bench,
    inputs: Inputs,
    mask: BlockMask,
    attend: Attend,
    kernel: str | None,
    wanted: float | None = None,
) -> Prepared:
    """A kernel on a mask: at density 1 checked against dense attention, else another kernel."""
    scale = inputs.shape.scale
    dense = wanted == 1.0
    truth = dense_prefill(*inputs.tensors, scale=scale)[0] if dense else bench.gate.truth(inputs, mask)
    poison(inputs.device)
    error = check_output(attend(*inputs.tensors, mask, scale), truth)
    call = partial(attend, *inputs.tensors, mask, scale)
    flops = attention_flops(mask, inputs.shape.dim)
    return Prepared(call, kernel, wanted or mean_density(mask), error, flops)


def mean_density(mask: BlockMask) -> float:
    """Mean over the heads."""
    return float(density_by_head(mask).mean())


def selection_rows(bench: Bench, inputs: Inputs) -> Iterator[Candidate]:
    """Level ``selection``: queries and keys in, block lists out, as an executor's later calls do it."""

    def prepare(entry: Entry) -> Prepared:
        error = bench.gate.selection(entry.method, entry.keep, inputs)
        mask = entry.select(inputs)
        check_causal(mask)
        lists = sum(one.untyped_storage().nbytes() for one in (mask.indices, mask.counts))
        launches = Launches()

        def call() -> BlockMask:
            with launches:
                return entry.select(inputs)

        return Prepared(call, density=mean_density(mask), error=error, uncounted_mib=lists / 2**20)

    for entry in bench.selecting(inputs):
        row = bench.row(inputs, "selection", entry.spec.label, entry.estimator(bench.device))
        yield Candidate(row, partial(prepare, entry))
