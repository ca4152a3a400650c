"""Profiles as text: one line each, everything of one, what differs between two."""

from __future__ import annotations

import math
import textwrap
from pathlib import Path
from typing import Any

from llm_perf.config.profiles import Profile
from llm_perf.report.units import cut

_WIDTH = 80


def summary(profile: Profile) -> dict[str, Any]:
    """What a list says of a profile."""
    calibration = profile.calibration
    interval = None if calibration is None else calibration.interval
    return {
        "machine": None if calibration is None else calibration.machine.gpu,
        "created": profile.provenance.get("created"),
        "runs": len(profile.provenance.get("runs") or []),
        "systems": sorted(profile.system_constants),
        "interval_total": None if interval is None else interval.total,
    }


def list_lines(rows: list[dict[str, Any]]) -> list[str]:
    """A table of profiles; where those are that are not bundled stands below it."""
    lines = [f"{'profile':<26}{'machine':<30}{'runs':>5}{'90 %':>9}  where"]
    for row in rows:
        if "error" in row:
            lines += _wrapped(cut(row["name"], 25), f"cannot be read: {row['error']}", 26)
            continue
        width = "-" if row["interval_total"] is None else f"x/: {math.exp(row['interval_total']):.2f}"
        where = "bundled" if row["where"] == "bundled" else "own"
        lines.append(
            f"{cut(row['name'], 25):<26}{cut(row['machine'] or '-', 29):<30}{row['runs']:>5}{width:>9}  {where}"
        )
    folders = {str(Path(row["where"]).parent) for row in rows if row["where"] != "bundled"}
    return [*lines, *(f"own: {folder}" for folder in sorted(folders))]


def show_lines(profile: Profile) -> list[str]:
    """Everything of a profile, readable at 80 columns."""
    lines = [f"profile {profile.name}"]
    calibration = profile.calibration
    if calibration is None:
        lines.append("written by hand: nothing says where it holds")
    else:
        machine = calibration.machine
        versions = ", ".join(f"{name} {version}" for name, version in machine.versions.items() if version)
        lines += _wrapped("machine", machine.gpu + (f", host {machine.host}" if machine.host else ""))
        lines += _wrapped("versions", versions or "-")
        if calibration.covers is not None:
            lines += _wrapped("covers", _coverage(profile))
        lines += _wrapped("90 % interval", _interval(profile))
        for sentence in calibration.not_identified:
            lines += _wrapped("not identified", sentence)
    made = profile.provenance
    if made.get("created"):
        lines += _wrapped(
            "made", f"{made['created']} by {made.get('made_by', '-')}, {len(made.get('runs') or [])} runs"
        )
    for phase, errors in (made.get("residuals") or {}).items():
        if errors:
            lines.append(
                f"{'error, ' + phase:<16}median {errors['median_abs_error']:.1%}, largest {errors['max_abs_error']:.1%}, "
                f"bias {errors['bias']:+.1%}"
            )
    lines += ["", "sets"]
    errors_of = made.get("parameters") or {}
    for name, value in flat(profile).items():
        error = errors_of.get(name)
        spread = f"  +-{error['standard_error']:.0%}" if error else ""
        if isinstance(value, str):
            lines += [f"  {name}", *_wrapped("", value, 4)]
        else:
            lines.append(f"  {name:<58} {_value(value)}{spread}")
    return lines


def _wrapped(title: str, text: str, indent: int = 16) -> list[str]:
    return textwrap.wrap(
        f"{title:<{indent}}{text}",
        _WIDTH,
        subsequent_indent=" " * indent,
        break_long_words=False,
        break_on_hyphens=False,
    )


def _coverage(profile: Profile) -> str:
    assert profile.calibration is not None
    covers = profile.calibration.covers
    assert covers is not None

    def ends(name: str) -> str:
        interval = getattr(covers, name)
        return (
            f"{interval.low:.3g}"
            if interval.low == interval.high
            else f"{interval.low:.3g} to {interval.high:.3g}"
        )

    return (
        f"{', '.join(covers.systems)}; weights on {', '.join(covers.tiers)}, "
        f"{', '.join(map(str, covers.weight_bits))} bit, {ends('model_gib')} GiB; batch {ends('batch_size')}, "
        f"prompt {ends('prompt_len')}, generate {ends('gen_len')}"
    )


def _interval(profile: Profile) -> str:
    assert profile.calibration is not None
    interval = profile.calibration.interval
    if interval is None:
        return "none: that takes runs of two models or more"
    parts = [
        f"{phase} x/: {math.exp(width):.2f}"
        for phase, width in (
            ("prefill", interval.prefill),
            ("decode", interval.decode),
            ("total", interval.total),
        )
        if width is not None
    ]
    return f"{', '.join(parts)} ({interval.method})"


def flat(profile: Profile) -> dict[str, Any]:
    """The values that a profile sets, by dotted names."""
    found: dict[str, Any] = {}
    for system, constants in profile.system_constants.items():
        found |= {f"{system}.{name}": value for name, value in constants.items()}
    for room, fields in (("gpu", profile.gpu), ("host", profile.host)):
        _flatten(room, fields, found)
    return found


def _flatten(prefix: str, value: Any, found: dict[str, Any]) -> None:
    if isinstance(value, dict) and "gb_per_s" in value and "source" in value:
        found[prefix] = value["gb_per_s"]
    elif isinstance(value, dict):
        for name, entry in value.items():
            _flatten(f"{prefix}.{name}", entry, found)
    else:
        found[prefix] = value


def differences(one: Profile, other: Profile) -> list[tuple[str, Any, Any]]:
    """(name, value in one, value in the other) where they differ; None where one does not set it."""
    left, right = flat(one), flat(other)
    names = [*left, *(name for name in right if name not in left)]
    return [(name, left.get(name), right.get(name)) for name in names if left.get(name) != right.get(name)]


def diff_lines(one: Profile, other: Profile, found: list[tuple[str, Any, Any]]) -> list[str]:
    """What differs between two profiles."""
    if not found:
        return [f"{one.name} and {other.name} set the same values"]
    lines = []
    for title, profile in (("one", one), ("other", other)):
        machine = None if profile.calibration is None else profile.calibration.machine.gpu
        said = "written by hand" if machine is None else f"fitted on {machine}"
        lines += _wrapped(title, f"{profile.name}, {said}", 8)
    lines.append(f"{'':<50}{'one':>11}{'other':>11}")
    for name, left, right in found:
        if isinstance(left, str) or isinstance(right, str):
            lines += [name, *_wrapped("  one", _value(left), 10), *_wrapped("  other", _value(right), 10)]
            continue
        numbers = isinstance(left, (int, float)) and isinstance(right, (int, float)) and left
        change = f"{_change(right / left):>8}" if numbers else ""
        lines.append(f"{cut(name, 49):<50}{_value(left):>11}{_value(right):>11}{change}")
    return lines


def _change(ratio: float) -> str:
    if ratio < 10:
        return f"{ratio - 1:+.0%}"
    return f"x{ratio:.0f}" if ratio < 1e6 else "x1e6+"


def _value(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
