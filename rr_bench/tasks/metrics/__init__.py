"""Scores of answers, rankings and lists, as HELMET and ALCE compute them."""
