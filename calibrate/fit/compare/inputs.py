"""Measured runs of any machine, with what a picture needs beside the latencies: decode steps, memory, repeats."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from calibrate.evidence.readers import logs, reader_of
from calibrate.fit import run_json, runs, tables
from calibrate.fit.observation import Observation, Rejected, positive
from llm_perf.config import files
from llm_perf.config.base import GIB
from llm_perf.config.profiles import Profile
from llm_perf.config.scenario import Scenario
from llm_perf.errors import SpecError
from llm_perf.report.benchmark_log import parse_benchmark_log


@dataclass(frozen=True)
class MeasuredRun:
    """One measured run.

    Attributes:
        observation: Latencies, scenario before any profile, machine, repeats.
        decode_steps_s: Median over the repeats of each decode step, in order; empty where not recorded.
        allocated_bytes: Peak that the allocator reports (on a CPU: that the process holds).
        reserved_bytes: Peak that the allocator keeps from the device.
        device: ``cuda`` or ``cpu``; None where only a log is left.
        baseline_bytes: What the process held before the run; counts on a CPU only.
    """

    observation: Observation
    decode_steps_s: tuple[float, ...] = ()
    allocated_bytes: float | None = None
    reserved_bytes: float | None = None
    device: str | None = None
    baseline_bytes: int = 0
    record: Mapping[str, Any] | None = None

    def scenario(self, profile: Profile) -> Scenario:
        """What predicts the run: with a profile's values, else with what the run measured of its framework."""
        plain = self.observation.scenario
        if profile.name != "none":
            return profile.apply(plain)
        if self.record is None:
            return plain
        return run_json.scenario_of_record(self.record, self.observation.source, own_overhead=True)


def read_measured(
    names: Sequence[str], gpu: str | None = None, host: str | None = None
) -> tuple[tuple[MeasuredRun, ...], tuple[Rejected, ...]]:
    """Read runs from files and folders; runs of several machines may stand together.

    Args:
        names: Files and folders: a run's JSON, benchmark logs, CSV.
        gpu: GPU of benchmark logs, and of CSV rows that name none.
        host: Likewise; the GPU's usual host where it is None.

    Returns:
        The runs, and those that do not count with the evidence.

    Raises:
        SpecError: a file is empty, truncated, malformed, given twice, or holds a value that no run has.
    """
    found: list[MeasuredRun] = []
    rejected: list[Rejected] = []
    for path in runs.expanded(names):
        try:
            of_file = list(_of_file(path, gpu, host))
        except SpecError as error:
            raise SpecError(f"{error}{_other_command(path)}") from None
        for one in of_file:
            if isinstance(one, Rejected):
                rejected.append(one)
            else:
                found.append(one)
    runs.refuse_duplicates(one.observation for one in found)
    if not found:
        why = f"{rejected[0].source}: {rejected[0].reason}" if rejected else f"{names[0]} holds none"
        raise SpecError(f"no run is left to compare: {why}")
    return tuple(found), tuple(rejected)


def _other_command(path: Path) -> str:
    """Which command reads a file that holds no run; nothing of what none reads."""
    try:
        found = reader_of(files.read_text(path), path.name)
    except SpecError:
        return ""
    if found.read is logs.read_benchmark_log:
        return ""
    return f"; llm-perf calibrate read-log reads it ({found.tool})"


def _of_file(path: Path, gpu: str | None, host: str | None) -> Iterable[MeasuredRun | Rejected]:
    if path.suffix == ".json":
        record = runs.read_record(path)
        # A folder of calibration runs holds its microbenchmarks too.
        return [] if record.get("kind") == "microbench" else [_one_of_record(record, str(path))]
    if path.suffix == ".jsonl":
        return [_one_of_record(record, source) for source, record in runs.json_lines(path)]
    if path.suffix == ".csv":
        return [MeasuredRun(one) for one in tables.csv_observations(path, gpu, host)]
    if path.suffix == ".log":
        return _of_log(path, gpu, host)
    raise SpecError(
        f"{path}: expected a .json of a run, a .jsonl of several, a .log or a .csv; what other tools wrote is read by "
        "llm-perf calibrate read-log"
    )


def _one_of_record(record: Mapping[str, Any], source: str) -> MeasuredRun | Rejected:
    observation = run_json.run_observation(record, source)
    return observation if isinstance(observation, Rejected) else _of_record(observation, record)


def _of_log(path: Path, gpu: str | None, host: str | None) -> list[MeasuredRun]:
    observations = tables.log_observations(path, gpu, host)
    peaks = [(record.gpu_peak_mem_gib or 0.0) * GIB for record in parse_benchmark_log(files.read_text(path))]
    if len(peaks) != len(observations):  # projected records were left out, and which is not known here
        return [MeasuredRun(one) for one in observations]
    return [
        MeasuredRun(one, allocated_bytes=peak or None) for one, peak in zip(observations, peaks, strict=True)
    ]


def _of_record(observation: Observation, record: Mapping[str, Any]) -> MeasuredRun:
    source = observation.source
    return MeasuredRun(
        observation,
        decode_steps_s=_median_steps(record["raw"]["loops"]),
        allocated_bytes=_bytes(record, source, "measured", "peak_gpu_memory_bytes"),
        reserved_bytes=_bytes(record, source, "measured", "peak_gpu_memory_reserved_bytes"),
        device=record["run"].get("device"),
        baseline_bytes=int(_bytes(record, source, "machine", "baseline_rss_bytes") or 0),
        record=record,
    )


def _bytes(record: Mapping[str, Any], source: str, part: str, name: str) -> float | None:
    """A size that a run may have left out.

    Raises:
        SpecError: it is none; the message names file and field.
    """
    inside = record.get(part) or {}
    if not isinstance(inside, Mapping):
        raise SpecError(f"{source}: {part} = {inside!r}: expected an object")
    value = inside.get(name)
    if value is None:
        return None
    size = positive(source, f"{part}.{name}", value, zero=True, unit=" of bytes")
    return int(size) if size == int(size) else size


def _median_steps(loops: Sequence[Mapping[str, Any]]) -> tuple[float, ...]:
    calm = [
        loop["decode_steps_s"] for loop in loops if not loop.get("disturbed") and loop.get("decode_steps_s")
    ]
    steps = min(map(len, calm), default=0)
    return tuple(median(loop[index] for loop in calm) for index in range(steps))
