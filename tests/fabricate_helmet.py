"""A folder laid out as HELMET's, of made-up rows: a few of every dataset, some over their budget."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

from rr_bench.tasks.datasets.infinitebench import SPLITS
from rr_bench.tasks.helmet_table import DATASETS
from rr_bench.tasks.prompts.templates import json_object
from rr_bench.tasks.synthetic.essay import sentences
from tests.helmet_layout import (
    ASQA_PROMPT,
    QAMPARI_PROMPT,
    demo_file,
    hub_file,
    needle_row,
    test_file,
    word_tokenizer_dir,
    write_json,
    write_jsonl,
)

ROWS = 3


def prose(seed: object, count: int) -> str:
    """Sentences of a grammar."""
    drawn = sentences(random.Random(f"fabricated-{seed}"))
    return " ".join(next(drawn) for _ in range(count))


def helmet(root: Path, length: int = 4096) -> Path:
    """Write every dataset's files for one length; the tokenizer that cuts documents is there, too."""
    _recall(root, length)
    for name in ("kilt_nq", "kilt_triviaqa", "kilt_hotpotqa", "kilt_popqa_3"):
        rows = [_asked(name, i, depth) for i in range(ROWS) for depth in (0.0, 1.0)]
        write_jsonl(test_file(root, name, length), rows)
        write_jsonl(demo_file(root, name), [_asked(name, i, 0.5, 2) for i in range(10, 15)])
    rows = [_ranked(i, 30) for i in range(ROWS)]
    write_jsonl(test_file(root, "msmarco_rerank", length), rows)
    write_jsonl(demo_file(root, "msmarco_rerank"), [_ranked(i, 3) for i in range(10, 20)])
    for name, prompt in (("asqa", ASQA_PROMPT), ("qampari", QAMPARI_PROMPT)):
        write_json(test_file(root, f"alce_{name}", length), [_cited(name, i) for i in range(ROWS)])
        write_json(root / "prompts" / f"{name}_revised.json", prompt)
    _from_the_hub(root)
    word_tokenizer_dir(root / "llama2_tokenizer", chat=False)
    return root


def _recall(root: Path, length: int) -> None:
    rng = random.Random(0)
    rows = []
    for i in range(ROWS):
        pairs = [(f"{rng.getrandbits(64):016x}", f"{rng.getrandbits(64):016x}") for _ in range(40)]
        row = {"context": json_object(pairs), "question": pairs[i][0], "answer": pairs[i][1]}
        rows.append({**row, "demos": [list(p) for p in pairs[7:9]], "depth": 0.0, "num_kvs": 40})
    write_jsonl(test_file(root, "json_kv", length), rows)
    for name, kind in (("niah_mk_2", "number"), ("niah_mk_3", "uuid"), ("niah_mv", "numbers")):
        write_jsonl(test_file(root, name, length), [needle_row(i, kind) for i in range(ROWS)])


def _asked(name: str, index: int, depth: float, count: int = 40) -> dict[str, Any]:
    gold = {"title": f"Town {index}", "text": f"Town {index} lies in Land {index}."}
    others = [{"title": f"R {i}", "text": prose(f"{index}-{i}", 12)} for i in range(count)]
    at = round(depth * count)
    row = {"question": f"Where is Town {index}?", "answers": [f"Land {index}", "there"]}
    row |= {"ctxs": [*others[:at], gold, *others[at:]], "positive_ctxs": [gold], "depth": depth}
    return row | ({"id": index, "s_pop": 100 + index} if "popqa" in name else {})


def _ranked(index: int, count: int) -> dict[str, Any]:
    ctxs = [
        {"id": str(100 * index + i), "text": prose(f"r{index}-{i}", 4), "label": i % 4}
        for i in range(count)
    ]
    return {"qid": f"q{index}", "query": f"What of {index}?", "ctxs": ctxs}


def _cited(name: str, index: int) -> dict[str, Any]:
    docs = [{"title": f"D {i}", "text": prose(f"c{index}-{i}", 60)} for i in range(10)]
    answers: dict[str, Any] = {"qa_pairs": [{"short_answers": [f"s{index}", "t"]}]}
    if name == "qampari":
        answers = {"answers": [[f"s{index}"], ["t", "u"]]}
    return {"question": f"Which {index}?", "docs": docs, "answer": "", **answers}


def _from_the_hub(root: Path) -> None:
    for name, fields in (
        ("trec", {"coarse_label": 6, "fine_label": 50}),
        ("banking77", {"label": 77}),
        ("clinic150", {"intent": 151}),
        ("nlu", {"label": 68}),
    ):
        for split in ("train", "test", "validation"):
            rows = [
                {"text": prose(f"{name}{split}{i}", 1), **{f: i % n for f, n in fields.items()}}
                for i in range(40)
            ]
            write_jsonl(hub_file(root, name, split), rows)
    options = ["owl", "fox", "elk", "ant"]
    for name, split in SPLITS.items():
        books = [
            {
                "id": i,
                "context": prose(f"{name}{i}", 600 * i),
                "input": f"Who is {i}?",
                "answer": [options[i]],
                "options": options,
            }
            for i in range(1, 1 + ROWS)
        ]
        write_jsonl(hub_file(root, "infinitebench", split), books)
    asked = [
        {
            "question": {"text": f"Why {i}?"},
            "answers": [{"text": f"because {i}"}, {"text": "so"}],
            "document": {"id": str(i), "text": prose(f"n{i}", 700 * i)},
        }
        for i in range(1, 1 + ROWS)
    ]
    cases = [
        {"id": str(i), "sources": [prose(f"l{i}", 300 * i), "End."], "summary/short": f"Short {i}."}
        for i in range(1, 1 + ROWS)
    ]
    for name, rows, other in (("narrativeqa", asked, "test"), ("multi_lexsum", cases, "validation")):
        for split in ("train", other):
            write_jsonl(hub_file(root, name, split), rows)


def doc(task: str, **fields: Any) -> dict[str, Any]:
    """A row as a scorer sees it, whose answer is ``gold``."""
    extra = {"answers": [["gold", "golden"], ["ore"]], "passages": 5}
    extra["qrels"] = {"1": 3, "2": 0, "3": 1, "4": 2, "5": 0}
    golds = ["B", "B. gold"] if task == "infbench_choice" else ["gold", "the golden ore"]
    lead = {"rerank": "Ranking:", "icl": "label:"}.get(DATASETS[task].category, "Answer:")
    row = {"dataset": task, "golds": json.dumps(golds), "extra": json.dumps(extra)}
    return {**row, "lead_in": lead, "thinking": False, **fields}
