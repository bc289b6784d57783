"""The video probe's tokenizer: one token a word, and the markers of Qwen2-VL."""

from __future__ import annotations

from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from rr_bench.tasks.prompts.card_questions import ASK, CHOOSE, LETTERS, MARK, OPEN
from rr_bench.tasks.synthetic.cards import COLOURS, DIGITS, GROUNDS, SHAPES

EOS, UNKNOWN = "<|endoftext|>", "<|unknown|>"
VISION_START, VISION_END = "<|vision_start|>", "<|vision_end|>"
VIDEO, IMAGE = "<|video_pad|>", "<|image_pad|>"
SPECIAL = (EOS, UNKNOWN, "<|im_start|>", "<|im_end|>", VISION_START, VISION_END, IMAGE, VIDEO)
WORDS = (ASK, MARK, OPEN, CHOOSE, *LETTERS, *DIGITS, *GROUNDS, *COLOURS, *SHAPES)


def build_tokenizer() -> PreTrainedTokenizerFast:
    """Build the tokenizer; the same vocabulary on every call and machine. It has no chat template."""
    vocab = {word: number for number, word in enumerate((*SPECIAL, *WORDS))}
    core = Tokenizer(models.WordLevel(vocab, unk_token=UNKNOWN))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    core.add_special_tokens(list(SPECIAL))
    return PreTrainedTokenizerFast(
        tokenizer_object=core, eos_token=EOS, pad_token=EOS, unk_token=UNKNOWN, model_max_length=65536
    )
