"""Laws of ZeRO-Inference's time: tiers, copies, gathers, and what one GPU takes by itself."""

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from llm_perf.config import OffloadConfig, ParallelismConfig, Shares
from llm_perf.config.gpu import TEXTBOOK
from llm_perf.config.host import Rate
from llm_perf.hardware.streams import H2D
from llm_perf.hardware.transfer import Path, SizeCurve
from llm_perf.systems import get_system
from tests.laws import strategies as draw
from tests.laws.test_time_laws import EXAMPLES, ROUNDING, assert_no_faster, device_s, latencies

tiers = st.sampled_from([("nvme", "cpu"), ("cpu", "gpu")])


@EXAMPLES
@given(draw.zero_scenarios(), tiers)
def test_a_lower_tier_is_never_faster(scenario, pair):
    """With page-locked memory: weights from NVMe pass through buffers that are page-locked whatever host tensors are."""
    offload = scenario.offload.replace(pin_memory=True)
    lower, upper = (scenario.replace(offload=offload.replace(weights=Shares.on(tier))) for tier in pair)
    assert_no_faster(draw.evaluate(lower), draw.evaluate(upper))


@EXAMPLES
@given(draw.zero_scenarios(), st.sampled_from(["overlap", "prefetch"]))
def test_overlap_and_prefetch_never_hurt(scenario, setting):
    off, on = (
        scenario.replace(offload=scenario.offload.replace(**{setting: value})) for value in (False, True)
    )
    assert_no_faster(draw.evaluate(off), draw.evaluate(on))


@EXAMPLES
@given(draw.zero_scenarios(), st.booleans())
def test_page_locked_copies_are_never_slower(scenario, measured):
    rates = (8.0, 4.0) if measured else (None, None)
    pinned, pageable = (rate and Rate(gb_per_s=rate, provenance="assumed", source="test") for rate in rates)
    host = scenario.host.replace(pinned_h2d=pinned, pageable_h2d=pageable)
    on, off = (
        scenario.replace(host=host, offload=scenario.offload.replace(pin_memory=value))
        for value in (True, False)
    )
    assert_no_faster(draw.evaluate(off), draw.evaluate(on))


@EXAMPLES
@given(draw.zero_scenarios(ranks=1, gpu=draw.gpus(linked=True)), st.sampled_from([2, 4, 8]))
def test_more_gpus_never_slow_down_streaming_at_the_same_batch_per_gpu(scenario, ranks):
    """Where exchanges reach a link that is faster than the GPUs' PCIe and start at once, and the cache stays on them:
    over PCIe alone the gathers share the link with the copies, caches on the host share its processor, and of layers of
    a few KiB the start of a gather takes longer than the copy that it saves. Tokens of more GPUs meet more experts."""
    assume(not any(group.mlp.routed_experts for group in scenario.model.layer_groups))
    offload = OffloadConfig(weights=Shares.on("cpu"))
    at_once = scenario.gpu.efficiency.collective.replace(
        alpha_us=dict.fromkeys((2, 4, 8), 0.0),
        sqrt_term_us=0.0,
        bus_efficiency=1.0,
        bus_efficiency_by_ranks={},
    )
    gpu = scenario.gpu.replace(efficiency=scenario.gpu.efficiency.replace(collective=at_once))
    one = scenario.replace(offload=offload, gpu=gpu)
    many = one.replace(
        parallelism=ParallelismConfig(dp_size=ranks),
        workload=scenario.workload.replace(batch_size=scenario.workload.batch_size * ranks),
    )
    assert_no_faster(draw.evaluate(one), draw.evaluate(many))


@EXAMPLES
@given(draw.zero_scenarios(ranks=1, offload=OffloadConfig(weights=Shares.on("gpu"))))
def test_zero_inference_on_one_gpu_is_never_faster_than_its_own_kernels(scenario):
    evaluation = draw.evaluate(scenario, gen_len=2.0)
    for latency, device in zip(latencies(evaluation), device_s(scenario), strict=True):
        assert latency >= device * (1 - ROUNDING)


@EXAMPLES
@given(
    draw.zero_scenarios(
        ranks=1, offload=OffloadConfig(weights=Shares.on("gpu")), gpu=draw.gpus(efficiency=TEXTBOOK)
    )
)
def test_zero_inference_on_one_gpu_is_never_faster_than_a_resident_stack_on_the_device(scenario):
    """On ideal kernels: a real fused attention kernel is poor at prompts of a few tokens, where eager products win."""
    resident = scenario.replace(system="resident")
    evaluation = draw.evaluate(scenario, gen_len=2.0)
    for latency, device in zip(latencies(evaluation), device_s(resident), strict=True):
        assert latency >= device * (1 - ROUNDING)


@EXAMPLES
@given(draw.zero_scenarios())
def test_the_trace_of_zero_inference_adds_up_to_its_latencies(scenario):
    """Layer by layer, prefill and one decode step."""
    load = draw.load_of(scenario, gen_len=2.0)
    evaluation = get_system("zero_inference").evaluate(scenario, load)
    schedules = get_system("zero_inference").schedules(scenario, load)
    for schedule, latency in zip(schedules, latencies(evaluation), strict=True):
        assert schedule.latency_s == pytest.approx(latency, rel=1e-9)
        assert sum(schedule.exposed_by_stream().values()) == pytest.approx(latency, rel=1e-9)


TABLES = st.lists(st.floats(0.05, 60.0), min_size=2, max_size=6)


@given(TABLES, st.floats(1.0, 60.0), st.floats(1.0, 1e10), st.floats(1.0, 1e10))
def test_copies_by_size_are_no_faster_than_the_full_rate_and_never_get_cheaper_by_splitting(
    rates, level, small, large
):
    table = [{"bytes": 4.0 ** (8 + i), "gb_per_s": rate} for i, rate in enumerate(rates)]
    rate = Rate(gb_per_s=level, provenance="measured", source="test", by_size=table)
    path = Path(H2D, rate.bytes_per_s, 0.0, "test", True, SizeCurve.of(rate))
    low, high = sorted((small, large))
    assert path.seconds(low, 1.0) >= low / rate.bytes_per_s * (1 - ROUNDING)
    assert path.seconds(high, 7.0) >= path.seconds(high) * (1 - ROUNDING)
    both = path.seconds(np.array([low, high]), np.array([1.0, 1.0]))
    assert both == pytest.approx([path.seconds(low, 1.0), path.seconds(high, 1.0)])


@given(TABLES)
def test_a_table_by_size_gives_back_what_was_measured(rates):
    rates = sorted(rates)  # larger copies are faster
    table = [{"bytes": 4.0 ** (8 + i), "gb_per_s": rate} for i, rate in enumerate(rates)]
    rate = Rate(gb_per_s=rates[-1], provenance="measured", source="test", by_size=table)
    path = Path(H2D, rate.bytes_per_s, 0.0, "test", True, SizeCurve.of(rate))
    seconds = np.maximum.accumulate([e["bytes"] / (e["gb_per_s"] * 1e9) for e in table])
    assert [path.seconds(e["bytes"], 1.0) for e in table] == pytest.approx(list(seconds))


@EXAMPLES
@given(draw.zero_scenarios(), st.floats(1.0, 30.0))
def test_a_slower_copy_never_makes_a_pass_faster(scenario, factor):
    latency = dict(get_system(scenario.system).constants(scenario))["copy_latency_us"]
    slower = scenario.replace(constants=(*scenario.constants, ("copy_latency_us", latency * factor)))
    times = [draw.evaluate(one, gen_len=2.0).prefill.latency_s for one in (scenario, slower)]
    assert times[1] >= times[0] * (1 - ROUNDING)
