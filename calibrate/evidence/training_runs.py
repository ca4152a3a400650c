"""A published training run's settings as the project's own: framework, model, precision, sharding, micro-batch."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Final

from calibrate.evidence.published import GPU_ALIASES, TrainingMeasurement
from calibrate.evidence.training_recipes import recipe_of
from llm_perf.config.loading import get_gpu_config_by_name, get_model_config_by_name, usual_host
from llm_perf.config.model import ModelConfig
from llm_perf.config.parallelism import ActivationRecomputation, ParallelismConfig, fewest_nodes
from llm_perf.config.training import TrainingPlan, TrainingScenario
from llm_perf.errors import SpecError
from llm_perf.systems.training.base import TrainingLoad
from llm_perf.systems.training.framework import Framework, get_framework
from llm_perf.systems.training.step import TrainingStep

MODEL_NAMES: Final[Mapping[str, str]] = MappingProxyType(
    {
        "GPT OSS 120B": "openai/gpt-oss-120b",
        "GPT OSS 20B": "openai/gpt-oss-20b",
        "Qwen3_235B_a22B": "Qwen/Qwen3-235B-A22B",
        "Qwen3_30B_a3B": "Qwen/Qwen3-30B-A3B",
        "Kimi_K2": "moonshotai/Kimi-K2-Instruct",
        "DeepSeekV3": "deepseek-ai/DeepSeek-V3",
        "Nemotron_3_Nano": "nvidia/NVIDIA-Nemotron-3-Nano-30B-A3B",
        "Nemotron_3_5_Lightning": "nvidia/NVIDIA-Nemotron-3-Nano-30B-A3B",
        "Nemotron_3_Super": "nvidia/NVIDIA-Nemotron-3-Super-120B-A12B",
        "Nemotron_3_Ultra": "nvidia/NVIDIA-Nemotron-3-Ultra-550B-A55B",
        "DeepSeek-V2": "deepseek-ai/DeepSeek-V2",
        "llama3-70b": "meta-llama/Meta-Llama-3-70B",
        "LLAMA3_8B": "meta-llama/Meta-Llama-3-8B",
        "LLAMA3_70B": "meta-llama/Meta-Llama-3-70B",
        "LLAMA3.1_405B": "meta-llama/Llama-3.1-405B",
        "LLaMA-7B": "huggyllama/llama-7b",
        "LLaMA-13B": "huggyllama/llama-13b",
        "LLaMA-33B": "huggyllama/llama-30b",
        "LLaMA-65B": "huggyllama/llama-65b",
        "Megatron-22B": "nvidia/megatron-gpt-22B",
        "GPT3-175B": "nvidia/megatron-gpt-175B",
        "Qwen/Qwen-1_8B": "Qwen/Qwen1.5-1.8B",
        "Qwen/Qwen-7B": "Qwen/Qwen1.5-7B",
        "Qwen/Qwen-14B": "Qwen/Qwen1.5-14B",
        "Qwen/Qwen-72B": "Qwen/Qwen1.5-72B",
        "mistralai/Mistral-7B-v0.2": "mistralai/Mistral-7B-v0.1",
        "MT-NLG-530B": "nvidia/megatron-gpt-530B",
        "Megatron-1T": "nvidia/megatron-gpt-1T",
        "GPT-529.6B": "nvidia/megatron-gpt-530B",
        "GPT-1008.0B": "nvidia/megatron-gpt-1T",
    }
)
"""What the tables call a model, and the spec that it is; MPT and the GPTs of the Megatron papers follow by rule."""

_NOT_DESCRIBED: Final[Mapping[str, str]] = MappingProxyType(
    {
        "DeepSeekV4 Flash": "compressed sparse attention and several residual streams, which no spec describes",
    }
)
"""What models of the tables have that cannot be predicted (NVIDIA-NeMo/Megatron-Bridge, docs/models)."""

_PRECISIONS: Final = MappingProxyType(
    {
        "": "bf16",
        "amp_bf16": "bf16",
        "fp16 mixed": "fp16",
        "amp_fp8": "fp8",
        "fp8-cs": "fp8",
        "fp8-mx": "mxfp8",
    }
)
_LARGEST_MICRO_BATCH: Final = 64


@dataclass(frozen=True)
class TrainingRun:
    """The settings of one training run. Sizes that are None are 1, or follow from the others.

    ``framework`` is as the source names it, with its version. A ``micro_batch`` that is not published is taken to be
    the fastest power of two that fits.
    """

    framework: str
    model: str
    gpu: str
    num_gpus: int
    seq_len: int
    global_batch: int
    micro_batch: int | None
    tp: int = 1
    pp: int = 1
    vp: int = 1
    cp: int = 1
    ep: int = 1
    precision: str = ""
    sharding: str = ""
    recompute: str = ""
    compiled: bool = False
    power_limit_w: float | None = None


def training_run_of(measurement: TrainingMeasurement) -> TrainingRun:
    """The settings of a row.

    Raises:
        SpecError: the row does not state the number of GPUs or the global batch.
    """
    m = measurement
    if m.num_gpus is None or m.global_batch_size is None:
        raise SpecError("the number of GPUs or the global batch is not stated")
    return TrainingRun(
        framework=m.framework,
        model=m.model,
        gpu=GPU_ALIASES.get(m.gpu, m.gpu),
        num_gpus=m.num_gpus,
        seq_len=m.seq_len,
        global_batch=m.global_batch_size,
        micro_batch=m.micro_batch_size,
        tp=m.tp or 1,
        pp=m.pp or 1,
        vp=m.vp or 1,
        cp=m.cp or 1,
        ep=m.ep or 1,
        precision=m.precision or "",
        sharding=m.sharding or "",
        recompute=m.recompute or "",
    )


def framework_of(stated: str) -> str:
    """The framework that a source's own name means.

    Raises:
        SpecError: a framework that is not modelled.
    """
    name = stated.lower()
    if name.startswith("megatron-bridge"):
        return "megatron_bridge"
    if re.match(
        r"megatron-lm\D*\d", name
    ):  # releases are numbered since Megatron Core; the papers state none
        return "megatron"
    for start, framework in (("composer", "composer"), ("megatron-lm", "megatron_2022"), ("meta", "fsdp")):
        if name.startswith(start):
            return framework
    try:
        return get_framework(stated).name
    except SpecError:
        bare = re.split(r"[ (,+/]", stated, maxsplit=1)[0]  # "torchtitan (FSDP2, float8)", "axolotl 0.9"
        if not bare or bare == stated:
            raise
        return get_framework(bare).name


def model_of(stated: str) -> ModelConfig:
    """The spec of a model that a source names.

    Raises:
        SpecError: no such spec ships, or the model has parts that are not modelled.
    """
    if stated in _NOT_DESCRIBED:
        raise SpecError(f"{stated} has {_NOT_DESCRIBED[stated]}")
    fewer = re.fullmatch(r"(.+?)(?: shape)?, (\d+) layers", stated)
    if fewer is not None:
        return _first_layers(model_of(fewer[1]), int(fewer[2]))
    base, _, variant = stated.partition(" (")
    if variant:
        raise SpecError(f"the variant {variant.rstrip(')')} of {base} is not modelled")
    if base.startswith("MPT-"):
        return get_model_config_by_name(base.replace("MPT-", "mosaicml/mpt-"))
    if base.startswith("GPT-") and base not in MODEL_NAMES:
        return get_model_config_by_name(base.replace("GPT-", "nvidia/megatron-gpt-"))
    return get_model_config_by_name(MODEL_NAMES.get(base, base))


def _first_layers(model: ModelConfig, count: int) -> ModelConfig:
    """The model with its first layers only, as tables of time per layer train it.

    Raises:
        SpecError: it has not so many.
    """
    if not 0 < count <= model.num_layers:
        raise SpecError(f"{model.name} has {model.num_layers} layers, and {count} are asked for")
    groups, left = [], count
    for group in model.layer_groups:
        if left:
            groups.append(group.replace(count=min(group.count, left)))
            left -= groups[-1].count
    return model.replace(layer_groups=tuple(groups))


def training_scenario_of(run: TrainingRun, model: ModelConfig | None = None) -> TrainingScenario:
    """The scenario of a run; ``model`` in place of the spec of the run's own name.

    Raises:
        SpecError: something that no spec describes, or settings that do not go together.
    """
    framework = get_framework(framework_of(run.framework))
    gpu = get_gpu_config_by_name(run.gpu)
    host = usual_host(gpu, run.num_gpus)
    replica = run.tp * run.pp * run.cp
    if run.num_gpus % replica:
        raise SpecError(f"tp x pp x cp = {replica} does not divide {run.num_gpus} GPUs")
    parallelism = ParallelismConfig(
        tp_size=run.tp,
        pp_size=run.pp,
        dp_size=run.num_gpus // replica,
        ep_size=run.ep,
        cp_size=run.cp,
        sp_size=_sequence_parallel(run, framework),
    )
    described = model or model_of(run.model)
    scenario = TrainingScenario(
        model=described,
        gpu=gpu,
        host=host,
        framework=framework.name,
        plan=_plan(run, framework, not described.routes),
        parallelism=parallelism,
        num_nodes=fewest_nodes(run.num_gpus, host.gpus_per_node),
        allow_long_context=True,  # the tables print what ran
    )
    return scenario if run.micro_batch is not None else _with_fastest_micro_batch(scenario)


def _sequence_parallel(run: TrainingRun, framework: Framework) -> int:
    """Megatron-LM of 2021 and 2022 had it where the paper says so; later ones have it with tensor parallelism."""
    if framework.name == "megatron_2022":
        return run.tp if "sequence-parallel" in run.recompute else 1
    return run.tp


def _plan(run: TrainingRun, framework: Framework, dense: bool) -> TrainingPlan:
    stage = int(framework.defaults.get("ds_zero", 0))
    if run.pp > 1:  # what a pipeline allows: weights and gradients of all micro-batches stay
        stage = min(stage, 1)
    if run.sharding == "FULL_SHARD" or run.sharding == "FSDP=1":
        stage = 3
    elif stated := re.search(r"zero-(\d)", run.sharding.lower()):
        stage = int(stated[1])
    fields = framework.defaults_at(stage, run.tp, dense) | {"ds_zero": stage}
    precision = _PRECISIONS.get(run.precision.lower(), run.precision.lower())
    return TrainingPlan(
        **fields
        | {
            "seq_len": run.seq_len,
            "global_batch_size": run.global_batch,
            "micro_batch_size": run.micro_batch,
            "virtual_stages": run.vp,
            "precision": precision,
            "activation_recomputation": recomputation_of(run.recompute),
        }
        | (framework.selected() if "selective" in run.recompute else {})
        | ({"compile": True} if run.compiled else {})
        | ({"power_limit_w": run.power_limit_w} if run.power_limit_w else {})
        | recipe_of(run.framework, run.model, run.gpu, precision)
    )


def recomputation_of(stated: str) -> ActivationRecomputation:
    """The level that a source's words mean; nothing stated is none."""
    if "selective" in stated:
        return ActivationRecomputation.ATTN_COMPUTE
    return ActivationRecomputation.FULL if stated.startswith("full") else ActivationRecomputation.NONE


def _with_fastest_micro_batch(scenario: TrainingScenario) -> TrainingScenario:
    """The micro-batch that a tuned run would have had: the fastest power of two that fits, 1 where none does."""
    step = TrainingStep(scenario, get_framework(scenario.framework))
    sequences = (scenario.plan.global_batch_size or 1) // scenario.parallelism.dp_size
    best, best_s = 1, float("inf")
    micro = 1
    while micro <= min(sequences, _LARGEST_MICRO_BATCH):
        if sequences % micro == 0:
            load = TrainingLoad(float(micro), float(sequences // micro), float(scenario.plan.seq_len))
            if step.footprint.memory(load).fits:
                seconds = float(step.step_cost(load).latency_s)
                best, best_s = (micro, seconds) if seconds < best_s else (best, best_s)
        micro *= 2
    return replace(scenario, plan=scenario.plan.replace(micro_batch_size=best))
