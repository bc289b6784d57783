"""Top-τ selection: the blocks that hold a share of a row's mass."""
