"""Training text of the probe: Recall prompts with many answered questions each.

Every text is one of HELMET's Recall haystacks followed by questions and their answers in the
task's own wording; only the answers are trained on. Texts are drawn from ``(seed, index)`` alone,
so a run can be resumed, and training seeds never meet an evaluation row: those are drawn by the
task builders from differently salted seeds.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from transformers import PreTrainedTokenizerBase

from rr_bench.tasks.prompts import templates
from rr_bench.tasks.synthetic import essay
from rr_bench.tasks.synthetic.draw import random_number, random_uuid, word_keys

SALT = "probe-training"
"""Mixed into every seed here and nowhere else."""


@dataclass
class Text:
    """A growing text and the character spans of its answers, leading space included."""

    parts: list[str] = field(default_factory=list)
    spans: list[tuple[int, int]] = field(default_factory=list)
    length: int = 0

    def add(self, part: str) -> None:
        """Append plain text."""
        self.parts.append(part)
        self.length += len(part)

    def answer(self, part: str) -> None:
        """Append text that is trained on."""
        self.spans.append((self.length, self.length + len(part)))
        self.add(part)


def kv_text(rng: random.Random, items: int, questions: int) -> Text:
    """``json_kv`` with ``items`` entries: the object, then answered questions."""
    entries = [(random_uuid(rng), random_uuid(rng)) for _ in range(items)]
    text = Text()
    frame = templates.JSON_KV_USER.format(context=templates.json_object(entries), demos="", question="")
    text.add(frame.removesuffix("Key: "))
    for key, value in rng.sample(entries, questions):
        text.add(f"Key: {key}{templates.JOIN}{templates.JSON_KV_LEAD}")
        text.answer(f" {value}")
        text.add("\n\n")
    return text


def _needle_text(
    rng: random.Random, plural: str, entries: list[tuple[str, str]], questions: int
) -> Text:
    """A haystack made of needles (RULER ``mk``), then answered questions."""
    kind = plural[:-1]
    lines = [templates.NEEDLE.format(plural=plural, key=k, value=v) for k, v in entries]
    return _asked(
        templates.NIAH_ONE_USER,
        templates.NIAH_ONE_LEAD,
        "\n".join(lines),
        kind,
        rng.sample(entries, questions),
    )


def _asked(user: str, lead: str, context: str, kind: str, asked: list[tuple[str, str]]) -> Text:
    """Fill a NIAH template once and repeat its question for every asked (key, answer)."""
    text = Text()
    preface, question = user.split("{context}")
    text.add(preface.format(kind=kind) + context)
    for i, (key, answer) in enumerate(asked):
        opening = question if i == 0 else "\n" + question
        text.add(f"{opening}{templates.JOIN}{lead}".format(kind=kind, query=key))
        text.answer(f" {answer}")
    return text


def mk2_text(rng: random.Random, items: int, questions: int) -> Text:
    """Word keys, number values, a haystack of needles."""
    entries = [(key, random_number(rng)) for key in word_keys(rng, items)]
    return _needle_text(rng, "numbers", entries, questions)


def mk3_text(rng: random.Random, items: int, questions: int) -> Text:
    """UUID keys and values, a haystack of needles."""
    entries = [(random_uuid(rng), random_uuid(rng)) for _ in range(items)]
    return _needle_text(rng, "uuids", entries, questions)


def mv_text(rng: random.Random, items: int, questions: int) -> Text:
    """Four numbers for each asked key, hidden in an essay of ``items`` sentences."""
    sentences = list(itertools.islice(essay.sentences(rng), items))
    keys = word_keys(rng, questions)
    slots = sorted(rng.choices(range(items + 1), k=4 * questions))
    owners = rng.sample([key for key in keys for _ in range(4)], 4 * questions)
    answers: dict[str, list[str]] = {key: [] for key in keys}
    pieces: list[str] = []
    start = 0
    for slot, key in zip(slots, owners, strict=True):
        value = random_number(rng)
        answers[key].append(value)
        pieces += [
            *sentences[start:slot],
            templates.NEEDLE.format(plural="numbers", key=key, value=value),
        ]
        start = slot
    asked = [(key, ", ".join(values)) for key, values in answers.items()]
    context = " ".join([*pieces, *sentences[start:]])
    return _asked(templates.NIAH_MANY_USER, templates.NIAH_MANY_LEAD, context, "numbers", asked)


@dataclass(frozen=True)
class Kind:
    """One sort of training text and roughly what its parts cost in probe tokens."""

    make: Callable[[random.Random, int, int], Text]
    weight: float
    per_item: float
    per_question: float
    frame: int = 60
    unique: bool = True


KINDS = (
    Kind(kv_text, 0.55, 34, 42, frame=30),
    Kind(mk2_text, 0.15, 17, 34),
    Kind(mk3_text, 0.15, 45, 73),
    Kind(mv_text, 0.15, 13, 118, unique=False),
)


ALL_KINDS_FROM = 1024
"""Tokens from which the needle tasks take part; shorter texts are all ``json_kv``."""


def draw_text(seed: int, index: int, tokens: int) -> Text:
    """A text of about, and practically never over, ``tokens`` probe tokens.

    Questions take 5 to 60 % of it: many make training cheap, few look like the tasks.
    """
    rng = random.Random(f"{SALT}-{seed}-{index}")
    kinds = KINDS if tokens >= ALL_KINDS_FROM else KINDS[:1]
    kind = rng.choices(kinds, weights=[k.weight for k in kinds])[0]
    room = 0.98 * tokens - kind.frame
    questions = max(1, int(rng.uniform(0.05, 0.6) * room / kind.per_question))
    items = max(1, int((room - questions * kind.per_question) / kind.per_item))
    if kind.unique:
        questions = min(questions, items)
    return kind.make(rng, items, questions)


@dataclass(frozen=True)
class Example:
    """Token ids ``[tokens]`` and the positions whose next token is trained.

    ``positions`` and ``targets`` are int64 of equal length; ``spans`` numbers the answer each of
    them belongs to. After an answer the target is EOS, so that generation stops there.
    """

    ids: np.ndarray
    positions: np.ndarray
    targets: np.ndarray
    spans: np.ndarray


def encode(text: Text, tokenizer: PreTrainedTokenizerBase, tokens: int) -> Example:
    """Tokenise, cut at ``tokens``, pad with PAD, and locate the answers."""
    encoding = tokenizer("".join(text.parts), return_offsets_mapping=True, verbose=False)
    ids = np.asarray(encoding["input_ids"], dtype=np.int64)[:tokens]
    starts = np.asarray(encoding["offset_mapping"], dtype=np.int64)[:, 0]
    starts[0] = -1  # BOS
    positions, targets, spans = [], [], []
    for number, (begin, end) in enumerate(text.spans):
        first, last = np.searchsorted(starts, (begin, end))
        if last <= len(ids):
            positions.append(np.arange(first - 1, last))
            targets.append(np.append(ids[first:last], tokenizer.eos_token_id))
            spans.append(np.full(last - first + 1, number))
    padded = np.full(tokens, tokenizer.pad_token_id, dtype=np.int64)
    padded[: len(ids)] = ids
    joined = [np.concatenate([np.zeros(0, np.int64), *part]) for part in (positions, targets, spans)]
    return Example(padded, *joined)
