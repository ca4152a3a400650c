"""Requests over time on the page: latency over the rate up to what the engine serves, with a slider, and percentiles."""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from llm_perf.analysis.inference import InferenceResult
from llm_perf.errors import LLMPerfError
from llm_perf.explore import cards
from llm_perf.explore.drawn import view_of
from llm_perf.report.figure import INK, Panel, Series, amount_axis, time_axis
from llm_perf.report.looks import COLOURS
from llm_perf.report.units import rate, seconds
from llm_perf.requests.capacity import capacity_of, sample_of
from llm_perf.requests.simulate import places, simulate
from llm_perf.requests.steady import Steady, SteadyState
from llm_perf.requests.summary import Summary, summary_of
from llm_perf.requests.traffic import Traffic, requests_of
from llm_perf.requests.workload import Floats

__all__ = ["service_card"]

_RATES: Final = 24
_LOAD: Final = 0.7
"""Share of what is served at most at which requests are simulated, and where the slider begins."""
_SENT: Final = 300
_LONGEST: Final = 32_768
"""Tokens of a request beyond which the page simulates nothing, so that no answer takes long."""


def service_card(result: InferenceResult) -> dict[str, Any] | None:
    """The card; None where the system serves no requests that come and go, or does not fit."""
    workload, scenario = result.scenario.workload, result.scenario
    if not result.feasible or workload.gen_len < 2 or workload.context_len > _LONGEST:
        return None
    try:
        state = SteadyState(scenario, workload.context_len)
        lengths = (float(workload.prompt_len), float(workload.gen_len))
        roof = float(state.at(*lengths, rate=1e-6).roof_requests_per_s)
        traffic = Traffic(
            rate=roof, num_requests=_SENT, prompt_len=str(workload.prompt_len), gen_len=str(workload.gen_len)
        )
        sample = sample_of(traffic)
        known = capacity_of(
            lambda requests: simulate(scenario, requests),
            sample,
            places(scenario, sample),
            None,
            scenario.parallelism.dp_size,
        )
        if known is None:
            return None
        most = (
            known.requests_per_s
        )  # as llm-perf simulate says it; the closed form only draws the lines up to there
        rates = np.linspace(0.02, 0.98, _RATES) * min(most, roof)
        found = state.at(*lengths, rate=rates / scenario.parallelism.dp_size)
        summary = summary_of(simulate(scenario, requests_of(traffic.replace(rate=_LOAD * most))))
    except LLMPerfError:  # a system without a scheduler, or a division that is not simulated
        return None
    words = f"One engine serves at most {most:.3g} requests/s of {workload.prompt_len} + {workload.gen_len} tokens."
    parts = [
        cards.text(words),
        cards.figure("knee", knee_figure(rates, found)),
        cards.text(f"{_SENT} requests at {_LOAD:.0%} of that (Poisson), simulated one by one:"),
        percentiles(summary),
    ]
    return cards.card("requests", "Requests over time", parts)


def percentiles(summary: Summary) -> dict[str, Any]:
    """Mean and percentiles of each time, as ``llm-perf simulate`` counts them."""
    columns = ("time", "mean", "p50", "p90", "p95", "p99")
    rows = [
        (title, *(seconds(getattr(summary, name).percentile(figure)) for figure in columns[1:]))
        for name, title in (("ttft_s", "TTFT"), ("tpot_s", "TPOT"), ("itl_s", "ITL"), ("e2e_s", "E2E"))
    ]
    return cards.table(columns, rows) | {"name": "percentiles"}


def knee_figure(rates: Floats, found: Steady) -> dict[str, Any]:
    """TTFT and TPOT over the rate in the steady state; a slider moves a marker along both."""
    good = np.isfinite(found.ttft_s) & ~found.saturated
    rates = rates[good]
    ttft, tpot = found.ttft_s[good], found.tpot_s[good]
    tokens, batch = found.output_tokens_per_s[good], found.batch[good]
    begin = int(np.searchsorted(rates, _LOAD * rates[-1]))
    hover = [
        f"{rates[i]:.3g} requests/s: TTFT {seconds(float(ttft[i]))}, TPOT {seconds(float(tpot[i]))}, "
        f"{rate(float(tokens[i]))}, batch {batch[i]:.3g}"
        for i in range(len(rates))
    ]
    both = [float(ttft[begin]), float(tpot[begin])]
    marks = [
        Series(name, rates.tolist(), values.tolist(), COLOURS[number], line="solid", words=hover)
        for name, values, number in (("TTFT", ttft, 0), ("TPOT", tpot, 3))
    ]
    marks.append(
        Series("at this rate", [float(rates[begin])] * 2, both, INK, "circle", is_open=True, size=8.0)
    )
    steps = [
        {"method": "restyle", "label": f"{rates[i]:.3g}/s",
         "args": [{"x": [[float(rates[i])] * 2], "y": [[float(ttft[i]), float(tpot[i])]], "name": [hover[i]]}, [2]]}
        for i in range(len(rates))
    ]  # fmt: skip
    panel = Panel(
        amount_axis("requests per second", rates, log=False), time_axis("time", [*ttft, *tpot], log=True), marks, height=420,
        alt=f"TTFT and TPOT from {rates[0]:.3g} to {rates[-1]:.3g} requests per second",
        table=cards.table(
            ("requests/s", "TTFT", "TPOT", "token/s", "batch"),
            [
                (f"{rates[i]:.3g}", seconds(float(ttft[i])), seconds(float(tpot[i])),
                 rate(float(tokens[i])).removesuffix(" token/s"), f"{batch[i]:.3g}")
                for i in range(0, len(rates), 3)
            ],
        ),
    )  # fmt: skip
    drawn = view_of(panel)
    drawn["layout"]["sliders"] = [
        {"active": begin, "steps": steps, "currentvalue": {"prefix": "rate "}, "pad": {"t": 55}}
    ]
    return drawn
