"""Two models of random weights served and observed, a third predicted and then measured: what a calibration is worth here.

``python -m calibrate.fit.observe.loop SYSTEM [FOLDER [RECORDS [REPEATS]]]`` (``make observe``) takes about eight minutes per
engine on two cores; ``RECORDS`` is where the figures are kept for the project, as ``calibrate/measurements/observe``
has them, ``REPEATS`` how often each closed loop is measured (3).
Finished stages leave their files, so that an interrupted loop goes on where it stopped. One thread computes: with two, a
machine that is shared by others says more of these than of the engine.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from calibrate.evidence.benchmark_run import BenchmarkRun, Engine, read_runs, runs_text
from calibrate.fit.observe.compare import compare, summary
from calibrate.fit.observe.rows import WAITED
from calibrate.fit.observe.session import ObserveSettings, deployment_of, observe
from calibrate.fit.observe.stack_fit import fit_sessions, profile_of
from calibrate.fit.observe.store import is_session, spent_s, stored
from calibrate.fit.profile_file import write_profile
from calibrate.probe.endpoint.contention import Contention, listener
from calibrate.probe.endpoint.http import Address, Client
from calibrate.probe.endpoint.load import Account
from calibrate.probe.endpoint.opening import opened
from calibrate.probe.endpoint.point import About, LoadPoint, measure_point
from calibrate.probe.endpoint.prompts import Prompts
from calibrate.probe.endpoint.request import Asking
from calibrate.probe.environment import cpu_name, usable_cores
from calibrate.probe.own_process import exit_code_of
from calibrate.probe.process import signals_interrupt
from calibrate.run.serve.engines import THREADS, ServedEngine, engines
from calibrate.run.serve.server import Served
from llm_perf.analysis.request import build_scenario
from llm_perf.errors import EnvironmentFailure, SpecError

DEFAULT_FOLDER = "runs/observe"
EVERY = "all"
"""In place of a system: both engines, one after the other."""
BUDGET_S = 115.0
"""Of each of the two sessions."""

REPEATS = 3
CONCURRENCIES = (1, 2, 4, 8)
LENGTHS = ((96, 32), (384, 48))
"""(prompt, output) of the closed loops: other lengths than any observed burst has."""

ROUNDS = 3
"""Requests of a closed loop, per request in flight."""


@dataclass(frozen=True)
class Size:
    """How long a loop takes: seconds of each session, repeats of the closed loops, and how many are in flight."""

    budget_s: float = BUDGET_S
    repeats: int = REPEATS
    concurrencies: tuple[int, ...] = CONCURRENCIES


SHORT = Size(budget_s=30.0, repeats=1, concurrencies=(1, 4))
"""What ``make calibrate`` adds: about two minutes on two cores of its own."""


def run_loop(
    loop: ServedEngine, folder: Path, say: Callable[[str], object], size: Size | None = None
) -> dict[str, Any]:
    """Observe, fit, measure and compare; the figures as one object.

    Args:
        loop: The engine.
        folder: Of all files.
        say: Is told what goes on.
        size: How long it takes; that of ``make observe`` if None.

    Raises:
        LLMPerfError: an engine cannot be served, or a session ended early.
    """
    size = size or Size()
    folder.mkdir(parents=True, exist_ok=True)
    models = folder / "models"
    models.mkdir(exist_ok=True)
    for name in loop.observed:
        _observed(loop, name, models, folder / name, say, size.budget_s)
    sessions = [stored(folder / name) for name in loop.observed]
    fitted = fit_sessions(sessions)
    server = sessions[0].facts.get("server") or {}
    profile = write_profile(profile_of(fitted, loop.system, server), str(folder / f"{loop.system}.yaml"))
    runs = _measured(loop, models, folder / "measured.jsonl", say, size)
    rows = compare(runs, loop.inputs(loop.predicted, models), str(profile))
    found = {
        "schema_version": 1, "system": loop.system, "observed": list(loop.observed), "predicted": loop.predicted,
        "observed_s": sum(float(session.facts.get("spent_s") or 0.0) for session in sessions),
        "load": _loads(runs), "rows": [row.as_dict() for row in rows], "summary": summary(rows),
        "profile": str(profile),
    }  # fmt: skip
    (folder / "table.json").write_text(json.dumps(found, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    return found


def _loads(runs: Sequence[BenchmarkRun]) -> list[float]:
    """The machine's load while the closed loops were measured: middle, least, most."""
    found = [float(load) for run in runs if isinstance(load := run.environment.get("load"), (int, float))]
    return [median(found), min(found), max(found)] if found else list(os.getloadavg())


def _observed(
    loop: ServedEngine, name: str, models: Path, out: Path, say: Callable[[str], object], budget_s: float
) -> None:
    """One session, unless it is there; one that was broken off is begun anew, since the server's address is another."""
    if spent_s(out) >= 0.9 * budget_s:
        return
    if is_session(out):
        shutil.rmtree(out)
    say(f"{loop.system}: serving {name}")
    with loop.served(name, models) as served:
        settings = ObserveSettings(
            url=served.url,
            inputs=loop.inputs(name, models),
            out=out,
            budget_s=budget_s,
            served_name=served.model,
            seed=1,
        )
        found = observe(settings, lambda text: say(f"{name}: {text}"))
    if found.ended is not None:
        raise EnvironmentFailure(f"{name}: the session ended: {found.ended}")


def _measured(
    loop: ServedEngine, models: Path, path: Path, say: Callable[[str], object], size: Size
) -> list[BenchmarkRun]:
    """Closed loops of the model that is predicted, interleaved, unless they are there."""
    if path.exists():
        return read_runs(path)
    say(f"{loop.system}: serving {loop.predicted}")
    with loop.served(loop.predicted, models) as served:
        runs = asyncio.run(_closed_loops(loop, models, served, say, size))
    path.write_text(runs_text(runs), encoding="utf-8")
    return runs


async def _closed_loops(
    loop: ServedEngine, models: Path, served: Served, say: Callable[[str], object], size: Size
) -> list[BenchmarkRun]:
    address = Address.of(served.url)
    client, account, prompts = Client(address), Account(), Prompts(2)
    inputs = loop.inputs(loop.predicted, models)
    about = About(Engine(name=loop.system), deployment_of(inputs, build_scenario(inputs)), str(address), {})
    asking, law = await opened(Asking(client, served.model), prompts, account)
    points = [LoadPoint(count, *lengths, ROUNDS) for lengths in LENGTHS for count in size.concurrencies]
    await measure_point(LoadPoint(8, 32, 8), asking, prompts, law, account, about)
    contention, runs = Contention(listener(address.port)), []
    for repeat in range(size.repeats):
        for point in points if repeat % 2 == 0 else points[::-1]:
            say(f"{loop.predicted}: {point} (repeat {repeat + 1} of {size.repeats})")
            contention.share()
            run, _ = await measure_point(point, asking, prompts, law, account, about)
            runs.append(run.replace(environment={WAITED: contention.share(), "load": os.getloadavg()[0]}))
    await client.close()
    if account.failed:
        raise EnvironmentFailure(f"{loop.predicted}: {account.sentence()}: {account.first_failure}")
    return runs


def table_lines(found: dict[str, Any]) -> list[str]:
    """The table for people."""
    lines = [
        f"{found['system']}: {' and '.join(found['observed'])} observed in {found['observed_s']:.0f} s, "
        f"{found['predicted']} predicted; load {found['load'][0]:.1f}",
        f"{'in flight':>9}{'prompt':>8}{'output':>8}  {'':<14}{'measured':>10}{'before':>9}{'after':>8}  90% interval",
    ]
    for row in found["rows"]:
        for quantity, one in row["quantities"].items():
            low, high = one["interval"]
            inside = "" if one["inside"] else "  outside"
            lines.append(
                f"{row['concurrency']:>9}{row['prompt']:>8}{row['output']:>8}  {quantity:<14}{one['measured']:>10.4g}"
                f"{one['error_before']:>+9.0%}{one['error_after']:>+8.1%}  {low:.4g} to {high:.4g}{inside}"
            )
    for quantity, one in found["summary"].items():
        lines.append(
            f"{quantity}: {one['median_after']:.1%} off in the middle with the profile, {one['largest_after']:.1%} at most, "
            f"{one['median_before']:.0%} without it; {one['inside']} of {one['count']} inside their interval"
        )
    return lines


def record(found: dict[str, Any], folder: Path) -> Path:
    """Keep the figures of a loop as the project's measurements have them: five digits, no folder of the machine."""

    def short(value: Any) -> Any:
        if isinstance(value, dict):
            return {name: short(one) for name, one in value.items() if name != "profile"}
        if isinstance(value, list):
            return [short(one) for one in value]
        return float(f"{value:.5g}") if isinstance(value, float) else value

    about = {
        "cores": usable_cores(),
        "cpu": cpu_name(),
        "threads": THREADS,
        "measured": time.strftime("%Y-%m"),
    }
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{found['system']}.json"
    path.write_text(json.dumps(short(found) | about, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    return path


def _repeats(text: str) -> int:
    if not text.isdigit() or not int(text):
        raise SpecError(f"{text!r}: expected how often each loop is measured")
    return int(text)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the loop of one engine, or of both. Returns the exit code."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    known = engines()
    names = [name for name in given[:1] if name != EVERY] or list(known)
    folder = Path(given[1] if len(given) > 1 else DEFAULT_FOLDER)
    start = time.perf_counter()

    def work() -> None:
        size = Size(repeats=_repeats(given[3])) if len(given) > 3 else None
        for name in names:
            if name not in known:
                raise SpecError(f"{name!r}: expected {' or '.join(known)}")
            with signals_interrupt():
                found = run_loop(known[name], folder / name, lambda text: sys.stderr.write(f"{text}\n"), size)
            sys.stdout.write("\n".join([*table_lines(found), ""]) + "\n")
            if len(given) > 2:
                sys.stdout.write(f"kept in {record(found, Path(given[2]))}\n")
        sys.stdout.write(f"{time.perf_counter() - start:.0f} s in this call\n")

    return exit_code_of(work, "interrupted; call it again to go on")


if __name__ == "__main__":
    sys.exit(main())
