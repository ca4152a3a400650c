"""Builds that are asked to end."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest


@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
def test_a_build_that_is_asked_to_end_ends_what_it_started(tmp_path: Path) -> None:
    """By itself: ninja that is killed leaves its compilers behind, which go on for minutes."""
    child = (
        "import pathlib, time\ntry:\n    pathlib.Path('up').touch()\n    time.sleep(60)\n"
        "except KeyboardInterrupt:\n    pathlib.Path('ended').touch()\n"
    )
    parent = (
        "import sys\nfrom calibrate.probe.own_process import exit_code_of\n"
        "from calibrate.probe.process import signals_interrupt\n"
        "from calibrate.run.llama_cpp import build\ndef work():\n    with signals_interrupt():\n"
        f"        build._checked([sys.executable, '-c', {child!r}], 'failed')\n"
        "sys.exit(exit_code_of(work))\n"
    )
    paths = {"PYTHONPATH": str(Path(__file__).parents[2])}
    process = subprocess.Popen(
        [sys.executable, "-c", parent],
        cwd=tmp_path,
        env=os.environ | paths,
        stderr=subprocess.PIPE,
        text=True,
    )
    until = time.monotonic() + 30
    while not (tmp_path / "up").exists() and time.monotonic() < until:
        time.sleep(0.05)
    process.terminate()
    said = process.communicate(timeout=30)[1]
    assert (process.returncode, said) == (130, "llm-perf: interrupted\n")
    assert (tmp_path / "ended").exists()
