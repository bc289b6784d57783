"""Fetch HELMET's data: ``python -m rr_bench.download <folder>``, then ``data.helmet_dir=<folder>``.

Parts: data (HELMET's archive, 11 GB, 34 GB unpacked), texts (ALCE's prompts, judges' wording), hub
(copies of the sets HELMET takes from the hub), tokenizer (Llama-2's, for stories). Checksums are
verified, archives are unpacked without leaving the folder, and a stopped download goes on where it was.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from rr_bench.download.files import DownloadError
from rr_bench.download.parts import get_data, get_hub, get_texts, get_tokenizer

PARTS = ("texts", "tokenizer", "hub", "data")


def main() -> int:
    """Fetch the parts asked for; status 1 if one did not come."""
    parser = argparse.ArgumentParser(
        prog="python -m rr_bench.download",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("folder", type=Path, help="where to; becomes data.helmet_dir")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS, help="default: all")
    parser.add_argument("--sets", nargs="+", help="of the part hub; default: all")
    parser.add_argument("--keep-archive", action="store_true", help="keep data.tar.gz")
    given = parser.parse_args()
    failed = False
    for part in given.parts:
        try:
            if part == "data":
                get_data(given.folder, print, given.keep_archive)
            elif part == "texts":
                get_texts(given.folder, print)
            elif part == "hub":
                get_hub(given.folder, print, given.sets)
            else:
                get_tokenizer(given.folder, print)
        except (DownloadError, OSError, ValueError) as error:
            print(f"error: {part}: {error}", file=sys.stderr)
            failed = True
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
