"""A plan over requests as text for people: the deployment, what its requests meet, and how to start it."""

from __future__ import annotations

import math
from typing import Final

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from llm_perf.report.command import command_in_lines
from llm_perf.report.start_command import start_command
from llm_perf.report.units import count, rate, seconds
from llm_perf.search.service import ServiceCandidate, ServicePlan
from llm_perf.search.targets import QUANTITIES, Target

__all__ = ["service_report", "service_sections"]

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
    found: dict[str, Text | Table] = {"title": _title(answer)}
    if answer.best:
        best = answer.best[0]
        found["answer"] = _answer(answer, best)
        found["best"] = _table(answer.best)
        found["interval"] = _interval(best)
        found |= _commands(best)
    else:
        found["nothing"] = _nothing(answer)
    found["counts"] = Text(
        f"{count(answer.evaluated)} configurations in closed form, {answer.simulated} simulated request by request, in "
        f"{answer.seconds:.1f} s"
        + (f"; {len(answer.unpriced)} GPUs have no price (--prices FILE)." if answer.unpriced else ".")
    )
    return found


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
    sizes += [f"x {one.engines}"] if one.engines > 1 else []
    bits = one.inputs.quant_bits
    sizes += [f"{bits} bit"] if bits and bits < 16 else []
    return " ".join(sizes)


def _answer(answer: ServicePlan, best: ServiceCandidate) -> Text:
    engines = "one engine" if best.engines == 1 else f"{best.engines} engines"
    tp = best.inputs.tp_size or 1
    text = Text.assemble(
        (f"{best.num_gpus} x {best.simulation.scenario.gpu.name}", "bold green"),
        f" as {engines}" + ("" if tp == 1 else f" of tp {tp}"),
    )
    text.append(
        f", each running {best.running:.3g} requests on average"
        + (f", {best.load:.0%} loaded." if best.load else ".")
    )
    for target in answer.question.targets:
        value = best.figure(target)
        text.append(f"\n{_limit(target)}: {_amount(target, value)}, {target.used(value):.0%} of the limit")
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
            _number(one.values["cost_per_million_tokens"]),
            _number(one.values["energy_j_per_token"]),
        )
    return table


def _time(value: float) -> str:
    return seconds(value) if math.isfinite(value) else "-"


def _number(value: float) -> str:
    return f"{value:,.3g}" if math.isfinite(value) else "-"


def _interval(best: ServiceCandidate) -> Text:
    found = best.simulation.interval
    if found is None:
        return Text.assemble(("90% interval: ", "bold"), f"none; {best.simulation.no_interval}.")
    low, high = found.low, found.high
    text = Text.assemble((f"{found.level:.0%} interval: ", "bold"))
    if high is None:
        text.append(
            f"TTFT p95 {seconds(low.ttft_s.p95)} or more, TPOT p95 {_time(low.tpot_s.p95)} or more: with steps "
            f"{found.factors[1]:.2f} times as long, requests would come faster than they are served; one engine "
            "more is safer"
        )
    else:
        text.append(
            f"TTFT p95 {seconds(low.ttft_s.p95)} to {seconds(high.ttft_s.p95)}, TPOT p95 {_time(low.tpot_s.p95)} to "
            f"{_time(high.tpot_s.p95)} (steps {found.factors[0]:.2f} to {found.factors[1]:.2f} times as long)"
        )
    text.append(f"\nfrom {found.method}")
    return text


def _commands(best: ServiceCandidate) -> dict[str, Text]:
    """How to start the engine, and how to ask for the same simulation again."""
    found: dict[str, Text] = {}
    start = start_command(best.inputs)
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
