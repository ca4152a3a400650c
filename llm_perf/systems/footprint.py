"""Bytes of one GPU: weights of the fullest pipeline stage, KV cache, live activations, logits."""

from __future__ import annotations

import math
from collections.abc import Sequence

from llm_perf.config.model import LayerGroup
from llm_perf.config.scenario import Scenario
from llm_perf.counts.arrays import Number, maximum
from llm_perf.counts.attention import cached_tokens, kv_elements_per_token, live_elements_per_token
from llm_perf.counts.linears import Linear, layer_linears
from llm_perf.counts.parameters import (
    RankParams,
    ends_rank_params,
    layer_rank_params,
    layer_vector_params,
    linear_rank_weights,
    token_table_params,
)
from llm_perf.counts.products import lm_head_products
from llm_perf.counts.weight_formats import layer_bytes


def stage_layer_share(scenario: Scenario) -> float:
    """Layers of the fullest pipeline stage over all layers: stages that do not divide leave one layer more on some."""
    layers, stages = scenario.model.num_layers, scenario.parallelism.pp_size
    return -(-layers // stages) / layers


def fullest_stage(scenario: Scenario, per_layer: Sequence[Number], heaviness: Sequence[float]) -> Number:
    """What the fullest pipeline stage holds, from what one layer of each group holds: at most, never less.

    A stage takes the heaviest layers first, by ``heaviness``. Groups that differ in attention only alternate evenly,
    so that a stage of k layers has at most its rounded-up share of each; of other groups (dense layers before
    mixtures) it may have as many as there are.
    """
    groups = scenario.model.layer_groups
    layers = scenario.model.num_layers
    left = -(-layers // scenario.parallelism.pp_size)
    alternate = all(group.mlp == groups[0].mlp for group in groups)
    total: Number = 0.0
    size = left
    for index in sorted(range(len(groups)), key=lambda index: -heaviness[index]):
        most = -(-size * groups[index].count // layers) if alternate else groups[index].count
        taken = min(left, most)
        total = total + taken * per_layer[index]
        left -= taken
    return total


def layer_weight_bytes(scenario: Scenario) -> list[float]:
    """Bytes of one layer of each group on one tensor- and expert-parallel rank.

    Matrices in their own number formats where these are known, else at the stored weight width with norms, biases and
    routers at the activation width.
    """
    p = scenario.parallelism
    formats = scenario.dtype.formats
    found = []
    for index, group in enumerate(scenario.model.layer_groups):
        params = layer_rank_params(scenario.model, group, p.tp_size, p.ep_size, p.dp_size)
        if formats is None:
            found.append(_layer_bytes(scenario, group, params))
            continue

        def held(linear: Linear) -> float:
            return linear_rank_weights(linear, p.tp_size, p.ep_size, p.dp_size)

        row, bits = formats.layers[index], formats.vector_bits
        found.append(layer_bytes(scenario.model, group, row, bits, held, params.total))
    return found


def layers_weight_bytes(scenario: Scenario) -> float:
    """Bytes of all layers' weights on one tensor- and expert-parallel rank."""
    counts = (group.count for group in scenario.model.layer_groups)
    return sum(count * size for count, size in zip(counts, layer_weight_bytes(scenario), strict=True))


def _layer_bytes(scenario: Scenario, group: LayerGroup, params: RankParams) -> float:
    wide = float(layer_vector_params(scenario.model, group))
    for linear in layer_linears(group, scenario.model.hidden_size):
        if linear.op == "router":
            wide += linear.params
    narrow = params.total - wide
    return narrow * scenario.dtype.stored_weight_bits / 8 + wide * scenario.dtype.activation_bits / 8


def embedding_bytes(scenario: Scenario) -> float:
    """Bytes of token and position tables on one tensor-parallel rank."""
    embedding, _ = ends_rank_params(scenario.model, scenario.parallelism.tp_size)
    return embedding.sharded * _table_bytes(scenario) + embedding.replicated * _vector_bytes(scenario)


def _table_bytes(scenario: Scenario) -> float:
    """Bytes per element of the token table."""
    formats = scenario.dtype.formats
    return (scenario.dtype.stored_embedding_bits if formats is None else formats.embedding.bits) / 8


def _vector_bytes(scenario: Scenario) -> float:
    """Bytes per element of what is no matrix, outside of layers."""
    formats = scenario.dtype.formats
    return (scenario.dtype.activation_bits if formats is None else formats.vector_bits) / 8


def head_bytes(scenario: Scenario) -> float:
    """Bytes after the last layer on one tensor-parallel rank. A tied head on another stage needs its own copy."""
    model, formats = scenario.model, scenario.dtype.formats
    _, head = ends_rank_params(model, scenario.parallelism.tp_size)
    element = _table_bytes(scenario) if formats is None else formats.head.bits / 8
    stored = head.sharded * element + head.replicated * _vector_bytes(scenario)
    if model.tied_embeddings and scenario.parallelism.pp_size > 1:
        stored += token_table_params(model) / scenario.parallelism.tp_size * _table_bytes(scenario)
    return stored


def stage_weight_bytes(scenario: Scenario) -> float:
    """Weight bytes of the fullest rank: its stage's layers, with the embedding (first) or the head (last)."""
    sizes = layer_weight_bytes(scenario)
    layers = float(fullest_stage(scenario, sizes, sizes))
    ends = (embedding_bytes(scenario), head_bytes(scenario))
    return layers + (sum(ends) if scenario.parallelism.pp_size == 1 else max(ends))


def model_weight_bytes(scenario: Scenario) -> float:
    """Weight bytes of one tensor-parallel rank over all its pipeline stages."""
    return layers_weight_bytes(scenario) + embedding_bytes(scenario) + head_bytes(scenario)


def stage_kv_bytes(scenario: Scenario, batch: Number, context: Number) -> Number:
    """KV cache bytes of ``batch`` sequences on the fullest rank."""
    if scenario.model.encoder:
        return 0.0 * batch * context
    tp, bits = scenario.parallelism.tp_size, scenario.dtype.stored_kv_bits
    per_layer, heaviness = [], []
    for group in scenario.model.layer_groups:
        per_token = kv_elements_per_token(group.attention, tp) * bits / 8
        per_layer.append(batch * cached_tokens(group, context) * per_token)
        limit = group.attention.saturates_at
        heaviness.append(math.inf if limit is None else limit * per_token)
    # Context ranks keep an equal part of every sequence's cache.
    return fullest_stage(scenario, per_layer, heaviness) / scenario.parallelism.cp_size


def _attention_width(scenario: Scenario, group: LayerGroup) -> float:
    """Elements per token that attention keeps beside the hidden states, on one rank."""
    return live_elements_per_token(group.attention, scenario.parallelism.tp_size)


def _mlp_width(scenario: Scenario, group: LayerGroup) -> float:
    """Elements per token that the feed-forward block keeps beside the hidden states, on one rank."""
    mlp = group.mlp
    return (2 if mlp.gated else 1) * (mlp.routed_width or mlp.ffn_size) / scenario.parallelism.tp_size


def _scores(scenario: Scenario, group: LayerGroup, length: Number, constants: dict[str, float]) -> Number:
    """Elements per token of one layer's live attention scores, on one rank; fused kernels keep none."""
    if not constants["unfused_attention"] or group.attention.recurrent:
        return 0.0
    return constants["live_score_copies"] * group.attention.num_heads / scenario.parallelism.tp_size * length


_WHOLE_VECTORS = 2
"""Hidden states per token that sequence parallelism cannot divide: a block's gathered input and its partial output."""


def prefill_activation_bytes(
    scenario: Scenario,
    batch: Number,
    tokens_per_sequence: Number,
    constants: dict[str, float],
    context: Number | None = None,
) -> Number:
    """Live bytes at the fullest moment of a prefill on one rank: hidden states, the widest block, or the logits.

    ``live_hidden_vectors`` hidden states per token, and beside them either what
    attention holds, with the scores of one layer where it is not fused, or what the feed-forward block holds. Logits
    come after the layers' buffers are free. ``tokens_per_sequence`` are those of one pass, of a ``context`` as long as
    they are if not given. Sequence-parallel ranks divide the hidden states but for a block's own input and output
    (arXiv 2205.05198, section 4.2.2), context-parallel ranks all tokens.
    """
    bytes_per = scenario.dtype.activation_bits / 8
    model, tp = scenario.model, scenario.parallelism.tp_size
    sp = scenario.parallelism.sp_size
    tokens = batch * tokens_per_sequence / scenario.parallelism.cp_size
    vectors = constants["live_hidden_vectors"]
    divided = max(vectors - _WHOLE_VECTORS, 0.0)
    hidden = (vectors - divided * (1 - 1 / sp)) * model.hidden_size
    widest: Number = 0.0
    for group in model.layer_groups:
        scores = _scores(scenario, group, tokens_per_sequence if context is None else context, constants)
        beside = maximum(_attention_width(scenario, group) + scores, _mlp_width(scenario, group))
        widest = maximum(widest, tokens * (hidden + beside) * bytes_per)
    if model.encoder:
        return widest
    positions = tokens if constants["logits_all_positions"] else batch
    logits = positions * lm_head_products(model, tp)[-1].out_features * constants["logit_bytes"]
    return maximum(widest, logits + 2 * tokens / sp * model.hidden_size * bytes_per)
