"""One folder per operation: a readable PyTorch twin, and kernels that compute the same."""
