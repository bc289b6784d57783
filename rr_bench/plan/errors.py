"""What goes wrong with a model before it is loaded."""


class CheckpointError(ValueError):
    """The model's settings do not fit what is on disk or on this machine."""
