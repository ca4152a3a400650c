"""What stands behind fitted numbers is counted, not typed: families with few runs, which take seconds; all take an hour."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FEW = ("gpt_fast", "exllama", "mixtral_offloading", "fiddler")


def counted(*words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "bench" / "provenance.py"), "--check", *words]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)


def test_rows_and_groups_of_small_families_are_what_the_tables_say() -> None:
    found = counted("--of", *FEW)
    assert (found.returncode, found.stdout) == (0, ""), found.stderr


@pytest.mark.parametrize("family", ["no_such_system"])
def test_a_family_that_is_none_is_refused(family: str) -> None:
    found = counted("--of", family)
    assert found.returncode == 2
    assert family in found.stderr
