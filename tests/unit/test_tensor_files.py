"""Headers of GGUF and safetensors files: small ones made here, cut off, foreign and hostile ones."""

from __future__ import annotations

import json
import os
import random
import struct
from pathlib import Path
from typing import Any

import pytest

from llm_perf.analysis.request import InferenceInputs, build_scenario
from llm_perf.config.formats import FORMATS
from llm_perf.config.loading import get_model_config_by_name
from llm_perf.config.tensor_files import read_gguf, read_safetensors
from llm_perf.counts.parameters import total_params
from llm_perf.counts.weight_formats import checkpoint_bytes, checkpoint_difference
from llm_perf.errors import SpecError
from llm_perf.systems.footprint import model_weight_bytes

F32, F16, Q4_K, Q6_K, MXFP4, Q8_0 = 0, 1, 12, 14, 39, 8


def _text(value: str) -> bytes:
    return struct.pack("<Q", len(value.encode())) + value.encode()


def _gguf(keys: dict[str, Any], tensors: list[tuple[str, tuple[int, ...], int]]) -> bytes:
    """A GGUF header, version 3."""
    out = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(keys))
    for name, value in keys.items():
        out += _text(name)
        if isinstance(value, str):
            out += struct.pack("<I", 8) + _text(value)
        elif isinstance(value, list) and value and isinstance(value[0], str):
            out += struct.pack("<IIQ", 9, 8, len(value)) + b"".join(map(_text, value))
        elif isinstance(value, list):
            out += struct.pack("<IIQ", 9, 5, len(value)) + struct.pack(f"<{len(value)}i", *value)
        else:
            out += struct.pack("<II", 4, value)
    for name, shape, kind in tensors:
        out += _text(name) + struct.pack("<I", len(shape)) + struct.pack(f"<{len(shape)}Q", *shape)
        out += struct.pack("<IQ", kind, 0)
    return out


_HIDDEN, _FFN, _VOCAB, _LAYERS = 512, 1024, 1000, 4


def _keys(architecture: str, **more: Any) -> dict[str, Any]:
    facts = {
        "block_count": _LAYERS, "embedding_length": _HIDDEN, "feed_forward_length": _FFN, "attention.head_count": 8,
        "attention.head_count_kv": 2, "context_length": 4096, **more,
    }  # fmt: skip
    tokens = {"tokenizer.ggml.tokens": [f"token {i}" for i in range(_VOCAB)]}
    return {"general.architecture": architecture, "general.name": "Small"} | tokens | {
        f"{architecture}.{name.replace('__', '.')}": value for name, value in facts.items()
    }  # fmt: skip


def _attention(layer: int) -> list[tuple[str, tuple[int, ...], int]]:
    at, narrow = f"blk.{layer}.", _HIDDEN // 4
    return [
        (f"{at}attn_norm.weight", (_HIDDEN,), F32), (f"{at}ffn_norm.weight", (_HIDDEN,), F32),
        (f"{at}attn_q.weight", (_HIDDEN, _HIDDEN), Q4_K), (f"{at}attn_k.weight", (_HIDDEN, narrow), Q4_K),
        (f"{at}attn_v.weight", (_HIDDEN, narrow), Q6_K if layer % 2 else Q4_K),
        (f"{at}attn_output.weight", (_HIDDEN, _HIDDEN), Q4_K),
    ]  # fmt: skip


def _llama() -> bytes:
    tensors = [("token_embd.weight", (_HIDDEN, _VOCAB), Q4_K), ("output.weight", (_HIDDEN, _VOCAB), Q6_K)]
    tensors += [("output_norm.weight", (_HIDDEN,), F32)]  # type: ignore[list-item]
    for layer in range(_LAYERS):
        tensors += _attention(layer)  # type: ignore[arg-type]
        tensors += [
            (f"blk.{layer}.ffn_gate.weight", (_HIDDEN, _FFN), Q4_K),
            (f"blk.{layer}.ffn_up.weight", (_HIDDEN, _FFN), Q4_K),
            (f"blk.{layer}.ffn_down.weight", (_FFN, _HIDDEN), Q6_K),
        ]
    return _gguf(_keys("llama"), tensors)  # type: ignore[arg-type]


def _mixture() -> bytes:
    tensors: list[tuple[str, tuple[int, ...], int]] = [("token_embd.weight", (_HIDDEN, _VOCAB), Q8_0)]
    tensors += [("output_norm.weight", (_HIDDEN,), F32), ("output.weight", (_HIDDEN, _VOCAB), Q8_0)]
    for layer in range(_LAYERS):
        at = f"blk.{layer}."
        tensors += _attention(layer)
        tensors += [(f"{at}attn_q_norm.weight", (64,), F32), (f"{at}attn_k_norm.weight", (64,), F32)]
        tensors += [(f"{at}ffn_gate_inp.weight", (_HIDDEN, 16), F32)]
        tensors += [(f"{at}ffn_{part}_exps.weight", (_HIDDEN, 256, 16), MXFP4) for part in ("gate", "up")]
        tensors += [(f"{at}ffn_down_exps.weight", (256, _HIDDEN, 16), MXFP4)]
    more = {
        "expert_count": 16,
        "expert_used_count": 4,
        "expert_feed_forward_length": 256,
        "attention.key_length": 64,
    }
    return _gguf(_keys("qwen3moe", **more), tensors)


@pytest.mark.parametrize("content", [_llama(), _mixture()], ids=["llama", "qwen3moe"])
def test_a_gguf_file_is_counted_to_the_byte(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "small.gguf"
    file.write_bytes(content)
    header = read_gguf(file)
    model = get_model_config_by_name(str(file))
    assert total_params(model) == sum(tensor.elements for tensor in header.tensors)
    assert model.stored_formats is not None
    assert checkpoint_bytes(model, model.stored_formats) == pytest.approx(header.size_bytes, rel=1e-12)
    scenario = build_scenario(InferenceInputs(model=str(file), gpu="rtx-4090", system="llama_cpp"))
    assert model_weight_bytes(scenario) == pytest.approx(header.size_bytes, rel=1e-12)
    assert checkpoint_difference(model) is None


def test_types_of_a_gguf_file(tmp_path: Path) -> None:
    file = tmp_path / "small.gguf"
    file.write_bytes(_llama())
    formats = get_model_config_by_name(str(file)).stored_formats
    assert formats is not None
    query, _, value, _, gate, _, down = formats.layers[0]
    assert query.bits == gate.bits == FORMATS["q4_k"].stored_bits
    assert value.bits == (4.5 + 6.5625) / 2
    assert down.bits == formats.head.bits == 6.5625
    assert formats.vector_bits == 32


def test_split_files_are_one_model(tmp_path: Path) -> None:
    whole = tmp_path / "whole.gguf"
    whole.write_bytes(_llama())
    header = read_gguf(whole)
    codes = {"q4_k": Q4_K, "q6_k": Q6_K, "f32": F32}
    tensors = [(tensor.name, tensor.shape, codes[tensor.dtype]) for tensor in header.tensors]
    (tmp_path / "m-00001-of-00002.gguf").write_bytes(_gguf(_keys("llama"), tensors[:9]))
    (tmp_path / "m-00002-of-00002.gguf").write_bytes(_gguf({"split.no": 1}, tensors[9:]))
    for part in (1, 2):
        split = read_gguf(tmp_path / f"m-0000{part}-of-00002.gguf")
        assert split.size_bytes == header.size_bytes
        assert split.keys["general.architecture"] == "llama"
    (tmp_path / "m-00002-of-00002.gguf").unlink()
    with pytest.raises(SpecError, match="00002-of-00002"):
        read_gguf(tmp_path / "m-00001-of-00002.gguf")


def test_every_cut_of_a_gguf_header_is_one_error(tmp_path: Path) -> None:
    content = _llama()
    file = tmp_path / "cut.gguf"
    for length in [*range(60), *range(60, len(content), 211), len(content) - 1]:
        file.write_bytes(content[:length])
        with pytest.raises(SpecError, match=r"cut\.gguf"):
            read_gguf(file)


def test_fuzzed_gguf_headers_raise_nothing_but_spec_errors(tmp_path: Path) -> None:
    draw = random.Random(7)
    content = _llama()
    file = tmp_path / "fuzz.gguf"
    read = 0
    for _ in range(400):
        changed = bytearray(content)
        for _ in range(draw.choice([1, 1, 4, 40])):
            at = draw.randrange(len(changed)) if draw.random() < 0.5 else draw.randrange(32)
            changed[at] = draw.choice([0, 1, 255, draw.randrange(256)])
        file.write_bytes(bytes(changed))
        try:
            get_model_config_by_name(str(file))
            read += 1
        except SpecError:
            pass
    assert 20 < read < 400


@pytest.mark.parametrize(
    "content",
    [b"", b"GGUF", b"GGML" + bytes(100), b"GGUF" + struct.pack("<IQQ", 1, 0, 0), b"GGUF" + struct.pack("<IQQ", 3, 2**63, 0),
     b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + struct.pack("<Q", 2**62),
     _gguf({"general.architecture": "clip"}, []), _gguf({}, [])],
)  # fmt: skip
def test_foreign_gguf_files_are_refused(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "foreign.gguf"
    file.write_bytes(content)
    with pytest.raises(SpecError, match=r"foreign\.gguf"):
        get_model_config_by_name(str(file))


@pytest.mark.parametrize("suffix", [".gguf", ".safetensors"])
def test_pipes_devices_folders_and_nothing_are_refused(tmp_path: Path, suffix: str) -> None:
    pipe, folder = tmp_path / f"pipe{suffix}", tmp_path / f"folder{suffix}"
    os.mkfifo(pipe)
    folder.mkdir()
    link = tmp_path / f"zero{suffix}"
    link.symlink_to("/dev/zero")
    for path in (pipe, folder, link, tmp_path / f"none{suffix}"):
        with pytest.raises(SpecError):
            get_model_config_by_name(str(path))


def _safetensors(header: Any, data: int = 0) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + bytes(data)


_TENSOR = {"dtype": "BF16", "shape": [4, 8], "data_offsets": [0, 64]}


def test_a_safetensors_header(tmp_path: Path) -> None:
    file = tmp_path / "a.safetensors"
    file.write_bytes(_safetensors({"__metadata__": {"format": "pt"}, "w": _TENSOR}, 64))
    (tensor,) = read_safetensors(file).tensors
    assert (tensor.shape, tensor.dtype, tensor.size_bytes) == ((4, 8), "BF16", 64)


@pytest.mark.parametrize(
    "content",
    [b"", b"1234", _safetensors({"w": _TENSOR}, 63), _safetensors({"w": _TENSOR})[:40],
     _safetensors(b"nonsense"), _safetensors([1]),
     _safetensors({"w": 1}), _safetensors({"w": _TENSOR | {"shape": [-1]}}),
     _safetensors({"w": _TENSOR | {"data_offsets": [9, 1]}}),
     _safetensors(b"[" * 100_000), struct.pack("<Q", 2**63) + b"{}"],
)  # fmt: skip
def test_broken_safetensors_files_are_refused(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "broken.safetensors"
    file.write_bytes(content)
    with pytest.raises(SpecError, match=r"broken\.safetensors"):
        read_safetensors(file)


def test_safetensors_beside_a_config(tmp_path: Path) -> None:
    file = tmp_path / "model.safetensors"
    file.write_bytes(_safetensors({"w": _TENSOR}, 64))
    with pytest.raises(SpecError, match=r"needs config\.json"):
        get_model_config_by_name(str(file))
    config = {"model_type": "llama", "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2,
              "num_attention_heads": 4, "vocab_size": 100, "architectures": ["LlamaForCausalLM"]}  # fmt: skip
    (tmp_path / "config.json").write_text(json.dumps(config))
    model = get_model_config_by_name(str(file))
    assert model.checkpoint_bytes == 64
    assert checkpoint_difference(model) is not None
