"""``llm-perf calibrate microbench --system llama_cpp``: the probe, a file of its samples, and the profile it makes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from calibrate.fit.llama_cpp import profile_of
from calibrate.fit.profile_file import check_target, write_profile
from calibrate.fit.refit import require_scipy
from calibrate.probe.environment import describe_machine, usable_cores
from calibrate.probe.process import signals_interrupt
from calibrate.probe.progress import Progress
from calibrate.probe.records import RunRecord, finite, measuring
from calibrate.run.llama_cpp.build import LlamaCpp, required
from calibrate.run.llama_cpp.probe import Probe, run_probe
from calibrate.run.session import check_outputs, plain_errors
from calibrate.run.settings import DEFAULT_OFFLOAD_DIR
from llm_perf.config import files

DEFAULT_NAME = "llama-cpp-here"


def microbench_llama_cpp(
    out: str | None = None,
    offload_dir: str = DEFAULT_OFFLOAD_DIR,
    runs_dir: str = "runs",
    allow_concurrent: bool = False,
) -> dict[str, Any]:
    """Probe this machine and write the profile.

    Args:
        out: The profile's file; None puts it under its name into the user's folder.
        offload_dir: Folder in which the probe's models are made, and removed.
        runs_dir: Folder for the raw samples.
        allow_concurrent: Although another run measures here.

    Returns:
        ``profile`` (its file), ``constants``, ``host``, ``residuals``, ``file`` (of the raw samples) and ``probe``.

    Raises:
        LLMPerfError: packages or llama.cpp are missing, a file cannot be written, or llama.cpp fails.
    """
    check_target(out)
    require_scipy("llm-perf calibrate microbench --system llama_cpp")
    check_outputs(runs_dir, str(Path(runs_dir) / "probe.log"))
    programs = required()
    progress = Progress()
    with signals_interrupt(), measuring(allow_concurrent), progress.shown(), plain_errors():
        return probed(programs, out, offload_dir, runs_dir, progress.say)


def probed(
    programs: LlamaCpp, out: str | None, offload_dir: str, runs_dir: str, say: Callable[[str], object]
) -> dict[str, Any]:
    """The probe and its files; see ``microbench_llama_cpp``."""
    return fitted_probe(run_probe(programs, offload_dir, say), programs, out, runs_dir, say)


def fitted_probe(
    probe: Probe, programs: LlamaCpp, out: str | None, runs_dir: str, say: Callable[[str], object]
) -> dict[str, Any]:
    """The files of a probe that was measured; see ``microbench_llama_cpp``."""
    record = RunRecord(Path(runs_dir), "llama_cpp-probe")
    environment = describe_machine(usable_cores(), Path(runs_dir)) | {"llama_cpp": programs.facts}
    record.save(kind="llama_cpp probe", status="measured", environment=environment, probe=probe.as_dict())
    say("fitting")
    name = DEFAULT_NAME if out is None else files.expanded(out).stem
    profile = profile_of(probe, programs.facts, name)
    path = write_profile(profile, out)
    result: dict[str, Any] = finite(
        {
            "schema_version": 1,
            "kind": "llama_cpp probe",
            "status": "done",
            "profile": str(path),
            "constants": profile.system_constants,
            "host": profile.host,
            "residuals": profile.provenance["residuals"],
            "environment": environment,
            "probe": probe.as_dict(),
            "file": str(record.path),
        }
    )
    record.save(**result)
    return result


def probe_lines(found: dict[str, Any]) -> list[str]:
    """The probe for people: rates by threads, what was fitted, how far the fit is from the times."""
    stream = ", ".join(
        f"{float(rate) / 1e9:.1f} GB/s with {threads}"
        for threads, rate in found["probe"]["stream_bytes_per_s"].items()
    )
    lines = [
        f"probe of {found['environment']['cpu']['name']}, {found['environment']['cpu']['usable_cores']} cores: "
        f"{found['probe']['rounds']} rounds in {found['probe']['seconds']:.0f} s",
        f"plain reads of memory: {stream} threads",
        f"{'model':<14}{'format':<8}{'threads':>7}{'depth':>6}{'ms per token':>14}"
        f"{'spread':>8}{'prompt, ms':>12}{'spread':>8}",
    ]
    for run in found["probe"]["runs"]:
        token, prompt = run["quiet_s"]["decode"], run["quiet_s"]["prefill"]
        apart = {phase: "-" if value is None else f"{value:.0%}" for phase, value in run["spread"].items()}
        lines.append(
            f"{run['model']:<14}{run['weight_format']:<8}{run['threads']:>7}{run['depth']:>6}{1e3 * token:>14.2f}"
            f"{apart['decode']:>8}{f'{1e3 * prompt:.1f}' if prompt else '-':>12}{apart['prefill']:>8}"
        )
    values = [
        *((f"host.{name}", value) for name, value in found["host"].items()),
        *((name, value) for constants in found["constants"].values() for name, value in constants.items()),
    ]
    lines += ["fitted:", *(f"  {name:<30}{value:.4g}" for name, value in values)]
    for name, off in found["residuals"].items():
        lines.append(
            f"fit of {name}: median {off['median_abs_error']:.1%}, largest {off['max_abs_error']:.1%} off its own times"
        )
    return lines
