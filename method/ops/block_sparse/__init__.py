"""Attention over kept blocks: reference, PyTorch, portable Triton, Hopper."""
