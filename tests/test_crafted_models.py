"""A model folder from elsewhere, whatever is in it: one error, and none of its code runs."""

from __future__ import annotations

import json
import pickle
import shutil
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from rr_bench.model.loading import load_model
from rr_bench.plan.model_facts import CheckpointError, Device, read_config


def evil(folder: Path, **config: Any) -> None:
    """Code beside the weights, which the config names."""
    line = f"open({str(folder / 'ran')!r}, 'w')"
    (folder / "own.py").write_text(f"{line}\n\n\nclass Own:\n    pass\n")
    changed(folder, auto_map={"AutoConfig": "own.Own", "AutoModelForCausalLM": "own.Own"}, **config)


def changed(folder: Path, **config: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | config))


class Pickled:
    """Opens a file where it is unpickled."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[Any, tuple[str, str]]:
        return open, (str(self.folder / "ran"), "w")


def pickled(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Pickled(folder)))


DEEP = b'{"a":' + b"[" * 100_000


@pytest.mark.parametrize(
    ("craft", "words"),
    [
        (partial(evil, model_type="own"), "does not load: .*custom code"),
        (evil, ""),  # a model that transformers knows is loaded by its own code
        (pickled, "does not load: .*no file named model.safetensors"),
        (partial(changed, hidden_size="x"), "does not load: .*hidden_size"),
        (partial(changed, num_attention_heads=0), "does not load: ZeroDivisionError"),
        (partial(changed, hidden_act="os.system"), "does not load: .*os.system"),
        (partial(changed, text_config=[1]), "config.json holds no settings"),
        (partial(changed, model_type=[1]), "config.json names no model_type"),
        (lambda folder: (folder / "config.json").write_bytes(DEEP), "config.json cannot be read"),
        (lambda folder: (folder / "tokenizer_config.json").write_bytes(DEEP), "does not load"),
        (lambda folder: (folder / "tokenizer.json").write_bytes(b"[]"), "does not load"),
        (lambda folder: (folder / "model.safetensors").write_bytes(b"\xff" * 64), "does not load"),
    ],
)
def test_a_crafted_model_folder_is_one_error_and_runs_nothing(smallest, tmp_path, craft, words):
    folder = Path(shutil.copytree(smallest, tmp_path / "model"))
    craft(folder)
    with pytest.raises(CheckpointError, match=words) if words else nullcontext():
        read_config(folder)
        load_model(folder, dtype="float32", device=Device("cpu", "cpu"))
    assert not (folder / "ran").exists()
