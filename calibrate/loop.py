"""``make calibrate``: microbenchmarks, short real runs, a profile, and a model that was left out predicted with it.

Where llama.cpp is built (``make llama-cpp``) its server is observed too, for two short sessions.

Every finished stage leaves its files in the folder, so that an interrupted loop goes on where it stopped.
"""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from calibrate.probe.extras import require_extra
from calibrate.probe.own_process import exit_code_of, no_options, run_python
from calibrate.probe.process import signals_interrupt
from calibrate.probe.progress import Progress
from calibrate.run.campaign import Campaign
from calibrate.run.cases import measure_in_process
from calibrate.run.settings import RunSettings
from llm_perf.errors import SpecError

FIT_MODELS = ("opt-125m", "opt-350m")
LEFT_OUT = "opt-1.3b"
"""Three sizes of one family: bytes per layer grow 9-fold from the smallest to the largest, layers 2-fold."""

MODES: dict[str, dict[str, Any]] = {
    "plain": {"system": "transformers"},
    "ZeRO-3, CPU offload": {"system": "zero_inference", "cpu_offload": True},
}
WORKLOADS = ((1, 64), (4, 64), (1, 256))
"""(batch, prompt): two prompts and two batches, without which attention and the cache cannot be told from the rest."""

GEN_LEN = 8
CYCLES = 2
LOOPS, SPARE_LOOPS = 3, 3
MICROBENCH_S = 60.0


@dataclass(frozen=True)
class Process:
    """One process of real runs: a model in a mode, in one of the cycles."""

    cycle: int
    model: str
    mode: str

    @property
    def name(self) -> str:
        """The folder of its runs."""
        mode = "plain" if self.mode == "plain" else "zero3"
        return f"cycle{self.cycle}-{self.model}-{mode}"


def processes(fit_models: Sequence[str] = FIT_MODELS, left_out: str = LEFT_OUT) -> list[Process]:
    """All processes in order; every other cycle backwards, so that no model always meets the same state of the machine."""
    found = []
    for cycle in range(1, CYCLES + 1):
        once = [Process(cycle, model, mode) for model in (*fit_models, left_out) for mode in MODES]
        found += once if cycle % 2 else once[::-1]
    return found


def run_stages(folder: Path, stop_after_s: float | None = None, say: Any = None) -> bool:
    """Measure what is not there yet; False where ``stop_after_s`` ended it before all was.

    Args:
        folder: Of all files.
        stop_after_s: No further stage begins after so many seconds.
        say: Takes a line on what begins.

    Raises:
        LLMPerfError: a run failed.
    """
    say = say or (lambda _text: None)
    folder.mkdir(parents=True, exist_ok=True)
    campaign = Campaign[Process](
        measure=lambda process, _left_s: _measure(process, folder / process.name),
        name=lambda process: f"{process.model}, {process.mode}",
        say=say,
        is_there=lambda process: (folder / process.name / "done").exists(),
        budget_s=math.inf if stop_after_s is None else stop_after_s,
    )
    if not (folder / "microbench.json").exists():
        say(f"microbenchmarks ({MICROBENCH_S:.0f} s)")
        _microbench(folder / "microbench.json")
    return campaign.run_all(processes())


def _microbench(target: Path) -> None:
    """In a process of its own, as the runs are: threads and memory settings are made before torch is imported."""
    script = (
        "import sys; from calibrate.run.microbench import microbench; "
        f"microbench(budget_s={MICROBENCH_S}, out=sys.argv[1])"
    )
    run_python(("-c", script, str(target)), "microbenchmarks")


def _measure(process: Process, folder: Path) -> dict[str, Any]:
    cases = [
        RunSettings(
            model_name=process.model, batch_size=batch, prompt_len=prompt, gen_len=GEN_LEN, dummy=True, loops=LOOPS,
            runs_dir=str(folder), output_file=str(folder / "benchmark.log"), verbose=0, **MODES[process.mode],
        )
        for batch, prompt in WORKLOADS
    ]  # fmt: skip
    for leftover in folder.glob("*.json"):
        leftover.unlink()  # of an interrupted attempt
    folder.mkdir(parents=True, exist_ok=True)
    measure_in_process(cases, SPARE_LOOPS)
    (folder / "done").write_text("")
    return {}


def conclude(folder: Path) -> dict[str, Any]:
    """Fit, write the profile, predict the model that was left out; the figures as one object.

    Raises:
        LLMPerfError: what was measured does not make a fit.
    """
    from calibrate.fit import Calibrator
    from calibrate.fit.profile_file import write_profile
    from calibrate.fit.report import held_out_object
    from calibrate.fit.runs import read_runs

    made = [process for process in processes() if (folder / process.name / "done").exists()]
    paths = {
        process: sorted(
            path for path in (folder / process.name).glob("*.json") if path.name != "benchmark.json"
        )
        for process in made
    }
    fit_on = [path for process in made if process.model in FIT_MODELS for path in paths[process]]
    test_on = [path for process in made if process.model == LEFT_OUT for path in paths[process]]
    if not test_on:
        raise SpecError(f"{folder}: no run of {LEFT_OUT} is there yet")
    inputs = read_runs([folder / "microbench.json", *fit_on])
    tests = read_runs(test_on)
    fitted = Calibrator(inputs.microbench, name=folder.name).fit(inputs.observations)
    profile = write_profile(fitted.profile_, str(folder / f"{folder.name}.yaml"))
    found = held_out_object(fitted, inputs, tests, str(profile))
    (folder / "result.json").write_text(json.dumps(found, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    return found


def _plots(folder: Path, found: dict[str, Any]) -> list[str]:
    """Figures of all accepted runs beside the profile's predictions; one line on stderr says why there are none."""
    import contextlib
    import io

    from llm_perf.cli.main import run

    sources = [row["source"] for row in (*found["rows"], *found["held_out"]["rows"])]
    target = folder / "plots"
    with contextlib.redirect_stdout(io.StringIO()):
        code = run(["compare", *sources, "--profile", found["profile"], "--plot", str(target)])
    return [] if code else [f"Plots: {target}"]


SERVED = "llama_cpp"
"""The engine whose server is observed: the one that needs no packages beside its own programs."""


def observed_lines(folder: Path, say: Any = None) -> list[str]:
    """A served engine, two models of it observed shortly and a third predicted: the table, or why there is none.

    Args:
        folder: Of its files, ``served`` in that of the loop.
        say: Takes a line on what begins.

    Raises:
        LLMPerfError: a server that is there fails.
    """
    from calibrate.run.llama_cpp.build import built

    if built() is None:
        return ["No served engine was observed: llama.cpp is not built here (make llama-cpp)"]
    from calibrate.fit.observe.loop import SHORT, run_loop, table_lines
    from calibrate.run.serve.engines import engines

    found = run_loop(engines()[SERVED], folder / "served", say or (lambda _text: None), SHORT)
    return ["A served engine, observed for a minute:", *table_lines(found)]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the loop in a folder (``runs/calibration``). Returns an exit code."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    folder = Path(given[0] if given else "runs/calibration")

    def work() -> None:
        no_options("python -m calibrate.loop [FOLDER [SECONDS]]", given, 2)
        try:
            stop_after_s = float(given[1]) if len(given) > 1 else None
        except ValueError:
            raise SpecError(f"{given[1]!r} is no number of seconds after which to stop") from None
        require_extra("make calibrate")
        start = time.perf_counter()
        with signals_interrupt(), Progress().shown() as progress:
            whole = run_stages(folder, stop_after_s, progress.say)
            left_s = None if stop_after_s is None else stop_after_s - (time.perf_counter() - start)
            served = observed_lines(folder, progress.say) if whole and (left_s is None or left_s > 0) else []
        if not whole:
            sys.stderr.write("llm-perf: stopped; call it again to go on\n")
            return
        from calibrate.fit.report import held_out_lines

        found = conclude(folder)
        lines = held_out_lines(found) + _plots(folder, found)
        lines += ["", *served] if served else []
        sys.stdout.write("\n".join([*lines, "", f"{time.perf_counter() - start:.0f} s in this call"]) + "\n")

    return exit_code_of(work, "interrupted; call it again to go on")


if __name__ == "__main__":
    sys.exit(main())
