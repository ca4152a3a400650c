"""The JSON object of a run: measured beside predicted, with the error of each."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from calibrate.run.environment import describe_environment
from calibrate.run.measurement import Measured, host_rss_bytes, run_object
from calibrate.run.metrics import phases, utilisation
from calibrate.run.prediction import Prediction, build_run_scenario, errors, predict_run
from calibrate.run.records import SCHEMA_VERSION, finite
from calibrate.run.session import Session
from calibrate.run.tensors import BYTES
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
    h2d = measured.streamed["h2d_bytes_per_pass"] + _kv_bytes_per_step(measured)
    dtype = gpu.dtype_for(8 * BYTES[session.dtype])
    energies = [loop["energy_j"] for loop in measured.loops if loop["energy_j"] is not None]
    reads = [loop["disk_read_bytes"] for loop in measured.loops if loop["disk_read_bytes"] is not None]
    return {
        "peak_gpu_memory_bytes": measured.peak["allocated_bytes"],
        "peak_gpu_memory_reserved_bytes": measured.peak["reserved_bytes"],
        "host_rss_bytes": host_rss_bytes(),
        "bytes_swapped_to_disk": measured.swapped_bytes,
        "disk_read_bytes_per_loop": sum(reads) / len(reads) if reads else None,
        "h2d_bytes_per_decode_step": h2d,
        "h2d_bytes_per_s": h2d / step if step and h2d else None,
        **measured.streamed,
        "kv_cache_host_bytes": measured.kv_host_bytes,
        "quantisation": measured.quantisation,
        "utilisation": utilisation(
            s, session.model, found, gpu.peak_flops_per_s(dtype), gpu.hbm_bandwidth_bytes_per_s,
            model_weight_bytes(prediction.result.scenario), 8 * BYTES[session.dtype],
        ),
        "energy_j_per_loop": sum(energies) / len(energies) if energies else None,
    }  # fmt: skip


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
