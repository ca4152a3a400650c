"""The folder of a session: what was asked, every point with its raw times, and what came of them."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from calibrate.evidence.benchmark_run import BenchmarkRun, read_runs, runs_text
from llm_perf.analysis.request import InferenceInputs, build_scenario
from llm_perf.analysis.run_facts import RunFacts
from llm_perf.config import files
from llm_perf.config.host import HostConfig
from llm_perf.config.model import ModelConfig
from llm_perf.config.scenario import Scenario
from llm_perf.errors import OutputError, SpecError
from llm_perf.systems.registry import full_name

SCHEMA_VERSION = 1
SESSION, RUNS = "session.json", "runs.jsonl"


@dataclass(frozen=True)
class Stored:
    """A session that was stored: the deployment, and its points. ``inputs`` ask for one sequence of one token."""

    folder: Path
    inputs: InferenceInputs
    scenario: Scenario
    runs: tuple[BenchmarkRun, ...]
    facts: dict[str, Any]


class Store:
    """Files of one session.

    Attributes:
        folder: Where they are.
        spent_s: Seconds of earlier calls.
        runs: Points that are there already.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.spent_s = 0.0
        self.runs: list[BenchmarkRun] = []
        self._facts: dict[str, Any] = {}

    def begin(self, asked: dict[str, Any], scenario: Scenario) -> None:
        """Make the folder, or go on in one that holds the same session.

        Raises:
            SpecError: it holds another session.
            OutputError: it cannot be written.
        """
        path = self.folder / SESSION
        facts = {
            "schema_version": SCHEMA_VERSION, "asked": asked, "model": scenario.model.model_dump(mode="json"),
            "host": scenario.host.model_dump(mode="json"), "system": full_name(scenario),
        }  # fmt: skip
        if path.exists():
            known = _session(path)
            for name in ("asked", "model"):
                if known.get(name) != json.loads(json.dumps(facts[name])):
                    raise SpecError(
                        f"--out {self.folder}: holds a session of another question ({name}); name another folder"
                    )
            self.spent_s = float(known.get("spent_s") or 0.0)
            if (self.folder / RUNS).exists():
                self.runs = _whole_runs(self.folder / RUNS)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OutputError(f"--out {self.folder}: cannot be made: {error.strerror or error}") from None
        self._facts = facts
        self.save(spent_s=self.spent_s)

    def save(self, **changes: Any) -> None:
        """Keep what is known of the session, in one step.

        Raises:
            OutputError: it cannot be written.
        """
        self._facts |= changes
        _replace(self.folder / SESSION, json.dumps(self._facts, indent=1, allow_nan=False) + "\n")

    def add(self, run: BenchmarkRun) -> None:
        """Keep a point.

        Raises:
            OutputError: it cannot be written.
        """
        self.runs.append(run)
        path = self.folder / RUNS
        try:
            with path.open("a", encoding="utf-8") as file:
                file.write(runs_text([run]))
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise OutputError(f"{path}: cannot be written: {error.strerror or error}") from None


def is_session(folder: str | Path) -> bool:
    """Whether a folder is one of a session."""
    return files.is_file(files.expanded(str(folder)) / SESSION)


def stored(folder: str | Path) -> Stored:
    """A session as it was left.

    Raises:
        SpecError: the folder holds none, or nothing was measured.
    """
    path = files.expanded(str(folder))
    facts = _session(path / SESSION)
    try:
        asked = facts["asked"]["deployment"]
        # Where none was asked for, the server said which it is.
        system = facts.get("system") or asked.get("system")
        inputs = InferenceInputs(**asked | {"batch_size": 1, "prompt_len": 1, "gen_len": 1, "system": system})
        known = RunFacts(model=ModelConfig(**facts["model"]), host=HostConfig(**facts["host"]))
    except (KeyError, TypeError):
        raise SpecError(f"{path / SESSION}: is no session of calibrate observe") from None
    if not (path / RUNS).is_file():
        raise SpecError(f"{path}: nothing was measured in this session")
    return Stored(path, inputs, build_scenario(inputs, known), tuple(_whole_runs(path / RUNS)), facts)


def spent_s(folder: str | Path) -> float:
    """Seconds that a session took so far; 0 where there is none.

    Raises:
        SpecError: its file is another program's.
    """
    return (
        float(_session(files.expanded(str(folder)) / SESSION).get("spent_s") or 0.0)
        if is_session(folder)
        else 0.0
    )


def _session(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(files.read_text(path))
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict) or found.get("schema_version") != SCHEMA_VERSION:
        raise SpecError(f"{path}: is no session of calibrate observe")
    return found


def _whole_runs(path: Path) -> list[BenchmarkRun]:
    """The points of a file; a last line that was cut off by an interruption is dropped from it."""
    text = files.read_text(path)
    if text and not text.endswith("\n"):
        text = text[: text.rfind("\n") + 1]
        _replace(path, text)
    return read_runs(path) if text else []


def _replace(path: Path, text: str) -> None:
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        part.write_text(text, encoding="utf-8")
        part.replace(path)
    except OSError as error:
        raise OutputError(f"{path}: cannot be written: {error.strerror or error}") from None
