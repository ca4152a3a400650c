"""Closed loops of the tables: by the engine's steady state in a fit, by the simulation of their requests in figures."""

from __future__ import annotations

import math

import numpy as np
import pytest

from calibrate.evidence.request_runs import answer_of, request_run, throughput_of
from calibrate.evidence.serving_rows import Cases, load_cases


@pytest.fixture(scope="module")
def loops():
    return [case for case in load_cases() if case.release == "vllm@0.7" and case.closed][:4]


def test_figures_of_closed_loops_are_those_of_their_simulation(loops):
    for case, ratio in zip(loops, Cases(loops).simulated({}), strict=True):
        run = request_run(case.row)
        served = throughput_of(answer_of(run), case.row, run.run.num_gpus)
        assert ratio == pytest.approx(math.log(case.measured / served))


def test_first_tokens_of_closed_loops_are_those_of_their_simulation(loops):
    for case, ratio in zip(loops, Cases(loops).with_loops({}).first_tokens({}), strict=True):
        first = answer_of(request_run(case.row)).ttft_s
        assert ratio == pytest.approx(math.log(first / float(case.row["ttft_s"])))


def test_the_steady_state_is_near_the_simulation(loops):
    apart = np.abs(Cases(loops).log_ratios({}) - Cases(loops).simulated({}))
    assert 0 < apart.max() < math.log(1.5)


def test_single_runs_are_left_as_they_are():
    alone = [case for case in load_cases() if case.release == "vllm@0.7" and not case.closed][:3]
    assert Cases(alone).simulated({}) == pytest.approx(Cases(alone).log_ratios({}), rel=1e-12)


def test_a_table_that_names_neither_mean_nor_median_has_means():
    row = next(
        case.row
        for case in load_cases()
        if "median or mean is not stated" in case.row["notes"] and case.closed
    )
    assert request_run(row).statistic == "mean"
    assert request_run({**row, "notes": row["notes"] + "; medians"}).statistic == "median"
