"""Two simpler predictors on the same rows: a plain roofline, and the tool llm-analysis.

The roofline has two constants, `FLOPS_EFFICIENCY` of every arithmetic peak and `BANDWIDTH_EFFICIENCY` of every rate
(memory, PCIe, links between GPUs); a disk runs at the rate that its data sheet states. A pass takes the longest of
arithmetic, memory, PCIe and disk, and two ring all-reduces per layer where there is tensor parallelism. It knows no
software: no launches, no floors, no dequantisation, nothing that does not overlap.

llm-analysis cannot be installed beside this project's dependencies, so its answers ship as
``measurements/baseline_llm_analysis.csv``; ``bench/llm_analysis_baseline.py`` made them, and the file says with which
version and arguments.
"""

from __future__ import annotations

import csv
from functools import lru_cache
from importlib import resources
from typing import Final

from calibrate.evidence.settings import Run, dtype_of, host_of
from llm_perf.analysis.training import TrainingResult
from llm_perf.config.loading import get_gpu_config_by_name, get_model_config_by_name
from llm_perf.config.model import ModelConfig
from llm_perf.counts.attention import kv_cache_bytes
from llm_perf.counts.flops import decode_step_flops, prefill_flops
from llm_perf.counts.parameters import embedding_params, token_table_params, total_params
from llm_perf.errors import LLMPerfError

ROOFLINE: Final = "roofline"
LLM_ANALYSIS: Final = "llm_analysis"
FLOPS_EFFICIENCY: Final = 0.6
BANDWIDTH_EFFICIENCY: Final = 0.8
_UNKNOWN_DISK_BYTES_PER_S: Final = 2e9
"""A usual NVMe of 2020, where neither the row nor the host says anything."""
_ON_GPU: Final = (1.0, 0.0, 0.0)


def inference_baselines(row_id: int, run: Run, quantity: str) -> dict[str, float | None]:
    """What each says of a run's main quantity; None where it does not cover the run."""
    try:
        roofline = inference_roofline(run).get(quantity)
    except LLMPerfError:
        roofline = None
    return {ROOFLINE: roofline, LLM_ANALYSIS: llm_analysis("inference", row_id)}


def inference_roofline(run: Run) -> dict[str, float]:
    """Latencies and throughput of a run by the plain roofline, in the units of `Measurement.quantities`.

    Raises:
        SpecError: the model, the GPU or its host is unknown.
    """
    model = get_model_config_by_name(run.model)
    prefill = _pass_s(run, model, run.prompt_len, (run.prompt_len + 1) / 2)
    step = _pass_s(run, model, 1, run.prompt_len + run.gen_len / 2)
    total = prefill + (run.gen_len - 1) * step
    return {
        "prefill_latency_s": prefill,
        "latency_per_token_s": step,
        "decode_latency_s": (run.gen_len - 1) * step,
        "total_latency_s": total,
        "throughput_tokens_per_s": run.batch_size * run.gen_len / total,
    }


def _pass_s(run: Run, model: ModelConfig, tokens: int, context: float) -> float:
    """Seconds of one pass over ``tokens`` new tokens of each sequence, which see ``context`` tokens each."""
    gpu = get_gpu_config_by_name(run.gpu)
    dtype = dtype_of(run)
    replicas = max(run.num_gpus // (run.tp * run.pp), 1)
    batch = run.batch_size / replicas
    weights = _weight_bytes(model, batch * tokens, dtype.stored_weight_bits)
    cache = kv_cache_bytes(model, batch, context, dtype.stored_kv_bits)
    flops = _flops(model, batch, tokens, context)
    peak = gpu.peak_flops_per_s(gpu.dtype_for(dtype.compute_bits)) * FLOPS_EFFICIENCY
    bandwidth = gpu.hbm_bandwidth_bytes_per_s * BANDWIDTH_EFFICIENCY
    on_device = max(flops / run.tp / peak, (weights + cache) / run.tp / bandwidth)
    # A prefill writes each new token's cache once; a decode step reads all of it.
    moved = cache if tokens == 1 else kv_cache_bytes(model, batch, tokens, dtype.stored_kv_bits)
    streamed = _streaming_s(run, weights, moved, replicas)
    both = max(on_device, streamed) + _all_reduces_s(run, model, batch * tokens)
    # Micro-batches fill a pipeline; one request passes its stages one after the other.
    return float(both) / min(run.micro_batches, run.pp)


def _flops(model: ModelConfig, batch: float, tokens: int, context: float) -> float:
    if tokens == 1:
        return float(decode_step_flops(model, batch, context))
    return float(prefill_flops(model, batch, tokens))


def _weight_bytes(model: ModelConfig, tokens: float, bits: float) -> float:
    """Bytes of the matrices that a pass reads: all, or for few tokens of a mixture those of their experts."""
    used_by_one = decode_step_flops(model, 1, 0) / 2
    tied_head = token_table_params(model) if model.tied_embeddings else 0
    stored = total_params(model) - embedding_params(model) + tied_head
    return float(min(stored, used_by_one * tokens) * bits / 8)


def _streaming_s(run: Run, weights: float, cache: float, replicas: int) -> float:
    """Seconds of what comes over PCIe and from disk in one pass; 0 where everything is on the GPU."""
    _, w_cpu, w_disk = run.weights or _ON_GPU
    _, kv_cpu, kv_disk = run.kv_cache or _ON_GPU
    if not w_cpu + w_disk + kv_cpu + kv_disk:
        return 0.0
    gpu = get_gpu_config_by_name(run.gpu)
    host = host_of(run.machine, gpu, -(-run.num_gpus // (run.num_nodes or 1)))
    pcie = (host.pcie_bytes_per_s or gpu.pcie_bytes_per_s or 16e9) * BANDWIDTH_EFFICIENCY
    disk = host.disk.stated_read_gb_per_s * 1e9 if host.disk else _UNKNOWN_DISK_BYTES_PER_S
    # Each GPU fetches its part of the weights over a link of its own; the disk is one for all.
    over_pcie = (weights * (w_cpu + w_disk) / replicas + cache * (kv_cpu + kv_disk)) / run.tp / pcie
    return max(over_pcie, (weights * w_disk + cache * kv_disk * replicas) / disk)


def _all_reduces_s(run: Run, model: ModelConfig, tokens: float) -> float:
    """Two ring all-reduces of the hidden states per layer."""
    if run.tp == 1:
        return 0.0
    gpu = get_gpu_config_by_name(run.gpu)
    sent = 2 * (run.tp - 1) / run.tp * tokens * model.hidden_size * run.activation_bits / 8
    return 2 * model.num_layers * sent / (gpu.intra_node_bytes_per_s * BANDWIDTH_EFFICIENCY)


def training_baselines(row_id: int, result: TrainingResult) -> dict[str, float | None]:
    """What each says of one optimizer step; None where it does not cover the run."""
    return {ROOFLINE: training_roofline(result), LLM_ANALYSIS: llm_analysis("training", row_id)}


def training_roofline(result: TrainingResult) -> float:
    """Seconds of one optimizer step: all FLOPs, recomputed ones too, and the pipeline's bubble. No memory, no links."""
    scenario = result.scenario
    busy = result.hardware_flops_per_step / scenario.num_gpus / (result.peak_flops_per_s * FLOPS_EFFICIENCY)
    passes = result.batch.gradient_accumulation_steps * scenario.plan.virtual_stages
    return busy * (1 + (scenario.parallelism.pp_size - 1) / passes)


def llm_analysis(table: str, row_id: int) -> float | None:
    """What llm-analysis says of a row's main quantity; None where it does not cover the row."""
    return _llm_analysis_file()[1].get((table, row_id))


def llm_analysis_version() -> str | None:
    """Version that the shipped answers are of."""
    return _llm_analysis_file()[0]


@lru_cache(maxsize=1)
def _llm_analysis_file() -> tuple[str, dict[tuple[str, int], float]]:
    """(version, answer by table and row). Lines that begin with # say how the file was made, the version first."""
    text = (resources.files("calibrate") / "measurements" / "baseline_llm_analysis.csv").read_text("utf-8")
    comments = [line for line in text.splitlines() if line.startswith("#")]
    rows = csv.DictReader(line for line in text.splitlines() if not line.startswith("#"))
    found = {(row["table"], int(row["row_id"])): float(row["predicted"]) for row in rows if row["predicted"]}
    return comments[0].removeprefix("#").strip(), found
