"""Train the probe from scratch on Recall prompts: ``python -m rr_bench.probe.train --out DIR``.

Writes ``DIR/model`` (the best checkpoint, an ordinary Hugging Face folder), ``DIR/train_log.jsonl``
and ``DIR/state``, from which an interrupted run continues where it stopped. Takes six minutes on one
H200; the same command runs on a CPU, where ``--max-length 512`` is a matter of an hour.

``--init FOLDER`` starts from a finished model instead and ``--stages`` replaces the curriculum: the
shipped probe was given a second run over long texts that way (``model/README.md`` has the commands).
"""

from __future__ import annotations

import argparse
import json
import math
import random
import time
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerBase

from rr_bench.probe.corpus import encode, kv_text
from rr_bench.probe.curriculum import STAGES, Batch, Curriculum, collate
from rr_bench.probe.initial import prepare
from rr_bench.probe.state import load_state, save_model, save_state
from rr_bench.probe.tokenizer import build_tokenizer

PEAK_LR, FINAL_LR, WARMUP = 1e-3, 1.5e-4, 50
EVAL_LENGTHS = (4096, 16384, 65536, 131072)
EVAL_QUESTIONS = 64


def probe_config(vocab_size: int) -> LlamaConfig:
    """About eight million parameters: 4 layers, 8 query and 2 KV heads of 64."""
    return LlamaConfig(
        vocab_size=vocab_size,
        hidden_size=512,
        intermediate_size=768,
        num_hidden_layers=4,
        num_attention_heads=8,
        num_key_value_heads=2,
        head_dim=64,
        max_position_embeddings=262144,
        rope_parameters={"rope_type": "default", "rope_theta": 2e6},
        tie_word_embeddings=True,
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=2,
    )


def learning_rate(step: int, total: int, peak: float, final: float) -> float:
    """Linear warm-up, then half a cosine from the peak to the final rate."""
    if step < WARMUP:
        return peak * (step + 1) / WARMUP
    progress = (step - WARMUP) / max(1, total - WARMUP)
    return final + (peak - final) * 0.5 * (1 + math.cos(math.pi * progress))


def answer_logits(model: LlamaForCausalLM, batch: Batch) -> Tensor:
    """Logits at the trained positions only: fp32 ``[n, vocabulary]``."""
    device = model.device
    with torch.autocast(device.type, dtype=torch.bfloat16):
        hidden = model.model(batch.ids.to(device), use_cache=False).last_hidden_state
        return model.lm_head(hidden.flatten(0, 1)[batch.positions.to(device)]).float()


def answers_right(logits: Tensor, batch: Batch) -> Tensor:
    """For each answer, whether every one of its tokens is the arg-max: bool ``[answers]``."""
    hits = (logits.argmax(-1) == batch.targets.to(logits.device)).float()
    answers = batch.answers.to(logits.device)
    right = torch.ones(int(answers.max()) + 1, device=logits.device)
    return right.scatter_reduce(0, answers, hits, "amin").bool()


@torch.no_grad()
def evaluate(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerBase, lengths: tuple[int, ...], texts: int
) -> dict[int, float]:
    """Share of ``json_kv`` questions answered exactly, teacher-forced, by length."""
    scores = {}
    for length in lengths:
        right = []
        for i in range(texts):
            rng = random.Random(f"probe-validation-{length}-{i}")
            questions = min(EVAL_QUESTIONS, length // 128)
            items = int((0.98 * length - 60 - 42 * questions) / 34)
            batch = collate([encode(kv_text(rng, items, questions), tokenizer, length)])
            right.append(answers_right(answer_logits(model, batch), batch).float().mean())
        scores[length] = round(float(torch.stack(right).mean()), 4)
    return scores


def starting_model(args: argparse.Namespace, vocab_size: int) -> LlamaForCausalLM:
    """The model training starts from, in fp32: prepared from random, or read from ``args.init``."""
    if args.init is not None:
        return LlamaForCausalLM.from_pretrained(args.init, dtype=torch.float32).to(args.device)
    model = LlamaForCausalLM(probe_config(vocab_size))
    prepare(model, args.seed)
    return model.to(args.device)


class Trainer:
    """One training run in ``args.out``; see the module's docstring."""

    def __init__(self, args: argparse.Namespace) -> None:
        torch.manual_seed(args.seed)
        self.args, self.out = args, Path(args.out)
        self.out.mkdir(parents=True, exist_ok=True)
        self.tokenizer = build_tokenizer()
        self.stages = tuple(
            (length, max(1, round(steps * args.scale)))
            for length, steps in args.stages
            if length <= args.max_length
        )
        self.data = Curriculum(self.tokenizer, self.stages, args.seed)
        self.model = starting_model(args, len(self.tokenizer))
        self.optimizer = torch.optim.AdamW(
            self.model.parameters(),
            lr=args.peak_lr,
            betas=(0.9, 0.98),
            weight_decay=0.01,
            fused=args.device == "cuda",
        )
        within = tuple(length for length in EVAL_LENGTHS if length <= args.max_length)
        self.lengths = within or (args.max_length,)
        self.best = -1.0
        self.started = time.monotonic()

    def run(self) -> None:
        """Train to the end, or from the saved state on."""
        start = load_state(self.model, self.optimizer, self.out / "state")
        self._forget_after(start)
        ends = {sum(steps for _, steps in self.stages[: i + 1]) for i in range(len(self.stages))}
        saved = time.monotonic()
        with tqdm(total=len(self.data), initial=start, unit="step") as bar:
            for done, batch in enumerate(self.data.from_step(start, self.args.workers), start + 1):
                line = self.step(done, batch)
                bar.update()
                if done % self.args.log_every == 0 or done in ends:
                    self._log({"step": done, **line})
                stage = self.stages[self.data.stage_of[done - 1]][0]
                late = stage >= self.args.eval_from and done % self.args.eval_every == 0
                if late or done in ends:
                    self._look(done, stage)
                if time.monotonic() - saved > self.args.save_every:
                    save_state(self.model, self.optimizer, done, self.out / "state")
                    saved = time.monotonic()

    def step(self, done: int, batch: Batch) -> dict[str, Any]:
        """One optimiser step; numbers for the log, on the device until they are read."""
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(done - 1, len(self.data), self.args.peak_lr, self.args.final_lr)
        logits = answer_logits(self.model, batch)
        loss = F.cross_entropy(logits, batch.targets.to(logits.device))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        right = answers_right(logits.detach(), batch).float().mean()
        return {"length": batch.ids.shape[1], "loss": loss.detach(), "answers_right": right}

    def _look(self, done: int, stage: int) -> None:
        """Score the model by length, and keep it if it is the best so far."""
        scores = evaluate(self.model, self.tokenizer, self.lengths, self.args.eval_texts)
        mean = sum(scores.values()) / len(scores)
        self._log({"step": done, "stage": stage, "exact": scores, "mean": round(mean, 5)})
        tqdm.write(f"step {done}, stage {stage}, {time.monotonic() - self.started:.0f} s: {scores}")
        if mean > self.best:
            self.best = mean
            save_model(self.model, self.tokenizer, self.out / "model")

    def _log(self, line: dict[str, Any]) -> None:
        line = {
            name: round(value.item(), 4) if isinstance(value, Tensor) else value
            for name, value in line.items()
        }
        line["seconds"] = round(time.monotonic() - self.started, 1)
        with (self.out / "train_log.jsonl").open("a") as log:
            log.write(json.dumps(line) + "\n")

    def _forget_after(self, start: int) -> None:
        """Drop log lines of steps that will be repeated; read the best score so far."""
        path = self.out / "train_log.jsonl"
        if not path.exists():
            return
        lines = [json.loads(text) for text in path.read_text().splitlines()]
        kept = [line for line in lines if line["step"] <= start]
        path.write_text("".join(json.dumps(line) + "\n" for line in kept))
        self.best = max((line["mean"] for line in kept if "mean" in line), default=-1.0)


def stage(text: str) -> tuple[int, int]:
    """Read ``LENGTH:STEPS``."""
    length, steps = text.split(":")
    return int(length), int(steps)


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Command line of the training script."""
    parser = argparse.ArgumentParser(description="Train the probe; resumes from OUT/state.")
    parser.add_argument("--out", required=True, help="folder for the model, the log and the state")
    parser.add_argument("--seed", type=int, default=20260205)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--workers", type=int, default=12, help="processes that prepare batches")
    parser.add_argument("--init", type=Path, help="model folder to start from, not from scratch")
    parser.add_argument("--stages", type=stage, nargs="+", default=STAGES, metavar="LENGTH:STEPS")
    parser.add_argument("--peak-lr", type=float, default=PEAK_LR)
    parser.add_argument("--final-lr", type=float, default=FINAL_LR)
    parser.add_argument("--scale", type=float, default=1.0, help="factor on all stages' steps")
    parser.add_argument("--max-length", type=int, default=2**17, help="longest stage")
    parser.add_argument("--log-every", type=int, default=25, help="steps between log lines")
    parser.add_argument("--eval-from", type=int, default=65536, help="stage with extra looks")
    parser.add_argument("--eval-every", type=int, default=100, help="steps between those looks")
    parser.add_argument("--eval-texts", type=int, default=3, help="texts per length")
    parser.add_argument("--save-every", type=float, default=120.0, help="seconds between states")
    return parser.parse_args(argv)


if __name__ == "__main__":
    Trainer(parse_args()).run()
