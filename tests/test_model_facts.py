"""What a checkpoint folder tells before it is loaded: positions, RoPE, and whether it can run."""

from __future__ import annotations

import json
import pwd

import pytest
import torch
from transformers import (
    AutoConfig,
    FalconConfig,
    FalconForCausalLM,
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    GPT2Config,
    GPT2LMHeadModel,
    Phi3Config,
    Phi3ForCausalLM,
)

from method.attention import SparsePrefill
from method.full import FullAttention
from method.keep import NO_KEEP
from rr_bench.model.hook import HookError, attention_layers, sparse_prefill
from rr_bench.model.loading import load_model
from rr_bench.plan.device import resolve_device
from rr_bench.plan.families import unsupported
from rr_bench.plan.model_facts import (
    CheckpointError,
    Device,
    check_length,
    lay_rope,
    max_positions,
    read_config,
)
from rr_bench.store.redact import redact
from tests.tiny import SHAPE, tiny_llama, tiny_tokenizer

CPU = Device("cpu", "cpu")
ORIGINAL = "original_max_position_embeddings"
YARN = {"rope_type": "yarn", "factor": 4.0, ORIGINAL: 32768}


def write(folder, **config):
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.mark.parametrize(
    ("positions", "rope", "expected"),
    [
        # The factor is not in the number yet: Qwen2.5 as its card says for long texts.
        (32768, {"rope_type": "yarn", "factor": 4.0, ORIGINAL: 32768}, 131072),
        (4096, {"rope_type": "linear", "factor": 4.0, ORIGINAL: 4096}, 16384),
        (4096, {"rope_type": "dynamic", "factor": 2.0, ORIGINAL: 4096}, 8192),
        (8192, {"rope_type": "llama3", "factor": 8.0, ORIGINAL: 8192}, 65536),
        (4096, {"rope_type": "longrope", "factor": 32.0, ORIGINAL: 4096}, 131072),
        # It is: DeepSeek-Coder, gpt-oss, Llama 3.1, Phi-3.5, and a factor above the ratio.
        (131072, {"rope_type": "yarn", "factor": 4.0, ORIGINAL: 32768}, 131072),
        (131072, {"rope_type": "yarn", "factor": 8.0, ORIGINAL: 32768}, 131072),
        (16384, {"type": "linear", "factor": 4.0}, 16384),
        (8192, {"type": "dynamic", "factor": 2.0}, 8192),
        (131072, {"rope_type": "llama3", "factor": 8.0, ORIGINAL: 8192}, 131072),
        (131072, {"type": "longrope", "short_factor": [1.0], "long_factor": [2.0]}, 131072),
        (131072, {"rope_type": "longrope", ORIGINAL: 4096}, 131072),
        # Nothing is stretched, or only the windowed layers' base differs.
        (131072, {"rope_type": "default"}, 131072),
        (131072, {"full_attention": {"rope_type": "linear", "factor": 8.0}}, 131072),
        (
            32768,
            {"full_attention": YARN, "sliding_attention": {"rope_type": "default"}},
            131072,
        ),
    ],
)
@pytest.mark.parametrize("name", ["rope_scaling", "rope_parameters"])
def test_positions_hold_the_stretching_once(name, positions, rope, expected):
    assert max_positions({"max_position_embeddings": positions, name: rope}) == expected


def test_original_positions_beside_the_rope_settings_count_too():
    config = {"max_position_embeddings": 131072, ORIGINAL: 4096, "rope_scaling": {"type": "longrope"}}
    assert max_positions(config) == 131072


@pytest.mark.parametrize("kind", ["yarn", "linear", "dynamic", "longrope", "llama3"])
def test_a_laid_over_factor_stretches_the_checkpoints_own_positions(tmp_path, kind):
    write(tmp_path, model_type="qwen2", max_position_embeddings=32768, rope_theta=1e6)
    assert max_positions(read_config(tmp_path, {"rope_type": kind, "factor": 2.0})) == 65536
    assert (
        max_positions(read_config(tmp_path, {"rope_type": kind, "factor": 2.0, ORIGINAL: 4096}))
        == 32768
    )
    assert max_positions(read_config(tmp_path)) == 32768


def test_names_of_positions():
    for name in ("max_position_embeddings", "n_positions", "n_ctx", "max_seq_len", "seq_length"):
        assert max_positions({name: 1024}) == 1024
    assert max_positions({"model_type": "x"}) is None


def tiny_gemma3(folder):
    torch.manual_seed(0)
    kinds = ["sliding_attention", "full_attention"]
    shape = {**SHAPE, "head_dim": 64, "sliding_window": 32, "max_position_embeddings": 128}
    Gemma3ForCausalLM(Gemma3TextConfig(**shape, layer_types=kinds)).save_pretrained(folder)
    tiny_tokenizer(folder)
    return folder


def test_rope_settings_reach_the_full_attention_layers_of_nested_settings(tmp_path):
    path = tiny_gemma3(tmp_path)
    rope = {"rope_type": "linear", "factor": 4.0}
    plain, stretched = (
        load_model(path, dtype="float32", device=CPU, rope=one).model.model.rotary_emb
        for one in (None, rope)
    )
    torch.testing.assert_close(
        stretched.full_attention_inv_freq * 4, plain.full_attention_inv_freq, rtol=1e-6, atol=0
    )
    assert torch.equal(stretched.sliding_attention_inv_freq, plain.sliding_attention_inv_freq)
    assert max_positions(read_config(path, rope)) == 512


def test_rope_settings_without_effect_are_refused(tmp_path):
    with pytest.raises(CheckpointError, match="full_attention"):
        lay_rope({"sliding_attention": {"rope_type": "default"}}, YARN, 4096)
    with pytest.raises(CheckpointError, match="rotary"):
        read_config(write(tmp_path, model_type="gpt2", n_positions=1024), YARN)


def test_learned_positions_cannot_be_left(tmp_path):
    config = read_config(write(tmp_path, model_type="gpt2", n_positions=1024))
    check_length(1024, config, allow_extrapolation=False)
    with pytest.raises(CheckpointError, match="1024 learned positions of gpt2"):
        check_length(1025, config, allow_extrapolation=True)


FAMILIES = {
    "encoder-decoder": {"model_type": "t5", "is_encoder_decoder": True},
    "latent attention": {"model_type": "deepseek_v3", "kv_lora_rank": 512},
    "attention sinks": {"model_type": "gpt_oss"},
    "ALiBi": {"model_type": "bloom"},
    "ALiBi position": {"model_type": "falcon", "alibi": True},
    "logits": {"model_type": "gemma2", "attn_logit_softcapping": 50.0},
    "state-space": {"model_type": "mamba2"},
    "hybrid Mamba": {"model_type": "falcon_h1"},
    "AttentionInterface": {"model_type": "gptj"},
    "sliding window": {
        "model_type": "mistral",
        "sliding_window": 4096,
        "max_position_embeddings": 32768,
        "num_hidden_layers": 2,
    },
    "no full-attention layer": {
        "model_type": "new",
        "layer_types": ["sliding_attention"] * 2,
        "num_hidden_layers": 2,
    },
    r"quantised checkpoint \(gptq\)": {
        "model_type": "llama",
        "quantization_config": {"quant_method": "gptq", "bits": 4},
    },
    r"quantised checkpoint \(awq\)": {
        "model_type": "qwen2",
        "quantization_config": {"quant_method": "awq"},
    },
    r"quantised checkpoint \(bitsandbytes\)": {
        "model_type": "llama",
        "quantization_config": {"quant_method": "bitsandbytes", "load_in_4bit": True},
    },
}


@pytest.mark.parametrize("reason", FAMILIES)
def test_a_family_that_cannot_run_is_named_from_its_config(tmp_path, reason):
    config = FAMILIES[reason]
    reason = "window" if reason == "sliding window" else reason
    with pytest.raises(CheckpointError, match=f"{config['model_type']} .*{reason}") as caught:
        read_config(write(tmp_path, **config))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "config",
    [
        {"model_type": "llama"},
        {"model_type": "qwen2", "sliding_window": 131072, "use_sliding_window": False},
        {"model_type": "gemma3_text", "attn_logit_softcapping": None, "sliding_window": 512},
        {
            "model_type": "phi3",
            "sliding_window": 262144,
            "max_position_embeddings": 131072,
            "num_hidden_layers": 2,
        },
        {"model_type": "mistral", "sliding_window": None, "num_hidden_layers": 2},
        {
            "model_type": "granitemoehybrid",
            "layer_types": ["mamba", "attention"],
            "num_hidden_layers": 2,
        },
        {"model_type": "qwen3_next", "layer_types": ["linear_attention", "full_attention"]},
    ],
    ids=lambda config: config["model_type"],
)
def test_families_that_run_are_let_through(config):
    assert unsupported(config) is None


def test_attention_outside_the_interface_is_named_before_any_cell(tmp_path, monkeypatch):
    monkeypatch.setattr("rr_bench.plan.families.OWN_CODE", ())
    config = FalconConfig(vocab_size=1024, hidden_size=64, num_hidden_layers=1, num_attention_heads=2)
    FalconForCausalLM(config).save_pretrained(tmp_path)
    tiny_tokenizer(tmp_path)
    with pytest.raises(CheckpointError, match=r"cannot run here.*AttentionInterface"):
        load_model(tmp_path, dtype="float32", device=CPU)


def phi3(window: int) -> Phi3ForCausalLM:
    torch.manual_seed(0)
    shape = {**SHAPE, "max_position_embeddings": 512, "sliding_window": window}
    return Phi3ForCausalLM(Phi3Config(**shape)).eval()


@pytest.mark.parametrize("window", [512, 1024])
def test_a_window_that_holds_all_positions_is_full_attention(window):
    model = phi3(window)
    assert attention_layers(model.config) == ({0, 1}, set())
    dense = SparsePrefill(FullAttention(), NO_KEEP)
    ids = torch.randint(3, 900, (1, 400), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = model(ids).logits
        tokens = model.generate(ids, max_new_tokens=4, do_sample=False)
        with sparse_prefill(model, dense) as recorder:
            found = model(ids).logits
            assert len(recorder.summary()["density_by_layer"]) == 2
            assert torch.equal(model.generate(ids, max_new_tokens=4, do_sample=False), tokens)
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=2e-5)
        long = ids.repeat(1, 3)[:, : window + 1]
        with pytest.raises(HookError, match="sliding window"), sparse_prefill(model, dense):
            model(long)


def test_a_shorter_window_is_not():
    with pytest.raises(HookError, match="no full-attention layer"):
        attention_layers(phi3(511).config)


def test_a_model_of_learned_positions_loads(tmp_path):
    config = GPT2Config(vocab_size=1024, n_embd=64, n_layer=2, n_head=2, n_positions=64)
    GPT2LMHeadModel(config).save_pretrained(tmp_path)
    tiny_tokenizer(tmp_path)
    assert max_positions(read_config(tmp_path)) == 64
    load_model(tmp_path, dtype="float32", device=CPU)


def test_positions_are_those_of_the_loaded_config(tmp_path):
    """The raw file and transformers' reading of it say the same."""
    path = tiny_llama(tmp_path, max_position_embeddings=256, rope_parameters={**YARN, ORIGINAL: 64})
    raw, loaded = read_config(path), AutoConfig.from_pretrained(path).to_dict()
    assert max_positions(raw) == max_positions(loaded) == 256


@pytest.fixture
def homeless(monkeypatch):
    def nobody(user):
        raise KeyError(user)

    monkeypatch.delenv("HOME")
    monkeypatch.setattr(pwd, "getpwuid", nobody)


def test_nothing_needs_a_home_directory(homeless, tmp_path):
    assert redact("/mnt/data/file.json is missing") == "…/file.json is missing"
    read_config(write(tmp_path, model_type="llama"))


def test_the_cpu_has_no_capability():
    assert resolve_device("cpu") == Device("cpu", "cpu", None)


def test_a_gpu_comes_with_its_capability(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "Some GPU")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (9, 0))
    assert resolve_device("auto") == resolve_device("cuda") == Device("cuda", "Some GPU", "9.0")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(CheckpointError, match="device=cuda"):
        resolve_device("cuda")
