"""Every departure from llm-analysis is right from both sides, listed with its whole influence, and documented.

The oracle has a switch per departure. With all switches as in llm-analysis it reproduces the stored results, so its
account of llm-analysis is true; with none it reproduces llm-perf, so llm-perf gives what the right formulas give.
"""

from __future__ import annotations

import re
from collections import defaultdict
from dataclasses import replace
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

import pytest

from tests.golden.comparison import departures, differences, llm_analysis, llm_perf, oracle
from tests.golden.reference import Case, inference_cases, method_cases, training_cases

DOCUMENT = Path(__file__).parents[2] / "docs" / "llm_analysis_departures.md"
CASES = inference_cases() + training_cases() + method_cases()
ALL, NONE = frozenset(departures()), frozenset()


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
def test_stored_values_are_what_llm_analysis_formulas_give(case: Case) -> None:
    for method, arguments, value in case.calls:
        golden, recomputed = llm_analysis(case, value), oracle(case, method, arguments, ALL)
        assert not differences(method, golden, recomputed), (method, arguments, golden, recomputed)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
def test_llm_perf_gives_what_the_right_formulas_give(case: Case) -> None:
    for method, arguments, _ in case.calls:
        ours, recomputed = llm_perf(case, method, arguments), oracle(case, method, arguments, NONE)
        assert not differences(method, ours, recomputed), (method, arguments, ours, recomputed)
        if isinstance(ours, str):
            assert ours == recomputed


@pytest.mark.parametrize("case_id", ["infer-07", "infer-52"])
def test_long_contexts_are_right_where_they_are_allowed(case_id: str) -> None:
    case = next(case for case in CASES if case.id == case_id)
    method, arguments, _ = case.calls[0]
    assert llm_perf(case, method, arguments) == "SpecError"
    ours = llm_perf(case, method, arguments, allow_long_context=True)
    recomputed = oracle(case, method, arguments, frozenset({"context-limit"}))
    assert isinstance(ours, dict)
    assert not differences(method, ours, recomputed)


@pytest.mark.parametrize(
    "case_id", ["train-03", "train-12", "train-25", "train-27", "train-28", "extra-train-over"]
)
def test_what_does_not_fit_is_right_where_there_is_room(case_id: str) -> None:
    case = next(case for case in CASES if case.id == case_id)
    method, arguments, _ = case.calls[0]
    assert llm_perf(case, method, arguments) == "DoesNotFitError"
    roomy = replace(case, gpu=case.gpu | {"mem_per_GPU_in_GB": 1000})
    ours, recomputed = llm_perf(roomy, method, arguments), oracle(roomy, method, arguments, NONE)
    assert isinstance(ours, dict)
    assert not differences(method, ours, recomputed)


@lru_cache(maxsize=1)
def answers() -> dict[tuple[int, int], tuple[Any, Any]]:
    """llm-analysis' and the right answer to every call, by numbers of case and call."""
    return {
        (i, j): (oracle(case, method, arguments, ALL), oracle(case, method, arguments, NONE))
        for i, case in enumerate(CASES)
        for j, (method, arguments, _) in enumerate(case.calls)
    }


@cache
def influence(departure: str) -> tuple[tuple[Case, str, dict[str, Any], set[str]], ...]:
    """(case, method, arguments, what changes) wherever one switch, all others being equal, changes anything."""
    found = []
    for (i, j), (wrong, right) in answers().items():
        case = CASES[i]
        method, arguments, _ = case.calls[j]
        changed = differences(method, wrong, oracle(case, method, arguments, ALL - {departure}))
        changed |= differences(method, right, oracle(case, method, arguments, frozenset({departure})))
        if changed:
            found.append((case, method, arguments, changed))
    return tuple(found)


@pytest.mark.parametrize("departure", sorted(ALL))
def test_a_departure_changes_what_it_names_when_it_says(departure: str) -> None:
    entry = departures()[departure]
    for case, method, arguments, changed in influence(departure):
        assert entry.applies(case, method, arguments), (case.id, method, arguments)
        assert all(entry.changes(name) for name in changed), (case.id, sorted(changed))


@pytest.mark.parametrize("departure", sorted(ALL))
def test_everything_that_a_departure_names_occurs(departure: str) -> None:
    entry = departures()[departure]
    changed = set().union(*(names for _, _, _, names in influence(departure)))
    assert changed
    for pattern in entry.names:
        single = type(entry)(entry.id, entry.when, (pattern,), frozenset())
        assert any(single.changes(name) for name in changed), pattern
    assert not entry.totals or entry.totals & changed


def test_conditions_do_not_hold_everywhere() -> None:
    """A condition that always holds excuses everything: only the two that every pass runs into may."""
    calls = [(case, method, arguments) for case in CASES for method, arguments, _ in case.calls]
    always = {entry.id for entry in departures().values() if all(entry.applies(*call) for call in calls)}
    assert always == {"input-lookup", "head-read"}


# -- the document ----------------------------------------------------------------------------------------------


def rows() -> dict[str, list[str]]:
    """The cells of the document's rows whose first cell is a departure's id."""
    cells = (
        [cell.strip() for cell in line.strip().strip("|").split("|")]
        for line in DOCUMENT.read_text().splitlines()
    )
    return {row[0].strip("`"): row[1:] for row in cells if row[0].strip("`") in ALL}


def test_the_document_has_one_complete_row_per_departure_in_order() -> None:
    assert list(rows()) == list(departures())
    lines = [line for line in DOCUMENT.read_text().splitlines() if line.startswith("| `")]
    assert len(lines) == len(ALL)
    assert all(len(cells) == 5 and all(cells) for cells in rows().values())


def test_the_document_names_what_the_list_names() -> None:
    for departure, cells in rows().items():
        assert set(re.findall(r"`([^`]+)`", cells[0])) == set(departures()[departure].names), departure


def test_the_document_says_which_sums_change() -> None:
    groups = {
        "prefill": "prefill_latency",
        "decode": "decode_latency",
        "training": "latency_per_iter",
        "memory": "memory_left_per_gpu",
        "flops": "latency_per_iter_using_flops",
        "total": "total_latency",
    }
    for departure, cells in rows().items():
        said = {word for word in groups if re.search(rf"\b{word}\b(?=[^`]*sums)", cells[0])}
        assert said == {word for word, key in groups.items() if key in departures()[departure].totals}, (
            departure
        )


def test_stored_cases_are_told_apart() -> None:
    seen = defaultdict(int)
    for case in CASES:
        seen[case.id] += 1
    assert set(seen.values()) == {1}
