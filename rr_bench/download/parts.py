"""The parts of HELMET's data, where each comes from and how it is verified."""

from __future__ import annotations

import json
import shutil
import urllib.request
from collections.abc import Callable, Sequence
from pathlib import Path

from rr_bench.download.files import DownloadError, Ledger, fetch, git_blob_of, sha256_of
from rr_bench.download.unpack import unpack
from rr_bench.tasks.documents import FOLDER as TOKENIZER_FOLDER
from rr_bench.tasks.documents import LLAMA2
from rr_bench.tasks.hubsets import HUB_SETS

HELMET_DATA = "princeton-nlp/HELMET"
ARCHIVE = "data.tar.gz"
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

TOKENIZER_FILES = ["tokenizer*", "special_tokens*"]

Say = Callable[[str], None]


def get_data(folder: Path, say: Say, keep_archive: bool = False) -> None:
    """HELMET's own files: 11 GB to download, 34 GB unpacked; the hub's checksum verifies them."""
    from huggingface_hub import get_hf_file_metadata, hf_hub_url

    archive = folder / ARCHIVE
    done = folder / "data" / ".complete"
    if done.is_file():
        say("data: complete")
        return
    url = hf_hub_url(HELMET_DATA, ARCHIVE, repo_type="dataset")
    ledger = Ledger(folder)
    if not ledger.holds(archive):
        expected = get_hf_file_metadata(url).etag or ""
        if len(expected) != 64:
            raise DownloadError(f"{url}: the hub gives no SHA-256 for it")
        fetch(url, archive, sha256=expected)
        ledger.add(archive)
    written, present = unpack(archive, folder)
    done.parent.mkdir(parents=True, exist_ok=True)
    done.write_text(f"{sha256_of(archive)}\n")
    if not keep_archive:
        archive.unlink()
    say(f"data: {written} files unpacked, {present} were there")


def get_texts(folder: Path, say: Say) -> None:
    """ALCE's prompts and the judges' wording, which are in HELMET's code repository only."""
    ledger = Ledger(folder)
    wanted = [name for name in TEXTS if not ledger.holds(folder / name)]
    blobs = _git_blobs() if wanted else {}
    for name in wanted:
        if name not in blobs:
            raise DownloadError(f"HELMET's commit {COMMIT[:7]} has no {name}")
        fetch(f"{RAW}/{COMMIT}/{name}", folder / name, git_blob=blobs[name])
        ledger.add(folder / name)
    say(f"texts: {len(wanted)} fetched, {len(TEXTS) - len(wanted)} were there")


def _git_blobs() -> dict[str, str]:
    """Name and blob hash of every file of HELMET's commit."""
    try:
        with urllib.request.urlopen(f"{TREE}/{COMMIT}?recursive=1", timeout=60) as answer:
            return {entry["path"]: entry["sha"] for entry in json.load(answer)["tree"]}
    except (OSError, ValueError, KeyError) as error:
        raise DownloadError(f"{TREE}: {error}; run this again") from error


def get_hub(folder: Path, say: Say, names: list[str] | None = None) -> None:
    """Copies of the sets HELMET takes from the hub, under ``hub/<set>/<split>``."""
    for name in names or HUB_SETS:
        if name not in HUB_SETS:
            raise DownloadError(f"--sets: no set {name!r}; there are {', '.join(HUB_SETS)}")
        for split in HUB_SETS[name].splits:
            target = folder / "data" / "hub" / name
            if any(target.glob(f"{split}.*")) or (target / split / ".complete").is_file():
                say(f"hub: {name}/{split} is there")
                continue
            _get_split(name, split, folder, target)
            say(f"hub: {name}/{split} fetched")


def _get_split(name: str, split: str, folder: Path, target: Path) -> None:
    from huggingface_hub import snapshot_download

    found, scratch = HUB_SETS[name], folder / ".hub" / name
    snapshot_download(
        found.repo,
        repo_type="dataset",
        revision=found.revision,
        allow_patterns=[found.pattern(split)],
        local_dir=scratch,
    )
    files = sorted(scratch.glob(found.pattern(split)))
    if not files:
        raise DownloadError(f"{found.repo}@{found.revision} has no {found.pattern(split)}")
    _verify(scratch, files, found.repo, "dataset", found.revision)
    parts = target if found.jsonl else target / split
    parts.mkdir(parents=True, exist_ok=True)
    for file in files:
        shutil.move(file, parts / file.name)
    if not found.jsonl:
        (parts / ".complete").write_text("")


def _verify(folder: Path, files: Sequence[Path], repo: str, kind: str, revision: str) -> None:
    """Compare files with the checksums the hub has of them; the first wrong one is deleted.

    Raises:
        DownloadError: a file has another content, or the hub does not know it.
    """
    from huggingface_hub import HfApi

    names = {file.relative_to(folder).as_posix(): file for file in files}
    infos = HfApi().get_paths_info(repo, list(names), repo_type=kind, revision=revision)
    for info in infos:
        file = names.pop(info.path)
        lfs = getattr(info, "lfs", None)
        right = (
            sha256_of(file) == lfs.sha256
            if lfs
            else git_blob_of(file) == getattr(info, "blob_id", None)
        )
        if not right:
            file.unlink()
            raise DownloadError(f"{repo}/{info.path}: wrong checksum; run this again")
    if names:
        raise DownloadError(f"{repo}@{revision} gives no checksum of {', '.join(names)}")


def get_tokenizer(folder: Path, say: Say) -> None:
    """Llama-2's tokenizer, which cuts stories to length for every model."""
    from huggingface_hub import snapshot_download

    target = folder / TOKENIZER_FOLDER
    snapshot_download(LLAMA2, allow_patterns=TOKENIZER_FILES, local_dir=target)
    files = sorted(file for pattern in TOKENIZER_FILES for file in target.glob(pattern))
    if not files:
        raise DownloadError(f"{LLAMA2} has no {', '.join(TOKENIZER_FILES)}: its layout has changed")
    _verify(target, files, LLAMA2, "model", "main")
    say(f"tokenizer: {target}")
