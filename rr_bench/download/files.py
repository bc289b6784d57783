"""Fetching one file: resumed where it stopped, kept only if its checksum is right."""

from __future__ import annotations

import hashlib
import json
import urllib.error
import urllib.request
from pathlib import Path

from tqdm import tqdm

CHUNK = 1 << 20
LEDGER = "CHECKSUMS.json"


class DownloadError(RuntimeError):
    """A file that did not come, or not whole; the message names it and the remedy."""


def sha256_of(path: Path) -> str:
    """SHA-256 of a file."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def git_blob_of(path: Path) -> str:
    """Git's SHA-1 of a file's content, by which a commit names it."""
    data = path.read_bytes()
    return hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()


class Ledger:
    """Checksums of what has been fetched, in ``CHECKSUMS.json`` of the folder.

    Args:
        folder: the data folder.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        path = folder / LEDGER
        self._known: dict[str, str] = json.loads(path.read_text()) if path.is_file() else {}

    def holds(self, path: Path) -> bool:
        """Whether the file is there and still what was fetched.

        Raises:
            DownloadError: it is there, but with another content.
        """
        known = self._known.get(self._name(path))
        if known is None or not path.is_file():
            return False
        if sha256_of(path) != known:
            raise DownloadError(f"{path} is not what was downloaded; delete it and run this again")
        return True

    def add(self, path: Path) -> None:
        """Remember a file's checksum."""
        self._known[self._name(path)] = sha256_of(path)
        self._folder.mkdir(parents=True, exist_ok=True)
        text = json.dumps(dict(sorted(self._known.items())), indent=1) + "\n"
        (self._folder / LEDGER).write_text(text)

    def _name(self, path: Path) -> str:
        return path.relative_to(self._folder).as_posix()


def fetch(url: str, path: Path, *, sha256: str | None = None, git_blob: str | None = None) -> None:
    """Download a file.

    A partial file of an earlier try is continued. The checksum decides whether the file is kept.

    Args:
        url: where from.
        path: where to.
        sha256: expected SHA-256 of the content.
        git_blob: expected SHA-1 of git's blob.

    Raises:
        DownloadError: the server refuses, the content ends early or has another checksum, or no
            checksum is given.
    """
    if sha256 is None and git_blob is None:
        raise DownloadError(f"{url}: there is no checksum to verify it with")
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".partial")
    try:
        _continue(url, part)
    except (urllib.error.URLError, TimeoutError, ConnectionError) as error:
        raise DownloadError(f"{url}: {error}; run this again to go on") from error
    right = sha256_of(part) == sha256 if sha256 else git_blob_of(part) == git_blob
    if not right:
        part.unlink()
        raise DownloadError(f"{url}: the checksum is wrong; the file was deleted, run this again")
    part.replace(path)


def _continue(url: str, part: Path) -> None:
    """Append what is missing; start over if the server cannot continue."""
    have = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have else {})
    try:
        answer = urllib.request.urlopen(request, timeout=60)
    except urllib.error.HTTPError as error:
        if error.code == 416 and have:  # nothing is missing
            return
        raise
    with answer:
        continued = answer.status == 206
        expected = int(answer.headers.get("Content-Length") or 0)
        start = have if continued else 0
        with part.open("ab" if continued else "wb") as file, _bar(part, start + expected, start) as bar:
            while chunk := answer.read(CHUNK):
                file.write(chunk)
                bar.update(len(chunk))
    if expected and part.stat().st_size != start + expected:
        raise ConnectionError(f"{part.stat().st_size} of {start + expected} bytes came")


def _bar(part: Path, total: int, start: int) -> tqdm:
    return tqdm(desc=part.stem, total=total or None, initial=start, unit="B", unit_scale=True)
