"""How fast the simulator is, as ratios measured in one run: a machine that is slow or busy is slow for both sides.

The other side of each ratio is timed in turns with it: a Python that imports NumPy and PyYAML, llm-analysis, `llm-perf infer`
as a process, a NumPy pass over as many numbers, a Python loop. Only memory is absolute.

    make bench                      the table
    python bench/bench.py --json    one JSON object, raw samples and environment included

Exits with 0, with 1 where a target is missed, with 4 where llm-analysis, the other side of one ratio, cannot be installed.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path

ROOT = Path(__file__).parents[1]
THEIR_VENV = ROOT / ".venv-llm-analysis"
THEIR_VERSION = "llm-analysis==0.2.2"
POINTS = 100_000
LARGE_POINTS = 10_000_000
THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "VECLIB_MAXIMUM_THREADS")
# As Python starts for everybody: where it may not write bytecode, it compiles all of ours in every process.
ENVIRONMENT = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
ENVIRONMENT |= dict.fromkeys(THREADS, "1")

COMMAND = ("infer", "--model", "opt-30b", "--gpu", "t4", "--ds-zero", "3", "--json")
THEIR_CODE = """
import logging, time
logging.disable(logging.CRITICAL)
from llm_analysis.analysis import LLMAnalysis
from llm_analysis.config import (
    ParallelismConfig, get_dtype_config_by_name, get_gpu_config_by_name, get_model_config_by_name)
analysis = LLMAnalysis(
    get_model_config_by_name("facebook_opt-13b"), get_gpu_config_by_name("a100-sxm-40gb"),
    get_dtype_config_by_name("w16a16e16"), ParallelismConfig(tp_size=2))
def call():
    analysis.inference(batch_size_per_gpu=4, seq_len=512, num_tokens_to_generate=32)
"""
OUR_CODE = """
import time
from llm_perf.analysis.inference import predict_inference
from llm_perf.analysis.request import InferenceInputs, build_scenario
scenario = build_scenario(InferenceInputs(model="opt-13b", gpu="a100-sxm-40gb", tp_size=2, batch_size=4))
def call():
    predict_inference(scenario).max_batch_size  # theirs says it too
"""
MEDIAN_OF_CALLS = """
times = []
for _ in range(500):
    start = time.perf_counter()
    call()
    times.append(time.perf_counter() - start)
print(sorted(times)[len(times) // 2])
"""
# Seconds of one pass over a number (an exponential, a product, a sum) that is in memory, and of a turn of a Python loop.
PASS_CODE = """
import time
import numpy as np
def pass_s(clock):
    numbers = np.linspace(0, 1, 4_000_000)
    start = clock()
    (np.exp(numbers) * numbers + numbers).sum()
    return (clock() - start) / len(numbers)
def loop_s():
    start, held = time.process_time(), {}
    for turn in range(1_000_000):
        held[turn & 1023] = turn
    return (time.process_time() - start) / 1_000_000
"""
SWEEP_CODE = (
    PASS_CODE
    + """
import os, sys
if hasattr(os, "sched_setaffinity"):
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
import numpy as np
from llm_perf.analysis.request import InferenceInputs, build_scenario
from llm_perf.analysis.sweep import sweep_inference
system, points = sys.argv[1], int(sys.argv[2])
scenario = build_scenario(InferenceInputs(model="opt-13b", gpu="a100-sxm-40gb", system=system))
random = np.random.default_rng(1)
axes = random.integers(1, 257, points), random.integers(1, 1537, points), random.integers(1, 513, points)
sweep_inference(scenario, *(axis[:1000] for axis in axes))
before = pass_s(time.process_time)
start = time.process_time()
assert len(sweep_inference(scenario, *axes)) == points
seconds = time.process_time() - start
print(seconds / points / min(before, pass_s(time.process_time)))
"""
)

LARGE_CODE = (
    PASS_CODE
    + '''
import os, sys
from llm_perf.search.executors import get_executor
from llm_perf.search.sweep import MEASURES, Sweep

def resident_bytes():
    """Memory of this process and its descendants."""
    parents, sizes = {}, {}
    for name in os.listdir("/proc") if os.path.isdir("/proc") else []:
        try:
            fields = open(f"/proc/{name}/stat").read().rsplit(")", 1)[1].split() if name.isdigit() else []
        except OSError:
            continue
        if fields:
            parents[int(name)], sizes[int(name)] = int(fields[1]), int(fields[21]) * os.sysconf("SC_PAGE_SIZE")
    ours = {os.getpid()}
    while grown := {pid for pid, parent in parents.items() if parent in ours} - ours:
        ours |= grown
    return sum(sizes.get(pid, 0) for pid in ours)

def main():
    system, points, cores = sys.argv[1], int(sys.argv[2]), sys.argv[3]
    gpus = ("a100-sxm-80gb", "h100-sxm-80gb", "h200", "l40s")
    gen = max(points // (len(gpus) * 250 * 100), 1)
    sweep = Sweep({"model": ("opt-13b",), "gpu": gpus, "system": (system,), "batch_size": tuple(range(1, 251)),
                   "prompt_len": tuple(range(8, 808, 8)), "gen_len": tuple(range(1, gen + 1))})
    assert len(sweep) == points, len(sweep)
    before = pass_s(time.perf_counter)
    start, done, fit, peak = time.perf_counter(), 0, 0, 0
    for chunk, columns in get_executor(f"processes:{cores}")(sweep, range(sweep.chunks)):
        assert set(MEASURES) < set(columns)
        done, fit = done + len(columns["feasible"]), fit + int(columns["feasible"].sum())
        peak = max(peak, resident_bytes()) if chunk % 8 == 0 else peak
    seconds = time.perf_counter() - start
    assert done == points and fit > 0
    print(peak)
    print(seconds)
    print(min(before, pass_s(time.perf_counter)))

if __name__ == "__main__":
    main()
'''
)
SERVICE_PLAN = (
    "plan", "--model", "llama-3.1-70b", "--rate", "6", "--target", "p95 ttft<1s, p95 tpot<50ms", "--weight-format", "fp8",
)  # fmt: skip
PLAN = (
    "plan",
    "--model",
    "llama-2-70b",
    "--target",
    "tpot<50ms, ttft<1s",
    "--objective",
    "gpus",
    "--quant-bits",
    "16,8,4",
    "--json",
)

# A point in passes of NumPy over a number, a request in turns of a Python loop: twice what was measured on a busy machine.
# On two cores a point may take what it takes on one, processes included.
SWEEP_PASSES = {"resident": 350, "zero_inference": 480}
LARGE_PASSES = {"resident": 350, "zero_inference": 480, "flexgen": 15 * 350}
REQUEST_TURNS, STEADY_PASSES = 1200, 950

REQUESTS = 100_000
REQUESTS_CODE = (
    PASS_CODE
    + """
import os, resource, sys
if hasattr(os, "sched_setaffinity"):
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
import numpy as np
from llm_perf.analysis.request import InferenceInputs, build_scenario
from llm_perf.requests.simulate import simulate
from llm_perf.requests.steady import SteadyState
from llm_perf.requests.workload import Requests
scenario = build_scenario(InferenceInputs(model="llama-3.1-8b", gpu="h100-sxm-80gb", system="vllm"))
random, count = np.random.default_rng(1), int(sys.argv[1])
state = SteadyState(scenario, 8192)
lengths = random.integers(16, 4096, count), random.integers(2, 2048, count)
rate = random.uniform(0.1, 50, count)
start = time.process_time()
state.at(*lengths, rate=rate)
closed_form = count / (time.process_time() - start)
knee = 4000 / simulate(scenario, Requests.of(np.zeros(4000), 512, 128)).finished_s.max()
requests = Requests.of(np.cumsum(random.exponential(1 / (0.9 * knee), count)), 512, 128)
start = time.process_time()
found = simulate(scenario, requests)
seconds = time.process_time() - start
assert (found.status == 0).all()
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
print(1 / closed_form / pass_s(time.process_time), peak, seconds / count / loop_s())
"""
)
SIMULATE = (
    "simulate", "--model", "llama-3.1-8b", "--gpu", "h100-sxm-80gb", "--rate", "10", "--num-requests", "300",
    "--json",
)  # fmt: skip


class CannotInstallError(Exception):
    """llm-analysis cannot be installed here."""


@dataclass
class Figure:
    """One figure: a median with the samples that it is of, and what it has to reach."""

    name: str
    value: float | None
    unit: str
    target: float
    at_most: bool
    samples: dict[str, list[float]] = field(default_factory=dict)
    note: str = ""

    @property
    def met(self) -> bool:
        """Whether the target is reached; not where there is no figure."""
        if self.value is None:
            return False
        return self.value <= self.target if self.at_most else self.value >= self.target


def main() -> int:
    """Measure everything, print it, and say whether all targets are met."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--rounds", type=int, default=15, help="rounds of each measurement (default 15)")
    arguments = parser.parse_args()
    figures = [start_up(arguments.rounds), prediction(arguments.rounds)]
    figures += [sweep(system, arguments.rounds) for system in ("resident", "zero_inference")]
    rates: dict[str, float] = {}
    for system, points in (
        ("resident", LARGE_POINTS),
        ("zero_inference", LARGE_POINTS // 10),
        ("flexgen", LARGE_POINTS // 10),
    ):
        figures += large_sweep(system, points, figures[1], rates)
    for name, command, target in (
        ("llm-perf plan over all GPUs", PLAN, 6.0),
        ("llm-perf plan over all GPUs for a rate", SERVICE_PLAN, 6.0),
        ("llm-perf simulate of 300 requests", SIMULATE, 3.0),
    ):
        figures.append(beside_infer(name, command, target, arguments.rounds))
    figures += requests()
    if arguments.json:
        shown = [asdict(figure) | {"met": figure.met} for figure in figures]
        print(json.dumps({"schema_version": 1, "environment": environment(), "figures": shown}))
    else:
        print_table(figures)
    if any(figure.value is not None and not figure.met for figure in figures):
        return 1
    return 4 if any(figure.value is None for figure in figures) else 0


# -- the measurements -----------------------------------------------------------------------------------------


def start_up(rounds: int) -> Figure:
    """A whole prediction as a process, beside a Python that only imports what the prediction cannot do without."""
    program = Path(sys.executable).with_name("llm-perf")
    ours = [str(program), *COMMAND]
    theirs = [sys.executable, "-c", "import numpy, yaml"]
    samples = interleaved(rounds, {"llm_perf_s": lambda: spent_s(ours), "imports_s": lambda: spent_s(theirs)})
    value = statistics.median(samples["llm_perf_s"]) / statistics.median(samples["imports_s"])
    return Figure("llm-perf infer --json / python -c 'import numpy, yaml'", value, "x", 4.0, True, samples)


def prediction(rounds: int) -> Figure:
    """One prediction in a process that is already running, beside llm-analysis' inference() of the same question."""
    figure = Figure("predict_inference / LLMAnalysis.inference", None, "x", 5.0, True)
    try:
        python = their_python()
    except CannotInstallError as error:
        figure.note = str(error)
        return figure
    ours = [sys.executable, "-c", OUR_CODE + MEDIAN_OF_CALLS]
    theirs = [str(python), "-c", THEIR_CODE + MEDIAN_OF_CALLS]
    both = {"llm_perf_s": lambda: printed(ours), "llm_analysis_s": lambda: printed(theirs)}
    figure.samples = interleaved(max(rounds // 3, 1), both)
    figure.value = statistics.median(figure.samples["llm_perf_s"]) / statistics.median(
        figure.samples["llm_analysis_s"]
    )
    return figure


def sweep(system: str, rounds: int) -> Figure:
    """Workloads of one model on one GPU as arrays, on one core: how many NumPy passes a point costs."""
    command = [sys.executable, "-c", SWEEP_CODE, system, str(POINTS)]
    samples = interleaved(max(rounds // 3, 1), {"passes": lambda: printed(command)})
    name = f"sweep of {POINTS:,} points, {system}, one core"
    return Figure(name, statistics.median(samples["passes"]), "passes", SWEEP_PASSES[system], True, samples)


def large_sweep(system: str, points: int, call: Figure, rates: dict[str, float]) -> list[Figure]:
    """A sweep over GPUs and all workloads on two cores: what a point costs, its memory, how many calls of llm-analysis it is.

    A point is a whole prediction that arrives in this process: memory, both phases, feasibility. ``rates`` takes points/s.
    """
    with tempfile.TemporaryDirectory() as folder:
        script = Path(folder) / "large.py"  # worker processes import it
        script.write_text(LARGE_CODE, encoding="utf-8")
        command = [sys.executable, str(script), system, str(points), "2"]
        peaks, per_s, passes = [], [], []
        for _ in range(3):
            done = subprocess.run(command, capture_output=True, text=True, check=True, env=ENVIRONMENT)
            peak, seconds, pass_s = map(float, done.stdout.split()[-3:])
            peaks.append(peak)
            per_s.append(points / seconds)
            passes.append(seconds / points / pass_s)
    rates[system] = statistics.median(per_s)
    name = f"sweep of {points:,} points, {system}, two cores"
    samples = {"passes": passes, "points_per_s": per_s}
    found = [Figure(name, statistics.median(passes), "passes", LARGE_PASSES[system], True, samples)]
    if system == "resident":
        found.append(
            Figure("  its memory, all processes", max(peaks) / 2**30, "GiB", 2.0, True, {"bytes": peaks})
        )
        theirs = call.samples.get("llm_analysis_s")
        ratio = rates[system] * statistics.median(theirs) if theirs else None
        note = "" if theirs else call.note
        found.append(Figure("  its points / LLMAnalysis.inference calls", ratio, "x", 200, False, note=note))
    else:
        share = rates[system] / rates["resident"]
        found.append(Figure("  its points/s / resident's", share, "x", 1 / 15, False))
    return found


def beside_infer(name: str, words: tuple[str, ...], target: float, rounds: int) -> Figure:
    """A command as a process beside one prediction as a process."""
    program = str(Path(sys.executable).with_name("llm-perf"))
    both = {"command_s": lambda: spent_s([program, *words]), "infer_s": lambda: spent_s([program, *COMMAND])}
    samples = interleaved(max(rounds // 3, 1), both)
    value = statistics.median(samples["command_s"]) / statistics.median(samples["infer_s"])
    return Figure(f"{name} / infer", value, "x", target, True, samples)


def requests() -> list[Figure]:
    """Requests through an engine, 512 + 128 tokens at 90 % of what it serves, and the closed form, on one core."""
    command = [sys.executable, "-c", REQUESTS_CODE, str(REQUESTS)]
    passes, peaks, turns = [], [], []
    for _ in range(3):
        done = subprocess.run(command, capture_output=True, text=True, check=True, env=ENVIRONMENT)
        for samples, value in zip((passes, peaks, turns), done.stdout.split()[-3:], strict=True):
            samples.append(float(value))
    name = f"simulation of {REQUESTS:,} requests, one core"
    return [
        Figure(name, statistics.median(turns), "turns", REQUEST_TURNS, True, {"turns": turns}),
        Figure("  its memory", max(peaks) / 2**30, "GiB", 1.0, True, {"bytes": peaks}),
        Figure(
            "  its steady state", statistics.median(passes), "passes", STEADY_PASSES, True, {"passes": passes}
        ),
    ]


def interleaved(rounds: int, measurements: dict[str, Callable[[], float]]) -> dict[str, list[float]]:
    """Samples taken in turns, so that whatever else the machine does disturbs all alike. The first turn warms up."""
    samples: dict[str, list[float]] = {name: [] for name in measurements}
    for turn in range(rounds + 1):
        for name, measure in measurements.items():
            value = measure()
            if turn > 0:
                samples[name].append(value)
    return samples


def spent_s(command: list[str]) -> float:
    """Seconds of the processor that a process takes, its start included: what waits for a busy machine is not counted."""
    before = os.times()
    subprocess.run(command, stdout=subprocess.DEVNULL, check=True, env=ENVIRONMENT)
    after = os.times()
    return after.children_user + after.children_system - before.children_user - before.children_system


def printed(command: list[str]) -> float:
    """The number that a process prints last."""
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=ENVIRONMENT)
    return float(done.stdout.split()[-1])


# -- the other side -------------------------------------------------------------------------------------------


def their_python() -> Path:
    """Python of an environment with llm-analysis, which is made once.

    Raises:
        CannotInstallError: no package index, or no wheels for this Python.
    """
    python = THEIR_VENV / ("Scripts" if os.name == "nt" else "bin") / "python"
    check = [str(python), "-c", "import llm_analysis.analysis"]
    if python.exists() and subprocess.run(check, capture_output=True, check=False).returncode == 0:
        return python
    print(f"Setting up {THEIR_VENV.name} with {THEIR_VERSION}, once: about a minute.", file=sys.stderr)
    pip = [
        str(python),
        "-m",
        "pip",
        "install",
        "-qq",
        "--disable-pip-version-check",
        "--only-binary",
        "tokenizers",
    ]
    for step in ([sys.executable, "-m", "venv", "--clear", str(THEIR_VENV)], [*pip, THEIR_VERSION], check):
        done = subprocess.run(step, capture_output=True, text=True, check=False)
        if done.returncode:
            reason = (done.stderr.strip().splitlines() or ["no message"])[-1]
            raise CannotInstallError(f"{THEIR_VERSION} cannot be installed: {reason}")
    return python


# -- the report -----------------------------------------------------------------------------------------------


def print_table(figures: list[Figure]) -> None:
    """One line per figure."""
    for figure in figures:
        sign, verdict = ("≤" if figure.at_most else "≥"), ("ok" if figure.met else "MISSED")
        value = "-" if figure.value is None else shown(figure.value, figure.unit)
        print(f"{figure.name:<56} {value:>18}  {sign} {shown(figure.target, figure.unit):<17} {verdict}")
        if figure.note:
            print(f"    {figure.note}")


def shown(value: float, unit: str) -> str:
    """A ratio with two decimals, a rate or a large one without."""
    return f"{value:,.0f} {unit}" if unit == "points/s" or value >= 100 else f"{value:.2f} {unit}"


def environment() -> dict[str, str | int | None]:
    """What the figures depend on."""
    import numpy

    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    return {
        "python": platform.python_version(),
        "numpy": numpy.__version__,
        "machine": platform.machine(),
        "processor": processor(),
        "cores": os.cpu_count(),
        "load": None if load is None else f"{load:.1f}",
    }


def processor() -> str:
    """Name of the processor."""
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next(
        (line.partition(":")[2].strip() for line in lines if line.startswith("model name")),
        platform.machine(),
    )


if __name__ == "__main__":
    sys.exit(main())
