"""Real steps of three small models in seven ways: the runs that ship, what makes them, and how they are summed up."""

from __future__ import annotations

import json
import statistics
from pathlib import Path

import pytest

from calibrate.run.train import table
from calibrate.run.train.settings import TrainRunSettings
from llm_perf.config.huggingface import from_hf_config
from llm_perf.counts.parameters import total_params
from llm_perf.errors import SpecError

ROOT = Path(__file__).parents[2]
RUNS = json.loads((ROOT / "calibrate" / "measurements" / "training" / "cpu_runs.json").read_text("utf-8"))


def test_the_runs_that_ship_are_of_every_shape_and_many_ways():
    names = {tuple(name.split(" ")) for name in RUNS}
    assert {shape for shape, _ in names} == set(table.SHAPES)
    assert {way for _, way in names} <= set(table.WAYS)
    assert len(names) >= 8


def test_most_runs_are_met():
    times = [abs(one["error"]["step_time"]) for one in RUNS.values()]
    peaks = [abs(one["error"]["peak_gpu_memory"]) for one in RUNS.values()]
    assert sum(error <= 0.15 for error in times) >= len(times) - 1
    assert statistics.median(peaks) <= 0.01


@pytest.mark.parametrize("name", RUNS)
def test_steps_and_memory_of_a_run_are_predicted(name):
    one = RUNS[name]
    # One of stage 2 was 19 % slower than predicted.
    assert abs(one["error"]["step_time"]) <= 0.20
    assert abs(one["error"]["peak_gpu_memory"]) <= 0.05
    for quantity, measured, predicted in (
        ("step_time", "step_s", "predicted_step_s"),
        ("peak_gpu_memory", "peak_bytes", "predicted_peak_bytes"),
    ):
        assert one["error"][quantity] == pytest.approx(one[predicted] / one[measured] - 1)
    phases = one["peak_by_phase_bytes"]
    assert one["peak_bytes"] == max(phases.values()) > phases["before"]
    assert name in table.line(name, one)


def test_names_of_shapes_say_their_size():
    for name, config in table.SHAPES.items():
        millions = int(name.split("-")[1].rstrip("m"))
        assert total_params(from_hf_config(config, name)) / 1e6 == pytest.approx(millions, rel=0.05)


@pytest.mark.parametrize(
    "fields",
    [
        {"framework": "torch", "num_gpus_per_node": 2},
        {"framework": "fsdp", "optimizer_offload": True},
        {"framework": "megatron"},
        {"lora_rank": -1},
        {"clock": "sun"},
    ],
    ids=str,
)
def test_settings_that_do_not_go_together_are_refused(fields):
    with pytest.raises(SpecError) as caught:
        TrainRunSettings(model_name="tiny-opt", **fields)
    assert "\n" not in str(caught.value)
