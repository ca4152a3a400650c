"""Parameters: of the whole model, of what a token uses, of what one rank holds."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from llm_perf.config.model import LayerGroup, ModelConfig
from llm_perf.counts.arrays import Number
from llm_perf.counts.linears import Linear, attention_linears, layer_linears


def norm_params(model: ModelConfig) -> int:
    """Elements of one normalisation over the hidden size: a weight, and a bias where the model has one."""
    return model.hidden_size * (2 if model.norm_bias else 1)


def layer_vector_params(model: ModelConfig, group: LayerGroup) -> int:
    """Elements of one layer that are no matrix and are replicated by tensor parallelism: norms and the like."""
    mixers = [group.attention] if group.cross_attention is None else [group.attention, group.cross_attention]
    inner = sum(mixer.vector_elements for mixer in mixers) + group.mlp.vector_elements
    streams = 0 if group.streams is None else group.streams.vector_elements(model.hidden_size)
    return group.norms * norm_params(model) + inner + streams + group.other_params


def attention_params(model: ModelConfig, group: LayerGroup) -> int:
    """Elements of one layer's attention: projections, biases, query and key norms."""
    projections = attention_linears(group.attention, model.hidden_size)
    return sum(linear.params for linear in projections) + group.attention.vector_elements


def layer_params(model: ModelConfig, group: LayerGroup) -> int:
    """Elements of one layer of a group."""
    matrices = sum(linear.params for linear in layer_linears(group, model.hidden_size))
    return matrices + layer_vector_params(model, group)


def active_layer_params(model: ModelConfig, group: LayerGroup) -> int:
    """Elements of one layer that one token uses."""
    matrices = sum(linear.active_params for linear in layer_linears(group, model.hidden_size))
    return matrices + layer_vector_params(model, group)


@lru_cache(maxsize=256)
def layer_matrix_params(model: ModelConfig) -> int:
    """Elements of the layers' matrices that one token uses."""
    return sum(
        group.count * linear.active_params
        for group in model.layer_groups
        for linear in layer_linears(group, model.hidden_size)
    )


def token_table_params(model: ModelConfig) -> int:
    """Elements of the token embedding table."""
    return model.vocab_size * (model.embedding_size or model.hidden_size)


def row_params(model: ModelConfig) -> int:
    """Elements of all tables that a token reads rows of: its own, of n-grams, of layers."""
    return token_table_params(model) + model.ngram_params + model.layer_table_params


def embedding_params(model: ModelConfig) -> int:
    """Elements before the first layer: tables of tokens, positions, n-grams, layers; projection, norm, others."""
    projection = model.embedding_size * model.hidden_size if model.embedding_size else 0
    positions = model.learned_positions * model.hidden_size
    return (
        token_table_params(model)
        + positions
        + projection
        + model.other_params
        + model.ngram_params
        + model.layer_table_params
        + (norm_params(model) if model.embedding_norm else 0)
    )


def layer_matrices(model: ModelConfig, group: LayerGroup, experts: Number = 1.0) -> Number:
    """Matrices that one layer stores, each expert's apart: what a system that moves tensors copies one by one.

    ``experts`` is the share of its experts that counts.
    """
    found: Number = 0.0
    for linear in layer_linears(group, model.hidden_size):
        found = found + (linear.copies * experts if linear.copies > 1 else linear.copies)
    return found


def layer_vectors(model: ModelConfig, group: LayerGroup) -> int:
    """Biases and norms that one layer stores, counted as tensors (norms by hidden vectors)."""
    biases = sum(linear.copies for linear in layer_linears(group, model.hidden_size) if linear.bias)
    return biases + -(-layer_vector_params(model, group) // model.hidden_size)


def lm_head_linears(model: ModelConfig) -> tuple[Linear, ...]:
    """The products after the last layer: projection to the embedding width where there is one, then the logits.

    With tied embeddings the logits' matrix is the token table: it is multiplied with, but stored once.
    """
    width = model.embedding_size or model.hidden_size
    head = Linear("lm_head", model.vocab_size, width, "column", model.lm_head_bias)
    if model.embedding_size:
        return (Linear("lm_head_projection", width, model.hidden_size, "replicated"), head)
    return (head,)


def lm_head_params(model: ModelConfig) -> int:
    """Elements stored after the last layer beside the token table: final norm, projection, untied head, its bias."""
    total = norm_params(model) if model.final_norm else 0
    for linear in lm_head_linears(model):
        tied = linear.op == "lm_head" and model.tied_embeddings
        total += (linear.params - linear.weights) if tied else linear.params
    return total


def total_params(model: ModelConfig) -> int:
    """Elements of the whole model, each stored weight once."""
    groups = model.encoder_groups + model.layer_groups
    layers = sum(group.count * layer_params(model, group) for group in groups)
    return layers + embedding_params(model) + lm_head_params(model)


def active_params(model: ModelConfig) -> int:
    """Elements that one token uses, embeddings counted whole, as model cards do, but for those of n-grams."""
    groups = model.encoder_groups + model.layer_groups
    layers = sum(group.count * active_layer_params(model, group) for group in groups)
    return layers + embedding_params(model) - model.ngram_params + lm_head_params(model)


@dataclass(frozen=True, slots=True)
class RankParams:
    """Elements that one rank holds: ``sharded`` by tensor (and expert) parallelism, and ``replicated``."""

    sharded: float
    replicated: float

    @property
    def total(self) -> float:
        """Both."""
        return self.sharded + self.replicated

    def __add__(self, other: RankParams) -> RankParams:
        return RankParams(self.sharded + other.sharded, self.replicated + other.replicated)

    def __mul__(self, factor: float) -> RankParams:
        return RankParams(self.sharded * factor, self.replicated * factor)


def expert_tensor_shards(tp: int, dp: int, ep: int) -> int:
    """Ways one expert's matrices are split: tp while experts spread over replicas, fewer once they spread over tp too."""
    return tp if ep <= dp else max(1, tp * dp // ep)


def _linear_rank_params(linear: Linear, tp: int, ep: int, expert_tp: int) -> RankParams:
    ways = expert_tp if linear.copies > 1 else tp
    held = linear.copies / ep if linear.copies > 1 else linear.copies
    bias = linear.out_features if linear.bias else 0
    if linear.split == "replicated":
        return RankParams(0.0, held * (linear.weights + bias))
    parts = linear.shards(ways)
    if linear.split == "row":
        return RankParams(held * linear.weights / parts, held * bias)
    return RankParams(held * (linear.weights + bias) / parts, 0.0)


def linear_rank_weights(linear: Linear, tp: int = 1, ep: int = 1, dp: int = 1) -> float:
    """Elements of all copies of a matrix on one rank, without biases."""
    expert = linear.copies > 1
    return (
        (linear.copies / ep if expert else linear.copies)
        * linear.weights
        / linear.shards(expert_tensor_shards(tp, dp, ep) if expert else tp)
    )


def layer_rank_params(
    model: ModelConfig, group: LayerGroup, tp: int = 1, ep: int = 1, dp: int = 1
) -> RankParams:
    """Elements of one layer on one rank. With tp over the key/value heads these are held more than once."""
    expert_tp = expert_tensor_shards(tp, dp, ep)
    total = RankParams(0.0, float(layer_vector_params(model, group)))
    for linear in layer_linears(group, model.hidden_size):
        total = total + _linear_rank_params(linear, tp, ep, expert_tp)
    return total


@lru_cache(maxsize=256)
def ends_rank_params(model: ModelConfig, tp: int = 1) -> tuple[RankParams, RankParams]:
    """(embeddings, head) of one rank. The vocabulary is sharded; positions, norms and projections are replicated."""
    table = row_params(model)
    embedding = RankParams(table / tp, float(embedding_params(model) - table))
    head_matrix = 0 if model.tied_embeddings else token_table_params(model)
    head_bias = model.vocab_size if model.lm_head_bias else 0
    head = RankParams((head_matrix + head_bias) / tp, float(lm_head_params(model) - head_matrix - head_bias))
    return embedding, head
