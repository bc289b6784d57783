"""Running out of memory, as one clear error."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch


class OutOfMemory(RuntimeError):
    """A prompt did not fit in memory."""


def free_memory(device: torch.device) -> float:
    """Bytes that can be had on a GPU, what PyTorch holds unused among them; elsewhere no limit."""
    if device.type != "cuda":
        return math.inf
    unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return torch.cuda.mem_get_info(device)[0] + unused


@contextmanager
def memory_guard(
    tokens: int, device: torch.device, release: Callable[[], None] | None = None, beside: str = ""
) -> Iterator[None]:
    """Turn an allocator's failure into :class:`OutOfMemory`, and free what can be freed.

    Args:
        tokens: of the prompt at hand.
        device: where it runs.
        release: lets go of memory that is held between prompts.
        beside: what else has to fit, as the error names it.
    """
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
        short = isinstance(error, torch.OutOfMemoryError | MemoryError)
        if not short and "can't allocate memory" not in str(error):
            raise
        reason = str(error).partition("\n")[0]
    else:
        return
    # Behind the handler, whose traceback would keep the tensors of the failed pass.
    if release is not None:
        release()
    if device.type == "cuda":
        torch.cuda.empty_cache()
    raise OutOfMemory(f"a prompt of {tokens} tokens does not fit in {device} memory{beside} ({reason})")
