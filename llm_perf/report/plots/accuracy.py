"""How near predictions are: predicted against measured, and the signed error of each configuration."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from llm_perf.report.figure import (
    MUTED,
    PAPER,
    Area,
    Axis,
    Bars,
    Figure,
    Limit,
    Mark,
    Panel,
    Series,
    amount_axis,
)
from llm_perf.report.looks import COLOURS, looks
from llm_perf.report.plots.style import short_model


class Point(NamedTuple):
    """Measured, predicted, ends of the prediction interval, and what the pointer shows of it."""

    measured: float
    predicted: float
    ends: tuple[float, float] | None = None
    words: str = ""


_BAND = 0.1
_LEAST_SPAN = 12.0
"""Least ratio of an axis' ends."""
_MANY = 40
"""Configurations that one picture of errors shows; the worst are kept."""
_PHASES = {
    "prefill": (COLOURS[1], "triangle-up"),
    "decode": (COLOURS[2], "square"),
    "total": (COLOURS[0], "circle"),
}


def scatter_figure(groups: Mapping[str, Sequence[Point]], quantity: str, title: str) -> Figure:
    """Predicted against measured, both logarithmic, with the band of +-10 % and a look per group.

    Args:
        groups: Name -> points.
        quantity: What is measured, with its unit.
        title: Of the picture.
    """
    axes = quantity_axes(quantity)
    return Figure([scatter_panel(groups, axes, look=looks(groups))], title, size=(6.4, 6.0))


def scatter_grid(
    panels: Mapping[str, Mapping[str, Sequence[Point]]],
    quantity: str,
    title: str,
    under: Mapping[str, str] | None = None,
) -> Figure:
    """A scatter per panel, with one look per group in all of them.

    Args:
        panels: Name of the panel -> name of the group -> points.
        quantity: What is measured, with its unit.
        title: Of the picture.
        under: A line below a panel's name.
    """
    columns = min(4, len(panels))
    rows = -(-len(panels) // columns)
    look = looks(name for groups in panels.values() for name in groups)
    axes = quantity_axes(quantity, most=4)
    drawn = [
        scatter_panel(
            groups, axes, look, small=True, title="\n".join([name, *([under[name]] if under else [])])
        )
        for name, groups in panels.items()
    ]
    size = (2.75 * columns + 0.3, 2.85 * rows + 1.35)
    return Figure(drawn, title, size, columns, legend_columns=min(6, 2 * columns))


AxisOf = Callable[[str, Sequence[float]], Axis]


def quantity_axes(quantity: str, most: int = 7) -> AxisOf:
    """What makes both axes of a scatter: the side's name and the values that it has to hold."""
    return lambda side, values: amount_axis(f"{side} {quantity}", values, log=True, most=most)


def scatter_panel(
    groups: Mapping[str, Sequence[Point]],
    axis: AxisOf,
    look: Mapping[str, tuple[str, str]],
    small: bool = False,
    title: str = "",
    band: tuple[str, float, float] = ("±10 %", 1 - _BAND, 1 + _BAND),
) -> Panel:
    """Points, diagonal and band; ``band`` is its name and the factors between which it lies."""
    values = [
        value for points in groups.values() for m, p, ends, _ in points for value in (m, p, *(ends or ()))
    ]
    low, high = min(values) / 1.3, max(values) * 1.3
    if high < _LEAST_SPAN * low:
        middle = (low * high) ** 0.5
        low, high = middle / _LEAST_SPAN**0.5, middle * _LEAST_SPAN**0.5
    name, below, above = band
    marks: list[Mark] = [
        Area(name, [low, high], [low * below, high * below], [low * above, high * above]),
        Series("predicted = measured", [low, high], [low, high], MUTED, line="solid", width=1.0),
    ]
    for group, points in groups.items():
        colour, symbol = look[group]
        marks.append(
            Series(
                group, [p.measured for p in points], [p.predicted for p in points], colour, symbol, edge=PAPER,
                size=4.0 if small else 6.5, faint=small, ends=[p.ends for p in points], words=[p.words for p in points],
            )
        )  # fmt: skip
    return Panel(axis("measured", (low, high)), axis("predicted", (low, high)), marks, title, square=True)


def error_figure(runs: Sequence[Mapping[str, Any]], title: str) -> Figure:
    """Signed errors of prefill, decode and total, a line per configuration with its repeats in it.

    At most `_MANY` runs, those with the largest errors.
    """
    shown = _largest(runs)
    lines = distinct(shown)
    places = _places(shown)
    marks: list[Mark] = [Area("±10 %", [-100 * _BAND, 100 * _BAND]), Limit(0, colour=MUTED, line="solid")]
    marks += _intervals(shown, places)
    for phase, (colour, symbol) in _PHASES.items():
        errors = [run["error"][f"{phase}_latency"] for run in shown]
        at = [(100 * error, place) for error, place in zip(errors, places, strict=True) if error is not None]
        if at:
            marks.append(Series(phase, [x for x, _ in at], [y for _, y in at], colour, symbol, edge=PAPER))
    ends = [x for mark in marks if isinstance(mark, Series) for x in mark.x]
    ends += [
        x
        for mark in marks
        if isinstance(mark, Bars)
        for s, n in zip(mark.starts, mark.lengths, strict=True)
        for x in (s, s + n)
    ]
    left = f", the {len(shown)} largest errors of {len(runs)}" if len(shown) < len(runs) else ""
    return Figure(
        [
            Panel(
                amount_axis(
                    "(predicted - measured) / measured latency (%)",
                    [*ends, -100 * _BAND, 100 * _BAND],
                    log=False,
                ),
                None,
                marks,
                title + left,
                rows=[configuration(run, shown) for run in reversed(lines)],
            )
        ],
        size=(8.0, 1.6 + 0.3 * len(lines)),
        legend_columns=5,
    )


def _intervals(shown: Sequence[Mapping[str, Any]], places: Sequence[float]) -> Iterator[Bars]:
    """The interval of the total as errors: what the error would be if the measured value lay at either end."""
    ends, at, level = [], [], 0.0
    for place, run in zip(places, shown, strict=True):
        interval, measured = run["interval"], run["measured"]["total_latency_s"]
        if interval is not None and interval["total_latency_s"] is not None and measured:
            ends.append([100 * (end / measured - 1) for end in interval["total_latency_s"]])
            at.append(place)
            level = interval["level"]
    if ends:
        lengths, starts = [high - low for low, high in ends], [low for low, _ in ends]
        yield Bars(
            f"{level:.0%} interval of the total", at, lengths, starts, COLOURS[0], height=0.05, edged=False
        )


def distinct(runs: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The first run of each configuration."""
    found: dict[str, Mapping[str, Any]] = {}
    for run in runs:
        found.setdefault(configuration(run), run)
    return list(found.values())


def _places(runs: Sequence[Mapping[str, Any]]) -> list[float]:
    """The row of each run: that of its configuration, the first one on top, repeats beside one another in it."""
    names = [configuration(run) for run in runs]
    lines = {name: line for line, name in enumerate(reversed(dict.fromkeys(names)))}
    seen: dict[str, int] = {}
    places = []
    for name in names:
        number, of = seen.get(name, 0), names.count(name)
        seen[name] = number + 1
        places.append(lines[name] - (0.5 * (number + 0.5) / of - 0.25 if of > 1 else 0.0))
    return places


def _largest(runs: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    if len(runs) <= _MANY:
        return list(runs)
    kept = sorted(runs, key=lambda run: -abs(run["error"]["total_latency"] or 0.0))[:_MANY]
    return [run for run in runs if run in kept]


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
