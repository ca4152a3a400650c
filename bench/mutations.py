"""Put a fault into the code, see whether the tests find it: `make mutations`, or `make mutations ONLY=drawn`.

Every entry of tests/laws/mutations.yaml is made in a temporary copy of the code, one by one, and the tests named with it
have to fail there. Exit code 1 where one passes, or where a place is not there any more.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[1]
REGISTER = ROOT / "tests" / "laws" / "mutations.yaml"
_FAILED = 1
"""pytest's exit code for tests that ran and failed; another one means that they could not run."""
_LONGEST_S = 1800.0
"""What does not end within so long, where tests take minutes, is noticed as well."""
_NO_TESTS = 5
"""pytest's exit code where the keyword leaves no test."""
_SEED = 97
"""Of the questions that are asked of a fault which no test found."""


def mutations(only: str | None = None) -> list[Mapping[str, Any]]:
    """The faults of the register, of all parts or of one."""
    parts = yaml.safe_load(REGISTER.read_text("utf-8"))
    return [fault for name, faults in parts.items() if only in (None, name) for fault in faults]


def mutated(fault: Mapping[str, Any], text: str) -> str:
    """The text of a file with the fault in it.

    Raises:
        ValueError: its place does not stand there exactly once.
    """
    if (found := text.count(fault["find"])) != 1:
        raise ValueError(f"{fault['file']}: {fault['find']!r} stands there {found} times, not once")
    return text.replace(fault["find"], fault["put"])


def copy_of_the_project(folder: Path) -> None:
    """All files that git knows, or would take."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT, check=True, capture_output=True, text=True,
    ).stdout  # fmt: skip
    for name in filter(None, listed.split("\0")):
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / name)


def run_tests(folder: Path, tests: Sequence[str], keyword: str | None) -> int:
    """Run tests until one fails; pytest's exit code."""
    # The same examples on every run, and no bytecode: a module of the same second and size would be taken for the old one.
    environment = {**os.environ, "CI": "true", "PYTHONDONTWRITEBYTECODE": "1", "PYTHONPATH": str(folder)}
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-x",
        "-n",
        "0",
        "-p",
        "no:cacheprovider",
        "--hypothesis-profile=faults",
    ]
    command += [f"tests/{test}" for test in tests] + (["-k", keyword] if keyword else [])
    try:
        done = subprocess.run(
            command, cwd=folder, env=environment, capture_output=True, check=False, timeout=_LONGEST_S
        )
    except subprocess.TimeoutExpired:
        return _FAILED
    return done.returncode


def caught(folder: Path, fault: Mapping[str, Any]) -> str:
    """What became of a fault: caught, or why not."""
    path = folder / fault["file"]
    whole = path.read_text("utf-8")
    try:
        path.write_text(mutated(fault, whole), "utf-8")
    except ValueError as error:
        return str(error)
    try:
        code = run_tests(folder, fault["tests"], fault.get("keyword"))
    finally:
        path.write_text(whole, "utf-8")
    return {_FAILED: "caught", 0: "NOT CAUGHT"}.get(code, f"pytest could not run: exit code {code}")


# -- drawing new ones ---------------------------------------------------------------------------------------------

_DRAWN_FROM = ("counts", "hardware", "systems", "requests")
_OPERATORS = re.compile(
    r"core/(ReplaceBinaryOperator_(Add|Sub|Mul|Div|FloorDiv|Pow)_(Add|Sub|Mul|Div|FloorDiv)"
    r"|ReplaceComparisonOperator_(Eq|NotEq|Lt|LtE|Gt|GtE)_(Eq|NotEq|Lt|LtE|Gt|GtE)"
    r"|AddNot|ReplaceUnaryOperator_Delete_(Not|USub)|ReplaceAndWithOr|ReplaceOrWithAnd|ReplaceBreakWithContinue"
    r"|ReplaceContinueWithBreak|NumberReplacer|ZeroIterationForLoop)"
)
"""Of cosmic-ray: those that change what a program does. Bitwise operators are types here, True and False nearly always the
slots of a class or the strictness of a zip."""


def drawn(count: int, seed: int) -> list[dict[str, str]]:
    """Faults drawn by cosmic-ray's operators: first a place, all alike, then what is done to it.

    Needs the package cosmic-ray, which nothing else does.
    """
    from cosmic_ray.ast import ast_nodes, get_ast
    from cosmic_ray.mutating import mutate_code
    from cosmic_ray.plugins import get_operator, operator_names

    places: dict[tuple[str, tuple[int, int]], list[tuple[str, int]]] = {}
    for path in sorted(path for room in _DRAWN_FROM for path in (ROOT / "llm_perf" / room).rglob("*.py")):
        tree, name = get_ast(path.read_text("utf-8")), path.relative_to(ROOT).as_posix()
        for operator in filter(_OPERATORS.fullmatch, operator_names()):
            changed = get_operator(operator)()
            spans = (start for node in ast_nodes(tree) for start, _ in changed.mutation_positions(node))
            for occurrence, start in enumerate(spans):
                places.setdefault((name, start), []).append((operator, occurrence))
    draw, found = random.Random(seed), []
    for name, start in draw.sample(sorted(places), count):
        operator, occurrence = draw.choice(places[name, start])
        whole = (ROOT / name).read_bytes()
        changed_text = mutate_code(whole, get_operator(operator)(), occurrence)
        if not _is_a_program(changed_text):
            continue
        old, new = whole.decode().splitlines(True), changed_text.splitlines(True)
        first = last = start[0] - 1
        while "".join(old).count("".join(old[first : last + 1])) > 1:
            first -= 1
        shorter = len(old) - len(new)
        find, put = "".join(old[first : last + 1]), "".join(new[first : last + 1 - shorter])
        found.append(
            {
                "says": f"{operator.removeprefix('core/')} at line {start[0]}",
                "file": name,
                "find": find,
                "put": put,
            }
        )
    return found


# -- trying drawn ones --------------------------------------------------------------------------------------------

_GUARDS: Mapping[str, Sequence[str]] = {
    "answers": ("golden/test_answers.py",),
    "laws": ("laws",),
    "published runs": ("published",),
    "other tests": ("golden", "unit", "cli", "observe"),
}
"""What looks for a drawn fault, in this order; those that only hold texts, of documents and of refusals, are left out."""
_QUICK = "answers"
_TEXTS = "not readme and not docs and not notebook and not pictures and not law_register and not structure"
_DIFFERENT = 1000
"""Questions drawn by chance that are asked where the answers that are written down find nothing; if all are answered as
usual, the fault changes nothing, and another is drawn for it."""
_ASK = """
import json, sys
sys.path[:0] = [sys.argv[1], sys.argv[1] + "/bench"]
import itertools, answers, draw_questions
found = []
for question in itertools.islice(draw_questions.questions(int(sys.argv[2])), int(sys.argv[3])):
    try:
        found.append(answers.sums(question))
    except Exception as error:
        found.append({f"{type(error).__name__}": 1.0})
json.dump(found, sys.stdout)
"""


def asked(folder: Path, seed: int) -> list[dict[str, float]] | None:
    """What a copy of the project answers to questions drawn by chance; None where it does not end."""
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1", "PYTHONPATH": str(folder)}
    command = [sys.executable, "-c", _ASK, str(folder), str(seed), str(_DIFFERENT)]
    try:
        done = subprocess.run(
            command, cwd=folder, env=environment, capture_output=True, check=False, timeout=_LONGEST_S
        )
    except subprocess.TimeoutExpired:
        return None
    return json.loads(done.stdout) if done.returncode == 0 else None


def verdict(folder: Path, fault: Mapping[str, Any], usual: Callable[[], Any]) -> str:
    """What finds a drawn fault: a guard; or that it changes no answer, or that nothing found what it changes."""
    path = folder / fault["file"]
    whole = path.read_text("utf-8")
    path.write_text(mutated(fault, whole), "utf-8")
    try:
        for guard, tests in _GUARDS.items():
            if run_tests(folder, tests, _TEXTS) not in (0, _NO_TESTS):
                return f"caught by {guard}"
            # Whoever is quick looks first: most of what changes nothing needs no other test to be known.
            if guard == _QUICK and asked(folder, _SEED) == usual():
                return "changes no answer"
        return "NOT CAUGHT"
    finally:
        path.write_text(whole, "utf-8")


def trial(count: int, seed: int) -> int:
    """Draw faults until so many are decided, print what became of each; how many of them nothing found."""
    decided = missed = 0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        copy_of_the_project(folder)
        usual = cache(lambda: asked(folder, _SEED))
        usual()  # of the code as it is
        for fault in drawn(3 * count, seed):
            begun = time.monotonic()
            found = verdict(folder, fault, usual)
            decided += found != "changes no answer"
            missed += found == "NOT CAUGHT"
            seconds = time.monotonic() - begun
            line = fault["put"].strip().splitlines()[-1].strip() if fault["put"].strip() else "(nothing)"
            sys.stdout.write(
                f"{decided:3} {found:24} {seconds:5.0f} s  {fault['file']}: {fault['says']}\n      {line}\n"
            )
            sys.stdout.flush()
            if decided == count:
                break
    sys.stdout.write(f"{decided - missed} of {decided} caught\n")
    return missed


def _is_a_program(text: str) -> bool:
    try:
        compile(text, "fault", "exec")
    except SyntaxError:
        return False
    return True


def main() -> int:
    """Try all, print what became of each."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--only", help="one part of the register: review, drawn, redrawn, drawn_again, drawn_third or mended"
    )
    parser.add_argument("--draw", type=int, help="print so many new faults, for the register, and try none")
    parser.add_argument(
        "--trial", type=int, help="draw faults until so many are decided by all tests that there are"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the draw")
    given = parser.parse_args()
    if given.draw:
        yaml.safe_dump(drawn(given.draw, given.seed), sys.stdout, sort_keys=False, width=120)
        return 0
    if given.trial:
        return 1 if trial(given.trial, given.seed) else 0
    faults, missed = mutations(given.only), 0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        copy_of_the_project(folder)
        for number, fault in enumerate(faults, 1):
            begun = time.monotonic()
            found = caught(folder, fault)
            missed += found != "caught"
            seconds = time.monotonic() - begun
            sys.stdout.write(f"{number:3} {found:10} {seconds:5.0f} s  {fault['file']}: {fault['says']}\n")
            sys.stdout.flush()
    sys.stdout.write(f"{len(faults) - missed} of {len(faults)} caught\n")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
