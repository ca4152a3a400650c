"""Targets of a plan as they are written: ``tpot<50ms, p95 ttft<1s``.

A time without a unit is in seconds where that is the only sensible reading, as in ``ttft<0.5``; a larger number may mean
milliseconds, as in ``tpot<50``, and is refused.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from llm_perf.errors import SpecError

QUANTITIES: Final = {
    "ttft": ("ttft_s", "s", "time to first token"),
    "tpot": ("tpot_s", "s", "time per output token"),
    "latency": ("total_latency_s", "s", "latency of one batch"),
    "throughput": ("throughput_tokens_per_s", "token/s", "generated tokens per second"),
    "cost": ("cost_per_million_tokens", "$", "US dollars per million tokens"),
    "energy": ("energy_j_per_token", "J", "joules per token"),
}
"""What a target may limit: the measure, its unit, and what it is called."""

_UNITS: Final = {
    "s": {"": 1.0, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "min": 60.0, "h": 3600.0},
    "token/s": {"": 1.0, "token/s": 1.0, "tokens/s": 1.0, "tok/s": 1.0, "/s": 1.0},
    "$": {"": 1.0, "$": 1.0, "USD": 1.0},
    "J": {"": 1.0, "J": 1.0, "mJ": 1e-3, "kJ": 1e3},
}
_MIN_ONLY: Final = ("throughput",)
_CLEARLY_SECONDS: Final = {"ttft": 10.0, "tpot": 1.0, "latency": 10.0}
"""Below these, a time without a unit can only be seconds."""
_OF_REQUESTS: Final = {"ttft": "ttft_s", "tpot": "tpot_s", "latency": "e2e_s"}
"""Quantities that single requests have, and so percentiles."""
_WRITTEN: Final = re.compile(
    r"(?:(?P<figure>mean|median|p50|p90|p95|p99)\s+)?(?P<name>[a-z]+)\s*(?P<sign><=|>=|<|>)\s*"
    r"(?P<number>[0-9.eE+-]+)\s*(?P<unit>\$|[a-zµ/]*)",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class Target:
    """A limit on one measure, in seconds, tokens per second, dollars or joules. ``at_most`` False: at least.

    ``figure`` is which figure of all requests is limited: mean, p50, p90, p95 or p99.
    """

    name: str
    limit: float
    at_most: bool
    figure: str = "mean"

    @property
    def measure(self) -> str:
        """The column that it limits."""
        return QUANTITIES[self.name][0]

    @property
    def written(self) -> str:
        """The quantity with its figure: ``p95 ttft``."""
        return self.name if self.figure == "mean" else f"{self.figure} {self.name}"

    @property
    def of_requests(self) -> str | None:
        """The times of single requests that it limits; None for what only a whole service has."""
        return _OF_REQUESTS.get(self.name)

    def met(self, value: Any) -> Any:
        """Whether a value, or each of an array, meets it; what does not exist (NaN) does not limit."""
        return np.logical_not(value > self.limit if self.at_most else value < self.limit)

    def used(self, value: Any) -> Any:
        """The share of the limit that a value takes: 1 at the limit, more beyond it."""
        return value / self.limit if self.at_most else self.limit / value


def parse_targets(text: str) -> tuple[Target, ...]:
    """Targets separated by commas.

    Raises:
        SpecError: with what would be understood.
    """
    found = tuple(_target(part.strip()) for part in text.split(",") if part.strip())
    names = [target.written for target in found]
    for name in names:
        if names.count(name) > 1:
            raise SpecError(f"--target {text!r} limits {name} twice")
    return found


def _target(text: str) -> Target:
    match = _WRITTEN.fullmatch(text)
    name = match["name"].lower() if match else ""
    if match is None or name not in QUANTITIES:
        known = ", ".join(QUANTITIES)
        raise SpecError(
            f'--target {text!r}: expected such as "tpot<50ms", "p95 ttft<1s" or "throughput>1000", of: {known}'
        )
    figure = (match["figure"] or "mean").lower().replace("median", "p50")
    if figure != "mean" and name not in _OF_REQUESTS:
        raise SpecError(
            f"--target {text!r}: {name} has no percentiles; possible are those of ttft, tpot and latency"
        )
    at_most = match["sign"].startswith("<")
    if at_most == (name in _MIN_ONLY):
        raise SpecError(f"--target {text!r}: {name} can only be limited with {'>' if at_most else '<'}")
    units = _UNITS[QUANTITIES[name][1]]
    # Keyboards have the Greek letter, others the micro sign.
    unit = match["unit"].lower().replace("\u03bc", "\u00b5")
    scales = {known.lower(): scale for known, scale in units.items()}
    if unit not in scales or (match["unit"].startswith("M") and unit != "min"):  # M is mega, not milli
        raise SpecError(
            f"--target {text!r}: unit {match['unit']!r}; expected {', '.join(filter(None, units))}"
        )
    try:
        limit = float(match["number"]) * scales[unit]
    except ValueError:
        limit = math.nan
    if not (math.isfinite(limit) and limit > 0):
        raise SpecError(f"--target {text!r}: the limit must be a positive number")
    if not unit and limit >= _CLEARLY_SECONDS.get(name, math.inf):
        number = match["number"]
        raise SpecError(f"--target {text!r}: say the unit, such as {name}<{number}ms or {name}<{number}s")
    return Target(name, limit, at_most, figure)
