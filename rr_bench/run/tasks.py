"""The rows of a cell: an lm-eval task or, where they are about videos, one of the project's own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from datasets import Dataset
from lm_eval.api.task import ConfigurableTask
from lm_eval.tasks import TaskManager

from rr_bench import TASKS
from rr_bench.config.schema import RunSettings
from rr_bench.plan.cells import Cell
from rr_bench.plan.model_facts import check_length
from rr_bench.run.errors import CellFailed
from rr_bench.tasks.files.notes import Notes
from rr_bench.tasks.prompts.rows import as_split
from rr_bench.tasks.sources import VIDEO_TASKS, rows_of


@dataclass(frozen=True)
class VideoTask:
    """A task about videos at one length.

    Attributes:
        name: the task.
        eval_docs: its rows; what happened on the way to them is their description.
    """

    name: str
    eval_docs: Dataset

    @classmethod
    def build(cls, name: str, metadata: Mapping[str, Any]) -> VideoTask:
        """Make the rows; arguments as :func:`rr_bench.tasks.sources.rows_of`."""
        notes = Notes()
        rows = rows_of(name, notes=notes, **metadata)
        return cls(name, as_split(rows, notes.as_dict())["test"])


def load_task(cell: Cell, settings: RunSettings) -> ConfigurableTask | VideoTask:
    """The task of a cell.

    Raises:
        CheckpointError: the length is beyond the model. A video's positions are known with its frames,
            and checked then.
        CellFailed: a path of ``data`` cannot be used.
    """
    path = str(cell.model.path)
    metadata = {
        "length": cell.length,
        "samples": settings.samples,
        "seed": settings.seed,
        "tokenizer": path,
        "pretrained": path,
        "trust_remote_code": settings.model.trust_remote_code,
        "newline_stop": False,  # the model stops at tokens, not at a string
        **vars(settings.data),
    }
    name = cell.task.name
    try:
        if name in VIDEO_TASKS:
            return VideoTask.build(name, metadata)
        check_length(cell.length, cell.model.config, settings.model.allow_extrapolation)
        manager = TaskManager(include_path=str(TASKS), include_defaults=False, metadata=metadata)
        task: ConfigurableTask = manager.load([name])["tasks"][name]
        return task
    except (ValueError, OSError) as error:
        for setting, value in vars(settings.data).items():
            if isinstance(value, str) and value in str(error):
                raise CellFailed(f"data.{setting}: {error}") from error
        raise
