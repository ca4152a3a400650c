"""Predictions against measured runs, by names and with nothing fitted to a row. Each figure has its source beside it."""

import pytest

from llm_perf.analysis.inference import InferenceResult, predict_inference
from llm_perf.analysis.request import InferenceInputs, build_scenario


def predict(model: str, gpu: str, **inputs: object) -> InferenceResult:
    return predict_inference(build_scenario(InferenceInputs(model=model, gpu=gpu, **inputs)))


def where_weights_are(result: InferenceResult) -> dict[str, float]:
    weights = result.placement.weights
    return {name: share for name in ("gpu", "cpu", "nvme") if (share := getattr(weights, name))}


def on_t4(model: str, batch_size: int) -> InferenceResult:
    """512 + 32 tokens under ZeRO stage 3 on the machine of the FlexGen paper."""
    return predict(model, "t4", ds_zero=3, batch_size=batch_size, prompt_len=512, gen_len=32)


# FlexGen (arXiv 2303.06865), figure 1: ZeRO-Inference on one T4, 512 + 32 tokens; digitised from the axes of
# docs/throughput_vs_latency.jpg in FMInference/FlexGen, +-3 %. (batch size, total latency in seconds)
OPT_30B_ON_T4 = [(1, 202.0), (2, 204.0), (4, 205.0)]


@pytest.mark.parametrize(("batch_size", "measured_s"), OPT_30B_ON_T4)
def test_opt_30b_streams_from_cpu_memory_in_the_time_measured(batch_size, measured_s):
    result = on_t4("opt-30b", batch_size)
    assert result.feasible
    assert where_weights_are(result) == {"cpu": 1.0}
    assert result.prefill.bottleneck == result.decode.bottleneck == "pcie"
    assert result.total_latency_s == pytest.approx(measured_s, rel=0.10)


def test_opt_30b_takes_about_as_long_at_batch_4_as_at_batch_1():
    """Measured 1.5 % more for four times the tokens: every pass waits for the weights."""
    one, four = (on_t4("opt-30b", batch_size).total_latency_s for batch_size in (1, 4))
    assert one < four < 1.03 * one


def test_opt_175b_streams_from_nvme_in_the_time_measured():
    """5008 s for 32 tokens: the same figure as above."""
    result = on_t4("opt-175b", 1)
    assert result.feasible
    assert where_weights_are(result) == {"nvme": 1.0}
    assert "NVMe" in result.placement.reason
    assert result.prefill.bottleneck == result.decode.bottleneck == "nvme"
    assert result.total_latency_s == pytest.approx(5008.0, rel=0.15)
    assert result.memory.nvme.weights_bytes > result.scenario.host.memory_bytes


def test_opt_6_7b_at_batch_16_has_the_throughput_measured():
    """9.28 token/s: FlexGen (arXiv 2303.06865), table 2, row DeepSpeed ZeRO-Inference, prompt 512."""
    result = on_t4("opt-6.7b", 16)
    assert where_weights_are(result) == {"cpu": 1.0}
    assert result.decode.bottleneck == "pcie"
    assert result.total_throughput_tokens_per_s == pytest.approx(9.28, rel=0.25)


def test_opt_6_7b_with_a_longer_prompt_has_the_throughput_measured():
    """4.59 token/s at batch 8, prompt 1024: FlexGen (arXiv 2303.06865), table 2."""
    result = predict("opt-6.7b", "t4", ds_zero=3, batch_size=8, prompt_len=1024, gen_len=32)
    assert result.total_throughput_tokens_per_s == pytest.approx(4.59, rel=0.25)


# FasterTransformer on A100-SXM-40GB, 512 + 10 tokens, fp16: kipp.ly, "Transformer inference arithmetic", as quoted in
# cli99/llm-analysis, examples/fastertransformer/README.md. (tp, prefill in ms, decode per token in ms, tolerance:
# the all-reduces of two ranks were fitted on eight)
TEST_13B_ON_A100 = [(1, 63.17, 22.0, 0.20), (2, 45.45, 13.5, 0.25)]


@pytest.mark.parametrize(("tp_size", "prefill_ms", "decode_ms", "within"), TEST_13B_ON_A100)
def test_a_13b_model_under_fastertransformer_takes_the_time_measured(tp_size, prefill_ms, decode_ms, within):
    result = predict(
        "test-13b", "a100-sxm-40gb", system="fastertransformer", prompt_len=512, gen_len=10, tp_size=tp_size
    )
    assert result.feasible
    assert where_weights_are(result) == {"gpu": 1.0}
    assert (result.prefill.bottleneck, result.decode.bottleneck) == ("compute", "hbm")
    assert result.prefill.latency_s * 1e3 == pytest.approx(prefill_ms, rel=within)
    assert result.decode.latency_per_token_s * 1e3 == pytest.approx(decode_ms, rel=within)
