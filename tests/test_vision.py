"""Video inputs of the three families: patches, token layouts, positions, and the whole path."""

from __future__ import annotations

import hashlib
from typing import Any

import pytest
import torch

from method.attention import SparsePrefill
from method.full import FullAttention
from method.keep import NO_KEEP
from method.streaming import Streaming
from rr_bench.model.hook import sparse_prefill
from rr_bench.model.recorder import RequestStats
from rr_bench.model.vision.families import family_of
from rr_bench.model.vision.inputs import VideoFacts, look, read_prompt
from rr_bench.model.vision.layout import timestamps
from rr_bench.model.vision.lm import SparseVLM, penalised
from rr_bench.model.vision.patches import CLIP, HALF, patchify
from rr_bench.model.vision.positions import Block, original_positions, patch_times
from tests.tiny_vlm import FAMILIES, frames, tiny_vlm, tokenizer

DENSE = SparsePrefill(FullAttention(), NO_KEEP, "torch")
SECONDS = (0.0, 0.5, 1.0, 1.5)


def facts(family: str, count: int = 4) -> VideoFacts:
    pixels = frames(family, count)
    sha = hashlib.sha256(pixels.tobytes()).hexdigest()
    return VideoFacts(pixels.shape[:3], tuple(i / 2 for i in range(count)), 2.0, sha)


def test_patches_are_those_of_the_formula() -> None:
    """One pixel at a time: merged group, patch in the group, channel, frame, row, column."""
    pixels = frames("qwen2_vl", 3)  # the last one is repeated
    flat, grid = patchify(pixels, CLIP)
    assert grid == (2, 4, 4) and flat.shape == (32, 1176)
    four = torch.from_numpy(pixels)[[0, 1, 2, 2]].float()
    mean, std = torch.tensor(CLIP.mean) * 255, torch.tensor(CLIP.std) * 255
    for t, h, w, channel, frame, y, x in (
        (0, 0, 0, 0, 0, 0, 0),
        (1, 3, 2, 1, 1, 5, 13),
        (1, 2, 1, 2, 0, 9, 0),
    ):
        row = ((t * 2 + h // 2) * 2 + w // 2) * 4 + h % 2 * 2 + w % 2
        column = ((channel * 2 + frame) * 14 + y) * 14 + x
        wanted = (four[2 * t + frame, 14 * h + y, 14 * w + x, channel] - mean[channel]) / std[channel]
        assert float(flat[row, column]) == pytest.approx(float(wanted), abs=1e-5)
    assert patchify(frames("qwen3_vl"), HALF)[0].shape == (32, 1536)


@pytest.mark.parametrize("shape", [(4, 50, 56, 3), (4, 56, 56, 1), (0, 56, 56, 3)])
def test_frames_that_fit_no_patches_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="frames"):
        patchify(torch.zeros(shape, dtype=torch.uint8), CLIP)


# VIDEO.md §3.2: five text tokens, merged grid 3 x 2 x 2, two positions a second.
ORIGINAL = [
    (None, [5, 6, 7], 8),
    (1.0, [5, 7, 9], 10),
    (0.5, [5, 6, 7], 8),
    (0.999, [5, 6, 8], 9),
    (1.5, [5, 8, 11], 12),
]


@pytest.mark.parametrize(("step", "times", "text"), ORIGINAL)
def test_original_positions_of_the_published_example(step, times: list[int], text: int) -> None:
    visual = torch.tensor([False] * 5 + [True] * 12 + [False] * 2)
    found = original_positions(visual, [Block(patch_times(3, step, 2), 2, 2)])
    assert found.shape == (3, 1, 19)
    assert found[0, 0, 5:17:4].tolist() == times
    assert found[1, 0, 5:9].tolist() == [5, 5, 6, 6] and found[2, 0, 5:9].tolist() == [5, 6, 5, 6]
    assert found[:, 0, 17].tolist() == [text] * 3 and found[:, 0, 18].tolist() == [text + 1] * 3


def test_text_behind_a_long_video_goes_on_behind_its_last_time() -> None:
    visual = torch.tensor([False] * 15 + [True] * 46080 + [False])
    assert original_positions(visual, [Block(patch_times(384, None, 1), 8, 15)])[0, 0, -1] == 399


def test_positions_need_grids_that_fit() -> None:
    with pytest.raises(ValueError, match="do not fit"):
        original_positions(torch.tensor([True, True]), [Block((0,), 1, 1)])
    with pytest.raises(ValueError, match="inside a run"):
        original_positions(torch.tensor([True, False, True]), [Block((0,), 1, 2)])


def test_timestamps_are_means_of_two_frames() -> None:
    assert timestamps([0.0, 0.5, 1.0, 1.5]) == ["<0.2 seconds>", "<1.2 seconds>"]
    assert timestamps([0.0, 1.0, 2.0]) == ["<0.5 seconds>", "<2.0 seconds>"]


LAYOUTS = {
    "qwen2_vl": "<|im_start|>user\n<|vision_start|>" + "<|video_pad|>" * 8 + "<|vision_end|>",
    "qwen3_vl": "<|im_start|>user\n<|vision_start|><0.2 seconds><|vision_start|>"
    + "<|video_pad|>" * 4
    + "<|vision_end|><1.2 seconds><|vision_start|>"
    + "<|video_pad|>" * 4
    + "<|vision_end|><|vision_end|>",
}
LAYOUTS["qwen2_5_vl"] = LAYOUTS["qwen2_vl"]
# Rows t, h, w of the first video token, the last one, and the last token of all.
POSITIONS: dict[str, list[list[int]]] = {
    "qwen2_vl": [[45, 45, 45], [46, 46, 46], [65, 65, 65]],
    "qwen2_5_vl": [[45, 45, 45], [47, 46, 46], [66, 66, 66]],
    "qwen3_vl": [[21, 21, 21], [38, 39, 39], [59, 59, 59]],
}


@pytest.mark.parametrize("family", FAMILIES)
def test_golden_layout_and_positions(family: str) -> None:
    model, words = tiny_vlm(family), tokenizer(family)
    prompt = read_prompt(model, words, "What?", facts(family), "original")
    system = (
        "" if family == "qwen3_vl" else "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
    )
    end = "What?<|im_end|>\n<|im_start|>assistant\n"
    assert words.decode(prompt.ids[0]) == system + LAYOUTS[family] + end
    assert prompt.grid == (2, 4, 4) and int(prompt.layout.visual.sum()) == 8
    assert prompt.layout.token_types.sum() == 16
    places = prompt.layout.visual.nonzero()[:, 0]
    found = [prompt.positions[:, 0, at].tolist() for at in (places[0], places[-1], -1)]
    assert found == POSITIONS[family]
    assert prompt.largest == POSITIONS[family][-1][0]
    asked = [words.decode(prompt.ids[0, i]) for i, (a, _) in enumerate(prompt.layout.spans) if a >= 0]
    assert "".join(asked) == "What?"


def own_inputs(model: Any, family: str, prompt: Any) -> dict[str, Any]:
    """What a processor would give the whole model."""
    pixels, grid = patchify(frames(family), family_of(model.config.to_dict()).form)
    known = {
        "input_ids": prompt.ids,
        "pixel_values_videos": pixels,
        "video_grid_thw": torch.tensor([grid]),
        "mm_token_type_ids": prompt.layout.token_types,
    }
    return known | ({"second_per_grid_ts": torch.tensor([1.0])} if family == "qwen2_5_vl" else {})


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("rule", ["original", "transformers"])
@torch.no_grad()
def test_dense_through_the_hook_equals_transformers(family: str, rule: str) -> None:
    model, words = tiny_vlm(family), tokenizer(family)
    lm = SparseVLM(model, words, DENSE, max_positions=4096, rule=rule)
    prompt = lm.read("Which?", facts(family), 6)
    inputs = own_inputs(model, family, prompt)
    if rule == "original":
        inputs["position_ids"] = prompt.positions
    expected = model.generate(**inputs, max_new_tokens=6, do_sample=False, eos_token_id=None)
    answer = lm.answer(
        prompt, lm.seen(facts(family), lambda: frames(family)), 6, stats := RequestStats(), "ABCD"
    )
    new = expected[0, prompt.ids.shape[1] :]
    stop = next((i + 1 for i, token in enumerate(new.tolist()) if token in lm.stop_ids()), len(new))
    assert answer.text == words.decode(new[:stop], skip_special_tokens=True)
    logits = model(**inputs).logits[0, -1]
    letters = words.convert_tokens_to_ids(list("ABCD"))
    assert answer.letter == "ABCD"[int(logits[letters].argmax())]
    assert stats.density == 1.0 and stats.input_tokens == prompt.ids.shape[1]


@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_the_vision_tower_never_reaches_the_hook(family: str) -> None:
    """The whole model inside the hook: it sees the language layers alone."""
    model, words = tiny_vlm(family), tokenizer(family)
    prompt = read_prompt(model, words, "Which?", facts(family), "original")
    expected = look(model, frames(family)).embeds
    with sparse_prefill(model, SparsePrefill(Streaming(window=1), NO_KEEP, "torch")) as recorder:
        seen = look(model, frames(family)).embeds
        assert recorder.query_tokens == []
        model(**own_inputs(model, family, prompt), position_ids=prompt.positions)
    torch.testing.assert_close(seen, expected, rtol=0, atol=0)
    assert recorder.query_tokens == [prompt.ids.shape[1]] * 2


@pytest.mark.parametrize("family", FAMILIES)
def test_answers_inside_a_prompt_are_graded_as_separate_passes_would(family: str) -> None:
    model, words = tiny_vlm(family), tokenizer(family)
    lm = SparseVLM(model, words, DENSE, max_positions=4096)
    text, video = "first: A then: B", facts(family)
    seen = lm.seen(video, lambda: frames(family))
    hits = lm.grade(lm.read(text, video), seen, [(7, 8), (15, 16)], RequestStats())
    for hit, (start, letter) in zip(hits, ((7, "A"), (15, "B")), strict=True):
        prompt = lm.read(text, video)
        at = next(i for i, span in enumerate(prompt.layout.spans) if span[0] == start)
        with torch.no_grad():
            inputs = own_inputs(model, family, prompt) | {"position_ids": prompt.positions}
            best = int(model(**inputs).logits[0, at - 1].argmax())
        assert hit == (words.decode([best]) == letter)


def test_what_the_tower_saw_is_kept_for_the_next_method() -> None:
    lm = SparseVLM(tiny_vlm("qwen2_vl"), tokenizer("qwen2_vl"), DENSE, max_positions=4096)
    reads = []

    def pixels():
        reads.append(1)
        return frames("qwen2_vl")

    assert lm.seen(facts("qwen2_vl"), pixels) is lm.seen(facts("qwen2_vl"), pixels)
    assert len(reads) == 1


def test_lengths_are_checked_against_positions_and_not_tokens() -> None:
    """64 frames are 128 video tokens and 32 times; text makes up the rest of the positions."""
    video = facts("qwen2_vl", 64)
    lm = SparseVLM(tiny_vlm("qwen2_vl"), tokenizer("qwen2_vl"), DENSE, max_positions=125)
    prompt = lm.read("W", video, 8)
    assert prompt.ids.shape[1] > 125 > prompt.largest
    with pytest.raises(ValueError, match="fewer frames"):
        lm.read("W", video, 125)


def test_another_model_or_other_patches_are_refused() -> None:
    with pytest.raises(ValueError, match="cannot be given a video"):
        family_of({"model_type": "llama"})
    with pytest.raises(ValueError, match="patch_size=16"):
        family_of({"model_type": "qwen2_vl", "vision_config": {"patch_size": 16}})
    with pytest.raises(ValueError, match="multiples of 28"):
        video = VideoFacts((4, 64, 64), SECONDS, 2.0, "x")
        read_prompt(tiny_vlm("qwen2_vl"), tokenizer("qwen2_vl"), "W", video, "original")


def test_the_repetition_penalty_is_that_of_transformers() -> None:
    from transformers import RepetitionPenaltyLogitsProcessor

    logits, text = torch.randn(1, 20), torch.tensor([[3, 4, 4]])
    expected = RepetitionPenaltyLogitsProcessor(1.05)(text, logits.clone())
    torch.testing.assert_close(penalised(logits[0], text[0], 1.05), expected[0])
