"""HELMET's datasets as facts: category, sizes, length knobs, metrics, and the category averages.

Source: HELMET (arXiv 2410.02694), configs at commit 4526dfb; the six-column average is that of the
RRAttention release (arXiv 2602.05853). Nothing is imported here, so planning, builders and report
share one table.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

LENGTHS = {"4k": 4096, "8k": 8192, "16k": 16384, "32k": 32768, "64k": 65536, "128k": 131072}
"""Names of the lengths. 4K is in HELMET's config generator only, not in its reported results."""

SEED = 42
NARRATIVE_FLOOR = 131072
STORY_FLOOR = 65536


@dataclass(frozen=True)
class Dataset:
    """One dataset of the suite.

    Attributes:
        name: lm-eval task name.
        category: one of :data:`CATEGORIES`.
        generation: tokens of the length kept for the answer.
        rows: rows HELMET scores per length (every depth variant counted).
        metric: what the task's ``score`` is; needs no judge.
        judged: metrics a judge adds; the category is complete only with them.
        chat: HELMET renders the prompt with the chat template of an instruct model.
        newline_stop: HELMET's configs ask for a stop at a newline token.
        knobs: length in tokens to the number that sets the context's size, unless it is a formula.
        folder: HELMET's folder of the test files; empty for sets that come from the hub.
        pattern: name of the test file, ``{k}`` for the knob; empty for sets from the hub.
        demos: name of the file with the demonstrations in the same folder.
    """

    name: str
    category: str
    generation: int
    rows: int
    metric: str
    judged: tuple[str, ...] = ()
    chat: bool = False
    newline_stop: bool = False
    knobs: Mapping[int, int] = field(default_factory=dict)
    folder: str = ""
    pattern: str = ""
    demos: str = ""


def _knobs(*values: int) -> dict[int, int]:
    """One number for each length, 4K first."""
    return dict(zip(LENGTHS.values(), values, strict=True))


_SAME = _knobs(*LENGTHS.values())
_KILT = _knobs(20, 50, 105, 220, 440, 1000)
_ALCE = _knobs(8, 30, 75, 165, 345, 700)
_CITE = ("citation_rec", "citation_prec")


def _ruler(name: str, generation: int, folder: str) -> Dataset:
    return Dataset(
        name,
        "recall",
        generation,
        100,
        "ruler_recall",
        knobs=_SAME,
        folder=f"ruler/{folder}",
        pattern="validation_{k}.jsonl",
    )


def _kilt(name: str, rows: int, pattern: str, demos: str) -> Dataset:
    return Dataset(
        name,
        "rag",
        20,
        rows,
        "substring_exact_match",
        newline_stop=True,
        knobs=_KILT,
        folder="kilt",
        pattern=pattern,
        demos=demos,
    )


def _icl(name: str, *shots: int) -> Dataset:
    return Dataset(
        f"icl_{name}", "icl", 20, 500, "exact_match", newline_stop=True, knobs=_knobs(*shots)
    )


def _alce(name: str, metric: str) -> Dataset:
    return Dataset(
        f"alce_{name}",
        "cite",
        300,
        100,
        metric,
        judged=_CITE,
        chat=True,
        knobs=_ALCE,
        folder="alce",
        pattern=f"{name}_eval_gtr_top2000.json",
    )


def _story(
    name: str, category: str, generation: int, metric: str, judged: tuple[str, ...] = ()
) -> Dataset:
    return Dataset(name, category, generation, 100, metric, judged=judged, chat=True)


_ALL = (
    Dataset(
        "json_kv",
        "recall",
        100,
        100,
        "substring_exact_match",
        knobs=_knobs(50, 105, 220, 440, 900, 1800),
        folder="json_kv",
        pattern="test_k{k}_dep6.jsonl",
    ),
    _ruler("niah_mk_2", 50, "niah_multikey_2"),
    _ruler("niah_mk_3", 100, "niah_multikey_3"),
    _ruler("niah_mv", 50, "niah_multivalue"),
    _kilt(
        "kilt_nq",
        600,
        "nq-dev-multikilt_1000_k{k}_dep6.jsonl",
        "nq-train-multikilt_1000_k3_dep6.jsonl",
    ),
    _kilt(
        "kilt_triviaqa",
        600,
        "triviaqa-dev-multikilt_1000_k{k}_dep6.jsonl",
        "triviaqa-train-multikilt_1000_k3_dep6.jsonl",
    ),
    _kilt(
        "kilt_hotpotqa",
        300,
        "hotpotqa-dev-multikilt_1000_k{k}_dep3.jsonl",
        "hotpotqa-train-multikilt_1000_k3_dep3.jsonl",
    ),
    _kilt(
        "kilt_popqa_3",
        600,
        "popqa_test_1000_k{k}_dep6.jsonl",
        "popqa_test_1000_k3_dep6.jsonl",
    ),
    Dataset(
        "msmarco_rerank",
        "rerank",
        200,
        123,
        "NDCG@10",
        newline_stop=True,
        knobs=_knobs(14, 50, 130, 285, 600, 1000),
        folder="msmarco",
        pattern="test_reranking_data_k{k}_dep3.jsonl",
        demos="test_reranking_data_k10_dep3.jsonl",
    ),
    _alce("asqa", "str_em"),
    _alce("qampari", "qampari_rec_top5"),
    _story("narrativeqa", "longqa", 100, "rougeL_f1", ("gpt-4-score",)),
    _story("infbench_qa", "longqa", 10, "rougeL_f1"),
    _story("infbench_choice", "longqa", 10, "exact_match"),
    _story("infbench_sum", "summ", 1200, "rougeLsum_f1", ("gpt-4-f1",)),
    _story("multi_lexsum", "summ", 400, "rougeLsum_f1", ("gpt-4-f1",)),
    _icl("trec_coarse", 200, 400, 800, 1600, 3300, 6600),
    _icl("trec_fine", 200, 400, 800, 1600, 3200, 6400),
    _icl("banking77", 180, 360, 720, 1450, 2900, 5900),
    _icl("clinic150", 220, 440, 880, 1750, 3525, 7050),
    _icl("nlu", 250, 510, 1020, 2040, 4080, 8296),
)
DATASETS: dict[str, Dataset] = {dataset.name: dataset for dataset in _ALL}
CATEGORIES = tuple(dict.fromkeys(dataset.category for dataset in _ALL))


def document_tokens(dataset: str, length: int) -> int:
    """Llama-2 tokens of context a story or case may have: the length less generation and 200 (300)."""
    reserve = 300 if dataset == "multi_lexsum" else 200
    return length - reserve - DATASETS[dataset].generation


@dataclass(frozen=True)
class Column:
    """One printed average.

    Attributes:
        name: its heading.
        members: (dataset, metric) pairs whose values are averaged without weights.
    """

    name: str
    members: tuple[tuple[str, str], ...]


def _own(category: str, *without: str) -> tuple[tuple[str, str], ...]:
    """Each dataset of a category under the metric that needs no judge."""
    return tuple((d.name, d.metric) for d in _ALL if d.category == category and d.name not in without)


_FIRST = (
    Column("Recall", _own("recall")),
    Column("RAG", _own("rag")),
    Column("ICL", _own("icl")),
    Column(
        "Cite",
        tuple(
            (d.name, metric) for d in _ALL if d.category == "cite" for metric in (d.metric, *d.judged)
        ),
    ),
    Column("Re-rank", _own("rerank")),
)
_SUMM = tuple((d.name, "gpt-4-f1") for d in _ALL if d.category == "summ")

RR_COLUMNS = (*_FIRST, Column("LongQA-2", _own("longqa", "narrativeqa")))
"""The six columns behind the RRAttention release's average: LongQA without NarrativeQA, no Summ."""

HELMET_COLUMNS = (
    *_FIRST,
    Column("LongQA", (("narrativeqa", "gpt-4-score"), *_own("longqa", "narrativeqa"))),
    Column("Summ", _SUMM),
)
"""HELMET's seven columns (``collect_results.py``)."""

UNJUDGED_COLUMNS = (
    Column("cite_correctness", _own("cite")),
    Column("longqa_rouge", _own("longqa")),
    Column("summ_rouge", _own("summ")),
)
"""What can be said without a judge, under names of their own."""


def generated(metric: str) -> str:
    """Name of a metric over generated rows, which are never averaged with HELMET's own."""
    return f"{metric} (generated)"


GENERATED_COLUMN = Column(
    "Recall (generated)", tuple((name, generated(metric)) for name, metric in _own("recall"))
)
"""Recall where ``data.recall`` generated the rows beside HELMET's files; in no average."""
