"""How far a system's predictions carry, as tables 80 columns wide. Reads the JSON of ``llm-perf validate --leave-out``."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from typing import Any

WIDTH = 80

_KINDS = {"shipped": "shipped", "no_fit": "no fit", "refit": "refit", "left_out": "left out"}


def transfer_report(found: Mapping[str, Any]) -> str:
    """By class, by group that was left out, and every constant with its value in each fit."""
    what = found["leave_out"]
    return "\n\n".join(
        [
            f"{found['system']}: every constant refitted without one {what}, which is then predicted",
            _classes(found["classes"]),
            _groups(what, found["groups"]),
            _parameters(found),
            textwrap.fill(
                "gm: geometric mean of max(p/m, m/p). shipped: constants and host rates as they ship; no fit: "
                "nothing that was fitted to a host's runs, ratios to its data sheet instead; refit: fitted to all rows; "
                f"left out: each row by the fit that knows nothing of its {what}; inside: of these, measured inside the "
                "90 % interval that the residuals of the others of its class give. x: a factor on one machine; * at an end "
                "of its range; - the rows say nothing about it.",
                WIDTH,
            ),
            f"{found['seconds']:.0f} s",
        ]
    )


def _classes(classes: Mapping[str, Mapping[str, Any]]) -> str:
    titles = "".join(f"{title:>10}" for title in _KINDS.values())
    lines = [f"{'gm by class':<24}{'rows':>6}{titles}{'inside':>8}"]
    for name, kinds in classes.items():
        gms = "".join(f"{_number(kinds[kind]['gm']):>10}" for kind in _KINDS)
        inside = kinds["left_out"].get("interval_coverage")
        share = "-" if inside is None else f"{inside:.0%}"
        lines.append(f"{name:<24}{kinds['left_out']['rows']:>6}{gms}{share:>8}")
    return "\n".join(lines)


def _groups(what: str, groups: list[Mapping[str, Any]]) -> str:
    lines = [f"{what + ' left out':<36}{'rows':>6}{'gm':>8}{'bias':>8}{'fitted rows':>13}{'their gm':>9}"]
    lines += [
        f"{group['left_out'][:35]:<36}{group['rows']:>6}{_number(group['gm']):>8}"
        f"{_percent(group['bias']):>8}{group['fitted_rows']:>13}{_number(group['fitted_gm']):>9}"
        for group in groups
    ]
    return "\n".join(lines)


def _parameters(found: Mapping[str, Any]) -> str:
    """Constants with their range, the refit to all rows and the spread over the fits without a group."""
    lines = [f"{'constant':<42}{'range':>12}{'refit':>10}{'left out':>16}"]
    for parameter in found["parameters"]:
        if parameter["refit"] is None:
            continue
        low, high = parameter["low"], parameter["high"]
        name = parameter["name"].removeprefix("system.").removeprefix("host.disk.")
        mark = " x" if parameter["factor"] else ""
        values = [value for value in parameter["left_out"].values() if value is not None]
        spread = f"{_short(min(values))}-{_short(max(values))}" if values else "-"
        value = f"{_short(parameter['refit'])}{'*' if parameter['at_bound'] else ''}"
        lines.append(f"{(name + mark)[:42]:<42}{f'{low:g}-{high:g}':>12}{value:>10}{spread:>16}")
    return "\n".join(lines)


def _short(value: float) -> str:
    return f"{value:.3g}" if abs(value) >= 1e-4 else "0"


def _percent(fraction: float | None) -> str:
    return "-" if fraction is None else f"{fraction * 100:+.0f}%"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"
