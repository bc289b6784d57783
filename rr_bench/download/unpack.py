"""Unpacking a tar archive, and writing files, without trusting what is there."""

from __future__ import annotations

import tarfile
from pathlib import Path
from typing import BinaryIO

from rr_bench.download.errors import DownloadError


def open_new(path: Path) -> BinaryIO:
    """A file to write in place of whatever has its name; a link is replaced, not followed."""
    path.unlink(missing_ok=True)
    return path.open("xb")


def unpack(archive: Path, folder: Path, most: int) -> tuple[int, int]:
    """Unpack an archive; files that are whole already are left alone, so that it can be continued.

    ``tarfile``'s own filter refuses what leaves the folder, links out of it and devices. A file gets
    its name only when it is complete.

    Args:
        archive: tar file, compressed or not.
        folder: where to.
        most: bytes that all files together may have.

    Returns:
        Files written, and files that were there.

    Raises:
        DownloadError: a member is refused, the files are larger than ``most``, the archive is damaged,
            or the disk is full.
    """
    if not hasattr(tarfile, "data_filter"):
        raise DownloadError("unpacking safely needs a newer Python: 3.11.4 or later")
    written = present = size = 0
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with tarfile.open(archive, "r|*") as members:
            for member in members:
                safe = tarfile.data_filter(member, str(folder))
                if safe.issym() or safe.islnk():
                    raise DownloadError(f"{archive}: refused, {member.name!r} is a link")
                size += safe.size
                if size > most:
                    raise DownloadError(f"{archive}: unpacks to more than {most / 1e9:.0f} GB, stopped")
                target = folder / safe.name
                if safe.isdir():
                    target.mkdir(parents=True, exist_ok=True)
                elif target.is_file() and target.stat().st_size == safe.size:
                    present += 1
                else:
                    partial = safe.replace(name=f"{safe.name}.partial", deep=False)
                    (folder / partial.name).unlink(
                        missing_ok=True
                    )  # a link of that name is not followed
                    members.extract(partial, folder, filter="data")
                    (folder / partial.name).replace(target)
                    written += 1
    except tarfile.FilterError as error:
        raise DownloadError(f"{archive}: refused, {error}") from error
    except (tarfile.TarError, EOFError, OSError) as error:
        raise DownloadError(f"{archive}: not unpacked ({error})") from error
    return written, present
