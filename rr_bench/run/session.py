"""The part of a run that needs torch: one loaded model, and cells scored sample by sample.

lm-eval's task objects make the requests and grade the answers; the loop around them is ours, so
that what was asked is graded, stored and flushed before anything else is.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping
from typing import Any

import datasets
import torch
import transformers
from lm_eval.api.task import ConfigurableTask

from method.attention import SparsePrefill
from method.blocks import BLOCK
from method.full import FullAttention
from method.keep import NO_KEEP
from rr_bench.config.schema import RunSettings
from rr_bench.model.hook import sparse_prefill
from rr_bench.model.lm import SparseHFLM
from rr_bench.model.loading import load_model
from rr_bench.model.recorder import Recorder
from rr_bench.model.spread import split
from rr_bench.plan.cells import Cell, ModelFacts
from rr_bench.plan.model_facts import max_positions
from rr_bench.run.errors import CellFailed
from rr_bench.run.prompt import Prompt, prompt_sha
from rr_bench.run.samples import Samples
from rr_bench.run.tasks import VideoTask, load_task
from rr_bench.run.video_cells import VideoCells
from rr_bench.store.cells import CellWriter, Store
from rr_bench.store.environment import environment
from rr_bench.store.records import SampleRecord

UNLIMITED = 2**31
WAKE_UP = 1024
"""Tokens of a warm-up where no kernel is compiled."""


class Session:
    """One model in memory and the cells that run on it.

    Args:
        settings: the run's settings.
        model: facts of the model to load.

    Raises:
        CheckpointError: the model does not load.
    """

    def __init__(self, settings: RunSettings, model: ModelFacts) -> None:
        _quiet()
        self.settings = settings
        self.model = model
        loaded = load_model(
            model.path,
            dtype=model.dtype,
            device=model.device,
            trust_remote_code=settings.model.trust_remote_code,
            rope=settings.model.rope,
            device_map=settings.model.device_map,
        )
        own = None if settings.model.allow_extrapolation else max_positions(model.config)
        dense = SparsePrefill(FullAttention(), NO_KEEP, settings.backend)
        self.lm = SparseHFLM(
            loaded.model,
            loaded.tokenizer,
            dense,
            max_length=own or UNLIMITED,
            decode=settings.decode,
            decode_together=settings.decode_together,
        )
        self.videos = None
        if model.video:
            self.videos = VideoCells(loaded, dense, settings, own or UNLIMITED)
        self._task: tuple[tuple[str, int], ConfigurableTask | VideoTask] | None = None
        self._warm: set[tuple[str, int]] = set()

    def open_cell(self, cell: Cell, store: Store) -> CellWriter:
        """Build the cell's method, make it the model's prefill, and open the store for it."""
        if self.lm.device.type == "cuda":
            torch.cuda.empty_cache()
        self.lm.newline_stop = cell.settings["newline_stop"]
        self.lm.prefill = SparsePrefill(
            cell.method.build(),
            cell.keep,
            self.settings.backend,
            cell.settings.get("dense_below", 0),
        )
        if self.videos is not None:
            self.videos.lm.prefill = self.lm.prefill
        return store.open_cell(cell.settings, cell.label, cell.info, self._environment())

    def _videos(self) -> VideoCells:
        """What asks about videos.

        Raises:
            CellFailed: the model cannot be given one.
        """
        if self.videos is None:
            raise CellFailed(f"{self.model.name} cannot be given a video: choose a model that can")
        return self.videos

    @torch.no_grad()
    def prompts(self, cell: Cell) -> list[Prompt]:
        """What prefill gets of the cell's prompts.

        Raises:
            CheckpointError: the length is beyond the model.
        """
        task = self._load_task(cell)
        docs = list(task.eval_docs)[: self.settings.samples]
        if isinstance(task, VideoTask):
            return [self._videos().prompt(doc) for doc in docs]
        ids = [self.lm.prompt_ids(doc["prompt"], chat=doc["chat"])[:-1] for doc in docs]
        inputs = [torch.tensor([one], device=self.lm.device) for one in ids]
        return [Prompt(one.shape[1], {"input_ids": one}) for one in inputs]

    @torch.no_grad()
    def prefill(self, prompt: Prompt, prefill: SparsePrefill) -> Recorder:
        """Run the decoder body once over a prompt under ``prefill``; what the hook saw."""
        with sparse_prefill(self.lm.model, prefill) as recorder:
            self.lm.model.get_decoder()(**prompt.inputs, use_cache=False)
        return recorder

    def run_cell(
        self, cell: Cell, writer: CellWriter, progress: Callable[[SampleRecord], None]
    ) -> None:
        """Score the samples the store does not have yet.

        Args:
            cell: what to run; :meth:`open_cell` has prepared its method.
            writer: the cell's folder, entered.
            progress: called after every stored sample.

        See :class:`~rr_bench.run.samples.Samples` for what becomes of one that fails.

        Raises:
            CellFailed: the stored samples are not those of the task.
            SampleFailed: memory ran out.
            CheckpointError: the length is beyond the model.
            DeviceLost: the device answers no more.
        """
        task = self._load_task(cell)
        docs = list(task.eval_docs)[: self.settings.samples]
        notes = json.loads(task.eval_docs.info.description or "{}")
        if notes:
            writer.note_data(notes)
        waiting = [doc for doc in docs if doc["uid"] not in writer.finished]
        if waiting:
            self._warm_up(cell, waiting[0])
        rows = []
        for doc_id, doc in enumerate(docs):
            done = writer.records.get(doc["uid"])
            if done is not None and done.error is None and done.prompt_sha != prompt_sha(doc):
                raise CellFailed(
                    f"the stored sample {done.uid} has another prompt than the task makes now; "
                    f"delete {writer.folder} to measure the cell afresh"
                )
            if done is None or done.error is not None:
                rows.append((doc_id, doc))
        for record in Samples(self.lm, self.videos, cell, task, writer).run(rows):
            progress(record)
        # A task may have fewer rows than were asked for; all it has is then all there is to do.
        writer.finish(self.settings.samples)

    def _load_task(self, cell: Cell) -> ConfigurableTask | VideoTask:
        """The task at this length; the last one is kept, as its cells follow each other."""
        key = (cell.task.name, cell.length)
        if self._task is None or self._task[0] != key:
            self._task = None
            self._task = key, load_task(cell, self.settings)
        return self._task[1]

    def _warm_up(self, cell: Cell, doc: Mapping[str, Any]) -> None:
        """Compile the kernels that the cell's prompts need before one of them is timed.

        Args:
            cell: the cell; :meth:`open_cell` has prepared its method.
            doc: the first row that will be timed.
        """
        device = self.lm.device.type
        # What is ready stays so in this process: kernels of a shape, and without any, the threads.
        key = (cell.method.label, cell.length) if device == "cuda" else ("", 0)
        new = key not in self._warm
        self._warm.add(key)
        if "video" in doc:
            self._videos().warm_up(doc, new)
            return
        ids = self.lm.tok_encode(doc["prompt"])[:-1][: self.lm.max_length]
        for length in warm_up_lengths(len(ids), device, new):
            self.lm.warm_up(ids[:length])

    def _environment(self) -> dict[str, Any]:
        device = self.model.device
        known: dict[str, Any] = {"type": device.kind, "name": device.name}
        known["decode"] = self.lm.decoding
        if (layers := split(self.lm.model)) is not None:
            known["layers"] = layers
        # As in HELMET the checkpoint's own penalty stays: Qwen2.5's is 1.05.
        known["repetition_penalty"] = self.lm.model.generation_config.repetition_penalty or 1.0
        if device.kind == "cuda":
            known["capability"] = ".".join(map(str, torch.cuda.get_device_capability()))
        return environment(known)


def warm_up_lengths(tokens: int, device: str, new: bool) -> list[int]:
    """How many of a prompt's tokens to prefill before it is timed.

    Without a GPU nothing is compiled, so a short run wakes the thread pools. With one, Triton compiles
    for the prompt's own shape, and anew where a size is a multiple of 16, which a prompt cut to whole
    groups of 16 blocks has in every place.

    Args:
        tokens: of the prompt.
        device: ``cpu`` or ``cuda``.
        new: the method has not run at this length yet; without a GPU, nothing has.
    """
    if device == "cpu":
        return [min(tokens, WAKE_UP)] if tokens and new else []
    aligned = tokens - tokens % (16 * BLOCK)
    return [length for length in ([aligned, tokens] if new else [tokens]) if length]


def _quiet() -> None:
    """Keep the terminal for our own bar and errors."""
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    datasets.disable_progress_bars()
    for name in ("lm_eval", "lm-eval", "datasets"):
        logging.getLogger(name).setLevel(logging.ERROR)
