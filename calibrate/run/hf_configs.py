"""transformers configs made of llm-perf's own specs, with no network: one row of a table per family."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from llm_perf.config.loading import get_model_config_by_name
from llm_perf.config.model import LatentAttention, ModelConfig, MoEMLP
from llm_perf.errors import SpecError


def hf_config_of(spec: ModelConfig) -> Any:
    """The transformers config that builds the shapes of a spec.

    Raises:
        SpecError: the architecture has no converter; a folder with a ``config.json`` always works.
    """
    form = _FAMILIES.get(spec.family or "")
    if form is None or any(isinstance(group.attention, LatentAttention) for group in spec.layer_groups):
        raise SpecError(
            f"{spec.name}: no transformers config can be made from the bundled spec of family {spec.family!r} "
            f"(known: {', '.join(sorted(_FAMILIES))}); give --model a folder with its config.json"
        )
    facts = {form.names.get(name, name): value for name, value in _facts(spec, form.positions).items()}
    kept = {name: value for name, value in facts.items() if name not in form.without}
    return _built(form.config, kept | form.more(spec))


def opt_config(**shapes: Any) -> Any:
    """An OPT of these shapes."""
    return _built("OPTConfig", shapes)


def opt_175b_config() -> Any:
    """opt-175b, whose weights are not on the hub, derived from opt-66b's config."""
    config = hf_config_of(get_model_config_by_name("facebook/opt-66b"))
    config.hidden_size = config.word_embed_proj_dim = 12288
    config.ffn_dim = 4 * 12288
    config.num_attention_heads = 96
    config.num_hidden_layers = 96
    return config


def _built(config: str, fields: Mapping[str, Any]) -> Any:
    import transformers

    return getattr(transformers, config)(**fields)


def _facts(spec: ModelConfig, positions: int) -> dict[str, Any]:
    """What configs state of a model, by the names of Llama's."""
    return {
        "vocab_size": spec.vocab_size,
        "hidden_size": spec.hidden_size,
        "intermediate_size": spec.ffn_embed_dim,
        "num_hidden_layers": spec.num_layers,
        "num_attention_heads": spec.n_head,
        "num_key_value_heads": spec.num_key_value_heads,
        "head_dim": getattr(spec.layer_groups[0].attention, "head_dim", None),
        "max_position_embeddings": spec.max_position_embeddings or positions,
        "tie_word_embeddings": spec.tied_embeddings,
    }


@dataclass(frozen=True)
class _Form:
    """A family's config: its class, other names of its fields, those it does not have, and what it states beside them."""

    config: str
    names: Mapping[str, str] = field(default_factory=dict)
    without: tuple[str, ...] = ()
    more: Callable[[ModelConfig], dict[str, Any]] = lambda spec: {}  # noqa: ARG005
    positions: int = 4096


def _window(spec: ModelConfig) -> Any:
    return getattr(spec.layer_groups[0].attention, "window", None)


def _experts(spec: ModelConfig) -> MoEMLP:
    mlp = spec.layer_groups[-1].mlp
    if not isinstance(mlp, MoEMLP):
        raise SpecError(f"{spec.name}: family {spec.family} needs a mixture of experts")
    return mlp


def _opt(spec: ModelConfig) -> dict[str, Any]:
    # OPT-350m is the one that normalises after each block, and has no final norm.
    return {
        "word_embed_proj_dim": spec.embedding_size or spec.hidden_size,
        "do_layer_norm_before": spec.final_norm,
    }


def _mixtral(spec: ModelConfig) -> dict[str, Any]:
    mlp = _experts(spec)
    return {
        "num_local_experts": mlp.num_experts,
        "num_experts_per_tok": mlp.top_k,
        "sliding_window": _window(spec),
    }


def _qwen3_moe(spec: ModelConfig) -> dict[str, Any]:
    mlp = _experts(spec)
    sizes = {"moe_intermediate_size": mlp.ffn_size, "num_experts": mlp.num_experts}
    return {**sizes, "num_experts_per_tok": mlp.top_k, "use_sliding_window": False}


def _falcon(spec: ModelConfig) -> dict[str, Any]:
    heads = spec.num_key_value_heads
    kinds = {"multi_query": heads == 1, "new_decoder_architecture": heads > 1}
    return {**kinds, "parallel_attn": True, "bias": False}


def _gemma2(spec: ModelConfig) -> dict[str, Any]:
    windows = [getattr(group.attention, "window", None) for group in spec.layer_groups]
    return {"sliding_window": next(filter(None, windows), 4096)}


_HEADS = ("num_key_value_heads", "head_dim")
_TIED = "tie_word_embeddings"
_GPT: Final = {
    "hidden_size": "n_embd",
    "num_hidden_layers": "n_layer",
    "num_attention_heads": "n_head",
    "intermediate_size": "n_inner",
    "max_position_embeddings": "n_positions",
}
_BLOOM: Final = _GPT | {"hidden_size": "hidden_size", "max_position_embeddings": "seq_length"}
_GPT2 = _Form("GPT2Config", _GPT, _HEADS, positions=1024)
_FALCON: Final = {"num_key_value_heads": "num_kv_heads", "intermediate_size": "ffn_hidden_size"}
_FAMILIES: Final[dict[str, _Form]] = {
    "opt": _Form("OPTConfig", {"intermediate_size": "ffn_dim"}, (*_HEADS, _TIED), _opt, 2048),
    "bloom": _Form("BloomConfig", _BLOOM, (*_HEADS, _TIED, "n_inner"), positions=2048),
    "llama": _Form("LlamaConfig"),
    "mistral": _Form("MistralConfig", more=lambda spec: {"sliding_window": _window(spec)}),
    "mixtral": _Form("MixtralConfig", more=_mixtral),
    "qwen2": _Form("Qwen2Config", without=("head_dim",), more=lambda _: {"use_sliding_window": False}),
    "gpt_neox": _Form("GPTNeoXConfig", without=_HEADS, positions=2048),
    "gpt2": _GPT2,
    "gpt": _GPT2,
    "gpt3": _GPT2,
    "gptj": _Form("GPTJConfig", _GPT, (*_HEADS, _TIED), positions=2048),
    "falcon": _Form("FalconConfig", _FALCON, ("head_dim",), _falcon, 2048),
    "qwen3": _Form("Qwen3Config", more=lambda _: {"use_sliding_window": False}),
    "qwen3_moe": _Form("Qwen3MoeConfig", more=_qwen3_moe),
    "gemma": _Form("GemmaConfig"),
    "gemma2": _Form("Gemma2Config", more=_gemma2),
    "phi3": _Form(
        "Phi3Config",
        without=("head_dim",),
        more=lambda spec: {"sliding_window": _window(spec), "pad_token_id": 0},
    ),
}
