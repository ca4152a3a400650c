"""What a profile says of itself: the machine it was fitted on, the range its runs cover, how far it was off."""

import math
from collections.abc import Iterable
from typing import Annotated, Final

from pydantic import Field, model_validator

from llm_perf.config.base import Name, NonNegativeFloat, PositiveFloat, PositiveInt, Spec

_WIDEST = 10.0
"""Largest log half-width that is an interval at all: a factor of 22,000."""

INTERVAL_LEVEL: Final = 0.9
"""Probability with which a measurement lies in an interval."""

ENOUGH: Final = 9
"""Least n for which ceil((n + 1) x INTERVAL_LEVEL) <= n: so many residuals, or groups, have a conformal quantile."""

HalfWidth = Annotated[NonNegativeFloat, Field(le=_WIDEST)]


class CalibratedMachine(Spec):
    """Where a profile's runs were made. ``gpu`` is the name of the accelerator's spec; a CPU has one of its own."""

    gpu: Name
    host: str | None = None
    cpu: str | None = None
    cores: PositiveInt | None = None
    memory_gib: PositiveFloat | None = None
    versions: dict[str, str | None] = Field(default_factory=dict)


class Range(Spec):
    """A covered interval, both ends included."""

    low: PositiveFloat
    high: PositiveFloat

    @model_validator(mode="after")
    def _in_order(self) -> "Range":
        if self.low > self.high:
            raise ValueError(f"low {self.low:g} is above high {self.high:g}")
        return self

    @classmethod
    def of(cls, values: Iterable[float]) -> "Range":
        """What values cover; of one value that alone."""
        known = list(values)
        return cls(low=min(known), high=max(known))

    def outside(self, value: float) -> float:
        """How far a value is outside, as a log ratio; 0 inside."""
        return max(0.0, math.log(self.low / value), math.log(value / self.high))

    @property
    def span(self) -> float:
        """Log ratio of both ends."""
        return math.log(self.high / self.low)


class Coverage(Spec):
    """What the runs of a profile cover. ``tiers`` are those that held the weights."""

    systems: tuple[str, ...]
    tiers: tuple[str, ...]
    weight_bits: tuple[PositiveInt, ...]
    model_gib: Range
    batch_size: Range
    prompt_len: Range
    gen_len: Range


class IntervalWidths(Spec):
    """Half-widths of prediction intervals as log ratios: measured lies within predicted x exp(+-width).

    From residuals of runs whose whole group (model) was left out of the fit. None where a phase was not measured.
    """

    level: Annotated[float, Field(gt=0, lt=1)] = INTERVAL_LEVEL
    method: str
    groups: PositiveInt
    prefill: HalfWidth | None = None
    decode: HalfWidth | None = None
    total: HalfWidth | None = None


class Calibration(Spec):
    """The part of a profile that says how far to trust it. ``profile`` is its name, filled in where it is applied."""

    profile: Name = "-"
    machine: CalibratedMachine
    covers: Coverage | None = None
    interval: IntervalWidths | None = None
    not_identified: tuple[str, ...] = ()
