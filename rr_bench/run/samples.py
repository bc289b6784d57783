"""Samples of a cell, asked, graded and stored: one after the other, or several decoded together."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from lm_eval.api.instance import Instance
from lm_eval.api.task import ConfigurableTask

from rr_bench.model.lm import SparseHFLM
from rr_bench.model.memory import OutOfMemory
from rr_bench.plan.cells import Cell
from rr_bench.run.errors import DeviceLost, SampleFailed, describe
from rr_bench.run.prompt import prompt_sha
from rr_bench.run.tasks import VideoTask
from rr_bench.run.video_cells import VideoCells
from rr_bench.store.cells import CellWriter
from rr_bench.store.records import SampleRecord, prompt_parts

Doc = Mapping[str, Any]
"""A row of a task."""


@dataclass(frozen=True)
class Samples:
    """Scores rows of a cell whose method is the model's prefill already.

    Attributes:
        lm: what answers.
        videos: what answers about videos; needed for a task about them.
        cell: what is measured.
        task: its rows and their score.
        writer: the cell's folder, entered.
    """

    lm: SparseHFLM
    videos: VideoCells | None
    cell: Cell
    task: ConfigurableTask | VideoTask
    writer: CellWriter

    def run(self, rows: Sequence[tuple[int, Doc]]) -> Iterator[SampleRecord]:
        """Score and store rows, given with their number in the task, in their order.

        A sample that fails is stored with its reason and the others go on; out of memory ends the
        cell, since the others would not fit either.

        Raises:
            SampleFailed: memory ran out.
            DeviceLost: the device answers no more.
        """
        step = self._together()
        for first in range(0, len(rows), step):
            yield from self._group(rows[first : first + step])

    def _together(self) -> int:
        """Rows that are decoded together: those whose answers are decoded at all."""
        decodes = not isinstance(self.task, VideoTask) and self.task.OUTPUT_TYPE == "generate_until"
        return self.lm.together if decodes else 1

    def _group(self, rows: Sequence[tuple[int, Doc]]) -> Iterator[SampleRecord]:
        """Several rows at once; none is stored if one fails.

        They are then asked one by one, so that the error is that of its own sample. An answer does not
        depend on what is decoded beside it, so the others get the same. An error that none of them has
        by itself is a warning.
        """
        if len(rows) == 1:
            yield self._sample(rows[0])
            return
        try:
            found = zip(rows, self._score(rows), strict=True)
            records = [SampleRecord(**self._known(doc) | one) for (_, doc), one in found]
        except Exception as error:
            failed = False
            for row in rows:
                record = self._sample(row)
                failed = failed or record.error is not None
                yield record
            if not failed:
                warnings.warn(
                    f"{len(rows)} samples failed together but not alone, so they were decoded alone "
                    f"(decode_together={self.lm.together}): {describe(error, self.cell.length)}",
                    stacklevel=2,
                )
            return
        for record in records:
            self.writer.append(record)
        yield from records

    def _sample(self, row: tuple[int, Doc]) -> SampleRecord:
        known = self._known(row[1])
        try:
            (found,) = self._score([row])
            record = SampleRecord(**known | found)
        except Exception as error:
            message = describe(error, self.cell.length)
            record = SampleRecord(**known, score=None, error=message)
            self.writer.append(record)
            if isinstance(error, torch.AcceleratorError):
                raise DeviceLost(f"sample {record.uid}: {message}") from error
            if isinstance(error, OutOfMemory):
                raise SampleFailed(f"sample {record.uid}: {message}") from error
            return record
        self.writer.append(record)
        return record

    def _known(self, doc: Doc) -> dict[str, Any]:
        """What a record holds before the model is asked."""
        known = {
            "uid": doc["uid"],
            "task": self.cell.task.name,
            "length": self.cell.length,
            "prompt_sha": prompt_sha(doc),
            "input_tokens": int(doc["input_len"]),
            "budget": int(doc["budget"]),
            "truncated": bool(doc["truncated"]),
            "removed_tokens": int(doc["removed_tokens"]),
            "golds": json.loads(doc["golds"]),
            "cluster": doc.get("cluster") or "",
            "labels": json.loads(doc.get("labels") or "{}"),
            "kernels": [],
        }
        return known | (prompt_parts(doc["prompt"]) if self.cell.method.dense else {})

    def _score(self, rows: Sequence[tuple[int, Doc]]) -> list[dict[str, Any]]:
        """Ask the model, grade the answers, and collect what they cost: fields of each record."""
        if isinstance(self.task, VideoTask):
            assert self.videos is not None
            return [self.videos.score(self.task.name, doc) for _, doc in rows]
        task = self.task
        asked = [_requests(task, doc_id, doc) for doc_id, doc in rows]
        requests = [request for group in asked for request in group]
        answers = iter(getattr(self.lm, requests[0].request_type)(requests, disable_tqdm=True))
        found = []
        for (doc_id, doc), group in zip(rows, asked, strict=True):
            graded = _graded(task, doc, [next(answers) for _ in group])
            found.append(graded | self.lm.stats.pop((task.task_name, doc_id)).fields())
        return found


def _requests(task: ConfigurableTask, doc_id: int, doc: Doc) -> list[Instance]:
    """What lm-eval asks about a row."""
    context = task.fewshot_context(doc, num_fewshot=0)
    made = task.construct_requests(doc=doc, ctx=context, metadata=(task.task_name, doc_id, 1))
    return made if isinstance(made, list) else [made]


def _graded(task: ConfigurableTask, doc: Doc, answers: list[Any]) -> dict[str, Any]:
    nested = len(answers) > 1
    return {
        "score": float(task.process_results(doc, answers)["score"]),
        "questions": len(answers),
        "output": "".join(str(int(greedy)) for _, greedy in answers) if nested else str(answers[0]),
    }
