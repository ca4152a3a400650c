"""Rows of llama-bench: what it calls a batch is how many tokens of one prompt a pass takes."""

from __future__ import annotations

import numpy as np
import pytest

from calibrate.evidence.ratios import gm
from calibrate.evidence.serving_rows import Cases, load_cases, load_rows
from calibrate.evidence.settings import scenario_of
from calibrate.evidence.stated import stated_run
from llm_perf.analysis.inference import predict_inference

ROW = {
    "system": "llama.cpp",
    "model": "meta-llama/Llama-2-7b-hf",
    "gpu": "A100-SXM-40GB",
    "gpu_count": "1",
    "weight_dtype": "fp16",
    "batch_size": "16",
    "prompt_len_tok": "128",
    "gen_len_tok": "128",
    "trust": "B: llama.cpp rows use batch as n-batch sequentially, see NOTES",
}


def test_n_batch_is_one_sequence_whose_prompt_goes_in_pieces():
    run = stated_run(ROW)
    assert (run.batch_size, run.ubatch_tokens) == (1, 16)
    assert dict(scenario_of(run).constants)["ubatch_tokens"] == 16.0
    by_rate = {"trust": "A: raw log", "throughput_def": "(in+out)*batch/latency"}
    assert stated_run(ROW | by_rate) == run
    assert stated_run(ROW | by_rate | {"system": "vllm", "system_version": "0.5"}).batch_size == 16
    plain = stated_run(ROW | {"trust": "A: raw log"})
    assert (plain.batch_size, plain.ubatch_tokens) == (16, None)
    assert "ubatch_tokens" not in dict(scenario_of(plain).constants)


def test_a_prompt_token_by_token_takes_what_generating_it_would():
    one = next(case for case in load_cases([row for row in load_rows() if row["row_id"] == "234"]))
    assert one.run.ubatch_tokens == 1
    ratio = Cases([one]).log_ratios({})
    # What a refit tries does not replace what the run itself set.
    assert Cases([one]).log_ratios({"ubatch_tokens": 512.0}) == pytest.approx(ratio)


def test_runs_of_llama_cpp_on_nvidia_are_predicted_without_having_been_fitted():
    rows = [row for row in load_rows() if row["system"] == "llama.cpp"]
    cases = [case for case in load_cases(rows) if case.release == "llama_cpp@2024-05"]
    assert len(cases) == 30
    found = Cases(cases).log_ratios({})
    assert gm(found) < 1.15
    assert np.abs(found).max() < np.log(1.25)


def test_a_stated_piece_keeps_the_interval():
    """It is a setting, not a constant that took the place of one held against published runs."""
    assert predict_inference(scenario_of(stated_run(ROW))).interval is not None
