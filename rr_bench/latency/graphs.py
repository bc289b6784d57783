"""CUDA graphs: a call recorded once and replayed without the host's work."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import torch

Result = TypeVar("Result")

WARM_UP = 2
"""Eager calls before the capture: they compile kernels and make launches ready."""


def captured(call: Callable[[], Result], pool: Any = None) -> Callable[[], Result]:
    """A function that replays ``call`` and returns the result of the capture, filled in anew.

    What the call reads must stay where it is: new inputs are copied into the tensors that it was
    captured with.

    Args:
        call: what to capture.
        pool: memory to share with other graphs, of which one is replayed at a time.

    Raises:
        RuntimeError: the call waits for the device, or allocates outside of PyTorch.
    """
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(WARM_UP):
            call()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, pool=pool):
        result = call()

    def replay() -> Result:
        graph.replay()
        return result

    return replay
