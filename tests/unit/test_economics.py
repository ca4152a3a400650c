"""Cost and energy: what they are made of, and where a user's own prices go."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm_perf.analysis.economics import cost_of, energy_of, gpu_price
from llm_perf.analysis.inference import predict_inference
from llm_perf.analysis.request import InferenceInputs, build_scenario
from llm_perf.analysis.training import predict_training
from llm_perf.analysis.training_economics import training_energy
from llm_perf.analysis.training_request import TrainingInputs, build_training_scenario
from llm_perf.cli.main import run
from llm_perf.config.economics import load_power_model, load_prices
from llm_perf.config.loading import get_gpu_config_by_name
from llm_perf.hardware.power import board_power_w

SHARES = st.floats(0, 2)


def predict(**settings):
    return predict_inference(build_scenario(InferenceInputs(**settings)))


def test_every_listed_gpu_exists_and_its_price_has_a_source_and_a_date():
    prices = load_prices()
    for name, price in prices.gpus.items():
        assert prices.of(get_gpu_config_by_name(name).name) is price
        assert price.source
        assert price.date.year >= 2026
    assert prices.of("a100 sxm_80gb") == prices.gpus["A100-SXM-80GB"]
    assert prices.of("p40-24gb") is None


def test_cost_is_price_times_gpus_times_time():
    result = predict(model="llama-2-13b", gpu="a100-sxm-80gb", tp_size=4, batch_size=8)
    cost = cost_of(result, 2.0)
    assert cost.total == pytest.approx(2.0 * 4 * result.total_latency_s / 3600)
    assert cost.per_million_tokens == pytest.approx(cost.total / (8 * 32) * 1e6)


def test_a_stated_price_goes_before_the_list(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text("gpus:\n  T4-16GB: {per_gpu_hour: 0.11, date: 2026-01-02, source: my contract}\n")
    mine = gpu_price("T4-16GB", None, str(file))
    assert mine.per_gpu_hour == 0.11
    assert gpu_price("T4-16GB", 0.5, str(file)) == 0.5
    assert gpu_price("L4-24GB", None, str(file)) is None


@given(compute=SHARES, memory=SHARES, more=st.floats(0, 1))
def test_power_lies_between_idle_and_tdp_and_grows_with_use(compute, memory, more):
    model = load_power_model()
    power = board_power_w(400.0, model, compute, memory)
    assert 400 * model.idle_share.value <= power <= 400
    assert board_power_w(400.0, model, compute + more, memory) >= power
    assert board_power_w(400.0, model, compute, memory + more) >= power


def test_energy_is_power_times_time_over_all_gpus():
    result = predict(model="llama-2-13b", gpu="a100-sxm-80gb", tp_size=2, batch_size=4)
    energy = energy_of(result)
    joules = (
        energy.prefill_power_w * result.prefill.latency_s + energy.decode_power_w * result.decode.latency_s
    )
    assert energy.total_j == pytest.approx(2 * joules)
    assert energy.j_per_token == pytest.approx(energy.total_j / (4 * 32))


def test_power_of_prefill_and_decode_is_what_was_measured():
    """Decode on an H200 draws 137 to 300 W (arXiv 2605.11999); on an H100 300 W at batch 1 (ML.ENERGY 3.0).

    Long prompts draw near TDP (POLCA, arXiv 2308.12908).
    """
    for system in ("transformers", "vllm@0.6", "vllm"):
        asked = {"model": "llama-3.1-8b", "gpu": "h200", "prompt_len": 4096, "gen_len": 256, "system": system}
        h200 = energy_of(predict(**asked))
        assert 137 <= h200.decode_power_w <= 300, system
        assert system != "vllm@0.6" or h200.prefill_power_w > 0.6 * 700
    h100 = energy_of(predict(model="llama-3.1-8b", gpu="h100-sxm-80gb", prompt_len=512, gen_len=256))
    assert h100.decode_power_w == pytest.approx(300, rel=0.15)


def test_energy_per_token_falls_with_the_batch():
    energies = [
        energy_of(predict(model="llama-2-13b", gpu="a100-sxm-80gb", batch_size=batch)).j_per_token
        for batch in (1, 4, 16, 64)
    ]
    assert energies == sorted(energies, reverse=True)


def test_json_and_report_carry_cost_and_energy(capsys):
    assert run(["infer", "--model", "opt-1.3b", "--gpu", "t4", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["cost"]["per_gpu_hour"] == load_prices().of("t4-16gb").per_gpu_hour
    assert found["cost"]["date"] == "2026-05-07"
    assert found["cost"]["per_million_tokens"] == pytest.approx(found["cost"]["total"] / 32 * 1e6)
    assert found["energy"]["j_per_token"] > 0
    assert run(["infer", "--model", "opt-1.3b", "--gpu", "t4", "--cost-per-gpu-hour", "2"]) == 0
    assert "at $2 per GPU-hour." in capsys.readouterr().out.replace("\n", " ")


def test_without_a_price_there_is_no_cost(capsys):
    assert run(["infer", "--model", "opt-1.3b", "--gpu", "p40-24gb", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["cost"] is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("gpus: {T4-16GB: {per_gpu_hour: -1, date: 2026-01-01, source: x}}", "per_gpu_hour"),
        ("gpus: {T4-16GB: {per_gpu_hour: 1, source: x}}", "date"),
        ("prices: 3", "prices"),
        ("[]", "mapping"),
    ],
)
def test_a_wrong_list_of_prices_is_one_line(tmp_path, capsys, text, message):
    file = tmp_path / "prices.yaml"
    file.write_text(text)
    assert run(["infer", "--model", "opt-1.3b", "--gpu", "t4", "--prices", str(file)]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


@pytest.mark.parametrize("limit", [300.0, 350.0, 450.0])
def test_a_board_in_training_draws_no_more_than_its_limit(limit):
    inputs = TrainingInputs(
        model="llama-3.1-8b", gpu="h100-sxm-80gb", num_gpus=8, framework="fsdp", power_limit_w=limit
    )
    energy = training_energy(predict_training(build_training_scenario(inputs)))
    assert 0.2 * limit < energy.power_w <= limit
