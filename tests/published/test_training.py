"""Published training runs: errors per source held to their limits, memory of the Megatron papers, the scoring adapter."""

from __future__ import annotations

import math
import re
import statistics
from dataclasses import replace

import pytest

from calibrate.evidence.published import TrainingMeasurement, load_measurements
from calibrate.evidence.training_recipes import recipe_of
from calibrate.evidence.training_runs import framework_of, training_run_of, training_scenario_of
from llm_perf.analysis.training import predict_training
from llm_perf.errors import SpecError
from llm_perf.systems.training.base import TrainingLoad
from llm_perf.systems.training.framework import get_framework
from llm_perf.systems.training.step import TrainingStep
from tests.published.score_adapter import predict

ROWS = {row.row_id: row for row in load_measurements("training")}
RECOMPUTATION = tuple(range(481, 489))  # arXiv 2205.05198, table 5
WEAK_SCALING = tuple(range(497, 507))  # arXiv 2104.04473, table 1
MEMORY = tuple(range(489, 497))  # arXiv 2205.05198, figure 1: computed by the authors, not measured


def predicted_s(row: TrainingMeasurement) -> float:
    return predict_training(training_scenario_of(training_run_of(row))).step_time_s


def comparable() -> dict[int, float]:
    """Predicted over measured of every row that states a time and whose model can be trained here."""
    found = {}
    for row in ROWS.values():
        if row.iteration_time_s is None or row.suspect:
            continue
        try:
            scenario = training_scenario_of(training_run_of(row))
        except SpecError:
            continue
        found[row.row_id] = predict_training(scenario).step_time_s / row.iteration_time_s
    assert len(found) == 286  # what is refused besides: calibrate/evidence/training_runs.py
    return found


@pytest.mark.parametrize(
    ("table", "checkpoint"),
    [("Qwen3_235B_a22B", "Qwen/Qwen3-235B-A22B"), ("GPT OSS 120B", "openai/gpt-oss-120b")],
)
def test_a_recipe_holds_for_a_model_by_either_name(table: str, checkpoint: str) -> None:
    runs = [training_run_of(row) for row in ROWS.values() if row.model == table]
    assert runs
    for run in runs:
        both = [training_scenario_of(replace(run, model=name)).plan for name in (table, checkpoint)]
        assert both[0] == both[1]


@pytest.mark.parametrize(
    ("model", "gpu", "release", "field", "value"),
    [
        ("Qwen3_235B_a22B", "B300-SXM", "26.04", "moe_dispatcher", None),
        ("Qwen3_235B_a22B", "B300-SXM", "26.04.01", "moe_dispatcher", "flex"),
        ("GPT OSS 120B", "B200-180GB", "26.04", "moe_dispatcher", "flex"),
        ("GPT OSS 120B", "B200-180GB", "26.04.01", "moe_dispatcher", None),
        ("Qwen3_235B_a22B", "GB300", "26.06.01", "fp8_attention", True),
        ("Qwen3_235B_a22B", "GB300", "26.04.01", "fp8_attention", None),
        ("Qwen3_235B_a22B", "H100-SXM-80GB", "26.02", "gradient_dtype_bytes", 2),
        ("Qwen3_235B_a22B", "B300-SXM", "26.02", "moe_overlap", True),
        ("Qwen3_235B_a22B", "B300-SXM", "26.02.01", "moe_overlap", None),
    ],
)
def test_recipes_are_those_of_a_release_and_its_patch(
    model: str, gpu: str, release: str, field: str, value: object
) -> None:
    framework = f"Megatron-Bridge {release} NeMo Container"
    assert recipe_of(framework, model, gpu, "mxfp8").get(field) == value


@pytest.fixture(scope="module")
def ratios() -> dict[int, float]:
    return comparable()


def errors(ratios: dict[int, float], ids) -> list[float]:
    return [abs(ratios[number] - 1) for number in ids]


def test_megatron_recomputation_table(ratios):
    """calculon states 3.65 % and 8.87 % on these rows."""
    found = errors(ratios, RECOMPUTATION)
    assert statistics.fmean(found) <= 0.03
    assert max(found) <= 0.0887


def test_megatron_weak_scaling_table(ratios):
    """Although its micro-batches are not published."""
    assert statistics.fmean(errors(ratios, WEAK_SCALING)) <= 0.06


def test_llm_foundry_on_a100(ratios):
    ids = [number for number in ratios if ROWS[number].framework.startswith("composer")]
    assert len(ids) == 139
    assert statistics.median(abs(1 / ratios[number] - 1) for number in ids) <= 0.1


def test_all_comparable_rows(ratios):
    assert len(ratios) == 286
    assert geometric_mean(ratios, ratios) <= 1.05


def geometric_mean(ratios: dict[int, float], ids) -> float:
    """Of predicted over measured or the inverse, whichever is larger."""
    return math.exp(statistics.fmean(abs(math.log(ratios[number])) for number in ids))


def test_nemotron_3(ratios):
    """State space, latent experts and multi-token prediction in 8 and 4 bits."""
    ids = [number for number in ratios if "Nemotron" in ROWS[number].model]
    assert len(ids) == 53
    assert geometric_mean(ratios, ids) <= 1.08


def test_megatron_on_eight_b200(ratios):
    """SimuMax states 5.6 % on its table, of which these are the rows."""
    ids = [number for number in ratios if number > 1000]
    assert len(ids) == 18
    assert statistics.fmean(errors(ratios, ids)) <= 0.056
    # Fifteen within 8 %; DeepSeek-V2 over the library's all-to-all is the far one, 17 % too fast.
    assert max(errors(ratios, ids)) <= 0.175


@pytest.mark.parametrize("number", MEMORY)
def test_activation_memory_of_the_recomputation_paper(number):
    """The figure gives activations to four digits, by the paper's own formula."""
    row = ROWS[number]
    stated = float(re.search(r"activations ([\d.]+) GiB", row.notes)[1])
    chunks = next(ROWS[other].vp for other in RECOMPUTATION if ROWS[other].model == row.model)
    run = replace(training_run_of_memory_row(row), vp=chunks)
    scenario = training_scenario_of(run)
    footprint = TrainingStep(scenario, get_framework(scenario.framework)).footprint
    load = TrainingLoad(float(row.micro_batch_size), 1000.0, float(row.seq_len))
    activations = float(footprint.stage_activation_bytes(load) * footprint.in_flight(load))
    assert activations / 2**30 == pytest.approx(stated, rel=0.02)


def training_run_of_memory_row(row: TrainingMeasurement):
    return training_run_of(replace(row, global_batch_size=1000 * row.micro_batch_size))


@pytest.mark.parametrize(
    ("stated", "framework"),
    [
        ("composer+FSDP (MPT)", "composer"),
        ("Megatron-LM", "megatron_2022"),
        ("Megatron-Bridge 25.11 NeMo Container", "megatron_bridge"),
        ("Megatron-Bridge 26.04.01 NeMo Container", "megatron_bridge"),
        ("Megatron-Bridge 26.06 NeMo Container", "megatron_bridge"),
        ("Meta xformers/FSDP", "fsdp"),
        ("deepspeed", "deepspeed"),
    ],
)
def test_frameworks_by_their_sources_names(stated, framework):
    assert framework_of(stated) == framework


def test_unknown_frameworks_are_refused():
    with pytest.raises(SpecError, match="framework 'colossal'"):
        framework_of("colossal")


def scored(number: int) -> dict[str, float]:
    row = ROWS[number]
    run = training_run_of(row)
    inputs = {
        "kind": "training", "system_version": run.framework, "model": row.model, "gpu": run.gpu, "gpu_count": run.num_gpus,
        "seq_len": run.seq_len, "global_batch": run.global_batch, "micro_batch": run.micro_batch, "tp": run.tp, "pp": run.pp,
        "vp": run.vp, "cp": run.cp, "ep": run.ep, "precision": run.precision, "sharding": run.sharding,
        "recompute": run.recompute,
    }  # fmt: skip
    return predict(inputs, {"name": row.model}, {}, {})


@pytest.mark.parametrize("number", [78, 222, 481, 500])
def test_the_adapter_scores_what_validate_shows(number):
    assert scored(number) == {"iter_s": predicted_s(ROWS[number])}


def test_the_adapter_builds_models_that_no_spec_describes():
    model = {
        "name": "GPT-2.5B", "layers": 24, "heads": 32, "hidden": 2304, "vocab": 51200, "max_pos": 2048, "kv_heads": 32,
        "ffn": 9216, "gated_mlp": False,
    }  # fmt: skip
    inputs = {
        "kind": "training", "system_version": "Megatron-LM", "model": "GPT-2.5B", "gpu": "A100-SXM-80GB", "gpu_count": 32,
        "seq_len": 2048, "global_batch": 512, "micro_batch": 16, "tp": 1, "pp": 1, "vp": 1, "cp": 1, "ep": 1,
        "precision": "fp16", "sharding": "", "recompute": "full",
    }  # fmt: skip
    assert predict(inputs, model, {}, {})["iter_s"] > 0
