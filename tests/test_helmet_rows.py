"""What happens to HELMET's rows: truncation, lost gold, subsets, odd data, copies, real subsets."""

import hashlib
import json

import pandas as pd
import pytest

from rr_bench.suite import DATASETS, LENGTHS, document_tokens
from rr_bench.tasks import alce, icl, kilt, narrativeqa, rerank, scoring, stories
from rr_bench.tasks.documents import OMITTED, Cutter
from rr_bench.tasks.hubsets import HUB_SETS, read_table, split_files
from rr_bench.tasks.notes import Notes
from rr_bench.tasks.render import Parts, finish
from rr_bench.tasks.selection import label_map, text_seed
from rr_bench.tasks.settings import Settings
from rr_bench.tasks.sources import labelled, source_files, switches
from rr_bench.tasks.tokens import count_tokens, load_tokenizer
from tests import helmet_layout as layout
from tests.tiny import tiny_tokenizer

real = pytest.mark.skipif(
    not layout.SHARED.is_dir(), reason="needs ../shared/data beside the repository"
)


@pytest.fixture(scope="module")
def toks(tmp_path_factory):
    made = tmp_path_factory.mktemp("tokenizers")
    return {chat: layout.tokenizer_dir(made / str(chat), chat=chat) for chat in (True, False)}


def metadata(root, tok, **more):
    given = {"length": 8192, "samples": 600, "tokenizer": tok, "helmet_dir": str(root)}
    return given | {"document_floor": 0} | more


def test_knobs_and_document_lengths():
    lengths = [8192, 16384, 32768, 65536, 131072]
    assert [document_tokens("narrativeqa", n) for n in lengths] == [7892, 16084, 32468, 65236, 130772]
    assert [document_tokens("infbench_qa", n) for n in lengths] == [7982, 16174, 32558, 65326, 130862]
    assert [document_tokens("infbench_sum", n) for n in lengths] == [6792, 14984, 31368, 64136, 129672]
    assert [document_tokens("multi_lexsum", n) for n in lengths] == [7492, 15684, 32068, 64836, 130372]
    assert list(DATASETS["icl_trec_fine"].knobs.values()) == [200, 400, 800, 1600, 3200, 6400]
    for dataset in DATASETS.values():
        if dataset.pattern or dataset.category == "icl":
            assert list(dataset.knobs) == list(LENGTHS.values())
    rows = {c: sum(d.rows for d in DATASETS.values() if d.category == c) for c in ("rag", "icl")}
    assert rows == {"rag": 2100, "icl": 2500}


@pytest.mark.parametrize("excess", [0, 1, 50])
@pytest.mark.parametrize("chat", [False, True])
def test_truncation_of_a_rendered_row(toks, excess, chat):
    context = "\n\n".join(f"Document {i} of many, {{x}}." for i in range(60))
    tokenizer = load_tokenizer(tokenizer=toks[chat])
    parts = Parts(
        3, context, lambda text: f"Q?\n{text}", "Answer:", ["g"], survived=lambda c: c == context
    )
    dataset = DATASETS["alce_asqa"]
    whole = finish(dataset, Settings(tokenizer, 8192, 1), parts, Notes())["input_len"]
    notes = Notes()
    length = whole - excess + dataset.generation
    row = finish(dataset, Settings(tokenizer, length, 1), parts, notes)
    kept = tokenizer(context)["input_ids"]
    cut = tokenizer.decode(kept[: len(kept) - excess], skip_special_tokens=True)
    user = f"Q?\n{cut}"
    expected = f"<s>[user 26 Jul 2024]{user}[assistant]" if chat else f"{user}\nAnswer:"
    assert row["prompt"] == expected
    assert (row["removed_tokens"], row["truncated"]) == (excess, excess > 0)
    assert row["input_len"] == count_tokens(tokenizer, row["prompt"], special=not chat)
    lost = notes.as_dict()["gold_lost"]
    assert lost == {"count": int(excess > 0), "uids": [row["uid"]] if excess else []}
    assert json.loads(row["extra"])["gold_survived"] is (excess == 0)
    if chat:
        assert tokenizer(row["prompt"], add_special_tokens=False)["input_ids"][:2].count(0) == 1


def test_an_excess_beyond_the_context_names_the_row(toks):
    parts = Parts(7, "short", lambda text: f"{'long ' * 400}{text}", "A:", ["g"])
    settings = Settings(load_tokenizer(tokenizer=toks[False]), 200, 1)
    with pytest.raises(ValueError, match=r"json_kv, row 7: .*over its budget"):
        finish(DATASETS["json_kv"], settings, parts, Notes())


def test_documents_are_cut_at_the_rule_of_the_specification(tmp_path, toks):
    tiny_tokenizer(tmp_path / "llama2_tokenizer")
    tokenizer = load_tokenizer(tokenizer=toks[False])
    settings = Settings(tokenizer, 8192, 1, helmet_dir=tmp_path)
    cutter = Cutter(settings)
    text = "\n".join(f"Line {i} of a story." for i in range(80))
    ids = tokenizer(text)["input_ids"]
    marker = len(tokenizer(OMITTED)["input_ids"])
    assert cutter.cut(text, len(ids)) == text
    for limit in (len(ids) - 1, len(ids) - 50):
        kept = tokenizer.decode(ids[1 : limit - marker + 1])
        assert cutter.cut(text, limit) == kept + OMITTED
    with pytest.raises(ValueError, match="lengths"):
        cutter.cut(text, marker)
    assert cutter.reaches(text, len(ids)) and not cutter.reaches(text, len(ids) + 1)
    with pytest.raises(ValueError, match=r"llama2_tokenizer.*rr_bench\.download"):
        Cutter(Settings(tokenizer, 8192, 1, helmet_dir=tmp_path / "elsewhere"))


def stories_of(sizes):
    return [
        {"id": i, "context": "word " * n, "input": "q", "answer": ["a"], "options": []}
        for i, n in enumerate(sizes)
    ]


def test_a_story_under_the_floor_is_counted_and_named(tmp_path, toks):
    tiny_tokenizer(tmp_path / "llama2_tokenizer")
    path = layout.hub_file(tmp_path, "infinitebench", "longbook_qa_eng")
    layout.write_jsonl(path, stories_of([10, 400, 20]))
    notes = Notes()
    given = metadata(tmp_path, toks[False], dataset="infbench_qa", document_floor=300)
    rows = stories.rows(notes=notes, **given)
    assert [row["uid"][-5:] for row in rows] == ["00001"]
    dropped = notes.as_dict()["dropped"]["story under 300 Llama-2 tokens"]
    assert dropped == {"count": 2, "first": ["0", "2"]}
    with pytest.raises(ValueError, match=r"all 3 documents are under the floor of 65536"):
        stories.rows(**{**given, "document_floor": None})


def test_an_unknown_field_is_counted_and_named(tmp_path, toks):
    ctxs = [{"title": "t", "text": "gold here", "is_gold": True}]
    rows = [{"question": f"q{i}", "answers": ["gold"], "ctxs": ctxs, "odd": 1} for i in range(3)]
    layout.write_jsonl(layout.test_file(tmp_path, "kilt_nq", 8192), rows)
    layout.write_jsonl(layout.demo_file(tmp_path, "kilt_nq"), rows[:1])
    notes = Notes()
    kilt.rows(notes=notes, **metadata(tmp_path, toks[False], dataset="kilt_nq"))
    assert notes.as_dict()["unknown_fields"] == {"odd": 4}
    layout.write_jsonl(layout.demo_file(tmp_path, "kilt_nq"), [{"question": "q"}])
    with pytest.raises(ValueError, match=r"k3_dep6\.jsonl:1: .*\['answers', 'ctxs'\]"):
        kilt.rows(**metadata(tmp_path, toks[False], dataset="kilt_nq"))


@pytest.mark.parametrize("layout_of_gold", ["positive_ctxs", "gold_positions", "answer"])
def test_a_gold_passage_lost_to_truncation(layout_of_gold):
    ctxs = [{"title": f"t{i}", "text": f"text {i}"} for i in range(3)]
    row = {"question": "q", "answers": ["Text 2!"], "ctxs": ctxs}
    if layout_of_gold == "positive_ctxs":
        row["positive_ctxs"] = [ctxs[2]]
    elif layout_of_gold == "gold_positions":
        row["gold_positions"] = [2]
    survived = kilt.parts_of(0, row, "").survived
    assert survived(kilt.passages(ctxs)) is True
    assert survived(kilt.passages(ctxs[:2])) is False


def test_samples_are_nested_and_rag_takes_one_depth_per_question(tmp_path, toks):
    ctxs = [{"title": "t", "text": "gold"}]
    rows = [
        {"question": f"q{i}", "answers": ["gold"], "ctxs": ctxs, "depth": d}
        for i in range(4)
        for d in range(3)
    ]
    layout.write_jsonl(layout.test_file(tmp_path, "kilt_hotpotqa", 8192), rows)
    layout.write_jsonl(layout.demo_file(tmp_path, "kilt_hotpotqa"), rows[:6])
    made = {
        n: kilt.rows(**metadata(tmp_path, toks[False], dataset="kilt_hotpotqa", samples=n))
        for n in (2, 4, 12, 600)
    }
    assert made[600] == made[12] and made[12][:4] == made[4] and made[4][:2] == made[2]
    extra = [json.loads(row["extra"]) for row in made[600]]
    assert len({one["key"] for one in extra[:4]}) == 4
    assert [one["depth"] for one in extra[:4]] == [0, 1, 2, 0]
    assert len({(one["key"], one["depth"]) for one in extra}) == 12


def test_local_copies_in_every_format_give_the_same_rows(tmp_path):
    rows = [{"text": f"t{i}", "label": i, "extra": "x"} for i in range(5)]
    frame = pd.DataFrame(rows)
    for name, write in {
        "jsonl": lambda p: layout.write_jsonl(p / "banking77" / "train.jsonl", rows),
        "json": lambda p: layout.write_json(p / "banking77" / "train.json", rows),
        "parquet": lambda p: frame.to_parquet(p / "banking77" / "train.parquet"),
        "parts": lambda p: [
            frame[:2].to_parquet(p / "banking77" / "train" / "0000.parquet"),
            frame[2:].to_parquet(p / "banking77" / "train" / "0001.parquet"),
        ],
    }.items():
        root = tmp_path / name
        (root / "banking77" / "train").mkdir(parents=True)
        write(root)
        notes = Notes()
        files = split_files("banking77", "train", None, root, False)
        table = read_table(files, ("text", "label"), ("text", "label"), notes)
        assert [table[i] for i in range(len(table))] == [
            {"text": f"t{i}", "label": i} for i in range(5)
        ]
        assert "extra" in notes.as_dict()["unknown_fields"]
    with pytest.raises(ValueError, match=r"no copy of banking77/test .*data\.hub=true"):
        split_files("banking77", "test", None, tmp_path / "json", False)


def test_the_hub_is_asked_only_when_allowed(tmp_path, monkeypatch):
    asked = {}

    def snapshot_download(repo, **options):
        asked.update(options, repo=repo)
        folder = tmp_path / "plus" / "test"
        folder.mkdir(parents=True)
        (folder / "0000.parquet").write_bytes(b"")
        return str(tmp_path)

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    (file,) = split_files("clinic150", "test", None, None, True)
    assert file.name == "0000.parquet" and asked["repo"] == "clinc/clinc_oos"
    assert asked["revision"] == "refs/convert/parquet"
    assert asked["allow_patterns"] == ["plus/test/*.parquet"]
    assert HUB_SETS["infinitebench"].pattern("longbook_qa_eng") == "longbook_qa_eng.jsonl"


def test_missing_files_are_named(tmp_path):
    for task, message in (
        ("kilt_nq", r"kilt_nq file .*lengths with a file: none"),
        ("alce_asqa", r"asqa_eval_gtr_top2000\.json is missing"),
        ("icl_trec_fine", r"no copy of trec/train"),
        ("narrativeqa", r"no copy of narrativeqa/train"),
    ):
        with pytest.raises(ValueError, match=message):
            source_files(task, 8192, tmp_path, None)
    with pytest.raises(ValueError, match=r"set `data\.helmet_dir`"):
        source_files("msmarco_rerank", 8192, None, None)
    with pytest.raises(ValueError, match=r"`lengths`=5000"):
        source_files("icl_nlu", 5000, tmp_path, None)


def test_files_of_one_name_keep_apart(tmp_path):
    paths = [tmp_path / "a" / "0000.parquet", tmp_path / "b" / "0000.parquet", tmp_path / "c"]
    assert list(labelled(paths)) == ["a/0000.parquet", "b/0000.parquet", "c"]


def test_only_switches_that_matter_identify_a_cell():
    given = {"chat": "auto", "clinic_split": "test", "document_floor": 0, "llama2_tokenizer": "a/b"}
    assert switches("json_kv", **given) == switches("kilt_nq", **given) == {}
    assert switches("icl_clinic150", **given) == {"clinic_split": "test"}
    assert switches("alce_asqa", **given) == {"chat": "auto"}
    assert switches("infbench_qa", **given) == {
        "chat": "auto",
        "document_floor": 0,
        "llama2_tokenizer": "a/b",
    }


def test_clinic_is_scored_on_either_split(tmp_path, toks):
    for split in ("train", "validation", "test"):
        rows = [{"text": f"{split} {i}", "intent": i} for i in range(3)]
        layout.write_jsonl(layout.hub_file(tmp_path, "clinic150", split), rows)
    for split in ("validation", "test"):
        given = metadata(tmp_path, toks[False], dataset="icl_clinic150", clinic_split=split)
        notes = Notes()
        made = icl.rows(notes=notes, **given)
        assert all(f"\n\n{split} {i}\nlabel:" in row["prompt"] for i, row in enumerate(made))
        assert notes.as_dict()["test_split"] == split
    with pytest.raises(ValueError, match="clinic_split"):
        icl.rows(**metadata(tmp_path, toks[False], dataset="icl_clinic150", clinic_split="dev"))


def test_a_label_outside_the_mapping_is_refused(tmp_path, toks):
    for split in ("train", "test"):
        rows = [{"text": "t", "label": "card_arrival"}]
        layout.write_jsonl(layout.hub_file(tmp_path, "banking77", split), rows)
    with pytest.raises(ValueError, match=r"label='card_arrival' must be the hub's integer"):
        icl.rows(**metadata(tmp_path, toks[False], dataset="icl_banking77"))


def test_rows_beyond_five_hundred_are_balanced():
    test = icl.Examples([f"t{i}" for i in range(600)], [i % 4 for i in range(600)])
    order = icl.balanced_rows(test, 42)
    assert len(order) == 500
    assert pd.Series([test.labels[i] for i in order]).value_counts().tolist() == [125] * 4
    few = icl.Examples(test.texts[:500], test.labels[:500])
    assert icl.balanced_rows(few, 42) == list(range(500))


# First digits of the SHA-256 of the two first rows' prompts from the real subsets at the 128K label,
# where nothing is cut: without and with a chat template.
GOLDEN = {
    "kilt_nq": (("984b1b49b5e1", "fd1cf0a9229b"), ("984b1b49b5e1", "fd1cf0a9229b")),
    "kilt_triviaqa": (("162c42cc7859", "9d59b4ab7c30"), ("162c42cc7859", "9d59b4ab7c30")),
    "kilt_hotpotqa": (("899f4839557f", "d51f72a52f1b"), ("899f4839557f", "d51f72a52f1b")),
    "icl_banking77": (("a0dc881dad3f", "cfcae1a36d46"), ("a0dc881dad3f", "cfcae1a36d46")),
    "icl_clinic150": (("58b4b3f4a30e", "bf5f7965b13f"), ("58b4b3f4a30e", "bf5f7965b13f")),
    "icl_nlu": (("83efe146e164", "1da54a9701df"), ("83efe146e164", "1da54a9701df")),
    "alce_asqa": (("b1b7b4d2da7f", "3e2ee1244953"), ("411585c486b2", "ee1e2f046091")),
    "alce_qampari": (("2a943cb9470b", "c0f2a16a09a6"), ("9df2a227279a", "9650dbb31c19")),
    "infbench_qa": (("9ddcf90b0c6b",), ("ffe35646b90d",)),
    "infbench_choice": (("ac9cb5ddbcac", "2059308c849c"), ("94b8fcde0ae4", "37c085828fbd")),
    "msmarco_rerank": (("a6d44495c4cb", "654fa899892e"), ("a6d44495c4cb", "654fa899892e")),
    "narrativeqa": (("7e984baaa202", "de3656f4f3d4"), ("03f8c754b976", "a56cf535a253")),
}


@real
def test_label_map_of_the_real_names():
    names = json.loads((layout.SHARED / "icl_labels.json").read_text())["nlu"]
    shown = label_map(68, text_seed("change the lights to a different hue", 42))
    found = dict(zip(names, shown, strict=True))
    expected = {
        "general_greet": 67,
        "iot_cleaning": 34,
        "alarm_remove": 58,
        "takeaway_query": 9,
    }
    assert {name: found[name] for name in expected} == expected


@pytest.fixture(scope="module")
def laid_out(tmp_path_factory):
    root = layout.lay_out(tmp_path_factory.mktemp("helmet"), 131072)
    layout.word_tokenizer_dir(root / "llama2_tokenizer", chat=False)
    words = {chat: layout.word_tokenizer_dir(root / str(chat), chat=chat) for chat in (True, False)}
    return root, words


BUILDERS = {
    **dict.fromkeys(("kilt_nq", "kilt_triviaqa", "kilt_hotpotqa"), kilt),
    **dict.fromkeys(("icl_banking77", "icl_clinic150", "icl_nlu"), icl),
    **dict.fromkeys(("alce_asqa", "alce_qampari"), alce),
    **dict.fromkeys(("infbench_qa", "infbench_choice"), stories),
    "msmarco_rerank": rerank,
    "narrativeqa": narrativeqa,
}


def sha(row):
    return hashlib.sha256(row["prompt"].encode()).hexdigest()[:12]


@real
@pytest.mark.parametrize("name", BUILDERS)
def test_golden_prompts_of_the_real_subsets(laid_out, name):
    root, words = laid_out
    for chat, expected in zip((False, True), GOLDEN[name], strict=True):
        given = metadata(root, words[chat], dataset=name, length=131072, samples=2)
        made = BUILDERS[name].rows(**given)
        assert not any(row["truncated"] for row in made)
        assert tuple(sha(row) for row in made) == expected


@real
@pytest.mark.parametrize("name", BUILDERS)
def test_a_perfect_answer_to_the_real_subsets_scores_full_marks(laid_out, name):
    root, words = laid_out
    given = metadata(root, words[False], dataset=name, length=131072, samples=8)
    for row in BUILDERS[name].rows(**given):
        golds, extra = json.loads(row["golds"]), json.loads(row["extra"])
        answer = f" {golds[0]}"
        if name == "msmarco_rerank":
            answer = " " + " > ".join(sorted(extra["qrels"], key=lambda k: -extra["qrels"][k]))
        elif name.startswith("alce"):
            # The lead-in stands in QAMPARI's first item, as it does upstream for base models.
            answer = " so: , " + ", ".join(group[0] for group in extra["answers"])
        assert scoring.process_results(row, [answer])["score"] == 1.0
        assert scoring.process_results(row, [" zzz"])["score"] < 1
