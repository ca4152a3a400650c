"""Runs of seconds: none of days, hours and dollars is printed as nothing of it."""

from __future__ import annotations

from typing import Any

import pytest

from llm_perf.report import plan_training, units

ASKED = (
    "train",
    "--model",
    "pythia-410m",
    "--gpu",
    "h100-sxm-80gb",
    "--seq-len",
    "2048",
    "--total-num-tokens",
)


def test_a_run_of_seconds_costs_something(llm_perf: Any) -> None:
    out = llm_perf(*ASKED, "1e7").out
    run = next(line for line in out.splitlines() if "1e+07 tokens: " in line)
    assert " 0 GPU-hours" not in run
    assert " s, 0.0" in run  # seconds, and a hundredth of an hour
    assert "$0 for the run" not in out


def test_less_than_a_step_is_said_to_be_a_part_of_one(llm_perf: Any) -> None:
    assert "100 tokens: a part of one step" in llm_perf(*ASKED, "100").out


@pytest.mark.parametrize(
    ("value", "shown"), [(0.0, "0"), (0.00123, "0.00123"), (12.0, "12"), (12.34, "12.3"), (437.2, "437")]
)
def test_something_is_not_printed_as_nothing(value: float, shown: str) -> None:
    assert units.some(value) == shown


@pytest.mark.parametrize(
    ("run_s", "shown"), [(5.3, "5.3 s"), (80.0, "80 s"), (9245.0, "0.107 days"), (98_496.0, "1.14 days")]
)
def test_a_plan_counts_short_runs_in_seconds(run_s: float, shown: str) -> None:
    assert plan_training._time(run_s) == shown
    assert plan_training._range(run_s, 2 * run_s).endswith("days" if run_s > 86 else "s")


def test_the_service_says_how_sure_both_times_are(llm_perf: Any) -> None:
    out = llm_perf("simulate", "--model", "llama-3.1-8b", "--gpu", "h100-sxm-80gb", "--rate", "20").out
    sure = next(line for line in out.splitlines() if line.startswith("How sure:"))
    assert "TTFT p95 " in sure
    assert "TPOT p95 " in sure
    assert len(sure) <= 80
