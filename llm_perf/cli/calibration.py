"""What ``llm-perf calibrate`` does beside a run: microbenchmarks, the fit, the whole loop."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import click

from llm_perf.cli.calibrate_flags import named, print_object
from llm_perf.errors import SpecError, bad_value

_DURATION = re.compile(r"(\d+(?:\.\d*)?)\s*(s|min|m)?")


def seconds_of(budget: str) -> float:
    """Seconds that a text such as ``60``, ``60s`` or ``2min`` means.

    Raises:
        SpecError: it is no duration.
    """
    found = _DURATION.fullmatch(budget.strip().lower())
    if found is None:
        raise bad_value("--budget", budget, "seconds, such as 60s or 2min")
    return float(found[1]) * (60.0 if found[2] in ("m", "min") else 1.0)


def microbench(budget: str | None, out: str | None, given: dict[str, Any], as_json: bool) -> int:
    """``calibrate microbench``."""
    if given.get("system") is not None:
        return _microbench_of(budget, out, given, as_json)
    if "runs_dir" in given:
        raise SpecError(f"--runs-dir says nothing about {named('microbench')}: --out names its file")
    from calibrate.probe.report import print_microbench
    from calibrate.probe.suite import DEFAULT_BUDGET_S
    from calibrate.run.microbench import microbench as measure

    budget_s = DEFAULT_BUDGET_S if budget is None else seconds_of(budget)
    flags = {
        "device_name": given.get("device"),
        "dtype": given.get("dtype"),
        "folder": given.get("offload_dir"),
        "allow_concurrent": given.get("allow_concurrent"),
    }
    record = measure(
        budget_s=budget_s, out=out, **{name: value for name, value in flags.items() if value is not None}
    )
    if as_json:
        print_object(record)
    else:
        print_microbench(record)
        click.echo(f"samples written to {record['file']}", err=True)
    return 0


def _microbench_of(budget: str | None, out: str | None, given: dict[str, Any], as_json: bool) -> int:
    """``calibrate microbench --system llama_cpp``: a probe that ends in a profile."""
    from llm_perf.cli.calibrate_llama_cpp import LLAMA_CPP

    if given["system"] != LLAMA_CPP:
        raise SpecError(
            f"--system {given['system']} says nothing about {named('microbench')}, which measures the machine; llama_cpp "
            "has a probe of its own"
        )
    misplaced = next((name for name in ("device", "dtype") if name in given), "budget" if budget else None)
    if misplaced is not None:
        raise SpecError(f"--{misplaced} says nothing about {named('microbench')} --system llama_cpp")
    from calibrate.fit.llama_cpp_profile import microbench_llama_cpp, probe_lines

    asked = {name: given[name] for name in ("offload_dir", "runs_dir", "allow_concurrent") if name in given}
    found = microbench_llama_cpp(out, **asked)
    if as_json:
        print_object(found)
    else:
        click.echo("\n".join(probe_lines(found)))
        click.echo(f"profile written to {found['profile']}, samples to {found['file']}", err=True)
    return 0


def fit(runs: tuple[str, ...], out: str | None, given: dict[str, Any], as_json: bool) -> int:
    """``calibrate fit RUNS…``."""
    from pathlib import Path

    from calibrate.fit import Calibrator, read_runs
    from calibrate.fit.observe.store import is_session
    from calibrate.fit.profile_file import check_target, write_profile
    from calibrate.fit.report import fit_lines, fit_object

    check_target(out)
    if runs and all(map(is_session, runs)):
        return _fit_sessions(runs, out, given, as_json)
    inputs = read_runs(runs, given.get("gpu"), given.get("host"))
    if not inputs.observations:
        rejected = "; ".join(f"{one.source}: {one.reason}" for one in inputs.rejected)
        raise SpecError(f"no run is left to fit: {rejected or 'none was given'}")
    name = Path(out).stem if out is not None else given.get("name") or "calibrated"
    fitted = Calibrator(inputs.microbench, name=name).fit(inputs.observations)
    path = write_profile(fitted.profile_, out)
    found = fit_object(fitted, inputs, str(path))
    if as_json:
        print_object(found)
    else:
        click.echo("\n".join(fit_lines(found)))
        click.echo(f"profile written to {path}", err=True)
    return 0


def _fit_sessions(folders: tuple[str, ...], out: str | None, given: dict[str, Any], as_json: bool) -> int:
    """Sessions of ``calibrate observe``, several models on one stack: one profile."""
    from calibrate.fit.observe.store import stored

    misplaced = next((name for name, value in given.items() if value is not None), None)
    if misplaced is not None:
        raise SpecError(f"--{misplaced} says nothing about sessions of calibrate observe, which know theirs")
    return fit_sessions_of([stored(folder) for folder in folders], out, as_json)


def fit_sessions_of(
    sessions: Sequence[Any], out: str | None, as_json: bool, results: Sequence[Any] = ()
) -> int:
    """Sessions (`Stored`), with results of tools (`Served`) beside them, as one profile."""
    from pathlib import Path

    from calibrate.fit.observe.report import fit_lines, fit_object
    from calibrate.fit.observe.stack_fit import fit_sessions, profile_of
    from calibrate.fit.profile_file import write_profile

    fitted = fit_sessions(sessions, results)
    name = sessions[0].scenario.system if out is None else Path(out).stem
    path = write_profile(profile_of(fitted, name, sessions[0].facts.get("server") or {}), out)
    if as_json:
        print_object({"schema_version": 1, "profile": str(path), "fit": fit_object(fitted)})
    else:
        click.echo("\n".join(fit_lines(fitted)))
        click.echo(f"profile written to {path}", err=True)
    return 0
