"""CPU seconds per prompt: ``python -m rr_bench.tasks.timing --tokenizer DIR --helmet-dir DIR``.

Loading (files, tokenizer) is timed apart from building, which is what every further row costs.
"""

from __future__ import annotations

import argparse
import importlib
import sys
import time
from typing import Any

from rr_bench.suite import DATASETS
from rr_bench.tasks.definitions import module_of


def build_seconds(name: str, metadata: dict[str, Any], samples: int) -> tuple[float, float, int]:
    """CPU seconds of loading with one row, of each further row, and how many rows there were.

    Args:
        name: dataset outside Recall.
        metadata: as lm-eval hands it to a builder.
        samples: rows to build, at least 2.
    """
    module = importlib.import_module(f"rr_bench.tasks.{module_of(DATASETS[name])}")
    given = {**metadata, "dataset": name}
    start = time.process_time()
    module.rows(**given, samples=1)
    first = time.process_time() - start
    start = time.process_time()
    rows = len(module.rows(**given, samples=samples))
    rest = time.process_time() - start
    return first, max(0.0, rest - first) / max(1, rows - 1), rows


def main() -> int:
    """Print one line per dataset that the folder has files for."""
    parser = argparse.ArgumentParser(prog="python -m rr_bench.tasks.timing", description=__doc__)
    parser.add_argument("--tokenizer", required=True, help="folder of the model's tokenizer")
    parser.add_argument("--helmet-dir", required=True)
    parser.add_argument("--length", type=int, default=131072)
    parser.add_argument("--samples", type=int, default=4)
    parser.add_argument("--document-floor", type=int)
    given = parser.parse_args()
    metadata = {
        "length": given.length,
        "tokenizer": given.tokenizer,
        "helmet_dir": given.helmet_dir,
        "document_floor": given.document_floor,
    }
    for name, dataset in DATASETS.items():
        if dataset.category == "recall":
            continue
        try:
            first, each, rows = build_seconds(name, metadata, given.samples)
        except (ValueError, OSError) as error:
            print(f"{name:16} left out: {error}")
            continue
        print(f"{name:16} first {first:7.2f} s, each further {each:6.3f} s, {rows} rows")
    return 0


if __name__ == "__main__":
    sys.exit(main())
