"""What a fit may change of the training model, and that a refit finds what made the runs."""

from __future__ import annotations

import numpy as np
import pytest

from calibrate.evidence.published import load_measurements
from calibrate.evidence.training_runs import training_run_of, training_scenario_of
from calibrate.fit.refit import Target, fit, sensitive
from calibrate.fit.training import TrainingFit, shipped_values, step_time_s, training_parameters
from calibrate.validate.training_transfer import training_transfer
from calibrate.validate.transfer import GROUPINGS
from llm_perf.analysis.training import predict_training
from llm_perf.config.loading import get_gpu_config_by_name, known_names
from llm_perf.errors import SpecError

FAMILIES = {
    efficiency.name
    for efficiency in (get_gpu_config_by_name(name).efficiency for name in known_names("GPU"))
    if efficiency.training is not None and efficiency.training.fitted
} - {"A100 40 GB", "Blackwell Ultra"}
"""GPU families whose training efficiencies were fitted; these two have those of another, by ``extends``."""

ROWS = {row.row_id: row for row in load_measurements("training")}


@pytest.fixture(scope="module")
def scenarios():
    return [training_scenario_of(training_run_of(ROWS[number])) for number in (84, 120, 222, 322, 481, 500)]


def test_parameters_are_unique_and_start_inside_their_ranges(scenarios):
    parameters = training_parameters(scenarios)
    assert len({parameter.name for parameter in parameters}) == len(parameters)
    assert {name.partition("@")[2] for name in (p.name for p in parameters) if "@" in name} == FAMILIES
    inherited = [p.name for p in parameters if p.name.endswith(".permutation_vectors")]
    assert inherited == ["megatron.permutation_vectors"]  # stated once, whoever inherits it


def test_a_fit_prices_a_step_as_a_prediction_does(scenarios):
    for scenario in scenarios:
        assert step_time_s(scenario) == pytest.approx(predict_training(scenario).step_time_s, rel=1e-12)


def test_values_change_the_scenarios_that_they_concern(scenarios):
    parameters = training_parameters(scenarios)
    model = TrainingFit(parameters)
    starts = {parameter.name: parameter.value for parameter in parameters}
    slower = starts | {"gpu.gemm.default.flops_efficiency@A100": 0.85}
    for scenario in scenarios:
        times = [model.step_time_s(scenario, values) for values in (starts, slower)]
        assert (times[0] < times[1]) == (scenario.gpu.efficiency.name == "A100")


def test_a_parameter_concerns_every_scenario_that_it_changes(scenarios):
    """What does not concern a row is not tried on it, so this must hold for all."""
    parameters = training_parameters(scenarios)
    model = TrainingFit(parameters)
    for parameter, changed in zip(
        parameters, sensitive(parameters, scenarios, model.step_time_s), strict=True
    ):
        assert changed <= {i for i, row in enumerate(scenarios) if model.concerns(parameter, row)}


def test_a_refit_finds_the_constants_that_made_the_runs(scenarios):
    pytest.importorskip("scipy")
    composer = [scenario for scenario in scenarios if scenario.framework == "composer"]
    chosen = [p for p in training_parameters(composer) if p.name == "composer.backward_gemm_scale"]
    model = TrainingFit(chosen)
    true = {"composer.backward_gemm_scale": 0.95}
    targets = [Target.of(model.step_time_s(scenario, true)) for scenario in composer]
    found = fit(chosen, composer, targets, model.step_time_s, noise=0.001)
    assert found.values["composer.backward_gemm_scale"] == pytest.approx(0.95, rel=0.01)


def test_many_values_at_once_are_what_each_gives_alone(scenarios):
    """A fit's derivatives come from one question a row: every number of it is that of a question of its own."""
    parameters = training_parameters(scenarios)
    model = TrainingFit(parameters)
    starts = {parameter.name: parameter.value for parameter in parameters}
    for scenario in scenarios:
        mine = [p for p in parameters if model.concerns(p, scenario)]
        asked = dict(starts)
        for place, parameter in enumerate(mine):
            column = np.full(len(mine) + 1, parameter.value)
            column[place] = parameter.high
            asked[parameter.name] = column
        at_once = np.broadcast_to(model.step_times_s(scenario, asked), len(mine) + 1)
        assert at_once[-1] == pytest.approx(model.step_time_s(scenario, starts), rel=1e-12)
        for place, parameter in enumerate(mine):
            alone = model.step_time_s(scenario, starts | {parameter.name: parameter.high})
            assert at_once[place] == pytest.approx(alone, rel=1e-12), parameter.name


def test_a_fit_at_once_ends_where_one_number_at_a_time_does(scenarios):
    pytest.importorskip("scipy")
    composer = [scenario for scenario in scenarios if scenario.framework == "composer"]
    chosen = training_parameters(composer)
    model = TrainingFit(chosen)
    made = {p.name: p.at(0.2 * p.bounds[1]) for p in chosen}
    targets = [Target.of(model.step_time_s(scenario, made)) for scenario in composer]
    alone = fit(chosen, composer, targets, model.step_time_s)
    at_once = fit(chosen, composer, targets, model.step_time_s, batch=model.step_times_s)
    assert at_once.unmoved == alone.unmoved
    assert at_once.values == pytest.approx(alone.values, rel=1e-6)


def test_what_ships_is_where_a_refit_sets_out(scenarios):
    parameters = training_parameters(scenarios)
    shipped = shipped_values(scenarios)
    assert {p.name for p in parameters} <= set(shipped)
    model = TrainingFit(parameters)
    for scenario in scenarios:
        gpu = get_gpu_config_by_name(scenario.gpu.name)
        whole = predict_training(scenario.replace(gpu=gpu, fits=True)).step_time_s
        assert model.step_time_s(scenario, shipped) == pytest.approx(whole, rel=1e-9)


def test_groups_and_wrong_groupings():
    assert set(GROUPINGS) == {"gpu", "machine", "family", "model"}
    with pytest.raises(SpecError, match="leave_out = 'moon'"):
        training_transfer("moon")


def test_families_of_operators_are_bundled():
    from llm_perf.config.gpu import GPUEfficiency
    from llm_perf.config.loading import load_spec

    names = {load_spec("efficiency", GPUEfficiency, name).name for name in known_names("efficiency")}
    assert names >= FAMILIES
