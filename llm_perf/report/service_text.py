"""A plan over requests as text for people: the deployment, what its requests meet, and how to start it."""

from __future__ import annotations

import math
from typing import Final

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from llm_perf.analysis.request_intervals import TimeInterval
from llm_perf.report.answer import Answer
from llm_perf.report.command import command_in_lines
from llm_perf.report.plan_text import not_searched
from llm_perf.report.simulate_text import bound_pieces, certainty_pieces, may_not_keep_up
from llm_perf.report.start_command import start_command
from llm_perf.report.units import count, rate, seconds, three_digits
from llm_perf.search.service import ServiceCandidate, ServicePlan
from llm_perf.search.targets import QUANTITIES, Target

_OBJECTIVES: Final = {
    "cost": "least US dollars per token",
    "energy": "least joules per token",
    "gpus": "fewest GPUs",
    "throughput": "most tokens per second",
}


def service_report(answer: ServicePlan) -> RenderableType:
    """The whole report, readable at 80 columns."""
    return Group(*[Padding(block, (0, 0, 1, 0)) for block in service_sections(answer).values()])


def service_sections(answer: ServicePlan) -> dict[str, Text | Table]:
    """The report's parts by name, in its order."""
    found: dict[str, Text | Table] = {"lines": service_answer(answer).text, "title": _title(answer)}
    if answer.best:
        best = answer.best[0]
        found["answer"] = _answer(answer, best)
        found["best"] = _table(answer.best)
        found["interval"] = _intervals(answer.best) if len(answer.best) > 1 else _interval(best)
        found |= _commands(best)
    else:
        found["nothing"] = _nothing(answer)
    found["counts"] = Text(
        f"{count(answer.evaluated)} configurations in closed form, {answer.simulated} simulated request by request, in "
        f"{answer.seconds:.1f} s"
        + (f"; {len(answer.unpriced)} GPUs have no price (--prices FILE)." if answer.unpriced else ".")
        + not_searched(answer)
    )
    return found


def _priced(candidate: ServiceCandidate) -> list[str]:
    """What a million tokens cost, where the GPU has a price."""
    cost = candidate.values["cost_per_million_tokens"]
    return [f"${three_digits(cost)} per million tokens"] if math.isfinite(cost) else []


def service_answer(answer: ServicePlan) -> Answer:
    """What a plan found, in five lines."""
    if not answer.best:
        none, said = ["-"], _nothing(answer).plain.splitlines()
        change = ["more GPUs (--max-gpus), fewer bits (--quant-bits 4), looser targets"]
        return Answer([f"no. {said[0]}"], said[1:2] or none, none, none, change, good=False)
    best, *others = answer.best
    found, summary = best.simulation, best.simulation.summary
    how = f"{best.num_gpus} x {found.scenario.gpu.name} {_how(best)}".strip()
    change = ["no other GPU meets the targets, or none is shown (--gpus, --top)"]
    if others:
        other = others[0]
        change = [
            f"next best: {other.num_gpus} x {other.simulation.scenario.gpu.name} {_how(other)}".rstrip(),
            *_priced(other),
        ]
    fits = "yes"
    if may_not_keep_up(found):
        fits = "as predicted, but it may not keep up"
    elif any(best.may_miss(target) for target in answer.question.targets):
        fits = "as predicted, but it may miss a target"
    return Answer(
        fits=[
            f"{fits}. {how}",
            *_priced(best),
        ],
        speed=[
            f"TTFT p95 {_time(summary.ttft_s.p95)}, TPOT p95 {_time(summary.tpot_s.p95)}",
            rate(best.values["throughput_tokens_per_s"]),
        ],
        sure=certainty_pieces(found),
        bound=bound_pieces(found),
        change=change,
        good=True,
    )


def _title(answer: ServicePlan) -> Text:
    question = answer.question
    wanted = ", ".join(_limit(target) for target in question.targets) or "no target"
    return Text.assemble(
        (question.model, "bold"),
        f" under {question.system}: {_asked(answer)}, prompt {question.prompt_len}, generate {question.gen_len}, up to "
        f"{count(question.max_gpus)} GPUs\n{wanted}; {_OBJECTIVES[question.objective]}",
    )


def _asked(answer: ServicePlan) -> str:
    question = answer.question
    if question.concurrency is not None:
        return f"{question.concurrency} requests in flight"
    if question.rate is not None:
        return f"{question.rate:g} requests/s"
    return f"the requests of {question.requests}"


def _limit(target: Target) -> str:
    sign = "at most" if target.at_most else "at least"
    return f"{target.figure + ' ' if target.of_requests else ''}{target.name} {sign} {_amount(target, target.limit)}"


def _amount(target: Target, value: float) -> str:
    unit = QUANTITIES[target.name][1]
    if not math.isfinite(value):
        return "-"
    return {"s": seconds, "token/s": rate}[unit](value) if unit in ("s", "token/s") else f"{value:.3g} {unit}"


def _how(one: ServiceCandidate) -> str:
    sizes = [
        f"{name} {size}"
        for name, size in (("tp", one.inputs.tp_size), ("pp", one.inputs.pp_size))
        if (size or 1) > 1
    ]
    if one.reading:
        sizes += [f"{one.reading}+{one.engines} pools"]
    elif one.engines > 1:
        sizes += [f"x {one.engines}"]
    sizes += [f"seqs {one.inputs.max_num_seqs}"] if one.inputs.max_num_seqs else []
    bits = one.inputs.quant_bits
    sizes += [f"{bits} bit"] if bits and bits < 16 else []
    return " ".join(sizes)


def _answer(answer: ServicePlan, best: ServiceCandidate) -> Text:
    engines = "one engine" if best.engines == 1 else f"{best.engines} engines"
    if best.reading:
        readers = "one engine" if best.reading == 1 else f"{best.reading} engines"
        engines = f"{readers} that only read prompts and {best.engines} that generate"
    sizes = " ".join(
        f"{name} {size}"
        for name, size in (("tp", best.inputs.tp_size), ("pp", best.inputs.pp_size))
        if (size or 1) > 1
    )
    text = Text.assemble(
        (f"{best.num_gpus} x {best.simulation.scenario.gpu.name}", "bold green"),
        f" as {engines}"
        + (f", each of {sizes}" if sizes and best.reading else f" of {sizes}" if sizes else ""),
    )
    if best.inputs.max_num_seqs:
        text.append(f" with at most {best.inputs.max_num_seqs} sequences at once")
    text.append(
        f", each running {best.running:.3g} requests on average"
        + (f", {best.load:.0%} loaded." if best.load else ".")
    )
    for target in answer.question.targets:
        value = best.figure(target)
        used = f"{_amount(target, value)}, {target.used(value):.0%} of the limit"
        text.append(
            f"\n{_limit(target)}: {used if math.isfinite(value) else 'none of these requests has one'}"
        )
    return text


def _table(candidates: tuple[ServiceCandidate, ...]) -> Table:
    table = Table(
        box=None, pad_edge=False, title="Best of each GPU", title_justify="left", title_style="bold"
    )
    table.add_column("GPU", overflow="fold")
    table.add_column("how", no_wrap=True)
    for name in ("load", "runs", "TTFT\np95", "TPOT\np95", "token/s", "$/M\ntoken", "J/\ntoken"):
        table.add_column(name, justify="right", no_wrap=True)
    for one in candidates:
        summary = one.simulation.summary
        table.add_row(
            f"{one.num_gpus} x {one.simulation.scenario.gpu.name}",
            _how(one),
            "-" if one.load is None else f"{one.load:.0%}",
            f"{one.running:.3g}",
            _time(summary.ttft_s.p95),
            _time(summary.tpot_s.p95),
            rate(one.values["throughput_tokens_per_s"]).removesuffix(" token/s"),
            three_digits(one.values["cost_per_million_tokens"]),
            three_digits(one.values["energy_j_per_token"]),
        )
    return table


def _time(value: float) -> str:
    return seconds(value) if math.isfinite(value) else "-"


def _interval(best: ServiceCandidate) -> Text:
    found = best.simulation.interval
    if found is None:
        return Text.assemble(("90% interval: ", "bold"), f"none; {best.simulation.no_interval}.")
    text = Text.assemble((f"{found.level:.0%} interval: ", "bold"))
    text.append(f"TTFT p95 {_range(found, 'ttft_s')}, TPOT p95 {_range(found, 'tpot_s')}")
    if found.high is None:
        text.append(f": with steps {found.factors[1]:.2f} times as long, {_TOO_FAST}")
    else:
        text.append(f" (steps {found.factors[0]:.2f} to {found.factors[1]:.2f} times as long)")
    text.append(f"\nfrom {found.method}")
    return text


_TOO_FAST: Final = "requests would come faster than they are served; one engine more is safer"


def _range(found: TimeInterval, name: str) -> str:
    """Both ends of a 95th percentile."""
    low, high = found.ends(name, "p95")
    if not math.isfinite(low):
        return "-"
    return f"{_time(low)} or more" if high is None else f"{_time(low)} to {_time(high)}"


def _intervals(candidates: tuple[ServiceCandidate, ...]) -> Table:
    """The interval of each answer."""
    table = Table(
        box=None, pad_edge=False, title="90% intervals", title_justify="left", title_style="bold",
        caption_justify="left", caption_style="",
    )  # fmt: skip
    table.add_column("GPU", overflow="fold")
    for name in ("TTFT p95", "TPOT p95", "steps take"):
        table.add_column(name, no_wrap=True)
    unbounded = False
    for one in candidates:
        gpus, found = f"{one.num_gpus} x {one.simulation.scenario.gpu.name}", one.simulation.interval
        if found is None:
            table.add_row(gpus, "none", "none", "-")
            continue
        unbounded |= found.high is None
        low, high = found.factors
        table.add_row(
            gpus, _range(found, "ttft_s"), _range(found, "tpot_s"), f"{low:.2f} to {high:.2f} times"
        )
    known = candidates[0].simulation
    said = known.no_interval if known.interval is None else f"from {known.interval.method}"
    table.caption = f"first: {said}" + (f"; or more: {_TOO_FAST}" if unbounded else "")
    return table


def _commands(best: ServiceCandidate) -> dict[str, Text]:
    """How to start the engine, and how to ask for the same simulation again."""
    found: dict[str, Text] = {}
    if best.reading:
        for pool, (count_, what) in enumerate(((best.reading, "reads prompts"), (best.engines, "generates"))):
            each = start_command(best.inputs, pool)
            if each is not None:
                found[f"start {what}"] = Text.assemble(
                    (f"start what {what} ({count_} of these):\n", "bold"), (each, "cyan")
                )
    start = None if best.reading else start_command(best.inputs)
    if start is not None:
        each = "" if best.engines == 1 else f" ({best.engines} of these, behind one address)"
        found["start"] = Text.assemble((f"start{each}:\n", "bold"), (start, "cyan"))
    traffic = best.simulation.traffic.model_dump(exclude_defaults=True)
    again = command_in_lines("llm-perf simulate", best.inputs.model_dump(exclude_defaults=True) | traffic)
    found["command"] = Text.assemble(("simulated:\n", "bold"), (again, "cyan"))
    return found


def _nothing(answer: ServicePlan) -> Text:
    text = Text("Nothing meets the targets.", "bold red")
    nearest = answer.nearest
    if nearest is None:
        fits = "No division within --max-gpus holds the model and serves so many requests."
        text.append(f" {fits}", "")
        reason = next(iter(answer.refused.values()), None)
        text.append(f" The first refusal: {reason}" if reason and not answer.evaluated else "", "")
        return text
    text.append(f"\nNearest: {nearest.num_gpus} x {nearest.simulation.scenario.gpu.name} {_how(nearest)}", "")
    for target in answer.question.targets:
        text.append(f"\n{_limit(target)}: {_amount(target, nearest.figure(target))}", "")
    return text
