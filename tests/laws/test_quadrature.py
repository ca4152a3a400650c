"""The sum over the steps of a growing context equals the sum over every step."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llm_perf.config import OffloadConfig, Shares, Workload
from llm_perf.counts.quadrature import context_nodes, sum_over_context
from llm_perf.hardware.roofline import p_norm
from llm_perf.systems.constants import load_constants
from tests.laws import strategies as draw

firsts = st.sampled_from([1, 2, 100, 513, 100_000])
steps = st.integers(0, 5000)


def brute_force(f, first, count):
    return sum(f(first + step) for step in range(count))


@given(firsts, steps, st.floats(0, 1e6), st.floats(0, 1e3))
def test_affine_functions_are_summed_exactly(first, count, base, slope):
    def f(context):
        return base + slope * context

    exact = count * base + slope * (count * first + count * (count - 1) / 2)
    assert sum_over_context(f, first, count) == pytest.approx(exact, rel=1e-12, abs=1e-300)


@given(firsts, st.integers(1, 5000), st.lists(st.floats(0, 1e6), max_size=3), st.floats(0, 1e3))
def test_the_middle_of_a_panel_is_enough_between_kinks(first, count, kinks, slope):
    def f(context):
        return 7.0 + slope * context + sum(max(context - kink, 0.0) for kink in kinks)

    found = sum(weight * f(at) for at, weight in context_nodes(first, count, kinks, affine=True))
    assert found == pytest.approx(brute_force(f, first, count), rel=1e-9)


@given(firsts, st.integers(1, 5000), st.lists(st.floats(0, 1e6), max_size=3))
def test_kinks_anywhere_change_nothing_for_affine_functions(first, count, kinks):
    exact = count * first + count * (count - 1) / 2
    assert sum_over_context(lambda context: context, first, count, kinks) == pytest.approx(exact, rel=1e-12)


@given(firsts, st.integers(1, 2000), st.floats(0.01, 10), st.sampled_from([1.5, 2, 4, 8, 64]))
def test_rounded_corners_are_summed_to_a_thousandth(first, count, knee, power):
    scale = knee * (first + count)

    def f(context):
        return p_norm(1.0, context / scale, power)

    summed = sum_over_context(f, first, count, (scale,))
    assert summed == pytest.approx(brute_force(f, first, count), rel=1e-3)


@given(firsts, st.integers(1, 2000), st.lists(st.integers(1, 3000), min_size=1, max_size=3))
def test_windows_are_summed_exactly(first, count, windows):
    def f(context):
        return 1.0 + sum(min(context, window) for window in windows)

    assert sum_over_context(f, first, count, windows) == pytest.approx(
        brute_force(f, first, count), rel=1e-12
    )


@given(firsts, st.integers(1, 3), st.floats(-5, 5))
def test_up_to_three_steps_are_summed_exactly_whatever_the_function(first, count, power):
    def f(context):
        return context**power

    assert sum_over_context(f, first, count) == pytest.approx(brute_force(f, first, count), rel=1e-12)


@given(st.lists(st.tuples(firsts, steps, st.floats(0, 1e4)), min_size=1, max_size=8))
def test_arrays_of_ranges_and_of_kinks_are_summed_each_on_its_own(ranges):
    first, count, kink = (np.array(column, float) for column in zip(*ranges, strict=True))

    def f(context, kink):
        return 2.0 + np.minimum(context, kink) + np.minimum(context, 700.0)

    together = sum_over_context(lambda context: f(context, kink), first, count, (700.0, kink))
    for index, point in enumerate(ranges):
        alone = sum_over_context(
            lambda context, point=point: f(context, point[2]), *point[:2], (700.0, point[2])
        )
        assert together[index] == pytest.approx(alone, rel=1e-12)


@given(firsts, steps)
def test_weights_sum_to_the_steps_and_contexts_stay_inside(first, count):
    nodes = list(context_nodes(first, count, (600.0,)))
    assert sum(weight for _, weight in nodes) == pytest.approx(count, rel=1e-12, abs=1e-12)
    assert all(first <= context <= first + count - 1 for context, weight in nodes if weight > 0)
    assert all(weight >= 0 for _, weight in nodes)


@settings(max_examples=100)
@given(draw.scenarios(shortest_gen=2))
def test_decoding_takes_the_sum_of_its_steps(scenario):
    """Each step on its own is one decode step from a prompt of that length; the placement is that of the whole."""
    load, placed = draw.load_of(scenario), draw.keep_placement(scenario)
    prompts = load.prompt_len + np.arange(load.gen_len - 1)
    each = draw.evaluate(placed, prompt_len=prompts, gen_len=np.full_like(prompts, 2.0)).decode.latency_s
    assert draw.evaluate(placed).decode.latency_s == pytest.approx(float(np.sum(each)), rel=1e-3)


# -- generations during which what is waited for changes --------------------------------------------------------

LONG = Workload(batch_size=64, prompt_len=100, gen_len=3000)


def each_step(scenario):
    """Latency of every decode step of a generation on its own."""
    load = draw.load_of(scenario)
    prompts = load.prompt_len + np.arange(load.gen_len - 1)
    step = draw.evaluate(scenario, prompt_len=prompts, gen_len=np.full_like(prompts, 2.0)).decode
    return np.broadcast_to(step.latency_s, prompts.shape)


@settings(max_examples=30)
@given(draw.zero_scenarios(ranks=1, offload=OffloadConfig(weights=Shares.on("gpu"))), st.floats(0.05, 0.95))
def test_streaming_that_computing_overtakes_is_summed_exactly(scenario, when):
    """The host's time per layer is chosen so that device and stream are alike at one of the steps."""
    host, layers = scenario.host, scenario.model.num_layers
    scenario = scenario.replace(workload=LONG, host=host.replace(layer_overhead_ms={"zero_inference": 0.0}))
    alike = np.quantile(each_step(scenario), when)
    host = host.replace(layer_overhead_ms={"zero_inference": 1e3 * alike / layers})
    scenario = scenario.replace(host=host)
    exact = float(np.sum(each_step(scenario)))
    assert draw.evaluate(scenario).decode.latency_s == pytest.approx(exact, rel=1e-9)


@settings(max_examples=30)
@given(draw.resident_scenarios(system="resident"), st.floats(0.05, 0.95), st.sampled_from([2.0, 8.0, 64.0]))
def test_launches_that_kernels_overtake_are_summed_to_a_thousandth(scenario, when, exponent):
    scenario = scenario.replace(workload=LONG, constants=(("launch_us", 0.0), ("overlap_exponent", exponent)))
    alike = np.quantile(each_step(scenario), when)
    kernels = load_constants("resident").value("kernels_per_layer") + 5
    launch_us = 1e6 * alike / scenario.model.num_layers / kernels
    scenario = scenario.replace(constants=(("launch_us", launch_us), ("overlap_exponent", exponent)))
    exact = float(np.sum(each_step(scenario)))
    assert draw.evaluate(scenario).decode.latency_s == pytest.approx(exact, rel=1e-3)
