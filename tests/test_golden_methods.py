"""Golden outputs of every method and of the executor: what their versions stand for.

Masks must agree block by block, so inputs have well-separated scores: `steady` says whether a mask
hangs on rounding, and a test holds all of them to it.
"""

from __future__ import annotations

import hashlib
import re
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import torch
from torch import Tensor

import method.attention
from method.attention import block_sparse_attention
from method.base import Method
from method.blocks import num_blocks
from method.density import density_by_head
from method.keep import NO_KEEP
from method.minference import VARIANTS as VARIANTS_OF_LINES
from method.minference import MInference
from method.ops.dense import dense_prefill
from rr_bench import CONF
from rr_bench.config.registry import expand_method
from tests import golden
from tests.attention_cases import Case, random_mask, tensors
from tests.golden import Output
from tests.patterns import MIXED, write

LATE = 43
"""A layer that no method treats as an early one, and no multiple of a stride."""

SHAPES = [
    Case(1000, 1000, group=4),
    Case(257, 1400, group=7),
    Case(2048, 2048, kv_heads=3),
    Case(1, 300, group=4),
]
LONG = Case(17000, 17000, dim=16)
"""For large strides alone, which take little time: longer than what XAttention estimates at once."""

EXECUTED = [
    Case(127, 127, group=7, dim=96, density=1.0),
    Case(1000, 1000, group=4, density=0.3),
    Case(256, 700, group=4, density=0.4, keep=NO_KEEP, kv_heads=2, batch=2),
]

RR = [{"stride": stride} for stride in (4, 16, 32, 64)]
RR += [{"offset": offset} for offset in ("reversed", "head_layer", "random", "mean", 0)]
RR += [{"selector": selector} for selector in ("forced_first", "top_p")]
FEW = {"vertical_size": 60, "slash_size": 150}
LINES = "vertical_size=60, slash_size=150"
VARIANTS: dict[str, list[dict[str, Any]]] = {
    "rr": [{"tau": 0.8, **setting} for setting in ({}, *RR)],
    "xattention": [
        {"stride": 4},
        {"stride": 16},
        {"tau": 0.7, "stride": 64},
        {"tau": 0.7, "chunk": 512},
        {"selector": "forced_first"},
        {"selector": "top_p"},
    ],
    "oracle": [{"selector": "released"}, {"tau": 0.7}],
    "flexprefill_no_minimum": [
        {"gamma": 0.8, "tau_js": 0, "max_budget": 256},
        {"gamma": 0.8, "tau_js": 9},
    ],
    "flashprefill": [
        {"alpha": 0.5},
        {"alpha": 0.3, "sink": 0, "window": 0, "last_rows": 0, "min_budget": 3},
    ],
    "cosa": [{"topp": 0.6}, {"topp": 0.8, "stride": 16}],
    "rr_plus": [
        {"keys": "largest", "stride": 8},
        {"keys": "spread", "over_samples": "sum"},
        {"selector": "relative", "tau": 0.9},
        {"selector": "top_p", "tau": 0.95},
        {"tau": 0.5, "offset": "reversed"},
    ],
    "minference": [FEW, {**FEW, "ratio": 2.0}],
    "minference_native": [FEW],
    "streaming": [{"sink": 200, "window": 300}],
    "trianglemix": [{"last": 104, "window": 200}],
}


@cache
def inputs(case: Case, jitter: float = 0.0) -> tuple[Tensor, Tensor, Tensor]:
    """Query, key and value in which some key blocks stand out for some stretches of queries.

    ``jitter`` adds noise of that relative size.
    """
    generator = torch.Generator().manual_seed(7)
    query, key, value = (x.contiguous() for x in tensors(case, seed=11))
    blocks = num_blocks(case.k_len)
    ways = torch.randn(case.kv_heads, blocks, case.dim, generator=generator)
    strength = torch.rand(case.kv_heads, blocks, 1, generator=generator) * 2
    at = torch.arange(case.k_len) // 128
    key = key + (ways * strength)[:, at]
    stretch = (torch.arange(case.q_len) + case.k_len - case.q_len) // 96
    wanted = torch.randint(blocks, (case.heads, int(stretch[-1]) + 1), generator=generator)
    owner = torch.arange(case.heads) // case.group
    query = query + ways[owner[:, None], wanted[:, stretch]]
    noise = torch.Generator().manual_seed(1)
    query, key = (x * (1 + jitter * torch.randn(x.shape, generator=noise)) for x in (query, key))
    return query, key, value


def chosen(method: Method, case: Case, *, double: bool = False, jitter: float = 0.0) -> Tensor:
    """The blocks that a method keeps under its paper's policy: bool ``[B, Hq, rows, columns]``."""
    query, key, _ = (x.double() if double else x for x in inputs(case, jitter))
    mask = method.select(query, key, scale=0.1, layer=LATE, keep=method.paper_keep)
    return mask.to_map()


def shapes(method: Method) -> list[Case]:
    """The shapes that a method is run on."""
    return [*SHAPES, LONG] if getattr(method, "stride", 0) == 64 else SHAPES


def steady(method: Method, case: Case) -> bool:
    """Whether neither fp64 nor noise ten times the rounding changes a block."""
    kept = chosen(method, case)
    others = chosen(method, case, double=True), chosen(method, case, jitter=1e-6)
    return all(torch.equal(kept, other) for other in others)


def digest(kept: Tensor) -> str:
    """Number of kept blocks and a hash of which ones."""
    packed = kept.flatten().to(torch.uint8).numpy().tobytes()
    return f"{int(kept.sum())} {hashlib.sha256(packed).hexdigest()[:12]}"


def sample(output: Tensor) -> list[float]:
    """Eight numbers of an output: its spread and seven entries from first to last."""
    flat = output.flatten().double()
    picked = flat[torch.linspace(0, len(flat) - 1, 7).long()]
    return [round(x, 7) for x in (float(flat.std()), *picked.tolist())]


@cache
def methods() -> dict[str, Method]:
    """Every method of ``conf/method``, the variants above, and heads of every pattern."""
    found = {}
    for path in sorted((CONF / "method").glob("*.yaml")):
        for settings in ({}, *VARIANTS.get(path.stem, [])):
            shown = ", ".join(f"{key}={value}" for key, value in settings.items())
            found[f"{path.stem}({shown})"] = expand_method({"name": path.stem, **settings})[0].build()
    with TemporaryDirectory() as folder:
        patterns = write(Path(folder), MIXED * (LATE + 1))
        for variant in VARIANTS_OF_LINES:
            mixed = MInference(patterns=patterns, ratio=0.2, variant=variant)
            found[f"minference(all patterns, {variant})"] = mixed
    return found


def method_output(method: Method) -> Output:
    """Masks of a method and, where it has a kernel of its own, what that gives."""
    values: dict[str, Any] = {str(case): digest(chosen(method, case)) for case in shapes(method)}
    case = SHAPES[0]
    query, key, value = inputs(case)
    own = method.attend(query, key, value, scale=0.1, layer=LATE, keep=NO_KEEP)
    if own is not None:
        values["own kernel"] = sample(own[0])
        values["own density"] = [round(float(x), 7) for x in own[1].flatten()]
    return Output(f"{type(method).__module__}.{type(method).__name__}", method.version, values)


def executor_output(backend: str) -> Output:
    """Outputs and densities on fixed masks, by one back end or by dense attention."""
    values = {}
    for case in EXECUTED:
        query, key, value = tensors(case)
        mask = random_mask(case)
        if backend == "dense":
            output = dense_prefill(query, key, value, scale=0.1)[0]
        else:
            output = block_sparse_attention(query, key, value, mask, scale=0.1, backend=backend)
        density = [round(float(x), 7) for x in density_by_head(mask).flatten()]
        values[str(case)] = {"output": sample(output), "density": density}
    return Output("method.attention", method.attention.VERSION, values)


def cases() -> dict[str, Output]:
    """All outputs of this kind."""
    found = {name: method_output(made) for name, made in methods().items()}
    found |= {f"executor({name})": executor_output(name) for name in ("torch", "reference", "dense")}
    return found


def test_outputs_are_those_of_their_versions():
    golden.check("methods", cases())


@pytest.mark.parametrize("name", methods())
def test_no_mask_hangs_on_rounding(name):
    method = methods()[name]
    assert all(steady(method, case) for case in shapes(method))


@pytest.mark.parametrize(
    ("module", "old", "new", "name"),
    [
        ("method.rr", "scale=scale,", "scale=scale * 1.1,", "rr(tau=0.8)"),
        ("method.xattention", "2**28", "2**27", "xattention(tau=0.7, stride=64)"),
        ("method.flexprefill", "// BLOCK + 1", "// BLOCK + 2", "flexprefill_no_minimum()"),
        ("method.trianglemix", "ends > q_len", "ends > q_len - 9", "trianglemix(last=104, window=200)"),
        ("method.streaming", "- window + 1", "- window - 90", "streaming(sink=200, window=300)"),
        ("method.keep", "column == visible - 1", "column == visible - 2", "rr(tau=0.8)"),
        ("method.ops.rr_scores.torch", "2654435761", "2654435769", "rr(tau=0.8, offset=random)"),
        ("method.ops.top_p.torch", "free=1", "free=2", "rr(tau=0.8)"),
        ("method.ops.antidiagonal.torch", "scale / stride", "scale / (stride + 1)", "xattention()"),
        ("method.ops.vertical_slash.head_patterns", "_LAST = 64", "_LAST = 60", f"minference({LINES})"),
        ("method.ops.vertical_slash.torch", "TILE = 64", "TILE = 32", f"minference_native({LINES})"),
        ("method.ops.block_sparse.torch", "scale=scale", "scale=scale * 1.001", "executor(torch)"),
        ("method.ops.block_sparse.reference", "* scale", "* scale * 1.001", "executor(reference)"),
    ],
)
def test_a_changed_constant_is_noticed(module, old, new, name, monkeypatch):
    golden.rewrite(monkeypatch, module, old, new)
    backend = re.fullmatch(r"executor\((\w+)\)", name)
    made = executor_output(backend[1]) if backend else method_output(methods()[name])
    found = golden.complaints({name: golden.read("methods")[name]}, {name: made})
    assert len(found) == 1 and f"bump the version of {made.owner}" in found[0]


def test_a_moved_line_is_not(monkeypatch):
    golden.rewrite(monkeypatch, "method.rr", "scale=scale,", "scale=(0 + scale),")
    made = {"rr(tau=0.8)": method_output(methods()["rr(tau=0.8)"])}
    assert not golden.complaints({name: golden.read("methods")[name] for name in made}, made)
