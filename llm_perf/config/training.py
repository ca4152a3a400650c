"""TrainingPlan and TrainingScenario: one complete question about training, checked when built."""

from dataclasses import dataclass, field, replace
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Field, model_validator

from llm_perf.config.base import NonNegativeInt, PositiveInt, Spec
from llm_perf.config.gpu import GPUConfig
from llm_perf.config.host import HostConfig
from llm_perf.config.model import ModelConfig
from llm_perf.config.parallelism import ActivationRecomputation, DSZeRO, ParallelismConfig
from llm_perf.config.scenario import check_efficiency, check_parallelism, check_timed
from llm_perf.config.workload import Tier
from llm_perf.errors import SpecError

Precision = Literal["fp32", "tf32", "fp16", "bf16", "fp8", "mxfp8", "nvfp4"]
PRECISION_DTYPES: dict[str, str] = {"mxfp8": "fp8", "nvfp4": "fp4"}
"""Recipes whose name is not that of the number format in which the matrix products of the layers run."""
_ALTERNATIVES = {
    "fp4": ("fp4", "fp8", "bf16", "fp16"),
    "fp8": ("fp8", "bf16", "fp16"),
    "fp16": ("fp16", "bf16"),
    "bf16": ("bf16", "fp16"),
    "tf32": ("tf32", "fp32"),
    "fp32": ("fp32",),
}

LossKind = Literal["plain", "chunked", "fused", "vocab-parallel"]
"""How loss and logits are computed: over all logits, chunk by chunk, in one kernel with the head, or over tp's slices."""
KEPT_SHARES: dict[str, float] = {"none": 0.0, "half": 0.5, "all": 1.0}
"""Shares of matrix products whose outputs full recomputation keeps."""
LoraTargets = Literal["all", "attention", "qkv", "qv", "none"]
"""Matrices with adapters: all of a layer's, those of attention, its input's, query and value, or none: the pass through
frozen weights alone."""

Graphs = Literal["none", "mixers", "layers", "iteration"]
RecomputedModule = Literal["core_attn", "layernorm", "moe_act", "moe", "mlp"]
"""Parts of a layer that Megatron Core recomputes by themselves (``--recompute-modules``)."""

OffloadOverlap = Literal["none", "zenflow", "superoffload"]

Level = Annotated[ActivationRecomputation, BeforeValidator(ActivationRecomputation.of)]
Stage = Annotated[DSZeRO, BeforeValidator(DSZeRO.of)]


class TrainingPlan(Spec):
    """What is trained and how: batch, memory savings, precision, optimizer, what leaves the GPU.

    Attributes:
        seq_len: tokens per sequence.
        micro_batch_size: sequences of one data-parallel rank per pass; None is solved for.
        gradient_accumulation_steps: passes per optimizer step; None is solved for.
        global_batch_size: sequences per optimizer step over all ranks; None is solved for.
        total_num_tokens: tokens of the whole run; None leaves days and cost out.
        precision: of the layers' matrix products; attention, head and communication stay in 16 bit.
        activation_recomputation: what of a layer is computed again in the backward pass.
        recompute_layers: layers that recompute; None is all of them.
        flash_attn: fused attention, which keeps no scores.
        softmax_dropout: dropout on attention probabilities, which keeps a mask.
        dropout: dropout after attention and feed-forward blocks, which keeps a mask of each.
        layernorm_dtype_bytes: width of what a normalisation keeps.
        mlp_recompute_gelu: the activation function is computed again in the backward pass.
        mlp_activation_quant_bits: width in which the feed-forward block keeps its activations.
        optimizer: by name, see `llm_perf.counts.optimizer.OPTIMIZERS`.
        optimizer_state_bytes: bytes per trained parameter beside the master weights; None is the optimizer's own.
        master_weights_dtype_bytes: 0 where the optimizer updates the weights themselves.
        gradient_dtype_bytes: None is what the framework accumulates in.
        ds_zero: DeepSpeed ZeRO stage; 3 is what FSDP's full sharding does.
        shard_size: data-parallel ranks that share one copy of the state (hybrid sharding); None is all of them.
        virtual_stages: model chunks of one pipeline rank (interleaved 1F1B).
        optimizer_device, weights_device, activations_device: the tier of optimizer state with master weights, of
            the weights, and of what the backward pass needs.
        lora_rank: rank of the adapters that are trained instead of the weights; 0 trains the weights.
        lora_targets: matrices with adapters.
        adapter: lora, or dora with a trained magnitude per output (arXiv 2402.09353).
        lora_ends: the embedding and the head are trained beside the adapters, as whole copies.
        base_weight_bits: width of frozen weights (QLoRA: 4).
        base_double_quant: scales of frozen weights are quantised too (arXiv 2305.14314); None is what the framework does.
        loss: how the loss is computed; None is what the framework does.
        logit_bytes: bytes per logit of a plain loss at its fullest moment; None is the framework's.
        kept_products: with full recomputation, outputs of matrix products that are kept all the same (checkpointing by
            operation): all, or every second one; both keep what attention's kernel returns.
        compile: torch.compile: elementwise kernels are fused and keep no copies.
        optimizer_in_backward: a parameter is updated as soon as its gradient is complete, which is then dropped.
        reduce_bucket_size: parameters of one bucket of ZeRO's reduction; None is the framework's.
        weights_dtype_bytes: width of the weights themselves where it is not that of the products (4: cast on use).
        overlap_grad_reduce, overlap_param_gather: whether the reduction of gradients runs beside the backward pass, and the
            gather of weights beside the pass that needs them.
        tp_comm_overlap: whether tensor parallelism's messages run beside the products that need them, piece by piece.
        cp_comm_type: how context-parallel ranks exchange keys and values: around a ring, gathered, or tokens for heads.
        moe_dispatcher: alltoall sends a copy of a token to each of its experts, flex (DeepEP, HybridEP) one to each rank that
            holds any of them.
        mtp_depth: further tokens that multi-token prediction predicts, each by a block and the head again
            (arXiv 2412.19437, section 2.2).
        wide_layers: layers whose products stay in 16 bit under an 8- or 4-bit precision.
        cuda_graphs: what is launched as CUDA graphs: nothing, attention and scans of each layer (``mixers``), routing and
            shared experts too (``layers``), or a whole iteration.
        fp8_attention: scores and weighted sums are products of 8 bits too, beside layers in 8 or 4 bits.
        fused_experts: products, bias, activation function and probabilities of experts are one grouped kernel.
        moe_overlap: experts' exchange runs beside another micro-batch's kernels.
        recompute_modules: parts that are computed again where no level is given: attention between its projections, norms,
            experts' activation function, experts with their routing and exchange, or dense feed-forward blocks.
        offload_overlap: how an update on the CPU goes on beside the GPU's work: not at all, ``zenflow`` (arXiv 2505.12242:
            the GPU updates the largest gradients each step, the CPU what is left every few steps, beside them) or
            ``superoffload`` (arXiv 2509.21271: bucket by bucket beside the backward pass, the last ones on the GPU).
        zenflow_topk_ratio, zenflow_update_interval: the share that the GPU updates, and steps between the CPU's updates.
        superoffload_ratio: share of the parameters that the CPU updates.
        power_limit_w: watts that a board may draw; None is its rated power.
    """

    _label: ClassVar[str | None] = ""  # messages name the field alone

    seq_len: PositiveInt = 2048
    micro_batch_size: PositiveInt | None = None
    gradient_accumulation_steps: PositiveInt | None = None
    global_batch_size: PositiveInt | None = None
    total_num_tokens: Annotated[int, Field(strict=True, gt=0, le=10**18)] | None = None
    precision: Precision = "bf16"
    activation_recomputation: Level = ActivationRecomputation.NONE
    recompute_layers: PositiveInt | None = None
    flash_attn: bool = True
    softmax_dropout: bool = False
    dropout: bool = False
    layernorm_dtype_bytes: Literal[2, 4] = 2
    mlp_recompute_gelu: bool = False
    mlp_activation_quant_bits: Literal[4, 8, 16] | None = None
    optimizer: str = "adamw"
    optimizer_state_bytes: Annotated[float, Field(ge=0, le=1000)] | None = None
    master_weights_dtype_bytes: Literal[0, 2, 4] = 4
    gradient_dtype_bytes: Literal[2, 4] | None = None
    ds_zero: Stage = DSZeRO.NONE
    shard_size: PositiveInt | None = None
    virtual_stages: PositiveInt = 1
    optimizer_device: Tier = "gpu"
    weights_device: Tier = "gpu"
    activations_device: Literal["gpu", "cpu"] = "gpu"
    lora_rank: Annotated[int, Field(strict=True, ge=0, le=10**6)] = 0
    lora_targets: LoraTargets = "all"
    adapter: Literal["lora", "dora"] = "lora"
    lora_ends: bool = False
    base_weight_bits: Literal[4, 8, 16] | None = None
    base_double_quant: bool | None = None
    loss: LossKind | None = None
    logit_bytes: Annotated[float, Field(ge=1, le=100)] | None = None
    kept_products: Literal["none", "half", "all"] = "none"
    compile: bool = False
    optimizer_in_backward: bool = False
    reduce_bucket_size: Annotated[float, Field(ge=0, le=1e12)] | None = None
    weights_dtype_bytes: Literal[2, 4] | None = None
    overlap_grad_reduce: bool = True
    overlap_param_gather: bool = True
    tp_comm_overlap: bool = False
    cp_comm_type: Literal["p2p", "all_gather", "a2a"] = "p2p"
    moe_dispatcher: Literal["alltoall", "flex"] = "alltoall"
    mtp_depth: Annotated[int, Field(strict=True, ge=0, le=16)] = 0
    wide_layers: NonNegativeInt = 0
    cuda_graphs: Graphs = "none"
    fp8_attention: bool = False
    fused_experts: bool = False
    moe_overlap: bool = False
    recompute_modules: tuple[RecomputedModule, ...] = ()
    offload_overlap: OffloadOverlap = "none"
    zenflow_topk_ratio: Annotated[float, Field(ge=0, le=1)] = 0.1
    zenflow_update_interval: PositiveInt = 4
    superoffload_ratio: Annotated[float, Field(ge=0, le=1)] = 0.9
    power_limit_w: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None

    @model_validator(mode="after")
    def _consistent(self) -> "TrainingPlan":
        if self.weights_device != "gpu" and self.ds_zero is not DSZeRO.STAGE_3:
            raise ValueError(
                "weights leave the GPU in ZeRO-Infinity only: give ds_zero 3 with weights_device"
            )
        if self.optimizer_device != "gpu" and self.ds_zero is DSZeRO.NONE:
            raise ValueError("the optimizer leaves the GPU in ZeRO-Offload only: give ds_zero 1, 2 or 3")
        if (
            self.recompute_layers is not None
            and self.activation_recomputation is ActivationRecomputation.NONE
        ):
            raise ValueError(
                "recompute_layers says how many layers recompute: give activation_recomputation too"
            )
        if self.base_weight_bits is not None and not self.lora_rank:
            raise ValueError("base_weight_bits is for frozen weights: give --lora-rank too")
        if (self.lora_ends or self.adapter != "lora") and not self.lora_rank:
            raise ValueError("adapter and lora_ends are for adapters: give --lora-rank too")
        if self.offload_overlap != "none" and (self.optimizer_device != "cpu" or self.lora_rank):
            raise ValueError(
                "offload_overlap is about whole weights that the CPU updates: give optimizer_device cpu"
            )
        if self.fp8_attention and not (self.flash_attn and self.compute_dtype in ("fp8", "fp4")):
            raise ValueError(
                "fp8_attention is fused attention beside layers in 8 or 4 bits: give precision fp8, mxfp8 or nvfp4"
            )
        if self.recompute_modules and self.activation_recomputation is not ActivationRecomputation.NONE:
            raise ValueError(
                "recompute_modules names parts where no level does: give it or activation_recomputation"
            )
        if self.recompute_modules and self.recompute_layers is not None:
            raise ValueError("recompute_modules recompute in all layers: give no recompute_layers")
        if self.kept_products != "none" and self.activation_recomputation is not ActivationRecomputation.FULL:
            raise ValueError(
                "kept_products says what full recomputation keeps: give activation_recomputation full"
            )
        if self.optimizer_in_backward and (self.gradient_accumulation_steps or 1) > 1:
            raise ValueError(
                "optimizer_in_backward updates with every micro-batch: no gradient_accumulation_steps"
            )
        if self.optimizer_in_backward and self.optimizer_device != "gpu":
            raise ValueError("optimizer_in_backward updates on the GPU: no optimizer_device")
        return self

    @property
    def gpu_update_share(self) -> float:
        """Share of the parameters that the GPU updates, and whose state it holds."""
        if self.optimizer_device == "gpu":
            return 1.0
        shares = {"zenflow": self.zenflow_topk_ratio, "superoffload": 1 - self.superoffload_ratio}
        return shares.get(self.offload_overlap, 0.0)

    @property
    def compute_dtype(self) -> str:
        """Number format of the layers' matrix products."""
        return PRECISION_DTYPES.get(self.precision, self.precision)

    @property
    def wide_bytes(self) -> int:
        """Bytes per element of what is not quantised: activations, weights that are gathered, communication."""
        return 4 if self.precision in ("fp32", "tf32") else 2


@dataclass(frozen=True)
class TrainingScenario:
    """A model trained on machines by a framework. tp x pp x cp x dp GPUs, spread evenly over ``num_nodes``.

    ``constants`` override constants of the framework by name (a calibrated profile's content). Without ``fits`` none of its
    fitted constants is used (``--profile none``); host and GPU are then given without theirs.

    Raises:
        SpecError: parts that do not go together, with what would be possible.
    """

    model: ModelConfig
    gpu: GPUConfig
    host: HostConfig
    framework: str = "megatron"
    plan: TrainingPlan = field(default_factory=TrainingPlan)
    parallelism: ParallelismConfig = field(default_factory=ParallelismConfig)
    num_nodes: int = 1
    flops_efficiency: float | None = None
    hbm_memory_efficiency: float | None = None
    allow_long_context: bool = False
    constants: tuple[tuple[str, float], ...] = ()
    fits: bool = True

    def __post_init__(self) -> None:
        check_efficiency("flops_efficiency", self.flops_efficiency)
        check_efficiency("hbm_memory_efficiency", self.hbm_memory_efficiency)
        check_timed(self.model)
        check_parallelism(self.model, self.parallelism)
        if self.num_gpus % self.num_nodes:
            raise SpecError(
                f"{self.num_gpus} GPUs (tp x pp x cp x dp) do not spread evenly over {self.num_nodes} nodes"
            )
        _check_plan(self.model, self.plan, self.parallelism)
        if self.plan.power_limit_w is not None:
            _check_power(self.gpu, self.plan.power_limit_w)
        limit = self.model.max_position_embeddings
        if limit is not None and self.plan.seq_len > limit and not self.allow_long_context:
            raise SpecError(
                f"seq_len {self.plan.seq_len} exceeds the {limit} positions of {self.model.name}; shorten it or pass "
                "--allow-long-context"
            )

    @property
    def num_gpus(self) -> int:
        """GPUs of the whole job."""
        return self.parallelism.num_gpus

    @property
    def gpus_per_node(self) -> int:
        """GPUs of one node (of one NVLink domain where that is larger than a server)."""
        return self.num_gpus // self.num_nodes

    @property
    def shard_ranks(self) -> int:
        """Ranks that share one copy of the training state under ZeRO: data- and context-parallel ones."""
        ranks = self.parallelism.dp_size * self.parallelism.cp_size
        return min(self.plan.shard_size or ranks, ranks)

    def replace(self, **changes: Any) -> "TrainingScenario":
        """A copy with some parts changed, checked again."""
        return replace(self, **changes)


def _check_power(gpu: GPUConfig, limit_w: float) -> None:
    """A limit says something only where the energy of a FLOP is known, and above what the board draws at rest."""
    training = gpu.efficiency.training
    if training is None or training.power is None or gpu.tdp_w is None:
        raise SpecError(
            f"power_limit_w: what a FLOP takes is not known of {gpu.name}, so a limit would change nothing"
        )
    static_w = training.power.static_share * gpu.tdp_w
    if limit_w <= static_w:
        raise SpecError(
            f"power_limit_w {limit_w:g}: {gpu.name} draws {static_w:g} W before it computes; give more than that, its "
            f"rated power is {gpu.tdp_w:g} W"
        )
    if limit_w > _MOST_OF_RATED * gpu.tdp_w:
        raise SpecError(
            f"power_limit_w {limit_w:g}: no {gpu.name} draws that; give at most {_MOST_OF_RATED * gpu.tdp_w:g} W, its "
            f"rated power is {gpu.tdp_w:g} W"
        )


_MOST_OF_RATED = 1.5
"""Share of its rated power above which nobody lets a board draw: the same chip's variants differ by less."""


def _check_plan(model: ModelConfig, plan: TrainingPlan, parallelism: ParallelismConfig) -> None:
    if plan.wide_layers and plan.wide_layers > model.num_layers:
        raise SpecError(f"wide_layers {plan.wide_layers} is more than the {model.num_layers} layers")
    if plan.lora_rank > model.hidden_size:
        raise SpecError(
            f"lora_rank {plan.lora_rank} is above {model.name}'s hidden size {model.hidden_size}: such adapters are larger "
            "than what they adapt"
        )
    if plan.moe_dispatcher == "flex" and not any(group.mlp.routed_experts for group in model.layer_groups):
        raise SpecError(f"moe_dispatcher flex sends tokens to experts, and {model.name} has none")
    experts = any(group.mlp.routed_experts for group in model.layer_groups)
    for name, asked in (
        ("fused_experts", plan.fused_experts),
        ("moe_overlap", plan.moe_overlap),
        ("recompute_modules", not {"moe", "moe_act"}.isdisjoint(plan.recompute_modules)),
    ):
        if asked and not experts:
            raise SpecError(f"{name} is about experts, and {model.name} has none")
    if plan.cp_comm_type == "a2a" and parallelism.cp_size > 1:
        _check_head_exchange(model, parallelism)
    if plan.seq_len % parallelism.cp_size:
        raise SpecError(f"cp_size {parallelism.cp_size} does not divide seq_len {plan.seq_len}")
    if plan.virtual_stages > 1 and parallelism.pp_size == 1:
        raise SpecError(f"virtual_stages {plan.virtual_stages} needs a pipeline: give pp_size")
    if plan.virtual_stages * parallelism.pp_size > model.num_layers:
        raise SpecError(
            f"pp_size {parallelism.pp_size} x virtual_stages {plan.virtual_stages} is more than the "
            f"{model.num_layers} layers of {model.name}"
        )
    if plan.recompute_layers is not None and plan.recompute_layers > model.num_layers:
        raise SpecError(
            f"recompute_layers {plan.recompute_layers} is more than the {model.num_layers} layers"
        )
    ranks = parallelism.dp_size * parallelism.cp_size
    if plan.shard_size is not None and ranks % plan.shard_size:
        raise SpecError(f"shard_size {plan.shard_size} does not divide dp_size x cp_size = {ranks}")
    if plan.ds_zero >= DSZeRO.STAGE_2 and parallelism.pp_size > 1:
        raise SpecError(
            f"ds_zero {plan.ds_zero.value} with pp_size {parallelism.pp_size}: a pipeline keeps gradients and weights "
            "of all micro-batches, so only stages 0 and 1 go with it"
        )
    if (
        plan.lora_rank
        and any(group.mlp.routed_experts for group in model.layer_groups)
        and plan.lora_targets == "all"
    ):
        raise SpecError(
            "adapters on experts are not modelled: give lora_targets attention for a mixture of experts"
        )


def matrix_format(gpu: GPUConfig, dtype: str) -> str:
    """The number format in which a GPU runs products asked for in ``dtype``: that one or the next wider.

    Raises:
        SpecError: the GPU has no format that is wide enough.
    """
    for name in _ALTERNATIVES.get(dtype, (dtype,)):
        if name in gpu.peak_tflops:
            return name
    return gpu.dtype_for(32)


def _check_head_exchange(model: ModelConfig, parallelism: ParallelismConfig) -> None:
    ranks = parallelism.cp_size * parallelism.tp_size
    for group in model.layer_groups:
        for part in group.attention.parts:
            if part.num_kv_heads % ranks:
                raise SpecError(
                    f"cp_comm_type a2a gives each of tp_size x cp_size = {ranks} ranks whole heads, and {model.name} has "
                    f"{part.num_kv_heads} of keys and values"
                )
