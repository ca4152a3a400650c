"""A model from a GGUF file's header: its metadata as a Hugging Face config, and what each matrix is stored in."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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


def stored_bits(file: TensorFile) -> Callable[[tuple[str, ...]], tuple[float, str] | None]:
    """A function from names of a matrix (``attn_q``, ``output``) to its mean bits per element over layers and its type.

    It returns None where the file has no such matrix.
    """
    groups: dict[str, list[StoredTensor]] = {}
    for tensor in file.tensors:
        found = _LAYER.match(tensor.name)
        groups.setdefault(found.group(1) if found else tensor.name.removesuffix(".weight"), []).append(tensor)

    def of(names: tuple[str, ...]) -> tuple[float, str] | None:
        tensors = [tensor for name in names for tensor in groups.get(name, ())]
        elements = sum(tensor.elements for tensor in tensors)
        if not elements:
            return None
        most = Counter(tensor.dtype for tensor in tensors).most_common(1)[0][0]
        return sum(tensor.size_bytes for tensor in tensors) * 8 / elements, most

    return of
