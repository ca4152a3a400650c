"""How serving stacks divide a GPU's memory: what they keep for weights and activations, and what is left for the cache.

Each engine has its own rule (`MemoryRules`, data of its ``system.yaml``, by version). A `Budget` is the rule for one
scenario. What the rule gives the cache is the same whatever the batch: the engine decides it when it starts.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, TypeVar

from pydantic import Field, NonNegativeInt, model_validator

from llm_perf.config.base import GIB, Efficiency, Fraction, NonNegativeFloat, PositiveFloat, PositiveInt, Spec
from llm_perf.config.gpu import GPUConfig
from llm_perf.config.names import normalise
from llm_perf.config.provenance import Provenance
from llm_perf.config.scenario import Scenario
from llm_perf.counts.arrays import Number, maximum, minimum

Of = Literal["total", "static", "free", "cache"]
"""What a utilisation is a share of.

``total``: of the GPU's memory, for everything but the process's context (vLLM). ``static``: of what is free before the
weights are loaded, for weights and cache (SGLang). ``free``: of what is free once everything else is there, for the
cache (TensorRT-LLM, LMDeploy). ``cache``: of the GPU's memory, for the cache alone (the first LMDeploy).
"""


Value = TypeVar("Value")


def _last_step(steps: Mapping[float, Value] | Mapping[int, Value], at: float) -> Value:
    """The value of the last step that is not above ``at``, of the first where all are."""
    return steps[max((step for step in steps if step <= at), default=min(steps))]  # type: ignore[index]


class ReservedFor(Spec):
    """SGLang's default: it leaves room for prefills and graphs, and takes the rest of the memory, in MiB.

    base + per_prefill_token x max_num_batched_tokens + per_graph_sequence x sequences of the largest graph + per_rank x
    ranks, and at least ``least`` on GPUs of more than 60 GiB. ``base`` and ``per_rank`` are steps by the GPU's memory in GiB.
    """

    base: dict[float, NonNegativeFloat] = Field(min_length=1)
    per_rank: dict[float, NonNegativeFloat] = Field(min_length=1)
    per_prefill_token: NonNegativeFloat = 0.0
    per_graph_sequence: NonNegativeFloat = 0.0
    least: NonNegativeFloat = 0.0

    def share(self, gpu: GPUConfig, tokens: int, graph_sequences: int, ranks: int) -> float:
        """The share of memory that is left for weights and cache."""
        size = gpu.memory_gib
        taken = _last_step(self.base, size) + _last_step(self.per_rank, size) * ranks
        taken += self.per_prefill_token * tokens + self.per_graph_sequence * graph_sequences
        if size > _LARGE_GIB:
            taken = max(taken, self.least)
        return max(1 - taken / (gpu.usable_memory_gib * 1024), 0.0)


_LARGE_GIB = 60


class BySize(Spec):
    """A default that an engine chooses by the GPU's memory: the value of the last step that is not above it.

    ``not_on`` names GPUs for which the engine takes the first step whatever their size.
    """

    steps: dict[float, PositiveInt] = Field(min_length=1)
    not_on: tuple[str, ...] = ()

    def on(self, gpu: GPUConfig) -> int:
        """The default on a GPU."""
        small = any(normalise(gpu.name).startswith(normalise(name)) for name in self.not_on)
        return _last_step(self.steps, min(self.steps) if small else gpu.memory_gib)


class MemoryRules(Spec):
    """How the versions of a stack from ``since`` on divide a GPU's memory.

    Attributes:
        since: First version that it holds for; the newest rule that began by a version holds for it.
        gpu_memory_utilization: The engine's default, whatever its own name of it is.
        utilization_by_ranks: Instead: by the number of ranks, the value of the last step that is not above it.
        utilization_leaves: Instead: what is kept for other things.
        of: What it is a share of.
        max_num_batched_tokens: Tokens of one step, for which activations are sized.
        whole_prompts: A step takes at least one whole prompt (no chunked prefill).
        max_num_seqs: Sequences that run at once at most; None for no such limit.
        graph_sequences: Sequences of the largest captured graph, by the number of tensor ranks: the last step not above it.
            Decode steps of more are launched operation by operation.
        hidden_vectors, ffn_vectors: Hidden states and inner widths of a gated block per token that are live at once.
        sampler_bytes: Bytes per logit at the peak of sampling.
        sampler_hidden_vectors: Hidden states per token that are live while the engine samples.
        keeps_expert_workspaces: What routed experts work in stays allocated beside everything else.
        mxfp4_hidden_multiple: What the hidden size of experts in MXFP4 is padded to.
        context_gib, rank_gib: What a process holds outside of the allocator, and more of it with several ranks.
        graph_gib: Graphs, where the engine subtracts them before it sizes the cache.
        block_tokens: Tokens of one block of the cache.
        window_share: Of the tokens that layers without a window have room for, those that layers with one have; 0 where
            these have their windows alone.
        state_share: Of the room of the cache, what recurrent states get where a model has some; 0 where they share it.
        states_per_sequence: Places that each running sequence needs among them: its own, and those of a prefix cache.
        tracked_states: More of them, for states at ends of chunks that are kept while the next step runs.
        tracks_on: Vendors of GPUs that have the kernels for that; none: all.
        queues: Sequences that do not fit wait, instead of failing.
    """

    since: str
    gpu_memory_utilization: Efficiency | None = None
    utilization_by_ranks: dict[PositiveInt, Efficiency] = Field(default_factory=dict)
    utilization_leaves: ReservedFor | None = None
    of: Of
    max_num_batched_tokens: BySize
    whole_prompts: bool = False
    max_num_seqs: BySize | None = None
    graph_sequences: dict[PositiveInt, BySize] = Field(default_factory=dict)
    hidden_vectors: PositiveFloat = 3
    ffn_vectors: PositiveFloat = 3
    sampler_bytes: PositiveFloat = 4
    sampler_hidden_vectors: NonNegativeFloat = 1
    keeps_expert_workspaces: bool = False
    mxfp4_hidden_multiple: PositiveInt | None = None
    context_gib: NonNegativeFloat = 0.5
    rank_gib: NonNegativeFloat = 0.3
    graph_gib: NonNegativeFloat = 0.0
    block_tokens: PositiveInt = 16
    window_share: Fraction = 0.0
    state_share: Fraction = 0.0
    states_per_sequence: PositiveInt = 1
    tracked_states: NonNegativeInt = 0
    tracks_on: tuple[str, ...] = ()
    queues: bool = True
    provenance: Provenance
    source: str = Field(min_length=1)

    @model_validator(mode="after")
    def _one_utilization(self) -> "MemoryRules":
        given = (self.gpu_memory_utilization, self.utilization_by_ranks or None, self.utilization_leaves)
        if sum(one is not None for one in given) != 1:
            raise ValueError(
                "give one of gpu_memory_utilization, utilization_by_ranks and utilization_leaves"
            )
        return self

    def state_places(self, gpu: GPUConfig) -> int:
        """Places for recurrent states that each running sequence needs on a GPU."""
        tracks = not self.tracks_on or bool(set(self.tracks_on) & set(gpu.device))
        return self.states_per_sequence + self.tracked_states * tracks

    def largest_graph(self, scenario: Scenario) -> int | None:
        """Sequences of the largest captured graph; None where that is not known to be bounded."""
        by_ranks = self.graph_sequences
        return _last_step(by_ranks, scenario.parallelism.tp_size).on(scenario.gpu) if by_ranks else None

    def utilization(self, scenario: Scenario, tokens: int) -> float:
        """The engine's default for a scenario."""
        p = scenario.parallelism
        if self.gpu_memory_utilization is not None:
            return self.gpu_memory_utilization
        if self.utilization_leaves is not None:
            graphs = self.largest_graph(scenario) or 0
            return self.utilization_leaves.share(scenario.gpu, tokens, graphs, p.tp_size * p.pp_size)
        return _last_step(self.utilization_by_ranks, p.tp_size)


_ANY = MemoryRules(
    since="0",
    gpu_memory_utilization=1.0,
    of="total",
    max_num_batched_tokens=BySize(steps={0: 1}),
    block_tokens=1,
    queues=False,
    provenance="assumed",
    source="a stack without a rule: everything that the driver gives, and the whole batch in one step",
)


@dataclass(frozen=True, slots=True)
class Budget:
    """The memory rule of one scenario: numbers instead of defaults.

    Attributes:
        rules: Those of the stack's version, or of no stack in particular.
        utilization: What was asked for, else the engine's default.
        total_bytes: What the driver gives one process.
        batched_tokens: Tokens of one step; None for the whole batch.
        max_num_seqs: Sequences that run at once at most; None for no limit.
        profiled: Whether activations are those of one full step, whatever is asked.
    """

    rules: MemoryRules
    utilization: float
    total_bytes: float
    batched_tokens: int | None
    max_num_seqs: int | None
    profiled: bool

    def in_blocks(self, context: Number) -> Number:
        """Tokens of cache that a sequence of so many takes."""
        block = self.rules.block_tokens
        return context if block == 1 else -(-context // block) * block

    def scheduled(self, sequences: Number) -> Number:
        """Of so many sequences those that the scheduler lets run at once."""
        return sequences if self.max_num_seqs is None else minimum(sequences, self.max_num_seqs)

    def step_tokens(self, scenario: Scenario, context: Number) -> Number:
        """Tokens of the step that the engine sizes its activations for."""
        tokens: Number = float(self.batched_tokens or 1)
        if self.rules.whole_prompts and scenario.workload.max_num_batched_tokens is None:
            tokens = maximum(tokens, context)
        return tokens

    def capacity_bytes(self, weights: Number, activations: Number, others: Number) -> Number:
        """Bytes within which weights, activations, cache and ``others`` must be."""
        share, total = self.utilization, self.total_bytes
        if self.rules.of == "total":
            return share * total
        if self.rules.of == "cache":
            return minimum(share * total + weights + activations + others, total)
        if self.rules.of == "static":
            return minimum(share * (total - others) + activations + others, total)
        return total - (1 - share) * maximum(total - others - weights - activations, 0.0)


def budget_of(scenario: Scenario, rules: MemoryRules | None) -> Budget | None:
    """The memory rule of a scenario; None where neither its stack has one nor the question states one."""
    asked = scenario.workload
    options = (asked.gpu_memory_utilization, asked.max_num_batched_tokens, asked.max_num_seqs)
    if scenario.model.encoder or (rules is None and options == (None, None, None)):
        return None
    used = rules or _ANY
    default = None if rules is None else used.max_num_batched_tokens.on(scenario.gpu)
    tokens = asked.max_num_batched_tokens or default
    sequences = asked.max_num_seqs
    if sequences is None and used.max_num_seqs is not None:
        sequences = used.max_num_seqs.on(scenario.gpu)
    share = asked.gpu_memory_utilization
    return Budget(
        rules=used,
        utilization=used.utilization(scenario, tokens or 0) if share is None else share,
        total_bytes=scenario.gpu.usable_memory_bytes,
        batched_tokens=tokens,
        max_num_seqs=sequences,
        profiled=rules is not None,
    )


def context_bytes(budget: Budget, scenario: Scenario) -> float:
    """What a process holds outside of the allocator, and its graphs where the engine counts them first."""
    p = scenario.parallelism
    several = p.tp_size * p.cp_size > 1
    graphs = 0.0 if scenario.workload.enforce_eager else budget.rules.graph_gib
    return (budget.rules.context_gib + graphs + several * budget.rules.rank_gib) * GIB
