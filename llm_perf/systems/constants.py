"""Constants of systems: a value, its plausible range and its source, from the YAML of a version in the system's folder."""

from __future__ import annotations

import math
from functools import cache
from typing import Any

from pydantic import Field, model_validator

from llm_perf.config import files
from llm_perf.config.base import Spec
from llm_perf.config.scenario import Scenario
from llm_perf.errors import SpecError
from llm_perf.systems.families import Covers, find, folder_of, release_of

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
    """The constants of one version of a system.

    Attributes:
        name: The family's name, that of its folder.
        release: The name of the range of versions, that of the file: what stands after the ``@`` of ``vllm@0.2``.
        version: The versions in words.
        covers: First and last version of the software, None where open; None as a whole where none is stated.
        aliases: Names of this version in particular; those of the family are in its ``system.yaml``.
        extends: The system whose constants stand where this file says nothing; ``@`` and a version may follow.
        caveat: Why its predictions are to be distrusted, for the report.
    """

    name: str
    release: str = ""
    version: str
    description: str
    covers: Covers | None = None
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
    """The constants of a system, ``vllm`` or ``vllm@0.2``, those of the file that it extends included.

    Raises:
        SpecError: unknown name, or the file is malformed.
    """
    family, version = find(name)
    own = own_constants(family, release_of(family, version)[0])
    if own.extends is None:
        return own
    inherited = load_constants(own.extends).constants
    return own.replace(constants=inherited | own.constants)


def own_constants(family: str, release: str) -> ConstantsFile:
    """What the file of one range of versions says itself.

    Raises:
        SpecError: the file is malformed.
    """
    where = f"{family}/{release}.yaml"
    text = folder_of(family).text(f"{release}.yaml")
    data = files.parse_mapping(text, where) | {"name": family, "release": release}
    return files.build(ConstantsFile, data, text, where)


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
    """A system with the constants of one of its versions: the newest unless told otherwise.

    Args:
        name: The family's name, where a class serves several.
        release: The name of a range of versions.
    """

    name: str
    release: str | None

    def __init__(self, name: str | None = None, release: str | None = None) -> None:
        if name is not None:
            self.name = name
        self.release = release

    @property
    def file(self) -> ConstantsFile:
        """The system's constants with their sources."""
        return load_constants(self.name if self.release is None else f"{self.name}@{self.release}")

    def constants(self, scenario: Scenario) -> dict[str, float]:
        """The system's constants, overridden by the scenario's."""
        return overridden(self.file, scenario.constants)
