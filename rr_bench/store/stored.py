"""One stored cell as reports read it, and whether its parts fit each other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import compress
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rr_bench.store.cells import cell_key
from rr_bench.store.columns import Columns, StoredSamples, columns_of
from rr_bench.store.diagnosis import check_diagnosis
from rr_bench.store.jsonl import StoreError
from rr_bench.store.parts import check_data, check_environment, check_judged, check_readable
from rr_bench.store.records import CellInfo, SampleRecord


@dataclass(frozen=True)
class StoredCell:
    """One stored cell as the report reads it.

    Attributes:
        info: what was measured.
        env: on what; empty if the cell never wrote it.
        samples: last record of every sample, in order of first appearance; those of a file are read
            when they are asked for.
        errors: lines of ``errors.jsonl``.
        done: how many samples the DONE marker vouches for, None without a marker.
        torn: whether the last line was cut short and left out.
        data: what happened to the task's data: rows read, dropped, truncated; None if unknown.
        judged: metrics a judge added, by name: ``value`` (0..1), ``uids`` it covers, ``judge``.
        diagnosis: attention mass that the blocks hold, see :mod:`rr_bench.store.diagnosis`.
    """

    info: CellInfo
    env: dict[str, Any]
    samples: Sequence[SampleRecord]
    errors: list[dict[str, str]] = field(default_factory=list)
    done: int | None = None
    torn: bool = False
    data: dict[str, Any] | None = None
    judged: dict[str, Any] | None = None
    diagnosis: dict[str, Any] | None = None

    @cached_property
    def columns(self) -> Columns:
        """The samples by column."""
        samples = self.samples
        return samples.columns if isinstance(samples, StoredSamples) else columns_of(samples)

    @cached_property
    def scored(self) -> tuple[str, ...]:
        """The uids of the samples that have a score."""
        return tuple(compress(self.columns.uid, self.columns.scored))

    @property
    def densities(self) -> NDArray[np.float64]:
        """Densities of the samples that have a score, where they were recorded."""
        found = self.columns.density[self.columns.scored]
        return found[~np.isnan(found)]


def checked(cell: StoredCell, marker: dict[str, int] | None, where: str) -> StoredCell:
    """The cell, once its parts are known to fit each other.

    Args:
        cell: the cell.
        marker: its ``DONE``, if it has one.
        where: folder or line, for error messages.

    Raises:
        StoreError: it is not what it says.
    """
    info = cell.info
    if cell_key(info.settings) != info.key:
        raise StoreError(f"{where}: settings do not hash to the key; cell.json was edited")
    check_readable(info, where)
    check_environment(cell.env, where)
    check_data(cell.data, where)
    check_judged(cell.judged, set(cell.scored), where)
    check_diagnosis(cell.diagnosis, where)
    for task, length in sorted(cell.columns.places - {(info.task, info.length)}):
        raise StoreError(f"{where}: samples are of {task} {length}")
    if marker is not None and len(cell.scored) != marker["scored"]:
        raise StoreError(
            f"{where}: {len(cell.scored)} scored samples where DONE vouches for {marker['scored']}; "
            "samples.jsonl is missing or was shortened. Run the cell again"
        )
    return cell


def done_marker(cell: StoredCell) -> dict[str, int] | None:
    """What ``DONE`` says of a cell, ``None`` if it was never finished."""
    if cell.done is None:
        return None
    scored = len(cell.scored)
    return {"n": cell.done, "scored": scored, "failed": len(cell.samples) - scored}
