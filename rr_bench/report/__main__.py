"""Rebuild tables, figures and pages of stores and latency runs, freeze a store, or thaw a frozen one.

``python -m rr_bench.report [--wandb] <out> ...``
``python -m rr_bench.report freeze <run> <folder>``
``python -m rr_bench.report thaw <folder> <run>``
``python -m rr_bench.report wandb-review <run>``
``python -m rr_bench.report videomme-export <run> <folder>``
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from rr_bench.report import video_mme_export, write_report
from rr_bench.report.verdict import MARGIN
from rr_bench.report.wandb_log import WandbError, log_report
from rr_bench.report.wandb_review import write_review
from rr_bench.store.freeze import freeze, thaw
from rr_bench.store.jsonl import StoreError
from rr_bench.store.terminal import print_long, tolerant_output


def main() -> int:
    """Print verdict, table and files; status 1 if a cell or a comparison had to be left out."""
    tolerant_output()
    arguments = sys.argv[1:]
    commands = {
        "freeze": _freeze,
        "thaw": _thaw,
        "wandb-review": _review,
        "videomme-export": video_mme_export.main,
    }
    if arguments and arguments[0] in commands and not Path(arguments[0]).is_dir():
        return commands[arguments[0]](arguments[1:])
    parser = argparse.ArgumentParser(
        prog="python -m rr_bench.report",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("out", nargs="+", help="folder of a store or of a latency run: a run's out=")
    parser.add_argument(
        "--wandb",
        action="store_true",
        help="log to Weights & Biases what was run with wandb=offline or online and is not logged yet",
    )
    parser.add_argument(
        "--margin",
        type=float,
        default=MARGIN,
        help="points around 100 %% within which a recovery counts as kept (%(default)g)",
    )
    parser.add_argument("--no-pdf", action="store_true", help="figures as PNG alone, in half the time")
    parser.add_argument("--no-page", action="store_true", help="leave report.html out")
    given = parser.parse_args()
    if not 0 < given.margin < 100:
        parser.error(f"--margin={given.margin:g}: points of recovery, above 0 and below 100")
    # No short-circuit: every folder is reported.
    written = {"margin": given.margin, "pdf": not given.no_pdf, "page": not given.no_page}
    return max([_report(out, given.wandb, **written) for out in given.out])


def _freeze(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m rr_bench.report freeze",
        description="Write a store as cells.jsonl and samples.jsonl.gz, with its tables and figures.",
    )
    parser.add_argument("run", help="folder of the store")
    parser.add_argument("folder", help="folder of the frozen one")
    given = parser.parse_args(arguments)
    try:
        print("\n".join(f"wrote {path}" for path in freeze(given.run, given.folder)))
    except (StoreError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return _report(given.folder)


def _thaw(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m rr_bench.report thaw",
        description="Write a frozen store as a running one: a run with this out= goes on from it.",
    )
    parser.add_argument("folder", help="folder of the frozen one")
    parser.add_argument("run", help="folder of the store to make")
    given = parser.parse_args(arguments)
    try:
        print(f"wrote {len(thaw(given.folder, given.run))} cells to {given.run}")
    except (StoreError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def _review(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m rr_bench.report wandb-review",
        description="Write the spec of a W&B report on a logged store; of an online run, save it too.",
    )
    parser.add_argument("run", help="folder of the store: a run's out=")
    try:
        path, address = write_review(parser.parse_args(arguments).run)
    except (StoreError, WandbError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"wrote {path}" + (f"\nsaved {address}" if address else ""))
    return 0


def _report(
    out: str, wandb: bool = False, margin: float = MARGIN, pdf: bool = True, page: bool = True
) -> int:
    try:
        report = write_report(out, margin=margin, pdf=pdf, page=page)
    except (StoreError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    for problem in report.problems:
        print(f"problem: {problem}", file=sys.stderr, flush=True)
    if report.table:
        print_long(report.table + "\n")
    print_long("\n".join(f"wrote {line}" for line in report.written))
    if not wandb:
        return int(bool(report.problems))
    try:
        logged = log_report(out, report)
    except (StoreError, WandbError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(logged or f"{out}: no run of it asked for wandb")
    return int(bool(report.problems))


if __name__ == "__main__":
    sys.exit(main())
