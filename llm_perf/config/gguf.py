"""A model from a GGUF file's header: its metadata as a Hugging Face config, and what each matrix is stored in."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llm_perf.config.formats import MatrixFormat, WeightFormats
from llm_perf.config.layers.linear import Linear
from llm_perf.config.model import ModelConfig
from llm_perf.config.tensor_files import StoredTensor, TensorFile, read_gguf
from llm_perf.errors import SpecError

_FAMILIES = {
    "llama": "llama", "qwen2": "qwen2", "qwen3": "qwen3", "qwen2moe": "qwen2_moe", "qwen3moe": "qwen3_moe", "gemma": "gemma",
    "gemma2": "gemma2", "gemma3": "gemma3_text", "phi2": "phi", "phi3": "phi3", "starcoder2": "starcoder2", "olmo": "olmo",
    "olmo2": "olmo2", "deepseek2": "deepseek_v3", "gpt-oss": "gpt_oss", "bloom": "bloom", "gpt2": "gpt2",
    "gptneox": "gpt_neox", "falcon": "falcon", "internlm2": "internlm2", "mistral": "mistral", "phimoe": "phimoe",
}  # fmt: skip
"""``general.architecture`` of llama.cpp and the model type of the same shapes."""


@dataclass(frozen=True, slots=True)
class GGUFModel:
    """A header's model: ``config`` in the words of a Hugging Face config.json, and the file's tensors."""

    name: str
    config: dict[str, Any]
    file: TensorFile


def read_gguf_model(path: Path) -> GGUFModel:
    """The model of a GGUF file.

    Raises:
        SpecError: the file cannot be read, or its architecture or a size is not known.
    """
    file = read_gguf(path)
    architecture = file.keys.get("general.architecture")
    if not isinstance(architecture, str) or architecture not in _FAMILIES:
        raise SpecError(
            f"{path}: general.architecture = {str(architecture)[:60]!r}: not supported; supported: "
            + ", ".join(sorted(_FAMILIES))
        )
    facts = _Facts(path, architecture, file)
    config = facts.config()
    name = file.keys.get("general.name")
    stem = name if isinstance(name, str) and name.strip() and name.isprintable() else path.stem
    return GGUFModel(stem[:150], config, file)


class _Facts:
    """Sizes of a header, each checked when it is read."""

    def __init__(self, path: Path, architecture: str, file: TensorFile) -> None:
        self.path, self.architecture, self.file = path, architecture, file
        self.tensors = {tensor.name: tensor for tensor in file.tensors}

    def size(self, name: str) -> int | None:
        """A number; of an array with one per layer, the most frequent that is not 0."""
        value = self.file.keys.get(f"{self.architecture}.{name}")
        if isinstance(value, list):
            counts = Counter(entry for entry in value if type(entry) is int and entry > 0)
            if len(counts) > 1:
                raise SpecError(
                    f"{self.path}: {self.architecture}.{name} differs between layers: not supported"
                )
            value = next(iter(counts), None)
        if value is None:
            return None
        if type(value) is not int or not 0 <= value < 10**12:
            raise SpecError(f"{self.path}: {self.architecture}.{name} = {value!r}: expected a whole number")
        return value

    def needed(self, name: str) -> int:
        found = self.size(name)
        if not found:
            raise SpecError(f"{self.path}: {self.architecture}.{name} is missing")
        return found

    def vocabulary(self) -> int:
        table = self.tensors.get("token_embd.weight")
        if table is None or len(table.shape) != 2:
            raise SpecError(f"{self.path}: has no token_embd.weight: a part of a model, or no language model")
        return table.shape[1]

    def config(self) -> dict[str, Any]:
        heads = self.needed("attention.head_count")
        found: dict[str, Any] = {
            "model_type": self._family(),
            "hidden_size": self.needed("embedding_length"),
            "num_hidden_layers": self.needed("block_count") - (self.size("nextn_predict_layers") or 0),
            "num_attention_heads": heads,
            "num_key_value_heads": self.size("attention.head_count_kv") or heads,
            "vocab_size": self.vocabulary(),
            "tie_word_embeddings": "output.weight" not in self.tensors,
            "max_position_embeddings": self.needed("context_length"),
            "intermediate_size": self.size("feed_forward_length"),
            "head_dim": self.size("attention.key_length"),
        }
        if found["model_type"] in ("llama", "qwen3", "olmo"):
            found["attention_bias"] = "blk.0.attn_q.bias" in self.tensors
        found |= self._experts() | self._window() | self._latent()
        return {key: value for key, value in found.items() if value is not None}

    def _family(self) -> str:
        family = _FAMILIES[self.architecture]
        if family == "llama" and self.size("expert_count"):
            return "mixtral"
        if family == "deepseek_v3" and not any("exp_probs_b" in name for name in self.tensors):
            return "deepseek_v2"
        return family

    def _experts(self) -> dict[str, Any]:
        experts = self.size("expert_count")
        if not experts:
            return {}
        names = ("num_experts", "num_local_experts", "n_routed_experts")
        width = self.size("expert_feed_forward_length")
        found: dict[str, Any] = dict.fromkeys(names, experts)
        found |= {"num_experts_per_tok": self.needed("expert_used_count"), "moe_intermediate_size": width}
        shared = self.size("expert_shared_feed_forward_length")
        found |= {
            "shared_expert_intermediate_size": shared,
            "n_shared_experts": self.size("expert_shared_count"),
        }
        found["first_k_dense_replace"] = self.size("leading_dense_block_count")
        if self.architecture == "gpt-oss" and width:
            found["intermediate_size"] = width
        return found

    def _window(self) -> dict[str, Any]:
        window = self.size("attention.sliding_window")
        return {"sliding_window": window} if window else {}

    def _latent(self) -> dict[str, Any]:
        rank = self.size("attention.kv_lora_rank")
        if not rank:
            return {}
        rotary = self.needed("rope.dimension_count")
        key = self.size("attention.key_length_mla") or self.needed("attention.key_length")
        value = self.size("attention.value_length_mla") or self.needed("attention.value_length")
        return {
            "kv_lora_rank": rank, "q_lora_rank": self.size("attention.q_lora_rank"), "qk_rope_head_dim": rotary,
            "qk_nope_head_dim": key - rotary, "v_head_dim": value, "head_dim": None,
            "num_key_value_heads": self.needed("attention.head_count"),
        }  # fmt: skip


_LAYER = re.compile(r"blk\.\d+\.(.+)\.weight$")
_LATENT = {
    "q": ("attn_q_b", "attn_q"), "kv_down": ("attn_kv_a_mqa",), "kv_up": ("attn_kv_b", "attn_k_b", "attn_v_b"),
}  # fmt: skip
_BLOCKS = {"mlp": "", "expert": "_exps", "shared": "_shexp"}


class _Types:
    """Mean bits and commonest type of every kind of matrix in a file, over all layers that have it."""

    def __init__(self, file: TensorFile) -> None:
        self.file = file
        self._groups: dict[str, list[StoredTensor]] = {}
        for tensor in file.tensors:
            found = _LAYER.match(tensor.name)
            kind = found.group(1) if found else tensor.name.removesuffix(".weight")
            self._groups.setdefault(kind, []).append(tensor)
        self._used: set[str] = set()

    def of(self, names: tuple[str, ...]) -> MatrixFormat | None:
        """The format of a matrix that may have these names; None where the file has none of them."""
        tensors = [tensor for name in names for tensor in self._groups.get(name, ())]
        elements = sum(tensor.elements for tensor in tensors)
        if not elements:
            return None
        self._used.update(name for name in names if name in self._groups)
        most = Counter(tensor.dtype for tensor in tensors).most_common(1)[0][0]
        wide = most in ("f32", "f16", "bf16")
        bits = sum(tensor.size_bytes for tensor in tensors) * 8 / elements
        return MatrixFormat(bits, "16-bit" if wide else "weight-only", most)

    def rest_bits(self) -> float:
        """Mean bits of whatever was not asked for: norms, biases and the like."""
        rest = [tensor for name, group in self._groups.items() if name not in self._used for tensor in group]
        elements = sum(tensor.elements for tensor in rest)
        return sum(tensor.size_bytes for tensor in rest) * 8 / elements if elements else 32.0


def file_formats(path: Path, file: TensorFile, model: ModelConfig) -> WeightFormats:
    """What each matrix of a GGUF file is stored in.

    Raises:
        SpecError: a matrix that the model has is not in the file.
    """
    types = _Types(file)
    rows = []
    for group in model.layer_groups:
        linears = group.attention.linears(model.hidden_size) + group.mlp.linears(model.hidden_size)
        row = []
        for index, linear in enumerate(linears):
            names = _tensor_names(linears, index, linear)
            found = types.of(names)
            if found is None:
                raise SpecError(f"{path}: has no {names[0]}, which a model of its architecture has")
            row.append(found)
        rows.append(tuple(row))
    embedding = types.of(("token_embd",)) or MatrixFormat()
    head = types.of(("output",)) or embedding
    sizes: Counter[str] = Counter()
    for tensor in file.tensors:
        sizes[tensor.dtype] += int(tensor.size_bytes)
    name = sizes.most_common(1)[0][0]
    why = f"as in the file, {file.size_bytes / 1e9:.2f} GB of tensors"
    return WeightFormats(name, why, tuple(rows), embedding, head, types.rest_bits())


def _tensor_names(linears: tuple[Linear, ...], index: int, linear: Linear) -> tuple[str, ...]:
    """Names that llama.cpp gives a matrix of a layer."""
    block, _, part = linear.op.rpartition("_")
    if block.split("_")[0] in _BLOCKS and part in ("up", "down"):
        suffix = _BLOCKS[block.split("_")[0]]
        if part == "down":
            return (f"ffn_down{suffix}",)
        ups = [i for i, other in enumerate(linears) if other.op == linear.op]
        if len(ups) == 2 and index == ups[0]:
            return (f"ffn_gate{suffix}", f"ffn_up{suffix}")
        return (f"ffn_up{suffix}",)
    if linear.op == "router":
        return ("ffn_gate_inp",) if linear.out_features > 1 else ("ffn_gate_inp_shexp",)
    if linear.op == "attention_output":
        return ("attn_output",)
    if linear.op == "kv_down" and index == 0 and any(other.op == "q" for other in linears[1:]):
        return ("attn_q_a",)
    if linear.op in _LATENT:
        return _LATENT[linear.op]
    return (f"attn_{'qkv'[min(index, 2)]}", "attn_qkv")


def load_gguf(path: Path) -> ModelConfig:
    """A model with the formats of its tensors, from the header of a GGUF file.

    Raises:
        SpecError: the file cannot be read, or describes no model that is supported.
    """
    from llm_perf.config.huggingface import from_hf_config

    read = read_gguf_model(path)
    model = from_hf_config(read.config, read.name)
    return model.replace(
        stored_formats=file_formats(path, read.file, model),
        checkpoint_bytes=int(read.file.size_bytes),
        source=f"GGUF file, general.architecture {read.file.keys['general.architecture']}",
    )
