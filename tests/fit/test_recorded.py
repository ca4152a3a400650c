"""The runs that ship: they are whole, the profile that ships is theirs, and the documentation says what they give."""

from __future__ import annotations

from pathlib import Path
from statistics import median

import pytest

from calibrate import recorded
from calibrate.fit.runs import Inputs, read_runs
from llm_perf.analysis.inference import predict_inference
from llm_perf.config.profiles import load_profile
from llm_perf.errors import SpecError

DOCS = Path(__file__).parents[2] / "docs" / "calibration.md"
PROFILE = "example-epyc-2-cores"


@pytest.fixture(scope="module")
def inputs() -> Inputs:
    return read_runs([recorded.FOLDER])


def test_the_records_are_whole_and_name_no_folder_of_a_machine(inputs: Inputs) -> None:
    assert recorded.models(inputs) == ["opt-1.3b", "opt-125m", "opt-350m"]
    assert len(inputs.observations) + len(inputs.rejected) == 36
    assert inputs.microbench is not None
    assert all(item.get("samples_s") or item.get("per_layer_s") for item in inputs.microbench["items"])
    for path in recorded.FOLDER.iterdir():
        text = path.read_text("utf-8")
        assert not [word for word in ("/tmp/", "/home/", "/root/", "hostname") if word in text]


def test_the_profile_that_ships_is_of_these_runs(inputs: Inputs) -> None:
    profile = load_profile(PROFILE)
    runs = profile.provenance["runs"]
    assert sorted(run["digest"] for run in runs) == sorted(one.digest for one in inputs.observations)
    errors, inside = [], []
    for one in inputs.observations:
        result = predict_inference(profile.apply(one.scenario))
        assert result.interval is not None
        assert result.interval.total_s is not None
        measured = one.measured_s["total"]
        errors.append(abs(result.total_latency_s / measured - 1))
        inside.append(result.interval.total_s[0] <= measured <= result.interval.total_s[1])
        assert not any("framework time per layer" in warning for warning in result.warnings)  # it was fitted
    stated = profile.provenance["residuals"]["total"]
    assert median(errors) == pytest.approx(stated["median_abs_error"], rel=0.02)
    assert max(errors) == pytest.approx(stated["max_abs_error"], rel=0.02)
    assert all(inside)


def test_the_documentation_says_what_the_records_give(inputs: Inputs) -> None:
    found = recorded.left_out(inputs, "opt-1.3b")
    assert recorded.table_line(found) in DOCS.read_text("utf-8")
    assert found["held_out"]["median_abs_error"] <= 0.1
    assert found["held_out"]["times_closer"] >= 3


def test_a_model_without_runs_and_a_missing_folder_are_one_line(
    inputs: Inputs, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SpecError, match=r"no run is of model 'opt-30b'; there are runs of opt-1\.3b"):
        recorded.left_out(inputs, "opt-30b")
    assert recorded.main(["no/such/folder"]) == 2
    assert capsys.readouterr().err.count("\n") == 1
