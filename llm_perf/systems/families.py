"""Families of systems: a folder each, found by its ``system.yaml``, with one YAML of constants per range of versions.

The name of a version's file is the name of its range (``vllm/0.2.yaml`` is ``vllm@0.2``), and its numbers order the
ranges. The newest is what a family's name alone means.
"""

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any, Literal, Protocol, TypeVar

from pydantic import Field

from llm_perf.config import files
from llm_perf.config.base import PositiveInt, Spec
from llm_perf.config.formats import GGML_BLOCKS, GGUF_MIXTURES, by_bits
from llm_perf.config.names import normalise, resolve
from llm_perf.errors import SpecError
from llm_perf.systems.accounting import MemoryRules
from llm_perf.systems.devices import RunsOn
from llm_perf.systems.scheduling import SchedulerRules
from llm_perf.systems.version_facts import VersionFact

Tier = Literal["gpu", "cpu", "nvme"]

_WIDE_FORMATS = ("fp32", "fp16", "bf16")
_DECLARATION = "system.yaml"
_PACKAGE = "llm_perf.systems"
_STACKS = "stacks"
_SPECIAL = re.compile(r"-[a-z]")


class Part(Spec):
    """A part of a phase: what reports call it, and the resources that it waits for; none: the one of its own name.

    ``once``: it comes once in a pass, not in every layer.
    """

    title: str = Field(min_length=1)
    waits_for: tuple[str, ...] = ()
    once: bool = False


class Calibration(Spec):
    """What a fit to runs of one's own may change of a system.

    Attributes:
        times: Constants that are times of its framework.
        copies: Whether its copies out of host memory have rates of their own.
        shared_with: The system that the same runs stand for as well.
        served: Constants that its version has at 0 and times of its server may find, with where a fit starts.
    """

    times: tuple[str, ...] = ()
    copies: bool = False
    shared_with: str | None = None
    served: dict[str, float] = Field(default_factory=dict)


class StartCommand(Spec):
    """How an engine is started, in its own words.

    Attributes:
        command: With ``{model}`` for the checkpoint.
        flags: Inputs of ``llm-perf infer`` and its flags for them.
        weight_formats, kv_formats: Number formats, and the words that make the engine convert to them. Others need a
            checkpoint of that format.
        pools: Words of an engine that only reads prompts, and of one that generates what such engines have read; None
            where it is not known how they are started.
        source: Where its flags are documented.
    """

    command: str = Field(min_length=1)
    flags: dict[str, str]
    weight_formats: dict[str, str] = Field(default_factory=dict)
    kv_formats: dict[str, str] = Field(default_factory=dict)
    pools: tuple[str, str] | None = None
    source: str = Field(min_length=1)


class Family(Spec):
    """What a system says about itself, whatever its version. Everything but the title has a default.

    Attributes:
        name: The folder's name.
        title: What its makers call it.
        short: Its name where a column is narrow; the name if None.
        aliases: Other names that people use.
        implementation: Its class in the folder's package; None for data on the resident model.
        parts: Parts of its phases beyond those that all systems have.
        resources: Resources that it waits for beyond those that all systems have, in words.
        quantises_embeddings: Whether the token table and the head are quantised with the other weights.
        checkpoints: Whose files it serves as they were released: "huggingface", "gguf", or "none" where it
            stores 16 bits or a width of its own.
        formats: Number formats that it has kernels for beside 16 and 32 bits, "gguf" for all of llama.cpp's; None: any.
        format_names: What names of other programs' formats, or of a width alone, mean to its users.
        weight_bits: Width of the weights where nothing is said; None for that of the computation.
        weights_on, cache_on: Where weights and cache are unless something else is said; None: it depends.
        more_gpus: What further GPUs are where nothing is said: pipeline stages, replicas that share the storage of weights,
            or tensor ranks; none of what runs on one.
        tensor_ranks: Whether it divides matrices over GPUs as well; False for programs that have stages alone.
        ds_zero: The stage of ``--ds-zero`` that is this system.
        batch_per_client: Whether stated batches are of one client, of ``parallel_clients``, instead of all together.
        cpu_offload: Whether it keeps weights in host memory for ``--cpu-offload-gb``.
        server: The program that serves it, by the name that reports know a start command by; None for none.
        announces: Names by which its servers say what they are: ``owned_by`` of /v1/models, or what its metrics begin with.
        runs_without_gpu: Whether it computes on a host without a GPU.
        prefill_seen_by_decode: Share of another request's prefill that a running one waits for, where a
            plan counts in batches.
        memory_figure: What its memory figures are, as it or its benchmarks print them: the peak of one GPU's allocator, the
            sum of these over the GPUs of its process, or what a device holds, the cache that an engine sets aside included.
        allocates_as_it_goes: Whether it takes memory tensor by tensor, as PyTorch programs do, instead of setting it aside
            when it starts: its peak is then known as far as such peaks are.
        benchmark_log: Whether its own benchmarks write the log of DeepSpeed's ZeRO-Inference example, with which its
            reports end then; of others it is in the file of ``--log-file`` alone.
        beyond_host_memory: Shares of weights on GPU, host and disk in its own benchmarks where the host cannot hold them.
        accuracy_class: The class of all its published runs, ``none`` for no class; None where the placement decides.
        machine_constants: Constants that stand for a rate or time of a machine whose host file states none.
        calibration: What a fit may change.
        scheduling: How its versions choose what a step computes, oldest first; none: requests cannot be simulated.
        engine: A stack whose rule says how many sequences a serving engine would hold, where it stands for such engines.
        state_bits: Width of the recurrent states that it keeps, where a checkpoint says nothing of it.
        memory: How its versions divide a GPU's memory, oldest first; none: all that there is, for the batch as asked.
        runs_on: Accelerators that its versions have kernels for, oldest first; none: not known, or all.
        start: How it is started; None where that is not known here.
        facts: What changed at its versions, oldest first, for those that no constants are of.
        builds: By version, the last build that is of it, where releases are numbered by builds; later ones are of the newest.
    """

    name: str
    title: str = Field(min_length=1)
    short: str | None = None
    aliases: tuple[str, ...] = ()
    implementation: str | None = None
    parts: dict[str, Part] = Field(default_factory=dict)
    resources: dict[str, str] = Field(default_factory=dict)
    quantises_embeddings: bool = False
    checkpoints: Literal["huggingface", "gguf", "none"] | None = None
    formats: tuple[str, ...] | None = None
    format_names: dict[str, str] = Field(default_factory=dict)
    weight_bits: PositiveInt | None = None
    weights_on: Tier | None = None
    cache_on: Tier | None = None
    more_gpus: Literal["tensor ranks", "stages", "replicas", "none"] = "tensor ranks"
    tensor_ranks: bool = True
    ds_zero: PositiveInt | None = None
    batch_per_client: bool = False
    memory_figure: Literal["allocator", "allocators", "device"] = "allocator"
    allocates_as_it_goes: bool = False
    benchmark_log: bool = False
    beyond_host_memory: tuple[float, float, float] | None = None
    accuracy_class: str | None = None
    machine_constants: tuple[str, ...] = ()
    calibration: Calibration = Calibration()
    engine: str | None = None
    state_bits: Literal[16, 32] = 16
    memory: tuple[MemoryRules, ...] = ()
    scheduling: tuple[SchedulerRules, ...] = ()
    cpu_offload: bool = False
    server: str | None = None
    announces: tuple[str, ...] = ()
    runs_without_gpu: bool = False
    runs_on: tuple[RunsOn, ...] = ()
    start: StartCommand | None = None
    facts: tuple[VersionFact, ...] = ()
    builds: dict[str, PositiveInt] = Field(default_factory=dict)

    def version_of_build(self, version: str | None) -> str | None:
        """The version of a build such as ``b5163``; what is no build is a version itself, a commit alone says nothing."""
        build = re.fullmatch(r"b(\d+)", version or "")
        if not self.builds or version is None:
            return version
        if build is None:
            return version if re.match(r"20\d\d", version) else None
        return next((name for name, last in self.builds.items() if int(build[1]) <= last), None)

    prefill_seen_by_decode: float = Field(default=1.0, ge=0, le=1)

    @property
    def on_resident(self) -> bool:
        """Whether it is data on the resident model: everything on the GPUs, divided into tensor ranks."""
        return self.implementation is None

    @property
    def serves_checkpoints(self) -> bool:
        """Whether it serves a checkpoint in its own format, as stacks do; others store 16 bits or a width of theirs."""
        return self.on_resident if self.checkpoints is None else self.checkpoints != "none"

    def meant_format(self, name: str) -> str | None:
        """The weight format that its users mean by a name which is none, or another one, elsewhere; None for any other."""
        return self.format_names.get(name.strip().lower().replace("-", "").replace("_", ""))

    def runs_format(self, name: str) -> bool:
        """Whether it has kernels for a number format."""
        if self.formats is None or name in _WIDE_FORMATS:
            return True
        spelled = by_bits(name)
        if spelled is not None:
            return spelled.format in self.formats
        return name in self.formats or ("gguf" in self.formats and name in (*GGML_BLOCKS, *GGUF_MIXTURES))

    @property
    def usual_weights(self) -> Tier | None:
        """Where its weights are unless something else is said."""
        return self.weights_on or ("gpu" if self.on_resident else None)


@dataclass(frozen=True)
class Folder:
    """Where a family stands, and the package that its code, if any, is imported as."""

    path: Path
    package: str

    @property
    def name(self) -> str:
        """The family's name."""
        return self.path.name

    @cached_property
    def releases(self) -> tuple[str, ...]:
        """Names of the ranges of versions that ship, oldest first; those for some devices only are `special`."""
        return tuple(name for name in self.all_releases if not _SPECIAL.search(name))

    @cached_property
    def special(self) -> tuple[str, ...]:
        """Ranges of versions on some devices only: their names end in a word, and the files say on which (``only_on``)."""
        return tuple(name for name in self.all_releases if _SPECIAL.search(name))

    @cached_property
    def all_releases(self) -> tuple[str, ...]:
        """Both, by their numbers; as the folder was when first asked."""
        names = (entry.name for entry in self.path.iterdir())
        stems = [
            name.removesuffix(".yaml") for name in names if name.endswith(".yaml") and name != _DECLARATION
        ]
        return tuple(sorted(stems, key=lambda name: (numbers(name), name)))

    def text(self, file: str) -> str:
        """The text of one of its files."""
        return (self.path / file).read_text("utf-8")

    def stated(self, release: str) -> dict[str, Any]:
        """What the file of a range of versions says, as written; parsed once.

        Raises:
            SpecError: with file and line, if it is malformed.
        """
        return _stated(self, release)


@cache
def _stated(folder: Folder, release: str) -> dict[str, Any]:
    return files.parse_mapping(folder.text(f"{release}.yaml"), f"{folder.name}/{release}.yaml")


def own_folders() -> tuple[Path, ...]:
    """Folders of the user's own families: LLM_PERF_SYSTEMS, separated as in PATH."""
    return tuple(Path(one) for one in os.environ.get("LLM_PERF_SYSTEMS", "").split(os.pathsep) if one)


def _roots() -> Iterator[tuple[Path, str]]:
    home = files.package_folder(_PACKAGE)
    yield home, _PACKAGE
    yield home / _STACKS, f"{_PACKAGE}.{_STACKS}"
    for own in own_folders():
        yield own, _PACKAGE


def _is_family(path: Path) -> bool:
    return path.is_dir() and (path / _DECLARATION).is_file()


@cache
def family_names() -> tuple[str, ...]:
    """Names of all families, in alphabetical order."""
    found = {
        entry.name for root, _ in _roots() if root.is_dir() for entry in root.iterdir() if _is_family(entry)
    }
    return tuple(sorted(found))


@cache
def folder_of(family: str) -> Folder:
    """The folder of a family by its exact name.

    Raises:
        SpecError: there is none.
    """
    for root, package in _roots():
        if _is_family(root / family):
            return Folder(root / family, f"{package}.{family}")
    raise SpecError(f"there is no system {family!r}; there are {', '.join(family_names())}")


@cache
def declaration(family: str) -> Family:
    """What a family says about itself.

    Raises:
        SpecError: there is none of that exact name, or its file is malformed.
    """
    text = folder_of(family).text(_DECLARATION)
    where = f"{family}/{_DECLARATION}"
    return files.build(Family, files.parse_mapping(text, where) | {"name": family}, text, where)


def families(stating: str = "") -> tuple[Family, ...]:
    """What all families say about themselves; only of those whose file has the word ``stating``, which reads fewer."""
    names = (name for name in family_names() if not stating or stating in folder_of(name).text(_DECLARATION))
    return tuple(declaration(name) for name in names)


@cache
def find(name: str) -> tuple[str, str | None]:
    """The family that ``name`` means, and the version that is asked for: None for the newest.

    A name is a family's, or an alias of a family or of one of its versions; ``@`` and a version may follow.

    Raises:
        SpecError: unknown; the nearest names are listed.
    """
    head, at, version = name.partition("@")
    if at and not version.strip():
        raise SpecError(f"system {name!r} names no version after '@'; the newest is meant without it")
    asked = version.strip() or None
    plain = normalise(head).replace("-", "_")
    if plain in family_names():
        return plain, asked
    aliases = {normalise(alias): family.name for family in families() for alias in family.aliases}
    if normalise(head) in aliases:
        return aliases[normalise(head)], asked
    of_versions = _version_aliases()
    found = resolve("system", head, family_names(), aliases | {alias: alias for alias in of_versions})
    if found not in of_versions:
        return found, asked
    if asked is not None:
        raise SpecError(f"system {name!r}: {head} is the version {'@'.join(of_versions[found])} already")
    return of_versions[found]


@cache
def _version_aliases() -> dict[str, tuple[str, str]]:
    """Family and range of versions by every other name; this reads all files, so that whoever knows the family asks it."""
    return {
        alias: (family, release)
        for family in family_names()
        for alias, release in _aliases_within(folder_of(family)).items()
    }


@cache
def _aliases_within(folder: Folder) -> dict[str, str]:
    return {
        normalise(str(alias)): release
        for release in folder.all_releases
        for alias in folder.stated(release).get("aliases") or ()
    }


# -- versions -------------------------------------------------------------------------------------------------

_VERSION = re.compile(r"v?\d[\w.+-]*", re.IGNORECASE)
"""What may follow the ``@``: a number, and what makers append to it."""

Numbers = tuple[int, ...]
Covers = tuple[str | None, str | None]
"""The first and the last version of a range; None where it is open."""


def numbers(version: str) -> Numbers:
    """The numbers of a version, which order it: 0.10 comes after 0.9."""
    return tuple(int(digits) for digits in re.findall(r"\d+", version)[:8])


def covers(version: Numbers, ends: tuple[Numbers | None, Numbers | None]) -> bool:
    """Whether a version lies between two ends, both included; 0.2.7 is a 0.2, and 0 is any of 0.1 to 0.2."""
    first, last = ends
    return (first is None or _head(version, first) >= _head(first, version)) and (
        last is None or _head(version, last) <= _head(last, version)
    )


def begun_by(begins: Numbers, version: Numbers) -> bool:
    """Whether what began at one version has by another: 5 is the newest 5.x, and 5.0 no 5.1."""
    return _head(begins, version) <= version


def begins_within(begins: Numbers, version: Numbers) -> bool:
    """Whether something began at one of the releases that a version's numbers leave open."""
    return len(begins) > len(version) > 0 and _head(begins, version) == version


def _head(one: Numbers, other: Numbers) -> Numbers:
    return one[: len(other)]


def _distance(one: Numbers, other: Numbers) -> tuple[int, int]:
    """How far apart two versions are: fewer equal numbers at the front first, then the difference of the next."""
    same = 0
    while same < min(len(one), len(other)) and one[same] == other[same]:
        same += 1
    rest = [side[same] if same < len(side) else 0 for side in (one, other)]
    return -same, abs(rest[0] - rest[1])


def nearest(version: Numbers, ranges: dict[str, tuple[Numbers | None, Numbers | None]]) -> tuple[str, bool]:
    """The range that a version lies in, or the nearest one, and whether it lies in it.

    Of several that it lies in the newest is taken, and of two that are equally near the newer as well: versions that stand
    between two others are predicted better by the one after them than by the one before (docs/accuracy_versions.md).

    Args:
        version: Its numbers.
        ranges: First and last version of each range, oldest first.
    """
    inside = [name for name, ends in ranges.items() if covers(version, ends)]
    if inside:
        return inside[-1], True
    below = [name for name, (_, last) in ranges.items() if last is not None and last < version][-1:]
    above = [name for name, (first, _) in ranges.items() if first is not None and first > version][:1]
    return min(above + below, key=lambda name: distance(version, ranges[name])), False


def distance(version: Numbers, ends: tuple[Numbers | None, Numbers | None]) -> tuple[int, int]:
    """How far a version is from a range that it is outside of: from the end that is nearer."""
    return min(_distance(version, end) for end in ends if end is not None)


def apart(
    one: tuple[Numbers | None, Numbers | None], other: tuple[Numbers | None, Numbers | None]
) -> tuple[int, int] | None:
    """How far apart two ranges are, by `distance`; None where they overlap."""
    for earlier, later in ((one, other), (other, one)):
        if earlier[1] is not None and later[0] is not None and earlier[1] < later[0]:
            return _distance(earlier[1], later[0])
    return None


Device = tuple[str, ...]
"""What a stack may have versions of its own for: `llm_perf.config.gpu.GPUConfig.device`."""

ANY_DEVICE: Device = ()


def release_of(family: str, version: str | None, device: Device = ANY_DEVICE) -> tuple[str, bool]:
    """The range of versions that stands for a version of a family, and whether it covers that version.

    A build, such as ``b7951`` of llama.cpp, is of the version that it was made in.
    A file may be for some devices only (``only_on``): on such a device it goes before the others where it covers the
    version, or where no file does and none is nearer; elsewhere it is chosen by its own name alone.

    Raises:
        SpecError: ``version`` has no number, or the family has no versions.
    """
    if version is not None and re.fullmatch(r"b\d+", version):
        version = declaration(family).version_of_build(version)
    return _release_of(family, version, _kinds_of(family, device))


@cache
def _kinds_of(family: str, device: Device) -> frozenset[str]:
    """What files of a family say of a device that there are files for; nothing for most families."""
    folder = folder_of(family)
    said = {kind for release in folder.special for kind in _only_on(folder, release)}
    return frozenset(said & set(device))


@cache
def _release_of(family: str, version: str | None, kinds: frozenset[str]) -> tuple[str, bool]:
    folder = folder_of(family)
    by_name = {normalise(name): name for name in folder.special}
    if version is not None and normalise(version) in by_name:
        return by_name[normalise(version)], True
    own = tuple(name for name in folder.special if kinds & set(_only_on(folder, name)))
    dated = any(ends_of(folder, name) != (None, None) for name in own)
    on_device = None
    if dated and version is not None and numbers(version):
        on_device, covered = _release_among(family, version, own)
        if covered:
            return on_device, True
    if own and version is None and covers(numbers(folder.releases[-1]), ends_of(folder, own[-1])):
        return own[-1], True
    anywhere, covered = _release_among(family, version, folder.releases)
    if covered or on_device is None or version is None:
        return anywhere, covered
    place = numbers(version)
    farther = distance(place, ends_of(folder, on_device)) > distance(place, ends_of(folder, anywhere))
    return (anywhere if farther else on_device), False


def _only_on(folder: Folder, release: str) -> tuple[str, ...]:
    """Vendors and architectures that a file is for; none: all."""
    return tuple(folder.stated(release).get("only_on") or ())


def _release_among(family: str, version: str | None, releases: tuple[str, ...]) -> tuple[str, bool]:
    folder = folder_of(family)
    if version is None:
        return releases[-1], True
    wanted = normalise(version)
    by_name = {normalise(name): name for name in releases}
    if wanted in by_name:
        return by_name[wanted], True
    for alias, release in _aliases_within(folder).items():
        if alias in (wanted, f"{normalise(family)}-{wanted}"):
            return release, True
    ranges = {name: ends for name in releases if (ends := ends_of(folder, name)) != (None, None)}
    if not ranges and len(releases) == 1 and _open_at_both_ends(folder, releases[0]):
        ranges = {releases[0]: (None, None)}
    if not ranges:
        raise SpecError(f"system {family} has no versions to choose from; got {family}@{version}")
    if not _VERSION.fullmatch(version.strip()):
        there = "numbers, such as 1.0" if (None, None) in ranges.values() else ", ".join(releases)
        raise SpecError(f"system {family}@{version}: {version!r} is no version; there are {there}")
    return nearest(numbers(version), ranges)


def _open_at_both_ends(folder: Folder, release: str) -> bool:
    """Whether a file says that it stands for every version; one that says nothing is of the numbers of its name."""
    return bool(folder.stated(release).get("covers") == [None, None])


@cache
def ends_of(folder: Folder, release: str) -> tuple[Numbers | None, Numbers | None]:
    """First and last version of a range; one that does not say is of the numbers of its name."""
    stated = folder.stated(release).get("covers")
    if stated is None:
        own = numbers(release) or None
        return own, own
    first, last = (None if end is None else numbers(str(end)) for end in stated)
    return first, last


@cache
def runs_on(family: str, version: str | None) -> RunsOn | None:
    """The accelerators that a version of a family runs on, None for the newest; None where nothing is known.

    Raises:
        SpecError: unknown.
    """
    return _in_force(family, version, declaration(family).runs_on)


@cache
def memory_rules(family: str, version: str | None) -> MemoryRules | None:
    """The memory rule of a version of a family, None for the newest; None where the family has none for it.

    Raises:
        SpecError: unknown.
    """
    return _in_force(family, version, declaration(family).memory)


@cache
def scheduler_rules(family: str, version: str | None, name: str | None = None) -> SchedulerRules | None:
    """How a version of a family schedules requests, None for the newest; None where that is not known of it.

    ``name`` is one of the policies that the version has; its default if None.

    Raises:
        SpecError: unknown.
    """
    rules = declaration(family).scheduling
    newest = _in_force(family, version, rules)
    if newest is None:
        return None
    policies = {normalise(rule.name): rule for rule in reversed(rules) if rule.since == newest.since}
    if name is None:
        return next(reversed(policies.values()))
    if normalise(name) not in policies:
        known = ", ".join(rule.name for rule in rules if rule.since == newest.since)
        raise SpecError(f"scheduler {name!r}: {family} has {known}")
    return policies[normalise(name)]


class _Begins(Protocol):
    @property
    def since(self) -> str: ...


Rule = TypeVar("Rule", bound=_Begins)


def _in_force(family: str, version: str | None, rules: tuple[Rule, ...]) -> Rule | None:
    """The newest rule that began by a version; 0.5 is any of its releases, so that one of 0.5.15 began by it."""
    if not rules:
        return None
    last = None if version is None else numbers(version)
    if not last:
        release, _ = release_of(family, version)
        last = ends_of(folder_of(family), release)[1]
    begun = [one for one in rules if last is None or begun_by(numbers(one.since), last)]
    return begun[-1] if begun else None
