"""How near predictions are: predicted against measured, and the signed error of each configuration."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

from llm_perf.report.plots.style import (
    BAND,
    GREY,
    legend_below,
    log_scale,
    looks,
    new_figure,
    short_model,
    tidy,
)

Point: TypeAlias = tuple[float, float, tuple[float, float] | None]
"""Measured, predicted, ends of the prediction interval."""

_BAND = 0.1
_LEAST_SPAN = 12.0
"""Least ratio of an axis' ends."""
_MANY = 40
"""Configurations that one picture of errors shows; the worst are kept."""


def scatter_figure(groups: Mapping[str, Sequence[Point]], quantity: str, title: str) -> Any:
    """Predicted against measured, both logarithmic, with the band of +-10 % and a marker per group.

    Args:
        groups: Name -> points.
        quantity: What is measured, with its unit.
        title: Of the picture.
    """
    figure = new_figure(6.4, 6.0)
    axes = figure.add_subplot()
    scatter(axes, groups, looks(groups), quantity)
    axes.set_title(title, fontsize=10)
    legend_below(figure, 3)
    return figure


def scatter_grid(
    panels: Mapping[str, Mapping[str, Sequence[Point]]],
    quantity: str,
    title: str,
    under: Mapping[str, str] | None = None,
) -> Any:
    """A scatter per panel, with one look per group in all of them.

    Args:
        panels: Name of the panel -> name of the group -> points.
        quantity: What is measured, with its unit.
        title: Of the picture.
        under: A line below a panel's name.
    """
    columns = min(4, len(panels))
    rows = -(-len(panels) // columns)
    figure = new_figure(2.75 * columns + 0.3, 2.85 * rows + 1.35)
    grid = figure.subplots(rows, columns, squeeze=False)
    style = looks(name for groups in panels.values() for name in groups)
    for axes, (name, groups) in zip(grid.flat, panels.items(), strict=False):
        scatter(axes, groups, style, quantity, small=True)
        axes.set_title("\n".join([name, *([under[name]] if under else [])]), fontsize=10)
    for axes in list(grid.flat)[len(panels) :]:
        axes.set_visible(False)
    for axes in grid[:, 1:].flat:
        axes.set_ylabel("")
    for axes in list(grid.flat)[: max(len(panels) - columns, 0)]:
        axes.set_xlabel("")
    figure.suptitle(title, fontsize=11)
    legend_below(figure, min(6, 2 * columns))
    return figure


def scatter(
    axes: Any,
    groups: Mapping[str, Sequence[Point]],
    style: Mapping[str, tuple[str, str]],
    quantity: str,
    small: bool = False,
) -> None:
    """Points, diagonal and band on given axes."""
    values = [value for points in groups.values() for m, p, ends in points for value in (m, p, *(ends or ()))]
    low, high = min(values) / 1.3, max(values) * 1.3
    if high < _LEAST_SPAN * low:
        middle = (low * high) ** 0.5
        low, high = middle / _LEAST_SPAN**0.5, middle * _LEAST_SPAN**0.5
    axes.fill_between(
        [low, high], [low * (1 - _BAND), high * (1 - _BAND)], [low * (1 + _BAND), high * (1 + _BAND)],
        color=BAND, alpha=0.35, linewidth=0, label="±10 %",
    )  # fmt: skip
    axes.plot([low, high], [low, high], color=GREY, linewidth=1, label="predicted = measured")
    for name, points in groups.items():
        _points(axes, points, *style[name], name, small)
    for axis in (axes.xaxis, axes.yaxis):
        log_scale(axis, high / low)
    axes.set(xlim=(low, high), ylim=(low, high), aspect="equal")
    axes.set_xlabel(f"measured {quantity}")
    axes.set_ylabel(f"predicted {quantity}")
    tidy(axes)


def _points(
    axes: Any,
    points: Sequence[Point],
    colour: str,
    marker: str,
    label: str,
    small: bool,
) -> None:
    measured, predicted = [m for m, _, _ in points], [p for _, p, _ in points]
    with_bars = [(m, p, ends) for m, p, ends in points if ends is not None]
    if with_bars:
        below = [max(p - ends[0], 0.0) for _, p, ends in with_bars]
        above = [max(ends[1] - p, 0.0) for _, p, ends in with_bars]
        axes.errorbar(
            [m for m, _, _ in with_bars], [p for _, p, _ in with_bars], yerr=[below, above],
            fmt="none", ecolor=colour, elinewidth=1, capsize=2.5, alpha=0.8, zorder=2,
        )  # fmt: skip
    axes.plot(
        measured, predicted, marker, color=colour, label=label, linestyle="none", zorder=3,
        markersize=4 if small else 6.5, markeredgewidth=0.4, markeredgecolor="white", alpha=0.75 if small else 1.0,
    )  # fmt: skip


def error_figure(runs: Sequence[Mapping[str, Any]], title: str) -> Any:
    """Signed errors of prefill, decode and total, a line per configuration with its repeats in it.

    At most `_MANY` runs, those with the largest errors.
    """
    shown = _largest(runs)
    lines = distinct(shown)
    places = _places(shown)
    figure = new_figure(8.0, 1.6 + 0.3 * len(lines))
    axes = figure.add_subplot()
    style = {"prefill": ("#E69F00", "^"), "decode": ("#009E73", "s"), "total": ("#0072B2", "o")}
    axes.axvspan(-100 * _BAND, 100 * _BAND, color=BAND, alpha=0.3, linewidth=0, label="±10 %")
    axes.axvline(0, color=GREY, linewidth=1)
    for phase, (colour, marker) in style.items():
        errors = [run["error"][f"{phase}_latency"] for run in shown]
        at = [(100 * error, place) for error, place in zip(errors, places, strict=True) if error is not None]
        if at:
            axes.plot(
                *zip(*at, strict=True), marker=marker, color=colour, linestyle="none", label=phase, markersize=6,
                markeredgecolor="white", markeredgewidth=0.4,
            )  # fmt: skip
    _interval_lines(axes, shown, places)
    axes.set_yticks(range(len(lines)), [configuration(run, shown) for run in lines], fontsize=9)
    axes.set_ylim(len(lines) - 0.4, -0.6)
    axes.set_xlabel("(predicted - measured) / measured latency (%)")
    left = f", the {len(shown)} largest errors of {len(runs)}" if len(shown) < len(runs) else ""
    axes.set_title(title + left, fontsize=10)
    tidy(axes)
    axes.grid(visible=False, axis="y")
    legend_below(figure, 5)
    return figure


def distinct(runs: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The first run of each configuration."""
    found: dict[str, Mapping[str, Any]] = {}
    for run in runs:
        found.setdefault(configuration(run), run)
    return list(found.values())


def _places(runs: Sequence[Mapping[str, Any]]) -> list[float]:
    """Where each run is drawn: its configuration's line, repeats beside one another in it."""
    names = [configuration(run) for run in runs]
    lines = {name: line for line, name in enumerate(dict.fromkeys(names))}
    seen: dict[str, int] = {}
    places = []
    for name in names:
        number, of = seen.get(name, 0), names.count(name)
        seen[name] = number + 1
        places.append(lines[name] + (0.5 * (number + 0.5) / of - 0.25 if of > 1 else 0.0))
    return places


def _largest(runs: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    if len(runs) <= _MANY:
        return list(runs)
    kept = sorted(runs, key=lambda run: -abs(run["error"]["total_latency"] or 0.0))[:_MANY]
    return [run for run in runs if run in kept]


def _interval_lines(axes: Any, shown: Sequence[Mapping[str, Any]], places: Sequence[float]) -> None:
    """The interval of the total as errors: what the error would be if the measured value lay at either end."""
    label = None
    for place, run in zip(places, shown, strict=True):
        interval, measured = run["interval"], run["measured"]["total_latency_s"]
        if interval is not None and interval["total_latency_s"] is not None and measured:
            ends = [100 * (end / measured - 1) for end in interval["total_latency_s"]]
            label = f"{interval['level']:.0%} interval of the total" if label is None else "_nolegend_"
            axes.plot(
                ends,
                [place, place],
                color="#0072B2",
                linewidth=1.2,
                zorder=1,
                label=label,
                solid_capstyle="butt",
            )


def configuration(run: Mapping[str, Any], among: Sequence[Mapping[str, Any]] = ()) -> str:
    """One run in words; what all of them share is left out."""
    shared = {name for name in ("system", "model", "gpu") if len({other[name] for other in among}) == 1}
    words = [] if "model" in shared else [short_model(run["model"])]
    words += [] if "system" in shared else [run["system"]]
    words += [] if "gpu" in shared else [(f"{run['num_gpus']}x " if run["num_gpus"] > 1 else "") + run["gpu"]]
    words.append(f"batch {run['batch_size']}, {run['prompt_len']} + {run['gen_len']}")
    words += [f"{run['weight_bits']} bit"] if run["weight_bits"] not in (16, 32) else []
    words += ["KV on CPU"] if run["kv_cache_on"] == "cpu" else []
    return ", ".join(words)


def shared_title(runs: Sequence[Mapping[str, Any]]) -> str:
    """What all runs share."""
    found = [
        sorted({short_model(run[name]) if name == "model" else run[name] for run in runs})
        for name in ("model", "system", "gpu")
    ]
    return ", ".join(values[0] for values in found if len(values) == 1)
