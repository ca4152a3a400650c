"""Values of a fit applied to scenarios, in the way of a profile: constants of the system, fields of GPU and host.

Names (see `calibrate.fit.refit.Parameter`):

- ``flexgen.phase_ms``: that constant, in scenarios of that system; ``system.phase_ms``: of whatever system has it
- ``gpu.efficiency.gemm.default.flops_efficiency``, ``gpu.hbm_bandwidth_gb_per_s``: a field of the GPU
- ``host.pinned_h2d``, ``host.copies.zero_inference.pinned_h2d``, ``host.disk.direct_read``: a rate in GB/s;
  ``host.disk.stated_read_gb_per_s``, ``host.layer_overhead_ms.flexgen``: a number
- ``...@gcp-t4``: only on the host, or the GPU, of that name
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from calibrate.fit.refit import Parameter
from llm_perf.config.base import Spec
from llm_perf.config.host import Rate
from llm_perf.config.profiles import Profile
from llm_perf.config.scenario import Scenario
from llm_perf.errors import SpecError
from llm_perf.systems import system_of

_TABLES_WITH_DOTS = ("copies",)
"""Tables whose keys contain dots themselves."""

_RATES = ("_h2d", "_d2h", "_read", "_write", "_kv", "_weights")
"""How the names of fields end that hold a rate with its source."""


class Overrides:
    """Parameters that are applied to scenarios."""

    def __init__(self, parameters: Sequence[Parameter]) -> None:
        self.parameters = tuple(parameters)
        self._changes: dict[int, tuple[Scenario, tuple[Change, ...]]] = {}

    def apply(self, scenario: Scenario, values: Mapping[str, float]) -> Scenario:
        """The scenario with the values of all parameters that concern it.

        Raises:
            SpecError: a name leads nowhere, or a value is out of its field's range.
        """
        constants: dict[str, float] = {}
        rooms: dict[str, dict[str, Any]] = {"gpu": {}, "host": {}}
        for change in self._changes_of(scenario):
            value = change.value(values)
            if change.room in rooms:
                _set(rooms[change.room], change.keys, change.entry(value))
            else:
                constants[change.keys[0]] = value
        if not any(rooms.values()):  # what a profile with constants alone does, without its checks of specs
            return scenario.replace(constants=tuple((dict(scenario.constants) | constants).items()))
        profile = Profile(
            name="refit", system_constants={scenario.system: constants}, gpu=rooms["gpu"], host=rooms["host"]
        )
        return profile.apply(scenario)

    def _changes_of(self, scenario: Scenario) -> tuple[Change, ...]:
        """What changes in a scenario: found once, since a fit asks for the same few scenarios over and over."""
        known = self._changes.get(id(scenario))
        if known is None or known[0] is not scenario:
            known = scenario, _changes(scenario, [p for p in self.parameters if concerns(p, scenario)])
            self._changes[id(scenario)] = known
        return known[1]


@dataclass(frozen=True, slots=True)
class Change:
    """One number of a scenario, the parameter that takes its place and those that multiply it.

    What a factor makes of a parameter stays within that parameter's range: a machine may be faster than others, but
    not faster than is plausible.
    """

    room: str
    keys: tuple[str, ...]
    base: Any
    replacement: Parameter | None
    factors: tuple[str, ...]

    def value(self, values: Mapping[str, float]) -> float:
        """Its value."""
        base = self.base.gb_per_s if isinstance(self.base, Rate) else self.base
        found = float(base if self.replacement is None else values[self.replacement.name])
        for factor in self.factors:
            found *= values[factor]
        if self.replacement is None:
            return found
        return min(max(found, self.replacement.low), self.replacement.high)

    def entry(self, value: float) -> Any:
        """The value as a profile writes it."""
        if not isinstance(self.base, Rate) and not self.keys[-1].endswith(_RATES):
            return value
        found = {"gb_per_s": value, "provenance": "fitted", "source": "this fit"}
        if isinstance(self.base, Rate):  # a fit of runs finds the level; what small copies lose was measured
            kept = self.base.model_dump(exclude_none=True, include={"latency_us", "by_size"})
            found |= kept
        return found


def concerns(parameter: Parameter, scenario: Scenario) -> bool:
    """Whether a parameter is one of this scenario's system, host and GPU."""
    path, _, where = parameter.name.partition("@")
    if where and where not in (scenario.host.name, scenario.gpu.name):
        return False
    return path.partition(".")[0] in ("gpu", "host", "system", scenario.system)


def _changes(scenario: Scenario, parameters: Sequence[Parameter]) -> tuple[Change, ...]:
    constants = system_of(scenario).constants(scenario)
    found: dict[tuple[str, tuple[str, ...]], Change] = {}
    for parameter in parameters:
        room, _, path = parameter.name.partition("@")[0].partition(".")
        if room not in ("gpu", "host") and path not in constants:
            raise SpecError(f"parameter {parameter.name}: system {scenario.system} has no constant {path!r}")
        spec, keys = (
            (getattr(scenario, room), _keys(path)) if room in ("gpu", "host") else (constants, (path,))
        )
        room = room if room in ("gpu", "host") else "system"
        known = found.get((room, keys)) or Change(room, keys, _current(spec, keys, parameter), None, ())
        if not parameter.factor:
            found[room, keys] = replace(known, replacement=parameter)
        elif isinstance(known.base, (int, float, Rate)):
            found[room, keys] = replace(known, factors=(*known.factors, parameter.name))
        else:
            raise SpecError(f"parameter {parameter.name}: there is no value to multiply")
    return tuple(found.values())


def _keys(path: str) -> tuple[str, ...]:
    first, _, rest = path.partition(".")
    return (first, rest) if first in _TABLES_WITH_DOTS else tuple(path.split("."))


def _current(spec: Any, keys: Sequence[str], parameter: Parameter) -> Any:
    """What stands at a place; None where an optional field, or an entry of a table, is empty."""
    for key in keys:
        if isinstance(spec, Spec) and key in type(spec).model_fields:
            spec = getattr(spec, key)
        elif isinstance(spec, Mapping):
            spec = spec.get(key)
        else:
            raise SpecError(f"parameter {parameter.name}: there is no {key!r}")
    return spec


def _set(table: dict[str, Any], keys: Sequence[str], value: Any) -> None:
    for key in keys[:-1]:
        table = table.setdefault(key, {})
    table[keys[-1]] = value
