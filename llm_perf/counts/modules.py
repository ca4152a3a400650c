"""One layer taken apart into its modules: attention, dense feed-forward, experts, router, norms."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from llm_perf.config.model import LayerGroup, ModelConfig
from llm_perf.counts.arrays import Number
from llm_perf.counts.linears import Linear, attention_linears, mlp_linears
from llm_perf.counts.parameters import attention_params, expert_tensor_shards, norm_params


@dataclass(frozen=True, slots=True)
class LayerModules:
    """One number per module of a layer, in elements. ``dense_mlp`` includes experts that every token uses."""

    attention: float
    dense_mlp: float
    experts: float
    router: float
    norms: float

    @property
    def mlp(self) -> float:
        """The feed-forward matrices: dense ones and experts, without the router."""
        return self.dense_mlp + self.experts

    @property
    def total(self) -> float:
        """The whole layer."""
        return self.attention + self.mlp + self.router + self.norms


def layer_modules(model: ModelConfig, group: LayerGroup) -> LayerModules:
    """Parameters of one layer by module; they sum to `llm_perf.counts.parameters.layer_params`."""
    return LayerModules(
        attention_params(model, group),
        *_mlp_parts(model, group, lambda linear: linear.params),
        group.norms * norm_params(model),
    )


def active_layer_modules(model: ModelConfig, group: LayerGroup) -> LayerModules:
    """Parameters of one layer that one token uses, by module."""
    return LayerModules(
        attention_params(model, group),
        *_mlp_parts(model, group, lambda linear: linear.active_params),
        group.norms * norm_params(model),
    )


def layer_rank_modules(
    model: ModelConfig, group: LayerGroup, tp: int = 1, ep: int = 1, dp: int = 1
) -> LayerModules:
    """Parameters of one layer that one rank holds, by module, before ZeRO.

    Key and value heads are held more than once where tp exceeds them; norms and routers by every rank.
    """
    expert_tp = expert_tensor_shards(tp, dp, ep)
    projections = attention_linears(group.attention, model.hidden_size)
    replicated = attention_params(model, group) - sum(linear.params for linear in projections)

    def held(linear: Linear) -> float:
        return linear.rank_params(expert_tp) / ep if linear.copies > 1 else linear.rank_params(tp)

    return LayerModules(
        sum(linear.rank_params(tp) for linear in projections) + replicated,
        *_mlp_parts(model, group, held),
        group.norms * norm_params(model),
    )


def attention_projection_flops(model: ModelConfig, group: LayerGroup, tokens: Number) -> Number:
    """FLOPs of one layer's query, key, value and output projections on ``tokens`` tokens."""
    return _product_flops(attention_linears(group.attention, model.hidden_size), tokens)


def mlp_flops(model: ModelConfig, group: LayerGroup, tokens: Number) -> Number:
    """FLOPs of one layer's feed-forward block on ``tokens`` tokens: experts that they use, and the router."""
    return _product_flops(mlp_linears(group.mlp, model.hidden_size), tokens)


def _product_flops(linears: Iterable[Linear], tokens: Number) -> Number:
    return 2.0 * sum(linear.active * linear.weights for linear in linears) * tokens


def _mlp_parts(
    model: ModelConfig, group: LayerGroup, elements: Callable[[Linear], float]
) -> tuple[float, float, float]:
    """(dense, experts, router) of a feed-forward block."""
    dense: float = 0
    experts: float = 0
    router: float = 0
    for linear in mlp_linears(group.mlp, model.hidden_size):
        if linear.op == "router":
            router += elements(linear)
        elif linear.copies > 1:
            experts += elements(linear)
        else:
            dense += elements(linear)
    return dense, experts, router
