"""The prediction of exactly the run at hand, what it says about fit before loading, and its errors afterwards."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from calibrate.probe.local_machine import LocalMachine
from calibrate.probe.tensors import BYTES
from calibrate.run.ds_config import NVME_BUFFER_COUNT, nvme_buffer_elements
from calibrate.run.layer_overhead import LayerOverhead
from calibrate.run.settings import RunSettings
from llm_perf.analysis.inference import InferenceResult, predict_inference
from llm_perf.analysis.request import InferenceInputs, build_scenario
from llm_perf.analysis.run_facts import RunFacts
from llm_perf.config.base import GIB, Spec
from llm_perf.config.model import ModelConfig
from llm_perf.config.scenario import Scenario
from llm_perf.config.workload import Shares, Tier
from llm_perf.errors import DoesNotFitError
from llm_perf.report.benchmark_log import cache_bytes, format_benchmark_log, hidden_bytes, model_bytes
from llm_perf.report.inference_json import result_object
from llm_perf.systems.profiles import checked_profile

_SYSTEMS = {"zero_inference": "zero_inference", "transformers": "resident"}

MIB = 1 << 20

_TODAY = {
    # Facts of transformers 5: fused attention, logits of the last position only, a cache that grows layer by layer.
    "unfused_attention": 0.0,
    "logits_all_positions": 0.0,
    "cache_copies": 1.0,
}


@dataclass(frozen=True, slots=True)
class Prediction:
    """A prediction and the peak memory that stands beside the measured one.

    On a CPU the accelerator reports the memory of the whole process, so that there it is weights, cache, activations and
    buffers of both tiers, on top of what the process had before it loaded anything.
    """

    result: InferenceResult
    peak_memory_bytes: float

    def as_json(self, settings: Spec) -> dict[str, Any]:
        """As ``llm-perf infer --json`` gives it, with this peak memory and the log that goes with it."""
        found = result_object(self.result, {"settings": settings.model_dump()})
        return found | {
            "peak_gpu_memory_bytes": round(self.peak_memory_bytes),
            "benchmark_log": self.benchmark_log,
        }

    @property
    def benchmark_log(self) -> str:
        """The record that a run with these figures would have written."""
        result, workload = self.result, self.result.scenario.workload
        decode = result.decode
        length = workload.context_len
        return format_benchmark_log(
            model_bytes(result.scenario.model),
            cache_bytes(result.scenario.model, workload.batch_size, length),
            hidden_bytes(result.scenario.model, workload.batch_size, length),
            round(self.peak_memory_bytes),
            result.prefill.latency_s,
            result.prefill.throughput_tokens_per_s,
            decode.latency_s if decode else None,
            decode.throughput_tokens_per_s if decode else None,
            result.total_latency_s,
            result.total_throughput_tokens_per_s,
        )


def build_run_scenario(
    settings: RunSettings,
    model: ModelConfig,
    machine: LocalMachine,
    dtype: str,
    device_kind: str,
    largest_param: int,
    overhead: LayerOverhead | None = None,
    unpack_s_per_weight: float | None = None,
) -> Scenario:
    """The scenario that describes a run on this machine.

    Args:
        settings: What is run.
        model: Its shapes.
        machine: Where.
        dtype: Number format of weights, activations and cache.
        device_kind: "cuda" or "cpu".
        largest_param: Elements of the largest parameter, for the NVMe buffers.
        overhead: Measured host time per layer; None leaves the system's constant.
        unpack_s_per_weight: Measured dequantisation; None leaves the system's constant.

    Raises:
        SpecError: the parts do not go together (a context beyond the model's positions, a batch that does not divide).
    """
    host = machine.host
    layers = model.num_layers
    if overhead is not None:
        seconds = overhead.per_layer_s + overhead.per_pass_s / layers
        host = host.replace(layer_overhead_ms={"zero_inference": seconds * 1e3})
    weights: Tier = "cpu" if settings.cpu_offload else "nvme" if settings.disk_offload else "gpu"
    bits = 8 * BYTES[dtype]
    inputs = InferenceInputs(
        model=model.name,
        gpu=machine.gpu.name,
        system=_SYSTEMS[settings.system],
        batch_size=settings.batch_size,
        prompt_len=settings.prompt_len,
        gen_len=settings.gen_len,
        dp_size=settings.ranks,
        weight_bits=settings.quant_bits if settings.weight_quantize else bits,
        activation_bits=bits,
        pin_memory=settings.pin_memory,
        pin_kv_cache=settings.pin_kv_cache,
        async_kv_offload=settings.async_kv_offload,
        # A CPU does hooks and arithmetic one after the other.
        overlap=False if device_kind == "cpu" else None,
        allow_long_context=settings.allow_long_context,
    )
    facts = RunFacts(
        model=model,
        gpu=machine.gpu,
        host=host,
        num_nodes=settings.num_nodes,
        weights=Shares.on(weights),
        kv_cache=Shares.on("cpu") if settings.kv_offload else None,
        # On CUDA the cache comes back over the link; on a CPU its buffer is where attention runs anyway.
        attention_device="gpu" if settings.kv_offload and device_kind == "cuda" else None,
        quantised=settings.weight_quantize,
        group_sizes=(settings.quant_group_size if settings.weight_quantize else None, None),
        constants=_constants(
            settings, machine, dtype, device_kind, largest_param, overhead, unpack_s_per_weight, layers
        ),
    )
    scenario = build_scenario(inputs, facts)
    return _profiled(scenario, settings.profile)


def _profiled(scenario: Scenario, name: str | None) -> Scenario:
    """The scenario under a profile; what memory is free is known better now than when the profile was made."""
    found = checked_profile(name).apply(scenario)
    gpu, host = scenario.gpu, scenario.host
    return found.replace(
        gpu=found.gpu.replace(memory_gib=gpu.memory_gib, usable_memory_gib=gpu.usable_memory_gib),
        host=found.host.replace(memory_gib=host.memory_gib, usable_memory_gib=host.usable_memory_gib),
    )


def _constants(
    settings: RunSettings,
    machine: LocalMachine,
    dtype: str,
    device_kind: str,
    largest_param: int,
    overhead: LayerOverhead | None,
    unpack_s_per_weight: float | None,
    layers: int,
) -> tuple[tuple[str, float], ...]:
    """What is known of this run's software instead of the system's constants of 2022."""
    values: dict[str, float] = {}
    if settings.system == "zero_inference":
        values |= _TODAY | {
            "nvme_buffer_count": float(NVME_BUFFER_COUNT),
            "nvme_buffer_elements": float(nvme_buffer_elements(largest_param, dtype)),
        }
    elif overhead is not None and device_kind == "cpu":
        values["step_ms"] = (overhead.per_pass_s + overhead.per_layer_s * layers) * 1e3
        values |= {"kernels_per_layer": 0.0, "overlap_exponent": 1.0}
    if unpack_s_per_weight is not None:
        rate = machine.gpu.hbm_bandwidth_bytes_per_s * machine.gpu.efficiency.elementwise.memory_efficiency
        values["unpack_bytes_per_weight"] = unpack_s_per_weight * rate
    if device_kind == "cpu":
        values["process_reserve_gib"] = (
            0.0  # the process is there already and its memory is not free any more
        )
        if settings.system == "zero_inference":
            values["host_reserve_gib"] = 0.0
    return tuple(sorted(values.items()))


def predict_run(scenario: Scenario, device_kind: str, baseline_bytes: int) -> Prediction:
    """Predict a run. ``baseline_bytes`` is the process's memory before it loads the model."""
    result = predict_inference(scenario)
    if device_kind == "cuda":
        return Prediction(result, result.peak_gpu_memory_bytes)
    parts = [result.memory.gpu, result.memory.cpu]
    own = (
        sum(float(part.total_bytes - part.reserved_bytes) for part in parts)
        if _on_cpu_tier(result)
        else float(parts[0].total_bytes - parts[0].reserved_bytes)
    )
    return Prediction(result, baseline_bytes + own)


def _on_cpu_tier(result: InferenceResult) -> bool:
    return result.scenario.system == "zero_inference"


def check_fit(
    prediction: Prediction, device_kind: str, checkpoint_bytes: float, free_disk_bytes: int
) -> None:
    """Refuse a run that would not fit, before anything is loaded.

    Args:
        prediction: With the machine's free memory as its capacities.
        device_kind: "cuda" or "cpu"; on a CPU both tiers are the same memory.
        checkpoint_bytes: Of a dummy checkpoint that is still to be written; it is made in memory.
        free_disk_bytes: Free on the disk of the offload folder.

    Raises:
        DoesNotFitError: with what is missing.
    """
    result = prediction.result
    memory = result.memory
    if checkpoint_bytes > result.scenario.host.usable_memory_bytes:
        needed, usable = checkpoint_bytes, result.scenario.host.usable_memory_bytes
        raise DoesNotFitError(
            f"{_shortage('memory for writing the dummy checkpoint', needed, usable)}; --no-dummy-on-disk needs none"
        )
    if device_kind == "cpu":
        ranks = result.scenario.gpus_per_node
        own = float(memory.gpu.total_bytes - memory.gpu.reserved_bytes) * ranks
        if _on_cpu_tier(result):
            own += float(memory.cpu.total_bytes - memory.cpu.reserved_bytes)
        usable = result.scenario.host.usable_memory_bytes
        if own > usable:
            raise DoesNotFitError(f"{_shortage('memory', own, usable)}; nothing was loaded")
    elif result.reason is not None:
        raise DoesNotFitError(f"{result.reason}; nothing was loaded")
    on_disk = float(memory.nvme.total_bytes) + checkpoint_bytes
    if on_disk > free_disk_bytes:
        raise DoesNotFitError(
            f"{_shortage('disk of the offload folder', on_disk, free_disk_bytes)}; nothing was loaded"
        )


def _shortage(what: str, needed: float, usable: float) -> str:
    size, unit = (GIB, "GiB") if needed - usable >= GIB / 10 else (MIB, "MiB")
    return (
        f"{what}: {needed / size:,.1f} {unit} needed by prediction, {usable / size:,.1f} {unit} free, "
        f"{(needed - usable) / size:,.1f} {unit} missing"
    )


def signed_error(predicted: float | None, measured: float | None) -> float | None:
    """(predicted - measured) / measured; None where either is missing or nothing was measured."""
    if predicted is None or measured is None or measured == 0:
        return None
    return (predicted - measured) / measured


def errors(prediction: Prediction, measured: dict[str, Any]) -> dict[str, float | None]:
    """Signed errors of the figures of a benchmark log that are measured."""
    result, decode = prediction.result, prediction.result.decode
    predicted = {
        "prefill": (result.prefill.latency_s, result.prefill.throughput_tokens_per_s),
        "decode": (decode.latency_s, decode.throughput_tokens_per_s) if decode else (None, None),
        "total": (result.total_latency_s, result.total_throughput_tokens_per_s),
    }
    return {
        f"{phase}_{name}": signed_error(value, measured[phase][key])
        for phase, values in predicted.items()
        for (name, key), value in zip(
            (("latency", "latency_s"), ("throughput", "throughput_tokens_per_s")), values, strict=True
        )
    } | {
        "peak_gpu_memory": signed_error(prediction.peak_memory_bytes, measured["peak_gpu_memory_bytes"]),
    }
