"""Explanations: arithmetic that a reader can repeat, about the numbers that were predicted."""

from __future__ import annotations

import ast
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llm_perf.analysis.inference import InferenceResult, predict_inference
from llm_perf.analysis.request import InferenceInputs, build_scenario
from llm_perf.counts.parameters import total_params
from llm_perf.errors import SpecError
from llm_perf.report.explain import Explanation, explanations
from llm_perf.systems import get_system, system_names
from llm_perf.systems.expert_offload import ExpertOffload

MODELS = [
    "opt-350m",
    "opt-6.7b",
    "llama-2-70b",
    "mixtral-8x7b",
    "gemma-2-9b",
    "gpt-oss-20b",
    "deepseek-v2-lite",
    "bert-base",
]


def evaluate(expression: str) -> float:
    """The value of numbers, + - * / ** and brackets; anything else is refused."""
    tree = ast.parse(expression, mode="eval")
    allowed = (ast.Expression, ast.BinOp, ast.Constant, ast.Add, ast.Sub, ast.Mult, ast.Div, ast.Pow)
    for node in ast.walk(tree):
        assert isinstance(node, allowed), ast.dump(node)
        assert not isinstance(node, ast.Constant) or type(node.value) in (int, float)
    return float(eval(compile(tree, "expression", "eval"), {"__builtins__": {}}))


def predicted(**inputs: Any) -> InferenceResult:
    return predict_inference(build_scenario(InferenceInputs(**inputs)))


def by_name(result: InferenceResult) -> dict[str, Explanation]:
    found = explanations(result)
    named = {entry.name: entry for entry in found}
    assert len(named) == len(found)
    return named


@settings(max_examples=80)
@given(
    st.fixed_dictionaries(
        {
            "model": st.sampled_from(MODELS),
            "gpu": st.sampled_from(["t4", "a100-sxm-80gb", "h200", "rtx4090", "mi300x"]),
            "batch_size": st.integers(1, 64).map(lambda size: 4 * size),
            "prompt_len": st.integers(1, 480),
            "gen_len": st.integers(1, 32),
        },
        optional={
            "ds_zero": st.sampled_from([1, 3]),
            "dp_size": st.sampled_from([2, 4]),
            "tp_size": st.sampled_from([2, 4]),
            "pp_size": st.sampled_from([2, 3]),
            "quant_bits": st.sampled_from([4, 8]),
            "kv_bits": st.sampled_from([4, 8]),
            "kv_offload": st.booleans(),
            "disk_offload": st.booleans(),
            "pin_memory": st.booleans(),
            "flops_efficiency": st.floats(0.01, 1),
        },
    )
)
def test_every_expression_gives_its_value(inputs: dict[str, Any]) -> None:
    try:
        result = predicted(**inputs)
    except SpecError:
        return
    for entry in explanations(result):
        assert evaluate(entry.expression) == pytest.approx(entry.value, rel=1e-9, abs=0), entry
        assert entry.formula
        assert entry.as_dict()["value"] == entry.value


@pytest.mark.parametrize("system", system_names())
def test_every_system_is_explained(system: str) -> None:
    model = "mixtral-8x7b" if isinstance(get_system(system), ExpertOffload) else "opt-13b"
    elsewhere = {"optimum_habana": ("gaudi2-96gb", None), "atom": ("mi300x-192gb", None)}
    gpu, host = elsewhere.get(system, ("h100-pcie-80gb", "h100-spr-host"))
    result = predicted(model=model, gpu=gpu, host=None if system == "airllm" else host, system=system)
    for entry in explanations(result):
        assert evaluate(entry.expression) == pytest.approx(entry.value, rel=1e-9, abs=0), entry


def test_the_numbers_are_those_of_the_result() -> None:
    result = predicted(model="opt-175b", gpu="t4", ds_zero=3)
    named = by_name(result)
    assert result.decode is not None
    assert named["parameters"].value == total_params(result.scenario.model)
    assert named["GPU memory"].value == result.memory.gpu.total_bytes
    assert named["host memory"].value == result.memory.cpu.total_bytes
    assert named["NVMe memory"].value == result.memory.nvme.total_bytes
    assert named["prefill latency"].value == result.prefill.latency_s
    assert named["decode latency"].value == result.decode.latency_s
    assert named["prefill throughput"].value == result.prefill.throughput_tokens_per_s
    assert named["decode throughput"].value == result.decode.throughput_tokens_per_s
    assert named["total throughput"].value == result.total_throughput_tokens_per_s


def test_streaming_is_explained_by_what_moves() -> None:
    """Copies are the busy time of the host link in one pass, reads that of the disk."""
    result = predicted(model="opt-175b", gpu="t4", ds_zero=3)
    named = by_name(result)
    assert named["host-to-GPU copies per pass"].value == pytest.approx(
        result.prefill.busy_s["pcie"], rel=1e-9
    )
    assert named["NVMe reads per pass"].value == pytest.approx(result.prefill.busy_s["nvme"], rel=0.01)
    assert named["module hooks per pass"].value == pytest.approx(result.prefill.busy_s["host"], rel=1e-9)
    assert "NVMe reads per pass" not in by_name(predicted(model="opt-30b", gpu="t4", ds_zero=3))
    assert "host-to-GPU copies per pass" not in by_name(predicted(model="opt-30b", gpu="h200"))


def test_rates_name_their_source() -> None:
    named = by_name(predicted(model="opt-30b", gpu="t4", ds_zero=3))
    for name in (
        "compute rate of matrix products",
        "memory rate of matrix products",
        "host-to-GPU copies per pass",
    ):
        assert len(named[name].source) > 20
    assert "T4" in named["compute rate of matrix products"].source


def test_without_decode_steps_none_are_explained() -> None:
    for inputs in ({"model": "opt-1.3b", "gen_len": 1}, {"model": "bert-base"}):
        named = by_name(predicted(gpu="t4", **inputs))
        assert not [name for name in named if "decode" in name]
        assert named["prefill latency"].value > 0
