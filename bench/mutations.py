"""Put a fault into the code, see whether the tests find it: `make mutations`, or `make mutations ONLY=drawn`.

Every entry of tests/laws/mutations.yaml is made in a temporary copy of the code, one by one, and the tests named with it
have to fail there. Exit code 1 where one passes, or where a place is not there any more.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[1]
REGISTER = ROOT / "tests" / "laws" / "mutations.yaml"
_FAILED = 1
"""pytest's exit code for tests that ran and failed; another one means that they could not run."""


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
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-n", "0", "-p", "no:cacheprovider"]
    command += [f"tests/{test}" for test in tests] + (["-k", keyword] if keyword else [])
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, check=False).returncode


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


def main() -> int:
    """Try all, print what became of each."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", help="one part of the register: review or drawn")
    faults, missed = mutations(parser.parse_args().only), 0
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
