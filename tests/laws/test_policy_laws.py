"""Laws of the search: what it finds is feasible, unbeaten, and never worse where there is more of anything."""

import itertools

import numpy as np
import pytest

from llm_perf.analysis.request import InferenceInputs, build_scenario
from llm_perf.config import get_host_config_by_name
from llm_perf.search.policy import PolicyQuestion, search_policy
from llm_perf.systems import Load, get_system
from llm_perf.systems.flexgen.search import FlexGenSearch

QUESTIONS = [
    PolicyQuestion("opt-6.7b", "t4"),
    PolicyQuestion("opt-30b", "t4", prompt_len=256, gen_len=8, lossless=True),
    PolicyQuestion("opt-30b", "t4", system="zero_inference", max_latency=300.0),
    PolicyQuestion("llama-2-70b", "a100-sxm-40gb", system="flexgen", prompt_len=128, gen_len=1),
    PolicyQuestion("mixtral-8x7b", "t4", system="flexgen", max_latency=500.0),
]


@pytest.mark.parametrize("question", QUESTIONS, ids=lambda q: f"{q.model}-{q.system}")
def test_the_best_fits_and_the_front_is_sorted_and_not_dominated(question):
    answer = search_policy(question)
    assert answer.result.feasible
    if question.max_latency is not None:
        assert answer.best.latency_s <= question.max_latency
    assert answer.best in answer.front
    latency = [point.latency_s for point in answer.front]
    rate = [point.throughput_tokens_per_s for point in answer.front]
    assert latency == sorted(set(latency))
    assert rate == sorted(set(rate))
    allowed = [p for p in answer.front if question.max_latency is None or p.latency_s <= question.max_latency]
    assert answer.best.throughput_tokens_per_s == max(point.throughput_tokens_per_s for point in allowed)


def _single(question, flags):
    scenario = build_scenario(question.inputs(flags))
    load = Load(float(scenario.workload.batch_size), float(question.prompt_len), float(question.gen_len))
    found = get_system(scenario.system).evaluate(scenario, load)
    seconds = found.prefill.latency_s + (found.decode.latency_s if found.decode else 0.0)
    return found.memory.fits, seconds, load.batch * load.gen_len / seconds


PERCENTS = (
    "100 0 100 0 100 0", "50 50 100 0 100 0", "0 100 100 0 100 0", "0 100 0 100 100 0", "20 80 0 100 0 100",
    "40 60 30 70 100 0", "0 50 0 50 0 100", "0 0 0 0 0 0",
)  # fmt: skip


@pytest.mark.parametrize("limit", [None, 40.0])
def test_no_policy_of_a_small_grid_beats_the_best_of_flexgen(limit):
    question = PolicyQuestion(
        "opt-13b", "t4", system="flexgen", prompt_len=256, gen_len=16, max_latency=limit
    )
    best = search_policy(question).best.throughput_tokens_per_s
    sizes = itertools.product(PERCENTS, (1, 8, 40), (1, 2, 6), (False, True), (False, True))
    for percent, gpu_batch, count, cache, attention in sizes:
        mixed = any(0 < float(share) < 100 for share in percent.split()[2:4])
        if cache and (mixed or attention):
            continue
        flags = {
            "system": "flexgen",
            "percent": percent,
            "gpu_batch_size": gpu_batch,
            "num_gpu_batches": count,
        }
        flags |= {"compress_weight": cache, "compress_cache": cache, "cpu_cache_compute": attention}
        fits, seconds, rate = _single(question, flags)
        if fits and (limit is None or seconds <= limit):
            assert rate <= best * (1 + 1e-9), flags


def test_no_setting_of_a_small_grid_beats_the_best_of_zero_inference():
    question = PolicyQuestion("opt-13b", "t4", system="zero_inference", prompt_len=256, gen_len=16)
    best = search_policy(question).best.throughput_tokens_per_s
    for batch, bits, tier, kv, pin in itertools.product(
        (1, 7, 33, 150), (16, 8, 4), ("cpu_offload", "disk_offload"), (False, True), (False, True)
    ):
        flags = {"system": "zero_inference", "batch_size": batch, "quant_bits": bits, tier: True}
        fits, _, rate = _single(question, flags | {"kv_offload": kv, "pin_memory": pin})
        assert not fits or rate <= best * (1 + 1e-9)


@pytest.mark.parametrize("system", ["flexgen", "zero_inference"])
def test_a_tighter_latency_limit_never_raises_throughput(system):
    found = []
    for limit in (70.0, 90.0, 120.0, 180.0, 260.0, 1000.0, None):
        answer = search_policy(PolicyQuestion("opt-30b", "t4", system=system, max_latency=limit))
        found.append(0.0 if answer.best is None else answer.best.throughput_tokens_per_s)
    # Policies are climbed to from a grid, each limit on its own way: half a percent is what that may leave.
    assert np.all(np.array(found[1:]) >= np.array(found[:-1]) * 0.995)


def _best(scenario, host):
    found = FlexGenSearch(scenario.replace(host=host)).run()
    return 0.0 if found is None else float(found.throughput_tokens_per_s.max())


@pytest.mark.parametrize("model", ["opt-30b", "opt-175b"])
def test_more_host_memory_or_a_faster_disk_never_lowers_the_best(model):
    scenario = build_scenario(InferenceInputs(model, "t4", system="flexgen"))
    host = get_host_config_by_name("gcp-t4")
    sizes = [host.replace(memory_gib=size + 4, usable_memory_gib=size) for size in (40, 96, 204, 400)]
    by_memory = [_best(scenario, larger) for larger in sizes]
    assert np.all(np.array(by_memory[1:]) >= np.array(by_memory[:-1]) * 0.995), by_memory
    disk = host.disk
    by_disk = []
    for factor in (0.5, 1.0, 2.0, 4.0):
        rates = {
            name: rate.replace(gb_per_s=rate.gb_per_s * factor)
            for name in ("buffered_read", "buffered_write")
            if (rate := getattr(disk, name)) is not None
        }
        stated = {
            name: getattr(disk, name) * factor for name in ("stated_read_gb_per_s", "stated_write_gb_per_s")
        }
        by_disk.append(_best(scenario, host.replace(disk=disk.replace(**rates, **stated))))
    assert np.all(np.array(by_disk[1:]) >= np.array(by_disk[:-1]) * 0.995), by_disk
