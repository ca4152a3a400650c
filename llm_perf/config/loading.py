"""Specs by name or path. Only the file that is asked for is parsed."""

from __future__ import annotations

import re
from functools import cache, lru_cache
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

from llm_perf.config import files
from llm_perf.config.base import Spec
from llm_perf.config.dtype import BITS, DtypeConfig
from llm_perf.config.formats import format_of_repository
from llm_perf.config.gpu import NO_GPU, GPUConfig, GPUEfficiency
from llm_perf.config.host import HostConfig
from llm_perf.config.model import ModelConfig
from llm_perf.config.names import (
    is_memory_alone,
    memory_and_name,
    normalise,
    product_names,
    resolve,
    sockets_and_name,
)
from llm_perf.config.quantization import named_quantization
from llm_perf.errors import AmbiguousNameError, SpecError, UnknownNameError

if TYPE_CHECKING:  # importlib.resources.abc is younger than Python 3.10
    from importlib.resources.abc import Traversable

    from llm_perf.config.here import ProcessorId

S = TypeVar("S", bound=Spec)

_FOLDERS = {
    "model": ("model_specs", ""),
    "GPU": ("hardware_specs", "gpus"),
    "host": ("hardware_specs", "hosts"),
    "efficiency": ("hardware_specs", "efficiency"),
    "profile": ("hardware_specs", "profiles"),
}
_ALIASES = "aliases.yaml"
_DEVICES = ("GPU", "host")
_ALIASES_FIELD = re.compile(r"^aliases:.*\n(?:[ -].*\n)*", re.MULTILINE)
_DTYPE_NAME = re.compile(
    r"w(?P<weight_bits>\d+)a(?P<activation_bits>\d+)e(?P<embedding_bits>\d+)(?:kv(?P<kv_bits>\d+))?"
)


def _folder(kind: str) -> Traversable:
    package, subfolder = _FOLDERS[kind]
    root = resources.files(package)
    return root / subfolder if subfolder else root


@cache
def known_names(kind: str) -> tuple[str, ...]:
    """Names of the bundled specs of a kind ("model", "GPU", "host", "efficiency", "profile"), sorted."""
    folder = _folder(kind)
    if not folder.is_dir():
        return ()
    found = (entry.name for entry in folder.iterdir())
    stems = (name.removesuffix(".yaml") for name in found if name.endswith(".yaml") and name != _ALIASES)
    return tuple(sorted(stems))


@cache
def described_hosts() -> dict[str, str]:
    """Phrases by which sources describe a machine, and the bundled host that is this machine."""
    text = (resources.files("hardware_specs") / _DESCRIBED).read_text("utf-8")
    return {str(phrase): host for phrase, host in files.parse_mapping(text, _DESCRIBED).items()}


_DESCRIBED = "described_hosts.yaml"


@cache
def _written_aliases(kind: str) -> dict[str, str]:
    file = _folder(kind) / _ALIASES
    return files.parse_mapping(file.read_text("utf-8"), file.name) if file.is_file() else {}


@cache
def _aliases(kind: str) -> dict[str, str]:
    written = _written_aliases(kind)
    aliases = {normalise(alias): name for alias, name in written.items()}
    if kind != "model":
        return aliases
    # A model's alias is known without its organisation too, as its name is.
    return {
        normalise(alias.partition("/")[2]): name for alias, name in written.items() if "/" in alias
    } | aliases


def published_models() -> tuple[str, ...]:
    """Bundled models as they are published, organisation/name: their own names and those that stand for the same shapes."""
    own = (name.replace("_", "/", 1) for name in known_names("model"))
    return tuple(
        sorted({*own, *(alias for alias in _written_aliases("model") if "/" in alias)}, key=str.lower)
    )


def other_names(kind: str, part: str) -> dict[str, str]:
    """Bundled specs that ``aliases.yaml`` knows under a name with this part in it, each with the shortest such name."""
    wanted = normalise(part)
    found: dict[str, str] = {}
    for alias, name in sorted(_aliases(kind).items(), key=lambda item: (len(item[0]), item[0])):
        if wanted and wanted in alias:
            found.setdefault(name, alias)
    return found


@lru_cache(maxsize=4096)  # searches ask for the same few names thousands of times
def resolve_name(kind: str, name: str) -> str:
    """The bundled spec that a name means.

    Raises:
        UnknownNameError: no such spec; the nearest names are listed.
        AmbiguousNameError: several; they are listed.
    """
    own = (lambda: _own_aliases(kind)) if kind in _DEVICES else None
    return resolve(kind, name, known_names(kind), _aliases(kind), own)


@cache
def _own_aliases(kind: str) -> dict[str, str]:
    """The aliases that the specs' own files give, as written and in shorter spellings that keep a number.

    Only that part of each file is parsed: a name that is found by its aliases alone stays quick.
    """
    found: dict[str, str] = {}
    for stem in known_names(kind):
        written = _ALIASES_FIELD.search((_folder(kind) / f"{stem}.yaml").read_text("utf-8"))
        if written:
            names = files.parse_mapping(written[0], f"{stem}.yaml")["aliases"]
            for name in names:
                spelled = (form for form in product_names(name) if any(map(str.isdigit, form)))
                found |= dict.fromkeys((normalise(name), *spelled), stem)
    return found


@lru_cache(maxsize=256)
def _bundled(kind: str, spec: type[S], stem: str) -> S:
    file = _folder(kind) / f"{stem}.yaml"
    text = file.read_text("utf-8")
    data = files.parse_mapping(text, file.name)
    return files.build(spec, _completed(kind, data, file.name, (stem,)), text, file.name)


def _completed(kind: str, data: dict[str, Any], where: str, above: tuple[str, ...] = ()) -> dict[str, Any]:
    """A device's file with what it extends filled in, and the efficiency family that a GPU file names.

    ``extends`` names a bundled spec: fields that the file gives replace that one's, others stay; ``aliases`` are never
    inherited. ``above`` are the bundled specs that lead here.

    Raises:
        SpecError: no such spec, or one that extends itself.
    """
    if kind not in (*_DEVICES, "efficiency"):
        return data
    if "extends" in data:
        name = data["extends"]
        if not isinstance(name, str) or files.looks_like_path(name):
            raise SpecError(f"{where}: extends must be the name of a bundled {kind}, got {name!r}")
        try:
            stem = resolve_name(kind, name)
        except SpecError as error:
            raise SpecError(f"{where}: extends: {error}") from None
        if stem in above:
            raise SpecError(f"{where}: extends {name!r} leads back to itself: {' -> '.join((*above, stem))}")
        text = (_folder(kind) / f"{stem}.yaml").read_text("utf-8")
        base = _completed(kind, files.parse_mapping(text, stem), f"{stem}.yaml", (*above, stem))
        own = {field: value for field, value in data.items() if field != "extends"}
        data = (
            {field: value for field, value in base.items() if field != "aliases"} | _usable(base, own) | own
        )
    return _with_efficiency(data) if kind == "GPU" else data


def _usable(base: dict[str, Any], own: dict[str, Any]) -> dict[str, Any]:
    """What programs can have of another amount of memory: the same share, where a file gives the amount alone."""
    now, before, usable = own.get("memory_gib"), base.get("memory_gib"), base.get("usable_memory_gib")
    if (
        isinstance(now, (int, float))
        and isinstance(before, (int, float))
        and isinstance(usable, (int, float))
    ):
        return {"usable_memory_gib": usable * now / before}
    return {}


def _with_efficiency(data: dict[str, Any]) -> dict[str, Any]:
    """A GPU file may name the efficiency family that it belongs to, or, with ``efficiency`` among ``assumed``, resembles."""
    if not isinstance(data.get("efficiency"), str):
        return data
    family = load_spec("efficiency", GPUEfficiency, data["efficiency"])
    assumed = data.get("assumed")  # as the file has it: nothing has looked at it yet
    if isinstance(assumed, list) and "efficiency" in assumed:
        family = _borrowed(family)
    return data | {"efficiency": family}


def _borrowed(family: GPUEfficiency) -> GPUEfficiency:
    """The numbers of a family for a GPU that is none of it: whatever stands behind them, here they are assumed."""
    training = family.training and family.training.replace(evidence="assumed")
    source = f"assumed as those of {family.name}: {family.source}"
    return family.replace(evidence="assumed", provenance="assumed", training=training, source=source)


def load_spec(kind: str, spec: type[S], name: str) -> S:
    """A spec by its name, or from the file that the name is.

    Raises:
        SpecError: malformed file, unknown or ambiguous name.
    """
    if not isinstance(name, str) or not name.strip():
        raise SpecError(f"{kind} name must be text, got {name!r}")
    if files.looks_like_path(name):
        return _from_file(kind, spec, files.expanded(name))
    try:
        return cast("S", _bundled(kind, spec, resolve_name(kind, name)))  # lru_cache forgets the type
    except UnknownNameError:
        if files.is_file(Path(name)):
            return _from_file(kind, spec, Path(name))
        raise


def _from_file(kind: str, spec: type[S], path: Path) -> S:
    text = files.read_text(path)
    data = files.parse_mapping(text, str(path))
    return files.build(spec, _completed(kind, data, str(path)), text, str(path))


def get_model_config_by_name(name_or_path: str) -> ModelConfig:
    """A model by name, from a YAML or JSON file, a Hugging Face ``config.json`` or its folder, a GGUF file, or the hub.

    Names match case-insensitively; ``/``, ``_``, ``-`` and blanks are the same; the organisation is optional.

    Raises:
        SpecError: malformed file, unknown or ambiguous name.
    """
    if isinstance(name_or_path, str) and _is_model_file(name_or_path):
        from llm_perf.config import huggingface

        return huggingface.load_model_file(files.expanded(name_or_path))
    try:
        return _stored_as_named(load_spec("model", ModelConfig, name_or_path), name_or_path)
    except UnknownNameError:
        from llm_perf.config import huggingface
        from llm_perf.config.ollama import tagged_model

        if (tagged := tagged_model(name_or_path)) is not None:
            return tagged

        from_hub = huggingface.load_from_hub(name_or_path)
        if from_hub is not None:
            return from_hub
        named = _quantised_name(name_or_path)
        if named is None:
            raise
        return named


def _stored_as_named(found: ModelConfig, name: str) -> ModelConfig:
    """A model that an alias with a format's ending means (``-FP8``, ``-NVFP4``) is stored in that format.

    One released in a single format is that already; of one that stores its experts otherwise the ending may mean these.
    """
    ending = format_of_repository(name, _publisher(found))
    if ending is None or normalise(found.name).endswith(normalise(ending[0])):
        return found
    released = found.quantization
    if released is not None:
        return found.replace(quantization=released.with_experts(ending[1]) or released)
    return found.replace(quantization=named_quantization(ending[1]))


def _quantised_name(name: str) -> ModelConfig | None:
    """A model whose name ends in a number format (``-AWQ``, ``-GGUF``): the model before it, stored so."""
    found = format_of_repository(name)
    if found is None:
        return None
    try:
        base = load_spec("model", ModelConfig, name[: -len(found[0])].rpartition("/")[2])
    except SpecError:
        return None
    _, number_format = format_of_repository(name, _publisher(base)) or found
    released = base.quantization
    own = name.rpartition("/")[0].lower() in ("", _publisher(base).lower())
    formats = [rule.format for rule in released.rules] if released is not None and own else []
    if number_format == "fp8" and formats == ["fp8_block"]:
        return base.replace(name=name)  # its publisher's 8 bits are the release
    experts = released and released.with_experts(number_format)
    return base.replace(name=name, quantization=experts or named_quantization(number_format))


def _publisher(model: ModelConfig) -> str:
    return model.name.partition("/")[0]


def _is_model_file(name: str) -> bool:
    if name.lower().endswith((".gguf", ".safetensors")):
        return True
    return files.looks_like_path(name) or bool(name.strip() and files.is_file(Path(name) / "config.json"))


HERE = "here"
"""The name of the machine that asks, where a GPU or a host is wanted."""
_NO_GPU_NAMES = ("none", "cpu")
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


def get_gpu_config_by_name(name: str, *, or_none: bool = False) -> GPUConfig:
    """An accelerator by name or from a YAML or JSON file; ``here`` is the first one of this machine.

    ``or_none``: ``none`` and ``cpu`` stand for no GPU, where the host may compute alone.

    Raises:
        SpecError: malformed file, unknown or ambiguous name; no accelerator here.
    """
    if or_none and isinstance(name, str) and name.strip().lower() in _NO_GPU_NAMES:
        return NO_GPU
    if name == HERE:
        from llm_perf.config import here

        return gpu_of_driver(*here.named_here("gpu", here.driver_gpus()))
    try:
        return load_spec("GPU", GPUConfig, name)
    except UnknownNameError:
        _refuse_no_single_gpu(name)
        raise


def _refuse_no_single_gpu(name: str) -> None:
    """Say what to write instead where a name means several GPUs, or none.

    Raises:
        SpecError: it does.
    """
    if name.strip().lower() in _NO_GPU_NAMES:
        raise SpecError(
            f"gpu {name!r}: this needs a GPU; without one there is llm-perf infer --gpu none --host CPU"
        )
    if re.search(r"\w \+ *\w|\w *, *[a-zA-Z]", name):
        raise SpecError(
            f"gpu {name!r}: GPUs of several kinds in one machine are not modelled yet; give one kind"
        )
    if re.match(r"(?:apple )?(?:macbook|imac|mac )", name.strip().lower()):
        raise SpecError(
            f"gpu {name[:60]!r}: of a Mac give the chip and, where it matters, its memory: m3-pro, m4-max-128gb "
            "(llm-perf gpus list)"
        )
    several = re.fullmatch(r"(\d{1,4}) ?[x*][ -]?(\w.*)", name.strip(), re.IGNORECASE)
    if several is not None:
        raise SpecError(
            f"gpu {name!r}: names one GPU, not several; write {several[2]!r} and how many in --tp-size or --num-gpus"
        )


def gpu_of_driver(name: str, memory_gib: float | None) -> GPUConfig:
    """The bundled GPU that a driver's name means; its memory tells boards of one name apart.

    Raises:
        SpecError: none is called so, or several are and their memory does not tell.
    """
    try:
        return load_spec("GPU", GPUConfig, name)
    except AmbiguousNameError as error:
        boards = [load_spec("GPU", GPUConfig, stem) for stem in error.candidates]
        near = [gpu for gpu in boards if memory_gib and abs(gpu.memory_gib / memory_gib - 1) < 0.08]
        if len(near) == 1:
            return near[0]
        raise


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
        raise SpecError(
            f"host {name[:60]!r} is an amount of memory; put it behind a host, as in epyc-9654-256gb (llm-perf hosts list)"
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


def usual_host(gpu: GPUConfig, gpus_per_node: int) -> HostConfig:
    """The host that a GPU is usually in, or a larger one that so many of them are in.

    Where GPU and host have one memory, the host has as much as the GPU's file says.

    Raises:
        SpecError: the GPU names none.
    """
    if gpu.default_host is None:
        raise SpecError(f"GPU {gpu.name} names no default host; give one with --host")
    host = get_host_config_by_name(gpu.default_host)
    while host.larger is not None and host.gpus_per_node < gpus_per_node:
        host = get_host_config_by_name(host.larger)
    one_memory = gpu.pcie_bytes_per_s is None and host.pcie_bytes_per_s is None and host.gpus_per_node == 1
    gib = round(gpu.memory_gib)
    return host.with_memory(gib) if one_memory and gib != host.memory_gib else host


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
    text = (resources.files("hardware_specs") / _PROCESSORS).read_text("utf-8")
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


def get_dtype_config_by_name(name: str) -> DtypeConfig:
    """A DtypeConfig from its name, such as ``w16a16e16`` or ``w4a16e16``; ``kv8`` may follow for the cache.

    Raises:
        SpecError: the name is not of that form.
    """
    match = _DTYPE_NAME.fullmatch(name.strip().lower()) if isinstance(name, str) else None
    if match is None:
        widths = ", ".join(map(str, BITS))
        raise SpecError(
            f"dtype {name!r} is not like w16a16e16 (weight, activation, embedding bits of {widths})"
        )
    bits: dict[str, Any] = {part: int(width) for part, width in match.groupdict().items() if width}
    return DtypeConfig(name=name.strip().lower(), **bits)
