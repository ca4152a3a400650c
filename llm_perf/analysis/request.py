"""From flat inputs, as flags and config files give them, to a checked Scenario."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Field, model_validator

from llm_perf.analysis.format_request import requested_dtype
from llm_perf.config.base import Efficiency, Fraction, PositiveFloat, PositiveInt, Spec
from llm_perf.config.dtype import Bits
from llm_perf.config.gpu import GPUConfig, NonNegativeQuantity
from llm_perf.config.host import HostConfig
from llm_perf.config.loading import get_gpu_config_by_name, get_host_config_by_name, get_model_config_by_name
from llm_perf.config.names import normalise
from llm_perf.config.parallelism import DSZeRO, ParallelismConfig, nodes_of
from llm_perf.config.scenario import Scenario
from llm_perf.config.speculation import Speculation
from llm_perf.config.workload import OffloadConfig, Shares, Workload, with_batch
from llm_perf.errors import SpecError
from llm_perf.systems import checked_system, get_system, resolve_system
from llm_perf.systems.base import POLICY_OPTIONS, System
from llm_perf.systems.profiles import checked_profile
from llm_perf.systems.registry import asked_version, check_options, family_of


def _stage_number(value: Any) -> int:
    return DSZeRO.of(value).value


Text = Annotated[str, Field(min_length=1)]
Flag = Annotated[bool, Field(strict=True)]


class InferenceInputs(Spec):
    """Everything that ``llm-perf infer`` can be asked, under the names of its flags. What is None is chosen.

    ``batch_size`` is the total over all GPUs. ``num_gpus`` is per node. ``quant_bits`` quantises weights only, in
    groups of ``quant_group_size``; ``weight_bits`` is the plain storage width. ``weight_format`` and ``kv_format`` name a
    number format; without any of these, weights are as the checkpoint was released. ``host`` defaults to the GPU's own.
    """

    _positional: ClassVar[tuple[str, ...]] = ("model", "gpu")
    _label: ClassVar[str | None] = ""  # messages name the flag alone

    model: Text
    gpu: Text
    host: Text | None = None
    system: Text | None = None
    num_gpus: PositiveInt | None = None
    num_nodes: PositiveInt | None = None
    batch_size: PositiveInt = 1
    prompt_len: PositiveInt = 512
    gen_len: PositiveInt = 32
    ds_zero: Annotated[int, BeforeValidator(_stage_number)] = 0
    tp_size: PositiveInt | None = None
    pp_size: PositiveInt | None = None
    dp_size: PositiveInt | None = None
    ep_size: PositiveInt = 1
    sp_size: PositiveInt | None = None
    cp_size: PositiveInt = 1
    expert_imbalance: PositiveFloat = 1.0
    prefix_hit_rate: Fraction = 0.0
    prefill_chunk: PositiveInt | None = None
    draft_model: Text | None = None
    draft_tokens: PositiveInt | None = None
    acceptance_rate: Fraction | None = None
    weight_format: Text | None = None
    kv_format: Text | None = None
    token_acceptance: Fraction | None = None
    weight_bits: Bits | None = None
    activation_bits: Bits = 16
    kv_bits: Bits | None = None
    quant_bits: Literal[4, 8, 16] | None = None
    quant_group_size: PositiveInt = 64
    cpu_offload: Flag = False
    disk_offload: Flag = False
    kv_offload: Flag = False
    pin_memory: Flag = True
    pin_kv_cache: Flag = True
    async_kv_offload: Flag = False
    prefetch: Flag | None = None
    percent: Text | None = None
    gpu_batch_size: PositiveInt | None = None
    num_gpu_batches: PositiveInt | None = None
    compress_weight: Flag = False
    compress_cache: Flag = False
    cpu_cache_compute: Flag | None = None
    overlap: Flag | None = None
    attn_sparsity: Efficiency | None = None
    micro_batches: PositiveInt | None = None
    flops_efficiency: Efficiency | None = None
    hbm_memory_efficiency: Efficiency | None = None
    cost_per_gpu_hour: NonNegativeQuantity | None = None
    prices: Text | None = None
    profile: Text | None = None
    allow_long_context: Flag = False

    @model_validator(mode="before")
    @classmethod
    def _batch_of_gpu_batches(cls, data: Any) -> Any:
        return with_batch(data) if isinstance(data, dict) else data


def build_scenario(inputs: InferenceInputs) -> Scenario:
    """Load the named specs, derive what was not given, and check that everything goes together.

    Raises:
        SpecError: unknown names, or settings that contradict each other.
    """
    model = get_model_config_by_name(inputs.model)
    profile = checked_profile(inputs.profile)
    own_gpu = profile.own_gpu(inputs.gpu)
    gpu = get_gpu_config_by_name(inputs.gpu) if own_gpu is None else own_gpu
    host = _host(inputs, gpu, None if own_gpu is None else profile.own_host())
    system = resolve_system(inputs.system, DSZeRO(inputs.ds_zero))
    stage = family_of(system).ds_zero
    if stage is not None and inputs.ds_zero not in (0, stage):
        raise SpecError(f"--ds-zero {inputs.ds_zero} keeps weights whole; system {system} is stage {stage}")
    parallelism = derive_parallelism(inputs)
    scenario = Scenario(
        model=model,
        gpu=profile.apply_to_gpu(gpu),
        host=profile.apply_to_host(host, system),
        system=system,
        dtype=requested_dtype(inputs, get_system(system), model),
        parallelism=parallelism,
        workload=Workload(
            batch_size=inputs.batch_size,
            prompt_len=inputs.prompt_len,
            gen_len=inputs.gen_len,
            prefix_hit_rate=inputs.prefix_hit_rate,
            prefill_chunk=inputs.prefill_chunk,
        ),
        offload=_offload(inputs, get_system(system)),
        ds_zero=DSZeRO(inputs.ds_zero if stage is None else stage),
        num_nodes=nodes_of(
            parallelism.num_gpus, host.name, host.gpus_per_node, inputs.num_nodes, inputs.num_gpus
        ),
        flops_efficiency=inputs.flops_efficiency,
        hbm_memory_efficiency=inputs.hbm_memory_efficiency,
        allow_long_context=inputs.allow_long_context,
        constants=profile.constants_of(system),
        speculation=_speculation(inputs),
        calibration=profile.own_calibration,
        system_version=asked_version(inputs.system),
    )
    checked_system(scenario)
    return scenario


def _speculation(inputs: InferenceInputs) -> Speculation | None:
    """The draft model, loaded.

    Raises:
        SpecError: a part of the description without the others.
    """
    if inputs.draft_model is None:
        for name in ("acceptance_rate", "token_acceptance", "draft_tokens"):
            if getattr(inputs, name) is not None:
                raise SpecError(f"--{name.replace('_', '-')} belongs to a draft model: give --draft-model")
        return None
    if (inputs.acceptance_rate is None) == (inputs.token_acceptance is None):
        raise SpecError(
            "--draft-model needs either --acceptance-rate, accepted over drafted tokens (0 to 1), or --token-acceptance, "
            "the chance of a token whose predecessors were kept: they depend on both models and on the text, so there is "
            "no default"
        )
    return Speculation(
        draft=get_model_config_by_name(inputs.draft_model),
        tokens=inputs.draft_tokens or Speculation.model_fields["tokens"].default,
        acceptance_rate=inputs.acceptance_rate,
        token_acceptance=inputs.token_acceptance,
    )


def _host(inputs: InferenceInputs, gpu: GPUConfig, own: HostConfig | None) -> HostConfig:
    """The host that is asked for, else the one that the profile describes with its device, else the GPU's usual one.

    Raises:
        SpecError: there is none, or none of that name.
    """
    if own is not None and (inputs.host is None or normalise(inputs.host) == normalise(own.name)):
        return own
    name = inputs.host or gpu.default_host
    if name is None:
        raise SpecError(f"GPU {gpu.name} names no default host; give one with --host")
    return get_host_config_by_name(name)


def derive_parallelism(inputs: InferenceInputs) -> ParallelismConfig:
    """num_nodes x num_gpus = tp x pp x dp; what is missing is derived, data parallelism first.

    Raises:
        SpecError: the sizes that are given do not multiply to the GPUs.
    """
    tp, pp, cp, dp = inputs.tp_size or 1, inputs.pp_size or 1, inputs.cp_size, inputs.dp_size
    nodes = inputs.num_nodes or 1
    sizes = f"tp_size {tp} x pp_size {pp}" + (f" x cp_size {cp}" if cp > 1 else "")
    if inputs.num_gpus is None:
        total = tp * pp * cp * (dp or 1)
        if total % nodes:
            raise SpecError(f"tp x cp x pp x dp = {total} GPUs do not spread evenly over {nodes} nodes")
        dp = dp or 1
    else:
        gpus = nodes * inputs.num_gpus
        if dp is None and gpus % (tp * pp * cp) == 0:
            dp = gpus // (tp * pp * cp)
        if dp is None or tp * pp * cp * dp != gpus:
            raise SpecError(
                f"num_nodes {nodes} x num_gpus {inputs.num_gpus} = {gpus} GPUs, but {sizes}"
                + (
                    f" x dp_size {dp} = {tp * pp * cp * dp}"
                    if dp is not None
                    else f" = {tp * pp * cp} does not divide that"
                )
            )
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
    return used if inputs.micro_batches in (None, 1) else [*used, "micro_batches"]


def _offload(inputs: InferenceInputs, system: System) -> OffloadConfig:
    if inputs.cpu_offload and inputs.disk_offload:
        raise SpecError("cpu_offload and disk_offload exclude each other: weights go to one of the two")
    weights = Shares.on("cpu") if inputs.cpu_offload else Shares.on("nvme") if inputs.disk_offload else None
    check_options(system, _options_used(inputs))
    offload = OffloadConfig(
        weights=weights,
        kv_cache=Shares.on("cpu") if inputs.kv_offload else None,
        pin_memory=inputs.pin_memory,
        pin_kv_cache=inputs.pin_kv_cache,
        async_kv_offload=inputs.async_kv_offload,
        prefetch=inputs.prefetch,
        overlap=inputs.overlap,
        micro_batches=inputs.micro_batches or 1,
    )
    return system.offload_of(dict(inputs), offload)
