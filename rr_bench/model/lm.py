"""lm-eval's Hugging Face model around a sparse prefill, one request at a time.

Generation follows HELMET: the decoder body prefills every prompt token but the last under the
method, and decoding then works from that cache, so the last prompt token and all new tokens see
dense attention. Log-likelihoods that are nested in one text (``recall_prefill``) are read from one
single prefill with logits at the answers' positions only.

Decoding is greedy whatever the checkpoint's generation config says: of that, only the stop tokens,
the padding token and the repetition penalty stay (HELMET runs Qwen2.5 with its penalty too). Beams,
sampling, n-gram bans and the like are dropped. Logits that are not finite are an error of the sample,
never an answer.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from itertools import chain, groupby
from typing import Any

import torch
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM
from lm_eval.models.utils import has_bos_prefix, postprocess_generated_text
from torch import Tensor
from tqdm import tqdm
from transformers import Cache, DynamicCache, PreTrainedModel, PreTrainedTokenizerBase

from method.attention import SparsePrefill
from rr_bench.model.choice import choose_decoder
from rr_bench.model.compiles import compiles
from rr_bench.model.decoding import (
    Ask,
    FiniteCheck,
    generate,
    greedy_config,
    greedy_settings,
    stop_test,
)
from rr_bench.model.hook import sparse_prefill
from rr_bench.model.memory import OutOfMemory, memory_guard
from rr_bench.model.recorder import RequestStats
from rr_bench.model.shared_prefill import Passage, encode_with_spans, plan_passages
from rr_bench.model.spread import devices, synchronise

NEWLINE_TOKENS = ("\n", "Ċ", "ĊĊ", "<0x0A>")


class SparseHFLM(HFLM):
    """A ready model and tokenizer behind lm-eval's interface, with a method in its prefill.

    Args:
        model: causal language model in evaluation mode, already on its device. Its generation config
            is replaced by :func:`greedy_config`.
        tokenizer: its tokenizer.
        prefill: method, keep policy and back end; may be replaced between requests.
        max_length: tokens a prompt and its answer may have; default: what the config says. Longer
            inputs raise, nothing is ever cut.
        newline_stop: end generation at a newline token (HELMET's ``stop_new_line``).
        decode: how answers are decoded, see :func:`rr_bench.model.choice.choose_decoder`.
        decode_together: how many prompts are decoded together, each behind its own prefill.

    Attributes:
        devices: where the model's layers are.
        decoder: what decodes answers; ``None`` for transformers' ``generate``.
        decoding: which of the two it is, and why, as it is recorded.

    Raises:
        CheckpointError: ``decode=graph`` or ``decode_together`` cannot be had.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        prefill: SparsePrefill,
        *,
        max_length: int | None = None,
        newline_stop: bool = False,
        decode: str = "auto",
        decode_together: int = 1,
    ) -> None:
        super().__init__(pretrained=model, tokenizer=tokenizer, batch_size=1, max_length=max_length)
        model.generation_config = greedy_config(model.generation_config)
        self.devices = devices(model)
        self.decoder, self.decoding = choose_decoder(model, decode, decode_together)
        self.prefill = prefill
        self.newline_stop = newline_stop
        self.stats: dict[tuple[str, int], RequestStats] = {}

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        """Greedy continuations, in the order of the requests.

        Raises:
            ValueError: a prompt with its generation budget exceeds ``max_length``, or the task asks
                for something other than greedy decoding.
            OutOfMemory: a prompt did not fit in memory.
            NotFinite: the model computed NaN or infinity.
        """
        outputs: list[str] = []
        with tqdm(total=len(requests), desc="generate", disable=disable_tqdm) as bar:
            for first in range(0, len(requests), self.together):
                group = requests[first : first + self.together]
                outputs += self._generate(group)
                bar.update(len(group))
        return outputs

    @property
    def together(self) -> int:
        """Prompts that are decoded together."""
        return self.decoder.rows if self.decoder else 1

    def loglikelihood(
        self, requests: list[Instance], disable_tqdm: bool = False
    ) -> list[tuple[float, bool]]:
        """Log-probability and greedy match of each continuation, in the order of the requests.

        Requests of one document whose texts are prefixes of one another share one forward pass; the
        answers are those of separate passes, because every context lies wholly before its
        continuation.

        Raises:
            ValueError: a text exceeds ``max_length``, or has no context where the tokenizer has
                neither BOS nor EOS to stand for one.
            OutOfMemory: a text did not fit in memory.
            NotFinite: the model computed NaN or infinity.
        """
        answers: list[tuple[float, bool]] = []
        documents = [list(group) for _, group in groupby(requests, key=_key)]
        for document in tqdm(documents, desc="loglikelihood", disable=disable_tqdm):
            stats = self.stats[_key(document[0])] = RequestStats()
            found: dict[int, tuple[float, bool]] = {}
            for passage in plan_passages([request.args for request in document], self):
                found |= self._score(passage, stats)
            answers += [found[i] for i in range(len(document))]
        return answers

    def loglikelihood_rolling(
        self, requests: list[Instance], disable_tqdm: bool = False
    ) -> list[float]:
        """Not offered: perplexity of windows has no long prompt to prefill."""
        raise NotImplementedError("SparseHFLM runs generate_until and loglikelihood tasks only")

    def tok_encode(
        self, string: str, add_special_tokens: bool | None = None, **kwargs: Any
    ) -> list[int]:
        """lm-eval's own, which needs a BOS or EOS token to compare the text with."""
        if add_special_tokens is None and self.prefix_token_id is None:
            add_special_tokens = True
        return super().tok_encode(string, add_special_tokens=add_special_tokens, **kwargs)

    def prompt_ids(self, prompt: str, *, chat: bool = False) -> list[int]:
        """Token ids of a prompt; one from a chat template (``chat``) brings its own special tokens."""
        return self.tok_encode(prompt, add_special_tokens=False if chat else None)

    def encode_with_spans(self, text: str) -> tuple[list[int], list[tuple[int, int]]] | None:
        """Token ids as :meth:`tok_encode` gives them, with each token's ``[start, end)`` in ``text``.

        Special tokens get ``(-1, -1)``. ``None`` if the tokenizer cannot tell.
        """
        prefix = self.prefix_token_id
        bos = prefix is not None and has_bos_prefix(text, self.tokenizer.decode(prefix))
        return encode_with_spans(self.tokenizer, text, add_special_tokens=not bos)

    @torch.no_grad()
    def warm_up(self, ids: Sequence[int]) -> None:
        """Prefill ``ids`` once, so that kernels are compiled and thread pools awake; nothing is kept.

        Running out of memory is left to the sample that needs as much, which says so.
        """
        try:
            with self._guard(len(ids)), sparse_prefill(self.model, self.prefill):
                self.model.base_model(input_ids=self._tensor(ids, room=0), use_cache=False)
                self._now()
        except OutOfMemory:
            return

    @torch.no_grad()
    def _generate(self, requests: Sequence[Instance]) -> list[str]:
        """Prefill each prompt by itself, then decode all; each is given an equal share of that time."""
        asks = [self._ask(request) for request in requests]
        stats = [RequestStats(input_tokens=ask.ids.shape[1]) for ask in asks]
        self.stats |= dict(zip(map(_key, requests), stats, strict=True))
        longest = max(ask.ids.shape[1] for ask in asks)
        with self._guard(longest):
            if self.decoder is None:
                cache = DynamicCache(config=self.model.config)
                with self._prefilled(asks[0].ids, cache, stats[0]):
                    start = self._now()
                    answers = [generate(self.model, self.tokenizer, asks[0], cache)]
            else:
                self.decoder.reserve(longest + max(ask.new_tokens for ask in asks))
                for row, (ask, cost) in enumerate(zip(asks, stats, strict=True)):
                    with self._prefilled(ask.ids, self.decoder.fill(row), cost):
                        pass
                start = self._now()
                answers = self.decoder.decode(asks)
            seconds = self._now() - start
        for cost in stats:
            cost.decode_s = seconds / len(stats)
        return [
            postprocess_generated_text(self.tok_decode(answer), stop=ask.until, think_end_token=None)
            for answer, ask in zip(answers, asks, strict=True)
        ]

    def _ask(self, request: Instance) -> Ask:
        prompt, settings = request.args
        until, new_tokens = greedy_settings(dict(settings), self.max_gen_toks)
        ids = self.prompt_ids(prompt, chat=bool((request.doc or {}).get("chat")))
        ended = stop_test(self.tokenizer, until)
        return Ask(self._tensor(ids, room=new_tokens), new_tokens, self.stop_ids(), until, ended)

    @contextmanager
    def _prefilled(self, ids: Tensor, cache: Cache, stats: RequestStats) -> Iterator[None]:
        """A prompt but its last token in ``cache``; inside, further tokens see it densely."""
        with sparse_prefill(self.model, self.prefill) as recorder:
            start = self._now()
            with compiles() as compiled:
                if ids.shape[1] > 1:
                    self.model.base_model(input_ids=ids[:, :-1], past_key_values=cache, use_cache=True)
                seconds = self._now() - start
            stats.compiled = compiled.count > 0
            stats.add_pass(recorder, seconds)
            yield

    @torch.no_grad()
    def _score(self, passage: Passage, stats: RequestStats) -> dict[int, tuple[float, bool]]:
        """One forward pass; every answer of the passage from the logits just before its tokens."""
        ids = self._tensor(passage.ids[:-1], room=0)
        spans = [(start, end) for _, start, end in passage.answers]
        before = list(chain.from_iterable(range(start - 1, end - 1) for start, end in spans))
        targets = [passage.ids[i + 1] for i in before]
        stats.input_tokens = max(stats.input_tokens, len(passage.ids))
        with (
            self._guard(ids.shape[1]),
            sparse_prefill(self.model, self.prefill) as recorder,
            compiles() as compiled,
        ):
            start = self._now()
            logits = self.model(
                input_ids=ids,
                use_cache=False,
                # As a list: a tensor would be moved to the first GPU of a spread model.
                logits_to_keep=before,
            ).logits[0]
            finite = FiniteCheck()
            finite(ids, logits)
            gold = torch.tensor(targets, device=logits.device)
            log_probs = (
                torch.log_softmax(logits.float(), dim=-1).gather(1, gold[:, None])[:, 0].tolist()
            )
            hits = (logits.argmax(-1) == gold).tolist()
            stats.add_pass(recorder, self._now() - start)
        stats.compiled |= compiled.count > 0
        finite.check()
        answers, at = {}, 0
        for index, start_token, end_token in passage.answers:
            stop = at + end_token - start_token
            answers[index] = (sum(log_probs[at:stop]), all(hits[at:stop]))
            at = stop
        return answers

    def stop_ids(self) -> list[int]:
        """Ids that end generation: the checkpoint's own, and newline tokens if asked for."""
        own = self.model.generation_config.eos_token_id
        own = self.tokenizer.eos_token_id if own is None else own
        ids = set(own if isinstance(own, list) else [] if own is None else [own])
        if self.newline_stop:
            vocabulary = self.tokenizer.get_vocab()
            ids |= {vocabulary[token] for token in NEWLINE_TOKENS if token in vocabulary}
        return sorted(ids)

    def _tensor(self, ids: Sequence[int], room: int) -> Tensor:
        """Ids on the device, ``[1, L]``, once they are known to fit."""
        if len(ids) + room > self.max_length:
            raise ValueError(
                f"the prompt has {len(ids)} tokens and may get {room} more, but the model takes "
                f"{self.max_length}: lower `lengths`, set data.strict_truncation=true (HELMET cuts "
                "once and may leave a token too many), or model.allow_extrapolation=true"
            )
        return torch.tensor([list(ids)], dtype=torch.long, device=self.device)

    def _now(self) -> float:
        synchronise(self.devices)
        return time.perf_counter()

    def _guard(self, tokens: int) -> AbstractContextManager[None]:
        """One clear error where a prompt does not fit, whose buffers go as well: they are as large."""
        release = self.decoder.release if self.decoder else None
        beside = f" beside the caches of decode_together={self.together}" if self.together > 1 else ""
        return memory_guard(tokens, self.device, release, beside)


def _key(request: Instance) -> tuple[str, int]:
    return str(request.task_name), int(request.doc_id or 0)
