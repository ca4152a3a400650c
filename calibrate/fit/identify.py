"""Which parameters runs tell apart: curvature of the fit, standard errors, correlations, singular values.

The derivatives of the log ratios, in units of the noise, give the information that the runs hold; a parameter's
range adds what was known before (a standard deviation of half of it). A parameter is refused where its standard error
stays above 50 %, 25 % for a value at an end of its range, or where it can be traded for another one (correlation beyond
0.95).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from calibrate.fit.refit import Parameter

LARGEST_ERROR = 0.5
LARGEST_ERROR_AT_AN_END = LARGEST_ERROR / 2
"""Of a value at an end of its range: it is where the range stopped the fit, so that it takes twice the evidence."""

LARGEST_CORRELATION = 0.95
_STEP = 1e-3
_NOTHING = 1e-4
"""Singular value, over the largest, from which on a direction is not seen at all."""


@dataclass(frozen=True)
class Identification:
    """What runs say of the parameters of a fit.

    Attributes:
        standard_errors: By name; relative for parameters on a log scale, absolute for others.
        correlations: Between the parameters, in the order of the names.
        singular_values: Of the derivatives in units of the noise and of half ranges, largest first.
        condition: Largest over smallest of them; infinite where a direction is not seen.
        influence: How much each moves the predictions over half its range, in units of the noise.
    """

    names: tuple[str, ...]
    standard_errors: dict[str, float]
    correlations: np.ndarray
    singular_values: tuple[float, ...]
    condition: float
    influence: dict[str, float]

    def refusals(
        self, parameters: Sequence[Parameter], at_bound: Collection[str] = ()
    ) -> list[tuple[str, str]]:
        """(name, sentence) of each parameter that the runs do not identify, the worst first.

        Args:
            parameters: That were fitted.
            at_bound: Names of those that ended at an end of their range.

        Of two that can be traded for one another, the one whose range is narrower stays where it is, since it was known
        better before the runs; of two alike the one that matters less.
        """
        found = []
        weight = {p.name: (round(p.half_range, 6), self.influence[p.name]) for p in parameters}
        for index, parameter in enumerate(parameters):
            name = parameter.name
            others = [other for other in range(len(self.names)) if other != index]
            strongest = max(others, key=lambda other: abs(self.correlations[index][other]), default=index)
            partner, correlation = self.names[strongest], float(self.correlations[index][strongest])
            error = self.standard_errors[name] / (
                1.0 if parameter.scale == "log" else max(parameter.value, 1e-9)
            )
            if others and abs(correlation) > LARGEST_CORRELATION:
                if weight[name] <= weight[partner]:
                    how = "instead of" if correlation < 0 else "together with"
                    said = f"{name} can be had {how} {partner} (correlation {abs(correlation):.2f}); {_advice(name, partner)}"
                    found.append((1.0 + abs(correlation), name, said))
            elif error > (LARGEST_ERROR_AT_AN_END if name in at_bound else LARGEST_ERROR):
                where = " and at an end of its range" if name in at_bound else ""
                said = f"{name} is uncertain by {error:.0%}{where} after the fit; {_advice(name, '')}"
                found.append((min(error, 1.0), name, said))
        return [(name, sentence) for _, name, sentence in sorted(found, reverse=True)]


def _advice(name: str, partner: str) -> str:
    both = f"{name} {partner}"
    if "step_ms" in both or "pass_overhead_ms" in both:
        return "runs of models with other numbers of layers would tell"
    if "memory_efficiency" in name and "gemm" in name:
        return "microbenchmarks, or runs of a second model with wider layers, would tell"
    if "decode_memory" in name:
        return "decode steps at batch 4 to 8 and two prompt lengths would tell"
    if "prefill_flops" in name:
        return "prompts of two lengths, 256 tokens and more, would tell"
    if "layer" in name:
        return "plain and ZeRO-3 runs of the same case, or a second model size, would tell"
    if "overlap" in name:
        return "runs with small and with large batches would tell"
    return "runs that differ in what it stands for would tell"


def identification(
    parameters: Sequence[Parameter],
    values: Mapping[str, float],
    log_ratios: Callable[[Mapping[str, float]], np.ndarray],
    noise: float,
) -> Identification:
    """Derivatives at the values that a fit found, and what they tell.

    Args:
        parameters: That were fitted.
        values: Their values.
        log_ratios: log(predicted / measured) of every row at given values.
        noise: Standard deviation of a row, the larger of the assumed one and of what the fit leaves.
    """
    names = tuple(parameter.name for parameter in parameters)
    slopes = np.stack([_slope(p, values, log_ratios) for p in parameters], axis=1) / noise
    half = np.array([parameter.half_range for parameter in parameters])
    scaled = slopes * half
    singular = np.linalg.svd(scaled, compute_uv=False)
    smallest = singular[-1] if len(singular) == len(names) else 0.0
    information = scaled.T @ scaled + np.eye(len(names))
    covariance = np.linalg.inv(information)
    deviation = np.sqrt(np.diag(covariance))
    # Correlation as the runs alone leave it, so far as they see the directions at all.
    alone = np.linalg.pinv(scaled.T @ scaled + 1e-6 * np.eye(len(names)))
    spread = np.sqrt(np.diag(alone))
    return Identification(
        names=names,
        standard_errors={name: float(d * h) for name, d, h in zip(names, deviation, half, strict=True)},
        correlations=alone / np.outer(spread, spread),
        singular_values=tuple(float(value) for value in singular),
        condition=float(singular[0] / smallest) if smallest > _NOTHING * singular[0] else math.inf,
        influence={name: float(np.linalg.norm(scaled[:, i])) for i, name in enumerate(names)},
    )


def _slope(
    parameter: Parameter, values: Mapping[str, float], log_ratios: Callable[[Mapping[str, float]], np.ndarray]
) -> np.ndarray:
    """Derivative of the log ratios by the parameter, or by its logarithm on a log scale."""
    value = values[parameter.name]
    step = _STEP if parameter.scale == "linear" else value * _STEP
    ends = [min(max(moved, parameter.low), parameter.high) for moved in (value - step, value + step)]
    low, high = (log_ratios({**values, parameter.name: end}) for end in ends)
    width = math.log(ends[1] / ends[0]) if parameter.scale == "log" else ends[1] - ends[0]
    return np.asarray((high - low) / width)
