"""Generated rows of the Recall tasks: prompts, budgets, needles, questions."""

import json
import random
import re

import pytest

from rr_bench.tasks.datasets import niah, recall_prefill
from rr_bench.tasks.prompts.tokens import count_tokens, load_tokenizer
from rr_bench.tasks.sources import TASKS
from rr_bench.tasks.synthetic.draw import word_keys
from tests.tiny import recall_rows as rows
from tests.tiny import tiny_tokenizer


@pytest.fixture(scope="module")
def tok(tmp_path_factory):
    directory = tmp_path_factory.mktemp("tokenizer")
    tiny_tokenizer(directory)
    return str(directory)


@pytest.fixture(scope="module")
def drawn(tok):
    """Two rows of every task at two lengths."""
    return {
        (task, length): rows(task, length=length, samples=2, tokenizer=tok)
        for task in TASKS
        for length in (2048, 4096)
    }


@pytest.mark.parametrize("length", [2048, 4096])
@pytest.mark.parametrize("task", TASKS)
def test_budget_is_held_and_used(drawn, tok, task, length):
    reserved = {"json_kv": 100, "niah_mk_3": 100, "recall_prefill": 0}.get(task, 50)
    for row in drawn[task, length]:
        assert row["budget"] == length - reserved
        assert count_tokens(load_tokenizer(tokenizer=tok), row["prompt"]) == row["input_len"]
        assert 0.95 * row["budget"] < row["input_len"] <= row["budget"]
        assert (row["truncated"], row["removed_tokens"], row["source"]) == (False, 0, "generated")


@pytest.mark.parametrize("task", TASKS)
def test_rows_are_nested_and_depend_on_seed_and_length(drawn, tok, task):
    first = rows(task, length=2048, samples=1, tokenizer=tok)
    assert first == drawn[task, 2048][:1]
    assert rows(task, length=2048, samples=1, tokenizer=tok, seed=7)[0]["prompt"] != first[0]["prompt"]
    assert drawn[task, 2048][0]["prompt"][:300] != drawn[task, 4096][0]["prompt"][:300]
    assert len({row["uid"] for row in drawn[task, 2048]}) == 2


@pytest.mark.parametrize("task", TASKS)
def test_rows_are_flat(drawn, task):
    for row in drawn[task, 2048]:
        assert all(isinstance(value, str | int | float) for value in row.values())


def test_json_kv_row(drawn):
    for row, depth in zip(drawn["json_kv", 4096], (0.0, 0.2), strict=True):
        prompt, extra, (gold,) = row["prompt"], json.loads(row["extra"]), json.loads(row["golds"])
        pairs = recall_prefill.parse_object(prompt.split("\n\nExtract")[0], "test")
        keys = re.findall(r"^Key: (.*)$", prompt, flags=re.M)
        at = round(depth * (len(pairs) - 1))
        assert extra == {"pairs": len(pairs), "depth": depth, "gold_index": at}
        assert pairs[at] == (keys[-1], gold)
        assert prompt.count(gold) == 1
        assert prompt.count(keys[-1]) == 2
        assert len(keys) == 3 and len(set(keys)) == 3
        assert all(f"Key: {k}\nCorresponding value: {dict(pairs)[k]}\n\n" in prompt for k in keys[:2])
        assert prompt.endswith(f"\n\nKey: {keys[-1]}\nCorresponding value:")


@pytest.mark.parametrize("task", ["niah_mk_2", "niah_mk_3"])
def test_multikey_row(drawn, task):
    kind = {"niah_mk_2": "number", "niah_mk_3": "uuid"}[task]
    for row in drawn[task, 4096]:
        extra, (gold,) = json.loads(row["extra"]), json.loads(row["golds"])
        key = re.search(r"for (\S+) mentioned in the provided text\?", row["prompt"]).group(1)
        lines = row["prompt"].split("\n")[1:-2]
        assert len(lines) == extra["distractors"] + 1
        needle = f"One of the special magic {kind}s for {key} is: {gold}."
        assert lines[extra["position"]] == needle
        assert row["prompt"].count(gold) == 1 and sum(f" {key} " in line for line in lines) == 1
        assert row["lead_in"] == f"The special magic {kind} for {key} mentioned in the provided text is"
        assert row["prompt"].endswith("?\n" + row["lead_in"])


def test_multivalue_row(drawn):
    for row in drawn["niah_mv", 4096]:
        extra, golds = json.loads(row["extra"]), json.loads(row["golds"])
        assert extra["haystack"] == "grammar" and len(set(golds)) == 4
        context = row["prompt"].split("\n")[1]
        sentences = niah.split_sentences(context)
        places = [i for i, s in enumerate(sentences) if s.startswith("One of the special magic")]
        found = [re.search(r"is: (\d{7})\.", sentences[i]).group(1) for i in places]
        assert sorted(found) == sorted(golds) and all(row["prompt"].count(g) == 1 for g in golds)
        essay = len(sentences) - 4
        assert [p - i for i, p in enumerate(places)] == [essay * d // 100 for d in extra["depths"]]


def test_recall_prefill_row(drawn):
    for length in (2048, 4096):
        for row in drawn["recall_prefill", length]:
            prompt, extra, golds = row["prompt"], json.loads(row["extra"]), json.loads(row["golds"])
            text, questions = prompt.split("specified key in the JSON object below.\n\n")
            pairs = recall_prefill.parse_object(text.split("\n\nExtract")[0], "test")
            asked = [pairs[i] for i in extra["gold_indices"]]
            blocks = [f"Key: {key}\nCorresponding value: {value}" for key, value in asked]
            assert questions == "\n\n".join(blocks)
            assert [v for _, v in asked] == golds
            assert [prompt[a:b] for a, b in json.loads(row["spans"])] == [f" {gold}" for gold in golds]
            assert json.loads(row["spans"])[-1][1] == len(prompt)
            # distinct, spread over the whole object, in random order, two pairs per question
            count, stretch = extra["questions"], len(pairs) / extra["questions"]
            assert len(golds) == count and len(pairs) == extra["pairs"] >= 2 * count
            assert sorted(int(i // stretch) for i in extra["gold_indices"]) == pytest.approx(
                range(count), abs=1
            )
            assert len(set(extra["gold_indices"])) == count
            assert extra["gold_indices"] != sorted(extra["gold_indices"])


def test_recall_prefill_number_of_questions(tok):
    (row,) = rows("recall_prefill", length=16384, samples=1, tokenizer=tok)
    assert json.loads(row["extra"])["questions"] == 64
    (row,) = rows("recall_prefill", length=4096, samples=1, tokenizer=tok, questions=5)
    assert len(json.loads(row["spans"])) == 5
    with pytest.raises(ValueError, match=r"`questions`=64 must be between 1 and \d+ at `lengths`=2048"):
        rows("recall_prefill", length=2048, samples=1, tokenizer=tok, questions=64)


@pytest.mark.parametrize("task", TASKS)
def test_too_small_length_names_the_smallest_that_works(tok, task):
    with pytest.raises(ValueError, match=r"`lengths`=64 is too small for " + task) as caught:
        rows(task, length=64, samples=1, tokenizer=tok)
    smallest = int(re.search(r"works is (\d+)", str(caught.value)).group(1))
    assert smallest <= 2048
    made = rows(task, length=smallest, samples=6, tokenizer=tok)
    assert all(row["input_len"] <= row["budget"] for row in made)
    with pytest.raises(ValueError, match="too small"):
        rows(task, length=smallest - 1, samples=1, tokenizer=tok)


def test_haystack_file_is_the_essay_and_must_be_long_enough(tok, tmp_path):
    essay = tmp_path / "essay.txt"
    text = "".join(f"Line {i} speaks of nothing at all.\n" for i in range(400))
    essay.write_text(text, encoding="utf-8")
    (row,) = rows("niah_mv", length=2048, samples=1, tokenizer=tok, haystack=str(essay))
    assert json.loads(row["extra"])["haystack"] == "essay.txt"
    needle = r"One of the special magic numbers for \S+ is: \d+\. ?"
    words = re.sub(needle, "", row["prompt"].split("\n")[1])
    assert " ".join(text.split()).startswith(words.strip())
    with pytest.raises(ValueError, match=r"data\.haystack.*2800 words"):
        rows("niah_mv", length=16384, samples=1, tokenizer=tok, haystack=str(essay))


def test_sentence_rule():
    parts = ["Who?", "“Me!” he said.", "3 men came.", "It cost 1.5 francs."]
    assert niah.split_sentences(" ".join(parts)) == parts


def test_word_keys_are_distinct_and_limited():
    keys = word_keys(random.Random(0), 5000)
    assert len(set(keys)) == 5000
    with pytest.raises(ValueError, match="lengths"):
        word_keys(random.Random(0), 1_000_000)
