"""Methods of LLMAnalysis against llm-analysis' results: equal, or a listed departure."""

from __future__ import annotations

import pytest

from tests.golden.comparison import differences, llm_perf, unaccounted
from tests.golden.reference import Case, method_cases


@pytest.mark.parametrize("case", method_cases(), ids=lambda case: case.id)
def test_every_value_is_equal_or_a_listed_departure(case: Case) -> None:
    for method, arguments, value in case.calls:
        ours = llm_perf(case, method, arguments)
        names = differences(method, value, ours)
        assert not unaccounted(case, method, arguments, names), (method, arguments, value, ours)


def test_most_values_are_equal() -> None:
    calls = [(case, *call) for case in method_cases() for call in case.calls]
    equal = [
        method
        for case, method, args, value in calls
        if not differences(method, value, llm_perf(case, method, args))
    ]
    assert len(equal) > 0.65 * len(calls)
