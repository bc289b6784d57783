"""The settings ``data.*``, declared once, and what the builders read of lm-eval's metadata.

Each field of :class:`DataSettings` says in its metadata what it does (``help``), which words it takes
(``choices``), whether it names a path (``path``), and for which tasks it is part of a result's
identity (``key``). The schema of a run, the builders and the cell keys all read this one class.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from rr_bench.tasks.declare import setting
from rr_bench.tasks.helmet_table import DATASETS
from rr_bench.tasks.prompts.tokens import Tokenizer, load_tokenizer
from rr_bench.tasks.video_settings import VideoSettings


def _from_files(task: str, source: str) -> bool:
    return source == "helmet"


def _chat(task: str, source: str) -> bool:
    return task in DATASETS and DATASETS[task].chat


def _generated_answer(task: str, source: str) -> bool:
    return task in DATASETS


def _clinic(task: str, source: str) -> bool:
    return task == "icl_clinic150"


def _documents(task: str, source: str) -> bool:
    return task in DATASETS and DATASETS[task].category in ("longqa", "summ")


@dataclass
class DataSettings(VideoSettings):
    """Group ``data``: where task rows come from, and how prompts are made of them."""

    helmet_dir: str | None = setting(
        None, "folder of HELMET's unpacked data; null generates what can be generated", path=True
    )
    recall: str = setting(
        "auto",
        "Recall's rows: files, generated, or auto (files where helmet_dir has them)",
        choices=("auto", "files", "generated"),
    )
    haystack: str | None = setting(
        None, "text file for generated niah_mv; null draws sentences from a grammar", path=True
    )
    strict_truncation: bool = setting(
        False, "cut an over-long HELMET prompt until it fits, instead of once", key=_from_files
    )
    chat: str = setting(
        "auto",
        "chat template where HELMET uses one",
        choices=("auto", "always", "never"),
        key=_chat,
    )
    thinking: bool = setting(
        False,
        "the model thinks before it answers: 32768 more tokens, no newline stop, and only what follows "
        "the last </think> is scored, without the lead-in",
        key=_generated_answer,
    )
    clinic_split: str = setting(
        "validation",
        "CLINC150 split that is scored: HELMET's, or test as the RRAttention authors",
        choices=("validation", "test"),
        key=_clinic,
    )
    document_floor: int | None = setting(
        None, "Llama-2 tokens a story must have; null: HELMET's own floors", key=_documents
    )
    llama2_tokenizer: str | None = setting(
        None,
        "folder or hub id of the tokenizer that cuts stories; null: the one in helmet_dir",
        key=_documents,
    )
    hub_dir: str | None = setting(
        None, "local copies of the sets HELMET takes from the hub; null: in helmet_dir", path=True
    )
    hub: bool = setting(False, "fetch such a set from the hub where there is no copy")

    @property
    def source(self) -> str:
        """``helmet`` or ``generated``: whether HELMET's folder is there to read."""
        return "generated" if self.helmet_dir is None else "helmet"

    def path(self, name: str) -> Path | None:
        """A setting that names a path, with ``~`` expanded; None if it is not set."""
        value = getattr(self, name)
        return None if not value else Path(str(value)).expanduser()

    @classmethod
    def from_metadata(cls, metadata: Mapping[str, Any]) -> DataSettings:
        """The settings among lm-eval's metadata, checked.

        Raises:
            ValueError: a word that is no choice, or a path that does not exist.
        """
        data = cls(**{one.name: metadata[one.name] for one in fields(cls) if one.name in metadata})
        for one in fields(cls):
            value, choices = getattr(data, one.name), one.metadata["choices"]
            if choices and value not in choices:
                raise ValueError(
                    f"`data.{one.name}` must be one of {', '.join(choices)}, got {value!r}"
                )
            path = data.path(one.name) if one.metadata["path"] else None
            if path is not None and not path.exists():
                raise ValueError(
                    f"`data.{one.name}`={value} does not exist; give an existing path or null"
                )
        return data


@dataclass(frozen=True)
class Settings:
    """What a builder reads of lm-eval's metadata; everything else there is ignored.

    Attributes:
        tokenizer: of the evaluated model; lengths are counted with it.
        length: tokens of prompt and generation together.
        samples: rows to make.
        seed: of the generated rows, and of the choice among HELMET's rows (there: 42).
        data: where rows come from and how prompts are made.
        questions: of ``recall_prefill``; None: as many as its rule says.
    """

    tokenizer: Tokenizer
    length: int
    samples: int
    seed: int = 42
    data: DataSettings = field(default_factory=DataSettings)
    questions: int | None = None

    @classmethod
    def from_metadata(cls, metadata: Mapping[str, Any]) -> Settings:
        """Check lm-eval's metadata (YAML, ``--metadata`` and ``--model_args`` merged).

        Raises:
            ValueError: naming the setting that is missing or wrong.
        """
        return cls(
            tokenizer=load_tokenizer(**metadata),
            length=_positive(metadata, "length", "lengths"),
            samples=_positive(metadata, "samples", "samples"),
            seed=int(metadata.get("seed", 42)),
            data=DataSettings.from_metadata(metadata),
            questions=metadata.get("questions"),
        )


def _positive(metadata: Mapping[str, Any], key: str, setting: str) -> int:
    """A positive whole number of the metadata."""
    value = metadata.get(key)
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(f"`{setting}` must be a whole number of at least 1, got {value!r}")
    return value
