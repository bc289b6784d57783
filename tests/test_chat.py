"""Which checkpoints get the chat template, and how."""

import json

import pytest

from rr_bench.tasks.helmet_table import DATASETS
from rr_bench.tasks.prompts.chat import uses_chat
from rr_bench.tasks.prompts.tokens import load_tokenizer
from rr_bench.tasks.settings import DataSettings, Settings
from tests import helmet_layout as layout
from tests.tiny import tiny_tokenizer

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def checkpoint(folder, *, end, ids=None):
    """A tokenizer with the ChatML template, its end token, and a generation config's end ids."""
    tokenizer = tiny_tokenizer(folder)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]})
    tokenizer.chat_template = CHATML
    tokenizer.eos_token = end
    tokenizer.save_pretrained(folder)
    if ids is not None:
        found = tokenizer.convert_tokens_to_ids(ids)
        (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": found}))
    return load_tokenizer(tokenizer=str(folder))


def chats(tokenizer, setting="auto", task="alce_asqa"):
    return uses_chat(DATASETS[task], Settings(tokenizer, 8192, 1, data=DataSettings(chat=setting)))


@pytest.mark.parametrize(
    ("end", "ids", "instruct"),
    [
        ("<|im_end|>", None, True),  # as Qwen2.5-Instruct
        ("</s>", None, False),  # as Qwen2.5: a base model with a template
        ("</s>", ["</s>"], False),
        ("</s>", ["</s>", "<|im_end|>"], True),  # as Gemma: the turn's end is in the config only
        (None, None, False),
    ],
)
def test_a_base_model_with_a_template_is_no_chat_model(tmp_path, end, ids, instruct):
    tokenizer = checkpoint(tmp_path, end=end, ids=ids)
    assert chats(tokenizer) is instruct
    assert chats(tokenizer, "always") and not chats(tokenizer, "never")
    assert not chats(tokenizer, "always", "kilt_nq")  # HELMET uses no template there


def test_without_a_template_there_is_no_chat(tmp_path):
    tiny_tokenizer(tmp_path)
    tokenizer = load_tokenizer(tokenizer=str(tmp_path))
    assert not chats(tokenizer)
    with pytest.raises(ValueError, match=r"`data\.chat`=always.*alce_asqa"):
        chats(tokenizer, "always")


def test_rows_say_whether_they_bring_their_own_special_tokens(tmp_path):
    stories = [
        {"id": i, "context": "c", "input": "q", "answer": ["a"], "options": []} for i in range(3)
    ]
    layout.write_jsonl(layout.hub_file(tmp_path, "infinitebench", "longbook_qa_eng"), stories)
    checkpoint(tmp_path / "tok", end="<|im_end|>")
    make = layout.Maker(tmp_path, {True: str(tmp_path / "tok")})
    for setting, chat in (("auto", True), ("never", False)):
        row = make("infbench_qa", chat=True, setting=setting)[0]
        assert row["chat"] is chat
        tokenizer = load_tokenizer(tokenizer=str(tmp_path / "tok"))
        ids = tokenizer(row["prompt"], add_special_tokens=not chat)["input_ids"]
        assert row["input_len"] == len(ids) and (ids[0] == 0) is not chat
