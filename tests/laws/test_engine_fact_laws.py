"""Laws of what engines do beside their products: answers that are not sent, pools of the cache, routing, norms over ranks."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from llm_perf.analysis.request import InferenceInputs, build_scenario
from llm_perf.analysis.simulation import ServiceInputs
from llm_perf.config.layers.experts import MoEMLP
from llm_perf.config.layers.latent_attention import LatentAttention
from llm_perf.config.scenario import Scenario
from llm_perf.counts.attention import state_bytes
from llm_perf.errors import LLMPerfError
from llm_perf.requests.limits import Limits
from llm_perf.requests.simulate import rules_of, simulate
from llm_perf.requests.step_times import StepTimes
from llm_perf.requests.workload import Requests
from llm_perf.systems.attention import Chunk
from llm_perf.systems.base import Load
from llm_perf.systems.costs import Costs
from llm_perf.systems.exchanges import Exchanges
from llm_perf.systems.footprint import stage_kv_bytes
from llm_perf.systems.format_kernels import has_router_kernel
from llm_perf.systems.forward import Forward
from llm_perf.systems.kv_cache import kv_capacity_of
from llm_perf.systems.mixed_steps import step_s as mixed_step_s
from llm_perf.systems.registry import system_of
from llm_perf.systems.stack_memory import budget_for


def scenario(model: str, gpu: str = "h200-sxm-141gb", system: str = "sglang@0.5", **more: Any) -> Scenario:
    return build_scenario(InferenceInputs(model=model, gpu=gpu, system=system, **more))


def step_s(asked: Scenario, **constants: float) -> float:
    changed = asked.replace(constants=tuple(sorted(constants.items())))
    return float(Forward(changed, system_of(changed).constants(changed)).decode_step(4)[0].total_s)


# -- a program in the engine's process --------------------------------------------------------------------------


def test_offline_is_a_server_that_takes_no_time() -> None:
    """Nothing else changes: the same requests through an engine whose server and whose messages cost nothing."""
    asked = scenario("llama-3.1-8b", system="vllm@0.15")
    load = Requests.of(np.zeros(64), 256, 128, concurrency=16)
    paid = (("server_ms", 20.0), ("stream_us", 500.0))
    free = (("server_ms", 0.0), ("stream_us", 0.0))
    offline = simulate(asked.replace(constants=paid), load, settings={"offline": True})
    without = simulate(asked.replace(constants=free), load)
    served = simulate(asked.replace(constants=paid), load)
    assert np.array_equal(offline.finished_s, without.finished_s)
    assert (offline.finished_s < served.finished_s).all()


@pytest.mark.parametrize("system", ["vllm@0.15", "sglang@0.5", "tensorrt_llm@1.2"])
def test_an_offline_engine_is_never_slower(system: str) -> None:
    asked = scenario("llama-3.1-8b", system=system)
    load = Requests.of(np.zeros(512), 128, 256)
    offline, served = (simulate(asked, load, settings={"offline": flag}) for flag in (True, False))
    assert offline.finished_s.max() <= served.finished_s.max() * (1 + 1e-9)


# -- pools of the cache -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("share", [0.0, 0.3, 0.8, 1.0])
def test_windows_keep_their_share_of_all_tokens_and_never_less_than_the_window(share: float) -> None:
    asked = scenario("gpt-oss-20b")
    whole = asked.replace(model=asked.model.without_windows())
    for context in (64.0, 1000.0, 30_000.0):
        own, all_kept = stage_kv_bytes(asked, 1.0, context), stage_kv_bytes(whole, 1.0, context)
        kept = stage_kv_bytes(asked, 1.0, context, window_share=share)
        assert own * (1 - 1e-12) <= kept <= all_kept * (1 + 1e-12)
        half = all_kept / 2  # every other layer has a window
        assert kept == pytest.approx(half + max(own - half, share * half))


def test_an_engine_that_keeps_windows_whole_holds_the_tokens_of_a_model_without_them() -> None:
    """TensorRT-LLM 1.x; its kernels still read the window alone."""
    asked = scenario("gpt-oss-20b", system="tensorrt_llm@1.2", prompt_len=8192, gen_len=1024)
    whole = asked.replace(model=asked.model.without_windows())
    held, without = kv_capacity_of(asked), kv_capacity_of(whole)
    assert held is not None
    assert without is not None
    assert held.tokens == without.tokens
    load = Requests.of([0.0], 8192, 64)
    assert simulate(asked, load).finished_s[0] < simulate(whole, load).finished_s[0]


def test_recurrent_states_have_a_pool_of_their_own() -> None:
    """Places of all running sequences fit into their part of the room, and a sequence more does not."""
    asked = scenario("Qwen3.6-35B-A3B", prompt_len=8192, gen_len=1024)
    held = kv_capacity_of(asked)
    assert held is not None
    limits = Limits.of(asked, rules_of(asked), 9216)
    assert limits.max_sequences == int(held.max_states)
    system = system_of(asked)
    budget = budget_for(asked)
    assert budget is not None
    rules = budget.rules
    load = Load.of(asked.workload)
    room = system.memory(asked, load, system.place(asked, load)).gpu.kv_room_bytes
    each = rules.state_places(asked.gpu) * float(state_bytes(asked.model, 1.0, asked.dtype.state_bits))
    assert limits.max_sequences * each <= room * rules.state_share
    assert (limits.max_sequences + 2) * each > room * rules.state_share * 0.99


@pytest.mark.parametrize(
    ("gpu", "version", "places"),
    [
        ("h200-sxm-141gb", "0.5.9", 3),
        ("h200-sxm-141gb", "0.5.15", 5),
        ("h200-sxm-141gb", "0.5", 5),
        ("h200-sxm-141gb", None, 5),
        ("mi300x-192gb", "0.5.9", 3),
        ("mi300x-192gb", "0.5.16", 3),
    ],
)
def test_states_at_ends_of_chunks_have_places_where_there_are_kernels_for_them(
    gpu: str, version: str | None, places: int
) -> None:
    """SGLang from 0.5.15 on, by CUDA's kernels: fewer sequences run at once, in the ratio of the places."""
    system = "sglang" if version is None else f"sglang@{version}"
    asked = scenario("Qwen3.6-35B-A3B", gpu=gpu, system=system, prompt_len=8192, gen_len=1024)
    before = scenario("Qwen3.6-35B-A3B", gpu=gpu, system="sglang@0.5.9", prompt_len=8192, gen_len=1024)
    held, then, budget = kv_capacity_of(asked), kv_capacity_of(before), budget_for(asked)
    assert held is not None
    assert then is not None
    assert budget is not None
    assert budget.rules.state_places(asked.gpu) == places
    assert held.max_states * places == pytest.approx(then.max_states * 3)
    assert held.tokens == then.tokens


# -- attention over picked tokens -------------------------------------------------------------------------------


def forward_of(tp: int, gpu: str, system: str, dp: int = 1, **constants: float) -> Forward:
    asked = scenario(
        "DeepSeek-V3.2", gpu=gpu, system=system, num_gpus=tp * dp, tp_size=tp, dp_size=dp, prompt_len=4096
    )
    return Forward(asked, system_of(asked).constants(asked) | constants)


def prompt_attention_s(forward: Forward, new: float, before: float = 0.0) -> float:
    """Without the kernels' floors, so that it is what is computed and read."""
    costs = Costs()
    for group in forward.model.layer_groups:
        for part in group.attention.parts:
            if isinstance(part, LatentAttention):
                forward.attention.prefill(costs, part, group.count, (Chunk(1.0, new, before),))
    return float(costs.total_s) - forward.model.num_layers * forward.rates.attention_floor_s


@pytest.mark.parametrize(("gpu", "least_heads"), [("h200-sxm-141gb", 64), ("b200-180gb", 128)])
def test_ranks_with_fewer_heads_than_a_tile_take_as_long_as_with_a_tile(gpu: str, least_heads: int) -> None:
    """FlashMLA's sparse kernel: 128 heads over so many ranks are padded to 64, on Blackwell to 128."""
    few = {"gathered_few_heads": 0.0}
    times = {tp: prompt_attention_s(forward_of(tp, gpu, "vllm@0.15", **few), 4096.0) for tp in (1, 2, 4, 8)}
    for tp, seconds in times.items():
        assert seconds == pytest.approx(times[1] * max(1 / tp, least_heads / 128), rel=0.02)
    unpadded = prompt_attention_s(forward_of(8, gpu, "vllm@0.15", gathered_few_heads=16.0), 4096.0)
    assert unpadded < times[8] if gpu.startswith("b200") else unpadded == pytest.approx(times[8])


def test_a_query_takes_as_long_whatever_came_before_it_where_all_places_are_computed() -> None:
    """Half of a prompt takes half as long, which attention over all tokens before does not."""
    forward = forward_of(8, "h200-sxm-141gb", "vllm@0.12")
    whole, half = prompt_attention_s(forward, 4096.0), prompt_attention_s(forward, 2048.0)
    assert prompt_attention_s(forward, 2048.0, 2048.0) == pytest.approx(half, rel=0.02)
    assert whole == pytest.approx(2 * half, rel=0.02)


def test_prompts_of_fewer_tokens_than_are_picked_are_read_by_plain_kernels_where_an_engine_has_them() -> None:
    plain = forward_of(8, "h200-sxm-141gb", "sglang@0.5")
    dense = forward_of(8, "h200-sxm-141gb", "sglang@0.5", gathered_heads=0.0)
    assert prompt_attention_s(plain, 2048.0) == prompt_attention_s(dense, 2048.0)
    assert prompt_attention_s(plain, 2049.0) > 2 * prompt_attention_s(dense, 2049.0)


@pytest.mark.parametrize("chunk", [(512, 0), (512, 1536), (512, 4096), (4096, 0)])
@pytest.mark.parametrize("system", ["vllm@0.12", "sglang@0.5"])
def test_tables_of_steps_know_picked_tokens_as_the_pass_does(chunk: tuple[int, int], system: str) -> None:
    forward = forward_of(8, "h200-sxm-141gb", system)
    times = StepTimes(forward, 8, 8192)
    plain = StepTimes(forward_of(8, "h200-sxm-141gb", system, gathered_heads=0.0), 8, 8192)
    of_pass = float(mixed_step_s(forward, [Chunk(1.0, *map(float, chunk))], 0, 0.0, 1))
    assert times.mixed_s([chunk], 0, 0.0, 1) == pytest.approx(of_pass)
    one, new, before = np.ones(1), *(np.full(1, float(tokens)) for tokens in chunk)
    assert times.mean_mixed_s(one, new, before, 0 * one, 0 * one)[0] == pytest.approx(of_pass)
    assert (times.mixed_s([chunk], 0, 0.0, 1) > plain.mixed_s([chunk], 0, 0.0, 1)) == (
        system.startswith("vllm") or sum(chunk) > 2048
    )


@pytest.mark.parametrize(("system", "pads"), [("vllm@0.12", True), ("sglang@0.5", False)])
def test_decode_steps_pad_heads_where_the_engine_runs_the_same_kernel(system: str, pads: bool) -> None:
    gpu = "h20-sxm-141gb"  # its arithmetic is slow beside its memory, so that a padded head is seen
    own = forward_of(8, gpu, system).decode_step(64)
    bare = forward_of(8, gpu, system, gathered_decode_pads=0.0).decode_step(64)
    longer = sum(one.per_token_s for one in own[1]) > sum(one.per_token_s for one in bare[1])
    assert longer is pads


def test_models_without_states_or_windows_know_no_such_pools() -> None:
    held = kv_capacity_of(scenario("llama-3.1-8b"))
    assert held is not None
    assert held.max_states == float("inf")


# -- routing ----------------------------------------------------------------------------------------------------


def router(experts: int, groups: int | None, bias: bool = True) -> MoEMLP:
    return MoEMLP(num_experts=experts, top_k=8, ffn_size=512, router_bias=bias, router_groups=groups)


@pytest.mark.parametrize(
    ("experts", "groups", "bias", "kernel"),
    [
        (256, 8, True, True),
        (256, 1, True, False),
        (160, 1, True, False),
        (160, 8, True, False),
        (32, 1, True, True),
        (384, 1, True, True),
        (256, None, True, True),
        (256, 1, False, True),
    ],
)
def test_one_kernel_routes_to_small_groups_of_a_power_of_two(
    experts: int, groups: int | None, bias: bool, kernel: bool
) -> None:
    assert has_router_kernel(router(experts, groups, bias), own=384.0) is kernel


def test_groups_divide_the_experts() -> None:
    with pytest.raises(ValueError, match="do not divide"):
        router(160, 3)


@pytest.mark.parametrize(("model", "mixtures"), [("GLM-4.6", 89), ("qwen3-235b-a22b", 0), ("deepseek-r1", 0)])
def test_routing_without_a_kernel_takes_its_time_once_per_mixture(model: str, mixtures: int) -> None:
    asked = scenario(model, tp_size=8)
    more, none = (step_s(asked, ungrouped_router_us=us) for us in (50.0, 0.0))
    assert more - none == pytest.approx(mixtures * 50e-6, abs=1e-12)


def test_a_module_of_block_scaled_experts_routes_by_groups_or_by_plain_scores() -> None:
    """MiniMax-M2's biased scores without groups are not trtllm-gen's; DeepSeek's groups are."""
    for model, own in (("deepseek-r1", True), ("MiniMax-M2", False)):
        asked = scenario(model, gpu="b200-180gb", tp_size=8)
        slow, quick = (step_s(asked, moe_us=us, fused_block_experts=1.0) for us in (80.0, 20.0))
        assert (slow == quick) is own


# -- norms over all heads ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "sums"),
    [("MiniMax-M2", 62), ("OLMo-2-1124-13B-Instruct", 40), ("qwen3-32b", 0), ("llama-3.1-8b", 0)],
)
def test_norms_over_all_heads_are_a_sum_over_ranks_in_each_layer(model: str, sums: int) -> None:
    def taken(tp: int) -> float:
        asked = scenario(model, tp_size=tp)
        constants = system_of(asked).constants(asked)
        costs = Costs()
        for group in asked.model.layer_groups:
            Exchanges(asked, constants).of_wide_norms(costs, group, 4.0)
        return float(costs.total_s)

    assert taken(1) == 0
    assert taken(4) >= sums * 2e-6  # no collective is quicker than a kernel
    assert (taken(4) > 0) is (sums > 0)


def test_offline_goes_with_no_message_and_no_second_pool() -> None:
    for more in ({"stream_interval": 4}, {"prefill_replicas": 1}):
        with pytest.raises((LLMPerfError, ValueError), match="offline"):
            ServiceInputs(rate=1.0, offline=True, **more)
    assert ServiceInputs(rate=1.0, stream_interval=4).settings == {"stream_interval": 4}
    assert ServiceInputs(rate=1.0).settings == {}
