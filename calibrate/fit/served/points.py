"""Runs of served engines as targets of a fit: measured figures beside predictions that are asked for again and again.

A closed loop is answered by the engine's steady state, times what a simulation of its requests gives more than that: the one
is cheap and moves with the constants, the other knows how a loop begins and of lengths that differ (`Points.with_loops`).
Runs that share a deployment are predicted together, as arrays. Other loads are simulated each time.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from calibrate.evidence.benchmark_run import Figure, Quantity
from calibrate.evidence.request_figures import figures_of_requests
from calibrate.fit.served.answers import Answer, answer_of, of_batch
from calibrate.fit.served.deployment import Served, with_constants
from llm_perf.analysis.measures import Measures
from llm_perf.config.scenario import Scenario
from llm_perf.errors import LLMPerfError
from llm_perf.requests.steady import SteadyState
from llm_perf.systems import Load, system_of

MAIN: Final[tuple[Quantity, ...]] = (
    "tpot_s", "step_s", "itl_s", "decode_tokens_per_s", "decode_s", "output_tokens_per_s", "total_tokens_per_s", "batch_s",
    "e2e_s", "requests_per_s",
)  # fmt: skip
"""Quantities of a run in the order in which one stands for its decode."""

_FIRST: Final[tuple[Quantity, ...]] = ("ttft_s", "prefill_s", "prefill_tokens_per_s")
"""Likewise of its prompt."""


@dataclass(frozen=True)
class Target:
    """One measured figure of a run.

    Attributes:
        at: Index of the run.
        figure: As it was measured.
        measured: Its value for the whole deployment.
        main: Whether it stands for the run's decode.
        part: First request and the one behind the last, of a trace, whose parts are under different loads; None: all.
    """

    at: int
    figure: Figure
    measured: float
    main: bool
    part: tuple[int, int] | None = None

    @property
    def sign(self) -> float:
        """-1 of rates, so that positive log ratios are too slow everywhere."""
        return -1.0 if self.figure.quantity.endswith("_per_s") else 1.0


_PARTS: Final = 4
"""Parts of a trace, by arrival: the engine fills, is full, and drains."""

_FEWEST: Final = 10
"""Requests that make a part."""


def targets_of(served: Sequence[Served]) -> list[Target]:
    """What of each run is fitted: one figure of its decode, one of its prompts; of a trace, of each of its parts."""
    found = []
    for index, one in enumerate(served):
        parts = _of_trace(index, one)
        if parts:
            found += parts
            continue
        for names in (MAIN, _FIRST):
            figure = next((f for name in names if (f := _middle(one, name)) is not None), None)
            if figure is not None:
                gpus = one.num_gpus if figure.scope == "per_gpu" else 1
                found.append(Target(index, figure, figure.value * gpus, names is MAIN))
    return found


def _of_trace(index: int, served: Served) -> list[Target]:
    """Mean times of the parts of a trace; none of other runs, or of few requests."""
    requests = served.run.requests
    if served.run.load.kind != "trace" or requests is None or len(requests) < _PARTS * _FEWEST:
        return []
    found = []
    ends = [round(len(requests) * part / _PARTS) for part in range(_PARTS + 1)]
    for low, high in itertools.pairwise(ends):
        found += [
            Target(index, figure, figure.value, figure.quantity == "tpot_s", (low, high))
            for figure in figures_of_requests(requests[low:high])
            if figure.statistic == "mean" and figure.quantity in ("ttft_s", "tpot_s") and figure.value > 0
        ]
    return found


def _middle(served: Served, quantity: Quantity) -> Figure | None:
    """The mean of a quantity, else its median; None where neither is above 0."""
    for figure in (served.run.figure(quantity), served.run.figure(quantity, "p50")):
        if figure is not None and figure.value > 0:
            return figure
    return None


class Points:
    """Runs whose predictions are asked for under many constants."""

    def __init__(self, served: Sequence[Served]) -> None:
        self.served = tuple(served)
        self.targets = tuple(targets_of(served))
        self.loops = np.zeros(len(self.targets))
        """Log of what a simulation gives over the steady state, per target."""
        self.left_out: dict[int, str] = {}
        """Runs that cannot be predicted, with the reason."""
        self._groups = _grouped(self.served)
        self._of_run = [
            [n for n, target in enumerate(self.targets) if target.at == index]
            for index in range(len(self.served))
        ]

    def log_ratios(self, constants: Mapping[str, float]) -> np.ndarray:
        """log(predicted / measured) per target, positive where too slow; 0 for runs that are left out."""
        found = np.zeros(len(self.targets))
        for kind, indices in self._groups:
            if kind == "batch":
                self._batches(indices, constants, found)
            elif kind == "closed":
                self._closed(indices, constants, found)
            else:
                for index in indices:
                    self._simulated(index, constants, found)
        return found

    def with_loops(self, constants: Mapping[str, float]) -> Points:
        """The same runs, whose closed loops' steady states are set right by simulations under these constants."""
        found = Points(self.served)
        found.left_out = dict(self.left_out)
        steady = found.log_ratios(constants)
        for kind, indices in self._groups:
            for index in indices if kind == "closed" else ():
                simulated = np.zeros(len(self.targets))
                found._simulated(index, constants, simulated)
                for n in self._of_run[index]:
                    found.loops[n] = 0.0 if index in found.left_out else simulated[n] - steady[n]
        return found

    def exact(self, constants: Mapping[str, float]) -> np.ndarray:
        """`log_ratios` with closed loops simulated under these very constants."""
        return self.with_loops(constants).log_ratios(constants)

    def _set(self, index: int, answer: Answer, found: np.ndarray) -> None:
        for n in self._of_run[index]:
            target = self.targets[n]
            predicted = predicted_of(answer, target)
            if predicted is None:
                self.left_out[index] = f"{target.figure.quantity} is not predicted"
                continue
            gpus = self.served[index].num_gpus if target.figure.scope == "per_gpu" else 1
            found[n] = target.sign * math.log(predicted * gpus / target.measured)

    def _simulated(self, index: int, constants: Mapping[str, float], found: np.ndarray) -> None:
        if index in self.left_out:
            return
        try:
            self._set(index, answer_of(self.served[index], constants), found)
        except LLMPerfError as error:
            self.left_out[index] = str(error)

    def _batches(self, indices: Sequence[int], constants: Mapping[str, float], found: np.ndarray) -> None:
        runs = [self.served[index] for index in indices]
        scenario = with_constants(runs[0], constants)
        load = Load(*np.array([[one.concurrency, one.prompt, one.output] for one in runs], float).T)
        values = of_batch(
            Measures.of(system_of(scenario).evaluate(scenario, load), load, scenario.model), load
        )
        self._of_arrays(indices, {name: np.broadcast_to(v, len(runs)) for name, v in values.items()}, found)

    def _closed(self, indices: Sequence[int], constants: Mapping[str, float], found: np.ndarray) -> None:
        runs = [self.served[index] for index in indices]
        scenario = with_constants(runs[0], constants)
        engines = scenario.parallelism.dp_size
        prompt, output, running = np.array(
            [[one.prompt, one.output, one.concurrency / engines] for one in runs], float
        ).T
        try:
            steady = SteadyState(scenario, int((prompt + output).max()) + 1).at(
                prompt, output, concurrency=running
            )
        except LLMPerfError as error:
            self.left_out |= dict.fromkeys(indices, str(error))
            return
        rate = steady.output_tokens_per_s * engines
        values: dict[Quantity, Any] = {
            "ttft_s": steady.ttft_s,
            "tpot_s": steady.tpot_s,
            "itl_s": steady.tpot_s,
            "e2e_s": steady.e2e_s,
            "output_tokens_per_s": rate,
            "input_tokens_per_s": rate * prompt / output,
            "total_tokens_per_s": rate * (prompt + output) / output,
            "requests_per_s": rate / output,
        }
        self._of_arrays(indices, values, found)

    def _of_arrays(self, indices: Sequence[int], values: Mapping[Quantity, Any], found: np.ndarray) -> None:
        for place, index in enumerate(indices):
            if index in self.left_out:
                continue
            for n in self._of_run[index]:
                target = self.targets[n]
                value = values.get(target.figure.quantity)
                predicted = math.nan if value is None else float(value[place])
                if not predicted > 0 or not math.isfinite(predicted):
                    self.left_out[index] = f"{target.figure.quantity} is not predicted"
                    continue
                found[n] = target.sign * math.log(predicted / target.measured) + self.loops[n]


def predicted_of(answer: Answer, target: Target) -> float | None:
    """What an answer says of a target, in the scope of its figure; of a part of a trace the mean over its requests."""
    return answer.figure(target.figure) if target.part is None else _of_part(answer, target)


def _of_part(answer: Answer, target: Target) -> float | None:
    low, high = target.part or (0, None)
    values = answer.times[target.figure.quantity][low:high]
    there = values[np.isfinite(values)]
    return float(there.mean()) if len(there) else None


def _grouped(served: Sequence[Served]) -> list[tuple[str, list[int]]]:
    """(kind, runs) that are predicted together: of one deployment, whatever their batch and lengths."""
    groups: dict[tuple[str, Any], list[int]] = {}
    for index, one in enumerate(served):
        if one.requests is None:
            groups.setdefault(("batch", _key(one.scenario, shared=one.inputs.shared_prefix)), []).append(
                index
            )
        elif one.run.load.kind == "closed_loop":
            groups.setdefault(("closed", _key(one.scenario, shared=False)), []).append(index)
        else:
            groups.setdefault(("each", index), []).append(index)
    return [(kind, indices) for (kind, _), indices in groups.items()]


def _key(scenario: Scenario, *, shared: bool) -> Any:
    """What two runs of one group have in common; a prefix that is shared belongs to the lengths, and stays alone."""
    workload = scenario.workload
    if not shared:
        workload = workload.replace(batch_size=scenario.parallelism.dp_size, prompt_len=1, gen_len=1)
    return repr(
        (scenario.model.name, scenario.gpu.name, scenario.host, scenario.system, scenario.system_version, scenario.dtype,
         scenario.parallelism, scenario.offload, scenario.constants, workload)
    )  # fmt: skip
