"""What a fit may change of the training model, and the model as a fit asks for it.

Constants of frameworks belong to the file that states them: what several frameworks inherit is one parameter. A GPU's
training efficiencies belong to its family, which shares them; what of them a fit may change, and from where it starts,
its file says (`llm_perf.config.gpu.TrainingEfficiency.fitted`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import copy
from dataclasses import dataclass
from functools import cache
from typing import Any

from calibrate.fit.refit import Parameter
from llm_perf.config import get_gpu_config_by_name
from llm_perf.config.gpu import GPUConfig
from llm_perf.config.training import TrainingScenario
from llm_perf.errors import SpecError
from llm_perf.hardware.training_time import training_efficiency
from llm_perf.systems.training.base import TrainingLoad
from llm_perf.systems.training.framework import Framework, get_framework, load_framework
from llm_perf.systems.training.step import TrainingStep


def training_parameters(scenarios: Sequence[TrainingScenario]) -> tuple[Parameter, ...]:
    """Every ranged constant of the scenarios' frameworks, then the efficiencies of their GPU families."""
    found: dict[str, Parameter] = {}
    for scenario in scenarios:
        for constant, owner in _owners(scenario.framework).items():
            stated = owner.constants[constant]
            name = f"{owner.name}.{constant}"
            if stated.range is not None and stated.range[0] < stated.range[1] and name not in found:
                low, high = stated.range
                found[name] = Parameter(name, stated.unfitted, low, high, "log" if low > 0 else "linear")
        for parameter in _gpu_parameters(scenario.gpu):
            found.setdefault(parameter.name, parameter)
    return tuple(found.values())


def shipped_values(scenarios: Sequence[TrainingScenario]) -> dict[str, float]:
    """What ships of `training_parameters`, by their names: the constants of the files, the efficiencies of the GPUs.

    Scenarios of a fit are without what was fitted; GPUs are looked up again by their name.
    """
    found: dict[str, float] = {}
    for scenario in scenarios:
        for constant, owner in _owners(scenario.framework).items():
            found[f"{owner.name}.{constant}"] = owner.constants[constant].value
        own = training_efficiency(get_gpu_config_by_name(scenario.gpu.name))
        for path in own.fitted:
            found[f"gpu.{path}@{_family(scenario.gpu)}"] = _at(own, path)
    return found


def _at(spec: Any, path: str) -> float:
    """The number at a path with dots."""
    for name in path.split("."):
        spec = spec[name] if isinstance(spec, Mapping) else getattr(spec, name)
    return float(spec)


@cache
def _owners(framework: str) -> dict[str, Framework]:
    """For each constant of a framework the file that states it: the framework's own, or one that it extends."""
    file = load_framework(framework)
    found = {} if file.extends is None else _owners(file.extends)
    parent = {} if file.extends is None else load_framework(file.extends).constants
    own = {name for name, constant in file.constants.items() if parent.get(name) != constant}
    return found | dict.fromkeys(own, file)


def _gpu_parameters(gpu: GPUConfig) -> list[Parameter]:
    family = _family(gpu)
    return [
        Parameter(
            f"gpu.{path}@{family}",
            one.prior,
            one.prior / one.factor,
            min(one.prior * one.factor, _ceiling(path)),
        )
        for path, one in training_efficiency(gpu).fitted.items()
    ]


_FAMILIES: dict[str, str] = {}


def _family(gpu: GPUConfig) -> str:
    """The family whose training efficiencies a GPU has: one that extends another and says nothing of training is that one."""
    return _FAMILIES.setdefault(training_efficiency(gpu).model_dump_json(), gpu.efficiency.name)


def _ceiling(path: str) -> float:
    return 1.0 if path.endswith(("efficiency", "forward", "backward")) else float("inf")


@dataclass(frozen=True)
class _Change:
    name: str
    path: str


class TrainingFit:
    """Predictions of scenarios under values by parameter name."""

    def __init__(self, parameters: Sequence[Parameter]) -> None:
        self._constants: dict[str, list[str]] = {}
        self._gpu: dict[str, list[_Change]] = {}
        self._gpus: dict[tuple[Any, ...], GPUConfig] = {}
        for parameter in parameters:
            owner, _, rest = parameter.name.partition(".")
            if owner == "gpu":
                path, _, family = rest.partition("@")
                self._gpu.setdefault(family, []).append(_Change(parameter.name, path))
            else:
                self._constants.setdefault(owner, []).append(rest)

    def scenario(self, scenario: TrainingScenario, values: Mapping[str, float]) -> TrainingScenario:
        """The scenario with the values of all parameters that concern it."""
        constants = self._own(scenario, values)
        return scenario.replace(gpu=self._with(scenario.gpu, values), constants=constants, fits=False)

    @staticmethod
    def concerns(parameter: Parameter, scenario: TrainingScenario) -> bool:
        """Whether a scenario has what a parameter stands for."""
        owner, _, rest = parameter.name.partition(".")
        if owner == "gpu":
            return rest.rpartition("@")[2] == _family(scenario.gpu)
        stated = _owners(scenario.framework).get(rest)
        return stated is not None and stated.name == owner

    def step_time_s(self, scenario: TrainingScenario, values: Mapping[str, float]) -> float:
        """Seconds of one optimizer step."""
        return step_time_s(self.scenario(scenario, values))

    def step_times_s(self, scenario: TrainingScenario, values: Mapping[str, Any]) -> Any:
        """The same for many values at once: some are arrays of one length, and so is what comes back.

        The formulas mean the same for arrays; specs hold single numbers, so here they are put in unchecked. What they stand
        for was checked when the parameters' ranges were.
        """
        own = training_efficiency(scenario.gpu)
        for change in self._gpu.get(_family(scenario.gpu), []):
            own = _unchecked(own, change.path, values[change.name])
        gpu = _unchecked(scenario.gpu, "efficiency.training", own)
        changed = copy(scenario)
        for name, value in (("gpu", gpu), ("constants", self._own(scenario, values)), ("fits", False)):
            object.__setattr__(changed, name, value)
        return _step_time_s(changed)

    def _own(self, scenario: TrainingScenario, values: Mapping[str, Any]) -> tuple[tuple[str, Any], ...]:
        """The framework's constants among the values."""
        return tuple(
            (constant, values[f"{owner.name}.{constant}"])
            for constant, owner in _owners(scenario.framework).items()
            if constant in self._constants.get(owner.name, ())
        )

    def _with(self, gpu: GPUConfig, values: Mapping[str, float]) -> GPUConfig:
        changes = self._gpu.get(_family(gpu), [])
        key = (gpu.name, *(values[change.name] for change in changes))
        known = self._gpus.get(key)
        if known is None:
            own = training_efficiency(gpu).with_values({c.path: values[c.name] for c in changes})
            if len(self._gpus) > _KEPT:
                self._gpus.clear()
            known = gpu.replace(efficiency=gpu.efficiency.replace(training=own))
            self._gpus[key] = known
        return known


_KEPT = 256
"""GPUs with changed efficiencies that are remembered: a fit asks for the same ones row after row."""


def step_time_s(scenario: TrainingScenario) -> float:
    """Seconds of one optimizer step of a scenario whose batch is stated whole.

    Raises:
        SpecError: micro-batch or global batch is left open.
    """
    return float(_step_time_s(scenario))


def _step_time_s(scenario: TrainingScenario) -> Any:
    plan = scenario.plan
    if plan.micro_batch_size is None or plan.global_batch_size is None:
        raise SpecError("a fit needs the micro-batch and the global batch of a run")
    steps = plan.global_batch_size / scenario.parallelism.dp_size / plan.micro_batch_size
    load = TrainingLoad(float(plan.micro_batch_size), steps, float(plan.seq_len))
    return TrainingStep(scenario, get_framework(scenario.framework)).step_cost(load, parts=False).latency_s


def _unchecked(spec: Any, path: str, value: Any) -> Any:
    """A copy of a spec, or of a mapping, with another value at a path with dots."""
    name, _, rest = path.partition(".")
    if isinstance(spec, Mapping):
        return {**spec, name: _unchecked(spec[name], rest, value) if rest else value}
    return spec.model_copy(update={name: _unchecked(getattr(spec, name), rest, value) if rest else value})
