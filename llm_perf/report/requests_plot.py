"""Measured and predicted times of requests as cumulative shares, one figure per trace."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, Protocol

from llm_perf.report.figure import INK, Figure
from llm_perf.report.looks import COLOURS
from llm_perf.report.plots.draw import draw
from llm_perf.report.simulate_plot import shares_panel
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
    panels = [
        shares_panel(
            [
                ("measured", getattr(measured, quantity), INK),
                ("predicted", getattr(predicted, quantity), COLOURS[3]),
            ],
            title,
        )
        for quantity, title in _QUANTITIES.items()
    ]
    title = f"{name}: {len(measured.ttft_s):,} requests"
    return draw(Figure(panels, title, (10.0, 3.6), columns=3, legend_columns=2))
