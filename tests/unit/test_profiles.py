"""Profiles: which value wins (flag, profile, system, host, GPU), and what a profile may not say."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from calibrate.fit.overrides import Overrides
from calibrate.fit.refit import Parameter
from llm_perf.analysis.inference import predict_inference
from llm_perf.analysis.request import InferenceInputs, build_scenario
from llm_perf.config import get_gpu_config_by_name, get_host_config_by_name
from llm_perf.config.host import Rate
from llm_perf.config.profiles import NO_FIT, NO_PROFILE, Profile, load_profile
from llm_perf.config.scenario import Scenario
from llm_perf.errors import SpecError, UnknownNameError
from llm_perf.hardware.gpu_time import kernel_rates
from llm_perf.systems import Load, get_system
from llm_perf.systems.constants import load_constants
from llm_perf.systems.forward import Forward
from llm_perf.systems.zero_inference.times import ZeroPasses, stream_rates

RATE = {"gb_per_s": 11.0, "provenance": "measured", "source": "a test"}
GIB = 2**30


@pytest.fixture
def scenario(tmp_path: Path) -> Any:
    """A scenario under a profile of these fields, which is read from a file."""

    def build(profile: dict[str, Any] | None = None, **inputs: Any) -> Scenario:
        if profile is not None:
            path = tmp_path / "mine.yaml"
            path.write_text(yaml.safe_dump({"name": "mine", **profile}))
            inputs["profile"] = str(path)
        return build_scenario(InferenceInputs(**({"model": "opt-30b", "gpu": "t4", "ds_zero": 3} | inputs)))

    return build


def constant(scenario: Scenario, name: str) -> float:
    return get_system(scenario.system).constants(scenario)[name]


# -- what wins ------------------------------------------------------------------------------------------------


def test_a_profile_replaces_a_systems_constant(scenario: Any) -> None:
    profile = {"system_constants": {"zero_inference": {"overlap_share": 0.55}, "resident": {"step_ms": 3}}}
    assert constant(scenario(), "overlap_share") == 0.8
    assert constant(scenario(profile), "overlap_share") == 0.55
    assert (
        constant(scenario(profile, ds_zero=0), "step_ms") == 3
    )  # the constants of the system that is asked for
    slower, faster = (predict_inference(scenario(given)).total_latency_s for given in (profile, None))
    assert slower > faster  # less of the computing hides behind the copies


def test_a_version_on_a_host_goes_before_its_default(scenario: Any) -> None:
    file = load_constants("flexgen")
    here = file.hosts["gcp-t4"]["phase_ms"].value
    assert here != file.value("phase_ms")
    for host, expected in (("gcp-t4", here), ("dgx-1", file.value("phase_ms"))):
        asked = scenario(gpu="t4", host=host).replace(system="flexgen")
        assert get_system("flexgen").constants(asked)["phase_ms"] == expected


def copy_gb_per_s(scenario: Scenario) -> float:
    rates = stream_rates(scenario, get_system("zero_inference").constants(scenario))
    return float(rates.host_to_gpu.bytes_per_s) / 1e9


def test_the_order_of_what_wins_for_a_copy(scenario: Any) -> None:
    """Profile, then version on a host, then host, then the version's share of the link: each alone, then together."""
    file = load_constants("zero_inference")
    here = file.hosts["gcp-t4"]["pinned_h2d_gb_per_s"].value
    link = 15.75
    assert copy_gb_per_s(scenario()) == here
    assert copy_gb_per_s(scenario({"host": {"pinned_h2d": RATE}})) == RATE["gb_per_s"]
    of_system = {"copies": {"zero_inference.pinned_h2d": RATE | {"gb_per_s": 10.0}}}
    assert copy_gb_per_s(scenario({"host": of_system | {"pinned_h2d": RATE}})) == 10.0
    plain = get_host_config_by_name("gcp-t4")
    elsewhere = plain.replace(name="a twin", pinned_h2d=Rate(**RATE))
    assert copy_gb_per_s(scenario().replace(host=elsewhere)) == RATE["gb_per_s"]
    assert copy_gb_per_s(scenario().replace(host=plain.replace(pinned_h2d=Rate(**RATE)))) == here
    unknown = scenario().replace(host=plain.replace(name="a twin"))
    assert copy_gb_per_s(unknown) == pytest.approx(link * file.value("pinned_link_ratio"), rel=1e-12)
    bare = NO_FIT.apply(scenario())
    assert copy_gb_per_s(bare) == pytest.approx(
        link * file.constants["pinned_link_ratio"].unfitted, rel=1e-12
    )


def test_a_profile_of_another_path_leaves_the_versions_rate(scenario: Any) -> None:
    given = scenario({"host": {"pageable_h2d": RATE}})
    assert copy_gb_per_s(given) == copy_gb_per_s(scenario())


def test_a_profile_goes_before_the_host(scenario: Any) -> None:
    """A constant of the profile for what the host file states too: the time of a layer's hooks."""
    profile = {"system_constants": {"zero_inference": {"layer_overhead_ms": 0.7}}}
    assert overhead_ms(scenario(profile, gpu="v100-sxm3-32gb", host="dgx-2")) == pytest.approx(0.7)
    assert overhead_ms(scenario({"host": {"layer_overhead_ms": {"zero_inference": 0.9}}})) == pytest.approx(
        0.9
    )


def overhead_ms(scenario: Scenario) -> float:
    return stream_rates(scenario, get_system(scenario.system).constants(scenario)).layer_overhead_s * 1e3


def test_a_host_goes_before_the_gpu(scenario: Any) -> None:
    """A GPU of PCIe 4 in a host of PCIe 3: the host's measured copies count, not the GPU's link."""
    found = scenario(gpu="a100-pcie-40gb", host="gcp-t4")
    rates = stream_rates(found, get_system("zero_inference").constants(found))
    here = load_constants("zero_inference").hosts["gcp-t4"]["pinned_h2d_gb_per_s"]
    assert rates.host_to_gpu.bytes_per_s == pytest.approx(here.value * 1e9)
    assert rates.host_to_gpu.source == here.source


TABLE = [{"bytes": 65536, "gb_per_s": 2.0}, {"bytes": 1 << 28, "gb_per_s": 10.0}]


def test_a_profiles_table_by_size_slows_small_models_and_not_large_ones(scenario: Any) -> None:
    def slower(model: str) -> float:
        times = []
        for more in ({"latency_us": 0}, {"by_size": TABLE}):
            given = {"host": {"copies": {"zero_inference.pinned_h2d": RATE | more}}}
            found = scenario(given, model=model, gpu="t4", host="gcp-t4", cpu_offload=True)
            constants = get_system("zero_inference").constants(found)
            placement = get_system("zero_inference").place(found, Load(1.0, 8.0, 2.0))
            forward = Forward(found, constants)
            rates = stream_rates(found, constants)
            times.append(ZeroPasses(found, constants, forward, placement, rates, 1.0).copy_s)
        return times[1] / times[0]

    assert slower("opt-125m") > 1.05
    assert slower("opt-30b") < 1.01


def test_a_fit_keeps_what_small_copies_lose(scenario: Any) -> None:
    rates = {"zero_inference.pinned_h2d": RATE | {"by_size": TABLE}}
    given = scenario({"host": {"copies": rates}}, gpu="t4", host="gcp-t4")
    parameter = Parameter("host.copies.zero_inference.pinned_h2d", 11.0, 5.0, 15.0)
    applied = Overrides((parameter,)).apply(given, {parameter.name: 7.0})
    rate = applied.host.copies["zero_inference.pinned_h2d"]
    assert rate.gb_per_s == 7.0
    assert rate.by_size == given.host.copies["zero_inference.pinned_h2d"].by_size


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ({"by_size": TABLE[::-1]}, "by_size must rise"),
        ({"by_size": TABLE[:1]}, "by_size"),
        ({"by_size": TABLE, "latency_us": 5}, "not both"),
        ({"latency_us": -1}, "latency_us"),
    ],
)
def test_a_table_that_cannot_be_is_refused_by_name(scenario: Any, more: dict[str, Any], says: str) -> None:
    with pytest.raises(SpecError, match=says):
        scenario({"host": {"pinned_h2d": RATE | more}})


def test_a_flag_goes_before_the_profiles_gpu(scenario: Any) -> None:
    profile = {
        "gpu": {"efficiency": {"gemm": {"default": {"flops_efficiency": 0.3, "memory_efficiency": 0.5}}}}
    }
    without = scenario(ds_zero=0, model="opt-1.3b")
    under = scenario(profile, ds_zero=0, model="opt-1.3b")
    flagged = scenario(profile, ds_zero=0, model="opt-1.3b", flops_efficiency=0.9, hbm_memory_efficiency=0.8)
    peak = under.gpu.peak_flops_per_s("fp16")
    assert flops_rate(without) != pytest.approx(0.3 * peak)
    assert flops_rate(under) == pytest.approx(0.3 * peak)
    assert flops_rate(flagged) == pytest.approx(0.9 * peak)
    times = [predict_inference(one).total_latency_s for one in (under, flagged)]
    assert times[1] < times[0]


def flops_rate(scenario: Scenario) -> float:
    return kernel_rates(
        scenario.gpu, 16, scenario.flops_efficiency, scenario.hbm_memory_efficiency
    ).gemm.flops_per_s


def test_none_is_the_prediction_without_fits() -> None:
    assert load_profile(None) is NO_PROFILE
    assert load_profile("none") is load_profile("None") is NO_FIT
    assert NO_PROFILE.fits
    assert not NO_FIT.fits
    assert NO_PROFILE.constants_of("zero_inference") == NO_FIT.constants_of("zero_inference") == ()


# -- what is replaced, and what stays -------------------------------------------------------------------------


def test_tables_are_replaced_entry_by_entry(scenario: Any) -> None:
    plain = get_host_config_by_name("gcp-t4")
    profile = {
        "host": {"copies": {"zero_inference.pinned_h2d": RATE}, "layer_overhead_ms": {"zero_inference": 1.5}}
    }
    host = scenario(profile).host
    assert host.copies["zero_inference.pinned_h2d"].gb_per_s == 11
    assert host.fresh_d2h == plain.fresh_d2h
    assert host.layer_overhead_ms == {"zero_inference": 1.5}
    assert host.memory_gib == plain.memory_gib


def test_a_rate_is_replaced_with_its_source(scenario: Any) -> None:
    """A measured rate under the source of another one would be a false statement."""
    host = scenario({"host": {"pinned_h2d": RATE}}).host
    assert host.pinned_h2d.source == "a test"
    assert host.pinned_h2d.relative_error is None
    with pytest.raises(SpecError, match="provenance"):
        scenario({"host": {"pinned_h2d": {"gb_per_s": 11.0}}})


def test_parts_of_specs_may_be_given_in_part(scenario: Any) -> None:
    plain = scenario()
    profile = {
        "host": {"disk": {"direct_read": RATE}, "usable_memory_gib": 100},
        "gpu": {
            "usable_memory_gib": 14.5,
            "peak_tflops": {"fp16": 60},
            "efficiency": {"evidence": "measured"},
        },
    }
    found = scenario(profile)
    assert found.host.disk.direct_read.gb_per_s == 11
    assert found.host.disk.capacity_gib == plain.host.disk.capacity_gib
    assert found.host.usable_memory_bytes == 100 * GIB
    assert found.gpu.usable_memory_bytes == 14.5 * GIB
    assert found.gpu.peak_tflops == plain.gpu.peak_tflops | {"fp16": 60}
    assert found.gpu.efficiency == plain.gpu.efficiency.replace(evidence="measured")


def test_a_profile_changes_where_weights_go(scenario: Any) -> None:
    """55.8 GiB of weights do not fit a host with 50 GiB."""
    assert predict_inference(scenario()).placement.weights.cpu == 1
    assert predict_inference(scenario({"host": {"usable_memory_gib": 50}})).placement.weights.nvme == 1


def test_without_changes_nothing_changes(scenario: Any) -> None:
    host, gpu = get_host_config_by_name("gcp-t4"), get_gpu_config_by_name("t4")
    assert NO_PROFILE.apply_to_host(host, "zero_inference") is host
    assert NO_PROFILE.apply_to_gpu(gpu) is gpu
    assert scenario({}) == scenario()


def test_the_specs_that_a_profile_changes_are_copies(scenario: Any) -> None:
    scenario({"host": {"usable_memory_gib": 50, "layer_overhead_ms": {"zero_inference": 1}}})
    assert get_host_config_by_name("gcp-t4").usable_memory_gib == 204
    assert get_host_config_by_name("gcp-t4").layer_overhead_ms == {}


# -- what is refused ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("profile", "said"),
    [
        ({"host": {"typo": 1}}, "typo"),
        ({"host": {"memory_gib": -1}}, "memory_gib"),
        ({"host": {"disk": {"typo": 1}}}, "typo"),
        ({"host": {"usable_memory_gib": 10_000}}, "usable_memory_gib"),
        ({"gpu": {"peak_tflops": {"fp99": 1}}}, "fp99"),
        ({"gpu": {"efficiency": {"gemm": {"default": {"flops_efficiency": 2}}}}}, "flops_efficiency"),
        ({"gpu": {"name": ""}}, "name"),
        ({"system_constants": {"zero_inference": {"no_such_constant": 1.0}}}, "no_such_constant"),
        ({"system_constants": {"zero_inference": {"overlap_share": "much"}}}, "overlap_share"),
        ({"system_constants": {"zero_inference": {"overlap_share": float("nan")}}}, "overlap_share"),
        ({"system_constants": {"zero_inference": {"layer_overhead_ms": -5}}}, "layer_overhead_ms"),
        ({"system_constants": 5}, "system_constants"),
        ({"typo": 1}, "typo"),
    ],
)
def test_a_profile_with_a_fault(scenario: Any, profile: dict[str, Any], said: str) -> None:
    with pytest.raises(SpecError, match=said) as raised:
        predict_inference(scenario(profile))
    assert "\n" not in str(raised.value)


def test_an_unknown_profile() -> None:
    with pytest.raises(UnknownNameError, match="unknown profile 'no-such-profile'"):
        load_profile("no-such-profile")
    with pytest.raises(SpecError, match="name"):
        Profile(name="")


def test_a_name_near_an_own_profile_is_answered_with_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LLM_PERF_PROFILES", str(tmp_path))
    (tmp_path / "lab-machine.yaml").write_text("name: lab-machine\n")
    with pytest.raises(UnknownNameError, match="the nearest known: lab-machine"):
        load_profile("lab-machin")
