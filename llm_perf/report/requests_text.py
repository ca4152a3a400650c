"""Requests over time, predicted beside measured, as tables of 80 columns. Reads the JSON of ``validate --requests``."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any, Final

from llm_perf.report.units import seconds

_QUANTITIES: Final = {"ttft_s": "TTFT", "tpot_s": "TPOT", "e2e_s": "E2E"}


_FIGURES: Final = ("mean", "p50", "p90", "p95", "p99")


def requests_report(found: Mapping[str, Any], *, shares: bool = False) -> str:
    """Each trace, with every percentile where ``shares`` are wanted, then the tables of servers by kind of load."""
    parts = ["\n".join(_shares(one) if shares else _trace(one)) for one in found["traces"]]
    if "tables" in found:
        parts.append("\n".join(_tables(found["tables"])))
    return "\n\n".join(parts)


def _trace(one: Mapping[str, Any]) -> Iterator[str]:
    yield f"{one['trace']}: {one['ttft_s']['requests']} requests"
    yield f"{'':<6}{'measured':>10}{'predicted':>11}{'error':>8}{'p95 meas.':>11}{'p95 pred.':>11}{'error':>8}{'single':>8}"
    for name, title in _QUANTITIES.items():
        cells = f"{title:<6}"
        for figure, width in (("mean", 10), ("p95", 11)):
            cells += f"{_seconds(one[name]['measured'][figure]):>{width}}{_seconds(one[name]['predicted'][figure]):>11}"
            cells += f"{_share(one[name]['error'][figure]):>8}"
        yield f"{cells}{_share(one[name]['median_abs_error'], sign=''):>8}"
    yield "single: median error of single requests, either way"


def _shares(one: Mapping[str, Any]) -> Iterator[str]:
    yield f"{one['trace']}: {one['ttft_s']['requests']} requests, measured and predicted"
    yield " " * 16 + "".join(f"{figure:>11}" for figure in _FIGURES) + f"{'single':>9}"
    for name, title in _QUANTITIES.items():
        for kind in ("measured", "predicted"):
            values = (_seconds(one[name][kind][figure]) for figure in _FIGURES)
            yield f"{title if kind == 'measured' else '':<6}{kind:<10}" + "".join(
                f"{value:>11}" for value in values
            )
        off = (f"{_share(one[name]['error'][figure]):>11}" for figure in _FIGURES)
        yield f"{'':<6}{'error':<10}" + "".join(off) + f"{_share(one[name]['median_abs_error'], sign=''):>9}"
    yield "single: median error of single requests, either way; --plot DIR draws the shares"


def _seconds(value: float | None) -> str:
    return "-" if value is None or not math.isfinite(value) else seconds(value)


def _share(value: float | None, sign: str = "+") -> str:
    return "-" if value is None or not math.isfinite(value) else f"{value:{sign}.1%}"


def _tables(tables: list[Mapping[str, Any]]) -> Iterator[str]:
    yield f"{'tables':<14}{'rows':>6}{'predicted':>11}{'TPOT gm':>10}{'TTFT gm':>10}{'tokens/s gm':>13}"
    for one in tables:
        cells = f"{one['load']:<14}{one['rows']:>6}{one['predicted']:>11}"
        for name, width in (("tpot_s", 10), ("ttft_s", 10), ("throughput_tok_s", 13)):
            cells += f"{'-' if one[name] is None else format(one[name]['gm'], '.3f'):>{width}}"
        yield cells
    yield "simulated when the project was made; docs/accuracy_requests.md has versions"
