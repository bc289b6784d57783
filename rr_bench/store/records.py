"""What a run writes and the report reads: one sample, one cell.

Every record carries its schema number and is checked on the way in and on the way out, so that a
file written by another version, or edited by hand, is refused by name and never half understood.
A sample's line also names its cell and ends in a checksum: a line that was edited, or copied from
another cell, is noticed.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, field, fields
from functools import cache
from types import UnionType
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

SCHEMA = 2

PROMPT_PART = 300
"""Characters kept of a prompt's start and of its end, for people who look at a sample."""

Record = TypeVar("Record", "SampleRecord", "CellInfo")


class RecordError(ValueError):
    """A record that does not fit the schema; the message names the file, line and field."""


@dataclass(frozen=True, kw_only=True)
class SampleRecord:
    """One graded sample: a line of ``samples.jsonl``.

    Attributes:
        uid: identity of the sample inside its task and length, equal for every method.
        task: lm-eval task name.
        length: nominal length in tokens, the label of the cell.
        prompt_sha: SHA-256 of the prompt's text; equal prompts are what makes samples a pair.
        input_tokens: real prompt length in tokens.
        budget: tokens the prompt may have (nominal length less the generation budget).
        truncated: the task cut the context to fit the budget.
        removed_tokens: how many tokens that cut.
        score: 0..1, or None when the sample failed.
        questions: graded questions behind ``score`` (64 in one ``recall_prefill`` prompt).
        output: what the model wrote.
        golds: accepted answers.
        cluster: what the sample shares with others that are not independent of it (a video); they are
            drawn together. Empty: it stands alone.
        labels: what a task's tables group samples by (duration, domain, ...).
        prompt_head: start of the prompt's text, of the dense baseline's samples only: the others got
            the same prompt. Empty in records that are older than this field ...
        prompt_tail: ... and its end, where the two do not overlap.
        density: share of the causal triangle computed in prefill, 0..1, mean over layers.
        density_by_layer: the same for each layer, mean over heads.
        kernels: attention kernels that ran in prefill.
        prefill_s: seconds of the prompt's forward pass.
        compiled: a kernel was compiled during that pass, so its seconds are no measurement.
        decode_s: seconds of generation after it.
        letter: option read from the output (tasks about videos), or None.
        argmax_letter: likeliest of the four letters where the answer begins: never unparsable.
        answered: whether an option could be read; None where the task has none.
        video: of tasks about videos, the frames shown: how many, how large, which decoder read them,
            ``sha256`` of their pixels, tokens and largest position.
        error: why there is no score, or None.
        schema: version of this layout.
    """

    uid: str
    task: str
    length: int
    prompt_sha: str
    input_tokens: int
    budget: int
    truncated: bool = False
    removed_tokens: int = 0
    score: float | None
    questions: int = 1
    output: str = ""
    golds: list[Any]
    cluster: str = ""
    labels: dict[str, str] = field(default_factory=dict)
    prompt_head: str = ""
    prompt_tail: str = ""
    density: float | None = None
    density_by_layer: list[float] | None = None
    kernels: list[str]
    prefill_s: float | None = None
    compiled: bool = False
    decode_s: float | None = None
    letter: str | None = None
    argmax_letter: str | None = None
    answered: bool | None = None
    video: dict[str, Any] | None = None
    error: str | None = None
    schema: int = SCHEMA

    def __post_init__(self) -> None:
        _check_fields(self)
        if (self.score is None) == (self.error is None):
            raise RecordError(
                f"sample {self.uid}: needs either a score or an error, not both or neither"
            )
        if self.score is not None and not 0 <= self.score <= 1:
            raise RecordError(f"sample {self.uid}: score={self.score} lies outside 0..1")


@dataclass(frozen=True, kw_only=True)
class CellInfo:
    """One cell of the experiment, model x method x task x length: the file ``cell.json``.

    Attributes:
        key: SHA-256 of the canonical JSON of ``settings``.
        label: readable name; it heads the folder's name and is not part of the key.
        model: ``name`` in tables, and ``path`` without anything of the machine.
        method: ``name``, ``label``, all ``params``, and whether it is the ``dense`` baseline.
        settings: everything that can change the cell's numbers, and nothing else: what the key
            hashes. A setting that was added later is absent where it has its default.
        schema: version of this layout.
    """

    key: str
    label: str
    model: dict[str, Any]
    method: dict[str, Any]
    settings: dict[str, Any]
    schema: int = SCHEMA

    def __post_init__(self) -> None:
        _check_fields(self)
        _need("model", self.model, {"name": str, "path": str})
        _need("method", self.method, {"name": str, "label": str, "params": dict, "dense": bool})
        _need("settings", self.settings, {"task": str, "length": int, "data": dict, "versions": dict})

    @property
    def task(self) -> str:
        """lm-eval task name."""
        return str(self.settings["task"])

    @property
    def length(self) -> int:
        """Nominal length in tokens."""
        return int(self.settings["length"])

    @property
    def dense(self) -> bool:
        """Whether this is the dense baseline."""
        return bool(self.method["dense"])

    @property
    def source(self) -> str:
        """Where the rows come from, ``generated`` or ``helmet``."""
        return str(self.settings["data"].get("source", "generated"))


def prompt_parts(prompt: str) -> dict[str, str]:
    """Start and end of a prompt as records keep them; a short one is all start."""
    end = max(PROMPT_PART, len(prompt) - PROMPT_PART)
    return {"prompt_head": prompt[:PROMPT_PART], "prompt_tail": prompt[end:]}


def to_json(record: SampleRecord | CellInfo, *, indent: int | None = None) -> str:
    """JSON text of a record; one line unless ``indent`` is given. NaN is refused."""
    return json.dumps(asdict(record), ensure_ascii=False, allow_nan=False, indent=indent)


def sample_line(record: SampleRecord, cell: str) -> str:
    """One line of ``samples.jsonl``: the record, the ``cell`` it belongs to, and its ``check``sum."""
    data = {"cell": cell, **asdict(record)}
    return json.dumps(data | {"check": _checksum(data)}, ensure_ascii=False, allow_nan=False)


def read_line(text: str, where: str, cell: str | None = None) -> tuple[str, SampleRecord]:
    """Cell and record of a line of ``samples.jsonl``.

    Args:
        text: the line.
        where: file and line, for error messages.
        cell: start of the key that the line must name; None takes any.

    Raises:
        RecordError: not such a line, edited since it was written, or another cell's.
    """
    data = _json_object(text, where)
    check = data.pop("check", None)
    if check != _checksum(data):
        raise RecordError(f"{where}: the line does not fit its checksum; it was edited or damaged")
    named = str(data.pop("cell", ""))
    if cell is not None and named != cell:
        raise RecordError(f"{where}: the line belongs to cell {named}, not {cell}")
    return named, _record(SampleRecord, data, where)


def _checksum(data: Mapping[str, Any]) -> str:
    text = json.dumps(data, ensure_ascii=False, sort_keys=True)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def from_json(cls: type[Record], text: str, where: str) -> Record:
    """Read a record and check it.

    Args:
        cls: :class:`SampleRecord` or :class:`CellInfo`.
        text: one JSON object.
        where: file, and line if there is one, for error messages.

    Raises:
        RecordError: not JSON, another schema, or a field unknown, missing or of the wrong type.
    """
    return _record(cls, _json_object(text, where), where)


def _json_object(text: str, where: str) -> dict[str, Any]:
    try:
        data = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise RecordError(f"{where}: not JSON ({error})") from error
    if not isinstance(data, dict):
        raise RecordError(f"{where}: expected a JSON object, got {type(data).__name__}")
    return data


def _record(cls: type[Record], data: dict[str, Any], where: str) -> Record:
    if data.get("schema") != SCHEMA:
        raise RecordError(f"{where}: schema {data.get('schema')!r}, this version reads schema {SCHEMA}")
    names = {one.name for one in fields(cls)}
    # A field that was added later has a default, and older records do without it.
    needed = {
        one.name for one in fields(cls) if one.default is MISSING and one.default_factory is MISSING
    }
    for problem, found in (("unknown", data.keys() - names), ("missing", needed - data.keys())):
        if found:
            raise RecordError(f"{where}: {problem} field {', '.join(sorted(found))}")
    try:
        return cls(**data)
    except RecordError as error:
        raise RecordError(f"{where}: {error}") from error


def _need(name: str, value: Mapping[str, Any], wanted: Mapping[str, type]) -> None:
    for key, kind in wanted.items():
        if not isinstance(value.get(key), kind):
            raise RecordError(f"field {name}.{key} must be a {kind.__name__}, got {value.get(key)!r}")


_hints = cache(get_type_hints)


def _check_fields(record: SampleRecord | CellInfo) -> None:
    hints = _hints(type(record))  # type: ignore[arg-type]
    for one in fields(record):
        value = getattr(record, one.name)
        if not _fits(value, hints[one.name]):
            raise RecordError(f"field {one.name} must be {one.type}, got {value!r}")


def _fits(value: object, hint: Any) -> bool:
    """Whether a JSON value has the annotated type; bool is no number, NaN no float."""
    if hint is Any:
        return True
    origin, args = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        return any(_fits(value, arg) for arg in args)
    if origin is list:
        return isinstance(value, list) and all(_fits(item, args[0]) for item in value)
    if origin is dict:
        return isinstance(value, dict) and all(
            isinstance(key, str) and _fits(item, args[1]) for key, item in value.items()
        )
    if hint in (int, float):
        kinds = (int,) if hint is int else (int, float)
        return isinstance(value, kinds) and not isinstance(value, bool) and math.isfinite(value)
    return isinstance(value, hint)
