"""A session and its fit for people, and as one object."""

from __future__ import annotations

import math
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Any

from calibrate.fit.first_lines import session_answer
from calibrate.fit.observe.stack_fit import StackFit, residuals

if TYPE_CHECKING:
    from calibrate.fit.observe.session import Observed

SCHEMA_VERSION = 1


def session_lines(found: Observed, fitted: StackFit | None, profile: Path | None) -> list[str]:
    """What was sent, what the server is, what was fitted, what would tell more."""
    facts = found.facts
    server = " ".join(part for part in (facts.system or found.scenario.system, facts.version) if part)
    settings = ", ".join(f"{name} {value}" for name, value in sorted(facts.settings.items()))
    lines = [
        *session_answer(observed_object(found, fitted, profile)).text.plain.splitlines(),
        "",
        f"{found.scenario.model.name} on {server}" + (f" ({settings})" if settings else ""),
        f"{found.points} points in {found.seconds:.0f} s; {found.account.sentence()}",
    ]
    if fitted is None:
        return _wrapped(lines)
    lines += ["", *fit_lines(fitted)]
    if profile is not None:
        lines += ["", f"profile written to {profile}: llm-perf simulate --profile {profile} ..."]
    return _wrapped(lines)


def _wrapped(lines: list[str]) -> list[str]:
    """Lines that 80 columns have room for."""
    return [part for line in lines for part in textwrap.wrap(line, 80, subsequent_indent="  ") or [""]]


def fit_lines(fitted: StackFit) -> list[str]:
    """Parameters with their uncertainty, how far the fit is off, and what these runs do not tell."""
    lines = [f"{'parameter':<46}{'before':>10}{'fitted':>10}{'uncertain by':>14}"]
    for one in fitted.parameters:
        name = one.name
        if name in fitted.fitted.unmoved:
            lines.append(f"{name:<46}{one.value:>10.4g}{'-':>10}{'not seen':>14}")
            continue
        error = fitted.known.standard_errors[name]
        spread = f"x {math.exp(error):.2f}" if one.scale == "log" else f"{error:.3g}"
        lines.append(f"{name:<46}{one.value:>10.4g}{fitted.fitted.values[name]:>10.4g}{spread:>14}")
    for kind, title in (("step", "decode steps"), ("first", "times to the first token")):
        inside = residuals(_of_kind(fitted, kind, fitted.fitted.log_ratios))
        outside = residuals(_of_kind(fitted, kind, fitted.left_out))
        lines.append(
            f"{title}: {inside['median_abs_error']:.1%} off in the middle, {inside['max_abs_error']:.1%} at most; with its "
            f"load left out {outside['median_abs_error']:.1%}, {outside['max_abs_error']:.1%} at most"
        )
    lines += [f"not told apart: {sentence}" for _, sentence in fitted.refusals]
    if len(fitted.scenarios) == 1:
        lines.append(
            "these runs are of one model: what a layer costs and what a byte costs are told apart by a second of another "
            "size (calibrate observe it, then calibrate fit both folders)"
        )
    lines.append("another machine needs a session of its own: a profile is of one")
    return lines


def _of_kind(fitted: StackFit, kind: str, values: tuple[float, ...]) -> list[float]:
    return [value for value, row in zip(values, fitted.rows, strict=True) if row.kind == kind]


def observed_object(found: Observed, fitted: StackFit | None, profile: Path | None) -> dict[str, Any]:
    """A session as plain JSON types."""
    return {
        "schema_version": SCHEMA_VERSION,
        "status": "done" if found.ended is None else "ended",
        "ended": found.ended,
        "system": found.scenario.system,
        "model": found.scenario.model.name,
        "server": {
            "system": found.facts.system, "version": found.facts.version, "models": list(found.facts.models),
            "settings": found.facts.settings,
        },
        "seconds": found.seconds,
        "points": found.points,
        "requests": {"sent": found.account.sent, "by_kind": found.account.by_kind},
        "profile": None if profile is None else str(profile),
        "fit": None if fitted is None else fit_object(fitted),
    }  # fmt: skip


def fit_object(fitted: StackFit) -> dict[str, Any]:
    """A fit as plain JSON types."""
    errors = fitted.known.standard_errors
    return {
        "models": sorted(fitted.scenarios),
        "parameters": {
            one.name: {
                "before": one.value, "value": fitted.fitted.values[one.name], "standard_error": errors.get(one.name),
            }
            for one in fitted.parameters
        },
        "not_identified": dict(fitted.refusals),
        "unmoved": list(fitted.fitted.unmoved),
        "noise": fitted.noise,
        "rows": [
            {
                "model": row.model, "kind": row.kind, "concurrency": row.point[0], "prompt": row.point[1],
                "output": row.point[2], "measured_s": row.seconds, "repeats": row.repeats,
                "error": math.expm1(inside), "left_out_error": math.expm1(outside),
            }
            for row, inside, outside in zip(fitted.rows, fitted.fitted.log_ratios, fitted.left_out, strict=True)
        ],
    }  # fmt: skip
