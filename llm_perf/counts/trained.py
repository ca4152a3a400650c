"""What a training job holds of a model on one rank: parameters by stage, by kind, and which of them are trained."""

from __future__ import annotations

from dataclasses import dataclass

from llm_perf.config.model import LayerGroup, ModelConfig
from llm_perf.config.parallelism import ParallelismConfig
from llm_perf.counts.linears import Linear, attention_linears, layer_linears
from llm_perf.counts.modules import layer_rank_modules
from llm_perf.counts.parameters import ends_rank_params, expert_tensor_shards, token_table_params


@dataclass(frozen=True, slots=True)
class HeldParams:
    """Parameters of one rank. Experts are apart: fewer ranks hold a copy of them than of the rest."""

    dense: float
    experts: float

    @property
    def total(self) -> float:
        """Both."""
        return self.dense + self.experts

    def __add__(self, other: HeldParams) -> HeldParams:
        return HeldParams(self.dense + other.dense, self.experts + other.experts)

    def __mul__(self, factor: float) -> HeldParams:
        return HeldParams(self.dense * factor, self.experts * factor)


def layer_held_params(model: ModelConfig, group: LayerGroup, p: ParallelismConfig) -> HeldParams:
    """Parameters of one layer on one rank, before ZeRO."""
    modules = layer_rank_modules(model, group, p.tp_size, p.ep_size, p.dp_size * p.cp_size)
    return HeldParams(modules.total - modules.experts, modules.experts)


def ends_held_params(model: ModelConfig, p: ParallelismConfig) -> tuple[HeldParams, HeldParams]:
    """(embedding, head) on one rank. With a pipeline the last stage holds its own copy of a tied table."""
    embedding, head = ends_rank_params(model, p.tp_size)
    copied = token_table_params(model) / p.tp_size if model.tied_embeddings and p.pp_size > 1 else 0.0
    return HeldParams(embedding.total, 0.0), HeldParams(head.total + copied, 0.0)


def adapted_linears(model: ModelConfig, group: LayerGroup, targets: str) -> tuple[Linear, ...]:
    """The matrices of one layer that have adapters: all but the router, those of attention, its inputs', or none."""
    hidden = model.hidden_size
    if targets == "none":
        return ()
    if targets == "all":
        return tuple(linear for linear in layer_linears(group, hidden) if linear.op != "router")
    found = attention_linears(group.attention, hidden)
    if targets == "attention":
        return found
    first = tuple(linear for linear in found if linear.op in _INPUT_PROJECTIONS)
    # Query first, value last: the order in which attention describes its matrices.
    return first if targets == "qkv" or len(first) < 2 else (first[0], first[-1])


_INPUT_PROJECTIONS = frozenset({"qkv", "q", "kv_down", "kv_up"})


def adapter_params(
    model: ModelConfig, group: LayerGroup, rank: int, targets: str, tp: int = 1, magnitudes: bool = False
) -> float:
    """Parameters of one layer's low-rank adapters on one rank: r x (in + out) per matrix (arXiv 2106.09685).

    Of the two factors tensor parallelism divides the one that its matrix divides. ``magnitudes``: one more per output
    (DoRA, arXiv 2402.09353).
    """
    total = 0.0
    for linear in adapted_linears(model, group, targets):
        outputs, inputs = linear.shard_shape(tp)
        total += linear.copies * (rank * (outputs + inputs) + (outputs if magnitudes else 0))
    return total


def adapter_input_elements(model: ModelConfig, group: LayerGroup, targets: str, tp: int = 1) -> float:
    """Elements per token that enter the adapters of one layer, each matrix for itself, experts as a token uses them."""
    return sum(
        (linear.active if linear.copies > 1 else 1) * linear.shard_shape(tp)[1]
        for linear in adapted_linears(model, group, targets)
    )


def expert_replicas(p: ParallelismConfig) -> float:
    """Ranks of one pipeline stage that hold the same experts: those that expert parallelism does not spread."""
    replicas = p.dp_size * p.cp_size
    grid = p.tp_size * replicas
    expert_tp = expert_tensor_shards(p.tp_size, replicas, p.ep_size)
    return max(grid / (p.ep_size * expert_tp), 1.0)
