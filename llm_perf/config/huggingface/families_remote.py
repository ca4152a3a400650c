"""The table of architectures, continued: models whose code lies beside their weights, from that code."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from llm_perf.config.huggingface.defaults import UNTIED
from llm_perf.config.huggingface.facts import BIASES, LAYERNORM, first_dense, shared
from llm_perf.config.huggingface.family import Experts, Family
from llm_perf.config.huggingface.reader import Config

_LLAMA = Family(defaults=UNTIED)


def _chatglm_heads(c: Config) -> int | None:
    return c.size("multi_query_group_num") if c.flag("multi_query_attention") else None


def _chatglm_norm(c: Config) -> str:
    return "rmsnorm" if c.flag("rmsnorm", otherwise=True) else "layernorm"


def _half(c: Config) -> int:
    """Qwen's first config gives the width of both gated halves together."""
    return c.size("intermediate_size") // 2


def _bailing_shared(c: Config) -> int:
    return (c.count("num_shared_experts") or 0) * c.size("moe_intermediate_size")


def _bailing_layers(c: Config) -> Callable[[int], bool]:
    first = c.count("first_k_dense_replace") or 0
    return lambda layer: layer >= first


REMOTE: Mapping[str, Family] = {
    "aquila": _LLAMA,
    "baichuan": _LLAMA,
    "xverse": _LLAMA,
    "exaone": _LLAMA,
    "minicpm": Family(defaults={"tie_word_embeddings": True}),
    "internlm": Family(defaults={**UNTIED, "bias": True}, facts={"qkv_bias": "bias", "output_bias": "bias"}),
    "orion": Family(defaults=UNTIED, model=LAYERNORM),
    "qwen": Family(
        defaults=UNTIED,
        facts={"qkv_bias": True},
        names={"head_dim": "kv_channels"},
        ffn_size=_half,
        shapeless=("no_bias",),
    ),
    "chatglm": Family(
        defaults={**UNTIED, "add_qkv_bias": True},
        facts={
            "qkv_bias": "add_qkv_bias",
            "output_bias": "add_bias_linear",
            "num_kv_heads": _chatglm_heads,
        },
        mlp_bias="add_bias_linear",
        names={
            "head_dim": "kv_channels",
            "vocab_size": "padded_vocab_size",
            "intermediate_size": "ffn_hidden_size",
        },
        shapeless=("post_layer_norm",),
        model={"norm": _chatglm_norm, "norm_bias": lambda c: _chatglm_norm(c) == "layernorm"},
    ),
    "phi3small": Family(
        defaults={},
        facts=BIASES,
        mlp_bias=True,
        names={"intermediate_size": "ff_intermediate_size"},
        shapeless=("gegelu_limit", "dense_attention_every_n_layers", "blocksparse_block_size"),
        model=LAYERNORM,
    ),
    "stablelm_epoch": Family(defaults=UNTIED, facts={"qkv_bias": "use_qkv_bias"}, model=LAYERNORM),
    "deepseek": Family(  # DeepSeekMoE (arXiv 2401.06066)
        defaults={**UNTIED, "first_k_dense_replace": 0},
        experts=Experts(
            ffn=("moe_intermediate_size",), facts={"shared_ffn_size": shared}, layers=first_dense
        ),
    ),
    "bailing_moe": Family(
        defaults=UNTIED,
        facts={"qkv_bias": "use_qkv_bias", "output_bias": "use_bias"},
        experts=Experts(
            ffn=("moe_intermediate_size",), facts={"shared_ffn_size": _bailing_shared}, layers=_bailing_layers
        ),
    ),
}
