"""The prediction of exactly the training run at hand, its fit before anything is loaded, and its errors afterwards."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

from calibrate.probe.local_machine import LocalMachine
from calibrate.probe.tensors import BYTES
from calibrate.run.prediction import signed_error
from calibrate.run.train.probes import TrainProbe
from calibrate.run.train.settings import TrainRunSettings
from llm_perf.analysis.training import TrainingResult, predict_training
from llm_perf.config.base import GB, GIB
from llm_perf.config.gpu import AttentionKernel, GPUConfig, TrainingEfficiency, TrainingGemm
from llm_perf.config.host import HostConfig
from llm_perf.config.model import ModelConfig
from llm_perf.config.parallelism import ActivationRecomputation, DSZeRO, ParallelismConfig
from llm_perf.config.training import Precision, TrainingPlan, TrainingScenario
from llm_perf.counts.linears import layer_linears
from llm_perf.counts.parameters import total_params
from llm_perf.counts.trained import adapter_params
from llm_perf.errors import DoesNotFitError
from llm_perf.report.training_json import training_object

_PLAIN_LOGIT_BYTES = {"bf16": 14.0, "fp16": 14.0, "fp32": 12.0}
"""Bytes per logit at the peak: transformers' loss keeps 16-bit logits, a 32-bit copy, its log-softmax and the gradient of
that; of 32-bit logits there is no copy."""
_BUCKET_PARAMS = 5e8
"""Parameters of a bucket of reduction, DeepSpeed's default: one, since these runs do not overlap their messages."""
_FRAMEWORKS = {"deepspeed": "deepspeed", "fsdp": "fsdp", "torch": "hf_trainer"}
_SOURCE = "measured on this machine before the run"


@dataclass(frozen=True, slots=True)
class TrainPrediction:
    """A prediction and the peak memory that stands beside the measured one.

    On a CPU that is the memory of the whole process: both tiers, on top of what it had before the model.
    """

    result: TrainingResult
    peak_memory_bytes: float

    def as_json(self, settings: TrainRunSettings) -> dict[str, Any]:
        """As ``llm-perf train --json`` gives it, with this peak memory."""
        found = training_object(self.result, {"settings": settings.model_dump()})
        return found | {"peak_gpu_memory_bytes": round(self.peak_memory_bytes)}


def build_train_scenario(
    settings: TrainRunSettings,
    model: ModelConfig,
    machine: LocalMachine,
    dtype: str,
    device_kind: str,
    probe: TrainProbe,
) -> TrainingScenario:
    """The scenario that describes a run on this machine.

    Args:
        settings: What is trained.
        model: Its shapes.
        machine: Where.
        dtype: Number format of weights, activations and gradients.
        device_kind: "cuda" or "cpu".
        probe: What was measured for it; a figure that is None leaves the framework's constant.

    Raises:
        SpecError: a sequence beyond the model's positions.
    """
    gpu = machine.gpu if device_kind == "cuda" else _cpu_trains(machine.gpu, probe)
    plan = TrainingPlan(
        seq_len=settings.seq_len,
        micro_batch_size=settings.micro_batch_size,
        gradient_accumulation_steps=settings.gradient_accumulation_steps,
        precision=cast(Precision, dtype),
        activation_recomputation=ActivationRecomputation.FULL
        if settings.recompute
        else ActivationRecomputation.NONE,
        optimizer="adamw",
        ds_zero=DSZeRO.of(settings.stage),
        lora_rank=settings.lora_rank,
        optimizer_device="cpu" if settings.optimizer_offload else "gpu",
    )
    return TrainingScenario(
        model=model,
        gpu=gpu,
        host=_host(machine.host, probe, plan, settings.ranks),
        framework=_FRAMEWORKS[settings.framework],
        plan=plan,
        parallelism=ParallelismConfig(dp_size=settings.ranks),
        allow_long_context=settings.allow_long_context,
        constants=_constants(settings, model, gpu, dtype, device_kind, probe),
    )


def _cpu_trains(gpu: GPUConfig, probe: TrainProbe) -> GPUConfig:
    """A CPU's training efficiencies: the rates of its products as they were measured, both ways."""
    own = gpu.efficiency
    peak = max(gpu.peak_tflops.values()) * 1e12
    forward = own.attention.prefill_flops_efficiency
    backward = probe.attention_backward_flops_per_s
    attention = AttentionKernel(
        forward=forward, backward=forward if backward is None else min(1.0, backward / peak)
    )
    training = TrainingEfficiency(
        gemm={"default": TrainingGemm(flops_efficiency=1.0)},
        memory_efficiency=own.gemm_for("default").memory_efficiency,
        floor_us=own.gemm_for("default").floor_us,
        attention={"flash2": attention},
        exp_flops=0.0,
        elementwise_memory_efficiency=own.elementwise.memory_efficiency,
        gather_efficiency=1.0,
        all_to_all_efficiency=1.0,
        inter_node_efficiency=1.0,
        evidence="measured",
        source=_SOURCE,
    )
    return gpu.replace(efficiency=own.replace(training=training))


def _host(host: HostConfig, probe: TrainProbe, plan: TrainingPlan, ranks: int) -> HostConfig:
    """The host with the memory rate that the measured update reaches, all ranks together."""
    if probe.adam_s_per_param is None:
        return host
    rate = _update_bytes(plan) / probe.adam_s_per_param * ranks
    return host.replace(memory_bandwidth_gb_per_s_per_socket=rate / GB, sockets=1)


def _update_bytes(plan: TrainingPlan) -> float:
    """Bytes that the update of one parameter moves in the model of the step: gradient, both ways the state, weight."""
    master = 0 if plan.wide_bytes == 4 else plan.master_weights_dtype_bytes
    return plan.wide_bytes + 2 * (master + 8) + plan.wide_bytes


def _constants(
    settings: TrainRunSettings,
    model: ModelConfig,
    gpu: GPUConfig,
    dtype: str,
    device_kind: str,
    probe: TrainProbe,
) -> tuple[tuple[str, float], ...]:
    """What was measured here in place of the framework's constants."""
    element = float(BYTES[dtype])
    values: dict[str, float] = {
        "plain_logit_bytes": _PLAIN_LOGIT_BYTES[dtype],
        "gradient_bytes": element, "reduce_bytes": element, "straggler_share": 0.0,
    }  # fmt: skip
    if probe.adam_s_per_param is not None:
        values["cpu_adam_bandwidth"] = 1.0  # the host's rate is stated as what the measured update reaches
    if probe.host_s_per_layer is not None and probe.host_s_per_step is not None:
        values |= {
            "host_ms_per_layer": probe.host_s_per_layer * 1e3,
            "host_ms_per_moe_layer": probe.host_s_per_layer * 1e3 / 2,
            "host_ms_per_expert": 0.0,
            "step_ms": probe.host_s_per_step * 1e3,
        }
    if device_kind == "cuda":
        return tuple(sorted(values.items()))
    # A CPU launches and computes one after the other, and the process is there already.
    values |= {"host_exponent": 1.0, "copy_overlap": 0.0, "gradient_overlap": 0.0}
    values |= {"process_reserve_gib": 0.0, "communicator_gib": 0.0, "retained_logit_bytes": element}
    if settings.updates_partition:
        # Of buffers that are larger than what fills them only the pages that are written count.
        values["bucket_params"] = min(_BUCKET_PARAMS, _trained_share(settings, model) * total_params(model))
        # stage_1_and_2.py allocates its buckets when a backward pass begins, and lets go of them when it ends.
        values["persistent_buckets"] = 1.0 if settings.ds_zero == 3 else 0.0
        # torch's AdamW on a CPU makes the root of the second moment and its quotient, of a partition that is one tensor:
        # 8 bytes. Stages 1 and 2 have dropped what they flattened by then, so that it is 4 more than the moment before.
        values["step_temporary_moments"] = 1.0 if settings.ds_zero == 3 else 0.5
    else:  # the same of one parameter after the other
        values["step_temporary_moments"] = _largest_share(model)
    if settings.framework == "fsdp":
        # Trainers leave FSDP out where there is one rank. Here fully_shard copies each shard into the buffer of its gather
        # and out of it, each gradient into that of its reduction and through it (torch, _fsdp_collectives.py).
        values |= {"own_gather_passes": 2.0, "own_reduction_passes": 2.0}
    if probe.backward_scale is not None:
        values["backward_gemm_scale"] = probe.backward_scale
    if probe.adam_s_per_param is not None and not settings.optimizer_offload:
        # torch's AdamW passes over memory more often than an update has to: the step takes that much longer.
        shards = settings.ranks if settings.stage else 1
        rate = gpu.hbm_bandwidth_bytes_per_s * gpu.efficiency.elementwise.memory_efficiency
        wide = 2 * element + 2 * (8 if element == 4 else 12)
        more = max(0.0, probe.adam_s_per_param - wide / rate)
        updated = _trained_share(settings, model) * total_params(model) / shards
        values["step_ms"] = values.get("step_ms", 0.0) + more * updated * 1e3
    return tuple(sorted(values.items()))


def _trained_share(settings: TrainRunSettings, model: ModelConfig) -> float:
    """Trained parameters over the model's: adapters of every matrix, or all of them."""
    if not settings.lora_rank:
        return 1.0
    return sum(
        group.count * adapter_params(model, group, settings.lora_rank, "all") for group in model.layer_groups
    ) / total_params(model)


def _largest_share(model: ModelConfig) -> float:
    """Elements of the largest matrix, the embedding among them, over the parameters."""
    shapes = [
        one.shard_shape(1) for group in model.layer_groups for one in layer_linears(group, model.hidden_size)
    ]
    matrices = [outputs * inputs for outputs, inputs in shapes]
    return max(model.vocab_size * model.hidden_size, *matrices) / total_params(model)


def predict_run(scenario: TrainingScenario, device_kind: str, baseline_bytes: int) -> TrainPrediction:
    """Predict a run. ``baseline_bytes`` is the process's memory before it makes the model."""
    result = predict_training(scenario)
    gpu, cpu = result.memory.gpu, result.memory.cpu
    if device_kind == "cuda":
        return TrainPrediction(result, float(gpu.total_bytes - gpu.reserved_bytes))
    own = float(gpu.total_bytes - gpu.reserved_bytes) + float(cpu.total_bytes) / scenario.num_gpus
    return TrainPrediction(result, baseline_bytes + own)


def check_fit(prediction: TrainPrediction, device_kind: str) -> None:
    """Refuse a run that would not fit, before anything is loaded.

    Raises:
        DoesNotFitError: with what is missing.
    """
    result = prediction.result
    if device_kind == "cuda":
        if result.reason is not None:
            raise DoesNotFitError(f"{result.reason}; nothing was loaded")
        return
    memory, ranks = result.memory, result.scenario.num_gpus
    needed = float(memory.gpu.total_bytes - memory.gpu.reserved_bytes) * ranks + float(memory.cpu.total_bytes)
    usable = result.scenario.host.usable_memory_bytes
    if needed > usable:
        raise DoesNotFitError(
            f"memory: {needed / GIB:,.1f} GiB needed by prediction, {usable / GIB:,.1f} GiB free, "
            f"{(needed - usable) / GIB:,.1f} GiB missing; nothing was loaded"
        )


def errors(prediction: TrainPrediction, measured: dict[str, Any]) -> dict[str, float | None]:
    """Signed errors of the figures that a run is judged by."""
    result = prediction.result
    return {
        "step_time": signed_error(result.step_time_s, measured["step"]["latency_s"]),
        "throughput": signed_error(
            result.throughput_tokens_per_s, measured["step"]["throughput_tokens_per_s"]
        ),
        "peak_gpu_memory": signed_error(prediction.peak_memory_bytes, measured["peak_gpu_memory_bytes"]),
    }
