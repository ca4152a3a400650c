"""llm-perf: an analytical performance simulator for large language models.

The package follows the flow of a prediction: :mod:`llm_perf.config` (what a user describes),
:mod:`llm_perf.counts` (facts of shapes), :mod:`llm_perf.hardware` (time of one thing on one resource),
:mod:`llm_perf.systems` (where tensors live and what overlaps what), :mod:`llm_perf.analysis` (a typed
result), :mod:`llm_perf.search` and :mod:`llm_perf.report` (many configurations, formats), :mod:`llm_perf.api` (Python
and notebooks) and :mod:`llm_perf.cli`. Imports go that way only.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from llm_perf.api import Prediction, SweepTable, predict, sweep

__all__ = ["Prediction", "SweepTable", "__version__", "predict", "sweep"]

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """Load the API when it is first asked for: a command that needs none of it starts sooner."""
    if name in __all__:
        from importlib import import_module

        return getattr(import_module("llm_perf.api"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
