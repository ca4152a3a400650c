"""Choose questions by chance, so many that every line of the model is run by several: tests/golden/drawn.jsonl.

    python bench/choose_questions.py --seed 1 --count 3000 --least 6

Of the questions that are drawn (draw_questions.py) those are kept that run most lines of llm_perf's counts, hardware, systems
and requests, per second that they take, which too few of the kept ones run; bench/answers.py writes what is answered. Needs
the package coverage, which nothing else does. New questions are only needed where new code is run by none:

    python bench/choose_questions.py --seed 2 --count 1000 --least 6 --more    keeps those that are there
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(Path(__file__).resolve().parent)]

import answers  # noqa: E402
from draw_questions import questions  # noqa: E402

ROOMS: Final = ("counts", "hardware", "systems", "requests")
"""Whose lines are to be run."""
_REFUSED: Final = 0.15
"""Of the questions that are kept, at most so many are refused."""

Line = tuple[str, int]


def lines_run(asked: Sequence[str]) -> Iterator[tuple[str, set[Line], float, bool]]:
    """Of each question the lines of the rooms that its answer runs, the seconds that it takes, and whether it is refused.

    What fails otherwise than by a refusal is said and left out.
    """
    from coverage import Coverage

    folders = [str(ROOT / "llm_perf" / room / "*") for room in ROOMS]
    for question in asked:
        watched = Coverage(data_file=None, include=folders, branch=False)
        begun = time.process_time()
        watched.start()
        try:
            found = answers.sums(question)
        except Exception as error:  # noqa: BLE001 - whatever comes out is what was looked for
            print(f"{question}\n    {type(error).__name__}: {error}", file=sys.stderr)
            continue
        finally:
            watched.stop()
        data = watched.get_data()
        run = {
            (str(Path(name).relative_to(ROOT)), line)
            for name in data.measured_files()
            for line in data.lines(name) or ()
        }
        yield question, run, time.process_time() - begun, "refused" in found


def kept(
    asked: Sequence[tuple[str, set[Line], float, bool]], least: int, before: Sequence[set[Line]] = ()
) -> list[str]:
    """Questions that run each line ``least`` times, if so many do: the one with most lines that lack, per second, first."""
    import numpy as np

    lines = {
        line: index
        for index, line in enumerate(dict.fromkeys(line for _, run, _, _ in asked for line in run))
    }
    lacking = np.full(len(lines), least)
    for run in before:
        lacking[[lines[line] for line in run if line in lines]] -= 1
    runs = np.zeros((len(asked), len(lines)), np.float32)
    for index, (_, run, _, _) in enumerate(asked):
        runs[index, [lines[line] for line in run]] = 1
    cost = np.array([0.05 + seconds for _, _, seconds, _ in asked])
    left, found, refused = np.ones(len(asked), bool), [], 0
    while True:
        gains = np.where(left, runs @ (lacking > 0).astype(np.float32) / cost, 0.0)
        best = int(gains.argmax())
        if gains[best] <= 0:
            return found
        left[best] = False
        if asked[best][3]:
            if refused >= _REFUSED * max(len(found), 20):
                continue
            refused += 1
        found.append(asked[best][0])
        lacking -= runs[best].astype(int)


def main() -> int:
    """Draw, choose, and write the questions; bench/answers.py writes their answers."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--count", type=int, default=3000, help="questions to draw")
    parser.add_argument("--least", type=int, default=6, help="questions that are to run each line")
    parser.add_argument("--more", action="store_true", help="keep the questions that are there")
    given = parser.parse_args()
    there = list(answers.drawn()) if given.more else []
    before = [run for _, run, _, _ in lines_run([*there, *(answers.questions() if given.more else ())])]
    stream = questions(given.seed)
    asked = list(lines_run([next(stream) for _ in range(given.count)]))
    found = list(dict.fromkeys([*there, *kept(asked, given.least, before)]))
    answers.write_drawn(found)
    print(
        f"{len(found)} of {given.count} questions, {sum(seconds for _, _, seconds, _ in asked):.0f} s for all"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
