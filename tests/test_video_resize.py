"""Resized frames: torch's own arithmetic, without torch."""

from __future__ import annotations

import numpy as np
import pytest

from rr_bench.video.resize import resize, taps


def torch_resize(frame: np.ndarray, height: int, width: int) -> np.ndarray:
    """What torchvision's ``resize`` of a uint8 tensor does with bicubic and antialias."""
    torch = pytest.importorskip("torch")
    values = torch.from_numpy(frame.copy()).permute(2, 0, 1)[None].float()
    made = torch.nn.functional.interpolate(values, (height, width), mode="bicubic", antialias=True)
    return made.clamp(0, 255).round()[0].permute(1, 2, 0).to(torch.uint8).numpy()


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ((480, 854), (224, 420)),  # both sides smaller
        ((480, 854), (476, 840)),
        ((90, 120), (112, 140)),  # larger
        ((64, 96), (28, 140)),  # one smaller, one larger
        ((33, 47), (56, 47)),
        ((100, 50), (448, 224)),
    ],
)
def test_it_is_torch_on_floats(old, new):
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 256, (*old, 3), dtype=np.uint8)
    smooth = np.add.outer(np.arange(old[0]), np.arange(old[1]))[..., None] % 256 * np.ones(3)
    for frame in (noise, smooth.astype(np.uint8)):
        found, wanted = resize(frame, *new).astype(int), torch_resize(frame, *new).astype(int)
        different = np.abs(found - wanted)
        assert different.max() <= 1 and (different > 0).mean() < 3e-3  # halves, rounded either way


def test_a_frame_of_the_right_size_is_left_alone():
    frame = np.arange(56 * 28 * 3, dtype=np.uint8).reshape(56, 28, 3)
    assert resize(frame, 56, 28) is frame


def test_one_colour_stays_it():
    assert (resize(np.full((37, 81, 3), 201, np.uint8), 56, 28) == 201).all()
    places, weights = taps(37, 56)
    assert places.max() == 36 and places.min() == 0
    np.testing.assert_allclose(weights.sum(0), 1, atol=1e-6)
