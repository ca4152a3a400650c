"""One last step: what follows from the times of both phases, and that everybody who asks gets the same."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm_perf import api
from llm_perf.analysis.inference import predict_inference
from llm_perf.analysis.measures import Measures, latencies, measure
from llm_perf.analysis.request import InferenceInputs, build_scenario
from llm_perf.analysis.sweep import sweep_inference
from llm_perf.cli.main import run
from llm_perf.config import get_model_config_by_name
from llm_perf.search.plan import PlanQuestion, plan
from llm_perf.search.policy import PolicyQuestion, search_policy
from llm_perf.systems import Load, system_names

DECODER, ENCODER = get_model_config_by_name("opt-1.3b"), get_model_config_by_name("bert-base")
ON_ANY = {"model": "opt-1.3b", "gpu": "h100-pcie-80gb", "host": "h100-spr-host"}
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
    "one token": {"model": "opt-1.3b", "gpu": "t4", "gen_len": 1},
    "encoder": {"model": "bert-base", "gpu": "t4", "prompt_len": 128},
    "streamed": {"model": "opt-30b", "gpu": "t4", "ds_zero": 3, "cpu_offload": True, "batch_size": 8},
    "stages": {"model": "llama-2-70b", "gpu": "a100-sxm-80gb", "tp_size": 2, "pp_size": 2, "batch_size": 3},
}

SECONDS = st.floats(1e-6, 1e6)
SIZES = st.integers(1, 10**6)


@given(SECONDS, SECONDS, SIZES, SIZES, SIZES)
def test_times_and_rates_account_for_every_token(prefill_s, decode_s, batch, prompt, gen):
    found = Measures.of_times(prefill_s, decode_s, Load(float(batch), float(prompt), float(gen)), DECODER)
    steps = gen - 1
    spent = found.tpot_s * steps if steps else 0.0
    assert found.ttft_s + spent == pytest.approx(found.total_latency_s, rel=1e-12)
    assert math.isnan(found.tpot_s) == math.isnan(found.decode_throughput_tokens_per_s) == (steps == 0)
    assert found.throughput_tokens_per_s * found.total_latency_s == pytest.approx(batch * gen)
    assert found.total_token_throughput_per_s * found.total_latency_s == pytest.approx(batch * (prompt + gen))
    assert found.prefill_throughput_tokens_per_s * found.ttft_s == pytest.approx(batch * prompt)
    assert found.requests_per_s * found.total_latency_s == pytest.approx(batch)
    if steps:
        assert found.decode_throughput_tokens_per_s * decode_s == pytest.approx(batch * steps)


@given(SECONDS, SECONDS, SIZES, SIZES, SIZES)
def test_an_encoder_has_no_decode_and_counts_what_it_reads(prefill_s, decode_s, batch, prompt, gen):
    load = Load(float(batch), float(prompt), float(gen))
    found = Measures.of_times(prefill_s, decode_s, load, ENCODER)
    assert found.decode_latency_s == 0
    assert math.isnan(found.tpot_s)
    assert found.total_latency_s == prefill_s
    assert found.tokens == batch * prompt
    assert found.throughput_tokens_per_s == found.total_token_throughput_per_s


@given(st.lists(st.tuples(SECONDS, SECONDS, SIZES, SIZES, SIZES), min_size=1, max_size=20))
def test_arrays_are_the_numbers_one_by_one(points):
    prefill, decode, batch, prompt, gen = (
        np.array(column, dtype=float) for column in zip(*points, strict=True)
    )
    names = (
        "decode_latency_s", "ttft_s", "tpot_s", "total_latency_s", "tokens", "throughput_tokens_per_s",
        "total_token_throughput_per_s", "prefill_throughput_tokens_per_s", "decode_throughput_tokens_per_s",
    )  # fmt: skip
    for model in (DECODER, ENCODER):
        together = Measures.of_times(prefill, decode, Load(batch, prompt, gen), model)
        for i in range(len(points)):
            load = Load(batch[i].item(), prompt[i].item(), gen[i].item())
            alone = Measures.of_times(prefill[i].item(), decode[i].item(), load, model)
            for name in names:
                value = np.broadcast_to(getattr(together, name), len(points))[i]
                assert value == pytest.approx(getattr(alone, name), rel=1e-12, nan_ok=True), name


@pytest.mark.parametrize("name", QUESTIONS)
def test_everybody_answers_a_question_alike(name, capsys):
    """The command's JSON, the API, a sweep's row, the quick times and the typed result are one prediction."""
    inputs = QUESTIONS[name]
    flags = [
        f"--{key.replace('_', '-')}" + ("" if value is True else f"={value}") for key, value in inputs.items()
    ]
    run(["infer", *flags, "--json"])
    printed = json.loads(capsys.readouterr().out)
    scenario = build_scenario(InferenceInputs(**inputs))
    result = predict_inference(scenario)
    asked = api.predict(**inputs)
    workload = scenario.workload
    row = sweep_inference(scenario, workload.batch_size, workload.prompt_len, workload.gen_len)
    steps = 0 if scenario.model.encoder else workload.gen_len - 1
    wanted = {
        "ttft_s": result.prefill.latency_s,
        "tpot_s": result.decode.latency_s / steps if result.decode else None,
        "total_latency_s": result.total_latency_s,
        "throughput_tokens_per_s": result.total_throughput_tokens_per_s,
    }
    assert (result.decode is None) == (steps == 0)
    assert printed["ttft_s"] == printed["prefill"]["latency_s"]
    assert printed["tpot_s"] == printed["decode"]["latency_per_token_s"]
    told = {"total_latency_s": printed["total"]["latency_s"]}
    told |= {"throughput_tokens_per_s": printed["total"]["throughput_tokens_per_s"]}
    for key, value in wanted.items():
        number = math.nan if value is None else value
        for other in (printed | told, asked, result.measures, row, measure(scenario), latencies(scenario)):
            found = other[key] if isinstance(other, dict) else getattr(other, key)
            found = math.nan if found is None else float(np.ravel(found)[0])
            assert found == pytest.approx(number, rel=1e-12, nan_ok=True), (key, type(other).__name__)
    assert measure(scenario).gpu_memory_bytes == result.memory.gpu.total_bytes == row.gpu_memory_bytes[0]


def test_a_plan_and_a_policy_answer_alike_too():
    found = plan(
        PlanQuestion(model="opt-1.3b", gpus=("t4",), objective="throughput", max_gpus=2, batching="static")
    ).best[0]
    result = predict_inference(build_scenario(found.inputs))
    for key in ("total_latency_s", "ttft_s", "tpot_s", "throughput_tokens_per_s"):
        value = getattr(result.measures, key)
        assert found.measures[key] == pytest.approx(value, rel=1e-9), key
    policy = search_policy(PolicyQuestion(model="opt-6.7b", gpu="t4"))
    again = predict_inference(build_scenario(policy.inputs))
    same = [point for point in policy.front if point == policy.best]
    assert same
    assert policy.best.latency_s == again.total_latency_s
    assert policy.best.throughput_tokens_per_s == again.total_throughput_tokens_per_s
