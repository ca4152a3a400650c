"""A real server of the page in a process of its own."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
_MAIN = (
    "import sys; sys.path.insert(0, sys.argv.pop(1)); from llm_perf.cli.main import main; main(sys.argv[1:])"
)


def started(folder: Path) -> tuple[subprocess.Popen[str], int]:
    """The server, working in a folder and open to interrupts, and its port."""
    process = subprocess.Popen(
        [sys.executable, "-c", _MAIN, str(ROOT), "serve", "--port", "0"],
        cwd=folder, stderr=subprocess.PIPE, text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )  # fmt: skip
    assert process.stderr is not None
    line = process.stderr.readline()
    found = re.fullmatch(r"llm-perf answers on http://127\.0\.0\.1:(\d+)/ until Ctrl-C\n", line)
    assert found, line
    return process, int(found[1])
