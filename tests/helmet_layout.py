"""A folder laid out as HELMET's: from the small real subsets beside the repository, or own rows."""

from __future__ import annotations

import functools
import json
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from rr_bench.tasks.datasets.infinitebench import SPLITS
from rr_bench.tasks.helmet_table import DATASETS
from rr_bench.tasks.prompts import templates
from rr_bench.tasks.prompts.rows import Row
from rr_bench.tasks.sources import rows_of
from tests.tiny import tiny_tokenizer

SHARED = Path(__file__).parents[2] / "shared" / "data"
real = pytest.mark.skipif(not SHARED.is_dir(), reason="needs ../shared/data beside the repository")
OFFLINE = {
    **os.environ,
    "HF_HUB_OFFLINE": "1",
    "HF_DATASETS_OFFLINE": "1",
    "OMP_NUM_THREADS": "1",
}
"""Environment of a process that must not ask the network."""

CHAT = (
    "{{ bos_token }}{% for m in messages %}[{{ m['role'] }} {{ date_string }}]{{ m['content'] }}"
    "{% if m['role'] == 'assistant' %}{{ eos_token }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}[assistant]{% endif %}"
)

ASQA_PROMPT = {
    "instruction": "Instruction: Cite.",
    "demos": [
        {
            "question": f"aq{i}?",
            "answer": f"Aa{i} [1].",
            "docs": [{"title": f"AT{i}", "text": f"at{i}"}, {"title": "B", "text": "bt"}],
        }
        for i in range(4)
    ],
}
QAMPARI_PROMPT = {**ASQA_PROMPT, "instruction": "Instruction: List."}


def write_jsonl(path: Path, rows: Iterable[Mapping[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def write_json(path: Path, content: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


def shared_rows(name: str) -> list[dict[str, Any]]:
    text = (SHARED / name).read_text(encoding="utf-8")
    return json.loads(text) if name.endswith(".json") else [json.loads(s) for s in text.splitlines()]


def tokenizer_dir(folder: Path, *, chat: bool) -> str:
    """A tiny tokenizer, with or without a chat template."""
    tokenizer = tiny_tokenizer(folder)
    if chat:
        tokenizer.chat_template = CHAT
        tokenizer.save_pretrained(folder)
    return str(folder)


def word_tokenizer_dir(folder: Path, *, chat: bool) -> str:
    """A tokenizer without training: a word or a run of punctuation is a token, all of them unknown."""
    model = Tokenizer(models.WordLevel({"<unk>": 0, "<s>": 1, "</s>": 2}, unk_token="<unk>"))
    model.pre_tokenizer = pre_tokenizers.Whitespace()
    made = PreTrainedTokenizerFast(
        tokenizer_object=model, unk_token="<unk>", bos_token="<s>", eos_token="</s>"
    )
    if chat:
        made.chat_template = CHAT
    made.save_pretrained(folder)
    return str(folder)


def tokenizers(folder: Path) -> dict[bool, str]:
    """Tiny tokenizers with (True) and without a chat template."""
    return {chat: tokenizer_dir(folder / str(chat), chat=chat) for chat in (True, False)}


def builder_of(dataset: str) -> Callable[..., list[Row]]:
    """What makes a dataset's rows."""
    return functools.partial(rows_of, dataset)


class Maker:
    """Makes rows of a folder with the tiny tokenizers, ordered by their number."""

    def __init__(self, root: Path, toks: Mapping[bool, str]) -> None:
        self._root, self._toks = root, toks
        tiny_tokenizer(root / "llama2_tokenizer")

    def __call__(
        self, dataset: str, *, chat: bool = False, setting: str = "auto", **more: Any
    ) -> list[Row]:
        given = {"length": 8192, "samples": 600, "tokenizer": self._toks[chat], "document_floor": 0}
        given |= {"helmet_dir": str(self._root), "chat": setting, **more}
        return sorted(builder_of(dataset)(**given), key=lambda row: row["uid"])


def wrapped(user: str) -> str:
    """A user turn in the chat template of the tests; its date is pinned."""
    return f"<s>[user 26 Jul 2024]{user}[assistant]"


def test_file(root: Path, dataset: str, length: int) -> Path:
    """Where HELMET keeps a dataset's rows of one length."""
    spec = DATASETS[dataset]
    name = spec.pattern.format(k=spec.knobs[length])
    return root / "data" / spec.folder / name


def demo_file(root: Path, dataset: str) -> Path:
    spec = DATASETS[dataset]
    return root / "data" / spec.folder / spec.demos


def hub_file(root: Path, name: str, split: str) -> Path:
    return root / "data" / "hub" / name / f"{split}.jsonl"


def lay_out(root: Path, length: int = 8192) -> Path:
    """Everything there is a real subset of, under HELMET's names; :func:`complete` adds the rest."""
    write_jsonl(test_file(root, "json_kv", length), shared_rows("json_kv_k75.jsonl"))
    write_jsonl(test_file(root, "niah_mv", length), shared_rows("ruler_niah_multivalue.jsonl"))
    for name in ("nq", "triviaqa", "hotpotqa"):
        write_jsonl(test_file(root, f"kilt_{name}", length), shared_rows(f"kilt_{name}_k30_dep3.jsonl"))
        write_jsonl(demo_file(root, f"kilt_{name}"), shared_rows(f"kilt_{name}_demos_k3_dep3.jsonl"))
    rerank = "msmarco_rerank"
    write_jsonl(test_file(root, rerank, length), shared_rows("noveleval_rerank_k20.jsonl"))
    demos = shared_rows("noveleval_rerank_demos_k10.jsonl")
    for passage in (passage for row in demos for passage in row["ctxs"]):
        # The tiny tokenizer needs four times a real one's tokens: whole passages would not fit 8K.
        passage["text"] = passage["text"][:200]
    write_jsonl(demo_file(root, rerank), demos)
    for name, prompt in (("asqa", ASQA_PROMPT), ("qampari", QAMPARI_PROMPT)):
        write_json(test_file(root, f"alce_{name}", length), shared_rows(f"alce_{name}_20docs.json"))
        write_json(root / "prompts" / f"{name}_revised.json", prompt)
    for name, split in (
        *(("banking77", "train"), ("banking77", "test")),
        *(("clinic150", "train"), ("clinic150", "validation")),
    ):
        write_jsonl(hub_file(root, name, split), shared_rows(f"icl_{name}_{split}.jsonl"))
    write_jsonl(hub_file(root, "nlu", "train"), shared_rows("icl_nlu_all.jsonl"))
    infbench = "infinitebench"
    qa, choice = SPLITS["infbench_qa"], SPLITS["infbench_choice"]
    write_jsonl(hub_file(root, infbench, qa), shared_rows("infbench_qa_eng.jsonl"))
    write_jsonl(hub_file(root, infbench, choice), shared_rows("infbench_choice_eng_quality.jsonl"))
    write_jsonl(hub_file(root, "narrativeqa", "test"), shared_rows("narrativeqa.jsonl"))
    more = [
        {"question": {"text": row["question"]}, "answers": [{"text": a} for a in row["answers"]]}
        for row in shared_rows("narrativeqa_more_questions.jsonl")
    ]
    write_jsonl(hub_file(root, "narrativeqa", "train"), more)
    tiny_tokenizer(root / "llama2_tokenizer")
    return root


def complete(root: Path, length: int = 8192) -> Path:
    """Own rows of what :func:`lay_out` has no real subset of, and multiple choice over its floor."""
    for name, kind in (("niah_mk_2", "number"), ("niah_mk_3", "uuid")):
        write_jsonl(test_file(root, name, length), [needle_row(i, kind) for i in range(4)])
    rows = [popqa_row(i, depth) for i in range(4) for depth in (0.0, 0.5, 1.0)]
    write_jsonl(test_file(root, "kilt_popqa_3", length), rows)
    write_jsonl(demo_file(root, "kilt_popqa_3"), [popqa_row(i, 0.0) for i in range(10, 14)])
    for split, count in (("train", 120), ("test", 12)):
        labels = [
            {"text": f"what is {split} {i} ?", "coarse_label": i % 6, "fine_label": i % 50}
            for i in range(count)
        ]
        write_jsonl(hub_file(root, "trec", split), labels)
    choice = shared_rows("infbench_choice_eng_quality.jsonl")
    shelf = "\n\n".join(dict.fromkeys(row["context"] for row in choice))
    long = [{**row, "context": f"{row['context']}\n\n{shelf}"} for row in choice[:4]]
    write_jsonl(hub_file(root, "infinitebench", SPLITS["infbench_choice"]), long)
    return root


def needle_row(index: int, kind: str) -> dict[str, Any]:
    """A row of RULER's multi-key needles."""
    needles = [
        templates.NEEDLE.format(plural=f"{kind}s", key=f"key-{index}-{i}", value=1_000_000 + 7 * i)
        for i in range(40)
    ]
    answer = str(1_000_000 + 7 * index)
    fields = {"query": f"key-{index}-{index}", "type_needle_v": kind, "answer": [answer]}
    return {"index": index, "input": "", "outputs": [answer], "length": 8192} | {
        "context": "\n".join(needles),
        **fields,
    }


def popqa_row(index: int, depth: float) -> dict[str, Any]:
    """A row of PopQA about a rarely visited subject."""
    gold = {"id": f"g{index}", "title": f"Town {index}", "text": f"Town {index} lies in Land {index}."}
    others = [
        {"id": f"{index}-{i}", "title": f"River {i}", "text": f"River {i} is long.", "score": 0.5}
        for i in range(10)
    ]
    at = round(depth * len(others))
    return {
        "id": index,
        "question": f"In which land is Town {index}?",
        "answers": [f"Land {index}"],
        "ctxs": [*others[:at], gold, *others[at:]],
        "positive_ctxs": [gold],
        "depth": depth,
        "s_pop": 100 + index,
        "subj": f"Town {index}",
        "prop": "land",
        "obj": f"Land {index}",
    }
