"""Frames of a video, decoded in a child process with a time limit: decord first, PyAV behind it.

decord can hang in native code with Python's lock held, so that no thread could stop it: the process
is killed. What decord cannot read (AV1, some damaged files) PyAV may; whichever did is named in the
record.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from rr_bench import ROOT
from rr_bench.video.errors import DecoderHung, NoVideo, VideoError

CHILD: Sequence[str] = (sys.executable, "-m", "rr_bench.video.child")
READERS = {"decord": "decord", "pyav": "av"}
"""Readers in the order in which they are tried, and their packages."""
DECODERS = ("auto", *READERS)
SECONDS = 600
"""A decoder may take; an hour of video takes about two minutes."""


def readers(decoder: str) -> list[str]:
    """Which readers are tried, as ``name version``.

    Raises:
        ValueError: a package is not installed.
    """
    chosen = list(READERS) if decoder == "auto" else [decoder]
    try:
        return [f"{name} {version(READERS[name])}" for name in chosen]
    except PackageNotFoundError as error:
        raise ValueError(f"videos need the package {error}: pip install '.[video]'") from error


def readers_for(path: Path, decoder: str) -> list[str]:
    """The same for one video; a folder of frames needs no decoder."""
    return [f"images {version('pillow')}"] if path.is_dir() else readers(decoder)


def decode(
    path: Path,
    sampling: dict[str, Any],
    pixels: dict[str, Any] | None,
    frames: Path | None,
    *,
    decoder: str = "auto",
    seconds: float = SECONDS,
) -> dict[str, Any]:
    """Sample a video.

    Args:
        path: the video, or a folder of frames (:mod:`rr_bench.video.images`).
        sampling: fields of :class:`~rr_bench.video.sampling.Sampling`.
        pixels: fields of :class:`~rr_bench.video.pixels.PixelRule`; None: no frames, only facts.
        frames: where the frames go, uint8 ``[N, H, W, 3]``, an ``.npy`` file.
        decoder: ``auto``, ``decord`` or ``pyav``.
        seconds: time limit of each reader.

    Returns:
        ``indices``, ``seconds``, ``fps``, ``sample_fps``, ``total_frames``, ``duration``, ``rotation``,
        ``decoder`` (name and version), and ``passed_over``: why the readers before it gave nothing.

    Raises:
        DecoderHung: no reader gave anything, and the last one was killed.
        VideoError: no reader could; the message says why for each.
    """
    request = {
        "path": str(path),
        "sampling": sampling,
        "pixels": pixels,
        "frames": str(frames),
        "limit": seconds,
    }
    passed_over: list[str] = []
    last: VideoError | None = None
    for reader in readers_for(path, decoder):
        name = reader.partition(" ")[0]
        try:
            answer = _ask({**request, "reader": name}, seconds)
        except DecoderHung as error:
            passed_over.append(f"{name}: {error}")
            last = error
            continue
        if "error" not in answer:
            return {**answer, "decoder": reader, "passed_over": passed_over}
        if answer["final"]:
            raise NoVideo(f"{path.name}: {answer['error']}")
        passed_over.append(f"{name}: {answer['error']}")
        last = None
    raise type(last or VideoError())(f"{path.name}: {'; '.join(passed_over)}")


def _ask(request: dict[str, Any], seconds: float) -> dict[str, Any]:
    """A child's answer to a request."""
    found = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(found), "OMP_NUM_THREADS": "1"}
    child = subprocess.Popen(
        [*CHILD, json.dumps(request)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        stdin=subprocess.DEVNULL,
        env=environment,
        start_new_session=True,
    )
    try:
        output, _ = child.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        raise DecoderHung(f"took more than {seconds:g} s and was killed") from None
    finally:
        if child.poll() is None:
            os.killpg(child.pid, signal.SIGKILL)
            child.communicate()
    lines = output.decode(errors="replace").splitlines()
    try:
        answer = json.loads(lines[-1]) if child.returncode == 0 and lines else None
    except ValueError:
        answer = None
    if not isinstance(answer, dict):
        return {"error": f"the decoder's process ended with status {child.returncode}", "final": False}
    return answer
