"""Why a video gives no frames."""

from __future__ import annotations


class VideoError(ValueError):
    """A video cannot be used as asked; the message names the reason.

    Attributes:
        final: no other decoder could do better.
    """

    final = False


class NoVideo(VideoError):
    """There is nothing to decode: no file, an empty one, no video stream, or too few frames."""

    final = True


class DecoderHung(VideoError):
    """A decoder did not end within its time and was killed."""
