"""Kept activations against the closed forms of Korthikanti et al., arXiv 2205.05198, and state against ZeRO's."""

from __future__ import annotations

import numpy as np
import pytest

from llm_perf.config import ActivationRecomputation, DSZeRO, ModelConfig
from llm_perf.counts.activations import (
    MLPBytes,
    activation_widths,
    attention_core_bytes,
    attention_forward_bytes,
    attention_kept_bytes,
    mlp_kept_bytes,
    norm_kept_bytes,
)
from llm_perf.counts.modules import active_layer_modules, layer_modules, layer_rank_modules
from llm_perf.counts.optimizer import gradient_bytes, optimizer_state_bytes, zero_shards
from llm_perf.counts.parameters import active_layer_params, layer_params

GPT3 = ModelConfig("gpt3", 96, 96, 12288, 51200)
LLAMA = ModelConfig("llama", 80, 64, 8192, 32000, None, 8, None, 28672, mlp_gated_linear_units=True)
MIXTRAL = ModelConfig("mixtral", 32, 32, 4096, 32000, None, 8, None, 14336, None, None, 8, 2, True)
B, S = 4, 2048


def layer_bytes(
    model: ModelConfig, tp: int, recompute: ActivationRecomputation, flash: bool = False
) -> float:
    """One layer's kept bytes in 16 bits with all three dropouts and sequence parallelism."""
    widths, tokens = activation_widths(model, model.layer_groups[0], tp), B * S
    core = attention_core_bytes(widths, B, S, 2, flash, softmax_dropout=True)
    attention = attention_kept_bytes(widths, tokens, 2, core, tp, recompute)
    mlp = mlp_kept_bytes(widths, tokens, 2, MLPBytes(2, 2, 2), tp, dropout=True)
    return float(attention + mlp + 2 * norm_kept_bytes(widths.hidden, tokens, 2, tp))


@pytest.mark.parametrize("tp", [1, 8])
def test_a_layer_keeps_sbh_times_34_and_the_scores(tp: int) -> None:
    h, a = 12288, 96
    sbh = S * B * h
    # equation 1 for one rank, equation 4 for tensor and sequence parallelism
    assert layer_bytes(GPT3, tp, ActivationRecomputation.NONE) == pytest.approx(
        sbh * (34 + 5 * a * S / h) / tp
    )
    # equation 6: the scores are computed again
    assert layer_bytes(GPT3, tp, ActivationRecomputation.ATTN_COMPUTE) == pytest.approx(34 * sbh / tp)


def test_more_recomputation_keeps_less() -> None:
    kept = [layer_bytes(GPT3, 1, level) for level in list(ActivationRecomputation)[:4]]
    assert kept == sorted(set(kept), reverse=True)


def test_grouped_keys_are_narrower_and_repeated_beyond_their_number() -> None:
    widths = {tp: activation_widths(LLAMA, LLAMA.layer_groups[0], tp) for tp in (1, 8, 16)}
    assert widths[1].key_value == 2 * 8 * 128
    assert widths[8].key_value == widths[16].key_value == 2 * 128
    assert attention_forward_bytes(widths[1], 1, 2, 0) == 2 * (8192 + 2048)


def test_counts_take_arrays() -> None:
    widths, seq_len = activation_widths(LLAMA, LLAMA.layer_groups[0]), np.array([1, 128, 4096])
    core = attention_core_bytes(widths, 2, seq_len, 2)
    kept = attention_kept_bytes(widths, 2 * seq_len, 2, core)
    single = [attention_kept_bytes(widths, 2 * s, 2, attention_core_bytes(widths, 2, s, 2)) for s in seq_len]
    assert kept == pytest.approx(single)


@pytest.mark.parametrize("model", [GPT3, LLAMA, MIXTRAL], ids=lambda model: model.name)
def test_modules_sum_to_the_layer(model: ModelConfig) -> None:
    group = model.layer_groups[0]
    assert layer_modules(model, group).total == layer_params(model, group)
    assert active_layer_modules(model, group).total == active_layer_params(model, group)
    assert layer_rank_modules(model, group) == layer_modules(model, group)


@pytest.mark.parametrize(("tp", "dp", "ep"), [(1, 1, 1), (2, 2, 2), (4, 1, 4), (4, 2, 8), (2, 4, 4)])
def test_all_ranks_together_hold_every_expert_equally_often(tp: int, dp: int, ep: int) -> None:
    group = MIXTRAL.layer_groups[0]
    whole, held = (
        layer_modules(MIXTRAL, group).experts,
        layer_rank_modules(MIXTRAL, group, tp, ep, dp).experts,
    )
    copies = max(1, dp // ep)
    assert tp * dp * held == pytest.approx(copies * whole)


def test_zero_shards_one_kind_of_state_more_per_stage() -> None:
    shards = {
        stage: [zero_shards(what, stage, 64) for what in ("optimizer", "gradients", "weights")]
        for stage in DSZeRO
    }
    assert list(shards.values()) == [[1, 1, 1], [64, 1, 1], [64, 64, 1], [64, 64, 64]]


def test_adam_keeps_twelve_bytes_and_lion_eight() -> None:
    assert optimizer_state_bytes(10, 4) == 120
    assert optimizer_state_bytes(10, 4, 4) == 80
    assert gradient_bytes(10, 4) == 40
