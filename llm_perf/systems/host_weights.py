"""Weights of a serving stack that stay in page-locked host memory (``--cpu-offload-gb`` of vLLM and SGLang).

Modules are moved there until so many GiB of a GPU's share are; each pass reads them over the link to the host, and nothing
hides it. Where they are copied to the GPU, experts are whole modules' parts and come along, used or not; where kernels read
them in place, only those that tokens are sent to are read. Source: vLLM, model_executor/models/utils.py
(maybe_offload_to_cpu), and pull request 15354.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from llm_perf.config.base import GIB
from llm_perf.config.parallelism import ParallelismConfig
from llm_perf.config.scenario import Scenario
from llm_perf.counts.arrays import Number
from llm_perf.errors import SpecError
from llm_perf.hardware.transfer import host_link_bytes_per_s, link_sharers
from llm_perf.systems.base import ALL_ON_GPU, NO_MEMORY, MemoryParts, PhaseCost, Placement, TierShares
from llm_perf.systems.families import Family
from llm_perf.systems.footprint import layers_weight_bytes, stage_weight_bytes
from llm_perf.systems.hybrid import used_share
from llm_perf.systems.terms import Factor, joined, one_term


def check_host_weights(scenario: Scenario, family: Family) -> None:
    """Refuse the option where the stack has none.

    Raises:
        SpecError: with the stacks that have it.
    """
    if scenario.offload.cpu_offload_gb and not family.cpu_offload:
        raise SpecError(f"system {family.name} has no --cpu-offload-gb; systems that do: vllm, sglang")


def host_weight_bytes(scenario: Scenario) -> float:
    """Bytes of one GPU's weights in host memory: as much as is asked for, its layers at most."""
    asked = (scenario.offload.cpu_offload_gb or 0.0) * GIB
    if not asked:
        return 0.0
    return min(asked, layers_weight_bytes(scenario) / scenario.parallelism.pp_size)


def host_weights_placement(scenario: Scenario) -> Placement:
    """Shares of the weights."""
    share = host_weight_bytes(scenario) / stage_weight_bytes(scenario)
    return Placement(
        TierShares(1.0 - share, share, 0.0),
        ALL_ON_GPU,
        ALL_ON_GPU,
        f"--cpu-offload-gb {scenario.offload.cpu_offload_gb:g}: weights of a GPU that stay in host memory",
    )


def host_weights_memory(scenario: Scenario) -> MemoryParts:
    """Host memory of all GPUs of a node; none where nothing is asked for."""
    each = host_weight_bytes(scenario)
    if not each:
        return NO_MEMORY
    return MemoryParts(each * scenario.gpus_per_node, 0.0, 0.0, 0.0, 0.0, scenario.host.usable_memory_bytes)


def with_host_weights(
    phase: PhaseCost, scenario: Scenario, passes: Number, tokens: Number, constants: Mapping[str, float]
) -> PhaseCost:
    """A phase of so many passes over ``tokens`` each, which read the weights in host memory over the link."""
    link = host_link_bytes_per_s(scenario.gpu, scenario.host) * constants["host_weights_link_share"]
    rate = link / link_sharers(scenario.host, scenario.gpus_per_node)
    moved: Number = host_weight_bytes(scenario)
    if constants["host_weights_in_place"]:
        whole = scenario.replace(parallelism=ParallelismConfig())
        moved = moved * used_share(whole, tokens)
    seconds = passes * moved / rate
    factors = (Factor("passes", passes), Factor("bytes", moved), Factor("link bytes/s", rate, divides=True))
    terms = joined(phase.terms, one_term("weight_streaming", "weights over the host's link", *factors))
    return replace(
        phase,
        latency_s=phase.latency_s + seconds,
        parts_s={**phase.parts_s, "weight_streaming": seconds},
        busy_s={**phase.busy_s, "pcie": seconds},
        terms=terms,
    )
