"""Each number of a training prediction with its formula and the values in it, as plain arithmetic that gives the value."""

from __future__ import annotations

from llm_perf.analysis.training import TrainingResult
from llm_perf.counts.flops import attention_core_flops
from llm_perf.counts.parameters import total_params
from llm_perf.report.explain import Explanation
from llm_perf.systems.training.base import TrainingLoad
from llm_perf.systems.training.framework import get_framework
from llm_perf.systems.training.step import TrainingStep


def training_explanations(result: TrainingResult) -> list[Explanation]:
    """The numbers of a prediction in the order in which they follow from one another."""
    return [*_counts(result), *_state(result), *_activations(result), *_rates(result), *_times(result)]


def _model(result: TrainingResult) -> TrainingStep:
    return TrainingStep(result.scenario, get_framework(result.scenario.framework))


def _load(result: TrainingResult) -> TrainingLoad:
    batch = result.batch
    return TrainingLoad(
        float(batch.micro_batch_size),
        float(batch.gradient_accumulation_steps),
        float(result.scenario.plan.seq_len),
    )


def _counts(result: TrainingResult) -> list[Explanation]:
    scenario, batch = result.scenario, result.batch
    tokens = batch.global_batch_size * scenario.plan.seq_len
    core = float(attention_core_flops(scenario.model, batch.global_batch_size, scenario.plan.seq_len))
    passes = 2 if scenario.plan.lora_rank else 3
    linear = (result.model_flops_per_step - 3 * core) / passes
    p = scenario.parallelism
    return [
        Explanation(
            "parameters",
            "each stored weight once",
            f"{total_params(scenario.model)}",
            total_params(scenario.model),
            "",
        ),
        Explanation(
            "global batch",
            "micro-batch x accumulation x replicas",
            f"{batch.micro_batch_size} * {batch.gradient_accumulation_steps} * {p.dp_size}",
            batch.global_batch_size,
            "sequences",
        ),
        Explanation(
            "tokens per step",
            "global batch x sequence length",
            f"{batch.global_batch_size} * {scenario.plan.seq_len}",
            tokens,
            "",
        ),
        Explanation(
            "model FLOPs per step",
            "passes x 2 per weight and token, 3 passes of attention over the whole square",
            f"{passes} * {linear!r} + 3 * {core!r}",
            result.model_flops_per_step,
            "FLOP",
            "PaLM, arXiv 2204.02311, appendix B",
        ),
    ]


def _state(result: TrainingResult) -> list[Explanation]:
    footprint = _model(result).footprint
    plan = result.scenario.plan
    trained = footprint.trained
    shards = [footprint.sharded(trained, what) for what in ("gradients", "optimizer")]
    held = footprint.sharded(footprint.held, "weights")
    entries = [
        Explanation(
            "gradients of one GPU",
            f"parameters that it reduces under ZeRO {plan.ds_zero.value} x bytes",
            f"{shards[0]!r} * {footprint.gradient_element_bytes!r}",
            footprint.gradient_bytes,
            "bytes",
            "arXiv 1910.02054, section 5",
        ),
        Explanation(
            "optimizer state of one GPU",
            f"parameters that it updates x (master weights + state of {plan.optimizer})",
            f"{shards[1]!r} * {footprint.optimizer_element_bytes!r}",
            footprint.optimizer_bytes,
            "bytes",
            footprint.optimizer.source,
        ),
    ]
    if not plan.lora_rank:
        entries.insert(
            0,
            Explanation(
                "weights of one GPU",
                "parameters of the fullest stage that it keeps x bytes",
                f"{held!r} * {plan.wide_bytes}",
                footprint.weight_bytes,
                "bytes",
            ),
        )
    return entries


def _activations(result: TrainingResult) -> list[Explanation]:
    footprint, load = _model(result).footprint, _load(result)
    stage, flight = float(footprint.stage_activation_bytes(load)), float(footprint.in_flight(load))
    return [
        Explanation(
            "activations of one GPU",
            "of one micro-batch over the fullest stage x micro-batches in flight on the first one",
            f"{stage!r} * {flight!r}",
            stage * flight,
            "bytes",
            "arXiv 2205.05198, sections 4 and 4.2.3",
        )
    ]


def _rates(result: TrainingResult) -> list[Explanation]:
    scenario, rates = result.scenario, _model(result).kernels.rates
    peak = scenario.gpu.peak_flops_per_s(result.peak_dtype)
    return [
        Explanation(
            "rate of large products",
            "peak x share that training products reach",
            f"{peak!r} * {rates.gemm.flops_per_s / peak!r}",
            rates.gemm.flops_per_s,
            "FLOP/s",
            rates.efficiency.source,
        ),
    ]


def _times(result: TrainingResult) -> list[Explanation]:
    parts = " + ".join(repr(spent) for spent in result.breakdown_s.values())
    step, gpus = result.step_time_s, result.scenario.num_gpus
    tokens = result.batch.global_batch_size * result.scenario.plan.seq_len
    return [
        Explanation("step", "sum of what is waited for: " + ", ".join(result.breakdown_s), parts, step, "s"),
        Explanation(
            "throughput",
            "tokens per step / step",
            f"{tokens} / {step!r}",
            result.throughput_tokens_per_s,
            "token/s",
        ),
        Explanation(
            "MFU",
            "model FLOPs / (step x GPUs x peak)",
            f"{result.model_flops_per_step!r} / ({step!r} * {gpus} * {result.peak_flops_per_s!r})",
            result.mfu,
            "",
        ),
    ]
