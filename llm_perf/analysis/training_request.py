"""From flat inputs, as flags and config files give them, to a checked TrainingScenario."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal, get_args

from pydantic import BeforeValidator, Field

from llm_perf.analysis import asked
from llm_perf.analysis.asked import Stage, Text, replicas
from llm_perf.config.base import (
    AsText,
    Efficiency,
    Flag,
    NonNegativeQuantity,
    PositiveFloat,
    PositiveInt,
    Spec,
)
from llm_perf.config.loading import (
    get_gpu_config_by_name,
    get_model_config_by_name,
    host_with,
    usual_host,
    with_host_memory,
)
from llm_perf.config.model import ModelConfig
from llm_perf.config.parallelism import ActivationRecomputation, ParallelismConfig, nodes_of
from llm_perf.config.training import (
    Graphs,
    LoraTargets,
    LossKind,
    OffloadOverlap,
    Precision,
    RecomputedModule,
    TrainingPlan,
    TrainingScenario,
)
from llm_perf.counts.optimizer import optimizer_by_name
from llm_perf.errors import SpecError
from llm_perf.systems.profiles import checked_profile
from llm_perf.systems.training.framework import Framework, get_framework

DEFAULT_FRAMEWORK = "megatron"
DEFAULT_SEQ_LEN = 4096
"""Tokens per sequence where nobody says and the model's positions allow it."""

SELECTIVE = "selective"
"""Not a level: what the users of each framework mean by it."""

_LEVELS: dict[str, int | str] = {level.name.lower(): level.value for level in ActivationRecomputation} | {
    SELECTIVE: SELECTIVE
}


def _level_number(value: Any) -> Any:
    if value is None:
        return None
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


def _names(value: Any) -> Any:
    """Names by comma as a tuple.

    Raises:
        ValueError: there is no name between two commas.
    """
    if not isinstance(value, str):
        return value
    names = tuple(name.strip() for name in value.split(","))
    if not all(names):
        accepted = ", ".join(get_args(RecomputedModule))
        raise ValueError(f"a name is missing: give some of {accepted}, by comma")
    return names


def _graphs_of_a_switch(value: Any) -> Any:
    """What results and files of inputs hold of a time when graphs were a switch; it meant layers."""
    return {True: "layers", False: "none"}[value] if isinstance(value, bool) else value


class TrainingInputs(Spec):
    """Everything that ``llm-perf train`` can be asked, under the names of its flags. What is None is chosen.

    A field is the flag: the command's options are made of the fields, with their descriptions as help.
    ``num_gpus`` is per node. ``micro_batch_size`` is llm-analysis' batch_size_per_gpu. See
    `llm_perf.config.training.TrainingPlan` for what the fields of the plan mean.
    """

    _positional: ClassVar[tuple[str, ...]] = ("model", "gpu")
    _label: ClassVar[str | None] = ""  # messages name the flag alone

    model: asked.ModelName
    gpu: Text = Field(description="Name or file; repeat it to compare several.")
    host: Text | None = Field(default=None, description="Name or file; the GPU's usual host if not given.")
    host_memory: asked.HostMemory = None
    network_bandwidth: asked.NetworkRate = None
    framework: Text = Field(
        default=DEFAULT_FRAMEWORK,
        description="megatron, fsdp, deepspeed, hf_trainer, unsloth or another: llm-perf systems list.  [default: megatron]",
    )
    num_gpus: asked.GPUsPerNode = None
    num_nodes: asked.Nodes = None
    tp_size: asked.TensorRanks = None
    pp_size: asked.Stages = None
    dp_size: asked.Replicas = None
    ep_size: asked.ExpertRanks = 1
    sp_size: PositiveInt | None = Field(
        default=None, description="Sequence-parallel ranks: 1 or tp-size.  [default: tp-size]"
    )
    cp_size: PositiveInt = Field(default=1, description="Context-parallel ranks.")
    expert_imbalance: PositiveFloat = Field(
        default=1.0, description="Load of the busiest expert rank over the mean.  [default: 1]"
    )
    virtual_stages: PositiveInt = Field(
        default=1, description="Model chunks per stage (interleaved 1F1B).  [default: 1]"
    )
    seq_len: PositiveInt | None = Field(
        default=None, description="Tokens per sequence.  [default: 4096, or the model's positions if fewer]"
    )
    micro_batch_size: PositiveInt | None = Field(
        default=None, description="Sequences of one replica per pass; solved for if not given."
    )
    gradient_accumulation_steps: PositiveInt | None = Field(
        default=None, description="Passes per optimizer step; solved for if not given."
    )
    global_batch_size: PositiveInt | None = Field(
        default=None, description="Sequences per optimizer step; solved for if not given."
    )
    total_num_tokens: Annotated[int, Field(strict=True, gt=0, le=10**18)] | None = Field(
        default=None, description="Tokens of the whole run: prints days, GPU-hours and cost."
    )
    precision: Precision | None = Field(
        default=None, description="fp32, tf32, fp16, bf16, fp8, mxfp8 or nvfp4.  [default: bf16]"
    )
    activation_recomputation: Annotated[
        int | Literal["selective"] | None, BeforeValidator(_level_number), AsText
    ] = Field(
        default=None,
        description="0 to 4, or none, attn_compute, attn, norm_attn_norm, full; selective as the framework means it.  "
        "[default: 0, or the framework's]",
    )
    recompute_layers: PositiveInt | None = Field(
        default=None, description="Layers that recompute; all if not given."
    )
    flash_attn: Flag | None = Field(
        default=None, description="Fused attention, which keeps no scores.  [default: on]"
    )
    softmax_dropout: Flag | None = Field(default=None, description="Dropout on attention probabilities.")
    dropout: Flag | None = Field(default=None, description="Dropout after attention and feed-forward blocks.")
    layernorm_dtype_bytes: Literal[2, 4] = Field(
        default=2, description="Bytes per element that norms keep: 2 or 4.  [default: 2]"
    )
    mlp_recompute_gelu: Flag = Field(default=False, description="Compute the activation function again.")
    mlp_activation_quant_bits: Literal[4, 8, 16] | None = Field(
        default=None, description="Bits in which feed-forward blocks keep activations: 4, 8 or 16."
    )
    optimizer: Text | None = Field(
        default=None, description="adamw, adam8bit, lion, adafactor, muon, sgd and others.  [default: adamw]"
    )
    optimizer_state_bytes: NonNegativeQuantity | None = Field(
        default=None, description="Bytes per parameter beside master weights, instead of the optimizer's."
    )
    master_weights_dtype_bytes: Literal[0, 2, 4] | None = Field(
        default=None, description="0, 2 or 4.  [default: 4, or the framework's]"
    )
    gradient_dtype_bytes: Literal[2, 4] | None = Field(
        default=None, description="2 or 4; the framework's if not given."
    )
    ds_zero: Stage | None = Field(
        default=None,
        description="DeepSpeed ZeRO stage; 3 is FSDP's full sharding.  [default: the framework's]",
    )
    shard_size: PositiveInt | None = Field(
        default=None, description="Replicas that share one copy of the state; all if not given."
    )
    optimizer_device: Literal["gpu", "cpu", "nvme"] = Field(
        default="gpu", description="Where optimizer state lives: gpu, cpu or nvme.  [default: gpu]"
    )
    weights_device: Literal["gpu", "cpu", "nvme"] = Field(
        default="gpu", description="Where weights live (ZeRO-Infinity): gpu, cpu or nvme.  [default: gpu]"
    )
    activations_device: Literal["gpu", "cpu"] = Field(
        default="gpu", description="Where activations wait: gpu or cpu.  [default: gpu]"
    )
    lora_rank: Annotated[int, Field(strict=True, ge=0, le=10**6)] = Field(
        default=0, description="Train adapters of this rank instead of the weights.  [default: 0, off]"
    )
    lora_targets: LoraTargets | None = Field(
        default=None, description="all, attention, qkv, qv or none.  [default: all, or the framework's]"
    )
    adapter: Literal["lora", "dora"] | None = Field(
        default=None, description="lora or dora.  [default: lora]"
    )
    lora_ends: Flag | None = Field(
        default=None, description="Train whole copies of embedding and head beside the adapters."
    )
    base_weight_bits: Literal[4, 8, 16] | None = Field(
        default=None, description="Bits of frozen weights (QLoRA: 4)."
    )
    base_double_quant: Flag | None = Field(
        default=None, description="Scales of frozen weights are quantised too; the framework's if not given."
    )
    loss: LossKind | None = Field(
        default=None, description="plain, chunked, fused or vocab-parallel.  [default: the framework's]"
    )
    logit_bytes: Annotated[float, Field(ge=1, le=100)] | None = Field(
        default=None, description="Bytes per logit of a plain loss, 1 to 100, instead of the framework's."
    )
    kept_products: Literal["none", "half", "all"] | None = Field(
        default=None,
        description="Outputs of products that full recomputation keeps: none, half or all.  [default: none]",
    )
    compile: Flag | None = Field(
        default=None, description="torch.compile: fused elementwise kernels.  [default: the framework's]"
    )
    optimizer_in_backward: Flag | None = Field(
        default=None, description="Update each parameter in the backward pass, and drop its gradient."
    )
    reduce_bucket_size: NonNegativeQuantity | None = Field(
        default=None, description="Parameters of one bucket of ZeRO; the framework's if not given."
    )
    weights_dtype_bytes: Literal[2, 4] | None = Field(
        default=None, description="2 or 4: width of the weights themselves.  [default: the framework's]"
    )
    overlap_grad_reduce: Flag | None = Field(
        default=None,
        description="Gradients are reduced beside the backward pass.  [default: the framework's]",
    )
    overlap_param_gather: Flag | None = Field(
        default=None,
        description="Weights are gathered beside the pass that uses them.  [default: the framework's]",
    )
    tp_comm_overlap: Flag | None = Field(
        default=None,
        description="Tensor parallelism's messages run beside its products.  [default: the framework's]",
    )
    cp_comm_type: Literal["p2p", "all_gather", "a2a"] | None = Field(
        default=None,
        description="Context parallelism: p2p (ring), all_gather or a2a (tokens for heads).  [default: p2p]",
    )
    moe_dispatcher: Literal["alltoall", "flex"] | None = Field(
        default=None,
        description="alltoall, or flex (DeepEP, HybridEP): one copy per rank.  [default: alltoall]",
    )
    mtp_depth: Annotated[int, Field(strict=True, ge=0, le=16)] | None = Field(
        default=None, description="Tokens that multi-token prediction adds.  [default: 0]"
    )
    wide_layers: PositiveInt | None = Field(
        default=None, description="Layers that stay in 16 bit under fp8, mxfp8 or nvfp4.  [default: 0]"
    )
    cuda_graphs: Annotated[Graphs | None, BeforeValidator(_graphs_of_a_switch)] = Field(
        default=None,
        description="none, mixers, layers (routing too, but no experts) or iteration.  [default: none]",
    )
    fp8_attention: Flag | None = Field(
        default=None,
        description="Attention computes in 8 bits too, beside 8- or 4-bit layers.  [default: off]",
    )
    fused_experts: Flag | None = Field(
        default=None, description="An expert's products and activation are one kernel.  [default: off]"
    )
    moe_overlap: Flag | None = Field(
        default=None,
        description="Experts' exchange runs beside another micro-batch's kernels.  [default: off]",
    )
    recompute_modules: Annotated[tuple[RecomputedModule, ...] | None, BeforeValidator(_names), AsText] = (
        Field(
            default=None,
            description="core_attn, layernorm, moe_act, moe, mlp: parts that recompute, by comma, where no level does.",
        )
    )
    offload_overlap: OffloadOverlap | None = Field(
        default=None,
        description="none, zenflow or superoffload: the CPU's update beside the GPU's work.  [default: none]",
    )
    zenflow_topk_ratio: Efficiency | None = Field(
        default=None, description="ZenFlow: share that the GPU updates.  [default: 0.1]"
    )
    zenflow_update_interval: PositiveInt | None = Field(
        default=None, description="ZenFlow: steps between the CPU's updates.  [default: 4]"
    )
    superoffload_ratio: Efficiency | None = Field(
        default=None, description="SuperOffload: share that the CPU updates.  [default: 0.9]"
    )
    power_limit_w: PositiveFloat | None = Field(
        default=None, description="Watts that a GPU may draw; its rated power if not given."
    )
    flops_efficiency: asked.ShareOfPeak = None
    hbm_memory_efficiency: asked.ShareOfBandwidth = None
    cost_per_gpu_hour: asked.Price = None
    prices: asked.PriceList = None
    profile: asked.ProfileName = None
    allow_long_context: asked.LongContext = False


_PLAN_FIELDS = tuple(name for name in TrainingPlan.model_fields if name in TrainingInputs.model_fields)
_OVERLAP_OF = {
    "zenflow_topk_ratio": "zenflow",
    "zenflow_update_interval": "zenflow",
    "superoffload_ratio": "superoffload",
}
"""Settings of one way in which the CPU's update goes on beside the GPU's work, which mean nothing without it."""


def build_training_scenario(inputs: TrainingInputs) -> TrainingScenario:
    """Load the named specs, derive what was not given, and check that everything goes together.

    Raises:
        SpecError: unknown names, or settings that contradict each other.
    """
    model = get_model_config_by_name(inputs.model)
    gpu = get_gpu_config_by_name(inputs.gpu)
    framework = get_framework(inputs.framework)
    profile = checked_profile(inputs.profile)
    parallelism = training_parallelism(inputs)
    per_node = -(-parallelism.num_gpus // (inputs.num_nodes or 1))
    named = (
        usual_host(gpu, per_node, in_one_node=inputs.num_gpus is not None)
        if inputs.host is None
        else host_with(gpu, inputs.host)
    )
    named = with_host_memory(gpu, named, inputs.host, inputs.host_memory)
    host = profile.apply_to_host(named, framework.name)
    if inputs.network_bandwidth is not None:
        host = host.replace(nic_gb_per_s=inputs.network_bandwidth)
    framework.check_device(gpu)
    framework.check_divisions(parallelism)
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
    stated = {name: value for name, value in given.items() if value is not None}
    for name in ("lora_targets", "base_double_quant"):
        if stated.get(name) and not inputs.lora_rank:
            raise SpecError(f"{name} is for adapters: give --lora-rank too")
    if stated.get("activation_recomputation") == SELECTIVE:
        del stated["activation_recomputation"]
        stated = framework.selected() | stated
    stage = (
        _default_stage(inputs, framework.defaults.get("ds_zero", 0))
        if inputs.ds_zero is None
        else inputs.ds_zero
    )
    framework.check_stage(stage)
    stage = framework.stage_beside(stage, inputs.pp_size or 1)
    usual = framework.defaults_at(stage, inputs.tp_size or 1, not model.routes)
    fields = usual | stated | {"ds_zero": stage}
    if fields.get("base_weight_bits") and inputs.base_weight_bits is None and not inputs.lora_rank:
        raise SpecError(
            f"framework {framework.name} trains adapters over frozen weights of {fields['base_weight_bits']} bits: give "
            "--lora-rank, such as 16, or another --framework"
        )
    framework.check_overlap(str(fields.get("offload_overlap", "none")))
    framework.check_graphs(inputs.cuda_graphs or "none")
    for name, way in _OVERLAP_OF.items():
        if name in stated and fields.get("offload_overlap") != way:
            raise SpecError(f"{name} is a setting of --offload-overlap {way}: give that too, or leave it out")
    if inputs.seq_len is None:
        fields["seq_len"] = min(DEFAULT_SEQ_LEN, model.max_position_embeddings or DEFAULT_SEQ_LEN)
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
    tp, pp, cp = inputs.tp_size or 1, inputs.pp_size or 1, inputs.cp_size
    sizes = {"tp_size": tp, "pp_size": pp, "cp_size": cp}
    dp = replicas(sizes, inputs.dp_size, inputs.num_nodes, inputs.num_gpus)
    sp = tp if inputs.sp_size is None else inputs.sp_size
    return ParallelismConfig(
        tp_size=tp, pp_size=pp, dp_size=dp or 1, ep_size=inputs.ep_size, cp_size=cp, sp_size=sp,
        expert_imbalance=inputs.expert_imbalance,
    )  # fmt: skip
