"""The timed steps, and the result made of them."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median
from typing import Any

from calibrate.probe.process import keep_freed_memory
from calibrate.probe.records import SCHEMA_VERSION, finite
from calibrate.probe.usage import (
    DeviceMeter,
    Repeat,
    peak_memory,
    peak_rss_bytes,
    release_unused,
    reset_peak_memory,
    reset_peak_rss,
    rss_bytes,
)
from calibrate.run.metrics import spread
from calibrate.run.train.engine import peaks_of_a_step, random_batches, step_s, training_engine
from calibrate.run.train.prediction import build_train_scenario, errors, predict_run
from calibrate.run.train.probes import TrainProbe, probe_training, warm_up
from calibrate.run.train.session import TrainSession, existing
from llm_perf.counts.flops import training_flops


def measure(session: TrainSession) -> dict[str, Any] | None:
    """Probe, train, and build the result in the first rank."""
    from calibrate.probe.ranks import process_group

    s, device = session.settings, session.device
    with process_group(session.rank, device.backend):
        if session.rank.world_size > 1:
            from calibrate.probe.collective import gather_bytes_per_s
            from calibrate.probe.local_machine import with_gather_rate

            rate = gather_bytes_per_s(session.rank.world_size, device)
            session.machine = with_gather_rate(session.machine, rate)
        held = _in_fresh_arena(_memory, session) if device.kind == "cpu" else {}
        session.progress.say("probing")
        probe = probe_training(session.config, s, session.dtype, device, session.adam_s_per_param)
        session.progress.say("making the model")
        release_unused(device)
        steps, warmup, peak = _train(session)
        if held:  # where what stands for a GPU's memory is that of the process
            peak |= {"allocated_bytes": max(held.values()), "phases": held}
    if not session.rank.first:
        return None
    return _result(session, probe, steps, warmup, peak)


def _in_fresh_arena(
    measured: Callable[[TrainSession], dict[str, int]], session: TrainSession
) -> dict[str, int]:
    """Call in a thread of its own, which allocates from an arena of its own (glibc).

    What describing the machine has freed leaves holes of hundreds of megabytes in the first thread's heap. Their pages are
    given back, but malloc looks there before it maps anything new, and what is freed in the middle of a heap stays with
    the process: a step would seem to hold what it has let go of.
    """
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(measured, session).result()


def _memory(session: TrainSession) -> dict[str, int]:
    """Largest resident memory of this process in each part of a step, and before the model is made; bytes.

    Apart from the timed steps and before the probes, while nothing that was freed is kept: what a step holds is seen as it
    is. A tiny model comes first, so that what libraries load when they are first used is there before.
    """
    s, device = session.settings, session.device
    session.progress.say("measuring memory")
    keep_freed_memory(False)
    warm_up(session.config, s, session.dtype, device)
    release_unused(device)
    session.baseline_bytes = rss_bytes()
    with training_engine(session.config, s, session.dtype, device) as engine:
        batches = random_batches(s, session.config.vocab_size, device, session.rank.rank)
        step_s(engine, batches, device.synchronize)  # makes the optimizer's state
        _barrier(session)
        found = peaks_of_a_step(engine, batches)
    release_unused(device)
    keep_freed_memory(True)
    return {"before": session.baseline_bytes} | found


def _train(session: TrainSession) -> tuple[list[dict[str, Any]], list[dict[str, Any]], dict[str, Any]]:
    """(timed steps, those before, peak memory). Each finished step is in the run file before the next begins."""
    s, device = session.settings, session.device
    timed: list[dict[str, Any]] = []
    before: list[dict[str, Any]] = []
    with training_engine(session.config, s, session.dtype, device) as engine:
        batches = random_batches(s, session.config.vocab_size, device, session.rank.rank)
        meter = DeviceMeter(device)
        for turn in range(-s.warmup, s.steps):
            if turn == 0:
                # The peak of a step, not of making the model.
                reset_peak_memory(device)
                reset_peak_rss()
            session.progress.say(f"step {turn + 1} of {s.steps}" if turn >= 0 else "warming up")
            _barrier(session)
            with Repeat(meter) as repeat:
                seconds, loss = step_s(engine, batches, device.synchronize)
            (timed if turn >= 0 else before).append({"step_s": seconds, "loss": loss, **repeat.found})
            if session.rank.first:
                session.record.save(run=_run_object(session), raw={"steps": timed, "warmup": before})
        peak = peak_memory(device)
    return timed, before, peak


def _barrier(session: TrainSession) -> None:
    if session.rank.world_size > 1:
        import deepspeed.comm as dist

        dist.barrier()


def _result(
    session: TrainSession,
    probe: TrainProbe,
    steps: list[dict[str, Any]],
    warmup: list[dict[str, Any]],
    peak: dict[str, Any],
) -> dict[str, Any]:
    """The JSON object of the run: measured beside predicted, with the error of each."""
    from dataclasses import asdict

    from calibrate.probe.environment import describe_environment

    s, kind = session.settings, session.device.kind
    scenario = build_train_scenario(s, session.model, session.machine, session.dtype, kind, probe)
    prediction = predict_run(scenario, kind, session.baseline_bytes)
    measured = _measured(session, steps, peak)
    result = {
        "schema_version": SCHEMA_VERSION,
        "status": "done",
        "run": _run_object(session),
        "measured": measured,
        "predicted": prediction.as_json(s),
        "error": errors(prediction, measured),
        "run_file": str(session.record.path),
        "raw": {"steps": steps, "warmup": warmup},
        "environment": describe_environment(session.device, session.dtype, existing(Path(s.runs_dir))),
        "machine": {"figures": session.machine.figures, "probe": asdict(probe)},
        "warnings": session.warnings,
    }
    plain: dict[str, Any] = finite(result)
    session.record.save(**plain)
    return plain


def _measured(session: TrainSession, steps: list[dict[str, Any]], peak: dict[str, Any]) -> dict[str, Any]:
    s, gpu = session.settings, session.machine.gpu
    # Of several ranks each takes the others for strangers.
    calm = [step for step in steps if s.ranks > 1 or not step["disturbed"]]
    times = [step["step_s"] for step in (calm if len(calm) >= 3 else steps)]
    latency = median(times)
    energies = [step["energy_j"] for step in steps if step["energy_j"] is not None]
    sequences = s.micro_batch_size * s.gradient_accumulation_steps * s.ranks
    flops = float(training_flops(session.model, sequences, s.seq_len))
    peak_flops = (
        max(gpu.peak_tflops.values()) * 1e12
        if session.device.kind == "cpu"
        else gpu.peak_flops_per_s(gpu.dtype_for(16 if session.dtype != "fp32" else 32))
    )
    return {
        "step": {
            "latency_s": latency,
            "throughput_tokens_per_s": s.tokens_per_step / latency,
            "spread": spread(times),
            "steps_used": len(times),
            "steps_disturbed": len(steps) - len(calm),
        },
        "energy_j_per_step": sum(energies) / len(energies) if energies else None,
        "model_flops_per_s": flops / latency,
        "mfu": flops / latency / (peak_flops * s.ranks),
        "loss": {"first": steps[0]["loss"], "last": steps[-1]["loss"]},
        "peak_gpu_memory_bytes": peak["allocated_bytes"],
        "peak_gpu_memory_reserved_bytes": peak["reserved_bytes"],
        "peak_by_phase_bytes": peak.get("phases"),
        "host_rss_bytes": peak_rss_bytes(),
    }


def _run_object(session: TrainSession) -> dict[str, Any]:
    """The settings as they were in the end."""
    s = session.settings
    return s.model_dump() | {
        "model_name": session.model.name,
        "dtype": session.dtype,
        "device": session.device.kind,
        "ranks": s.ranks,
        "global_batch_size": s.micro_batch_size * s.gradient_accumulation_steps * s.ranks,
    }
