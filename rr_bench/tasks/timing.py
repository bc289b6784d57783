"""CPU seconds per prompt: ``python -m rr_bench.tasks.timing --tokenizer DIR --helmet-dir DIR``.

Loading the files is timed apart from building, which is what every further row costs; the model's
tokenizer is loaded before.
"""

from __future__ import annotations

import argparse
import importlib
import sys
import time
from typing import Any

from rr_bench.tasks import json_kv, niah
from rr_bench.tasks.definitions import module_of
from rr_bench.tasks.helmet_table import DATASETS
from rr_bench.tasks.prompt import Row
from rr_bench.tasks.tokens import load_tokenizer


def rows_of(name: str, **metadata: Any) -> list[Row]:
    """Rows of any dataset of HELMET's."""
    if DATASETS[name].category != "recall":
        module = importlib.import_module(f"rr_bench.tasks.{module_of(DATASETS[name])}")
        rows: list[Row] = module.rows(**metadata, dataset=name)
        return rows
    return json_kv.rows(**metadata) if name == json_kv.NAME else niah.rows(name, **metadata)


def build_seconds(name: str, metadata: dict[str, Any], samples: int) -> tuple[float, float, int]:
    """CPU seconds of loading with one row, of each further row, and how many rows there were.

    Args:
        name: dataset.
        metadata: as lm-eval hands it to a builder.
        samples: rows to build, at least 2.
    """
    start = time.process_time()
    rows_of(name, **metadata, samples=1)
    first = time.process_time() - start
    start = time.process_time()
    rows = len(rows_of(name, **metadata, samples=samples))
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
    load_tokenizer(tokenizer=given.tokenizer)
    for name in DATASETS:
        try:
            first, each, rows = build_seconds(name, metadata, given.samples)
        except (ValueError, OSError) as error:
            print(f"{name:16} left out: {error}")
            continue
        print(f"{name:16} first {first:7.2f} s, each further {each:6.3f} s, {rows} rows")
    return 0


if __name__ == "__main__":
    sys.exit(main())
