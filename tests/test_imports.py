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

from rr_bench import ROOT
from tests.source import PACKAGES, imported_names, module_file

# package: (packages below it that it may use, other distributions it may use)
LAYERS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "method": ((), ("torch", "triton")),
    "rr_bench": ((), ()),
    "rr_bench.store": (("rr_bench",), ("filelock", "numpy", "orjson")),
    "rr_bench.video": (("rr_bench", "rr_bench.store"), ("numpy", "av", "decord", "PIL")),
    "rr_bench.tasks": (
        ("rr_bench", "rr_bench.store", "rr_bench.video"),
        (
            *("numpy", "transformers", "datasets", "lm_eval", "yaml"),
            *("huggingface_hub", "pyarrow", "rouge_score"),
        ),
    ),
    "rr_bench.report": (
        ("rr_bench", "rr_bench.store", "rr_bench.tasks"),
        (
            *("numpy", "pandas", "matplotlib", "tabulate", "jinja2", "markupsafe"),
            *("wandb", "wandb_workspaces"),
        ),
    ),
    "rr_bench.config": (
        ("method", "rr_bench", "rr_bench.store", "rr_bench.tasks"),
        ("omegaconf", "yaml", "hydra"),
    ),
    "rr_bench.plan": (
        ("method", "rr_bench", "rr_bench.config", "rr_bench.store", "rr_bench.tasks"),
        ("huggingface_hub", "torch", "transformers", "tokenizers", "gguf"),
    ),
    "rr_bench.probe": (
        ("rr_bench", "rr_bench.model", "rr_bench.tasks"),
        ("numpy", "torch", "transformers", "tokenizers", "safetensors", "tqdm"),
    ),
    "rr_bench.judge": (
        ("rr_bench", "rr_bench.store", "rr_bench.tasks"),
        ("torch", "transformers", "tqdm", "nltk", "openai"),
    ),
    "rr_bench.download": (
        ("rr_bench", "rr_bench.tasks"),
        ("huggingface_hub", "httpx", "tqdm", "filelock", "omegaconf"),
    ),
    "rr_bench.model": (
        ("method", "rr_bench", "rr_bench.config", "rr_bench.plan"),
        ("numpy", "torch", "triton", "transformers", "safetensors", "lm_eval", "tqdm"),
    ),
    "rr_bench.run": (
        (
            *("method", "rr_bench", "rr_bench.config", "rr_bench.model", "rr_bench.plan"),
            *("rr_bench.report", "rr_bench.store", "rr_bench.tasks", "rr_bench.video"),
        ),
        ("numpy", "torch", "transformers", "datasets", "lm_eval", "hydra", "tqdm"),
    ),
    "rr_bench.latency": (
        (
            *("method", "rr_bench", "rr_bench.config", "rr_bench.model", "rr_bench.plan"),
            *("rr_bench.report", "rr_bench.run", "rr_bench.store"),
        ),
        ("torch", "transformers", "tqdm", "filelock"),
    ),
    "rr_bench.cluster": (
        (
            *("rr_bench", "rr_bench.config", "rr_bench.plan", "rr_bench.report", "rr_bench.run"),
            "rr_bench.store",
        ),
        ("omegaconf",),
    ),
    "rr_bench.__main__": (
        (
            *("rr_bench", "rr_bench.cluster", "rr_bench.config", "rr_bench.latency"),
            *("rr_bench.run", "rr_bench.store"),
        ),
        ("hydra", "omegaconf"),
    ),
}

MOST_NODES = 17
"""At the top level of the import graph, so that a stranger can keep it in mind."""


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


def layer_of(module: str) -> str:
    """The package that a module belongs to, which is its layer."""
    parts = module.split(".")
    return parts[0] if parts[0] == "method" else ".".join(parts[:2])


ALL = list(modules())


@pytest.mark.parametrize("module", ALL)
def test_module_keeps_to_its_layer(module: str) -> None:
    layer = layer_of(module)
    assert layer in LAYERS, f"{module} belongs to no layer: give {layer} a place in LAYERS"
    below, packages = LAYERS[layer]
    ours, others = imports_of(module)
    upward = {name for name in ours if layer_of(name) not in (layer, *below)}
    assert not upward, f"{module} ({layer}) may not import {sorted(upward)}"
    assert others <= set(packages), f"{module} ({layer}) may not use {sorted(others - set(packages))}"


def test_layers_go_one_way_and_are_few() -> None:
    # A loose module would be a layer of its own, which the table does not have.
    assert {layer_of(module) for module in ALL} == set(LAYERS)
    assert len(LAYERS) <= MOST_NODES
    TopologicalSorter({name: set(below) for name, (below, _) in LAYERS.items()}).prepare()


def test_no_import_cycle_between_modules() -> None:
    graph = {module: imports_of(module)[0] for module in ALL}
    # A package that re-exports from its own modules is no cycle: Python runs it first.
    for module, imported in graph.items():
        graph[module] = {name for name in imported if not module.startswith(name + ".")}
    TopologicalSorter(graph).prepare()  # raises CycleError with the cycle in it


def test_report_and_store_reach_no_torch_through_others() -> None:
    for start in ("rr_bench.report", "rr_bench.report.__main__", "rr_bench.store.cells"):
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
