"""What the README shows is what the commands print."""

from __future__ import annotations

import math
import re
import shlex
from pathlib import Path

import pytest

from llm_perf.analysis.evidence import ANY, RESIDENT, evidence_of
from llm_perf.cli.main import run

README = Path(__file__).parents[2] / "README.md"
_BLOCK = re.compile(
    r"^```console\n\$ llm-perf (?P<command>[^\n]*)\n(?P<shown>.*?)^```", re.MULTILINE | re.DOTALL
)
BLOCKS = [(match["command"], match["shown"]) for match in _BLOCK.finditer(README.read_text("utf-8"))]


def _lines(text: str) -> list[str]:
    return [line.rstrip() for line in text.rstrip().splitlines()]


def test_the_demo_comes_first() -> None:
    assert BLOCKS[0][0] == "infer --model opt-175b --gpu t4 --ds-zero 3"


@pytest.mark.parametrize(("command", "shown"), BLOCKS, ids=[command for command, _ in BLOCKS])
def test_shown_output_is_printed(command: str, shown: str, capsys: pytest.CaptureFixture[str]) -> None:
    """An excerpt (marked by a line of one ellipsis) is printed somewhere, everything else as a whole."""
    run(shlex.split(command))
    printed = _lines(capsys.readouterr().out)
    wanted = _lines(shown)
    if wanted[0] != "…":
        assert wanted == printed
        return
    excerpt = wanted[1:]
    assert any(printed[at : at + len(excerpt)] == excerpt for at in range(len(printed)))


def test_the_intervals_that_are_quoted_are_those_of_today() -> None:
    """They move with every refit, and with every run that is added."""
    text = README.read_text("utf-8")
    quoted = text[text.index("**Every prediction has a 90 % interval") :].partition("\n\n")[0]
    wanted = (
        ("zero_inference", "offload-cpu", "model", 2), ("zero_inference", "offload-cpu", "gpu", 2),
        ("vllm", "resident-tp", "model", 2), (ANY, RESIDENT, "gpu", 2), ("llama_cpp", "edge", "model", 2),
        ("resident", "resident-tp", "system", 1),
    )  # fmt: skip
    for system, name, leave_out, digits in wanted:
        entry = evidence_of(system, name, "nvidia")
        assert entry is not None
        width = entry.left_out[leave_out].total
        assert width is not None
        assert f"{math.exp(width):.{digits}f}" in quoted, (system, name, leave_out)
