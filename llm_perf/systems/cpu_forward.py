"""A pass that the CPU computes alone, in the parts of `Forward`: so that an engine's steps are priced of it as of a GPU's.

`HybridForward` prices a batch that is read and generated together; here products, attention and head can be asked for one
by one, since what shares a step differs from step to step.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from llm_perf.config.model import Mixer
from llm_perf.config.scenario import Scenario
from llm_perf.counts.arrays import Number, is_array
from llm_perf.counts.attention import kv_elements_per_token, prefill_pairs, score_flops_per_pair
from llm_perf.hardware.cpu_time import CpuRates
from llm_perf.systems.attention import Attention, Chunk, DecodeAttention
from llm_perf.systems.costs import Costs
from llm_perf.systems.forward import Forward
from llm_perf.systems.hybrid import Division, HybridForward, Part
from llm_perf.systems.terms import one_term


class CpuAttention(Attention):
    """Attention of all layers on the CPU.

    A stack with ``packed_attention`` hands all sequences of a step to one kernel, side by side under a mask: every new token
    is multiplied with the keys of all sequences, not of its own alone.
    """

    def __init__(self, forward: HybridForward) -> None:
        super().__init__(forward.scenario, forward.constants, forward.rates, forward.attention.fabric)
        self.cpu: CpuRates = forward.cpu
        self.packed = bool(forward.constants["packed_attention"])

    def prefill(self, costs: Costs, attention: Mixer, layers: int, chunks: Sequence[Chunk]) -> None:
        """Attention of prompts' chunks that share a step with one another."""
        new = sum((chunk.tokens for chunk in chunks), 0.0)
        keys = sum((chunk.sequences * (chunk.new_tokens + chunk.cached) for chunk in chunks), 0.0)
        own = sum(
            (chunk.sequences * _pairs(attention, chunk.new_tokens, chunk.cached) for chunk in chunks), 0.0
        )
        self._add(costs, "scores of the prompt", layers * self.chunks_s(attention, own, new, keys))

    def chunks_s(self, mixer: Mixer, own_pairs: Number, new: Number, keys: Number) -> Number:
        """Seconds of one layer: ``own_pairs`` of query and key, or all of ``new`` tokens and ``keys`` where packed."""
        if mixer.recurrent or not self.packed:
            return self.cpu.scores_s(own_pairs * score_flops_per_pair(mixer))
        return self.cpu.scores_s(new * keys * score_flops_per_pair(mixer)) + self._gathered_s(mixer, keys)

    def decode(
        self, costs: Costs, mixer: Mixer, layers: int, batch: Number, queries: int = 1
    ) -> DecodeAttention:
        """Attention of a decode step per token of context; nothing of it comes once per layer."""
        self._add(costs, "attention over the context", 0.0 * batch)
        flops = batch * queries * score_flops_per_pair(mixer, absorbed=True)
        kept = batch * kv_elements_per_token(mixer) * self._kept_bits(mixer) / 8
        if self.packed and not mixer.recurrent:
            # Each of the batch's queries meets the keys of all its sequences, copied side by side first.
            seconds = self.cpu.attention_s(batch * flops, kept) + self._gathered_s(mixer, batch)
        else:
            seconds = self.cpu.attention_s(flops, kept)
        return DecodeAttention(mixer, layers * seconds, 0.0 * seconds, layers * seconds)

    def crossing_s(self, mixer: Mixer, new: Number, keys: Number, batch: Number, context: Number) -> Number:
        """Seconds of one layer that chunks and decoding sequences of one step cost one another, where packed."""
        if not self.packed or mixer.recurrent:
            return 0.0
        pairs = new * batch * context + batch * keys
        return self.cpu.scores_s(pairs * score_flops_per_pair(mixer))

    def _gathered_s(self, mixer: Mixer, tokens: Number) -> Number:
        """Keys and values of so many tokens copied out of their blocks: read and written."""
        moved = 2.0 * tokens * kv_elements_per_token(mixer) * self._kept_bits(mixer) / 8
        return moved / self.cpu.read_bytes_per_s

    def _kept_bits(self, mixer: Mixer) -> float:
        return mixer.kept_bits(self.scenario.dtype.stored_kv_bits, self.scenario.dtype.state_bits)

    @staticmethod
    def _add(costs: Costs, title: str, seconds: Number) -> None:
        costs.part("cpu_attention", seconds, one_term("cpu_attention", title, ("seconds", seconds)))
        costs.busy("cpu", seconds)


class CpuForward(HybridForward):
    """A model whose layers, head and cache are all the CPU's."""

    def __init__(self, scenario: Scenario, constants: dict[str, float]) -> None:
        groups = tuple(Part(group.count, 0, 0) for group in scenario.model.layer_groups)
        super().__init__(scenario, constants, Division(groups, False, False), float("inf"))
        self.attention: CpuAttention = CpuAttention(self)

    def prefill(self, batch: Number, new_tokens: Number, cached: Number = 0, with_head: bool = True) -> Costs:
        """One pass over new tokens of prompts, as `Forward.prefill`."""
        return self._with_all_parts(Forward.prefill(self, batch, new_tokens, cached, with_head))

    def decode_step(self, batch: Number, queries: int = 1) -> tuple[Costs, list[DecodeAttention]]:
        """One decode step without attention over the context, and that per token, as `Forward.decode_step`."""
        costs, attention = Forward.decode_step(self, batch, queries)
        return self._with_all_parts(costs), attention

    def layers(
        self,
        costs: Costs,
        tokens: Number,
        sequences: Number,
        attend: Callable[[Mixer, int], None] = lambda mixer, count: None,  # noqa: ARG005
    ) -> None:
        """All layers on so many tokens."""
        self._host_part(costs, tokens, tokens * self._distinct_share(sequences), prompt=False)
        rate = self.constants["cpu_elementwise_gb_per_s"]
        for group in self.model.layer_groups:
            for mixer in group.attention.parts:
                attend(mixer, group.count)
            if rate > 0:
                vectors = self.constants["elementwise_hidden_vectors"] * self.model.hidden_size
                vectors += self.constants["elementwise_ffn_vectors"] * group.mlp.ffn_size
                seconds = group.count * tokens * vectors * self.activation_bytes / (rate * 1e9)
                costs.part(
                    "elementwise", seconds, one_term("elementwise", "norms, residuals", ("seconds", seconds))
                )
                costs.busy("cpu", seconds)

    def experts(self, costs: Costs, tokens: Number) -> None:
        """Experts of one replica alone, as all of its layers."""
        costs.part(
            "cpu_experts", 0.0 * tokens, one_term("cpu_experts", "experts on the CPU", ("seconds", 0.0))
        )

    def head_of(self, costs: Costs, positions: Number) -> None:
        """The head on so many positions."""
        self._head_on_cpu(costs, positions)

    def chunks_s(
        self, chunks: Sequence[tuple[Any, Any]], batch: Number, context: Number, alike: Number = 1.0
    ) -> Number:
        """Attention of a step's chunks in all layers, beside decoding sequences.

        Args:
            chunks: Each (new tokens, tokens before).
            batch: Sequences that decode.
            context: Their mean context.
            alike: So many of each chunk.
        """
        new = alike * sum(one[0] for one in chunks)
        keys = alike * sum(one[0] + one[1] for one in chunks)
        seconds: Number = 0.0
        for group in self.model.layer_groups:
            for mixer in group.attention.parts:
                own = alike * sum(_pairs(mixer, one, before) for one, before in chunks)
                each = self.attention.chunks_s(mixer, own, new, keys)
                if is_array(batch) or batch:
                    each = each + self.attention.crossing_s(mixer, new, keys, batch, context)
                seconds = seconds + group.count * each
        return seconds


def _pairs(mixer: Mixer, new: Number, before: Number) -> Number:
    return prefill_pairs(mixer, new + before, causal=True) - prefill_pairs(mixer, before, causal=True)
