"""What a run prints for people."""

from __future__ import annotations

import sys
from typing import Any

from llm_perf.report.answer import Answer
from llm_perf.report.units import rate, seconds
from llm_perf.systems import get_system

_PHASES = ("prefill", "decode", "total")


def result_text(result: dict[str, Any], verbose: int = 1) -> str:
    """Both benchmark logs, the errors side by side, and what else was measured."""
    measured = result["measured"]
    lines = [*run_answer(result).text.plain.splitlines(), ""]
    lines += ["measured:", result["benchmark_log"], "", "predicted:", result["predicted_benchmark_log"], ""]
    lines += [*comparison_lines(result), "", *_other_lines(measured)]
    if verbose > 1:
        lines += ["", "generated:", *_generated(result["raw"])]
    lines += ["", f"log: {result['log_file']}", f"run: {result['run_file']}"]
    return "\n".join(lines)


def run_answer(result: dict[str, Any]) -> Answer:
    """What was measured and how far the prediction was off, in five lines."""
    measured, predicted = result["measured"], result["predicted"]
    interval = predicted.get("interval")
    ends = None if interval is None else interval["total_latency_s"]
    total = (measured["total"]["latency_s"], predicted["total"]["latency_s"])
    sure = [
        f"predicted {seconds(total[1])}, measured {seconds(total[0])} ({_error(result, 'total_latency')})"
    ]
    sure += [] if ends is None else [f"90% interval {seconds(ends[0])} to {seconds(ends[1])}"]
    decode = measured["decode"]["throughput_tokens_per_s"]
    waits = [
        _waits(result, phase)
        for phase in ("decode", "prefill")
        if (predicted.get(phase) or {}).get("bottleneck")
    ]
    return Answer(
        fits=[f"yes. It ran; host memory {_gib(measured['host_rss_bytes'])}"],
        speed=[
            *([] if decode is None else [f"decode {rate(decode)}"]),
            f"first token {seconds(measured['prefill']['latency_s'])}",
            f"all {seconds(total[0])}",
        ],
        sure=sure,
        bound=waits or ["see llm-perf infer of the same run"],
        change=["llm-perf calibrate fit RUNS makes a profile of runs like this one"],
        good=True,
    )


def _waits(result: dict[str, Any], phase: str) -> str:
    """What a phase is predicted to wait for, and for which share of its time."""
    found = result["predicted"][phase]
    system = get_system(str(result["run"].get("system") or "zero_inference"))
    return f"{phase} {system.resource_title(found['bottleneck'])} as predicted"


def print_result(result: dict[str, Any], verbose: int = 1) -> None:
    """Print it on stdout, warnings on stderr; nothing where ``verbose`` is 0."""
    if not verbose:
        return
    for warning in result["warnings"]:
        sys.stderr.write(f"llm-perf: warning: {warning}\n")
    sys.stdout.write(result_text(result, verbose) + "\n")


def comparison_lines(result: dict[str, Any]) -> list[str]:
    """A table: field, measured, predicted, signed error."""
    lines = [f"{'':<18}{'measured':>18}{'predicted':>18}{'error':>10}"]
    for phase in _PHASES:
        for name, key, unit in (
            ("latency", "latency_s", "s"),
            ("throughput", "throughput_tokens_per_s", "token/s"),
        ):
            measured, predicted = (result[side][phase][key] for side in ("measured", "predicted"))
            lines.append(
                f"{f'{phase} {name}':<18}{_number(measured, unit):>18}{_number(predicted, unit):>18}"
                f"{_error(result, f'{phase}_{name}'):>10}"
            )
    peaks = (result["measured"]["peak_gpu_memory_bytes"], result["predicted"]["peak_gpu_memory_bytes"])
    lines.append(
        f"{'peak memory':<18}{_gib(peaks[0]):>18}{_gib(peaks[1]):>18}{_error(result, 'peak_gpu_memory'):>10}"
    )
    return lines + _interval_lines(result["predicted"].get("interval"))


def _interval_lines(interval: dict[str, Any] | None) -> list[str]:
    """Between which seconds the profile expects each phase; nothing without a profile that says so."""
    if interval is None:
        return []
    lines = ["", f"{interval['level']:.0%} interval of profile {interval['profile']}"]
    for phase in _PHASES:
        ends = interval[f"{phase}_latency_s"]
        if ends is not None:
            lines.append(f"{f'{phase} latency':<18}{f'{ends[0]:.3f} to {ends[1]:.3f} s':>36}")
    return lines


def _other_lines(measured: dict[str, Any]) -> list[str]:
    used = measured["utilisation"]
    spread = measured["total"]["spread"]["relative"]
    memory = _gib(measured["host_rss_bytes"])
    lines = [f"loops used {measured['loops_used']}, spread of the total {spread:.1%}, host memory {memory}"]
    rates = [f"prefill MFU {used['prefill_mfu']:.1%}"]
    if used["decode_mbu"] is not None:
        rates.append(
            f"decode MBU {used['decode_mbu']:.1%} ({used['decode_bytes_per_s'] / 1e9:.2f} GB/s of weights and cache)"
        )
    lines.append(", ".join(rates))
    if measured["h2d_bytes_per_s"] is not None:
        lines.append(
            f"decode {measured['decode']['throughput_tokens_per_s']:.3f} token/s, host to device "
            f"{measured['h2d_bytes_per_decode_step'] / 2**20:,.2f} MiB per step at "
            f"{measured['h2d_bytes_per_s'] / 1e9:.3f} GB/s"
        )
    if measured["bytes_swapped_to_disk"]:
        lines.append(f"on disk: {_gib(measured['bytes_swapped_to_disk'])}")
    quantised = measured["quantisation"]
    if quantised["bits"] < 16:
        lines.append(
            f"quantised to {quantised['bits']} bits: {quantised['quantised_tensors']} tensors, "
            f"{_gib(quantised['quantised_bytes'])}; left as they were: {quantised['unquantised_tensors']} tensors, "
            f"{_gib(quantised['unquantised_bytes'])}"
        )
    if measured["energy_j_per_loop"] is not None:
        lines.append(f"energy {measured['energy_j_per_loop']:.0f} J per loop")
    return lines


def _generated(raw: dict[str, Any]) -> list[str]:
    if raw["text"] is not None:
        return [f"{index}: {text}" for index, text in enumerate(raw["text"])]
    return [f"{index}: {row}" for index, row in enumerate(raw["tokens"])]


def _number(value: float | None, unit: str) -> str:
    return "-" if value is None else f"{value:.3f} {unit}"


def _gib(value: float | None) -> str:
    return "-" if value is None else f"{value / 2**30:.3f} GiB"


def _error(result: dict[str, Any], name: str) -> str:
    value = result["error"][name]
    return "-" if value is None else f"{value:+.1%}"
