"""Settings of the prompt builders."""

import pytest

from rr_bench.tasks.settings import Settings
from tests.tiny import tiny_tokenizer


@pytest.fixture(scope="module")
def tok(tmp_path_factory):
    directory = tmp_path_factory.mktemp("tokenizer")
    tiny_tokenizer(directory)
    return str(directory)


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
