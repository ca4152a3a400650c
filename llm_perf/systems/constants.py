"""Constants of systems: a value, its plausible range and its source, from the YAML beside the system's module."""

from __future__ import annotations

import math
from functools import cache
from importlib import resources
from typing import Any

from pydantic import Field, model_validator

from llm_perf.config import files
from llm_perf.config.base import Spec
from llm_perf.config.scenario import Scenario
from llm_perf.errors import SpecError

_NO_VERSION = "any"


class Constant(Spec):
    """One number with where it comes from. ``range`` is the interval in which it is plausible."""

    value: float = Field(allow_inf_nan=False)
    range: tuple[float, float] | None = None
    source: str = Field(min_length=1)

    @model_validator(mode="after")
    def _inside_its_range(self) -> Constant:
        if self.range is not None and not self.range[0] <= self.value <= self.range[1]:
            raise ValueError(f"value {self.value} is outside its range {list(self.range)}")
        return self

    @property
    def fitted(self) -> bool:
        """Whether the value was fitted to measured runs, as its source says, rather than counted or documented."""
        return "fitted" in self.source

    @property
    def unfitted(self) -> float:
        """What is known without the runs that it was fitted to: the middle of the range, or the value of a counted one."""
        if not self.fitted or self.range is None:
            return self.value
        low, high = self.range
        return math.sqrt(low * high) if low > 0 else (low + high) / 2


class ConstantsFile(Spec):
    """The constants of one system and version. ``caveat``: why its predictions are to be distrusted, for the report."""

    name: str
    version: str
    description: str
    aliases: tuple[str, ...] = ()
    extends: str | None = None
    caveat: str | None = None
    constants: dict[str, Constant]

    @property
    def stands_for(self) -> str | None:
        """The versions of the software that the constants are of; None where they are of none in particular."""
        return None if self.version == _NO_VERSION else self.version

    def value(self, name: str) -> float:
        """The value of a constant."""
        return self.constants[name].value


@cache
def load_constants(name: str) -> ConstantsFile:
    """The constants of a system, those of the file that it extends included.

    Raises:
        SpecError: the file is malformed.
    """
    file = resources.files("llm_perf.systems") / f"{name}.yaml"
    text = file.read_text("utf-8")
    own = files.build(ConstantsFile, files.parse_mapping(text, file.name), text, file.name)
    if own.extends is None:
        return own
    inherited = load_constants(own.extends).constants
    return own.replace(constants=inherited | own.constants)


def overridden(constants: ConstantsFile, overrides: tuple[tuple[str, float], ...]) -> dict[str, float]:
    """Values by name, with those of a profile or a caller in place of the file's.

    Raises:
        SpecError: an override names no constant of this system.
    """
    values: dict[str, Any] = {name: constant.value for name, constant in constants.constants.items()}
    for name, value in overrides:
        if name not in values:
            raise SpecError(
                f"system {constants.name} has no constant {name!r}; it has: {', '.join(sorted(values))}"
            )
        values[name] = value
    return values


class WithConstants:
    """A system whose constants stand in the YAML file of its name."""

    name: str

    @property
    def file(self) -> ConstantsFile:
        """The system's constants with their sources."""
        return load_constants(self.name)

    def constants(self, scenario: Scenario) -> dict[str, float]:
        """The system's constants, overridden by the scenario's."""
        return overridden(self.file, scenario.constants)
