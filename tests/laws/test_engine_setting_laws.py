"""Laws of what is set on servers: prompts held back, arrivals looked at now and then, tokens sent one by one."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from llm_perf.analysis.inference import predict_inference
from llm_perf.analysis.request import InferenceInputs, build_scenario
from llm_perf.config.scenario import Scenario
from llm_perf.requests.limits import Limits
from llm_perf.requests.outcome import COMPLETED, Outcome
from llm_perf.requests.simulate import rules_of, simulate, step_times
from llm_perf.requests.workload import Requests
from llm_perf.systems.scheduling import Balance, Waits


def scenario(system: str = "vllm@0.19", **more: Any) -> Scenario:
    return build_scenario(
        InferenceInputs(**({"model": "llama-3.1-8b", "gpu": "h100-sxm", "system": system} | more))
    )


def poisson(count: int = 200, rate: float = 5.0) -> Requests:
    rng = np.random.default_rng(1)
    arrival = np.cumsum(rng.exponential(1 / rate, count))
    return Requests.of(arrival, rng.integers(100, 1500, count), rng.integers(20, 300, count))


def first_token_s(found: Outcome) -> float:
    assert (found.status == COMPLETED).all()
    return float((found.first_token_s - found.arrival_s).mean())


@pytest.mark.parametrize("system", ["vllm@0.19", "sglang@0.5", "tensorrt_llm@1.1"])
@pytest.mark.parametrize("every", [2, 10, 30])
def test_an_engine_that_looks_seldom_lets_prompts_wait_for_so_many_steps_at_most(
    system: str, every: int
) -> None:
    asked, load = scenario(system), poisson()
    always, seldom = (simulate(asked, load, settings=settings) for settings in (None, {"looks_every": every}))
    waited = first_token_s(seldom) - first_token_s(always)
    longest = float((seldom.steps.duration_s / seldom.steps.count)[seldom.steps.prefill_tokens == 0].max())
    assert 0 < waited < (every + 2) * longest
    assert seldom.requests.output_tokens.sum() == always.requests.output_tokens.sum()


def test_looking_every_step_is_what_engines_do() -> None:
    asked, load = scenario(), poisson()
    plain, set_so = simulate(asked, load), simulate(asked, load, settings={"looks_every": 1})
    assert np.array_equal(plain.finished_s, set_so.finished_s)


def test_prompts_are_held_back_for_the_steps_that_were_set_and_not_where_nothing_generates() -> None:
    asked = scenario("tensorrt_llm@1.1")
    load = Requests.of([0.0, 1.0], 200, 400)
    now = simulate(asked, load)
    held = simulate(asked, load, settings={"waits": Waits(steps=20, tokens_share=0.9)})
    decode_s = float((now.steps.duration_s / now.steps.count)[now.steps.prefill_tokens == 0].min())
    later = held.first_token_s - now.first_token_s
    assert later[0] == 0
    assert later[1] == pytest.approx(20 * decode_s, rel=0.1)


def test_prompts_that_fill_a_step_are_not_held_back() -> None:
    asked = scenario("tensorrt_llm@1.1", max_num_batched_tokens=2048)
    load = Requests.of([0.0, 1.0], [200, 2000], 400)
    now = simulate(asked, load)
    held = simulate(asked, load, settings={"waits": Waits(steps=20, tokens_share=0.5)})
    assert np.array_equal(held.first_token_s, now.first_token_s)


def loop(stream_us: float, concurrency: int = 128) -> Outcome:
    asked = scenario().replace(constants=(("stream_us", stream_us),))
    return simulate(asked, Requests.of(np.zeros(512), 256, 256, concurrency=concurrency))


def test_a_frontend_sends_no_more_tokens_than_it_has_time_for() -> None:
    scale = scenario().host.host_time_scale
    each_s = 200e-6 * (1.0 if scale is None else scale.value)
    found = loop(200.0)
    rate = found.requests.output_tokens.sum() / found.finished_s.max()
    assert rate <= 1 / each_s
    assert rate == pytest.approx(1 / each_s, rel=0.2)
    free = loop(0.0)
    assert found.finished_s.max() > free.finished_s.max()


def test_a_frontend_with_time_left_holds_nothing_up() -> None:
    assert np.array_equal(loop(1.0, 4).finished_s, loop(0.0, 4).finished_s)


def test_tokens_that_are_sent_together_take_one_sending() -> None:
    asked = scenario().replace(constants=(("stream_us", 200.0),))
    load = Requests.of(np.zeros(256), 256, 256, concurrency=128)
    ten = simulate(asked, load, settings={"stream_interval": 10})
    assert ten.finished_s.max() == pytest.approx(loop(20.0).finished_s[:256].max(), rel=0.5)
    assert ten.finished_s.max() < simulate(asked, load).finished_s.max()


@pytest.mark.parametrize(("system", "tokens"), [("sglang@0.5", 1024), ("tensorrt_llm@1.1", 1100)])
def test_first_tokens_wait_for_the_launch_of_the_prompts_behind_them_and_of_nothing_else(
    system: str, tokens: int
) -> None:
    """A burst is read two by two: the host launches the next two before it sends what the last two gave."""
    asked = scenario(system, max_num_batched_tokens=tokens)
    asked = asked.replace(constants=(("prefill_operation_us", 200.0), ("stream_us", 0.0)))
    load = Requests.of(np.zeros(8), 512, 64)
    at_once, after = (simulate(asked, load, settings={"sends_after_launch": flag}) for flag in (False, True))
    launch_s = step_times(asked, Limits.of(asked, rules_of(asked), 576)).launch_s
    assert np.array_equal(after.steps.duration_s, at_once.steps.duration_s)  # the device does the same
    assert int((after.steps.prefill_tokens > 0).sum()) == 4
    later = np.sort(after.first_token_s - at_once.first_token_s)
    assert later[:2] == pytest.approx(0.0, abs=1e-12)  # nothing is read behind the last two
    assert (later[2:] > 0.8 * launch_s).all()
    assert (later <= launch_s).all()


def test_a_launch_that_is_done_while_the_device_works_holds_nothing_up() -> None:
    asked = scenario("sglang@0.5", max_num_batched_tokens=8192)
    asked = asked.replace(constants=(("prefill_operation_us", 1.0), ("stream_us", 0.0)))
    load = Requests.of(np.zeros(8), 8192, 64)
    at_once, after = (simulate(asked, load, settings={"sends_after_launch": flag}) for flag in (False, True))
    assert np.array_equal(at_once.first_token_s, after.first_token_s)
    assert np.array_equal(at_once.finished_s, after.finished_s)


@pytest.mark.parametrize(("gpu", "largest"), [("l40-48gb", 32), ("h100-sxm", 256)])
def test_decode_steps_of_more_sequences_than_the_largest_graph_are_steps_without_graphs(
    gpu: str, largest: int
) -> None:
    """Up to it the constant of eager steps is in no answer; beyond, all steps are those of --enforce-eager."""
    asked = scenario("sglang@0.5", model="qwen3-0.6b", gpu=gpu)
    eager = scenario("sglang@0.5", model="qwen3-0.6b", gpu=gpu, enforce_eager=True)
    free = asked.replace(constants=(("eager_python_us_per_layer", 0.0),))
    captured, launched, without = (
        step_times(one, Limits.of(one, rules_of(one), 576)) for one in (asked, eager, free)
    )
    for batch in (1, largest, largest + 1, 2 * largest):
        expected = (without if batch <= largest else launched).decode_s(batch, 300.0)
        assert captured.decode_s(batch, 300.0) == expected
        mean = captured.mean_decode_s(np.array([float(batch)]), np.array([300.0]))
        assert mean[0] == pytest.approx(captured.decode_s(batch, 300.0), rel=1e-12)
        one, same = (
            predict_inference(
                scenario("sglang@0.5", model="qwen3-0.6b", gpu=gpu, batch_size=batch, enforce_eager=flag)
            )
            for flag in (False, True)
        )
        assert one.tpot_s is not None
        assert same.tpot_s is not None
        assert (one.tpot_s == same.tpot_s) == (batch > largest)


def test_what_was_launched_before_a_step_began_is_a_launch_that_takes_less() -> None:
    """An equality: so much earlier is so much less to launch, and a launch that is done leaves the device alone."""
    asked = scenario("sglang@0.5").replace(constants=(("prefill_operation_us", 200.0),))
    less = asked.replace(constants=(("prefill_operation_us", 150.0),))
    free = asked.replace(
        constants=(("prefill_operation_us", 0.0), ("launch_us", 0.0), ("python_us_per_layer", 0.0))
    )
    times, shorter, none = (
        step_times(one, Limits.of(one, rules_of(one), 576)) for one in (asked, less, free)
    )
    assert none.launch_s == 0.0
    ahead_s = times.launch_s - shorter.launch_s
    assert ahead_s > 0
    for chunks in ([(512, 0)], [(100, 0), (300, 200)], [(4000, 0)]):
        expected = shorter.mixed_s(chunks, 0, 0.0, len(chunks))
        assert times.mixed_s(chunks, 0, 0.0, len(chunks), ahead_s) == pytest.approx(expected, rel=1e-12)
        device_s = none.mixed_s(chunks, 0, 0.0, len(chunks))
        for done_s in (times.launch_s, 2 * times.launch_s):
            assert times.mixed_s(chunks, 0, 0.0, len(chunks), done_s) == pytest.approx(device_s, rel=1e-12)
    one, new = np.ones(3), np.array([100.0, 512.0, 4000.0])
    sooner = times.mean_mixed_s(one, new, 0 * one, 0 * one, one, ahead_s * one)
    assert sooner == pytest.approx(shorter.mean_mixed_s(one, new, 0 * one, 0 * one, one), rel=1e-12)


def test_prompts_behind_a_decode_step_are_launched_beside_it_and_those_behind_prompts_are_not() -> None:
    asked = scenario("sglang@0.5", max_num_batched_tokens=1024)
    asked = asked.replace(constants=(("prefill_operation_us", 200.0), ("stream_us", 0.0)))
    load = Requests.of([0.0, 1.0, 1.0, 1.0], 1024, 2000)  # three behind one that decodes, one to a step
    at_once, beside = (
        simulate(asked, load, settings={"launches_beside_decodes": flag}) for flag in (False, True)
    )
    times = step_times(asked, Limits.of(asked, rules_of(asked), 3024))
    reads = np.flatnonzero(beside.steps.prefill_tokens > 0)
    assert len(reads) == 4
    alone = times.mixed_s([(1024, 0)], 0, 0.0, 1)
    durations = beside.steps.duration_s[reads]
    assert durations[[0, 2, 3]] == pytest.approx(
        alone, rel=1e-12
    )  # an idle engine's first, and two behind prompts
    before_s = beside.steps.duration_s[reads[1] - 1] / beside.steps.count[reads[1] - 1]
    assert durations[1] < alone
    assert durations[1] == pytest.approx(times.mixed_s([(1024, 0)], 0, 0.0, 1, before_s), rel=1e-3)
    assert at_once.steps.duration_s[at_once.steps.prefill_tokens > 0] == pytest.approx(alone, rel=1e-12)


def test_one_request_at_a_time_has_no_step_to_be_launched_beside() -> None:
    asked = scenario("sglang@0.5")
    load = Requests.of(np.zeros(6), 512, 64, concurrency=1)
    at_once, beside = (
        simulate(asked, load, settings={"launches_beside_decodes": flag}) for flag in (False, True)
    )
    assert np.array_equal(at_once.finished_s, beside.finished_s)


def replicas(balance: Balance | None, concurrency: int, seed: int = 2) -> Outcome:
    """Four replicas that share their experts, in a closed loop with outputs of all lengths."""
    asked = scenario("tensorrt_llm@1.1", model="qwen3-30b-a3b", tp_size=1, dp_size=4, ep_size=4, batch_size=4)
    asked = asked.replace(constants=(("stream_us", 0.0),))
    outputs = np.random.default_rng(seed).integers(150, 450, 8 * concurrency)
    load = Requests.of(np.zeros(8 * concurrency), 256, outputs, concurrency=concurrency)
    return simulate(asked, load, settings={"balance": balance})


@pytest.mark.parametrize("steps", [40, 60])
def test_a_prompt_that_waits_for_other_replicas_waits_half_the_steps_that_they_are_given(steps: int) -> None:
    """Few requests come: all replicas hardly ever have one at once, and what is counted does not begin with them.

    Prompts that then come together save about two steps of it, and one load is off by a tenth of the steps either way.
    """
    concurrency, shares = 12, []
    later = slice(concurrency, None)  # those behind the first come one by one
    for seed in range(4):
        free, held = (replicas(balance, concurrency, seed) for balance in (None, Balance(steps=steps)))
        waits = [(one.first_token_s - one.arrival_s)[later].mean() for one in (held, free)]
        plain = held.steps.prefill_tokens == 0
        step_s = float(held.steps.duration_s[plain].sum() / held.steps.count[plain].sum())
        shares.append((waits[0] - waits[1]) / (steps * step_s))
        assert (held.status == COMPLETED).all()
    assert 0.35 < np.mean(shares) < 0.65


def test_replicas_that_wait_one_step_for_each_other_do_not_wait() -> None:
    assert replicas(Balance(steps=1), 12).finished_s == pytest.approx(replicas(None, 12).finished_s, rel=1e-9)
