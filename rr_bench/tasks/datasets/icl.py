"""HELMET's many-shot ICL: TREC, BANKING77, CLINC150 and NLU with labels shown as integers.

Every test row has demonstrations and an integer mapping of its own, seeded by its text, so no two
rows share a prefix.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rr_bench.tasks.files.fields import text_of
from rr_bench.tasks.files.hub import Table, read_table, split_files
from rr_bench.tasks.files.notes import Notes
from rr_bench.tasks.files.selection import balance, label_map, shuffled, split_off_test, text_seed
from rr_bench.tasks.helmet_table import DATASETS
from rr_bench.tasks.metrics.answers import exact_match, parse
from rr_bench.tasks.prompts.render import Parts, fill, finish
from rr_bench.tasks.prompts.rows import Row
from rr_bench.tasks.settings import DataSettings, Settings

PROMPTS = 1
SCORER = 1

USER = (
    "Use the provided mapping from the text to label to assign a label to the text. "
    'Only output "label: {label}" and nothing else. \n\n{context}\n\n{question}'
)
"""The braces around label stay in the finished prompt."""
LEAD = "label:"
DEMO = "{text}\nlabel: {shown}"
TEST_ROWS = 500
TEST_SHARE = 0.1
KNOWN = ("text", "coarse_label", "fine_label", "label", "intent", "scenario")


@dataclass(frozen=True)
class Task:
    """One of the five datasets.

    Attributes:
        hub_set: key of :data:`rr_bench.tasks.files.hub.HUB_SETS`.
        field: column with the label.
        classes: size of the integer mapping.
        splits: where demonstrations and test rows come from; one split is divided here.
    """

    hub_set: str
    field: str
    classes: int
    splits: tuple[str, ...] = ("train", "test")


TASKS = {
    "icl_trec_coarse": Task("trec", "coarse_label", 6),
    "icl_trec_fine": Task("trec", "fine_label", 50),
    "icl_banking77": Task("banking77", "label", 77),
    "icl_clinic150": Task("clinic150", "intent", 151, ("train", "validation")),
    "icl_nlu": Task("nlu", "label", 68, ("train",)),
}


@dataclass(frozen=True)
class Examples:
    """Texts and labels of one split."""

    texts: list[str]
    labels: list[int]

    def pick(self, rows: Sequence[int]) -> Examples:
        """Some of the rows, in the given order."""
        return Examples([self.texts[i] for i in rows], [self.labels[i] for i in rows])


def splits_of(name: str, clinic_split: str) -> tuple[str, ...]:
    """Splits a dataset reads; CLINC150 is scored on ``clinic_split``."""
    return ("train", clinic_split) if name == "icl_clinic150" else TASKS[name].splits


def files(name: str, length: int, data: DataSettings) -> list[Path]:
    """Files the rows depend on.

    Raises:
        ValueError: one is missing, or HELMET has no number of demonstrations for the length.
    """
    shots_of(DATASETS[name].knobs, length, name)
    hub_set = TASKS[name].hub_set
    return [
        file
        for split in splits_of(name, data.clinic_split)
        for file in split_files(hub_set, split, data)
    ]


def examples(table: Table, field: str, classes: int) -> Examples:
    """Texts and labels of a table.

    Raises:
        ValueError: a label is no integer of the mapping.
    """
    found = Examples([], [])
    for number in range(len(table)):
        row = table[number]
        label = row[field]
        if not isinstance(label, int) or isinstance(label, bool) or not 0 <= label < classes:
            raise ValueError(
                f"{row.where}: {field}={label!r} must be the hub's integer label, 0 to {classes - 1}"
            )
        found.texts.append(text_of(row, "text"))
        found.labels.append(label)
    return found


def load(name: str, settings: Settings, notes: Notes) -> tuple[Examples, Examples]:
    """Demonstrations and test examples, before the balanced choice."""
    task = TASKS[name]
    loaded = []
    for split in splits_of(name, settings.data.clinic_split):
        found = split_files(task.hub_set, split, settings.data)
        table = read_table(found, ("text", task.field), KNOWN, notes)
        loaded.append(examples(table, task.field, task.classes))
    if len(loaded) == 2:
        return loaded[0], loaded[1]
    train, test = split_off_test(len(loaded[0].texts), TEST_SHARE, settings.seed)
    return loaded[0].pick(train), loaded[0].pick(test)


def balanced_rows(test: Examples, seed: int) -> list[int]:
    """Test rows in HELMET's order: 500 with balanced labels, or all if there are no more."""
    if len(test.texts) <= TEST_ROWS:
        return list(range(len(test.texts)))
    order = shuffled(len(test.texts), seed)
    return [order[i] for i in balance([test.labels[i] for i in order], TEST_ROWS, seed)]


def parts_of(
    place: int, text: str, label: int, train: Examples, shots: int, classes: int, seed: int
) -> Parts:
    """One test row as parts of a prompt; ``place`` numbers it in HELMET's order."""
    own_seed = text_seed(text, seed)
    shown = label_map(classes, own_seed)
    demos = [
        fill(DEMO, text=train.texts[i], shown=str(shown[train.labels[i]]))
        for i in balance(train.labels, shots, own_seed)
    ]

    def user(context: str) -> str:
        return fill(USER, context=context, question=text)

    extra = {"label": label, "shots": shots, "seed": own_seed}
    return Parts(place, "\n\n".join(demos), user, LEAD, [str(shown[label])], extra=extra)


def rows(name: str, settings: Settings, notes: Notes) -> list[Row]:
    """Rows of one of the datasets.

    Raises:
        ValueError: a setting is wrong, a file is missing or corrupt; the message names it.
    """
    shots = shots_of(DATASETS[name].knobs, settings.length, name)
    train, test = load(name, settings, notes)
    classes = TASKS[name].classes
    notes.fact("test_split", splits_of(name, settings.data.clinic_split)[-1])
    return [
        finish(
            DATASETS[name],
            settings,
            parts_of(place, test.texts[i], test.labels[i], train, shots, classes, settings.seed),
            notes,
        )
        for place, i in enumerate(balanced_rows(test, settings.seed)[: settings.samples])
    ]


def shots_of(knobs: Mapping[int, int], length: int, name: str) -> int:
    """Demonstrations of a length.

    Raises:
        ValueError: HELMET has no number for this length.
    """
    if length not in knobs:
        raise ValueError(f"`lengths`={length}: {name} has demonstrations for {sorted(knobs)} only")
    return knobs[length]


def metrics(doc: Mapping[str, Any], output: str) -> dict[str, float]:
    """Exact match of the label on the line of ``label:``; the raw output does not count."""
    return {"exact_match": exact_match(parse(output, LEAD), json.loads(doc["golds"]))}
