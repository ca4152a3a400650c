"""What is predicted of the published runs is what is committed: `make accuracy` writes both files anew.

That a prediction changed is for a reviewer to see; how far predictions are from what was measured is in the files.
"""

import csv
import io
from pathlib import Path

import pytest

from calibrate.validate.scoreboard import Validation, validate
from calibrate.validate.snapshot import (
    LEAVE_OUT,
    PREDICTIONS,
    accuracy_files,
    predictions_csv,
    with_table,
)
from llm_perf.config.loading import get_gpu_config_by_name
from llm_perf.errors import SpecError
from tests.validated import validation

ROOT = Path(__file__).parents[2]
REMEDY = "predictions changed: run `make accuracy`, look at what changed, and commit it"


@pytest.fixture(scope="module")
def found():
    return validation()


def test_the_committed_predictions_are_those_of_today(found):
    committed = list(csv.DictReader(io.StringIO((ROOT / PREDICTIONS).read_text("utf-8"))))
    today = list(csv.DictReader(io.StringIO(predictions_csv(found))))
    assert len(committed) == len(today), REMEDY
    for row, now in zip(committed, today, strict=True):
        for column in ("table", "row_id", "class", "quantity", "reason"):
            assert row[column] == now[column], f"row {now['row_id']}: {REMEDY}"
        for column in ("measured", "predicted"):
            if row[column] and now[column]:  # the last of four digits may be rounded otherwise elsewhere
                assert float(row[column]) == pytest.approx(float(now[column]), rel=2e-3), (
                    f"row {now['row_id']}: {REMEDY}"
                )
            else:
                assert row[column] == now[column], f"row {now['row_id']}: {REMEDY}"


def test_the_readme_and_the_page_have_the_figures_of_today(found):
    texts = accuracy_files(ROOT, found)
    for name in texts.keys() - {PREDICTIONS}:
        assert texts[name] == (ROOT / name).read_text("utf-8"), f"{name}: {REMEDY}"


def test_the_figures_of_left_out_rows_are_of_todays_constants(found):
    """What ships in the table of refits is what is predicted today; else `bench/leave_out.py SYSTEM` must run again."""
    lines = csv.DictReader(io.StringIO((ROOT / LEAVE_OUT).read_text("utf-8")))
    today = {
        system: Validation(
            tuple(row for row in found.rows if row.run.system == system), found.excluded
        ).classes()
        for system in ("fastertransformer", "vllm", "tensorrt_llm", "gpt_fast", "exllama", "llama_cpp")
    }
    shown = [line for line in lines if line["system"] in today and line["class"] not in ("", "all")]
    assert shown
    for line in shown:
        gm = today[line["system"]][line["class"]]["gm"]
        assert float(line["shipped"]) == pytest.approx(gm, abs=0.005), f"{line['system']}: bench/leave_out.py"


def test_a_changed_prediction_changes_the_file(found):
    """What proves that the first test can fail."""
    slower = validate(gpu="l40s", change=lambda scenario: scenario.replace(flops_efficiency=0.3))
    unchanged = predictions_csv(found).splitlines()
    assert any(line not in unchanged for line in predictions_csv(slower).splitlines())


def test_the_table_needs_its_place(found):
    with pytest.raises(SpecError, match=r"README\.md: 0 excerpts"):
        with_table("no table here", found.classes())


def test_a_run_of_a_model_that_cannot_be_described_says_what_it_has():
    """Its name alone would read as a spec that somebody forgot."""
    reasons = {row.run.model: row.reason for row in validate(system="training").rows if row.reason}
    assert not [model for model in reasons if "Nemotron" in model]
    assert "sparse attention" in reasons["DeepSeekV4 Flash"]
    assert not [reason for reason in reasons.values() if reason.startswith("unknown model")]


def test_half_a_card_that_software_sees_as_a_gpu_is_one():
    die, card = (get_gpu_config_by_name(name) for name in ("mi250x-gcd", "mi250x"))
    assert 2 * die.mem_per_GPU_in_GB == card.mem_per_GPU_in_GB
    assert 2 * die.peak_fp16_TFLOPS == card.peak_fp16_TFLOPS
    assert 2 * die.hbm_bandwidth_in_GB_per_sec == pytest.approx(card.hbm_bandwidth_in_GB_per_sec, rel=1e-3)
    rows = [row for row in validate(gpu="mi250x-gcd").rows if row.run.system == "gpt_fast"]
    assert len(rows) == 2
    assert all(row.ratio < 1.15 for row in rows)
