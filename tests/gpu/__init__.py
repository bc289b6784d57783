"""Tests that need a GPU."""

from __future__ import annotations

import pytest
import torch

HOPPER = [
    pytest.mark.gpu,
    pytest.mark.skipif(
        not torch.cuda.is_available() or torch.cuda.get_device_capability() != (9, 0),
        reason="needs a chip of compute capability 9.0",
    ),
]
"""Marks of a module whose kernels run on Hopper alone."""
