"""Predictions of observed rows: the very steps and arrivals, through the engine that `llm-perf simulate` runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from calibrate.fit.observe.parameters import opened
from calibrate.fit.observe.rows import Row
from calibrate.fit.overrides import Overrides
from calibrate.fit.refit import Parameter
from llm_perf.config.scenario import Scenario
from llm_perf.requests.limits import Limits
from llm_perf.requests.simulate import of_lengths, rules_of, serve, step_times
from llm_perf.requests.step_times import StepTimes
from llm_perf.systems.scheduling import SchedulerRules

_KEPT = 64


@dataclass
class _Engine:
    """One model's engine at one vector of values."""

    rules: SchedulerRules
    limits: Limits
    times: StepTimes


@dataclass
class ServedModel:
    """Predicts rows of several models on one stack, with values of its parameters.

    Attributes:
        scenarios: The deployment of each model.
        parameters: What may change.
        most_sequences: Of any row: tables reach as far.
        longest: Tokens of the longest request.
    """

    scenarios: Mapping[str, Scenario]
    parameters: Sequence[Parameter]
    most_sequences: int
    longest: int
    _overrides: Overrides = field(init=False, repr=False)
    _known: dict[tuple[str, tuple[float, ...]], _Engine] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        """Prepare the places of the parameters."""
        self._overrides = Overrides(self.parameters)

    @classmethod
    def of(
        cls, scenarios: Mapping[str, Scenario], parameters: Sequence[Parameter], rows: Sequence[Row]
    ) -> ServedModel:
        """A model whose tables hold all of these rows."""
        own = [row for row in rows if row.result is None]
        most = max(
            (max(row.batch, len(row.arrivals.prompt) if row.arrivals else 0) for row in own), default=1
        )
        longest = max((row.point[1] + row.point[2] for row in own), default=1)
        return cls({name: opened(one) for name, one in scenarios.items()}, parameters, most, longest + 1)

    def __call__(self, row: Row, values: Mapping[str, float]) -> float:
        """Seconds of a row."""
        if row.result is not None:
            return row.result.seconds_of(self._overrides.apply(row.result.scenario, values))
        engine = self._engine(row.model, values)
        if row.kind == "step":
            return engine.times.decode_s(row.batch, row.context)
        if row.arrivals is None:
            raise ValueError("a row of first tokens without its arrivals")
        outcome = serve(row.arrivals.requests(), engine.rules, engine.limits, engine.times)
        return float(np.mean(outcome.first_token_s - outcome.arrival_s))

    def _engine(self, model: str, values: Mapping[str, float]) -> _Engine:
        key = (model, tuple(values[one.name] for one in self.parameters))
        found = self._known.get(key)
        if found is None:
            while len(self._known) >= _KEPT:
                self._known.pop(next(iter(self._known)))
            found = self._known[key] = self._built(model, values)
        return found

    def _built(self, model: str, values: Mapping[str, float]) -> _Engine:
        scenario = of_lengths(
            self._overrides.apply(self.scenarios[model], values), max(self.longest - 1, 1), 1
        )
        rules = rules_of(scenario)
        limits = Limits.of(scenario, rules, self.longest)
        step = min(limits.step_tokens, self.longest * self.most_sequences + self.most_sequences)
        limits = replace(
            limits, max_sequences=min(limits.max_sequences, self.most_sequences), step_tokens=step
        )
        return _Engine(rules, limits, step_times(scenario, limits))
