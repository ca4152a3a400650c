"""Measured runs beside predictions as tables, 80 columns wide. Reads the JSON of ``llm-perf compare``."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

from llm_perf.systems.registry import family_of

WIDTH = 80
_PHASES = ("prefill", "decode", "total")


def compare_report(found: Mapping[str, Any]) -> str:
    """A line per run, then a line per system, then what does not count and why."""
    profile = "no profile" if found["profile"] == "none" else f"profile {found['profile']}"
    warnings = list(dict.fromkeys(text for run in found["runs"] for text in run["warnings"]))
    parts = [
        f"{len(found['runs'])} measured runs, predicted with {profile}",
        runs_table(found["runs"]),
        systems_table(found),
        "Errors: (predicted - measured) / measured. [ ]: measured total inside the\nprediction interval, ! outside.",
        "\n".join(_wrapped(f"left out: {one['source']}: {one['reason']}") for one in found["rejected"]),
        "\n".join(_wrapped(f"warning: {text}") for text in warnings),
    ]
    return "\n\n".join(part for part in parts if part)


def runs_table(runs: Sequence[Mapping[str, Any]]) -> str:
    """Settings, measured and predicted total, errors by phase and of peak memory."""
    lines = [
        f"{'model':<13}{'system':<9}{'batch':>5}{'in':>5}{'out':>5}{'meas. s':>9}{'pred. s':>9}{'':2}"
        f"{'prefill':>8}{'decode':>7}{'total':>7}"
    ]
    return "\n".join(lines + [_run_line(run) for run in runs])


def _run_line(run: Mapping[str, Any]) -> str:
    model = run["model"].rpartition("/")[2]
    system = family_of(run["system"]).short or run["system"]
    errors = [_percent(run["error"][f"{phase}_latency"]) for phase in _PHASES]
    return (
        f"{model[:12]:<13}{system[:8]:<9}{run['batch_size']:>5}{run['prompt_len']:>5}{run['gen_len']:>5}"
        f"{_seconds(run['measured']['total_latency_s']):>9}{_seconds(run['predicted']['total_latency_s']):>9}{_mark(run):>2}"
        f"{errors[0]:>8}{errors[1]:>7}{errors[2]:>7}"
    )


def _mark(run: Mapping[str, Any]) -> str:
    """Whether the measured total lies in the interval."""
    ends = run["interval"] and run["interval"]["total_latency_s"]
    measured = run["measured"]["total_latency_s"]
    if not ends or measured is None:
        return ""
    return "[]" if ends[0] <= measured <= ends[1] else "!"


def systems_table(found: Mapping[str, Any]) -> str:
    """Median absolute error and bias by phase."""
    lines = [
        f"{'':<20}{'':>5}{'prefill':>16}{'decode':>16}{'total':>16}",
        f"{'system':<20}{'runs':>5}" + f"{'median':>9}{'bias':>7}" * 3 + f"{'inside':>7}",
    ]
    groups = dict(found["systems"])
    if len(groups) > 1:
        groups["all"] = found["all"]
    for name, group in groups.items():
        figures = "".join(
            f"{_percent(group[phase]['median_abs_error'], signed=False):>9}{_percent(group[phase]['bias']):>7}"
            for phase in _PHASES
        )
        lines.append(
            f"{name[:20]:<20}{group['runs']:>5}{figures}{_percent(group['interval_coverage'], signed=False):>7}"
        )
    return "\n".join(lines)


def _wrapped(text: str) -> str:
    return textwrap.fill(text, WIDTH, subsequent_indent="  ")


def _percent(value: float | None, signed: bool = True) -> str:
    if value is None:
        return "-"
    return f"{100 * value:+.0f}%" if signed else f"{100 * value:.0f}%"


def _seconds(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
