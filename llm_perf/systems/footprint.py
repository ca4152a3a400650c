"""Bytes of one GPU: weights of the fullest pipeline stage, KV cache, live activations, logits."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache

from llm_perf.config.dtype import DtypeConfig
from llm_perf.config.model import LayerGroup, Mixer, ModelConfig
from llm_perf.config.parallelism import ParallelismConfig
from llm_perf.config.scenario import Scenario
from llm_perf.counts.arrays import Number, maximum, minimum
from llm_perf.counts.attention import live_elements_per_token
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
from llm_perf.systems.accounting import MemoryRules


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


def layer_weight_bytes(scenario: Scenario) -> tuple[float, ...]:
    """Bytes of one layer of each group on one tensor- and expert-parallel rank.

    Matrices in their own number formats where these are known, else at the stored weight width with norms, biases and
    routers at the activation width.
    """
    return _layer_weight_bytes(scenario.model, scenario.dtype, scenario.parallelism)


@lru_cache(maxsize=256)  # the search for the largest batch asks again and again
def _layer_weight_bytes(
    model: ModelConfig, dtype: DtypeConfig, parallelism: ParallelismConfig
) -> tuple[float, ...]:
    tp, ep, dp = parallelism.tp_size, parallelism.ep_size, parallelism.dp_size
    formats = dtype.formats

    def held(linear: Linear) -> float:
        return linear_rank_weights(linear, tp, ep, dp)

    found = []
    for index, group in enumerate(model.layer_groups):
        params = layer_rank_params(model, group, tp, ep, dp)
        if formats is None:
            found.append(_layer_bytes(model, dtype, group, params))
        else:
            row = formats.layers[index]
            found.append(layer_bytes(model, group, row, formats.vector_bits, held, params.total))
    return tuple(found)


def layers_weight_bytes(scenario: Scenario) -> float:
    """Bytes of all layers' weights on one tensor- and expert-parallel rank."""
    counts = (group.count for group in scenario.model.layer_groups)
    return sum(count * size for count, size in zip(counts, layer_weight_bytes(scenario), strict=True))


def _layer_bytes(model: ModelConfig, dtype: DtypeConfig, group: LayerGroup, params: RankParams) -> float:
    wide = float(layer_vector_params(model, group))
    for linear in layer_linears(group, model.hidden_size):
        if linear.op == "router":
            wide += linear.params
    narrow = params.total - wide
    return narrow * dtype.stored_weight_bits / 8 + wide * dtype.activation_bits / 8


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


def _kept_elements(part: Mixer, tp: int) -> float:
    """Elements of a token, or of the state, that a layer itself keeps on one rank."""
    return part.cache_elements_per_token(tp) + part.state_elements_per_sequence(tp)


def _kept_tokens(
    part: Mixer, batch: Number, context: Number, beyond_window: int, window_share: float
) -> Number:
    """Tokens that a layer keeps of all sequences; one with a window keeps the pass in work beside their windows."""
    limit = part.saturates_at
    forgets = limit is not None and not part.recurrent and part.cached_tokens(limit + 1) == limit
    if beyond_window and limit is not None and forgets:
        return minimum(batch * context, batch * limit + beyond_window)
    kept = batch * part.cached_tokens(context)
    return maximum(kept, window_share * batch * context) if window_share and forgets else kept


def stage_kv_bytes(
    scenario: Scenario, batch: Number, context: Number, beyond_window: int = 0, window_share: float = 0.0
) -> Number:
    """KV cache bytes of ``batch`` sequences on the fullest rank.

    ``beyond_window``: tokens that layers with a window keep beside the windows of all sequences, as for a pass in work.
    ``window_share``: of all tokens, what an engine keeps room for in layers with a window, where that is more.
    """
    if scenario.model.encoder:
        return 0.0 * batch * context
    tp, bits = scenario.parallelism.tp_size, scenario.dtype.stored_kv_bits
    per_layer, heaviness = [], []
    for group in scenario.model.layer_groups:
        parts = [
            (part, _kept_elements(part, tp) * part.kept_bits(bits, scenario.dtype.state_bits) / 8)
            for part in group.attention.parts
        ]
        kept = (
            _kept_tokens(part, batch, context, beyond_window, window_share) * size for part, size in parts
        )
        per_layer.append(sum(kept, 0.0 * batch))
        limits = [(part.saturates_at, size) for part, size in parts]
        heaviness.append(sum(math.inf if limit is None else limit * size for limit, size in limits))
    # Context ranks keep an equal part of every sequence's cache.
    return fullest_stage(scenario, per_layer, heaviness) / scenario.parallelism.cp_size


def copied_cache_bytes(scenario: Scenario, cache_bytes: Number, constants: dict[str, float]) -> Number:
    """Bytes of copies beside a stage's own cache at the peak of a decode step.

    Without room that was set aside, a step writes a new cache while that of the step before is live (``cache_copies``). Where
    ``gathers_cache`` is set, what every stage made comes to the first GPU.
    """
    whole = cache_bytes
    if constants["gathers_cache"] and scenario.parallelism.pp_size > 1:
        whole = cache_bytes / stage_layer_share(scenario)
    return constants["cache_copies"] * whole - cache_bytes


def _attention_width(scenario: Scenario, group: LayerGroup) -> float:
    """Elements per token that attention keeps beside the hidden states, on one rank."""
    return live_elements_per_token(group.attention, scenario.parallelism.tp_size)


def _mlp_width(scenario: Scenario, group: LayerGroup) -> float:
    """Elements per token that the feed-forward block keeps beside the hidden states, on one rank."""
    mlp = group.mlp
    return (2 if mlp.gated else 1) * (mlp.routed_width or mlp.ffn_size) / scenario.parallelism.tp_size


def _scores(scenario: Scenario, group: LayerGroup, length: Number, constants: dict[str, float]) -> Number:
    """Elements per token of one layer's live attention scores, on one rank; fused kernels keep none."""
    heads = [part.num_heads for part in group.attention.parts if not part.recurrent]
    if not constants["unfused_attention"] or not heads:
        return 0.0
    return constants["live_score_copies"] * max(heads) / scenario.parallelism.tp_size * length


def step_activation_bytes(
    scenario: Scenario, tokens: Number, sequences: Number, rules: MemoryRules
) -> Number:
    """Peak activations of one step of ``tokens`` tokens of ``sequences`` sequences, on one rank.

    The widest layer, or what its sampler needs if that is more: every rank holds the logits of all of the vocabulary. Inner
    activations and outputs of routed experts are workspaces that some versions keep between layers.
    """
    model, tp = scenario.model, scenario.parallelism.tp_size
    element = scenario.dtype.activation_bits / 8
    hidden, layers, experts = model.hidden_size, 0.0, 0.0
    for group in model.layer_groups:
        mlp = group.mlp
        if mlp.routed_experts:
            inner = mlp.routed_width / tp
            outer = mlp.experts_per_token * hidden
            experts = max(experts, max((2 if mlp.gated else 1) * inner, outer) + inner)
        ffn = mlp.dense_width / tp * (rules.ffn_vectors if mlp.gated else rules.ffn_vectors - 1)
        layers = max(layers, max(ffn, live_elements_per_token(group.attention, tp)))
    per_token = (layers + rules.hidden_vectors * hidden) * element
    logits = minimum(sequences, tokens) * model.vocab_size * rules.sampler_bytes
    sampling = logits + tokens * rules.sampler_hidden_vectors * hidden * element
    if not rules.keeps_expert_workspaces:
        return maximum(tokens * (per_token + experts * element), sampling)
    return maximum(tokens * per_token, sampling) + tokens * experts * element


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
