"""Running out of memory, as one clear error."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch


class OutOfMemory(RuntimeError):
    """A prompt did not fit in memory."""


@contextmanager
def memory_guard(
    tokens: int, device: torch.device, release: Callable[[], None] | None = None
) -> Iterator[None]:
    """Turn an allocator's failure into :class:`OutOfMemory`, and free what can be freed.

    Args:
        tokens: of the prompt at hand.
        device: where it runs.
        release: lets go of memory that is held between prompts.
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
    raise OutOfMemory(f"a prompt of {tokens} tokens does not fit in {device} memory ({reason})")
