"""Scenario: one complete question, with everything that must hold between its specs checked."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Any

from llm_perf.config.base import LEAST_EFFICIENCY, serving_defaults
from llm_perf.config.calibration import Calibration
from llm_perf.config.dtype import DtypeConfig
from llm_perf.config.gpu import GPUConfig
from llm_perf.config.host import HostConfig
from llm_perf.config.model import ModelConfig
from llm_perf.config.parallelism import DSZeRO, ParallelismConfig, divisors
from llm_perf.config.speculation import Speculation
from llm_perf.config.workload import OffloadConfig, Workload
from llm_perf.errors import SpecError


@dataclass(frozen=True)
class Scenario:
    """A model on machines under a system, with a workload. Validated when built.

    ``gpus_per_node`` x ``num_nodes`` = tp x cp x pp x dp. ``flops_efficiency`` and ``hbm_memory_efficiency`` replace the
    GPU's efficiency constants (floors and the system's own times stay). ``constants`` override constants of the
    system, by name (a calibrated profile's content). ``calibration`` is that of the profile that was applied, if any: what
    it covers and how wide its intervals are. ``system_version`` is the version of the system that is asked for, None for the
    newest. Without ``fits`` no constant of a system that was fitted to runs is used (``--profile none``); host and GPU are
    then given without theirs.

    Raises:
        SpecError: parts that do not go together, with what would be possible.
    """

    model: ModelConfig
    gpu: GPUConfig
    host: HostConfig
    system: str = "resident"
    dtype: DtypeConfig = field(default_factory=DtypeConfig)
    parallelism: ParallelismConfig = field(default_factory=ParallelismConfig)
    workload: Workload = field(default_factory=Workload)
    offload: OffloadConfig = field(default_factory=OffloadConfig)
    ds_zero: DSZeRO = DSZeRO.NONE
    num_nodes: int = 1
    flops_efficiency: float | None = None
    hbm_memory_efficiency: float | None = None
    allow_long_context: bool = False
    constants: tuple[tuple[str, float], ...] = ()
    speculation: Speculation | None = None
    calibration: Calibration | None = None
    system_version: str | None = None
    fits: bool = True

    def __post_init__(self) -> None:
        check_efficiency("flops_efficiency", self.flops_efficiency)
        check_efficiency("hbm_memory_efficiency", self.hbm_memory_efficiency)
        check_timed(self.model)
        check_parallelism(self.model, self.parallelism)
        _check_nodes(self.parallelism.num_gpus, self.num_nodes)
        check_context(self.model, self.workload.prompt_len, self.workload.gen_len, self.allow_long_context)
        _check_context_ranks(self.parallelism.cp_size, self.workload.prompt_len)
        if self.workload.batch_size % self.parallelism.dp_size:
            raise SpecError(
                f"batch_size {self.workload.batch_size} is the total over all replicas and must be a multiple of "
                f"dp_size {self.parallelism.dp_size}; to divide the model over the GPUs instead, give tp_size"
            )

    @property
    def gpus_per_node(self) -> int:
        """GPUs of one node."""
        return self.parallelism.num_gpus // self.num_nodes

    @property
    def serving_options(self) -> tuple[str, ...]:
        """Options of serving stacks that are used here, under the names of their flags."""
        parts = (self.parallelism, self.workload)
        used = [
            name
            for part in parts
            for name, default in serving_defaults(type(part)).items()
            if getattr(part, name) != default
        ]
        return (*used, *(("draft_model",) if self.speculation is not None else ()))

    def replace(self, **changes: Any) -> Scenario:
        """A copy with some parts changed, checked again."""
        return replace(self, **changes)


def check_efficiency(name: str, value: float | None) -> None:
    """An efficiency is None, or from a billionth to 1.

    Raises:
        SpecError: otherwise.
    """
    if value is None:
        return
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not (LEAST_EFFICIENCY <= value <= 1):
        raise SpecError(f"{name} must be at least {LEAST_EFFICIENCY:g} and at most 1, got {value!r}")


def check_context(model: ModelConfig, prompt_len: int, gen_len: int, allow_long_context: bool) -> None:
    """Prompt and generation stay within the model's positions.

    Raises:
        SpecError: they do not, and ``allow_long_context`` is not set.
    """
    limit = model.max_position_embeddings
    if allow_long_context or limit is None:
        return
    length = prompt_len if model.encoder else prompt_len + gen_len
    if length > limit:
        raise SpecError(
            f"prompt_len {prompt_len} + gen_len {gen_len} = {prompt_len + gen_len} tokens exceed the {limit} positions "
            f"of {model.name}; shorten them or pass --allow-long-context"
        )


def check_timed(model: ModelConfig) -> None:
    """The model is of a form whose time is known.

    Raises:
        SpecError: layers read an encoder's output, or are of no known kind; such models are counted only.
    """
    if any(group.attention.counted_only for group in (*model.layer_groups, *model.encoder_groups)):
        raise SpecError(
            f"{model.name}: its layers are of no kind whose work is known ({model.source}), so they are counted "
            "(llm-perf models show) and not timed"
        )
    if model.reads_encoder:
        raise SpecError(
            f"{model.name} reads an encoder's output by cross-attention, which is counted (llm-perf models show) and not "
            "timed yet; possible: decoders and encoders alone"
        )


def check_parallelism(model: ModelConfig, parallelism: ParallelismConfig) -> None:
    """The model can be divided as asked.

    Raises:
        SpecError: it cannot; the message says what would be possible.
    """
    tp, pp, ep = parallelism.tp_size, parallelism.pp_size, parallelism.ep_size
    for group in model.layer_groups:
        for part in group.attention.parts:
            if not part.replicated:
                _check_heads(model, part.num_heads, part.num_kv_heads, tp)
        if group.mlp.ffn_size % tp:
            shared = math.gcd(group.attention.num_heads, group.mlp.ffn_size)
            raise SpecError(
                f"tp_size {tp} does not divide the feed-forward width {group.mlp.ffn_size} of {model.name}; possible: "
                f"{divisors(shared)}"
            )
    if pp > model.num_layers:
        raise SpecError(
            f"pp_size {pp} is more than the {model.num_layers} layers of {model.name}; possible: 1 to {model.num_layers}"
        )
    if ep > 1:
        _check_experts(model, ep)
    if parallelism.cp_size > 1 and any(group.attention.recurrent for group in model.layer_groups):
        raise SpecError(
            f"cp_size {parallelism.cp_size} shares attention over a prompt, and {model.name} has layers that scan it token "
            "after token; possible: 1"
        )


def _check_heads(model: ModelConfig, heads: int, kv_heads: int, tp: int) -> None:
    if heads % tp:
        raise SpecError(
            f"tp_size {tp} does not divide the {heads} attention heads of {model.name}; possible: {divisors(heads)}"
        )
    if max(tp, kv_heads) % min(tp, kv_heads):
        raise SpecError(
            f"tp_size {tp} and the {kv_heads} key/value heads of {model.name} do not divide each other; possible: "
            + ", ".join(
                str(size)
                for size in range(1, heads + 1)
                if heads % size == 0 and max(size, kv_heads) % min(size, kv_heads) == 0
            )
        )


def _check_experts(model: ModelConfig, ep: int) -> None:
    experts = [group.mlp.routed_experts for group in model.layer_groups if group.mlp.routed_experts]
    if not experts:
        raise SpecError(f"ep_size {ep} needs a mixture of experts, and {model.name} is dense")
    if ep > min(experts):
        raise SpecError(
            f"ep_size {ep} is more than the {min(experts)} experts of {model.name}; "
            f"possible: {divisors(math.gcd(*experts))}"
        )
    if any(count % ep for count in experts):
        common = math.gcd(*experts)
        raise SpecError(
            f"ep_size {ep} does not divide the {common} experts of {model.name}; possible: {divisors(common)}"
        )


def _check_context_ranks(cp: int, prompt_len: int) -> None:
    if cp > prompt_len:
        raise SpecError(
            f"cp_size {cp} shares the tokens of a prompt and is more than prompt_len {prompt_len}; "
            f"possible: 1 to {prompt_len}"
        )


def _check_nodes(num_gpus: int, num_nodes: int) -> None:
    if num_gpus % num_nodes:
        raise SpecError(f"{num_gpus} GPUs (tp x cp x pp x dp) do not spread evenly over {num_nodes} nodes")
