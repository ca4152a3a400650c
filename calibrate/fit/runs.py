"""Measured runs in any form that the project writes or reads, checked, as observations of one shape.

A file is a run's JSON (`llm-perf calibrate --run`), a microbenchmark's JSON, a benchmark log (``*.log``, llm-perf's,
DeepSpeed's or FlexGen's, recognised by the name that it was given) or a CSV whose columns are the fields of
`calibrate.settings.Run` and ``prefill_latency_s``, ``decode_latency_s``, ``total_latency_s`` or
``throughput_tokens_per_s``. A folder stands for the files in it. Whatever is wrong is one line with file and field.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from llm_perf.config import files
from llm_perf.config.calibration import CalibratedMachine
from llm_perf.config.scenario import Scenario
from llm_perf.errors import LLMPerfError, SpecError

PHASES = ("prefill", "decode", "total")

LEAST_ACCEPTED = 3
"""Repeats that have to be left without others' work; of runs with fewer repeats all of them."""

_SUFFIXES = (".json", ".jsonl", ".log", ".csv")

_SUM_TOLERANCE = 0.02
"""How far prefill and decode may be from the total: medians are taken of the first and the last."""


@dataclass(frozen=True)
class Observation:
    """One measured run.

    Attributes:
        source: File, and record in it, for messages.
        group: What is left out together when predictions are tested: the model.
        scenario: What predicts the run, before any profile.
        measured_s: Seconds by phase; phases that were not measured are missing.
        machine: Where it ran.
        accepted: Repeats that count.
        rejected: Repeats that do not, since others used the machine's cores.
        digest: Of what was measured, to recognise a run that is given twice.
        facts: What base rates can be taken from: the run's own record of machine and framework times.
    """

    source: str
    group: str
    scenario: Scenario
    measured_s: Mapping[str, float]
    machine: CalibratedMachine
    accepted: int = 1
    rejected: int = 0
    digest: str = ""
    facts: Mapping[str, Any] = field(default_factory=dict)

    @property
    def label(self) -> str:
        """Model, system and sizes on one line."""
        s, w = self.scenario, self.scenario.workload
        return (
            f"{s.model.name.rpartition('_')[2]} {s.system} batch {w.batch_size}, {w.prompt_len} + {w.gen_len}"
        )


@dataclass(frozen=True)
class Rejected:
    """A run that does not count, and the evidence."""

    source: str
    reason: str


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
    for path in expanded(names):
        if path.suffix == ".json":
            record = read_record(path)
            if record.get("kind") == "microbench":
                if microbench is not None:
                    raise SpecError(f"{path}: a second set of microbenchmarks; give one")
                microbench = _checked_microbench(record, path)
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
        path = Path(name).expanduser()
        if path.is_dir():
            inside = sorted(p for p in path.iterdir() if p.suffix in _SUFFIXES)
            if not inside:
                raise SpecError(f"{path}: the folder holds none of {', '.join(_SUFFIXES)}")
            own = _own_logs(inside)
            found += [p for p in inside if p.name not in own]
        else:
            found.append(path)
    twice = {path for path in found if found.count(path) > 1}
    if twice:
        raise SpecError(f"{min(twice)}: given twice")
    return found


def _own_logs(inside: Iterable[Path]) -> set[str]:
    """Names of the benchmark logs that runs among these files say that they wrote; what is no run says nothing."""
    names = set()
    for path in inside:
        if path.suffix == ".json":
            with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
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
        record = json.loads(text)
    except json.JSONDecodeError as error:
        raise SpecError(f"{path}:{error.lineno}: truncated or malformed JSON: {error.msg}") from None
    if not isinstance(record, dict):
        raise SpecError(f"{path}: expected the object of a run, found {type(record).__name__}")
    return record


def json_lines(path: Path) -> list[tuple[str, dict[str, Any]]]:
    """Finished runs of a session's file, one per line; lines that say why a case was not run are passed over."""
    found = []
    for number, line in enumerate(files.read_text(path).splitlines(), 1):
        source = f"{path}:{number}"
        try:
            record = json.loads(line)
        except json.JSONDecodeError as error:
            raise SpecError(f"{source}: truncated or malformed JSON: {error.msg}") from None
        record = record.get("result", record) if isinstance(record, dict) else {}
        if isinstance(record, dict) and record.get("status") == "done":
            found.append((source, record))
    if not found:
        raise SpecError(f"{path}: holds no finished run")
    return found


def _checked_microbench(record: dict[str, Any], path: Path) -> dict[str, Any]:
    if not isinstance(record.get("items"), list) or not record["items"]:
        raise SpecError(f"{path}: items: no microbenchmark is in it")
    for number, item in enumerate(record["items"]):
        for name, value in (("median_s", item.get("median_s")), ("per_layer_s", item.get("per_layer_s"))):
            if value is not None:
                positive(path, f"items[{number}].{name}", value, zero=name == "per_layer_s")
    return record


# -- a run's JSON ---------------------------------------------------------------------------------------------


def run_observation(record: Mapping[str, Any], source: str) -> Observation | Rejected:
    """A run's JSON as an observation; rejected where others disturbed too many of its repeats.

    Raises:
        SpecError: it is no finished run, or a value in it cannot be.
    """
    status = record.get("status")
    if "run" not in record or "raw" not in record:
        raise SpecError(
            f"{source}: is no run of llm-perf calibrate: field {'run' if 'run' not in record else 'raw'} is missing"
        )
    if status != "done":
        raise SpecError(f"{source}: status: the run is not done, it is {status!r}")
    loops = _field(record, source, "raw", "loops")
    if not isinstance(loops, list) or not loops:
        raise SpecError(f"{source}: raw.loops: no repeat was measured")
    for number, loop in enumerate(loops):
        _check_loop(loop, f"raw.loops[{number}]", source)
    calm = [loop for loop in loops if not loop.get("disturbed")]
    if len(calm) < min(LEAST_ACCEPTED, len(loops)):
        worst = max(loop.get("others_cores") or 0.0 for loop in loops)
        return Rejected(
            source,
            f"{len(loops) - len(calm)} of {len(loops)} repeats ran while others used the machine's cores "
            f"(up to {worst:.2f} cores): {len(calm)} are left, {min(LEAST_ACCEPTED, len(loops))} are needed",
        )
    prefill = median(loop["prefill_s"] for loop in calm)
    total = median(loop["total_s"] for loop in calm)
    measured = {"prefill": prefill, "total": total}
    if int(_field(record, source, "run", "gen_len")) > 1:
        measured["decode"] = total - prefill
    content = json.dumps(loops, sort_keys=True).encode()
    return Observation(
        source=source,
        group=str(_field(record, source, "run", "model_name")),
        scenario=scenario_of_record(record, source),
        measured_s=measured,
        machine=run_machine(record, source),
        accepted=len(calm),
        rejected=len(loops) - len(calm),
        digest=hashlib.sha256(content).hexdigest()[:16],
        facts=_field(record, source, "machine"),
    )


def _check_loop(loop: Mapping[str, Any], where: str, source: str) -> None:
    prefill = positive(source, f"{where}.prefill_s", loop.get("prefill_s"))
    total = positive(source, f"{where}.total_s", loop.get("total_s"))
    if total < prefill * (1 - _SUM_TOLERANCE):
        raise SpecError(f"{source}: {where}.total_s = {total:g} is less than its prefill_s = {prefill:g}")
    steps = loop.get("decode_steps_s") or []
    for number, step in enumerate(steps):
        positive(source, f"{where}.decode_steps_s[{number}]", step)
    # A unit that slipped, in one of the fields: the parts cannot be more than the whole.
    if steps and prefill + sum(steps) > total * (1 + _SUM_TOLERANCE) + 0.05:
        raise SpecError(
            f"{source}: {where}: prefill_s and decode_steps_s add up to {prefill + sum(steps):g} s, total_s is {total:g}: "
            "is one of them in another unit?"
        )
    wall = loop.get("wall_s")
    if wall is not None and not 0.5 < positive(source, f"{where}.wall_s", wall) / total < 2 + 1 / total:
        raise SpecError(
            f"{source}: {where}.total_s = {total:g} but the repeat lasted wall_s = {wall:g} s: is one in another unit?"
        )


def scenario_of_record(record: Mapping[str, Any], source: str, own_overhead: bool = False) -> Scenario:
    """What predicts a run, before any profile; with ``own_overhead`` the framework's time that the run measured first.

    Raises:
        SpecError: a part of it is missing or cannot be.
    """
    from calibrate.run.layer_overhead import LayerOverhead
    from calibrate.run.local_machine import LocalMachine
    from calibrate.run.prediction import build_run_scenario
    from calibrate.run.settings import RunSettings
    from llm_perf.config.gpu import GPUConfig
    from llm_perf.config.host import HostConfig
    from llm_perf.config.loading import get_model_config_by_name
    from llm_perf.counts.linears import layer_linears
    from llm_perf.counts.parameters import token_table_params

    run, machine = _field(record, source, "run"), _field(record, source, "machine")
    try:
        known = {name: value for name, value in run.items() if name in RunSettings.model_fields}
        settings = RunSettings(**(known | {"profile": None}))
        model = get_model_config_by_name(settings.model_name)
        gpu = GPUConfig(**_numbered(_field(machine, source, "gpu")))
        host = HostConfig(**_field(machine, source, "host"))
        matrices = [
            x.weights for group in model.layer_groups for x in layer_linears(group, model.hidden_size)
        ]
        largest = max([*matrices, token_table_params(model)])
        overhead = None
        if own_overhead and machine.get("layer_overhead_s") is not None:
            overhead = LayerOverhead(machine["layer_overhead_s"], machine.get("pass_overhead_s") or 0.0)
        return build_run_scenario(
            settings,
            model,
            LocalMachine(gpu, host),
            str(run["dtype"]),
            str(run["device"]),
            largest,
            overhead,
            machine.get("unpack_s_per_weight") if own_overhead else None,
        )
    except (LLMPerfError, KeyError, TypeError) as error:
        said = f"field {error} is missing" if isinstance(error, KeyError) else str(error)
        raise SpecError(f"{source}: run: {said}") from None


def _numbered(gpu: dict[str, Any]) -> dict[str, Any]:
    """JSON has text for keys where the spec has numbers, and null for an infinite exponent."""
    efficiency = dict(gpu["efficiency"])
    collective = dict(efficiency["collective"])
    collective["alpha_us"] = {int(ranks): value for ranks, value in collective["alpha_us"].items()}
    if efficiency.get("knee_exponent") is None:
        efficiency["knee_exponent"] = math.inf
    return gpu | {"efficiency": efficiency | {"collective": collective}}


def run_machine(record: Mapping[str, Any], source: str) -> CalibratedMachine:
    """The machine of a run's JSON, or of microbenchmarks."""
    from calibrate.fit.kernels import machine_name
    from llm_perf.config.base import GIB

    environment = _field(record, source, "environment")
    try:
        return CalibratedMachine(
            gpu=machine_name(environment),
            host=None,
            cpu=environment["cpu"]["name"],
            cores=environment["cpu"]["usable_cores"],
            memory_gib=round(environment["memory"]["total_bytes"] / GIB, 1),
            versions=environment["versions"],
        )
    except (KeyError, TypeError) as error:
        raise SpecError(f"{source}: environment: field {error} is missing") from None


def _field(record: Mapping[str, Any], source: str, *path: str) -> Any:
    value: Any = record
    for depth, name in enumerate(path):
        if not isinstance(value, Mapping) or value.get(name) is None:
            raise SpecError(
                f"{source}: {'.'.join(path[: depth + 1])} is missing: the file is truncated, or of another form"
            )
        value = value[name]
    return value


def positive(source: str | Path, name: str, value: Any, zero: bool = False) -> float:
    """A positive, finite number (or 0 where ``zero``).

    Raises:
        SpecError: it is none; the message names file and field.
    """
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not number or not math.isfinite(value) or value < 0 or (value == 0 and not zero):
        raise SpecError(f"{source}: {name} = {value!r}: expected a positive number of seconds")
    return float(value)


# -- all together ---------------------------------------------------------------------------------------------


def refuse_duplicates(observations: Iterable[Observation]) -> None:
    """Refuse a run that is given twice.

    Raises:
        SpecError: the repeats of one are those of another.
    """
    seen: dict[str, str] = {}
    for one in observations:
        if one.digest and one.digest in seen:
            raise SpecError(
                f"{one.source}: raw.loops are those of {seen[one.digest]}: the same run is given twice"
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
