"""How serving stacks choose what one step computes: each engine's own rule, as data of its ``system.yaml``, by version.

What a step may hold at most, in tokens and in sequences, is part of the memory rule (`llm_perf.systems.accounting`), since
an engine sizes its activations for it.
"""

from typing import Literal

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, model_validator

from llm_perf.config.base import Efficiency, Fraction, PositiveInt, Spec
from llm_perf.config.provenance import Provenance

Prompts = Literal["beside decodes", "before decodes"]
"""What a step holds: prompts' tokens and the running sequences' next tokens together, or prompts alone where any can run."""

Admission = Literal["chunk", "prompt", "expected", "whole"]
"""What the cache must have room for before a waiting request runs: the tokens of its next chunk; its whole prompt; beside
that an expected share of what all running sequences may still generate; or all that it will ever need, at once."""

Preempts = Literal["last", "least generated"]
"""Who gives its blocks back and is computed anew where a running sequence finds no block: the last that was admitted, or the
one that has generated least, of several such the one with the longest prompt."""


MicroBatches = Literal["together", "parts", "each", "own queues"]
"""What keeps pipeline stages busy: as many micro-batches as there are stages. They take from one queue and one cache, and the
sequences that run at once are bounded for all of them together, for each to an equal part, or for each alike; or each has a
queue and an equal part of the cache of its own."""


class NewTokenRatio(Spec):
    """The share of what running sequences may still generate that is counted as needed, which sinks with each step.

    Attributes:
        first: At the start, times the conservativeness.
        least_factor: What it sinks to, over the first.
        steps: Decode steps until it is there.
        room_steps: Decode steps that there is room for after a preemption.
        conservativeness: The engine's setting.
    """

    first: PositiveFloat
    least_factor: Fraction
    steps: PositiveInt
    room_steps: PositiveInt
    conservativeness: NonNegativeFloat = 1.0


class Waits(Spec):
    """Prompts are held back while others generate, so that more of them are read in one step.

    Attributes:
        steps: Steps that they are held back at most.
        tokens_share: They are read before that once a step would have this share of the tokens that it may have.
    """

    steps: PositiveInt
    tokens_share: Efficiency


class Balance(Spec):
    """Replicas that step together read prompts in the same steps: a prompt waits while others have none.

    Attributes:
        steps: After so many steps in which not all had one, whatever there is is read. They are counted whether prompts wait
            or not, so that one that comes waits for half of them on average.
        gathers: Once all have one, so many steps more for others to come.
    """

    steps: PositiveInt
    gathers: NonNegativeInt = 0


class SchedulerRules(Spec):
    """How the versions of a stack from ``since`` on schedule requests.

    Attributes:
        since: First version that it holds for; the newest rule that began by a version holds for it.
        name: What its makers call it. Of several rules that begin with one version the first is the default.
        batch: Whether requests enter and leave between steps, or batches run from beginning to end.
        prompts: What a step holds.
        chunked: A prompt may be read in several steps, as the tokens of a step allow.
        admits: What the cache must have room for.
        watermark: Share of the blocks that stay free when a request is admitted.
        preempts: Who is computed anew when the cache is full; None where that cannot happen.
        new_token_ratio: What running sequences are expected to need, for ``admits: expected``.
        ahead: A step is scheduled while the one before it runs: what arrives meanwhile enters the step after, and so does
            what takes the place of a sequence that ends.
        sends_after_launch: Tokens of a step are sent when the host has launched the next one: where that reads prompts, whose
            operations are launched one by one, they wait for it.
        launches_beside_decodes: The host launches a step that reads prompts while the decode step before it runs, so that it
            has that long before the device could begin; of engines that read prompts before decodes.
        waits: Prompts are held back; None where they are read as soon as there is room.
        balance: How replicas that share their experts read prompts together; None where each reads what it has.
        stream_interval: Tokens of a request that are sent to its client at once.
        offline: Requests are those of a program in the engine's own process, which takes whole answers: no server reads them,
            and no token is sent.
        looks_every: Decode steps between two looks at what has arrived, where nothing else is read.
        prefix_cache: Full blocks of earlier requests are found again until others need them, the least recently used first.
        max_num_seqs: Sequences that run at once at most, where neither the question nor the memory rule says.
        max_num_batched_tokens: Tokens of a step at most, likewise.
        micro_batches: How several pipeline stages are kept busy; None where that is not known.
        divides_cache: Each sequence has an equal part of the cache, and none may be longer.
        gathers_ms: How long an idle engine lets requests come in before its first step: who comes within it shares that step.
        one_frontend: Requests are read one after another by one process, not each beside the others.
        one_process: What the host does once per prefill is done in the engine's own process: it is part of a step that reads
            prompts, and decoding sequences wait for it.
    """

    since: str
    name: str = Field(min_length=1)
    batch: Literal["continuous", "static"] = "continuous"
    prompts: Prompts = "beside decodes"
    chunked: bool = False
    admits: Admission = "chunk"
    watermark: Efficiency | None = None
    preempts: Preempts | None = None
    new_token_ratio: NewTokenRatio | None = None
    ahead: bool = False
    sends_after_launch: bool = False
    launches_beside_decodes: bool = False
    waits: Waits | None = None
    balance: Balance | None = None
    looks_every: PositiveInt = 1
    stream_interval: PositiveInt = 1
    offline: bool = False
    prefix_cache: bool = False
    max_num_seqs: PositiveInt | None = None
    max_num_batched_tokens: PositiveInt | None = None
    micro_batches: MicroBatches | None = None
    divides_cache: bool = False
    gathers_ms: NonNegativeFloat = 0.0
    one_frontend: bool = False
    one_process: bool = False
    provenance: Provenance
    source: str = Field(min_length=1)

    @model_validator(mode="after")
    def _consistent(self) -> "SchedulerRules":
        if (self.admits == "expected") != (self.new_token_ratio is not None):
            raise ValueError("new_token_ratio belongs to admits: expected")
        if self.batch == "continuous" and self.preempts is None and self.admits != "whole":
            raise ValueError("a cache that may be full needs preempts, or admits: whole")
        return self
