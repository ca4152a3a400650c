"""Ask the questions of tests/golden/questions.txt and write what is answered: `make accuracy`, or `python bench/answers.py`.

A test holds tests/golden/answers.jsonl to what is answered now: options that no published run has (stages, drafts, offload by
policy, training over several nodes) move with a change as the predictions of published runs do, and nobody saw it. Which
numbers moved, and by how much, is printed; it belongs into the pull request.

    python bench/answers.py            writes the file and says what moved
    python bench/answers.py --check    writes nothing; exits with 1 where something moved
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import math
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
QUESTIONS = ROOT / "tests" / "golden" / "questions.txt"
ANSWERS = ROOT / "tests" / "golden" / "answers.jsonl"

NOT_OF_THE_MODEL = {
    "schema_version", "inputs", "constants_inherited", "nearest_measurement", "interval", "no_interval", "cost", "energy",
    "pivot", "warnings", "benchmark_log", "suggestions", "seconds", "evaluated",
}  # fmt: skip
"""What follows from evidence, prices or the clock, and what was asked."""
DIGITS = 8
TOLERANCE = 1e-6
"""Relative: what another processor's exponential may change."""


def questions() -> list[str]:
    """The questions, as command lines."""
    lines = QUESTIONS.read_text("utf-8").splitlines()
    return [line for line in lines if line and not line.startswith("#")]


def answer(question: str) -> dict[str, float]:
    """Every number of an answer that is not 0, by its place in the JSON object.

    Raises:
        ValueError: the question is refused.
    """
    from llm_perf.cli.main import run

    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = run([*shlex.split(question), "--json"])
    if code not in (0, 3):  # 3: it does not fit, and is answered all the same
        raise ValueError(f"{question}: {err.getvalue().strip()}")
    numbers = _numbers(json.loads(out.getvalue()))
    return {name: float(f"{value:.{DIGITS}g}") for name, value in numbers if value}


def _numbers(found: Any, name: str = "") -> Iterator[tuple[str, float]]:
    if isinstance(found, dict):
        for key, value in found.items():
            if name or key not in NOT_OF_THE_MODEL:
                yield from _numbers(value, f"{name}.{key}" if name else key)
    elif isinstance(found, list):
        for index, value in enumerate(found):
            yield from _numbers(value, f"{name}.{index}")
    elif isinstance(found, (int, float)) and not isinstance(found, bool):
        yield name, float(found)


def written() -> dict[str, dict[str, float]]:
    """The answers of the file, by their questions."""
    if not ANSWERS.is_file():
        return {}
    rows = (json.loads(line) for line in ANSWERS.read_text("utf-8").splitlines())
    return {row["asked"]: row["numbers"] for row in rows}


def moved(before: dict[str, float], after: dict[str, float]) -> list[str]:
    """What differs between two answers, in words."""
    names = dict.fromkeys((*before, *after))
    pairs = ((name, before.get(name, math.nan), after.get(name, math.nan)) for name in names)
    return [
        f"{name} {old:.6g} -> {new:.6g}"
        for name, old, new in pairs
        if not math.isclose(old, new, rel_tol=TOLERANCE)
    ]


def main() -> int:
    """Ask, compare, write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--check", action="store_true", help="write nothing")
    asked = parser.parse_args()
    before, after = written(), {question: answer(question) for question in questions()}
    changed = {question: moved(before.get(question, {}), found) for question, found in after.items()}
    changed = {question: names for question, names in changed.items() if names}
    for question, names in changed.items():
        print(f"{question}\n    {len(names)} numbers, such as {'; '.join(names[:3])}")
    if (changed or before.keys() != after.keys()) and not asked.check:
        # A number that did not move stays as it was written, whatever its last digits are here.
        rows = (
            {"asked": question, "numbers": found if question in changed else before[question]}
            for question, found in after.items()
        )
        ANSWERS.write_text("".join(f"{json.dumps(row)}\n" for row in rows), "utf-8")
    print(f"{len(changed)} of {len(after)} answers moved")
    return 1 if changed and asked.check else 0


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    sys.exit(main())
