"""Truncation: what is cut, and that looking at the seams only finds what tokenizing all of it does."""

import random
import re

import pytest
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from rr_bench.tasks.prompts import truncation
from rr_bench.tasks.prompts.tokens import count_tokens, load_tokenizer
from rr_bench.tasks.prompts.truncation import drop_tail, encode, truncate
from rr_bench.tasks.synthetic.words import ADJECTIVES, NOUNS
from tests.tiny import tiny_tokenizer


@pytest.mark.parametrize("excess", [0, 1, 50])
@pytest.mark.parametrize("bos", [True, False])
@pytest.mark.parametrize("lines", [40, 2000])
def test_exactly_the_excess_is_cut_from_the_end(tmp_path, excess, bos, lines):
    tiny_tokenizer(tmp_path, bos=bos)
    tokenizer = load_tokenizer(tokenizer=str(tmp_path))
    context = "\n".join(f"line {i} of the context" for i in range(lines))

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
        return {"offset_mapping": [*spans, *[(0, 0)] * (3 * text.count("  "))]}


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


class SlowTokenizer:
    is_fast = False

    def __call__(self, text, **kwargs):
        return {"input_ids": text.split()}


def test_a_slow_tokenizer_counts_but_cannot_cut():
    assert truncate(SlowTokenizer(), str, "a b c", 3).input_len == 3
    with pytest.raises(ValueError, match="fast tokenizer"):
        truncate(SlowTokenizer(), str, "a b c", 2)


def trained(kind):
    """Tokenizers of other makes: Unigram over words, BPE that splits no text, or loses some."""
    corpus = [" ".join(ADJECTIVES), " ".join(NOUNS), "0123456789 é ü\n\n"]
    if kind == "unsplit":
        corpus.append("".join(sorted(set("".join(texts(random.Random(0)))))))
    if kind == "unigram":
        made = Tokenizer(models.Unigram())
        made.normalizer = normalizers.NFKC()
        made.pre_tokenizer = pre_tokenizers.Metaspace()
        trainer = trainers.UnigramTrainer(vocab_size=300, unk_token="<unk>", show_progress=False)
    else:
        made = Tokenizer(models.BPE())
        trainer = trainers.BpeTrainer(vocab_size=300, show_progress=False)
    made.train_from_iterator(corpus, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=made)


def texts(rng):
    words = [*ADJECTIVES, *NOUNS, "naïve", "e\u0301", "😀", "\n\n", "1234567"]
    yield " ".join(rng.choice(words) for _ in range(2500))
    yield "\n".join(
        f'    "{rng.getrandbits(128):032x}": "{rng.getrandbits(128):032x}",' for _ in range(200)
    )
    yield "#" * 9000 + "ab" * 3000
    yield " ".join(rng.choice(words) for _ in range(300)) + " \n" * 4000


@pytest.mark.parametrize("kind", ["bpe", "unigram", "unsplit", "lossy"])
def test_seams_tell_what_the_whole_does(tmp_path, kind, monkeypatch):
    rng = random.Random(kind)
    tokenizer = tiny_tokenizer(tmp_path) if kind == "bpe" else trained(kind)
    found = []
    tail_start = truncation.tail_start
    monkeypatch.setattr(
        truncation, "tail_start", lambda *given: found.append(tail_start(*given)) or found[-1]
    )
    for context in texts(rng):
        for head, tail in (("Say:\n\n", "\n\nQuestion?"), (context[:200], ""), ("", "7x ")):

            def render(text, head=head, tail=tail):
                return f"{head}{text}{tail}"

            special = rng.random() < 0.5
            tokens = len(encode(tokenizer, render(context), special))
            for excess in (1, 50, rng.randrange(2, tokens // 2), rng.randrange(2, tokens - 400)):
                cut = truncate(tokenizer, render, context, tokens - excess, special=special)
                assert cut.context == drop_tail(tokenizer, context, excess)
                assert cut.prompt == render(cut.context)
                assert cut.input_len == len(encode(tokenizer, cut.prompt, special))
    short = sum(start is not None for start in found)
    assert short == 0 if kind == "lossy" else short > len(found) // 4


def test_one_pattern_repeated_is_tokenized_whole(monkeypatch):
    """Its tokens fall into step with those of a window by chance, and part from them at the end."""
    pieces = [("<unk>", -20.0), ("#", -2.0), ("#" * 7, -3.5), ("#" * 16, -8.0001)]
    model = Tokenizer(models.Unigram(pieces, 0))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=model, unk_token="<unk>")
    context = "#" * 9002

    def render(text):
        return f"{text}#"

    tokens = len(encode(tokenizer, render(context)))

    def differs():
        cut = truncate(tokenizer, render, context, tokens - 3)
        return cut.context != drop_tail(tokenizer, context, 3)

    assert not differs()
    monkeypatch.setattr(truncation, "repeats", lambda window: False)
    assert differs()
