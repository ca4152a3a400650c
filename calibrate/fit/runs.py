"""Measured runs in any form that the project writes or reads, checked, as observations of one shape.

A file is a run's JSON (`llm-perf calibrate --run`), a microbenchmark's JSON, a benchmark log (``*.log``, llm-perf's,
DeepSpeed's or FlexGen's, recognised by the name that it was given) or a CSV whose columns are the fields of
`calibrate.evidence.settings.Run` and ``prefill_latency_s``, ``decode_latency_s``, ``total_latency_s`` or
``throughput_tokens_per_s``. A folder stands for the files in it. Whatever is wrong is one line with file and field.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from calibrate.fit.microbench_json import checked_microbench
from calibrate.fit.observation import Observation, Rejected
from calibrate.fit.run_json import run_machine, run_observation
from llm_perf.config import files
from llm_perf.errors import SpecError

_SUFFIXES = (".json", ".jsonl", ".log", ".csv")


@dataclass(frozen=True)
class Inputs:
    """What files held."""

    observations: tuple[Observation, ...]
    rejected: tuple[Rejected, ...]
    microbench: dict[str, Any] | None
    warnings: tuple[str, ...]


def read_runs(names: Sequence[str | Path], gpu: str | None = None, host: str | None = None) -> Inputs:
    """Read and check files and folders.

    Args:
        names: Files and folders.
        gpu: GPU of benchmark logs, and of CSV rows that name none.
        host: Likewise; the GPU's usual host where it is None.

    Raises:
        SpecError: a file is empty, truncated, malformed, given twice, of another machine than the others, or holds a
            value that no run has.
    """
    observations: list[Observation] = []
    rejected: list[Rejected] = []
    microbench: dict[str, Any] | None = None
    microbench_source = ""
    for path in expanded(names):
        if path.suffix == ".json":
            record = read_record(path)
            if record.get("kind") == "microbench":
                if microbench is not None:
                    raise SpecError(f"{path}: a second set of microbenchmarks; give one")
                microbench, microbench_source = checked_microbench(record, str(path)), str(path)
                continue
            found = run_observation(record, str(path))
            (observations if isinstance(found, Observation) else rejected).append(found)  # type: ignore[arg-type]
        elif path.suffix == ".jsonl":
            for source, record in json_lines(path):
                found = run_observation(record, source)
                (observations if isinstance(found, Observation) else rejected).append(found)  # type: ignore[arg-type]
        elif path.suffix in (".log", ".csv"):
            from calibrate.fit import tables

            read = tables.log_observations if path.suffix == ".log" else tables.csv_observations
            observations += read(path, gpu, host)
        else:
            raise SpecError(f"{path}: expected a .json of a run, a .jsonl of several, a .log or a .csv")
    refuse_duplicates(observations)
    warnings = _one_machine(observations)
    if microbench is not None and observations:
        _of_the_runs_machine(microbench, microbench_source, observations[0])
    return Inputs(tuple(observations), tuple(rejected), microbench, warnings)


def expanded(names: Sequence[str | Path]) -> list[Path]:
    """Files, a folder standing for those in it.

    A log that a run in the same folder wrote is passed over: it has the figures of that run's JSON once more.

    Raises:
        SpecError: none is given, a folder holds none, or one is given twice.
    """
    if not names:
        raise SpecError("nothing to fit: give files of runs, or a folder of them")
    found: list[Path] = []
    for name in names:
        path = files.expanded(name)
        if is_folder(path):
            inside = sorted(p for p in path.iterdir() if p.suffix in _SUFFIXES)
            if not inside:
                raise SpecError(f"{path}: the folder holds none of {', '.join(_SUFFIXES)}")
            own = _own_logs(inside)
            found += [p for p in inside if p.name not in own]
        elif not files.is_file(path):
            raise SpecError(f"{path}: cannot be read: no such file or folder")
        else:
            found.append(path)
    twice = {path for path in found if found.count(path) > 1}
    if twice:
        raise SpecError(f"{min(twice)}: given twice")
    return found


def is_folder(path: Path) -> bool:
    """Whether there is such a folder. A name that nothing can have, being too long for one, is none."""
    try:
        return path.is_dir()
    except (OSError, ValueError):
        return False


def _own_logs(inside: Iterable[Path]) -> set[str]:
    """Names of the benchmark logs that runs among these files say that they wrote; what is no run says nothing."""
    names = set()
    for path in inside:
        if path.suffix == ".json":
            with contextlib.suppress(OSError, ValueError, KeyError, TypeError, RecursionError):
                names.add(Path(json.loads(path.read_text("utf-8"))["log_file"]).name)
    return names


def read_record(path: Path) -> dict[str, Any]:
    """The object in a JSON file.

    Raises:
        SpecError: it is empty, truncated or no object.
    """
    text = files.read_text(path)
    if not text.strip():
        raise SpecError(f"{path}: is empty")
    try:
        record = _parsed(text, str(path))
    except json.JSONDecodeError as error:
        raise SpecError(f"{path}:{error.lineno}: truncated or malformed JSON: {error.msg}") from None
    if not isinstance(record, dict):
        raise SpecError(f"{path}: expected the object of a run, found {type(record).__name__}")
    return record


def _parsed(text: str, where: str) -> Any:
    """The JSON value of a text; what is no JSON is the caller's to say.

    Raises:
        SpecError: it is JSON that Python does not read.
    """
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        raise
    except RecursionError:
        raise SpecError(f"{where}: is nested too deeply") from None
    except ValueError as error:  # a number of thousands of digits
        raise SpecError(f"{where}: has a value that cannot be: {error}") from None


def json_lines(path: Path) -> list[tuple[str, dict[str, Any]]]:
    """Finished runs of a session's file, one per line; lines that say why a case was not run are passed over."""
    found = []
    for number, line in enumerate(files.read_text(path).splitlines(), 1):
        source = f"{path}:{number}"
        try:
            record = _parsed(line, source)
        except json.JSONDecodeError as error:
            raise SpecError(f"{source}: truncated or malformed JSON: {error.msg}") from None
        record = record.get("result", record) if isinstance(record, dict) else {}
        if isinstance(record, dict) and record.get("status") == "done":
            found.append((source, record))
    if not found:
        raise SpecError(f"{path}: holds no finished run")
    return found


# -- all together ---------------------------------------------------------------------------------------------


def refuse_duplicates(observations: Iterable[Observation]) -> None:
    """Refuse a run that is given twice.

    Raises:
        SpecError: the repeats of one are those of another.
    """
    seen: dict[str, str] = {}
    for one in observations:
        if one.digest and one.digest in seen:
            field = "raw.loops" if one.facts else "settings and times"
            raise SpecError(
                f"{one.source}: {field} are those of {seen[one.digest]}: the same run is given twice"
            )
        seen[one.digest] = one.source


def _one_machine(observations: Sequence[Observation]) -> tuple[str, ...]:
    """All runs are of one machine; other versions are a warning.

    Raises:
        SpecError: they are not.
    """
    warnings = []
    for one in observations[1:]:
        first = observations[0]
        for name in ("gpu", "cpu", "cores", "host"):
            here, there = getattr(one.machine, name), getattr(first.machine, name)
            if here != there:
                raise SpecError(
                    f"{one.source}: environment: {name} is {here!r}, but {there!r} in {first.source}: "
                    "runs of several machines do not make one profile"
                )
        differing = [
            f"{name} {there} and {one.machine.versions.get(name)}"
            for name, there in first.machine.versions.items()
            if name != "llm_perf" and one.machine.versions.get(name) != there
        ]
        if differing:
            warnings.append(f"{one.source}: other versions than in {first.source}: {', '.join(differing)}")
    return tuple(dict.fromkeys(warnings))


def _of_the_runs_machine(microbench: dict[str, Any], source: str, run: Observation) -> None:
    """Microbenchmarks are of the machine that ran.

    Raises:
        SpecError: they are of another one.
    """
    measured = run_machine(microbench, source)
    for name in ("gpu", "cpu", "cores"):
        here, there = getattr(measured, name), getattr(run.machine, name)
        if there is not None and here != there:
            raise SpecError(
                f"{source}: environment: {name} is {here!r}, but {there!r} in {run.source}: "
                "microbenchmarks and runs are of one machine"
            )
