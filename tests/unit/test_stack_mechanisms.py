"""What today's serving stacks do beside kernels: each mechanism by its closed form, and neutral where a stack has none."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from llm_perf.analysis.inference import predict_inference
from llm_perf.analysis.request import InferenceInputs, build_scenario
from llm_perf.analysis.run_facts import RunFacts
from llm_perf.config.host import HostTimeScale
from llm_perf.config.loading import get_host_config_by_name
from llm_perf.config.scenario import Scenario
from llm_perf.errors import SpecError
from llm_perf.hardware.collective import Fabric
from llm_perf.hardware.roofline import p_norm
from llm_perf.systems import Load, get_system, system_of
from llm_perf.systems.base import MemoryParts
from llm_perf.systems.decode_attention import attention_s_per_token, copies_s_per_token, kv_reads
from llm_perf.systems.families import family_names, folder_of
from llm_perf.systems.footprint import stage_kv_bytes
from llm_perf.systems.format_kernels import BLOCK_SCALED
from llm_perf.systems.forward import Forward
from llm_perf.systems.host_time import (
    exposed_host_s,
    host_s_by_regime,
    host_s_per_pass,
    overlap_exponent,
    step_overhead_s,
    stream_s,
)
from llm_perf.systems.resident import Resident
from llm_perf.systems.stack_memory import budget_for
from llm_perf.systems.waves import waves_of

ASKED: dict[str, Any] = {"model": "llama-2-70b", "gpu": "a100-sxm-80gb", "tp_size": 4, "batch_size": 8}


def scenario(
    constants: dict[str, float] | None = None, facts: RunFacts | None = None, **more: Any
) -> Scenario:
    facts = facts or RunFacts(constants=tuple((constants or {}).items()))
    return build_scenario(InferenceInputs(**(ASKED | more)), facts)


def forward(asked: Scenario) -> Forward:
    return Forward(asked, system_of(asked).constants(asked))


def times(asked: Scenario) -> tuple[float, float]:
    found = system_of(asked).evaluate(asked, Load.of(asked.workload))
    assert found.decode is not None
    return float(found.prefill.latency_s), float(found.decode.latency_s)


def test_host_times_scale_with_the_host_where_a_version_says_so() -> None:
    slow = get_host_config_by_name("dgx-a100").replace(
        host_time_scale=HostTimeScale(value=2.0, provenance="assumed", source="a test")
    )
    own = {"step_ms": 3.0, "sequence_us": 50.0, "step_tp_ms": 0.5, "host_scaled": 1.0}
    expected = (3.0 + 2 * 0.5) * 1e-3 + 8 * 50e-6
    plain, scaled, unscaled = (
        forward(scenario(facts=RunFacts(host=host, constants=tuple((own | extra).items()))))
        for host, extra in ((None, {}), (slow, {}), (slow, {"host_scaled": 0.0}))
    )
    assert step_overhead_s(plain, 8) == pytest.approx(expected)
    assert step_overhead_s(scaled, 8) == pytest.approx(2 * expected)
    assert step_overhead_s(unscaled, 8) == pytest.approx(expected)
    assert host_s_per_pass(scaled) == pytest.approx(2 * host_s_per_pass(plain))


def test_steps_beyond_captured_contexts_wait_for_python() -> None:
    own = {"graph_max_context": 8192.0, "eager_python_us_per_layer": 400.0, "launch_us": 0.0}
    found = forward(scenario(own))
    assert host_s_per_pass(found, 8192.0) == 0
    assert host_s_per_pass(found, 8193.0) == pytest.approx(80 * 400e-6)
    assert host_s_per_pass(found, prefill=True) == pytest.approx(80 * 400e-6)
    assert host_s_per_pass(found, np.array([1.0, 9000.0])).tolist() == pytest.approx([0, 80 * 400e-6])
    long = {"prompt_len": 8150, "gen_len": 101, "allow_long_context": True}
    captured, both = (
        times(scenario(own | {"eager_python_us_per_layer": 0.0}, **long)),
        times(scenario(own, **long)),
    )
    # Contexts 8151 to 8192 run captured, 8193 to 8250 eagerly: 58 of 100 steps.
    device = captured[1] / 100
    eager = p_norm(device, 80 * 400e-6, 8)
    assert both[1] == pytest.approx(42 * device + 58 * eager, rel=2e-3)


def test_without_graphs_every_step_waits_for_python() -> None:
    own = {"eager_python_us_per_layer": 400.0, "launch_us": 0.0, "python_us_per_layer": 0.0}
    eager = forward(scenario(own, enforce_eager=True))
    assert host_s_per_pass(eager) == pytest.approx(80 * 400e-6)
    assert host_s_per_pass(eager, prefill=True) == pytest.approx(80 * 400e-6)
    # An engine whose graphs have no end compiles what reads prompts, unless it is told not to.
    assert host_s_per_pass(forward(scenario(own)), prefill=True) == 0
    # Where the context of graphs ends the setting leaves nothing to tell apart.
    ends = own | {"graph_max_context": 8192.0}
    assert host_s_by_regime(forward(scenario(ends, enforce_eager=True))) == (host_s_per_pass(eager),)


@pytest.mark.parametrize("system", ["vllm@0.4", "vllm@0.7", "vllm@0.10", "vllm@0.19"])
@pytest.mark.parametrize("batch", [1, 64])
def test_an_engine_without_graphs_is_never_faster(system: str, batch: int) -> None:
    asked = {"model": "llama-3.1-8b", "gpu": "h100-sxm", "system": system, "batch_size": batch, "tp_size": 1}
    captured, eager = (predict_inference(scenario(enforce_eager=flag, **asked)) for flag in (False, True))
    assert eager.ttft_s >= captured.ttft_s * (1 - 1e-12)
    assert (eager.tpot_s or 0.0) >= (captured.tpot_s or 0.0) * (1 - 1e-12)


def test_an_engine_that_knows_no_windows_attends_to_everything() -> None:
    """TensorRT-LLM's builder has windows off unless asked for; its later runtime takes the model's."""
    asked = {"model": "mistral-7b-v0.1", "gpu": "h100-sxm", "prompt_len": 20000, "gen_len": 100}
    old, new = (
        build_scenario(InferenceInputs(system=f"tensorrt_llm@{version}", **asked))
        for version in ("0.17", "1.0")
    )
    assert new.model.layer_groups[0].attention.window == 4096
    assert old.model == new.model.without_windows()
    assert old.model.layer_groups[0].attention.window is None
    assert old.model.without_windows() is old.model
    assert new.model.left_out is None
    assert old.model.left_out is not None
    assert "window of 4,096 tokens" in old.model.left_out
    assert old.model.left_out in predict_inference(old).warnings
    kept = [float(stage_kv_bytes(one, 1, 20100)) for one in (old, new)]
    assert kept[0] == pytest.approx(32 * 2 * 1024 * 2 * 20100)
    assert kept[0] > 3 * kept[1]


@pytest.mark.parametrize(("ranks", "start", "wire"), [(2, 1.0, 1.0), (4, 1.3, 1.8), (8, 1.6, 1.8)])
def test_all_reduce_over_peer_memory(ranks: int, start: float, wire: float) -> None:
    group = Fabric(ranks, 20e-6, 300e9)
    assert group.custom_all_reduce_s(0.0, 5e-6) == pytest.approx(start * 5e-6)
    assert group.custom_all_reduce_s(65e9, 0.0) == pytest.approx(wire)


def test_an_own_all_reduce_is_never_slower_and_needs_a_link() -> None:
    usual, own = times(scenario()), times(scenario({"custom_all_reduce_us": 5.0}))
    assert own[1] < usual[1]
    pcie = {"gpu": "l40s", "model": "llama-2-7b"}
    assert times(scenario(**pcie)) == times(scenario({"custom_all_reduce_us": 5.0}, **pcie))
    assert times(scenario({"pcie_bus_efficiency": 0.4}, **pcie))[0] < times(scenario(**pcie))[0]


def test_copies_of_a_cache_are_written_at_the_pace_of_the_multiprocessors() -> None:
    """108 x 1.41: one rank's 2 cached heads of keys and values, 8 query heads to each, of 8 sequences."""
    appended, repeated = ({"append_gb_per_s_per_sm_ghz": 1.5}, {"repeat_gb_per_s_per_sm_ghz": 3.0})
    plain, append, repeat = (forward(scenario(own)) for own in ({}, appended, repeated))
    (group, _), *_ = plain.groups
    mixer = group.attention
    reads = kv_reads(plain.scenario, plain.constants, mixer, 8)
    stored = 8 * 2 * 2 * 128 * 2
    assert reads.stored == stored
    found = [
        copies_s_per_token(one.scenario, one.constants, one.rates, mixer, reads)
        for one in (plain, append, repeat)
    ]
    rate = 108 * 1.41 * 1e9
    assert found == pytest.approx([0.0, stored / (1.5 * rate), 8 * stored / (3.0 * rate)])
    attended = [
        attention_s_per_token(one.scenario, one.constants, one.rates, mixer, 0.0, reads)
        for one in (plain, repeat)
    ]
    assert attended[1] - found[2] == pytest.approx(8 * attended[0])  # it reads what was written


def test_modules_in_fp8_that_wait_add_the_hosts_time_to_the_devices() -> None:
    asked = {"model": "qwen3-8b", "gpu": "h20", "tp_size": 1, "batch_size": 1, "system": "transformers@4.51"}
    wide, narrow = forward(scenario(**asked)), forward(scenario(weight_format="fp8_block", **asked))
    assert overlap_exponent(wide) == wide.constants["overlap_exponent"] == 6
    assert overlap_exponent(narrow) == 1
    assert exposed_host_s(narrow, 0.02) == pytest.approx(host_s_per_pass(narrow))
    assert exposed_host_s(wide, 0.02) < host_s_per_pass(wide)
    free = forward(scenario({"waiting_fp8_modules": 0.0}, weight_format="fp8_block", **asked))
    assert overlap_exponent(free) == 6


def test_weights_in_awqs_layout_have_its_own_kernels_where_an_engine_knows_no_other() -> None:
    asked = {"model": "qwen2-7b", "gpu": "a100-sxm-80gb", "tp_size": 1, "batch_size": 1}
    read = {
        (system, name): float(forward(found).weight_bytes_per_element(forward(found).groups[0][1][0], 1))
        for system in ("vllm@0.4", "vllm@0.6")
        for name in ("awq", "gptq")
        for found in [scenario(system=system, weight_format=name, **asked)]
    }
    assert read["vllm@0.6", "awq"] == pytest.approx(read["vllm@0.6", "gptq"], rel=0.02)
    assert read["vllm@0.4", "awq"] > 1.8 * read["vllm@0.4", "gptq"]


def test_passes_of_a_prompt_follow_one_another_where_the_build_lets_them() -> None:
    """Half of the passes are a prompt's: over n devices a pass takes (1 + 1/n) / 2 on MI300X, and 1 on MI250's dies."""
    asked = {
        "model": "llama-2-7b", "system": "llama_cpp@2024", "batch_size": 1, "prompt_len": 256, "gen_len": 256,
        "ubatch_size": 1, "tp_size": 1,
    }  # fmt: skip
    took = {
        (gpu, stages): sum(times(scenario(gpu=gpu, pp_size=stages, **asked)))
        for gpu, stages in (("mi300x", 1), ("mi300x", 4), ("mi250x-gcd-64gb", 2), ("mi250x-gcd-64gb", 8))
    }
    assert 0.6 < took["mi300x", 4] / took["mi300x", 1] < 0.75
    assert 1.0 < took["mi250x-gcd-64gb", 8] / took["mi250x-gcd-64gb", 2] < 1.2


def test_few_parts_per_sequence_limit_one_long_request() -> None:
    own = {"attention_kv_splits": 8.0, "split_gb_per_s_per_ghz": 4.0}
    found = forward(scenario(own, batch_size=1))
    (group, _), *_ = found.groups
    reads = kv_reads(found.scenario, found.constants, group.attention, 1)
    limit = 2 * 128 * 2 / (8 * 4.0 * 1.41 * 1e9)
    assert limit > reads.stored / found.rates.attention_bytes_per_s
    free = found.rates.decode_attention_s_per_token(0.0, reads.stored, reads.wide)
    assert attention_s_per_token(
        found.scenario, found.constants, found.rates, group.attention, 0.0, reads
    ) == pytest.approx(p_norm(free, limit, 4))


def memory_of(asked: Scenario) -> MemoryParts:
    load = Load.of(asked.workload)
    return system_of(asked).memory(asked, load, system_of(asked).place(asked, load)).gpu


QUEUING: dict[str, Any] = {"system": "vllm@0.6", "prompt_len": 1000, "gen_len": 1000}


def stepped_through(batch: int, prompt: int, gen: int, blocks: int) -> tuple[float, float]:
    """Decode steps over ``gen``, and tokens computed anew per sequence, of an engine that is stepped through token by token.

    Requests are admitted in order while they leave 1 % of the blocks free; the last that was admitted gives way, comes back
    first, and nobody is admitted in that step.
    """
    waiting: list[int | None] = [None] * batch  # tokens that they have generated; None: they never ran
    running: list[int] = []
    steps = anew = 0
    while waiting or running:
        held = [-(-(prompt + done + 1) // 16) for done in running]
        gives_way = sum(held) > blocks
        while sum(held) > blocks:
            held.pop()
            waiting.insert(0, running.pop())
        while waiting and not gives_way:
            done = waiting[0]
            held.append(-(-(prompt + (done or 0) + 1) // 16))
            if sum(held) > (0.99 if running else 1) * blocks:
                break
            anew += 0 if done is None else prompt + done
            running.append(waiting.pop(0) or 0)
        running = [done + 1 for done in running if done + 1 < gen]
        steps += 1
    return steps / gen, anew / batch


@pytest.mark.parametrize(("prompt", "gen"), [(400, 400), (100, 900), (900, 300)])
@pytest.mark.parametrize("batch", [20, 24, 40, 120])
def test_pages_that_run_out_cost_what_an_engine_stepped_through_takes(
    batch: int, prompt: int, gen: int
) -> None:
    own = {"kv_reserved_share": 0.0}
    lengths: dict[str, Any] = {"system": "vllm@0.6", "prompt_len": prompt, "gen_len": gen}
    share = 0.9
    for _ in range(60):  # a memory that holds some 20 sequences
        asked = scenario(own, batch_size=batch, gpu_memory_utilization=share, **lengths)
        blocks = int(memory_of(asked).kv_room_bytes / stage_kv_bytes(asked, 1.0, 16.0))
        if 16 * blocks <= 19 * (prompt + gen):
            break
        share *= 0.98
    found = waves_of(asked, Load.of(asked.workload), budget_for(asked), memory_of(asked), 0.0)
    steps, anew = stepped_through(batch, prompt, gen, blocks)
    assert found.count > 1
    assert found.count == pytest.approx(steps, rel=0.2)
    assert found.again * prompt == pytest.approx(anew, abs=0.3 * (prompt + gen))


@pytest.mark.parametrize("asked_of_memory", [{}, {"gpu_memory_utilization": 0.7}])
def test_a_batch_that_the_cache_does_not_hold_runs_in_whole_waves(asked_of_memory: dict[str, float]) -> None:
    """Of what the memory account leaves for the cache, where sequences are reserved whole: as even as waves can be."""
    own = {"kv_reserved_share": 1.0}
    asked = scenario(own, batch_size=2000, **QUEUING, **asked_of_memory)
    at_once = min(math.floor(memory_of(asked).kv_room_bytes / stage_kv_bytes(asked, 1.0, 2000)), 256)
    assert 1 < at_once < 2000
    waves = math.ceil(2000 / at_once)
    found = waves_of(asked, Load.of(asked.workload), budget_for(asked), memory_of(asked), 1.0)
    assert waves - 1 < found.count <= waves
    assert found.running * found.count == pytest.approx(2000)
    said = [text for text in predict_inference(asked).warnings if "run at once" in text]
    assert len(said) == 1
    assert f"{found.count:.3g} waves" in said[0]
    assert f"{at_once}" in said[0]


def test_the_waves_and_the_largest_batch_are_those_of_one_account() -> None:
    """An engine that reserves whole sequences runs as many as the largest batch that it says; twice as many take two."""
    own = {"kv_reserved_share": 1.0}
    asked = scenario(own, batch_size=2000, **QUEUING, gpu_memory_utilization=0.6)
    most = predict_inference(asked).max_batch_size
    assert 1 < most < 256
    one = times(scenario(own, batch_size=most, **QUEUING, gpu_memory_utilization=0.6))
    two = times(scenario(own, batch_size=2 * most, **QUEUING, gpu_memory_utilization=0.6))
    assert one == times(scenario(batch_size=most, **QUEUING, gpu_memory_utilization=0.6))
    assert 1.0 <= two[1] / one[1] <= 2.0 + 1e-9


def test_an_engine_that_does_not_queue_runs_the_batch_at_once() -> None:
    at_once, cut = (times(scenario({"kv_reserved_share": share}, batch_size=2000)) for share in (0.0, 1.0))
    assert at_once == cut


@pytest.mark.parametrize("system", ["resident", "vllm@0.2", "vllm@0.6"])
def test_the_scheduler_bounds_what_runs_at_once(system: str) -> None:
    asked: dict[str, Any] = {"system": system, "prompt_len": 100, "gen_len": 100}
    limited = scenario(batch_size=600, max_num_seqs=4, **asked)
    assert times(limited) == pytest.approx([150 * part for part in times(scenario(batch_size=4, **asked))])
    parts = memory_of(limited)
    assert parts.kv_cache_bytes == pytest.approx(memory_of(scenario(batch_size=4, **asked)).kv_cache_bytes)
    assert parts.waiting_bytes == pytest.approx(149 * parts.kv_cache_bytes)
    if system != "resident":  # whose default is 256
        many, most = (times(scenario(batch_size=size, **asked)) for size in (512, 256))
        assert many == pytest.approx([2 * part for part in most])


def test_of_a_shared_prefix_the_cache_holds_one_copy() -> None:
    asked = {**QUEUING, "prefix_hit_rate": 0.8}
    apart, shared = (memory_of(scenario(batch_size=8, shared_prefix=flag, **asked)) for flag in (False, True))
    own = -(-1200 // 16) * 16 / 2000
    assert shared.kv_cache_bytes / apart.kv_cache_bytes == pytest.approx(own + (1 - own) / 8, rel=1e-3)
    alone = (memory_of(scenario(batch_size=1, shared_prefix=flag, **asked)) for flag in (False, True))
    assert len({parts.kv_cache_bytes for parts in alone}) == 1
    results = [
        predict_inference(scenario(batch_size=8, shared_prefix=flag, **asked)) for flag in (False, True)
    ]
    capacities = [result.kv_capacity for result in results]
    assert None not in capacities
    assert capacities[0].tokens == capacities[1].tokens  # type: ignore[union-attr]
    assert capacities[1].max_concurrency > 1.5 * capacities[0].max_concurrency  # type: ignore[union-attr]


def test_equal_prompts_read_the_experts_of_one() -> None:
    moe: dict[str, Any] = {"model": "mixtral-8x7b", "tp_size": 2}
    alone = forward(scenario(**moe, batch_size=1))
    equal = forward(scenario(**moe, batch_size=8, distinct_prompts=1))
    product = next(one for one in equal.groups[0][1] if one.is_expert)
    memory = equal.product_s(product, 8.0, 1.0).memory_s
    of_one = alone.product_s(product, 1.0).memory_s
    more = (
        7 * product.active * (product.in_features + product.out_features) * 2 / equal.rates.gemm.bytes_per_s
    )
    assert memory == pytest.approx(of_one + more)
    assert (
        times(scenario(**moe, batch_size=8, distinct_prompts=1))[1] < times(scenario(**moe, batch_size=8))[1]
    )
    assert times(scenario(**moe, batch_size=8, distinct_prompts=8)) == times(scenario(**moe, batch_size=8))


def test_a_shared_prefix_is_read_once() -> None:
    own = forward(scenario(prompt_len=2000, gen_len=2, prefix_hit_rate=1.0))
    shared = forward(scenario(prompt_len=2000, gen_len=2, prefix_hit_rate=1.0, shared_prefix=True))
    group = own.groups[0][0]
    every, once = (kv_reads(one.scenario, one.constants, group.attention, 8) for one in (own, shared))
    assert once.wide == every.wide
    assert once.stored / every.stored == pytest.approx(1 - 2000 / 2001 * 7 / 8)


def test_kernels_of_a_format_reach_a_share_and_never_more_than_the_sheet() -> None:
    fp8: dict[str, Any] = {"gpu": "h100-sxm-80gb", "system": "vllm", "weight_format": "fp8"}
    plain, half, more = (
        forward(
            scenario(
                dict(zip(("native_8bit_bandwidth", "native_8bit_flops"), (share, share), strict=True)), **fp8
            )
        )
        for share in (1.0, 0.5, 50.0)
    )
    product = plain.groups[0][1][0]
    whole = plain.product_s(product, 1.0)
    compute, memory = whole.compute_s, whole.memory_s
    slow = half.product_s(product, 1.0)
    assert slow.compute_s == pytest.approx(2 * compute)
    moved = (product.in_features + product.out_features) * 2
    weights = memory * plain._gemm(product).bytes_per_s - moved
    assert slow.memory_s * plain._gemm(product).bytes_per_s == pytest.approx(2 * weights + moved)
    fastest = more.product_s(product, 1.0)
    sheet = plain._gemm(product)
    assert fastest.compute_s == pytest.approx(
        sheet.compute_s(1.0, product.weights) * sheet.flops_per_s / sheet.peak_flops_per_s
    )


def test_scales_of_blocks_have_a_kernel_of_their_own_where_a_stack_says_so() -> None:
    asked: dict[str, Any] = {"gpu": "h100-sxm-80gb", "system": "engine", "weight_format": "fp8_block"}
    share = {"block_8bit_flops": 0.5, "block_8bit_bandwidth": 1.0, "block_8bit_us": 10.0}
    as_one, own = forward(scenario(**asked)), forward(scenario(share, **asked))
    product = as_one.groups[0][1][0]
    one, block = as_one.product_s(product, 4096.0), own.product_s(product, 4096.0)
    assert block.compute_s == pytest.approx(2 * one.compute_s)
    assert block.memory_s == pytest.approx(one.memory_s)
    assert block.floor_s == pytest.approx(one.floor_s + 10e-6)
    single = {**asked, "weight_format": "fp8"}
    assert times(scenario(share, **single)) == times(scenario(**single))


def test_experts_with_scales_of_blocks_pay_for_their_routing_alone() -> None:
    asked: dict[str, Any] = {
        "model": "qwen3-30b-a3b", "gpu": "h100-sxm-80gb", "tp_size": 1, "system": "engine", "weight_format": "fp8_block",
    }  # fmt: skip
    less, more = (
        times(scenario({"block_8bit_flops": 1.0, "expert_block_us": us}, gen_len=2, **asked))[1]
        for us in (0.0, 30.0)
    )
    assert more - less == pytest.approx(48 * 30e-6)


def test_experts_are_unpacked_no_faster_than_the_multiprocessors_do() -> None:
    asked: dict[str, Any] = {
        "model": "qwen3-30b-a3b", "gpu": "h200-sxm-141gb", "tp_size": 1, "system": "engine", "weight_format": "int4",
    }  # fmt: skip
    slow, fast, twice = (
        forward(scenario({"expert_unpack_gb_per_s_per_sm_ghz": rate}, **asked)) for rate in (2.0, 1000.0, 4.0)
    )
    product = next(one for one in slow.groups[0][1] if one.is_expert)
    gpu = slow.scenario.gpu
    assert gpu.sm_count is not None
    assert gpu.sm_clock_mhz is not None
    per_s = 2.0 * gpu.sm_count * gpu.sm_clock_mhz * 1e6
    moved = slow.product_s(product, 64.0).memory_s - twice.product_s(product, 64.0).memory_s
    weights = slow.product_s(product, 64.0).copies * product.weights * slow._stored_bytes(product)
    assert moved == pytest.approx(weights / per_s / 2)
    free = fast.product_s(product, 64.0).memory_s
    assert free * fast._gemm(product).bytes_per_s == pytest.approx(
        weights + 64.0 * product.active * (product.in_features + product.out_features) * 2
    )


def test_kernels_of_blocks_walk_along_the_inner_dimension() -> None:
    asked = build_scenario(
        InferenceInputs(
            model="deepseek-v3",
            gpu="mi300x",
            num_gpus=8,
            tp_size=8,
            system="sglang@0.5",
            weight_format="fp8_block",
        )
    )
    constants = system_of(asked).constants(asked)
    walks, jumps = Forward(asked, constants), Forward(asked, constants | {"block_8bit_walk_us": 0.0})
    group, products = walks.groups[-1]
    assert group.mlp.experts_per_token
    scaled = [product for product in products if walks._kernel_kind(product) == BLOCK_SCALED]
    assert any(product.is_expert for product in scaled)
    for product in products:
        walk_s = (
            product.in_features / 128 * constants["block_8bit_walk_us"] * 1e-6 if product in scaled else 0.0
        )
        waits, reads = walks.product_s(product, 1.0), jumps.product_s(product, 1.0)
        assert float(waits.memory_s) == pytest.approx(max(float(reads.memory_s), walk_s))
    assert float(walks.product_s(scaled[0], 1.0).seconds) > 1.5 * float(
        jumps.product_s(scaled[0], 1.0).seconds
    )


def test_versions_are_chosen_by_the_device() -> None:
    amd, nvidia = ("amd", "cdna3"), ("nvidia", "hopper")
    assert get_system("vllm@0.5", amd).file.release == "0.5-cdna3"
    assert get_system("vllm@0.5", nvidia).file.release == "0.5"
    assert get_system("vllm@0.8.5", amd).file.release == "0.8.4-rocm"
    assert get_system("vllm@0.8.5", nvidia).file.release == "0.10"
    assert get_system("vllm", amd).file.release == "0.15-cdna3"
    assert get_system("vllm", ("amd", "cdna2")) is get_system("vllm", nvidia)
    assert get_system("vllm", ("amd", "cdna4")).file.release == "0.15-cdna4"
    for version in ("vllm", "vllm@0.8.5", "vllm@0.11.1"):
        assert get_system(version, ("amd", "cdna1")).file.release == "0.8.4-cdna1"
    assert get_system("sglang@0.5.7", amd).file.release == "0.5-cdna3"
    assert get_system("sglang@0.5.7", nvidia).file.release == "0.5"
    assert get_system("vllm@0.5-cdna3", nvidia).file.release == "0.5-cdna3"
    mi300x = build_scenario(InferenceInputs(model="llama-2-7b", gpu="mi300x", system="vllm@0.6"))
    assert predict_inference(mi300x).system_name == "vllm@0.8.4-rocm"


@pytest.mark.parametrize("model", ["llama-2-7b", "gpt-oss-20b"])
@pytest.mark.parametrize("name", ["fp16", "fp8", "int8", "awq", "mxfp4", "q4_k_m"])
def test_no_version_reads_weights_faster_than_the_data_sheet(model: str, name: str) -> None:
    """Fitted shares multiply each other: that each is plausible says nothing of what they come to."""
    versions = [
        f"{family}@{release}" for family in family_names() for release in folder_of(family).all_releases
    ]
    checked = 0
    for version in versions:
        try:
            asked = scenario(model=model, system=version, gpu="h100-sxm-80gb", weight_format=name)
        except SpecError:
            continue  # made for other devices
        if not isinstance(system_of(asked), Resident):
            continue
        found, checked = forward(asked), checked + 1
        bandwidth = asked.gpu.hbm_bandwidth_bytes_per_s
        for group, products in found.groups:
            for product in products:
                one = found.product_s(product, 1.0)
                stored = 2.0 if product.op == "router" else asked.dtype.stored_weight_bits / 8
                stored = stored if product.stored is None else product.stored.bits / 8
                least_s = one.copies * product.weights * stored / bandwidth
                assert one.memory_s >= least_s * (1 - 1e-9), (version, group.attention, product.op)
    assert checked > 10


def test_the_longest_context_is_that_of_the_sequences_that_run() -> None:
    """A batch beyond the scheduler's limit has the context of the limit, not none at all."""
    asked = {"system": "vllm@0.6", "model": "llama-2-7b", "tp_size": 1, "max_num_seqs": 16}
    many, few = (predict_inference(scenario(**asked, batch_size=batch)) for batch in (300, 16))
    assert many.max_context_len == few.max_context_len > 0
    assert any("16 of these sequences run at once" in text for text in many.warnings)


def test_an_fp8_cache_costs_instructions_where_the_gpu_has_none_for_it() -> None:
    """A100 unpacks it by integer arithmetic once per query head, H100 has an instruction; int8 is unpacked cheaply."""
    asked = {
        "model": "llama-3.1-8b",
        "system": "vllm@0.5",
        "tp_size": 1,
        "batch_size": 32,
        "prompt_len": 1024,
    }
    step = {
        (gpu, name): times(scenario(gpu=gpu, kv_format=name, **asked))[1]
        for gpu in ("a100-sxm-80gb", "h100-sxm-80gb")
        for name in ("fp16", "fp8", "int8")
    }
    assert step["h100-sxm-80gb", "fp8"] == step["h100-sxm-80gb", "int8"] < step["h100-sxm-80gb", "fp16"]
    assert step["a100-sxm-80gb", "int8"] < step["a100-sxm-80gb", "fp16"] < step["a100-sxm-80gb", "fp8"]
    free = scenario({"fp8_kv_instructions": 1e-9}, gpu="a100-sxm-80gb", kv_format="fp8", **asked)
    assert times(free)[1] == pytest.approx(step["a100-sxm-80gb", "int8"])


def test_cards_that_copy_to_each_other_keep_their_own_share_of_pcie() -> None:
    asked = {"model": "llama-3.1-8b", "gpu": "rtx-pro-6000-blackwell-server", "tp_size": 4, "batch_size": 1}
    fabric = forward(scenario(system="vllm@0.15", **asked)).exchanges.tensor
    assert fabric.bytes_per_s == pytest.approx(0.75 * 63e9)
    other = forward(scenario(system="vllm@0.15", **(asked | {"gpu": "l40s-48gb"}))).exchanges.tensor
    assert other.bytes_per_s == pytest.approx(
        0.4 * scenario(**(asked | {"gpu": "l40s-48gb"})).gpu.pcie_gb_per_s * 1e9
    )


@pytest.mark.parametrize(
    ("system", "gpu", "microseconds"), [("tensorrt_llm@1.0", "h100-sxm", 108), ("sglang@0.5", "h200", 51)]
)
def test_a_token_takes_a_frontend_what_was_measured_where_it_was_measured(
    system: str, gpu: str, microseconds: float
) -> None:
    """9,250 tokens per second of TensorRT-LLM, 19,600 of SGLang at the most, on the hosts that these GPUs are in."""
    asked = build_scenario(InferenceInputs(model="llama-3.1-8b", gpu=gpu, system=system))
    assert stream_s(forward(asked)) == pytest.approx(microseconds * 1e-6, rel=0.01)


def test_llama_cpp_on_an_mi100_before_and_after_its_kernels_knew_warps_of_64_threads() -> None:
    """Llama 8B in F16: 36.85 and 49.38 tokens/s (ggml-org/llama.cpp, pull request 11519), which no fit saw."""
    asked = {"model": "llama-3.1-8b", "gpu": "mi100-32gb", "batch_size": 1, "prompt_len": 1, "gen_len": 65}
    for version, measured in (("2024-12", 36.85), ("2025-03", 49.38)):
        inputs = InferenceInputs(**asked, system=f"llama_cpp@{version}")
        rate = 64 / predict_inference(build_scenario(inputs)).decode.latency_s
        assert 1 / 1.2 < rate / measured < 1.2


def test_kernels_of_experts_that_run_apart_add_two_floors_for_each_expert_of_a_rank() -> None:
    """Marlin's of vLLM 0.7: only where weights are unpacked, and fewer over expert-parallel ranks; captured in graphs."""
    asked: dict[str, Any] = {
        "model": "qwen3-235b-a22b", "gpu": "h20-sxm-96gb", "tp_size": 4, "batch_size": 1, "system": "sglang@0.5",
    }  # fmt: skip

    def layer_s(weights: str, apart: float, **more: Any) -> float:
        found = forward(scenario({"expert_kernels_apart": apart}, **asked, weight_format=weights, **more))
        group, products = found.groups[0]
        return float(found._extra_kernels_s(group, products))

    found = forward(scenario(**asked, weight_format="gptq"))
    floor = found.rates.elementwise_floor_s * found.constants["graph_floor_scale"]
    assert layer_s("gptq", 1) - layer_s("gptq", 0) == pytest.approx(2 * 128 * floor)
    assert layer_s("gptq", 1, ep_size=4) - layer_s("gptq", 0, ep_size=4) == pytest.approx(2 * 32 * floor)
    assert layer_s("fp8", 1) == layer_s("fp8", 0)
