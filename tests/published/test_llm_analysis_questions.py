"""What llm-analysis is asked about published training runs: their own settings, in its terms."""

import dataclasses
import importlib.util
from pathlib import Path

import pytest

from calibrate.evidence.published import load_measurements
from calibrate.validate.baselines import llm_analysis

SCRIPT = Path(__file__).parents[2] / "bench" / "llm_analysis_baseline.py"


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("llm_analysis_baseline", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def questions(script):
    """Question by row, of the rows that can be asked."""
    found = {}
    for measurement in load_measurements("training"):
        try:
            found[measurement.row_id] = (measurement, script.training_question(measurement))
        except script.NotAskedError:
            continue
    return found


def test_a_question_has_the_batches_and_the_gpus_of_its_row(questions):
    assert len(questions) > 200
    for measurement, asked in questions.values():
        ranks, training = asked["parallelism"], asked["training"]
        assert ranks["tp_size"] * ranks["pp_size"] * ranks["dp_size"] == measurement.num_gpus
        assert ranks["sp_size"] in (1, ranks["tp_size"])
        assert training["global_batch_size"] == measurement.global_batch_size
        assert training["batch_size_per_gpu"] == measurement.micro_batch_size
        assert training["seq_len"] == measurement.seq_len <= asked["model"]["max_seq_len"]
        assert training["ds_zero"] == (3 if measurement.sharding == "FULL_SHARD" else training["ds_zero"])


def test_what_is_computed_again_and_the_width_are_those_of_the_row(questions):
    for measurement, asked in questions.values():
        stated = measurement.recompute or "none"
        level = 2 if stated.startswith("full") else 1 if "selective" in stated else 0
        assert asked["training"]["activation_recomputation"] == level
        precision = (measurement.precision or "bf16").lower()
        bits = 4 if "fp4" in precision else 8 if "fp8" in precision else 16
        assert (asked["dtype"]["weight_bits"], asked["dtype"]["activation_bits"]) == (bits, bits)


def test_a_step_takes_what_its_flops_take_at_the_efficiency_that_it_is_given(script, questions):
    """Its counts of a dense model with an MLP of 4 x hidden are ours but for recomputation, so its time follows."""
    compared = 0
    for row_id, (measurement, asked) in questions.items():
        model = asked["model"]
        classic = model["moe_num_experts"] == 1 and model["ffn_embed_dim"] == 4 * model["hidden_dim"]
        if not classic or model["num_key_value_heads"] != model["n_head"]:
            continue
        tokens = measurement.global_batch_size * measurement.seq_len
        width, layers = model["hidden_dim"], model["num_layers"]
        attention = 4 * layers * measurement.seq_len * width
        forward = 24 * layers * width**2 + attention + 2 * width * model["vocab_size"]
        again = {0: 0, 1: attention, 2: forward}[asked["training"]["activation_recomputation"]]
        peak = (
            asked["gpu"][{16: "peak_fp16_TFLOPS", 8: "peak_i8_TFLOPS"}[asked["dtype"]["weight_bits"]]] * 1e12
        )
        seconds = tokens * (3 * forward + again) / (measurement.num_gpus * peak * script.FLOPS_EFFICIENCY)
        assert llm_analysis("training", row_id) == pytest.approx(seconds, rel=1e-4)
        compared += 1
    assert compared > 100


def test_what_it_has_no_notion_of_is_not_asked(script):
    row = next(m for m in load_measurements("training") if m.row_id == 78)
    with pytest.raises(script.NotAskedError, match="sequences split over GPUs"):
        script.training_question(dataclasses.replace(row, cp=2))
    with pytest.raises(script.NotAskedError, match="precision tf32"):
        script.training_question(dataclasses.replace(row, precision="tf32"))
