"""What a flag says of a machine is what a file of it would say; a name with a format is the model in that format."""

from __future__ import annotations

from typing import Any

import pytest

from llm_perf import predict
from llm_perf.analysis.inference import InferenceResult, predict_inference
from llm_perf.analysis.request import InferenceInputs, build_scenario


def asked(**inputs: Any) -> InferenceResult:
    return predict_inference(build_scenario(InferenceInputs(**inputs)))


HYBRID: dict[str, Any] = {
    "model": "llama-3.1-70b",
    "gpu": "rtx-4090",
    "system": "llama_cpp",
    "n_gpu_layers": 20,
}


@pytest.mark.parametrize("gib", [48, 64, 128, 512])
def test_host_memory_by_flag_is_host_memory_by_name(gib: int) -> None:
    by_flag = asked(**HYBRID, weight_format="q4_k_m", host="ryzen-9-7950x", host_memory=gib)
    by_name = asked(**HYBRID, weight_format="q4_k_m", host=f"ryzen-9-7950x-{gib}gb")
    assert by_flag.memory == by_name.memory
    assert by_flag.total_latency_s == by_name.total_latency_s


def test_more_host_memory_never_makes_it_slower() -> None:
    spent = [asked(**HYBRID, host_memory=gib).total_latency_s for gib in (16, 32, 64, 128, 256)]
    assert spent == sorted(spent, reverse=True)
    assert spent[0] > spent[-1]


def test_a_network_of_the_hosts_own_rate_changes_nothing_and_a_slower_one_slows_down() -> None:
    deployed: dict[str, Any] = {
        "model": "llama-3.1-70b",
        "gpu": "h100-sxm-80gb",
        "num_gpus": 8,
        "num_nodes": 2,
    }
    deployed |= {"tp_size": 16, "batch_size": 64}
    own = asked(**deployed)
    rate = own.scenario.host.nic_gb_per_s
    assert rate is not None
    assert asked(**deployed, network_bandwidth=rate).total_latency_s == own.total_latency_s
    assert asked(**deployed, network_bandwidth=rate / 4).total_latency_s > own.total_latency_s


@pytest.mark.parametrize("rate", ["host_bandwidth", "network_bandwidth"])
def test_a_rate_that_a_flag_states_is_as_sure_as_the_hosts_own(rate: str) -> None:
    """Of one node, whose weights cross PCIe: neither rate is what it waits for, and no profile was given."""
    own, stated = (
        predict("opt-30b", "t4", ds_zero=3, **flag).as_dict()["interval"] for flag in ({}, {rate: 100.0})
    )
    assert own is not None
    assert own == stated


@pytest.mark.parametrize(
    ("typed", "base", "stored"),
    [
        ("gemma-4-12b-it-Q8_0.gguf", "gemma-4-12b", "q8_0"),
        ("Meta-Llama-3.1-8B-Instruct-UD-Q4_K_XL.gguf", "llama-3.1-8b", "q4_k_m"),
        ("Intel/Qwen3-30B-A3B-int4-AutoRound", "qwen3-30b-a3b", "int4"),
        ("01-ai/Yi-6B-Chat-4bits", "yi-6b", "awq"),
        ("RedHatAI/Qwen2.5-7B-Instruct-quantized.w8a8", "qwen2.5-7b", "int8"),
    ],
)
def test_a_name_with_a_format_is_the_model_in_that_format(typed: str, base: str, stored: str) -> None:
    named = asked(model=typed, gpu="h200")
    said = asked(model=base, gpu="h200", weight_format=stored)
    assert named.total_latency_s == pytest.approx(said.total_latency_s, rel=1e-9)
    assert float(named.memory.gpu.weights_bytes) == pytest.approx(
        float(said.memory.gpu.weights_bytes), rel=1e-9
    )


def test_cross_attention_that_a_text_passes_by_takes_memory_and_no_time() -> None:
    vision, text = asked(model="llama-3.2-11b-vision", gpu="h200"), asked(model="llama-3.1-8b", gpu="h200")
    assert vision.decode is not None
    assert text.decode is not None
    assert vision.decode.latency_s == text.decode.latency_s
    more = float(vision.memory.gpu.weights_bytes) - float(text.memory.gpu.weights_bytes)
    assert more == pytest.approx(2 * 1_744_930_832, rel=1e-6)


def test_sixteen_cards_on_risers_are_one_node_with_half_the_lanes() -> None:
    rig: dict[str, Any] = {"model": "llama-3.1-70b", "gpu": "rtx-3090", "tp_size": 16}
    said, unsaid = asked(**rig, num_gpus=16), asked(**rig)
    assert said.scenario.num_nodes == 1
    assert unsaid.scenario.num_nodes == 2  # nobody said that they are in one machine
    whole = asked(**(rig | {"tp_size": 8}), num_gpus=8).scenario.host
    assert said.scenario.host.pcie_bytes_per_s == pytest.approx((whole.pcie_bytes_per_s or 0.0) / 2)
