"""Analyses: specs, counts and hardware times together, as one typed result or as llm-analysis' summaries.

`llm_perf.analysis.inference` is llm-perf's own predictor. What is importable from here is the API of llm-analysis,
which is a wing of its own, `llm_perf.llm_analysis`; each name is loaded when it is first asked for.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from enum import Enum
    from functools import total_ordering
    from pprint import pformat

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
    from llm_perf.llm_analysis.checks import within_range
    from llm_perf.llm_analysis.entry import infer, train
    from llm_perf.llm_analysis.llm_analysis import LLMAnalysis

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
    "LLMAnalysis": "llm_perf.llm_analysis.llm_analysis",
    "infer": "llm_perf.llm_analysis.entry",
    "pformat": "pprint",
    "total_ordering": "functools",
    "train": "llm_perf.llm_analysis.entry",
    "within_range": "llm_perf.llm_analysis.checks",
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
