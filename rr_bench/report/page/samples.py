"""The samples behind a page's rows as plain data: prompt, output, gold, density, and where the output
leaves that of dense attention.

A page stays small however many samples a store has: texts are cut, what samples share stands once, and
past a number of bytes the others are only linked. Of every cell those come first that say most: failed
ones, then those that lost most of the dense score.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rr_bench.report.recovery import Baselines, ReportError
from rr_bench.store.cells import SHORT, folder_name
from rr_bench.store.frozen import FROZEN_SAMPLES
from rr_bench.store.records import SampleRecord
from rr_bench.store.stored import StoredCell

ROOM = 2_500_000
"""Bytes of samples in one page."""

OUTPUT, GOLD, AROUND = 600, 300, 80
"""Characters kept of an output, of the gold answers; on each side of a difference behind the cut."""


@dataclass
class SampleData:
    """What the page's script reads, see :meth:`plain`.

    Attributes:
        prompts: per prompt ``task``, ``length``, ``uid``, ``tokens``, ``gold`` and, where the store has
            them, ``head`` and ``tail``.
        answers: outputs of dense attention that others are compared with: ``o`` and ``s``.
        cells: per cell its short key: ``label``, ``n``, ``link`` to all its samples, and ``samples``:
            ``p``, ``a`` (places in the two lists), ``s`` (score), ``d`` (density, percent), ``o``,
            ``at`` (first difference), ``w`` (both outputs around it, where ``o`` is cut before), ``e``.
        room: bytes that are left.
    """

    prompts: list[dict[str, Any]] = field(default_factory=list)
    answers: list[dict[str, Any]] = field(default_factory=list)
    cells: dict[str, dict[str, Any]] = field(default_factory=dict)
    room: int = ROOM

    @property
    def plain(self) -> dict[str, Any]:
        """The data as JSON values."""
        return {"prompts": self.prompts, "answers": self.answers, "cells": self.cells}


def sample_data(cells: Sequence[StoredCell], frozen: bool, room: int = ROOM) -> SampleData:
    """Samples of all cells, as many of each as the room holds.

    Args:
        cells: cells in the order of the page.
        frozen: whether they come from a frozen store, whose samples lie in one file.
        room: bytes that the samples may take.
    """
    data = SampleData(room=room)
    baselines = Baselines(cells)
    picked = {}
    for cell in cells:
        short = cell.info.key[:SHORT]
        place = FROZEN_SAMPLES if frozen else f"cells/{folder_name(cell.info.label, cell.info.key)}"
        data.cells[short] = {
            "label": cell.info.label,
            "n": len(cell.samples),
            "link": place if frozen else f"{place}/samples.jsonl",
            "samples": [],
        }
        data.room -= _size(data.cells[short])
        picked[short] = _telling(cell, baselines)
    _fill(data, picked)
    return data


def difference(output: str, dense: str) -> int | None:
    """Place of the first character that differs, ``None`` if none does."""
    if output == dense:
        return None
    both = enumerate(zip(output, dense, strict=False))
    return next((at for at, (a, b) in both if a != b), min(len(output), len(dense)))


def cut(text: str, most: int) -> str:
    """A text of at most ``most`` characters, and what was left out of it."""
    return text if len(text) <= most else f"{text[:most]} … {len(text) - most} characters more"


Pair = tuple[SampleRecord, SampleRecord | None]
Known = dict[tuple[str, int], SampleRecord]
"""Dense samples by cell and place."""


@dataclass(frozen=True, eq=False)
class _Telling:
    """A cell's samples, the most telling first; only what a page shows of them is read from files.

    Attributes:
        cell: the cell.
        dense: its dense cell, None if there is none that may be compared.
        beside: per sample the place of the dense sample of the same prompt, -1 without one.
        order: places of the samples.
    """

    cell: StoredCell
    dense: StoredCell | None
    beside: NDArray[np.int64]
    order: NDArray[np.int64]

    def pair(self, rank: int, known: Known) -> Pair:
        """The sample of a rank and the dense one of its prompt, which is read once for all cells."""
        place = self.order[rank]
        other = int(self.beside[place])
        sample = self.cell.samples[place]
        if self.dense is None or other < 0:
            return sample, None
        where = self.dense.info.key, other
        if where not in known:
            known[where] = self.dense.samples[other]
        return sample, known[where]


def _telling(cell: StoredCell, baselines: Baselines) -> _Telling:
    """Failed samples first, then those that lost most of the dense score."""
    mine, dense = cell.columns, None
    with suppress(ReportError):
        dense = None if cell.info.dense else baselines.of(cell)
    beside = np.full(len(mine.uid), -1, np.int64)
    lost = np.zeros(len(mine.uid))
    if dense is not None:
        theirs = dense.columns
        prompts = enumerate(zip(theirs.uid, theirs.prompt_sha, strict=True))
        places = {prompt: place for place, prompt in prompts}
        own = zip(mine.uid, mine.prompt_sha, strict=True)
        beside[:] = [places.get(prompt, -1) for prompt in own]
        both = beside >= 0
        lost[both] = np.nan_to_num(theirs.score[beside[both]] - mine.score[both])
    return _Telling(cell, dense, beside, np.lexsort((-lost, mine.scored)))


def _fill(data: SampleData, picked: Mapping[str, _Telling]) -> None:
    """One sample of every cell in turn until the room is used up."""
    prompts: dict[str, int] = {}
    answers: dict[str, int] = {}
    for name, (sample, dense) in _in_turn(picked):
        known = dense or sample
        entry = _sample(sample, dense)
        entry["p"] = _place(data, data.prompts, prompts, _prompt(known))
        if dense is not None:
            answer = {"o": cut(dense.output, OUTPUT), "s": dense.score}
            entry["a"] = _place(data, data.answers, answers, answer)
        data.room -= _size(entry)
        if data.room < 0:
            return
        data.cells[name]["samples"].append(entry)


def _in_turn(picked: Mapping[str, _Telling]) -> Iterator[tuple[str, Pair]]:
    known: Known = {}
    for rank in range(max((len(one.order) for one in picked.values()), default=0)):
        for name, one in picked.items():
            if rank < len(one.order):
                yield name, one.pair(rank, known)


def _place(data: SampleData, items: list[Any], places: dict[str, int], item: dict[str, Any]) -> int:
    """Place of an item in a list, which it is added to if it is new."""
    text = json.dumps(item, sort_keys=True)
    if text not in places:
        places[text] = len(items)
        items.append(item)
        data.room -= len(text)
    return places[text]


def _size(entry: dict[str, Any]) -> int:
    return len(json.dumps(entry, separators=(",", ":")))


def _prompt(sample: SampleRecord) -> dict[str, Any]:
    golds = " | ".join(str(gold) for gold in sample.golds)
    found = {
        "task": sample.task,
        "length": sample.length,
        "uid": sample.uid,
        "tokens": sample.input_tokens,
        "gold": cut(golds, GOLD),
    }
    parts = {"head": sample.prompt_head, "tail": sample.prompt_tail}
    return found | {name: text for name, text in parts.items() if text}


def _sample(sample: SampleRecord, dense: SampleRecord | None) -> dict[str, Any]:
    found: dict[str, Any] = {"s": sample.score, "o": cut(sample.output, OUTPUT)}
    if sample.density is not None:
        found["d"] = round(100 * sample.density, 1)
    if sample.questions > 1:
        found["q"] = sample.questions
    if sample.error is not None:
        found["e"] = cut(sample.error, GOLD)
    elif dense is not None and (at := difference(sample.output, dense.output)) is not None:
        found["at"] = at
        if at >= OUTPUT:
            around = slice(at - AROUND, at + AROUND)
            found["w"] = [sample.output[around], dense.output[around]]
    return found
