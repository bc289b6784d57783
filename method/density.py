"""The one accountant of density: kept blocks over the blocks of the causal triangle.

Denominators differ between papers (all blocks, visible blocks, token pairs); here every method
is counted alike: 100 % is what dense causal attention computes, bottom-right aligned.
"""

from __future__ import annotations

from torch import Tensor

from method.blocks import BLOCK, BlockMask, check_lengths, num_blocks, visible_blocks


def causal_blocks(q_len: int, k_len: int) -> int:
    """Blocks of the causal triangle for one head."""
    check_lengths(q_len, k_len)
    # The sum of visible_blocks: each row before the last sees one block more than the one before it.
    shift, before = k_len - q_len, num_blocks(q_len) - 1
    beyond = num_blocks(shift)
    return before * (before + 1) // 2 + before * beyond + (q_len - 1 + shift) // BLOCK + 1


def density_by_head(mask: BlockMask) -> Tensor:
    """Share of the causal triangle that is computed: float32 ``[B, Hq]`` on the mask's device.

    No host synchronisation: a recorder can collect these on the device and read them later.
    """
    if mask.density is not None:
        return mask.density
    total = causal_blocks(mask.q_len, mask.k_len)
    if not mask.counts.is_cuda:
        return mask.counts.sum(-1) / float(total)
    # Imported here so that masks can be used where Triton is not installed.
    from method.ops.lists import share_of_blocks

    return share_of_blocks(mask.counts, total)


def check_causal(mask: BlockMask) -> None:
    """Raise ``ValueError`` if a kept block lies wholly in the future, or lists are not ascending.

    Costs a host synchronisation and the boolean map: for tests and parity gates.
    """
    visible = visible_blocks(mask.q_len, mask.k_len, mask.counts.device)
    keep = mask.to_map()
    if bool((keep.sum(-1) != mask.counts).any()):
        raise ValueError("block mask lists a key block twice or out of range")
    live = keep.shape[-1] - keep.flip(-1).int().argmax(-1)
    if bool(((mask.counts > 0) & (live > visible)).any()):
        raise ValueError("block mask keeps a key block above the causal diagonal")
