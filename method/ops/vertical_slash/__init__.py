"""Vertical and slash lines: profiles, selection, lists, and attention over single keys."""
