"""What the builders read of lm-eval's metadata, checked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rr_bench.tasks.tokens import Tokenizer, load_tokenizer

CHAT = ("auto", "always", "never")
CLINIC_SPLITS = ("validation", "test")


@dataclass(frozen=True)
class Settings:
    """What a builder reads of lm-eval's metadata; everything else there is ignored.

    Attributes:
        tokenizer: of the evaluated model; lengths are counted with it.
        length: tokens of prompt and generation together.
        samples: rows to make.
        seed: of the generated rows, and of the choice among HELMET's rows (there: 42).
        helmet_dir: HELMET's unpacked data; None generates the rows.
        haystack: text file for ``niah_mv``; None draws sentences from a grammar.
        strict: cut an over-long HELMET prompt until it fits instead of once.
        chat: ``auto`` uses the chat template where HELMET does and the tokenizer has one;
            ``always`` insists on one there; ``never`` is for base models.
        clinic_split: CLINC150 split that is scored: ``validation`` (HELMET) or ``test``.
        document_floor: Llama-2 tokens a story must have; None: HELMET's own floors.
        llama2_tokenizer: folder of the tokenizer that cuts stories; None: inside ``helmet_dir``.
        hub_dir: local copies of the sets HELMET takes from the hub; None: inside ``helmet_dir``.
        hub: fetch such a set from the hub when there is no local copy.
    """

    tokenizer: Tokenizer
    length: int
    samples: int
    seed: int = 42
    helmet_dir: Path | None = None
    haystack: Path | None = None
    strict: bool = False
    chat: str = "auto"
    clinic_split: str = "validation"
    document_floor: int | None = None
    llama2_tokenizer: str | None = None
    hub_dir: Path | None = None
    hub: bool = False

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
            helmet_dir=_path(metadata, "helmet_dir"),
            haystack=_path(metadata, "haystack"),
            strict=bool(metadata.get("strict_truncation", False)),
            chat=_choice(metadata, "chat", CHAT),
            clinic_split=_choice(metadata, "clinic_split", CLINIC_SPLITS),
            document_floor=metadata.get("document_floor"),
            llama2_tokenizer=metadata.get("llama2_tokenizer"),
            hub_dir=_path(metadata, "hub_dir"),
            hub=bool(metadata.get("hub", False)),
        )


def _positive(metadata: Mapping[str, Any], key: str, setting: str) -> int:
    """A positive whole number of the metadata."""
    value = metadata.get(key)
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(f"`{setting}` must be a whole number of at least 1, got {value!r}")
    return value


def _choice(metadata: Mapping[str, Any], key: str, choices: tuple[str, ...]) -> str:
    """One of a few words; the first is the default."""
    value = metadata.get(key, choices[0])
    if value not in choices:
        raise ValueError(f"`data.{key}` must be one of {', '.join(choices)}, got {value!r}")
    return str(value)


def _path(metadata: Mapping[str, Any], key: str) -> Path | None:
    """An existing path of the metadata, or None."""
    value = metadata.get(key)
    if not value:
        return None
    path = Path(str(value)).expanduser()
    if not path.exists():
        raise ValueError(f"`data.{key}`={value} does not exist; give an existing path or null")
    return path
