"""Prompt builders, metrics and generators of the lm-eval tasks; no torch here."""
