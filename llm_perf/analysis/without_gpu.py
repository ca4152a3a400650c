"""A question that names a host and no GPU: what computes then, and what to say where nothing can."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from llm_perf.errors import SpecError
from llm_perf.systems.families import families
from llm_perf.systems.registry import family_of

NO_GPU_NAME: Final = "none"
"""What ``--gpu`` says of a machine without one."""


def names_host_alone(inputs: Mapping[str, Any]) -> bool:
    """Whether inputs name a host and no GPU, for a system that computes on a host alone.

    Args:
        inputs: Inputs of a question by name; ``gpu``, ``host`` and ``system`` are read.

    Raises:
        SpecError: the system is not known.
    """
    host, system = inputs.get("host"), inputs.get("system")
    if inputs.get("gpu") is not None or not isinstance(host, str) or not isinstance(system, str):
        return False
    return family_of(system).runs_without_gpu


def gpu_of_host_alone(inputs: Any) -> Any:
    """The same inputs, whose GPU is none where `names_host_alone`; anything else as it is."""
    if isinstance(inputs, dict) and names_host_alone(inputs):
        return inputs | {"gpu": NO_GPU_NAME}
    return inputs


def missing_gpu(inputs: Mapping[str, Any]) -> SpecError:
    """The refusal of inputs without a GPU: where they name a host, it says which systems need none."""
    if not isinstance(inputs.get("host"), str):
        return SpecError("--gpu is required (llm-perf gpus list shows the bundled ones)")
    able = " or ".join(f"--system {family.name}" for family in families() if family.runs_without_gpu)
    asked = inputs.get("system")
    who = f"system {family_of(asked).name}" if isinstance(asked, str) else "without --system, an answer"
    return SpecError(f"--gpu is required: {who} needs one; on a host alone there is {able}")


def alone_note(host: str) -> str:
    """What is said beside an answer whose GPU was not given."""
    return f"no --gpu was given: {host} computes alone, as with --gpu {NO_GPU_NAME}"
