"""The JSON object of a run: measured beside predicted, with the error of each."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from calibrate.probe.environment import describe_environment
from calibrate.probe.records import SCHEMA_VERSION, finite
from calibrate.probe.tensors import BYTES
from calibrate.run.measurement import Measured, run_object
from calibrate.run.metrics import phases, utilisation
from calibrate.run.prediction import Prediction, build_run_scenario, errors, predict_run
from calibrate.run.session import Session
from llm_perf.report.benchmark_log import cache_bytes, hidden_bytes, model_bytes, write_benchmark_log
from llm_perf.systems.footprint import model_weight_bytes


def build_result(
    session: Session, measured: Measured, overhead: Any, unpack_s: float | None
) -> dict[str, Any]:
    """Put the result together, append it to the benchmark log, and finish the run file.

    Raises:
        OutputError: log or run file cannot be written.
    """
    s = session.settings
    found = phases(s, measured.loops)
    scenario = build_run_scenario(
        s,
        session.model,
        session.machine,
        session.dtype,
        session.device.kind,
        session.largest_param,
        overhead,
        unpack_s,
    )
    prediction = predict_run(scenario, session.device.kind, session.baseline_bytes)
    found |= _usage(session, measured, found, prediction)
    log = _write_log(session, found)
    result = {
        "schema_version": SCHEMA_VERSION,
        "status": "done",
        "run": run_object(session),
        "measured": found,
        "predicted": prediction.as_json(s),
        "error": errors(prediction, found),
        "benchmark_log": log,
        "predicted_benchmark_log": prediction.benchmark_log,
        "log_file": session.log_file,
        "run_file": str(session.record.path),
        "raw": {
            "loops": measured.loops,
            "warmup": measured.warmup,
            "tokens": measured.tokens,
            "text": measured.text,
            "ranks": measured.ranks,
        },
        "environment": describe_environment(session.device, session.dtype, session.folder),
        "machine": _machine(session, overhead, unpack_s),
        "warnings": _warnings(session, found),
    }
    plain: dict[str, Any] = finite(result)
    session.record.save(**plain)
    return plain


def _usage(
    session: Session, measured: Measured, found: dict[str, Any], prediction: Prediction
) -> dict[str, Any]:
    """Memory, bytes, rates and utilisation."""
    s, gpu = session.settings, session.machine.gpu
    step = found["decode"]["latency_per_token_s"]
    streamed = _streamed(session, measured)
    h2d = streamed["h2d_bytes_per_pass"] + _kv_bytes_per_step(measured)
    dtype = gpu.dtype_for(8 * BYTES[session.dtype])
    energies = [rank["energy_j_per_loop"] for rank in measured.ranks if rank["energy_j_per_loop"] is not None]
    reads = [loop["disk_read_bytes"] for loop in measured.loops if loop["disk_read_bytes"] is not None]
    return {
        "peak_gpu_memory_bytes": max(rank["peak_allocated_bytes"] for rank in measured.ranks),
        "peak_gpu_memory_reserved_bytes": max(
            (rank["peak_reserved_bytes"] for rank in measured.ranks if rank["peak_reserved_bytes"] is not None),
            default=None,
        ),
        "host_rss_bytes": sum(rank["peak_rss_bytes"] for rank in measured.ranks),
        "bytes_swapped_to_disk": sum(rank["bytes_swapped_to_disk"] for rank in measured.ranks),
        "disk_read_bytes_per_loop": sum(reads) / len(reads) if reads else None,
        "h2d_bytes_per_decode_step": h2d,
        "h2d_bytes_per_s": h2d / step if step and h2d else None,
        **streamed,
        "kv_cache_host_bytes": measured.kv_host_bytes,
        "quantisation": measured.quantisation,
        "utilisation": utilisation(
            s, session.model, found, gpu.peak_flops_per_s(dtype), gpu.hbm_bandwidth_bytes_per_s,
            model_weight_bytes(prediction.result.scenario), 8 * BYTES[session.dtype],
        ),
        "energy_j_per_loop": sum(energies) if energies else None,
    }  # fmt: skip


def _streamed(session: Session, measured: Measured) -> dict[str, float]:
    """Bytes per forward pass that come to the first rank's device: over its link to the host, from other ranks, from disk."""
    s = session.settings
    passes = s.gen_len * len(measured.loops)
    own, others = (
        sum(loop[name] for loop in measured.loops) / passes
        for name in ("weights_fetched_bytes", "weights_gathered_bytes")
    )
    # On a CPU the shard and the gathered parameter share their memory: nothing crosses a link.
    crosses = session.device.kind == "cuda" and (s.cpu_offload or s.disk_offload)
    return {
        "weights_fetched_bytes_per_pass": own,
        "h2d_bytes_per_pass": own if crosses else 0.0,
        "gathered_bytes_per_pass": others,
        "disk_bytes_per_pass": sum(rank["disk_bytes_per_pass"] for rank in measured.ranks),
    }


def _kv_bytes_per_step(measured: Measured) -> float:
    """Cache bytes that came back to the device, per decode step."""
    steps = sum(len(loop["decode_steps_s"]) for loop in measured.loops)
    return sum(loop["kv_to_device_bytes"] for loop in measured.loops) / steps if steps else 0.0


def _write_log(session: Session, found: dict[str, Any]) -> str:
    s, model = session.settings, session.model
    length = s.prompt_len + s.gen_len
    path = Path(session.log_file)
    return write_benchmark_log(
        path,
        model_bytes(model),
        cache_bytes(model, s.batch_size, length),
        hidden_bytes(model, s.batch_size, length),
        found["peak_gpu_memory_bytes"],
        found["prefill"]["latency_s"],
        found["prefill"]["throughput_tokens_per_s"],
        found["decode"]["latency_s"],
        found["decode"]["throughput_tokens_per_s"],
        found["total"]["latency_s"],
        found["total"]["throughput_tokens_per_s"],
    )


def _machine(session: Session, overhead: Any, unpack_s: float | None) -> dict[str, Any]:
    """What was measured of the machine before the run, and the specs that the prediction took."""
    return {
        **session.machine.figures,
        "layer_overhead_s": None if overhead is None else overhead.per_layer_s,
        "pass_overhead_s": None if overhead is None else overhead.per_pass_s,
        "unpack_s_per_weight": unpack_s,
        "baseline_rss_bytes": session.baseline_bytes,
        "gpu": session.machine.gpu.model_dump(mode="json"),
        "host": session.machine.host.model_dump(mode="json"),
    }


def _warnings(session: Session, found: dict[str, Any]) -> list[str]:
    warned = list(session.warnings)
    if found["loops_disturbed"]:
        warned.append(
            f"{found['loops_disturbed']} of {session.settings.loops} loops ran while other processes used the machine's cores"
        )
    if not session.settings.warmup:
        warned.append("no warm-up: the first loop pays for what is done once")
    return warned
