"""The hook: exact under the dense method, invisible afterwards, and loud where it cannot be exact."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    DynamicCache,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    StaticCache,
)
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from method.attention import SparsePrefill
from method.full import FullAttention
from method.keep import RR_KEEP
from method.rr import RRAttention
from rr_bench.model.hook import NAME, HookError, attention_layers, sparse_prefill
from tests.tiny import SHAPE, tiny_llama, tiny_qwen2, tiny_qwen3

FULL = SparsePrefill(FullAttention(), RR_KEEP)
SPARSE = SparsePrefill(RRAttention(tau=0.5), RR_KEEP)
MAKERS = {"llama": tiny_llama, "qwen2": tiny_qwen2, "qwen3": tiny_qwen3}


def load(path: Path):
    return AutoModelForCausalLM.from_pretrained(path, attn_implementation="sdpa").eval()


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory):
    root = tmp_path_factory.mktemp("models")
    return {name: load(make(root / name)) for name, make in MAKERS.items()}


@pytest.fixture
def llama(models):
    return models["llama"]


def random_ids(length: int, batch: int = 1) -> torch.Tensor:
    return torch.randint(3, 900, (batch, length), generator=torch.Generator().manual_seed(length))


@torch.no_grad()
def logits(model, ids, **kwargs):
    return model(ids, **kwargs).logits


@pytest.mark.parametrize("name", MAKERS)
@pytest.mark.parametrize("length", [2, 129, 300])
def test_dense_method_gives_the_models_own_logits(models, name, length):
    model, ids = models[name], random_ids(length)
    expected = logits(model, ids)
    with sparse_prefill(model, FULL) as recorder:
        found = logits(model, ids)
        summary = recorder.summary()
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=2e-5)
    assert summary["density_by_layer"] == [1.0, 1.0]
    assert summary["density"] == 1.0
    assert summary["prefill_calls"] == 1


def test_a_sparse_method_changes_logits_and_is_counted(llama):
    ids = random_ids(1024)
    with sparse_prefill(llama, SPARSE) as recorder:
        found = logits(llama, ids)
        summary = recorder.summary()
    assert 0 < summary["density"] < 1
    assert (found - logits(llama, ids)).abs().max() > 1e-4


def test_unpadded_batch_is_exact(llama):
    ids = random_ids(150, batch=2)
    with sparse_prefill(llama, FULL):
        found = logits(llama, ids)
    torch.testing.assert_close(found, logits(llama, ids), rtol=1e-4, atol=2e-5)


def test_chunked_prefill_is_bottom_right_aligned(llama):
    ids = random_ids(300)
    with sparse_prefill(llama, FULL) as recorder:
        cache = DynamicCache(config=llama.config)
        parts = [logits(llama, ids[:, a:b], past_key_values=cache) for a, b in [(0, 130), (130, 300)]]
        summary = recorder.summary()
    torch.testing.assert_close(torch.cat(parts, 1), logits(llama, ids), rtol=1e-4, atol=2e-5)
    assert summary["prefill_calls"] == 2
    assert recorder.query_tokens == [130, 130, 170, 170]


def test_chunks_are_weighted_by_their_blocks(llama):
    ids = random_ids(512)
    with sparse_prefill(llama, SPARSE) as recorder:
        cache = DynamicCache(config=llama.config)
        logits(llama, ids[:, :128], past_key_values=cache)
        logits(llama, ids[:, 128:], past_key_values=cache)
        summary = recorder.summary()
        seen = [call[1].density.mean().item() for call in recorder._calls]
    # Layer 0: one block of the triangle in the first chunk, 2 + 3 + 4 in the second.
    assert summary["density_by_layer"][0] == pytest.approx((seen[0] * 1 + seen[2] * 9) / 10)


def test_decode_is_dense_and_not_recorded(llama):
    ids = random_ids(200)
    expected = llama.generate(ids, max_new_tokens=5, do_sample=False)
    with sparse_prefill(llama, FULL) as recorder:
        found = llama.generate(ids, max_new_tokens=5, do_sample=False)
    assert torch.equal(found, expected)
    assert recorder.query_tokens == [200, 200]


def test_reset_forgets_the_sample_before(llama):
    with sparse_prefill(llama, FULL) as recorder:
        logits(llama, random_ids(64))
        recorder.reset()
        logits(llama, random_ids(70))
    assert recorder.query_tokens == [70, 70]
    with pytest.raises(HookError, match="0 calls"):
        recorder.reset()
        recorder.summary()


def test_model_is_left_as_it_was_even_after_an_exception(llama):
    config, ids = llama.config, random_ids(64)
    before, expected = config.to_dict(), logits(llama, ids)
    with pytest.raises(ZeroDivisionError), sparse_prefill(llama, FULL):
        assert llama.config._attn_implementation.startswith(NAME)
        assert config._attn_implementation == "sdpa"
        raise ZeroDivisionError
    assert llama.config is config
    assert all(m.config is config for m in llama.modules() if hasattr(m, "config"))
    assert config.to_dict() == before
    assert not any(NAME in key for key in ALL_ATTENTION_FUNCTIONS)
    assert not any(NAME in key for key in ALL_MASK_ATTENTION_FUNCTIONS)
    assert torch.equal(logits(llama, ids), expected)


def test_another_model_of_the_same_config_is_not_hooked(llama):
    twin, ids = LlamaForCausalLM(llama.config).eval(), random_ids(512)
    assert twin.config is llama.config
    expected = logits(twin, ids)
    with sparse_prefill(llama, SPARSE) as recorder:
        assert torch.equal(logits(twin, ids), expected)
        assert recorder.query_tokens == []
        with sparse_prefill(twin, FULL) as second:
            logits(llama, ids)
            assert (len(recorder.query_tokens), second.query_tokens) == (2, [])


def test_sliding_layers_stay_native_and_are_not_counted(tmp_path):
    window = {"use_sliding_window": True, "sliding_window": 40, "max_window_layers": 1}
    model, ids = load(tiny_qwen2(tmp_path, **window)), random_ids(200)
    assert attention_layers(model.config) == ({0}, {1})
    expected = logits(model, ids)
    tokens = model.generate(ids, max_new_tokens=4, do_sample=False)
    with sparse_prefill(model, FULL) as recorder:
        found = logits(model, ids)
        assert len(recorder.summary()["density_by_layer"]) == 1
        assert torch.equal(model.generate(ids, max_new_tokens=4, do_sample=False), tokens)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=2e-5)


def test_a_model_of_sliding_layers_only_is_refused():
    shape = {**SHAPE, "hidden_size": 64, "intermediate_size": 64, "sliding_window": 32}
    model = MistralForCausalLM(MistralConfig(**shape))
    with pytest.raises(HookError, match="no full-attention layer"), sparse_prefill(model, FULL):
        pass


def test_vision_tower_keeps_its_own_attention():
    text = {
        **SHAPE,
        "vocab_size": 300,
        "hidden_size": 64,
        "intermediate_size": 64,
        "rope_parameters": {"rope_type": "default", "mrope_section": [2, 3, 3], "rope_theta": 1e6},
    }
    vision = {
        "depth": 1,
        "hidden_size": 32,
        "num_heads": 2,
        "intermediate_size": 32,
        "out_hidden_size": 64,
    }
    model = Qwen2_5_VLForConditionalGeneration(Qwen2_5_VLConfig(text_config=text, vision_config=vision))
    ids = random_ids(140).remainder(250)
    expected = logits(model.eval(), ids)
    with sparse_prefill(model, FULL) as recorder:
        found = logits(model, ids)
        assert model.config.vision_config._attn_implementation == "sdpa"
        assert len(recorder.summary()["density_by_layer"]) == 2
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_is_refused(llama, side):
    mask = torch.ones(2, 64, dtype=torch.long)
    mask[0, slice(0, 9) if side == "left" else slice(55, 64)] = 0
    with pytest.raises(HookError, match="padding"), sparse_prefill(llama, FULL):
        logits(llama, random_ids(64, batch=2), attention_mask=mask)


def test_full_mask_of_ones_is_no_padding(llama):
    ids = random_ids(64)
    with sparse_prefill(llama, FULL):
        logits(llama, ids, attention_mask=torch.ones_like(ids))


def test_custom_mask_is_refused(llama):
    mask = torch.ones(1, 1, 64, 64, dtype=torch.bool).tril()
    with pytest.raises(HookError, match="4-D"), sparse_prefill(llama, FULL):
        logits(llama, random_ids(64), attention_mask=mask)


def test_packed_sequences_are_refused(llama):
    positions = torch.cat([torch.arange(30), torch.arange(34)])[None]
    with pytest.raises(HookError, match="packed"), sparse_prefill(llama, FULL):
        logits(llama, random_ids(64), position_ids=positions, use_cache=False)


def test_static_cache_is_refused(llama):
    cache = StaticCache(config=llama.config, max_cache_len=128)
    with pytest.raises(HookError, match="DynamicCache"), sparse_prefill(llama, FULL):
        logits(llama, random_ids(64), past_key_values=cache)


def test_dropout_is_refused(tmp_path):
    model = load(tiny_llama(tmp_path, attention_dropout=0.1)).train()
    with pytest.raises(HookError, match="eval"), sparse_prefill(model, FULL):
        logits(model, random_ids(16))


def test_non_causal_layer_is_refused(llama, monkeypatch):
    monkeypatch.setattr(llama.model.layers[1].self_attn, "is_causal", False)
    with pytest.raises(HookError, match="not causal"), sparse_prefill(llama, FULL):
        logits(llama, random_ids(16))


@pytest.mark.parametrize("name", ["s_aux", "softcap"])
def test_sinks_and_soft_capping_are_refused(llama, name):
    with pytest.raises(HookError, match=name), sparse_prefill(llama, FULL):
        logits(llama, random_ids(16), **{name: torch.ones(4)})


def test_attention_that_bypasses_the_registry_is_refused(llama, monkeypatch):
    def own_attention(hidden_states, **kwargs):
        return hidden_states, None

    monkeypatch.setattr(llama.model.layers[1].self_attn, "forward", own_attention)
    with (
        pytest.raises(HookError, match=r"layers \[1\].*AttentionInterface"),
        sparse_prefill(llama, FULL),
    ):
        logits(llama, random_ids(16))


def test_executor_errors_pass_through_and_leave_the_model_clean(llama):
    unsupported = SparsePrefill(RRAttention(), RR_KEEP, backend="triton")
    with pytest.raises((ValueError, RuntimeError), match="backend"), sparse_prefill(llama, unsupported):
        logits(llama, random_ids(300))
    assert llama.config._attn_implementation == "sdpa"


@pytest.mark.gpu
def test_unsupported_head_size_is_an_error_on_a_gpu(tmp_path):
    model = load(tiny_llama(tmp_path, head_dim=80)).cuda()
    with pytest.raises(ValueError, match="80"), sparse_prefill(model, SPARSE):
        logits(model, random_ids(300).cuda())
