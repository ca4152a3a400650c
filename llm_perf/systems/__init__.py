"""Systems that people run: where tensors live, what overlaps what, and what each waits for.

One folder per system, with everything that it says about itself; most resident stacks (FasterTransformer, vLLM, …)
are data on one module.
"""

from llm_perf.systems.base import Evaluation, Load, MemoryParts, PhaseCost, Placement, System, TierShares
from llm_perf.systems.registry import (
    checked_system,
    get_system,
    is_stack,
    resolve_system,
    system_names,
    system_of,
)

__all__ = [
    "Evaluation",
    "Load",
    "MemoryParts",
    "PhaseCost",
    "Placement",
    "System",
    "TierShares",
    "checked_system",
    "get_system",
    "is_stack",
    "resolve_system",
    "system_names",
    "system_of",
]
