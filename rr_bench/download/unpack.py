"""Unpacking an archive without trusting it: nothing outside the folder, no links, no devices."""

from __future__ import annotations

import shutil
import tarfile
from pathlib import Path, PurePosixPath

from rr_bench.download.files import DownloadError


def unpack(archive: Path, folder: Path) -> tuple[int, int]:
    """Unpack a tar archive; files that are whole already are left alone.

    Every member is checked before it is written; a file appears under its name only when complete.

    Args:
        archive: tar file, compressed or not.
        folder: where to.

    Returns:
        Files written, and files that were there.

    Raises:
        DownloadError: a member leaves the folder or is no plain file or folder, or the archive is
            damaged.
    """
    written = present = 0
    try:
        with tarfile.open(archive, "r|*") as members:
            for member in members:
                target = folder / checked_name(member)
                if member.isdir():
                    target.mkdir(parents=True, exist_ok=True)
                elif target.is_file() and target.stat().st_size == member.size:
                    present += 1
                else:
                    _write(members, member, target, folder)
                    written += 1
    except (tarfile.TarError, EOFError, OSError) as error:
        raise DownloadError(f"{archive}: damaged archive ({error})") from error
    return written, present


def checked_name(member: tarfile.TarInfo) -> PurePosixPath:
    """Path of a member below the folder.

    Raises:
        DownloadError: it is absolute, climbs out, or is neither file nor folder.
    """
    name = PurePosixPath(member.name)
    if name.is_absolute() or ".." in name.parts or "\\" in member.name or ":" in name.parts[:1]:
        raise DownloadError(f"the archive's member {member.name!r} leaves its folder")
    if not (member.isfile() or member.isdir()):
        raise DownloadError(f"the archive's member {member.name!r} is neither file nor folder")
    return name


def _write(members: tarfile.TarFile, member: tarfile.TarInfo, target: Path, folder: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    # A link that was here before the archive could still lead outside.
    if not target.parent.resolve().is_relative_to(folder.resolve()):
        raise DownloadError(f"{target.parent} leads out of {folder}")
    source = members.extractfile(member)
    if source is None:
        raise DownloadError(f"the archive's member {member.name!r} cannot be read")
    partial = target.with_name(target.name + ".partial")
    with partial.open("wb") as file:
        shutil.copyfileobj(source, file)
    partial.replace(target)
