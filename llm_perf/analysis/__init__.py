"""Analyses: specs, counts and hardware times together, as one typed result or as llm-analysis' summaries.

`llm_perf.analysis.inference` is llm-perf's own predictor. What is importable from here is the API of llm-analysis,
kept in `llm_perf.analysis.compat`; each name is loaded when it is first asked for.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from enum import Enum
    from functools import total_ordering
    from pprint import pformat

    from llm_perf.analysis.compat.checks import within_range
    from llm_perf.analysis.compat.entry import infer, train
    from llm_perf.analysis.compat.llm_analysis import LLMAnalysis
    from llm_perf.config import (
        ActivationRecomputation,
        DSZeRO,
        DtypeConfig,
        GPUConfig,
        ModelConfig,
        ParallelismConfig,
        get_dtype_config_by_name,
        get_gpu_config_by_name,
        get_model_config_by_name,
    )

__all__ = [
    "ActivationRecomputation",
    "DSZeRO",
    "DtypeConfig",
    "Enum",
    "GPUConfig",
    "LLMAnalysis",
    "ModelConfig",
    "ParallelismConfig",
    "get_dtype_config_by_name",
    "get_gpu_config_by_name",
    "get_model_config_by_name",
    "infer",
    "pformat",
    "total_ordering",
    "train",
    "within_range",
]

_HOME = {
    "Enum": "enum",
    "LLMAnalysis": "llm_perf.analysis.compat.llm_analysis",
    "infer": "llm_perf.analysis.compat.entry",
    "pformat": "pprint",
    "total_ordering": "functools",
    "train": "llm_perf.analysis.compat.entry",
    "within_range": "llm_perf.analysis.compat.checks",
}
"""Where a name lives; the others are specs and live in `llm_perf.config`."""


def __getattr__(name: str) -> Any:
    """Load a name when it is first asked for, so that a command pays only for what it uses."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(_HOME.get(name, "llm_perf.config")), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
