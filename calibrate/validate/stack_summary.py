"""Serving stacks by version for ``llm-perf validate``: what is left out first, what was fitted after it, and what others say.

It reads the file of left-out ratios that ships; nothing is predicted anew.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from statistics import median
from typing import Any, Final

from calibrate.validate.baselines import LLM_ANALYSIS, ROOFLINE
from calibrate.validate.stacks import FIRST_TOKEN, Line, gm_of, place_of, read_left_out, standing_in

PEERS: Final[Mapping[str, Mapping[str, Any]]] = {
    "aiconfigurator": {
        "tpot_median_error": 0.127,
        "ttft_median_error": 0.467,
        "source": "its own sample of closed loops on H100 to GB200 (ai-dynamo/aiconfigurator)",
    },
    "BLIS": {
        "itl_median_error": 0.071,
        "e2e_median_error": 0.067,
        "source": "its own report on its own runs of vLLM",
    },
}
"""What two predictors of serving stacks print of themselves, each on runs of its own choice: not on these rows."""

_LEFT_OUT: Final = ("model", "gpu")
_AT_ONCE: Final = "0"


def stacks_summary(family: str | None = None, gpu: str | None = None) -> dict[str, Any] | None:
    """Figures of static batches, single requests and decode windows by version; None where no row is of what is asked for."""
    lines = [
        line
        for line in read_left_out()
        if line["closed"] == _AT_ONCE
        and (family is None or line["release"].partition("@")[0] == family)
        and (gpu is None or line["gpu"] == gpu)
    ]
    by: dict[str, list[Line]] = defaultdict(list)
    for line in lines:
        by[line["release"]].append(line)
    versions = {name: _version(by[name]) for name in sorted(by, key=place_of) if _of(by[name], "shipped")}
    return {"versions": versions, "all": _version(lines), "peers": PEERS} if versions else None


def _version(lines: Sequence[Line]) -> dict[str, Any]:
    """Rows of a version, and gm by what predicted them: None where that was not done or not covered."""
    found: dict[str, Any] = {"rows": len(_of(lines, "shipped"))}
    found |= {f"without_{how}": _gm(_of(lines, how)) for how in _LEFT_OUT}
    found["by_neighbour"] = _gm(_by_neighbours(lines))
    fitted = _of(lines, "shipped")
    found |= {"fitted": _gm(fitted), "fitted_median_error": _median_error(fitted)}
    found["first_token_left_out"] = _gm(_of(lines, FIRST_TOKEN))
    return found | {name: _gm(_of(lines, name)) for name in (ROOFLINE, LLM_ANALYSIS)}


def _of(lines: Iterable[Line], how: str) -> list[Line]:
    return [line for line in lines if line["how"] == how]


def _by_neighbours(lines: Iterable[Line]) -> list[Line]:
    """Of each version, by what stands in for it."""
    by: dict[str, dict[str, list[Line]]] = defaultdict(lambda: defaultdict(list))
    for line in lines:
        by[line["release"]][line["how"]].append(line)
    return [line for found in by.values() for line in standing_in(found)]


def _gm(lines: Sequence[Line]) -> float | None:
    return gm_of(lines) if lines else None


def _median_error(lines: Sequence[Line]) -> float | None:
    return median(abs(math.expm1(float(line["log_ratio"]))) for line in lines) if lines else None
