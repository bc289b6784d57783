"""When and how a prompt is rendered with the tokenizer's chat template.

HELMET's users switch the template off for base models by hand. Some base models (Qwen2.5's) come with
a template all the same, so ``data.chat=auto`` asks the checkpoint: an instruct model ends its answers
with the token that the template writes after a turn of the assistant, so that token is among its end
tokens (tokenizer and ``generation_config.json``); a base model's end token is another one. A
checkpoint that fits neither rule is told by hand: ``always`` or ``never``. What was used is in the
data notes of every cell.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from rr_bench.tasks.helmet_table import Dataset
from rr_bench.tasks.prompts.tokens import Tokenizer
from rr_bench.tasks.settings import Settings

TEMPLATE_DATE = "26 Jul 2024"
"""Llama-3.x templates print today's date unless told one; this is their own default."""
ANSWER = "RR-BENCH-ANSWER"


def uses_chat(dataset: Dataset, settings: Settings) -> bool:
    """Whether this dataset's prompts are rendered with the chat template.

    Raises:
        ValueError: ``data.chat=always`` and the tokenizer has no template.
    """
    if not dataset.chat or settings.data.chat == "never":
        return False
    tokenizer: Any = settings.tokenizer
    has_template = bool(getattr(tokenizer, "chat_template", None))
    if settings.data.chat == "auto":
        return has_template and ends_its_turns(tokenizer)
    if not has_template:
        raise ValueError(
            f"`data.chat`=always, but the tokenizer has no chat template for {dataset.name}: "
            "use data.chat=auto, or never for a base model"
        )
    return True


def chat_text(tokenizer: Tokenizer, user: str) -> str:
    """One user turn with the generation prompt, as text."""
    return _render(tokenizer, [{"role": "user", "content": user}], True)


def ends_its_turns(tokenizer: Any) -> bool:
    """Whether the checkpoint's end tokens include what its template writes after an answer."""
    turns = [{"role": "user", "content": "Q"}, {"role": "assistant", "content": ANSWER}]
    written = _render(tokenizer, turns, False).rpartition(ANSWER)[2]
    return any(end and end in written for end in end_tokens(tokenizer))


def end_tokens(tokenizer: Any) -> Iterable[str | None]:
    """The texts that end a generation: the tokenizer's, and the generation config's beside it."""
    yield getattr(tokenizer, "eos_token", None)
    path = Path(str(getattr(tokenizer, "name_or_path", ""))) / "generation_config.json"
    if path.is_file():
        ids = json.loads(path.read_text(encoding="utf-8")).get("eos_token_id")
        for one in ids if isinstance(ids, list) else [] if ids is None else [ids]:
            yield tokenizer.convert_ids_to_tokens(one)


def _render(tokenizer: Any, turns: list[dict[str, str]], ask: bool) -> str:
    return str(
        tokenizer.apply_chat_template(
            turns, tokenize=False, add_generation_prompt=ask, date_string=TEMPLATE_DATE
        )
    )
