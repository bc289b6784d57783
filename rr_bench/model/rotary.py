"""RoPE that forgets: a sample's result must not depend on the samples before it.

transformers' dynamic-NTK RoPE stretches its frequencies to the longest text seen so far and keeps
them for shorter texts (``modeling_rope_utils.dynamic_rope_update``); LongRoPE swaps short factors for
long ones in the same buffer. Both keep the frequencies they began with beside it.
"""

from __future__ import annotations

from torch import nn

ORIGINAL = "original_inv_freq"


def reset_rope(model: nn.Module) -> None:
    """Give every rotary embedding that adapts the frequencies and length it was built with.

    The others keep theirs, at the address that a captured graph knows. Models with RoPE per layer
    type keep one set for each, named ``<layer type>_inv_freq``.
    """
    for module in filter(adapts, model.modules()):
        names = [name for name in (*module._buffers, *vars(module)) if name.endswith(ORIGINAL)]
        for name in names:
            prefix = name.removesuffix(ORIGINAL)
            original, current = getattr(module, name), getattr(module, f"{prefix}inv_freq")
            # The copy stays behind when a model moves, if it is not a buffer.
            setattr(module, f"{prefix}inv_freq", original.to(current.device).clone())
            length = f"{prefix}max_seq_len_cached"
            if hasattr(module, length):
                setattr(module, length, module.original_max_seq_len)


def adapts(module: nn.Module) -> bool:
    """Whether a module is a rotary embedding whose frequencies follow the text's length."""
    told = getattr(module, "rope_type", None)
    kinds = told.values() if isinstance(told, dict) else [told]
    return any("dynamic" in kind or kind == "longrope" for kind in kinds if isinstance(kind, str))
