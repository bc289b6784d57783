"""Truncation and settings of the prompt builders."""

import re

import pytest

from rr_bench.tasks.prompt import Settings, count_tokens, load_tokenizer, truncate
from tests.tiny import tiny_tokenizer


@pytest.fixture(scope="module")
def tok(tmp_path_factory):
    directory = tmp_path_factory.mktemp("tokenizer")
    tiny_tokenizer(directory)
    return str(directory)


@pytest.mark.parametrize("excess", [0, 1, 50])
@pytest.mark.parametrize("bos", [True, False])
def test_truncation_cuts_exactly_the_excess_from_the_end(tmp_path, excess, bos):
    tiny_tokenizer(tmp_path, bos=bos)
    tokenizer = load_tokenizer(tokenizer=str(tmp_path))
    context = "\n".join(f"line {i} of the context" for i in range(40))

    def render(text):
        return f"Before.\n{text}\nAfter: what?"

    whole = count_tokens(tokenizer, render(context))
    cut = truncate(tokenizer, render, context, whole - excess)
    ids = tokenizer(context)["input_ids"]
    kept = tokenizer(cut.context)["input_ids"]
    assert kept == ids[: len(ids) - excess]
    assert context.startswith(cut.context)
    assert cut.prompt == render(cut.context) and cut.removed == excess
    assert cut.input_len == count_tokens(tokenizer, cut.prompt)


class WordTokenizer:
    """A word is a token; two spaces in a row cost three more, which makes a cut's seam visible."""

    def __call__(self, text, **kwargs):
        spans = [match.span() for match in re.finditer(r"\S+", text)]
        return {"input_ids": [0] * (len(spans) + 3 * text.count("  ")), "offset_mapping": spans}


def test_strict_truncation_repeats_and_the_default_does_not():
    def render(text):
        return text + " end"

    context = "a b c d e f"
    plain = truncate(WordTokenizer(), render, context, 4)
    assert (plain.context, plain.input_len, plain.removed) == ("a b c ", 7, 3)
    strict = truncate(WordTokenizer(), render, context, 4, strict=True)
    assert strict.input_len <= 4 and strict.removed == 6
    with pytest.raises(ValueError, match=r"only 6.*lengths"):
        truncate(WordTokenizer(), lambda text: text + " x" * 30, context, 4)


def test_strict_truncation_is_a_setting(tok):
    given = {"length": 2048, "samples": 1, "tokenizer": tok}
    assert not Settings.from_metadata(given).strict
    assert Settings.from_metadata({**given, "strict_truncation": True}).strict


def test_settings_errors_name_the_setting(tok, tmp_path):
    good = {"length": 2048, "samples": 1, "tokenizer": tok}
    for change, message in (
        ({"length": None}, "`lengths` must be"),
        ({"samples": 0}, "`samples` must be"),
        ({"helmet_dir": str(tmp_path / "no")}, r"`data\.helmet_dir`=.* does not exist"),
        ({"tokenizer": str(tmp_path / "no")}, "`tokenizer`=.*model.path"),
        ({"tokenizer": str(tmp_path)}, "`tokenizer`=.* has no tokenizer"),
        ({"tokenizer": None}, "`pretrained`"),
    ):
        with pytest.raises(ValueError, match=message):
            Settings.from_metadata({**good, **change})
