"""transformers serve: sequences that come and go between steps, on GPUs or on the CPU alone."""

from __future__ import annotations

from typing import ClassVar

from llm_perf.config.base import GIB
from llm_perf.config.scenario import Scenario
from llm_perf.systems.base import (
    ALL_ON_CPU,
    NO_MEMORY,
    Evaluation,
    Load,
    MemoryParts,
    MemoryUse,
    Placement,
)
from llm_perf.systems.cpu_forward import CpuForward
from llm_perf.systems.footprint import model_weight_bytes, stage_kv_bytes
from llm_perf.systems.forward import replica_batch
from llm_perf.systems.resident import decode_phase, notes, prefill_phase
from llm_perf.systems.stacks.transformers import Transformers


class TransformersServe(Transformers):
    """transformers with continuous batching. Without a GPU the CPU that launches is the one that computes."""

    name = "transformers_serve"
    options: ClassVar[frozenset[str]] = frozenset({*Transformers.options, "threads"})

    def constants(self, scenario: Scenario) -> dict[str, float]:
        """The version's constants; on a CPU nothing of the host's work runs beside the products."""
        found = super().constants(scenario)
        return found | {"overlap_exponent": 1.0} if scenario.gpu.absent else found

    def place(self, scenario: Scenario, load: Load) -> Placement:
        """Everything on the GPU, or everything on the CPU."""
        if not scenario.gpu.absent:
            return super().place(scenario, load)
        why = "without a GPU all layers are computed on the CPU"
        return Placement(ALL_ON_CPU, ALL_ON_CPU, ALL_ON_CPU, why)

    def memory(self, scenario: Scenario, load: Load, placement: Placement) -> MemoryUse:
        """Memory of the fullest GPU, or of the host."""
        if not scenario.gpu.absent:
            return super().memory(scenario, load, placement)
        return MemoryUse(NO_MEMORY, _host_memory(scenario, load, self.constants(scenario)), NO_MEMORY)

    def evaluate(self, scenario: Scenario, load: Load) -> Evaluation:
        """Placement, memory and both phases."""
        if not scenario.gpu.absent:
            return super().evaluate(scenario, load)
        forward = CpuForward(scenario, self.constants(scenario))
        batch, placement = replica_batch(scenario, load), self.place(scenario, load)
        return Evaluation(
            placement,
            self.memory(scenario, load, placement),
            prefill_phase(forward, batch, load.prompt_len),
            decode_phase(forward, batch, load),
            notes(scenario),
        )


def _host_memory(scenario: Scenario, load: Load, constants: dict[str, float]) -> MemoryParts:
    return MemoryParts(
        weights_bytes=model_weight_bytes(scenario),
        kv_cache_bytes=stage_kv_bytes(scenario, replica_batch(scenario, load), load.context_len),
        activations_bytes=0.0,
        buffers_bytes=0.0,
        reserved_bytes=constants["host_reserve_gib"] * GIB,
        capacity_bytes=scenario.host.usable_memory_bytes,
    )
