"""The command line in this process: fast, and with everything that it printed."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from llm_perf.cli.main import run

TERMINAL = (
    "COLUMNS",
    "LINES",
    "FORCE_COLOR",
    "NO_COLOR",
    "TTY_COMPATIBLE",
    "TTY_INTERACTIVE",
    "LLM_PERF_DEBUG",
)
"""Variables that change what is printed, or how an unexpected error ends."""


@dataclass(frozen=True)
class Outcome:
    code: int
    out: str
    err: str

    @property
    def json(self) -> dict[str, Any]:
        """The one object on stdout. A literal that JSON does not have (NaN, Infinity) is refused."""
        found = json.loads(self.out, parse_constant=lambda literal: pytest.fail(f"{literal} in JSON"))
        assert isinstance(found, dict)
        return found

    @property
    def error(self) -> str:
        """The one line of a refused input."""
        assert self.code == 2, (self.code, self.err)
        assert self.out == ""
        assert self.err.count("\n") == 1, self.err
        assert self.err.startswith("llm-perf: ")
        assert "Traceback" not in self.err
        assert "internal error" not in self.err
        return self.err.removeprefix("llm-perf: ").rstrip("\n")


LLMPerf = Callable[..., Outcome]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory, without a network and with a plain terminal."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    for variable in TERMINAL:
        monkeypatch.delenv(variable, raising=False)
    return tmp_path


@pytest.fixture
def llm_perf(folder: Path, capsys: pytest.CaptureFixture[str]) -> LLMPerf:
    def call(*arguments: str) -> Outcome:
        capsys.readouterr()
        code = run(list(arguments))
        out, err = capsys.readouterr()
        return Outcome(code, out, err)

    return call


@pytest.fixture
def infer(llm_perf: LLMPerf) -> LLMPerf:
    def call(*arguments: str) -> Outcome:
        return llm_perf("infer", *arguments)

    return call
