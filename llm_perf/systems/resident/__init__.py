"""Everything on the GPU: one model of a forward pass, and the software stacks that run it as data beside it."""

from __future__ import annotations

from dataclasses import replace

from llm_perf.config.parallelism import DSZeRO, divisors
from llm_perf.config.scenario import Scenario
from llm_perf.counts.arrays import Number, is_array, maximum, minimum
from llm_perf.counts.parameters import token_table_params
from llm_perf.counts.quadrature import context_nodes
from llm_perf.errors import SpecError
from llm_perf.systems.attention import DecodeAttention
from llm_perf.systems.base import (
    ALL_ON_GPU,
    NO_MEMORY,
    SERVING_OPTIONS,
    Evaluation,
    Load,
    MemoryParts,
    MemoryUse,
    PhaseCost,
    Placement,
    System,
    added,
)
from llm_perf.systems.footprint import (
    copied_cache_bytes,
    prefill_activation_bytes,
    stage_weight_bytes,
)
from llm_perf.systems.forward import Forward, decode_steps, replica_batch
from llm_perf.systems.host_time import (
    exposed_host_s,
    framework_terms,
    graph_kinks,
    host_s_by_regime,
    host_s_per_pass,
    prefill_overhead_s,
    step_overhead_s,
    step_terms,
)
from llm_perf.systems.host_weights import (
    check_host_weights,
    host_weight_bytes,
    host_weights_memory,
    host_weights_placement,
    with_host_weights,
)
from llm_perf.systems.pipeline import Pipeline, last_stage_s
from llm_perf.systems.prompts import prompt_passes, tokens_per_pass
from llm_perf.systems.speculation import (
    DraftStep,
    Rounds,
    check_draft,
    draft_notes,
    draft_scenario,
    draft_weight_bytes,
)
from llm_perf.systems.stack_memory import budget_for, sequence_cache, stack_memory
from llm_perf.systems.terms import Terms, joined, one_term, scaled
from llm_perf.systems.waves import waves_of

_GIB = 2**30
_EAGER = ("eager_python_us_per_layer", "python_us_per_layer")
"""What the host takes to launch a layer without captured graphs: one of them says it where it is known."""


class Resident(System):
    """A stack whose weights, cache and activations all live on the GPUs.

    Each step takes S(device, host): kernels on the device, launches and Python on the host, overlapped as well as
    the stack's ``overlap_exponent`` says, and a time per step and per sequence for scheduling and sampling.
    """

    options = frozenset({*SERVING_OPTIONS, "cpu_offload_gb"})

    name = "resident"

    def check(self, scenario: Scenario) -> None:
        """Refuse offloading and ZeRO stage 3, which need a system that streams.

        Raises:
            SpecError: with the system to use.
        """
        offload = scenario.offload
        asked = [offload.weights, offload.kv_cache, offload.activations]
        if any(shares is not None and shares.gpu < 1 for shares in asked):
            raise SpecError(
                f"system {self.name} keeps everything on the GPU; to offload, use --system zero_inference"
            )
        if scenario.ds_zero is DSZeRO.STAGE_3:
            raise SpecError(
                f"--ds-zero 3 is the system zero_inference; it cannot be combined with --system {self.name}"
            )
        check_host_weights(scenario, self.family)
        _check_micro_batches(scenario)
        self._check_eager(scenario)
        check_draft(scenario)
        if scenario.model.encoder and (scenario.workload.prefix_hit_rate or scenario.speculation):
            raise SpecError(
                f"{scenario.model.name} is an encoder: it has neither a cached prefix nor tokens to draft"
            )

    def takes(self, option: str) -> bool:
        """Without captured graphs only where it is known what the host takes to launch a layer."""
        return super().takes(option) and (option != "enforce_eager" or any(map(self.file.value, _EAGER)))

    def _check_eager(self, scenario: Scenario) -> None:
        if not scenario.workload.enforce_eager:
            return
        constants = self.constants(scenario)
        if not any(constants[name] for name in _EAGER):
            raise SpecError(
                f"--enforce-eager: what a step of {self.name}@{self.release} takes without captured graphs is not known "
                "here; it is of vllm@0.15"
            )

    def place(self, scenario: Scenario, load: Load) -> Placement:  # noqa: ARG002 - the interface of System
        """Everything on the GPU, whether it fits or not."""
        if scenario.offload.cpu_offload_gb:
            return host_weights_placement(scenario)
        return Placement(
            ALL_ON_GPU, ALL_ON_GPU, ALL_ON_GPU, f"system {self.name} keeps everything on the GPU"
        )

    def memory(self, scenario: Scenario, load: Load, placement: Placement) -> MemoryUse:  # noqa: ARG002 - likewise
        """Memory of the fullest GPU, and of the host for weights that are there."""
        return MemoryUse(
            self.gpu_memory(scenario, load, self.constants(scenario)),
            host_weights_memory(scenario),
            NO_MEMORY,
        )

    def evaluate(self, scenario: Scenario, load: Load) -> Evaluation:
        """Placement, memory and both phases."""
        constants = self.constants(scenario)
        forward = Forward(scenario, constants)
        placement = self.place(scenario, load)
        used = self.gpu_memory(scenario, load, constants)
        waves = waves_of(scenario, load, budget_for(scenario), used, constants["kv_reserved_share"])
        batch = waves.running
        rounds = Rounds(scenario, constants)
        prefill = self.prefill(forward, batch, load)
        prefill = waves.whole(with_draft_prefill(prefill, rounds.draft, batch, load.prompt_len))
        decode = None
        if not scenario.model.encoder:
            decode = waves.whole(decode_phase(forward, batch, load, rounds))
            decode = waves.with_computed_anew(decode, prefill)
        if scenario.offload.cpu_offload_gb:
            prefill = with_host_weights(prefill, scenario, 1.0, batch * load.prompt_len, constants)
            if decode is not None:
                decode = with_host_weights(decode, scenario, decode_steps(load), batch, constants)
        waiting = waves.note(scenario.parallelism.dp_size)
        said = () if waiting is None else (waiting,)
        memory = MemoryUse(used, host_weights_memory(scenario), NO_MEMORY)
        return Evaluation(placement, memory, prefill, decode, (*notes(scenario), *said))

    def prefill(self, forward: Forward, batch: Number, load: Load) -> PhaseCost:
        """The phase up to the first token."""
        return prefill_phase(forward, batch, load.prompt_len)

    def gpu_memory(self, scenario: Scenario, load: Load, constants: dict[str, float]) -> MemoryParts:
        """Memory of the fullest GPU."""
        return gpu_memory(scenario, load, constants)


def _check_micro_batches(scenario: Scenario) -> None:
    count, stages = scenario.offload.micro_batches, scenario.parallelism.pp_size
    if count == 1:
        return
    if stages == 1:
        raise SpecError(
            f"micro_batches {count} keep pipeline stages busy: give --pp-size, or leave them at 1"
        )
    if scenario.speculation is not None:
        raise SpecError(f"micro_batches {count} and a draft model are not modelled together: leave one out")
    replica = scenario.workload.batch_size // scenario.parallelism.dp_size
    if replica % count:
        raise SpecError(
            f"micro_batches {count} do not divide the {replica} sequences of a replica; possible: {divisors(replica)}"
        )


def notes(scenario: Scenario) -> tuple[str, ...]:
    """What a reader should know about how the scenario was read."""
    if scenario.ds_zero in (DSZeRO.STAGE_1, DSZeRO.STAGE_2):
        stage = scenario.ds_zero.value
        zero = f"ZeRO stage {stage} shards optimizer states and gradients, so at inference it equals stage 0"
        return (zero, *draft_notes(scenario))
    return draft_notes(scenario)


def gpu_memory(scenario: Scenario, load: Load, constants: dict[str, float]) -> MemoryParts:
    """Memory of the fullest GPU with everything on it."""
    batch = replica_batch(scenario, load)
    p = scenario.parallelism
    communicators = sum(size > 1 for size in (p.tp_size, p.pp_size, p.cp_size))
    weights = resident_weight_bytes(scenario, constants) - host_weight_bytes(scenario)
    draft = draft_scenario(scenario)
    if draft is not None:
        weights += draft_weight_bytes(scenario, draft, lambda one: resident_weight_bytes(one, constants))
    budget = budget_for(scenario)
    running = batch if budget is None else budget.scheduled(batch)
    live = running / scenario.offload.micro_batches
    tokens = tokens_per_pass(scenario.workload, load.prompt_len)
    if budget is not None and budget.batched_tokens is not None:
        live = minimum(live, budget.batched_tokens / tokens)
    cache = sequence_cache(scenario, load, load.context_len)
    held = cache.bytes(running)
    prefill = prefill_activation_bytes(scenario, live, tokens, constants, load.prompt_len)
    parts = MemoryParts(
        weights_bytes=weights,
        kv_cache_bytes=held,
        activations_bytes=maximum(prefill, copied_cache_bytes(scenario, held, constants)),
        buffers_bytes=communicators * constants["communicator_gib"] * _GIB,
        reserved_bytes=constants["process_reserve_gib"] * _GIB,
        capacity_bytes=scenario.gpu.usable_memory_bytes,
        waiting_bytes=cache.bytes(batch) - held,
    )
    if budget is None:
        return parts
    if not budget.profiled:
        return replace(parts, capacity_bytes=budget.utilization * budget.total_bytes)
    return stack_memory(scenario, load, parts, budget)


def resident_weight_bytes(scenario: Scenario, constants: dict[str, float]) -> float:
    """Weight bytes of the fullest GPU; some stacks store the token table a second time for the head."""
    model = scenario.model
    weights = stage_weight_bytes(scenario)
    if constants["duplicate_embeddings"] and model.tied_embeddings and scenario.parallelism.pp_size == 1:
        table = token_table_params(model) / scenario.parallelism.tp_size
        formats = scenario.dtype.formats
        bits = scenario.dtype.stored_embedding_bits if formats is None else formats.embedding.bits
        weights += table * bits / 8
    return weights


def prefill_phase(forward: Forward, batch: Number, prompt_len: Number, scheduled: bool = True) -> PhaseCost:
    """One prefill of ``batch`` prompts: what of them is not cached, at once or in chunks, by micro-batches.

    Where another model's prefill is ``scheduled`` already, what the host does once per step and per prompt is not paid again.
    """
    tokens = tokens_per_pass(forward.scenario.workload, prompt_len)
    pipeline = Pipeline.of(forward.scenario, forward.constants, batch, tokens)
    part = batch / pipeline.micro_batches
    costs, passes, sequences, longest_s, exposed = prompt_passes(forward, part, prompt_len)
    device = costs.total_s
    once, each = (
        (prefill_overhead_s(forward), step_overhead_s(forward, sequences, once=not pipeline.meets))
        if scheduled
        else (0.0, 0.0)
    )
    overhead = passes * each + once
    framework = exposed + overhead
    costs.busy("host", passes * host_s_per_pass(forward, prefill=True) + overhead)
    terms = joined(
        costs.terms,
        framework_terms("launches not hidden behind kernels", passes, exposed / passes),
        *(
            (
                step_terms(forward, passes, sequences, once=not pipeline.meets),
                one_term("framework", "once per prefill", ("seconds", once)),
            )
            if scheduled
            else ()
        ),
    )
    phase = PhaseCost(
        device + framework, {**costs.parts_s, "framework": framework}, costs.busy_s, terms=terms
    )
    if pipeline.stages == 1:
        return phase
    transfers = costs.parts_s.get("pipeline_transfer", 0.0)
    several = is_array(passes) or passes > 1
    if several and forward.scenario.workload.prefill_chunk is None and pipeline.in_one:
        # Steps of an engine follow one another through the stages; what the host does once comes before them.
        last = (last_stage_s(costs.parts_s) + passes * each) / passes
        way = (phase.latency_s - once) / passes
        slowest = pipeline.slowest_stage_s(way, transfers / passes, last)
        longest = longest_s + exposed_host_s(forward, longest_s, prefill=True) + each
        return pipeline.followed(phase, passes, slowest, longest, once)
    slowest = pipeline.slowest_stage_s(phase.latency_s, transfers, last_stage_s(costs.parts_s) + overhead)
    phase = pipeline.stretched(phase, pipeline.wait_s(phase.latency_s, slowest, True), slowest)
    return _met(pipeline, phase, forward, passes) if scheduled and pipeline.meets else phase


def _met(pipeline: Pipeline, phase: PhaseCost, forward: Forward, steps: Number) -> PhaseCost:
    once_s = steps * step_overhead_s(forward, 0.0)
    return pipeline.met(phase, once_s, step_terms(forward, steps, 0.0))


def with_draft_prefill(
    phase: PhaseCost, draft: Forward | None, batch: Number, prompt_len: Number
) -> PhaseCost:
    """The prefill, and the draft model's own: it needs the prompt's keys and values as well."""
    if draft is None:
        return phase
    own = prefill_phase(draft, batch, prompt_len, scheduled=False)
    return PhaseCost(
        phase.latency_s + own.latency_s,
        phase.parts_s | {"draft_model": own.latency_s},
        added(phase.busy_s, own.busy_s, 1.0),
        phase.stages_busy,
        phase.slowest_stage_s,
        phase.micro_batches,
        joined(phase.terms, one_term("draft_model", "prefill of the draft", ("seconds", own.latency_s))),
    )


def decode_phase(forward: Forward, batch: Number, load: Load, rounds: Rounds | None = None) -> PhaseCost:
    """All decode steps: step i works on a context of prompt_len + i tokens."""
    return Decode(forward, batch, load, rounds or Rounds(forward.scenario, forward.constants)).phase()


class Decode:
    """The decode steps of one load, summed over their contexts without visiting each."""

    def __init__(self, forward: Forward, batch: Number, load: Load, rounds: Rounds) -> None:
        self.forward, self.load, self.rounds = forward, load, rounds
        self.pipeline = Pipeline.of(forward.scenario, forward.constants, batch, rounds.queries)
        self.part = batch / self.pipeline.micro_batches
        self.constant, self.attention = forward.decode_step(self.part, rounds.queries)
        self.base_s = self.constant.total_s
        self.overhead_s = step_overhead_s(forward, self.part, once=not self.pipeline.meets)
        self.draft = DraftStep(rounds.draft, self.part) if rounds.draft is not None else None

    def phase(self) -> PhaseCost:
        """One way through the stages for every step, and what the micro-batches add to that."""
        forward, rounds = self.forward, self.rounds
        steps = decode_steps(self.load)
        attended_s: Number = 0.0
        exposed_s: Number = 0.0
        drafted_s: Number = 0.0
        draft_attended_s: Number = 0.0
        wait_s: Number = 0.0
        slowest_s: Number = 0.0
        # The host stops being waited for where the device takes longer: a corner, if a rounded one.
        kinks = (
            *forward.windows,
            *(
                forward.context_when(self.attention, host_s - self.base_s)
                for host_s in host_s_by_regime(forward, self.part)
            ),
            *graph_kinks(forward),
        )
        nodes: list[tuple[Number, Number]] = []  # of a single configuration, for its terms
        for context, weight in context_nodes(self.load.prompt_len + 1, steps, kinks):
            if not is_array(context):
                nodes.append((context, weight))
            attention_s = forward.attention_s(self.attention, context)
            exposed = exposed_host_s(forward, self.base_s + attention_s, context, sequences=self.part)
            attended_s = attended_s + weight * attention_s
            exposed_s = exposed_s + weight * exposed
            if self.draft is not None:
                drafted_s = drafted_s + weight * self._drafting_s(self.draft, context)
                draft_attended_s = draft_attended_s + weight * self.draft.attention_s(context)
            if self.pipeline.stages > 1:
                way = self.base_s + attention_s + exposed + self.overhead_s
                slowest = self._slowest_s(way)
                slowest_s = slowest_s + weight * slowest
                wait_s = wait_s + weight * self.pipeline.wait_s(way, slowest, False)
        passes = steps / rounds.tokens
        terms = joined(
            scaled(self.constant.terms, "steps", passes),
            forward.attention_terms(self.attention, nodes, 1.0 / rounds.tokens),
            one_term(
                "framework",
                "launches not hidden behind kernels",
                ("seconds", exposed_s / rounds.tokens),
            ),
            step_terms(forward, passes, self.part, once=not self.pipeline.meets),
        )
        framework_s = exposed_s / rounds.tokens + passes * self.overhead_s
        phase = self._one_way(passes, attended_s / rounds.tokens, framework_s, terms)
        if self.draft is not None:
            drafts = rounds.drafted / rounds.tokens
            phase = self._with_draft(
                phase, self.draft, steps * drafts, drafted_s / rounds.tokens, draft_attended_s * drafts
            )
        phase = self.pipeline.stretched(phase, wait_s / rounds.tokens, slowest_s / rounds.tokens)
        return _met(self.pipeline, phase, forward, passes) if self.pipeline.meets else phase

    def _slowest_s(self, way_s: Number) -> Number:
        parts = self.constant.parts_s
        return self.pipeline.slowest_stage_s(
            way_s, parts.get("pipeline_transfer", 0.0), last_stage_s(parts) + self.overhead_s
        )

    def _drafting_s(self, draft: DraftStep, context: Number) -> Number:
        """The draft's passes of one round; the scheduler and the sampler run once per round, not once per pass."""
        device = draft.device_s(context)
        return self.rounds.drafted * (device + exposed_host_s(draft.forward, device, context))

    def _one_way(self, passes: Number, attended_s: Number, framework_s: Number, terms: Terms) -> PhaseCost:
        parts = {name: passes * seconds for name, seconds in self.constant.parts_s.items()}
        parts["attention"] = parts["attention"] + attended_s
        parts["framework"] = framework_s
        busy = {name: passes * seconds for name, seconds in self.constant.busy_s.items()}
        add_attention_busy(busy, self.attention, attended_s)
        context = self.load.prompt_len + self.load.gen_len / 2
        launching_s = host_s_per_pass(self.forward, context, sequences=self.part)
        busy["host"] = passes * (launching_s + self.overhead_s)
        return PhaseCost(passes * self.base_s + attended_s + framework_s, parts, busy, terms=terms)

    @staticmethod
    def _with_draft(
        phase: PhaseCost, draft: DraftStep, passes: Number, drafted_s: Number, attended_s: Number
    ) -> PhaseCost:
        """The phase, and so many passes of the draft model, of which attention over the context takes ``attended_s``."""
        busy = added(phase.busy_s, draft.constant.busy_s, passes)
        add_attention_busy(busy, draft.attention, attended_s)
        busy["host"] = busy["host"] + passes * host_s_per_pass(draft.forward)
        terms = joined(phase.terms, one_term("draft_model", "drafting", ("seconds", drafted_s)))
        return PhaseCost(
            phase.latency_s + drafted_s, phase.parts_s | {"draft_model": drafted_s}, busy, terms=terms
        )


def add_attention_busy(busy: dict[str, Number], attention: list[DecodeAttention], attended_s: Number) -> None:
    """Attribute decode attention to arithmetic or memory in the proportion of its two roofs."""
    total = sum(entry.per_token_s for entry in attention)
    compute = sum(entry.compute_per_token_s for entry in attention)
    memory = sum(entry.memory_per_token_s for entry in attention)
    busy["compute"] = busy["compute"] + attended_s * compute / total
    busy["hbm"] = busy["hbm"] + attended_s * memory / total
