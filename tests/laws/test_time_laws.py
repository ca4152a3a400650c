"""Laws of time that hold for every model, machine and workload: bounds, monotony, conservation, limit cases."""

import dataclasses
import math

import numpy as np
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from llm_perf.analysis.request import InferenceInputs, build_scenario
from llm_perf.config import DtypeConfig, ModelConfig, ParallelismConfig, Workload
from llm_perf.config.gpu import TEXTBOOK
from llm_perf.config.host import Rate
from llm_perf.config.model import Attention, LayerGroup, MoEMLP
from llm_perf.config.scenario import Scenario
from llm_perf.counts.attention import (
    attended,
    kv_cache_bytes,
    kv_elements_per_token,
    prefill_pairs,
    score_flops_per_pair,
)
from llm_perf.counts.flops import decode_step_flops, prefill_flops
from llm_perf.counts.linears import Linear, layer_linears
from llm_perf.counts.parameters import lm_head_linears, token_table_params
from llm_perf.hardware.gpu_time import kernel_rates
from llm_perf.hardware.roofline import p_norm, roofline_time
from llm_perf.hardware.streams import H2D
from llm_perf.hardware.transfer import copy_path, host_link_bytes_per_s
from llm_perf.systems import Evaluation, Load, PhaseCost, get_system
from llm_perf.systems.forward import Forward
from tests.laws import strategies as draw

EXAMPLES = settings(max_examples=60)
ROUNDING = 1e-9
"""Relative: what the order of additions may change."""

COMMUNICATION = ("all_reduce", "all_gather", "all_to_all", "pipeline_transfer")

factors = st.floats(1.0, 100.0)


def latencies(evaluation: Evaluation) -> list[float]:
    """Prefill and, where there is one, all decode steps."""
    return [phase.latency_s for phase in (evaluation.prefill, evaluation.decode) if phase is not None]


def assert_no_faster_cut_alike(slower: Evaluation, faster: Evaluation) -> None:
    """Phases that the engine cuts into as many micro-batches: its rule asks whether a batch divides, not how large it is."""
    for left, right in ((slower.prefill, faster.prefill), (slower.decode, faster.decode)):
        if left is not None and right is not None and left.micro_batches == right.micro_batches:
            assert left.latency_s >= right.latency_s * (1 - ROUNDING)


def assert_no_faster(slower: Evaluation, faster: Evaluation) -> None:
    for left, right in zip(latencies(slower), latencies(faster), strict=True):
        assert left >= right * (1 - ROUNDING)


# -- faster hardware is never slower ----------------------------------------------------------------------------


@EXAMPLES
@given(draw.scenarios(encoders=True), factors)
def test_more_memory_bandwidth_is_never_slower(scenario, factor):
    gpu = scenario.gpu.replace(hbm_bandwidth_gb_per_s=scenario.gpu.hbm_bandwidth_gb_per_s * factor)
    assert_no_faster(draw.evaluate(scenario), draw.evaluate(scenario.replace(gpu=gpu)))


@EXAMPLES
@given(draw.scenarios(encoders=True), factors)
def test_more_flops_are_never_slower(scenario, factor):
    peaks = {dtype: peak * factor for dtype, peak in scenario.gpu.peak_tflops.items()}
    faster = scenario.replace(gpu=scenario.gpu.replace(peak_tflops=peaks))
    assert_no_faster(draw.evaluate(scenario), draw.evaluate(faster))


@EXAMPLES
@given(draw.scenarios(), factors)
def test_faster_links_between_gpus_are_never_slower(scenario, factor):
    gpu = scenario.gpu
    link = gpu.link
    if link.gb_per_s_per_direction:
        link = link.replace(gb_per_s_per_direction=link.gb_per_s_per_direction * factor)
    faster = gpu.replace(link=link, inter_node_gb_per_s=gpu.inter_node_gb_per_s * factor)
    assert_no_faster(draw.evaluate(scenario), draw.evaluate(scenario.replace(gpu=faster)))


@EXAMPLES
@given(draw.zero_scenarios(), factors)
def test_a_faster_pcie_link_of_the_gpu_is_never_slower(scenario, factor):
    """Of the GPU: a host's measured rate says more about its copies than the data sheet of its link."""
    gpu = scenario.gpu.replace(pcie_gb_per_s=scenario.gpu.pcie_gb_per_s * factor)
    assert_no_faster(draw.evaluate(scenario), draw.evaluate(scenario.replace(gpu=gpu)))


@EXAMPLES
@given(
    draw.zero_scenarios(),
    factors,
    st.sampled_from(["pinned_h2d", "pageable_h2d", "pinned_d2h", "cpu_attention_kv"]),
)
def test_a_faster_copy_path_of_the_host_is_never_slower(scenario, factor, path):
    slow = scenario.host.replace(**{path: Rate(gb_per_s=3.0, provenance="assumed", source="test")})
    fast = scenario.host.replace(**{path: Rate(gb_per_s=3.0 * factor, provenance="assumed", source="test")})
    assert_no_faster(draw.evaluate(scenario.replace(host=slow)), draw.evaluate(scenario.replace(host=fast)))


@EXAMPLES
@given(draw.zero_scenarios(), factors)
def test_a_faster_link_of_the_host_is_never_slower_where_nothing_was_measured(scenario, factor):
    host = scenario.host.replace(pinned_h2d=None, pageable_h2d=None, pinned_d2h=None, pcie_gb_per_s=8.0)
    faster = host.replace(pcie_gb_per_s=8.0 * factor)
    assert_no_faster(draw.evaluate(scenario.replace(host=host)), draw.evaluate(scenario.replace(host=faster)))


@EXAMPLES
@given(draw.zero_scenarios(), factors, st.booleans())
def test_a_faster_disk_is_never_slower(scenario, factor, measured):
    def host(rate: float):
        stated = Rate(gb_per_s=rate, provenance="measured", source="test") if measured else None
        disk = scenario.host.disk.replace(stated_read_gb_per_s=rate, direct_read=stated)
        return scenario.host.replace(disk=disk)

    assert_no_faster(
        draw.evaluate(scenario.replace(host=host(1.0))), draw.evaluate(scenario.replace(host=host(factor)))
    )


# -- more work is never faster ----------------------------------------------------------------------------------


def cut_by_the_engine() -> Scenario:
    """An encoder of experts over two stages of FasterTransformer, which cuts two prompts of a token, and not three."""
    asked = InferenceInputs(model="gpt2", gpu="a100-sxm-80gb", system="fastertransformer", pp_size=2)
    attention = Attention(num_heads=8, num_kv_heads=1, head_dim=16)
    mixture = LayerGroup(count=2, attention=attention, mlp=MoEMLP(num_experts=256, top_k=1, ffn_size=8192))
    model = ModelConfig(
        name="drawn", hidden_size=768, vocab_size=51200, layer_groups=(mixture,), encoder=True
    )
    return build_scenario(asked).replace(
        model=model, workload=Workload(batch_size=2, prompt_len=1, gen_len=1)
    )


@EXAMPLES
@example(cut_by_the_engine(), 1)
@example(cut_by_the_engine(), 2)
@given(draw.scenarios(encoders=True), st.integers(1, 1000))
def test_a_larger_batch_is_never_faster_per_pass(scenario, more):
    """Cut into as many micro-batches: over two stages FasterTransformer cuts 2 sequences and not 3, and reads the weights
    once for these."""
    batch = scenario.workload.batch_size + more * scenario.parallelism.dp_size
    assert_no_faster_cut_alike(draw.evaluate(scenario, batch=float(batch)), draw.evaluate(scenario))


@EXAMPLES
@given(draw.scenarios(encoders=True), st.integers(1, 100_000))
def test_a_longer_context_is_never_faster_per_pass(scenario, more):
    """Windows included; chunked attention is left out: it starts over at every multiple of the chunk. Cut into as many
    micro-batches, which FasterTransformer does by their tokens."""
    longer = float(scenario.workload.prompt_len + more)
    assert_no_faster_cut_alike(draw.evaluate(scenario, prompt_len=longer), draw.evaluate(scenario))


@EXAMPLES
@given(draw.scenarios(), st.integers(1, 1000))
def test_more_generated_tokens_are_never_faster_in_total(scenario, more):
    short, long = (
        draw.evaluate(scenario, gen_len=float(scenario.workload.gen_len + extra)) for extra in (0, more)
    )
    assert_no_faster(long, short)
    assert sum(latencies(long)) > sum(latencies(short)) * (1 - ROUNDING)


@EXAMPLES
@given(draw.scenarios(shortest_gen=2))
def test_n_steps_take_at_least_n_first_steps(scenario):
    steps = scenario.workload.gen_len - 1
    placed = draw.keep_placement(scenario)
    first = draw.evaluate(placed, gen_len=2.0).decode.latency_s
    assert draw.evaluate(placed).decode.latency_s >= steps * first * (1 - ROUNDING)


# -- lower bounds, counted independently ------------------------------------------------------------------------


def matrix_bytes(scenario: Scenario, used: bool) -> float:
    """Bytes of all matrices of the layers, or of those that one token uses, without scales and biases."""
    model = scenario.model
    linears = [
        (group.count, linear)
        for group in model.layer_groups
        for linear in layer_linears(group, model.hidden_size)
    ]
    elements = sum(
        count * (linear.active if used else linear.copies) * linear.weights for count, linear in linears
    )
    return elements * scenario.dtype.weight_bits / 8


@EXAMPLES
@given(draw.scenarios(encoders=True))
def test_time_is_at_least_flops_over_peak(scenario):
    model, gpu, load = scenario.model, scenario.gpu, draw.load_of(scenario)
    batch = load.batch / scenario.parallelism.dp_size
    peak = gpu.peak_flops_per_s(gpu.dtype_for(scenario.dtype.compute_bits)) * scenario.parallelism.tp_size
    evaluation = draw.evaluate(scenario)
    prefill, decode = evaluation.prefill, evaluation.decode
    # Stages work at once where the engine has micro-batches of its own.
    assert 1 <= prefill.stages_busy <= scenario.parallelism.pp_size
    at_once = peak * prefill.stages_busy
    assert prefill.latency_s >= prefill_flops(model, batch, load.prompt_len) / at_once * (1 - ROUNDING)
    if decode is not None and evaluation.placement.kv_cache.gpu == 1:
        step = decode_step_flops(model, batch, load.prompt_len + 1) / (peak * decode.stages_busy)
        assert decode.latency_s >= (load.gen_len - 1) * step * (1 - ROUNDING)


@EXAMPLES
@given(draw.scenarios())
def test_a_step_takes_at_least_its_bytes_over_bandwidth(scenario):
    model, load, tp = scenario.model, draw.load_of(scenario, gen_len=2.0), scenario.parallelism.tp_size
    head = sum(linear.weights for linear in lm_head_linears(model)) * scenario.dtype.embedding_bits / 8
    batch = load.batch / scenario.parallelism.dp_size
    evaluation = draw.evaluate(scenario, gen_len=2.0)
    cache = kv_cache_bytes(model, batch, load.prompt_len + 1, scenario.dtype.kv_bits, tp)
    moved = (matrix_bytes(scenario, used=True) + head) / tp + cache * evaluation.placement.kv_cache.gpu
    bound = moved / scenario.gpu.hbm_bandwidth_bytes_per_s
    assert evaluation.decode.latency_s >= bound * (1 - ROUNDING)


@EXAMPLES
@example(cut_by_the_engine())
@given(draw.scenarios(encoders=True))
def test_attention_takes_at_least_its_flops_over_peak_and_its_cache_over_bandwidth(scenario):
    """Of all layers on one rank, whether kernels are fused or not; a cache on the host is read there. Parts are seconds of
    the batch: stages attend at once where an engine cuts it."""
    model, gpu, tp = scenario.model, scenario.gpu, scenario.parallelism.tp_size
    batch, prompt = scenario.workload.batch_size / scenario.parallelism.dp_size, scenario.workload.prompt_len
    evaluation = draw.evaluate(scenario, gen_len=2.0)
    bits, bandwidth = scenario.dtype.kv_bits, gpu.hbm_bandwidth_bytes_per_s
    peak = max(gpu.peak_flops_per_s(dtype) for dtype in gpu.peak_tflops) * tp
    pairs = sum(
        group.count
        * prefill_pairs(group.attention, prompt, not model.encoder)
        * score_flops_per_pair(group.attention)
        for group in model.layer_groups
    )

    def spent_s(phase: PhaseCost) -> float:
        at_once = scenario.parallelism.pp_size if phase.micro_batches > 1 else 1
        return phase.parts_s["attention"] * at_once

    spent = spent_s(evaluation.prefill)
    assert spent >= batch * pairs / peak * (1 - ROUNDING)
    whole = sum(group.count * kv_elements_per_token(group.attention, tp) for group in model.layer_groups)
    assert spent >= batch * prompt * whole * bits / 8 / bandwidth * (1 - ROUNDING)
    if evaluation.decode is not None and evaluation.placement.kv_cache.gpu == 1:
        cache = kv_cache_bytes(model, batch, prompt + 1, bits, tp)
        assert spent_s(evaluation.decode) >= cache / bandwidth * (1 - ROUNDING)


@given(
    draw.gpus(),
    draw.hosts(),
    st.sampled_from(["pinned_h2d", "pinned_d2h", "pageable_h2d"]),
    st.floats(0.1, 1.0),
)
def test_no_copy_beats_its_link(gpu, host, path, ratio):
    rate = copy_path(H2D, gpu, host, "zero_inference", path, ratio, "test").bytes_per_s
    assert 0 < rate <= host_link_bytes_per_s(gpu, host)


@EXAMPLES
@given(draw.zero_scenarios())
def test_a_pass_takes_at_least_its_streamed_bytes_over_the_link_and_the_disk(scenario):
    """Of a mixture, those of the experts that one token is sent to."""
    evaluation = draw.evaluate(scenario, gen_len=2.0)
    table = token_table_params(scenario.model) * scenario.dtype.embedding_bits / 8
    streamed, tiers = matrix_bytes(scenario, used=True) + table, evaluation.placement.weights
    link = host_link_bytes_per_s(scenario.gpu, scenario.host) * scenario.parallelism.dp_size
    disk = scenario.host.disk.read_bytes_per_s("direct")
    for latency in latencies(evaluation):
        assert latency >= streamed * (tiers.cpu + tiers.nvme) / link * (1 - ROUNDING)
        assert latency >= streamed * tiers.nvme / disk * (1 - ROUNDING)


# -- conservation -----------------------------------------------------------------------------------------------


@EXAMPLES
@given(draw.scenarios(encoders=True))
def test_parts_sum_to_the_latency_and_none_is_negative(scenario):
    evaluation = draw.evaluate(scenario)
    for phase in (evaluation.prefill, evaluation.decode):
        if phase is not None:
            assert sum(phase.parts_s.values()) == pytest.approx(phase.latency_s, rel=1e-9, abs=0)
            assert all(seconds >= 0 for seconds in phase.parts_s.values()), phase.parts_s
            assert all(seconds >= 0 for seconds in phase.busy_s.values()), phase.busy_s


@EXAMPLES
@given(draw.scenarios(encoders=True))
def test_nothing_is_waited_for_longer_than_it_is_busy(scenario):
    """What host, weight stream and offloaded cache add to the device's time is at most their own work."""
    evaluation = draw.evaluate(scenario)
    for phase in (evaluation.prefill, evaluation.decode):
        if phase is not None:
            busy = sum(
                phase.busy_s.get(name, 0.0) for name in ("host", "pcie", "nvme", "cpu", "interconnect")
            )
            waited = ("framework", "weight_streaming", "kv_offload", *COMMUNICATION)
            assert sum(phase.parts_s.get(name, 0.0) for name in waited) <= busy * (1 + ROUNDING)


@EXAMPLES
@given(draw.scenarios(encoders=True), st.lists(draw.workloads(), min_size=2, max_size=5))
def test_a_scalar_call_equals_the_same_point_inside_a_vector_call(scenario, others):
    replicas = scenario.parallelism.dp_size
    rows = [scenario.workload, *(other.replace(batch_size=other.batch_size * replicas) for other in others)]
    columns = [
        np.array([getattr(row, name) for row in rows], float)
        for name in ("batch_size", "prompt_len", "gen_len")
    ]
    together = get_system(scenario.system).evaluate(scenario, Load(*columns))
    for index, row in enumerate(rows):
        alone = draw.evaluate(scenario.replace(workload=row))
        assert_same_point(alone, together, index)


def assert_same_point(alone: object, together: object, index: int, scale: float = 0.0) -> None:
    """Every number of two results agree to 1e-12, whatever they are nested in; parts, as differences, of their sum."""
    if isinstance(alone, PhaseCost):
        scale = alone.latency_s
    if dataclasses.is_dataclass(alone):
        for field in dataclasses.fields(alone):
            if field.name == "terms":  # formulas with their values are of a single configuration
                continue
            assert_same_point(getattr(alone, field.name), getattr(together, field.name), index, scale)
    elif isinstance(alone, dict):
        assert alone.keys() == together.keys()
        for name in alone:
            assert_same_point(alone[name], together[name], index, scale)
    elif not isinstance(alone, (str, tuple)) and alone is not None:
        point = together[index] if np.ndim(together) else together
        assert point == pytest.approx(alone, rel=1e-12, abs=1e-12 * scale)


@EXAMPLES
@given(draw.resident_scenarios(), st.sampled_from([2, 4]))
def test_replicas_work_side_by_side(scenario, replicas):
    """N replicas with N times the batch take the time and, each, the memory of one GPU; nothing is communicated."""
    batch = scenario.workload.batch_size * replicas
    many = scenario.replace(
        parallelism=ParallelismConfig(dp_size=replicas), workload=scenario.workload.replace(batch_size=batch)
    )
    one, all_of_them = draw.evaluate(scenario), draw.evaluate(many)
    assert latencies(all_of_them) == latencies(one)
    assert all_of_them.memory == one.memory
    assert not set(COMMUNICATION) & all_of_them.prefill.parts_s.keys()


@EXAMPLES
@given(draw.resident_scenarios(), st.sampled_from([2, 4, 8]))
def test_a_tensor_parallel_rank_takes_between_its_share_and_the_whole_on_the_device(scenario, tp):
    """Communication left out, and the L2 cache: a rank's scores may fit it where those of all heads did not."""
    scenario = scenario.replace(gpu=scenario.gpu.replace(l2_mib=None))
    whole, part = (
        device_s(scenario.replace(parallelism=ParallelismConfig(tp_size=size, sp_size=1))) for size in (1, tp)
    )
    for rank, all_work in zip(part, whole, strict=True):
        assert all_work / tp * (1 - ROUNDING) <= rank <= all_work * (1 + ROUNDING)


@EXAMPLES
@given(
    draw.resident_scenarios(
        system="resident", gpu=draw.gpus(efficiency=TEXTBOOK), model=draw.models(only_moe=True)
    ),
    st.sampled_from([1, 2, 4]),
    st.sampled_from([1, 2, 4]),
    st.sampled_from([2, 4, 8]),
)
def test_spreading_experts_moves_work_but_makes_none(scenario, tp, dp, ep):
    """Over replicas, over tensor ranks or both: a rank computes the same FLOPs and never reads more weights."""
    fewest = min(group.mlp.num_experts for group in scenario.model.layer_groups)
    assume(ep <= tp * dp and ep <= fewest)
    batch = scenario.workload.batch_size * dp
    apart, spread = (
        draw.evaluate(
            scenario.replace(
                parallelism=ParallelismConfig(tp_size=tp, dp_size=dp, ep_size=size, sp_size=1),
                workload=scenario.workload.replace(batch_size=batch),
            )
        )
        for size in (1, ep)
    )
    for left, right in ((apart.prefill, spread.prefill), (apart.decode, spread.decode)):
        assert right.busy_s["compute"] == pytest.approx(left.busy_s["compute"], rel=1e-9)
        assert right.busy_s["hbm"] <= left.busy_s["hbm"] * (1 + ROUNDING)


def device_s(scenario: Scenario) -> list[float]:
    """Device seconds of a prefill and of a decode step, without communication."""
    forward, load = Forward(scenario, get_system(scenario.system).constants(scenario)), draw.load_of(scenario)
    step, attention = forward.decode_step(load.batch)
    prefill = forward.prefill(load.batch, load.prompt_len)
    apart = sum(prefill.parts_s.get(name, 0.0) for name in ("all_reduce", "all_gather"))
    apart_of_step = sum(step.parts_s.get(name, 0.0) for name in ("all_reduce", "all_gather"))
    context_s = forward.attention_s(attention, load.prompt_len + 1)
    return [prefill.total_s - apart, step.total_s - apart_of_step + context_s]


# -- limit cases ------------------------------------------------------------------------------------------------

times = st.floats(1e-9, 1e5)


@given(times, times, st.floats(1.0, 1000.0))
def test_the_p_norm_lies_between_the_larger_and_the_sum(left, right, exponent):
    combined = p_norm(left, right, exponent)
    assert max(left, right) * (1 - 1e-12) <= combined <= (left + right) * (1 + 1e-12)
    assert p_norm(np.array([left]), right, exponent)[0] == pytest.approx(combined, rel=1e-12)


@given(times, times)
def test_the_p_norm_tends_to_the_larger_one(left, right):
    assert p_norm(left, right, math.inf) == max(left, right)
    assert p_norm(left, right, 1000.0) == pytest.approx(max(left, right), rel=1e-3)
    assert p_norm(left, right, 1) == left + right


@given(draw.gpus(efficiency=TEXTBOOK), st.floats(1, 1e15), st.floats(1, 1e12))
def test_an_infinite_knee_is_the_textbook_roofline(gpu, flops, moved):
    peak, bandwidth = gpu.peak_flops_per_s("fp16"), gpu.hbm_bandwidth_bytes_per_s
    textbook = max(flops / peak, moved / bandwidth)
    assert roofline_time(flops, moved, peak, bandwidth) == textbook
    gemm = kernel_rates(gpu, 16).gemm
    assert gemm.time_s(gemm.compute_s(1.0, flops / 2), gemm.memory_s(moved, 0.0)) == pytest.approx(
        textbook, rel=1e-12
    )


IDEAL_STACK = {
    "kernels_per_layer": 0,
    "launch_us": 0,
    "elementwise_hidden_vectors": 0,
    "elementwise_ffn_vectors": 0,
}


@EXAMPLES
@given(
    draw.resident_scenarios(
        system="resident",
        gpu=draw.gpus(efficiency=TEXTBOOK),
        model=draw.models(moe=False),
        dtype=DtypeConfig(),
    )
)
def test_an_ideal_step_is_the_textbook_roofline_of_its_products_and_its_attention(scenario):
    """Nothing but matrices that share an input, and attention: each the longer of its arithmetic and its traffic."""
    ideal = scenario.replace(constants=tuple((name, float(value)) for name, value in IDEAL_STACK.items()))
    model, load = scenario.model, draw.load_of(scenario)
    context = load.prompt_len + 1
    expected = sum(textbook_s(scenario, [linear], load.batch) for linear in lm_head_linears(model))
    for group in model.layer_groups:
        products: dict[str, list[Linear]] = {}
        for linear in layer_linears(group, model.hidden_size):
            products.setdefault(linear.op, []).append(linear)
        layer = sum(textbook_s(scenario, linears, load.batch) for linears in products.values())
        pairs = load.batch * attended(group.attention, context)
        flops = pairs * score_flops_per_pair(group.attention, absorbed=True)
        layer += longer(scenario, flops, 2 * pairs * kv_elements_per_token(group.attention))
        expected += group.count * layer
    assert draw.evaluate(ideal, gen_len=2.0).decode.latency_s == pytest.approx(expected, rel=1e-9)


def textbook_s(scenario: Scenario, linears: list[Linear], tokens: float) -> float:
    """Seconds of 16-bit matrices with one input: weights, the input and the outputs move once."""
    weights = sum(linear.weights for linear in linears)
    values = weights + tokens * (linears[0].in_features + sum(linear.out_features for linear in linears))
    return longer(scenario, 2 * weights * tokens, 2 * values)


def longer(scenario: Scenario, flops: float, moved: float) -> float:
    return max(flops / scenario.gpu.peak_flops_per_s("fp16"), moved / scenario.gpu.hbm_bandwidth_bytes_per_s)


@EXAMPLES
@given(draw.resident_scenarios(system="resident"), st.sampled_from(draw.REAL_FAMILIES))
def test_no_real_gpu_beats_the_textbook(scenario, family):
    real = scenario.gpu.replace(efficiency=draw.real_efficiency(family))
    textbook = scenario.gpu.replace(efficiency=TEXTBOOK, l2_mib=None)
    plain = scenario.replace(gpu=real.replace(l2_mib=None))
    assert_no_faster(draw.evaluate(plain), draw.evaluate(scenario.replace(gpu=textbook)))
