"""The operations of one pass one by one: FLOPs, bytes and seconds, as points of a roofline."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from llm_perf.config.scenario import Scenario
from llm_perf.counts.attention import decode_score_flops, kv_cache_bytes, prefill_score_flops
from llm_perf.systems.forward import Forward

__all__ = ["Operation", "operations"]


@dataclass(frozen=True, slots=True)
class Operation:
    """One kind of operation, summed over all layers of one rank.

    Attributes:
        phase: A whole prefill, or one decode step.
        op: Name of the product, or ``attention``.
        flops: Floating-point operations.
        moved_bytes: Bytes to and from device memory.
        seconds: Predicted time on the device.
    """

    phase: Literal["prefill", "decode"]
    op: str
    flops: float
    moved_bytes: float
    seconds: float

    @property
    def intensity(self) -> float:
        """FLOPs per byte."""
        return self.flops / self.moved_bytes

    @property
    def flops_per_s(self) -> float:
        """What it reaches."""
        return self.flops / self.seconds


def operations(
    scenario: Scenario, constants: dict[str, float], batch: float, prompt_len: float, context: float
) -> list[Operation]:
    """The matrix products and attention of a prefill, and of the decode step at ``context`` tokens.

    ``batch`` is that of one replica. Elementwise kernels have no FLOPs that anybody counts, and are left out.
    """
    forward = Forward(scenario, constants)
    found = _products(forward, "prefill", batch * prompt_len, batch)
    found.append(_prefill_attention(forward, batch, prompt_len))
    if not scenario.model.encoder:
        found += _products(forward, "decode", batch, batch)
        found.append(_decode_attention(forward, batch, context))
    return found


def _products(
    forward: Forward, phase: Literal["prefill", "decode"], tokens: float, logits: float
) -> list[Operation]:
    sums: dict[str, tuple[float, float, float]] = {}
    all_groups = [(group.count, products, tokens) for group, products in forward.groups]
    for count, products, rows_in in [*all_groups, (1, forward.head, logits)]:
        for product in products:
            rows = product.rows(rows_in) * (forward.expert_share if product.is_expert else 1)
            copies = product.touched(rows_in, forward.expert_batches)
            moved = copies * product.weights * forward.weight_bytes_per_element(product, rows)
            moved = moved + rows * (product.in_features + product.out_features) * forward.activation_bytes
            seconds = forward.product_s(product, rows_in)[2]
            flops, size, time = sums.get(product.op, (0.0, 0.0, 0.0))
            sums[product.op] = (
                flops + count * 2.0 * product.weights * float(rows),
                size + count * float(moved),
                time + count * float(seconds),
            )
    return [Operation(phase, op, *figures) for op, figures in sums.items()]


def _prefill_attention(forward: Forward, batch: float, prompt_len: float) -> Operation:
    causal = not forward.model.encoder
    flops = sum(
        group.count * prefill_score_flops(group.attention, batch, prompt_len, causal, forward.tp)
        for group in forward.model.layer_groups
    )
    # Queries and outputs beside keys and values.
    hidden = 2 * forward.model.num_layers * forward.model.hidden_size * forward.activation_bytes / forward.tp
    moved = _cache_bytes(forward, batch, prompt_len) + batch * prompt_len * hidden
    seconds = forward.prefill(batch, prompt_len).parts_s["attention"]
    return Operation("prefill", "attention", float(flops), float(moved), float(seconds))


def _decode_attention(forward: Forward, batch: float, context: float) -> Operation:
    flops = sum(
        group.count * decode_score_flops(group.attention, batch, context, forward.tp)
        for group in forward.model.layer_groups
    )
    constant, attention = forward.decode_step(batch)
    seconds = constant.parts_s["attention"] + forward.attention_s(attention, context)
    return Operation(
        "decode", "attention", float(flops), float(_cache_bytes(forward, batch, context)), float(seconds)
    )


def _cache_bytes(forward: Forward, batch: float, tokens: float) -> float:
    return float(
        kv_cache_bytes(forward.model, batch, tokens, forward.scenario.dtype.stored_kv_bits, forward.tp)
    )
