"""Golden prompts of LongQA and Summ, from rows small enough to write out by hand."""

import json

import pytest

from rr_bench.tasks.datasets import infinitebench, multi_lexsum, narrativeqa
from rr_bench.tasks.files.notes import Notes
from tests import helmet_layout as layout


@pytest.fixture(scope="module")
def toks(tmp_path_factory):
    return layout.tokenizers(tmp_path_factory.mktemp("tokenizers"))


@pytest.fixture
def make(tmp_path, toks):
    return layout.Maker(tmp_path, toks)


STORIES = [
    {
        "id": i,
        "context": f"Story {i} of {{braces}}.",
        "input": f"who {i}?",
        "answer": [f"o{i}", "second"] if i < 2 else [f"o{i}"],
        "options": [f"o{(i + j) % 4}" for j in range(4)][::-1],
    }
    for i in range(2)
]


@pytest.mark.parametrize("chat", [False, True])
@pytest.mark.parametrize("name", ["infbench_qa", "infbench_choice", "infbench_sum"])
def test_infbench_golden(tmp_path, make, name, chat):
    layout.write_jsonl(layout.hub_file(tmp_path, "infinitebench", infinitebench.SPLITS[name]), STORIES)
    options = ["A. o3\nB. o2\nC. o1\nD. o0", "A. o0\nB. o3\nC. o2\nD. o1"]
    for i, row in enumerate(make(name, chat=chat)):
        other = 1 - i
        if name == "infbench_qa":
            user = (
                "You are given a story and a question. Answer the question as concisely as you can, "
                "using a single phrase if possible.\n\nFor example:\n\n[story text]\n"
                f"Question: who {other}?\nAnswer: o{other}\n\nNow, read the following story:\n\n"
                f"Story {i} of {{braces}}.\n\nQuestion: who {i}?"
            )
            lead, golds = "Answer:", [f"o{i}", "second"]
        elif name == "infbench_choice":
            user = (
                "You are given a story and a question with multiple choices. Choose the best answer "
                "from the options provided. Only one of the following options is correct, output the "
                "answer using one single letter (A, B, C, or D). Don't say anything else.\n\n"
                f"For example:\n\n[story text]\nQuestion: who {other}?\nOptions:\n{options[other]}\n"
                "Answer: D\n\nNow, read the following story:\n\n"
                f"Story {i} of {{braces}}.\n\nQuestion: who {i}?\nOptions:\n{options[i]}"
            )
            lead, golds = "Answer:", ["D", f"D. o{i}"]
        else:
            user = (
                "You are given a book and you are tasked to summarize it. Write a summary of about "
                "1000 to 1200 words. Only write about the plot and characters of the story. Do not "
                "discuss the themes or background of the book. Do not provide any analysis or "
                f"commentary.\n\nFor example:\n\n[story text]\nSummary: o{other}\n\n"
                f"Now, read the following story:\n\nStory {i} of {{braces}}.\n\n"
                "Now summarize the book."
            )
            lead, golds = "Summary:", [f"o{i}", "second"]
        assert row["prompt"] == (layout.wrapped(user) if chat else f"{user}\n\n{lead}")
        assert json.loads(row["golds"]) == golds


@pytest.mark.parametrize("chat", [False, True])
def test_narrativeqa_golden(tmp_path, make, chat):
    def row(i, **more):
        return {"question": {"text": f"q{i}?"}, "answers": [{"text": f"a{i}"}, {"text": "b"}], **more}

    rows = [row(i, document={"id": str(i), "text": f"Book {i} {{x}}"}) for i in range(2)]
    layout.write_jsonl(layout.hub_file(tmp_path, "narrativeqa", "test"), rows)
    layout.write_jsonl(
        layout.hub_file(tmp_path, "narrativeqa", "train"), [row(i) for i in range(10, 13)]
    )
    first, second = (10 + j for j in narrativeqa.shuffled(3, 42)[:2])
    for i, made in enumerate(make("narrativeqa", chat=chat)):
        user = (
            "You are given a story, which can be either a novel or a movie script, and a question. "
            "Answer the question as concisely as you can, using a single phrase if possible.\n\n"
            f"For example:\n\nQuestion: q{first}?\nAnswer: a{first}\n\n"
            f"Question: q{second}?\nAnswer: a{second}\n\n"
            "Now, use the following story to answer the question:\n\n"
            f"Book {i} {{x}}\n\nQuestion: q{i}?"
        )
        assert made["prompt"] == (layout.wrapped(user) if chat else f"{user}\nAnswer:")
        assert json.loads(made["golds"]) == [f"a{i}", "b"]


@pytest.mark.parametrize("chat", [False, True])
def test_multi_lexsum_golden(tmp_path, make, chat):
    rows = [
        {"id": str(i), "sources": [f"One {i} {{x}}", "Two"], "summary/short": f"short {i}"}
        for i in range(2)
    ]
    dropped = {"id": "9", "sources": ["x"], "summary/short": None}
    layout.write_jsonl(layout.hub_file(tmp_path, "multi_lexsum", "validation"), [*rows, dropped])
    train = [{"summary/short": None if i == 1 else f"train {i}"} for i in range(3)]
    layout.write_jsonl(layout.hub_file(tmp_path, "multi_lexsum", "train"), train)
    first, second = (j for j in multi_lexsum.shuffled(3, 42) if j != 1)
    notes = Notes()
    for i, made in enumerate(make("multi_lexsum", chat=chat, notes=notes)):
        user = (
            "You are given the legal documents in a civil rights lawsuit, and you are tasked to "
            "summarize the case. Write a concise summary of one paragraph (200 to 250 words). The "
            "summary should contain a short description of the background, the parties involved, and "
            f"the outcomes of the case.\n\nExample summaries:\n\nSummary: train {first}\n\n"
            f"Summary: train {second}\n\nNow, write a summary of the following legal documents.\n"
            f"Legal documents:\nOne {i} {{x}}\n\nTwo\n\nNow please summarize the case."
        )
        assert made["prompt"] == (layout.wrapped(user) if chat else f"{user}\n\nSummary:")
    assert notes.as_dict()["dropped"]["case without a short summary"]["first"] == ["9"]


def test_chat_on_needs_a_template_and_off_uses_none(tmp_path, make):
    layout.write_jsonl(layout.hub_file(tmp_path, "infinitebench", "longbook_qa_eng"), STORIES)
    with pytest.raises(ValueError, match=r"`data\.chat`=always.*infbench_qa"):
        make("infbench_qa", setting="always")
    assert make("infbench_qa", chat=True, setting="always")[0]["lead_in"] == ""
    assert make("infbench_qa", chat=True, setting="never")[0]["lead_in"] == "Answer:"
