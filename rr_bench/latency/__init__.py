"""Latency of selection, attention and whole prefill, against the strongest dense attention."""
