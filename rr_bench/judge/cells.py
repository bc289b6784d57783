"""Judging the stored cells of a run; results go into ``judged.json`` beside the samples."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rr_bench.judge import autoais
from rr_bench.judge.gpt import Endpoint, answer_score, prompt_constants, summary_f1
from rr_bench.judge.nli import Entailment
from rr_bench.store.jsonl import read_json, write_json
from rr_bench.store.records import SampleRecord
from rr_bench.store.stored import StoredCell
from rr_bench.tasks.datasets import alce, infinitebench, multi_lexsum, narrativeqa
from rr_bench.tasks.files.jsonl import helmet_root
from rr_bench.tasks.helmet_table import DATASETS
from rr_bench.tasks.metrics.answers import after_thoughts, parse
from rr_bench.tasks.settings import DataSettings

LEADS = {
    **dict.fromkeys(("alce_asqa", "alce_qampari"), alce.LEAD),
    "narrativeqa": narrativeqa.LEAD,
    "infbench_sum": infinitebench.LEADS["infbench_sum"],
    "multi_lexsum": multi_lexsum.LEAD,
}
BOOK = {"infbench_sum": "_book", "multi_lexsum": ""}
"""End of the names of HELMET's prompts for a dataset's summaries."""
KINDS = ("fluency", "recall", "precision")

Values = dict[str, dict[str, float | None]]
"""Metric to sample to value in 0..1; None where it is left out of the mean, as HELMET does: an answer
that states nothing, or a judge's reply that cannot be used."""


def outputs(cell: StoredCell) -> dict[int, SampleRecord]:
    """Scored samples by row number; the text of each begins with the lead-in unless chat was used."""
    if cell.data is None or "chat" not in cell.data:
        raise ValueError(f"{cell.info.label}: data.json is missing, so the prompt's form is unknown")
    return {int(one.uid.rpartition("-")[2]): one for one in cell.samples if one.error is None}


def whole(cell: StoredCell, sample: SampleRecord) -> str:
    """An output as HELMET's parsing sees it."""
    data = cell.data or {}
    text = ("" if data.get("chat") else LEADS[cell.info.task]) + sample.output
    return after_thoughts(text) if data.get("thinking") else text


def judge_citations(
    cell: StoredCell, data: DataSettings, judge: Entailment, sentences: Callable[[str], Sequence[str]]
) -> Values:
    """Citation recall and precision of an ALCE cell."""
    name, samples = cell.info.task, outputs(cell)
    rows = alce.cited(name, set(samples), data)
    found = {
        i: autoais.statements(
            name, whole(cell, one), rows[i]["question"], len(rows[i]["docs"]), sentences
        )
        for i, one in samples.items()
    }
    judge.answer(pair for i, made in found.items() for pair in autoais.pairs(made, rows[i]["docs"]))
    values: Values = {"citation_rec": {}, "citation_prec": {}}
    for i, one in samples.items():
        scored = autoais.score(found[i], rows[i]["docs"], judge.entails)
        values["citation_rec"][one.uid] = None if scored is None else scored.recall
        values["citation_prec"][one.uid] = None if scored is None else scored.precision
    return values


def judge_answers(cell: StoredCell, data: DataSettings, judge: Endpoint) -> Values:
    """GPT score of a NarrativeQA cell; where a reply is unusable, the next run asks again."""
    samples = outputs(cell)
    path = helmet_root(cell.info.task, data) / "scripts" / "eval_gpt4_longqa.py"
    template = prompt_constants(path, ["judge_prompt"])["judge_prompt"]
    asked = narrativeqa.questions(set(samples), data)
    values: dict[str, float | None] = {}
    for i, one in samples.items():
        said = parse(whole(cell, one).replace("\n", " "), narrativeqa.LEAD)
        prompt = template.format(question=asked[i], correct_answers=one.golds, parsed_output=said)
        numbers = judge.ask(prompt, ("fluency", "correctness"))
        values[one.uid] = None if numbers is None else answer_score(numbers)
    return {"gpt-4-score": values}


def judge_summaries(cell: StoredCell, data: DataSettings, judge: Endpoint) -> Values:
    """GPT F1 of a summary cell; where a reply is unusable, the next run asks again."""
    name, samples = cell.info.task, outputs(cell)
    names = {kind: f"{kind}_prompt{BOOK[name]}" for kind in KINDS}
    path = helmet_root(cell.info.task, data) / "scripts" / "eval_gpt4_summ.py"
    templates = prompt_constants(path, list(names.values()))
    golds = {i: one.golds for i, one in samples.items()}
    dataset = infinitebench if name == "infbench_sum" else multi_lexsum
    experts = dataset.experts(golds, data)
    values: dict[str, float | None] = {}
    for i, one in samples.items():
        said, expert = whole(cell, one).strip(), experts[i]
        points = "\n".join(f"{n}. {point}" for n, point in enumerate(expert.keypoints, start=1))
        fluency = judge.ask(templates[names["fluency"]].format(text=said), ["fluency"])
        recall = judge.ask(
            templates[names["recall"]].format(keypoints=points, summary=said), ["recall"]
        )
        precision = judge.ask(
            templates[names["precision"]].format(expert_summary=expert.summary, summary=said),
            ["precision", "sentence_count"],
        )
        values[one.uid] = None
        if fluency and recall and precision:
            values[one.uid] = summary_f1(fluency, recall, precision, len(expert.keypoints))
    return {"gpt-4-f1": values}


def judge_cell(
    cell: StoredCell,
    data: DataSettings,
    nli: Entailment | None,
    gpt: Endpoint | None,
    sentences: Callable[[str], Sequence[str]],
) -> Values | None:
    """Values of a cell's judged metrics; None if it has none or their judge is not at hand."""
    dataset = DATASETS.get(cell.info.task)
    if dataset is None or not dataset.judged or cell.info.source != "helmet":
        return None
    if dataset.category == "cite":
        return None if nli is None else judge_citations(cell, data, nli, sentences)
    if gpt is None:
        return None
    judge = judge_answers if dataset.category == "longqa" else judge_summaries
    return judge(cell, data, gpt)


def write_judged(folder: Path, values: Values, judge: str) -> dict[str, float | None]:
    """Merge a cell's judged metrics into its ``judged.json``; returns the means, in 0..1."""
    path = folder / "judged.json"
    known: dict[str, Any] = read_json(path) if path.exists() else {}
    means: dict[str, float | None] = {}
    for metric, found in values.items():
        numbers = [value for value in found.values() if value is not None]
        means[metric] = sum(numbers) / len(numbers) if numbers else None
        if numbers:
            known[metric] = _entry(judge, means[metric], found)
    write_json(path, known)
    return means


def _entry(judge: str, mean: float | None, found: Mapping[str, float | None]) -> dict[str, Any]:
    return {"judge": judge, "value": mean, "uids": list(found), "values": dict(found)}
