"""Closed loops of the tables: by the engine's steady state in a fit, by the simulation of their requests in figures."""

from __future__ import annotations

import math

import numpy as np
import pytest

from calibrate.evidence.request_runs import answer_of, request_run, throughput_of
from calibrate.evidence.serving_rows import Cases, load_cases, load_rows


@pytest.fixture(scope="module")
def cases():
    rows = [row for row in load_rows() if row["system"].startswith("vllm")]
    return [case for case in load_cases(rows) if case.release == "vllm@0.7"]


@pytest.fixture(scope="module")
def loops(cases):
    return [case for case in cases if case.closed][:4]


@pytest.fixture(scope="module")
def answers(loops):
    """What the simulation of each loop's requests says."""
    return [answer_of(request_run(case.row)) for case in loops]


@pytest.fixture(scope="module")
def simulated(loops):
    return Cases(loops).simulated({})


def test_figures_of_closed_loops_are_those_of_their_simulation(loops, answers, simulated):
    for case, answer, ratio in zip(loops, answers, simulated, strict=True):
        served = throughput_of(answer, case.row, request_run(case.row).run.num_gpus)
        assert ratio == pytest.approx(math.log(case.measured / served))


def test_first_tokens_of_closed_loops_are_those_of_their_simulation(loops, answers):
    for case, answer, ratio in zip(loops, answers, Cases(loops).with_loops({}).first_tokens({}), strict=True):
        assert ratio == pytest.approx(math.log(answer.ttft_s / float(case.row["ttft_s"])))


def test_the_steady_state_is_near_the_simulation(loops, simulated):
    apart = np.abs(Cases(loops).log_ratios({}) - simulated)
    assert 0 < apart.max() < math.log(1.5)


def test_single_runs_are_left_as_they_are(cases):
    alone = [case for case in cases if not case.closed][:3]
    assert Cases(alone).simulated({}) == pytest.approx(Cases(alone).log_ratios({}), rel=1e-12)


def test_a_table_that_names_neither_mean_nor_median_has_means():
    unstated = [row for row in load_rows() if "median or mean is not stated" in row["notes"]]
    row = next(case.row for case in load_cases(unstated) if case.closed)
    assert request_run(row).statistic == "mean"
    assert request_run({**row, "notes": row["notes"] + "; medians"}).statistic == "median"
