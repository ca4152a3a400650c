"""transformers configs made of llm-perf's own specs, with no network: one converter per family."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llm_perf.config.loading import get_model_config_by_name
from llm_perf.config.model import LatentAttention, ModelConfig, MoEMLP
from llm_perf.errors import SpecError


def hf_config_of(spec: ModelConfig) -> Any:
    """The transformers config that builds the shapes of a spec.

    Raises:
        SpecError: the architecture has no converter; a folder with a ``config.json`` always works.
    """
    build = _FAMILIES.get(spec.family or "")
    if build is None or any(isinstance(group.attention, LatentAttention) for group in spec.layer_groups):
        raise SpecError(
            f"{spec.name}: no transformers config can be made from the bundled spec of family {spec.family!r} "
            f"(known: {', '.join(sorted(_FAMILIES))}); give --model a folder with its config.json"
        )
    return build(spec)


def opt_config(**shapes: Any) -> Any:
    """An OPT of these shapes."""
    from transformers import OPTConfig

    return OPTConfig(**shapes)


def opt_175b_config() -> Any:
    """opt-175b, whose weights are not on the hub, derived from opt-66b's config."""
    config = hf_config_of(get_model_config_by_name("facebook/opt-66b"))
    config.hidden_size = config.word_embed_proj_dim = 12288
    config.ffn_dim = 4 * 12288
    config.num_attention_heads = 96
    config.num_hidden_layers = 96
    return config


def _opt(spec: ModelConfig) -> Any:
    return opt_config(
        vocab_size=spec.vocab_size,
        hidden_size=spec.hidden_size,
        word_embed_proj_dim=spec.embedding_size or spec.hidden_size,
        ffn_dim=spec.ffn_embed_dim,
        num_hidden_layers=spec.num_layers,
        num_attention_heads=spec.n_head,
        max_position_embeddings=spec.max_position_embeddings or 2048,
        # OPT-350m is the one that normalises after each block, and has no final norm.
        do_layer_norm_before=spec.final_norm,
    )


def _bloom(spec: ModelConfig) -> Any:
    from transformers import BloomConfig

    return BloomConfig(
        vocab_size=spec.vocab_size,
        hidden_size=spec.hidden_size,
        n_layer=spec.num_layers,
        n_head=spec.n_head,
        seq_length=spec.max_position_embeddings or 2048,
    )


def _llama_like(spec: ModelConfig) -> dict[str, Any]:
    attention = spec.layer_groups[0].attention
    return {
        "vocab_size": spec.vocab_size,
        "hidden_size": spec.hidden_size,
        "intermediate_size": spec.ffn_embed_dim,
        "num_hidden_layers": spec.num_layers,
        "num_attention_heads": spec.n_head,
        "num_key_value_heads": spec.num_key_value_heads,
        "head_dim": getattr(attention, "head_dim", None),
        "max_position_embeddings": spec.max_position_embeddings or 4096,
        "tie_word_embeddings": spec.tied_embeddings,
    }


def _llama(spec: ModelConfig) -> Any:
    from transformers import LlamaConfig

    return LlamaConfig(**_llama_like(spec))


def _mistral(spec: ModelConfig) -> Any:
    from transformers import MistralConfig

    window = getattr(spec.layer_groups[0].attention, "window", None)
    return MistralConfig(**_llama_like(spec), sliding_window=window)


def _mixtral(spec: ModelConfig) -> Any:
    from transformers import MixtralConfig

    mlp = spec.layer_groups[-1].mlp
    if not isinstance(mlp, MoEMLP):
        raise SpecError(f"{spec.name}: family mixtral needs a mixture of experts")
    return MixtralConfig(
        **_llama_like(spec),
        num_local_experts=mlp.num_experts,
        num_experts_per_tok=mlp.top_k,
        sliding_window=getattr(spec.layer_groups[0].attention, "window", None),
    )


def _qwen2(spec: ModelConfig) -> Any:
    from transformers import Qwen2Config

    fields = _llama_like(spec)
    fields.pop("head_dim")
    return Qwen2Config(**fields, use_sliding_window=False)


def _gpt_neox(spec: ModelConfig) -> Any:
    from transformers import GPTNeoXConfig

    return GPTNeoXConfig(
        vocab_size=spec.vocab_size,
        hidden_size=spec.hidden_size,
        intermediate_size=spec.ffn_embed_dim,
        num_hidden_layers=spec.num_layers,
        num_attention_heads=spec.n_head,
        max_position_embeddings=spec.max_position_embeddings or 2048,
        tie_word_embeddings=spec.tied_embeddings,
    )


def _gpt2(spec: ModelConfig) -> Any:
    from transformers import GPT2Config

    return GPT2Config(
        vocab_size=spec.vocab_size,
        n_embd=spec.hidden_size,
        n_layer=spec.num_layers,
        n_head=spec.n_head,
        n_inner=spec.ffn_embed_dim,
        n_positions=spec.max_position_embeddings or 1024,
        tie_word_embeddings=spec.tied_embeddings,
    )


def _gptj(spec: ModelConfig) -> Any:
    from transformers import GPTJConfig

    return GPTJConfig(
        vocab_size=spec.vocab_size,
        n_embd=spec.hidden_size,
        n_layer=spec.num_layers,
        n_head=spec.n_head,
        n_inner=spec.ffn_embed_dim,
        n_positions=spec.max_position_embeddings or 2048,
    )


def _falcon(spec: ModelConfig) -> Any:
    from transformers import FalconConfig

    heads = spec.num_key_value_heads
    return FalconConfig(
        vocab_size=spec.vocab_size,
        hidden_size=spec.hidden_size,
        num_hidden_layers=spec.num_layers,
        num_attention_heads=spec.n_head,
        num_kv_heads=heads,
        multi_query=heads == 1,
        new_decoder_architecture=heads > 1,
        parallel_attn=True,
        bias=False,
        ffn_hidden_size=spec.ffn_embed_dim,
        max_position_embeddings=spec.max_position_embeddings or 2048,
        tie_word_embeddings=spec.tied_embeddings,
    )


def _qwen3(spec: ModelConfig) -> Any:
    from transformers import Qwen3Config

    return Qwen3Config(**_llama_like(spec), use_sliding_window=False)


def _qwen3_moe(spec: ModelConfig) -> Any:
    from transformers import Qwen3MoeConfig

    mlp = spec.layer_groups[-1].mlp
    if not isinstance(mlp, MoEMLP):
        raise SpecError(f"{spec.name}: family qwen3_moe needs a mixture of experts")
    return Qwen3MoeConfig(
        **_llama_like(spec),
        moe_intermediate_size=mlp.ffn_size,
        num_experts=mlp.num_experts,
        num_experts_per_tok=mlp.top_k,
        use_sliding_window=False,
    )


def _gemma(spec: ModelConfig) -> Any:
    from transformers import GemmaConfig

    return GemmaConfig(**_llama_like(spec))


def _gemma2(spec: ModelConfig) -> Any:
    from transformers import Gemma2Config

    windows = [getattr(group.attention, "window", None) for group in spec.layer_groups]
    return Gemma2Config(**_llama_like(spec), sliding_window=next(filter(None, windows), 4096))


def _phi3(spec: ModelConfig) -> Any:
    from transformers import Phi3Config

    fields = _llama_like(spec)
    fields.pop("head_dim")
    window = getattr(spec.layer_groups[0].attention, "window", None)
    return Phi3Config(**fields, sliding_window=window, pad_token_id=0)


_FAMILIES: dict[str, Callable[[ModelConfig], Any]] = {
    "opt": _opt,
    "bloom": _bloom,
    "llama": _llama,
    "mistral": _mistral,
    "mixtral": _mixtral,
    "qwen2": _qwen2,
    "gpt_neox": _gpt_neox,
    "gpt2": _gpt2,
    "gpt": _gpt2,
    "gpt3": _gpt2,
    "gptj": _gptj,
    "falcon": _falcon,
    "qwen3": _qwen3,
    "qwen3_moe": _qwen3_moe,
    "gemma": _gemma,
    "gemma2": _gemma2,
    "phi3": _phi3,
}
