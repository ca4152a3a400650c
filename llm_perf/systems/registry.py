"""Systems by name."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import cache
from importlib import import_module
from typing import cast

import llm_perf.systems as package
from llm_perf.config.gpu import GPUConfig
from llm_perf.config.parallelism import DSZeRO
from llm_perf.config.scenario import Scenario
from llm_perf.errors import SpecError, UnknownNameError
from llm_perf.systems.base import SERVING_OPTIONS, System
from llm_perf.systems.constants import changes
from llm_perf.systems.devices import check_runs, runs_note
from llm_perf.systems.families import (
    ANY_DEVICE,
    Device,
    Family,
    begins_within,
    declaration,
    families,
    family_names,
    find,
    folder_of,
    numbers,
    own_folders,
    release_of,
    runs_on,
)
from llm_perf.systems.resident import Resident

system_names = family_names

DEFAULT = "resident"
"""The family that is meant where none is named: what to expect of a stack that is not known."""


ANY_ENGINE = "engine"
"""The family that stands for any engine that serves requests."""


@cache
def get_system(name: str, device: Device = ANY_DEVICE) -> System:
    """The system of a name: ``vllm`` is its newest version that ships, ``vllm@0.2`` the one that stands for 0.2.

    Some versions differ by the ``device``, vendor and architecture of a GPU.

    Raises:
        SpecError: unknown; the nearest names are listed.
    """
    family, version = _found(name)
    release, ships = release_of(family, version, device)
    return _built(family, release, None if ships or not changes(family, release, version) else version)


def _found(name: str) -> tuple[str, str | None]:
    """As `families.find`; of a training framework it is said that it trains.

    Raises:
        SpecError: unknown.
    """
    try:
        return find(name)
    except UnknownNameError as error:
        from llm_perf.systems.training.framework import get_framework  # no prediction of a system needs them

        try:
            trains = get_framework(name.partition("@")[0]).name
        except SpecError:
            raise error from None
        instead = (
            f"{trains} is a framework that trains (llm-perf train --framework {trains}); to generate with what it trained, "
            "give a serving stack such as vllm (llm-perf systems list)"
        )
        raise UnknownNameError("system", name, error.known, instead) from None


@cache
def _built(family: str, release: str, asked: str | None) -> System:
    system = _class_of(family)(family, release)
    system.asked = asked
    return system


def _class_of(family: str) -> Callable[[str, str], System]:
    implementation = declaration(family).implementation
    if implementation is None:
        return Resident
    for own in own_folders():
        if str(own) not in package.__path__:
            package.__path__.append(str(own))
    module = import_module(folder_of(family).package)
    return cast("Callable[[str, str], System]", getattr(module, implementation))


def full_name(scenario: Scenario) -> str:
    """A scenario's system with the version that is asked for, as ``--system`` takes it."""
    version = scenario.system_version
    return scenario.system if version is None else f"{scenario.system}@{version}"


def system_of(scenario: Scenario) -> System:
    """The system of a scenario, in its version.

    Raises:
        SpecError: there is none of that name.
    """
    return get_system(full_name(scenario), scenario.gpu.device)


def family_of(name: str) -> Family:
    """What the system of a name says about itself.

    Raises:
        SpecError: unknown.
    """
    return declaration(_found(name)[0])


@cache
def stack_names() -> tuple[str, ...]:
    """Families that are data on the resident model."""
    return tuple(family.name for family in families() if family.on_resident)


def is_stack(name: str) -> bool:
    """Whether a system is a stack of the resident model, which knows the options of serving stacks."""
    system = get_system(name)
    return isinstance(system, Resident) and system.options.issuperset(SERVING_OPTIONS)


def check_options(system: System, used: Iterable[str], gpu: GPUConfig | None = None) -> None:
    """A system knows the options that are used.

    Args:
        system: The system.
        used: Options under the names of their flags.
        gpu: The accelerator, where it is known: only systems that run there are listed.

    Raises:
        SpecError: it does not; the systems that do are listed.
    """
    unknown = [name for name in used if name not in system.options]
    if not unknown:
        return
    flags = ", ".join(f"--{name.replace('_', '-')}" for name in unknown)
    knowing = [
        name for name in family_names() if all(map(get_system(name).takes, unknown)) and runs_there(name, gpu)
    ]
    raise SpecError(f"system {system.name} does not know {flags}; systems that do: {', '.join(knowing)}")


def runs_there(family: str, gpu: GPUConfig | None) -> bool:
    """Whether the newest version of a family runs on an accelerator, as far as is known."""
    rule = None if gpu is None else runs_on(family, None)
    return rule is None or gpu is None or rule.takes(gpu)


def checked_system(scenario: Scenario) -> System:
    """The system of a scenario, which it can run.

    Raises:
        SpecError: it cannot; the message says what could be done instead.
    """
    system = system_of(scenario)
    if scenario.gpu.absent and not system.family.runs_without_gpu:
        able = ", ".join(family.name for family in families() if family.runs_without_gpu)
        raise SpecError(f"system {system.name} needs a GPU; without one (--gpu none) there are {able}")
    check_runs(
        f"system {system.name}",
        runs_on(system.name, scenario.system_version),
        scenario.gpu,
        lambda: _running_on(scenario.gpu),
    )
    ranks, gpus = scenario.parallelism.tp_size, scenario.parallelism.num_gpus
    if gpus > 1 and system.family.more_gpus == "none":
        raise SpecError(
            f"{gpus} GPUs: system {system.name} runs on one; leave --num-gpus, --num-nodes and sizes such as --pp-size out"
        )
    if ranks > 1 and not system.family.tensor_ranks:
        raise SpecError(
            f"tp_size {ranks}: system {system.name} puts successive layers on successive GPUs and divides none; give "
            f"--pp-size {ranks}, or --num-gpus {ranks} alone"
        )
    check_options(system, scenario.serving_options, scenario.gpu)
    system.check(scenario)
    return system


_NAMED_INSTEAD = 6
"""Systems that a refusal names at most: those that are started as servers first."""


def _running_on(gpu: GPUConfig) -> list[str]:
    """Systems that run on an accelerator with weights in its memory, and the one that stands for any."""
    able = [
        family
        for family in families()
        if (rule := runs_on(family.name, None)) is not None
        and rule.takes(gpu)
        and runs_note("", rule, gpu) is None
        and family.usual_weights in ("gpu", None)
    ]
    able.sort(key=lambda family: (family.start is None and family.server is None, family.name))
    return [*(family.name for family in able[:_NAMED_INSTEAD]), f"{DEFAULT} or {ANY_ENGINE} for any stack"]


def engine_on(gpu: GPUConfig, usual: str) -> str:
    """The engine that requests are simulated with where none is named: the usual one, or any where that does not run."""
    return usual if runs_there(usual, gpu) else ANY_ENGINE


def device_note(scenario: Scenario) -> str | None:
    """What to know of a system on a GPU that it runs on by another backend than the one its constants are of."""
    system = system_of(scenario).name
    return runs_note(system, runs_on(system, scenario.system_version), scenario.gpu)


@cache
def system_of_stage(stage: int) -> str | None:
    """The family that a stage of ``--ds-zero`` is; None where a stage changes nothing about where weights are."""
    return next((family.name for family in families("ds_zero:") if family.ds_zero == stage), None)


WITHOUT_GPU = "llama_cpp"
"""The family that is meant where no system is named and there is no GPU."""


def resolve_system(system: str | None, ds_zero: DSZeRO, alone: bool = False) -> str:
    """The family that ``--system`` and ``--ds-zero`` mean together: stage 3 is zero_inference.

    Where the host is ``alone``, without a GPU, a system that computes on it.

    Raises:
        SpecError: a stage with another system than its own, or a version that can be none.
    """
    own = system_of_stage(ds_zero.value) if ds_zero.value else None
    if system is None:
        return own or (WITHOUT_GPU if alone else DEFAULT)
    name = get_system(system).name
    if own is not None and name != own:
        raise SpecError(
            f"--ds-zero {ds_zero.value} is the system {own}; it cannot be combined with --system {name}"
        )
    return name


@cache
def searched_systems() -> tuple[str, ...]:
    """Families whose placement and batching ``llm-perf policy`` searches."""

    def searched(name: str) -> bool:
        kind = type(get_system(name))
        return kind.knobs is not System.knobs or kind.policies is not System.policies

    return tuple(name for name in family_names() if searched(name))


@cache
def dividing_systems() -> tuple[str, ...]:
    """Families that divide a model between a GPU and a CPU that computes, as ``llm-perf policy`` searches."""
    return tuple(name for name in family_names() if type(get_system(name)).fillings is not System.fillings)


def asked_version(system: str | None) -> str | None:
    """The version that a name asks for: "0.3" for ``vllm@0.3``; None for the newest.

    Raises:
        SpecError: unknown.
    """
    return None if system is None else _found(system)[1]


def version_note(name: str, device: Device = ANY_DEVICE) -> str | None:
    """What stands in for a version that does not ship; None where the one that is asked for does.

    Raises:
        SpecError: unknown.
    """
    family, asked = _found(name)
    release, ships = release_of(family, asked, device)
    file = get_system(f"{family}@{release}").file
    if device and file.only_on and not set(file.only_on) & set(device):
        return f"{family}@{release} is for {', '.join(file.only_on)} alone, and this is no such device"
    if ships:
        return None
    changed = changes(family, release, asked)
    known = f", but for {', '.join(sorted(changed))}, which changed between" if changed else ""
    within = any(
        begins_within(numbers(fact.since), numbers(asked or "")) for fact in declaration(family).facts
    )
    known += f"; {asked} is taken for the newest {asked}.x that is known of" if within else ""
    return (
        f"{family} {asked} does not ship: the constants are those of the nearest version, {family}@{release} "
        f"({file.version}){known}"
    )
