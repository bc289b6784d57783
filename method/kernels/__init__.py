"""The Triton kernels and their readable PyTorch twins."""
