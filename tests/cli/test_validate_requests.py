"""`llm-perf validate --requests` and `--trace`, and `llm-perf plan` for requests, as their user meets them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

SIMULATE = (
    "simulate",
    "--model",
    "llama-3.1-8b",
    "--gpu",
    "h100-sxm-80gb",
    "--rate",
    "10",
    "--num-requests",
    "40",
)
PLAN = ("plan", "--model", "llama-3.1-8b", "--gpus", "a100-sxm-80gb,l4", "--objective", "gpus")


def test_the_traces_that_ship_beside_their_simulation(llm_perf, folder):
    outcome = llm_perf("validate", "--requests")
    assert outcome.code == 0
    assert all(len(line) <= 80 for line in outcome.out.splitlines())
    assert "closed loop" in outcome.out
    found = llm_perf("validate", "--requests", "--json").json
    assert len(found["traces"]) == 2
    assert {one["load"] for one in found["tables"]} == {"closed loop", "rate", "all at once"}
    for one in found["traces"]:
        assert set(one["ttft_s"]) >= {"measured", "predicted", "error", "median_abs_error"}


def test_a_trace_of_ones_own(llm_perf, folder):
    assert llm_perf(*SIMULATE, "--trace-out", "t.csv").code == 0
    Path("on.yaml").write_text("model: llama-3.1-8b\ngpu: h100-sxm-80gb\nsystem: vllm\n")
    found = llm_perf("validate", "--trace", "t.csv", "--inputs", "on.yaml", "--json").json
    assert found["traces"][0]["e2e_s"]["error"]["mean"] == pytest.approx(0, abs=1e-3)
    assert "tables" not in found


def test_the_shares_are_drawn(llm_perf, folder):
    pytest.importorskip("matplotlib", reason="the extra 'plot' is not installed")
    assert llm_perf("validate", "--requests", "--plot", "figures").code == 0
    assert len(list(Path("figures").glob("trace-*.png"))) == 2


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        (("--requests", "--system", "vllm"), "--system"),
        (("--trace", "nowhere.csv"), "--inputs"),
        (("--inputs", "x.yaml"), "--trace"),
        (("--trace", "nowhere.csv", "--inputs", "nowhere.yaml"), "nowhere"),
    ],
)
def test_bad_input_of_validate_is_one_line(llm_perf, folder, asked, said):
    assert said in llm_perf("validate", *asked).error


# -- plan ---------------------------------------------------------------------------------------------------------


def test_a_plan_for_a_rate_says_how_to_start_it_and_replays(llm_perf, folder):
    asked = (*PLAN, "--rate", "6", "--target", "p95 ttft<500ms, p95 tpot<60ms")
    outcome = llm_perf(*asked)
    assert outcome.code == 0
    assert all(len(line) <= 80 for line in outcome.out.splitlines())
    assert "vllm serve meta-llama/Llama-3.1-8B" in outcome.out
    assert "90% interval" in outcome.out
    best = llm_perf(*asked, "--json").json["best"][0]
    Path("best.json").write_text(json.dumps(best["inputs"]))
    again = llm_perf("simulate", "--config", "best.json", "--json").json
    assert again["ttft_s"]["p95"] == pytest.approx(best["simulated"]["ttft_s"]["p95"], rel=1e-9)


def test_a_plan_that_nothing_meets_is_exit_3(llm_perf, folder):
    outcome = llm_perf(*PLAN, "--rate", "6", "--target", "p95 tpot<1ms")
    assert outcome.code == 3
    assert "Nothing meets the targets" in outcome.out


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        (("--rate", "0"), "rate"),
        (("--rate", "1", "--concurrency", "2"), "exclude each other"),
        (("--rate", "1", "--batching", "static"), "--batching static"),
        (("--rate", "1", "--plot", "x.png"), "--plot"),
        (("--requests", "nowhere.csv"), "nowhere.csv"),
        (("--target", "p95 ttft<1s"), "say how they come"),
        (("--target", "tpot<50"), "say the unit"),
        (("--weight-format", "fp8", "--quant-bits", "8"), "exclude each other"),
        (("--batching", "dynamic"), "batching"),
    ],
)
def test_bad_input_of_plan_is_one_line(llm_perf, folder, asked, said):
    assert said in llm_perf(*PLAN, *asked).error
    assert list(Path().iterdir()) == []
