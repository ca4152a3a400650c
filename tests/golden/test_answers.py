"""Answers that no published run holds are those that were written down: `python bench/answers.py` writes them anew."""

from __future__ import annotations

import pytest

from bench.answers import answer, moved, questions, written
from llm_perf.systems.registry import system_names

WRITTEN = written()


def test_the_questions_are_those_that_were_asked() -> None:
    assert list(WRITTEN) == questions()


def test_every_system_is_asked_once() -> None:
    asked = {name.partition("@")[0] for question in questions() for name in question.split("--system ")[1:]}
    asked = {name.split()[0].partition("@")[0] for name in asked}
    by_other_flags, of_others = {"resident", "zero_inference"}, {"engine", "host_compute"}
    assert set(system_names()) - asked - by_other_flags - of_others == set()


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
