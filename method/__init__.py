"""Sparse-prefill methods, their kernels and the block-mask contract, usable without the harness."""
