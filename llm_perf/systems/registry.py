"""Systems by name."""

from __future__ import annotations

from functools import cache

from llm_perf.config.names import resolve
from llm_perf.config.parallelism import DSZeRO
from llm_perf.errors import SpecError
from llm_perf.systems.base import System
from llm_perf.systems.resident import Resident
from llm_perf.systems.zero_inference import ZeroInference

STACKS = ("resident", "fastertransformer")
"""Stacks of the resident model: each is a YAML file of constants in this folder."""

SYSTEM_NAMES = (*STACKS, "zero_inference")

_ALIASES = {
    "ft": "fastertransformer",
    "deepspeed-zero-inference": "zero_inference",
    "zero-inference": "zero_inference",
    "ds-zero-inference": "zero_inference",
}

_PLANNED = ("flexgen", "accelerate", "petals", "transformers", "deepspeed_inference", "vllm", "tensorrt_llm")


@cache
def get_system(name: str) -> System:
    """The system of a name.

    Raises:
        SpecError: unknown, or known but not modelled yet.
    """
    if name.replace("-", "_").lower() in _PLANNED:
        raise SpecError(f"system {name} is not modelled yet; available: {', '.join(SYSTEM_NAMES)}")
    resolved = resolve("system", name, SYSTEM_NAMES, _ALIASES)
    return ZeroInference() if resolved == "zero_inference" else Resident(resolved)


def resolve_system(system: str | None, ds_zero: DSZeRO) -> str:
    """The system that ``--system`` and ``--ds-zero`` mean together: stage 3 is zero_inference.

    Raises:
        SpecError: stage 3 with another system.
    """
    if system is None:
        return "zero_inference" if ds_zero is DSZeRO.STAGE_3 else "resident"
    name = get_system(system).name
    if ds_zero is DSZeRO.STAGE_3 and name != "zero_inference":
        raise SpecError(
            f"--ds-zero 3 is the system zero_inference; it cannot be combined with --system {name}"
        )
    return name
