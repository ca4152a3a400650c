"""A run whose tokens come sooner than what was in flight can be read from memory: it is not the run that its file states.

How many generate at once follows from the run's own figures, whatever its load generator kept in flight: requests wait, and
read prompts. What a step reads is linear in their number, so that the mean of the times is no shorter than the time of the
mean number.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from calibrate.evidence.benchmark_run import BenchmarkRun, Quantity
from calibrate.fit.served.deployment import Served
from calibrate.fit.served.plausible import least_times

_ABOVE: Final = 1.05
"""Factor above the data sheet's bandwidth that a run may reach: boards clock their memory as it says, figures are rounded.

Of 1,396 published closed loops that state both times none reads faster than 0.9 of the data sheet so reckoned.
"""

WHY: Final = "fewer ran at once, prompts were shared, or the cache is narrower"


@dataclass(frozen=True)
class Below:
    """A mean time per output token, and the least that memory allows for what generated at once.

    Attributes:
        measured_s, least_s: Both times.
        sequences: How many generated at once, by the run's figures.
        tokens: Of each in the middle of its output.
        gpus: Of the deployment.
        bytes_per_s: Of a GPU's memory.
    """

    measured_s: float
    least_s: float
    sequences: float
    tokens: float
    gpus: int
    bytes_per_s: float

    @property
    def short(self) -> str:
        """In a line."""
        return (
            f"TPOT {self.measured_s * 1e3:.3g} ms: {self.sequences:.0f} sequences of {self.tokens:,.0f} tokens "
            f"need {self.least_s * 1e3:.3g} ms"
        )

    @property
    def reason(self) -> str:
        """With what it is reckoned from, and what may be."""
        rate = ("" if self.gpus == 1 else f"{self.gpus} x ") + f"{self.bytes_per_s / 1e9:,.0f} GB/s"
        return (
            f"TPOT {self.measured_s * 1e3:.3g} ms is below the {self.least_s * 1e3:.3g} ms that the weights and "
            f"{self.sequences:.0f} sequences of {self.tokens:,.0f} tokens, which generated at once by its own figures, "
            f"need to be read at {rate}: {WHY}"
        )


def below_floor(served: Served) -> Below | None:
    """What is below the floor of a run whose requests come and go; None where nothing is, or nothing tells."""
    run, scenario = served.run, served.scenario
    output = served.output
    tpot = _mean(run, "tpot_s")
    if served.requests is None or scenario.gpu.absent or tpot is None or output <= 1:
        return None
    sequences = _generating(run, tpot, output)
    if sequences is None:
        return None
    tokens = served.prompt + output / 2
    _, least = least_times(scenario, max(sequences, float(scenario.parallelism.dp_size)), tokens, 2.0)
    if least <= _ABOVE * tpot:
        return None
    return Below(tpot, least, sequences, tokens, served.num_gpus, scenario.gpu.hbm_bandwidth_bytes_per_s)


def _generating(run: BenchmarkRun, tpot: float, output: float) -> float | None:
    """How many requests generate at once on average: tokens per second times the seconds of one (Little's law).

    Without a rate, of those in flight the share of its time that a request generates.
    """
    in_flight = run.load.concurrency if run.load.kind == "closed_loop" else None
    rate = _mean(run, "output_tokens_per_s")
    if rate is not None:
        found = rate * (output - 1) / output * tpot
        return found if in_flight is None else min(found, in_flight)
    ttft = _mean(run, "ttft_s")
    if in_flight is None or ttft is None:
        return None
    generates = tpot * (output - 1)
    return in_flight * generates / (ttft + generates)


def _mean(run: BenchmarkRun, quantity: Quantity) -> float | None:
    """The mean of the whole deployment, and no median: of what spreads they differ."""
    found = run.figure(quantity, "mean")
    if found is None or not found.value > 0:
        return None
    return found.value * ((run.deployment.num_gpus or 1) if found.scope == "per_gpu" else 1)
