"""Rows without files: keys, values and essays drawn from a seed, sized to a token budget."""
