"""Shared fixtures, and which tests can run here."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

INTERPRETING = os.environ.get("TRITON_INTERPRET") == "1"


@pytest.hookimpl(tryfirst=True)  # before markers are selected by
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    cuda = torch.cuda.is_available()
    no_gpu = pytest.mark.skip(reason="needs a CUDA device")
    compiled = pytest.mark.skip(reason="needs real Triton, but TRITON_INTERPRET=1 is set")
    nowhere = pytest.mark.skip(reason="needs TRITON_INTERPRET=1 or a CUDA device")
    for item in items:
        if item.get_closest_marker("gpu"):
            if not cuda:
                item.add_marker(no_gpu)
            elif INTERPRETING:
                item.add_marker(compiled)
        if item.get_closest_marker("interpreter") and not (cuda or INTERPRETING):
            item.add_marker(nowhere)
        elif item.get_closest_marker("interpreter") and not INTERPRETING and _float16(item):
            item.add_marker(pytest.mark.exhaustive)  # a kernel more to compile, like that for bf16


def _float16(item: pytest.Item) -> bool:
    callspec = getattr(item, "callspec", None)
    return callspec is not None and callspec.params.get("dtype") is torch.float16


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """What a GPU's tests ran on, above their closing line."""
    if torch.cuda.is_available() and not INTERPRETING:
        versions = f"torch {torch.__version__}, CUDA {torch.version.cuda}"
        terminalreporter.write_line(f"{torch.cuda.get_device_name()}, {versions}")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a random Llama whose head size the Triton kernels support."""
    from tests.tiny import tiny_llama  # loads transformers, which kernel tests do without

    small = {"hidden_size": 128, "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 64}
    return tiny_llama(tmp_path_factory.mktemp("model") / "llama", **small)


@pytest.fixture(scope="module")
def smallest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a random Llama of one layer, for runs in processes of their own."""
    from tests.tiny import tiny_llama

    small = {"hidden_size": 64, "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 32}
    folder = tmp_path_factory.mktemp("model") / "llama"
    return tiny_llama(folder, num_hidden_layers=1, intermediate_size=64, **small)


@pytest.fixture(scope="module")
def helmet_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A complete folder as HELMET's."""
    from tests import helmet_layout as layout

    return layout.complete(layout.lay_out(tmp_path_factory.mktemp("helmet")))


@pytest.fixture
def make(checkpoint: Path, tmp_path: Path) -> Callable[..., Any]:
    """Settings of a small run; keywords override."""
    # Loads omegaconf and what a run needs, which kernel tests do without.
    from rr_bench.config.schema import DataSettings, ModelSettings, RunSettings

    def settings(**changes) -> RunSettings:
        defaults = {
            "out": str(tmp_path / "out"),
            "model": ModelSettings(path=str(checkpoint), name="tiny"),
            "methods": ["full", {"name": "rr", "tau": 0.5}],
            "tasks": ["recall_prefill"],
            "lengths": [2048],
            "samples": 2,
            "device": "cpu",
            "data": DataSettings(),
        }
        return RunSettings(**{**defaults, **changes})

    return settings


@pytest.fixture
def own_signals(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """For tests that call the command in this process: what it sets is as before afterwards."""
    from rr_bench.store.environment import COMMAND

    monkeypatch.setenv(COMMAND, "")
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Figures of reports are composed and named, but not laid out and saved, which takes most of the
    time: for tests that look into none.
    """
    from rr_bench.report.drawing import Album

    def add(self: Album, figure: object, name: str) -> None:
        self.paths.append(self.folder / f"{name}.png")

    monkeypatch.setattr(Album, "add", add)


@pytest.fixture
def kernel_device() -> str:
    """Where Triton kernels run: the GPU with real Triton, the CPU under the interpreter."""
    return "cpu" if INTERPRETING else "cuda"


@pytest.fixture
def poisoned() -> Iterator[None]:
    """Fill memory from ``torch.empty`` with NaN, so that an unwritten result shows."""
    before = torch.are_deterministic_algorithms_enabled()
    fill = torch.utils.deterministic.fill_uninitialized_memory  # type: ignore[attr-defined]
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = True  # type: ignore[attr-defined]
    yield
    torch.use_deterministic_algorithms(before)
    torch.utils.deterministic.fill_uninitialized_memory = fill  # type: ignore[attr-defined]


@pytest.fixture
def wandb_package(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The real package, without the settings of whoever runs the tests."""
    wandb = pytest.importorskip("wandb")
    for name in ("CACHE", "CONFIG"):
        monkeypatch.setenv(f"WANDB_{name}_DIR", str(tmp_path / "own" / name))
    monkeypatch.setenv("NETRC", str(tmp_path / "own" / "netrc"))
    for name in ("WANDB_API_KEY", "WANDB_MODE", "WANDB_DATA_DIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("WANDB_HTTP_TIMEOUT", "2")
    wandb.teardown()


@pytest.fixture
def wandb_store(tmp_path: Path) -> Path:
    """A store of two methods at two lengths that asked for an offline run."""
    from rr_bench.store.wandb_note import ask_for_wandb
    from tests.fabricate import FULL, RR, write_cell

    out = tmp_path / "store"
    for length in (4096, 8192):
        write_cell(out, FULL, [1.0, 0.5], length=length)
        write_cell(out, RR, [1.0, 0.25], length=length, density=0.4)
    ask_for_wandb(out, "offline", "tests", {"samples": 2})
    return out
