"""Answers that no published run holds are those that were written down: `python bench/answers.py` writes them anew."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from llm_perf.systems import get_system
from llm_perf.systems.registry import system_names

spec = importlib.util.spec_from_file_location(
    "answers_program", Path(__file__).parents[2] / "bench" / "answers.py"
)
assert spec is not None
assert spec.loader is not None
program = importlib.util.module_from_spec(spec)
spec.loader.exec_module(program)  # no package: other programs import bench/bench.py by its name
answer, moved, questions = program.answer, program.moved, program.questions
sums, sums_moved = program.sums, program.sums_moved
WRITTEN, DRAWN = program.written(), program.drawn()


def test_the_questions_are_those_that_were_asked() -> None:
    assert list(WRITTEN) == questions()


def test_every_kind_of_system_is_asked() -> None:
    """Each class of systems: a family that is constants alone needs no question of its own."""
    named = [part.split()[0] for question in questions() for part in question.split("--system ")[1:]]
    asked = {
        type(get_system(name)) for name in (*named, "resident", "zero_inference")
    }  # asked by other flags
    assert {type(get_system(name)) for name in system_names()} - asked == set()


@pytest.mark.parametrize("question", DRAWN)
def test_a_drawn_question_has_the_sums_that_were_written_down(question: str) -> None:
    assert sums_moved(DRAWN[question], sums(question)) == []


@pytest.mark.parametrize("question", questions())
def test_an_answer_is_the_one_that_was_written_down(question: str) -> None:
    assert moved(WRITTEN[question], answer(question)) == []


def test_few_drawn_questions_are_refused() -> None:
    """What is refused holds a check, and no number."""
    refused = sum("refused" in found for found in DRAWN.values())
    assert len(DRAWN) >= 300
    assert refused < len(DRAWN) / 4


def test_what_moved_is_said() -> None:
    before = {"a": 1.0, "b": 2.0, "gone": 3.0}
    assert moved(before, {"a": 1.0 + 1e-9, "b": 2.5, "new": 4.0}) == [
        "b 2 -> 2.5",
        "gone 3 -> nan",
        "new nan -> 4",
    ]


def test_a_sum_tells_a_number_that_moved_and_two_that_were_swapped(monkeypatch: pytest.MonkeyPatch) -> None:
    def sums_of(**numbers: float) -> dict[str, float]:
        monkeypatch.setattr(program, "_ASKED", {"x": lambda _words: {"part": numbers}})
        return sums("x")  # type: ignore[no-any-return]

    told = sums_of(a=1e-6, b=3e12, c=-2.0)
    assert sums_moved(told, sums_of(a=1e-6, b=3e12, c=-2.0)) == []
    for other in (
        {"a": 1e-6 * (1 + 5e-6), "b": 3e12, "c": -2.0},
        {"a": 3e12, "b": 1e-6, "c": -2.0},
        {"a": 1e-6, "b": 3e12, "c": 2.0},
        {"a": 1e-6, "b": 3e12},
    ):
        assert len(sums_moved(told, sums_of(**other))) == 1
