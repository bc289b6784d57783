"""Golden prompts of the small real subsets, and full marks for perfect answers to them."""

import hashlib
import json

import pytest

from rr_bench.tasks.files.selection import label_map, text_seed
from rr_bench.tasks.helmet_table import DATASETS
from rr_bench.tasks.task import process_results
from tests import helmet_layout as layout

pytestmark = pytest.mark.skipif(
    not layout.SHARED.is_dir(), reason="needs ../shared/data beside the repository"
)

# First digits of the SHA-256 of the two first rows' prompts from the real subsets at the 128K label,
# where nothing is cut: without and with a chat template.
GOLDEN = {
    "json_kv": (("a89e958ca783", "f20822e56e6a"), ("a89e958ca783", "f20822e56e6a")),
    "niah_mv": (("b288c604cf0c", "44e9c48077b4"), ("b288c604cf0c", "44e9c48077b4")),
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


def metadata(root, tokenizer):
    given = {"length": 131072, "tokenizer": tokenizer, "helmet_dir": str(root)}
    return given | {"document_floor": 0}


def sha(row):
    return hashlib.sha256(row["prompt"].encode()).hexdigest()[:12]


@pytest.mark.parametrize("name", GOLDEN)
def test_golden_prompts_of_the_real_subsets(laid_out, name):
    root, words = laid_out
    for chat, expected in zip((False, True), GOLDEN[name], strict=True):
        made = layout.builder_of(name)(**metadata(root, words[chat]), samples=2)
        assert not any(row["truncated"] for row in made)
        assert tuple(sha(row) for row in made) == expected


@pytest.mark.parametrize("name", [name for name in GOLDEN if DATASETS[name].category != "recall"])
def test_a_perfect_answer_to_the_real_subsets_scores_full_marks(laid_out, name):
    root, words = laid_out
    for row in layout.builder_of(name)(**metadata(root, words[False]), samples=8):
        golds, extra = json.loads(row["golds"]), json.loads(row["extra"])
        answer = f" {golds[0]}"
        if name == "msmarco_rerank":
            answer = " " + " > ".join(sorted(extra["qrels"], key=lambda k: -extra["qrels"][k]))
        elif name.startswith("alce"):
            # The lead-in stands in QAMPARI's first item, as it does upstream for base models.
            answer = " so: , " + ", ".join(group[0] for group in extra["answers"])
        assert process_results(row, [answer])["score"] == 1.0
        assert process_results(row, [" zzz"])["score"] < 1
