"""The probe's tokenizer: every piece of a Recall prompt is one token, everything else is bytes.

A UUID is sixteen tokens (a hex pair each, the dash belonging to the pair that follows it), a
seven-digit number four (pairs and a last digit), a template or list word one. Text outside that
vocabulary falls back to UTF-8 bytes, so any string survives a round trip.
"""

from __future__ import annotations

import itertools
import random

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from rr_bench.tasks.prompts import templates
from rr_bench.tasks.synthetic import essay
from rr_bench.tasks.synthetic.words import ADJECTIVES, NOUNS

BOS, EOS, PAD = "<s>", "</s>", "<pad>"
UUID_PATTERN = "(?<![0-9A-Za-z])[0-9a-f]{8}(?:-[0-9a-f]{4}){0,3}(?:-[0-9a-f]{12})?(?![0-9A-Za-z])"
"""A UUID, or its first one to four groups: the short identifiers that training starts with."""

ZERO_UUID = "00000000-0000-4000-8000-000000000000"


def _pre_tokenizer() -> pre_tokenizers.PreTokenizer:
    """Isolate UUIDs, cut them into hex pairs, numbers into digit pairs, then words."""
    inside = (
        # Hex pairs up to the end of a piece: true of every pair of an isolated UUID.
        r"-?[0-9a-f]{2}(?=(?:-?[0-9a-f]{2})*\z)"
        "|[0-9]{1,2}"
        "|[ -]?[A-Za-z]+"
        # A lead-in ends at its colon; the space before the answer is a token of its own.
        "|(?<=[A-Za-z]):"
    )
    splits = [pre_tokenizers.Split(Regex(p), behavior="isolated") for p in (UUID_PATTERN, inside)]
    return pre_tokenizers.Sequence(
        [*splits, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )


def _sample_texts() -> list[str]:
    """Texts that hold every template word and every join between the pieces at least once."""
    pairs = [(ZERO_UUID, ZERO_UUID)] * 3
    lists = [f" {a}-{n} {n} {a}" for a, n in itertools.zip_longest(ADJECTIVES, NOUNS, fillvalue="a")]
    texts = [*lists, f'{{"{ZERO_UUID}": "{ZERO_UUID}",\n "{ZERO_UUID}": "{ZERO_UUID}"}}\n\n']
    kv = templates.JSON_KV_USER.format(
        context=templates.json_object(pairs),
        demos=templates.json_kv_demos(pairs[:2]),
        question=ZERO_UUID,
    )
    texts.append(f"{kv}\n{templates.JSON_KV_LEAD} {ZERO_UUID}\n\nKey")
    for plural, value, key in (("numbers", "1000000", "able-acorn"), ("uuids", ZERO_UUID, ZERO_UUID)):
        needle = templates.NEEDLE.format(plural=plural, key=key, value=value)
        for user, lead in (
            (templates.NIAH_ONE_USER, templates.NIAH_ONE_LEAD),
            (templates.NIAH_MANY_USER, templates.NIAH_MANY_LEAD),
        ):
            for kind in (plural, plural[:-1]):
                fields = {"kind": kind, "query": key}
                prompt = user.format(context=f"{needle}\n{needle} {needle}", **fields)
                answers = f"{value}, {value}, {value}, {value}"
                texts.append(f"{prompt}\n{lead.format(**fields)} {answers}\n\nWhat")
    sentences = list(itertools.islice(essay.sentences(random.Random(0)), 4000))
    return [*texts, " ".join(sentences)]


def build_tokenizer() -> PreTrainedTokenizerFast:
    """Build the tokenizer; the same vocabulary on every call and machine."""
    pre = _pre_tokenizer()
    hex_pairs = [f"{value:02x}" for value in range(256)]
    pieces = {piece for text in _sample_texts() for piece, _ in pre.pre_tokenize_str(text)}
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    ordered = [BOS, EOS, PAD, *alphabet, *hex_pairs, *(f"-{pair}" for pair in hex_pairs)]
    vocab = {piece: i for i, piece in enumerate(dict.fromkeys([*ordered, *sorted(pieces)]))}
    # ignore_merges: a piece that is in the vocabulary is one token, no merge rules needed.
    core = Tokenizer(models.BPE(vocab=vocab, merges=[], ignore_merges=True))
    core.pre_tokenizer = pre
    core.decoder = decoders.ByteLevel()
    core.add_special_tokens([BOS, EOS, PAD])
    core.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", special_tokens=[(BOS, vocab[BOS])]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=core, bos_token=BOS, eos_token=EOS, pad_token=PAD, model_max_length=262144
    )
