"""Requests over time against what was measured: traces request by request, tables of servers, and what is committed."""

from __future__ import annotations

import gzip
import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

from calibrate.evidence.ratios import gm
from calibrate.evidence.request_runs import (
    MOST_OUTPUT,
    amplification,
    answer_of,
    is_closed_loop,
    request_run,
)
from calibrate.evidence.saturated_rows import load_saturated
from calibrate.evidence.traces import Compared, compare, figures, read_trace, traces
from calibrate.validate.request_left_out import read_left_out
from calibrate.validate.requests import PREDICTED, line_of, page, read_predicted, rows
from llm_perf.errors import SpecError

ROOT = Path(__file__).parents[2]
LIMITS = {"ttft_s": 0.20, "tpot_s": 0.10, "e2e_s": 0.10}
"""How far a mean may be off on the traces, to which nothing was fitted; 95th percentiles and single requests 20 %."""


@pytest.fixture(scope="module", params=traces(), ids=lambda trace: trace.name)
def compared(request: pytest.FixtureRequest) -> Compared:
    return compare(request.param)


def test_a_trace_is_predicted_within_what_was_promised(compared):
    found = figures(compared)
    for name, most in LIMITS.items():
        assert abs(found[name]["error"]["mean"]) <= most
        assert abs(found[name]["error"]["p95"]) <= 0.20
    assert found["ttft_s"]["median_abs_error"] <= 0.20
    assert found["ttft_s"]["requests"] == len(compared.trace.measured.ttft_s) == 300


def test_a_trace_beside_itself_has_no_error(compared, tmp_path):
    """What the simulation writes is a trace of its own: read again and compared, nothing is off."""
    from llm_perf.report.simulate_json import trace_text

    file = tmp_path / "own.csv"
    file.write_text(trace_text(compared.simulation.outcome, "csv"))
    again = figures(compare(read_trace(str(file)), compared.trace.inputs))
    for name in LIMITS:
        assert abs(again[name]["error"]["mean"]) < 1e-4
        assert again[name]["median_abs_error"] < 1e-3


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("arrival_s,prompt_tokens,output_tokens\n0,5,5\n", "first_token_s"),
        (
            "arrival_s,prompt_tokens,output_tokens,first_token_s,finished_s\n0,5,5,x,1\n",
            ":2: first_token_s 'x'",
        ),
        ("arrival_s,prompt_tokens,output_tokens,first_token_s,finished_s\n0,5,0,1,1\n", "output_tokens"),
        ("", "empty"),
    ],
)
def test_a_trace_says_what_is_wrong_with_it(tmp_path, content, said):
    file = tmp_path / "trace.csv"
    file.write_text(content)
    with pytest.raises(SpecError) as caught:
        read_trace(str(file))
    assert said in str(caught.value)


# -- tables -------------------------------------------------------------------------------------------------------


def test_every_row_is_predicted_or_refused_with_a_reason():
    lines = read_predicted()
    by_row: dict[str, list[Mapping[str, str]]] = {}
    for line in lines:
        by_row.setdefault(line["row_id"], []).append(line)
    assert set(by_row) == {row["row_id"] for row in rows()}
    for found in by_row.values():
        assert all(line["reason"] for line in found) or all(float(line["predicted"]) > 0 for line in found)


def test_what_is_committed_is_what_is_predicted_today():
    """Every 60th row; where this fails: python bench/request_figures.py, then make accuracy."""
    committed: dict[tuple[str, str], Mapping[str, str]] = {
        (line["row_id"], line["quantity"]): line for line in read_predicted()
    }
    checked = 0
    for row in rows()[::60]:
        for line in line_of(row):
            there = committed[line["row_id"], line["quantity"]]
            if line["reason"]:
                assert there["reason"] == line["reason"]
            else:
                assert float(line["predicted"]) == pytest.approx(float(there["predicted"]), rel=1e-4)
                checked += 1
    assert checked > 40


def test_the_committed_lines_are_a_reproducible_file():
    assert gzip.decompress((ROOT / PREDICTED).read_bytes()).startswith(b"row_id,load,release")


def test_closed_loops_are_near_what_was_measured():
    ratios = [
        abs(math.log(float(line["predicted"]) / float(line["measured"])))
        for line in read_predicted()
        if line["load"] == "closed loop" and line["quantity"] == "tpot_s"
    ]
    assert len(ratios) > 1350
    assert math.exp(float(np.mean(ratios))) <= 1.18


def test_saturated_runs_are_predicted_without_their_model():
    """Each of the 225 runs once, by a fit that never saw its model; without a GPU those that were refitted so."""
    saturated = {case.row_id for case in load_saturated()}
    by_kind: dict[str, list[Mapping[str, str]]] = {}
    for line in read_left_out():
        by_kind.setdefault(line["without"], []).append(line)
    assert len(saturated) == 225
    for kind, found in by_kind.items():
        names = [line["row_id"] for line in found]
        assert len(names) == len(set(names))
        assert set(names) == saturated if kind == "model" else set(names) <= saturated
        assert gm([math.log(float(line["predicted_over_measured"])) for line in found]) < 1.2


def test_longer_steps_make_a_full_queue_longer_by_more_than_they_are():
    """A loop is as long as its steps; under a rate near what is served an error of a step is multiplied."""
    loop = request_run(ROW)
    assert amplification(loop, answer_of(loop)) == 1.0
    slow, fast = (
        request_run(ROW | {"request_rate": rate, "num_prompts": "300", "batch_size": ""})
        for rate in ("0.1", "60")
    )
    assert amplification(slow, answer_of(slow)) == pytest.approx(1.0, abs=0.1)
    assert amplification(fast, answer_of(fast)) > 1.5


def test_the_page_shows_every_load_and_every_refusal():
    text = page(read_predicted())
    for words in ("closed loop", "all at once", "## Not predicted", "vllm-0.19-llama-3.1-8b"):
        assert words in text


# -- what a row says ----------------------------------------------------------------------------------------------

ROW = {
    "row_id": "1", "system": "vllm", "system_version": "0.15", "model": "meta-llama/Llama-3.1-8B", "gpu": "H100-SXM-80GB",
    "gpu_count": "1", "tp": "1", "batch_size": "16", "prompt_len_tok": "1000", "gen_len_tok": "300", "weight_dtype": "bf16",
    "notes": "closed loop", "request_rate": "", "num_prompts": "", "max_num_seqs": "", "throughput_def": "",
}  # fmt: skip


def test_a_closed_loop_sends_ten_rounds():
    run = request_run(ROW)
    assert is_closed_loop(ROW)
    assert run.requests.concurrency == 16
    assert len(run.requests) == 160
    assert set(run.requests.prompt_tokens.tolist()) == {1000}


def test_lengths_are_drawn_as_a_row_says():
    uniform = request_run(ROW | {"notes": "closed loop; ISL/OSL uniform in [0.8,1.0] of nominal"}).requests
    assert (uniform.prompt_tokens.min(), uniform.prompt_tokens.max()) >= (800, 900)
    assert uniform.prompt_tokens.max() <= 1000
    varied = request_run(ROW | {"notes": "closed loop; lengths vary", "batch_size": "128"}).requests
    assert varied.output_tokens.mean() == pytest.approx(300, rel=0.02)
    assert varied.output_tokens.max() == MOST_OUTPUT
    assert varied.prompt_tokens.std() > 500


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"prompt_len_tok": ""}, "lengths"),
        ({"request_rate": "Server (Poisson at the highest passing rate)"}, "what was measured"),
        ({"notes": ""}, "one batch"),
        ({"system": "vllm (disaggregated)"}, "does not state .* of its pools"),
    ],
)
def test_what_cannot_be_simulated_is_refused_with_its_reason(changes, said):
    with pytest.raises(SpecError, match=said):
        request_run(ROW | changes)


@pytest.mark.parametrize(("when", "last"), [("inf (all at once)", 0.0), ("4 (Poisson)", 25.0)])
def test_open_loops_come_as_a_row_says(when, last):
    run = request_run(ROW | {"request_rate": when, "num_prompts": "100", "max_num_seqs": "default 64"})
    assert run.requests.concurrency is None
    assert run.requests.arrival_s[-1] == pytest.approx(last)
    assert run.scenario.workload.max_num_seqs == 64
