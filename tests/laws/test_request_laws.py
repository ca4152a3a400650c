"""Laws of simulated requests: what holds of any engine, any load."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llm_perf.analysis.inference import predict_inference
from llm_perf.analysis.request import InferenceInputs, build_scenario
from llm_perf.config.loading import get_gpu_config_by_name
from llm_perf.config.scenario import Scenario
from llm_perf.requests.outcome import COMPLETED, REJECTED, Outcome
from llm_perf.requests.simulate import rules_of, simulate
from llm_perf.requests.steady import SteadyState
from llm_perf.requests.step_times import StepTimes
from llm_perf.requests.workload import Requests
from llm_perf.systems.base import Load
from llm_perf.systems.costs import Costs
from llm_perf.systems.families import declaration, family_names, folder_of, scheduler_rules
from llm_perf.systems.forward import Chunk, Forward
from llm_perf.systems.host_time import prefill_overhead_s
from llm_perf.systems.mixed_steps import step_s
from llm_perf.systems.registry import runs_there, system_of

MODELS = ("llama-3.1-8b", "gpt-oss-20b", "gemma-2-9b", "NVIDIA-Nemotron-3-Nano-30B-A3B")
STACKS = ("vllm@0.19", "vllm@0.6", "sglang@0.5", "tensorrt_llm@1.0", "tensorrt_llm@0.9")


def scenario(model: str = "llama-3.1-8b", system: str = "vllm@0.19", **more: Any) -> Scenario:
    return build_scenario(InferenceInputs(model=model, gpu="h100-sxm", system=system, **more))


def poisson(count: int, rate: float, prompt: Any = 512, output: Any = 128, seed: int = 0) -> Requests:
    rng = np.random.default_rng(seed)

    def lengths(of: Any) -> Any:
        return of if isinstance(of, int) else rng.integers(of[0], of[1] + 1, count)

    arrival = np.cumsum(rng.exponential(1 / rate, count))
    return Requests.of(arrival, lengths(prompt), lengths(output))


def tokens_emitted(found: Outcome) -> int:
    """Tokens of decode steps, and those that prompts ended with."""
    return int((found.steps.decode_sequences * found.steps.count).sum())


# -- steps ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("tp", [1, 2])
def test_a_step_of_decodes_alone_is_a_decode_step_and_one_of_a_prompt_a_prefill(model: str, tp: int) -> None:
    asked = scenario(model, tp_size=tp)
    forward = Forward(asked, system_of(asked).constants(asked))
    decode, attention = forward.decode_step(12.0)
    costs, same = forward.mixed_step((), 12.0, 0.0)
    assert costs.parts_s == decode.parts_s
    assert forward.attention_s(same, 700.0) == forward.attention_s(attention, 700.0)
    costs, none = forward.mixed_step((Chunk(1.0, 900.0, 64.0),), 0, 1.0)
    assert costs.parts_s == forward.prefill(1.0, 900.0, 64.0).parts_s
    assert none == []


@pytest.mark.parametrize("model", [*MODELS, "deepseek-v4-flash", "llama-4-scout-17b-16e"])
def test_tables_hold_the_steps_of_the_system(model: str) -> None:
    """Windows, chunks, states and selected entries: from before them, over their end, and beyond."""
    asked = scenario(model)
    forward = Forward(asked, system_of(asked).constants(asked))
    times = StepTimes(forward, 64, 20_000)
    for batch, context in ((1, 20.0), (64, 5000.0), (3, 12_000.0)):
        assert times.decode_s(batch, context) == pytest.approx(step_s(forward, (), batch, context), rel=1e-12)
    chunked = (
        ([(300, 0), (40, 4096)], 30),
        ([(8000, 100)], 0),
        ([(900, 2500), (50, 20)], 3),
        ([(19_001, 0)], 7),
    )
    for chunks, batch in chunked:
        whole = [Chunk(1.0, new, before) for new, before in chunks]
        close = 1e-12 if sum(new for new, _ in chunks) + batch <= 8192 else 2e-4
        expected = step_s(forward, whole, batch, 900.0, 1.0)
        assert times.mixed_s(chunks, batch, 900.0, 1) == pytest.approx(expected, rel=close)


@given(
    batch=st.integers(1, 64), context=st.floats(1, 1e5), most=st.integers(1, 3000), share=st.floats(0, 1.2)
)
@settings(max_examples=60, deadline=None)
def test_steps_until_is_the_fewest_that_take_so_long(
    batch: int, context: float, most: int, share: float
) -> None:
    asked = scenario("gpt-oss-20b")
    times = StepTimes(Forward(asked, system_of(asked).constants(asked)), 64, 1024)
    seconds = share * times.decode_steps_s(batch, context, most)
    count, taken = times.steps_until(batch, context, most, seconds)
    assert taken == pytest.approx(times.decode_steps_s(batch, context, count), rel=1e-9)
    assert count == most or taken >= seconds * (1 - 1e-12)
    assert count == 1 or times.decode_steps_s(batch, context, count - 1) < seconds * (1 + 1e-9)


# -- one request at a time is infer -----------------------------------------------------------------------------------


@pytest.mark.parametrize("system", STACKS)
@pytest.mark.parametrize("model", ["llama-3.1-8b", "gpt-oss-20b"])
@pytest.mark.parametrize("closed", [True, False])
def test_without_others_a_request_takes_what_infer_says(system: str, model: str, closed: bool) -> None:
    asked = scenario(model, system, prompt_len=700, gen_len=300)
    one = predict_inference(asked)
    assert one.decode is not None
    requests = Requests.of(
        np.zeros(5) if closed else np.arange(5) * 1e4, 700, 300, concurrency=1 if closed else None
    )
    # Prompts of their own: nothing is found again.
    found = simulate(asked, requests)
    np.testing.assert_allclose(found.first_token_s - found.arrival_s, one.ttft_s, rtol=1e-9)
    np.testing.assert_allclose((found.finished_s - found.first_token_s) / 299, one.tpot_s, rtol=1e-9)
    if closed:
        assert found.finished_s[-1] == pytest.approx(5 * one.total_latency_s, rel=1e-9)


MACHINES: tuple[dict[str, Any], ...] = (
    {"gpu": "h100-sxm"},
    {"gpu": "mi300x"},
    {"gpu": "gaudi2"},
    {"gpu": "m3-ultra"},
    {"gpu": "none", "host": "epyc-9654"},
)
SERVED = tuple(
    (f"{name}@{release}", machine)
    for name in family_names()
    for release in folder_of(name).all_releases
    for machine in MACHINES
    if scheduler_rules(name, release) is not None
    and runs_there(name, get_gpu_config_by_name(machine["gpu"], or_none=True))
    and (machine["gpu"] != "none" or declaration(name).runs_without_gpu)
)
"""Every version of every system that has a scheduler, those for some devices too, wherever its makers say that it runs."""


@pytest.mark.parametrize(
    ("system", "machine"), SERVED, ids=lambda one: one if isinstance(one, str) else one["gpu"]
)
def test_alone_a_request_of_any_system_takes_what_infer_says(system: str, machine: dict[str, Any]) -> None:
    """Within a step and over several; an idle server that waits for others to come says how long."""
    for prompt in (700, 3000):
        asked = build_scenario(
            InferenceInputs(model="qwen3-30b-a3b", system=system, prompt_len=prompt, gen_len=20, **machine)
        )
        found, one = (
            simulate(asked, Requests.of(np.zeros(3), prompt, 20, concurrency=1)),
            predict_inference(asked),
        )
        first = found.first_token_s - found.arrival_s - rules_of(asked).gathers_ms * 1e-3
        # Nodes stand for the passes of a long prompt, whose scores are written out in some versions.
        np.testing.assert_allclose(first, one.ttft_s, rtol=3e-3 if prompt > 2048 else 1e-4)
        np.testing.assert_allclose((found.finished_s - found.first_token_s) / 19, one.tpot_s, rtol=1e-4)
        if rules_of(asked).batch != "static":
            steady = SteadyState(asked, 4000).at(prompt, 20, concurrency=1)
            assert float(steady.ttft_s) == pytest.approx(one.ttft_s, rel=0.02)
            assert float(steady.tpot_s) == pytest.approx(one.tpot_s, rel=0.01)


@pytest.mark.parametrize("chunk", [None, 2048])
def test_a_prompt_in_chunks_takes_what_infer_says_of_chunks(chunk: int | None) -> None:
    asked = scenario(prompt_len=5000, gen_len=2, max_num_batched_tokens=2048, prefill_chunk=chunk)
    found = simulate(asked, Requests.of([0.0], 5000, 2))
    assert found.steps.prefill_tokens.tolist() == [2048, 2048, 904, 0]
    assert found.first_token_s[0] == pytest.approx(predict_inference(asked).ttft_s, rel=1e-6)


@pytest.mark.parametrize(
    "system", ["vllm@0.19", "sglang@0.5", "lmdeploy", "deepspeed_mii", "llama_cpp", "tensorrt_llm@1.0"]
)
@pytest.mark.parametrize("model", ["llama-3.1-8b", "qwen3-30b-a3b", "gpt-oss-20b"])
def test_a_prompt_longer_than_a_step_takes_what_infer_says(system: str, model: str) -> None:
    """Each step of a prompt reads the experts again, which infer counts as the engine does."""
    asked = build_scenario(
        InferenceInputs(model=model, gpu="a100-sxm-80gb", system=system, prompt_len=9000, gen_len=20)
    )
    found, one = simulate(asked, Requests.of([0.0], 9000, 20)), predict_inference(asked)
    gathers_s = rules_of(asked).gathers_ms * 1e-3  # llama.cpp's server, which an infer has none of
    assert found.first_token_s[0] - gathers_s == pytest.approx(one.ttft_s, rel=1e-4)
    assert (found.finished_s - found.first_token_s)[0] / 19 == pytest.approx(one.tpot_s, rel=1e-6)


@pytest.mark.parametrize("prompt", [8200, 9000])
def test_a_short_last_pass_of_llama_cpp_is_between_its_neighbours(prompt: int) -> None:
    """Whole passes and a rest take more than the whole ones, and less than one whole one more."""

    def asked(length: int) -> Scenario:
        return build_scenario(
            InferenceInputs(
                model="llama-3.1-8b", gpu="a100-sxm-80gb", system="llama_cpp", prompt_len=length, gen_len=2
            )
        )

    fewer, more = (predict_inference(asked(prompt // 512 * 512 + over)).ttft_s for over in (0, 512))
    gathers_s = rules_of(asked(prompt)).gathers_ms * 1e-3
    simulated = simulate(asked(prompt), Requests.of([0.0], prompt, 2)).first_token_s[0] - gathers_s
    found = predict_inference(asked(prompt)).ttft_s
    assert fewer < found < more
    assert found == pytest.approx(simulated, rel=2e-5)


@pytest.mark.parametrize("prompt", [513, 1500, 9216, 20_000])
@pytest.mark.parametrize("model", ["llama-3.1-8b", "gemma-3-12b"])
def test_a_prompt_of_llama_cpp_is_the_sum_of_its_passes(model: str, prompt: int) -> None:
    """Each of them at its depth, visited one by one."""
    asked = build_scenario(
        InferenceInputs(
            model=model,
            gpu="rtx-4090",
            system="llama_cpp",
            weight_format="q4_k_m",
            prompt_len=prompt,
            gen_len=2,
        )
    )
    system = system_of(asked)
    forward = Forward(asked, system.constants(asked))
    found = system.evaluate(asked, Load.of(asked.workload)).prefill.parts_s
    costs = Costs()
    for start in range(0, prompt, 512):
        costs.add(forward.prefill(1, min(512, prompt - start), start, with_head=False), 1.0)
    forward.head_of(costs, 1)  # with the MLP of the last layer
    for part in ("attention", "attention_projections", "mlp", "lm_head"):
        assert found[part] == pytest.approx(costs.parts_s[part], rel=5e-5)


@pytest.mark.parametrize("batch", [2, 7])
def test_prompts_longer_than_a_step_are_read_one_after_the_other(batch: int) -> None:
    questions = [
        scenario("qwen3-30b-a3b", prompt_len=20_000, gen_len=2, batch_size=size) for size in (1, batch)
    ]
    one, several = map(predict_inference, questions)
    once_s = prefill_overhead_s(Forward(questions[0], system_of(questions[0]).constants(questions[0])))
    # Beside what the host does once per prefill, only the head of all of them does not grow in proportion.
    assert several.ttft_s - once_s == pytest.approx(batch * (one.ttft_s - once_s), rel=0.005)


# -- any load -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("system", STACKS)
@given(
    rate=st.floats(0.5, 300),
    longest=st.integers(2, 3000),
    most=st.integers(1, 400),
    utilization=st.sampled_from([0.9, 0.28, 0.265]),
    seed=st.integers(0, 9),
)
@settings(max_examples=12, deadline=None)
def test_what_goes_in_comes_out(
    system: str, rate: float, longest: int, most: int, utilization: float, seed: int
) -> None:
    share = utilization if system.startswith("vllm") else None
    asked = scenario(system=system, gpu_memory_utilization=share)
    requests = poisson(200, rate, (1, longest), (1, most), seed)
    found = simulate(asked, requests)
    done, steps = found.status == COMPLETED, found.steps
    assert (done | (found.status == REJECTED)).all()
    assert (found.arrival_s[done] <= found.scheduled_s[done]).all()
    assert (found.scheduled_s[done] < found.first_token_s[done]).all()
    several = done & (requests.output_tokens > 1)
    assert (found.first_token_s[several] < found.finished_s[several]).all()
    # Every token once: decode steps give all but those that end a prompt.
    written, again = requests.output_tokens[done].sum(), found.preemptions.sum()
    assert written - done.sum() - again <= tokens_emitted(found) <= written - done.sum()
    if not again:
        assert tokens_emitted(found) == (requests.output_tokens[done] - 1).sum()
        assert steps.prefill_tokens.sum() == (requests.prompt_tokens - found.cached_tokens)[done].sum()
    assert (steps.kv_tokens <= found.kv_capacity_tokens).all()
    # Nobody waits less than an idle engine takes.
    alone = simulate(asked, Requests.of(np.arange(200) * 10.0, requests.prompt_tokens, 1))
    ttft, idle = found.first_token_s - found.arrival_s, alone.first_token_s - alone.arrival_s
    assert (ttft[done] >= idle[done] * (1 - 1e-9)).all()
    # Steps follow one another.
    ends = steps.start_s + steps.duration_s
    assert (steps.start_s[1:] >= ends[:-1] * (1 - 1e-12)).all()


@pytest.mark.parametrize("system", STACKS)
def test_littles_law(system: str) -> None:
    """Requests in the system, over time, are the rate times how long each is in it."""
    found = simulate(scenario(system=system), poisson(3000, 12.0, (100, 900), (10, 300)))
    horizon = found.finished_s.max() - found.arrival_s.min()
    inside = (found.finished_s - found.arrival_s).sum() / horizon
    steps = found.steps
    # What the timeline says is in the system: decoding and reading sequences, and those that wait, step by step.
    events = np.concatenate([found.arrival_s, found.finished_s])
    changes = np.concatenate([np.ones(3000), -np.ones(3000)])
    order = np.argsort(events, kind="stable")
    count = np.cumsum(changes[order])
    over_time = (count[:-1] * np.diff(events[order])).sum() / horizon
    assert inside == pytest.approx(over_time, rel=1e-9)
    decoding = (steps.decode_sequences * steps.duration_s).sum()
    spent = (found.finished_s - found.first_token_s - found.held_s).sum()
    assert decoding <= spent * (1 + 1e-9)
    if system.startswith("vllm@0.19"):  # nothing comes between the steps of a sequence that decodes
        assert decoding == pytest.approx(spent, rel=1e-9)


@pytest.mark.parametrize("system", STACKS)
def test_the_same_twice(system: str) -> None:
    first, second = (
        simulate(scenario(system=system), poisson(300, 30.0, (1, 900), (1, 90))) for _ in range(2)
    )
    for name in ("first_token_s", "finished_s", "preemptions", "cached_tokens"):
        assert getattr(first, name).tobytes() == getattr(second, name).tobytes()


@pytest.mark.parametrize("system", ["vllm@0.19", "sglang@0.5", "lmdeploy", "deepspeed_mii"])
@pytest.mark.parametrize("stages", [1, 2])
def test_other_chunks_give_the_same_tokens(system: str, stages: int) -> None:
    if stages > 1 and system in ("lmdeploy", "deepspeed_mii"):
        system = "vllm@0.9"
    requests = poisson(300, 8.0, (1, 6000), (1, 200))
    small, large = (
        simulate(scenario(system=system, max_num_batched_tokens=tokens, pp_size=stages), requests)
        for tokens in (1024, 8192)
    )
    for found in (small, large):
        assert (found.status == COMPLETED).all()
        assert tokens_emitted(found) == (requests.output_tokens - 1).sum()
        assert found.steps.prefill_tokens.sum() == requests.prompt_tokens.sum()
    assert small.steps.prefill_tokens.max() <= 1024 < large.steps.prefill_tokens.max()


@pytest.mark.parametrize("system", ["vllm@0.19", "vllm@0.6", "tensorrt_llm@1.0"])
def test_more_sequences_at_once_serve_more(system: str) -> None:
    """Saturated throughput grows with max_num_seqs until memory binds."""
    rates = []
    for most in (1, 4, 16, 64, 256):
        found = simulate(scenario(system=system, max_num_seqs=most), Requests.of(np.zeros(512), 300, 100))
        rates.append(51_200 / found.finished_s.max())
    assert rates == sorted(rates)


def test_a_request_that_the_cache_cannot_hold_is_rejected_and_counted() -> None:
    asked = scenario("llama-3.1-8b", gpu_memory_utilization=0.27)
    found = simulate(asked, Requests.of([0.0, 1.0, 2.0], [100, 100_000, 100], 10))
    assert found.kv_capacity_tokens < 100_000
    assert found.status.tolist() == [COMPLETED, REJECTED, COMPLETED]
    assert np.isnan(found.finished_s[1])
    assert "1 of 3 requests" in found.rejections


def test_preempted_requests_are_computed_anew_and_end_with_all_their_tokens() -> None:
    asked = scenario(gpu_memory_utilization=0.27)
    found = simulate(asked, Requests.of(np.zeros(64), 500, 1500))
    again = int(found.preemptions.sum())
    assert again > 0
    assert (found.status == COMPLETED).all()
    # Each start gives one token at the end of its prefill; decode steps give the others.
    assert tokens_emitted(found) + 64 + again == 64 * 1500
    assert found.steps.prefill_tokens.sum() > 64 * 500


# -- the prefix cache -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("system", ["vllm@0.19", "sglang@0.5"])
@given(rate=st.floats(1, 60), shared=st.integers(0, 1500), seed=st.integers(0, 5))
@settings(max_examples=15, deadline=None)
def test_a_prefix_that_is_found_again_slows_nobody_down(
    system: str, rate: float, shared: int, seed: int
) -> None:
    plain = poisson(150, rate, 1600, 60, seed)
    same = replace(plain, prefix_id=np.zeros(150, np.int64), prefix_tokens=np.full(150, shared, np.int64))
    without, found = (simulate(scenario(system=system), one) for one in (plain, same))
    # Steps begin at other times, so an end may fall into the step after.
    step_s = found.steps.duration_s[found.steps.prefill_tokens > 0].max()
    assert found.first_token_s.mean() <= without.first_token_s.mean() + step_s
    assert found.finished_s.max() <= without.finished_s.max() + step_s
    idle = [replace(one, arrival_s=np.arange(150) * 50.0) for one in (plain, same)]
    alone, hit = (simulate(scenario(system=system), one) for one in idle)
    assert (hit.first_token_s <= alone.first_token_s).all()
    assert (hit.finished_s <= alone.finished_s + 1e-9).all()
    assert (found.cached_tokens <= shared).all()
    if shared >= 16:
        assert found.cached_tokens[1:].min() == shared // 16 * 16 if system.startswith("vllm") else True


def test_a_sessions_later_turns_find_its_earlier_ones() -> None:
    requests = Requests.of(
        [0.0, 0.0, 0.0], [1000, 1300, 1700], [200, 300, 10], previous=[-1, 0, 1], think_s=[0.0, 2.0, 3.0]
    )
    found = simulate(scenario(), requests)
    assert found.arrival_s[1] == found.finished_s[0] + 2.0
    assert found.cached_tokens.tolist() == [0, 1199 // 16 * 16, 1599 // 16 * 16]


def test_blocks_of_long_ago_are_given_to_others() -> None:
    """A cache of few blocks forgets a prefix once other requests have needed them."""
    asked = scenario(gpu_memory_utilization=0.27)
    held = simulate(asked, Requests.of([0.0], 10, 1)).kv_capacity_tokens
    count = held // 900 + 5
    prefix = np.full(count, -1)
    prefix[[0, -1]] = 3
    requests = Requests.of(
        np.arange(count) * 100.0, 1000, 2, prefix_id=prefix, prefix_tokens=np.where(prefix >= 0, 800, 0)
    )
    assert simulate(asked, requests).cached_tokens[-1] == 0
    assert simulate(scenario(), requests).cached_tokens[-1] == 800


# -- replicas ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("routing", ["round-robin", "least-loaded", "prefix-aware"])
@pytest.mark.parametrize("concurrency", [None, 40])
def test_replicas_share_the_load(routing: str, concurrency: int | None) -> None:
    requests = poisson(400, 60.0, (10, 2000), (10, 300))
    if concurrency:
        requests = replace(requests, arrival_s=np.zeros(400), concurrency=concurrency)
    one, four = (simulate(scenario(), requests, replicas=count, routing=routing) for count in (1, 4))
    assert set(four.replica.tolist()) == {0, 1, 2, 3}
    assert (four.status == COMPLETED).all()
    assert (four.finished_s - four.arrival_s).mean() < (one.finished_s - one.arrival_s).mean()
    if concurrency:
        events = np.concatenate([four.arrival_s, four.finished_s])
        changes = np.concatenate([np.ones(400), -np.ones(400)])
        # At one time, ends come first.
        assert np.cumsum(changes[np.lexsort((changes, events))]).max() <= concurrency


def test_round_robin_is_as_many_engines_alone() -> None:
    requests = poisson(300, 40.0, (10, 900), (10, 100))
    both = simulate(scenario(), requests, replicas=2)
    for replica in (0, 1):
        part = Requests.of(
            requests.arrival_s[replica::2],
            requests.prompt_tokens[replica::2],
            requests.output_tokens[replica::2],
        )
        np.testing.assert_array_equal(simulate(scenario(), part).finished_s, both.finished_s[replica::2])


# -- replicas that share their experts -------------------------------------------------------------------------------


def shared_experts(**more: Any) -> Scenario:
    asked = {
        "model": "mixtral-8x7b",
        "gpu": "h100-sxm",
        "system": "vllm@0.19",
        "dp_size": 4,
        "ep_size": 4,
        **more,
    }
    return build_scenario(InferenceInputs(**asked))


def test_a_request_on_each_replica_that_shares_experts_takes_what_infer_says() -> None:
    asked = shared_experts(batch_size=4, prompt_len=600, gen_len=80)
    one = predict_inference(asked)
    found = simulate(asked, Requests.of(np.zeros(12), 600, 80, concurrency=4))
    np.testing.assert_allclose(found.first_token_s - found.arrival_s, one.ttft_s, rtol=1e-9)
    np.testing.assert_allclose((found.finished_s - found.first_token_s) / 79, one.tpot_s, rtol=1e-9)


def test_a_prompt_on_one_replica_holds_up_the_others() -> None:
    asked = shared_experts(batch_size=4)
    alone = simulate(asked, Requests.of([0.0], 100, 400))
    both = simulate(asked, Requests.of([0.0, 1.0], [100, 8000], [400, 1]))
    assert both.replica[0] != both.replica[1]
    assert both.finished_s[0] > alone.finished_s[0] + 0.05
    steps = both.steps
    rows = [steps.start_s[steps.replica == replica] for replica in both.replica]
    assert set(rows[1]) <= set(rows[0])  # the prompt's step is a step of the other as well


def test_what_goes_into_replicas_that_share_experts_comes_out() -> None:
    requests = poisson(300, 30.0, (1, 3000), (1, 200))
    found = simulate(shared_experts(batch_size=4), requests)
    assert (found.status == COMPLETED).all()
    assert tokens_emitted(found) == (requests.output_tokens - 1).sum()
    assert found.steps.prefill_tokens.sum() == requests.prompt_tokens.sum()


# -- speculation ----------------------------------------------------------------------------------------------------


def drafting(system: str, **more: Any) -> Scenario:
    return scenario(
        "llama-3.1-70b",
        system,
        tp_size=4,
        draft_model="llama-3.2-1b",
        token_acceptance=0.7,
        draft_tokens=4,
        **more,
    )


@pytest.mark.parametrize("system", ["vllm@0.19", "sglang@0.5", "tensorrt_llm@1.0"])
def test_with_a_draft_model_a_request_alone_takes_what_infer_says(system: str) -> None:
    asked = drafting(system, prompt_len=700, gen_len=300)
    one = predict_inference(asked)
    found = simulate(asked, Requests.of(np.zeros(3), 700, 300, concurrency=1))
    np.testing.assert_allclose(found.first_token_s - found.arrival_s, one.ttft_s, rtol=1e-9)
    np.testing.assert_allclose((found.finished_s - found.first_token_s) / 299, one.tpot_s, rtol=1e-9)


@pytest.mark.parametrize(
    "more",
    [
        {"model": "llama-3.1-8b", "draft_model": "eagle", "acceptance": ".7,.5,.3"},
        {"model": "deepseek-v3", "gpu": "h200", "tp_size": 8, "draft_model": "mtp", "acceptance": ".85"},
    ],
)
@pytest.mark.parametrize("system", ["vllm@0.19", "sglang@0.5", "tensorrt_llm@1.0"])
def test_with_a_draft_module_a_request_alone_takes_what_infer_says(system: str, more: dict[str, Any]) -> None:
    asked = build_scenario(
        InferenceInputs(**{"gpu": "h100-sxm", "system": system, "prompt_len": 700, "gen_len": 300, **more})
    )
    one = predict_inference(asked)
    found = simulate(asked, Requests.of(np.zeros(3), 700, 300, concurrency=1))
    np.testing.assert_allclose(found.first_token_s - found.arrival_s, one.ttft_s, rtol=1e-9)
    np.testing.assert_allclose((found.finished_s - found.first_token_s) / 299, one.tpot_s, rtol=1e-9)


@pytest.mark.parametrize("system", ["vllm@0.19", "sglang@0.5"])
@given(rate=st.floats(0.5, 12), seed=st.integers(0, 5))
@settings(max_examples=8, deadline=None)
def test_with_a_draft_model_every_token_is_counted_once(system: str, rate: float, seed: int) -> None:
    requests = poisson(150, rate, (1, 2000), (1, 300), seed)
    found = simulate(drafting(system), requests)
    assert (found.status == COMPLETED).all()
    assert tokens_emitted(found) == (requests.output_tokens - 1).sum()
    plain = simulate(scenario("llama-3.1-70b", system, tp_size=4), requests)
    if rate < 3:
        assert (found.finished_s - found.first_token_s).sum() < (plain.finished_s - plain.first_token_s).sum()
