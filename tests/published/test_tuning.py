"""Fine-tuning, B200 memory and public questions about training memory, each held to what it must show."""

from __future__ import annotations

from pathlib import Path

import pytest

from calibrate.evidence.training_questions import load_training_questions
from calibrate.evidence.tuning_rows import load_table, memory_of, tuning_run
from calibrate.validate.tuning import (
    PAGE,
    WIDTHS,
    compared,
    page,
    summary,
    verdicts,
    width_by_groups,
    widths,
    widths_text,
)
from llm_perf.analysis.training import predict_training
from llm_perf.errors import SpecError
from tests.published.score_adapter import predict_row

ROOT = Path(__file__).parents[2]
FINETUNING, B200 = load_table("finetuning"), load_table("b200")


def test_every_row_is_predicted_or_refused_for_a_reason():
    assert (len(FINETUNING), len(B200)) == (127, 18)
    refused = summary()["refused"]
    assert sum(refused.values()) == 24
    assert all(case.run is not None for case in B200)
    for case in FINETUNING:
        assert (case.run is None) == (case.reason is not None)


def test_peak_memory_of_fine_tuning():
    found = summary()["memory"]["all"]
    assert found["rows"] == 93
    assert found["median_error"] <= 0.06
    assert found["near_share"] >= 0.9
    assert found["left_out_median_error"] <= 0.06


def test_speed_of_fine_tuning():
    found = summary()["time"]["all"]
    assert found["rows"] == 98
    assert found["gm"] <= 1.25
    assert found["left_out_gm"] <= 1.35


def test_allocated_memory_on_b200():
    """SimuMax states 0.46 % over its 43 rows."""
    found = summary("b200")["memory"]["all"]
    assert found["rows"] == 18
    assert found["mean_error"] <= 0.015


def test_nothing_that_ran_out_of_memory_is_said_to_fit_nor_the_reverse():
    assert verdicts() == {"out of memory, said not to fit": 1, "ran, said to fit": 102}
    assert verdicts("b200") == {"ran, said to fit": 18}


def test_intervals_hold_nine_of_ten_rows_of_frameworks_left_out():
    """As each is weighted: by rows, of a step by frameworks, of which a question may be of any."""
    found = widths()
    for entry in found.values():
        assert 0.85 <= entry["share"] <= 0.95
    for name in ("memory", "time"):
        assert found[name]["share"] == pytest.approx(found[name]["held"] / found[name]["tested"], abs=1e-4)


def test_a_width_is_what_other_groups_say():
    groups = {"a": [0.1] * 10, "b": [0.1] * 10, "c": [0.5] * 2}
    found = width_by_groups(groups)
    assert (found["held"], found["tested"], found["width"]) == (20, 22, 0.5)


def test_page_and_widths_are_those_that_the_tables_give():
    assert (ROOT / PAGE).read_text("utf-8") == page()
    assert (ROOT / WIDTHS).read_text("utf-8") == widths_text()


def test_units_and_scopes_are_the_sources():
    by_id = {case.row_id: case for case in FINETUNING}
    sums, reserved, allocated = (by_id[f"offt-{n}"].run for n in (74, 105, 139))
    parts = predict_training(sums.full).memory.gpu
    assert memory_of(sums, parts) == pytest.approx(2 * float(parts.total_bytes) / 1e9)
    parts = predict_training(reserved.full).memory.gpu
    assert memory_of(reserved, parts) == pytest.approx(float(parts.allocator_bytes) / 1e9)
    parts = predict_training(allocated.full).memory.gpu
    assert memory_of(allocated, parts) == pytest.approx(float(parts.allocated_bytes) / 2**30)
    assert allocated.timed is None  # its lengths are not stated


def test_the_adapter_answers_rows_of_fine_tuning():
    row = next(case.row for case in FINETUNING if case.row_id == "offt-105")
    asked = {name: value for name, value in row.items() if name not in ("iter_time_s", "peak_gpu_mem_GB")}
    found = predict_row(asked)
    shown = {one.quantity: one.predicted for one in compared() if one.row_id == "offt-105"}
    assert (found["iter_time_s"], found["peak_gpu_mem_GB"]) == (shown["time"], shown["memory"])
    low, high = found["interval"]["peak_gpu_mem_GB"]
    assert low < found["peak_gpu_mem_GB"] < high


def test_a_row_that_does_not_say_enough_is_refused():
    row = next(case.row for case in FINETUNING if case.row_id == "offt-105")
    with pytest.raises(SpecError, match="length of sequences"):
        tuning_run({**row, "seq_len": ""})
    with pytest.raises(SpecError, match="micro-batch"):
        tuning_run({**row, "micro_batch": ""})


# -- public questions --------------------------------------------------------------------------------------------------------

QUESTIONS = load_training_questions()
ASKED = (1, 2, 3, 8, 9, 10, 11, 13, 17, 18, 19, 20, 23, 25, 26, 27, 30, 31, 32, 33, 34)
"""Numbers of the questions about training, of which some were asked of several runs."""


@pytest.mark.parametrize("question", QUESTIONS, ids=lambda question: f"{question.id}: {question.question}")
def test_public_questions_are_answered_right_or_say_why_not(question):
    """Sizes within 10 %, and whether it runs."""
    assert question.source
    assert question.answered().holds == (question.missed is None)


def test_every_public_question_of_training_is_asked():
    assert {question.id for question in QUESTIONS} == {f"C{number}" for number in ASKED}
    stated = [
        (one.reserved_gib, one.allocated_gib, one.states_gib, one.fits, one.refused) for one in QUESTIONS
    ]
    assert len(stated) == 35
    assert all(sum(right is not None for right in rights) == 1 for rights in stated)
    assert sum(question.fits is False for question in QUESTIONS) == 7
