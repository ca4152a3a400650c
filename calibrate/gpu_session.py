"""A session on a GPU machine that is lent for minutes: one command drives a whole step and keeps all raw results.

``python -m calibrate.gpu_session STEP`` with STEP ``resident``, ``offload``, ``nvme`` or ``all`` of them in one budget. Every
case is a process of its own. Its time is estimated from the prediction, put right by the cases that have been run, and a case
that would not end within the budget is dropped and said so. Results are appended to ``OUT/STEP.jsonl`` as soon as there are
some.
"""

from __future__ import annotations

import itertools
import json
import re
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from calibrate.probe.own_process import exit_code_of, run_cli
from calibrate.run.campaign import Campaign
from calibrate.run.default_model import SECONDS_PER_GIB
from llm_perf.config.loading import get_gpu_config_by_name
from llm_perf.errors import EnvironmentFailure, SpecError

START_S = 20.0
"""Imports, probes and CUDA's start before a case's own work; a cautious round figure."""
MARGIN_S = 20.0
"""What a case may take beyond the budget that is left before it is interrupted."""

STEPS = {"resident": 0.3, "offload": 0.45, "nvme": 0.25}
"""The steps, and which share of a budget for all of them each may take; what one leaves the next ones have."""
ALL_S = 840.0
"""Seconds for all steps: a machine that is lent for a quarter of an hour, less its start."""

MODELS = ("opt-1.3b", "opt-6.7b", "opt-13b")
LARGE = "opt-30b"
BATCHES = (1, 32, 8)
"""The ends first: they say most, should the budget end early."""


@dataclass(frozen=True, slots=True)
class Case:
    """One run: what it is called in the table and the flags that make it."""

    label: str
    model: str
    batch: int
    gen_len: int
    flags: tuple[str, ...] = ()

    def arguments(self, prompt_len: int, loops: int) -> tuple[str, ...]:
        """The command line of ``llm-perf calibrate --run``."""
        return (
            "--model", self.model, "--dummy", "--no-dummy-on-disk", "--batch-size", str(self.batch),
            "--prompt-len", str(prompt_len), "--gen-len", str(self.gen_len), "--loops", str(loops), *self.flags,
        )  # fmt: skip


_OFFLOADS = (
    ("cpu pinned", ("--cpu-offload",)),
    ("cpu, KV pinned", ("--cpu-offload", "--kv-offload", "--async-kv-offload")),
    ("cpu, 4 bit", ("--cpu-offload", "--quant-bits", "4")),
    ("cpu pageable", ("--cpu-offload", "--no-pin-memory")),
)


def cases(
    step: str, models: tuple[str, ...], batches: tuple[int, ...], gen_len: int | None
) -> Iterator[Case]:
    """The cases of a step, in order of worth.

    Args:
        step: "resident", "offload" or "nvme".
        models: From small to large.
        batches: Total sequences.
        gen_len: Instead of the step's own.
    """
    if step == "resident":
        for batch in batches:
            for model in models:
                yield Case("transformers", model, batch, gen_len or 32, ("--system", "transformers"))
                yield Case("zero-3", model, batch, gen_len or 32)
    elif step == "offload":
        short = gen_len or 8
        for label, flags in _OFFLOADS:
            for batch in batches:
                yield from (Case(label, model, batch, short, flags) for model in models)
        large = (
            ()
            if models != MODELS
            else tuple(Case("cpu pinned", LARGE, b, short, ("--cpu-offload",)) for b in (1, 32))
        )
        yield from large
        # More steps of the same: a check that a step of the short runs is a step.
        yield from (Case("cpu pinned", model, batches[-1], 4 * short, ("--cpu-offload",)) for model in models)
    else:
        for model in models[1:] or models:
            yield from (Case("nvme", model, batch, gen_len or 8, ("--disk-offload",)) for batch in batches)


def predicted_s(case: Case, gpu: str | None, prompt_len: int, loops: int) -> float:
    """Seconds of a case by prediction; its start alone where the GPU is not bundled."""
    if gpu is None:
        return START_S
    from llm_perf.analysis.inference import predict_inference
    from llm_perf.analysis.request import InferenceInputs, build_scenario
    from llm_perf.counts.parameters import total_params

    flags = case.flags
    scenario = build_scenario(
        InferenceInputs(
            model=case.model, gpu=gpu, ds_zero=0 if "transformers" in flags else 3, batch_size=case.batch,
            prompt_len=prompt_len, gen_len=case.gen_len, cpu_offload="--cpu-offload" in flags,
            disk_offload="--disk-offload" in flags, kv_offload="--kv-offload" in flags,
            quant_bits=4 if "--quant-bits" in flags else None, pin_memory="--no-pin-memory" not in flags,
        )
    )  # fmt: skip
    loading = SECONDS_PER_GIB * 2 * float(total_params(scenario.model)) / 2**30
    return START_S + loading + (loops + 1) * predict_inference(scenario).total_latency_s


class Session(Campaign[Case]):
    """One step: its budget, how estimates have turned out, and where results go."""

    def __init__(
        self, out: Path, step: str, budget_s: float, gpu: str | None, prompt_len: int, loops: int
    ) -> None:
        self.file = out / f"{step}.jsonl"

        def measured(case: Case, left_s: float) -> dict[str, Any]:
            with tempfile.TemporaryDirectory(prefix="llm-perf-") as folder:
                places = (
                    "--runs-dir", folder, "--log-file", f"{folder}/log", "--offload-dir",
                    f"{folder}/offload",
                )  # fmt: skip
                return run_cli(*case.arguments(prompt_len, loops), *places, timeout_s=left_s + MARGIN_S)

        def keep(case: Case, found: dict[str, Any]) -> None:
            named = {"label": case.label, "arguments": case.arguments(prompt_len, loops)}
            with self.file.open("a", encoding="utf-8") as stream:
                stream.write(json.dumps({"case": named, **found}, allow_nan=False) + "\n")

        super().__init__(
            measured,
            name=lambda case: f"{case.label}, {case.model}, batch {case.batch}",
            say=lambda text: sys.stderr.write(f"{text}\n"),
            keep=keep,
            estimate_s=lambda case: predicted_s(case, gpu, prompt_len, loops),
            budget_s=budget_s,
            goes_on=True,
        )

    def table(self) -> list[str]:
        """One line per case: seconds and GiB, measured and the error of the prediction."""
        lines = [
            f"{'case':<15}{'model':<10}{'batch':>5}{'prefill':>9}{'error':>7}{'token':>9}{'error':>7}{'peak':>8}{'error':>7}"
        ]
        for case, found in self.done:
            start = f"{case.label:<15}{case.model:<10}{case.batch:>5}"
            if found["status"] != "done":
                lines.append(f"{start}  {found['status']}: {found['reason'][-40:]}")
                continue
            measured, error = found["measured"], found["error"]
            lines.append(
                f"{start}{_number(measured['prefill']['latency_s']):>9}{_percent(error['prefill_latency']):>7}"
                f"{_number(measured['decode']['latency_per_token_s']):>9}{_percent(error['decode_latency']):>7}"
                f"{measured['peak_gpu_memory_bytes'] / 2**30:>8.2f}{_percent(error['peak_gpu_memory']):>7}"
            )
        return lines


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{value:+.0%}"


def budgets(step: str, budget_s: float) -> dict[str, float]:
    """Seconds of each step that ``step`` stands for."""
    shares = STEPS if step == "all" else {step: 1.0}
    return {name: share * budget_s for name, share in shares.items()}


def in_turn(planned: Sequence[Case]) -> list[Case]:
    """The first case of each kind, then the second of each: what a short budget cuts off are sizes and not kinds."""
    kinds: dict[str, list[Case]] = {}
    for case in planned:
        kinds.setdefault(case.label, []).append(case)
    rounds = itertools.zip_longest(*kinds.values())
    return [case for one in rounds for case in one if case is not None]


def rehearsed(
    step: str, planned: Sequence[Case], budget_s: float, gpu: str | None, prompt_len: int, loops: int
) -> tuple[list[str], float]:
    """What a step would run and what it would drop, by prediction alone; and the seconds that it would take."""
    lines, spent = [f"{step}: {budget_s:.0f} s"], 0.0
    for case in planned:
        seconds = predicted_s(case, gpu, prompt_len, loops)
        fits = spent + seconds <= budget_s
        said = (
            f"about {seconds:.0f} s"
            if fits
            else f"dropped: {seconds:.0f} s by estimate, {budget_s - spent:.0f} s left"
        )
        lines.append(f"  {case.label:<15}{case.model:<10}{case.batch:>5}  {said}")
        spent += seconds * fits
    return lines, spent


def not_run() -> list[str]:
    """What a session on a GPU would measure beside these steps or in them, and why it does not here."""
    from importlib.util import find_spec

    lines = [
        f"not run: {what}: {package} is not installed"
        for package, what in (
            ("torch", "every case"), ("transformers", "plain transformers"), ("deepspeed", "ZeRO-3, offload and NVMe"),
        )
        if find_spec(package) is None
    ]  # fmt: skip
    served = [name for name in ("vllm", "sglang") if find_spec(name) is not None]
    if served:
        return [
            *lines,
            f"not run: a served engine: start {served[0]} yourself and watch it with calibrate observe",
        ]
    return [*lines, "not run: a served engine: neither vllm nor sglang is installed"]


def this_gpu() -> tuple[str | None, str]:
    """(name of the bundled GPU that is in this machine, name for the folder of its results)."""
    from calibrate.probe.environment import cpu_name, nvidia_smi
    from calibrate.probe.local_machine import known_gpu

    found = nvidia_smi("name", "memory.total")
    if found is None:
        return None, _slug(cpu_name())
    name, _, memory = found.splitlines()[0].partition(",")
    mib = re.search(r"\d+", memory)
    known = known_gpu(name.strip(), int(mib[0]) / 1024 if mib else 0.0)
    return (known.name if known else None), _slug(name)


def _slug(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


@click.command()
@click.argument("step", type=click.Choice((*STEPS, "all")))
@click.option("--out", help="Folder of the results.  [default: calibrate/measurements/<this machine>]")
@click.option(
    "--budget-s", type=float, help=f"Seconds for the whole step.  [default: 540; of all: {ALL_S:.0f}]"
)
@click.option("--models", default=",".join(MODELS), show_default=True, help="From small to large.")
@click.option("--batches", default=",".join(map(str, BATCHES)), show_default=True)
@click.option("--prompt-len", type=int, default=512, show_default=True)
@click.option("--gen-len", type=int, help="Instead of the step's own.")
@click.option("--loops", type=int, default=3, show_default=True)
@click.option(
    "--dry-run", is_flag=True, help="Print what would be run and dropped, by prediction, and run nothing."
)
@click.option("--gpu", "asked_gpu", help="GPU of a dry run, where this machine has none.")
def main(
    step: str,
    out: str | None,
    budget_s: float | None,
    models: str,
    batches: str,
    prompt_len: int,
    gen_len: int | None,
    loops: int,
    dry_run: bool,
    asked_gpu: str | None,
) -> None:
    """Measure one STEP of a session on this machine, or all of them."""

    def work() -> None:
        if asked_gpu is not None and not dry_run:
            raise SpecError("--gpu is of a --dry-run: a session measures the GPU that is here")
        gpu, machine = this_gpu() if asked_gpu is None else (get_gpu_config_by_name(asked_gpu).name, "")
        whole = budget_s if budget_s is not None else ALL_S if step == "all" else 540.0
        planned = {
            name: list(cases(name, tuple(models.split(",")), _batches(batches), gen_len))
            for name in budgets(step, whole)
        }
        if step == "all":
            planned = {name: in_turn(one) for name, one in planned.items()}
        if dry_run:
            _rehearse(step, planned, whole, gpu, prompt_len, loops)
            return
        folder = Path(out) if out is not None else Path(__file__).parent / "measurements" / machine
        folder.mkdir(parents=True, exist_ok=True)
        _measure(step, planned, whole, folder, gpu, prompt_len, loops)

    sys.exit(exit_code_of(work))


def _batches(listed: str) -> tuple[int, ...]:
    try:
        return tuple(map(int, listed.split(",")))
    except ValueError:
        raise SpecError(f"--batches {listed!r}: expected whole numbers with commas between them") from None


def _rehearse(
    step: str, planned: dict[str, list[Case]], whole_s: float, gpu: str | None, prompt_len: int, loops: int
) -> None:
    """Print the plan of a budget."""
    lines, saved = [f"on {gpu or 'a GPU that is not bundled: starts alone are counted'}, nothing is run"], 0.0
    for name, budget_s in budgets(step, whole_s).items():
        shown, spent = rehearsed(name, planned[name], budget_s + saved, gpu, prompt_len, loops)
        saved += budget_s - spent
        lines += shown
    lines += [*not_run(), f"in all: {whole_s - saved:.0f} of {whole_s:.0f} s"]
    sys.stdout.write("\n".join(lines) + "\n")


def _measure(
    step: str,
    planned: dict[str, list[Case]],
    whole_s: float,
    folder: Path,
    gpu: str | None,
    prompt_len: int,
    loops: int,
) -> None:
    """Run the steps one after another; what one leaves of its budget the next ones have.

    Raises:
        EnvironmentFailure: no case was measured.
    """
    saved, done = 0.0, 0
    for name, budget_s in budgets(step, whole_s).items():
        session = Session(folder, name, budget_s + saved, gpu, prompt_len, loops)
        try:
            session.run_all(planned[name])
        finally:
            sys.stdout.write("\n".join([*session.table(), f"raw results: {session.file}"]) + "\n")
        saved = session.left_s
        done += sum(found["status"] == "done" for _, found in session.done)
    sys.stdout.write("\n".join(not_run()) + "\n")
    if not done:
        raise EnvironmentFailure("no case was measured")


def run(arguments: Sequence[str] | None = None) -> int:
    """The command, to whom a wrong word is one line. Returns the exit code."""

    def work() -> None:
        try:
            main.main(args=arguments, prog_name="python -m calibrate.gpu_session", standalone_mode=False)
        except click.ClickException as error:
            raise SpecError(error.format_message()) from None

    return exit_code_of(work)


if __name__ == "__main__":
    sys.exit(run())
