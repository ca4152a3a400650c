"""Hosts by name: bundled, from a file, with sockets and memory as people count them, or this machine by /proc."""

from __future__ import annotations

import re
from functools import cache
from typing import TYPE_CHECKING, Any

from llm_perf.config import files
from llm_perf.config.bundled import HERE, load_spec
from llm_perf.config.gpu import GPUConfig
from llm_perf.config.host import HostConfig
from llm_perf.config.names import is_memory_alone, memory_and_name, normalise, sockets_and_name
from llm_perf.errors import SpecError, UnknownNameError

if TYPE_CHECKING:
    from llm_perf.config.here import ProcessorId


_UNKNOWN_HOST = "desktop-gen4"
"""What a host is taken for in all that /proc does not say, where its processor has no file."""
_GUESSED_OF_A_HOST = (
    "memory_bandwidth_gb_per_s_per_socket",
    "pcie_generation",
    "pcie_lanes",
    "disk.capacity_gib",
    "disk.stated_read_gb_per_s",
    "gpus_per_node",
)


def get_host_config_by_name(name: str) -> HostConfig:
    """A host by name or from a YAML or JSON file.

    ``2x NAME`` is the same with twice the sockets and memory, ``NAME-256gb`` with so much memory in all, ``here`` this
    machine by /proc, of which the same can be said.

    Raises:
        SpecError: malformed file, unknown or ambiguous name.
    """
    if not isinstance(name, str) or files.looks_like_path(name):
        return load_spec("host", HostConfig, name)
    _refuse_odd_count(name)
    times, single = sockets_and_name(name)
    _refuse_odd_memory(name, single)
    if times > 1 and (alone := _OF_ONE_SOCKET.search(normalise(single))):
        raise SpecError(
            f"host {name[:60]!r}: an EPYC with a P behind its number works alone in a machine; give one, or {times}x "
            f"{alone[1]} where there is one without the P"
        )
    try:
        return _of_sockets(_host_named(single), times)
    except UnknownNameError as unknown:
        known, gib = memory_and_name(single)
        if times == 1:  # the count may stand before the memory: EPYC 9654 x2 512 GB
            times, known = sockets_and_name(known)
        try:
            if gib is not None:
                return _of_sockets(_host_named(known), times).with_memory(gib)
        except UnknownNameError:
            pass
        raise unknown from None


_MOST_MEMORY_GIB = 64 * 1024
"""More than any machine has: 32 TiB stand in sixteen sockets."""


def _refuse_odd_memory(name: str, single: str) -> None:
    """Say how much memory may stand behind a host's name where it is none, or more than any machine has.

    Raises:
        SpecError: it is.
    """
    known, gib = memory_and_name(single)
    if gib is not None and not 1 <= gib <= _MOST_MEMORY_GIB:
        raise SpecError(
            f"host {name[:60]!r}: {gib:,} GiB are no machine's memory; possible behind {known[:60]}: 1gb to "
            f"{_MOST_MEMORY_GIB // 1024}tb, or nothing for what it usually has"
        )


_OF_ONE_SOCKET = re.compile(r"(epyc-\d\w\d\d)p(?:-|$)")
_ALONE = re.compile(r"(?:apple|ryzen|strix|core-|threadripper|xeon-w|xeon-e5-1)")
"""Names of hosts whose processor's maker has no board of several sockets for it."""


def _of_sockets(host: HostConfig, times: int) -> HostConfig:
    """The host with so many times its sockets.

    Raises:
        SpecError: its processor works alone.
    """
    if times > 1 and _ALONE.match(host.name):
        raise SpecError(
            f"host {times}x {host.name}: this processor works alone in a machine; give {host.name}"
        )
    if times > 1 and host.made_with:
        raise SpecError(
            f"host {times}x {host.name}: this is a whole machine with its accelerators; for {times} of them give "
            f"--host {host.name} --num-nodes {times}"
        )
    return host.with_sockets(times)


def _host_named(name: str) -> HostConfig:
    """A host of one name, without a count or an amount of memory: ``here`` among them."""
    if normalise(name) != HERE:
        return load_spec("host", HostConfig, name)
    from llm_perf.config import here

    return host_of_processor(*here.processor_here())


_ODD_COUNT = re.compile(r"[^\w(]|\(*\s*[\d.]{1,3}\s*[x*\u00d7](?=\W*\w)")
"""A name that begins with a sign, or with a count."""


def _refuse_odd_count(name: str) -> None:
    """Say how sockets are counted where a name has a sign, an open bracket or a number that is none, or is memory alone.

    Raises:
        SpecError: it has.
    """
    plain = name.strip()
    if is_memory_alone(plain):
        amount = re.sub(r"[^0-9a-z.]", "", plain[:20].lower())
        raise SpecError(
            f"host {name[:60]!r} is an amount of memory; put it behind a host, as in ryzen-9-7950x-{amount} "
            "(llm-perf hosts list)"
        )
    odd = _ODD_COUNT.match(plain) and sockets_and_name(plain)[1] == plain
    if odd or plain.count("(") != plain.count(")"):
        bare = (
            re.sub(r"^(?:[^a-z]*?[\d.]+\s*[x*\u00d7][\s-]*)+", "", plain.lower())
            .lstrip("()+- ")
            .rstrip("()- ")
        )
        shown = bare if bare[:1].isalnum() and bare.isprintable() and len(bare) < 60 else "NAME"
        raise SpecError(f"host {name[:60]!r}: give {shown}, or 2x {shown} to 8x {shown} for so many sockets")


def usual_host(gpu: GPUConfig, gpus_per_node: int, in_one_node: bool = False) -> HostConfig:
    """The host that a GPU is usually in, or a larger one that so many of them are in.

    Where GPU and host have one memory, the host has as much as the GPU's file says. ``in_one_node``: it was said that so
    many are in one machine; one that nobody sells, a board with risers, is taken for that alone.

    Raises:
        SpecError: the GPU names none.
    """
    if gpu.default_host is None:
        raise SpecError(f"GPU {gpu.name} names no default host; give one with --host")
    host = get_host_config_by_name(gpu.default_host)
    while host.larger is not None and host.gpus_per_node < gpus_per_node:
        larger = get_host_config_by_name(host.larger)
        if larger.gpus_per_node <= host.gpus_per_node or (larger.improvised and not in_one_node):
            break
        host = larger
    return _with_memory_of(gpu, host)


def host_with(gpu: GPUConfig, name: str) -> HostConfig:
    """A named host with a GPU in it: where the two have one memory it is as large as the GPU's file says.

    Raises:
        SpecError: as `get_host_config_by_name`; the name says another memory than the GPU's.
    """
    host = get_host_config_by_name(name)
    if name == HERE:
        return host
    found = _with_memory_of(gpu, host)
    if found is not host and (memory_and_name(name)[1] is not None or files.looks_like_path(name)):
        raise SpecError(
            f"host {name!r} has {host.memory_gib:g} GiB, and {gpu.name} {gpu.memory_gib:g}: they are one memory; name the "
            "chip that has as much (llm-perf gpus list), or leave --host out"
        )
    return found


def with_host_memory(gpu: GPUConfig, host: HostConfig, named: str | None, gib: int | None) -> HostConfig:
    """The host with so much memory, as a name that ends in it has: ``--host-memory 128`` is ``--host NAME-128gb``.

    ``named`` is the name by which the host was asked for, None where it is the usual one.

    Raises:
        SpecError: the name says how much as well, GPU and host have one memory, or no machine has so much.
    """
    if gib is None:
        return host
    if gib > _MOST_MEMORY_GIB:
        raise SpecError(
            f"--host-memory {gib:,} GiB are no machine's memory; possible: 1 to {_MOST_MEMORY_GIB:,}"
        )
    if named is not None and memory_and_name(named)[1] is not None:
        raise SpecError(
            f"host {named!r} says how much memory, and so does --host-memory {gib}: give one of the two"
        )
    if one_memory(gpu, host):
        raise SpecError(
            f"--host-memory {gib}: {gpu.name} and its host have one memory; name the chip that has as much "
            "(llm-perf gpus list)"
        )
    return host.with_memory(gib)


def one_memory(gpu: GPUConfig, host: HostConfig) -> bool:
    """Whether GPU and host have one memory: neither states a link between two."""
    return not gpu.absent and gpu.pcie_bytes_per_s is None and host.pcie_bytes_per_s is None


def _with_memory_of(gpu: GPUConfig, host: HostConfig) -> HostConfig:
    gib = round(gpu.memory_gib)
    alone = one_memory(gpu, host) and host.gpus_per_node == 1
    return host.with_memory(gib) if alone and gib != round(host.memory_gib) else host


def host_of_processor(facts: dict[str, Any], kind: ProcessorId | None = None) -> HostConfig:
    """A machine of which /proc was read: the rest is that of its processor's file, or assumed where it has none.

    ``kind`` finds a processor of the same generation where the name says nothing, as in a rented machine, and what a part
    of a processor's cores can read of its memory.
    """
    relative = None if kind is None else relative_of(kind)
    try:
        known, assumed = load_spec("host", HostConfig, facts["cpu"]), False
    except SpecError:
        known, assumed = (
            load_spec("host", HostConfig, _UNKNOWN_HOST if relative is None else relative["host"]),
            True,
        )
    notes = f"{known.name} but for what /proc says" + (": no file describes its processor" if assumed else "")
    unknown = _GUESSED_OF_A_HOST if assumed else ()
    channels = {"memory_channels_per_socket": None, "memory_mt_per_s": None} if assumed else {}
    gave = {field: value for field, value in facts.items() if value}
    rest = f"all else assumed as {known.name}" if assumed else known.source
    part = {} if kind is None or relative is None else _part_of_a_processor(known, gave, kind, relative)
    return known.replace(
        name=HERE,
        aliases=(),
        **gave,
        **channels,
        **part,
        notes=notes,
        assumed=tuple(dict.fromkeys(path for path in (*known.assumed, *unknown, *part) if path not in gave)),
        source=f"/proc/cpuinfo and /proc/meminfo of this machine; {rest}",
    )


@cache
def _generations() -> tuple[dict[str, Any], ...]:
    text = (files.package_folder("hardware_specs") / _PROCESSORS).read_text("utf-8")
    return tuple(files.parse_mapping(text, _PROCESSORS)["processors"])


_PROCESSORS = "processors.yaml"


def relative_of(kind: ProcessorId) -> dict[str, Any] | None:
    """What is known of a server processor's generation; None of another's."""
    return next(
        (
            entry
            for entry in _generations()
            if entry["vendor"] == kind.vendor
            and entry["family"] == kind.family
            and kind.model in entry["models"]
        ),
        None,
    )


def _part_of_a_processor(
    whole: HostConfig, facts: dict[str, Any], kind: ProcessorId, relative: dict[str, Any]
) -> dict[str, Any]:
    """What limits the reads of a machine that has a part of a processor's cores; nothing where it has all."""
    cores = facts.get("cores_per_socket")
    if cores is None or whole.cores_per_socket is None or cores >= whole.cores_per_socket:
        return {}
    found: dict[str, Any] = {"core_read_gb_per_s": float(relative["core_gb_per_s"])}
    if kind.last_level_caches and "chiplet_gb_per_s" in relative:
        caches = kind.last_level_caches / facts.get("sockets", 1)
        found["cores_read_gb_per_s_per_socket"] = caches * relative["chiplet_gb_per_s"]
    return found | ({"shared_cores": whole.cores_per_socket} if kind.virtual else {})


@cache
def described_hosts() -> dict[str, str]:
    """Phrases by which sources describe a machine, and the bundled host that is this machine."""
    text = (files.package_folder("hardware_specs") / _DESCRIBED).read_text("utf-8")
    return {str(phrase): host for phrase, host in files.parse_mapping(text, _DESCRIBED).items()}


_DESCRIBED = "described_hosts.yaml"
