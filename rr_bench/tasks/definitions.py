"""Writes the lm-eval YAML files of HELMET: ``python -m rr_bench.tasks.definitions [folder]``.

A task per dataset takes its length from the metadata, as ``rr_bench`` runs it. lm-eval's own command
line cannot set a length per task, so ``by_length/`` holds a task per dataset and length, and a group
per category and length, such as ``helmet_icl_8k``.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

from rr_bench import TASKS
from rr_bench.tasks.helmet_table import CATEGORIES, DATASETS, LENGTHS, SEED, Dataset
from rr_bench.tasks.scoring import metric_names

BY_LENGTH = "by_length"
MODULES = {"rag": "kilt", "rerank": "rerank", "cite": "alce", "icl": "icl"}
STORIES = {"narrativeqa": "narrativeqa", "multi_lexsum": "lexsum"}
VERSION = 1


def module_of(dataset: Dataset) -> str:
    """Module of :mod:`rr_bench.tasks` that builds a dataset."""
    return MODULES.get(dataset.category) or STORIES.get(dataset.name, "stories")


def task_yaml(dataset: Dataset) -> str:
    """The task of a dataset outside Recall; its length comes from the metadata."""
    metrics = "".join(
        f"  - {{metric: {name}, aggregation: mean, higher_is_better: true}}\n"
        for name in metric_names(dataset)
    )
    return (
        "include: ../recall/_generate.yaml\n"
        f"task: {dataset.name}\n"
        f"custom_dataset: !function rr_bench.tasks.{module_of(dataset)}.build\n"
        "process_results: !function rr_bench.tasks.scoring.process_results\n"
        "generation_kwargs: {do_sample: false, temperature: 0.0, "
        f"max_gen_toks: {dataset.generation}, until: []}}\n"
        f"metric_list:\n{metrics}"
        f"metadata: {{version: {VERSION}, dataset: {dataset.name}, length: 8192, "
        f"samples: {dataset.rows}, seed: {SEED}}}\n"
    )


def length_yaml(dataset: Dataset, name: str) -> str:
    """The task of a dataset at one length, for lm-eval's command line."""
    folder = "../../recall" if dataset.category == "recall" else ".."
    return (
        f"include: {folder}/{dataset.name}.yaml\n"
        f"task: helmet_{dataset.name}_{name}\n"
        f"metadata: {{version: {VERSION}, dataset: {dataset.name}, length: {LENGTHS[name]}, "
        f"samples: {dataset.rows}, seed: {SEED}}}\n"
    )


def group_yaml(group: str, members: list[str], judged: bool) -> str:
    """A group; its score is the unweighted mean over the members' scores.

    Where a judge's metrics are part of the category, that mean is not the category's, so none is given.
    """
    mean = "aggregate_metric_list:\n  - {metric: score, aggregation: mean, weight_by_size: false}\n"
    return (
        f"group: {group}\n"
        f"task: [{', '.join(members)}]\n"
        f"{'' if judged else mean}"
        f"metadata: {{version: {VERSION}}}\n"
    )


def definitions() -> Iterator[tuple[str, str]]:
    """Path below the task folder, and content, of every generated file."""
    for dataset in DATASETS.values():
        if dataset.category != "recall":
            yield f"helmet/{dataset.name}.yaml", task_yaml(dataset)
        for name in LENGTHS:
            path = f"helmet/{BY_LENGTH}/helmet_{dataset.name}_{name}.yaml"
            yield path, length_yaml(dataset, name)
    for category in CATEGORIES:
        members = [one.name for one in DATASETS.values() if one.category == category]
        judged = any(DATASETS[member].judged for member in members)
        if category != "recall":
            yield f"helmet/helmet_{category}.yaml", group_yaml(f"helmet_{category}", members, judged)
        for name in LENGTHS:
            group = f"helmet_{category}_{name}"
            text = group_yaml(group, [f"helmet_{member}_{name}" for member in members], judged)
            yield f"helmet/{BY_LENGTH}/{group}.yaml", text


def main() -> int:
    """Write every file that differs; print how many."""
    root = Path(sys.argv[1]) if len(sys.argv) > 1 else TASKS
    written = 0
    for name, text in definitions():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")
            written += 1
    print(f"{written} files written under {root}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
