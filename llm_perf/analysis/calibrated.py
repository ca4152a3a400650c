"""What a calibrated profile adds to a prediction: an interval, and warnings where its evidence ends."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from llm_perf.config.base import GIB
from llm_perf.config.calibration import INTERVAL_LEVEL, Calibration, Coverage, IntervalWidths, Range
from llm_perf.config.names import normalise
from llm_perf.config.scenario import Scenario
from llm_perf.systems import system_of
from llm_perf.systems.base import Placement
from llm_perf.systems.footprint import model_weight_bytes

_SLACK = 1.05
"""Nearness at which two sizes are the same: a model given in GiB or GB is inside the range of either."""


@dataclass(frozen=True, slots=True)
class Asked:
    """A question in the terms in which a profile says what it covers. ``release`` is the file of the system's version."""

    system: str
    tiers: tuple[str, ...]
    weight_bits: int
    sizes: dict[str, float]
    release: str | None = None


Ends = tuple[float, float] | None
"""Both ends of an interval in seconds; None where nothing is known."""


@dataclass(frozen=True, slots=True)
class PredictionInterval:
    """Between which values a measurement lies with probability ``level``, in seconds; None where a phase has none.

    ``profile`` is the profile whose runs it rests on, None where these are the published ones. ``groups`` were left out
    of the fits in turn. ``outside`` is how far the question is outside the covered range, as a factor of 1 or more; the
    interval is widened by it. ``coverage`` is the share of runs inside that was measured by leaving out once more, None where
    it was not. ``lowered`` is by which factor the total's lower end would lie lower if hardware had no limit. ``novel`` is
    what no run of the version has and the interval is wider for, in words.
    """

    level: float
    profile: str | None
    method: str
    groups: int
    outside: float
    prefill_s: tuple[float, float] | None
    decode_s: tuple[float, float] | None
    total_s: tuple[float, float] | None
    coverage: float | None = None
    lowered: float = 1.0
    novel: tuple[str, ...] = ()

    @classmethod
    def published(
        cls,
        method: str,
        groups: int,
        total_s: Ends,
        prefill_s: Ends = None,
        decode_s: Ends = None,
        coverage: float | None = None,
        outside: float = 1.0,
        novel: tuple[str, ...] = (),
    ) -> PredictionInterval:
        """An interval that published runs give, at the level of all of them."""
        return cls(
            INTERVAL_LEVEL, None, method, groups, outside, prefill_s, decode_s, total_s, coverage, novel=novel
        )

    @property
    def total_factor(self) -> float | None:
        """By which factor a measured total may be longer, and shorter where hardware allows it; None without an interval."""
        if self.total_s is None:
            return None
        return math.sqrt(self.total_s[1] / self.total_s[0] * self.lowered)

    def above(self, prefill_s: float, decode_s: float | None) -> PredictionInterval:
        """The interval without what the hardware does not allow: phases that are quicker than these."""
        total_s = prefill_s + (decode_s or 0.0)
        total = _above(self.total_s, total_s)
        return replace(
            self,
            prefill_s=_above(self.prefill_s, prefill_s),
            decode_s=_above(self.decode_s, decode_s or 0.0),
            total_s=total,
            lowered=1.0 if total is None or self.total_s is None else total[0] / self.total_s[0],
        )

    def basis(self) -> dict[str, Any]:
        """What it rests on, as plain JSON types."""
        return {
            "level": self.level,
            "profile": self.profile,
            "method": self.method,
            "groups": self.groups,
            "coverage": self.coverage,
            "outside_covered_range": self.outside,
            "novel": list(self.novel),
        }

    def throughput(self, tokens: float) -> list[float] | None:
        """Tokens per second of ``tokens`` in all, at both ends of the total; None without that."""
        return None if self.total_s is None else [tokens / self.total_s[1], tokens / self.total_s[0]]

    def as_json(self, tokens: float) -> dict[str, Any]:
        """Plain JSON types, the throughput of ``tokens`` in all included."""
        return self.basis() | {
            "prefill_latency_s": _listed(self.prefill_s),
            "decode_latency_s": _listed(self.decode_s),
            "total_latency_s": _listed(self.total_s),
            "total_throughput_tokens_per_s": self.throughput(tokens),
        }


def _above(ends: tuple[float, float] | None, least_s: float) -> tuple[float, float] | None:
    return None if ends is None else (min(max(ends[0], least_s), ends[1]), ends[1])


def _listed(ends: tuple[float, float] | None) -> list[float] | None:
    return None if ends is None else list(ends)


def asked_of(scenario: Scenario, placement: Placement) -> Asked:
    """The question of a scenario."""
    weights = placement.weights
    tiers = tuple(tier for tier in ("gpu", "cpu", "nvme") if float(getattr(weights, tier)) > 0)
    return Asked(
        system=scenario.system,
        tiers=tiers,
        weight_bits=scenario.dtype.weight_bits,
        sizes=asked_sizes(scenario),
        release=system_of(scenario).release,
    )


def asked_sizes(scenario: Scenario) -> dict[str, float]:
    """What of a question is compared with the sizes that runs cover."""
    workload = scenario.workload
    return {
        "model_gib": model_weight_bytes(scenario) / GIB,
        "batch_size": float(workload.batch_size),
        "prompt_len": float(workload.prompt_len),
        "gen_len": float(workload.gen_len),
    }


_SIZES = {
    "model_gib": "weights of {:.3g} GiB",
    "batch_size": "batch {:g}",
    "prompt_len": "prompt of {:g} tokens",
    "gen_len": "{:g} tokens to generate",
}
SIZE_TEXTS = _SIZES | {"num_gpus": "{:g} GPUs", "seq_len": "sequences of {:g} tokens"}
"""What is compared with sizes that runs cover, in words."""

_TIERS = {"gpu": "on the GPU", "cpu": "in CPU memory", "nvme": "on NVMe"}


def outside_by_size(covers: Mapping[str, Range], sizes: Mapping[str, float]) -> dict[str, float]:
    """Sizes outside the covered ranges, each with its distance as a log ratio. A size without a range has none."""
    distances = {name: covers[name].outside(value) for name, value in sizes.items() if name in covers}
    return {name: distance for name, distance in distances.items() if distance > math.log(_SLACK)}


def growth_of(covers: Mapping[str, Range], sizes: Mapping[str, float]) -> tuple[float, float]:
    """(factor on an interval's half-width, factor by which the farthest size is outside); 1 and 1 inside.

    Outside the covered range the width grows by the share of the range's own span that the question is beyond it: the
    residuals come from models left out, so that they know of extrapolation by about that.
    """
    beyond = outside_by_size(covers, sizes)
    growth = max(
        (distance / max(covers[name].span, math.log(2)) for name, distance in beyond.items()), default=0.0
    )
    return 1.0 + growth, math.exp(max(beyond.values(), default=0.0))


def around(value: float | None, width: float | None) -> tuple[float, float] | None:
    """The ends of an interval from its half-width as a log ratio; None without either."""
    if value is None or width is None:
        return None
    return value * math.exp(-width), value * math.exp(width)


def _ranges(covers: Coverage) -> dict[str, Range]:
    return {name: getattr(covers, name) for name in _SIZES}


def prediction_interval(
    scenario: Scenario, asked: Asked, prefill_s: float, decode_s: float | None, total_s: float
) -> PredictionInterval | None:
    """The interval that a profile gives a prediction, None without a profile that has one or on another machine.

    Half-widths are log ratios; outside the covered range they grow (`growth_of`).
    """
    calibration = scenario.calibration
    if calibration is None:
        return None
    widths, covers = calibration.interval, calibration.covers
    if widths is None or covers is None or _elsewhere(scenario, calibration) or _unknown(covers, asked):
        return None
    growth, outside = growth_of(_ranges(covers), asked.sizes)

    def grown(width: float | None) -> float | None:
        return None if width is None else width * growth

    return PredictionInterval(
        level=widths.level,
        profile=calibration.profile,
        method=widths.method,
        groups=widths.groups,
        outside=outside,
        prefill_s=around(prefill_s, grown(widths.prefill)),
        decode_s=around(decode_s, grown(widths.decode)),
        total_s=around(total_s, grown(_total_width(widths, decode_s))),
    )


def _total_width(widths: IntervalWidths, decode_s: float | None) -> float | None:
    """Without decode steps the total is the prefill."""
    return widths.prefill if decode_s is None else widths.total


def no_profile_interval(scenario: Scenario, asked: Asked) -> str | None:
    """Why a profile gives a prediction no interval, where `prediction_interval` is None; None without a profile."""
    calibration = scenario.calibration
    if calibration is None:
        return None
    name = calibration.profile
    if _elsewhere(scenario, calibration):
        return f"profile {name} was fitted on {calibration.machine.gpu}"
    unknown = "" if calibration.covers is None else _unknown(calibration.covers, asked)
    if unknown:
        return f"profile {name} has no runs of {unknown}"
    return f"profile {name} was fitted without leaving runs out"


def profile_warnings(scenario: Scenario, placement: Placement) -> tuple[str, ...]:
    """Where the evidence of a profile ends: another machine, another system, sizes outside of its runs."""
    calibration = scenario.calibration
    if calibration is None:
        return ()
    name = calibration.profile
    if _elsewhere(scenario, calibration):
        return (
            f"profile {name} was fitted on {calibration.machine.gpu} and is used on {scenario.gpu.name}: "
            "what it says of software may hold, its rates may not, and it gives no interval",
        )
    covers = calibration.covers
    if covers is None:
        return ()
    asked = asked_of(scenario, placement)
    unknown = _unknown(covers, asked)
    if unknown:
        return (f"profile {name} has no runs of {unknown}: it gives no interval",)
    beyond = [
        f"{_SIZES[size].format(asked.sizes[size])} (its runs: {_ends(covers, size)})"
        for size in outside_by_size(_ranges(covers), asked.sizes)
    ]
    if not beyond:
        return ()
    return (f"outside what profile {name} covers: {'; '.join(beyond)}. The interval is widened",)


def _elsewhere(scenario: Scenario, calibration: Calibration) -> bool:
    return normalise(scenario.gpu.name) != normalise(calibration.machine.gpu)


def _unknown(covers: Coverage, asked: Asked) -> str:
    """What no run had at all: a system, a tier of the weights, a width of theirs."""
    versioned = f"{asked.system}@{asked.release}"
    if asked.system not in covers.systems and versioned not in covers.systems:
        known = any(name.startswith(f"{asked.system}@") for name in covers.systems)
        return f"system {versioned if known else asked.system}"
    tiers = [_TIERS[tier] for tier in asked.tiers if tier not in covers.tiers]
    if tiers:
        return f"weights {' and '.join(tiers)}"
    if asked.weight_bits not in covers.weight_bits:
        return f"{asked.weight_bits}-bit weights"
    return ""


def _ends(covers: Coverage, size: str) -> str:
    low, high = getattr(covers, size).low, getattr(covers, size).high
    return f"{low:.3g}" if low == high else f"{low:.3g} to {high:.3g}"
