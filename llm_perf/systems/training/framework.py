"""Frameworks by name: the constants of each, and the attention kernels that it uses."""

from __future__ import annotations

from functools import cache
from importlib import resources
from typing import cast

from pydantic import Field

from llm_perf.config import files
from llm_perf.config.names import normalise, resolve
from llm_perf.config.training import LossKind, TrainingScenario
from llm_perf.errors import SpecError
from llm_perf.systems.constants import ConstantsFile, overridden

_FOLDER = resources.files("llm_perf.systems.training")
FRAMEWORKS = tuple(
    sorted(entry.name.removesuffix(".yaml") for entry in _FOLDER.iterdir() if entry.name.endswith(".yaml"))
)
"""Each is a YAML file of constants in this folder."""


class Framework(ConstantsFile):
    """The constants of a framework and version.

    Attributes:
        attention: fused attention kernels that it may use, best first.
        defaults: fields of a training plan that this framework sets where nobody says otherwise.
    """

    attention: tuple[str, ...] = ()
    defaults: dict[str, bool | int | float | str] = Field(default_factory=dict)

    @property
    def loss(self) -> LossKind:
        """How it computes the loss unless told otherwise."""
        return cast(LossKind, self.defaults.get("loss", "vocab-parallel"))


def own_framework(name: str) -> Framework:
    """What a framework's file says itself.

    Raises:
        SpecError: there is none of that exact name, or the file is malformed.
    """
    if name not in FRAMEWORKS:
        raise SpecError(f"there is no framework {name!r}; there are {', '.join(FRAMEWORKS)}")
    file = _FOLDER / f"{name}.yaml"
    text = file.read_text("utf-8")
    return files.build(Framework, files.parse_mapping(text, file.name), text, file.name)


@cache
def load_framework(name: str) -> Framework:
    """A framework's file, what it extends included.

    Raises:
        SpecError: the file is malformed.
    """
    own = own_framework(name)
    if own.extends is None:
        return own
    parent = load_framework(own.extends)
    return own.extended(
        parent, attention=own.attention or parent.attention, defaults=parent.defaults | own.defaults
    )


@cache
def _aliases() -> dict[str, str]:
    return {normalise(alias): name for name in FRAMEWORKS for alias in load_framework(name).aliases}


@cache
def get_framework(name: str) -> Framework:
    """A framework by name or alias.

    Raises:
        SpecError: unknown; the nearest names are listed.
    """
    return load_framework(name if name in FRAMEWORKS else resolve("framework", name, FRAMEWORKS, _aliases()))


def framework_constants(scenario: TrainingScenario, framework: Framework) -> dict[str, float]:
    """The framework's constants by name, those of the scenario's profile in place of the file's."""
    return overridden(framework, scenario.constants, scenario.host.name, scenario.fits)
