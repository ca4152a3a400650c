"""The table of public questions about the memory of training, as docs/accuracy_tuning.md shows it."""

from __future__ import annotations

from collections.abc import Iterator

from calibrate.evidence.training_questions import NEAR, TrainingQuestion, load_training_questions

_HEAD = (
    "| question | asked in | right | answered | ratio | token/s: right | answered |",
    "| --- | --- | --: | --: | --: | --: | --: |",
)


def question_lines() -> Iterator[str]:
    """The table in Markdown, how many answers are right, and why the others are not."""
    questions = load_training_questions()
    yield from _HEAD
    right = 0
    for question in questions:
        line, holds = _row(question)
        right += holds
        yield line
    yield ""
    yield (
        f"{right} of {len(questions)} answers are right: sizes within {NEAR:.0%}, and all that is said of fitting. "
        "Speeds stand beside them where the source states one of the same run; they are not held."
    )
    yield from (f"- Missed: {one.question}: {one.missed}." for one in questions if one.missed)


def _row(question: TrainingQuestion) -> tuple[str, bool]:
    found = question.answered()
    ratio = "" if found.ratio is None else f"{found.ratio:.2f}"
    ratio += "" if found.holds else " (missed)"
    rate = question.tokens_per_s or question.tokens_per_s_per_gpu
    speeds = (
        ("", "")
        if rate is None or found.tokens_per_s is None
        else (f"{rate:,}", f"{found.tokens_per_s:,.0f}")
    )
    cells = (
        f"{question.id}: {question.question}",
        question.source,
        found.right,
        found.answered,
        ratio,
        *speeds,
    )
    return f"| {' | '.join(cells)} |", found.holds
