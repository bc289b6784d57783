"""Which device a run will use."""

from __future__ import annotations

import torch

from rr_bench.plan.model_facts import CheckpointError, Device


def resolve_device(device: str) -> Device:
    """Turn the setting ``device`` (``auto``, ``cpu`` or ``cuda``) into a kind, a name, a capability.

    Raises:
        CheckpointError: the setting is unknown, or names a device that is not there.
    """
    if device not in ("auto", "cpu", "cuda"):
        raise CheckpointError(
            f"device={device}: choose auto, cpu or cuda (pick one GPU with CUDA_VISIBLE_DEVICES)"
        )
    if device != "cpu" and torch.cuda.is_available():
        capability = ".".join(map(str, torch.cuda.get_device_capability()))
        return Device("cuda", torch.cuda.get_device_name(), capability)
    if device == "cuda":
        raise CheckpointError("device=cuda: torch sees no CUDA device here; use device=cpu or auto")
    return Device("cpu", "cpu")
