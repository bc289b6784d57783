"""Prefill times are clean: kernels are compiled before the first sample, or the sample says so."""

from __future__ import annotations

from statistics import median

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GPT2Config, GPT2LMHeadModel

import rr_bench.run.session
from method.attention import SparsePrefill
from method.full import FullAttention
from method.keep import NO_KEEP
from rr_bench.model.compiles import compiles
from rr_bench.model.lm import SparseHFLM
from rr_bench.report.load import measured
from rr_bench.run.run import run
from rr_bench.run.session import warm_up_lengths
from rr_bench.store.reading import read_store
from tests.test_lm import PROMPT, generation, nested_requests
from tests.tiny import ROWS, tiny_llama, tiny_tokenizer

knobs = pytest.importorskip("triton.knobs", reason="Triton is not installed")


def event() -> None:
    """What Triton does when a kernel is ready."""
    if knobs.compilation.listener is not None:
        knobs.compilation.listener(src=None, metadata={}, metadata_group={}, times=None, cache_hit=True)


def test_compilations_are_counted_and_the_listener_restored(monkeypatch):
    heard = []
    monkeypatch.setattr(knobs.compilation, "listener", lambda **event: heard.append(event))
    before = knobs.compilation.listener
    with compiles() as seen:
        event()
        with compiles() as inner:
            event()
    assert (seen.count, inner.count, len(heard)) == (2, 1, 2)
    assert knobs.compilation.listener is before


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    path = tiny_llama(tmp_path_factory.mktemp("llama"))
    return AutoModelForCausalLM.from_pretrained(path).eval(), AutoTokenizer.from_pretrained(path)


FULL = SparsePrefill(FullAttention(), NO_KEEP)


class Compiling:
    """Dense attention that compiles a kernel in the first layer it sees."""

    ready = False

    def __call__(self, *args, **kwargs):
        if not self.ready:
            event()
        self.ready = True
        return FULL(*args, **kwargs)


@pytest.mark.parametrize("kind", ["generate_until", "loglikelihood"])
def test_a_sample_that_compiled_is_marked(parts, kind):
    lm = SparseHFLM(*parts, Compiling())
    requests = [generation(PROMPT)] if kind == "generate_until" else nested_requests()
    for expected in (True, False):
        getattr(lm, kind)(requests, disable_tqdm=True)
        assert lm.stats["task", 0].compiled is expected


def test_after_a_warm_up_it_is_not(parts):
    lm = SparseHFLM(*parts, Compiling())
    lm.warm_up(parts[1](PROMPT).input_ids)
    lm.generate_until([generation(PROMPT)], disable_tqdm=True)
    assert not lm.stats["task", 0].compiled


def test_a_warm_up_without_memory_leaves_the_error_to_the_sample(parts, monkeypatch):
    def fail(*args, **kwargs):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(parts[0].base_model, "forward", fail)
    SparseHFLM(*parts, FULL).warm_up([3, 4, 5])


def test_lengths_of_a_warm_up():
    assert warm_up_lengths(5000, "cuda", new=True) == [4096, 5000]
    assert warm_up_lengths(5000, "cuda", new=False) == [5000]
    assert warm_up_lengths(1000, "cuda", new=True) == [1000]
    assert warm_up_lengths(5000, "cpu", new=True) == [1024]
    assert warm_up_lengths(64, "cpu", new=True) == [64]
    assert warm_up_lengths(64, "cpu", new=False) == []
    assert warm_up_lengths(0, "cuda", new=True) == warm_up_lengths(0, "cpu", new=True) == []


def test_every_cell_is_warmed_up_at_its_own_prompt(make, monkeypatch):
    seen = []
    monkeypatch.setattr(SparseHFLM, "warm_up", lambda self, ids: seen.append(len(ids)))
    monkeypatch.setattr(rr_bench.run.session, "warm_up_lengths", lambda tokens, device, new: [tokens])
    settings = make(tasks=["json_kv"], lengths=[512, 1024], methods=["full"])
    assert run(settings) == 0
    first = {cell.info.length: cell.samples[0].input_tokens - 1 for cell in read_store(settings.out)[0]}
    assert seen == [first[512], first[1024]]


def test_marked_seconds_are_no_measurement(make, monkeypatch):
    settings = make(tasks=["json_kv"], methods=["full"])
    assert run(settings) == 0
    cells = read_store(settings.out)[0]
    assert not any(sample.compiled for cell in cells for sample in cell.samples)
    assert measured(cells[0]).prefill_s == median(sample.prefill_s for sample in cells[0].samples)
    _, *others = cells[0].samples
    cells[0].samples.columns.compiled[0] = True
    assert measured(cells[0]).prefill_s == median(sample.prefill_s for sample in others)


def test_a_model_of_few_learned_positions_runs(make, tmp_path):
    """Its table ends before the tokens that a warm-up would take of a longer prompt."""
    config = GPT2Config(vocab_size=ROWS, n_embd=64, n_layer=1, n_head=2, n_positions=512)
    torch.manual_seed(0)
    GPT2LMHeadModel(config).save_pretrained(tmp_path / "gpt2")
    tiny_tokenizer(tmp_path / "gpt2")
    settings = make(tasks=["json_kv"], methods=["full"], lengths=[512])
    settings.model.path = str(tmp_path / "gpt2")
    assert run(settings) == 0
