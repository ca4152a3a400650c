"""The table of architectures, continued: decoders that attend to an encoder, with that encoder where it is part.

A type that has a causal class as well as one with an encoder is counted as its ``architectures`` say; without them it is the
decoder alone, as transformers' automatic causal class builds it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from llm_perf.config.huggingface.facts import BIASES, LAYERNORM
from llm_perf.config.huggingface.family import Fact, Family
from llm_perf.config.huggingface.family import facts as read_facts
from llm_perf.config.huggingface.reader import Config
from llm_perf.config.layers.attention import Attention
from llm_perf.config.layers.base import FeedForward
from llm_perf.config.layers.experts import MoEMLP
from llm_perf.config.layers.feed_forward import DenseMLP

Count = Callable[[Config], int]
_ENCODER: Mapping[str, str] = {
    "hidden_size": "d_model",
    "num_hidden_layers": "encoder_layers",
    "num_attention_heads": "encoder_attention_heads",
    "intermediate_size": "encoder_ffn_dim",
}
_DECODER: Mapping[str, str] = {
    "hidden_size": "d_model",
    "num_hidden_layers": "decoder_layers",
    "num_attention_heads": "decoder_attention_heads",
    "intermediate_size": "decoder_ffn_dim",
}


def has_encoder(c: Config) -> bool:
    """Whether ``architectures`` name a class with both sides."""
    named = c.items("architectures", str) or []
    return bool(named) and not any("CausalLM" in name or "Decoder" in name for name in named)


def _positions(offset: int, key: str = "max_position_embeddings") -> Count:
    return lambda c: (c.count(key) or 0) + offset


def _none(_: Config) -> int:
    return 0


def _cross(c: Config, **facts: Any) -> Attention:
    return Attention(num_heads=c.heads, num_kv_heads=c.kv_heads, head_dim=c.head_dim, **facts)


def _with_cross(facts: Mapping[str, Any]) -> Callable[[Config], Callable[[int], Mapping[str, Any]]]:
    def each(c: Config) -> Callable[[int], Mapping[str, Any]]:
        cross = _cross(c, **read_facts(c, facts))
        return lambda _: {"cross_attention": cross}

    return each


def own_tables(c: Config) -> int:
    """Untied, the encoder and the decoder each have a table beside the one that they would share."""
    return 0 if c.flag("tie_word_embeddings", otherwise=True) else 2 * c.size("vocab_size") * c.hidden


def _beside(always: bool, of_encoder: Count, of_both: Count, tables: Count) -> Count:
    return lambda c: of_both(c) + (of_encoder(c) + tables(c) if always or has_encoder(c) else 0)


def bart(
    rows: Count = _none,
    embedding_norm: bool = True,
    final_norm: bool = False,
    biases: Mapping[str, Any] = BIASES,
    mlp_bias: Fact = True,
    layer: Fact = 0,
    encoder_layer: Fact | None = None,
    encoder_rows: Count | None = None,
    encoder_only: Count = _none,
    other: Count = _none,
    always: bool = False,
    tables: Count = own_tables,
    names: Mapping[str, str] | None = None,
    encoder_names: Mapping[str, str] | None = None,
    model: Mapping[str, Any] | None = None,
    blocks: Callable[[Config], list[FeedForward]] | None = None,
    encoder_blocks: Callable[[Config], list[FeedForward]] | None = None,
) -> Family:
    """BART (arXiv 1910.13461) and its like: two stacks of one width, LayerNorm, plain feed-forward.

    ``rows`` are those of a learned position table, ``layer`` what a layer has beyond BART's, ``encoder_only`` what only the
    encoder has beside its layers, ``other`` what stands beside both, ``always``: there is no class of the decoder alone.
    """
    table = encoder_rows or rows
    norms = int(embedding_norm) + int(final_norm)

    def encoder_params(c: Config) -> int:
        return table(c) * c.hidden + norms * 2 * c.hidden + encoder_only(c)

    encoder = Family(
        facts=biases,
        gated=False,
        mlp_bias=mlp_bias,
        names={**_ENCODER, **(encoder_names or {})},
        other_params=layer if encoder_layer is None else encoder_layer,
        mlps=encoder_blocks,
    )
    return Family(
        defaults=None,
        facts=biases,
        gated=False,
        mlp_bias=mlp_bias,
        norms=3,
        names={**_DECODER, **(names or {})},
        other_params=layer,
        each=_with_cross(biases),
        mlps=blocks,
        encoder=encoder,
        encoder_if=None if always else has_encoder,
        shapeless=("is_encoder_decoder", "add_cross_attention"),
        model={
            **LAYERNORM,
            "learned_positions": rows,
            "embedding_norm": embedding_norm,
            "final_norm": final_norm,
            "other_params": _beside(always, encoder_params, other, tables),
            **(model or {}),
        },
    )


def _trocr_rows(c: Config) -> int:
    learned = c.flag("use_learned_position_embeddings", otherwise=True)
    return (c.context or 0) + 2 if learned else 0


def _prophetnet_layer(c: Config) -> int:
    """Relative positions of every head, in the decoder's layers."""
    return c.size("num_buckets") * c.heads * (c.hidden + 1)


def _ngrams(c: Config) -> int:
    """One embedding for each of the tokens that are predicted at once; untied, the decoder has a table of its own."""
    if not c.flag("add_cross_attention", otherwise=True):
        raise c.fault("add_cross_attention", False, "true: ProphetNet's decoder is counted with it")
    untied = not c.flag("tie_word_embeddings", otherwise=True) and not has_encoder(c)
    return c.size("ngram") * c.hidden + (c.size("vocab_size") * c.hidden if untied else 0)


def _prompts(c: Config) -> int:
    if c.flag("use_prompt"):
        raise c.fault("use_prompt", True, "false: prompts of MVP are not counted")
    return 0


def _sources(c: Config) -> int:
    """FSMT: a table of its own for the source language, unless one serves for all."""
    return 0 if c.flag("tie_word_embeddings") else c.size("src_vocab_size") * c.hidden


def _global_projections(c: Config) -> int:
    return 3 * c.hidden * (c.hidden + 1)


def _whisper_biases(c: Config) -> int:
    """Queries, values and outputs have a bias, keys none."""
    return 4 * c.hidden


def _whisper_encoder(c: Config) -> int:
    """Two convolutions over mel bins."""
    return 3 * c.size("num_mel_bins") * c.hidden + c.hidden + 3 * c.hidden * c.hidden + c.hidden


# -- T5 -------------------------------------------------------------------------------------------------------

_T5_ENCODER: Mapping[str, str] = {
    "hidden_size": "d_model",
    "num_hidden_layers": "num_layers",
    "num_attention_heads": "num_heads",
    "intermediate_size": "d_ff",
    "head_dim": "d_kv",
}
_T5_DECODER: Mapping[str, str] = {**_T5_ENCODER, "num_hidden_layers": "num_decoder_layers"}


def _gated(c: Config) -> bool:
    return (c.text("feed_forward_proj") or "relu").startswith("gated")


def _buckets(c: Config) -> int:
    """Relative positions, of every head."""
    return c.size("relative_attention_num_buckets") * c.heads


def _t5_blocks(count: str, step: str) -> Callable[[Config], list[FeedForward]]:
    """Every ``step``-th block has experts, or ``count`` blocks evenly spread (Switch Transformers, arXiv 2101.03961)."""

    def blocks(c: Config) -> list[FeedForward]:
        sparse_layers, given, width = c.count(count) or 0, c.count(step), c.size("intermediate_size")
        period = (c.layers // sparse_layers if sparse_layers else c.layers) if given is None else given
        dense = DenseMLP(ffn_size=width, gated=False)
        if period == 0:
            return [dense] * c.layers
        sparse = MoEMLP(num_experts=c.size("num_experts"), top_k=1, ffn_size=width, gated=False)
        return [sparse if period == 1 or layer % period == 1 else dense for layer in range(c.layers)]

    return blocks


def _nllb_blocks(step: str) -> Callable[[Config], list[FeedForward]]:
    """Two experts of every ``step``-th block (arXiv 2207.04672)."""

    def blocks(c: Config) -> list[FeedForward]:
        period, width = c.count(step) or 0, c.size("intermediate_size")
        dense = DenseMLP(ffn_size=width, gated=False, bias=True)
        sparse = MoEMLP(
            num_experts=c.size("num_experts"),
            top_k=2,
            ffn_size=width,
            gated=False,
            bias=True,
            router_bias=c.flag("router_bias"),
        )
        return [sparse if period and (layer + 1) % period == 0 else dense for layer in range(c.layers)]

    return blocks


def t5(
    every_layer: bool = False,
    other: Count = _none,
    encoder_blocks: Callable[[Config], list[FeedForward]] | None = None,
    blocks: Callable[[Config], list[FeedForward]] | None = None,
    gated: Fact = _gated,
    model: Mapping[str, Any] | None = None,
    shapeless: tuple[str, ...] = ("is_encoder_decoder", "add_cross_attention"),
) -> Family:
    """T5 (arXiv 1910.10683): RMSNorm, no biases, relative positions in the first layer of each side (or every layer)."""

    def beside(c: Config) -> int:
        return c.hidden + (0 if every_layer else 2 * _buckets(c)) + other(c)

    layer: Fact = _buckets if every_layer else 0
    encoder = Family(gated=gated, names=_T5_ENCODER, other_params=layer, mlps=encoder_blocks)
    return Family(
        defaults=None,
        gated=gated,
        norms=3,
        names=_T5_DECODER,
        other_params=layer,
        each=_with_cross({}),
        encoder=encoder,
        mlps=blocks,
        shapeless=shapeless,
        model={"other_params": beside, **(model or {})},
    )


def _local_only(c: Config) -> int:
    if (c.text("encoder_attention_type") or "local") != "local":
        raise c.fault("encoder_attention_type", c.plain("encoder_attention_type"), "'local'")
    return 0


def _composers(c: Config) -> int:
    return c.size("composer_vocab_size") * c.hidden


def _speech_convolutions(c: Config) -> int:
    """Convolutions with gated linear units: each halves what it returns."""
    kernels, inner = c.items("conv_kernel_sizes", int) or [5, 5], c.size("conv_channels")
    taken, total = c.size("input_feat_per_channel") * c.size("input_channels"), 0
    for place, kernel in enumerate(kernels):
        given = inner if place < len(kernels) - 1 else 2 * c.hidden
        total += given * (taken * kernel + 1)
        taken = given // 2
    return total


_SEAMLESS = bart(  # text to text: what hears and speaks is left out
    embedding_norm=False,
    final_norm=True,
    always=True,
    names={"hidden_size": "hidden_size"},
    encoder_names={"hidden_size": "hidden_size"},
)
ENCODER_DECODERS: Mapping[str, Family] = {
    "bart": bart(_positions(2)),
    "blenderbot": bart(_positions(0), embedding_norm=False, final_norm=True),
    "blenderbot-small": bart(_positions(0)),
    "bigbird_pegasus": bart(
        _positions(0),
        biases={"qkv_bias": "use_bias", "output_bias": "use_bias"},
        model={"tied_embeddings": False},
    ),
    "marian": bart(_positions(0), embedding_norm=False),
    "mbart": bart(_positions(2), final_norm=True),
    "mvp": bart(_positions(2), other=_prompts),
    "pegasus": bart(_positions(0), embedding_norm=False, final_norm=True),
    "plbart": bart(_positions(2)),
    "trocr": replace(
        bart(_trocr_rows, model={"embedding_norm": lambda c: c.flag("layernorm_embedding", otherwise=True)}),
        encoder=None,
    ),
    "prophetnet": bart(
        _positions(0),
        layer=_prophetnet_layer,
        encoder_layer=0,
        other=_ngrams,
        names={
            "hidden_size": "hidden_size",
            "num_hidden_layers": "num_decoder_layers",
            "num_attention_heads": "num_decoder_attention_heads",
        },
        encoder_names={
            "hidden_size": "hidden_size",
            "num_hidden_layers": "num_encoder_layers",
            "num_attention_heads": "num_encoder_attention_heads",
        },
    ),
    "whisper": bart(
        _positions(0, "max_target_positions"),
        embedding_norm=False,
        final_norm=True,
        biases={"output_bias": True},
        layer=_whisper_biases,
        encoder_layer=lambda c: 2 * c.hidden,
        encoder_rows=_positions(0, "max_source_positions"),
        encoder_only=_whisper_encoder,
    ),
    "fsmt": bart(
        _positions(2),
        embedding_norm=False,
        other=_sources,
        tables=_none,
        always=True,
        names={"vocab_size": "tgt_vocab_size"},
    ),
    "led": bart(
        _positions(0, "max_decoder_position_embeddings"),
        encoder_rows=_positions(0, "max_encoder_position_embeddings"),
        layer=0,
        encoder_layer=_global_projections,
        always=True,
        names={"max_position_embeddings": "max_decoder_position_embeddings"},
    ),
    "m2m_100": bart(embedding_norm=False, final_norm=True, always=True),
    "pegasus_x": bart(  # its encoder normalises its global tokens apart
        embedding_norm=False,
        final_norm=True,
        biases={},
        encoder_layer=lambda c: 2 * c.hidden,
        encoder_only=lambda c: c.size("num_global_tokens") * c.hidden,
        always=True,
    ),
    "nllb-moe": bart(
        embedding_norm=False,
        final_norm=True,
        always=True,
        blocks=_nllb_blocks("decoder_sparse_step"),
        encoder_blocks=_nllb_blocks("encoder_sparse_step"),
    ),
    "seamless_m4t": _SEAMLESS,
    "seamless_m4t_v2": _SEAMLESS,
    "speech_to_text": bart(
        embedding_norm=False,
        final_norm=True,
        encoder_only=_speech_convolutions,
        always=True,
        names={"max_position_embeddings": "max_target_positions"},
    ),
    "t5": t5(),
    "mt5": t5(),
    "longt5": t5(other=_local_only),
    "umt5": t5(every_layer=True),
    "pop2piano": t5(other=_composers, model={"tied_embeddings": False}),
    "switch_transformers": t5(
        other=own_tables,
        shapeless=("is_encoder_decoder", "add_cross_attention", "encoder_sparse_step", "decoder_sparse_step"),
        gated=False,
        encoder_blocks=_t5_blocks("num_sparse_encoder_layers", "encoder_sparse_step"),
        blocks=_t5_blocks("num_sparse_decoder_layers", "decoder_sparse_step"),
    ),
}
