"""A few real training steps under DeepSpeed ZeRO, beside their prediction."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from calibrate.run.train import measure_training
from calibrate.run.train.report import training_lines
from calibrate.run.train.settings import TrainRunSettings
from llm_perf.errors import DoesNotFitError, EnvironmentFailure, SpecError

ERRORS = {"step_time", "throughput", "peak_gpu_memory"}


@pytest.fixture
def train(models):
    """Train in this process, with small settings of which some are changed."""

    def trained(**changes: Any) -> dict[str, Any]:
        settings = {
            "model_name": models["llama"], "micro_batch_size": 2, "seq_len": 32, "steps": 2, "warmup": 1,
            "dtype": "fp32", "device": "cpu",
        }  # fmt: skip
        result = measure_training(TrainRunSettings(**(settings | changes)))
        assert result is not None
        return result

    return trained


def losses(result: dict[str, Any]) -> list[float]:
    """Losses of all steps, in order."""
    return [step["loss"] for step in (*result["raw"]["warmup"], *result["raw"]["steps"])]


def test_every_stage_learns_the_same_and_is_laid_beside_its_prediction(train):
    first = None
    for stage in range(4):
        result = train(ds_zero=stage)
        found = losses(result)
        assert found == sorted(found, reverse=True)  # the same batch again and again
        first = first or found
        assert found == pytest.approx(first, rel=1e-4)  # ZeRO changes where state is, not what is computed
        measured, predicted = result["measured"], result["predicted"]
        assert set(result["error"]) == ERRORS
        step, told = measured["step"]["latency_s"], predicted["step"]["latency_s"]
        assert result["error"]["step_time"] == pytest.approx((told - step) / step)
        assert measured["step"]["throughput_tokens_per_s"] == pytest.approx(2 * 32 / step)
        # Of the process's memory most is there before the model: what the prediction adds to it has the right size.
        assert abs(result["error"]["peak_gpu_memory"]) < 0.3
        assert json.loads(Path(result["run_file"]).read_text()) == result


def test_offload_and_recomputation_learn_the_same_too(train):
    plain = losses(train(gradient_accumulation_steps=2))
    other = train(gradient_accumulation_steps=2, optimizer_offload=True, recompute=True)
    assert losses(other) == pytest.approx(plain, rel=1e-3)
    assert other["run"]["global_batch_size"] == 4
    assert other["predicted"]["memory"]["cpu"]["optimizer_bytes"] > 0
    assert other["predicted"]["memory"]["gpu"]["optimizer_bytes"] == 0
    assert other["predicted"]["step"]["breakdown_s"]["recompute"] > 0
    assert other["machine"]["probe"]["adam_s_per_param"] > 0
    lines = training_lines(other)
    assert [line.split(":")[0] for line in lines[:5]] == ["Fits", "Speed", "How sure", "Bound by", "Change"]
    assert "optimizer on the CPU, layers recomputed" in lines
    # Paths are as long as they are.
    assert all(len(line) <= 80 or "run file" in line or other["run"]["model_name"] in line for line in lines)


def test_bf16_trains_a_mixture_of_experts(train, models):
    result = train(model_name=models["mixtral"], dtype="auto", ds_zero=1)
    assert result["run"]["dtype"] == "bf16"
    assert result["predicted"]["inputs"]["settings"]["ds_zero"] == 1
    assert result["measured"]["mfu"] > 0


def test_two_ranks_share_the_state(models):
    settings = TrainRunSettings(
        model_name=models["opt"], ds_zero=3, num_gpus_per_node=2, seq_len=16, steps=1, warmup=1, device="cpu"
    )
    result = measure_training(settings)
    assert result is not None
    assert result["run"]["ranks"] == result["run"]["global_batch_size"] == 2
    assert result["machine"]["figures"]["all_gather_gb_per_s"] > 0
    busy = result["predicted"]["step"]["breakdown_s"]
    assert busy["weight_gather"] > 0
    assert busy["gradient_reduction"] > 0


# -- what is refused -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "fields",
    [
        {"ds_zero": 4},
        {"micro_batch_size": 0},
        {"seq_len": -1},
        {"steps": 0},
        {"optimizer_offload": True, "ds_zero": 0},
        {"dtype": "int8"},
    ],
    ids=str,
)
def test_bad_settings_are_refused_with_one_line(fields):
    with pytest.raises(SpecError) as caught:
        TrainRunSettings(model_name="tiny-opt", **fields)
    assert "\n" not in str(caught.value)


def test_what_does_not_fit_is_refused_before_anything_is_made(train, tmp_path):
    with pytest.raises(DoesNotFitError, match=r"GiB missing; nothing was loaded") as caught:
        train(model_name="opt-175b", dtype="bf16", seq_len=2048)
    assert caught.value.report["step"]["latency_s"] > 0
    assert not list(tmp_path.glob("runs/*"))


def test_sequences_beyond_the_positions_are_refused(train):
    with pytest.raises(SpecError, match="seq_len 300 exceeds the 256 positions"):
        train(seq_len=300)


def test_several_nodes_and_a_missing_device_are_refused(train, monkeypatch):
    with pytest.raises(EnvironmentFailure, match="--device cuda: no CUDA device here"):
        train(device="cuda")
    for name, value in {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "4", "LOCAL_WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(SpecError, match="all its ranks on one machine"):
        train()


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--train", "--gen-len", "4"], "--gen-len is for a generation"),
        (["--train", "--num-nodes", "2"], "--num-nodes is for a generation"),
        (["--train", "--hostfile", "hosts"], "--hostfile is for a generation"),
        (["--train", "--ds-zero", "7"], "ds_zero"),
        (["--seq-len", "64"], "--seq-len describes a training run, which --train makes"),
        (["--recompute"], "--recompute describes a training run"),
    ],
    ids=str,
)
def test_flags_that_mean_nothing_are_refused(flags, said):
    from click.testing import CliRunner

    from llm_perf.cli.calibrate import calibrate

    with pytest.raises(SpecError, match=said):
        CliRunner().invoke(calibrate, ["--run", *flags], standalone_mode=False, catch_exceptions=False)


def test_the_command_prints_one_object_and_leaves_a_run_file(cli, tmp_path, models):
    done = cli(
        "calibrate", "--run", "--train", "--model", models["llama"], "--seq-len", "16", "--steps", "1", "--warmup", "0",
        "--dtype", "fp32", "--device", "cpu", "--json",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["status"] == "done"
    assert result["run"]["steps"] == 1
    assert len(list((tmp_path / "runs").glob("*.json"))) == 1
