"""Settings of the prompt builders."""

import json

import pytest

from rr_bench.tasks.prompts.tokens import load_tokenizer
from rr_bench.tasks.settings import Settings
from rr_bench.tasks.sources import rows_of
from tests.tiny import tiny_tokenizer


@pytest.fixture(scope="module")
def tok(tmp_path_factory):
    directory = tmp_path_factory.mktemp("tokenizer")
    tiny_tokenizer(directory)
    return str(directory)


def test_remote_code_runs_only_when_allowed(tmp_path):
    tokenizer = tiny_tokenizer(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    (tmp_path / "own.py").write_text(
        "from transformers import PreTrainedTokenizerFast\n"
        "class Own(PreTrainedTokenizerFast):\n    remote = True\n"
    )
    config = json.loads((tmp_path / "tokenizer_config.json").read_text())
    config |= {"tokenizer_class": "Own", "auto_map": {"AutoTokenizer": [None, "own.Own"]}}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    given = {"length": 2048, "samples": 1, "tokenizer": str(tmp_path)}
    made = Settings.from_metadata({**given, "trust_remote_code": True})
    assert made.tokenizer.remote
    with pytest.raises(
        ValueError,
        match=r"has no tokenizer \(.*; its own code, model\.trust_remote_code=true, is needed",
    ):
        Settings.from_metadata(given)


@pytest.mark.parametrize("task", ["json_kv", "recall_prefill", "niah_mv"])
def test_a_tokenizer_without_bos_and_eos(tmp_path, task):
    tiny_tokenizer(tmp_path, bos=False)
    path = tmp_path / "tokenizer_config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps({k: v for k, v in config.items() if not k.endswith("_token")}))
    tokenizer = load_tokenizer(tokenizer=str(tmp_path))
    assert tokenizer.bos_token is None and tokenizer.eos_token is None
    (row,) = rows_of(task, length=2048, samples=1, tokenizer=str(tmp_path))
    assert row["input_len"] <= row["budget"]


def test_strict_truncation_is_a_setting(tok):
    given = {"length": 2048, "samples": 1, "tokenizer": tok}
    assert not Settings.from_metadata(given).data.strict_truncation
    assert Settings.from_metadata({**given, "strict_truncation": True}).data.strict_truncation


def test_settings_errors_name_the_setting(tok, tmp_path):
    good = {"length": 2048, "samples": 1, "tokenizer": tok}
    for change, message in (
        ({"length": None}, "`lengths` must be"),
        ({"samples": 0}, "`samples` must be"),
        ({"helmet_dir": str(tmp_path / "no")}, r"`data\.helmet_dir`=.* does not exist"),
        ({"recall": "some"}, r"`data\.recall` must be one of auto, files, generated"),
        ({"tokenizer": str(tmp_path / "no")}, "`tokenizer`=.*model.path"),
        ({"tokenizer": str(tmp_path)}, "`tokenizer`=.* has no tokenizer"),
        ({"tokenizer": None}, "`pretrained`"),
    ):
        with pytest.raises(ValueError, match=message):
            Settings.from_metadata({**good, **change})
