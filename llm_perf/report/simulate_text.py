"""A simulation as text for people: whether the engine keeps up, how long requests wait, and how busy it is."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Final

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from llm_perf.analysis.simulation import Simulation, TimeInterval
from llm_perf.report.simulate_json import TIMES
from llm_perf.report.units import count, rate, seconds
from llm_perf.requests.summary import Distribution, Summary

_TITLES: Final = {
    "ttft_s": "TTFT",
    "tpot_s": "TPOT",
    "itl_s": "ITL",
    "e2e_s": "E2E",
    "queue_s": "in the queue",
}


def simulation_report(found: Simulation) -> RenderableType:
    """The whole report, readable at 80 columns."""
    return Group(*[Padding(block, (0, 0, 1, 0)) for block in simulation_sections(found).values()])


def simulation_sections(found: Simulation) -> dict[str, Text | Table]:
    """The report's parts by name, in its order."""
    parts: dict[str, Text | Table] = {
        "title": _title(found),
        "answer": _answer(found),
    }
    if found.summary.completed:  # else there is nothing that could have figures
        parts |= {"times": _times(found.summary), "engines": _engine(found), "interval": _interval(found)}
    money = _money(found)
    if money is not None:
        parts["money"] = money
    for number, warning in enumerate(found.warnings, start=1):
        parts[f"note {number}"] = Text.assemble(("note: ", "yellow"), warning)
    return parts


def _title(found: Simulation, *, swept: bool = False) -> Text:
    scenario, traffic = found.scenario, found.traffic
    sizes = [
        f"{name} {size}"
        for name, size in (
            ("tp", scenario.parallelism.tp_size),
            ("pp", scenario.parallelism.pp_size),
            ("dp", scenario.parallelism.dp_size),
            ("ep", scenario.parallelism.ep_size),
        )
        if size > 1
    ]
    sizes += [f"{traffic.replicas} replicas ({traffic.routing})"] if traffic.replicas > 1 else []
    gpus = scenario.gpu.name if found.num_gpus == 1 else f"{found.num_gpus} x {scenario.gpu.name}"
    formats = scenario.dtype.formats
    weights = f"{scenario.dtype.weight_bits} bit" if formats is None else formats.name
    return Text.assemble(
        (scenario.model.name, "bold"),
        " on ",
        (gpus, "bold"),
        f" (host {scenario.host.name})\n",
        ", ".join([f"{found.idle.system_name}, scheduler {found.outcome.scheduler}", *sizes]),
        f"; weights {weights}, KV cache {scenario.dtype.kv_bits} bit\n",
        _asked(found, swept),
    )


def _asked(found: Simulation, swept: bool) -> str:
    """The requests in one sentence."""
    traffic, requests = found.traffic, found.outcome.requests
    number = f"{count(len(requests))} requests"
    if requests.concurrency is not None:
        when = f", {requests.concurrency} in flight"
    elif traffic.rate is None:
        when = ""
    elif math.isinf(traffic.rate):
        when = ", all at once"
    else:
        kind = "Poisson" if traffic.burstiness == 1 else f"burstiness {traffic.burstiness:g}"
        when = f" at each rate ({kind})" if swept else f", {traffic.rate:g} per second ({kind})"
    if traffic.requests is not None:
        prompt, output = requests.prompt_tokens.mean(), requests.output_tokens.mean()
        return f"{number} of {traffic.requests}{when}, mean prompt {prompt:,.0f}, mean output {output:,.0f}"
    shared = f" after {traffic.prefix_len} shared" if traffic.prefix_len else ""
    talks = f", {traffic.turns} turns each" if traffic.turns > 1 else ""
    return f"{number}{when}, prompt {traffic.prompt_len}{shared}, generate {traffic.gen_len}{talks}; seed {traffic.seed}"


# -- the answer -------------------------------------------------------------------------------------------------


def _answer(found: Simulation) -> Text:
    summary = found.summary
    text = Text()
    for words, style in _verdict(found):
        text.append(words, style)
    if summary.completed:
        text.append(_figures(summary))
    if found.outcome.rejections:
        text.append(f"\n{found.outcome.rejections}.", "red")
    return text


def _figures(summary: Summary) -> str:
    return (
        f"\nTTFT {seconds(summary.ttft_s.p50)} (p95 {seconds(summary.ttft_s.p95)}), "
        f"TPOT {_time(summary.tpot_s.p50)} (p95 {_time(summary.tpot_s.p95)}); "
        f"{rate(summary.output_tokens_per_s)} generated, {summary.requests_per_s:.3g} requests/s."
    )


def _verdict(found: Simulation) -> Iterator[tuple[str, str]]:
    known = found.capacity
    if known is None:
        yield "No request ran.", "bold red"
    elif known.keeps_up is None:
        yield f"{count(found.summary.completed)} requests completed", "bold"
        yield f" in {seconds(found.summary.duration_s)}; ", ""
        yield f"at most {known.requests_per_s:.3g} requests/s of these lengths can be served.", ""
    elif known.keeps_up:
        yield "The engine keeps up: ", "bold green"
        yield (
            (
                f"{known.offered_per_s:.3g} of the {known.requests_per_s:.3g} requests/s that it can serve "
                f"({known.load:.0%})."
            ),
            "",
        )
    else:
        yield "The engine does not keep up: ", "bold red"
        yield (
            (
                f"{known.offered_per_s:.3g} requests/s come and at most {known.requests_per_s:.3g} are served, so the queue "
                f"grows without bound, by {known.growth_per_s:.3g} requests/s. The times below are of these "
                f"{count(len(found.outcome.requests))} requests alone and grow with their number."
            ),
            "",
        )


def _times(summary: Summary) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0))
    table.add_column("time")
    for name in Distribution.__slots__:
        table.add_column(name, justify="right")
    for name in TIMES:
        found = getattr(summary, name)
        table.add_row(_TITLES[name], *(_time(found.percentile(figure)) for figure in Distribution.__slots__))
    return table


def _time(value: float) -> str:
    return seconds(value) if math.isfinite(value) else "-"


def _engine(found: Simulation) -> Text:
    summary, outcome = found.summary, found.outcome
    idle = found.idle
    alone = f"TTFT {seconds(idle.ttft_s)}" + ("" if idle.tpot_s is None else f", TPOT {seconds(idle.tpot_s)}")
    decodes = "none of them decodes"
    if math.isfinite(summary.mean_batch):
        decodes = f"{summary.mean_batch:.3g} sequences decode in one on average"
    text = Text.assemble(
        ("engine: ", "bold"),
        f"{count(summary.steps)} steps, {decodes}; "
        f"busy {min(summary.busy, 1):.0%} of the time.\n"
        f"{summary.mean_running:.3g} requests run and {summary.mean_waiting:.3g} wait on average; a step "
        f"leaves at most {count(summary.peak_waiting)} waiting.\n"
        f"KV cache of {count(outcome.kv_capacity_tokens)} tokens: {summary.kv_utilization:.0%} in use, at most "
        f"{summary.peak_kv_utilization:.0%}",
    )
    text.append(f"; {count(summary.preempted)} preemptions" if summary.preempted else "; nothing preempted")
    text.append(f"; prefix hits {summary.prefix_hit_rate:.0%}" if summary.prefix_hit_rate else "")
    text.append(f".\nA request alone: {alone}.")
    return text


# -- how sure, and what it costs --------------------------------------------------------------------------------


def _interval(found: Simulation) -> Text:
    interval = found.interval
    if interval is None:
        return Text.assemble(("90% interval: ", "bold"), f"none; {found.no_interval}.")
    text = Text.assemble((f"{interval.level:.0%} interval: ", "bold"))
    text.append(", ".join(_ranges(interval)))
    low, high = interval.factors
    if interval.high is None:
        text.append(
            f"; there is no upper end, since with steps {high:.2f} times as long requests would come faster than they "
            "are served"
        )
    text.append(
        f"\nfrom {interval.method}: steps {low:.2f} to {high:.2f} times as long, and the requests simulated again"
    )
    return text


def _ranges(interval: TimeInterval) -> Iterator[str]:
    for name, figure in (("ttft_s", "p50"), ("ttft_s", "p95"), ("tpot_s", "p50"), ("tpot_s", "p95")):
        low, high = interval.ends(name, figure)
        if not math.isfinite(low):
            continue
        upto = "or more" if high is None else f"to {seconds(high)}"
        yield f"{_TITLES[name]} {figure} {seconds(low)} {upto}"


def _money(found: Simulation) -> Text | None:
    cost, energy = found.cost_per_million_tokens, found.energy_j_per_token
    if cost is None and energy is None:
        return None
    words = [] if cost is None else [f"${cost:.3g} per million generated tokens at these prices"]
    words += [] if energy is None else [f"{energy:.3g} J per generated token (GPUs)"]
    return Text("; ".join(words) + ".")


# -- several rates ----------------------------------------------------------------------------------------------


def rates_report(found: Sequence[Simulation], knee: Simulation | None) -> RenderableType:
    """A sweep over rates, readable at 80 columns."""
    return Group(*[Padding(part, (0, 0, 1, 0)) for part in rates_sections(found, knee).values()])


def rates_sections(found: Sequence[Simulation], knee: Simulation | None) -> dict[str, Text | Table]:
    """The report's parts by name: what the highest rate is that the engine keeps up with, and a row for each."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for name in ("rate/s", "TTFT p50", "p95", "TPOT p50", "p95", "token/s", "batch", "KV use"):
        table.add_column(name, justify="right", no_wrap=True)
    for one in found:
        summary = one.summary
        table.add_row(
            f"{one.traffic.rate:g}",
            _time(summary.ttft_s.p50),
            _time(summary.ttft_s.p95),
            _time(summary.tpot_s.p50),
            _time(summary.tpot_s.p95),
            rate(summary.output_tokens_per_s).removesuffix(" token/s"),
            f"{summary.mean_batch:.3g}" if math.isfinite(summary.mean_batch) else "-",
            f"{summary.kv_utilization:.0%}" if math.isfinite(summary.kv_utilization) else "-",
        )
    answer = Text()
    known = found[0].capacity
    if knee is None:
        answer.append("None of these rates can be served.", "bold red")
    else:
        answer.append(f"The engine keeps up to {knee.traffic.rate:g} requests/s of these rates", "bold")
        answer.append(
            f": TTFT p95 {_time(knee.summary.ttft_s.p95)}, TPOT p95 {_time(knee.summary.tpot_s.p95)}, "
            f"{rate(knee.summary.output_tokens_per_s)} generated."
        )
    if known is not None:
        answer.append(f"\nIt can serve {known.requests_per_s:.3g} requests/s of these lengths at most.")
    beyond = found[-1].capacity
    if beyond is not None and beyond.keeps_up is False:
        answer.append(
            f" At {beyond.offered_per_s:g} requests/s the queue grows by {beyond.growth_per_s:.3g} requests/s without end."
        )
    parts: dict[str, Text | Table] = {
        "title": _title(found[0], swept=True),
        "answer": answer,
        "rates": table,
        "interval": _interval(knee or found[0]),
    }
    for number, warning in enumerate(found[0].warnings, start=1):
        parts[f"note {number}"] = Text.assemble(("note: ", "yellow"), warning)
    return parts
