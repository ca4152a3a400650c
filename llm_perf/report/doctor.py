"""What is installed on this machine, and which parts of llm-perf work with it."""

from __future__ import annotations

import importlib.metadata
import platform
import sys
from dataclasses import asdict, dataclass

from llm_perf import __version__
from llm_perf.config import here
from llm_perf.config.loading import HERE, get_host_config_by_name, gpu_of_driver, known_names
from llm_perf.errors import SpecError

_BASE = ("numpy", "PyYAML", "pydantic", "click", "rich")
_EXTRAS = {
    "plot": ("matplotlib",),
    "search": ("scipy",),
    "calibrate": ("torch", "deepspeed", "transformers", "accelerate"),
    "hub": ("huggingface_hub",),
    "explore": ("pyarrow", "plotly"),
    "distributed": ("dask",),
}


@dataclass(frozen=True)
class Check:
    """One finding; ``required`` ones decide whether predictions work at all."""

    name: str
    ok: bool
    detail: str
    required: bool = False

    def as_dict(self) -> dict[str, object]:
        """As plain JSON types."""
        return asdict(self)


def examine() -> list[Check]:
    """Look at versions and data only: nothing heavy is imported."""
    checks = [
        Check(
            "llm-perf", True, f"{__version__} on Python {platform.python_version()} ({sys.platform})", True
        ),
        _packages("base", _BASE, required=True),
        _data(),
    ]
    checks += [_packages(extra, names, required=False) for extra, names in _EXTRAS.items()]
    checks += [_gpu(), _host()]
    return checks


def _packages(extra: str, names: tuple[str, ...], required: bool) -> Check:
    versions = {name: _version(name) for name in names}
    missing = [name for name, version in versions.items() if version is None]
    if missing:
        hint = "pip install llm-perf" + ("" if required else f"[{extra}]")
        return Check(extra, False, f"not installed: {', '.join(missing)} ({hint})", required)
    return Check(extra, True, ", ".join(f"{name} {version}" for name, version in versions.items()), required)


def _gpu() -> Check:
    """The machine's first GPU and the spec that ``--gpu here`` takes it for."""
    try:
        name, memory_gib = here.named_here("gpu", here.driver_gpus())
        spec = gpu_of_driver(name, memory_gib)
    except SpecError as error:
        return Check("GPU", False, f"{error}; predictions need none, real runs then use the CPU")
    size = "" if memory_gib is None else f", {memory_gib:.1f} GiB"
    return Check("GPU", True, f"{name}{size}: --gpu here is {spec.name}")


def _host() -> Check:
    """The machine's processor and the spec that ``--host here`` takes it for."""
    try:
        host = get_host_config_by_name(HERE)
    except SpecError as error:
        return Check("host", False, str(error))
    sets = ", ".join(host.instruction_sets) or "no vector units that are known"
    return Check(
        "host",
        True,
        f"{host.cpu}, {host.sockets} x {host.cores_per_socket} cores ({sets}), {host.usable_memory_gib:.1f} of "
        f"{host.memory_gib:.1f} GiB free: --host here is {host.notes}",
    )


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _data() -> Check:
    counts = {kind: len(known_names(kind)) for kind in ("model", "GPU", "host", "efficiency")}
    detail = ", ".join(f"{count} {kind} specs" for kind, count in counts.items())
    return Check("data", all(counts.values()), detail, True)
