"""Systems by name."""

from __future__ import annotations

from functools import cache
from importlib import import_module
from typing import TYPE_CHECKING, cast

from llm_perf.config.names import resolve
from llm_perf.config.parallelism import DSZeRO
from llm_perf.config.scenario import Scenario
from llm_perf.errors import SpecError
from llm_perf.systems.base import System
from llm_perf.systems.resident import Resident

if TYPE_CHECKING:
    from llm_perf.systems.accelerate import Accelerate
    from llm_perf.systems.flexgen import FlexGen
    from llm_perf.systems.lia import Lia
    from llm_perf.systems.llama_cpp import LlamaCpp
    from llm_perf.systems.petals import Petals
    from llm_perf.systems.transformers import Transformers
    from llm_perf.systems.zero_inference import ZeroInference

    # Each has the interface of a system.
    _all: tuple[System, ...] = (
        Accelerate(),
        FlexGen(),
        Lia(),
        LlamaCpp(),
        Petals(),
        Transformers(),
        ZeroInference(),
    )

STACKS = (
    "resident",
    "fastertransformer",
    "vllm",
    "tensorrt_llm",
    "gpt_fast",
    "deepspeed_inference",
    "exllama",
)
"""Stacks of the resident model: each is a YAML file of constants in this folder."""

_MODULES = {
    "transformers": "Transformers",
    "accelerate": "Accelerate",
    "petals": "Petals",
    "lia": "Lia",
    "llama_cpp": "LlamaCpp",
    "zero_inference": "ZeroInference",
    "flexgen": "FlexGen",
}
"""Systems with a module of their own, and its class. A module is loaded when its system is first asked for."""

QUANTISES_EMBEDDINGS = frozenset({"flexgen", "llama_cpp", "zero_inference"})
"""Systems that quantise the token table and the head with the other weights; others leave them wide."""

SYSTEM_NAMES = (*STACKS, *_MODULES)

_ALIASES = {
    "ft": "fastertransformer",
    "deepspeed-zero-inference": "zero_inference",
    "zero-inference": "zero_inference",
    "ds-zero-inference": "zero_inference",
    "hf": "transformers",
    "huggingface": "transformers",
    "hf-accelerate": "accelerate",
    "trt-llm": "tensorrt_llm",
    "trtllm": "tensorrt_llm",
    "ds-inference": "deepspeed_inference",
    "llama.cpp": "llama_cpp",
    "llamacpp": "llama_cpp",
}


@cache
def get_system(name: str) -> System:
    """The system of a name.

    Raises:
        SpecError: unknown.
    """
    resolved = resolve("system", name, SYSTEM_NAMES, _ALIASES)
    if resolved not in _MODULES:
        return Resident(resolved)
    module = import_module(f"llm_perf.systems.{resolved}")
    return cast("System", getattr(module, _MODULES[resolved])())


def is_stack(name: str) -> bool:
    """Whether a system is a stack of the resident model, which knows the options of serving stacks."""
    system = get_system(name)
    return isinstance(system, Resident) and system.knows_serving_options


def checked_system(scenario: Scenario) -> System:
    """The system of a scenario, which it can run.

    Raises:
        SpecError: it cannot; the message says what could be done instead.
    """
    system = get_system(scenario.system)
    used = scenario.serving_options
    if used and not is_stack(system.name):
        flags = ", ".join(f"--{name.replace('_', '-')}" for name in used)
        raise SpecError(
            f"system {system.name} does not know {flags}; systems that do: {', '.join((*STACKS, 'transformers'))}"
        )
    system.check(scenario)
    return system


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
