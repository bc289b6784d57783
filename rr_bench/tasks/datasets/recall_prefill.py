"""``recall_prefill``: many lookups graded teacher-forced inside the prefill.

An ordinary recall question sits in the last query block and is answered by dense decode, so it
hardly sees a sparse prefill. Here a ``json_kv`` object is followed by up to 64 answered questions
in ``json_kv``'s own wording; a question counts when every token of its value is the arg-max given
the gold text before it. One forward pass grades them all. The task is this project's, not
HELMET's: nothing is generated, so the whole length belongs to the prompt.

How many questions: 64 where they fit, else as many as leave the object twice as many pairs as
there are questions (so at least half of the budget, as a question costs about as much as a pair).
The number is the same for every row of a length and is kept in ``extra``. A number that is asked
for explicitly is never reduced.
"""

from __future__ import annotations

import itertools
import json
import random
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from rr_bench.tasks.datasets.json_kv import FIELDS, Pair, draw_pairs, files
from rr_bench.tasks.files.fields import text_of
from rr_bench.tasks.files.jsonl import read_rows
from rr_bench.tasks.files.notes import Notes
from rr_bench.tasks.files.selection import chosen_rows
from rr_bench.tasks.prompts import templates
from rr_bench.tasks.prompts.rows import Draft, Row
from rr_bench.tasks.prompts.tokens import count_tokens
from rr_bench.tasks.settings import Settings
from rr_bench.tasks.synthetic.fit import Generator, check_length, fitted_row, generate_rows, measure

PROMPTS = 1
SCORER = 1

NAME = "recall_prefill"
QUESTIONS = 64
PAIRS_PER_QUESTION = 2
RESERVE = 0.97
"""Share of the budget the number of questions is planned with: keys differ in tokens."""


def compose(pairs: Sequence[Pair], asked: Sequence[Pair]) -> tuple[str, list[tuple[int, int]]]:
    """The whole text and the character spans of its values, their leading space included."""
    frame = templates.JSON_KV_USER.format(
        context=templates.json_object(list(pairs)), demos="", question=""
    )
    parts = [frame.removesuffix("Key: ")]
    spans = []
    length = len(parts[0])
    for number, (key, value) in enumerate(asked):
        gap = "\n\n" if number else ""
        question = f"{gap}Key: {key}{templates.JOIN}{templates.JSON_KV_LEAD}"
        answer = f" {value}"
        spans.append((length + len(question), length + len(question) + len(answer)))
        parts += [question, answer]
        length = spans[-1][1]
    return "".join(parts), spans


def choose(rng: random.Random, pairs: Sequence[Pair], questions: int) -> list[int]:
    """Indices of distinct pairs spread over the object: one of each equal stretch, shuffled."""
    edges = [len(pairs) * i // questions for i in range(questions + 1)]
    picks = [rng.randrange(a, b) for a, b in itertools.pairwise(edges)]
    rng.shuffle(picks)
    return picks


def make_draft(
    rng: random.Random, index: int, size: int, *, questions: int, pairs: Sequence[Pair] | None = None
) -> Draft:
    """A sample of ``size`` pairs, drawn here or the first of the given ones."""
    chosen = draw_pairs(rng, size) if pairs is None else pairs[:size]
    picks = choose(rng, chosen, questions)
    asked = [chosen[i] for i in picks]
    prompt, spans = compose(chosen, asked)
    extra = {"pairs": size, "questions": questions, "gold_indices": picks}
    return Draft(prompt, [value for _, value in asked], "", extra, spans=spans)


def generator(questions: int, pairs: Sequence[Pair] | None = None) -> Generator:
    """The drawing rule for a fixed number of questions, from ``pairs`` if they are given."""
    make = partial(make_draft, questions=questions, pairs=pairs)
    maximum = None if pairs is None else len(pairs)
    return Generator(NAME, 0, make, minimum=PAIRS_PER_QUESTION * questions, maximum=maximum)


def question_cost(settings: Settings) -> float:
    """Tokens of one question and its answer, from the difference of two probe samples."""
    pairs = draw_pairs(random.Random("recall-probe"), 2 * QUESTIONS)
    one, many = compose(pairs, pairs[:1])[0], compose(pairs, pairs[: QUESTIONS + 1])[0]
    difference = count_tokens(settings.tokenizer, many) - count_tokens(settings.tokenizer, one)
    return difference / QUESTIONS


def plan_questions(settings: Settings, wanted: int | None, maximum: int | None = None) -> int:
    """The number of questions by the module's rule.

    Args:
        settings: length and tokenizer.
        wanted: an explicit number, None for the default rule.
        maximum: pairs there are in HELMET's object; None if they are drawn.

    Raises:
        ValueError: the length is too small for one question, or ``wanted`` does not fit.
    """
    check_length(generator(1), settings)
    cost = measure(generator(1), settings.tokenizer)
    question = question_cost(settings)
    room = RESERVE * settings.length - (cost.frame - question)
    fitting = max(1, int(room // (question + PAIRS_PER_QUESTION * cost.unit)))
    if maximum is not None:
        fitting = min(fitting, maximum // PAIRS_PER_QUESTION)
    if wanted is None and fitting:
        return min(QUESTIONS, fitting)
    if wanted is None or not 1 <= wanted <= fitting:
        raise ValueError(
            f"`questions`={wanted} must be between 1 and {fitting} at `lengths`={settings.length}: "
            f"the object keeps {PAIRS_PER_QUESTION} pairs per question"
        )
    return wanted


def parse_object(context: str, where: str) -> list[Pair]:
    """The pairs of a HELMET context: one line of text, then a JSON object.

    Raises:
        ValueError: no object of strings with distinct keys is found; ``where`` is named.
    """
    try:
        pairs = json.loads(context[context.index("{") :], object_pairs_hook=list)
    except ValueError as error:
        raise ValueError(f"{where}: `context` holds no JSON object ({error})") from error
    if len(dict(pairs)) != len(pairs) or not all(isinstance(v, str) for _, v in pairs):
        raise ValueError(f"{where}: `context` must be an object of strings with distinct keys")
    return [(key, value) for key, value in pairs]


def _rows_of_helmet(settings: Settings, path: Path, notes: Notes) -> list[Row]:
    """Rows around the objects of HELMET's ``json_kv`` file of this length.

    An object whose questions do not fit behind it loses pairs from its end; questions are asked
    about the remaining ones only.
    """
    raw = read_rows(path, FIELDS, notes=notes)
    objects = [parse_object(text_of(row, "context"), row.where) for row in raw]
    questions = plan_questions(settings, settings.questions, min(map(len, objects)))
    cost = measure(generator(questions), settings.tokenizer)
    return [
        fitted_row(generator(questions, objects[i]), settings, cost, i, "helmet")
        for i in chosen_rows(len(objects), settings.seed, settings.samples)
    ]


def rows(name: str, settings: Settings, notes: Notes) -> list[Row]:
    """The task's rows.

    Raises:
        ValueError: a setting is wrong, a file is missing or corrupt; the message names it.
    """
    for path in files(name, settings.length, settings.data):
        return _rows_of_helmet(settings, path, notes)
    return generate_rows(generator(plan_questions(settings, settings.questions)), settings)


def process_results(doc: Mapping[str, Any], results: Sequence[tuple[float, bool]]) -> dict[str, float]:
    """Share of the questions whose whole value is greedy, in 0..1.

    Args:
        doc: the row.
        results: one ``(log-likelihood, is_greedy)`` per question, in order.
    """
    return {"score": sum(bool(greedy) for _, greedy in results) / len(results)}
