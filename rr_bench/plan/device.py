"""Which device a run will use, found without importing torch where that is possible."""

from __future__ import annotations

import os
from importlib import metadata

from rr_bench.plan.model_facts import CheckpointError, Device
from rr_bench.store.environment import query_gpu


def resolve_device(device: str) -> Device:
    """Turn the setting ``device`` (``auto``, ``cpu`` or ``cuda``) into a kind and a name.

    A GPU's name comes from nvidia-smi; torch is asked only if a CUDA build of it is installed and
    nvidia-smi has no answer. The loader checks later that torch uses that very GPU.

    Raises:
        CheckpointError: the setting is unknown, or names a device that is not there.
    """
    if device not in ("auto", "cpu", "cuda"):
        raise CheckpointError(
            f"device={device}: choose auto, cpu or cuda (pick one GPU with CUDA_VISIBLE_DEVICES)"
        )
    name = None if device == "cpu" else _gpu_name()
    if name is not None:
        return Device("cuda", name)
    if device == "cuda":
        raise CheckpointError("device=cuda: torch sees no CUDA device here; use device=cpu or auto")
    return Device("cpu", "cpu")


def _gpu_name() -> str | None:
    """Name of the GPU torch would use, or ``None``."""
    if "+cpu" in metadata.version("torch") or os.environ.get("CUDA_VISIBLE_DEVICES") == "":
        return None
    name = query_gpu("name").get("name")
    if name is not None:
        return name
    import torch

    return torch.cuda.get_device_name() if torch.cuda.is_available() else None
