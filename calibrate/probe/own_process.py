"""``llm-perf calibrate --run`` in a process of its own, as a measurement should be, and its JSON object."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from typing import Any

from llm_perf.errors import EnvironmentFailure

_ENTRY = "from llm_perf.cli.main import main; main()"


def run_cli(*flags: str, timeout_s: float) -> dict[str, Any]:
    """Run with these flags and ``--json``.

    Raises:
        EnvironmentFailure: it failed or took longer, with what it said.
        KeyboardInterrupt: it was interrupted.
    """
    command = [sys.executable, "-c", _ENTRY, "calibrate", "--run", *flags, "--json"]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=dict(os.environ)
    )
    try:
        output, said = process.communicate(timeout=timeout_s)
    except subprocess.TimeoutExpired:
        # As Ctrl-C, so that swap files go and finished loops stay; what does not listen is killed.
        process.send_signal(signal.SIGINT)
        try:
            process.communicate(timeout=20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
        raise EnvironmentFailure(f"{' '.join(flags)}: no end after {timeout_s:.0f} s") from None
    except KeyboardInterrupt:
        process.send_signal(signal.SIGINT)
        process.communicate()
        raise
    if process.returncode:
        last = (said.strip().splitlines() or ["no message"])[-1]
        raise EnvironmentFailure(f"{' '.join(flags)}: {last.removeprefix('llm-perf: ')}")
    return json.loads(output)  # type: ignore[no-any-return]
