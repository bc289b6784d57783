"""From a dataset's fields to a finished, counted and, where it must be, truncated prompt."""
