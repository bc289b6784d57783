"""HELMET's data in one folder: ``python -m rr_bench.download <folder>``."""
