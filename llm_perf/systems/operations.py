"""The operations of one pass one by one: FLOPs, bytes and seconds, as points of a roofline."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from llm_perf.config.scenario import Scenario
from llm_perf.counts.arrays import Number
from llm_perf.counts.attention import decode_score_flops, kv_cache_bytes, prefill_score_flops
from llm_perf.systems.costs import Costs
from llm_perf.systems.forward import Forward


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
    prefill = forward.prefill(batch, prompt_len)
    found = _products("prefill", prefill)
    found.append(_prefill_attention(forward, batch, prompt_len, prefill.parts_s["attention"]))
    if not scenario.model.encoder:
        step, attention = forward.decode_step(batch)
        found += _products("decode", step)
        seconds = step.parts_s["attention"] + forward.attention_s(attention, context)
        found.append(_decode_attention(forward, batch, context, seconds))
    return found


def _products(phase: Literal["prefill", "decode"], costs: Costs) -> list[Operation]:
    """What the pass's costs are made of, by name."""
    sums: dict[str, tuple[float, float, float]] = {}
    for op, times, one in costs.products:
        flops, size, time = sums.get(op, (0.0, 0.0, 0.0))
        sums[op] = (
            flops + float(times * one.flops),
            size + float(times * one.moved_bytes),
            time + float(times * one.seconds),
        )
    return [Operation(phase, op, *figures) for op, figures in sums.items()]


def _prefill_attention(forward: Forward, batch: float, prompt_len: float, seconds: Number) -> Operation:
    causal = not forward.model.encoder
    flops = sum(
        group.count * prefill_score_flops(group.attention, batch, prompt_len, causal, forward.tp)
        for group in forward.model.layer_groups
    )
    # Queries and outputs beside keys and values.
    hidden = 2 * forward.model.num_layers * forward.model.hidden_size * forward.activation_bytes / forward.tp
    moved = _cache_bytes(forward, batch, prompt_len) + batch * prompt_len * hidden
    return Operation("prefill", "attention", float(flops), float(moved), float(seconds))


def _decode_attention(forward: Forward, batch: float, context: float, seconds: Number) -> Operation:
    flops = sum(
        group.count * decode_score_flops(group.attention, batch, context, forward.tp)
        for group in forward.model.layer_groups
    )
    return Operation(
        "decode", "attention", float(flops), float(_cache_bytes(forward, batch, context)), float(seconds)
    )


def _cache_bytes(forward: Forward, batch: float, tokens: float) -> float:
    dtype = forward.scenario.dtype
    return float(
        kv_cache_bytes(forward.model, batch, tokens, dtype.stored_kv_bits, forward.tp, dtype.state_bits)
    )
