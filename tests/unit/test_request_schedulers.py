"""What each engine's rule of scheduling does, on loads that show it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from llm_perf.analysis.inference import predict_inference
from llm_perf.analysis.request import InferenceInputs, build_scenario
from llm_perf.config.scenario import Scenario
from llm_perf.errors import DoesNotFitError, SpecError
from llm_perf.requests.outcome import COMPLETED, REJECTED, Outcome
from llm_perf.requests.simulate import MOST_ENGINES, check_engines, simulate
from llm_perf.requests.workload import Requests
from llm_perf.systems.families import families, scheduler_rules


def scenario(system: str = "vllm@0.19", **more: Any) -> Scenario:
    return build_scenario(
        InferenceInputs(**{"model": "llama-3.1-8b", "gpu": "h100-sxm", "system": system, **more})
    )


def mixed(found: Outcome) -> Any:
    """Rows in which prompts are read and sequences decode."""
    return (found.steps.prefill_tokens > 0) & (found.steps.decode_sequences > 0)


def busy() -> Requests:
    rng = np.random.default_rng(0)
    return Requests.of(
        np.cumsum(rng.exponential(1 / 25, 300)), rng.integers(1, 2000, 300), rng.integers(2, 200, 300)
    )


@pytest.mark.parametrize(
    ("system", "name"),
    [
        ("vllm@0.19", "vLLM V1"),
        ("vllm@0.10", "vLLM V1"),
        ("vllm@0.7", "vLLM V0"),
        ("vllm@0.2", "vLLM V0"),
        ("sglang", "SGLang"),
        ("tensorrt_llm", "GUARANTEED_NO_EVICT"),
        ("lmdeploy", "TurboMind"),
        ("deepspeed_mii", "Dynamic SplitFuse"),
        ("transformers", "static batches"),
        ("llama_cpp", "llama-server slots"),
    ],
)
def test_a_version_has_the_scheduler_of_its_time(system: str, name: str) -> None:
    assert simulate(scenario(system), Requests.of([0.0], 10, 10)).scheduler == name


def test_every_rule_says_where_it_is_from_and_is_found_by_name() -> None:
    ruled = [family for family in families() if family.scheduling]
    assert len(ruled) >= 9
    for family in ruled:
        for rule in family.scheduling:
            assert len(rule.source) > 30
        newest = scheduler_rules(family.name, None)
        assert newest is not None
        assert scheduler_rules(family.name, None, newest.name) == newest


def test_vllm_v1_reads_prompts_beside_decodes_within_a_step_s_tokens() -> None:
    found = simulate(scenario(max_num_batched_tokens=512, max_num_seqs=40), busy())
    steps = found.steps
    assert mixed(found).any()
    assert (steps.prefill_tokens + steps.decode_sequences).max() == 512
    assert steps.decode_sequences.max() == 40


def test_vllm_v0_and_sglang_read_prompts_alone() -> None:
    for system in ("vllm@0.6", "sglang@0.5"):
        found = simulate(scenario(system), busy())
        assert not mixed(found).any()
        assert (found.status == COMPLETED).all()


def test_vllm_v0_reads_whole_prompts_and_sglang_chunks() -> None:
    requests = Requests.of([0.0], 20_000, 2)
    assert simulate(scenario("vllm@0.6"), requests).steps.prefill_tokens[0] == 20_000
    assert simulate(scenario("sglang@0.5"), requests).steps.prefill_tokens[:3].tolist() == [8192, 8192, 3616]


def test_a_prompt_holds_up_v0_s_decoding_and_v1_s_less() -> None:
    """While a long prompt is read, V0's running sequences stand still; V1's get a token with each chunk."""
    requests = Requests.of([0.0, 0.5], [100, 30_000], [400, 1])
    longest = {}
    for system in ("vllm@0.6", "vllm@0.10"):
        asked = scenario(system, max_num_batched_tokens=None if system == "vllm@0.6" else 2048)
        found = simulate(asked, requests)
        reading = found.steps.prefill_tokens > 100
        longest[system] = found.steps.duration_s[reading].max()
    assert longest["vllm@0.10"] < longest["vllm@0.6"] / 4


def test_scheduled_ahead_an_arrival_waits_for_the_step_that_is_on_its_way() -> None:
    requests = Requests.of([0.0, 1.0], [100, 500], [600, 10])
    now, ahead = (simulate(scenario(system), requests) for system in ("vllm@0.10", "vllm@0.15"))
    for found, steps in ((now, 1), (ahead, 2)):
        rows = found.steps
        reads = rows.start_s[rows.prefill_tokens == 500][0]
        frontend = found.first_token_s[0] - rows.duration_s[0]
        gap = (rows.duration_s / rows.count)[1]
        assert (steps - 1) * gap < reads - 1.0 - frontend <= steps * gap * 1.01
    alone = simulate(scenario("vllm@0.15"), Requests.of([0.0], 500, 10))
    assert alone.first_token_s[0] < ahead.first_token_s[1] - 1.0


def test_guaranteed_no_evict_reserves_and_max_utilization_pauses() -> None:
    asked = scenario("tensorrt_llm@1.0", gpu_memory_utilization=0.05)
    requests = Requests.of(np.zeros(100), 100, 1000)
    kept = simulate(asked, requests)
    used = simulate(asked, requests, scheduler="max_utilization")
    assert kept.preemptions.sum() == 0
    assert used.preemptions.sum() > 0
    assert used.steps.decode_sequences.max() > kept.steps.decode_sequences.max()
    held = 1099 // 64 + 1  # blocks of one request
    assert kept.steps.decode_sequences.max() == kept.kv_capacity_tokens // 64 // held
    for found in (kept, used):
        assert (found.status == COMPLETED).all()
        assert (found.steps.kv_tokens <= found.kv_capacity_tokens).all()


def test_sglang_retracts_the_least_generated() -> None:
    asked = scenario("sglang@0.5", gpu_memory_utilization=0.26)
    count = 60
    # All but the last ten are there from the beginning; these have generated least when the cache is full.
    arrival = np.where(np.arange(count) < 50, 0.0, 0.3)
    found = simulate(asked, Requests.of(arrival, 300, 2500))
    again = np.flatnonzero(found.preemptions)
    assert len(again)
    assert (found.status == COMPLETED).all()
    assert again.min() >= 50 or len(again) > 10
    first = simulate(asked, Requests.of(arrival[:50], 300, 2500))
    assert first.preemptions.sum() < found.preemptions.sum()


def test_vllm_preempts_the_last() -> None:
    found = simulate(scenario(gpu_memory_utilization=0.27), Requests.of(np.arange(40) * 0.02, 500, 1500))
    again = np.flatnonzero(found.preemptions)
    assert len(again)
    assert again.tolist() == list(range(again[0], 40))  # those that came first stay
    assert again[0] > 10


def test_the_newest_vllm_admits_a_request_only_if_its_whole_prompt_has_room() -> None:
    """With chunks of 512 tokens the older rule takes in a prompt whose end does not fit, and must preempt it."""
    requests = Requests.of([0.0, 0.1], [20_000, 20_000], [600, 10])
    older, newer = (
        simulate(scenario(system, gpu_memory_utilization=0.26, max_num_batched_tokens=512), requests)
        for system in ("vllm@0.15", "vllm@0.19")
    )
    capacity = min(older.kv_capacity_tokens, newer.kv_capacity_tokens)
    assert capacity < 40_000
    assert older.scheduled_s[1] < older.finished_s[0]
    assert newer.first_token_s[1] > newer.finished_s[0]
    assert older.preemptions.sum() > newer.preemptions.sum() == 0


def test_static_batches_are_infer_s_and_end_together() -> None:
    asked = scenario("transformers", batch_size=8, prompt_len=300, gen_len=40)
    one = predict_inference(asked)
    found = simulate(asked, Requests.of(np.zeros(16), 300, 40))
    assert found.finished_s[:8] == pytest.approx(one.total_latency_s, rel=1e-9)
    assert found.first_token_s[:8] == pytest.approx(one.ttft_s, rel=1e-9)
    assert found.finished_s[8:] == pytest.approx(2 * one.total_latency_s, rel=1e-9)
    uneven = simulate(asked, Requests.of(np.zeros(8), [300] + [10] * 7, [2] * 7 + [40]))
    assert uneven.finished_s == pytest.approx(one.total_latency_s, rel=1e-9)


def test_llama_server_has_slots_with_a_part_of_the_cache_each() -> None:
    asked = {"system": "llama_cpp", "gpu": "rtx-4090", "weight_format": "q4_k_m"}
    one = predict_inference(scenario(**asked, prompt_len=512, gen_len=50))
    found = simulate(scenario(**asked), Requests.of([0.0], 512, 50))
    # An idle server waits a moment for others before its first step.
    waits = 1e-3
    assert found.first_token_s[0] == pytest.approx(one.ttft_s + waits, rel=1e-9)
    assert found.finished_s[0] == pytest.approx(one.total_latency_s + waits, rel=1e-9)
    assert simulate(scenario(**asked), busy()).steps.decode_sequences.max() == 4
    slots = scenario(**asked, max_num_seqs=8)
    part = simulate(slots, Requests.of([0.0], 1, 1)).kv_capacity_tokens // 8
    found = simulate(slots, Requests.of(np.zeros(20), [part // 2] * 19 + [part], 40))
    assert found.steps.decode_sequences.max() == 8
    assert found.status[-1] == REJECTED


def test_what_is_not_simulated_is_refused_in_one_line() -> None:
    requests = Requests.of([0.0], 10, 10)
    for asked, said in (
        (scenario("resident"), "resident has no scheduler"),
        (scenario("flexgen"), "flexgen has no scheduler"),
        (scenario("llama_cpp", pp_size=2), "pp_size 2: how llama_cpp"),
        (scenario(cp_size=2), "cp_size 2"),
        (scenario("llama_cpp", weight_format="q4_k_m", n_gpu_layers=4), "a part of them elsewhere"),
    ):
        with pytest.raises(SpecError, match=said) as error:
            simulate(asked, requests)
        assert "\n" not in str(error.value)
    with pytest.raises(SpecError, match="vllm has vLLM V1"):
        simulate(scenario(), requests, scheduler="fastest")
    with pytest.raises(SpecError, match="routing"):
        simulate(scenario(), requests, routing="random")
    for engines in ({"replicas": 10**12}, {"replicas": MOST_ENGINES + 1}):
        with pytest.raises(SpecError, match="at most 1,024 engines"):
            simulate(scenario(), requests, **engines)
    with pytest.raises(SpecError, match="replicas 2 x dp_size 1000: at most 1,024 engines"):
        check_engines({"replicas": 2, "dp_size": 1000})
    with pytest.raises(DoesNotFitError, match="no memory for a KV cache"):
        simulate(scenario(model="llama-3.1-70b"), requests)
