"""The examples run as they stand, and print what they promise."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"
SAID = {
    "opt_175b_on_one_t4.py": ("minutes for 32 tokens", "4 bit: batch", "fits: True"),
    "which_gpu.py": ("/M tokens", "the batch ends at", "ms per token"),
    "batch_and_context.py": ("l4, 8-bit cache, prompt 512: batch", "token/s"),
}


def test_all_are_here():
    assert {path.name for path in EXAMPLES.glob("*.py")} == set(SAID)


@pytest.mark.parametrize("name", sorted(SAID))
def test_examples_run(name, tmp_path):
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / name)], capture_output=True, text=True, cwd=tmp_path, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    for text in SAID[name]:
        assert text in done.stdout
    assert list(tmp_path.iterdir()) == []
