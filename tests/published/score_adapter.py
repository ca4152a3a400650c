"""Adapter for a scorer of predictions: a row of its tables becomes a Run. It holds no number of its own."""

from calibrate.published import GPU_ALIASES, SYSTEM_ALIASES, Machine
from calibrate.settings import Run, peak_memory_bytes, scenario_of
from llm_perf.analysis.inference import predict_inference
from llm_perf.config.dtype import QUANT_META_BITS
from llm_perf.errors import LLMPerfError


class Unsupported(Exception):  # noqa: N818 - the name that the scorer looks for
    """The row cannot be predicted; the text says why."""


def predict(row, model, gpu, host):
    """Prefill, decode step and peak GPU memory of one row."""
    if row["kind"] == "training":
        raise Unsupported("training is not predicted yet")
    try:
        result = predict_inference(scenario_of(run_of(row, host)))
    except LLMPerfError as error:
        raise Unsupported(str(error)) from None
    found = {
        "prefill_s": result.prefill.latency_s,
        "peak_gpu_mem_bytes": peak_memory_bytes(result),
    }
    if result.decode is not None:
        found["tpot_s"] = result.decode.latency_per_token_s
    return found


def run_of(row, host):
    """The settings of a scorer's row."""
    replicas = row["dp"] if row["batch_is_per_gpu"] else 1
    return Run(
        system=SYSTEM_ALIASES.get(row["system"], row["system"]),
        model=row["model"],
        gpu=GPU_ALIASES.get(row["gpu"], row["gpu"]),
        batch_size=row["batch_size"] * replicas,
        prompt_len=max(row["prompt_len"], 1),
        gen_len=max(row["gen_len"], 1),
        num_gpus=row["gpu_count"],
        num_nodes=row["nodes"],
        tp=row["tp"],
        pp=row["pp"],
        weight_bits=row["weight_bits"],
        weight_group_size=group_size(row["weight_bits"], row["weight_bits_stored"]),
        activation_bits=row["act_bits"],
        kv_bits=row["kv_bits"],
        kv_group_size=group_size(row["kv_bits"], row["kv_bits_stored"]),
        weights=shares(row, "w"),
        kv_cache=shares(row, "kv"),
        hidden=shares(row, "h"),
        gpu_batch_size=row["gpu_batch_size"],
        num_gpu_batches=row["num_gpu_batches"],
        micro_batches=row["micro_batches"],
        pin_memory=flag(row["pin_memory"]),
        overlap=flag(row["overlap"]),
        cpu_attention=True if row["cpu_compute"] == "attention" else None,
        machine=Machine(host["host_cpu_text"], row["host_ram_GB"], row["disk_read_GBps"]),
    )


def group_size(bits, stored_bits):
    """Elements that share a scale and a minimum, from the bits that they add to each."""
    return round(QUANT_META_BITS / (stored_bits - bits)) if stored_bits > bits else None


def shares(row, kind):
    return tuple(row[f"{kind}_{place}"] for place in ("gpu", "cpu", "disk"))


def flag(value):
    return {"": None, "0": False, "1": True}.get(value, value)
