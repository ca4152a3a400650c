"""Laws of the FlexGen model: bytes are conserved, overlap is bounded, more on the GPU or a faster disk never hurts."""

import dataclasses
from functools import cache

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from llm_perf.analysis.inference import predict_inference
from llm_perf.config import OffloadConfig, Shares, Workload, get_gpu_config_by_name, get_host_config_by_name
from llm_perf.config.dtype import DtypeConfig
from llm_perf.config.loading import get_model_config_by_name
from llm_perf.config.parallelism import ParallelismConfig
from llm_perf.config.scenario import Scenario
from llm_perf.counts.parameters import token_table_params, total_params
from llm_perf.report.trace import schedule_spans
from llm_perf.systems import Load, get_system
from llm_perf.systems.base import TierShares
from llm_perf.systems.flexgen import FlexGen
from llm_perf.systems.flexgen.memory import placed_weights
from llm_perf.systems.flexgen.placement import model_phases, place_cache, place_tensors
from llm_perf.systems.flexgen.policy import Policy
from llm_perf.systems.flexgen.times import BlockSchedule
from llm_perf.systems.schedule import sum_costs
from tests.laws.strategies import BOOLEANS, among, integers

# General models: multi-head, grouped-query with gated MLP and untied tables, a sliding window, experts.
MODELS = ("opt-1.3b", "llama-3.1-8b", "mistral-7b", "mixtral-8x7b", "gemma-2-2b")
FLEXGEN = FlexGen()
percents = st.integers(0, 100)


@cache
@st.composite
def tier_shares(draw, whole=False):
    """Two percentages; the rest is on disk."""
    if whole:
        return draw(among(*map(Shares.on, ("gpu", "cpu", "nvme"))))
    gpu = draw(percents)
    cpu = draw(integers(0, 100 - gpu))
    return Shares(gpu=gpu / 100, cpu=cpu / 100, nvme=round(1 - gpu / 100 - cpu / 100, 12))


@cache
@st.composite
def scenarios(draw, **fixed):
    compress = draw(BOOLEANS)
    kv_bits = draw(among(4, 16))
    gpu_batch, batches = draw(among(1, 3, 16)), draw(among(1, 2, 5))
    changes = {
        "weights": draw(tier_shares()),
        "kv_cache": draw(tier_shares(whole=kv_bits == 4)),
        "activations": draw(tier_shares(whole=True)),
        "pin_memory": draw(BOOLEANS),
        "attention_device": draw(among("gpu", "cpu", None)),
        "overlap": draw(among(True, False)),
        "attn_sparsity": 1.0 if kv_bits == 4 else draw(among(1.0, 0.1)),
        "gpu_batch_size": gpu_batch,
        "num_gpu_batches": batches,
    } | fixed
    return Scenario(
        model=get_model_config_by_name(draw(among(*MODELS))),
        gpu=get_gpu_config_by_name("t4"),
        host=get_host_config_by_name("gcp-t4"),
        system="flexgen",
        dtype=DtypeConfig(
            weight_bits=4 if compress else 16, quant_group_size=64, kv_bits=kv_bits, kv_group_size=64
        ),
        workload=Workload(
            batch_size=gpu_batch * batches,
            prompt_len=draw(among(1, 64, 600)),
            gen_len=draw(among(1, 2, 3, 32, 200)),
        ),
        offload=OffloadConfig(**changes),
        allow_long_context=True,
    )


def load_of(scenario):
    w = scenario.workload
    return Load(float(w.batch_size), float(w.prompt_len), float(w.gen_len))


def latency(scenario):
    evaluation = FLEXGEN.evaluate(scenario, load_of(scenario))
    return float(evaluation.prefill.latency_s + evaluation.decode.latency_s)


def with_offload(scenario, **changes):
    return scenario.replace(offload=scenario.offload.replace(**changes))


# -- placement ----------------------------------------------------------------------------------------------------


@given(st.sampled_from(MODELS), tier_shares(), st.sampled_from([2.0, 0.5625]))
def test_percentages_conserve_bytes(name, stated, width):
    shares = TierShares(stated.gpu, stated.cpu, stated.nvme)
    for phase in model_phases(get_model_config_by_name(name)):
        placed = place_tensors(phase, shares, width)
        vectors = phase.elements - phase.matrix_elements
        assert placed.total_bytes == pytest.approx(phase.matrix_elements * width + 2 * vectors, rel=1e-12)
        assert placed.cpu_locked_bytes >= placed.cpu_bytes * (1 - 1e-12)


@pytest.mark.parametrize("name", MODELS)
def test_the_phases_hold_the_model_and_the_token_table_a_second_time(name):
    model = get_model_config_by_name(name)
    counts = [1 if phase.group is None else phase.group.count for phase in model_phases(model)]
    held = sum(count * phase.elements for count, phase in zip(counts, model_phases(model), strict=True))
    twice = token_table_params(model) if model.tied_embeddings else 0
    assert held == total_params(model) + twice


@given(tier_shares(), st.integers(1, 500))
def test_the_cache_is_placed_in_whole_sequences(stated, sequences):
    placed = place_cache(TierShares(stated.gpu, stated.cpu, stated.nvme), float(sequences))
    assert placed.gpu + placed.cpu + placed.nvme == pytest.approx(1)
    for share in (placed.gpu, placed.cpu):
        assert share * sequences == pytest.approx(round(share * sequences), abs=1e-6)


@given(st.sampled_from(MODELS), percents, percents)
def test_a_larger_percentage_on_the_gpu_never_places_less_there(name, one, other):
    less, more = sorted((one, other))
    for phase in model_phases(get_model_config_by_name(name)):
        placed = [
            place_tensors(phase, TierShares(p / 100, 1 - p / 100, 0.0), 2.0).gpu_bytes for p in (less, more)
        ]
        assert placed[0] <= placed[1]


# -- time ---------------------------------------------------------------------------------------------------------


@given(scenarios(overlap=True))
def test_overlap_is_never_slower_than_no_overlap(scenario):
    assert latency(scenario) <= latency(with_offload(scenario, overlap=False)) * (1 + 1e-9)


@given(scenarios(overlap=True))
def test_overlap_is_never_faster_than_its_slowest_stream(scenario):
    evaluation = FLEXGEN.evaluate(scenario, load_of(scenario))
    for phase in (evaluation.prefill, evaluation.decode):
        assert max(phase.busy_s.values(), default=0.0) <= phase.latency_s * (1 + 1e-9)


@given(scenarios())
def test_parts_add_up_to_the_latency_and_none_is_negative(scenario):
    evaluation = FLEXGEN.evaluate(scenario, load_of(scenario))
    for phase in (evaluation.prefill, evaluation.decode):
        scale = max(phase.latency_s, 1e-9)
        assert sum(phase.parts_s.values()) == pytest.approx(phase.latency_s, rel=1e-9, abs=1e-9)
        assert all(part >= -1e-9 * scale for part in phase.parts_s.values())


@given(scenarios())
def test_the_decode_phase_is_the_sum_of_its_steps(scenario):
    load = load_of(scenario)
    block = BlockSchedule(scenario, FLEXGEN.constants(scenario), FLEXGEN.policy(scenario, load))
    steps = int(load.gen_len) - 1
    each = [block.decode_step(load.prompt_len + i, last=i == steps).cost() for i in range(1, steps + 1)]
    whole = sum_costs([(cost, 1.0) for cost in each])
    decode = FLEXGEN.evaluate(scenario, load).decode
    windowed = any(group.attention.window for group in scenario.model.layer_groups)
    assert decode.latency_s == pytest.approx(whole.latency_s, rel=2e-3 if windowed else 1e-9, abs=1e-12)


@given(scenarios())
def test_a_faster_disk_never_hurts(scenario):
    disk = scenario.host.disk
    fast = disk.replace(
        stated_read_gb_per_s=20,
        stated_write_gb_per_s=20,
        buffered_read=disk.buffered_read.replace(gb_per_s=20.0),
    )
    faster = scenario.replace(host=scenario.host.replace(disk=fast))
    assert latency(faster) <= latency(scenario) * (1 + 1e-9)


@given(scenarios())
def test_compression_never_moves_more_bytes(scenario):
    plain = scenario.replace(dtype=DtypeConfig())
    packed = scenario.replace(
        dtype=DtypeConfig(weight_bits=4, quant_group_size=64, kv_bits=4, kv_group_size=64)
    )
    cache = scenario.offload.kv_cache
    assume(max(cache.gpu, cache.cpu, cache.nvme) == 1)
    # The executor's own time is left out: it does not move bytes.
    for stream in ("h2d", "d2h", "disk_read", "disk_write"):
        moved = []
        for scene in (plain, packed):
            # Busy seconds stand for bytes; more and smaller copies may lose in latency what they save in bytes.
            scene = with_offload(scene, attn_sparsity=1.0, attention_device="gpu")
            scene = scene.replace(constants=(*scene.constants, ("copy_latency_us", 0.0)))
            evaluation = FLEXGEN.evaluate(scene, load_of(scene))
            moved.append(sum(p.busy_s.get(stream, 0.0) for p in (evaluation.prefill, evaluation.decode)))
        assert moved[1] <= moved[0] * (1 + 1e-9)


@given(scenarios(), percents, percents)
def test_more_weights_on_the_gpu_are_never_slower(scenario, one, other):
    less, more = sorted((one, other))
    times = [
        latency(with_offload(scenario, weights=Shares(gpu=p / 100, cpu=1 - p / 100))) for p in (less, more)
    ]
    assert times[1] <= times[0] * (1 + 1e-9)


@given(scenarios(attention_device="gpu"))
def test_a_cache_on_the_gpu_is_never_slower_than_on_the_host_than_on_disk(scenario):
    times = [latency(with_offload(scenario, kv_cache=Shares.on(tier))) for tier in ("gpu", "cpu")]
    assert times[0] <= times[1] * (1 + 1e-9)


@given(scenarios(), st.sampled_from(["prompt_len", "gen_len"]))
def test_longer_is_never_faster(scenario, field):
    load = load_of(scenario)
    longer = dataclasses.replace(load, **{field: getattr(load, field) + 50})
    once, again = (FLEXGEN.evaluate(scenario, each) for each in (load, longer))
    assert once.prefill.latency_s + once.decode.latency_s <= (
        again.prefill.latency_s + again.decode.latency_s
    ) * (1 + 1e-9)


@pytest.mark.parametrize("model", ["opt-6.7b", "llama-3.1-8b", "mistral-7b"])
@pytest.mark.parametrize("gpu", ["t4", "a6000", "h100-sxm"])
def test_everything_on_the_gpu_is_resident_up_to_flexgens_own_overheads(model, gpu):
    everything = Shares.on("gpu")
    scenario = Scenario(
        model=get_model_config_by_name(model),
        gpu=get_gpu_config_by_name(gpu),
        host=get_host_config_by_name("gcp-t4"),
        system="flexgen",
        workload=Workload(batch_size=4, prompt_len=512, gen_len=32),
        offload=OffloadConfig(
            weights=everything, kv_cache=everything, activations=everything, gpu_batch_size=4
        ),
    )
    flexgen = FLEXGEN.evaluate(scenario, load_of(scenario))
    resident = get_system("resident").evaluate(scenario.replace(system="resident"), load_of(scenario))
    assert not {"h2d", "d2h", "disk_read", "disk_write"} & {
        k for k, v in flexgen.decode.busy_s.items() if v > 0
    }
    # Unfused attention and logits of all positions in prefill; launches of Python in decode.
    assert 0.9 < flexgen.prefill.latency_s / resident.prefill.latency_s < 2.5
    own = 0.5e-3 * (2 * scenario.model.num_layers + 2) * 31
    assert 0.9 * resident.decode.latency_s < flexgen.decode.latency_s < 1.25 * resident.decode.latency_s + own


# -- memory -------------------------------------------------------------------------------------------------------


@given(scenarios())
def test_memory_holds_every_weight_and_the_whole_cache_once(scenario):
    load = load_of(scenario)
    evaluation = FLEXGEN.evaluate(scenario, load)
    policy = evaluation.placement.policy
    memory = evaluation.memory
    whole = placed_weights(scenario, policy)
    weights = memory.gpu.weights_bytes + memory.cpu.weights_bytes + memory.nvme.weights_bytes
    assert weights == pytest.approx(sum(whole.bytes_on(f"{tier}_bytes") for tier in ("gpu", "cpu", "disk")))
    shares = evaluation.placement.weights
    assert shares.gpu + shares.cpu + shares.nvme == pytest.approx(1)
    cache = memory.gpu.kv_cache_bytes + memory.cpu.kv_cache_bytes + memory.nvme.kv_cache_bytes
    longer = FLEXGEN.memory(
        scenario, dataclasses.replace(load, gen_len=load.gen_len + 10), evaluation.placement
    )
    more = longer.gpu.kv_cache_bytes + longer.cpu.kv_cache_bytes + longer.nvme.kv_cache_bytes
    assert cache <= more


@given(scenarios())
def test_a_larger_batch_never_needs_less_memory(scenario):
    load = load_of(scenario)
    placement = FLEXGEN.place(scenario, load)
    twice = FLEXGEN.memory(scenario, dataclasses.replace(load, batch=2 * load.batch), placement)
    once = FLEXGEN.memory(scenario, load, placement)
    assert once.gpu.total_bytes <= twice.gpu.total_bytes * (1 + 1e-9)
    assert once.cpu.weights_bytes + once.cpu.kv_cache_bytes <= (
        twice.cpu.weights_bytes + twice.cpu.kv_cache_bytes
    ) * (1 + 1e-9)


# -- arrays -------------------------------------------------------------------------------------------------------


@given(scenarios(), st.data())
def test_arrays_of_policies_are_the_single_ones(scenario, data):
    load = load_of(scenario)
    single = []
    for _ in range(3):
        other = data.draw(scenarios())
        changed = scenario.replace(offload=other.offload, dtype=other.dtype, workload=other.workload)
        single.append((changed, FLEXGEN.policy(changed, load_of(changed)), load_of(changed)))

    def stacked(values):
        return np.array(values)

    def tiers(name):
        return TierShares(
            *(
                stacked([getattr(getattr(p, name), tier) for _, p, _ in single])
                for tier in ("gpu", "cpu", "nvme")
            )
        )

    policy = Policy(
        gpu_batch=stacked([p.gpu_batch for _, p, _ in single]),
        num_gpu_batches=stacked([float(p.num_gpu_batches) for _, p, _ in single]),
        weights=tiers("weights"),
        kv_cache=tiers("kv_cache"),
        hidden=tiers("hidden"),
        **{
            name: stacked([getattr(p, name) for _, p, _ in single])
            for name in ("weight_bytes", "kv_bytes", "cpu_attention", "overlap", "pin_weights", "sparsity")
        },
    )
    loads = Load(policy.batch, load.prompt_len, load.gen_len)
    together = FLEXGEN.evaluate_policy(scenario, policy, loads)
    for i, (_, one, _) in enumerate(single):
        alone = FLEXGEN.evaluate_policy(scenario, one, Load(one.batch, load.prompt_len, load.gen_len))
        for left, right in (
            (together.prefill.latency_s, alone.prefill.latency_s),
            (together.decode.latency_s, alone.decode.latency_s),
            (together.memory.gpu.total_bytes, alone.memory.gpu.total_bytes),
            (together.memory.cpu.total_bytes, alone.memory.cpu.total_bytes),
            (together.memory.nvme.total_bytes, alone.memory.nvme.total_bytes),
        ):
            assert np.broadcast_to(left, 3)[i] == pytest.approx(right, rel=1e-12, abs=1e-12)


points_of_workload = st.tuples(st.sampled_from([15, 30, 60]), st.integers(1, 700), st.integers(1, 80))


@given(scenarios(), st.lists(points_of_workload, min_size=2, max_size=4))
def test_arrays_of_workloads_are_the_single_ones(scenario, points):
    scenario = with_offload(scenario, gpu_batch_size=None, num_gpu_batches=1, weights=None, kv_cache=None)
    batch, prompt, gen = (np.array(column, dtype=float) for column in zip(*points, strict=True))
    together = FLEXGEN.evaluate(scenario, Load(batch, prompt, gen))
    for i in range(len(points)):
        alone = FLEXGEN.evaluate(scenario, Load(batch[i].item(), prompt[i].item(), gen[i].item()))
        for phase in ("prefill", "decode"):
            left, right = getattr(together, phase).latency_s, getattr(alone, phase).latency_s
            assert np.broadcast_to(left, batch.shape)[i] == pytest.approx(right, rel=1e-12, abs=1e-12)


# -- traces -------------------------------------------------------------------------------------------------------


@given(scenarios())
def test_a_trace_adds_up_to_the_latency(scenario):
    result = predict_inference(scenario)
    prefill, step = FLEXGEN.schedules(scenario, load_of(scenario))
    shown = [
        sum(span.duration_s for span in schedule_spans(schedule) if span.track == "steps")
        for schedule in (prefill, step)
    ]
    if scenario.workload.gen_len > 1:  # else nothing is loaded for a next pass
        assert shown[0] == pytest.approx(result.prefill.latency_s, rel=1e-9)
    if scenario.workload.gen_len == 2:
        assert shown[1] >= result.decode.latency_s * (1 - 1e-9)


@pytest.mark.parametrize("stages", [1, 2, 4, 3])
def test_a_pipeline_never_makes_more_than_its_stages_faster(stages):
    def scenario(stages):
        return Scenario(
            model=get_model_config_by_name("opt-6.7b"),
            gpu=get_gpu_config_by_name("t4"),
            host=get_host_config_by_name("gcp-t4"),
            system="flexgen",
            parallelism=ParallelismConfig(pp_size=stages),
            num_nodes=stages,
            workload=Workload(batch_size=12 * stages, prompt_len=256, gen_len=16),
            offload=OffloadConfig(
                weights=Shares.on("cpu"), kv_cache=Shares.on("cpu"), activations=Shares.on("cpu"),
                gpu_batch_size=12, micro_batches=stages,
            ),
        )  # fmt: skip

    one, many = predict_inference(scenario(1)), predict_inference(scenario(stages))
    speedup = many.total_throughput_tokens_per_s / one.total_throughput_tokens_per_s
    assert (1 if stages == 1 else 0.6 * stages) <= speedup * (1 + 1e-9)
    assert speedup <= stages * 1.05


@pytest.mark.parametrize("overlap", [True, False])
@pytest.mark.parametrize("prompt_len", [1, 600])
def test_launches_that_stop_being_waited_for_are_summed_exactly(overlap, prompt_len):
    """Launches were left out of the steps whose kernels take longer, so that the two ends of the decode did not match."""
    everything = Shares.on("gpu")
    scenario = Scenario(
        model=get_model_config_by_name("opt-125m"),
        gpu=get_gpu_config_by_name("t4"),
        host=get_host_config_by_name("gcp-t4"),
        system="flexgen",
        workload=Workload(batch_size=64, prompt_len=prompt_len, gen_len=1400),
        offload=OffloadConfig(
            weights=everything, kv_cache=everything, activations=everything, overlap=overlap
        ),
        allow_long_context=True,
    )
    load = load_of(scenario)
    block = BlockSchedule(scenario, FLEXGEN.constants(scenario), FLEXGEN.policy(scenario, load))
    steps = [block.decode_step(load.prompt_len + i).latency_s for i in range(1, 1400)]
    assert FLEXGEN.evaluate(scenario, load).decode.latency_s == pytest.approx(sum(steps), rel=1e-9)
