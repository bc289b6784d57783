"""What a run writes and the report reads: one sample, one cell.

Every record carries its schema number and is checked on the way in and on the way out, so that a
file written by another version, or edited by hand, is refused by name and never half understood.
A sample's line also names its cell and ends in a checksum: a line that was edited, or copied from
another cell, is noticed.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from typing import Any, TypeVar

from rr_bench.store.checks import (
    COUNT,
    SECONDS,
    SHARE,
    field_names,
    in_range,
    needed_fields,
    shown,
    wrong_field,
    wrong_type,
)
from rr_bench.store.seal import CHECK, checksum, sealed, sealed_line, sealed_text, unsealed

SCHEMA = 2

PROMPT_PART = 300
"""Characters kept of a prompt's start and of its end, for people who look at a sample."""

Record = TypeVar("Record", "SampleRecord", "CellInfo")


class RecordError(ValueError):
    """A record that does not fit the schema; the message names the file, line and field."""


RANGES = {
    "length": COUNT,
    "input_tokens": COUNT,
    "budget": COUNT,
    "removed_tokens": COUNT,
    "questions": COUNT,
    "score": (0.0, 1.0),
    "density": SHARE,
    "density_by_layer": SHARE,
    "prefill_s": SECONDS,
    "decode_s": SECONDS,
}
"""Of a sample's numbers."""


@dataclass(frozen=True, kw_only=True, slots=True)
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
        decode_s: seconds of generation after it; of samples decoded together, an equal share of theirs.
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
        if problem := wrong_field(self):
            raise RecordError(problem)
        if (self.score is None) == (self.error is None):
            raise RecordError(
                f"sample {self.uid}: needs either a score or an error, not both or neither"
            )
        for name, bounds in RANGES.items():
            if not in_range(value := getattr(self, name), bounds):
                low, high = bounds
                raise RecordError(
                    f"sample {self.uid}: {name}={shown(value)} lies outside {low:g}..{high:g}"
                )


_MEMBERS: dict[str, dict[str, type]] = {
    "model": {"name": str, "path": str},
    "method": {"name": str, "label": str, "params": dict, "dense": bool},
    "settings": {"model": str, "task": str, "length": int, "data": dict, "versions": dict},
}


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
        if problem := wrong_field(self):
            raise RecordError(problem)
        for name, wanted in _MEMBERS.items():
            if problem := wrong_type(getattr(self, name), wanted, name):
                raise RecordError(problem)
        versions = self.settings["versions"].values()
        if not all(type(number) in (int, float) for number in versions):
            raise RecordError(f"field settings.versions must be numbers, got {shown(list(versions))}")
        if not in_range(self.length, COUNT):
            raise RecordError(f"field settings.length={self.length} lies outside 0..{COUNT[1]}")

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
    """JSON text of a record with its checksum; one line unless ``indent`` is given. NaN is refused."""
    return json.dumps(sealed(asdict(record)), ensure_ascii=False, allow_nan=False, indent=indent)


def sample_line(record: SampleRecord, cell: str) -> str:
    """One line of ``samples.jsonl``: the ``cell`` it belongs to, the record, and a ``check``sum."""
    data = {"cell": cell} | {name: getattr(record, name) for name in field_names(SampleRecord)}
    return sealed_line(json.dumps(data, ensure_ascii=False, allow_nan=False))


def read_line(text: str, where: str, cell: str | None = None) -> tuple[str, SampleRecord]:
    """Cell and record of a line of ``samples.jsonl``.

    Args:
        text: the line.
        where: file and line, for error messages.
        cell: start of the key that the line must name; None takes any.

    Raises:
        RecordError: not such a line, edited since it was written, or another cell's.
    """
    text = text.rstrip("\n")
    inside = sealed_text(text)
    data = json_object(text if inside is None else inside, where)
    if inside is None and data.pop(CHECK, None) != checksum(data):
        raise RecordError(f"{where}: the line does not fit its checksum; it was edited or damaged")
    named = str(data.pop("cell", ""))
    if cell is not None and named != cell:
        raise RecordError(f"{where}: the line belongs to cell {named}, not {cell}")
    return named, _record(SampleRecord, data, where)


def from_json(cls: type[Record], text: str, where: str) -> Record:
    """Read a record and check it.

    Args:
        cls: :class:`SampleRecord` or :class:`CellInfo`.
        text: one JSON object.
        where: file, and line if there is one, for error messages.

    Raises:
        RecordError: not JSON, another schema, edited, or a field unknown, missing or of the wrong type.
    """
    data = unsealed(json_object(text, where))
    if data is None:
        raise RecordError(f"{where}: the content does not fit its checksum; it was edited or damaged")
    return _record(cls, data, where)


def json_object(text: str, where: str) -> dict[str, Any]:
    """A JSON object.

    Raises:
        RecordError: the text is none, holds NaN or Infinity, or is nested too deep.
    """
    try:
        data = _DECODER.decode(text)
    except (ValueError, RecursionError) as error:
        raise RecordError(f"{where}: not JSON ({error})") from error
    if not isinstance(data, dict):
        raise RecordError(f"{where}: expected a JSON object, got {type(data).__name__}")
    return data


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is no JSON")


_DECODER = json.JSONDecoder(parse_constant=_refuse)


def _record(cls: type[Record], data: dict[str, Any], where: str) -> Record:
    if data.get("schema") != SCHEMA:
        raise RecordError(
            f"{where}: schema {shown(data.get('schema'))}, this version reads schema {SCHEMA}"
        )
    kind: Any = cls
    names, needed = field_names(kind), needed_fields(kind)
    for problem, found in (("unknown", data.keys() - names), ("missing", needed - data.keys())):
        if found:
            listed = shown(", ".join(sorted(found))).strip("'")
            raise RecordError(f"{where}: {problem} field {listed}")
    try:
        return cls(**data)
    except RecordError as error:
        raise RecordError(f"{where}: {error}") from error
