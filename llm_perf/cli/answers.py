"""What ``infer`` and ``train`` do with their answers alike: one JSON object, files of results, an exit code."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from llm_perf.analysis.result import Result
from llm_perf.errors import OutputError

if TYPE_CHECKING:
    from llm_perf.report.explain import Explanation

EXIT_DOES_NOT_FIT: Final = 3


class Answered(ABC):
    """A question's prediction, and what the reports add to it."""

    result: Result

    @property
    @abstractmethod
    def json(self) -> dict[str, Any]:
        """The whole answer as plain JSON types."""

    @property
    @abstractmethod
    def explanations(self) -> Sequence[Explanation]:
        """Each number with its formula."""

    @property
    @abstractmethod
    def file_name(self) -> str:
        """Name of the result's file."""


def print_json(answers: Sequence[Answered], explain: bool) -> None:
    """Print one object: an answer, or several under ``comparison``."""
    objects = []
    for answer in answers:
        why = [entry.as_dict() for entry in answer.explanations] if explain else []
        objects.append(answer.json | ({"explanations": why} if explain else {}))
    several = {"schema_version": objects[0]["schema_version"], "comparison": objects}
    click.echo(_dumped(objects[0] if len(objects) == 1 else several), nl=False)


def write_results(answers: Sequence[Answered], output_dir: str) -> None:
    """Write the JSON results into a folder, and say where they are.

    Raises:
        OutputError: one of them cannot be written; then none is.
    """
    from llm_perf.cli import output

    if not output_dir:
        raise OutputError("--output-dir '' is no folder")
    texts = {answer.file_name: _dumped(answer.json, indent=1) for answer in answers}
    for path in output.write_files(Path(output_dir), texts):
        click.echo(f"result written to {path}", err=True)


def exit_code(answers: Sequence[Answered]) -> int:
    """0, or 3 where it fits on none of the machines."""
    return 0 if any(answer.result.feasible for answer in answers) else EXIT_DOES_NOT_FIT


def _dumped(found: dict[str, Any], indent: int | None = None) -> str:
    return json.dumps(found, indent=indent, allow_nan=False) + "\n"
