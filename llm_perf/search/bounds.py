"""Times that no machine beats: what a search need not evaluate, since it cannot meet a target."""

from __future__ import annotations

from llm_perf.config.gpu import GPUConfig
from llm_perf.config.scenario import Scenario
from llm_perf.counts.flops import linear_flops
from llm_perf.counts.parameters import layer_matrix_params
from llm_perf.errors import SpecError
from llm_perf.hardware.transfer import host_link_bytes_per_s
from llm_perf.systems.footprint import layers_weight_bytes

LEAST_BATCH = 1.0


def least_read_s(scenario: Scenario, bytes_per_s: float) -> float:
    """Seconds that the matrices of one token take at a rate: a pass over any batch reads at least these."""
    formats = scenario.dtype.formats
    bits: float = scenario.dtype.weight_bits
    if formats is not None:
        bits = min(matrix.bits for row in formats.layers for matrix in row)
    return layer_matrix_params(scenario.model) * bits / 8 / bytes_per_s


def least_resident_s(scenario: Scenario, tp: int, prompt_len: float) -> tuple[float, float]:
    """(prefill, decode step) of one sequence on ``tp`` GPUs that hold it, at the data sheet's bandwidth and highest peak.

    Stages of a pipeline take turns, so that more of them make neither shorter.
    """
    gpu, model = scenario.gpu, scenario.model
    read_s = least_read_s(scenario, tp * gpu.hbm_bandwidth_bytes_per_s)
    flops = sum(
        group.count * linear_flops(model, group, LEAST_BATCH * prompt_len) for group in model.layer_groups
    )
    return max(read_s, float(flops) / (tp * _highest_peak(gpu))), read_s


def least_streamed_s(scenario: Scenario, prompt_len: float) -> tuple[float, float]:
    """(prefill, decode step) of one sequence on a single GPU to which what it has no memory for comes over its link.

    Nothing is computed quicker than where the GPU holds all of it. 0 where the machine has no such link.
    """
    prefill_s, step_s = least_resident_s(scenario, 1, prompt_len)
    copied_s = least_copied_s(
        scenario, max(1.0 - scenario.gpu.usable_memory_bytes / layers_weight_bytes(scenario), 0.0)
    )
    return (max(prefill_s, copied_s), max(step_s, copied_s)) if copied_s is not None else (0.0, 0.0)


def least_copied_s(scenario: Scenario, away: float) -> float | None:
    """Seconds that the share ``away`` of the matrices takes over the link to the host, as every pass waits for it.

    None where the machine has no such link: evaluated, it says what it lacks.
    """
    try:
        link = host_link_bytes_per_s(scenario.gpu, scenario.host)
    except SpecError:
        return None
    return away * least_read_s(scenario, link)


def _highest_peak(gpu: GPUConfig) -> float:
    peaks = [gpu.peak_flops_per_s(dtype) for dtype in gpu.peak_tflops]
    return max(*peaks, (gpu.fp16_accumulate_tflops or 0.0) * 1e12)
