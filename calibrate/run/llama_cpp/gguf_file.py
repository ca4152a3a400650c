"""A GGUF file with random weights of a model's shapes, and the same in another format by llama-quantize.

Written with the ``gguf`` package, whose names of keys and tensors are llama.cpp's. There is no tokenizer: llama-bench makes
its tokens up.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from calibrate.run.llama_cpp.build import LlamaCpp
from calibrate.run.llama_cpp.child import run_program, why
from llm_perf.config.layers.attention import Attention
from llm_perf.config.layers.experts import MoEMLP
from llm_perf.config.layers.feed_forward import DenseMLP
from llm_perf.config.model import LayerGroup, ModelConfig
from llm_perf.errors import EnvironmentFailure, MissingExtraError, OutputError, SpecError

_SPREAD = 0.02
"""Standard deviation of the weights, as models are initialised."""

_KNOWN = "Llama, Mixtral, Qwen2, Qwen3 and Qwen3-MoE"


@dataclass(frozen=True, slots=True)
class _Tensor:
    """One tensor: its shape as NumPy has it, and whether it stays in 32 bits whatever the file's format."""

    name: str
    shape: tuple[int, ...]
    wide: bool = False
    ones: bool = False


def architecture_of(model: ModelConfig) -> str:
    """llama.cpp's architecture with a model's layers.

    Raises:
        SpecError: none of those that this module writes has them.
    """
    refused = SpecError(
        f"model {model.name!r}: GGUF files of random weights are written for models with the layers of {_KNOWN}; "
        "give a .gguf file of it instead"
    )
    if len(model.layer_groups) != 1 or model.norm != "rmsnorm" or model.learned_positions or model.encoder:
        raise refused
    if model.embedding_size is not None or model.lm_head_bias or model.embedding_norm:
        raise refused
    group = model.layer_groups[0]
    if group.norms != 2 or group.parallel_attention or group.cross_attention or group.other_params:
        raise refused
    attention, mlp = group.attention, group.mlp
    if not isinstance(attention, Attention) or not _plain_attention(attention) or not _plain_mlp(mlp):
        raise refused
    experts = mlp.routed_experts > 0
    if attention.qk_norm:
        if attention.qk_norm != 2 * attention.head_dim or attention.qkv_bias:
            raise refused
        return "qwen3moe" if experts else "qwen3"
    if attention.qkv_bias:
        if experts:
            raise refused
        return "qwen2"
    return "llama"


def _plain_attention(attention: Attention) -> bool:
    plain = Attention(
        num_heads=attention.num_heads, num_kv_heads=attention.num_kv_heads, head_dim=attention.head_dim,
        qkv_bias=attention.qkv_bias, qk_norm=attention.qk_norm,
    )  # fmt: skip
    return attention == plain


def _plain_mlp(mlp: Any) -> bool:
    if type(mlp) is DenseMLP:
        return mlp.gated and not mlp.bias
    if type(mlp) is not MoEMLP:
        return False
    return mlp.gated and not (mlp.bias or mlp.shared_ffn_size or mlp.router_bias or mlp.latent_size)


def _tensors(model: ModelConfig) -> Iterator[_Tensor]:
    """All tensors in the order of the file."""
    hidden, group = model.hidden_size, model.layer_groups[0]
    yield _Tensor("token_embd.weight", (model.vocab_size, hidden))
    yield _Tensor("output_norm.weight", (hidden,), wide=True, ones=True)
    if not model.tied_embeddings:
        yield _Tensor("output.weight", (model.vocab_size, hidden))
    for layer in range(group.count):
        for tensor in _layer_tensors(group, hidden):
            yield _Tensor(f"blk.{layer}.{tensor.name}", tensor.shape, tensor.wide, tensor.ones)


def _layer_tensors(group: LayerGroup, hidden: int) -> Iterator[_Tensor]:
    attention, mlp = group.attention, group.mlp
    if not isinstance(attention, Attention):
        raise TypeError(f"{type(attention).__name__} is no attention that this module writes")
    query, cached = attention.num_heads * attention.head_dim, attention.num_kv_heads * attention.head_dim
    yield _Tensor("attn_norm.weight", (hidden,), wide=True, ones=True)
    for part, width in (("q", query), ("k", cached), ("v", cached)):
        yield _Tensor(f"attn_{part}.weight", (width, hidden))
        if attention.qkv_bias:
            yield _Tensor(f"attn_{part}.bias", (width,), wide=True)
    if attention.qk_norm:
        for part in ("q", "k"):
            yield _Tensor(f"attn_{part}_norm.weight", (attention.head_dim,), wide=True, ones=True)
    yield _Tensor("attn_output.weight", (hidden, query))
    yield _Tensor("ffn_norm.weight", (hidden,), wide=True, ones=True)
    suffix, copies = "", tuple[int, ...]()
    if mlp.routed_experts:
        yield _Tensor("ffn_gate_inp.weight", (mlp.routed_experts, hidden), wide=True)
        suffix, copies = "_exps", (mlp.routed_experts,)
    yield _Tensor(f"ffn_gate{suffix}.weight", (*copies, mlp.ffn_size, hidden))
    yield _Tensor(f"ffn_up{suffix}.weight", (*copies, mlp.ffn_size, hidden))
    yield _Tensor(f"ffn_down{suffix}.weight", (*copies, hidden, mlp.ffn_size))


def write_random_gguf(model: ModelConfig, path: Path, seed: int = 0) -> None:
    """Write a model in F16; norms, biases and routers in F32, as llama.cpp's converter does.

    Args:
        model: Its shapes.
        path: The file.
        seed: Of the weights.

    Raises:
        SpecError: llama.cpp's architectures that are known here have no such layers.
        MissingExtraError: the package ``gguf`` is not installed.
        OutputError: the file cannot be written.
    """
    architecture = architecture_of(model)
    writer = _writer(path, architecture)
    _add_keys(writer, model, architecture)
    tensors = list(_tensors(model))
    for tensor in tensors:
        dtype = np.dtype(np.float32 if tensor.wide else np.float16)
        writer.add_tensor_info(tensor.name, tensor.shape, dtype, int(np.prod(tensor.shape)) * dtype.itemsize)
    generator = np.random.default_rng(seed)
    try:
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        for tensor in tensors:
            writer.write_tensor_data(_values(tensor, generator))
        writer.close()
    except OSError as error:
        raise OutputError(f"{path}: cannot be written: {error.strerror or error}") from None


def _writer(path: Path, architecture: str) -> Any:
    try:
        import gguf
    except ImportError:
        raise MissingExtraError("calibrate", "writing a GGUF file") from None
    return gguf.GGUFWriter(str(path), architecture)


def _add_keys(writer: Any, model: ModelConfig, architecture: str) -> None:
    """What llama.cpp asks for before it takes a model."""
    group = model.layer_groups[0]
    attention, mlp = group.attention, group.mlp
    writer.add_name(model.name)
    writer.add_context_length(model.max_position_embeddings or 4096)
    writer.add_embedding_length(model.hidden_size)
    writer.add_block_count(group.count)
    writer.add_feed_forward_length(mlp.ffn_size)
    writer.add_head_count(attention.num_heads)
    writer.add_head_count_kv(attention.num_kv_heads)
    writer.add_key_length(attention.head_dim)
    writer.add_value_length(attention.head_dim)
    writer.add_rope_dimension_count(attention.head_dim)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(model.vocab_size)
    writer.add_tokenizer_model("no_vocab")
    writer.add_file_type(1)  # mostly F16
    if mlp.routed_experts:
        writer.add_expert_count(mlp.routed_experts)
        writer.add_expert_used_count(mlp.experts_per_token)
        if architecture == "qwen3moe":
            writer.add_expert_feed_forward_length(mlp.ffn_size)


def _values(tensor: _Tensor, generator: np.random.Generator) -> Any:
    if tensor.ones:
        return np.ones(tensor.shape, dtype=np.float32)
    drawn = generator.standard_normal(tensor.shape, dtype=np.float32)
    drawn *= _SPREAD
    return drawn if tensor.wide else drawn.astype(np.float16)


def quantise(programs: LlamaCpp, source: Path, target: Path, weight_format: str, threads: int) -> None:
    """The same model in another format, by llama-quantize.

    Args:
        programs: llama.cpp's.
        source: An F16 file.
        target: The file to write.
        weight_format: Such as ``q4_k_m``.
        threads: Of the conversion.

    Raises:
        EnvironmentFailure: llama-quantize failed, with what it said.
    """
    command = [str(programs.quantize), str(source), str(target), weight_format.upper(), str(threads)]
    done = run_program(command)
    if not target.is_file():
        raise EnvironmentFailure(f"llama-quantize {weight_format}: {why(done.stderr + done.stdout)}")
