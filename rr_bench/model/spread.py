"""A model whose layers lie on several GPUs (accelerate's ``device_map``): what that asks of the rest.

Layers are spread, never heads: every layer has all of its heads on one GPU, so that what counts heads,
such as RRAttention's rotation, sees the numbers of the whole model.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from itertools import groupby
from pathlib import Path

import torch
from torch import Tensor
from transformers import PreTrainedModel

from rr_bench.plan.model_facts import CheckpointError, Device


def devices(model: PreTrainedModel) -> list[torch.device]:
    """Where the model's weights are, each device once."""
    return list(dict.fromkeys(parameter.device for parameter in model.parameters()))


def split(model: PreTrainedModel) -> dict[str, str] | None:
    """Decoder layers by device, such as ``{"cuda:0": "0-15", "cuda:1": "16-31"}``; ``None`` on one."""
    if len(devices(model)) == 1:
        return None
    places = [str(next(layer.parameters()).device) for layer in model.get_decoder().layers]
    found: dict[str, str] = {}
    for place, group in groupby(range(len(places)), key=lambda index: places[index]):
        layers = list(group)
        part = f"{layers[0]}-{layers[-1]}" if len(layers) > 1 else str(layers[0])
        found[place] = f"{found[place]}, {part}" if place in found else part
    return found


def check_gpus(device: Device, device_map: str | None) -> None:
    """Refuse to spread a model where there are no GPUs.

    Raises:
        CheckpointError: there are none, and ``device_map`` is set.
    """
    if device_map is not None and device.kind != "cuda":
        raise CheckpointError(
            f"model.device_map={device_map} spreads a model over GPUs, the run is on {device.kind}: "
            "leave it out"
        )


def check_spread(path: Path, model: PreTrainedModel, device: Device, device_map: str) -> None:
    """Refuse a spread model with layers outside the GPUs, or on GPUs of two kinds.

    Raises:
        CheckpointError: layers were left to the CPU or the disk, whose times would say nothing, or lie
            on a GPU of another compute capability than the cells are identified by.
    """
    places = devices(model)
    outside = sorted({place.type for place in places if place.type != "cuda"})
    count = torch.cuda.device_count()
    if outside:
        where = "CPU memory or the disk" if outside == ["meta"] else f"{', '.join(outside)} memory"
        raise CheckpointError(
            f"model.device_map={device_map}: {path.name} does not fit on the {count} GPUs that are "
            f"visible, layers would stay in {where}: use more GPUs"
        )
    kinds = {".".join(map(str, torch.cuda.get_device_capability(place))) for place in places}
    if kinds != {device.capability}:
        raise CheckpointError(
            f"model.device_map={device_map}: the GPUs have different compute capabilities "
            f"({', '.join(sorted(kinds))}): choose equal ones with CUDA_VISIBLE_DEVICES"
        )


def synchronise(places: list[torch.device]) -> None:
    """Wait until all GPUs among the devices have done what they were given."""
    for place in places:
        if place.type == "cuda":
            torch.cuda.synchronize(place)


def on_device_of(tensor: Tensor) -> AbstractContextManager[object]:
    """Make a tensor's GPU the current one: Triton starts kernels there, wherever their inputs are."""
    return torch.cuda.device(tensor.device) if tensor.is_cuda else nullcontext()
