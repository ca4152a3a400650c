"""Laws of simulated requests on engines with pipeline stages, and where one process does everything."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llm_perf.analysis.inference import predict_inference
from llm_perf.requests.outcome import COMPLETED, REJECTED
from llm_perf.requests.simulate import simulate
from llm_perf.requests.workload import Requests
from llm_perf.systems.forward import Forward
from llm_perf.systems.host_time import prefill_overhead_s
from llm_perf.systems.registry import system_of
from tests.laws.test_request_laws import STACKS, poisson, scenario, tokens_emitted


@pytest.mark.parametrize("system", STACKS)
@pytest.mark.parametrize("stages", [2, 4])
def test_with_stages_a_request_alone_takes_what_infer_says(system: str, stages: int) -> None:
    """Latency is the sum of the stages."""
    asked = scenario(system=system, pp_size=stages, prompt_len=700, gen_len=300)
    one = predict_inference(asked)
    found = simulate(asked, Requests.of(np.zeros(4), 700, 300, concurrency=1))
    np.testing.assert_allclose(found.first_token_s - found.arrival_s, one.ttft_s, rtol=1e-9)
    np.testing.assert_allclose((found.finished_s - found.first_token_s) / 299, one.tpot_s, rtol=1e-9)


@pytest.mark.parametrize("system", ["vllm@0.19", "sglang@0.5"])
@pytest.mark.parametrize("model", ["llama-3.1-8b", "qwen3-30b-a3b"])
@pytest.mark.parametrize("stages", [2, 4])
def test_chunks_of_a_prompt_follow_one_another_through_the_stages(
    system: str, model: str, stages: int
) -> None:
    asked = scenario(model, system, pp_size=stages, prompt_len=20_000, gen_len=2, max_num_batched_tokens=2048)
    found = simulate(asked, Requests.of([0.0], 20_000, 2))
    assert found.steps.prefill_tokens.sum() == 20_000
    assert len(set(found.steps.replica[found.steps.prefill_tokens > 0].tolist())) > 1
    # infer takes the chunks as equally long.
    assert found.first_token_s[0] == pytest.approx(predict_inference(asked).ttft_s, rel=0.03)
    alone = scenario(model, system, prompt_len=20_000, gen_len=2, max_num_batched_tokens=2048)
    assert found.first_token_s[0] < 0.9 * simulate(alone, Requests.of([0.0], 20_000, 2)).first_token_s[0]


@pytest.mark.parametrize("system", STACKS)
@pytest.mark.parametrize("stages", [2, 4])
@pytest.mark.parametrize("batch", [2, 48])
def test_full_stages_decode_as_infer_s_micro_batches(system: str, stages: int, batch: int) -> None:
    """As many micro-batches as stages: a round takes as long as the slowest stage works on all of them, or one way."""
    count = stages * batch
    asked = scenario(
        system=system, pp_size=stages, micro_batches=stages, batch_size=count, prompt_len=16, gen_len=1500,
        max_num_batched_tokens=None if system.endswith(("1.0", "0.9")) else max(16 * batch, 1024),
    )  # fmt: skip
    one = predict_inference(asked)
    # Prompts of a micro-batch come together, those of the next when the first stage is free again.
    arrival = np.repeat(np.arange(stages) * 5e-3, batch)
    found = simulate(
        asked.replace(offload=asked.offload.replace(micro_batches=1)), Requests.of(arrival, 16, 1500)
    )
    assert np.median((found.finished_s - found.first_token_s) / 1499) == pytest.approx(one.tpot_s, rel=0.05)
    assert len(set(found.steps.replica.tolist())) == stages


@pytest.mark.parametrize("system", STACKS)
@given(
    stages=st.sampled_from([2, 4]),
    rate=st.floats(0.5, 300),
    longest=st.integers(2, 3000),
    most=st.integers(1, 400),
    small=st.booleans(),
    seed=st.integers(0, 9),
)
@settings(max_examples=12, deadline=None)
def test_what_goes_into_stages_comes_out(
    system: str, stages: int, rate: float, longest: int, most: int, small: bool, seed: int
) -> None:
    share = {2: 0.16, 4: 0.115}[stages] if small and system.startswith("vllm") else None
    asked = scenario(system=system, pp_size=stages, gpu_memory_utilization=share)
    requests = poisson(200, rate, (1, longest), (1, most), seed)
    found = simulate(asked, requests)
    done, again = found.status == COMPLETED, found.preemptions.sum()
    assert (done | (found.status == REJECTED)).all()
    assert (found.arrival_s[done] <= found.scheduled_s[done]).all()
    assert (found.scheduled_s[done] < found.first_token_s[done]).all()
    written = requests.output_tokens[done].sum() - done.sum()
    assert written - again <= tokens_emitted(found) <= written
    if not again:
        assert found.steps.prefill_tokens.sum() == (requests.prompt_tokens - found.cached_tokens)[done].sum()
    assert (found.steps.kv_tokens <= found.kv_capacity_tokens).all()
    assert set(found.replica[done].tolist()) == {0}


@pytest.mark.parametrize("system", ["vllm@0.19", "sglang@0.5", "tensorrt_llm@1.0"])
def test_stages_serve_at_most_as_much_as_their_slowest(system: str) -> None:
    """Stages hold more sequences, and at most so many times as much is served as by one that does all the work."""
    requests = Requests.of(np.zeros(2000), 300, 200)
    served = {
        stages: 2000
        / simulate(scenario(system=system, pp_size=stages, max_num_seqs=256), requests).finished_s.max()
        for stages in (1, 2, 4)
    }
    # A pass over a quarter of the sequences takes more than a quarter of the time.
    assert served[1] < served[2] < 2 * served[1]
    assert served[2] * 0.9 < served[4] < 4 * served[1]


def test_virtual_engines_have_a_part_of_the_cache_each() -> None:
    asked = scenario(system="vllm@0.6", pp_size=2, gpu_memory_utilization=0.16)
    whole = simulate(asked, Requests.of([0.0], 10, 1)).kv_capacity_tokens
    long = int(0.6 * whole)
    assert simulate(asked, Requests.of([0.0], long, 2)).status[0] == REJECTED
    newer = scenario(pp_size=2, gpu_memory_utilization=0.16)
    assert simulate(newer, Requests.of([0.0], long, 2)).status[0] == COMPLETED


@pytest.mark.parametrize("routing", ["round-robin", "least-loaded"])
def test_engines_with_stages_share_a_closed_loop(routing: str) -> None:
    requests = replace(poisson(300, 1.0, (10, 900), (10, 200)), arrival_s=np.zeros(300), concurrency=24)
    found = simulate(scenario(pp_size=2), requests, replicas=3, routing=routing)
    assert set(found.replica.tolist()) == {0, 1, 2}
    assert set(found.steps.replica.tolist()) == set(range(6))
    assert (found.status == COMPLETED).all()
    events = np.concatenate([found.arrival_s, found.finished_s])
    changes = np.concatenate([np.ones(300), -np.ones(300)])
    assert np.cumsum(changes[np.lexsort((changes, events))]).max() == 24


def test_in_one_process_a_prompt_holds_up_those_that_decode() -> None:
    """vLLM V0 prepares prompts where it decodes; V1 in a process of its own. Alone a request takes the same either way."""
    asked = scenario(system="vllm@0.6", prompt_len=200, gen_len=100)
    requests = Requests.of([0.0, 0.3], [200, 200], [100, 2])
    together, apart = (simulate(asked, requests, settings={"one_process": flag}) for flag in (True, False))
    once = prefill_overhead_s(Forward(asked, system_of(asked).constants(asked)))
    waits = (together.finished_s - together.first_token_s)[0] - (apart.finished_s - apart.first_token_s)[0]
    assert once > 5e-3
    assert waits == pytest.approx(once, rel=1e-3)
    assert together.first_token_s[0] == pytest.approx(apart.first_token_s[0], rel=1e-9)


@pytest.mark.parametrize("system", ["vllm@0.19", "sglang@0.5", "tensorrt_llm@1.0"])
def test_rounds_of_full_stages_are_taken_at_once_though_others_wait(system: str) -> None:
    """Who waits for a slot changes nothing before one is free: rows are those of requests, not of tokens."""
    asked = scenario(system=system, pp_size=4, max_num_seqs=4)
    found = simulate(asked, Requests.of(np.zeros(40), 100, 300))
    assert (found.status == COMPLETED).all()
    assert tokens_emitted(found) == 40 * 299
    assert len(found.steps.count) < 40 * 20
