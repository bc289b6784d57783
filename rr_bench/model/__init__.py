"""A language model with a sparse prefill: loading, attention hook, recorder, lm-eval interface.

``VERSION`` stands in every cell's key for how a prompt becomes an answer, method and executor aside:
which tokens the prefill gets and which the dense decode, what the hook sends where, the RoPE state a
sample starts from, greedy decoding with its stop tokens and the repetition penalty, the logits that
log-likelihoods are read from, and how a GGUF file is unpacked. Raise it when any of these changes a
number; moving or renaming code needs no new version.
"""

from rr_bench.plan.model_facts import MODEL_VERSION as VERSION

__all__ = ["VERSION"]
