"""What published comparisons of DeepSpeed, transformers and FasterTransformer on Llama-13B and 65B concluded.

Each conclusion has to hold because of the model; where one does not follow, docs/parallelism.md says under which
conditions it would, and a test here holds that.
"""

from itertools import pairwise
from typing import Any

import pytest

from llm_perf.analysis.inference import InferenceResult, predict_inference
from llm_perf.analysis.request import InferenceInputs, build_scenario
from llm_perf.analysis.scaling import predict_scaling
from llm_perf.analysis.thresholds import thresholds_by_gpus, thresholds_of
from llm_perf.report.inference_json import pivot_object

SYSTEMS = ("fastertransformer", "deepspeed_inference")
BASE: dict[str, Any] = {"model": "llama-13b", "gpu": "v100-sxm2-32gb", "gen_len": 20}


def predict(**changes: Any) -> InferenceResult:
    return predict_inference(build_scenario(InferenceInputs(**(BASE | {"prompt_len": 128} | changes))))


def latency(**changes: Any) -> float:
    return predict(**changes).total_latency_s


@pytest.mark.parametrize("system", SYSTEMS)
@pytest.mark.parametrize("gpus", [1, 4])
def test_input_length_does_not_matter_below_the_threshold_and_does_above(system: str, gpus: int) -> None:
    """Below it a prompt of 128 tokens costs hardly more than one of 8; well above it, far more."""
    short, long = (
        [
            latency(system=system, tp_size=gpus, batch_size=batch, prompt_len=length, gen_len=20)
            for batch in (1, 64)
        ]
        for length in (8, 128)
    )
    assert long[0] < 1.12 * short[0]
    assert long[1] > 1.5 * short[1]


@pytest.mark.parametrize("model", ["llama-13b", "llama-65b"])
@pytest.mark.parametrize("gpu", ["v100-sxm2-32gb", "a100-sxm-80gb"])
@pytest.mark.parametrize("system", SYSTEMS)
def test_the_threshold_grows_with_gpus_that_have_links_of_their_own(
    model: str, gpu: str, system: str
) -> None:
    scenario = build_scenario(InferenceInputs(model=model, gpu=gpu, system=system, prompt_len=128))
    found = thresholds_by_gpus(scenario)
    assert [entry.num_gpus for entry in found][:4] == [1, 2, 4, 8]
    tokens = [entry.prefill_tokens for entry in found][:4]
    batches = [entry.decode_batch or 0.0 for entry in found][:4]
    assert batches[3] > batches[0]
    if (model, gpu) == ("llama-65b", "v100-sxm2-32gb"):
        # Nearly flat: weights still take most of a pass, and the all-reduce's bytes grow with tokens.
        assert tokens[3] > 0.95 * tokens[0]
    else:
        assert tokens == sorted(tokens)
        assert tokens[3] > (1.2 if model == "llama-13b" else 1.1) * tokens[0]


def test_over_pcie_the_threshold_does_not_grow() -> None:
    """Every token's all-reduce crosses PCIe, so latency grows with tokens earlier: T4 cards have no links of their own."""
    found = thresholds_by_gpus(build_scenario(InferenceInputs("llama-13b", "t4", prompt_len=128)))
    assert found[-1].prefill_tokens < found[0].prefill_tokens


def test_on_a_plain_roofline_the_threshold_is_the_pivot_of_the_weights() -> None:
    """(weights / bandwidth) / (FLOPs per token / peak) = peak / bandwidth tokens at 16 bits: A100, 312e12 / 2039e9."""
    from llm_perf.config.gpu import TEXTBOOK

    scenario = build_scenario(InferenceInputs("llama-13b", "a100-sxm-80gb", prompt_len=1))
    found = thresholds_of(scenario.replace(gpu=scenario.gpu.replace(efficiency=TEXTBOOK)))
    assert found is not None
    assert found.pivot_tokens == pytest.approx(312e12 / 2039e9)
    assert found.prefill_tokens == pytest.approx(
        found.pivot_tokens, rel=0.25
    )  # attention and norms come on top


@pytest.mark.parametrize("system", SYSTEMS)
@pytest.mark.parametrize("batch", [1, 16, 128])
def test_latency_falls_with_tensor_parallelism(system: str, batch: int) -> None:
    times = [
        latency(gpu="a100-sxm-80gb", system=system, tp_size=tp, batch_size=batch, prompt_len=20)
        for tp in (1, 2, 4, 8)
    ]
    assert times == sorted(times, reverse=True)


@pytest.mark.parametrize("gpus", [1, 2, 4, 8])
def test_latency_stays_flat_up_to_a_batch_and_the_best_value_lies_between_32_and_256(gpus: int) -> None:
    """20 tokens in, 100 out, on V100, as the benchmark had it."""
    inputs = InferenceInputs("llama-13b", "v100-sxm2-32gb", system="fastertransformer", gen_len=100)
    curve = predict_scaling(inputs, (gpus,), (20,)).curves[0]
    assert curve.latency_s[3] < 1.15 * curve.latency_s[0]  # batch 8 against 1
    assert curve.worthwhile_batch is not None
    assert 32 <= curve.worthwhile_batch <= 256
    assert list(curve.throughput_tokens_per_s) == sorted(curve.throughput_tokens_per_s)


@pytest.mark.parametrize("system", SYSTEMS)
def test_twice_the_gpus_leave_slightly_more_than_half_the_memory_each(system: str) -> None:
    totals = [
        float(predict(gpu="a100-sxm-80gb", system=system, tp_size=tp, batch_size=8).memory.gpu.total_bytes)
        for tp in (1, 2, 4)
    ]
    for more, fewer in pairwise(totals):
        assert 0.5 < fewer / more < 0.75


def test_memory_is_flat_in_the_batch_first_and_steep_later() -> None:
    totals = [float(predict(batch_size=batch).memory.gpu.total_bytes) for batch in (1, 4, 64, 256)]
    assert totals[1] < 1.05 * totals[0]
    assert totals[3] > 1.5 * totals[2]


@pytest.mark.parametrize("batch", [1, 8, 32])
def test_a_naive_pipeline_adds_latency_and_only_buys_capacity(batch: int) -> None:
    one, four = (
        predict(system="transformers", gpu="a100-sxm-80gb", pp_size=stages, batch_size=batch)
        for stages in (1, 4)
    )
    assert four.total_latency_s > one.total_latency_s
    assert four.total_throughput_tokens_per_s < one.total_throughput_tokens_per_s
    assert four.max_batch_size > 2 * one.max_batch_size


@pytest.mark.parametrize(("gpus", "least"), [(1, 1.0), (2, 1.5), (4, 2.0)])
def test_deepspeed_is_far_ahead_of_transformers_at_several_gpus(gpus: int, least: float) -> None:
    """One GPU: a little ahead; several: tensor parallelism against layers that take turns."""
    deepspeed = latency(system="deepspeed_inference", gpu="a100-sxm-80gb", tp_size=gpus, batch_size=8)
    transformers = latency(system="transformers", gpu="a100-sxm-80gb", pp_size=gpus, batch_size=8)
    assert transformers > least * deepspeed


@pytest.mark.parametrize("gen_len", [40, 80, 160])
def test_the_time_per_token_hardly_depends_on_how_many_are_generated(gen_len: int) -> None:
    """ "The output length does not affect latency": it holds of the latency per token."""
    short = predict(gen_len=20, tp_size=4).decode
    long = predict(gen_len=gen_len, tp_size=4).decode
    assert short is not None
    assert long is not None
    assert long.latency_per_token_s == pytest.approx(short.latency_per_token_s, rel=0.05)


def test_t4_and_v100_are_alike_only_where_neither_bandwidth_is_waited_for() -> None:
    """Their bandwidths differ 2.8 times. On 4 cards, 13B at batch 1, a step waits for weights: they are not alike.

    Under host time of 1 ms per layer, which hides the kernels of both, they would be.
    """
    settings: dict[str, Any] = {"tp_size": 4, "prompt_len": 20, "gen_len": 100, "batch_size": 8}
    assert latency(gpu="t4", **settings) > 1.5 * latency(gpu="v100-sxm2-32gb", **settings)
    slow_host = (("python_us_per_layer", 1500.0),)
    t4, v100 = (
        predict_inference(
            build_scenario(InferenceInputs(**(BASE | settings | {"gpu": gpu}))).replace(constants=slow_host)
        ).total_latency_s
        for gpu in ("t4", "v100-sxm2-32gb")
    )
    assert t4 == pytest.approx(v100, rel=0.1)


def test_the_json_pivot_has_every_number_of_gpus() -> None:
    found = pivot_object(predict(tp_size=2))
    assert found is not None
    assert [entry["num_gpus"] for entry in found["by_gpus"]] == [1, 2, 4, 8]  # 16 do not divide 40 heads
    assert found["prefill_tokens"] == found["by_gpus"][1]["prefill_tokens"]
    assert pivot_object(predict(ds_zero=3)) is None
