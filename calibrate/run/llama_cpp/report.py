"""What a run of llama.cpp prints for people."""

from __future__ import annotations

import sys
from typing import Any

from calibrate.run.report import comparison_lines


def llama_cpp_text(result: dict[str, Any]) -> str:
    """Both benchmark logs, the errors side by side, and what else was measured."""
    run, measured = result["run"], result["measured"]
    used, decode = measured["utilisation"], measured["decode"]
    lines = [
        f"{run['model_name']} in {run['weight_format']}, {run['threads']} threads, "
        f"llama.cpp {result['environment']['llama_cpp'].get('llama_cpp') or 'of your own'}",
        "measured:", result["benchmark_log"], "", "predicted:", result["predicted_benchmark_log"], "",
        *comparison_lines(result), "",
    ]  # fmt: skip
    rates = [f"prompt {used['prefill_flops_per_s'] / 1e9:.1f} GFLOP/s"]
    if used["decode_bytes_per_s"] is not None:
        rates.append(
            f"decode {used['decode_bytes_per_s'] / 1e9:.2f} GB/s of weights and cache, "
            f"{1e3 * decode['latency_per_token_s']:.2f} ms per token (spread {decode['spread']['relative']:.1%})"
        )
    lines.append(", ".join(rates))
    return "\n".join([*lines, "", f"log: {result['log_file']}", f"run: {result['run_file']}"])


def print_llama_cpp(result: dict[str, Any], verbose: int = 1) -> None:
    """Print it on stdout, warnings on stderr; nothing where ``verbose`` is 0."""
    if not verbose:
        return
    for warning in result["warnings"]:
        sys.stderr.write(f"llm-perf: warning: {warning}\n")
    sys.stdout.write(llama_cpp_text(result) + "\n")
