"""Summaries of inferences against llm-analysis' results: each key equal, or a listed departure."""

from __future__ import annotations

import pytest

from tests.golden.comparison import REFUSED, differences, llm_analysis, llm_perf, unaccounted
from tests.golden.reference import Case, inference_cases

ALWAYS_EQUAL = (
    "num_params_total_mlp",
    "num_params_total_embedding",
    "hbm_memory_efficiency",
    "weight_memory_embedding_per_gpu",
    "prefill_activation_memory_per_gpu",
)
"""Keys that no departure touches."""


@pytest.mark.parametrize("case", inference_cases(), ids=lambda case: case.id)
def test_every_key_is_equal_or_a_listed_departure(case: Case) -> None:
    method, arguments, value = case.calls[0]
    golden, ours = llm_analysis(case, value), llm_perf(case, method, arguments)
    names = differences(method, golden, ours)
    assert not unaccounted(case, method, arguments, names), sorted(names)
    if REFUSED in names and isinstance(
        ours, str
    ):  # refused for the length alone: the numbers have to be right too
        allowed = llm_perf(case, method, arguments, allow_long_context=True)
        names = differences(method, golden, allowed)
        assert not unaccounted(case, method, arguments, names), sorted(names)


ANSWERED = [
    case
    for case in inference_cases()
    if case.error is None and not isinstance(llm_perf(case, *case.calls[0][:2]), str)
]
"""Cases with a summary on both sides."""


@pytest.mark.parametrize("case", ANSWERED, ids=lambda case: case.id)
def test_keys_are_those_of_llm_analysis(case: Case) -> None:
    method, arguments, value = case.calls[0]
    ours = llm_perf(case, method, arguments)
    pipelined = case.parallelism.get("pp_size", 1) > 1
    added = {"prefill_latency_fwd_pp_comm", "decode_latency_fwd_pp_comm"} if pipelined else set()
    assert ours.keys() - value.keys() == added
    assert value.keys() <= ours.keys()
    assert all(ours[key] == pytest.approx(value[key], rel=1e-9) for key in ALWAYS_EQUAL)
