"""Figures of the explorer: one look for one thing, ticks that people can read, names instead of identifiers."""

from __future__ import annotations

import json
import math
from functools import lru_cache
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm_perf.analysis.inference import InferenceResult, predict_inference
from llm_perf.analysis.request import InferenceInputs, build_scenario
from llm_perf.config.loading import get_gpu_config_by_name
from llm_perf.explore.comparison import comparison_figure
from llm_perf.explore.drawn import axis_of, position, view_of
from llm_perf.explore.figures import all_figures, breakdown_figure, memory_figure, roofline_figure
from llm_perf.explore.schedule import schedule_figures
from llm_perf.report.figure import amount_axis, time_axis
from llm_perf.report.plan_plot import front_panel
from llm_perf.search.plan import PlanQuestion, plan
from llm_perf.systems.expert_offload import ExpertOffload
from llm_perf.systems.registry import get_system, runs_there, system_names


@lru_cache
def predicted(**inputs: Any) -> InferenceResult:
    return predict_inference(build_scenario(InferenceInputs(**inputs)))


def one_of(system: str) -> InferenceResult:
    model = "mixtral-8x7b" if isinstance(get_system(system), ExpertOffload) else "opt-30b"
    gpus = ("t4", "a100-sxm-80gb", "gaudi2-96gb", "mi300x-192gb")
    gpu = next(gpu for gpu in gpus if runs_there(system, get_gpu_config_by_name(gpu)))
    return predicted(model=model, gpu=gpu, system=system, gen_len=8)


SYSTEMS = [name for name in system_names() if name != "lia"]
"""Those that this machine can be asked for."""


@pytest.mark.parametrize("system", SYSTEMS)
def test_a_look_of_a_schedule_means_one_thing(system: str) -> None:
    for figure in schedule_figures(one_of(system)):
        looks = [json.dumps(trace["marker"], sort_keys=True) for trace in figure["data"]]
        assert len(set(looks)) == len(looks)
        names = [trace["name"] for trace in figure["data"]]
        assert len(set(names)) == len(names)
        for name in (*names, *figure["layout"]["tracks"]):
            assert "_" not in name


@pytest.mark.parametrize("system", SYSTEMS)
def test_parts_of_a_breakdown_look_different(system: str) -> None:
    figure = breakdown_figure(one_of(system))
    looks = {json.dumps(trace["marker"], sort_keys=True) for trace in figure["data"]}
    assert len(looks) == len(figure["data"])


def test_parts_without_a_colour_of_their_own_look_different() -> None:
    result = predicted(
        model="mixtral-8x7b", gpu="h100-sxm-80gb", tp_size=2, ep_size=2, pp_size=2, batch_size=4
    )
    grey = [
        trace["marker"] for trace in breakdown_figure(result)["data"] if trace["marker"]["color"] == "@muted"
    ]
    assert len(grey) >= 2
    assert len({json.dumps(marker, sort_keys=True) for marker in grey}) == len(grey)
    # In Plotly's other mode a pattern is drawn on nothing, in the colour of the page: it would not be seen.
    assert all(marker["pattern"]["fillmode"] == "overlay" for marker in grey)


def test_the_roofline_names_its_colours() -> None:
    figure = roofline_figure(one_of("resident"))
    colours = {trace["name"]: trace["marker"]["color"] for trace in figure["data"] if "marker" in trace}
    assert {"feed-forward", "attention", "attention projections", "LM head", "prefill", "decode"} == set(
        colours
    )
    parts = {
        trace["name"]: trace["marker"]["color"] for trace in breakdown_figure(one_of("resident"))["data"]
    }
    assert parts["feed-forward"] == colours["feed-forward"]
    shown = sum(len([x for x in trace["x"] if x is not None]) for trace in figure["data"][1:])
    assert shown == len(figure["table"]["rows"])


@pytest.mark.parametrize("met", [True, False])
def test_a_plan_shows_what_misses_a_target_open(met: bool) -> None:
    """The front is of what meets the targets; where nothing does, of all that fits."""
    target = f"tpot<50ms, ttft<{'1s' if met else '1us'}"
    answer = plan(PlanQuestion(model="llama-2-70b", target=target, quant_bits=(16, 4)))
    figure = view_of(front_panel(answer))
    drawn = [trace for trace in figure["data"] if "marker" in trace]
    symbols = [symbol for trace in drawn for symbol in _listed(trace["marker"]["symbol"])]
    misses = sum(not candidate.meets for candidate in answer.front)
    assert misses == (0 if met else len(answer.front))
    assert sum(symbol.endswith("-open") for symbol in symbols) == (
        0 if met else misses + 1
    )  # and the legend's entry
    assert figure["layout"]["annotations"][0]["text"] == "limit 50 ms"
    assert all("misses a target" in words for trace in drawn for words in _open_words(trace))


def _listed(symbol: str | list[str]) -> list[str]:
    return [symbol] if isinstance(symbol, str) else symbol


def _open_words(trace: dict[str, Any]) -> list[str]:
    symbols = trace["marker"]["symbol"]
    if isinstance(symbols, str):
        return []
    return [
        words for words, symbol in zip(trace["customdata"], symbols, strict=True) if symbol.endswith("-open")
    ]


@given(st.lists(st.floats(1e-6, 1e6), min_size=1, max_size=6))
def test_ticks_lie_on_the_axis_and_are_written_once(values: list[float]) -> None:
    for axis in map(axis_of, (time_axis("time", values), amount_axis("amount", values))):
        ticks = axis["tickvals"]
        assert 2 <= len(ticks) <= 9
        low, high = axis["range"]
        for value in (*values, *ticks):
            assert low - 1e-9 * abs(low) <= position(axis, value) <= high + 1e-9 * abs(high)
        assert len(set(axis["ticktext"])) == len(ticks)


def test_a_memory_that_is_far_too_small_has_few_ticks() -> None:
    axis = memory_figure(predicted(model="llama-3.1-405b", gpu="t4"))["layout"]["xaxis"]
    assert axis["ticktext"] == ["0 %", "1,000 %", "2,000 %", "3,000 %", "4,000 %", "5,000 %"]
    axis = memory_figure(one_of("flexgen"))["layout"]["xaxis"]
    assert axis["ticktext"] == ["0 %", "20 %", "40 %", "60 %", "80 %", "100 %"]


def test_gpus_that_nothing_fits_are_not_drawn() -> None:
    large = predicted(model="llama-3.1-405b", gpu="t4")
    assert comparison_figure([large, large]) is None
    both = comparison_figure([large, predicted(model="opt-1.3b", gpu="l4")])
    assert both is not None
    assert [trace["name"] for trace in both["data"]] == ["T4-16GB: no batch fits", "L4-24GB"]


def test_ticks_have_the_reports_numbers() -> None:
    assert time_axis("time", [0.011, 0.05]).texts == ("0", "10 ms", "20 ms", "30 ms", "40 ms", "50 ms")
    assert time_axis("time", [0.01, 5000.0]).texts == (
        "10 ms",
        "100 ms",
        "1 s",
        "10 s",
        "100 s",
        "1,000 s",
    )
    assert amount_axis("tokens per second", [800.0, 2200.0]).texts == (
        "0",
        "500",
        "1,000",
        "1,500",
        "2,000",
    )


@pytest.mark.parametrize("system", SYSTEMS)
def test_every_figure_is_finite(system: str) -> None:
    assert not math.isnan(len(json.dumps(all_figures(one_of(system)), allow_nan=False)))
