"""The fit on a machine whose truth is known: what comes back, what is refused, how wide the intervals are."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import synthetic

from calibrate.fit import Calibrator, read_runs
from calibrate.fit.calibrator import Compared, median_absolute_error, predicted_s
from calibrate.fit.candidates import candidates
from calibrate.fit.intervals import conformal_quantile, widths
from calibrate.fit.profile_file import write_profile
from calibrate.fit.refit import Parameter
from calibrate.fit.report import roofline
from calibrate.fit.runs import Inputs
from llm_perf.analysis.inference import predict_inference
from llm_perf.analysis.request import InferenceInputs, build_scenario
from llm_perf.config.profiles import load_profile
from llm_perf.errors import SpecError

THREE = ("facebook_opt-125m", "facebook_opt-350m", "facebook_opt-1.3b")
STARTS = {"resident.step_ms": 0.6, "zero_inference.pass_overhead_ms": 1.2}
"""What the microbenchmarks say, and so where the fit starts."""


def inputs_of(folder: Path, **how: Any) -> Inputs:
    return read_runs([synthetic.write_microbench(folder), *synthetic.write_runs(folder, **how)])


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: Any) -> Inputs:
    return inputs_of(tmp_path_factory.mktemp("runs"), noise=0.03)


@pytest.fixture(scope="module")
def fitted(inputs: Inputs) -> Calibrator:
    return Calibrator(inputs.microbench, name="here").fit(inputs.observations)


# -- truth ----------------------------------------------------------------------------------------------------


def test_runs_without_noise_give_the_truth_back(tmp_path: Path) -> None:
    truth = synthetic.TRUTH | STARTS
    inputs = inputs_of(tmp_path, models=THREE[:2], truth=truth)
    wanted = [p for p in candidates_of(inputs) if p.name in truth and p.name not in STARTS]
    found = Calibrator(inputs.microbench, parameters=wanted, noise=0.002).fit(inputs.observations)
    assert len(wanted) == 2
    for parameter in wanted:
        assert found.values_[parameter.name] == pytest.approx(truth[parameter.name], rel=0.03)
    assert found.score(inputs.observations) < 0.005


def candidates_of(inputs: Inputs) -> tuple[Parameter, ...]:
    calibrator = Calibrator(inputs.microbench)
    start = calibrator._start(inputs.observations)
    based = [replace(one, scenario=start.apply(one.scenario)) for one in inputs.observations]
    return candidates(based, with_microbench=True)


@pytest.mark.parametrize("seed", [0, 5])  # with 5 a time per pass is driven to the end of its range
def test_noisy_runs_give_the_truth_back_within_the_stated_uncertainty(tmp_path: Path, seed: int) -> None:
    truth = synthetic.TRUTH | STARTS
    inputs = inputs_of(tmp_path, models=THREE, truth=truth, noise=0.04, seed=seed)
    found = Calibrator(inputs.microbench).fit(inputs.observations)
    fitted = [name for name in truth if name in found.values_]
    assert "resident.python_us_per_layer" in fitted
    assert "zero_inference.layer_overhead_ms" in fitted
    for name in fitted:
        distance = abs(math.log(found.values_[name] / truth[name]))
        assert distance < 3 * found.standard_errors_[name], name


def test_a_model_that_was_never_seen_is_predicted(fitted: Calibrator, tmp_path: Path) -> None:
    """Larger than all of the fit: nearer than the roofline of the same machine by far."""
    tests = read_runs(synthetic.write_runs(tmp_path, models=THREE[2:], noise=0.03)).observations
    plain = [Compared(one, predicted_s(roofline(fitted.start_.apply(one.scenario)))) for one in tests]
    assert fitted.score(tests) < 0.1
    assert fitted.score(tests) < median_absolute_error(plain) / 3


def test_one_outlier_moves_little(fitted: Calibrator, inputs: Inputs) -> None:
    first = inputs.observations[0]
    slow = replace(
        first, measured_s={name: 3 * value for name, value in first.measured_s.items()}, digest="slow"
    )
    again = Calibrator(inputs.microbench).fit([slow, *inputs.observations[1:]])
    assert again.score(inputs.observations) < 1.5 * fitted.score(inputs.observations) + 0.01


def test_fitting_twice_gives_the_same(fitted: Calibrator, inputs: Inputs) -> None:
    again = Calibrator(inputs.microbench).fit(reversed(inputs.observations))
    for name, value in fitted.values_.items():
        assert again.values_[name] == pytest.approx(value, rel=0.02)


# -- what is refused ------------------------------------------------------------------------------------------


def test_times_per_layer_and_per_pass_are_not_told_by_one_model(tmp_path: Path) -> None:
    inputs = inputs_of(tmp_path, models=THREE[:1], noise=0.02)
    wanted = [p for p in candidates_of(inputs) if p.name.startswith("resident.")]
    assert len(wanted) == 2
    with pytest.raises(SpecError, match="do not identify") as raised:
        Calibrator(inputs.microbench, parameters=wanted).fit(inputs.observations)
    assert "other numbers of layers would tell" in str(raised.value)
    assert "\n" not in str(raised.value)


def test_what_is_left_out_is_said_and_stays_where_it_was(tmp_path: Path) -> None:
    inputs = inputs_of(tmp_path, models=THREE[:1], noise=0.02)
    found = Calibrator(inputs.microbench).fit(inputs.observations)
    said = " ".join(found.not_identified_)
    assert "resident.step_ms" in said
    assert "resident.step_ms" not in found.values_
    assert "it stays at" in said
    assert found.interval_ is None  # one model: nothing was left out
    assert found.profile_.calibration is not None
    assert found.profile_.calibration.not_identified == found.not_identified_


def test_a_parameter_that_changes_nothing_is_refused(inputs: Inputs) -> None:
    idle = Parameter("resident.hop_us", 10.0, 1.0, 100.0)
    with pytest.raises(SpecError, match="hop_us changes nothing"):
        Calibrator(inputs.microbench, parameters=[idle]).fit(inputs.observations)


def test_no_runs() -> None:
    with pytest.raises(SpecError, match="nothing to fit"):
        Calibrator().fit([])


# -- without microbenchmarks ----------------------------------------------------------------------------------


def test_without_microbenchmarks_the_first_runs_rates_are_the_start(inputs: Inputs) -> None:
    found = Calibrator().fit(inputs.observations)
    assert found.score(inputs.observations) < 0.1
    assert found.profile_.gpu["name"] == "this CPU (Test CPU, 2 cores)"


# -- intervals ------------------------------------------------------------------------------------------------


def test_a_conformal_quantile_is_the_largest_of_few() -> None:
    assert conformal_quantile([3.0, 1.0, 2.0]) == 3.0
    assert conformal_quantile(list(range(1, 101))) == 91  # ceil(101 x 0.9)


def test_the_interval_is_that_of_the_worst_model_left_out(fitted: Calibrator) -> None:
    assert fitted.interval_ is not None
    for phase in ("prefill", "decode", "total"):
        width = getattr(fitted.interval_, phase)
        sizes = [abs(math.log1p(one.error(phase) or 0.0)) for one in fitted.left_out_]
        assert width == pytest.approx(max(sizes))  # six runs a model: the quantile is the largest
    assert widths(()) is None


def test_left_out_runs_are_farther_off_than_fitted_ones(fitted: Calibrator) -> None:
    def worst(compared: Any) -> float:
        return max(abs(one.error("decode") or 0.0) for one in compared)

    assert worst(fitted.left_out_) > 0.9 * worst(fitted.compared_)


def test_intervals_cover_new_models(tmp_path: Path) -> None:
    """Over models and noise that the fits never saw, about as many as promised."""
    inside: list[bool] = []
    for seed in range(2):
        folder = tmp_path / str(seed)
        folder.mkdir()
        inputs = inputs_of(folder, models=THREE[:2], noise=0.05, seed=seed)
        profile = Calibrator(inputs.microbench).fit(inputs.observations).profile_
        for one in read_runs(
            synthetic.write_runs(folder, models=("facebook_opt-1.3b",), noise=0.05, seed=seed)
        ).observations:
            interval = predict_inference(profile.apply(one.scenario)).interval
            assert interval is not None
            assert interval.total_s is not None
            inside.append(interval.total_s[0] <= one.measured_s["total"] <= interval.total_s[1])
    assert sum(inside) >= 0.8 * len(inside)


# -- the profile ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def profile_file(fitted: Calibrator, tmp_path_factory: Any) -> str:
    return str(write_profile(fitted.profile_, str(tmp_path_factory.mktemp("profiles") / "here.yaml")))


def ask(profile: str, **changes: Any) -> Any:
    asked = {
        "model": "opt-350m",
        "gpu": "this CPU (Test CPU, 2 cores)",
        "batch_size": 1,
        "prompt_len": 64,
        "gen_len": 8,
    }
    return predict_inference(build_scenario(InferenceInputs(profile=profile, **(asked | changes))))


def test_the_profile_predicts_what_the_calibrator_does(
    fitted: Calibrator, profile_file: str, inputs: Inputs
) -> None:
    profile = load_profile(profile_file)
    for one, seconds in zip(inputs.observations, fitted.predict(inputs.observations), strict=True):
        result = predict_inference(profile.apply(one.scenario))
        assert result.total_latency_s == pytest.approx(seconds["total"], rel=1e-3)
        assert result.interval is not None


def test_infer_with_the_profile_is_the_run_it_was_fitted_to(profile_file: str, inputs: Inputs) -> None:
    one = next(
        o for o in inputs.observations if o.group == "facebook_opt-350m" and o.scenario.system == "resident"
    )
    workload = one.scenario.workload
    result = ask(profile_file, batch_size=workload.batch_size, prompt_len=workload.prompt_len)
    assert result.total_latency_s == pytest.approx(one.measured_s["total"], rel=0.15)
    assert result.warnings == ()
    plain = ask(profile_file, system="transformers")
    assert plain.total_latency_s == pytest.approx(ask(profile_file).total_latency_s, rel=0.05)


def test_the_profile_says_where_it_comes_from(profile_file: str) -> None:
    profile = load_profile(profile_file)
    assert len(profile.provenance["runs"]) == 12
    assert profile.provenance["residuals"]["total"]["median_abs_error"] < 0.1
    assert set(profile.provenance["left_out"]) == {"facebook_opt-125m", "facebook_opt-350m"}
    assert profile.calibration is not None
    assert profile.calibration.covers is not None
    assert profile.calibration.covers.prompt_len.high == 256
    assert profile.calibration.machine.versions["torch"] == "2.13.0"


def test_beyond_its_runs_it_warns_and_widens(profile_file: str) -> None:
    near = ask(profile_file)
    far = ask(profile_file, model="opt-6.7b", batch_size=32, prompt_len=1024)
    assert near.warnings == ()
    assert any("outside what profile here covers" in warning for warning in far.warnings)
    said = next(warning for warning in far.warnings if "outside" in warning)
    assert "weights of" in said
    assert "batch 32" in said
    assert "prompt of 1024" in said

    def width(result: Any) -> float:
        low, high = result.interval.total_s
        return math.log(high / low)

    assert width(far) > 1.5 * width(near)


def test_what_no_run_had_gets_no_interval(profile_file: str) -> None:
    for changes in (
        {"system": "vllm"},
        {"quant_bits": 8},
        {"ds_zero": 3, "disk_offload": True, "host": "gcp-t4"},
    ):
        result = ask(profile_file, **changes)
        assert result.interval is None
        assert any("has no runs of" in warning for warning in result.warnings), changes


def test_on_another_machine_it_warns(profile_file: str) -> None:
    result = ask(profile_file, gpu="t4")
    assert any("was fitted on this CPU" in warning and "T4" in warning for warning in result.warnings)
    assert result.interval is None
    assert result.scenario.gpu.name == "T4-16GB"  # the CPU's rates do not make a GPU of it
