"""Requests over time on the page: the knee, its slider, percentiles; none where nothing is served."""

from __future__ import annotations

from typing import Any

import pytest

from llm_perf.analysis.request import InferenceInputs
from llm_perf.analysis.simulation import ServiceInputs, simulation_of
from llm_perf.explore.view import Prediction, prediction_view
from llm_perf.report.units import seconds

ASKED = InferenceInputs(model="llama-3.1-8b", gpu="h100-sxm-80gb", system="vllm", prompt_len=512, gen_len=128)


def card(inputs: InferenceInputs) -> dict[str, Any] | None:
    view = prediction_view(Prediction.of(inputs))
    return next((one for one in view["cards"] if one["name"] == "requests"), None)


def test_the_knee_rises_to_what_is_served_at_most():
    found = card(ASKED)
    assert found is not None
    text, figure, _, _ = found["parts"]
    ttft, tpot, marker = figure["figure"]["data"]
    assert ttft["x"] == sorted(ttft["x"])
    assert ttft["y"] == sorted(ttft["y"])
    assert tpot["y"] == sorted(tpot["y"])
    most = float(text["text"].split("at most ")[1].split()[0])
    assert 0.9 * most < ttft["x"][-1] < most
    traffic = ServiceInputs(rate=1.0, num_requests=2, prompt_len="512", gen_len="128")
    said = simulation_of(ASKED.replace(batch_size=1), traffic).capacity
    assert (
        text["text"] == f"One engine serves at most {said.requests_per_s:.3g} requests/s of 512 + 128 tokens."
    )
    (slider,) = figure["figure"]["layout"]["sliders"]
    at = slider["steps"][slider["active"]]["args"][0]
    assert at["x"][0] == marker["x"]
    assert at["y"][0] == marker["y"]
    assert len(slider["steps"]) == len(ttft["x"])


def test_the_percentiles_are_those_of_simulate():
    found = card(ASKED)
    assert found is not None
    text, _, words, table = found["parts"]
    assert "300 requests at 70%" in words["text"]
    state = float(text["text"].split("at most ")[1].split()[0])
    deployment = ASKED.replace(batch_size=1)
    traffic = ServiceInputs(rate=0.7 * state, num_requests=300, prompt_len="512", gen_len="128")
    summary = simulation_of(deployment, traffic).summary
    shown = {row["cells"][0]["text"]: row["cells"][4]["text"] for row in table["rows"]}
    # The rate on the page has all its digits, here three: the percentile is the same to a percent.
    assert float(shown["TPOT"].split()[0]) == pytest.approx(
        float(seconds(summary.tpot_s.p95).split()[0]), rel=0.03
    )


@pytest.mark.parametrize(
    "changes",
    [{"system": "resident"}, {"gen_len": 1}, {"system": "zero_inference"}, {"gpu": "t4"}, {"pp_size": 2}],
)
def test_what_serves_no_requests_has_no_card(changes):
    assert card(ASKED.replace(**changes)) is None
