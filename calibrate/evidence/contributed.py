"""Runs that others measured and add to the project: a small file with the environment and nothing personal.

A contribution keeps what a prediction asks and what was measured. It leaves out files' names, times of single requests, dates
to the day and every field of the environment that is not on the list of those that say something about speed; what then still
looks like a folder, an address, a name of a user or a token is refused by its field.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any, Final

import yaml

from calibrate.evidence.benchmark_run import BenchmarkRun, TokenLengths
from llm_perf import __version__
from llm_perf.errors import SpecError

KIND: Final = "llm-perf contributed runs"
SCHEMA_VERSION: Final = 1
_FOLDER: Final = "measurements/contributed"
_MOST_BYTES: Final = 1_000_000
_MOST_RUNS: Final = 500

_ENVIRONMENT: Final = frozenset(
    {
        "cpu", "name", "cores", "usable_cores", "threads", "frequency_mhz", "cpu_count", "memory", "total_bytes",
        "available_bytes", "versions", "python", "torch", "torch_version", "cuda", "driver_version", "driver", "gpu",
        "gpu_vram_mb", "python_version", "system", "machine", "llama_cpp", "transformers", "vllm", "sglang", "numpy",
        "package", "clocks.max.sm", "clocks.max.mem", "power.limit", "pcie.link.gen.max", "pcie.link.width.max", "current",
        "max", "llm_perf", "waited_share", "load", "instruction_sets",
    }
)  # fmt: skip
"""Fields of an environment that say something about speed; all others are left out."""

_PERSONAL: Final = (
    ("a folder", re.compile(r"(?:^|[\s=:\"'(])(?:/[\w.-]+){2,}|~/|[A-Za-z]:\\|\\\\")),
    (
        "an address",
        re.compile(r"https?://|\b\d{1,3}(?:\.\d{1,3}){3}\b|\b[\w.-]+\.(?:local|internal|lan|corp)\b"),
    ),
    ("a mail address", re.compile(r"[\w.+-]+@[\w-]+\.[a-z]{2,}", re.IGNORECASE)),
    (
        "a token",
        re.compile(r"\b(?:hf|sk|gh[pousr]|glpat|xox[abp])[-_][A-Za-z0-9_-]{16,}\b|\b[A-Fa-f0-9]{40,}\b"),
    ),
    ("a user's name", re.compile(r"\b(?:user(?:name)?|home|login|hostname)\s*[=:]", re.IGNORECASE)),
)
"""What a text must not hold."""


def scrubbed(run: BenchmarkRun, number: int) -> BenchmarkRun:
    """A run without what says who made it and where."""
    return run.replace(
        source=f"{run.tool} {number}",
        date=_month(run.date),
        requests=None,
        prompt=_without_values(run.prompt),
        output=_without_values(run.output),
        environment=_kept(run.environment),
        figures=tuple(figure.replace(stated=None) for figure in run.figures),
        unread=(),
    )


def _month(date: str | None) -> str | None:
    found = re.match(r"(\d{4})-?(\d{2})", date or "")
    return None if found is None else f"{found[1]}-{found[2]}"


def _without_values(lengths: TokenLengths) -> TokenLengths:
    """Lengths by their mean and standard deviation."""
    if lengths.values is None:
        return lengths
    values = lengths.values
    mean = sum(values) / len(values)
    sd = (sum((one - mean) ** 2 for one in values) / len(values)) ** 0.5
    return lengths.replace(values=None, sd=sd if lengths.sd is None else lengths.sd)


def _kept(environment: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of an environment that say something about speed."""
    found: dict[str, Any] = {}
    for name, value in environment.items():
        if name not in _ENVIRONMENT:
            continue
        if isinstance(value, dict):
            inside = _kept(value)
            if inside:
                found[name] = inside
        elif isinstance(value, (str, int, float)) and not isinstance(value, bool):
            found[name] = value
    return found


def contribution_text(runs: Sequence[BenchmarkRun]) -> str:
    """The file of a contribution.

    Raises:
        SpecError: a run lacks what a prediction asks, holds what looks personal, or there are too many.
    """
    if not runs:
        raise SpecError("no run is left to export")
    if len(runs) > _MOST_RUNS:
        raise SpecError(f"{len(runs)} runs: a contribution has at most {_MOST_RUNS}")
    clean = [scrubbed(run, number) for number, run in enumerate(runs, 1)]
    for run, original in zip(clean, runs, strict=True):
        _complete(run, original.source)
        _impersonal(run.as_dict(), original.source)
    record = {
        "schema_version": SCHEMA_VERSION,
        "kind": KIND,
        "made_by": f"llm-perf {__version__}",
        "runs": [run.as_dict() for run in clean],
    }
    return json.dumps(record, indent=1, allow_nan=False, sort_keys=True) + "\n"


_NEEDED: Final = (
    "engine.name",
    "engine.version",
    "deployment.model",
    "deployment.gpu",
    "load.kind",
    "prompt.mean",
    "output.mean",
)


def _complete(run: BenchmarkRun, where: str) -> None:
    missing = [name for name in _NEEDED if name in run.unknown]
    if missing:
        raise SpecError(
            f"{where}: {missing[0]} is not known: a run that others cannot place is no contribution"
        )
    if not run.figures:
        raise SpecError(f"{where}: states nothing that was measured")


def _impersonal(record: Any, where: str) -> None:
    """Refuse a text that looks personal, with its field.

    Raises:
        SpecError: one does.
    """
    for path, text in _texts(record, ""):
        if path.endswith("deployment.model") and re.fullmatch(r"[\w.-]+(?:/[\w.-]+)?", text):
            continue
        for what, pattern in _PERSONAL:
            if pattern.search(text):
                raise SpecError(f"{where}: {path} looks like {what}: leave it out, since the file is public")


def _texts(value: Any, path: str) -> Iterator[tuple[str, str]]:
    if isinstance(value, str):
        yield path, value
    elif isinstance(value, dict):
        for name, one in value.items():
            yield f"{path} (name)" if path else name, str(name)
            yield from _texts(one, f"{path}.{name}" if path else str(name))
    elif isinstance(value, list):
        for number, one in enumerate(value):
            yield from _texts(one, f"{path}[{number}]")


def parsed_contribution(text: str, name: str) -> list[BenchmarkRun]:
    """The runs of a contribution, checked as when it was made.

    Raises:
        SpecError: it is none, of a later schema, too large, or a run of it lacks something or looks personal.
    """
    if len(text.encode()) > _MOST_BYTES:
        raise SpecError(f"{name}: is larger than {_MOST_BYTES // 1000} kB")
    try:
        record = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise SpecError(f"{name}: is no JSON: {error}") from None
    if not isinstance(record, dict) or record.get("kind") != KIND:
        raise SpecError(f"{name}: is no file of contributed runs")
    if record.get("schema_version") != SCHEMA_VERSION:
        raise SpecError(
            f"{name}: schema_version is {record.get('schema_version')!r}, this llm-perf reads {SCHEMA_VERSION}"
        )
    unknown = set(record) - {"schema_version", "kind", "made_by", "runs", "contributor_note", "licence"}
    if unknown:
        raise SpecError(f"{name}: unknown field {min(unknown)!r}")
    entries = record.get("runs")
    if not isinstance(entries, list) or not entries:
        raise SpecError(f"{name}: holds no run")
    runs = [BenchmarkRun.from_dict(entry, f"{name}[{number}]") for number, entry in enumerate(entries)]
    for number, run in enumerate(runs):
        where = f"{name}[{number}]"
        if run.requests is not None:
            raise SpecError(f"{where}: requests: times of single requests are not part of a contribution")
        _complete(run, where)
        _impersonal(run.as_dict(), where)
    return [run.replace(source=f"{name}: {run.source}") for run in runs]


@dataclass(frozen=True)
class Known:
    """What constants that ship know of a contribution.

    Attributes:
        quantities: Whose errors are therefore no evidence.
        by: Which constants, and how.
        left_out: A version, ``FAMILY@VERSION``, whose constants know nothing of it.
    """

    quantities: tuple[str, ...]
    by: str
    left_out: str


def known_contributions() -> dict[str, Known]:
    """Contributions of which constants that ship know something, by their file."""
    text = (resources.files("calibrate") / _FOLDER / "known.yaml").read_text("utf-8")
    found = yaml.safe_load(text) or {}
    return {
        name: Known(tuple(one["quantities"]), str(one["by"]), str(one["left_out"]))
        for name, one in found.items()
    }


def contributed_runs() -> Iterable[BenchmarkRun]:
    """The runs of all contributions that ship.

    Raises:
        SpecError: a file is none.
    """
    for runs in contributions().values():
        yield from runs


def contributions() -> dict[str, list[BenchmarkRun]]:
    """The runs of each contribution that ships, by its file.

    Raises:
        SpecError: a file is none.
    """
    found = {}
    folder = resources.files("calibrate") / _FOLDER
    if folder.is_dir():
        for file in sorted(folder.iterdir(), key=lambda one: one.name):
            if file.name.endswith(".json"):
                found[file.name] = parsed_contribution(file.read_text("utf-8"), file.name)
    return found
