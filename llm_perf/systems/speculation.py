"""Speculative decoding: rounds of drafting and checking in place of decode steps."""

from __future__ import annotations

from collections.abc import Callable

from llm_perf.config.parallelism import ParallelismConfig, fewest_nodes
from llm_perf.config.scenario import Scenario, check_parallelism
from llm_perf.config.speculation import Speculation
from llm_perf.counts.arrays import Number
from llm_perf.counts.parameters import total_params
from llm_perf.errors import SpecError
from llm_perf.systems.attention import DecodeAttention
from llm_perf.systems.costs import Costs
from llm_perf.systems.footprint import layers_weight_bytes
from llm_perf.systems.forward import Forward


def check_draft(scenario: Scenario) -> None:
    """A draft model is smaller than the one that it drafts for, and can be divided and reach as far.

    Raises:
        SpecError: it is not, or cannot.
    """
    if scenario.speculation is None:
        return
    draft, model = scenario.speculation.draft, scenario.model
    if scenario.speculation.module is None and total_params(draft) > total_params(model):
        raise SpecError(
            f"draft model {draft.name} has {total_params(draft) / 1e9:.3g} billion parameters, more than the "
            f"{total_params(model) / 1e9:.3g} of {model.name}: speculation needs a smaller model that drafts"
        )
    draft_scenario(scenario)


def draft_notes(scenario: Scenario) -> tuple[str, ...]:
    """What a reader should know about the draft model."""
    if scenario.speculation is None:
        return ()
    draft, model = scenario.speculation.draft, scenario.model
    if draft.vocab_size == model.vocab_size:
        return ()
    return (
        f"{draft.name} knows {draft.vocab_size:,} tokens and {model.name} {model.vocab_size:,}: a draft is only of use "
        "where both have the same tokeniser",
    )


def draft_scenario(scenario: Scenario) -> Scenario | None:
    """The draft model on the same GPUs, divided over as many tensor ranks as it can be; None without a draft.

    Raises:
        SpecError: the draft's positions are fewer than the context.
    """
    speculation = scenario.speculation
    if speculation is None:
        return None
    if speculation.module is not None:
        return _module_scenario(scenario, speculation)
    tp = next(size for size in _divisors_downwards(scenario.parallelism.tp_size) if _divides(scenario, size))
    parallelism = ParallelismConfig(tp_size=tp, dp_size=scenario.parallelism.dp_size, sp_size=1)
    try:
        return scenario.replace(
            model=speculation.draft,
            dtype=scenario.dtype.replace(formats=None),
            parallelism=parallelism,
            num_nodes=fewest_nodes(parallelism.num_gpus, scenario.gpus_per_node),
            speculation=None,
        )
    except SpecError as error:
        raise SpecError(f"draft model: {error}") from None


def _module_scenario(scenario: Scenario, speculation: Speculation) -> Scenario:
    """A module that belongs to the model, divided as the model is; an EAGLE head is not quantised with it."""
    dtype = scenario.dtype.replace(formats=None)
    if speculation.module == "eagle":
        dtype = dtype.replace(weight_bits=max(dtype.weight_bits, dtype.activation_bits))
    parallelism = scenario.parallelism.replace(pp_size=1)
    return scenario.replace(
        model=speculation.draft,
        dtype=dtype,
        parallelism=parallelism,
        num_nodes=fewest_nodes(parallelism.num_gpus, scenario.gpus_per_node),
        offload=scenario.offload.replace(micro_batches=1),
        speculation=None,
    )


def draft_weight_bytes(scenario: Scenario, draft: Scenario, whole: Callable[[Scenario], float]) -> float:
    """Bytes of the draft's weights on one GPU: ``whole`` ones, or the layer alone where table and head are the model's."""
    shares = scenario.speculation is not None and scenario.speculation.module is not None
    return layers_weight_bytes(draft) if shares else whole(draft)


def _divisors_downwards(number: int) -> list[int]:
    return [size for size in range(number, 0, -1) if number % size == 0]


def _divides(scenario: Scenario, tp: int) -> bool:
    assert scenario.speculation is not None
    try:
        check_parallelism(scenario.speculation.draft, ParallelismConfig(tp_size=tp))
    except SpecError:
        return False
    return True


class Rounds:
    """What a decode step becomes: ``queries`` tokens per sequence in the model's pass, ``draft`` passes before it.

    Without a draft a round is a step: one query, one token. The expected number of tokens is the same for every
    sequence; a batch whose sequences end together needs as many rounds as that, one that waits for its slowest needs
    more.
    """

    def __init__(self, scenario: Scenario, constants: dict[str, float]) -> None:
        speculation, draft = scenario.speculation, draft_scenario(scenario)
        self.tokens: float = speculation.tokens_per_round if speculation else 1.0
        self.drafted: int = speculation.tokens if speculation else 0
        self.queries: int = self.drafted + 1
        self.draft: Forward | None = Forward(draft, constants) if draft else None


class DraftStep:
    """One pass of the draft model at decode, to be summed over contexts."""

    def __init__(self, forward: Forward, batch: Number) -> None:
        self.forward = forward
        self.constant: Costs
        self.attention: list[DecodeAttention]
        self.constant, self.attention = forward.decode_step(batch)
        self.base_s = self.constant.total_s

    def device_s(self, context: Number) -> Number:
        """Seconds on the device at a context."""
        return self.base_s + self.attention_s(context)

    def attention_s(self, context: Number) -> Number:
        """The part of it that grows with the context."""
        return self.forward.attention_s(self.attention, context)
