"""Everything on the GPU: one model of a forward pass, and the software stacks that run it as data beside it."""

from __future__ import annotations

from llm_perf.config.parallelism import DSZeRO
from llm_perf.config.scenario import Scenario
from llm_perf.counts.arrays import Number, maximum
from llm_perf.counts.parameters import token_table_params
from llm_perf.counts.quadrature import context_nodes
from llm_perf.errors import SpecError
from llm_perf.hardware.roofline import p_norm
from llm_perf.systems.base import (
    ALL_ON_GPU,
    NO_MEMORY,
    Evaluation,
    Load,
    MemoryParts,
    MemoryUse,
    PhaseCost,
    Placement,
)
from llm_perf.systems.constants import WithConstants
from llm_perf.systems.footprint import prefill_activation_bytes, stage_kv_bytes, stage_weight_bytes
from llm_perf.systems.forward import Costs, DecodeAttention, Forward, decode_steps, replica_batch

_GIB = 2**30


class Resident(WithConstants):
    """A stack whose weights, cache and activations all live on the GPUs.

    Each step takes S(device, host): kernels on the device, launches and Python on the host, overlapped as well as
    the stack's ``overlap_exponent`` says, and a time per step and per sequence for scheduling and sampling.
    """

    def __init__(self, name: str) -> None:
        self.name = name

    def check(self, scenario: Scenario) -> None:
        """Refuse offloading and ZeRO stage 3, which need a system that streams.

        Raises:
            SpecError: with the system to use.
        """
        offload = scenario.offload
        asked = [offload.weights, offload.kv_cache, offload.activations]
        if any(shares is not None and shares.gpu < 1 for shares in asked):
            raise SpecError(
                f"system {self.name} keeps everything on the GPU; to offload, use --system zero_inference"
            )
        if scenario.ds_zero is DSZeRO.STAGE_3:
            raise SpecError(
                f"--ds-zero 3 is the system zero_inference; it cannot be combined with --system {self.name}"
            )

    def place(self, scenario: Scenario, load: Load) -> Placement:  # noqa: ARG002 - the interface of System
        """Everything on the GPU, whether it fits or not."""
        return Placement(
            ALL_ON_GPU, ALL_ON_GPU, ALL_ON_GPU, f"system {self.name} keeps everything on the GPU"
        )

    def memory(self, scenario: Scenario, load: Load, placement: Placement) -> MemoryUse:  # noqa: ARG002 - likewise
        """Memory of the fullest GPU."""
        return MemoryUse(self.gpu_memory(scenario, load, self.constants(scenario)), NO_MEMORY, NO_MEMORY)

    def evaluate(self, scenario: Scenario, load: Load) -> Evaluation:
        """Placement, memory and both phases."""
        constants = self.constants(scenario)
        forward = Forward(scenario, constants)
        batch = replica_batch(scenario, load)
        placement = self.place(scenario, load)
        memory = MemoryUse(self.gpu_memory(scenario, load, constants), NO_MEMORY, NO_MEMORY)
        prefill = self.prefill(forward, batch, load)
        decode = None if scenario.model.encoder else decode_phase(forward, batch, load)
        return Evaluation(placement, memory, prefill, decode, notes(scenario))

    def prefill(self, forward: Forward, batch: Number, load: Load) -> PhaseCost:
        """The phase up to the first token."""
        return prefill_phase(forward, batch, load.prompt_len)

    def gpu_memory(self, scenario: Scenario, load: Load, constants: dict[str, float]) -> MemoryParts:
        """Memory of the fullest GPU."""
        return gpu_memory(scenario, load, constants)


def notes(scenario: Scenario) -> tuple[str, ...]:
    """What a reader should know about how the scenario was read."""
    if scenario.ds_zero in (DSZeRO.STAGE_1, DSZeRO.STAGE_2):
        stage = scenario.ds_zero.value
        return (
            f"ZeRO stage {stage} shards optimizer states and gradients, so at inference it equals stage 0",
        )
    return ()


def gpu_memory(scenario: Scenario, load: Load, constants: dict[str, float]) -> MemoryParts:
    """Memory of the fullest GPU with everything on it."""
    batch = replica_batch(scenario, load)
    communicators = sum(size > 1 for size in (scenario.parallelism.tp_size, scenario.parallelism.pp_size))
    return MemoryParts(
        weights_bytes=resident_weight_bytes(scenario, constants),
        kv_cache_bytes=stage_kv_bytes(scenario, batch, load.context_len),
        activations_bytes=prefill_activation_bytes(scenario, batch, load.prompt_len, constants),
        buffers_bytes=communicators * constants["communicator_gib"] * _GIB,
        reserved_bytes=constants["process_reserve_gib"] * _GIB,
        capacity_bytes=scenario.gpu.usable_memory_bytes,
    )


def resident_weight_bytes(scenario: Scenario, constants: dict[str, float]) -> float:
    """Weight bytes of the fullest GPU; some stacks store the token table a second time for the head."""
    model = scenario.model
    weights = stage_weight_bytes(scenario)
    if constants["duplicate_embeddings"] and model.tied_embeddings and scenario.parallelism.pp_size == 1:
        table = token_table_params(model) / scenario.parallelism.tp_size
        weights += table * scenario.dtype.stored_embedding_bits / 8
    return weights


def host_s_per_pass(forward: Forward) -> float:
    """Seconds that the host needs to launch one pass: kernels per layer, and Python per layer."""
    c = forward.constants
    kernels = c["kernels_per_layer"] + 5 + (2 if forward.tp > 1 else 0)
    per_layer = kernels * c["launch_us"] + c["python_us_per_layer"]
    return forward.model.num_layers * per_layer * 1e-6


def exposed_host_s(forward: Forward, device_s: Number) -> Number:
    """What the host adds to a pass on the device: together they take the longer one, rounded where both are alike."""
    together = p_norm(device_s, host_s_per_pass(forward), forward.constants["overlap_exponent"])
    return maximum(together - device_s, 0.0)


def step_overhead_s(forward: Forward, batch: Number) -> Number:
    """Scheduling and sampling of one step."""
    return forward.constants["step_ms"] * 1e-3 + batch * forward.constants["sequence_us"] * 1e-6


def prefill_phase(forward: Forward, batch: Number, prompt_len: Number) -> PhaseCost:
    """One prefill of ``batch`` prompts."""
    costs = forward.prefill(batch, prompt_len)
    device = costs.total_s
    overhead = step_overhead_s(forward, batch) + forward.constants["prefill_ms"] * 1e-3
    framework = exposed_host_s(forward, device) + overhead
    costs.busy("host", host_s_per_pass(forward) + overhead)
    return PhaseCost(device + framework, {**costs.parts_s, "framework": framework}, costs.busy_s)


def decode_phase(forward: Forward, batch: Number, load: Load) -> PhaseCost:
    """All decode steps: step i works on a context of prompt_len + i tokens."""
    constant, attention = forward.decode_step(batch)
    steps = decode_steps(load)
    base = constant.total_s
    attended_s: Number = 0.0
    exposed_s: Number = 0.0
    # The host stops being waited for where the device takes longer: a corner, if a rounded one.
    kinks = (*forward.windows, forward.context_when(attention, host_s_per_pass(forward) - base))
    for context, weight in context_nodes(load.prompt_len + 1, steps, kinks):
        attention_s = forward.attention_s(attention, context)
        attended_s = attended_s + weight * attention_s
        exposed_s = exposed_s + weight * exposed_host_s(forward, base + attention_s)
    overhead = step_overhead_s(forward, batch)
    return _phase(forward, constant, attention, steps, attended_s, exposed_s + steps * overhead, overhead)


def _phase(
    forward: Forward,
    constant: Costs,
    attention: list[DecodeAttention],
    steps: Number,
    attended_s: Number,
    framework_s: Number,
    overhead: Number,
) -> PhaseCost:
    parts = {name: steps * seconds for name, seconds in constant.parts_s.items()}
    parts["attention"] = parts["attention"] + attended_s
    parts["framework"] = framework_s
    busy = {name: steps * seconds for name, seconds in constant.busy_s.items()}
    add_attention_busy(busy, attention, attended_s)
    busy["host"] = steps * (host_s_per_pass(forward) + overhead)
    return PhaseCost(steps * constant.total_s + attended_s + framework_s, parts, busy)


def add_attention_busy(busy: dict[str, Number], attention: list[DecodeAttention], attended_s: Number) -> None:
    """Attribute decode attention to arithmetic or memory in the proportion of its two roofs."""
    total = sum(entry.per_token_s for entry in attention)
    compute = sum(entry.compute_per_token_s for entry in attention)
    memory = sum(entry.memory_per_token_s for entry in attention)
    busy["compute"] = busy["compute"] + attended_s * compute / total
    busy["hbm"] = busy["hbm"] + attended_s * memory / total
