"""Intervals of memory in training and of steps: how far runs were off whose framework nothing was set for.

``time`` is of fine-tuning alone, ``step`` of all trainings, each framework with the same weight, however many runs it has.
`tuning_widths.yaml` has the widths, which `bench/tuning_figures.py` writes (docs/accuracy_tuning.md).
"""

import math
from functools import cache
from typing import Literal

from pydantic import Field

from llm_perf.config import files
from llm_perf.config.base import PositiveInt, Spec
from llm_perf.config.calibration import INTERVAL_LEVEL, HalfWidth

LEVEL = INTERVAL_LEVEL
_FILE = "tuning_widths.yaml"


class TuningWidth(Spec):
    """Half-width of 90 % intervals as a log ratio, from ``rows`` runs of ``frameworks``, each left out in turn.

    All ran on GPUs of ``makers``. Of ``tested`` runs, intervals as wide as the other frameworks say held ``held``,
    a ``share`` that counts as the width does: runs, or each framework the same.
    """

    width: HalfWidth
    groups: PositiveInt
    rows: PositiveInt
    held: int = Field(ge=0)
    tested: PositiveInt
    share: float = Field(ge=0, le=1)
    frameworks: tuple[str, ...]
    makers: tuple[str, ...]

    @property
    def coverage(self) -> float:
        """Share that was held where a framework was left out."""
        return self.share


@cache
def tuning_width(quantity: Literal["memory", "time", "step"]) -> TuningWidth:
    """What the published runs say of a quantity.

    Raises:
        SpecError: the file is malformed.
    """
    text = (files.package_folder("llm_perf.analysis") / _FILE).read_text("utf-8")
    return files.build(TuningWidth, files.parse_mapping(text, _FILE)[quantity], text, _FILE)


def knows_steps_of(framework: str) -> bool:
    """Whether runs of fine-tuning say how far a framework's steps are off."""
    return framework in tuning_width("time").frameworks


def memory_interval(predicted_bytes: float) -> tuple[float, float]:
    """Where a GPU's measured peak lies in nine of ten runs."""
    factor = math.exp(tuning_width("memory").width)
    return predicted_bytes / factor, predicted_bytes * factor
