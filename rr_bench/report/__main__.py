"""Rebuild tables and figures of stores and latency runs: ``python -m rr_bench.report <out> ...``."""

from __future__ import annotations

import argparse
import sys

from rr_bench.report import write_report
from rr_bench.store.jsonl import StoreError


def main() -> int:
    """Print the table and the files; status 1 if a cell or a comparison had to be left out."""
    parser = argparse.ArgumentParser(prog="python -m rr_bench.report", description=__doc__)
    parser.add_argument(
        "out", nargs="+", help="folder with cells/ or latency.csv, as given to a run as out="
    )
    failed = False
    for out in parser.parse_args().out:
        try:
            report = write_report(out)
        except StoreError as error:
            print(f"error: {error}", file=sys.stderr)
            failed = True
            continue
        if report.table:
            print(report.table)
        print("\n".join(f"wrote {path}" for path in report.paths))
        for problem in report.problems:
            print(f"problem: {problem}", file=sys.stderr)
        failed |= bool(report.problems)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
