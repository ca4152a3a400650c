"""Constants of systems: a value, its plausible range and its source, from the YAML of a version in the system's folder."""

import math
from collections.abc import Container
from functools import cache
from typing import Any, TypeVar

from pydantic import Field, model_validator

from llm_perf.config import files
from llm_perf.config.base import Flag, PositiveInt, Spec
from llm_perf.config.gpu import GPUConfig
from llm_perf.config.host import HostConfig, Rate
from llm_perf.config.loading import get_host_config_by_name
from llm_perf.config.provenance import Evidence, Prior
from llm_perf.config.scenario import Scenario
from llm_perf.errors import SpecError
from llm_perf.systems.families import (
    ANY_DEVICE,
    Covers,
    Device,
    apart,
    begun_by,
    covers,
    declaration,
    ends_of,
    find,
    folder_of,
    numbers,
    release_of,
)

_NO_VERSION = "any"

_RATE = "_gb_per_s"
_HOST_RATES = tuple(
    f"{path}{_RATE}"
    for path in (
        *(
            "pinned_h2d",
            "pinned_d2h",
            "pageable_h2d",
            "pageable_d2h",
            "mmap_h2d",
            "growing_slice_h2d",
            "fresh_d2h",
        ),
        *("cpu_attention_kv", "cpu_weights"),
    )
)
"""Rates that a version may state for one machine: paths of `llm_perf.config.host.HostConfig.copies`."""


class Constant(Evidence):
    """One number with where it comes from. ``range`` is the interval in which it is plausible.

    ``prior`` is what a fitted number is taken as where nothing fitted is to be used.
    """

    value: float = Field(allow_inf_nan=False)
    range: tuple[float, float] | None = None
    prior: Prior | None = None

    @model_validator(mode="after")
    def _inside_its_range(self) -> "Constant":
        for name, value in (
            ("value", self.value),
            ("prior", None if self.prior is None else self.prior.value),
        ):
            if self.range is not None and value is not None and not self.range[0] <= value <= self.range[1]:
                raise ValueError(f"{name} {value} is outside its range {list(self.range)}")
        return self

    @model_validator(mode="after")
    def _fitted_to_something(self) -> "Constant":
        if self.fitted and None in (self.range, self.rows, self.groups):
            raise ValueError("a fitted constant needs range, rows and groups")
        if not self.fitted and self.prior is not None:
            raise ValueError(f"a prior belongs to a fitted constant, and this one is {self.provenance}")
        return self

    @property
    def unfitted(self) -> float:
        """What is known without the runs that it was fitted to: its prior, else the middle of its range, else its value."""
        if not self.fitted:
            return self.value
        if self.prior is not None:
            return self.prior.value
        if self.range is None:
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
        only_on: Vendors or architectures of the GPUs that it is for, as their files name them; none: all.
        benchmark_prompts: Prompts that differ in a batch of the benchmark by which this version is usually measured: 1 where
            it repeats one. For comparisons with published runs; a question of one's own says ``distinct_prompts``.
        ignores_windows: The engine attends to everything and keeps all of the cache, whatever window a model has, unless told
            otherwise.
        aliases: Names of this version in particular; those of the family are in its ``system.yaml``.
        extends: The system whose constants stand where this file says nothing; ``@`` and a version may follow.
        caveat: Why its predictions are to be distrusted, for the report.
        hosts: By host and name, what holds for this version on that machine alone: constants of the system, and rates of
            its copies, ``<path>_gb_per_s`` with a path of `llm_perf.config.host.HostConfig.copies`.
        inherited: Names of the constants that are those of the file that this one extends.
    """

    name: str
    release: str = ""
    version: str
    description: str
    covers: Covers | None = None
    only_on: tuple[str, ...] = ()
    benchmark_prompts: PositiveInt | None = None
    ignores_windows: Flag = False
    aliases: tuple[str, ...] = ()
    extends: str | None = None
    caveat: str | None = None
    constants: dict[str, Constant]
    hosts: dict[str, dict[str, Constant]] = Field(default_factory=dict)
    inherited: frozenset[str] = frozenset()

    @property
    def stands_for(self) -> str | None:
        """The versions of the software that the constants are of; None where they are of none in particular."""
        return None if self.version == _NO_VERSION else self.version

    def value(self, name: str) -> float:
        """The value of a constant."""
        return self.constants[name].value

    def on_host(self, host: str, fits: bool = True) -> dict[str, Constant]:
        """What this version states for one machine; without what was fitted where ``fits`` is off."""
        stated = self.hosts.get(host, {})
        return stated if fits else {name: one for name, one in stated.items() if not one.fitted}

    def extended(self: "F", parent: "ConstantsFile", **more: Any) -> "F":
        """This file with what it inherits from the one that it extends."""
        hosts = {
            host: parent.hosts.get(host, {}) | self.hosts.get(host, {})
            for host in (*parent.hosts, *self.hosts)
        }
        return self.replace(
            constants=parent.constants | self.constants,
            hosts=hosts,
            inherited=frozenset(parent.constants) - frozenset(self.constants),
            **more,
        )

    def fitted_values(self, host: str) -> int:
        """How many of its numbers were fitted to whole runs: constants, and those for this host."""
        numbers = (*self.constants.values(), *self.on_host(host).values())
        return sum(number.fitted for number in numbers)

    @property
    def inherits(self) -> tuple[int, int] | None:
        """How many of its constants are those of the system that it extends, and how many there are in all."""
        return (len(self.inherited), len(self.constants)) if self.inherited else None


F = TypeVar("F", bound=ConstantsFile)


@cache
def load_constants(name: str, device: Device = ANY_DEVICE) -> ConstantsFile:
    """The constants of a system, ``vllm`` or ``vllm@0.2``, those of the file that it extends included.

    Some versions differ by the ``device``, vendor and architecture of a GPU.

    Raises:
        SpecError: unknown name, or the file is malformed.
    """
    family, version = find(name)
    return standing_in(family, release_of(family, version, device)[0], version)


@cache
def standing_in(family: str, release: str, version: str | None) -> ConstantsFile:
    """One range of versions as it stands for ``version``: with what is known to have changed between, if it is another."""
    file = load_release(family, release)
    changed = changes(family, release, version)
    if not changed:
        return file
    return file.replace(constants=file.constants | changed, inherited=file.inherited - changed.keys())


def changes(family: str, release: str, version: str | None) -> dict[str, Constant]:
    """Constants that public code says are other in a ``version`` than in a range of versions that it is not in.

    A range knows what changed until its last version. Of facts between the two the one nearest to the version counts.
    5 is the newest release of its 5.x, as 0.5 is that of its 0.5.x: what began at 5.1 has begun by it, and by 5.0 it has not.
    """
    facts, asked = declaration(family).facts, numbers(version or "")
    ends = ends_of(folder_of(family), release)
    if not facts or not asked or covers(asked, ends):
        return {}
    last, found = ends[1], dict[str, Constant]()
    later = last is not None and last < asked
    for fact in facts if later else reversed(facts):
        begins = numbers(fact.since)
        known = last is None or begun_by(begins, last)
        if known is later or begun_by(begins, asked) is not later:
            continue
        values = fact.constants if later else fact.before
        found |= {
            name: Constant(value=value, provenance=fact.provenance, source=f"{fact.since}: {fact.source}")
            for name, value in values.items()
        }
    return found


@cache
def load_release(family: str, release: str) -> ConstantsFile:
    """One range of versions under whatever name it was asked for, with what its file inherits."""
    own = own_constants(family, release)
    full = own if own.extends is None else own.extended(load_constants(own.extends))
    for host, stated in full.hosts.items():
        for constant in stated:
            if constant not in full.constants and constant not in _HOST_RATES:
                raise SpecError(
                    f"{family}/{full.release}.yaml: hosts.{host}: {constant!r} is neither a constant of the system nor one "
                    f"of {', '.join(_HOST_RATES)}"
                )
    return full


def own_constants(family: str, release: str) -> ConstantsFile:
    """What the file of one range of versions says itself.

    Raises:
        SpecError: the file is malformed.
    """
    where = f"{family}/{release}.yaml"
    folder = folder_of(family)
    data = folder.stated(release) | {"name": family, "release": release}
    return files.build(ConstantsFile, data, folder.text(f"{release}.yaml"), where)


def stands_on(family: str, release: str, other: str) -> bool:
    """Whether a range of versions inherits from another one of its family, in however many steps."""
    parent = own_constants(family, release).extends
    while parent is not None and parent.startswith(f"{family}@"):
        if parent == f"{family}@{other}":
            return True
        parent = own_constants(family, parent.partition("@")[2]).extends
    return False


def beside(
    family: str, release: str, device: Device = ANY_DEVICE, alone: Container[str] = ()
) -> tuple[str, ...]:
    """The ranges of versions before and after one, the nearer first: what would stand for it if it did not ship.

    Of two equally near the newer comes first, as in `llm_perf.systems.families.nearest`. Beside a file for some devices
    only are those of other versions on the ``device``. What inherits from a range knows it and is not beside it, except
    for ranges ``alone``, which are fitted anew without it.
    """
    folder = folder_of(family)
    names = folder.releases
    if release in folder.special:
        names = tuple(
            name for name in folder.special if set(own_constants(family, name).only_on) & set(device)
        )
    far = {
        name: found
        for name in reversed(names)
        if name != release
        and (name in alone or not stands_on(family, name, release))
        and (found := apart(ends_of(folder, name), ends_of(folder, release))) is not None
    }
    newer = [name for name in far if numbers(name) > numbers(release)]
    older = [name for name in far if name not in newer]
    return tuple(
        sorted((min(side, key=far.__getitem__) for side in (newer, older) if side), key=far.__getitem__)
    )


def overridden(
    constants: ConstantsFile,
    overrides: tuple[tuple[str, float], ...],
    host: str | None = None,
    fits: bool = True,
) -> dict[str, float]:
    """Values by name, those of a profile or a caller before the file's for this host, and these before its general ones.

    Without ``fits`` every fitted constant has its unfitted value.

    Raises:
        SpecError: an override names no constant of this system.
    """
    values = dict(_values(constants, host, fits))
    for name, value in overrides:
        if name not in values:
            raise SpecError(
                f"system {constants.name} has no constant {name!r}; it has: {', '.join(sorted(values))}"
            )
        values[name] = value
    return values


def _values(constants: ConstantsFile, host: str | None, fits: bool) -> dict[str, Any]:
    """What a file states for a host: found once, since one prediction asks several times."""
    key = (id(constants), host, fits)
    known = _stated_values.get(key)
    if known is None or known[0] is not constants:
        here = {} if host is None else constants.on_host(host, fits)
        values = {name: one.value if fits else one.unfitted for name, one in constants.constants.items()}
        if len(_stated_values) > _KEPT:
            _stated_values.clear()
        known = constants, values | {name: one.value for name, one in here.items() if name in values}
        _stated_values[key] = known
    return known[1]


def host_under(host: HostConfig, file: ConstantsFile, system: str, fits: bool = True) -> HostConfig:
    """The host with the rates that a version of a system has on it; what the host states for this system goes first."""
    stated = file.on_host(host.name, fits)
    if not stated:
        return host
    key = (id(host), system, fits)
    known = _hosts.get(key)
    if known is None or known[0] is not host or known[1] is not file:
        rates = {
            f"{system}.{name.removesuffix(_RATE)}": Rate(
                gb_per_s=one.value,
                provenance=one.provenance,
                rows=one.rows,
                groups=one.groups,
                source=one.source,
            )
            for name, one in stated.items()
            if name not in file.constants and name.removesuffix(_RATE) not in host.from_profile
        }
        if len(_hosts) > _KEPT:
            _hosts.clear()
        known = host, file, host.replace(copies=rates | host.copies)
        _hosts[key] = known
    return known[2]


_KEPT = 64
_hosts: dict[tuple[int, str, bool], tuple[HostConfig, ConstantsFile, HostConfig]] = {}
"""Hosts under systems that were asked for: a sweep asks for the same ones over and over."""

_stated_values: dict[tuple[int, str | None, bool], tuple[ConstantsFile, dict[str, Any]]] = {}
"""Values of the files that were asked for, by host."""


class WithConstants:
    """A system with the constants of one of its versions: the newest unless told otherwise.

    Args:
        name: The family's name, where a class serves several.
        release: The name of a range of versions.
    """

    name: str
    release: str | None
    asked: str | None = None
    """The version that it stands in for, where that is another."""

    def __init__(self, name: str | None = None, release: str | None = None) -> None:
        if name is not None:
            self.name = name
        self.release = release

    @property
    def file(self) -> ConstantsFile:
        """The system's constants with their sources."""
        if self.release is not None and self.asked is not None:
            return standing_in(self.name, self.release, self.asked)
        return load_constants(self.name if self.release is None else f"{self.name}@{self.release}")

    def constants(self, scenario: Scenario) -> dict[str, float]:
        """The system's constants on the scenario's host, overridden by the scenario's."""
        return overridden(self.file, scenario.constants, scenario.host.name, scenario.fits)


def no_fit_note(file: ConstantsFile, host: HostConfig, gpu: GPUConfig) -> str:
    """What ``--profile none`` took away, for a report."""
    training = gpu.efficiency.training
    counts = (
        (file.fitted_values(host.name), f"of {file.name}"),
        (_shipped_rates(host), f"of host {host.name}"),
        (0 if training is None else len(training.fitted), f"of {gpu.name} in training"),
    )
    said = ", ".join(f"{count} {whose}" for count, whose in counts if count)
    from llm_perf.config.profiles import NO_FIT_USED  # whoever asks has one

    return f"{NO_FIT_USED}: replaced are {said or 'none, since none was fitted'}"


def _shipped_rates(host: HostConfig) -> int:
    try:
        return get_host_config_by_name(host.name).fitted_values
    except SpecError:  # the user's own
        return 0


def file_of(scenario: Scenario) -> ConstantsFile:
    """The constants of the scenario's system in the version that it asks for."""
    version = scenario.system_version
    name = scenario.system if version is None else f"{scenario.system}@{version}"
    return load_constants(name, scenario.gpu.device)


def machine_of(scenario: Scenario) -> HostConfig:
    """The scenario's host with the rates that its system has on it."""
    return host_under(scenario.host, file_of(scenario), scenario.system, scenario.fits)


def stated_for_host(scenario: Scenario, name: str) -> bool:
    """Whether a constant's value is one for the scenario's machine, and not the system's general one."""
    own = file_of(scenario).on_host(scenario.host.name, scenario.fits)
    return name in own and name not in dict(scenario.constants)
