"""The vision-language families that can be given a video, and how each of them reads one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rr_bench.model.vision.patches import CLIP, HALF, MERGE, TEMPORAL, PixelFormat


@dataclass(frozen=True)
class Family:
    """What sets a family apart.

    Attributes:
        form: how its patches are made.
        timestamps: each patch stands behind its time in words, in a frame of markers of its own
            (Qwen3-VL); otherwise all patches follow one another.
        seconds: positions along time follow the clock (Qwen2.5-VL); otherwise patches are counted.
    """

    form: PixelFormat
    timestamps: bool = False
    seconds: bool = False


FAMILIES: dict[str, Family] = {
    "qwen2_vl": Family(CLIP),
    "qwen2_5_vl": Family(CLIP, seconds=True),
    "qwen3_vl": Family(HALF, timestamps=True),
}
"""By ``model_type`` of the whole model's config."""


def family_of(config: Mapping[str, Any]) -> Family:
    """The family of a model by its config.

    Raises:
        ValueError: it is none of the three, or its tower cuts patches in another way.
    """
    kind = str(config.get("model_type"))
    if kind not in FAMILIES:
        raise ValueError(f"model type {kind!r} cannot be given a video: {', '.join(FAMILIES)} can")
    family = FAMILIES[kind]
    vision = config.get("vision_config") or {}
    wanted = {
        "patch_size": family.form.patch,
        "temporal_patch_size": TEMPORAL,
        "spatial_merge_size": MERGE,
    }
    for name, value in wanted.items():
        if vision.get(name, value) != value:
            raise ValueError(f"vision_config.{name}={vision[name]}: {kind} has {value} here")
    return family
