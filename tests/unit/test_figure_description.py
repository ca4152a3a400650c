"""A figure is described once: matplotlib and the page draw the same names, ticks, points and ends from it."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm_perf.explore.drawn import view_of
from llm_perf.report.figure import (
    INK,
    SYMBOLS,
    Area,
    Figure,
    Limit,
    Note,
    Panel,
    Series,
    amount_axis,
    share_axis,
    stacked,
    time_axis,
)
from llm_perf.report.looks import COLOURS, bar_looks, looks

POINTS = Panel(
    time_axis("time", [0.01, 20.0]),
    amount_axis("tokens per second", [3.0, 70.0]),
    [
        Area("band", [0.01, 20.0], [3.0, 50.0], [5.0, 70.0]),
        Series("points", [0.01, 1.0, 20.0], [3.0, 10.0, 70.0], COLOURS[0], "circle", [False, True, False], "solid",
               ends=[(2.0, 4.0), None, (60.0, 80.0)], words=["a", "b", "c"]),
        Series("", [0.01, 20.0], [3.0, 70.0], line="dot", steps=True),
        Series("only in the legend", (), (), INK, "ring"),
        Limit(2.0, text="limit 2 s", name="target"),
        Note(1.0, 10.0, "here"),
    ],
    "two axes", alt="points",
)  # fmt: skip
BARS = Panel(
    share_axis("% of the phase", 100.0),
    None,
    stacked(
        [("one", COLOURS[0], "", [30.0, 50.0], ["", ""]), ("two", "@muted", "/", [70.0, 50.0], ["", ""])], [0, 1]
    ),
    rows=["decode", "prefill"],
)  # fmt: skip


def drawn(panel: Panel) -> Any:
    pytest.importorskip("matplotlib", reason="the extra 'plot' is not installed")
    from llm_perf.report.plots.draw import draw

    return draw(Figure([panel], "title"))


@pytest.mark.parametrize("panel", [POINTS, BARS], ids=["points", "bars"])
def test_both_say_the_same(panel: Panel) -> None:
    picture, page = drawn(panel), view_of(panel)
    (axes,) = picture.axes
    legend = {text.get_text() for legend in picture.legends for text in legend.get_texts()}
    named = {trace["name"] for trace in page["data"] if trace["name"]}
    assert legend - {"target"} == named
    for axis, side in ((axes.xaxis, "xaxis"), (axes.yaxis, "yaxis")):
        shown = [label.get_text() for label in axis.get_ticklabels()]
        assert shown == page["layout"][side]["ticktext"]
    assert axes.get_xlabel() == page["layout"]["xaxis"]["title"]["text"] == panel.x.title
    assert axes.get_xlim() == pytest.approx((panel.x.low, panel.x.high))


def test_points_lie_at_one_place_in_both() -> None:
    (axes,) = drawn(POINTS).axes
    (trace,) = (one for one in view_of(POINTS)["data"] if one["name"] == "points")
    assert trace["marker"]["symbol"] == ["circle", "circle-open", "circle"]
    there = {tuple(map(float, at)) for line in axes.lines for at in line.get_xydata()}
    assert set(zip(trace["x"], trace["y"], strict=True)) <= there
    assert trace["error_y"]["array"] == [1.0, 0.0, 10.0]
    assert trace["error_y"]["arrayminus"] == [1.0, 0.0, 10.0]
    layout = view_of(POINTS)["layout"]
    assert [note["text"] for note in layout["annotations"]] == ["limit 2 s", "here"]
    assert layout["annotations"][0]["x"] == pytest.approx(math.log10(2.0)), "decades on a logarithmic axis"
    assert layout["shapes"][0]["x0"] == 2.0


@given(st.lists(st.lists(st.floats(0, 1e6), min_size=2, max_size=2), min_size=1, max_size=5))
def test_each_bar_begins_where_the_one_before_ends(lengths: list[list[float]]) -> None:
    parts = [(str(number), COLOURS[0], "", each, ()) for number, each in enumerate(lengths)]
    bars = stacked(parts, [0, 1])
    assert all(any(one.lengths) for one in bars), "what has no length is not drawn"
    for row in (0, 1):
        ends = [one.starts[row] + one.lengths[row] for one in bars]
        assert [one.starts[row] for one in bars[1:]] == pytest.approx(ends[:-1])
        assert sum(each[row] for each in lengths) == pytest.approx(ends[-1] if ends else 0.0)


@given(st.integers(1, len(COLOURS) * len(SYMBOLS)))
def test_no_two_series_look_the_same(count: int) -> None:
    assert len(set(looks(map(str, range(count))).values())) == count


def test_greys_have_patterns_of_their_own() -> None:
    found = bar_looks(["mlp", "one", "two", "attention"])
    assert found["mlp"][1] == found["attention"][1] == ""
    assert found["one"][0] == found["two"][0] == "@muted"
    assert found["one"] != found["two"]
