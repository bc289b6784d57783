"""Golden prompts of RAG, re-ranking, Cite and ICL, from rows small enough to write out by hand."""

import json

import pytest

from rr_bench.tasks.datasets import icl, kilt, msmarco
from rr_bench.tasks.files.selection import balance, label_map, text_seed
from rr_bench.tasks.helmet_table import DATASETS
from rr_bench.tasks.prompts.render import fill
from tests import helmet_layout as layout

LENGTH = 8192


@pytest.fixture(scope="module")
def toks(tmp_path_factory):
    return layout.tokenizers(tmp_path_factory.mktemp("tokenizers"))


@pytest.fixture
def make(tmp_path, toks):
    return layout.Maker(tmp_path, toks)


def ctx(name):
    return {"title": f"T{name}", "text": f"{{text}} {name}.", "score": 1.0, "id": name}


def doc(name):
    return f"Document (Title: T{name}): {{text}} {name}."


def kilt_rows(extra):
    return [
        {
            "question": f"q{i}?",
            "answers": [f"Gold{i}", "other"],
            "ctxs": [ctx(f"{i}a"), ctx(f"{i}b")],
            "positive_ctxs": [ctx(f"{i}a")],
            "depth": 0.0,
            **extra(i),
        }
        for i in range(2)
    ]


def kilt_demos(extra):
    return [
        {"question": f"d{i // 2}?", "answers": [f"D{i}"], "ctxs": [ctx(f"d{i}")], **extra(i)}
        for i in range(4)
    ]


@pytest.mark.parametrize("name", ["kilt_nq", "kilt_triviaqa", "kilt_hotpotqa", "kilt_popqa_3"])
@pytest.mark.parametrize("chat", [False, True])
def test_kilt_golden(tmp_path, make, name, chat):
    popqa = name == "kilt_popqa_3"  # keyed by id; two demonstrations of an id are one key
    layout.write_jsonl(
        layout.test_file(tmp_path, name, LENGTH),
        kilt_rows(lambda i: {"id": 900 + i, "s_pop": 20} if popqa else {}),
    )
    layout.write_jsonl(
        layout.demo_file(tmp_path, name),
        kilt_demos(lambda i: {"id": i // 2, "s_pop": 20} if popqa else {}),
    )
    for i, row in enumerate(make(name, chat=chat)):
        order = kilt.shuffled(4, text_seed(900 + i if popqa else f"q{i}?"))
        first = next(j for j in order)
        second = next(j for j in order if j // 2 != first // 2)
        demos = "".join(
            f"{doc(f'd{j}')}\n\nQuestion: d{j // 2}?\nAnswer: D{j}\n\n" for j in (first, second)
        )
        assert row["prompt"] == (
            "Use the given documents to write a concise and short answer to the question. "
            "Write your answer in the following format:\nAnswer: [answer]\n\n"
            f"{demos}{doc(f'{i}a')}\n\n{doc(f'{i}b')}\n\nQuestion: q{i}?\nAnswer:"
        )
        assert json.loads(row["golds"]) == [f"Gold{i}", "other"]
        assert json.loads(row["extra"])["gold_survived"] is True
        assert row["lead_in"] == "Answer:"


def test_popqa_filters_rows_and_demonstrations_and_leaves_out_the_own_id(tmp_path, make):
    name = "kilt_popqa_3"
    test = kilt_rows(lambda i: {"id": i, "s_pop": 999 if i == 0 else 1000})
    pool = kilt_demos(lambda i: {"id": i, "s_pop": 5 if i < 3 else 10**6})
    layout.write_jsonl(layout.test_file(tmp_path, name, LENGTH), test)
    layout.write_jsonl(layout.demo_file(tmp_path, name), pool)
    (row,) = make(name)
    order = kilt.shuffled(2, text_seed("0"))  # of the demonstrations 1 and 2
    shown = [f"d{[1, 2][j]}" for j in order]
    assert row["prompt"].index(doc(shown[0])) < row["prompt"].index(doc(shown[1]))
    assert doc("d0") not in row["prompt"] and doc("d3") not in row["prompt"]
    assert row["prompt"].endswith("\n\nQuestion: q0?\nAnswer:")


@pytest.mark.parametrize("chat", [False, True])
def test_rerank_golden(tmp_path, make, chat):
    def passage(one, label):
        return {"id": str(one), "text": f"p{one} {{x}}", "label": label}

    test = [
        {"qid": f"t{i}", "query": f"what {i}?", "ctxs": [passage(10 + i, 0), passage(20 + i, 2)]}
        for i in range(2)
    ]
    pool = [
        {
            "qid": f"p{i}",
            "query": f"p{i}?",
            "ctxs": [passage(i, 0), passage(i + 4, 1), passage(i + 8, 1)],
        }
        for i in range(3)
    ]
    layout.write_jsonl(layout.test_file(tmp_path, "msmarco_rerank", LENGTH), test)
    layout.write_jsonl(layout.demo_file(tmp_path, "msmarco_rerank"), pool)
    for i, row in enumerate(make("msmarco_rerank", chat=chat)):
        demos = "".join(
            f"[ID: {j}] Document: p{j} {{x}}\n\n[ID: {j + 4}] Document: p{j + 4} {{x}}\n\n"
            f"[ID: {j + 8}] Document: p{j + 8} {{x}}\n\nQuery: p{j}?\n"
            f"Ranking: {j + 4} > {j + 8} > {j}\n\n"
            for j in msmarco.shuffled(3, text_seed(f"t{i}"))[:2]
        )
        assert row["prompt"] == (
            "You are provided with a list of documents, each indicated by their ID. Rank each "
            "document based on their relevance to the question in descending order from most "
            "relelvant to least relevant texts. Include all documents in the rankings. Write your "
            "answer using the unique IDs, with the following format:\nRanking: ID3 > ID1 > ID2\n\n"
            f"{demos}[ID: {10 + i}] Document: p{10 + i} {{x}}\n\n"
            f"[ID: {20 + i}] Document: p{20 + i} {{x}}\n\nQuery: what {i}?\nRanking:"
        )
        assert json.loads(row["extra"])["qrels"] == {str(10 + i): 0, str(20 + i): 2}


def test_rerank_titles_and_demonstration_pool(tmp_path, make):
    titled = [{"id": "1", "title": "A", "text": "b", "label": 1}]
    assert msmarco.passages(titled, True) == ["[ID: 1] Document (Title: A): b"]
    test = [{"qid": "a"}, {"qid": "b"}]
    small = [{"qid": q} for q in "abc"]
    large = [{"qid": q} for q in "abcde"]
    assert [one["qid"] for one in msmarco.demo_pool(test[0], test, small)] == ["b", "c"]
    assert [one["qid"] for one in msmarco.demo_pool(test[0], test, large)] == ["c", "d", "e"]


def test_rerank_demonstrations_follow_the_tests_row(tmp_path, make):
    """Titles of the demonstrations are shown where the asked passages have some."""
    plain = [{"id": "1", "text": "b", "label": 1}]
    titled = [{"id": "1", "title": "A", "text": "b", "label": 1}]
    pool = [{"qid": f"p{i}", "query": "p?", "ctxs": titled} for i in range(3)]
    layout.write_jsonl(layout.demo_file(tmp_path, "msmarco_rerank"), pool)
    for ctxs, shown in ((plain, "Document: b"), (titled, "Document (Title: A): b")):
        rows = [{"qid": "t", "query": "t?", "ctxs": ctxs}]
        layout.write_jsonl(layout.test_file(tmp_path, "msmarco_rerank", LENGTH), rows)
        (row,) = make("msmarco_rerank")
        assert row["prompt"].count(f"[ID: 1] {shown}") == 3


def test_rerank_demonstrations_are_counted_against_the_chosen_queries(tmp_path, make):
    """150 queries, of which HELMET takes 100: 250 demonstrations are many for these only."""

    def rows(names):
        ctxs = [{"id": "1", "text": "b", "label": 1}]
        return [{"qid": name, "query": name, "ctxs": ctxs} for name in names]

    asked = [f"q{i:03d}" for i in range(150)]
    layout.write_jsonl(layout.test_file(tmp_path, "msmarco_rerank", LENGTH), rows(asked))
    pool = [*asked, *(f"p{i}" for i in range(100))]
    layout.write_jsonl(layout.demo_file(tmp_path, "msmarco_rerank"), rows(pool))
    made = make("msmarco_rerank")
    chosen = {json.loads(row["extra"])["key"] for row in made}
    assert len(chosen) == 100
    for row in made:
        demos = row["prompt"].split("\n\nQuery: ")[1:3]
        assert not chosen & {demo.partition("\n")[0] for demo in demos}


@pytest.mark.parametrize("chat", [False, True])
@pytest.mark.parametrize("name", ["alce_asqa", "alce_qampari"])
def test_alce_golden(tmp_path, make, name, chat):
    def row(i):
        answers = (
            {"qa_pairs": [{"short_answers": [f"s{i}", "t"]}]}
            if name == "alce_asqa"
            else {"answers": [[f"s{i}", "t"]]}
        )
        docs = [{"title": f"T{i}{j}", "text": f"x{{y}}{j}", "id": j} for j in range(40)]
        return {"question": f"q{i}?", "docs": docs, "answer": "", **answers}

    prompt = layout.ASQA_PROMPT if name == "alce_asqa" else layout.QAMPARI_PROMPT
    layout.write_json(layout.test_file(tmp_path, name, LENGTH), [row(i) for i in range(2)])
    file = f"{name.removeprefix('alce_')}_revised.json"
    layout.write_json(tmp_path / "prompts" / file, prompt)
    for i, made in enumerate(make(name, chat=chat)):
        gap = "\n\n" if name == "alce_asqa" else "\n"
        # The first two draws of random.seed(42); random.sample(4 demos, 2).
        demos = "".join(
            f"{prompt['instruction']}\n\nQuestion: aq{j}?\n\nDocument [1](Title: AT{j}): at{j}\n\n"
            f"Document [2](Title: B): bt{gap}Answer: Aa{j} [1].\n\n\n"
            for j in ((0, 3), (2, 0))[i]
        )
        docs = "\n\n".join(f"Document [{j + 1}](Title: T{i}{j}): x{{y}}{j}" for j in range(30))
        user = f"{demos}{prompt['instruction']}\n\nQuestion: q{i}?\n\n{docs}"
        assert made["prompt"] == (layout.wrapped(user) if chat else f"{user}\n\nAnswer:")
        assert made["lead_in"] == ("" if chat else "Answer:")
        extra = json.loads(made["extra"])
        assert extra["answers"] == [[f"s{i}", "t"]] and extra["retrieved"] == 40


@pytest.mark.parametrize("chat", [False, True])
@pytest.mark.parametrize("name", sorted(icl.TASKS))
def test_icl_golden(tmp_path, make, name, chat):
    task = icl.TASKS[name]
    everything = [{"text": f"text {i} {{x}}", task.field: i % 5} for i in range(20)]
    for split in task.splits:
        rows = everything if len(task.splits) == 1 or split == "train" else everything[:2]
        layout.write_jsonl(layout.hub_file(tmp_path, task.hub_set, split), rows)
    made = make(name, chat=chat)
    assert len(made) == 2
    order = icl.shuffled(20, 42)
    if name == "icl_nlu":
        train, test = [everything[i] for i in order[2:]], [everything[i] for i in order[:2]]
    else:
        train, test = everything, everything[:2]
    for asked, row in zip(test, made, strict=True):
        seed = text_seed(asked["text"], 42)
        shown = label_map(task.classes, seed)
        picks = balance([one[task.field] for one in train], DATASETS[name].knobs[LENGTH], seed)
        demos = "\n\n".join(f"{train[i]['text']}\nlabel: {shown[train[i][task.field]]}" for i in picks)
        head = "Use the provided mapping from the text to label to assign a label to the text. Only "
        assert row["prompt"] == (
            f'{head}output "label: {{label}}" and nothing else. \n\n{demos}\n\n{asked["text"]}\nlabel:'
        )
        assert json.loads(row["golds"]) == [str(shown[asked[task.field]])]


def test_fill_is_one_pass():
    assert fill("{a}{b}{label}", a="{b}", b="x{a}") == "{b}x{a}{label}"
