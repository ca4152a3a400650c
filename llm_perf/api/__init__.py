"""Predictions for Python and notebooks: `predict` for one configuration, `sweep` for many."""

from llm_perf.api.prediction import Prediction, predict
from llm_perf.api.table import SweepTable, sweep

__all__ = ["Prediction", "SweepTable", "predict", "sweep"]
