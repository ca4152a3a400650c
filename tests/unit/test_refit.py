"""The fit gives a known truth back, knows what rows cannot say, and applies values as a profile does."""

import math

import pytest

from calibrate.evidence.published import load_measurements
from calibrate.evidence.settings import run_of, scenario_of
from calibrate.fit.overrides import Overrides
from calibrate.fit.refit import Parameter, Target, fit, sensitive
from calibrate.validate.transfer import leave_out, predicted, unfitted
from llm_perf.analysis.inference import predict_inference
from llm_perf.config.profiles import Profile
from llm_perf.errors import SpecError
from llm_perf.systems import get_system

ROWS = {row.row_id: row for row in load_measurements()}


def scenario(row_id):
    return scenario_of(run_of(ROWS[row_id]))


def roofline(row, values):
    """Bytes over a rate, plus operations over another, plus a constant: seconds."""
    moved, operations = row
    return moved / values["rate"] + operations / values["speed"] + values["overhead"]


RATE = Parameter("rate", 10, 1, 100)
SPEED = Parameter("speed", 10, 1, 100)
OVERHEAD = Parameter("overhead", 0.5, 0, 1, scale="linear")
TRUTH = {"rate": 25.0, "speed": 4.0, "overhead": 0.2}
POINTS = [(1, 1), (100, 1), (1000, 10), (10, 100), (5, 2), (2000, 2000), (300, 3), (3, 300)]


def fitted(parameters=(RATE, SPEED, OVERHEAD), points=POINTS, noise=0.01, spoil=None):
    seconds = [roofline(point, TRUTH) for point in points]
    if spoil is not None:
        seconds[spoil] *= 5
    return fit(parameters, points, [Target.of(s) for s in seconds], roofline, noise=noise)


def test_a_known_truth_comes_back():
    found = fitted()
    for name, value in TRUTH.items():
        assert found.values[name] == pytest.approx(value, rel=0.01)
    assert found.gm == pytest.approx(1, abs=0.005)


def test_one_spoiled_row_moves_a_robust_fit_little():
    found = fitted(spoil=2, noise=0.02)
    assert found.values["speed"] == pytest.approx(4, rel=0.1)
    assert found.log_ratios[2] == pytest.approx(-math.log(5), abs=0.25)


def test_where_the_solver_sets_out_does_not_change_what_it_finds():
    seconds = [Target.of(roofline(point, TRUTH)) for point in POINTS]
    starts = [RATE, SPEED, OVERHEAD]
    cold = fit(starts, POINTS, seconds, roofline, noise=0.01)
    warm = fit(starts, POINTS, seconds, roofline, noise=0.01, begin=cold.values)
    assert warm.evaluations < cold.evaluations
    for name, value in cold.values.items():
        assert warm.values[name] == pytest.approx(value, rel=0.01)


def test_a_parameter_of_which_the_rows_say_nothing_stays_and_is_named():
    idle = Parameter("idle", 3, 1, 9)
    found = fitted((RATE, SPEED, OVERHEAD, idle))
    assert found.values["idle"] == 3
    assert found.unmoved == ("idle",)


def test_values_stay_in_their_range_and_those_at_an_end_are_named():
    found = fitted((Parameter("rate", 10, 1, 12), SPEED, OVERHEAD))
    assert found.values["rate"] <= 12
    assert found.at_bound == ("rate",)


def test_a_value_inside_the_rounding_interval_of_a_row_is_met():
    target = Target.of(0.01, 0.5)
    assert target.log_ratio(0.006) == target.log_ratio(0.0149) == 0
    assert target.log_ratio(0.03) == pytest.approx(math.log(2))


def test_sensitive_rows_are_those_that_change():
    switched = [(1, 0), (0, 1)]
    touched = sensitive([RATE, SPEED], switched, lambda row, v: roofline(row, v | {"overhead": 0.1}))
    assert touched == (frozenset({0}), frozenset({1}))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"value": 200}, "outside its range"),
        ({"low": 20}, "outside its range"),
        ({"low": 100, "high": 100}, "is none"),
        ({"low": 0}, "no logarithm"),
        ({"value": math.nan}, "is none"),
    ],
    ids=str,
)
def test_malformed_parameters_are_refused(changes, said):
    fields = {"name": "rate", "value": 10, "low": 1, "high": 100} | changes
    with pytest.raises(SpecError, match=said):
        Parameter(**fields)


def test_a_fit_without_rows_or_with_two_parameters_of_one_name_is_refused():
    with pytest.raises(SpecError, match="rows"):
        fit([RATE], [], [], roofline)
    with pytest.raises(SpecError, match="same name"):
        fit([RATE, RATE], POINTS, [Target.of(1)] * len(POINTS), roofline)


# -- leaving out ------------------------------------------------------------------------------------------------


def test_each_group_is_predicted_by_a_fit_that_never_saw_it():
    seconds = [roofline(point, TRUTH) for point in POINTS]
    groups = ["a", "b"] * 4
    whole = leave_out((RATE, SPEED, OVERHEAD), POINTS, [Target.of(s) for s in seconds], groups, roofline)
    spoiled = [s * (9 if group == "a" else 1) for s, group in zip(seconds, groups, strict=True)]
    without = leave_out((RATE, SPEED, OVERHEAD), POINTS, [Target.of(s) for s in spoiled], groups, roofline)
    assert without["a"] == whole["a"]  # what is left out cannot be seen
    assert without["b"][0].values != whole["b"][0].values
    assert {row for _, rows in whole.values() for row in rows} == set(range(len(POINTS)))


def test_leaving_out_the_only_group_is_refused():
    with pytest.raises(SpecError, match="all rows are of one"):
        leave_out((RATE,), POINTS, [Target.of(1)] * 8, ["one"] * 8, roofline)


# -- scenarios ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "value", "read"),
    [
        ("zero_inference.overlap_share", 0.6, lambda s: dict(s.constants)["overlap_share"]),
        ("system.layer_overhead_ms", 3.0, lambda s: dict(s.constants)["layer_overhead_ms"]),
        ("gpu.hbm_bandwidth_gb_per_s", 300.0, lambda s: s.gpu.hbm_bandwidth_gb_per_s),
        ("gpu.efficiency.gemm.default.flops_efficiency", 0.3, lambda s: s.gpu.efficiency.gemm["default"].flops_efficiency),
        ("gpu.efficiency.attention.floor_us", 3.0, lambda s: s.gpu.efficiency.attention.floor_us),
        ("host.pinned_h2d", 11.0, lambda s: s.host.pinned_h2d.gb_per_s),
        ("host.copies.zero_inference.pinned_h2d", 8.0, lambda s: s.host.copies["zero_inference.pinned_h2d"].gb_per_s),
        ("host.disk.direct_read@gcp-t4", 2.2, lambda s: s.host.disk.direct_read.gb_per_s),
        ("host.layer_overhead_ms.zero_inference", 4.0, lambda s: s.host.layer_overhead_ms["zero_inference"]),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)  # fmt: skip
def test_a_name_sets_what_it_says_and_a_factor_multiplies_it(name, value, read):
    base = scenario(6)  # OPT-175B from NVMe on the T4
    parameter = Parameter(name, value, value / 2, value * 2)
    changed = Overrides([parameter]).apply(base, {name: value})
    assert read(changed) == value
    factor = Parameter(name, 1, 0.5, 2, factor=True)
    doubled = Overrides([factor]).apply(changed, {name: 0.75})
    assert read(doubled) == pytest.approx(0.75 * value)


def test_overrides_are_those_of_a_profile():
    base = scenario(6)
    names = {"zero_inference.overlap_share": 0.6, "host.disk.direct_read": 2.2}
    overrides = Overrides([Parameter(name, value, 0.1, 9) for name, value in names.items()])
    rate = {"gb_per_s": 2.2, "provenance": "fitted", "source": "this fit"}
    profile = Profile(
        name="same",
        system_constants={"zero_inference": {"overlap_share": 0.6}},
        host={"disk": {"direct_read": rate}},
    )
    assert overrides.apply(base, names) == profile.apply(base)


def test_parameters_of_other_systems_hosts_and_gpus_change_nothing():
    base = scenario(6)
    names = ("flexgen.phase_ms", "system.overlap_share@dgx-2", "gpu.hbm_bandwidth_gb_per_s@A100-SXM-80GB")
    overrides = Overrides([Parameter(name, 0.7, 0.1, 3) for name in names])
    assert overrides.apply(base, dict.fromkeys(names, 0.7)) == base


@pytest.mark.parametrize(
    "name", ["system.overlap", "zero_inference.nonsense", "gpu.nonsense", "host.disk.speed"]
)
def test_a_name_that_leads_nowhere_is_refused(name):
    with pytest.raises(SpecError, match=name):
        Overrides([Parameter(name, 1, 0.5, 2)]).apply(scenario(6), {name: 1})


@pytest.mark.parametrize("row_id", [6, 9, 5, 2])
def test_the_quick_prediction_is_the_whole_ones(row_id):
    asked = scenario(row_id)
    result = predict_inference(asked)
    assert predicted(asked, "throughput_tokens_per_s") == pytest.approx(result.total_throughput_tokens_per_s)
    assert predicted(asked, "total_latency_s") == pytest.approx(result.total_latency_s)
    assert predicted(asked, "prefill_latency_s") == pytest.approx(result.prefill.latency_s)
    assert predicted(asked, "latency_per_token_s") == pytest.approx(result.decode.latency_per_token_s)


def test_an_unfitted_host_states_no_rate_that_was_fitted():
    host = unfitted(scenario(6)).host
    assert host.copies == {}
    assert host.layer_overhead_ms == {}
    assert host.pinned_h2d is host.disk.direct_read is None
    assert host.disk.stated_read_gb_per_s == 2.0


def test_constants_that_were_fitted_start_from_the_middle_of_their_range():
    constants = get_system("zero_inference").file.constants
    assert constants["overlap_share"].unfitted == pytest.approx(math.sqrt(0.5 * 1.0))
    assert constants["score_bytes"].unfitted == constants["score_bytes"].value
