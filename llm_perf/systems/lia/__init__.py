"""LIA: a pass on the CPU's matrix units out of host memory, or with the weights streaming to the GPU.

The faster of the two, for each phase: one sequence and short prompts stay on the CPU, long prompts go to the GPU.
Source: Kim et al., LIA (ISCA 2025), and the logs of Hyungyo1/microbenchmark.
"""

from __future__ import annotations

from collections.abc import Iterator

from llm_perf.config.scenario import Scenario
from llm_perf.counts.arrays import Number, maximum, minimum, where
from llm_perf.counts.attention import kv_cache_bytes
from llm_perf.counts.flops import decode_step_flops, prefill_flops
from llm_perf.counts.quadrature import context_nodes
from llm_perf.errors import SpecError
from llm_perf.hardware.gpu_time import GemmRates
from llm_perf.hardware.roofline import p_norm
from llm_perf.hardware.streams import H2D
from llm_perf.hardware.transfer import copy_path
from llm_perf.systems.base import (
    ALL_ON_CPU,
    ALL_ON_GPU,
    NO_MEMORY,
    Evaluation,
    Load,
    MemoryParts,
    MemoryUse,
    PhaseCost,
    Placement,
    System,
)
from llm_perf.systems.constants import machine_of
from llm_perf.systems.footprint import model_weight_bytes, prefill_activation_bytes, stage_kv_bytes
from llm_perf.systems.forward import Forward, decode_steps
from llm_perf.systems.products import gemm_rates_used
from llm_perf.systems.terms import Factor, Term

_GIB = 2**30


class Lia(System):
    """Weights and cache in host memory; each pass on the CPU or streamed to the GPU."""

    name = "lia"

    def check(self, scenario: Scenario) -> None:
        """Refuse what LIA does not do, and hosts whose CPU is not described.

        Raises:
            SpecError: with what is missing.
        """
        host, offload = scenario.host, scenario.offload
        if scenario.model.encoder:
            raise SpecError(f"system lia generates text, and {scenario.model.name} is an encoder")
        if any(s is not None and s.nvme > 0 for s in (offload.weights, offload.kv_cache)):
            raise SpecError("system lia keeps weights and cache in host memory, not on NVMe")
        if host.cpu_matmul_tflops_small_batch is None or host.memory_bandwidth_gb_per_s_per_socket is None:
            raise SpecError(
                f"host {host.name} states no rate of matrix products or no memory bandwidth, so a pass on its CPU cannot "
                "be priced; give a --host whose file states cpu_matmul_tflops_small_batch and the bandwidth"
            )

    def place(self, scenario: Scenario, load: Load) -> Placement:  # noqa: ARG002 - the interface of System
        """Weights and cache in host memory, where both ways of running a pass find them."""
        return Placement(
            ALL_ON_CPU, ALL_ON_CPU, ALL_ON_GPU, "system lia keeps weights and cache in host memory"
        )

    def memory(self, scenario: Scenario, load: Load, placement: Placement) -> MemoryUse:  # noqa: ARG002 - likewise
        """Memory of the GPU and of the host."""
        return _memory(scenario, load, self.constants(scenario))

    def evaluate(self, scenario: Scenario, load: Load) -> Evaluation:
        """Placement, memory and both phases."""
        constants = self.constants(scenario)
        ways = _Ways(scenario, constants, load)
        return Evaluation(
            self.place(scenario, load),
            _memory(scenario, load, constants),
            ways.prefill(load.prompt_len),
            ways.decode(load),
        )


def _memory(scenario: Scenario, load: Load, constants: dict[str, float]) -> MemoryUse:
    layer = model_weight_bytes(scenario) / scenario.model.num_layers
    gpu = MemoryParts(
        weights_bytes=0.0,
        kv_cache_bytes=stage_kv_bytes(scenario, load.batch, load.context_len) / scenario.model.num_layers,
        activations_bytes=prefill_activation_bytes(scenario, load.batch, load.prompt_len, constants),
        buffers_bytes=2 * layer,  # the one at work and the next
        reserved_bytes=constants["process_reserve_gib"] * _GIB,
        capacity_bytes=scenario.gpu.usable_memory_bytes,
    )
    cpu = MemoryParts(
        weights_bytes=model_weight_bytes(scenario),
        kv_cache_bytes=stage_kv_bytes(scenario, load.batch, load.context_len),
        activations_bytes=0.0,
        buffers_bytes=0.0,
        reserved_bytes=constants["host_reserve_gib"] * _GIB,
        capacity_bytes=scenario.host.usable_memory_bytes,
    )
    return MemoryUse(gpu, cpu, NO_MEMORY)


class _Ways:
    """The two ways of one pass."""

    def __init__(self, scenario: Scenario, constants: dict[str, float], load: Load) -> None:
        self.scenario, self.constants, self.batch = scenario, constants, load.batch
        self.forward = Forward(scenario, constants)
        self.weights = model_weight_bytes(scenario)
        host = machine_of(scenario)
        source = "LIA logs on one host"
        self.link = copy_path(
            H2D, scenario.gpu, host, Lia.name, "pinned_h2d", constants["pinned_link_ratio"], source
        ).bytes_per_s
        bandwidth = host.memory_bandwidth_gb_per_s_per_socket or 0.0
        measured = host.copies.get("lia.cpu_weights")
        share = bandwidth * 1e9 * constants["cpu_weights_ratio"]
        self.cpu_bytes_per_s = share if measured is None else measured.bytes_per_s
        fresh = host.fresh_d2h
        self.store_bytes_per_s = constants["fresh_d2h_gb_per_s"] * 1e9 if fresh is None else fresh.bytes_per_s

    def prefill(self, prompt_len: Number) -> PhaseCost:
        rows = self.batch * prompt_len
        flops = prefill_flops(self.scenario.model, self.batch, prompt_len)
        on_cpu = self._cpu_s(flops, self._kv_bytes(prompt_len), rows)
        device = self.forward.prefill(self.batch, prompt_len).total_s
        stream = self.weights / self.link
        store = self._kv_bytes(prompt_len) / self.store_bytes_per_s
        on_gpu = maximum(maximum(stream, device), store)
        return _phase(on_cpu, on_gpu, device, stream, store, self.forward.rates.gemm)

    def decode(self, load: Load) -> PhaseCost:
        model, steps = self.scenario.model, decode_steps(load)
        constant, attention = self.forward.decode_step(self.batch)
        sums: list[Number] = [0.0, 0.0, 0.0, 0.0]
        for context, weight in context_nodes(load.prompt_len + 1, steps, self.forward.windows):
            flops = decode_step_flops(model, self.batch, context)
            on_cpu = self._cpu_s(flops, self._kv_bytes(context), self.batch)
            device = constant.total_s + self.forward.attention_s(attention, context)
            # The cache is in host memory, so that a step on the GPU has to fetch it as well.
            stream = (self.weights + self._kv_bytes(context)) / self.link
            on_gpu = maximum(stream, device)
            for index, seconds in enumerate((on_cpu, on_gpu, device, stream)):
                sums[index] = sums[index] + weight * seconds
        on_cpu, on_gpu, device, stream = sums
        return _phase(on_cpu, on_gpu, device, stream, 0.0 * on_cpu, self.forward.rates.gemm)

    def _cpu_s(self, flops: Number, kv_bytes: Number, rows: Number) -> Number:
        """A pass on the CPU: all weights and the cache read, all products computed."""
        host = self.scenario.host
        small = host.cpu_matmul_tflops_small_batch or 0.0
        large = host.cpu_matmul_tflops_large_batch or small
        rate = where(rows >= self.constants["large_rows"], large, small) * 1e12
        read = (self.weights + kv_bytes) / self.cpu_bytes_per_s
        return p_norm(read, flops / rate, self.constants["knee_exponent"])

    def _kv_bytes(self, context: Number) -> Number:
        return kv_cache_bytes(self.scenario.model, self.batch, context, self.scenario.dtype.stored_kv_bits)


def _phase(
    on_cpu: Number, on_gpu: Number, device: Number, stream: Number, store: Number, gemm: GemmRates
) -> PhaseCost:
    """The faster way; the other one's resources are idle."""
    cpu_wins = on_cpu <= on_gpu
    latency = minimum(on_cpu, on_gpu)
    computing = where(cpu_wins, 0.0, minimum(device, latency))
    parts = {
        "cpu_pass": where(cpu_wins, latency, 0.0),
        "gpu_pass": computing,
        "weight_streaming": where(cpu_wins, 0.0, latency - computing),
    }
    busy = {
        "cpu_pass": where(cpu_wins, latency, 0.0),
        "compute": computing,
        "pcie": where(cpu_wins, 0.0, maximum(stream, store)),
    }

    def terms() -> Iterator[Term]:
        of = gemm_rates_used(gemm)
        for name, seconds in parts.items():
            yield Term(name, name.replace("_", " "), (Factor("seconds", seconds, of),))

    return PhaseCost(latency, parts, busy, terms=terms)
