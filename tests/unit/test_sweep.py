"""A sweep is the prediction of each of its points, on arrays."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llm_perf.analysis import sweep
from llm_perf.analysis.inference import InferenceResult, predict_inference
from llm_perf.analysis.request import InferenceInputs, build_scenario
from llm_perf.analysis.sweep import TIERS, InferenceSweep, sweep_inference
from llm_perf.config import Workload
from llm_perf.config.scenario import Scenario
from llm_perf.errors import SpecError
from llm_perf.systems import system_names

# A host of which everything is known, so that every system can be priced on it.
ON_ANY = {"model": "opt-13b", "gpu": "h100-pcie-80gb", "host": "h100-spr-host"}
OF_ITS_OWN = {
    "airllm": {"host": "dgx-2"},
    "optimum_habana": {"gpu": "gaudi2-96gb", "host": "gaudi-server"},
    "atom": {"gpu": "mi300x-192gb", "host": "mi300x-server"},
} | {
    name: {"model": "mixtral-8x7b"}
    for name in ("fiddler", "ktransformers", "mixtral_offloading", "moe_infinity")
}
"""What a system needs instead: a disk, or experts."""
QUESTIONS: dict[str, dict[str, Any]] = {
    **{name: {**ON_ANY, **OF_ITS_OWN.get(name, {}), "system": name} for name in system_names()},
    "placed per point": {"model": "opt-6.7b", "gpu": "t4", "ds_zero": 3},
    "CPU, cache too": {
        "model": "opt-30b",
        "gpu": "t4",
        "ds_zero": 3,
        "cpu_offload": True,
        "kv_offload": True,
    },
    "NVMe": {"model": "opt-175b", "gpu": "t4", "ds_zero": 3},
    "quantised": {"model": "opt-30b", "gpu": "t4", "ds_zero": 3, "quant_bits": 4},
    "replicas": {"model": "opt-30b", "gpu": "t4", "ds_zero": 3, "dp_size": 4, "batch_size": 4},
    "tensor parallel": {"model": "llama-2-70b", "gpu": "a100-sxm-80gb", "tp_size": 8, "pp_size": 2},
    "experts": {"model": "mixtral-8x7b", "gpu": "h100-sxm-80gb", "dp_size": 4, "ep_size": 4, "batch_size": 4},
    "latent attention": {"model": "deepseek-v2-lite", "gpu": "h100-sxm-80gb"},
    "windows": {"model": "gemma-2-9b", "gpu": "l40s", "allow_long_context": True},
    "encoder": {"model": "bert-base", "gpu": "t4"},
    "8-bit cache": {"model": "llama-3-8b", "gpu": "l4", "kv_bits": 8},
}
FIELDS = tuple(
    field
    for field in InferenceSweep.__dataclass_fields__
    if field not in ("batch_size", "prompt_len", "gen_len")
)


def scenario_of(name: str) -> Scenario:
    return build_scenario(InferenceInputs(**QUESTIONS[name]))


def single(scenario: Scenario, batch: int, prompt: int, gen: int) -> InferenceResult:
    workload = Workload(batch_size=batch, prompt_len=prompt, gen_len=gen)
    return predict_inference(scenario.replace(workload=workload))


def as_point(result: InferenceResult) -> dict[str, float]:
    memory, weights = result.memory, result.placement.weights
    return {
        "prefill_latency_s": result.prefill.latency_s,
        "decode_latency_s": result.decode.latency_s if result.decode else 0.0,
        "total_latency_s": result.total_latency_s,
        "throughput_tokens_per_s": result.total_throughput_tokens_per_s,
        "gpu_memory_bytes": float(memory.gpu.total_bytes),
        "cpu_memory_bytes": float(memory.cpu.total_bytes),
        "nvme_bytes": float(memory.nvme.total_bytes),
        "weights_on_gpu": float(weights.gpu),
        "weights_on_cpu": float(weights.cpu),
        "feasible": float(result.feasible),
        "ttft_s": result.ttft_s,
        "tpot_s": math.nan if result.tpot_s is None else result.tpot_s,
        "missing": float(sum(2**bit for bit, tier in enumerate(TIERS) if tier in (result.reason or ""))),
    }


def assert_same(scenario: Scenario, points: list[tuple[int, int, int]]) -> InferenceSweep:
    found = sweep_inference(scenario, *np.array(points).T)
    assert len(found) == len(points)
    for position, point in enumerate(points):
        wanted = as_point(single(scenario, *point))
        assert wanted.keys() == set(FIELDS)
        for field, value in wanted.items():
            assert float(getattr(found, field)[position]) == pytest.approx(
                value, rel=1e-12, abs=0, nan_ok=True
            ), (
                field,
                point,
            )
    return found


@pytest.mark.parametrize("name", QUESTIONS)
@settings(max_examples=12)
@given(data=st.data())
def test_a_sweep_equals_single_predictions(name: str, data: st.DataObject) -> None:
    scenario = scenario_of(name)
    replicas = scenario.parallelism.dp_size
    longest = scenario.model.max_position_embeddings or 4096
    batch = st.integers(1, 400).map(lambda size: size * replicas)
    points = data.draw(
        st.lists(st.tuples(batch, st.integers(1, longest - 200), st.integers(1, 200)), min_size=1, max_size=5)
    )
    assert_same(scenario, points)


@pytest.mark.parametrize("name", QUESTIONS)
def test_what_meets_in_one_array_does_not_mix(name: str) -> None:
    """One point that fits and one that does not, one without decode steps, one with many."""
    scenario = scenario_of(name)
    replicas = scenario.parallelism.dp_size
    points = [(replicas, 32, 1), (500 * replicas, 300, 200), (replicas, 300, 2), (8 * replicas, 1, 200)]
    found = assert_same(scenario, points)
    again = assert_same(scenario, points[::-1])
    np.testing.assert_array_equal(found.total_latency_s, again.total_latency_s[::-1])


def test_each_point_is_placed_on_its_own() -> None:
    """13 GB of weights on a GPU of 15 GiB: a small batch leaves them there, a large cache drives them out."""
    scenario = scenario_of("placed per point")
    found = sweep_inference(scenario, [1, 2, 4, 8, 16, 24], 512, 32)
    np.testing.assert_array_equal(found.weights_on_gpu + found.weights_on_cpu, 1)
    assert found.weights_on_gpu[0] == 1
    assert found.weights_on_gpu[-1] == 0
    assert (np.diff(found.weights_on_gpu) <= 0).all()
    assert found.total_latency_s[-1] > 5 * found.total_latency_s[0]  # streamed through PCIe in every step


def test_axes_broadcast() -> None:
    scenario = scenario_of("resident")
    grid = sweep_inference(scenario, np.array([1, 2, 4])[:, None], np.array([16, 128]), 8)
    assert len(grid) == 6
    np.testing.assert_array_equal(grid.batch_size, [1, 1, 2, 2, 4, 4])
    np.testing.assert_array_equal(grid.prompt_len, [16, 128] * 3)
    np.testing.assert_array_equal(grid.gen_len, [8] * 6)
    flat = sweep_inference(scenario, [1, 1, 2, 2, 4, 4], [16, 128] * 3, [8] * 6)
    for field in FIELDS:
        np.testing.assert_array_equal(getattr(grid, field), getattr(flat, field))
    assert len(sweep_inference(scenario, 1, 16, 8)) == 1


def test_many_points_are_worked_through_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    scenario = scenario_of("placed per point")
    batch = np.arange(1, 24)
    whole = sweep_inference(scenario, batch, 100, 20)
    monkeypatch.setattr(sweep, "_CHUNK", 5)
    pieces = sweep_inference(scenario, batch, 100, 20)
    for field in FIELDS:
        np.testing.assert_array_equal(getattr(whole, field), getattr(pieces, field))


def test_an_encoder_has_a_prefill_only() -> None:
    scenario = scenario_of("encoder")
    found = sweep_inference(scenario, [1, 8], [128, 512], 32)
    np.testing.assert_array_equal(found.decode_latency_s, 0)
    np.testing.assert_array_equal(found.total_latency_s, found.prefill_latency_s)
    np.testing.assert_allclose(found.throughput_tokens_per_s, [128, 8 * 512] / found.prefill_latency_s)


def test_one_token_needs_no_decode_step() -> None:
    found = sweep_inference(scenario_of("resident"), 1, 512, [1, 2])
    assert found.decode_latency_s[0] == 0
    assert found.decode_latency_s[1] > 0


@pytest.mark.parametrize(
    ("axes", "said"),
    [
        (([1, 0], 512, 32), "batch_size"),
        ((-1, 512, 32), "batch_size"),
        ((1.5, 512, 32), "batch_size"),
        ((np.nan, 512, 32), "batch_size"),
        ((np.inf, 512, 32), "batch_size"),
        ((1e13, 512, 32), "batch_size"),
        ((1, [512, 0], 32), "prompt_len"),
        ((1, 512, [[32], [-32]]), "gen_len"),
        ((1, 512, 0), "gen_len"),
        (("four", 512, 32), "batch_size"),
        ((None, 512, 32), "batch_size"),
        (([1, 2], [1, 2, 3], 32), "one common shape"),
        (([[1], [2, 3]], 512, 32), "one common shape"),
        (([], 512, 32), "no points"),
        ((1, 2017, 32), "within the 2048 positions of .*, got 2049"),
        (([1, 1], [512, 512], [32, 100_000]), "positions"),
    ],
)
def test_bad_arrays_are_refused(axes: tuple[Any, Any, Any], said: str) -> None:
    with pytest.raises(SpecError, match=said):
        sweep_inference(scenario_of("resident"), *axes)


def test_batches_divide_over_replicas() -> None:
    with pytest.raises(SpecError, match="multiples of dp_size 4, got 6"):
        sweep_inference(scenario_of("replicas"), [4, 6, 8], 512, 32)


def test_long_contexts_where_the_scenario_allows_them() -> None:
    scenario = scenario_of("resident").replace(allow_long_context=True)
    assert len(sweep_inference(scenario, 1, 100_000, 32)) == 1
    encoder = scenario_of("encoder")
    assert len(sweep_inference(encoder, 1, 512, 32)) == 1  # what it would generate does not count
    with pytest.raises(SpecError, match="got 513"):
        sweep_inference(encoder, 1, 513, 32)


def test_work_may_take_no_time_at_one_end_of_a_generation() -> None:
    """FlexGen waits for launches while the context is short, and later no more: the steps have unlike work, and add up."""
    scenario = scenario_of("flexgen")
    found = sweep_inference(scenario, 93, 1, [137, 138, 139])
    steps = np.diff(found.decode_latency_s)
    assert (steps > 0).all()
    assert steps[1] == pytest.approx(steps[0], rel=0.01)
    assert_same(scenario, [(93, 1, 137), (93, 1, 138)])
