"""From flat inputs, as flags and config files give them, to a checked TrainingScenario."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Field

from llm_perf.config.base import Efficiency, PositiveFloat, PositiveInt, Spec
from llm_perf.config.gpu import NonNegativeQuantity
from llm_perf.config.loading import get_gpu_config_by_name, get_host_config_by_name, get_model_config_by_name
from llm_perf.config.model import ModelConfig
from llm_perf.config.parallelism import ActivationRecomputation, DSZeRO, ParallelismConfig, nodes_of
from llm_perf.config.training import Precision, TrainingPlan, TrainingScenario
from llm_perf.counts.optimizer import optimizer_by_name
from llm_perf.errors import SpecError
from llm_perf.systems.profiles import checked_profile
from llm_perf.systems.training.framework import Framework, get_framework

DEFAULT_FRAMEWORK = "megatron"
DEFAULT_SEQ_LEN = 4096
"""Tokens per sequence where nobody says and the model's positions allow it."""

_LEVELS = {level.name.lower(): level.value for level in ActivationRecomputation} | {
    "selective": ActivationRecomputation.ATTN_COMPUTE.value
}


def _level_number(value: Any) -> Any:
    if isinstance(value, str):
        text = value.strip().lower().replace("-", "_")
        if text.isdigit():
            return ActivationRecomputation.of(int(text)).value
        if text not in _LEVELS:
            raise ValueError(
                f"{value!r} is no recomputation level; use one of {', '.join(_LEVELS)}, or 0 to 4"
            )
        return _LEVELS[text]
    return ActivationRecomputation.of(value).value


def _stage_number(value: Any) -> int:
    return DSZeRO.of(value).value


Text = Annotated[str, Field(min_length=1)]
Flag = Annotated[bool, Field(strict=True)]


class TrainingInputs(Spec):
    """Everything that ``llm-perf train`` can be asked, under the names of its flags. What is None is chosen.

    ``num_gpus`` is per node. ``micro_batch_size`` is llm-analysis' batch_size_per_gpu. See
    `llm_perf.config.training.TrainingPlan` for what the fields of the plan mean.
    """

    _positional: ClassVar[tuple[str, ...]] = ("model", "gpu")
    _label: ClassVar[str | None] = ""  # messages name the flag alone

    model: Text
    gpu: Text
    host: Text | None = None
    framework: Text = DEFAULT_FRAMEWORK
    num_gpus: PositiveInt | None = None
    num_nodes: PositiveInt | None = None
    tp_size: PositiveInt | None = None
    pp_size: PositiveInt | None = None
    dp_size: PositiveInt | None = None
    ep_size: PositiveInt = 1
    sp_size: PositiveInt | None = None
    cp_size: PositiveInt = 1
    expert_imbalance: PositiveFloat = 1.0
    virtual_stages: PositiveInt = 1
    seq_len: PositiveInt | None = None
    micro_batch_size: PositiveInt | None = None
    gradient_accumulation_steps: PositiveInt | None = None
    global_batch_size: PositiveInt | None = None
    total_num_tokens: Annotated[int, Field(strict=True, gt=0, le=10**18)] | None = None
    precision: Precision | None = None
    activation_recomputation: Annotated[int, BeforeValidator(_level_number)] = 0
    recompute_layers: PositiveInt | None = None
    flash_attn: Flag | None = None
    softmax_dropout: Flag | None = None
    dropout: Flag | None = None
    layernorm_dtype_bytes: Literal[2, 4] = 2
    mlp_recompute_gelu: Flag = False
    mlp_activation_quant_bits: Literal[4, 8, 16] | None = None
    optimizer: Text | None = None
    optimizer_state_bytes: NonNegativeQuantity | None = None
    master_weights_dtype_bytes: Literal[0, 2, 4] = 4
    gradient_dtype_bytes: Literal[2, 4] | None = None
    ds_zero: Annotated[int, BeforeValidator(_stage_number)] | None = None
    shard_size: PositiveInt | None = None
    optimizer_device: Literal["gpu", "cpu", "nvme"] = "gpu"
    weights_device: Literal["gpu", "cpu", "nvme"] = "gpu"
    activations_device: Literal["gpu", "cpu"] = "gpu"
    lora_rank: Annotated[int, Field(strict=True, ge=0, le=10**6)] = 0
    lora_targets: Literal["all", "attention"] = "all"
    base_weight_bits: Literal[4, 8, 16] | None = None
    flops_efficiency: Efficiency | None = None
    hbm_memory_efficiency: Efficiency | None = None
    cost_per_gpu_hour: NonNegativeQuantity | None = None
    prices: Text | None = None
    profile: Text | None = None
    allow_long_context: Flag = False


_PLAN_FIELDS = tuple(name for name in TrainingPlan.model_fields if name in TrainingInputs.model_fields)


def build_training_scenario(inputs: TrainingInputs) -> TrainingScenario:
    """Load the named specs, derive what was not given, and check that everything goes together.

    Raises:
        SpecError: unknown names, or settings that contradict each other.
    """
    model = get_model_config_by_name(inputs.model)
    gpu = get_gpu_config_by_name(inputs.gpu)
    host_name = inputs.host or gpu.default_host
    if host_name is None:
        raise SpecError(f"GPU {gpu.name} names no default host; give one with --host")
    framework = get_framework(inputs.framework)
    profile = checked_profile(inputs.profile)
    host = profile.apply_to_host(get_host_config_by_name(host_name), framework.name)
    parallelism = training_parallelism(inputs)
    return TrainingScenario(
        model=model,
        gpu=profile.apply_to_gpu(gpu),
        host=host,
        framework=framework.name,
        plan=training_plan(inputs, model, framework),
        parallelism=parallelism,
        num_nodes=nodes_of(
            parallelism.num_gpus, host.name, host.gpus_per_node, inputs.num_nodes, inputs.num_gpus
        ),
        flops_efficiency=inputs.flops_efficiency,
        hbm_memory_efficiency=inputs.hbm_memory_efficiency,
        allow_long_context=inputs.allow_long_context,
        constants=profile.constants_of(framework.name),
        fits=profile.fits,
    )


def training_plan(inputs: TrainingInputs, model: ModelConfig, framework: Framework) -> TrainingPlan:
    """The plan that inputs describe; where they say nothing the framework's defaults hold, then the plan's own."""
    given = {name: getattr(inputs, name) for name in _PLAN_FIELDS}
    fields = framework.defaults | {name: value for name, value in given.items() if value is not None}
    if inputs.seq_len is None:
        fields["seq_len"] = min(DEFAULT_SEQ_LEN, model.max_position_embeddings or DEFAULT_SEQ_LEN)
    if inputs.ds_zero is None:
        fields["ds_zero"] = _default_stage(inputs, fields.get("ds_zero", 0))
    if "optimizer" in fields:
        fields["optimizer"] = optimizer_by_name(str(fields["optimizer"])).name
    return TrainingPlan(**fields)


def _default_stage(inputs: TrainingInputs, usual: Any) -> int:
    """The framework's stage, raised where offloading needs it, lowered to what a pipeline allows."""
    if inputs.weights_device != "gpu":
        return 3
    if (inputs.pp_size or 1) > 1:
        return min(int(usual), 1)
    return max(int(usual), 2) if inputs.optimizer_device != "gpu" else int(usual)


def training_parallelism(inputs: TrainingInputs) -> ParallelismConfig:
    """num_nodes x num_gpus = tp x pp x cp x dp; what is missing is derived, data parallelism first.

    Raises:
        SpecError: the sizes that are given do not multiply to the GPUs.
    """
    tp, pp, cp, dp = inputs.tp_size or 1, inputs.pp_size or 1, inputs.cp_size, inputs.dp_size
    fixed = tp * pp * cp
    if inputs.num_gpus is not None:
        gpus = (inputs.num_nodes or 1) * inputs.num_gpus
        if dp is None and gpus % fixed == 0:
            dp = gpus // fixed
        if dp is None or fixed * dp != gpus:
            sizes = f"tp_size {tp} x pp_size {pp} x cp_size {cp}"
            found = f" = {fixed} does not divide that" if dp is None else f" x dp_size {dp} = {fixed * dp}"
            raise SpecError(
                f"num_nodes {inputs.num_nodes or 1} x num_gpus {inputs.num_gpus} = {gpus} GPUs, but {sizes}{found}"
            )
    sp = tp if inputs.sp_size is None else inputs.sp_size
    return ParallelismConfig(
        tp_size=tp, pp_size=pp, dp_size=dp or 1, ep_size=inputs.ep_size, cp_size=cp, sp_size=sp,
        expert_imbalance=inputs.expert_imbalance,
    )  # fmt: skip
