"""What would make a prediction fit: it really fits, it is small, and it can be typed."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llm_perf.analysis.advice import Change, changes_that_fit
from llm_perf.analysis.inference import predict_inference
from llm_perf.analysis.request import InferenceInputs, build_scenario
from llm_perf.analysis.speedups import faster
from llm_perf.errors import SpecError


def changes(most: int = 4, **inputs: Any) -> tuple[InferenceInputs, tuple[Change, ...]]:
    question = InferenceInputs(**inputs)
    return question, changes_that_fit(question, predict_inference(build_scenario(question)), most)


def fits(question: InferenceInputs) -> bool:
    return predict_inference(build_scenario(question)).feasible


def test_what_fits_needs_no_change() -> None:
    assert changes(model="opt-1.3b", gpu="t4")[1] == ()


@pytest.mark.parametrize(
    ("model", "gpu"), [("opt-30b", "a100-sxm-40gb"), ("llama-65b", "v100-sxm2-32gb"), ("kimi-k2", "h200")]
)
def test_who_generates_one_token_has_no_decode_speed(model: str, gpu: str) -> None:
    found = changes(model=model, gpu=gpu, gen_len=1)[1]
    assert found
    assert {change.tokens_per_s for change in found} == {None}


ORDER = (
    "batch_size",
    "prompt_len",
    "max_num_seqs",
    "gpu_memory_utilization",
    "quant_bits",
    "weight_format",
    "n_gpu_layers",
    "n_cpu_moe",
    "kv_offload",
    "disk_offload",
    "dp_size",
    "tp_size",
    "ds_zero",
)
"""Least intrusive first: the workload, what an engine sets aside, the number format, the division between GPU and
CPU, the system's own placement, more GPUs, then to stream weights."""

JOINED = (*ORDER[:6], "tp_size", *(name for name in ORDER[6:] if name != "tp_size"))
"""Of a GPU that is one of eight on a switch, its neighbours before the CPU."""


@pytest.mark.parametrize(
    "inputs",
    [
        {"model": "opt-13b", "gpu": "a100-sxm-40gb", "batch_size": 64},
        {"model": "opt-30b", "gpu": "a100-sxm-40gb"},
        {"model": "opt-30b", "gpu": "t4", "ds_zero": 3, "batch_size": 64},
        {"model": "opt-175b", "gpu": "t4", "ds_zero": 3, "cpu_offload": True},
    ],
)
def test_the_least_intrusive_change_comes_first(inputs: dict[str, Any]) -> None:
    found = [change.inputs for change in changes(most=20, **inputs)[1]]
    order = JOINED if "sxm" in inputs["gpu"] else ORDER
    kinds = [max(order.index(name) for name in change if name in order and change[name]) for change in found]
    assert len(set(kinds)) >= 2
    assert kinds == sorted(kinds)


def test_one_of_eight_joined_gpus_is_told_of_the_others_before_the_cpu() -> None:
    """DeepSeek-V3 on one H200 runs on eight: twenty times as fast as with its experts in host memory, and both say so."""
    eight, divided = changes(model="deepseek-v3", gpu="h200")[1][:2]
    assert eight.inputs["tp_size"] == 8
    assert "n_cpu_moe" in divided.inputs
    assert eight.tokens_per_s is not None
    assert divided.tokens_per_s is not None
    assert eight.tokens_per_s > 20 * divided.tokens_per_s
    alone = changes(model="gpt-oss-120b", gpu="rtx-4090")[1]
    assert "n_cpu_moe" in alone[0].inputs


def test_at_most_as_many_as_asked_for() -> None:
    question = InferenceInputs(model="opt-30b", gpu="a100-sxm-40gb")
    result = predict_inference(build_scenario(question))
    assert changes_that_fit(question, result, most=1) == changes_that_fit(question, result)[:1]
    assert len(changes_that_fit(question, result, most=2)) == 2


def test_the_smaller_batch_is_the_largest_that_fits() -> None:
    question, found = changes(model="opt-13b", gpu="a100-sxm-40gb", batch_size=64)
    batch = found[0].inputs["batch_size"]
    assert fits(question.replace(batch_size=batch))
    assert not fits(question.replace(batch_size=batch + 1))


def test_the_shorter_prompt_is_the_longest_that_fits() -> None:
    question, found = changes(model="opt-13b", gpu="a100-sxm-40gb", batch_size=64)
    prompt = next(change.inputs["prompt_len"] for change in found if "prompt_len" in change.inputs)
    assert fits(question.replace(prompt_len=prompt))
    assert not fits(question.replace(prompt_len=prompt + 1))


def test_the_fewest_gpus_of_a_power_of_two() -> None:
    question, found = changes(model="opt-175b", gpu="a100-sxm-80gb")
    size = next(change.inputs["tp_size"] for change in found if "tp_size" in change.inputs)
    assert fits(question.replace(tp_size=size))
    assert not fits(question.replace(tp_size=size // 2))


@pytest.mark.parametrize(
    ("inputs", "text", "changed"),
    [
        ({"model": "opt-175b", "gpu": "t4"}, "--ds-zero 3", {"ds_zero": 3}),
        (
            {"model": "opt-175b", "gpu": "t4", "tp_size": 2, "system": "ft"},
            "--ds-zero 3 without --system, --tp-size",
            {"ds_zero": 3, "system": None, "tp_size": None},
        ),
        (
            {"model": "opt-175b", "gpu": "t4", "ds_zero": 3, "cpu_offload": True},
            "--no-cpu-offload --disk-offload",
            {"cpu_offload": False, "disk_offload": True},
        ),
        (
            {"model": "opt-66b", "gpu": "a100-sxm-80gb", "weight_bits": 16},
            "--weight-format fp8 without --weight-bits",
            {"weight_format": "fp8", "weight_bits": None},
        ),
    ],
)
def test_a_change_can_be_typed(inputs: dict[str, Any], text: str, changed: dict[str, Any]) -> None:
    assert (text, changed) in [(change.text, change.inputs) for change in changes(**inputs)[1]]


def test_replicas_of_zero_3_keep_a_batch_that_divides() -> None:
    for now, size, batch in ((1, 2, 14), (2, 4, 28), (4, 8, 56)):
        question, found = changes(
            most=20, model="opt-30b", gpu="t4", ds_zero=3, dp_size=now, batch_size=13 * now
        )
        batches = [change.inputs for change in found if "dp_size" in change.inputs]
        assert [(one["dp_size"], one["batch_size"]) for one in batches] == [(size, batch)]
        assert fits(question.replace(dp_size=size, batch_size=batch))


def test_where_nothing_helps_nothing_is_suggested() -> None:
    """A billion sequences of a model whose single sequence does not fit either."""
    inputs = {"model": "opt-175b", "gpu": "t4", "ds_zero": 3, "batch_size": 10**9, "prompt_len": 10**6}
    assert changes(**inputs, allow_long_context=True)[1] == ()


QUESTIONS = st.fixed_dictionaries(
    {
        "model": st.sampled_from(
            ["opt-6.7b", "opt-30b", "opt-175b", "llama-2-70b", "mixtral-8x7b", "gemma-2-9b"]
        ),
        "gpu": st.sampled_from(["t4", "l4", "a100-sxm-40gb", "h200", "rtx4090"]),
        "batch_size": st.sampled_from([1, 8, 64, 1000]),
        "prompt_len": st.sampled_from([16, 512, 1900]),
    },
    optional={
        "ds_zero": st.sampled_from([0, 2, 3]),
        "tp_size": st.sampled_from([1, 2, 4]),
        "pp_size": st.sampled_from([1, 2]),
        "num_gpus": st.sampled_from([1, 2, 4, 8]),
        "num_nodes": st.sampled_from([1, 2]),
        "weight_bits": st.sampled_from([8, 16, 32]),
        "quant_bits": st.sampled_from([8, 16]),
        "kv_bits": st.sampled_from([8, 16]),
        "cpu_offload": st.booleans(),
        "disk_offload": st.booleans(),
        "kv_offload": st.booleans(),
        "system": st.sampled_from(["resident", "fastertransformer", "zero_inference"]),
    },
)


@settings(max_examples=60)
@given(QUESTIONS)
def test_every_change_fits_and_says_what_changes(inputs: dict[str, Any]) -> None:
    try:
        question, found = changes(**inputs)
    except SpecError:
        return
    for change in found:
        assert change.inputs
        assert fits(question.replace(**change.inputs)), change
        added, _, dropped = change.text.partition(" without ")
        named = [
            word[2:].removeprefix("no-").replace("-", "_") for word in added.split() if word.startswith("--")
        ]
        gone = [word[2:].replace("-", "_") for word in dropped.split(", ") if word]
        assert {*named, *gone} == change.inputs.keys()
        assert all(change.inputs[name] is None and getattr(question, name) is not None for name in gone)


def test_a_change_to_streaming_leaves_the_options_of_stacks_out() -> None:
    inputs = InferenceInputs(
        model="opt-66b", gpu="a100-sxm-40gb", cp_size=2, prefix_hit_rate=0.5, prefill_chunk=64
    )
    changes = changes_that_fit(inputs, predict_inference(build_scenario(inputs)), most=8)
    streamed = next(change for change in changes if change.inputs.get("ds_zero") == 3)
    assert streamed.inputs["cp_size"] == 1
    assert streamed.inputs["prefix_hit_rate"] == 0
    assert streamed.inputs["prefill_chunk"] is None


def test_who_counts_gpus_is_told_their_number_and_who_gives_stages_theirs() -> None:
    asked = {
        "model": "llama-3.3-70b",
        "gpu": "t4",
        "system": "llama_cpp",
        "weight_format": "q4_k_m",
    }
    assert "--num-gpus 4" in [change.text for change in changes(**asked, num_gpus=2)[1]]
    assert "--pp-size 4" in [change.text for change in changes(**asked, pp_size=2)[1]]


@pytest.mark.parametrize(("gpu", "named"), [("mi300x", True), ("h200", False)])
def test_scales_of_blocks_that_are_slow_somewhere_are_said_so(gpu: str, named: bool) -> None:
    """On CDNA3 one scale for a matrix is 1.9 times as fast as DeepSeek's blocks; elsewhere that gains too little."""
    question = InferenceInputs(model="deepseek-v3", gpu=gpu, tp_size=8, system="sglang")
    gains = faster(question, predict_inference(build_scenario(question)))
    texts = {gain.text: gain.factor for gain in gains}
    assert ("--weight-format fp8_dynamic" in texts) is named
    if named:
        plain = predict_inference(build_scenario(question.replace(weight_format="fp8_dynamic")))
        whole = predict_inference(build_scenario(question))
        assert texts["--weight-format fp8_dynamic"] == pytest.approx(
            whole.total_latency_s / plain.total_latency_s
        )
