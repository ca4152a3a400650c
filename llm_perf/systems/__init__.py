"""Systems that people run: where tensors live, what overlaps what, and what each waits for.

One module per system; resident stacks (FasterTransformer, transformers, vLLM, …) are data beside one module.
"""

from llm_perf.systems.base import Evaluation, Load, MemoryParts, PhaseCost, Placement, System, TierShares
from llm_perf.systems.registry import SYSTEM_NAMES, checked_system, get_system, is_stack, resolve_system

__all__ = [
    "SYSTEM_NAMES",
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
]
