"""A simulation as text for people: whether the engine keeps up, how long requests wait, and how busy it is."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Final

import numpy as np
from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from llm_perf.analysis.advice import Change
from llm_perf.analysis.request_intervals import TimeInterval
from llm_perf.analysis.simulation import Simulation
from llm_perf.config.loading import checkpoint_of
from llm_perf.report.answer import ROOM, Answer, change_line, new_text, unknown_pieces
from llm_perf.report.simulate_json import TIMES
from llm_perf.report.units import brief, count, rate, seconds
from llm_perf.requests.capacity import Capacity
from llm_perf.requests.simulate import MOST_ENGINES
from llm_perf.requests.summary import Distribution, Summary
from llm_perf.systems import system_of

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
        "answer": simulation_answer(found).text,
        "title": _title(found),
    }
    if (found.capacity is not None and found.capacity.keeps_up is False) or found.outcome.rejections:
        parts["verdict"] = _verdict_text(found)
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
        _as_asked(found),
        " on ",
        (gpus, "bold"),
        f" (host {scenario.host.name})\n",
        ", ".join([f"{found.idle.system_name}, scheduler {found.outcome.scheduler}", *sizes]),
        f"; weights {weights}, KV cache {scenario.dtype.kv_bits} bit\n",
        _asked(found, swept),
    )


def _as_asked(found: Simulation) -> str:
    """The model's name as it was asked for, where it is another checkpoint's, of the same shapes."""
    asked = found.deployment.model
    known = checkpoint_of(asked)[0]
    return "" if known == found.scenario.model.name else f" (as {asked})"


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


def simulation_answer(found: Simulation) -> Answer:
    """What a simulation says, in five lines."""
    known, summary = found.capacity, found.summary
    if known is None:
        none = ["-"]
        return Answer(["no request ran"], none, none, none, ["see below why they were rejected"], good=False)
    return Answer(
        fits=_served(found, known),
        speed=[
            f"median (p95) TTFT {_median_p95(summary.ttft_s)}, TPOT {_median_p95(summary.tpot_s)}",
            rate(summary.output_tokens_per_s),
        ],
        sure=certainty_pieces(found),
        bound=bound_pieces(found),
        change=_more(found, known),
        good=known.keeps_up is not False and not found.outcome.rejections,
    )


def _median_p95(times: Distribution) -> str:
    """Both figures with one unit where they have the same: ``47.2 (63.1) ms``."""
    if not math.isfinite(times.p50):
        return "-"
    middle, late = brief(times.p50), brief(times.p95)
    number, _, unit = middle.partition(" ")
    end, _, other = late.partition(" ")
    return f"{number} ({end}) {unit}" if unit == other else f"{middle} ({late})"


def unfit_report(reason: str, changes: Sequence[Change]) -> RenderableType:
    """The answer where no request can be served: what is missing, and what would do."""
    none, said = ["-"], f"no. {reason}"
    fits = said if len(said) <= ROOM else "no. The weights leave no memory for a KV cache"
    change = change_line(changes) if changes else ["more GPUs (--tp-size)", "fewer bits (--weight-format)"]
    also = f"\nWhat fits: {'; or '.join(one.text for one in changes)}" if changes else ""
    return Group(Answer([fits], none, none, none, change, good=False).text, Text(), Text(f"{reason}.{also}"))


def _served(found: Simulation, known: Capacity) -> list[str]:
    """Whether the engine keeps up, and how near it is to what it can serve."""
    most = f"{known.requests_per_s:.3g} requests/s"
    if known.keeps_up is None:
        return [f"yes. {count(found.summary.completed)} requests completed", f"at most {most} can be served"]
    if known.keeps_up:
        return [f"The engine keeps up: {known.offered_per_s:.3g} of at most {most} ({known.load:.0%})"]
    return [
        f"The engine does not keep up: {known.offered_per_s:.3g} requests/s, at most {known.requests_per_s:.3g} served"
    ]


def may_not_keep_up(found: Simulation) -> bool:
    """Whether the engine keeps up as predicted, and not at the slow end of the interval."""
    known = found.capacity
    return (
        found.interval is not None
        and found.interval.high is None
        and known is not None
        and bool(known.keeps_up)
    )


def may_keep_up(found: Simulation) -> bool:
    """Whether the engine does not keep up as predicted, and does where its steps are as short as the interval's quick end."""
    known, interval = found.capacity, found.interval
    if interval is None or known is None or known.keeps_up is not False or known.offered_per_s is None:
        return False
    return known.offered_per_s * interval.factors[0] <= known.requests_per_s


def certainty_pieces(found: Simulation) -> list[str]:
    """How far off the slowest requests may be, and whether the engine may not keep up at all."""
    interval = found.interval
    if interval is None:
        return unknown_pieces(found.no_interval or "no interval of the steps")
    ranges = [_short_range(interval, name, "p95") for name in ("ttft_s", "tpot_s")]
    if may_not_keep_up(found):
        may = f"it may not keep up: steps may take {interval.factors[1]:.2f} times as long"
        return [f"{may} ({interval.level:.0%})", *ranges]
    if may_keep_up(found):
        may = f"it may keep up: steps may take {interval.factors[0]:.2f} times as long"
        return [f"{may} ({interval.level:.0%})", *ranges]
    new = [new_text(interval.novel)] if interval.novel else []
    return [f"{interval.level:.0%} interval: {ranges[0]}", *ranges[1:], *new]


def bound_pieces(found: Simulation) -> list[str]:
    """What the engine's steps wait for at the batch that they have, and what else is scarce."""
    summary = found.summary
    pieces = []
    decode = found.typical.decode
    if decode is not None:
        busy = min(decode.busy_s[decode.bottleneck] / decode.latency_s, 1.0)
        waits = f"{system_of(found.scenario).resource_title(decode.bottleneck)} (busy {busy:.0%})"
        running = f"{summary.mean_running:.3g} requests run on average"
        prompts = _time_of_prompts(found)
        reading = f"reading prompts ({prompts:.0%} of the time)"
        if prompts >= _MOST:
            pieces += [reading, waits, running]
        elif prompts >= _MUCH:
            pieces += [waits, reading, running]
        else:
            pieces.append(f"{waits}, {running}")
    if summary.preempted > _OFTEN * summary.completed:
        pieces.insert(0, f"the KV cache ({count(summary.preempted)} preemptions)")
    return [
        *pieces,
        f"engine busy {min(summary.busy, 1):.0%}",
        f"cache {summary.peak_kv_utilization:.0%} at most",
    ]


def _time_of_prompts(found: Simulation) -> float:
    """Share of all steps' time that prompts take: their own steps, and what they add to steps beside sequences that decode.

    What a step would take without them is the mean of those that only decode.
    """
    steps = found.outcome.steps
    reads = steps.prefill_tokens > 0
    whole, others = float(steps.duration_s.sum()), int(steps.count[~reads].sum())
    plain_s = float(steps.duration_s[~reads].sum()) / others if others else 0.0
    beside = np.where(steps.decode_sequences[reads] > 0, plain_s, 0.0)
    return float(np.maximum(steps.duration_s[reads] - beside, 0.0).sum()) / whole if whole > 0 else 0.0


_MUCH: Final = 0.25
_MOST: Final = 0.5
"""Shares of the time from which on prompts are named behind, and before, what a decode step waits for."""

_OFTEN: Final = 0.05
"""Preemptions per request from which on the cache is what binds."""

_COMFORTABLE: Final = 0.8
"""Share of what an engine serves at most that is planned for; nearer to it queues grow long."""


def _more(found: Simulation, known: Capacity) -> list[str]:
    """How many replicas the rate takes, or how much more rate there is room for."""
    replicas = found.traffic.replicas
    if known.load is None or known.offered_per_s is None:
        return ["give --rate to see how latency grows up to what it can serve"]
    each = known.requests_per_s / replicas
    needed = math.ceil(known.load * replicas / _COMFORTABLE)
    if needed > MOST_ENGINES:
        return [f"a lower --rate: this takes {count(needed)} replicas, of at most {MOST_ENGINES:,}"]
    if known.load > _COMFORTABLE:
        return [
            f"--replicas {needed}: {needed * each:.3g} requests/s at most, {known.load * replicas / needed:.0%} loaded"
        ]
    room = _COMFORTABLE * known.requests_per_s
    return [f"nothing has to; up to {room:.3g} requests/s it stays below {_COMFORTABLE:.0%} load"]


def _verdict_text(found: Simulation) -> Text:
    text = Text()
    for words, style in _verdict(found):
        text.append(words, style)
    if found.outcome.rejections:
        text.append(f"\n{found.outcome.rejections}.", "red")
    return text


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
    if interval.widths:
        text.append(f"; no narrower than published runs were off whose requests came so ({interval.load})")
    return text


def _ranges(interval: TimeInterval) -> Iterator[str]:
    for name, figure in (("ttft_s", "p50"), ("ttft_s", "p95"), ("tpot_s", "p50"), ("tpot_s", "p95")):
        if math.isfinite(interval.ends(name, figure)[0]):
            yield _named_range(interval, name, figure)


def _named_range(interval: TimeInterval, name: str, figure: str) -> str:
    low, high = interval.ends(name, figure)
    if not math.isfinite(low):
        return f"{_TITLES[name]} -"
    return f"{_TITLES[name]} {figure} {seconds(low)} {'or more' if high is None else f'to {seconds(high)}'}"


def _short_range(interval: TimeInterval, name: str, figure: str) -> str:
    """A range with its unit once where both ends have the same: a line has room for two."""
    low, high = interval.ends(name, figure)
    if high is None or not math.isfinite(low) or seconds(low).split()[1] != seconds(high).split()[1]:
        return _named_range(interval, name, figure)
    return f"{_TITLES[name]} {figure} {seconds(low).split()[0]} to {seconds(high)}"


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
    parts: dict[str, Text | Table] = {
        "answer": rates_answer(found, knee).text,
        "title": _title(found[0], swept=True),
        "rates": table,
        "interval": _interval(knee or found[0]),
    }
    for number, warning in enumerate(found[0].warnings, start=1):
        parts[f"note {number}"] = Text.assemble(("note: ", "yellow"), warning)
    return parts


def rates_answer(found: Sequence[Simulation], knee: Simulation | None) -> Answer:
    """Up to which rate the engine keeps up, in five lines."""
    shown, known, beyond = knee or found[0], found[0].capacity, found[-1].capacity
    most = [] if known is None else [f"at most {known.requests_per_s:.3g}"]
    change = ["give higher rates: it keeps up with all of these"]
    if beyond is not None and beyond.keeps_up is False:
        needed = math.ceil((beyond.load or 1) * shown.traffic.replicas / _COMFORTABLE)
        more = f"--replicas {needed}" if needed <= MOST_ENGINES else f"{count(needed)} replicas"
        change = [
            f"{more} for {beyond.offered_per_s:g} requests/s",
            f"one lets the queue grow by {beyond.growth_per_s:.3g} a second",
        ]
    fits = f"The engine keeps up to {shown.traffic.rate:g} requests/s of these rates"
    return Answer(
        fits=[fits if knee is not None else "no. None of these rates can be served", *most],
        speed=[
            f"at {shown.traffic.rate:g}/s TTFT p95 {_time(shown.summary.ttft_s.p95)}, "
            f"TPOT p95 {_time(shown.summary.tpot_s.p95)}",
            rate(shown.summary.output_tokens_per_s),
        ],
        sure=certainty_pieces(shown),
        bound=["no request ran"] if shown.capacity is None else bound_pieces(shown),
        change=change,
        good=knee is not None,
    )
