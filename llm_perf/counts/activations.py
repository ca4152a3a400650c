"""Bytes of activations of one layer: what a backward pass needs, and the widest buffer of a forward pass.

The accounting is that of Korthikanti et al., "Reducing Activation Recomputation in Large Transformer
Models", arXiv 2205.05198, section 4, with the true widths of keys and values, gated blocks and experts.
Inputs of a block are spread over the ``sp`` ranks of sequence parallelism, what lies between its two products
over the ``tp`` ranks. Masks of dropout take one byte per element.
"""

from __future__ import annotations

from dataclasses import dataclass

from llm_perf.config.model import LayerGroup, ModelConfig
from llm_perf.config.parallelism import ActivationRecomputation
from llm_perf.counts.arrays import Number, maximum

_FLASH_STATISTICS = 4
"""Values per head and token that the fused kernel keeps for its softmax."""


@dataclass(frozen=True, slots=True)
class ActivationWidths:
    """Elements per token. What tensor parallelism divides is given as one rank holds it.

    ``query``, ``key_value`` (both together), ``context`` (what attention returns) and the number of ``heads``
    are one rank's; ``hidden`` is whole. ``ffn`` is the rank's inner width over all experts that a token uses,
    of which ``experts`` are routed (0 for a dense block).
    """

    hidden: float
    query: float
    key_value: float
    context: float
    heads: float
    ffn: float
    experts: int
    gated: bool


def activation_widths(model: ModelConfig, group: LayerGroup, tp: int = 1) -> ActivationWidths:
    """The widths of one layer of a group on one tensor-parallel rank."""
    attention, mlp = group.attention, group.mlp
    heads = attention.num_heads / tp
    return ActivationWidths(
        hidden=model.hidden_size,
        query=heads * attention.head_dim,
        key_value=attention.key_value_elements(tp),
        context=heads * attention.value_dim,
        heads=heads,
        ffn=(mlp.routed_width + mlp.dense_width) / tp,
        experts=mlp.experts_per_token,
        gated=mlp.gated,
    )


@dataclass(frozen=True, slots=True)
class MLPBytes:
    """Bytes per element of the inputs of a block's first product, activation function and second product."""

    first_linear: float
    activation: float
    second_linear: float


def attention_core_bytes(
    widths: ActivationWidths,
    batch: Number,
    seq_len: Number,
    element_bytes: float,
    flash: bool = True,
    softmax_dropout: bool = False,
) -> Number:
    """Bytes between the projections on one rank: scores and probabilities, or the fused kernel's buffers.

    FlashAttention (arXiv 2205.14135) keeps no scores, but two buffers as wide as its result and the softmax's
    statistics.
    """
    tokens = batch * seq_len
    if flash:
        kept = tokens * (2 * widths.context + _FLASH_STATISTICS * widths.heads) * element_bytes
    else:
        kept = 2 * widths.heads * tokens * seq_len * element_bytes
    mask = widths.heads * tokens * seq_len if softmax_dropout else 0
    return kept + mask


def attention_forward_bytes(
    widths: ActivationWidths, tokens: Number, element_bytes: float, core: Number
) -> Number:
    """The widest moment of attention where buffers are used again: Q, K and V, or the ``core``."""
    return maximum(tokens * (widths.query + widths.key_value) * element_bytes, core)


def attention_kept_bytes(
    widths: ActivationWidths,
    tokens: Number,
    element_bytes: float,
    core: Number,
    sp: int = 1,
    recompute: ActivationRecomputation = ActivationRecomputation.NONE,
    dropout: bool = True,
) -> Number:
    """Bytes of attention kept for the backward pass: input, Q, K, V, ``core``, result, dropout mask."""
    if recompute.value >= ActivationRecomputation.NORM_ATTN_NORM.value:
        return 0.0 * tokens
    inputs = tokens * widths.hidden / sp
    if recompute is ActivationRecomputation.ATTN:
        return inputs * element_bytes
    between = tokens * (widths.query + widths.key_value + widths.context)
    kept = (inputs + between) * element_bytes + (inputs if dropout else 0)
    return kept if recompute is ActivationRecomputation.ATTN_COMPUTE else kept + core


def mlp_forward_bytes(widths: ActivationWidths, tokens: Number, element: MLPBytes, tp: int = 1) -> Number:
    """The widest tensor of a feed-forward block: the inputs of its experts, or its inner activations."""
    inputs = element.first_linear * widths.hidden * max(widths.experts, 1) / tp
    return max(inputs, element.activation * widths.ffn) * tokens


def mlp_kept_bytes(
    widths: ActivationWidths,
    tokens: Number,
    element_bytes: float,
    element: MLPBytes,
    sp: int = 1,
    recompute_activation: bool = False,
    gated: bool = False,
    dropout: bool = False,
    routed_copies: float = 2.0,
) -> Number:
    """Bytes of a feed-forward block that are kept for the backward pass.

    Its input; the activation function's input, and for a gated block what it is multiplied with; the input of
    the last product unless ``recompute_activation``; the mask of an output dropout.
    """
    multiplied = 2 if gated else 1
    inner = element.activation * multiplied + (0 if recompute_activation else element.second_linear)
    mask = tokens * widths.hidden / sp if dropout else 0
    inputs = _mlp_input_bytes(widths, tokens, element_bytes, element.first_linear, sp, routed_copies)
    return inputs + inner * tokens * widths.ffn + mask


def _mlp_input_bytes(
    widths: ActivationWidths,
    tokens: Number,
    element_bytes: float,
    routed_bytes: float,
    sp: int,
    routed_copies: float,
) -> Number:
    """Inputs of the first product; with experts those of router and softmax, and the routed copies, once or twice."""
    hidden = tokens * widths.hidden
    if not widths.experts:
        return element_bytes * hidden / sp
    gathered = routed_bytes * tokens * widths.experts * (widths.hidden + 1)
    again = (routed_copies - 1) * routed_bytes * hidden * widths.experts / sp
    return 2 * element_bytes * hidden / sp + gathered + again


def modules_kept_less_bytes(
    model: ModelConfig,
    group: LayerGroup,
    sequences: Number,
    seq_len: Number,
    options: KeptOptions,
    modules: frozenset[str],
    tp: int = 1,
    sp: int = 1,
    cp: int = 1,
) -> Number:
    """Bytes of `layer_kept_bytes` without a level that a rank need not keep, since those modules are computed again.

    Megatron Core's modules: attention between its projections; norms, of whose results the next products keep none; the
    activation function of experts; a whole block of experts or a dense one, of which its input is left.
    """
    tokens = sequences * seq_len / cp
    widths, element = activation_widths(model, group, tp), options.element_bytes
    mlp = options.mlp_bytes or element
    less: Number = 0.0
    if "core_attn" in modules:
        less = less + attention_core_bytes(
            widths, sequences / cp, seq_len, element, options.flash, options.softmax_dropout
        )
    if "layernorm" in modules:
        less = less + group.norms * norm_kept_bytes(model.hidden_size, tokens, element, sp)
    block = mlp_kept_bytes(
        widths, tokens, element, MLPBytes(mlp, mlp, mlp), sp,
        options.recompute_activation, group.mlp.gated, options.dropout, options.routed_copies,
    )  # fmt: skip
    if ("moe" if group.mlp.routed_experts else "mlp") in modules:
        inner = options.ffn_vectors * widths.ffn if group.mlp.gated else 0.0
        kept = 0.0 if "layernorm" in modules else element * tokens * widths.hidden / sp
        return less + maximum(block + inner * tokens * element - kept, 0.0)
    if "moe_act" in modules and group.mlp.routed_experts and not options.recompute_activation:
        less = less + mlp * tokens * widths.ffn
    return less


def norm_kept_bytes(hidden: Number, tokens: Number, element_bytes: float, sp: int = 1) -> Number:
    """Bytes of the input of one normalisation."""
    return tokens * hidden / sp * element_bytes


@dataclass(frozen=True, slots=True)
class KeptOptions:
    """What decides how much of a layer is kept for the backward pass; widths in bytes.

    ``hidden_vectors`` and ``ffn_vectors`` are values of the hidden and, in gated blocks, of the inner width per token that
    the modules keep beyond the paper's count (eager ones keep what each small kernel needs). ``routed_copies`` are the
    copies of a routed token's hidden state that are kept: before and after its experts, or before them only.
    """

    element_bytes: float = 2
    norm_bytes: float = 2
    flash: bool = True
    softmax_dropout: bool = False
    dropout: bool = False
    recompute_activation: bool = False
    mlp_bytes: float | None = None
    hidden_vectors: float = 0.0
    ffn_vectors: float = 0.0
    routed_copies: float = 2.0


def layer_kept_bytes(
    model: ModelConfig,
    group: LayerGroup,
    sequences: Number,
    seq_len: Number,
    options: KeptOptions,
    recompute: ActivationRecomputation = ActivationRecomputation.NONE,
    tp: int = 1,
    sp: int = 1,
    cp: int = 1,
) -> Number:
    """Bytes of one layer that one rank keeps for the backward pass of ``sequences`` sequences.

    arXiv 2205.05198, section 4: 34 s b h + 5 a s^2 b in 16 bit with dropout and without fused attention; 2 s b h with
    full recomputation. ``cp`` ranks share the tokens of a sequence, not the keys that each of them sees.
    """
    tokens = sequences * seq_len / cp
    if recompute is ActivationRecomputation.FULL:
        return options.element_bytes * tokens * model.hidden_size / sp
    widths = activation_widths(model, group, tp)
    element, mlp = options.element_bytes, options.mlp_bytes or options.element_bytes
    core = attention_core_bytes(
        widths, sequences / cp, seq_len, element, options.flash, options.softmax_dropout
    )
    attention = attention_kept_bytes(widths, tokens, element, core, sp, recompute, options.dropout)
    feed_forward = mlp_kept_bytes(
        widths, tokens, element, MLPBytes(mlp, mlp, mlp), sp,
        options.recompute_activation, group.mlp.gated, options.dropout, options.routed_copies,
    )  # fmt: skip
    norms = 1 if recompute is ActivationRecomputation.NORM_ATTN_NORM else group.norms
    kept_norms = norms * norm_kept_bytes(model.hidden_size, tokens, options.norm_bytes, sp)
    inner = options.ffn_vectors * widths.ffn if group.mlp.gated else 0.0
    more = options.hidden_vectors * model.hidden_size / sp + inner
    return attention + feed_forward + kept_norms + tokens * more * element


def product_output_bytes(
    model: ModelConfig, group: LayerGroup, tokens: Number, element_bytes: float, tp: int = 1, sp: int = 1
) -> tuple[Number, Number]:
    """Bytes of (outputs of a layer's matrix products, output of attention's kernel with its statistics).

    What checkpointing by operation keeps: all of the former or every second one, and the latter.
    """
    widths = activation_widths(model, group, tp)
    inner = (2 if widths.gated else 1) * widths.ffn
    hidden = widths.hidden * (1 + max(widths.experts, 1)) / sp
    products = tokens * (widths.query + widths.key_value + hidden + inner) * element_bytes
    core = tokens * (widths.context * element_bytes + 4 * widths.heads)
    return products, core
