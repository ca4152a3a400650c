"""Workload and OffloadConfig: what is asked for, and where tensors are told to live."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import model_validator

from llm_perf.config.base import (
    LARGEST_COUNT,
    Efficiency,
    Flag,
    Fraction,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveInt,
    ServingOption,
    Spec,
)


class Workload(Spec):
    """One batch of equal requests. ``batch_size`` is the total over all GPUs (seed 001).

    ``gen_len`` tokens take one prefill, which produces the first of them, and gen_len - 1 decode steps.
    ``prefix_hit_rate`` is the share of each prompt whose keys and values are cached from earlier requests.
    ``distinct_prompts``: prompts of the batch that differ, None = all; equal ones send their tokens to the same experts.
    ``shared_prefix``: the cached part is one and the same of all sequences, so that a decode step reads it from memory once.
    ``prefill_chunk``: prompts are read in passes of so many tokens each (Sarathi, arXiv 2308.16369); None = at once.
    ``gpu_memory_utilization``: share of the memory that the stack may use, as it counts it; ``max_num_batched_tokens`` and
    ``max_num_seqs``: tokens and sequences of one step at most. None: the stack's own. ``enforce_eager``: the engine captures
    no graphs, so that the host launches every step anew.
    """

    batch_size: PositiveInt = 1
    prompt_len: PositiveInt = 512
    gen_len: PositiveInt = 32
    prefix_hit_rate: Annotated[Fraction, ServingOption] = 0.0
    prefill_chunk: Annotated[PositiveInt | None, ServingOption] = None
    gpu_memory_utilization: Annotated[Efficiency | None, ServingOption] = None
    max_num_batched_tokens: Annotated[PositiveInt | None, ServingOption] = None
    max_num_seqs: Annotated[PositiveInt | None, ServingOption] = None
    enforce_eager: Annotated[Flag, ServingOption] = False
    distinct_prompts: Annotated[PositiveInt | None, ServingOption] = None
    shared_prefix: Annotated[Flag, ServingOption] = False

    @model_validator(mode="after")
    def _prompts_are_of_the_batch(self) -> "Workload":
        if self.distinct_prompts is not None and self.distinct_prompts > self.batch_size:
            raise ValueError(
                f"distinct_prompts {self.distinct_prompts} are more than the {self.batch_size} prompts of the batch"
            )
        if self.shared_prefix and self.prefix_hit_rate == 0:
            raise ValueError(
                "shared_prefix is about cached tokens: give prefix_hit_rate, the cached share of each prompt"
            )
        return self

    @property
    def context_len(self) -> int:
        """Prompt and generated tokens together."""
        return self.prompt_len + self.gen_len


Tier = Literal["gpu", "cpu", "nvme"]
SplitMode = Literal["layer", "row"]


class Shares(Spec):
    """Fractions of one kind of tensor on GPU, in CPU memory and on NVMe; they sum to 1."""

    gpu: Fraction = 0.0
    cpu: Fraction = 0.0
    nvme: Fraction = 0.0

    @model_validator(mode="after")
    def _sum_to_one(self) -> "Shares":
        total = self.gpu + self.cpu + self.nvme
        if abs(total - 1) > 1e-9:
            raise ValueError(f"the shares on gpu, cpu and nvme must sum to 1, got {total:g}")
        return self

    @classmethod
    def on(cls, tier: Tier) -> "Shares":
        """Everything on one tier."""
        return cls(**{tier: 1.0})


class OffloadConfig(Spec):
    """Where tensors live and how they move. What is None is chosen by the system and reported.

    Attributes:
        weights: shares of the layers' weights per tier.
        kv_cache: shares of the KV cache per tier.
        activations: shares of the hidden states between layers per tier.
        pin_memory: host tensors are page-locked, so that copies run at the link's rate and asynchronously.
        attention_device: where decode attention over a KV cache in host memory runs; None = not stated.
        prefetch: the next module's weights are fetched while this one computes; None = the system's default.
        overlap: copies and computation overlap at all; None = the system's default.
        gpu_batch_size: sequences that one kernel call works on; None = the whole batch of a GPU.
        num_gpu_batches: such batches per block of FlexGen's schedule.
        micro_batches: micro-batches of a pipeline.
        attn_sparsity: share of the cached values that attention reads (FlexGen); 1 = all.
        n_gpu_layers: layers on the GPU, the last ones, with the head as one more (llama.cpp); None = all.
        n_cpu_moe: layers, the first ones, whose routed experts are in host memory (llama.cpp).
        ubatch_size: tokens of one pass over prompts (llama.cpp).
        threads: threads that compute on the CPU; None = one per core.
        split_mode: what several GPUs share: successive layers, or the rows of each matrix (llama.cpp).
        cpu_offload_gb: GiB of weights per GPU in host memory (vLLM, SGLang).
        kt_num_gpu_experts: routed experts of each layer that the GPU holds (ktransformers).
        kt_gpu_prefill_token_threshold: tokens of a pass from which on layers' experts are copied to the GPU for it
            (ktransformers under SGLang); 0 = never, None = the version's default.
        kt_max_deferred_experts_per_token: routed experts of a token that the CPU computes beside the GPU's next layer,
            at decode (ktransformers under SGLang); None = none.
        expert_hit_rate: share of routed experts that are found where an expert cache holds them; None = the share held.
    """

    weights: Shares | None = None
    kv_cache: Shares | None = None
    activations: Shares | None = None
    pin_memory: bool = True
    pin_kv_cache: bool = True
    async_kv_offload: bool = False
    attention_device: Literal["gpu", "cpu"] | None = None
    prefetch: bool | None = None
    overlap: bool | None = None
    gpu_batch_size: PositiveInt | None = None
    num_gpu_batches: PositiveInt = 1
    micro_batches: PositiveInt = 1
    attn_sparsity: Efficiency = 1.0
    n_gpu_layers: NonNegativeInt | None = None
    n_cpu_moe: NonNegativeInt | None = None
    ubatch_size: PositiveInt | None = None
    threads: PositiveInt | None = None
    split_mode: SplitMode | None = None
    cpu_offload_gb: NonNegativeFloat | None = None
    kt_num_gpu_experts: NonNegativeInt | None = None
    kt_gpu_prefill_token_threshold: NonNegativeInt | None = None
    kt_max_deferred_experts_per_token: NonNegativeInt | None = None
    expert_hit_rate: Fraction | None = None

    @model_validator(mode="before")
    @classmethod
    def _tier_names(cls, data: Any) -> Any:
        """A tier's name stands for everything there: ``weights: cpu``."""
        if not isinstance(data, dict):
            return data
        unknown = [key for key in data if key not in cls.model_fields]
        if unknown:
            raise ValueError(f"unknown field {unknown[0]!r}; accepted are {', '.join(cls.model_fields)}")
        return {
            key: {value: 1.0} if value in ("gpu", "cpu", "nvme") and key != "attention_device" else value
            for key, value in data.items()
        }


def with_batch(data: Mapping[str, Any]) -> dict[str, Any]:
    """The inputs with ``batch_size`` = gpu_batch_size x num_gpu_batches x micro-batches where it is not given.

    A pipeline has as many micro-batches as stages unless told otherwise. Values of a wrong kind are left to the checks
    of their fields.
    """
    found = dict(data)
    if found.get("batch_size") is not None or found.get("gpu_batch_size") is None:
        return found
    micro = found.get("micro_batches")
    parts = [
        found["gpu_batch_size"],
        found.get("num_gpu_batches") or 1,
        (found.get("pp_size") or 1) if micro is None else micro,
    ]
    if all(
        isinstance(part, int) and not isinstance(part, bool) and 0 < part <= LARGEST_COUNT for part in parts
    ):
        found["batch_size"] = parts[0] * parts[1] * parts[2]
    return found
