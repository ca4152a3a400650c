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
WRITTEN = program.written()


def test_the_questions_are_those_that_were_asked() -> None:
    assert list(WRITTEN) == questions()


def test_every_kind_of_system_is_asked() -> None:
    """Each class of systems: a family that is constants alone needs no question of its own."""
    named = [part.split()[0] for question in questions() for part in question.split("--system ")[1:]]
    asked = {
        type(get_system(name)) for name in (*named, "resident", "zero_inference")
    }  # asked by other flags
    assert {type(get_system(name)) for name in system_names()} - asked == set()


@pytest.mark.parametrize("question", questions())
def test_an_answer_is_the_one_that_was_written_down(question: str) -> None:
    assert moved(WRITTEN[question], answer(question)) == []


def test_what_moved_is_said() -> None:
    before = {"a": 1.0, "b": 2.0, "gone": 3.0}
    assert moved(before, {"a": 1.0 + 1e-9, "b": 2.5, "new": 4.0}) == [
        "b 2 -> 2.5",
        "gone 3 -> nan",
        "new nan -> 4",
    ]
