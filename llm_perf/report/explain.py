"""Each number of a prediction with its formula and the values in it.

Every entry's ``expression`` is plain arithmetic that gives ``value``: a reader can paste it into a calculator.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from llm_perf.analysis.inference import InferenceResult
from llm_perf.config.scenario import Scenario
from llm_perf.counts.attention import kv_cache_elements, state_elements
from llm_perf.counts.flops import decode_step_flops, prefill_flops
from llm_perf.counts.parameters import embedding_params, layer_params, lm_head_params, total_params
from llm_perf.systems import system_of
from llm_perf.systems.terms import Factor, Quantity, Term


@dataclass(frozen=True, slots=True)
class Explanation:
    """A number: what it is, its formula in words, the same with values, the result, its unit and source."""

    name: str
    formula: str
    expression: str
    value: float
    unit: str
    source: str = ""

    def as_dict(self) -> dict[str, Any]:
        """As plain JSON types."""
        return asdict(self)


def explanations(result: InferenceResult) -> list[Explanation]:
    """The numbers of a prediction in the order in which they follow from one another."""
    return [*_counts(result), *_memory(result), *_terms(result), *_phases(result), *_throughput(result)]


def _counts(result: InferenceResult) -> list[Explanation]:
    scenario = result.scenario
    model, workload = scenario.model, scenario.workload
    batch, prompt, gen = workload.batch_size, workload.prompt_len, workload.gen_len
    layers = " + ".join(f"{group.count} * {layer_params(model, group)}" for group in model.layer_groups)
    entries = [
        Explanation(
            "parameters",
            "layers x parameters per layer + embeddings + head",
            f"{layers} + {embedding_params(model)} + {lm_head_params(model)}",
            total_params(model),
            "",
            "counted from the model's shapes",
        ),
        _flops(
            "prefill FLOPs",
            "2 per weight and token, attention over causal pairs, one position of logits",
            scenario,
        ),
    ]
    if result.decode is not None:
        flops = decode_step_flops(model, batch, prompt + 1)
        entries.append(
            Explanation(
                "FLOPs of the first decode step",
                "batch x (2 per active weight + attention over prompt + 1 tokens)",
                f"{batch} * {_number(flops / batch)}",
                flops,
                "FLOP",
            )
        )
        entries.append(_cache(scenario, batch // scenario.parallelism.dp_size, prompt + gen))
    return entries


def _cache(scenario: Scenario, sequences: int, tokens: int) -> Explanation:
    """Cache and states of one rank; a state has 16 bits at least."""
    parallelism, bits = scenario.parallelism, scenario.dtype.stored_kv_bits
    states = state_elements(scenario.model, parallelism.tp_size)
    cached = float(kv_cache_elements(scenario.model, tokens, parallelism.tp_size)) - states
    formula, values = (
        "elements per sequence of prompt + generation x bits / 8",
        f"{_number(cached)} * {bits} / 8",
    )
    total = sequences * cached * bits / 8
    if states:
        wide = max(bits, scenario.dtype.state_bits)
        formula = f"({formula} + elements of states x bits / 8)"
        values = f"({values} + {_number(states)} * {wide} / 8)"
        total += sequences * states * wide / 8
    divided = (" / context ranks", f" / {parallelism.cp_size}") if parallelism.cp_size > 1 else ("", "")
    return Explanation(
        "KV cache on one rank's stages",
        f"sequences x {formula}{divided[0]}",
        f"{sequences} * {values}{divided[1]}",
        total / parallelism.cp_size,
        "bytes",
    )


def _flops(name: str, formula: str, scenario: Scenario) -> Explanation:
    workload = scenario.workload
    flops = prefill_flops(scenario.model, workload.batch_size, workload.prompt_len)
    per_sequence = prefill_flops(scenario.model, 1, workload.prompt_len)
    return Explanation(
        name, f"batch x ({formula})", f"{workload.batch_size} * {_number(per_sequence)}", flops, "FLOP"
    )


def _memory(result: InferenceResult) -> list[Explanation]:
    entries = []
    named = (("GPU", result.memory.gpu), ("host", result.memory.cpu), ("NVMe", result.memory.nvme))
    for name, parts in named:
        if parts.total_bytes > 0:
            entries.append(
                Explanation(
                    f"{name} memory",
                    "weights + KV cache + activations + buffers + reserve",
                    " + ".join(_number(float(getattr(parts, use))) for use in parts.uses),
                    float(parts.total_bytes),
                    "bytes",
                )
            )
    return entries


def _terms(result: InferenceResult) -> list[Explanation]:
    phases = {"prefill": result.prefill, "decode": result.decode}
    terms = {name: phase.terms for name, phase in phases.items() if phase is not None}
    return explained_terms(terms, system_of(result.scenario).part_title)


def explained_terms(phases: Mapping[str, tuple[Term, ...]], title: Callable[[str], str]) -> list[Explanation]:
    """The terms that costs carry: rates and times that they follow from, then what each part is waited for."""
    below: dict[str, dict[Quantity, str]] = {}
    found: dict[str, list[Term]] = {}
    for phase, terms in phases.items():
        for term in terms:
            if not term.value:
                continue
            found.setdefault(f"{phase}, {title(term.part)}: {term.name}", []).append(term)
            for quantity in _quantities(term.factors):
                below.setdefault(quantity.name, {}).setdefault(quantity, phase)
    summed = [Quantity(name, tuple(term.factors for term in terms)) for name, terms in found.items()]
    return [explained(quantity) for quantity in (*_told_apart(below), *summed)]


def _quantities(factors: Iterable[Factor]) -> Iterator[Quantity]:
    """What factors follow from, each after what it follows from itself."""
    for factor in factors:
        for quantity in factor.of:
            yield from _quantities(quantity.factors())
            yield quantity


def _told_apart(below: Mapping[str, Mapping[Quantity, str]]) -> Iterator[Quantity]:
    """Quantities of one name that differ are named after their phases, and counted where a phase has several."""
    for name, same in below.items():
        by_phase: dict[str, list[Quantity]] = {}
        for quantity, phase in same.items():
            by_phase.setdefault(phase, []).append(quantity)
        for phase, quantities in by_phase.items():
            for number, quantity in enumerate(quantities, start=1):
                count = f" ({number})" if len(quantities) > 1 else ""
                yield quantity if len(same) == 1 else replace(quantity, name=f"{name}: {phase}{count}")


def explained(quantity: Quantity) -> Explanation:
    """A quantity as an entry."""
    return Explanation(
        quantity.name,
        quantity.formula,
        quantity.expression,
        quantity.value,
        quantity.unit,
        quantity.sources(),
    )


def _phases(result: InferenceResult) -> list[Explanation]:
    entries = []
    for name, phase in (("prefill", result.prefill), ("decode", result.decode)):
        if phase is not None:
            parts = phase.breakdown_s
            entries.append(
                Explanation(
                    f"{name} latency",
                    " + ".join(part.replace("_", " ") for part in parts),
                    " + ".join(_number(value) for value in parts.values()),
                    phase.latency_s,
                    "s",
                    f"bound by {phase.bottleneck}, the resource that is busy longest",
                )
            )
    return entries


def _throughput(result: InferenceResult) -> list[Explanation]:
    workload = result.scenario.workload
    batch = workload.batch_size
    entries = [
        Explanation(
            "prefill throughput",
            "batch x prompt_len / prefill latency",
            f"{batch} * {workload.prompt_len} / {_number(result.prefill.latency_s)}",
            result.prefill.throughput_tokens_per_s,
            "token/s",
        )
    ]
    if result.decode is not None:
        entries.append(
            Explanation(
                "decode throughput",
                "batch x (gen_len - 1) / decode latency",
                f"{batch} * ({workload.gen_len} - 1) / {_number(result.decode.latency_s)}",
                result.decode.throughput_tokens_per_s,
                "token/s",
            )
        )
        entries.append(
            Explanation(
                "total throughput",
                "batch x gen_len / (prefill + decode latency)",
                f"{batch} * {workload.gen_len} / ({_number(result.prefill.latency_s)} + {_number(result.decode.latency_s)})",
                result.total_throughput_tokens_per_s,
                "token/s",
            )
        )
    return entries


def _number(value: float) -> str:
    """A number with enough digits that the expression gives the value back to 1e-9."""
    return f"{value:.12g}"
