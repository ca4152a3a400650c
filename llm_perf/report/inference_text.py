"""A prediction as text for people: what was asked, where tensors went and why, what bounds each phase."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from llm_perf.analysis.advice import Change
from llm_perf.analysis.calibrated import PredictionInterval
from llm_perf.analysis.economics import cost_of, energy_of
from llm_perf.analysis.inference import InferenceResult, Phase
from llm_perf.analysis.request import InferenceInputs
from llm_perf.analysis.speedups import Gain
from llm_perf.analysis.thresholds import thresholds_of
from llm_perf.analysis.tuning_intervals import LEVEL
from llm_perf.config.economics import Price
from llm_perf.config.scenario import Scenario
from llm_perf.report.answer import (
    Answer,
    change_line,
    gain_pieces,
    interval_pieces,
    quickest_of,
    several_answer,
    side_by_side,
    used_of,
)
from llm_perf.report.assumed_text import meant_names, said_of_inference
from llm_perf.report.benchmark_log import model_bytes
from llm_perf.report.explain import explanations
from llm_perf.report.memory_text import explanation, fits_text, memory_table
from llm_perf.report.prediction_log import prediction_log
from llm_perf.report.units import brief, count, gib, percent, rate, seconds
from llm_perf.systems import System, system_of
from llm_perf.systems.base import TierShares
from llm_perf.systems.footprint import model_weight_bytes
from llm_perf.systems.pipeline import stage_layers
from llm_perf.systems.registry import DEFAULT

TIERS = {"gpu": "GPU", "cpu": "host", "nvme": "NVMe"}


def inference_report(
    result: InferenceResult,
    changes: tuple[Change, ...] = (),
    nearest: dict[str, Any] | None = None,
    price: Price | float | None = None,
    gains: tuple[Gain, ...] = (),
    asked: InferenceInputs | None = None,
) -> RenderableType:
    """The whole report of one prediction, readable at 80 columns: the answer in five lines, then what it rests on.

    ``asked`` is the question, whose names may be those of others than what answers them.
    """
    sections = report_sections(result, changes, nearest, price, asked)
    sections.pop("fits", None)  # the first line says it
    blocks = [inference_answer(result, changes, gains).text, *sections.values()]
    return Group(*[Padding(block, (0, 0, 1, 0)) for block in blocks])


def inference_answer(
    result: InferenceResult, changes: tuple[Change, ...] = (), gains: tuple[Gain, ...] = ()
) -> Answer:
    """What a prediction says, in five lines."""
    return Answer(
        fits=memory_pieces(result) if result.feasible else [f"no. {result.reason}"],
        speed=_speed(result),
        sure=_sure(result),
        bound=bound_pieces(result),
        change=gain_pieces(gains, "smaller format, GPUs, batch") if result.feasible else change_line(changes),
        good=result.feasible,
    )


def _sure(result: InferenceResult) -> Sequence[str]:
    """How far to trust it; of the generic stack, for which nothing is known, that a named one may be known."""
    if result.interval is None and DEFAULT in (result.no_interval or ""):
        return ["not known where no stack is named: --system may say more"]
    return interval_pieces(result.interval, result.no_interval)


def memory_pieces(result: InferenceResult) -> list[str]:
    """What is taken of each memory, the GPU's first."""
    memory = result.memory
    pieces = [used_of(memory, "likely" if result.may_not_fit else "yes")]
    if result.may_not_fit and result.memory_interval_bytes is not None:
        pieces.append(f"the {LEVEL:.0%} interval reaches {gib(result.memory_interval_bytes[1])}")
    batch = result.scenario.workload.batch_size
    if float(memory.gpu.waiting_bytes) > 0 and result.max_batch_size < batch:
        pieces.append(f"{count(result.max_batch_size)} of {count(batch)} sequences at once")
    return pieces


def _speed(result: InferenceResult) -> list[str]:
    """Tokens per second while decoding, the time to the first and for each of the others, and of all of it."""
    were = "" if result.feasible else "if it did: "
    first = f"first token {_brief(result.prefill.latency_s)}"
    if result.decode is None:
        return [f"{were}{rate(result.prefill.throughput_tokens_per_s)} read", first]
    return [
        f"{were}decode {rate(result.decode.throughput_tokens_per_s)}",
        f"{first}, then {_brief(result.tpot_s)} each",
        f"all {_brief(result.total_latency_s)}",
    ]


def bound_pieces(result: InferenceResult) -> list[str]:
    """What each phase waits for."""
    system = system_of(result.scenario)
    phases = [("prefill", result.prefill)] + ([("decode", result.decode)] if result.decode else [])
    return [f"{name} {_phase_cells(system, phase)[2]}" for name, phase in reversed(phases)]


def report_sections(
    result: InferenceResult,
    changes: tuple[Change, ...] = (),
    nearest: dict[str, Any] | None = None,
    price: Price | float | None = None,
    asked: InferenceInputs | None = None,
) -> dict[str, Text | Table]:
    """The report's parts by name, in its order. A part that a prediction has nothing for is left out."""
    found: dict[str, Text | Table | None] = {
        "title": _title(result, asked),
        "fits": _fits(result) if result.feasible else None,
        "does_not_fit": None if result.feasible else _does_not_fit(result, changes),
        "placement": _placement(result),
        "phases": _phases(result),
        "interval": interval_text(result.interval, result.no_interval),
        "memory": memory_of(result),
        "breakdown": _breakdown(result),
        "limits": _limits(result),
        "thresholds": _thresholds(result),
        "pipeline": _pipeline(result),
        "money": _money(result, price),
        "nearest": _nearest(nearest),
    }
    for number, warning in enumerate(result.warnings, start=1):
        found[f"note {number}"] = Text.assemble(("note: ", "yellow"), warning)
    return {name: part for name, part in found.items() if part is not None}


def print_report(report: RenderableType, width: int | None = None) -> None:
    """Print to stdout: colours on a terminal, plain text at 80 columns elsewhere."""
    # What a spec calls itself is text, not rich's markup: "[/x]" and ":smile:" are printed as they are.
    console = Console(width=width, highlight=False, markup=False, emoji=False)
    if console.is_terminal:
        console.print(report)
    else:
        with console.capture() as captured:
            console.print(report)
        sys.stdout.writelines(f"{line.rstrip()}\n" for line in captured.get().splitlines())
    sys.stdout.flush()  # click writes past this stream where it takes the encoding for a mistake


def machine_name(scenario: Scenario) -> str:
    """What computes, in a few words: the GPUs, or the host where there is none."""
    if scenario.gpu.absent:
        return scenario.host.name
    gpus = scenario.parallelism.num_gpus
    return scenario.gpu.name if gpus == 1 else f"{gpus} x {scenario.gpu.name}"


def _title(result: InferenceResult, asked: InferenceInputs | None) -> Text:
    scenario, workload = result.scenario, result.scenario.workload
    host = " (no GPU)" if scenario.gpu.absent else f" (host {scenario.host.name})"
    sizes = ", ".join(
        f"{name} {size}"
        for name, size in (
            ("tp", scenario.parallelism.tp_size),
            ("pp", scenario.parallelism.pp_size),
            ("dp", scenario.parallelism.dp_size),
            ("ep", scenario.parallelism.ep_size),
            ("sp", scenario.parallelism.sp_size),
            ("cp", scenario.parallelism.cp_size),
        )
        if size > 1
    )
    text = Text.assemble((scenario.model.name, "bold"), " on ", (machine_name(scenario), "bold"), host)
    named = (
        scenario.system if result.version is not None else result.system_name
    )  # a profile says of which it is
    text.append(f"\nsystem {named}" + (f", {sizes}" if sizes else ""))
    text.append(
        f"; batch {workload.batch_size}, prompt {workload.prompt_len}, generate {workload.gen_len}; "
        f"weights {_weights(scenario)}, KV cache {scenario.dtype.kv_bits} bit"
    )
    if result.version is not None:
        named = version_text(scenario.system, result.version)
        text.append(f"\nconstants as of {named}{inherited_text(result.inherits)}")
    names = () if asked is None else meant_names(asked, scenario.model, scenario.gpu)
    for line in (*_options(scenario), *names, *said_of_inference(result, asked)):
        text.append(f"\n{line}")
    return text


def _weights(scenario: Scenario) -> str:
    """Width, or format, of the weights."""
    formats = scenario.dtype.formats
    return f"{scenario.dtype.weight_bits} bit" if formats is None else f"{formats.name} {formats.why}"


def _options(scenario: Scenario) -> Iterator[str]:
    """One line per option of a serving stack that is used."""
    workload, speculation = scenario.workload, scenario.speculation
    if speculation is not None:
        yield (
            f"{speculation.tokens} tokens drafted by {speculation.draft.name}, {speculation.share_kept:.0%} of them "
            f"kept: {speculation.tokens_per_round:.2f} tokens per round"
        )
    released = scenario.model.stored_formats or scenario.model.quantization
    if scenario.dtype.formats is None and (released or scenario.model.released_dtype == "float32"):
        yield f"weights: {scenario.dtype.origin}"
    if workload.prefix_hit_rate:
        yield f"{workload.prefix_hit_rate:.0%} of each prompt in the prefix cache"
    if workload.prefill_chunk is not None:
        yield f"prompts read {workload.prefill_chunk} tokens at a time"
    if scenario.parallelism.expert_imbalance > 1:
        yield f"the busiest expert rank does {scenario.parallelism.expert_imbalance:g} times the mean"


def _thresholds(result: InferenceResult) -> Text | None:
    """From where on latency grows with what is asked; None for systems that move tensors between memories."""
    found = thresholds_of(result.scenario)
    if found is None:
        return None
    text = Text(f"Prefill latency grows from {count(round(found.prefill_tokens))} tokens (batch x prompt) on")
    if found.decode_batch is not None and found.decode_bound is not None:
        text.append(
            f", decode latency from batch {count(round(found.decode_batch))} on (then "
            f"{system_of(result.scenario).resource_title(found.decode_bound)})"
        )
    text.append(f"; the weights alone turn compute-bound at {count(round(found.pivot_tokens))} tokens.")
    return text


def _pipeline(result: InferenceResult) -> Text | None:
    """How busy the stages are, and what the deployment gives once other batches fill the gaps; None without stages."""
    steady = result.steady_throughput_tokens_per_s
    if steady is None:
        return None
    stages = result.scenario.parallelism.pp_size
    phases = [("prefill", result.prefill)] + ([("decode", result.decode)] if result.decode else [])
    idle = ", ".join(f"{1 - phase.stages_busy / stages:.0%} of {name}" for name, phase in phases)
    layers = sorted(set(stage_layers(result.scenario.model.num_layers, stages)), reverse=True)
    counts = {name: int(phase.cost.micro_batches) for name, phase in phases}
    cuts = {name: f"{number} micro-batches" if number > 1 else "one batch" for name, number in counts.items()}
    cut = " and ".join(dict.fromkeys(cuts.values())) + " in it"
    if len(set(cuts.values())) > 1:
        cut = " and ".join(f"{said} at {name}" for name, said in cuts.items())
    return Text(
        f"Pipeline of {stages} stages of {' or '.join(map(str, layers))} layers with {cut}: stages idle "
        f"for {idle}; with other batches in the gaps {rate(steady)}."
    )


def _where(shares: TierShares) -> str:
    places = [(TIERS[tier], float(getattr(shares, tier))) for tier in TIERS]
    return ", ".join(f"{share:.0%} {name}" if share < 1 else name for name, share in places if share > 0)


def _placement(result: InferenceResult) -> Text:
    placement = result.placement
    text = Text.assemble(("Weights on: ", "bold"), _where(placement.weights))
    text.append("    KV cache on: ", "bold")
    text.append(_where(placement.kv_cache))
    text.append("    activations on: ", "bold")
    text.append(_where(placement.activations))
    text.append(f"\n{placement.reason}.")
    if not result.feasible:
        text.append("\nTimes and cost below are what it would take if the memory were there.", "italic")
    return text


def _phases(result: InferenceResult) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0))
    for heading, justify in (
        ("", "left"),
        ("latency", "right"),
        ("throughput", "right"),
        ("bound by", "left"),
    ):
        table.add_column(heading, justify=justify, no_wrap=heading != "bound by")  # type: ignore[arg-type]
    system = system_of(result.scenario)
    table.add_row("prefill (TTFT)", *_phase_cells(system, result.prefill))
    if result.decode is not None:
        table.add_row("decode", *_phase_cells(system, result.decode))
        table.add_row("  TPOT", seconds(result.tpot_s or 0.0), "", "")
    else:
        table.add_row("decode", "none", "", "no decode steps")
    table.add_row(
        "total", seconds(result.total_latency_s), rate(result.total_throughput_tokens_per_s), "", style="bold"
    )
    return table


def version_text(name: str, version: str) -> str:
    """Versions with what they are versions of: some begin with that, others with their number."""
    return f"{name} {version}" if version[:1].isdigit() else version


def inherited_text(inherits: tuple[int, int] | None) -> str:
    """How many constants are not a version's own, so that its name claims no more than it states; nothing where all are."""
    return "" if inherits is None else f"; {inherits[0]} of its {inherits[1]} constants are inherited"


def interval_text(
    interval: PredictionInterval | None, missing: str | None, total: str = "total"
) -> Text | None:
    """How far to trust the latencies above, or why nothing is known of that; None without either."""
    if interval is None:
        return None if missing is None else Text.assemble(("90% interval: ", "bold"), f"none; {missing}.")
    ends = [
        f"{name} {seconds(pair[0])} to {seconds(pair[1])}"
        for name, pair in (
            (total, interval.total_s),
            ("prefill", interval.prefill_s),
            ("decode", interval.decode_s),
        )
        if pair is not None
    ]
    text = Text.assemble((f"{interval.level:.0%} interval: ", "bold"), ", ".join(ends))
    if interval.profile is not None:
        text.append(f"\nprofile {interval.profile}; {interval.method}")
        return text
    text.append(f"\nfrom {interval.method}")
    if interval.outside > 1:
        far = f"{interval.outside:.2g}" if interval.outside < 10 else count(round(interval.outside))
        text.append(f"; widened, since a size of this question is {far} times outside of theirs")
    return text


def _phase_cells(system: System, phase: Phase) -> tuple[str, str, str]:
    busy = phase.busy_s[phase.bottleneck] / phase.latency_s
    bound = f"{system.resource_title(phase.bottleneck)} (busy {min(busy, 1):.0%})"
    return seconds(phase.latency_s), rate(phase.throughput_tokens_per_s), bound


def memory_of(result: InferenceResult) -> Table:
    """Bytes by use on each tier that the machine has, beside what is usable."""
    return memory_table(result.memory, empty=True)


def _breakdown(result: InferenceResult) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0))
    table.add_column("where the time goes")
    phases = [("prefill", result.prefill)] + ([("decode", result.decode)] if result.decode else [])
    for name, _ in phases:
        table.add_column(name, justify="right")
        table.add_column("", justify="right")
    names = dict.fromkeys(part for _, phase in phases for part in phase.breakdown_s)
    names = {part: None for part in names if any(_share(phase, part) >= _SHOWN_SHARE for _, phase in phases)}
    order = sorted(names, key=lambda part: -sum(phase.breakdown_s.get(part, 0.0) for _, phase in phases))
    for part in order:
        cells: list[str] = []
        for _, phase in phases:
            spent = phase.breakdown_s.get(part, 0.0)
            cells += [seconds(spent), f"{spent / phase.latency_s:.1%}"] if spent else ["-", ""]
        table.add_row(system_of(result.scenario).part_title(part), *cells)
    return table


_SHOWN_SHARE = 5e-4
"""Parts that round to 0.0 % of every phase are left out of the text (the JSON has them)."""


def _share(phase: Phase, part: str) -> float:
    return phase.breakdown_s.get(part, 0.0) / phase.latency_s


def _limits(result: InferenceResult) -> Text:
    text = Text("With this placement: largest batch ")
    text.append(count(result.max_batch_size), "bold")
    text.append(f" at these lengths ({_bound(result.batch_limited_by)}); longest context ")
    text.append(count(result.max_context_len), "bold")
    text.append(
        f" tokens at batch {result.scenario.workload.batch_size} ({_bound(result.context_limited_by)})."
    )
    held, engine = result.kv_capacity, result.engine_capacity
    if (
        not result.feasible or result.placement.kv_cache.gpu < 1
    ):  # none, or not all of it: no figure of the GPU says it
        return text
    if (
        held is not None and held.utilization is None
    ):  # the batch is one, prefilled at once: its size is the one above
        text.append("\nKV cache: room for ")
        text.append(count(held.tokens), "bold")
        text.append(" tokens beside the activations of this batch.")
    elif held is not None:
        text.append(f"\nKV cache, of {held.utilization:.3g} of the memory: room for ")
        text.append(count(held.tokens), "bold")
        text.append(f" tokens, {held.max_concurrency:,.1f} sequences of these lengths at once.")
    if engine is not None:
        text.append(
            f"\nA serving engine, which prefills in chunks, would hold ({engine.rule_of}, of {engine.utilization:.3g} of the "
            "memory) "
        )
        text.append(count(engine.tokens), "bold")
        text.append(f" tokens, {engine.max_concurrency:,.1f} sequences of these lengths at once.")
    return text


def _bound(limit: str) -> str:
    """What bounds it, in words."""
    named = {"model positions": "the model's positions", "scheduler": "the scheduler's limit"}
    return named.get(limit, limit)


def _money(result: InferenceResult, price: Price | float | None) -> Text | None:
    """Cost and energy of a token, with what they rest on; None where neither a price nor a TDP is known."""
    lines = []
    if price is not None:
        cost = cost_of(result, price)
        dated = f" ({cost.price.source}, {cost.price.date})" if cost.price is not None else ""
        lines.append(
            f"Cost: {dollars(cost.per_million_tokens)} per million tokens, {dollars(cost.total)} for this batch, "
            f"at ${cost.per_gpu_hour:g} per GPU-hour{dated}."
        )
    energy = energy_of(result)
    if energy is not None:
        watts = [energy.prefill_power_w] + ([energy.decode_power_w] if energy.decode_power_w else [])
        shown = " and ".join(f"{power:.0f} W" for power in watts)
        lines.append(
            f"Energy: {_joules(energy.j_per_token)} per token; one GPU draws {shown} in "
            f"{'prefill and decode' if len(watts) > 1 else 'prefill'} (from TDP and utilisation)."
        )
    return Text("\n".join(lines)) if lines else None


def dollars(value: float) -> str:
    """US dollars with four significant digits, whole ones from a hundred."""
    return f"${value:,.0f}" if value >= 100 else f"${value:.4g}"


def _joules(value: float) -> str:
    return f"{value:,.0f} J" if value >= 100 else f"{value:.3g} J"


def _fits(result: InferenceResult) -> Text:
    """What is taken of each memory, and how much of a batch runs at once where the rest of it waits."""
    batch, most = result.scenario.workload.batch_size, result.max_batch_size
    waits = float(result.memory.gpu.waiting_bytes) > 0 and most < batch
    beside = f"; {count(most)} of the {count(batch)} sequences at once, the others wait" if waits else ""
    text = fits_text(result.memory, beside)
    if result.may_not_fit and result.memory_interval_bytes is not None:
        low, high = result.memory_interval_bytes
        text.append(
            f"\n{LEVEL:.0%} interval of the GPU's peak {gib(low)} to {gib(high)}: it may not fit.", "yellow"
        )
    return text


def _does_not_fit(result: InferenceResult, changes: tuple[Change, ...]) -> Text:
    text = Text.assemble(("Does not fit. ", "bold red"), f"{result.reason}.")
    if not changes:
        text.append(
            "\nNo single change of batch, lengths, quantisation, offload or GPU count was found that fits."
        )
        return text
    text.append("\nThe smallest change that fits: ")
    text.append(changes[0].text, "bold")
    if changes[0].tokens_per_s is not None:
        text.append(f" ({rate(changes[0].tokens_per_s)} in decode)")
    if len(changes) > 1:
        text.append("\nAlso: " + "; ".join(change.text for change in changes[1:]))
    return text


def _nearest(nearest: dict[str, Any] | None) -> Text:
    if nearest is None:
        return Text(
            "Nearest measured run: none that ships is near this question, so nothing backs the answer."
        )
    text = Text.assemble(("Nearest measured run: ", "bold"), nearest["description"])
    for quantity in nearest["quantities"]:
        text.append(
            f"\n  {quantity['label']}: measured {_shown(quantity, 'measured')}, predicted "
            f"{_shown(quantity, 'predicted')} there ({percent(quantity['error'])})"
        )
    text.append(f"\n  source: {nearest['source']}", "dim")
    return text


def _shown(quantity: dict[str, Any], side: str) -> str:
    value = quantity[side]
    return {"s": seconds, "token/s": rate, "bytes": gib}[quantity["unit"]](value)


def log_section(result: InferenceResult, width: int | None = None) -> str:
    """The benchmark log under a heading, to be printed as it is: its text is the real run's, byte for byte.

    ``width`` is that of a terminal that would break lines within a number: they are broken between fields there.
    """
    heading = "Benchmark log, as a real run writes it (GB = 2^30; sizes are its estimates)"
    scenario = result.scenario
    real = model_weight_bytes(scenario) * scenario.parallelism.tp_size
    if abs(model_bytes(scenario.model) / real - 1) > _SAME_SIZE:
        heading += f"\nIts 'model size' is the log's own formula: these weights are {gib(real)}."
    log = prediction_log(result)
    if width is not None:
        log = "\n".join(part for line in log.splitlines() for part in _fields_in_width(line, width))
    return f"{heading}\n{log}"


def _fields_in_width(line: str, width: int) -> Iterator[str]:
    """A line of fields with tabs between them as lines of no more than ``width`` columns, where a field has no more."""
    begun, *fields = line.split("\t")
    for field in fields:
        longer = f"{begun}\t{field}"
        if len(longer.expandtabs()) > width:
            yield begun
            begun = field
        else:
            begun = longer
    yield begun


_SAME_SIZE = 0.02
"""Sizes that differ by no more are taken as the same."""


def comparison_report(
    results: list[InferenceResult],
    prices: Sequence[Price | float | None] = (),
    changes: tuple[Change, ...] = (),
    gains: tuple[Gain, ...] = (),
) -> RenderableType:
    """Several GPUs side by side, the answer first, then one row each, and what is missing where it does not fit."""
    rows = [
        {
            "weights on": _where(result.placement.weights),
            "TTFT": _brief(result.prefill.latency_s),
            "TPOT": _brief(result.tpot_s),
            "total": _brief(result.total_latency_s),
            "90%": factor_text(result.interval),
            "token/s": rate(result.total_throughput_tokens_per_s).removesuffix(" token/s"),
            "fits": "likely" if result.may_not_fit else "yes" if result.feasible else "no",
        }
        for result in results
    ]
    return side_by_side(comparison_answer(results, prices, changes, gains), results, rows)


def comparison_answer(
    results: Sequence[InferenceResult],
    prices: Sequence[Price | float | None] = (),
    changes: tuple[Change, ...] = (),
    gains: tuple[Gain, ...] = (),
) -> Answer:
    """Which of several GPUs hold it, and what the quickest does, in five lines; ``changes`` and ``gains`` are of that one."""
    costs = [
        None if price is None else cost_of(result, price).per_million_tokens
        for result, price in zip(results, prices, strict=False)
    ]
    tight = [result.scenario.gpu.name for result in results if result.may_not_fit]
    return several_answer(results, inference_answer(quickest_of(results), changes, gains), costs, tight)


def factor_text(interval: PredictionInterval | None) -> str:
    """How far off a measured total may be either way, in a word."""
    factor = None if interval is None else interval.total_factor
    return "-" if factor is None else f"x/{factor:.2f}"


def _brief(value_s: float | None) -> str:
    return "-" if value_s is None else brief(value_s)


def explanation_report(result: InferenceResult) -> RenderableType:
    """Each number with its formula, the values in it, and where they come from."""
    return explanation(result.scenario.gpu.name, explanations(result))
