"""The front of throughput against latency as a picture. matplotlib is loaded only here."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from llm_perf.errors import MissingExtraError, OutputError, SpecError
from llm_perf.search.policy import PolicyAnswer

_FORMATS = (".png", ".svg")
_STYLES = {"flexgen": ("#0072B2", "o", "FlexGen"), "zero_inference": ("#E69F00", "s", "ZeRO-Inference")}
"""Colours of Okabe and Ito, told apart by people who are colour-blind, and markers that differ as well."""


def check_plot(file: str) -> None:
    """Refuse a plot that cannot be drawn before anything is searched.

    Raises:
        SpecError: the name ends in neither .png nor .svg.
        MissingExtraError: matplotlib is not installed.
        OutputError: its folder does not exist.
    """
    path = Path(file)
    if path.suffix.lower() not in _FORMATS or not path.stem:
        raise SpecError(f"--plot {file!r}: the name must end in {' or '.join(_FORMATS)}")
    try:
        import matplotlib as mpl
    except ImportError:
        raise MissingExtraError("plot", "drawing a plot") from None
    mpl.use("Agg")
    if not path.parent.is_dir():
        raise OutputError(f"--plot {file!r}: there is no folder {str(path.parent)!r}")


def write_plot(answer: PolicyAnswer, file: str) -> Path:
    """Draw the front into a PNG or SVG file.

    Raises:
        OutputError: the file cannot be written.
    """
    path = Path(file)
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    figure = _figure(answer)
    try:
        figure.savefig(part, format=path.suffix[1:].lower(), dpi=150)
        part.replace(path)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise OutputError(f"--plot {file!r}: {error.strerror or error}") from None
    return path


def _figure(answer: PolicyAnswer) -> Any:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.add_subplot()
    _draw_front(axes, answer)
    question = answer.question
    axes.set_xlabel("latency of one batch, prefill and all decode steps (s)")
    axes.set_ylabel("throughput (generated tokens/s)")
    axes.set_title(
        f"{question.model} on {question.gpu}, prompt {question.prompt_len}, generate {question.gen_len}"
    )
    axes.grid(visible=True, which="major", color="0.9")
    axes.set_axisbelow(True)
    if axes.get_legend_handles_labels()[1]:
        figure.legend(loc="outside lower center", ncols=4, frameon=False)
    return figure


def _draw_front(axes: Any, answer: PolicyAnswer) -> None:
    front = answer.front
    if front:
        axes.step(_latencies(front), _rates(front), where="post", color="0.6", linewidth=1, zorder=1)
    for system, (colour, marker, label) in _STYLES.items():
        points = [point for point in front if point.flags["system"] == system]
        if points:
            axes.plot(
                _latencies(points),
                _rates(points),
                marker,
                color=colour,
                markersize=5,
                label=f"{label} (predicted)",
            )
    if answer.best is not None:
        axes.plot(
            [answer.best.latency_s],
            [answer.best.throughput_tokens_per_s],
            "*",
            color="#000000",
            markersize=13,
            label=f"best {answer.question.objective}",
        )
    if answer.question.max_latency is not None:
        limit = answer.question.max_latency
        axes.axvline(limit, color="#D55E00", linestyle="--", label=f"limit {limit:g} s")
    if front and front[-1].latency_s > 20 * front[0].latency_s:
        axes.set_xscale("log")
    axes.set_ylim(bottom=0)


def _latencies(points: Any) -> list[float]:
    return [point.latency_s for point in points]


def _rates(points: Any) -> list[float]:
    return [point.throughput_tokens_per_s for point in points]
