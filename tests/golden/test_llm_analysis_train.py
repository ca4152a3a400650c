"""Summaries of trainings against llm-analysis' results: each key equal, or a listed departure."""

from __future__ import annotations

import pytest

from tests.golden.comparison import differences, llm_analysis, llm_perf, unaccounted
from tests.golden.reference import Case, training_cases

ALWAYS_EQUAL = (
    "gradient_accumulation_steps",
    "global_batch_size",
    "total_num_gpus",
    "seq_len",
    "ds_zero",
    "activation_recomputation",
    "num_params_total_mlp",
    "hbm_memory_efficiency",
    "weight_memory_embedding_per_gpu",
    "activation_memory_embedding_output_per_gpu",
)
"""Keys that no departure touches."""
ADDED = {
    "activation_memory_recompute_per_gpu",
    "latency_bwd",
    "latency_recompute",
    "latency_sharded_dp_comm_exposed",
    "latency_pipeline_bubble",
    "latency_gradient_dp_comm_exposed",
    "latency_weight_update",
}


@pytest.mark.parametrize("case", training_cases(), ids=lambda case: case.id)
def test_every_key_is_equal_or_a_listed_departure(case: Case) -> None:
    method, arguments, value = case.calls[0]
    golden, ours = llm_analysis(case, value), llm_perf(case, method, arguments)
    names = differences(method, golden, ours)
    assert not unaccounted(case, method, arguments, names), sorted(names)


ANSWERED = [
    case
    for case in training_cases()
    if case.error is None and not isinstance(llm_perf(case, *case.calls[0][:2]), str)
]
"""Cases with a summary on both sides."""


def test_most_cases_are_answered_and_plain_ones_differ_in_time_alone() -> None:
    assert len(ANSWERED) > 0.7 * len(training_cases())
    plain = next(case for case in ANSWERED if case.id == "extra-train-none")
    method, arguments, value = plain.calls[0]
    different = differences(method, value, llm_perf(plain, method, arguments))
    assert all("latency" in name or name in {"iters_per_sec", "gpu_hours"} for name in different)


@pytest.mark.parametrize("case", ANSWERED, ids=lambda case: case.id)
def test_keys_are_those_of_llm_analysis(case: Case) -> None:
    method, arguments, value = case.calls[0]
    ours = llm_perf(case, method, arguments)
    pipelined = case.parallelism.get("pp_size", 1) > 1
    assert ours.keys() - value.keys() == ADDED | ({"latency_fwd_pp_comm"} if pipelined else set())
    assert value.keys() <= ours.keys()
    for key in ALWAYS_EQUAL:
        assert ours[key] == (pytest.approx(value[key], rel=1e-9) if "memory" in key else value[key]), key
