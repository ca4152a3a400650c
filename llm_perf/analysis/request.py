"""From flat inputs, as flags and config files give them, to a checked Scenario."""

import math
from typing import Annotated, Any, ClassVar, Literal, get_args

from pydantic import BeforeValidator, Field, model_validator

from llm_perf.analysis import asked
from llm_perf.analysis.asked import MostInRequest, RankCount, Stage, Text, replicas
from llm_perf.analysis.format_request import requested_dtype
from llm_perf.analysis.run_facts import NO_FACTS, RunFacts
from llm_perf.analysis.without_gpu import gpu_of_host_alone
from llm_perf.config.base import (
    AsText,
    Efficiency,
    Flag,
    Fraction,
    MeanOfMany,
    NonNegativeInt,
    NonNegativeQuantity,
    PositiveFloat,
    PositiveInt,
    Quantity,
    Refused,
    Spec,
)
from llm_perf.config.dtype import Bits
from llm_perf.config.gpu import GPUConfig
from llm_perf.config.host import HostConfig
from llm_perf.config.loading import (
    get_gpu_config_by_name,
    get_model_config_by_name,
    host_with,
    usual_host,
    with_host_memory,
)
from llm_perf.config.model import ModelConfig
from llm_perf.config.names import normalise
from llm_perf.config.parallelism import DSZeRO, ParallelismConfig, nodes_of
from llm_perf.config.scenario import Scenario
from llm_perf.config.speculation import MODULES, Speculation, draft_module
from llm_perf.config.workload import OffloadConfig, Shares, SplitMode, Workload, with_batch
from llm_perf.errors import SpecError, UnknownNameError
from llm_perf.systems import checked_system, get_system, resolve_system
from llm_perf.systems.base import HYBRID_OPTIONS, POLICY_OPTIONS, System
from llm_perf.systems.profiles import checked_profile
from llm_perf.systems.registry import asked_version, check_options, family_of


def _layers(value: Any) -> Any:
    """A number of layers as text or number; ``all`` is more than any model has."""
    if not isinstance(value, str):
        return value
    text = value.strip().lower()
    if text in ("all", "-1", "999"):
        return ALL_LAYERS
    return int(text) if text.isdigit() and len(text) < len(str(ALL_LAYERS)) else value


ALL_LAYERS = 10_000
"""What ``all`` means where layers are counted."""


def _listed(value: Any) -> Any:
    """Shares of a file may be a list of numbers, or a number."""
    if isinstance(value, (list, tuple)):
        return ",".join(str(part) for part in value)
    return str(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else value


Acceptance = Annotated[str, BeforeValidator(_listed), Field(min_length=1)]
TokenCount = Annotated[PositiveInt, MostInRequest(2**20)]


class InferenceInputs(Spec):
    """Everything that ``llm-perf infer`` can be asked, under the names of its flags. What is None is chosen.

    A field is the flag: the command's options are made of the fields, with their descriptions as help.

    ``batch_size`` is the total over all GPUs. ``num_gpus`` is per node. ``quant_bits`` quantises weights only, in
    groups of ``quant_group_size``; ``weight_bits`` is the plain storage width. ``weight_format`` and ``kv_format`` name a
    number format; without any of these, weights are as the checkpoint was released. ``host`` defaults to the GPU's own.
    """

    _positional: ClassVar[tuple[str, ...]] = ("model", "gpu")
    _label: ClassVar[str | None] = ""  # messages name the flag alone

    model: asked.ModelName
    gpu: Text = Field(
        description="Name or file; repeat it to compare several; none for a machine that computes on its CPU. If not given, "
        "a profile's machine, or none where a system computes on --host."
    )
    host: Text | None = Field(
        default=None, description="Name, file or here; the GPU's usual host if not given."
    )
    host_bandwidth: Quantity | None = Field(
        default=None, description="GB/s that reads of the host's memory reach, instead of its channels'."
    )
    host_memory: asked.HostMemory = None
    network_bandwidth: asked.NetworkRate = None
    system: Text | None = Field(
        default=None,
        description="resident, vllm, sglang, llama_cpp or another of llm-perf systems list; as --ds-zero says if not given.",
    )
    num_gpus: asked.GPUsPerNode = None
    num_nodes: asked.Nodes = None
    batch_size: TokenCount = Field(default=1, description="Sequences over all GPUs.  [default: 1]")
    prompt_len: Annotated[TokenCount, MeanOfMany()] = Field(
        default=512, description="Prompt tokens per sequence.  [default: 512]"
    )
    gen_len: Annotated[TokenCount, MeanOfMany()] = Field(
        default=32, description="Tokens to generate per sequence.  [default: 32]"
    )
    ds_zero: Stage = Field(default=0, description="DeepSpeed ZeRO stage; 3 is ZeRO-Inference.  [default: 0]")
    tp_size: asked.TensorRanks = None
    pp_size: asked.Stages = None
    dp_size: asked.Replicas = None
    ep_size: asked.ExpertRanks = 1
    sp_size: PositiveInt | None = Field(
        default=None, description="Sequence-parallel ranks: 1 or tp-size.  [default: 1]"
    )
    cp_size: RankCount = Field(
        default=1, description="Ranks that share each sequence's tokens (context parallel)."
    )
    expert_imbalance: PositiveFloat = Field(
        default=1.0, description="Busiest expert rank over the mean.  [default: 1]"
    )
    prefix_hit_rate: Fraction = Field(
        default=0.0, description="Share of each prompt in a prefix cache.  [default: 0]"
    )
    prefill_chunk: TokenCount | None = Field(
        default=None, description="Tokens of each prompt per pass (chunked prefill)."
    )
    gpu_memory_utilization: Efficiency | None = Field(
        default=None,
        description="Share of GPU memory that the stack may use, as it counts it; its own default.",
    )
    max_num_batched_tokens: TokenCount | None = Field(
        default=None, description="Tokens of one step, which activations are sized for; the stack's default."
    )
    max_num_seqs: TokenCount | None = Field(
        default=None, description="Sequences that run at once at most; the stack's default."
    )
    enforce_eager: Flag = Field(
        default=False, description="No captured graphs: the host launches every step.  [default: off]"
    )
    distinct_prompts: TokenCount | None = Field(
        default=None,
        description="Prompts of the batch that differ: equal ones share experts.  [default: all differ]",
    )
    shared_prefix: Flag = Field(
        default=False, description="The cached part is the same for all sequences.  [default: off]"
    )
    draft_model: Text | None = Field(
        default=None, description="Speculative decoding: the model that drafts tokens, or mtp, eagle."
    )
    draft_tokens: RankCount | None = Field(
        default=None, description="Tokens drafted per round.  [default: 4; mtp 1]"
    )
    acceptance: Acceptance | None = Field(
        default=None,
        description="Share of rounds that keep each drafted position, .85,.7,.55, as vLLM prints it; or one rate.",
    )
    acceptance_rate: Fraction | None = Field(
        default=None, description="Accepted over drafted tokens, as engines print it; no default."
    )
    token_acceptance: Fraction | None = Field(
        default=None, description="Instead: chance of a drafted token if those before it were kept."
    )
    with_vision: Flag = Field(
        default=False, description="Count towers beside the text in weights and memory.  [default: off]"
    )
    weight_format: Text | None = Field(
        default=None,
        description="auto (as released), fp16, fp8, awq, nf4, mxfp4, q4_k_m, ...  [default: auto]",
    )
    kv_format: Text | None = Field(
        default=None,
        description="Format of the KV cache: auto, fp16, fp8, int8, q8_0, q4_0, ...  [default: auto]",
    )
    weight_bits: Bits | None = Field(
        default=None, description="Bits per stored weight, without scales; as released if not given."
    )
    activation_bits: Bits = Field(default=16, description="Bits per activation.  [default: 16]")
    kv_bits: Bits | None = Field(
        default=None, description="Bits per KV cache element; as activations if not given."
    )
    quant_bits: Literal[4, 8, 16] | None = Field(
        default=None, description="Quantise weights to 4 or 8 bits in groups (16: not)."
    )
    quant_group_size: PositiveInt = Field(
        default=64, description="Weights that share a scale and a minimum.  [default: 64]"
    )
    cpu_offload: Flag = Field(default=False, description="Weights in CPU memory.")
    disk_offload: Flag = Field(default=False, description="Weights on NVMe.")
    kv_offload: Flag = Field(default=False, description="KV cache in CPU memory.")
    pin_memory: Flag = Field(default=True, description="Page-locked host memory for weights.  [default: on]")
    pin_kv_cache: Flag = Field(default=True, description="Page-locked KV cache.  [default: on]")
    async_kv_offload: Flag = Field(default=False, description="Non-blocking KV copies.")
    prefetch: Flag | None = Field(default=None, description="Fetch the next weights early.  [default: on]")
    percent: Text | None = Field(
        default=None, description='FlexGen: "wg wc cg cc hg hc", weights, cache, hidden on GPU and CPU.'
    )
    gpu_batch_size: TokenCount | None = Field(default=None, description="FlexGen: sequences per GPU batch.")
    num_gpu_batches: RankCount | None = Field(default=None, description="FlexGen: GPU batches per block.")
    compress_weight: Flag = Field(default=False, description="FlexGen: weights in 4 bits.")
    compress_cache: Flag = Field(default=False, description="FlexGen: cache in 4 bits.")
    cpu_cache_compute: Flag | None = Field(default=None, description="FlexGen: attention on CPU.")
    overlap: Flag | None = Field(default=None, description="Copy and compute at once.  [default: on]")
    attn_sparsity: Efficiency | None = Field(
        default=None, description="FlexGen: share of values that attention reads."
    )
    micro_batches: RankCount | None = Field(
        default=None, description="Parts of a batch that fill a pipeline; FlexGen: its stages if not given."
    )
    n_gpu_layers: Annotated[NonNegativeInt | None, AsText, BeforeValidator(_layers)] = Field(
        default=None, description="llama.cpp: layers on the GPU, a number or all.  [default: all]"
    )
    n_cpu_moe: Annotated[NonNegativeInt | None, AsText, BeforeValidator(_layers)] = Field(
        default=None, description="llama.cpp: layers whose experts stay in host memory, or all."
    )
    ubatch_size: TokenCount | None = Field(
        default=None, description="llama.cpp: prompt tokens per pass.  [default: 512]"
    )
    threads: RankCount | None = Field(
        default=None, description="Threads that compute on the CPU; one per core if not given."
    )
    split_mode: Annotated[SplitMode | None, Refused("row")] = Field(
        default=None,
        description="llama.cpp: what several GPUs share: layer (row is not modelled).  [default: layer]",
    )
    cpu_offload_gb: NonNegativeQuantity | None = Field(
        default=None, description="vLLM, SGLang: GiB of weights per GPU in host memory."
    )
    kt_num_gpu_experts: Annotated[NonNegativeInt | None, MostInRequest(4096)] = Field(
        default=None, description="ktransformers: experts of each layer on the GPU."
    )
    kt_gpu_prefill_token_threshold: Annotated[NonNegativeInt | None, MostInRequest(2**20)] = Field(
        default=None,
        description="ktransformers: tokens of a pass from which experts are copied to the GPU for it; 0 for never.",
    )
    kt_max_deferred_experts_per_token: Annotated[NonNegativeInt | None, MostInRequest(4096)] = Field(
        default=None,
        description="ktransformers: experts of a token computed beside the GPU's next layer.  [default: 0]",
    )
    expert_hit_rate: Fraction | None = Field(
        default=None,
        description="Share of routed experts found in an expert cache; the share held if not given.",
    )
    flops_efficiency: asked.ShareOfPeak = None
    hbm_memory_efficiency: asked.ShareOfBandwidth = None
    cost_per_gpu_hour: asked.Price = None
    prices: asked.PriceList = None
    profile: asked.ProfileName = None
    allow_long_context: asked.LongContext = False

    @model_validator(mode="before")
    @classmethod
    def _batch_of_gpu_batches(cls, data: Any) -> Any:
        return gpu_of_host_alone(with_batch(data)) if isinstance(data, dict) else data


def request_limit(name: str) -> int | None:
    """The largest value of an input that a request to the page's server may have; None for any."""
    field = InferenceInputs.model_fields[name]
    parts = [*field.metadata, *(part for one in get_args(field.annotation) for part in get_args(one))]
    return next((part.value for part in parts if isinstance(part, MostInRequest)), None)


def build_scenario(inputs: InferenceInputs, facts: RunFacts = NO_FACTS) -> Scenario:
    """Load the named specs, derive what was not given, and check that everything goes together.

    Every question goes this way: a command's, a request's, a search's, and that of a run that was measured, whose
    ``facts`` say what no flag can.

    Raises:
        SpecError: unknown names, or settings that contradict each other.
    """
    model = facts.model or get_model_config_by_name(inputs.model)
    model = model.with_beside() if inputs.with_vision else model
    profile = checked_profile(inputs.profile)
    own_gpu = profile.own_gpu(inputs.gpu)
    gpu = facts.gpu or own_gpu or get_gpu_config_by_name(inputs.gpu, or_none=True)
    parallelism = derive_parallelism(inputs)
    per_node = -(-parallelism.num_gpus // (inputs.num_nodes or 1))
    host = facts.host or _host(inputs, gpu, per_node, None if own_gpu is None else profile.own_host())
    system = resolve_system(inputs.system, DSZeRO(inputs.ds_zero), alone=gpu.absent)
    version = asked_version(inputs.system) or profile.version_of(system)
    built = get_system(system if version is None else f"{system}@{version}", gpu.device)
    release = built.release
    model = model.without_windows() if built.file.ignores_windows else model
    stage = family_of(system).ds_zero
    if stage is not None and inputs.ds_zero not in (0, stage):
        raise SpecError(f"--ds-zero {inputs.ds_zero} keeps weights whole; system {system} is stage {stage}")
    _check_replicas_left(inputs, parallelism, system)
    scenario = Scenario(
        model=model,
        gpu=profile.apply_to_gpu(gpu),
        host=_with_bandwidth(profile.apply_to_host(host, system), inputs),
        system=system,
        dtype=requested_dtype(inputs, get_system(system), model, facts),
        parallelism=parallelism,
        workload=Workload(**{name: getattr(inputs, name) for name in Workload.model_fields}),
        offload=_offload(inputs, get_system(system), facts, gpu),
        ds_zero=DSZeRO(inputs.ds_zero if stage is None else stage),
        num_nodes=facts.num_nodes
        or nodes_of(parallelism.num_gpus, host.name, host.gpus_per_node, inputs.num_nodes, inputs.num_gpus),
        flops_efficiency=inputs.flops_efficiency,
        hbm_memory_efficiency=inputs.hbm_memory_efficiency,
        allow_long_context=inputs.allow_long_context,
        constants=tuple(sorted(dict((*profile.constants_of(system, release), *facts.constants)).items())),
        speculation=_speculation(inputs, model),
        calibration=profile.own_calibration,
        fits=profile.fits,
        system_version=version,
    )
    checked_system(scenario)
    _check_threads(inputs.threads, scenario.host)
    return scenario


def gpu_of(inputs: InferenceInputs) -> GPUConfig:
    """The device that is asked for: the profile's own of that name, else the bundled one.

    Raises:
        SpecError: unknown.
    """
    own = checked_profile(inputs.profile).own_gpu(inputs.gpu)
    return own or get_gpu_config_by_name(inputs.gpu, or_none=True)


def _check_replicas_left(inputs: InferenceInputs, parallelism: ParallelismConfig, system: str) -> None:
    """Sizes that divide fewer GPUs than there are leave replicas, which nobody asked for: say so where the batch has none.

    Raises:
        SpecError: the batch does not divide into the replicas that are left.
    """
    left = parallelism.dp_size
    if inputs.dp_size is not None or not inputs.batch_size % left:
        return
    gpus, sizes = left * parallelism.tp_size * parallelism.pp_size * parallelism.cp_size, parallelism
    given = {"tp_size": sizes.tp_size, "pp_size": sizes.pp_size, "cp_size": sizes.cp_size}
    said = " x ".join(f"{name} {size}" for name, size in given.items() if size > 1) or "tp_size 1"
    whole = f"tp_size {gpus}"
    if family_of(system).more_gpus == "stages":
        whole = (
            f"pp_size {gpus}" if said == "tp_size 1" else f"no {said.split()[0]}, since {system} has stages"
        )
    elif "x" in said.split():
        whole = "sizes that multiply to them"
    raise SpecError(
        f"{said} of {gpus} GPUs leaves dp_size {left}, and batch_size {inputs.batch_size}, the total over these replicas, is "
        f"no multiple of {left}; to divide the model over all GPUs give {whole}"
    )


def _check_threads(threads: int | None, host: HostConfig) -> None:
    """Two threads run on a core at most: more were a slip of the pen, and would change nothing that is predicted."""
    if threads is None or host.cores_per_socket is None:
        return
    most = 2 * host.sockets * host.cores_per_socket
    if threads > most:
        raise SpecError(
            f"threads {threads}: host {host.name} has {most // 2} cores of two threads; possible: 1 to {most}"
        )


def _speculation(inputs: InferenceInputs, model: ModelConfig) -> Speculation | None:
    """What drafts, loaded, or made of the model.

    Raises:
        SpecError: a part of the description without the others.
    """
    stated = [
        name
        for name in ("acceptance", "acceptance_rate", "token_acceptance")
        if getattr(inputs, name) is not None
    ]
    if inputs.draft_model is None:
        for name in (*stated, *(("draft_tokens",) if inputs.draft_tokens is not None else ())):
            raise SpecError(f"--{name.replace('_', '-')} belongs to a draft model: give --draft-model")
        return None
    if len(stated) != 1:
        raise SpecError(
            "--draft-model needs one of --acceptance, the share of rounds that keep each position, --acceptance-rate, "
            "accepted over drafted tokens (0 to 1), and --token-acceptance, the chance of a token whose predecessors were "
            "kept: they depend on both models and on the text, so there is no default"
        )
    module = next((one for one in MODULES if one == inputs.draft_model.lower()), None)
    shares = _shares(inputs.acceptance)
    tokens = inputs.draft_tokens
    if len(shares) > 1:
        if tokens not in (None, len(shares)):
            raise SpecError(
                f"--acceptance has {len(shares)} positions, --draft-tokens {tokens}: give one of the two"
            )
        tokens = len(shares)
    return Speculation(
        draft=_drafting(inputs.draft_model) if module is None else draft_module(module, model),
        tokens=tokens or (1 if module == "mtp" else Speculation.model_fields["tokens"].default),
        acceptance=shares if len(shares) > 1 else None,
        acceptance_rate=shares[0] if len(shares) == 1 else inputs.acceptance_rate,
        token_acceptance=inputs.token_acceptance,
        module=module,
    )


def _drafting(name: str) -> ModelConfig:
    """A model that drafts by its name.

    Raises:
        SpecError: unknown, with the modules that there are beside models.
    """
    try:
        return get_model_config_by_name(name)
    except UnknownNameError as error:
        raise SpecError(f"--draft-model: {error}; beside models there are {' and '.join(MODULES)}") from None


def _shares(text: str | None) -> tuple[float, ...]:
    """What ``--acceptance`` says; nothing where it is not given.

    Raises:
        SpecError: a part is no share.
    """
    found = []
    for part in (text or "").split(",") if text is not None else ():
        try:
            value = float(part)
        except ValueError:
            value = math.nan
        if not 0 <= value <= 1:
            raise SpecError(
                f"--acceptance {text!r}: {part.strip()!r} is no share; expected such as .85,.7,.55, each from 0 to 1"
            )
        found.append(value)
    return tuple(found)


def _host(inputs: InferenceInputs, gpu: GPUConfig, per_node: int, own: HostConfig | None) -> HostConfig:
    """The host that is asked for, else the one that the profile describes with its device, else the GPU's usual one.

    Raises:
        SpecError: there is none, or none of that name.
    """
    if own is not None and (inputs.host is None or normalise(inputs.host) == normalise(own.name)):
        return (
            own if inputs.host_memory is None else with_host_memory(gpu, own, inputs.host, inputs.host_memory)
        )
    if inputs.host is not None:
        return with_host_memory(gpu, host_with(gpu, inputs.host), inputs.host, inputs.host_memory)
    if gpu.absent and gpu.default_host is None:
        raise SpecError(
            "without a GPU the host computes: name its CPU with --host, here for this machine (llm-perf hosts list)"
        )
    usual = usual_host(gpu, per_node, in_one_node=inputs.num_gpus is not None)
    return with_host_memory(gpu, usual, None, inputs.host_memory)


def _with_bandwidth(host: HostConfig, inputs: InferenceInputs) -> HostConfig:
    """The host with what reads of its memory, and its network, were measured to reach."""
    stated = {"read_gb_per_s": inputs.host_bandwidth, "nic_gb_per_s": inputs.network_bandwidth}
    given = {field: value for field, value in stated.items() if value is not None}
    return host.replace(**given) if given else host


def derive_parallelism(inputs: InferenceInputs) -> ParallelismConfig:
    """num_nodes x num_gpus = tp x pp x dp; what is missing is derived: replicas, or stages of a program that makes these.

    Raises:
        SpecError: the sizes that are given do not multiply to the GPUs, or the system is unknown.
    """
    tp, pp, cp, dp = inputs.tp_size or 1, inputs.pp_size or 1, inputs.cp_size, inputs.dp_size
    nodes = inputs.num_nodes or 1
    if inputs.num_gpus is not None and inputs.pp_size is None and dp is None and tp == cp == 1:
        # llama.cpp, Accelerate and others divide the layers over all GPUs that they see; what runs on one refuses stages.
        family = family_of(resolve_system(inputs.system, DSZeRO(inputs.ds_zero)))
        pp = nodes * inputs.num_gpus if family.more_gpus in ("stages", "none") else pp
    sizes = {"tp_size": tp, "pp_size": pp} | ({"cp_size": cp} if cp > 1 else {})
    dp = replicas(sizes, dp, nodes, inputs.num_gpus) or 1
    total = tp * pp * cp * dp
    if inputs.num_gpus is None and total % nodes:
        raise SpecError(f"tp x cp x pp x dp = {total} GPUs do not spread evenly over {nodes} nodes")
    # Serving stacks do not share activations by sequence unless told to.
    sp = 1 if inputs.sp_size is None else inputs.sp_size
    return ParallelismConfig(
        tp_size=tp,
        pp_size=pp,
        dp_size=dp,
        ep_size=inputs.ep_size,
        sp_size=sp,
        cp_size=inputs.cp_size,
        expert_imbalance=inputs.expert_imbalance,
    )


def _options_used(inputs: InferenceInputs) -> list[str]:
    """Options of a policy that are given; those of serving stacks are checked on the scenario."""
    used = [name for name in POLICY_OPTIONS if getattr(inputs, name) not in (None, False)]
    used += [name for name in HYBRID_OPTIONS if getattr(inputs, name) is not None]
    return used if inputs.micro_batches in (None, 1) else [*used, "micro_batches"]


def _offload(inputs: InferenceInputs, system: System, facts: RunFacts, gpu: GPUConfig) -> OffloadConfig:
    if inputs.cpu_offload and inputs.disk_offload:
        raise SpecError("cpu_offload and disk_offload exclude each other: weights go to one of the two")
    weights = Shares.on("cpu") if inputs.cpu_offload else Shares.on("nvme") if inputs.disk_offload else None
    check_options(system, _options_used(inputs), gpu)
    offload = OffloadConfig(
        weights=weights,
        kv_cache=Shares.on("cpu") if inputs.kv_offload else None,
        pin_memory=inputs.pin_memory,
        pin_kv_cache=inputs.pin_kv_cache,
        async_kv_offload=inputs.async_kv_offload,
        prefetch=inputs.prefetch,
        overlap=inputs.overlap,
        micro_batches=inputs.micro_batches or 1,
        **{name: getattr(inputs, name) for name in HYBRID_OPTIONS},
    )
    offload = system.offload_of(dict(vars(inputs)), offload)
    known = {
        "weights": facts.weights,
        "kv_cache": facts.kv_cache,
        "activations": facts.activations,
        "attention_device": facts.attention_device,
    }
    stated = {name: value for name, value in known.items() if value is not None}
    return offload.replace(**stated) if stated else offload
