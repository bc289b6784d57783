"""Scores that need a judge, added to stored samples afterwards: ``python -m rr_bench.judge <out>``."""
