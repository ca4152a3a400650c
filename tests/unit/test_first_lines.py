"""What calibrate says begins with five lines too, made of the objects that --json prints."""

from __future__ import annotations

from typing import Any

import pytest

from calibrate.fit.first_lines import read_answer, session_answer, stack_fit_answer
from calibrate.probe.report import print_microbench

FLAGS = {"deployment.gpu": "--gpu", "engine.name": "--system"}


def run_of(error: float | None, reason: str | None = None, unknown: tuple[str, ...] = ()) -> dict[str, Any]:
    figures = [{"quantity": "tpot_s", "statistic": "mean", "error": error}]
    return {"tool": "vllm-bench-serve", "predicted": figures, "reason": reason, "unknown": list(unknown)}


def lines_of(answer: Any) -> list[str]:
    lines = answer.text.plain.splitlines()
    assert len(lines) == 5
    assert all(len(line) <= 80 for line in lines)
    return [line.partition(":")[2].strip() for line in lines]


def test_results_are_off_by_their_median() -> None:
    said = lines_of(read_answer({"runs": [run_of(-0.1), run_of(0.2), run_of(0.05)], "refused": []}, FLAGS))
    assert said[0] == "3 runs of vllm-bench-serve"
    assert said[1] == "TPOT +5.0% (median)"
    assert "the furthest figure is +20% off" in said[2]


def test_results_that_are_not_predicted_ask_for_what_they_lack() -> None:
    lacking = run_of(None, "bench.json: it does not say the GPU: pass --gpu", ("deployment.gpu",))
    said = lines_of(read_answer({"runs": [lacking], "refused": [{"reason": "x.json: empty"}]}, FLAGS))
    assert said[0] == "1 run of vllm-bench-serve; 1 refused"
    assert said[1] == "not predicted: it does not say the GPU: pass --gpu"
    assert said[3:] == ["--gpu", "pass --gpu"]


@pytest.mark.parametrize("models", [["a"], ["a", "b"]])
def test_a_session_says_what_it_predicts_without_each_load(models: list[str]) -> None:
    rows = [
        {"kind": "step", "error": 0.01, "left_out_error": -0.04},
        {"kind": "first", "error": 0.1, "left_out_error": 0.3},
    ]
    fit = {"models": models, "rows": rows, "not_identified": {}}
    found = {
        "fit": fit, "model": "m", "system": "vllm", "points": 5, "requests": {"sent": 60}, "profile": "p.yaml", "ended": None,
    }  # fmt: skip
    said = lines_of(session_answer(found))
    assert said[1] == "decode steps 1.0% in the middle; first tokens 10.0% in the middle"
    assert said[2].startswith("each load left out: decode steps 4.0%")
    assert ("second model" in said[4]) == (len(models) == 1)
    assert (
        lines_of(session_answer(found | {"fit": None, "ended": "the server went away"}))[3]
        == "the server went away"
    )


def test_a_fit_says_what_stays_as_shipped() -> None:
    off = {"shipped": 1.3, "fitted": 1.02}
    found = {
        "release": "vllm@0.15", "runs": 1, "models": ["m"], "parameters": {"prefill_ms": {}}, "not_told": {"step_ms": None},
        "gm": {"decode": off, "first_token": {"shipped": None, "fitted": None}}, "interval": None, "next_run": None,
        "profile": "mine.yaml",
    }  # fmt: skip
    said = lines_of(stack_fit_answer(found))
    assert said[1] == "decode x/1.020, as shipped x/1.300"
    assert said[3] == "1 constants, which stay as shipped; told: prefill_ms"
    assert said[4] == "llm-perf infer --profile mine.yaml predicts with it"


def test_measurements_say_how_many_are_known(capsys: pytest.CaptureFixture[str]) -> None:
    items = [
        {
            "kind": "gemm",
            "settings": {"dtype": "fp32"},
            "median_s": 0.01,
            "converged": True,
            "work": {"flops": 1e9},
        },
        {"kind": "disk", "settings": {}, "error": "no room"},
    ]
    record = {"items": items, "environment": {"device": {"name": "cpu"}}, "spent_s": 1.0, "budget_s": 60.0}
    print_microbench(record)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "Measured:  1 of 2 sizes; cpu"
    assert lines[1] == "Best:      matrix product 100 GFLOP/s"
    assert lines[3] == "Not known: not measured: disk"
