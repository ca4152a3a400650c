"""Between which values a run's mean times were to be expected: the interval that ``llm-perf simulate`` prints of it."""

from __future__ import annotations

from typing import Final

from calibrate.evidence.benchmark_run import Quantity
from calibrate.fit.served.deployment import Served
from llm_perf.analysis.simulation import ServiceInputs, Simulation
from llm_perf.errors import LLMPerfError
from llm_perf.requests.simulate import of_mean_lengths, simulate
from llm_perf.requests.summary import summary_of

_TIMES: Final[tuple[Quantity, ...]] = ("ttft_s", "tpot_s")
_MOST: Final = 5000
"""Requests of a run whose interval, two further simulations, is waited for."""


def intervals_of(served: Served) -> dict[Quantity, tuple[float, float]]:
    """Both ends of the 90 % interval of a closed loop's mean times to first token and between tokens.

    Empty of other loads and of a deployment of which no published run says how far its steps are off.
    """
    requests = served.requests
    if requests is None or requests.concurrency is None or len(requests) > _MOST:
        return {}
    try:
        outcome = simulate(served.scenario, requests)
        known = Simulation(
            served.inputs, ServiceInputs(concurrency=requests.concurrency, warm_up=served.warm_up,
                                         prompt_len=f"{served.prompt:g}", gen_len=f"{served.output:g}"),
            of_mean_lengths(served.scenario, requests), outcome, summary_of(outcome, served.warm_up),
        ).interval  # fmt: skip
    except LLMPerfError:
        return {}
    found: dict[Quantity, tuple[float, float]] = {}
    for name in _TIMES if known is not None else ():
        low, high = known.ends(name, "mean") if known is not None else (0.0, None)
        if high is not None and low > 0:
            found[name] = (low, high)
    return found
