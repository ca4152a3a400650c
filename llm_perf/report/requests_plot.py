"""Measured and predicted times of requests as cumulative shares, one figure per trace."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, Protocol

from llm_perf.report.plots import style
from llm_perf.report.simulate_plot import draw_cumulative, unit_of
from llm_perf.requests.workload import Floats

__all__ = ["traces_figures"]

_QUANTITIES: Final = {"ttft_s": "TTFT", "tpot_s": "TPOT", "e2e_s": "E2E"}


class Times(Protocol):
    """Seconds of each request."""

    @property
    def ttft_s(self) -> Floats: ...

    @property
    def tpot_s(self) -> Floats: ...

    @property
    def e2e_s(self) -> Floats: ...


def traces_figures(traces: Mapping[str, tuple[Times, Times]]) -> dict[str, Any]:
    """A figure by the name of its trace: (measured, predicted) as the share of requests within a time."""
    return {f"trace-{name}": _figure(name, *pair) for name, pair in traces.items()}


def _figure(name: str, measured: Times, predicted: Times) -> Any:
    figure = style.new_figure(10.0, 3.6)
    for axes, (quantity, title) in zip(figure.subplots(1, 3), _QUANTITIES.items(), strict=True):
        scale, unit = unit_of(getattr(measured, quantity))
        draw_cumulative(axes, getattr(measured, quantity), style.COLOURS[6], "measured", "-", scale)
        draw_cumulative(axes, getattr(predicted, quantity), style.COLOURS[3], "predicted", "--", scale)
        axes.set_xlabel(f"{title} in {unit}")
    figure.axes[0].set_ylabel("share of requests")
    style.legend_below(figure, 2)
    figure.suptitle(f"{name}: {len(measured.ttft_s):,} requests", fontsize=11)
    return figure
