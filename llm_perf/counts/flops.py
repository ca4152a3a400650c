"""FLOPs of a pass: 2 per weight and token, attention over the true context, the LM head."""

from __future__ import annotations

from llm_perf.config.model import LayerGroup, ModelConfig
from llm_perf.counts.arrays import Number
from llm_perf.counts.attention import attended, prefill_pairs, score_flops_per_pair
from llm_perf.counts.linears import layer_linears
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
        pairs = prefill_pairs(group.attention, prompt_len, causal=not model.encoder)
        scores = batch * pairs * score_flops_per_pair(group.attention)
        total = total + group.count * (linear_flops(model, group, batch * prompt_len) + scores)
    return total


def decode_step_flops(model: ModelConfig, batch: Number, context: Number) -> Number:
    """FLOPs of one decode step of ``batch`` sequences whose context, new token included, is ``context``."""
    total = lm_head_flops(model, batch)
    for group in model.layer_groups:
        scores = (
            batch * attended(group.attention, context) * score_flops_per_pair(group.attention, absorbed=True)
        )
        total = total + group.count * (linear_flops(model, group, batch) + scores)
    return total
