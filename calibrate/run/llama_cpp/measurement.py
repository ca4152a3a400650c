"""The two tests of a run, and the result made of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from calibrate.probe.environment import cpu_name, describe_machine
from calibrate.probe.records import SCHEMA_VERSION, finite
from calibrate.run.llama_cpp.bench import BenchTest, run_bench
from calibrate.run.llama_cpp.child import Finished
from calibrate.run.llama_cpp.prediction import predict
from calibrate.run.llama_cpp.session import LlamaCppSession
from calibrate.run.metrics import phases
from calibrate.run.prediction import Prediction, errors
from llm_perf.config.formats import WeightFormats
from llm_perf.config.gguf import load_gguf
from llm_perf.config.model import ModelConfig
from llm_perf.counts.attention import kv_cache_bytes
from llm_perf.counts.flops import prefill_flops
from llm_perf.counts.linears import layer_linears
from llm_perf.report.benchmark_log import cache_bytes, hidden_bytes, model_bytes, write_benchmark_log

_KV_BITS = 16


def measure(session: LlamaCppSession, path: Path) -> dict[str, Any]:
    """Time the prompt, then the tokens behind it, and lay the prediction beside them.

    Args:
        session: The run.
        path: Its GGUF file.
    """
    s = session.settings
    session.model = load_gguf(path).replace(name=session.model.name)
    prediction = predict(session)
    session.progress.say("timing the prompt")
    common: dict[str, Any] = {
        "threads": session.threads,
        "repetitions": s.loops,
        "ubatch": s.ubatch_size,
        "warmup": s.warmup > 0,
    }
    parts = [run_bench(session.programs, path, prompt=s.prompt_len, gen=0, depth=0, **common)]
    if s.gen_len > 1:
        session.record.save(raw=_raw(parts))
        session.progress.say("timing the generated tokens")
        # The first token comes with the prompt; the others find the prompt in the cache.
        parts.append(
            run_bench(session.programs, path, prompt=0, gen=s.gen_len - 1, depth=s.prompt_len, **common)
        )
    return _result(session, prediction, parts)


def _raw(parts: list[tuple[BenchTest, Finished]]) -> dict[str, Any]:
    return {
        "loops": loops_of(parts),
        "warmup": [],
        "llama_bench": [dict(test.fields) for test, _ in parts],
        "usage": [done.usage for _, done in parts],
    }


def loops_of(parts: list[tuple[BenchTest, Finished]]) -> list[dict[str, Any]]:
    """The repetitions as loops of a run: the n-th prompt with the n-th generation.

    llama-bench times all repetitions of a test in one process, so that what others used is known of all together.
    """
    prefill = parts[0][0].samples_s
    decode = parts[1][0].samples_s if len(parts) > 1 else (0.0,) * len(prefill)
    others = [done.usage.get("others_cores") for _, done in parts]
    known = [value for value in others if value is not None]
    shared = {
        "others_cores": max(known) if known else None,
        "disturbed": any(done.usage.get("disturbed") for _, done in parts),
    }
    return [
        {"prefill_s": first, "total_s": first + rest, **shared}
        for first, rest in zip(prefill, decode, strict=True)
    ]


def _result(
    session: LlamaCppSession, prediction: Prediction, parts: list[tuple[BenchTest, Finished]]
) -> dict[str, Any]:
    """The JSON object of the run."""
    s, raw = session.settings, _raw(parts)
    found = phases(s, raw["loops"])
    peaks = [done.peak_rss_bytes for _, done in parts if done.peak_rss_bytes is not None]
    found |= {
        "peak_gpu_memory_bytes": max(peaks, default=None),
        "host_rss_bytes": max(peaks, default=None),
        "utilisation": utilisation(s.prompt_len, s.gen_len, session.model, found),
    }
    result = {
        "schema_version": SCHEMA_VERSION,
        "status": "done",
        "run": session.run_object(),
        "measured": found,
        "predicted": prediction.as_json(s),
        "error": errors(prediction, found),
        "benchmark_log": _write_log(session, found),
        "predicted_benchmark_log": prediction.benchmark_log,
        "log_file": session.log_file,
        "run_file": str(session.record.path),
        "raw": raw,
        "environment": {"device": {"kind": "cpu", "name": cpu_name()}}
        | describe_machine(session.threads, Path(s.runs_dir))
        | {"llama_cpp": session.programs.facts},
        "machine": {
            "gpu": prediction.result.scenario.gpu.model_dump(mode="json"),
            "host": prediction.result.scenario.host.model_dump(mode="json"),
            "model": session.model.model_dump(mode="json"),
        },
        "warnings": _warnings(session, found),
    }
    plain: dict[str, Any] = finite(result)
    session.record.save(**plain)
    return plain


def utilisation(
    prompt_len: int, gen_len: int, model: ModelConfig, found: dict[str, Any]
) -> dict[str, float | None]:
    """Rates that the run reached: FLOP/s of the prompt, and bytes of weights and cache per second of decode steps."""
    step = found["decode"]["latency_per_token_s"]
    read = None
    if step is not None:
        context = prompt_len + gen_len / 2
        read = (
            read_weight_bytes(model, model.stored_formats)
            + float(kv_cache_bytes(model, 1, context, _KV_BITS))
        ) / step
    return {
        "prefill_flops_per_s": float(prefill_flops(model, 1, prompt_len)) / found["prefill"]["latency_s"],
        "decode_bytes_per_s": read,
    }


def read_weight_bytes(model: ModelConfig, formats: WeightFormats | None) -> float:
    """Bytes of the matrices that one decode step reads: of experts those that it uses, no token table.

    Args:
        model: Shapes.
        formats: What they are stored in; None for 16 bits.
    """
    head = 16.0 if formats is None else formats.head.bits
    total = model.vocab_size * model.hidden_size * head / 8
    for index, group in enumerate(model.layer_groups):
        linears = layer_linears(group, model.hidden_size)
        bits = [16.0] * len(linears) if formats is None else [stored.bits for stored in formats.layers[index]]
        for linear, width in zip(linears, bits, strict=True):
            total += group.count * linear.active * linear.weights * width / 8
    return total


def _write_log(session: LlamaCppSession, found: dict[str, Any]) -> str:
    model, length = session.model, session.settings.prompt_len + session.settings.gen_len
    return write_benchmark_log(
        Path(session.log_file),
        model_bytes(model),
        cache_bytes(model, 1, length),
        hidden_bytes(model, 1, length),
        found["peak_gpu_memory_bytes"] or 0,
        found["prefill"]["latency_s"],
        found["prefill"]["throughput_tokens_per_s"],
        found["decode"]["latency_s"],
        found["decode"]["throughput_tokens_per_s"],
        found["total"]["latency_s"],
        found["total"]["throughput_tokens_per_s"],
    )


def _warnings(session: LlamaCppSession, found: dict[str, Any]) -> list[str]:
    warned = list(session.warnings)
    if found["loops_disturbed"]:
        warned.append(
            "other processes used the machine's cores meanwhile: threads that wait for one another take the time of the "
            "slowest, so that two threads on two cores lose most"
        )
    if not session.settings.warmup:
        warned.append("no warm-up: the first repetition pays for what is done once")
    return warned
