"""The video probe: a small Qwen2-VL that answers questions about flash cards, and its training."""
