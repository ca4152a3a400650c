"""Mixtures whose attention is on the GPU and whose experts are in host memory, with some of them on the GPU.

ktransformers, Fiddler, MoE-Infinity and the offloading of Mixtral differ in data alone: whether an expert that the GPU does
not hold is computed on the CPU or copied, whether both compute at once, whether each socket has a copy of the weights,
and how many experts the GPU holds.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import ClassVar

from llm_perf.config.base import GIB
from llm_perf.config.parallelism import DSZeRO
from llm_perf.config.scenario import Scenario
from llm_perf.counts.arrays import Number, is_array, maximum, minimum
from llm_perf.counts.linears import layer_linears
from llm_perf.errors import SpecError
from llm_perf.hardware.transfer import host_link_bytes_per_s
from llm_perf.systems.base import (
    ALL_ON_GPU,
    NO_MEMORY,
    Evaluation,
    Filling,
    Load,
    MemoryParts,
    MemoryUse,
    Placement,
    System,
    TierShares,
)
from llm_perf.systems.footprint import model_weight_bytes
from llm_perf.systems.forward import replica_batch
from llm_perf.systems.hybrid import Division, HybridForward, Part, expert_layer_bytes, has_experts
from llm_perf.systems.resident import decode_phase, gpu_memory, notes, prefill_phase


class ExpertOffload(System):
    """Routed experts in host memory; everything else, and a share of the experts, on the GPU."""

    options: ClassVar[frozenset[str]] = frozenset(
        {
            "threads", "kt_num_gpu_experts", "kt_gpu_prefill_token_threshold", "kt_max_deferred_experts_per_token",
            "expert_hit_rate", "prefix_hit_rate", "prefill_chunk",
        }
    )  # fmt: skip

    def constants(self, scenario: Scenario) -> dict[str, float]:
        """The system's constants, with the tokens from which on prompts copy experts as the scenario has them."""
        found = super().constants(scenario)
        asked = scenario.offload.kt_gpu_prefill_token_threshold
        return found if asked is None else found | {"copy_min_tokens": float(asked or math.inf)}

    def check(self, scenario: Scenario) -> None:
        """Refuse models without experts, and placements that it does not know.

        Raises:
            SpecError: with what could be done instead.
        """
        model, asked, p = scenario.model, scenario.offload, scenario.parallelism
        experts = [group.mlp.routed_experts for group in model.layer_groups if has_experts(group)]
        if not experts:
            raise SpecError(
                f"system {self.name} divides experts, and {model.name} has none: use --system llama_cpp"
            )
        if any(shares is not None and shares.gpu < 1 for shares in (asked.kv_cache, asked.weights)):
            raise SpecError(
                f"system {self.name} keeps the cache on the GPU and experts in host memory: give --kt-num-gpu-experts"
            )
        if asked.kt_num_gpu_experts is not None and asked.kt_num_gpu_experts > max(experts):
            raise SpecError(
                f"kt_num_gpu_experts {asked.kt_num_gpu_experts} is more than the {max(experts)} experts of {model.name}"
            )
        usual = super().constants(scenario)
        told = asked.kt_gpu_prefill_token_threshold
        # Programs that copy every miss compute none on the CPU: nothing to copy for prompts only, or to defer.
        by_layers = (
            usual["copy_min_tokens"] < _NEVER and not usual["copy_by_experts"] and not usual["misses_copied"]
        )
        if told is not None and not by_layers:
            raise SpecError(
                f"--kt-gpu-prefill-token-threshold is of ktransformers {_SINCE_SGLANG} and later: system {self.name} copies "
                "no experts for prompts, or decides by itself"
            )
        if asked.kt_max_deferred_experts_per_token and not by_layers:
            raise SpecError(
                f"--kt-max-deferred-experts-per-token is of ktransformers {_SINCE_SGLANG} and later: system {self.name} "
                "waits for the experts of each layer"
            )
        least = usual["least_weight_bits"]
        if scenario.dtype.stored_weight_bits < least:
            raise SpecError(
                f"system {self.name} unpacks weights of less than {least:g} bits in Python, which is not modelled: give "
                "--weight-format bf16, or --system llama_cpp for narrow ones"
            )
        if p.pp_size > 1 or p.dp_size > 1 or p.ep_size > 1 or p.cp_size > 1:
            raise SpecError(f"system {self.name} divides the GPU's part over tensor ranks: give --tp-size")
        if scenario.ds_zero is DSZeRO.STAGE_3:
            raise SpecError(
                f"--ds-zero 3 is the system zero_inference; it cannot be combined with --system {self.name}"
            )

    # -- where ----------------------------------------------------------------------------------------------------

    def division(self, scenario: Scenario, load: Load, constants: dict[str, float]) -> Division:
        """All layers on the GPU; of the experts what is asked for, or what fits."""
        held = self._held(scenario, load, constants)
        asked = scenario.offload.expert_hit_rate
        hits = held if asked is None else where_any(held, asked)
        parts = tuple(
            Part(group.count, group.count, 0 if has_experts(group) else group.count)
            for group in scenario.model.layer_groups
        )
        return Division(
            parts,
            held=held,
            hits=hits,
            misses="copy" if constants["misses_copied"] else "cpu",
            at_once=bool(constants["experts_at_once"]),
            deferred=scenario.offload.kt_max_deferred_experts_per_token or 0,
        )

    def _held(self, scenario: Scenario, load: Load, constants: dict[str, float]) -> Number:
        """Share of all routed experts that the GPUs hold."""
        experts = max(group.mlp.routed_experts for group in scenario.model.layer_groups)
        asked = scenario.offload.kt_num_gpu_experts
        if asked is not None:
            return asked / experts
        if not constants["experts_fill_gpu"]:
            return 0.0 * load.batch
        empty = self._gpu_memory(scenario, load, constants, 0.0)
        room = maximum(empty.capacity_bytes - empty.total_bytes, 0.0)
        return minimum(room / (_all_experts(scenario) / scenario.parallelism.tp_size), 1.0)

    def place(self, scenario: Scenario, load: Load) -> Placement:
        """Experts in host memory but for those that the GPU holds."""
        division = self.division(scenario, load, self.constants(scenario))
        away = _all_experts(scenario) * (1.0 - division.held) / _whole(scenario)
        shares = TierShares(1.0 - away, away, 0.0 * away)
        reason = f"system {self.name} keeps routed experts in host memory"
        if not is_array(division.held):
            reason += f", {division.held:.0%} of them on the GPU"
        return Placement(shares, ALL_ON_GPU, ALL_ON_GPU, reason)

    def fillings(self, scenario: Scenario, lossless: bool) -> Iterator[Filling]:  # noqa: ARG002 - a hook
        """As many experts of each layer on the GPU as fit."""
        experts = max(group.mlp.routed_experts for group in scenario.model.layer_groups)
        yield Filling({}, "kt_num_gpu_experts", range(experts + 1))

    # -- memory ---------------------------------------------------------------------------------------------------

    def _gpu_memory(
        self, scenario: Scenario, load: Load, constants: dict[str, float], held: Number
    ) -> MemoryParts:
        resident = gpu_memory(scenario, load, constants)
        ranks = scenario.parallelism.tp_size
        away = _all_experts(scenario) / ranks * (1.0 - held)
        # What is copied needs room for one layer's experts, or for one of them where each is copied for its own rows.
        passing = max(expert_layer_bytes(scenario)) / ranks if constants["copy_min_tokens"] < _NEVER else 0.0
        if constants["copy_by_experts"]:
            passing /= max(group.mlp.routed_experts for group in scenario.model.layer_groups)
        return MemoryParts(
            weights_bytes=maximum(resident.weights_bytes - away, 0.0)
            + constants["latent_up_16bit"] * _widened_bytes(scenario) / ranks,
            kv_cache_bytes=resident.kv_cache_bytes,
            activations_bytes=resident.activations_bytes,
            buffers_bytes=resident.buffers_bytes + passing,
            reserved_bytes=resident.reserved_bytes,
            capacity_bytes=resident.capacity_bytes,
        )

    def memory(self, scenario: Scenario, load: Load, placement: Placement) -> MemoryUse:  # noqa: ARG002 - the interface
        """Memory of the fullest GPU and of the host."""
        constants = self.constants(scenario)
        held = self._held(scenario, load, constants)
        copies = scenario.host.sockets if self._copied_per_socket(scenario, constants) else 1
        on_host = _all_experts(scenario) * (1.0 if constants["experts_kept_twice"] else 1.0 - held)
        cpu = MemoryParts(
            weights_bytes=on_host * copies,
            kv_cache_bytes=0.0,
            activations_bytes=0.0,
            buffers_bytes=0.0,
            reserved_bytes=constants["host_reserve_gib"] * GIB,
            capacity_bytes=scenario.host.usable_memory_bytes,
        )
        return MemoryUse(self._gpu_memory(scenario, load, constants, held), cpu, NO_MEMORY)

    @staticmethod
    def _copied_per_socket(scenario: Scenario, constants: dict[str, float]) -> bool:
        """Whether each socket has the experts in its own memory: where the version does so and there is room."""
        needed = _all_experts(scenario) * scenario.host.sockets + constants["host_reserve_gib"] * GIB
        return bool(constants["cpu_copies_per_socket"]) and needed <= scenario.host.usable_memory_bytes

    # -- time -----------------------------------------------------------------------------------------------------

    def evaluate(self, scenario: Scenario, load: Load) -> Evaluation:
        """Placement, memory and both phases."""
        constants = self.constants(scenario)
        division = self.division(scenario, load, constants)
        link = host_link_bytes_per_s(scenario.gpu, scenario.host) * constants["host_copy_link_share"]
        forward = HybridForward(
            scenario, constants, division, link, self._copied_per_socket(scenario, constants)
        )
        batch = replica_batch(scenario, load)
        placement = self.place(scenario, load)
        return Evaluation(
            placement,
            self.memory(scenario, load, placement),
            prefill_phase(forward, batch, load.prompt_len),
            decode_phase(forward, batch, load),
            notes(scenario),
        )


_SINCE_SGLANG = "0.4"
_NEVER = 1e8
"""Tokens of a pass that none has: weights are never copied."""


def where_any(like: Number, value: float) -> Number:
    """A number for every configuration."""
    return value + 0.0 * like


def _all_experts(scenario: Scenario) -> float:
    counts = (group.count for group in scenario.model.layer_groups)
    return sum(count * size for count, size in zip(counts, expert_layer_bytes(scenario), strict=True))


def _widened_bytes(scenario: Scenario) -> float:
    """What the matrices that expand latent keys and values take in 16 bits beyond their stored width."""
    model, formats = scenario.model, scenario.dtype.formats
    found = 0.0
    for index, group in enumerate(model.layer_groups):
        for position, linear in enumerate(layer_linears(group, model.hidden_size)):
            if linear.op == "kv_up":
                stored = scenario.dtype.stored_weight_bits
                bits = stored if formats is None else formats.layers[index][position].bits
                found += group.count * linear.weights * max(16 - bits, 0.0) / 8
    return found


def _whole(scenario: Scenario) -> float:
    one = scenario.replace(parallelism=scenario.parallelism.replace(tp_size=1), num_nodes=1)
    return model_weight_bytes(one)
