"""Imports go one way, proved from the source: nothing is imported to find out.

Imports inside functions count too. Each layer lists what it may use of the project and of other
packages; a module that fits no layer fails the test until it is given a place.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

from rr_bench.fingerprint import PACKAGES, ROOT, imported_names, module_file

STORE = ("records", "lock", "jsonl", "env", "fingerprint", "redact", "store")
PLANNING = (
    "config",
    "latency_settings",
    "overrides",
    "catalog",
    "checkpoint",
    "device",
    "plan",
    "cost",
)
MODEL = ("recorder", "hook", "nested", "models", "lm", "tap")

# layer: (its modules, layers it may use besides itself, other packages it may use)
LAYERS: dict[str, tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]]] = {
    "method": (("method",), (), ("torch", "triton")),
    "store": (tuple(f"rr_bench.{name}" for name in STORE), (), ()),
    "suite": (("rr_bench.suite",), (), ()),
    "tasks": (
        ("rr_bench.tasks",),
        ("suite",),
        (
            *("numpy", "transformers", "datasets", "lm_eval", "yaml"),
            *("huggingface_hub", "pyarrow", "rouge_score"),
        ),
    ),
    "report": (("rr_bench.report",), ("store", "suite"), ("numpy", "pandas", "matplotlib", "tabulate")),
    "planning": (
        tuple(f"rr_bench.{name}" for name in PLANNING),
        ("store", "suite", "tasks"),
        ("omegaconf", "yaml", "huggingface_hub", "torch"),
    ),
    "probe": (
        ("rr_bench.probe",),
        ("tasks",),
        ("numpy", "torch", "transformers", "tokenizers", "safetensors", "tqdm"),
    ),
    "judge": (
        ("rr_bench.judge",),
        ("store", "suite", "tasks"),
        ("torch", "transformers", "tqdm", "nltk"),
    ),
    "download": (("rr_bench.download",), ("suite", "tasks"), ("huggingface_hub", "tqdm")),
    "model": (
        tuple(f"rr_bench.{name}" for name in MODEL),
        ("method", "planning"),
        ("torch", "transformers", "safetensors", "lm_eval", "tqdm"),
    ),
    "session": (
        ("rr_bench.session",),
        ("method", "store", "tasks", "planning", "model"),
        ("torch", "transformers", "datasets", "lm_eval", "hydra", "tqdm"),
    ),
    "run": (
        ("rr_bench.run", "rr_bench.wandb_log"),
        ("store", "report", "planning", "session"),
        ("tqdm", "wandb"),
    ),
    "verbs": (
        ("rr_bench.calibrate", "rr_bench.search"),
        ("method", "planning", "model", "session", "run"),
        ("torch",),
    ),
    "latency": (
        ("rr_bench.latency",),
        ("method", "store", "planning", "model", "session", "run"),
        ("torch", "transformers", "tqdm"),
    ),
    "main": (("rr_bench.__main__",), ("planning", "run", "verbs", "latency"), ("hydra", "omegaconf")),
}

LATE_TORCH = ("rr_bench.device",)
"""Planning modules that may ask torch, inside a function, when nothing cheaper has the answer."""


def modules() -> Iterator[str]:
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            yield ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports_of(module: str) -> tuple[set[str], set[str]]:
    """Modules of the project that one imports, and the other packages outside the standard library."""
    path = module_file(module)
    assert path is not None
    names = set(imported_names(path, module))
    ours = {name for name in names if module_file(name)} - {"rr_bench", module}
    roots = {name.partition(".")[0] for name in names}
    return ours, roots - set(PACKAGES) - set(sys.stdlib_module_names)


def layer_of(module: str) -> str | None:
    for layer, (members, _, _) in LAYERS.items():
        if any(module == member or module.startswith(member + ".") for member in members):
            return layer
    return None


ALL = [module for module in modules() if module != "rr_bench"]


@pytest.mark.parametrize("module", ALL)
def test_module_keeps_to_its_layer(module: str) -> None:
    layer = layer_of(module)
    assert layer is not None, f"{module} belongs to no layer: give it a place in LAYERS"
    _, below, packages = LAYERS[layer]
    ours, others = imports_of(module)
    upward = {name for name in ours if layer_of(name) not in (layer, *below)}
    assert not upward, f"{module} ({layer}) may not import {sorted(upward)}"
    assert others <= set(packages), f"{module} ({layer}) may not use {sorted(others - set(packages))}"


def test_layers_themselves_go_one_way() -> None:
    order = list(
        TopologicalSorter({name: set(below) for name, (_, below, _) in LAYERS.items()}).static_order()
    )
    assert set(order) == set(LAYERS)


def test_no_import_cycle_between_modules() -> None:
    graph = {module: imports_of(module)[0] for module in ALL}
    # A package that re-exports from its own modules is no cycle: Python runs it first.
    for module, imported in graph.items():
        graph[module] = {name for name in imported if not module.startswith(name + ".")}
    TopologicalSorter(graph).prepare()  # raises CycleError with the cycle in it


def test_planning_reaches_torch_in_functions_only() -> None:
    users = [
        module for module in ALL if layer_of(module) == "planning" and "torch" in imports_of(module)[1]
    ]
    assert set(users) <= set(LATE_TORCH)
    for module in users:
        path = module_file(module)
        assert path is not None
        lines = path.read_text(encoding="utf-8").splitlines()
        assert not any(line.startswith(("import torch", "from torch")) for line in lines)


def test_report_and_store_reach_no_torch_through_others() -> None:
    for start in ("rr_bench.report", "rr_bench.report.__main__", "rr_bench.store"):
        pending, seen = [start], set()
        while pending:
            module = pending.pop()
            ours, others = imports_of(module)
            assert not others & {"torch", "transformers", "lm_eval", "hydra"}, module
            seen.add(module)
            pending += sorted(ours - seen)
        assert not any(module.startswith("method") for module in seen)


def test_the_check_itself_sees_hidden_imports(tmp_path: Path) -> None:
    path = tmp_path / "module.py"
    path.write_text("def f():\n    import torch.nn\n    from ..store import Store\n")
    names = set(imported_names(path, "rr_bench.report.module"))
    assert names == {"torch.nn", "rr_bench.store", "rr_bench.store.Store"}
