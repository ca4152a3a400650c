"""Accelerators by name: bundled, from a file, of this machine, or as a driver calls them."""

from __future__ import annotations

import re

from llm_perf.config.bundled import HERE, load_spec
from llm_perf.config.gpu import NO_GPU, GPUConfig
from llm_perf.errors import AmbiguousNameError, SpecError, UnknownNameError

_NO_GPU_NAMES = ("none", "cpu")


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
