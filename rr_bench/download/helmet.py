"""The parts of HELMET's data: where each comes from, and how it is verified.

Downloading and resuming are ``huggingface_hub``'s; every file is compared with the checksum that the
hub, or git, has of it.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import httpx

from rr_bench.download.errors import DownloadError
from rr_bench.download.unpack import open_new, unpack
from rr_bench.tasks.files.documents import FOLDER as TOKENIZER_FOLDER
from rr_bench.tasks.files.documents import LLAMA2
from rr_bench.tasks.files.hub import HUB_SETS

HELMET_DATA = "princeton-nlp/HELMET"
ARCHIVE = "data.tar.gz"
MOST_UNPACKED = 60_000_000_000
"""Bytes; HELMET's archive holds 34 GB."""
COMMIT = "4526dfbdc512bd9ff721da336bff4e3e75ecfd27"
"""HELMET's code of 2025-04-09, whose prompts and judges' wording are used."""
TEXTS = (
    "prompts/asqa_revised.json",
    "prompts/qampari_revised.json",
    "scripts/eval_gpt4_longqa.py",
    "scripts/eval_gpt4_summ.py",
)
RAW = "https://raw.githubusercontent.com/princeton-nlp/HELMET"
TREE = "https://api.github.com/repos/princeton-nlp/HELMET/git/trees"
TOKENIZER_FILES = ("tokenizer*", "special_tokens*")

Say = Callable[[str], None]


def get_data(folder: Path, say: Say, keep_archive: bool = False) -> None:
    """HELMET's own files: 11 GB to download, 34 GB unpacked."""
    done = folder / "data" / ".complete"
    if done.is_file():
        say("data: complete")
        return
    (archive,) = from_hub(HELMET_DATA, [ARCHIVE], folder / ".hub" / "helmet", kind="dataset")
    written, present = unpack(archive, folder, MOST_UNPACKED)
    done.parent.mkdir(parents=True, exist_ok=True)
    done.write_text("")
    if keep_archive:
        archive.replace(folder / ARCHIVE)
    shutil.rmtree(folder / ".hub" / "helmet")
    say(f"data: {written} files unpacked, {present} were there")


def get_texts(folder: Path, say: Say) -> None:
    """ALCE's prompts and the judges' wording, which are in HELMET's code repository only."""
    wanted = [name for name in TEXTS if not (folder / name).is_file()]
    entries = get(f"{TREE}/{COMMIT}?recursive=1").json()["tree"] if wanted else []
    blobs = {entry["path"]: entry["sha"] for entry in entries}
    for name in wanted:
        data = get(f"{RAW}/{COMMIT}/{name}").content
        # Git names a file by this hash; the commit vouches for it.
        blob = hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()
        if blob != blobs.get(name):
            raise DownloadError(f"{name} is not HELMET's of commit {COMMIT[:7]}; run this again")
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        partial = folder / f"{name}.partial"
        with open_new(partial) as file:
            file.write(data)
        partial.replace(folder / name)
    say(f"texts: {len(wanted)} fetched, {len(TEXTS) - len(wanted)} were there")


def get_hub(folder: Path, say: Say, names: Sequence[str] | None = None) -> None:
    """Copies of the sets HELMET takes from the hub, under ``data/hub/<set>/<split>``."""
    for name in names or HUB_SETS:
        if name not in HUB_SETS:
            raise DownloadError(f"--sets: no set {name!r}; there are {', '.join(HUB_SETS)}")
        found, scratch = HUB_SETS[name], folder / ".hub" / name
        for split in found.splits:
            target = folder / "data" / "hub" / name
            if any(target.glob(f"{split}.*")) or (target / split / ".complete").is_file():
                say(f"hub: {name}/{split} is there")
                continue
            pattern = found.pattern(split)
            files = from_hub(found.repo, [pattern], scratch, kind="dataset", revision=found.revision)
            parts = target if found.jsonl else target / split
            parts.mkdir(parents=True, exist_ok=True)
            for file in files:
                shutil.move(file, parts / file.name)
            if not found.jsonl:
                (parts / ".complete").write_text("")
            say(f"hub: {name}/{split} fetched")


def get_tokenizer(folder: Path, say: Say) -> None:
    """Llama-2's tokenizer, which cuts stories to length for every model."""
    target = folder / TOKENIZER_FOLDER
    from_hub(LLAMA2, TOKENIZER_FILES, target, kind="model")
    say(f"tokenizer: {target}")


def from_hub(
    repo: str, patterns: Sequence[str], folder: Path, *, kind: str, revision: str = "main"
) -> list[Path]:
    """Files of a hub repository, fetched or continued, and verified; wrong ones are deleted.

    Raises:
        DownloadError: the hub cannot be reached, has no such file, no checksum of it or another one.
    """
    from huggingface_hub import HfApi, snapshot_download

    try:
        snapshot_download(
            repo, repo_type=kind, revision=revision, allow_patterns=list(patterns), local_dir=folder
        )
        checked = HfApi().verify_repo_checksums(
            repo, repo_type=kind, revision=revision, local_dir=folder
        )
    except (OSError, httpx.HTTPError) as error:
        raise DownloadError(f"{repo}: {error}; run this again to go on") from error
    files = sorted(file for pattern in patterns for file in folder.glob(pattern))
    names = {file.relative_to(folder).as_posix() for file in files}
    wrong = sorted(names & {one["path"] for one in checked.mismatches})
    for name in wrong:
        (folder / name).unlink()
    if wrong:
        raise DownloadError(f"{repo}: wrong checksum of {', '.join(wrong)}; run this again")
    if unknown := sorted(names & set(checked.extra_paths)):
        raise DownloadError(f"{repo}@{revision} gives no checksum of {', '.join(unknown)}")
    if not files:
        raise DownloadError(f"{repo}@{revision} has no {', '.join(patterns)}: its layout has changed")
    return files


def get(url: str) -> httpx.Response:
    """A small file.

    Raises:
        DownloadError: it did not come.
    """
    try:
        return httpx.get(url, timeout=60, follow_redirects=True).raise_for_status()
    except httpx.HTTPError as error:
        raise DownloadError(f"{url}: {error}; run this again") from error
