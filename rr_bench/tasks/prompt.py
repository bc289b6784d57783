"""From a dataset's fields to a finished row: settings, tokenizer, token counts, truncation.

Rows are flat dicts of str, int and float; lists travel as JSON strings so that every row has the
same Arrow types. A finished prompt is never formatted again: contexts contain braces.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

Row = dict[str, Any]

CHAT = ("auto", "always", "never")
CLINIC_SPLITS = ("validation", "test")

STRICT_ROUNDS = 3
"""How often the strict truncation may cut; upstream cuts once and does not look again."""


class Tokenizer(Protocol):
    """What the builders need of a tokenizer: ids and, to truncate, character offsets."""

    def __call__(self, text: str, **kwargs: Any) -> Mapping[str, Any]:
        """Encode with the tokenizer's default special tokens."""
        ...


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


def load_tokenizer(**metadata: Any) -> Tokenizer:
    """The tokenizer named by ``metadata["tokenizer"]``, else by ``metadata["pretrained"]``.

    A directory is read without the network; a hub id (``name`` or ``owner/name``) goes through
    the hub's cache. Remote code is never run.

    Raises:
        ValueError: no name, neither a directory nor a hub id, or nothing usable behind it.
    """
    name = next((metadata[k] for k in ("tokenizer", "pretrained") if metadata.get(k)), None)
    if not isinstance(name, str | Path):
        raise ValueError(
            "the tasks count tokens: give the model's directory as `tokenizer` or "
            "`pretrained` (lm-eval: --model_args pretrained=<dir> or --metadata)"
        )
    return _load_tokenizer(str(name))


@functools.lru_cache(maxsize=4)
def _load_tokenizer(name: str) -> Tokenizer:
    """Load once per process: every task and length of a run asks for the same one."""
    from transformers import AutoTokenizer

    local = Path(name).expanduser()
    if not local.is_dir() and not re.fullmatch(r"\w[\w.-]*(/\w[\w.-]*)?", name):
        raise ValueError(f"`tokenizer`={name} is not a directory; check `model.path`")
    try:
        tokenizer = AutoTokenizer.from_pretrained(
            str(local) if local.is_dir() else name, local_files_only=local.is_dir()
        )
    except (OSError, ValueError, KeyError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ValueError(
            f"`tokenizer`={name} has no tokenizer ({reason}); check `model.path`"
        ) from error
    if not count_tokens(tokenizer, "The quick brown fox."):
        raise ValueError(f"`tokenizer`={name} encodes text to nothing; its vocabulary is missing")
    return tokenizer


def count_tokens(tokenizer: Tokenizer, text: str, *, special: bool = True) -> int:
    """Number of tokens; ``special`` adds the tokenizer's default special tokens."""
    if special:
        return len(tokenizer(text, verbose=False)["input_ids"])
    return len(tokenizer(text, verbose=False, add_special_tokens=False)["input_ids"])


@dataclass(frozen=True)
class Truncated:
    """A prompt after truncation.

    Attributes:
        prompt: finished text.
        context: what is left of the context in it.
        input_len: tokens of ``prompt``.
        removed: context tokens cut from its end.
    """

    prompt: str
    context: str
    input_len: int
    removed: int


def truncate(
    tokenizer: Tokenizer,
    render: Callable[[str], str],
    context: str,
    budget: int,
    *,
    strict: bool = False,
    special: bool = True,
) -> Truncated:
    """Cut the end of the context until the prompt fits (HELMET ``data.py``).

    With an excess of e tokens, exactly the last e tokens of the context, encoded alone, are cut;
    instruction and question stay. Upstream does that once, so the seam may leave a token or two
    too many; ``strict`` repeats it, at most three times.

    Args:
        tokenizer: of the evaluated model.
        render: context to prompt.
        context: the cuttable field.
        budget: tokens allowed for the prompt.
        strict: repeat until it fits.
        special: whether special tokens are added to the prompt; a chat template brings its own.

    Raises:
        ValueError: the excess is longer than the context, or strict truncation does not converge.
    """
    prompt = render(context)
    tokens = count_tokens(tokenizer, prompt, special=special)
    removed = 0
    for _ in range(STRICT_ROUNDS if strict else 1):
        excess = tokens - budget
        if excess <= 0:
            break
        context = drop_tail(tokenizer, context, excess)
        removed += excess
        prompt = render(context)
        tokens = count_tokens(tokenizer, prompt, special=special)
    if strict and tokens > budget:
        raise ValueError(
            f"after {STRICT_ROUNDS} cuts the prompt still has {tokens} of {budget} tokens; "
            "raise `lengths` or set strict_truncation to false"
        )
    return Truncated(prompt, context, tokens, removed)


def drop_tail(tokenizer: Tokenizer, text: str, tokens: int) -> str:
    """``text`` without its last ``tokens`` tokens.

    Raises:
        ValueError: the text is shorter than that, or the tokenizer gives no offsets.
    """
    if not getattr(tokenizer, "is_fast", True):
        raise ValueError("truncation needs character offsets: `tokenizer` must be a fast tokenizer")
    offsets = tokenizer(text, return_offsets_mapping=True, verbose=False)["offset_mapping"]
    if tokens > len(offsets):
        raise ValueError(
            f"the prompt is {tokens} tokens over its budget, but its context has only {len(offsets)}; "
            "raise `lengths`"
        )
    return text[: offsets[-tokens][0]]


@dataclass(frozen=True)
class Draft:
    """One sample before it is counted.

    Attributes:
        prompt: finished text, lead-in included.
        golds: accepted answers.
        lead_in: the text the answer continues, put before the output again for parsing.
        extra: whatever helps to read a result (depth, number of pairs, …); JSON-serialisable.
        spans: character spans of answers inside the prompt (``recall_prefill`` only).
    """

    prompt: str
    golds: Sequence[str]
    lead_in: str
    extra: Mapping[str, Any]
    spans: Sequence[tuple[int, int]] | None = None


def make_row(
    dataset: str,
    settings: Settings,
    draft: Draft,
    *,
    index: int,
    source: str,
    input_len: int,
    budget: int,
    removed_tokens: int = 0,
) -> Row:
    """The row lm-eval sees; ``index`` numbers it within its source (``generated``, ``helmet``)."""
    row: Row = {
        "uid": f"{dataset}-{settings.length}-{source}-{index:05d}",
        "dataset": dataset,
        "length": settings.length,
        "prompt": draft.prompt,
        "lead_in": draft.lead_in,
        "golds": json.dumps(list(draft.golds)),
        "extra": json.dumps(dict(draft.extra)),
        "input_len": input_len,
        "budget": budget,
        "truncated": removed_tokens > 0,
        "removed_tokens": removed_tokens,
        "source": source,
    }
    if draft.spans is not None:
        row["spans"] = json.dumps([list(span) for span in draft.spans])
    return row


def as_split(rows: Sequence[Row], notes: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Rows as the ``{"test": Dataset}`` that lm-eval expects of a custom dataset.

    Args:
        rows: the rows.
        notes: what happened on the way to them; travels as the dataset's description, in JSON.
    """
    from datasets import Dataset

    made = Dataset.from_list(list(rows))
    made.info.description = json.dumps(dict(notes or {}))
    return {"test": made}
