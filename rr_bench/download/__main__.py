"""Fetch what is not in the project. Checksums are verified; a stopped download goes on where it was.

``python -m rr_bench.download helmet <folder>``, then ``data.helmet_dir=<folder>``
``python -m rr_bench.download model <name>``, then ``model=<name>``
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

from rr_bench.download import helmet, models
from rr_bench.download.errors import DownloadError

PARTS = {
    "texts": "ALCE's prompts and the judges' wording, from HELMET's code repository",
    "tokenizer": "Llama-2's, which cuts stories to length (the hub wants its licence accepted)",
    "hub": "copies of the sets that HELMET takes from the hub (each under its own licence)",
    "data": "HELMET's archive: 11 GB, 34 GB unpacked (its sets keep their own licences)",
}


def arguments() -> argparse.Namespace:
    """The command line."""
    plain = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(
        prog="python -m rr_bench.download", description=__doc__, formatter_class=plain
    )
    kinds = parser.add_subparsers(dest="kind", required=True, metavar="helmet|model")
    parts = "\n".join(f"  {name:10} {text}" for name, text in PARTS.items())
    data = kinds.add_parser(
        "helmet", help="HELMET's data", epilog=f"parts:\n{parts}", formatter_class=plain
    )
    data.add_argument("folder", type=Path, help="where to; becomes data.helmet_dir")
    data.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS), help="default: all")
    data.add_argument("--sets", nargs="+", help="of the part hub; default: all")
    data.add_argument("--keep-archive", action="store_true", help="keep data.tar.gz")
    known = "\n".join(
        f"  {name:18} {one.size / 1e6:5.0f} MB  {one.licence}  {one.file}"
        for name, one in models.MODELS.items()
    )
    model = kinds.add_parser(
        "model", help="a named model", epilog=f"models:\n{known}", formatter_class=plain
    )
    model.add_argument("name")
    return parser.parse_args()


def main() -> int:
    """Fetch what is asked for; status 1 if something did not come."""
    given = arguments()
    if given.kind == "model":
        return _attempt(given.name, lambda: models.get_model(given.name, print))
    get = {
        "texts": lambda: helmet.get_texts(given.folder, print),
        "tokenizer": lambda: helmet.get_tokenizer(given.folder, print),
        "hub": lambda: helmet.get_hub(given.folder, print, given.sets),
        "data": lambda: helmet.get_data(given.folder, print, given.keep_archive),
    }
    return max(_attempt(part, get[part]) for part in given.parts)


def _attempt(what: str, get: Callable[[], object]) -> int:
    try:
        get()
    except (DownloadError, OSError, ValueError) as error:
        print(f"error: {what}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"\n{what}: stopped; run this again to go on", file=sys.stderr)
        sys.exit(130)
    return 0


if __name__ == "__main__":
    sys.exit(main())
