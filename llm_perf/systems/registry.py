"""Systems by name."""

from __future__ import annotations

from functools import cache
from importlib import import_module
from typing import cast

import llm_perf.systems as package
from llm_perf.config.parallelism import DSZeRO
from llm_perf.config.scenario import Scenario
from llm_perf.errors import SpecError
from llm_perf.systems.base import System
from llm_perf.systems.families import (
    Family,
    declaration,
    families,
    family_names,
    find,
    folder_of,
    own_folders,
    release_of,
)
from llm_perf.systems.resident import Resident

system_names = family_names


@cache
def get_system(name: str) -> System:
    """The system of a name: ``vllm`` is its newest version that ships, ``vllm@0.2`` the one that stands for 0.2.

    Raises:
        SpecError: unknown; the nearest names are listed.
    """
    family, version = find(name)
    return _built(family, release_of(family, version)[0])


@cache
def _built(family: str, release: str) -> System:
    implementation = declaration(family).implementation
    if implementation is None:
        return Resident(family, release)
    for own in own_folders():
        if str(own) not in package.__path__:
            package.__path__.append(str(own))
    module = import_module(folder_of(family).package)
    return cast("System", getattr(module, implementation)(family, release))


def system_of(scenario: Scenario) -> System:
    """The system of a scenario, in its version.

    Raises:
        SpecError: there is none of that name.
    """
    version = scenario.system_version
    return get_system(scenario.system if version is None else f"{scenario.system}@{version}")


def family_of(name: str) -> Family:
    """What the system of a name says about itself.

    Raises:
        SpecError: unknown.
    """
    return declaration(find(name)[0])


@cache
def stack_names() -> tuple[str, ...]:
    """Families that are data on the resident model."""
    return tuple(family.name for family in families() if family.implementation is None)


def is_stack(name: str) -> bool:
    """Whether a system is a stack of the resident model, which knows the options of serving stacks."""
    system = get_system(name)
    return isinstance(system, Resident) and system.knows_serving_options


def checked_system(scenario: Scenario) -> System:
    """The system of a scenario, which it can run.

    Raises:
        SpecError: it cannot; the message says what could be done instead.
    """
    system = system_of(scenario)
    used = scenario.serving_options
    if used and not is_stack(system.name):
        flags = ", ".join(f"--{name.replace('_', '-')}" for name in used)
        raise SpecError(
            f"system {system.name} does not know {flags}; "
            f"systems that do: {', '.join((*stack_names(), 'transformers'))}"
        )
    system.check(scenario)
    return system


def resolve_system(system: str | None, ds_zero: DSZeRO) -> str:
    """The family that ``--system`` and ``--ds-zero`` mean together: stage 3 is zero_inference.

    Raises:
        SpecError: stage 3 with another system, or a version that can be none.
    """
    if system is None:
        return "zero_inference" if ds_zero is DSZeRO.STAGE_3 else "resident"
    name = get_system(system).name
    if ds_zero is DSZeRO.STAGE_3 and name != "zero_inference":
        raise SpecError(
            f"--ds-zero 3 is the system zero_inference; it cannot be combined with --system {name}"
        )
    return name


def asked_version(system: str | None) -> str | None:
    """The version that a name asks for: "0.3" for ``vllm@0.3``; None for the newest.

    Raises:
        SpecError: unknown.
    """
    return None if system is None else find(system)[1]


def version_note(scenario: Scenario) -> str | None:
    """What stands in for a version that does not ship; None where the scenario's own does."""
    asked = scenario.system_version
    if asked is None or release_of(scenario.system, asked)[1]:
        return None
    file = system_of(scenario).file
    return (
        f"{scenario.system} {asked} does not ship: the constants are those of the nearest version, "
        f"{scenario.system}@{file.release} ({file.version})"
    )
