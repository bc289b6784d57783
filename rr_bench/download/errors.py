"""The one error of this folder."""


class DownloadError(RuntimeError):
    """A file that did not come, or not whole; the message names it and the remedy."""
