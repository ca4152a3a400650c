"""What is known of a run beyond what the flags of ``llm-perf infer`` can say: specs at hand, shares, groups, constants."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from llm_perf.config.gpu import GPUConfig
from llm_perf.config.host import HostConfig
from llm_perf.config.model import ModelConfig
from llm_perf.config.workload import Shares


@dataclass(frozen=True, slots=True)
class RunFacts:
    """Facts that stand beside `InferenceInputs`. What is None follows from the inputs.

    Attributes:
        model: Its shapes, in place of the spec of the inputs' name.
        gpu: The GPU, likewise.
        host: The machine as it was, such as one with a disk of another rate.
        num_nodes: Nodes that were used, whatever the host has places for.
        weights: Shares of the weights per tier.
        kv_cache: Shares of the KV cache per tier.
        activations: Shares of the hidden states per tier.
        attention_device: Where decode attention ran.
        quantised: Whether the weights are quantised; None: where ``quant_bits`` says so.
        group_sizes: Elements of weights and of the cache that share a scale, None for no scales; as a whole None:
            the format's own.
        constants: Constants of the system that were measured for this run, before those of a profile.
    """

    model: ModelConfig | None = None
    gpu: GPUConfig | None = None
    host: HostConfig | None = None
    num_nodes: int | None = None
    weights: Shares | None = None
    kv_cache: Shares | None = None
    activations: Shares | None = None
    attention_device: Literal["gpu", "cpu"] | None = None
    quantised: bool | None = None
    group_sizes: tuple[int | None, int | None] | None = None
    constants: tuple[tuple[str, float], ...] = ()


NO_FACTS = RunFacts()
