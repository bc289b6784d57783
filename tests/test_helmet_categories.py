"""HELMET's averages on fabricated cells: columns, coverage, judged values, published figures."""

import json

import pandas as pd
import pytest

from rr_bench.report import write_report
from rr_bench.report.categories import (
    all_columns,
    category_frame,
    category_table,
    column_value,
    data_notes,
)
from rr_bench.report.helmet_tables import OWN
from rr_bench.report.paper import PAPER, paper_lines, published_categories
from rr_bench.store.reading import read_store
from rr_bench.tasks.helmet_table import DATASETS, HELMET_COLUMNS, RR_COLUMNS, Column
from tests.fabricate import FULL, RR, open_cell, record

pytestmark = pytest.mark.usefixtures("undrawn")


def everything(judged=True):
    """Every dataset's value: 10 for the first, 20 for the second, and so on; judged ones 1 more."""
    found = {}
    for i, dataset in enumerate(DATASETS.values(), start=1):
        found[dataset.name, dataset.metric] = 10.0 * i
        for j, metric in enumerate(dataset.judged if judged else (), start=1):
            found[dataset.name, metric] = 10.0 * i + j
    return found


def test_columns_are_means_of_their_datasets():
    found = everything()
    columns = {name: value.value for name, value in all_columns(found).items()}
    names = list(DATASETS)
    assert columns["Recall"] == 10 * (1 + 2 + 3 + 4) / 4
    assert columns["RAG"] == 10 * (5 + 6 + 7 + 8) / 4
    assert columns["Re-rank"] == found["msmarco_rerank", "NDCG@10"]
    asqa, qampari = (10 * (1 + names.index(f"alce_{name}")) for name in ("asqa", "qampari"))
    six = [asqa, asqa + 1, asqa + 2, qampari, qampari + 1, qampari + 2]
    assert columns["Cite"] == sum(six) / 6
    assert columns["cite_correctness"] == (asqa + qampari) / 2
    qa, choice = found["infbench_qa", "rougeL_f1"], found["infbench_choice", "exact_match"]
    assert columns["LongQA-2"] == (qa + choice) / 2
    assert columns["LongQA"] == (found["narrativeqa", "gpt-4-score"] + qa + choice) / 3
    assert columns["Avg. (RR)"] == pytest.approx(sum(columns[c.name] for c in RR_COLUMNS) / 6)
    assert columns["Avg. (HELMET)"] == pytest.approx(sum(columns[c.name] for c in HELMET_COLUMNS) / 7)
    assert len(RR_COLUMNS) == 6 and len(HELMET_COLUMNS) == 7


def test_a_category_without_its_judge_is_not_printed_as_the_full_one():
    columns = all_columns(everything(judged=False))
    assert {name for name, value in columns.items() if value.value is None} == {
        *("Cite", "LongQA", "Summ", "Avg. (RR)", "Avg. (HELMET)")
    }
    assert (columns["Cite"].text, columns["Summ"].text) == ("2/6", "0/2")
    assert columns["Cite"].missing[0] == "alce_asqa citation_rec"
    assert (columns["Avg. (RR)"].text, columns["Avg. (HELMET)"].text) == ("5/6", "4/7")
    assert columns["cite_correctness"].value is not None


def test_one_missing_dataset_turns_a_column_into_its_coverage():
    column = Column("c", (("a", "m"), ("b", "m")))
    assert column_value(column, {("a", "m"): 3.0}).text == "1/2"
    assert column_value(column, {("a", "m"): 0.0, ("b", "m"): 1.0}).text == "0.5"


def write(out, task, scores, *, length=8192, method=FULL, done=True, model="probe", data=None):
    cell = open_cell(out, method, task=task, length=length, model=model, source="helmet")
    with cell:
        for i, score in enumerate(scores):
            cell.append(record(str(i), score, task=task, length=length))
        if data:
            cell.note_data(data)
        if done:
            cell.finish(len(scores))
    return cell


def table_of(out):
    cells, problems = read_store(out)
    assert problems == []
    return category_table(category_frame(cells)).set_index(["method", "length"])


def test_unfinished_cells_and_lengths_do_not_count(tmp_path):
    for length in (8192, 16384):
        write(tmp_path, "infbench_qa", [0.5, 0.7], length=length)
    write(tmp_path, "infbench_choice", [1.0, 0.0], done=False)
    write(tmp_path, "infbench_choice", [1.0, 0.0], length=16384)
    write(tmp_path, "msmarco_rerank", [0.25], method=RR)
    table = table_of(tmp_path)
    assert list(table.loc["full", "LongQA-2"]) == ["1/2", "55.0", "1/2"]
    assert list(table.loc["full"].index) == ["8K", "16K", "mean"]
    assert table.loc[(RR["label"], "8K"), "Re-rank"] == "25.0"
    assert table.loc[(RR["label"], "mean"), "Re-rank"] == "25.0"
    assert table.loc[("full", "8K"), "Re-rank"] == "0/1"


def test_judged_values_count_only_while_they_cover_the_samples(tmp_path):
    cell = write(tmp_path, "alce_asqa", [1.0, 0.0])
    write(tmp_path, "alce_qampari", [1.0, 1.0])
    entry = {"judge": "x", "value": 0.25, "uids": ["0", "1"]}
    path = cell.folder / "judged.json"
    path.write_text(json.dumps({"citation_rec": entry, "citation_prec": entry}))
    assert table_of(tmp_path).loc[("full", "8K"), "Cite"] == "4/6"
    assert table_of(tmp_path).loc[("full", "8K"), "cite_correctness"] == "75.0"
    path.write_text(json.dumps({"citation_rec": {**entry, "uids": ["0"]}}))
    assert table_of(tmp_path).loc[("full", "8K"), "Cite"] == "2/6"


def test_generated_rows_are_not_helmets(tmp_path):
    cell = open_cell(tmp_path, FULL, task="json_kv", length=8192)
    with cell:
        cell.append(record("0", 1.0, length=8192))
        cell.finish(1)
    assert category_frame(read_store(tmp_path)[0]).empty
    report = write_report(tmp_path)
    assert not (tmp_path / "categories.md").exists() and "HELMET" not in report.table


def test_generated_recall_beside_helmets_files_has_a_column_of_its_own(tmp_path):
    recall = [d.name for d in DATASETS.values() if d.category == "recall"]
    for length in (8192, 16384):
        write(tmp_path, "msmarco_rerank", [0.25], length=length)
        for i, task in enumerate(recall if length == 8192 else recall[:2]):
            cell = open_cell(tmp_path, FULL, task=task, length=length)
            with cell:
                cell.append(record("0", i % 2, task=task, length=length))
                cell.finish(1)
    table = table_of(tmp_path)
    assert list(table.loc["full", "Recall (generated)"]) == ["50.0", "2/4", "1/2"]
    assert list(table.loc["full", "Recall"]) == ["0/4", "0/4", "0/2"]
    assert list(table.loc["full", "Re-rank"]) == ["25.0"] * 3
    assert table.loc[("full", "8K"), "Avg. (RR)"] == "1/6"
    note = "json_kv 8K: generated rows, not HELMET's: in Recall (generated) only"
    assert note in data_notes(read_store(tmp_path)[0])
    write_report(tmp_path)
    page = (tmp_path / "categories.md").read_text()
    assert "Recall (generated)" in page and note in page


def test_a_cell_with_failed_samples_is_counted_and_no_number(tmp_path):
    write(tmp_path, "msmarco_rerank", [0.5, None, 1.0], length=8192)
    write(tmp_path, "msmarco_rerank", [0.5, 0.5, 1.0], length=16384)
    assert list(table_of(tmp_path).loc["full", "Re-rank"]) == ["0/1", "66.7", "1/2"]
    note = "msmarco_rerank 8K, full: 1 of 3 samples failed; incomplete until they are scored"
    assert note in data_notes(read_store(tmp_path)[0])


def test_what_the_data_lost_is_in_the_report(tmp_path):
    data = {
        "gold_lost": {"count": 2, "uids": ["a", "b"]},
        "dropped": {"story under 5 tokens": {"count": 3, "first": ["7", "8", "9"]}},
        "unknown_fields": {"odd": 4},
    }
    write(tmp_path, "kilt_nq", [0.5], data=data)
    write(tmp_path, "kilt_nq", [0.5], data=data, method=RR)
    (tmp_path / "problems.json").write_text(json.dumps({"problems": ["kilt_popqa_3: no file"]}))
    notes = data_notes(read_store(tmp_path)[0])
    assert notes == [
        "kilt_nq 8K: 1 of HELMET's 600 rows",
        "kilt_nq 8K: the gold evidence of 2 samples was cut off",
        "kilt_nq 8K: 3 rows dropped (story under 5 tokens): 7, 8, 9",
        "kilt_nq 8K: rows have fields of no known layout: odd (4)",
    ]
    report = write_report(tmp_path)
    page = (tmp_path / "categories.md").read_text()
    for line in (*notes, "not run: kilt_popqa_3: no file"):
        assert line in page and line in report.table
    assert "| full" in page and "1/4" in page


def test_published_figures_stand_beside_ones_own(tmp_path):
    model = "Llama-3.1-8B-Instruct"
    write(tmp_path, "msmarco_rerank", [0.5], model=model)
    report = write_report(tmp_path)
    assert tmp_path / "figures" / "helmet_categories.png" in report.paths
    six = pd.read_csv(tmp_path / "tables" / "helmet_six.csv")
    sources = six["source"].str.partition(" ")[0].value_counts()
    assert sources.to_dict() == {"HELMET": 5, "RRAttention": 4, "this": 2} and six["source"][0] == OWN
    page = (tmp_path / "categories.md").read_text()
    assert "rr(tau=0.95, stride=8): 56.24 at sparsity 48.68 %" in page
    assert len(published_categories(model)) == 35
    frame = category_frame(read_store(tmp_path)[0])
    assert len(paper_lines(frame)) == 4 and paper_lines(frame, tmp_path) == []


def test_the_best_of_a_column_is_marked_where_the_interval_of_its_recovery_allows(tmp_path):
    good, bad = ({**RR, "name": name, "label": name} for name in ("good", "bad"))
    for name in [d.name for d in DATASETS.values() if d.category == "icl"]:
        write(tmp_path, name, [1.0] * 12)
        write(tmp_path, name, [1.0] * 11 + [0.0], method=good)
        write(tmp_path, name, [1.0] * 6 + [0.0] * 6, method=bad)
    for method in (FULL, good, bad):  # equal: nothing is best; of LongQA-2 one of two datasets
        write(tmp_path, "msmarco_rerank", [0.5, 0.75], method=method)
        write(tmp_path, "infbench_qa", [float(method is not bad)] * 9, method=method)
    write(tmp_path, "infbench_choice", [1.0] * 9)
    write_report(tmp_path)
    lines = (tmp_path / "tables" / "helmet_six.md").read_text().splitlines()
    assert [line.split("|")[3].strip() for line in lines if "| 8K " in line] == ["full", "bad", "good"]
    assert sum(line.count("**91.7**") for line in lines) == sum("**" in x for x in lines[:9]) == 1
    found = pd.read_csv(tmp_path / "tables" / "helmet_recovery.csv").set_index(["column", "method"])
    assert found.loc[("ICL", "good"), "recovery"] == pytest.approx(100 * 11 / 12)
    assert found.loc[("ICL", "good"), ["datasets", "n"]].tolist() == ["5/5", 60]
    assert found.loc[("LongQA-2", "good"), "datasets"] == "1/2"
    assert found.loc[("all", "bad"), ["datasets", "n"]].tolist() == ["7", 71]
    assert set(found.index.get_level_values("column")) == {"ICL", "Re-rank", "LongQA-2", "all"}


def test_published_official_values_give_the_release_average():
    """The six-column mean of the official values over five lengths, as the specification derives it."""
    frame = pd.read_csv(PAPER / "helmet_official.csv")
    six = frame[frame["column"] != "Summ"]
    means = six.groupby(["model", "length"])["value"].mean().groupby("model").mean().round(2)
    assert means.to_dict() == {"Llama-3.1-8B-Instruct": 56.71, "Qwen2.5-7B-Instruct": 45.65}
    for path in PAPER.glob("*.csv"):
        assert pd.read_csv(path)["source"].notna().all()
