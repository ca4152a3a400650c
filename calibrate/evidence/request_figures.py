"""Figures of requests whose times are known one by one, as load generators define them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np

from calibrate.evidence.benchmark_run import Figure, Quantity, RequestTimes, Statistic

_STATISTICS: Final[tuple[tuple[Statistic, float], ...]] = (
    ("p50", 50.0),
    ("p90", 90.0),
    ("p95", 95.0),
    ("p99", 99.0),
)


def figures_of_requests(requests: Sequence[RequestTimes]) -> tuple[Figure, ...]:
    """Means and percentiles of the times of requests that ended, and the rates over their whole time."""
    done = [one for one in requests if one.finished_s is not None and one.first_token_s is not None]
    if not done:
        return ()
    arrival = np.array([one.arrival_s for one in done])
    first = np.array([one.first_token_s for one in done], float)
    end = np.array([one.finished_s for one in done], float)
    output = np.array([one.output_tokens or 0 for one in done], float)
    times: dict[Quantity, np.ndarray] = {
        "ttft_s": first - arrival,
        "tpot_s": np.array([value for one in done if (value := tpot_s(one)) is not None]),
        "itl_s": np.concatenate([np.diff(one.token_s or ()) for one in done]),
        "e2e_s": end - arrival,
    }
    found = []
    for quantity, values in times.items():
        if not len(values):
            continue
        found.append(Figure(quantity=quantity, value=float(values.mean()), samples=len(values)))
        found += [
            Figure(
                quantity=quantity,
                statistic=name,
                value=float(np.percentile(values, share)),
                samples=len(values),
            )
            for name, share in _STATISTICS
        ]
    duration = float(end.max() - arrival.min())
    if duration > 0:
        found.append(Figure(quantity="duration_s", value=duration))
    if duration > 0 and output.sum():
        found.append(
            Figure(quantity="output_tokens_per_s", value=float(output.sum()) / duration, scope="system")
        )
        found.append(Figure(quantity="requests_per_s", value=len(done) / duration, scope="system"))
    return tuple(found)


def tpot_s(one: RequestTimes) -> float | None:
    """(last - first) / (tokens - 1) of a request, by its tokens' times where these are known; None of one token."""
    if one.output_tokens is None or one.output_tokens < 2:
        return None
    if one.token_s:
        return (one.token_s[-1] - one.token_s[0]) / (one.output_tokens - 1)
    if one.first_token_s is None or one.finished_s is None:
        return None
    return (one.finished_s - one.first_token_s) / (one.output_tokens - 1)
