"""A language model with a sparse prefill: loading, attention hook, recorder, lm-eval interface."""
