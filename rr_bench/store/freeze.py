"""A store as two data files, ``cells.jsonl`` and ``samples.jsonl.gz``, and back into one that runs."""

from __future__ import annotations

import gzip
import io
from pathlib import Path

from rr_bench.store.cells import SHORT, folder_name
from rr_bench.store.frozen import FROZEN_CELLS, FROZEN_SAMPLES, frozen_line
from rr_bench.store.jsonl import StoreError, error_line, size_of, write_json, write_whole
from rr_bench.store.reading import read_store
from rr_bench.store.records import sample_line, to_json
from rr_bench.store.stored import StoredCell, done_marker


def freeze(run: str | Path, folder: str | Path) -> list[Path]:
    """Write a store's cells to two files; equal content gives equal bytes.

    Args:
        run: folder of the store, running or frozen.
        folder: where the files go; made if needed.

    Returns:
        The two files.

    Raises:
        StoreError: there is no store, it is empty, or a cell of it is not what it says.
    """
    cells, problems = read_store(run)
    if problems:
        raise StoreError(f"{len(problems)} problems, mend them first: {problems[0]}")
    if not cells:
        raise StoreError(f"{run} holds no cells")
    return write_frozen(cells, Path(folder))


def write_frozen(cells: list[StoredCell], folder: Path) -> list[Path]:
    """Write cells in the order of their labels and keys; arguments and result as :func:`freeze`."""
    folder.mkdir(parents=True, exist_ok=True)
    ordered = sorted(cells, key=lambda cell: (cell.info.label, cell.info.key))
    # Lines of one prompt stand side by side, so that what its cells share is packed once.
    lines = [
        ((cell.info.task, cell.info.length, place), sample_line(sample, cell.info.key[:SHORT]))
        for cell in ordered
        for place, sample in enumerate(cell.samples)
    ]
    lines.sort(key=lambda line: line[0])
    buffer = io.BytesIO()
    # No name and no time in the header, so that the bytes depend on the samples alone.
    with gzip.GzipFile(fileobj=buffer, mode="wb", filename="", mtime=0) as file:
        for _, line in lines:
            file.write(line.encode() + b"\n")
    (folder / FROZEN_SAMPLES).write_bytes(buffer.getvalue())
    write_whole(folder / FROZEN_CELLS, "".join(frozen_line(cell) + "\n" for cell in ordered))
    return [folder / FROZEN_CELLS, folder / FROZEN_SAMPLES]


def thaw(frozen: str | Path, out: str | Path) -> list[Path]:
    """Write a frozen store's cells as folders, so that a run with this ``out`` goes on from them.

    Args:
        frozen: folder of the two files.
        out: where ``cells/`` is made; it must not hold cells yet.

    Returns:
        The cells' folders.

    Raises:
        StoreError: there is no store, a cell of it is not what it says, or ``out`` holds cells.
    """
    cells, problems = read_store(frozen)
    if problems:
        raise StoreError(f"{len(problems)} problems, mend them first: {problems[0]}")
    place = Path(out) / "cells"
    if place.exists() and any(place.iterdir()):
        raise StoreError(f"{place} holds cells already: choose an empty `out`")
    return [_thaw_cell(cell, place) for cell in cells]


def _thaw_cell(cell: StoredCell, place: Path) -> Path:
    folder = place / folder_name(cell.info.label, cell.info.key)
    folder.mkdir(parents=True)
    write_whole(folder / "cell.json", to_json(cell.info, indent=1) + "\n")
    lines = [sample_line(sample, cell.info.key[:SHORT]) for sample in cell.samples]
    write_whole(folder / "samples.jsonl", "".join(line + "\n" for line in lines))
    if cell.errors:
        text = "".join(error_line(error) + "\n" for error in cell.errors)
        write_whole(folder / "errors.jsonl", text)
    parts = {"env.json": cell.env or None, "data.json": cell.data, "judged.json": cell.judged}
    parts |= {"diagnosis.json": cell.diagnosis}
    for name, content in parts.items():
        if content is not None:
            write_json(folder / name, content)
    marker = done_marker(cell)
    if marker is not None:
        write_json(folder / "DONE", marker | {"bytes": size_of(folder / "samples.jsonl")})
    return folder
