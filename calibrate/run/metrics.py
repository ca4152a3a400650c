"""From raw seconds to what seed 001 reports: prefill by hooks, decode by subtraction, medians over the loops."""

from __future__ import annotations

from statistics import median
from typing import Any, Protocol

from calibrate.run.settings import RunSettings
from llm_perf.config.model import ModelConfig
from llm_perf.counts.attention import kv_cache_bytes
from llm_perf.counts.flops import decode_step_flops, prefill_flops
from llm_perf.counts.parameters import active_params


class Lengths(Protocol):
    """What a latency becomes a throughput by."""

    @property
    def batch_size(self) -> int:
        """Sequences."""

    @property
    def prompt_len(self) -> int:
        """Prompt tokens of each."""

    @property
    def gen_len(self) -> int:
        """Tokens generated for each."""


def phases(settings: Lengths, loops: list[dict[str, Any]]) -> dict[str, Any]:
    """Latency, throughput and spread of each phase.

    Latencies are medians over the loops, decode is total minus prefill, so that the three add up. Loops in which other
    processes took the machine's cores are left out where three or more are left without them.

    Args:
        settings: Batch and lengths.
        loops: ``prefill_s`` and ``total_s`` of each timed loop, and ``disturbed``.
    """
    calm = [loop for loop in loops if not loop.get("disturbed")]
    used = calm if len(calm) >= 3 else loops
    prefill = median(loop["prefill_s"] for loop in used)
    total = median(loop["total_s"] for loop in used)
    steps = settings.gen_len - 1
    decode = total - prefill if steps else None
    batch = settings.batch_size
    return {
        "prefill": {
            "latency_s": prefill,
            "throughput_tokens_per_s": batch * settings.prompt_len / prefill,
            "spread": spread([loop["prefill_s"] for loop in used]),
        },
        "decode": {
            "latency_s": decode,
            "latency_per_token_s": decode / steps if decode is not None else None,
            "throughput_tokens_per_s": batch * steps / max(decode, 1e-10) if decode is not None else None,
            "spread": spread([loop["total_s"] - loop["prefill_s"] for loop in used]) if steps else None,
        },
        "total": {
            "latency_s": total,
            "throughput_tokens_per_s": batch * settings.gen_len / total,
            "spread": spread([loop["total_s"] for loop in used]),
        },
        "loops_used": len(used),
        "loops_disturbed": len(loops) - len(calm),
    }


def spread(values: list[float]) -> dict[str, float]:
    """Least, largest, and their distance over the median."""
    middle = median(values)
    return {
        "min_s": min(values),
        "max_s": max(values),
        "relative": (max(values) - min(values)) / middle if middle else 0.0,
    }


def utilisation(
    settings: RunSettings,
    model: ModelConfig,
    found: dict[str, Any],
    peak_flops_per_s: float,
    bytes_per_s: float,
    weight_bytes: float,
    kv_bits: int,
) -> dict[str, float | None]:
    """MFU of the prefill and MBU of the decode steps, one device's peaks times the ranks.

    MBU counts each weight that a token uses, and the cache, read once per step (gpt-fast's definition).

    Args:
        settings: Batch, lengths, ranks.
        model: Its shapes.
        found: What ``phases`` returned.
        peak_flops_per_s: Of one device in the run's format.
        bytes_per_s: Memory bandwidth of one device.
        weight_bytes: Stored bytes of all weights.
        kv_bits: Bits of a cache element.
    """
    ranks = settings.ranks
    flops = prefill_flops(model, settings.batch_size, settings.prompt_len)
    mfu = float(flops) / found["prefill"]["latency_s"] / (peak_flops_per_s * ranks)
    step = found["decode"]["latency_per_token_s"]
    if step is None:
        return {"prefill_mfu": mfu, "decode_mfu": None, "decode_mbu": None, "decode_bytes_per_s": None}
    context = settings.prompt_len + settings.gen_len / 2
    read = weight_bytes * model_share(model) * ranks
    read += float(kv_cache_bytes(model, settings.batch_size, context, kv_bits))
    return {
        "prefill_mfu": mfu,
        "decode_mfu": float(decode_step_flops(model, settings.batch_size, context))
        / step
        / (peak_flops_per_s * ranks),
        "decode_mbu": read / step / (bytes_per_s * ranks),
        "decode_bytes_per_s": read / step,
    }


def model_share(model: ModelConfig) -> float:
    """Share of the weights that one token uses; 1 but for mixtures of experts."""
    from llm_perf.counts.parameters import total_params

    return min(1.0, active_params(model) / total_params(model))
