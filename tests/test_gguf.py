"""GGUF files as models: the same logits, tokens and stops as the file means, unpacked once."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from method.attention import SparsePrefill
from method.full import FullAttention
from method.keep import NO_KEEP
from rr_bench.model.lm import SparseHFLM
from rr_bench.model.loading import load_model
from rr_bench.plan import gguf as gguf_files
from rr_bench.plan.gguf import converted, origin
from rr_bench.plan.gguf_tokenizer import TokenizerError, build_tokenizer, stop_token_ids
from rr_bench.plan.model_facts import CheckpointError, Device, max_positions, read_config, resolve_path
from rr_bench.store.fingerprint import file_hash
from tests.test_lm import generation

gguf = pytest.importorskip("gguf", reason="the package gguf is not installed")

LAYERS, HIDDEN, HEADS, KV_HEADS = 2, 64, 4, 2
CHAT = "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
TEXT = "The  special 123 numbers\n\n  12 it's <|im_start|>user"
FULL = SparsePrefill(FullAttention(), NO_KEEP)


def vocabulary() -> tuple[list[str], list[int]]:
    """Bytes, three merges, and special tokens as in SmolLM2 and Qwen2: tokens and their kinds."""
    from tokenizers.pre_tokenizers import ByteLevel

    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    tokens = [*special, *sorted(ByteLevel.alphabet()), "th", "ĠĠ", "12", "<tool>"]
    kinds = [3 if token in special else 1 for token in tokens]
    return tokens, [*kinds[:-1], 4]


def write_gguf(path: Path, arch: str = "llama", pre: str = "smollm", **changes) -> Path:
    """A random model of two layers; ``changes`` are extra string fields, ``None`` leaves one out."""
    tokens, kinds = vocabulary()
    writer = gguf.GGUFWriter(path, arch)
    writer.add_name("tiny")
    writer.add_block_count(LAYERS)
    writer.add_context_length(512)
    writer.add_embedding_length(HIDDEN)
    writer.add_feed_forward_length(HIDDEN)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_rope_freq_base(1e4)
    writer.add_layer_norm_rms_eps(1e-6)
    if changes.pop("tokenizer", True):
        writer.add_tokenizer_model("gpt2")
        writer.add_tokenizer_pre(pre)
        writer.add_token_list(tokens)
        writer.add_token_types(kinds)
        writer.add_token_merges(["t h", "Ġ Ġ", "1 2"])
        writer.add_bos_token_id(1)
        writer.add_eos_token_id(2)
        writer.add_pad_token_id(0)
        writer.add_add_bos_token(False)
        writer.add_chat_template(CHAT)
    for name, value in changes.items():
        writer.add_string(name, value)
    _add_tensors(writer, len(tokens), bias=arch == "qwen2")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _add_tensors(writer, tokens: int, bias: bool) -> None:
    rng = np.random.default_rng(0)

    def add(name: str, *shape: int) -> None:
        data = rng.standard_normal(shape).astype(np.float32) * 0.1
        writer.add_tensor(name, data + 1 if "norm" in name else data)

    add("token_embd.weight", tokens, HIDDEN)
    add("output.weight", tokens, HIDDEN)
    add("output_norm.weight", HIDDEN)
    keys = HIDDEN // HEADS * KV_HEADS
    for layer in range(LAYERS):
        shapes = {"attn_q": HIDDEN, "attn_k": keys, "attn_v": keys, "attn_output": HIDDEN}
        for name, rows in shapes.items():
            add(f"blk.{layer}.{name}.weight", rows, HIDDEN)
            if bias and name != "attn_output":
                add(f"blk.{layer}.{name}.bias", rows)
        for name in ("ffn_gate", "ffn_up", "ffn_down"):
            add(f"blk.{layer}.{name}.weight", HIDDEN, HIDDEN)
        for name in ("attn_norm", "ffn_norm"):
            add(f"blk.{layer}.{name}.weight", HIDDEN)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("RR_BENCH_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    return write_gguf(tmp_path_factory.mktemp("gguf") / "tiny.gguf")


@pytest.fixture(scope="module")
def folder(file, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RR_BENCH_CACHE", str(tmp_path_factory.mktemp("cache")))
        return converted(file)


def test_logits_and_generation_equal_a_direct_load(file, folder):
    loaded = load_model(folder, dtype="bfloat16", device=Device("cpu", "cpu"))
    direct = AutoModelForCausalLM.from_pretrained(
        file.parent, gguf_file=file.name, dtype=torch.bfloat16
    ).eval()
    ids = loaded.tokenizer(TEXT * 4, return_tensors="pt").input_ids
    with torch.no_grad():
        assert torch.equal(loaded.model(ids).logits, direct(ids).logits)
        tokens = direct.generate(ids, max_new_tokens=8, do_sample=False, eos_token_id=[0, 2])
    lm = SparseHFLM(loaded.model, loaded.tokenizer, FULL)
    found = lm.generate_until([generation(TEXT * 4, max_gen_toks=8)], disable_tqdm=True)
    answer = loaded.tokenizer.decode(tokens[0, ids.shape[1] :], skip_special_tokens=True)
    assert found == [answer]


def test_special_tokens_and_chat_template_are_the_files(folder):
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert (tokenizer.bos_token, tokenizer.eos_token, tokenizer.pad_token) == (
        "<|im_start|>",
        "<|im_end|>",
        "<|endoftext|>",
    )
    config = json.loads((folder / "config.json").read_text())
    assert (config["bos_token_id"], config["eos_token_id"], config["pad_token_id"]) == (1, 2, 0)
    assert "quantization_config" not in config
    generation_config = json.loads((folder / "generation_config.json").read_text())
    assert generation_config["eos_token_id"] == [0, 2]
    chat = tokenizer.apply_chat_template([{"role": "user", "content": "Hi"}], tokenize=False)
    assert chat == "<|im_start|>user\nHi<|im_end|>\n"
    assert max_positions(read_config(folder)) == 512


def test_a_qwen2_file_keeps_its_biases(tmp_path):
    file = write_gguf(tmp_path / "qwen.gguf", arch="qwen2", pre="qwen2")
    loaded = load_model(converted(file), dtype="bfloat16", device=Device("cpu", "cpu"))
    direct = AutoModelForCausalLM.from_pretrained(
        tmp_path, gguf_file=file.name, dtype=torch.bfloat16
    ).eval()
    ids = loaded.tokenizer(TEXT, return_tensors="pt").input_ids
    with torch.no_grad():
        assert torch.equal(loaded.model(ids).logits, direct(ids).logits)
    assert loaded.model.model.layers[0].self_attn.q_proj.bias.abs().min() > 0
    assert loaded.tokenizer.eos_token == "<|im_end|>"


def test_text_is_split_as_the_file_says(folder):
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokens = tokenizer.convert_ids_to_tokens(tokenizer("  12 th <|im_end|><tool>").input_ids)
    # Digits stand alone, so both spaces before them belong together.
    assert tokens == ["ĠĠ", "1", "2", "Ġ", "th", "Ġ", "<|im_end|>", "<tool>"]
    assert tokenizer.decode(tokenizer(TEXT).input_ids) == TEXT


@pytest.mark.parametrize(
    ("pre", "text", "expected"),
    [
        ("gpt-2", "  12", ["Ġ", "Ġ", "12"]),
        ("smollm", "  12", ["ĠĠ", "1", "2"]),
        ("qwen2", "  12", ["Ġ", "Ġ", "1", "2"]),
        ("qwen2", "e\u0301", ["Ã", "©"]),
        ("llama-bpe", "  12", ["<|im_start|>", "Ġ", "Ġ", "12"]),
    ],
)
def test_rules_of_splitting(pre, text, expected, tmp_path):
    tokens, kinds = vocabulary()
    fields = {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": pre,
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": kinds,
        "tokenizer.ggml.merges": ["t h", "Ġ Ġ", "1 2"],
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
    }
    tokenizer = build_tokenizer(fields, tmp_path)
    assert tokenizer.convert_ids_to_tokens(tokenizer(text).input_ids) == expected
    assert tokenizer.pad_token == tokenizer.eos_token == "<|im_end|>"
    assert stop_token_ids(fields) == [0, 2]
    with pytest.raises(TokenizerError, match="'unheard-of'"):
        build_tokenizer({**fields, "tokenizer.ggml.pre": "unheard-of"}, tmp_path)
    with pytest.raises(TokenizerError, match="eos token has id 999"):
        build_tokenizer({**fields, "tokenizer.ggml.eos_token_id": 999}, tmp_path)


def test_a_file_is_unpacked_once_and_named_by_its_hash(file, cache, monkeypatch, capsys):
    folder = resolve_path(str(file))
    assert folder.parent == cache and folder.name.startswith(file_hash(file))
    found = origin(folder)
    assert found is not None and (found.file, found.sha256) == ("tiny.gguf", file_hash(file))
    assert "unpacking tiny.gguf" in capsys.readouterr().err
    monkeypatch.setattr(gguf_files, "_convert", None)
    monkeypatch.setattr(gguf_files, "file_hash", None)
    assert resolve_path(str(file)) == resolve_path(str(file.parent)) == folder
    assert not list(cache.glob(".*"))


def test_a_changed_file_is_another_model(tmp_path):
    first = converted(write_gguf(tmp_path / "one.gguf"))
    assert converted(write_gguf(tmp_path / "one.gguf", **{"general.author": "x"})) != first


def test_an_interrupted_conversion_leaves_nothing(file, cache, monkeypatch):
    def interrupted(file, folder):
        (folder / "config.json").write_text("{}")
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(gguf_files, "_convert", interrupted)
        with pytest.raises(KeyboardInterrupt):
            converted(file)
    assert [path.name for path in cache.iterdir()] == ["hashes"]
    assert (converted(file) / "model.safetensors").is_file()


def test_the_faster_of_two_processes_wins(file, cache, monkeypatch):
    real = gguf_files._convert

    def overtaken(path, folder):
        with monkeypatch.context() as patch:
            patch.setattr(gguf_files, "_convert", real)
            converted(path)
        real(path, folder)

    monkeypatch.setattr(gguf_files, "_convert", overtaken)
    assert (converted(file) / "model.safetensors").is_file()
    assert not list(cache.glob(".*"))


def cut(file: Path, folder: Path, share: float) -> Path:
    content = file.read_bytes()
    path = folder / "cut.gguf"
    path.write_bytes(content[: int(len(content) * share)])
    return path


@pytest.mark.parametrize("share", [0.01, 0.2, 0.6, 0.99])
def test_a_truncated_file_is_one_clear_error(file, tmp_path, share):
    with pytest.raises(CheckpointError, match="damaged or cut short") as caught:
        resolve_path(str(cut(file, tmp_path, share)))
    assert "SHA-256" in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"GG", b"PK\x03\x04 a zip file", b"version https://git-lfs"])
def test_a_file_that_is_no_gguf_is_one_clear_error(tmp_path, content):
    path = tmp_path / "model.gguf"
    path.write_bytes(content)
    for given in (path, tmp_path):
        with pytest.raises(CheckpointError, match=r"model\.gguf is no GGUF file"):
            resolve_path(str(given))


def test_a_renamed_file_says_how_to_call_it(file, tmp_path):
    path = tmp_path / "model.bin"
    path.write_bytes(file.read_bytes())
    with pytest.raises(CheckpointError, match=r"rename it to \*\.gguf"):
        resolve_path(str(path))


def test_a_folder_of_several_files_asks_for_one(file, tmp_path):
    for name in ("a.gguf", "b.gguf"):
        (tmp_path / name).write_bytes(file.read_bytes())
    with pytest.raises(CheckpointError, match=r"several.*a\.gguf, b\.gguf"):
        resolve_path(str(tmp_path))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"pre": "unheard-of"}, "rule 'unheard-of'"),
        ({"tokenizer": False}, "no tokenizer"),
        ({"llama.rope.scaling.type": "yarn"}, "stretches its RoPE"),
        ({"split.count": "3"}, "one of 3 parts"),
        ({"arch": "unheard_of"}, "unheard_of"),
        # transformers takes Qwen2's own rule for every Qwen2 model.
        ({"arch": "qwen2", "pre": "smollm"}, "reads its tokenizer back differently"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_what_cannot_be_unpacked_says_why(tmp_path, changes, message):
    with pytest.raises(CheckpointError, match=message):
        converted(write_gguf(tmp_path / "model.gguf", **changes))


def test_without_the_package_the_extra_is_named(file, monkeypatch):
    monkeypatch.setattr(gguf_files, "find_spec", lambda name: None)
    with pytest.raises(CheckpointError, match=r"rr-bench\[gguf\]"):
        converted(file)


def test_a_cache_that_cannot_be_made_is_named(file, tmp_path, monkeypatch):
    (tmp_path / "plain").write_text("")
    monkeypatch.setenv("RR_BENCH_CACHE", str(tmp_path / "plain" / "cache"))
    with pytest.raises(CheckpointError, match="RR_BENCH_CACHE"):
        converted(file)
    monkeypatch.delenv("RR_BENCH_CACHE")
    monkeypatch.setattr("os.path.expanduser", lambda path: path)
    with pytest.raises(CheckpointError, match=r"no home directory.*RR_BENCH_CACHE"):
        converted(file)
