"""Laws of memory that hold for every model, machine and workload: conservation, monotony, what fits and what does not."""

import dataclasses
import math

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from llm_perf.analysis.inference import (
    largest_fitting,
    max_batch_size,
    max_context_len,
    predict_inference,
)
from llm_perf.config import DtypeConfig, ParallelismConfig, Shares
from llm_perf.config.scenario import Scenario
from llm_perf.counts.linears import layer_linears
from llm_perf.counts.parameters import (
    embedding_params,
    layer_vector_params,
    lm_head_params,
    token_table_params,
    total_params,
)
from llm_perf.systems import get_system
from llm_perf.systems.base import MemoryParts, MemoryUse
from llm_perf.systems.footprint import model_weight_bytes, stage_weight_bytes
from tests.laws import strategies as draw

EXAMPLES = settings(max_examples=60)
ROUNDING = 1e-9

PARTS = ("weights_bytes", "kv_cache_bytes", "activations_bytes", "buffers_bytes", "reserved_bytes")


def tiers(memory: MemoryUse) -> list[MemoryParts]:
    return [memory.gpu, memory.cpu, memory.nvme]


def assert_no_smaller(larger: MemoryParts, smaller: MemoryParts, names: tuple[str, ...] = PARTS) -> None:
    for name in names:
        assert getattr(larger, name) >= getattr(smaller, name) * (1 - ROUNDING), name


def memory_of(scenario: Scenario, **changes: float) -> MemoryUse:
    return draw.evaluate(scenario, **changes).memory


# -- conservation -------------------------------------------------------------------------------------------------


@EXAMPLES
@given(draw.scenarios(encoders=True))
def test_parts_sum_to_the_total_of_each_tier_and_decide_what_fits(scenario):
    memory = memory_of(scenario)
    for parts in tiers(memory):
        sizes = [getattr(parts, name) for name in PARTS]
        assert all(size >= 0 for size in sizes)
        assert math.fsum(sizes) == pytest.approx(parts.total_bytes, rel=1e-12)
        assert parts.fits == (parts.shortfall_bytes == 0)
        assert parts.total_bytes - parts.shortfall_bytes <= max(parts.capacity_bytes, parts.total_bytes)
    assert memory.fits == all(parts.fits for parts in tiers(memory))


@EXAMPLES
@given(draw.resident_scenarios(model=draw.models(latent=False)), st.sampled_from([2, 4, 8]))
def test_sharded_times_tp_and_replicated_are_the_whole(scenario, tp):
    assume(all(tp <= group.attention.num_kv_heads for group in scenario.model.layer_groups))
    rank = model_weight_bytes(scenario.replace(parallelism=ParallelismConfig(tp_size=tp)))
    once = replicated_bytes(scenario)
    assert (rank - once) * tp + once == pytest.approx(model_weight_bytes(scenario), rel=1e-12)


def replicated_bytes(scenario: Scenario) -> float:
    """What every tensor-parallel rank holds whole: norms, routers, biases after a sum over ranks, positions."""
    model, wide, narrow = scenario.model, scenario.dtype.activation_bits, scenario.dtype.stored_weight_bits
    table = token_table_params(model)
    head_matrix = 0 if model.tied_embeddings else table
    head_bias = model.vocab_size if model.lm_head_bias else 0
    bits = wide * (embedding_params(model) - table + lm_head_params(model) - head_matrix - head_bias)
    for group in model.layer_groups:
        bits += group.count * wide * layer_vector_params(model, group)
        for linear in layer_linears(group, model.hidden_size):
            if linear.op == "router":
                bits += group.count * wide * linear.params
            elif linear.split == "row" and linear.bias:
                bits += group.count * narrow * linear.copies * linear.out_features
    return bits / 8


@EXAMPLES
@given(draw.resident_scenarios(dtype=DtypeConfig()))
def test_sixteen_bits_are_two_bytes_per_parameter(scenario):
    assert model_weight_bytes(scenario) == 2 * total_params(scenario.model)


@EXAMPLES
@given(draw.resident_scenarios(), st.integers(1, 12))
def test_pipeline_stages_hold_the_whole_between_them(scenario, stages):
    assume(stages <= scenario.model.num_layers)
    parallelism = ParallelismConfig(pp_size=stages)
    stage = stage_weight_bytes(scenario.replace(parallelism=parallelism))
    whole = model_weight_bytes(scenario)
    assert stage * stages >= whole * (1 - ROUNDING)
    if stages == 1:
        assert stage == pytest.approx(whole, rel=1e-12)


shares = st.tuples(st.integers(0, 4), st.integers(0, 4), st.integers(0, 4)).filter(any)


@EXAMPLES
@given(draw.zero_scenarios(), shares)
def test_streamed_weights_are_on_host_and_disk_once(scenario, parts):
    weights = Shares(
        **{tier: part / sum(parts) for tier, part in zip(("gpu", "cpu", "nvme"), parts, strict=True)}
    )
    memory = memory_of(scenario.replace(offload=scenario.offload.replace(weights=weights)))
    whole = model_weight_bytes(scenario)
    assert memory.cpu.weights_bytes == pytest.approx(whole * weights.cpu, rel=1e-12)
    assert memory.nvme.weights_bytes == pytest.approx(whole * weights.nvme, rel=1e-12)
    everywhere = memory.gpu.weights_bytes * scenario.parallelism.dp_size + sum(
        parts.weights_bytes for parts in (memory.cpu, memory.nvme)
    )
    assert everywhere >= whole * (1 - ROUNDING)
    if weights.gpu == 1 and scenario.parallelism.dp_size == 1:
        assert memory.gpu.weights_bytes == pytest.approx(whole, rel=1e-12)


@EXAMPLES
@given(draw.zero_scenarios())
def test_an_offloaded_cache_is_on_the_host_instead(scenario):
    weights = Shares.on("cpu")
    on, off = (
        memory_of(
            scenario.replace(offload=scenario.offload.replace(weights=weights, kv_cache=Shares.on(tier)))
        )
        for tier in ("gpu", "cpu")
    )
    assert on.cpu.kv_cache_bytes == off.gpu.kv_cache_bytes == 0
    assert off.cpu.kv_cache_bytes == pytest.approx(on.gpu.kv_cache_bytes * scenario.gpus_per_node, rel=1e-12)


@EXAMPLES
@given(draw.zero_scenarios(), st.sampled_from([2, 4, 8]))
def test_ranks_share_the_weights_and_keep_small_parameters_whole(scenario, ranks):
    resident = scenario.offload.replace(weights=Shares.on("gpu"))
    batch = scenario.workload.replace(batch_size=ranks)
    one, many = (
        memory_of(
            scenario.replace(parallelism=ParallelismConfig(dp_size=n), workload=batch, offload=resident)
        ).gpu
        for n in (1, ranks)
    )
    kept = small_parameter_bytes(scenario)
    assert many.weights_bytes == pytest.approx(kept + (one.weights_bytes - kept) / ranks, rel=1e-12)


def small_parameter_bytes(scenario: Scenario) -> float:
    """Norms, and biases of at most the hidden size: ZeRO's persistence threshold. Those of experts are stacked."""
    model = scenario.model
    elements = 0
    for group in model.layer_groups:
        biases = [
            linear for linear in layer_linears(group, model.hidden_size) if linear.bias and linear.copies == 1
        ]
        small = sum(linear.out_features for linear in biases if linear.out_features <= model.hidden_size)
        elements += group.count * (layer_vector_params(model, group) + small)
    return elements * scenario.dtype.activation_bits / 8


@EXAMPLES
@given(draw.resident_scenarios(parallel=True, system="fastertransformer"))
def test_fastertransformer_stores_a_tied_table_twice(scenario):
    plain, twice = (
        memory_of(scenario.replace(system=system)).gpu.weights_bytes
        for system in ("resident", "fastertransformer")
    )
    model, bits = scenario.model, scenario.dtype.stored_embedding_bits
    table = model.vocab_size * model.hidden_size / scenario.parallelism.tp_size * bits / 8
    alone = model.tied_embeddings and scenario.parallelism.pp_size == 1
    assert twice - plain == pytest.approx(table if alone else 0, rel=1e-6, abs=1e-6 * plain)


# -- monotony -----------------------------------------------------------------------------------------------------


@EXAMPLES
@given(
    draw.scenarios(encoders=True), st.integers(1, 10_000), st.sampled_from(["batch", "prompt_len", "gen_len"])
)
def test_more_work_never_takes_less_memory_where_the_weights_stay(scenario, more, field):
    placed = draw.keep_placement(scenario)
    grown = getattr(draw.load_of(scenario), field) + more * scenario.parallelism.dp_size
    for larger, smaller in zip(
        tiers(memory_of(placed, **{field: grown})), tiers(memory_of(placed)), strict=True
    ):
        assert_no_smaller(larger, smaller)


@EXAMPLES
@given(draw.resident_scenarios(), st.sampled_from([2, 4, 8]))
def test_tensor_parallelism_never_takes_more_per_gpu_but_for_its_communicator(scenario, tp):
    one, part = (
        memory_of(scenario.replace(parallelism=ParallelismConfig(tp_size=size, sp_size=1))).gpu
        for size in (1, tp)
    )
    assert_no_smaller(one, part, ("weights_bytes", "kv_cache_bytes", "activations_bytes", "reserved_bytes"))


@EXAMPLES
@given(draw.scenarios(encoders=True), st.sampled_from([(16, 8), (8, 4)]), st.integers(4, 256), st.booleans())
def test_fewer_bits_per_weight_never_take_more_bytes(scenario, bits, group, table):
    """Groups of four and more: a scale and a minimum take 32 bits, which smaller groups do not save."""
    placed = draw.keep_placement(scenario)
    plain, quantised = (
        memory_of(
            placed.replace(
                dtype=placed.dtype.replace(
                    weight_bits=width,
                    activation_bits=16,
                    embedding_bits=width if table else 16,
                    quant_group_size=group if width < 16 else None,
                )
            )
        )
        for width in bits
    )
    for larger, smaller in zip(tiers(plain), tiers(quantised), strict=True):
        assert_no_smaller(larger, smaller)


# -- what fits ----------------------------------------------------------------------------------------------------


def fits(scenario: Scenario, placement: object, **changes: float) -> bool:
    return bool(
        get_system(scenario.system).memory(scenario, draw.load_of(scenario, **changes), placement).fits
    )


@EXAMPLES
@given(draw.scenarios(encoders=True))
def test_the_largest_batch_fits_and_the_next_does_not(scenario):
    system, load, replicas = get_system(scenario.system), draw.load_of(scenario), scenario.parallelism.dp_size
    placement = system.place(scenario, load)
    largest = max_batch_size(system, scenario, load, placement)
    assert largest % replicas == 0
    assert largest == 0 or fits(scenario, placement, batch=float(largest))
    assert not fits(scenario, placement, batch=float(largest + replicas))
    if fits(scenario, placement):
        assert largest >= load.batch


@EXAMPLES
@given(draw.scenarios(limited=True))
def test_the_longest_context_fits_and_the_next_does_not(scenario):
    system, load = get_system(scenario.system), draw.load_of(scenario)
    placement = system.place(scenario, load)
    longest = max_context_len(system, scenario, load, placement)
    limit = scenario.model.max_position_embeddings
    assert longest <= (limit or math.inf)
    if longest:
        assert fits(scenario, placement, prompt_len=longest - load.gen_len)
    if longest != limit:
        assert not fits(scenario, placement, prompt_len=max(longest + 1 - load.gen_len, 1.0))


@given(st.integers(0, 10**7), st.integers(1, 10**7))
def test_the_search_finds_every_border(border, most):
    assert largest_fitting(lambda n: n <= border, most) == min(border, most)


@EXAMPLES
@given(draw.zero_scenarios())
def test_weights_go_to_the_first_tier_that_holds_them(scenario):
    scenario = scenario.replace(offload=scenario.offload.replace(weights=None))
    load = draw.load_of(scenario)
    system = get_system("zero_inference")
    chosen = system.place(scenario, load)

    def memory(tier: str) -> MemoryUse:
        weights = {name: float(name == tier) for name in ("gpu", "cpu", "nvme")}
        placement = dataclasses.replace(chosen, weights=dataclasses.replace(chosen.weights, **weights))
        return system.memory(scenario, load, placement)

    assert chosen.weights.gpu == float(memory("gpu").gpu.fits)
    assert chosen.weights.cpu == float(not memory("gpu").gpu.fits and memory("cpu").cpu.fits)
    assert chosen.weights.gpu + chosen.weights.cpu + chosen.weights.nvme == 1
    assert chosen.reason


@EXAMPLES
@given(draw.scenarios(limited=True))
def test_a_prediction_says_what_is_missing_where_it_does_not_fit(scenario):
    result = predict_inference(scenario)
    assert result.feasible == (result.reason is None) == result.memory.fits
    assert result.feasible == (result.max_batch_size >= scenario.workload.batch_size)
    assert result.peak_gpu_memory_bytes == result.memory.gpu.total_bytes - result.memory.gpu.reserved_bytes
    if not result.feasible:
        assert "missing" in result.reason
