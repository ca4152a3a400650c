"""Laws that a second drawing of faults asked for: efficiencies that are stated, copies of a cache, parts of a placement."""

from __future__ import annotations

from dataclasses import fields, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm_perf.analysis.request import InferenceInputs, build_scenario
from llm_perf.analysis.training_request import TrainingInputs, build_training_scenario
from llm_perf.config.model import DenseMLP
from llm_perf.hardware.gpu_time import kernel_rates
from llm_perf.requests.simulate import simulate
from llm_perf.requests.workload import Requests
from llm_perf.systems import Load, get_system
from llm_perf.systems.base import TierShares
from llm_perf.systems.flexgen.placement import PhaseTensors, Tensor, place_tensors
from llm_perf.systems.forward import Forward
from llm_perf.systems.training.base import TrainingLoad
from llm_perf.systems.training.framework import framework_constants, get_framework
from llm_perf.systems.training.state import State
from llm_perf.systems.training.step import TrainingStep
from llm_perf.systems.zero_inference.times import ZeroPasses, stream_rates
from tests.laws import strategies as draw


@given(draw.gpus(), st.floats(0.05, 1.0), st.integers(1, 100_000), st.floats(1.0, 1e10))
def test_a_stated_efficiency_is_all_that_a_product_and_a_prompt_s_attention_lose(gpu, share, rows, weights):
    """Of the peak; nothing to tiles or to short queries, which a table of its own would say."""
    rates = kernel_rates(gpu, 16, share)
    peak = gpu.peak_flops_per_s(gpu.dtype_for(16))
    assert rates.gemm.compute_s(rows, weights) == pytest.approx(
        2 * rows * weights / (share * peak), rel=1e-12
    )
    assert rates.attention_half_len == 0


@pytest.mark.parametrize("latency_s", [0.0, 1e-4])
@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_a_cache_on_the_host_is_stored_in_two_copies_of_each_layer(latency_s, share):
    """Keys and values, each of which starts once; none where the cache is on the GPU."""
    scenario = build_scenario(InferenceInputs(model="opt-13b", gpu="t4", ds_zero=3, kv_offload=True))
    system = get_system("zero_inference")
    constants, placed = system.constants(scenario), system.place(scenario, Load.of(scenario.workload))
    rates = stream_rates(scenario, constants)
    rates = replace(rates, gpu_to_host=replace(rates.gpu_to_host, latency_s=latency_s))
    placement = replace(placed, kv_cache=TierShares(1.0 - share, share, 0.0))
    passes = ZeroPasses(scenario, constants, Forward(scenario, constants), placement, rates, 1.0)
    kept = 2 * 5120 * 2 * 40 * 512 * share  # a key and a value of 16 bits of each layer and token
    starts = 2 * 40 if share else 0
    assert passes._store_s(512) == pytest.approx(kept / rates.gpu_to_host.bytes_per_s + starts * latency_s)


@given(
    st.floats(0, 1),
    st.floats(0, 1),
    st.sampled_from([0.5, 2.0]),
    st.lists(st.tuples(st.integers(1, 1000), st.booleans(), st.integers(1, 9)), min_size=1, max_size=5),
)
def test_copies_of_a_tensor_go_where_as_many_tensors_would(disk, cpu, width, tensors):
    shares = TierShares(1 - max(disk, cpu), max(disk, cpu) - min(disk, cpu), min(disk, cpu))
    together = tuple(Tensor(size * 8.0, matrix, copies) for size, matrix, copies in tensors)
    apart = tuple(Tensor(size * 8.0, matrix) for size, matrix, copies in tensors for _ in range(copies))
    left, right = (
        place_tensors(PhaseTensors("mlp", None, each), shares, width) for each in (together, apart)
    )
    for field in fields(left):
        assert getattr(left, field.name) == pytest.approx(getattr(right, field.name)), field.name


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 2, 0)])
def test_a_stage_is_taken_to_hold_the_heaviest_layers_in_whatever_order_they_stand(order):
    asked = TrainingInputs(
        model="llama-3.1-8b", gpu="h100-sxm-80gb", num_gpus=2, pp_size=2, framework="megatron"
    )
    scenario = build_training_scenario(asked)
    (group,) = scenario.model.layer_groups
    widths = [group.replace(count=4, mlp=DenseMLP(ffn_size=size)) for size in (1024, 4096, 16384)]
    scenario = scenario.replace(
        model=scenario.model.replace(layer_groups=tuple(widths[one] for one in order))
    )
    state = State(scenario, framework_constants(scenario, get_framework(scenario.framework)))
    heaviest = sorted((layer.total for layer in state.layers for _ in range(4)), reverse=True)[:6]
    assert state.stage_params().total == pytest.approx(sum(heaviest))
    for stage in state.stages:
        held = sum(state.layers[index].total * count for index, count in stage.layers)
        assert held == pytest.approx(sum(heaviest))


def test_one_rank_of_stage_3_holds_what_it_copies_for_itself():
    """DeepSpeed's one rank copies layers out of its flat shard as others gather them; who does not copy holds less."""

    def buffers(own: float) -> float:
        asked = TrainingInputs(model="opt-1.3b", gpu="a100-sxm-80gb", framework="deepspeed", ds_zero=3)
        scenario = build_training_scenario(asked)
        scenario = scenario.replace(constants=(*scenario.constants, ("own_gather_passes", own)))
        step = TrainingStep(scenario, get_framework(scenario.framework))
        terms = step.footprint.gpu_terms(TrainingLoad(1.0, 1.0, 512.0), step.footprint.stages[0])
        return sum(
            term.size_bytes
            for term in terms
            if term.name in ("layers gathered", "embedding and head gathered")
        )

    assert buffers(0.0) == 0
    assert buffers(1.0) > 0


@pytest.mark.parametrize(("more", "found"), [(-1, 0), (0, 1199 // 16 * 16), (1, 1199 // 16 * 16)])
def test_a_turn_finds_what_an_earlier_one_left_if_it_asks_for_all_of_it(more, found):
    """Its last token is always computed, and only whole blocks are found; a shorter prompt is another one."""
    scenario = build_scenario(InferenceInputs(model="llama-3.1-8b", gpu="h100-sxm-80gb", system="vllm@0.19"))
    requests = Requests.of([0.0, 0.0], [1000, 1200 + more], [200, 10], previous=[-1, 0], think_s=[0.0, 2.0])
    assert simulate(scenario, requests).cached_tokens.tolist() == [0, found]


@pytest.mark.parametrize("heads", [8, 64])
def test_a_layer_s_block_takes_the_width_of_its_block_and_attention_the_heads(heads):
    """In training as in inference: twice the block's width is twice its products, and those of attention are as before."""
    asked = TrainingInputs(model="llama-2-7b", gpu="h100-sxm-80gb", framework="megatron")
    scenario = build_training_scenario(asked)
    (group,) = scenario.model.layer_groups
    group = group.replace(attention=group.attention.replace(num_heads=heads, num_kv_heads=heads))

    def forward_s(width: int) -> dict[str, float]:
        wider = group.replace(mlp=group.mlp.replace(ffn_size=width))
        model = scenario.model.replace(layer_groups=(wider,))
        step = TrainingStep(scenario.replace(model=model), get_framework(scenario.framework))
        return step.kernels.layer(wider, TrainingLoad(1.0, 1.0, 4096.0)).forward

    narrow, wide = forward_s(16384), forward_s(32768)
    assert wide["mlp"] == pytest.approx(2 * narrow["mlp"], rel=0.05)
    assert wide["attention_projections"] == narrow["attention_projections"] > 0
