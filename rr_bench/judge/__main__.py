"""Add judged metrics to a store: citations with a local NLI model, answers and summaries with GPT.

``python -m rr_bench.judge <out> --helmet-dir DIR --nli google/t5_xxl_true_nli_mixture``
``python -m rr_bench.judge <out> --helmet-dir DIR --endpoint https://api.openai.com/v1``

It can be stopped and started again: every reply is kept in ``<out>/judge_cache``. Afterwards
``python -m rr_bench.report <out>`` prints the categories that have become complete.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from rr_bench.judge.cache import ReplyCache
from rr_bench.judge.cells import Values, judge_cell, write_judged
from rr_bench.judge.gpt import TEMPERATURE, Endpoint
from rr_bench.judge.nli import Entailment
from rr_bench.store.jsonl import StoreError
from rr_bench.store.reading import cell_folders, read_cell
from rr_bench.store.records import RecordError
from rr_bench.tasks.datasets.niah import split_sentences
from rr_bench.tasks.settings import DataSettings

GPT = "gpt-4o-2024-05-13"


def sentence_splitter(kind: str) -> Callable[[str], Sequence[str]]:
    """``nltk`` (ALCE's, needs its punkt data) or ``rule`` (no download, other sentences).

    Raises:
        ValueError: nltk or its data are not installed.
    """
    if kind == "rule":
        return split_sentences
    try:
        import nltk

        nltk.sent_tokenize("One. Two.")
    except (ImportError, LookupError) as error:
        raise ValueError(
            "ALCE's sentences are nltk's: pip install 'rr-bench[judge]' and `python -m nltk.downloader "
            "punkt_tab`, or take --sentences rule, which the results name"
        ) from error
    split: Callable[[str], Sequence[str]] = nltk.sent_tokenize
    return split


def summary(values: Values, means: Mapping[str, float | None]) -> str:
    """A cell's judged metrics in percent, and how many samples each mean is over."""
    shown = []
    for metric, mean in means.items():
        usable = sum(value is not None for value in values[metric].values())
        count = f"n={usable} of {len(values[metric])}"
        shown.append(f"{metric} {'undefined' if mean is None else f'{100 * mean:.1f}'} ({count})")
    return ", ".join(shown)


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m rr_bench.judge",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("out", type=Path, help="folder with cells/, as given to a run as out=")
    parser.add_argument("--helmet-dir", required=True, help="the run's data.helmet_dir")
    parser.add_argument("--hub-dir", help="the run's data.hub_dir")
    parser.add_argument("--hub", action="store_true", help="the run's data.hub")
    parser.add_argument("--nli", help="entailment checkpoint: a folder or a hub id")
    parser.add_argument("--nli-batch", type=int, default=8, help="pairs per forward pass")
    parser.add_argument("--sentences", choices=("nltk", "rule"), default="nltk")
    parser.add_argument("--endpoint", help="base address of an OpenAI-compatible API")
    parser.add_argument("--model", default=GPT, help=f"its model (HELMET: {GPT})")
    parser.add_argument("--key-variable", default="OPENAI_API_KEY", help="variable with its key")
    return parser.parse_args()


def main() -> int:
    """Judge every cell that can be; status 1 if one could not."""
    given = arguments()
    if not given.nli and not given.endpoint:
        print("error: give --nli, --endpoint, or both", file=sys.stderr)
        return 2
    data = DataSettings(helmet_dir=given.helmet_dir, hub_dir=given.hub_dir, hub=given.hub)
    cache = given.out / "judge_cache"
    nli = gpt = None
    failed = False
    try:
        splitter = sentence_splitter(given.sentences if given.nli else "rule")
        if given.nli:
            nli_cache = ReplyCache(cache / "nli.jsonl", f"nli {given.nli}")
            nli = Entailment(given.nli, nli_cache, batch_size=given.nli_batch)
        if given.endpoint:
            gpt_cache = ReplyCache(cache / "gpt.jsonl", f"{given.model} {TEMPERATURE}")
            gpt = Endpoint(given.endpoint, given.model, gpt_cache, key_variable=given.key_variable)
        folders = cell_folders(given.out)
    except (StoreError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    for folder in folders:
        try:
            cell = read_cell(folder)
            values = judge_cell(cell, data, nli, gpt, splitter)
            if values is None:
                continue
            cites = "citation_rec" in values
            name = f"{given.nli}, {given.sentences} sentences" if cites else given.model
            means = write_judged(folder, values, name)
        except (RecordError, StoreError, OSError, ValueError) as error:
            print(f"error: {folder.name}: {error}", file=sys.stderr)
            failed = True
            continue
        print(f"{cell.info.label}: {summary(values, means)}")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
