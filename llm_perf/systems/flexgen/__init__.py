"""FlexGen (arXiv 2303.06865): weights, cache and hidden states over GPU, host memory and disk, by six percentages.

The pieces: `policy` (what is asked for), `placement` (where tensors really go), `memory` (what
that takes), `times` (the block schedule). Constants with sources are in the folder's YAML, rates of machines in the
hosts' files; docs/systems/flexgen.md has the formulas.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from llm_perf.config.dtype import DtypeConfig
from llm_perf.config.scenario import Scenario
from llm_perf.config.workload import OffloadConfig, Shares
from llm_perf.counts.arrays import Number, any_of, is_array, maximum, minimum, where
from llm_perf.errors import SpecError
from llm_perf.systems.base import (
    POLICY_OPTIONS,
    Evaluation,
    Load,
    MemoryUse,
    PhaseCost,
    Placement,
    Policies,
    System,
    TierShares,
)
from llm_perf.systems.flexgen.memory import memory_use, placed_weights
from llm_perf.systems.flexgen.placement import ceil, place_cache
from llm_perf.systems.flexgen.policy import Policy, check_policy, stated_policy
from llm_perf.systems.flexgen.request import compressed_dtype, stated_offload
from llm_perf.systems.flexgen.times import BlockSchedule
from llm_perf.systems.forward import decode_steps
from llm_perf.systems.resident import notes
from llm_perf.systems.schedule import Schedule, sum_costs, sum_linear

_SPLITS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128)
"""Numbers of GPU batches that are tried where none is given."""

_TIERS = {
    "gpu": TierShares(1.0, 0.0, 0.0),
    "cpu": TierShares(0.0, 1.0, 0.0),
    "half": TierShares(0.0, 0.5, 0.5),
    "nvme": TierShares(0.0, 0.0, 1.0),
}
_PLACES = (
    ("gpu", "gpu", "gpu"),
    ("cpu", "gpu", "gpu"),
    ("cpu", "cpu", "cpu"),
    ("half", "gpu", "gpu"),
    ("half", "cpu", "cpu"),
    ("half", "nvme", "cpu"),
    ("nvme", "cpu", "cpu"),
    ("nvme", "nvme", "cpu"),
)
"""Tiers of weights, cache and hidden states that are tried in this order where a scenario leaves them open.

``half`` is half on disk, half in host memory: what FlexGen's suite does with weights that host memory cannot hold.
"""


@dataclass(frozen=True, slots=True)
class PolicyPlacement(Placement):
    """Where tensors really lie, with the policy that put them there."""

    policy: Policy | None = None


class FlexGen(System):
    """FlexGen on one GPU, or on several as a pipeline."""

    name = "flexgen"
    options = frozenset({*POLICY_OPTIONS, "micro_batches"})

    def check(self, scenario: Scenario) -> None:
        """Refuse what FlexGen does not do.

        Raises:
            SpecError: with what would work.
        """
        p = scenario.parallelism
        if p.tp_size > 1 or p.dp_size > 1 or p.ep_size > 1:
            raise SpecError(
                "system flexgen runs several GPUs as a pipeline: leave tp_size, dp_size and ep_size at 1 and set pp_size"
            )
        if scenario.model.encoder:
            raise SpecError(f"system flexgen generates text, and {scenario.model.name} is an encoder")
        if any(group.attention.recurrent for group in scenario.model.layer_groups):
            raise SpecError(
                f"system flexgen moves keys and values, and {scenario.model.name} keeps states instead; a resident stack "
                "or --ds-zero 3 predicts it"
            )
        if any(len(group.attention.parts) != 1 for group in scenario.model.layer_groups):
            raise SpecError(
                f"system flexgen moves keys and values of one attention per layer, and {scenario.model.name} has layers with "
                "several mixers or none; a resident stack or --ds-zero 3 predicts it"
            )
        check_policy(scenario)

    # -- what its options mean, and what may be searched ---------------------------------------------------------

    def dtype_of(self, inputs: Mapping[str, Any], dtype: DtypeConfig) -> DtypeConfig:
        """4-bit compression of weights and cache."""
        return compressed_dtype(inputs, dtype)

    def offload_of(self, inputs: Mapping[str, Any], offload: OffloadConfig) -> OffloadConfig:
        """Percentages, batches and the device of attention."""
        return stated_offload(inputs, offload)

    def policies(self, scenario: Scenario, lossless: bool, max_latency_s: float | None) -> Policies:
        """All policies that fit, as far as they are worth a look."""
        from llm_perf.systems.flexgen.search import FlexGenSearch

        search = FlexGenSearch(scenario, lossless, max_latency_s)
        found = search.run()
        if found is None:
            return Policies(np.zeros(0), np.zeros(0), lambda _: {}, search.searched)
        return Policies(found.latency_s, found.throughput_tokens_per_s, found.rows.flags, search.searched)

    def nearest_policy(self, scenario: Scenario, lossless: bool) -> dict[str, Any]:
        """The policy that lacks the fewest bytes."""
        from llm_perf.systems.flexgen.search import FlexGenSearch

        return FlexGenSearch(scenario, lossless).least_shortfall().flags(0)

    def describe_policy(self, flags: Mapping[str, Any]) -> str:
        """Batches, percentages, what is compressed, where attention runs."""
        narrow = [name for name, key in (("W4", "compress_weight"), ("KV4", "compress_cache")) if flags[key]]
        words = [f"{flags['gpu_batch_size']} x {flags['num_gpu_batches']}", flags["percent"], *narrow]
        if flags["cpu_cache_compute"]:
            words.append("CPU attention")
        return " ".join([*words, *([] if flags["pin_memory"] else ["pageable"])])

    # -- policies -----------------------------------------------------------------------------------------------

    def policy(self, scenario: Scenario, load: Load) -> Policy:
        """The scenario's policy; what it leaves open is chosen: the first placement that fits, the fewest GPU batches."""
        return self._policy(scenario, load, self.constants(scenario))

    def _policy(self, scenario: Scenario, load: Load, constants: dict[str, float]) -> Policy:
        places = _open_places(scenario)
        candidates = [policy for place in places for policy in self._at(scenario, load, constants, place)]
        asked = candidates[-1 if len(candidates) == len(places) else -2]
        return _first_that_fits(scenario, load, constants, candidates, asked)

    def _at(
        self, scenario: Scenario, load: Load, constants: dict[str, float], places: tuple[TierShares, ...]
    ) -> list[Policy]:
        """Policies with these stated shares: with page-locked weights if asked for, then with pageable ones.

        Page-locked blocks are powers of two, so weights may fit host memory only without: FlexGen's --pin-weight 0.
        """
        policy = self._split(scenario, load, constants, places)
        if policy.pin_weights is False:
            return [policy]
        return [policy, dataclasses.replace(policy, pin_weights=False)]

    def _split(
        self, scenario: Scenario, load: Load, constants: dict[str, float], places: tuple[TierShares, ...]
    ) -> Policy:
        """Cut into as few GPU batches as the GPU's memory allows, if the scenario does not say how many."""
        offload = scenario.offload
        block = load.batch / offload.micro_batches
        if offload.gpu_batch_size is not None or offload.num_gpu_batches > 1:
            count = offload.num_gpu_batches
            return stated_policy(scenario, places, block / count, count)
        sizes = [ceil(block / split) for split in _SPLITS]
        policies = [stated_policy(scenario, places, size, ceil(block / size)) for size in sizes]
        return _first_that_fits(scenario, load, constants, policies, policies[-1], tier="gpu")

    # -- the interface of systems ---------------------------------------------------------------------------------

    def place(self, scenario: Scenario, load: Load) -> Placement:
        """Where tensors lie under the scenario's policy: whole tensors, whole sequences."""
        return self._placement(scenario, self.policy(scenario, load))

    def _placement(self, scenario: Scenario, policy: Policy) -> PolicyPlacement:
        weights = placed_weights(scenario, policy).shares
        cache = place_cache(policy.kv_cache, policy.gpu_batch)
        return PolicyPlacement(weights, cache, policy.hidden, _reason(policy), policy)

    def memory(self, scenario: Scenario, load: Load, placement: Placement) -> MemoryUse:
        """Memory of the fullest GPU, of one host and of its disks, for this batch under the placement's policy."""
        constants = self.constants(scenario)
        stated = placement.policy if isinstance(placement, PolicyPlacement) else None
        if stated is None:
            places = (placement.weights, placement.kv_cache, placement.activations)
        else:
            places = (stated.weights, stated.kv_cache, stated.hidden)
        policies = self._at(scenario, load, constants, places)
        return memory_use(
            scenario, load, _first_that_fits(scenario, load, constants, policies, policies[0]), constants
        )

    def evaluate(self, scenario: Scenario, load: Load) -> Evaluation:
        """Placement, memory and both phases."""
        constants = self.constants(scenario)
        return self._evaluate(scenario, self._policy(scenario, load, constants), load, constants)

    def evaluate_undivided(self, scenario: Scenario, load: Load) -> Evaluation:
        """The same, of phases without parts, for sweeps."""
        constants = self.constants(scenario)
        return self._evaluate(scenario, self._policy(scenario, load, constants), load, constants, parts=False)

    def evaluate_policy(self, scenario: Scenario, policy: Policy, load: Load) -> Evaluation:
        """The same for a policy, whose fields may be arrays; the load's batch is the policy's."""
        return self._evaluate(scenario, policy, load, self.constants(scenario))

    def policy_latency_s(self, scenario: Scenario, policy: Policy, load: Load) -> Number:
        """Seconds of both phases of a policy, as `evaluate_policy` has them: all that a search ranks by."""
        prefill, decode = _latencies_s(BlockSchedule(scenario, self.constants(scenario), policy), load)
        return prefill + decode

    def latencies_s(self, scenario: Scenario, load: Load) -> tuple[Number, Number]:
        """Seconds of both phases, as `evaluate` has them, without their parts: all that a fit asks for."""
        constants = self.constants(scenario)
        return _latencies_s(BlockSchedule(scenario, constants, self._policy(scenario, load, constants)), load)

    def _evaluate(
        self,
        scenario: Scenario,
        policy: Policy,
        load: Load,
        constants: dict[str, float],
        *,
        parts: bool = True,
    ) -> Evaluation:
        block = BlockSchedule(scenario, constants, policy)
        memory = memory_use(scenario, load, policy, constants)
        placement = self._placement(scenario, policy)
        remarks = (*notes(scenario), *_remarks(scenario, policy))
        phases = prefill_cost(block, load, parts), decode_cost(block, load, parts)
        return Evaluation(placement, memory, *phases, remarks)

    def schedules(self, scenario: Scenario, load: Load) -> tuple[Schedule, Schedule]:
        """The schedules of the prefill and of the first decode step of one block, as a trace shows them."""
        block = BlockSchedule(scenario, self.constants(scenario), self.policy(scenario, load))
        return block.prefill(load.prompt_len), block.decode_step(load.prompt_len + 1)


def _latencies_s(block: BlockSchedule, load: Load) -> tuple[Number, Number]:
    return (
        prefill_cost(block, load, parts=False).latency_s,
        decode_cost(block, load, parts=False).latency_s,
    )


def prefill_cost(block: BlockSchedule, load: Load, parts: bool = True) -> PhaseCost:
    """All prompts. In a pipeline of p stages the last one takes m turns, and the first block passes p - 1 others.

    Each turn streams the stage's weights again. The last stage has the head and is the slowest.
    """
    stages, turns = block.scenario.parallelism.pp_size, block.policy.micro_batches
    alone = where(decode_steps(load) == 0, turns, 0.0)
    costs = [(block.prefill(load.prompt_len).cost(parts), turns)]
    if any_of(alone > 0):
        nothing_follows = block.prefill(load.prompt_len, last=True).cost(parts)
        costs = [(costs[0][0], turns - alone), (nothing_follows, alone)]
    if stages > 1:
        costs.append((block.prefill(load.prompt_len, inner=True).cost(parts), stages - 1.0))
    return sum_costs(costs)


def decode_cost(block: BlockSchedule, load: Load, parts: bool = True) -> PhaseCost:
    """All decode steps: step i works on a context of prompt_len + i tokens."""
    steps, first = decode_steps(load), load.prompt_len + 1
    costs = []
    for start, count in _panels(block, first, steps):
        costs += _pipelined(block, start, count, parts)
    if any_of(steps > 0):
        end, ends = first + steps - 1, where(steps > 0, block.policy.micro_batches, 0.0)
        costs += [
            (block.head_step(end, last=False).cost(parts), -ends),
            (block.head_step(end, last=True).cost(parts), ends),
        ]
    return sum_costs(costs)


def _panels(block: BlockSchedule, first: Number, steps: Number) -> Iterator[tuple[Number, Number]]:
    """First context and number of steps of each part of the decode phase in which all work grows linearly.

    Parts end at the contexts at which some layers stop attending to more.
    """
    groups = block.scenario.model.layer_groups
    windows = {float(limit) for group in groups if (limit := group.attention.saturates_at)}
    done: Number = 0.0
    for window in [*sorted(windows), None]:
        until = steps if window is None else minimum(maximum(window - first + 1, done), steps)
        if any_of(until > done):
            yield first + done, until - done
        done = until


def _pipelined(
    block: BlockSchedule, start: Number, count: Number, parts: bool
) -> list[tuple[PhaseCost, Number]]:
    """Steps of all micro-batches: the last stage is busy all the time, or waits for the block that comes round."""
    stages, turns = block.scenario.parallelism.pp_size, block.policy.micro_batches
    end = start + maximum(count - 1, 0)
    last = sum_linear(block.decode_step(start), block.decode_step(end), count, parts)
    if stages == 1:
        return [(last, turns)]
    ends = (block.decode_step(start, inner=True), block.decode_step(end, inner=True))
    inner = sum_linear(*ends, count, parts)
    idle = maximum((stages - 1) * inner.latency_s - (turns - 1) * last.latency_s, 0.0)
    return [(last, turns), (inner, idle / where(count > 0, inner.latency_s, 1.0))]


def _open_places(scenario: Scenario) -> list[tuple[TierShares, ...]]:
    """Stated shares of weights, cache and hidden states, with every choice for what is not stated."""
    offload = scenario.offload
    given = (offload.weights, offload.kv_cache, offload.activations)
    found = []
    for tiers in _PLACES:
        if {"nvme", "half"} & set(tiers) and scenario.host.disk is None:
            continue
        places = tuple(_stated(shares, tier) for shares, tier in zip(given, tiers, strict=True))
        if places not in found:
            found.append(places)
    return found


def _stated(given: Shares | None, tier: str) -> TierShares:
    return _TIERS[tier] if given is None else TierShares(given.gpu, given.cpu, given.nvme)


def _first_that_fits(
    scenario: Scenario,
    load: Load,
    constants: dict[str, float],
    policies: list[Policy],
    otherwise: Policy,
    tier: str | None = None,
) -> Policy:
    """The first policy whose memory (of one tier, or of all) fits, point by point; ``otherwise`` where none does."""
    if len(policies) == 1:
        return policies[0]
    tried, placed, last = [], None, otherwise
    for policy in policies:
        # Policies that differ in their batches alone have their weights in the same places.
        if (
            placed is None
            or policy.weights is not last.weights
            or policy.weight_bytes is not last.weight_bytes
        ):
            placed = placed_weights(scenario, policy)
        last = policy
        use = memory_use(scenario, load, policy, constants, placed)
        fits = use.fits if tier is None else use.gpu.fits
        tried.append((fits, policy))
        if bool(fits.all()) if is_array(fits) else fits:
            break
    chosen = otherwise
    for fits, policy in reversed(tried):
        if is_array(fits):
            chosen = _where_policy(fits, policy, chosen)
        elif fits:
            chosen = policy
    return chosen


def _where_policy(condition: Number, yes: Policy, no: Policy) -> Policy:
    fields = {}
    for field in dataclasses.fields(Policy):
        left, right = getattr(yes, field.name), getattr(no, field.name)
        if isinstance(left, TierShares):
            fields[field.name] = TierShares(
                _where(condition, left.gpu, right.gpu),
                _where(condition, left.cpu, right.cpu),
                _where(condition, left.nvme, right.nvme),
            )
        else:
            fields[field.name] = _where(condition, left, right)
    return Policy(**fields)


def _where(condition: Number, yes: Number, no: Number) -> Number:
    """Point by point; one number where both are the same one, so that what follows from it is computed once."""
    return yes if not is_array(yes, no) and yes == no else where(condition, yes, no)


def _remarks(scenario: Scenario, policy: Policy) -> tuple[str, ...]:
    """What was done otherwise than asked for."""
    if scenario.offload.pin_memory and policy.pin_weights is False:
        return (
            "page-locked weights do not fit host memory (their blocks are powers of two), so they are taken as pageable: "
            "--pin-weight 0 in FlexGen, --no-pin-memory here",
        )
    return ()


def _reason(policy: Policy) -> str:
    """How the policy reads in FlexGen's terms; for a single configuration."""
    if is_array(policy.gpu_batch, policy.num_gpu_batches, policy.weights.gpu, policy.kv_cache.gpu):
        return "chosen per configuration"
    percent = " ".join(
        f"{100 * part:g}"
        for shares in (policy.weights, policy.kv_cache, policy.hidden)
        for part in (shares.gpu, shares.cpu)
    )
    attention = "attention on the CPU" if policy.cpu_attention else "attention on the GPU"
    return (
        f"percent {percent} with whole tensors placed, {policy.gpu_batch:g} sequences x "
        f"{policy.num_gpu_batches:g} GPU batches, {attention}"
    )
