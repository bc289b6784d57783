"""A finished store as two data files: ``cells.jsonl`` and ``samples.jsonl.gz``."""

from __future__ import annotations

import gzip
import io
from pathlib import Path

from rr_bench.store.cells import SHORT
from rr_bench.store.jsonl import StoreError, write_whole
from rr_bench.store.reading import (
    FROZEN_CELLS,
    FROZEN_SAMPLES,
    StoredCell,
    frozen_line,
    read_store,
)
from rr_bench.store.records import sample_line


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
