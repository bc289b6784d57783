"""Answers to Video-MME in the form that its official scorer reads (thanku-all/parse_answer).

``python -m rr_bench.report videomme-export [--questions <file>] <run> <folder>``
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from rr_bench.report.video_mme import answers, grouped
from rr_bench.store.jsonl import StoreError
from rr_bench.store.reading import read_store
from rr_bench.store.records import SampleRecord

TEXTS = ("question_id", "question", "options")


def main(arguments: Sequence[str]) -> int:
    """Write one file per setup, method and length; status 1 if there is nothing to write."""
    parser = argparse.ArgumentParser(
        prog="python -m rr_bench.report videomme-export",
        description="Write a run's answers to Video-MME as the official scorer reads them.",
    )
    parser.add_argument("run", help="folder of the store: a run's out=")
    parser.add_argument("folder", help="where the JSON files go, one per method")
    parser.add_argument(
        "--questions",
        type=Path,
        help="Video-MME's questions, Parquet or JSONL, for their words: records do not hold them and "
        "the scorer does not look at them",
    )
    given = parser.parse_args(arguments)
    try:
        written = export(given.run, Path(given.folder), given.questions)
    except (StoreError, ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print("\n".join(f"wrote {path}" for path in written))
    return 0


def export(run: str | Path, folder: Path, questions: Path | None = None) -> list[Path]:
    """Write the files; see :func:`main`.

    Raises:
        StoreError: there is no store, or it has no answers to Video-MME.
        ValueError: the questions have another layout.
    """
    found = answers(read_store(run)[0])
    if not found:
        raise StoreError(f"{run} holds no answers to Video-MME")
    texts = {} if questions is None else read_texts(questions)
    folder.mkdir(parents=True, exist_ok=True)
    setups = {setup for setup, _, _ in found}
    written = []
    for (setup, method, length), samples in found.items():
        parts = [*([setup] if len(setups) > 1 else []), method, str(length)]
        path = folder / f"{re.sub('[^A-Za-z0-9.=]+', '_', '-'.join(parts)).strip('_')}.json"
        text = json.dumps(official_json(samples, texts), ensure_ascii=False, indent=1)
        path.write_text(text + "\n", encoding="utf-8")
        written.append(path)
    return written


def read_texts(path: Path) -> dict[str, Mapping[str, Any]]:
    """Question and options by question id, of Video-MME's Parquet file or of JSONL.

    Raises:
        ValueError: it lacks one of the three fields.
    """
    frame = pd.read_json(path, lines=True) if path.suffix == ".jsonl" else pd.read_parquet(path)
    if lacking := [name for name in TEXTS if name not in frame]:
        raise ValueError(f"--questions={path} lacks the fields {', '.join(lacking)}")
    rows = frame[list(TEXTS)].itertuples(index=False, name=None)
    return {str(key): {"question": question, "options": options} for key, question, options in rows}


def official_json(samples: Sequence[SampleRecord], texts: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Answers as Video-MME's scorer reads them: one object per video.

    Args:
        samples: the answers of one method.
        texts: by question id ``question`` and ``options``; the scorer itself does not look at them.
    """
    videos = []
    for video, questions in grouped(samples, "video_id").items():
        labels = questions[0].labels
        told = {name: labels.get(name, "") for name in ("duration", "domain", "sub_category")}
        missing = all(sample.error is not None for sample in questions)
        videos.append(
            {
                "video_id": video,
                **told,
                **({"missing": True} if missing else {}),
                "questions": [
                    _question(one, texts.get(one.labels["question_id"], {})) for one in questions
                ],
            }
        )
    return videos


def _question(sample: SampleRecord, text: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "question_id": sample.labels["question_id"],
        "task_type": sample.labels.get("task_type", ""),
        "question": text.get("question", ""),
        "options": [str(option) for option in text.get("options", [])],
        "answer": sample.golds[0],
        "response": sample.output,
    }
