"""Exit statuses of a run, and what it says when it is stopped."""

FAILED = 1
INTERRUPTED = 130
STOPPED = "interrupted; finished samples are stored, run the same command to go on"
