"""FLOPs of a pass: 2 per weight and token, attention over the true context, the LM head."""

from __future__ import annotations

from llm_perf.config.model import LayerGroup, ModelConfig
from llm_perf.config.parallelism import ActivationRecomputation
from llm_perf.counts.arrays import Number
from llm_perf.counts.attention import decode_score_flops, prefill_score_flops
from llm_perf.counts.linears import layer_linears
from llm_perf.counts.modules import attention_projection_flops
from llm_perf.counts.parameters import lm_head_linears


def linear_flops(model: ModelConfig, group: LayerGroup, tokens: Number) -> Number:
    """FLOPs of one layer's matrices on ``tokens`` tokens (a multiply and an add per weight)."""
    active = sum(linear.active * linear.weights for linear in layer_linears(group, model.hidden_size))
    return 2.0 * active * tokens


def lm_head_flops(model: ModelConfig, tokens: Number) -> Number:
    """FLOPs of the logits of ``tokens`` positions."""
    return 2.0 * sum(linear.weights for linear in lm_head_linears(model)) * tokens


def prefill_flops(model: ModelConfig, batch: Number, prompt_len: Number, all_logits: bool = False) -> Number:
    """FLOPs of one prefill of ``batch`` prompts; logits of the last position only unless ``all_logits``."""
    total = lm_head_flops(model, batch * (prompt_len if all_logits else 1))
    for group in model.layer_groups:
        scores = prefill_score_flops(group.attention, batch, prompt_len, causal=not model.encoder)
        total = total + group.count * (linear_flops(model, group, batch * prompt_len) + scores)
    return total


def decode_step_flops(model: ModelConfig, batch: Number, context: Number) -> Number:
    """FLOPs of one decode step of ``batch`` sequences whose context, new token included, is ``context``."""
    total = lm_head_flops(model, batch)
    for group in model.layer_groups:
        scores = decode_score_flops(group.attention, batch, context)
        total = total + group.count * (linear_flops(model, group, batch) + scores)
    return total


def attention_core_flops(
    model: ModelConfig, sequences: Number, seq_len: Number, causal: bool = False
) -> Number:
    """FLOPs of scores and weighted sums of all layers' attention in one forward pass.

    ``causal`` False counts the whole square of a layer without window, as published FLOPs utilisations do.
    """
    total: Number = 0.0
    for group in model.layer_groups:
        scores = prefill_score_flops(group.attention, sequences, seq_len, causal and not model.encoder)
        total = total + group.count * scores
    return total


def training_flops(model: ModelConfig, sequences: Number, seq_len: Number, frozen: bool = False) -> Number:
    """FLOPs that one training pass over ``sequences`` needs: forward and twice as much backward, nothing recomputed.

    6 per weight that a token meets and token, and attention over the whole square: the numerator of the model FLOPs
    utilisation (Chowdhery et al., PaLM, arXiv 2204.02311, appendix B). ``frozen`` weights need no gradient of their own:
    4 per weight.
    """
    return (2.0 if frozen else 3.0) * _linears_flops(model, sequences * seq_len) + 3.0 * attention_core_flops(
        model, sequences, seq_len
    )


def _linears_flops(model: ModelConfig, tokens: Number) -> Number:
    total = lm_head_flops(model, tokens)
    for group in model.layer_groups:
        total = total + group.count * linear_flops(model, group, tokens)
    return total


def recomputed_flops(
    model: ModelConfig, sequences: Number, seq_len: Number, level: ActivationRecomputation, kept: float = 0.0
) -> Number:
    """FLOPs of the forward pass that a recomputation level runs again in every layer (arXiv 2205.05198, appendix A).

    ``kept`` is the share of products whose outputs full recomputation keeps; attention's is then kept whole.
    """
    if level is ActivationRecomputation.NONE:
        return 0.0 * sequences
    core = attention_core_flops(model, sequences, seq_len)
    if level is ActivationRecomputation.ATTN_COMPUTE:
        return core
    tokens = sequences * seq_len
    if level is ActivationRecomputation.FULL:
        products = _linears_flops(model, tokens) - lm_head_flops(model, tokens)
        return (1.0 - kept) * products + (0.0 if kept else core)
    for group in model.layer_groups:
        core = core + group.count * attention_projection_flops(model, group, tokens)
    return core
