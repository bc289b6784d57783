"""Train the video probe from scratch: ``python -m rr_bench.probe.train_video --out DIR``.

Writes ``DIR/model``, an ordinary Hugging Face folder of a Qwen2-VL, and ``DIR/train_log.jsonl``. First
the vision tower learns to recognise flash cards, then the language layers learn to look them up, in
clips of 8 patches and at last of 8192 (32K video tokens). The model is saved every ``--save-every``
seconds and when ``--limit`` has passed, so a run that is cut off loses little; ``--init FOLDER --start
STEP`` goes on from it with a fresh optimizer.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm
from transformers import GenerationConfig, Qwen2VLConfig, Qwen2VLForConditionalGeneration

from rr_bench.probe.video.channels import HIDDEN
from rr_bench.probe.video.corpus import Batch, Shape, draw_batch
from rr_bench.probe.video.evaluate import evaluate
from rr_bench.probe.video.initial import prepare
from rr_bench.probe.video.tokenizer import EOS, IMAGE, VIDEO, VISION_END, VISION_START, build_tokenizer
from rr_bench.probe.video.tower import Recognition, bank

TOWER_STEPS = 400
STAGES: tuple[tuple[int, int], ...] = (
    (8, 60),
    (32, 60),
    (128, 80),
    (512, 80),
    (1024, 80),
    (2048, 80),
    (4096, 80),
    (8192, 100),
)
"""(patches, optimiser steps) of the language layers."""
CARDS, QUESTIONS = 96, 64
"""Most questions of a clip, and the cards of an evaluated one."""
PEAK_LR, FINAL_LR, WARMUP = 3e-4, 3e-5, 30
VIEWS, PLAIN = 4, 2048
EVALUATED = (256, 1024, 2048, 4096, 8192)


def probe_config() -> Qwen2VLConfig:
    """About three million parameters: 4 language layers of 384, a vision tower of 2 layers of 64."""
    vocabulary = build_tokenizer().get_vocab()
    text = {
        "vocab_size": len(vocabulary),
        "hidden_size": HIDDEN,
        "intermediate_size": 256,
        "num_hidden_layers": 4,
        "num_attention_heads": 6,
        "num_key_value_heads": 2,
        "max_position_embeddings": 65536,
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": 1e8,
            "mrope_section": [8, 12, 12],
        },
        "bos_token_id": None,
        "eos_token_id": vocabulary[EOS],
        "pad_token_id": vocabulary[EOS],
    }
    vision = {"depth": 2, "embed_dim": 64, "num_heads": 4, "mlp_ratio": 2, "hidden_size": HIDDEN}
    return Qwen2VLConfig(
        text_config=text,
        vision_config=vision,
        image_token_id=vocabulary[IMAGE],
        video_token_id=vocabulary[VIDEO],
        vision_start_token_id=vocabulary[VISION_START],
        vision_end_token_id=vocabulary[VISION_END],
        tie_word_embeddings=True,
    )


def learning_rate(step: int, progress: float, peak: float, final: float) -> float:
    """Linear warm-up, then half a cosine from the peak to the final rate."""
    if step < WARMUP:
        return peak * (step + 1) / WARMUP
    return final + (peak - final) * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))


def shape_of(patches: int, rng: random.Random) -> Shape:
    """How many cards and questions clips of a stage have; the count of cards is drawn."""
    questions = min(QUESTIONS, max(4, patches // 2))
    fewest = min(questions, patches * 3 // 4)
    cards = rng.randint(fewest, max(fewest, min(256, patches // 2)))
    return Shape(patches, cards, questions)


class Curriculum:
    """Batches by step number; half of a stage's are drawn from the shorter stages before it."""

    def __init__(self, stages: tuple[tuple[int, int], ...], seed: int, tokens: int) -> None:
        self.seed, self.tokens = seed, tokens
        self.patches = [patches for patches, _ in stages]
        self.stage_of = [stage for stage, (_, steps) in enumerate(stages) for _ in range(steps)]

    def batch(self, step: int) -> Batch:
        """The batch of a step: as many clips as make about ``tokens`` tokens."""
        stage = self.stage_of[step]
        rng = random.Random(f"{self.seed}-{step}")
        if stage and rng.random() < 0.5:
            stage = rng.randrange(stage)
        shape = shape_of(self.patches[stage], rng)
        clips = max(1, self.tokens // (4 * shape.patches + 12 * shape.questions))
        return draw_batch(f"{self.seed}-{step}", clips, shape, VIEWS, PLAIN)


class Trainer:
    """One training run in ``args.out``; see the module's docstring."""

    def __init__(self, args: argparse.Namespace) -> None:
        torch.manual_seed(args.seed)
        self.args, self.out = args, Path(args.out)
        self.out.mkdir(parents=True, exist_ok=True)
        if args.init is None:
            model = Qwen2VLForConditionalGeneration(probe_config())
            prepare(model, args.seed)
        else:
            model = Qwen2VLForConditionalGeneration.from_pretrained(args.init, dtype=torch.float32)
        self.model = model.to(args.device)
        self.started = self.saved = time.monotonic()
        stages = [(patches, steps) for patches, steps in args.stages if patches <= args.max_patches]
        self.stages = tuple((patches, max(1, round(steps * args.scale))) for patches, steps in stages)

    @property
    def seconds(self) -> float:
        """Since the start."""
        return time.monotonic() - self.started

    def run(self) -> None:
        """Train, evaluate, save."""
        if self.args.init is None:
            self._recognise()
        self._look_up()
        self.save()
        for patches in EVALUATED:
            if patches <= self.args.max_patches:
                self._log(evaluate(self.model, patches, CARDS, QUESTIONS, self.args.eval_clips))

    def _recognise(self) -> None:
        """The vision tower alone."""
        training = Recognition(self.model, self.args.seed, self.args.frames)
        steps = max(1, round(TOWER_STEPS * self.args.scale))
        for step in tqdm(range(steps), unit="tower step", disable=None):
            found = training.step(step / steps)
            if (step + 1) % self.args.log_every == 0 or step + 1 == steps:
                self._log({"tower_step": step + 1, **found})

    def _look_up(self) -> None:
        """The language layers, on what the tower sees of every card."""
        text = self.model.model.language_model
        views, plain = bank(self.model, VIEWS, PLAIN, self.args.seed)
        data = Curriculum(self.stages, self.args.seed, self.args.tokens)
        optimizer = torch.optim.AdamW(
            text.parameters(), lr=self.args.peak_lr, betas=(0.9, 0.98), weight_decay=0.01
        )
        total = len(data.stage_of)
        for step in tqdm(self._steps(total), total=total, unit="step", disable=None):
            progress = max(step / total, self.seconds / self.args.limit)
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(step, progress, self.args.peak_lr, FINAL_LR)
            batch = data.batch(step)
            found = self._step(optimizer, batch, views, plain)
            if (step + 1) % self.args.log_every == 0 or step + 1 == total:
                self._log({"step": step + 1, **found})
            if time.monotonic() - self.saved > self.args.save_every:
                self.save()

    def _steps(self, total: int) -> Iterator[int]:
        """Step numbers until all are done or the time is up."""
        for step in range(self.args.start, total):
            if self.seconds > self.args.limit:
                self._log({"step": step, "stopped": "time limit"})
                return
            yield step

    def _step(
        self, optimizer: torch.optim.Optimizer, batch: Batch, views: Tensor, plain: Tensor
    ) -> dict[str, Any]:
        """One step on one batch; numbers for the log."""
        device = self.model.device
        text = self.model.model.language_model
        answers, choices = batch.answers.to(device), batch.choices.to(device)
        ids = batch.ids.to(device)
        embeds = embed(text.embed_tokens(ids), batch.views.to(device), views, plain)
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=device.type == "cuda"):
            hidden = text(
                inputs_embeds=embeds,
                position_ids=batch.positions.to(device).expand(-1, len(ids), -1),
                use_cache=False,
            ).last_hidden_state
            logits = self.model.lm_head(hidden[:, answers - 1]).float()
        targets = ids[:, answers]
        loss = F.cross_entropy(logits.flatten(0, 1), targets.flatten())
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(text.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        right = (logits.argmax(-1) == targets).float().mean(0)
        found = {"patches": batch.views.shape[1], "loss": loss.detach(), "norm": norm}
        for name, which in (("choice", choices), ("open", ~choices)):
            if which.any():
                found[name] = right[which].mean()
        return found

    def save(self) -> None:
        """Write the model as it ships: bf16 safetensors, tokenizer, stop token."""
        half = Qwen2VLForConditionalGeneration(self.model.config)
        half.load_state_dict(self.model.state_dict())
        torch.nn.Module.to(half, torch.bfloat16).save_pretrained(self.out / "model")
        tokenizer = build_tokenizer()
        GenerationConfig(
            eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id, do_sample=False
        ).save_pretrained(self.out / "model")
        tokenizer.save_pretrained(self.out / "model")
        self.saved = time.monotonic()

    def _log(self, line: dict[str, Any]) -> None:
        line = {
            name: round(value.item(), 4) if isinstance(value, Tensor) else value
            for name, value in line.items()
        }
        line["seconds"] = round(self.seconds, 1)
        with (self.out / "train_log.jsonl").open("a", encoding="utf-8") as log:
            log.write(json.dumps(line) + "\n")
        tqdm.write(json.dumps(line))


def embed(words: Tensor, views: Tensor, seen: Tensor, plain: Tensor) -> Tensor:
    """Embeddings of a batch: the words', with what the tower has seen in the place of the video.

    Args:
        words: ``[clips, L, 384]``; the video begins at the second token.
        views: int64 ``[clips, patches, 3]`` of :class:`~rr_bench.probe.video.corpus.Batch`.
        seen: ``[512, 10, views, 4, 384]``.
        plain: ``[plain frames, 4, 384]``.
    """
    key, digit, view = views.unbind(-1)
    blank = (key < 0)[..., None, None]
    cards = seen[key.clamp(min=0), digit, view.clamp(max=seen.shape[2] - 1)]
    video = torch.where(blank, plain[view], cards).flatten(1, 2)  # [clips, 4 * patches, 384]
    return torch.cat([words[:, :1], video.to(words), words[:, 1 + video.shape[1] :]], 1)


def stage(text: str) -> tuple[int, int]:
    """Read ``PATCHES:STEPS``."""
    patches, steps = text.split(":")
    return int(patches), int(steps)


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Command line of the training script."""
    parser = argparse.ArgumentParser(description="Train the video probe.")
    parser.add_argument("--out", required=True, help="folder for the model and the log")
    parser.add_argument("--seed", type=int, default=20261126)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--limit", type=float, default=600.0, help="seconds after which it stops")
    parser.add_argument("--init", type=Path, help="model folder to start from, its tower as it is")
    parser.add_argument("--start", type=int, default=0, help="first step of the language layers")
    parser.add_argument("--stages", type=stage, nargs="+", default=STAGES, metavar="PATCHES:STEPS")
    parser.add_argument("--max-patches", type=int, default=8192, help="longest stage")
    parser.add_argument("--scale", type=float, default=1.0, help="factor on all steps")
    parser.add_argument("--tokens", type=int, default=65536, help="of a step of the language layers")
    parser.add_argument("--frames", type=int, default=128, help="of a step of the tower")
    parser.add_argument("--peak-lr", type=float, default=PEAK_LR)
    parser.add_argument("--log-every", type=int, default=20, help="steps between log lines")
    parser.add_argument("--save-every", type=float, default=60.0, help="seconds between saves")
    parser.add_argument("--eval-clips", type=int, default=4, help="clips of each length at the end")
    return parser.parse_args(argv)


if __name__ == "__main__":
    Trainer(parse_args()).run()
