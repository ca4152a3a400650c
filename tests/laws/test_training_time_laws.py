"""Laws of a training step's time: overlap, a board's power, context and expert parallelism, hybrids, further tokens."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llm_perf.analysis.training import predict_training
from llm_perf.analysis.training_request import TrainingInputs, build_training_scenario
from llm_perf.config import (
    ParallelismConfig,
    get_gpu_config_by_name,
    get_host_config_by_name,
    get_model_config_by_name,
)
from llm_perf.config.training import TrainingPlan, TrainingScenario
from llm_perf.counts.attention import score_flops_per_pair
from llm_perf.errors import SpecError
from llm_perf.systems.training.base import TrainingLoad
from llm_perf.systems.training.framework import get_framework
from llm_perf.systems.training.step import TrainingStep

NANO = "nvidia/NVIDIA-Nemotron-3-Nano-30B-A3B"
SUPER = "nvidia/NVIDIA-Nemotron-3-Super-120B-A12B"


def scenario(
    model="llama-3-8b", gpu="b200-180gb", framework="megatron", nodes=1, plan=None, **sizes
) -> TrainingScenario:
    spec = get_gpu_config_by_name(gpu)
    fields = {"seq_len": 4096, "micro_batch_size": 1, "gradient_accumulation_steps": 4}
    return TrainingScenario(
        model=get_model_config_by_name(model),
        gpu=spec,
        host=get_host_config_by_name(spec.default_host),
        framework=framework,
        plan=TrainingPlan(**fields | (plan or {})),
        parallelism=ParallelismConfig(**sizes),
        num_nodes=nodes,
        allow_long_context=True,
    )


def step_s(base: TrainingScenario, **changes) -> float:
    return predict_training(base.replace(plan=base.plan.replace(**changes))).step_time_s


# -- overlap --------------------------------------------------------------------------------------------------------


@settings(max_examples=40, deadline=None)
@given(
    switch=st.sampled_from(("overlap_grad_reduce", "overlap_param_gather", "tp_comm_overlap")),
    framework=st.sampled_from(("megatron", "fsdp", "deepspeed", "megatron_bridge")),
    stage=st.integers(0, 3),
    tp=st.sampled_from((1, 2, 4)),
    steps=st.sampled_from((1, 2, 16)),
    others=st.booleans(),
)
def test_an_overlap_never_makes_a_step_slower(switch, framework, stage, tp, steps, others):
    plan = {
        "ds_zero": stage,
        "gradient_accumulation_steps": steps,
        "overlap_grad_reduce": others,
        "overlap_param_gather": others,
    }
    base = scenario(framework=framework, plan=plan, tp_size=tp, sp_size=tp, dp_size=8 // tp)
    assert step_s(base, **{switch: True}) <= step_s(base, **{switch: False}) * (1 + 1e-12)


def test_switches_change_nothing_where_there_is_nothing_to_overlap():
    alone = scenario(plan={"ds_zero": 1})
    times = {
        step_s(alone, overlap_grad_reduce=a, overlap_param_gather=b, tp_comm_overlap=c)
        for a in (False, True)
        for b in (False, True)
        for c in (False, True)
    }
    assert len(times) == 1


def test_without_overlap_a_reduction_is_waited_for_whole_and_once_per_step():
    few = scenario(plan={"ds_zero": 1, "gradient_accumulation_steps": 1}, dp_size=8)
    waits = []
    for steps in (1, 8):
        plan = few.plan.replace(
            gradient_accumulation_steps=steps, overlap_grad_reduce=False, overlap_param_gather=False
        )
        waits.append(predict_training(few.replace(plan=plan)).breakdown_s["gradient_reduction"])
    assert waits[0] == waits[1]
    model = TrainingStep(few, get_framework("megatron"))
    whole = model.exchange.reduced_s(model.footprint.trained) + model.exchange.updated_s(
        model.footprint.trained
    )
    assert waits[0] == pytest.approx(whole, rel=1e-12)


@pytest.mark.parametrize(
    ("framework", "stage", "overlaps"),
    [("megatron", 1, (False, False)), ("megatron_bridge", 1, (True, True)), ("fsdp", 3, (True, True)),
     ("deepspeed", 2, (False, False)), ("deepspeed", 3, (True, True))],
)  # fmt: skip
def test_each_framework_has_its_documented_defaults(framework, stage, overlaps):
    found = get_framework(framework).defaults_at(stage)
    assert (found["overlap_grad_reduce"], found["overlap_param_gather"]) == overlaps
    assert not found["tp_comm_overlap"]


@pytest.mark.parametrize(("stage", "overlaps"), [(None, False), (2, False), (3, True)])
def test_a_question_has_the_defaults_of_its_stage(stage, overlaps):
    asked = TrainingInputs(
        model="llama-3-8b", gpu="h100-sxm-80gb", framework="deepspeed", num_gpus=8, ds_zero=stage
    )
    plan = build_training_scenario(asked).plan
    assert (plan.overlap_grad_reduce, plan.overlap_param_gather) == (overlaps, overlaps)
    plan = build_training_scenario(asked.replace(overlap_grad_reduce=not overlaps)).plan
    assert (plan.overlap_grad_reduce, plan.overlap_param_gather) == (not overlaps, overlaps)


# -- power ----------------------------------------------------------------------------------------------------------


@settings(max_examples=20, deadline=None)
@given(
    model=st.sampled_from(("llama-3-8b", "qwen3-30b-a3b", NANO)),
    low=st.floats(300, 900),
    more=st.floats(1, 600),
)
def test_more_power_never_makes_a_step_slower(model, low, more):
    base = scenario(model, plan={"seq_len": 2048})
    assert step_s(base, power_limit_w=low + more) <= step_s(base, power_limit_w=low) * (1 + 1e-12)


def test_a_board_without_a_limit_is_one_whose_energies_are_not_known():
    base = scenario()
    own = base.gpu.efficiency
    fitted = {path: one for path, one in own.training.fitted.items() if not path.startswith("power")}
    assumed = tuple(path for path in own.training.assumed if not path.startswith("power"))
    training = own.training.replace(power=None, fitted=fitted, assumed=assumed)
    unknown = base.replace(gpu=base.gpu.replace(efficiency=own.replace(training=training)))
    assert step_s(base, power_limit_w=1500) == pytest.approx(step_s(unknown), rel=1e-12)


def test_a_products_share_of_a_boards_watts_is_what_it_sustains():
    """16-bit products of seconds on a B200 at 1000 W: (1 - static share) x 1000 W over the energy of a FLOP."""
    rates = TrainingStep(scenario(), get_framework("megatron")).kernels.rates
    power = rates.efficiency.power
    sustained = 1.0 / rates.board.least_s(rates.board.product_j)
    assert sustained == pytest.approx(
        1000 * (1 - power.static_share) / (power.pj_per_flop * 1e-12), rel=1e-12
    )
    assert 0.85e15 < sustained < 1.1e15


def test_half_the_bits_take_half_the_energy():
    power = get_gpu_config_by_name("b200-180gb").efficiency.training.power
    assert power.flop_j("bf16") == 2 * power.flop_j("fp8") == 4 * power.flop_j("fp4")


# -- context and expert parallelism ---------------------------------------------------------------------------------


def test_one_context_rank_exchanges_nothing_however():
    times = {step_s(scenario(), cp_comm_type=kind) for kind in ("p2p", "all_gather", "a2a")}
    assert len(times) == 1


@settings(max_examples=20, deadline=None)
@given(cp=st.sampled_from((2, 4, 8)), seq_len=st.sampled_from((8192, 32768, 131072)))
def test_a_ring_waits_for_no_more_than_a_gather_and_its_starts(cp, seq_len):
    base = scenario(plan={"seq_len": seq_len}, cp_size=cp)
    ring, gather = step_s(base, cp_comm_type="p2p"), step_s(base, cp_comm_type="all_gather")
    starts = 4 * base.model.num_layers * 3 * (cp - 2) * 30e-6
    assert ring <= gather + starts


def test_a_long_sequence_hides_its_ring():
    base = scenario(plan={"seq_len": 131072}, cp_size=4)
    assert "context_parallel" not in predict_training(base).breakdown_s


def test_heads_that_do_not_divide_refuse_the_exchange_of_heads():
    with pytest.raises(
        SpecError, match=r"cp_comm_type a2a gives each of .* 16 ranks whole heads, and .* has 8"
    ):
        scenario(plan={"cp_comm_type": "a2a"}, cp_size=16, nodes=2)


def test_one_expert_rank_sends_nothing_however():
    base = scenario("qwen3-30b-a3b")
    assert step_s(base, moe_dispatcher="flex") == step_s(base)


@settings(max_examples=12, deadline=None)
@given(model=st.sampled_from(("qwen3-30b-a3b", "gpt-oss-20b", SUPER)), ep=st.sampled_from((2, 4, 8)))
def test_one_copy_per_rank_is_never_slower_than_one_per_expert(model, ep):
    base = scenario(model, dp_size=8, ep_size=ep)
    assert step_s(base, moe_dispatcher="flex") <= step_s(base) * (1 + 1e-12)


def test_a_dispatcher_needs_experts():
    with pytest.raises(SpecError, match="moe_dispatcher flex sends tokens to experts"):
        scenario(plan={"moe_dispatcher": "flex"})


# -- hybrids, further tokens, 16-bit layers ---------------------------------------------------------------------------


@pytest.mark.parametrize("model", [NANO, SUPER, "qwen3-next-80b-a3b"])
def test_hybrids_are_predicted(model):
    """Mamba-2 beside attention, latent experts, gated delta rules."""
    result = predict_training(scenario(model, plan={"seq_len": 8192}, dp_size=8))
    assert result.step_time_s > 0
    assert result.memory.gpu.activations_bytes > 0


def test_a_scan_takes_its_tokens_whatever_their_sequences():
    """Unlike attention: two sequences of half the length take as long."""
    step = TrainingStep(scenario(NANO), get_framework("megatron"))
    part = step.model.layer_groups[0].attention
    one = step.kernels._scan(part, TrainingLoad(1.0, 1.0, 8192.0))
    two = step.kernels._scan(part, TrainingLoad(2.0, 1.0, 4096.0))
    assert one == two
    rates, c = step.kernels.rates, step.c
    products = 8192 * score_flops_per_pair(part) / rates.scan_flops_per_s
    moved = (
        8192 * part.live_elements_per_token() * 2 * c["scan_vectors_forward"] / rates.elementwise_bytes_per_s
    )
    assert one.forward == pytest.approx(products + moved, rel=1e-12)


def test_experts_on_latents_exchange_latents():
    step = TrainingStep(scenario(SUPER, dp_size=8, ep_size=8), get_framework("megatron"))
    group = step.model.layer_groups[0]
    assert group.mlp.routed_input_width(4096) == 1024
    whole = step.exchange.expert_s(group.replace(mlp=group.mlp.replace(latent_size=None)), 8192.0)
    start = 2 * step.exchange.expert.latency_s
    assert (whole - start) == pytest.approx(4 * (step.exchange.expert_s(group, 8192.0) - start), rel=1e-9)


@pytest.mark.parametrize("model", ["llama-3-8b", NANO])
def test_each_further_token_takes_as_long_as_the_first(model):
    base = scenario(model)
    times = [step_s(base, mtp_depth=depth) for depth in range(4)]
    first = times[1] - times[0]
    assert first > 0
    for earlier, later in pairwise(times[1:]):
        assert later - earlier == pytest.approx(first, rel=1e-9)


def test_all_layers_in_16_bit_are_a_16_bit_step():
    base = scenario(plan={"precision": "mxfp8"})
    wide = step_s(base, wide_layers=base.model.num_layers)
    assert wide == pytest.approx(step_s(base, precision="bf16"), rel=1e-12)
    assert step_s(base) < wide
    with pytest.raises(SpecError, match="wide_layers 99 is more than the 32 layers"):
        scenario(plan={"wide_layers": 99})


@pytest.mark.parametrize("model", ["llama-3-8b", "qwen3-30b-a3b"])
def test_graphs_only_take_host_time(model):
    """A graph of layers leaves the launches of experts' products; of an iteration nothing, as if the host took no time."""
    base = scenario(model, plan={"seq_len": 512})
    levels = ("iteration", "layers", "mixers", "none")
    whole, layers, mixers, none = (step_s(base, cuda_graphs=name) for name in levels)
    assert whole < layers <= mixers < none
    assert (layers < mixers) == any(group.mlp.routed_experts for group in base.model.layer_groups)
    launched = ("host_ms_per_layer", "host_ms_per_moe_layer", "host_ms_per_expert")
    free = base.replace(constants=tuple((name, 0.0) for name in launched))
    assert step_s(free) == pytest.approx(whole, rel=1e-12)


def test_a_rank_with_more_experts_launches_more():
    """What a rank with twice the experts launches more is their products, and only that."""
    base = scenario("qwen3-30b-a3b", dp_size=8)
    steps = [
        TrainingStep(
            base.replace(parallelism=ParallelismConfig(dp_size=8, ep_size=ep)), get_framework("megatron")
        )
        for ep in (8, 4)
    ]
    group = base.model.layer_groups[0]
    few, many = (step._launching_ms(group) for step in steps)
    each = steps[0].c["host_ms_per_expert"]
    assert many - few == pytest.approx(group.mlp.routed_experts / 8 * each, rel=1e-12)


def test_an_exchange_beside_other_kernels_is_waited_for_less():
    base = scenario("qwen3-30b-a3b", plan={"precision": "mxfp8"}, dp_size=8, ep_size=8)
    assert step_s(base, moe_overlap=True) < step_s(base)
    assert step_s(base, fused_experts=True) < step_s(base)
    with pytest.raises(SpecError, match=r"moe_overlap is about experts, and .* has none"):
        scenario(plan={"moe_overlap": True})


# -- one rank of ZeRO-3 -----------------------------------------------------------------------------------------------


def test_one_rank_of_zero_3_copies_what_it_shares_with_nobody():
    """Each parameter in both passes, each gradient five times; elsewhere stage 3 of one rank is stage 0."""
    times = [step_s(scenario(framework="deepspeed"), ds_zero=stage) for stage in (0, 3)]
    step = TrainingStep(scenario(framework="deepspeed"), get_framework("deepspeed"))
    params = step.footprint.held.total
    copies = 2 * step.c["own_gather_passes"] + step.c["own_reduction_passes"]
    copied = 4 * 2 * copies * params * 2 / step.kernels.rates.elementwise_bytes_per_s
    assert 0 < times[1] - times[0] <= copied * (1 + 1e-9)
    assert step_s(scenario(), ds_zero=0) == step_s(scenario(), ds_zero=3)


# -- an update on the CPU beside the GPU's work -------------------------------------------------------------------------


def offloaded(overlap: str, gpu: str = "a100-sxm-40gb", **plan) -> TrainingScenario:
    fields = {"ds_zero": 3, "optimizer_device": "cpu", "offload_overlap": overlap}
    return scenario("qwen2.5-3b", gpu, "deepspeed", plan=fields | plan, dp_size=2)


@settings(max_examples=25, deadline=None)
@given(
    overlap=st.sampled_from(("zenflow", "superoffload")),
    share=st.sampled_from((0.05, 0.1, 0.5, 0.9)),
    every=st.integers(1, 16),
    micro=st.integers(1, 16),
)
def test_an_update_beside_the_passes_is_waited_for_less_and_no_less_than_the_passes(
    overlap, share, every, micro
):
    own = {"zenflow_topk_ratio": share, "zenflow_update_interval": every, "superoffload_ratio": 1 - share}
    plan = own | {"micro_batch_size": micro}
    whole, beside = (predict_training(offloaded(way, **plan)) for way in ("none", overlap))
    assert beside.step_time_s <= whole.step_time_s * (1 + 1e-12)
    parts = {name: value for name, value in whole.breakdown_s.items() if name != "optimizer"}
    assert beside.step_time_s >= sum(parts.values()) * (1 - 1e-12)
    # What the GPU updates it holds the state of: a share of all, as on the GPU alone.
    on_gpu = predict_training(offloaded("none", optimizer_device="gpu", micro_batch_size=micro))
    assert beside.memory.at("step").parts.optimizer_bytes == pytest.approx(
        share * on_gpu.memory.at("step").parts.optimizer_bytes, rel=1e-9
    )


def test_zenflow_that_updates_everything_on_the_gpu_is_an_update_on_the_gpu():
    """But for gradients, which go to the host all the same."""
    everything = predict_training(offloaded("zenflow", zenflow_topk_ratio=1.0))
    on_gpu = predict_training(offloaded("none", optimizer_device="gpu"))
    assert everything.breakdown_s["optimizer"] == pytest.approx(on_gpu.breakdown_s["optimizer"], rel=1e-9)


def test_superoffload_gains_on_gh200_what_its_authors_say():
    """Qwen3-14B on one GH200: some 50 % more than ZeRO-Offload (DeepSpeedExamples, DeepSpeed-SuperOffload)."""
    plan = {"micro_batch_size": 4, "gradient_accumulation_steps": 1, "activation_recomputation": 4}
    fields = {"ds_zero": 3, "optimizer_device": "cpu"} | plan
    base = scenario("qwen3-14b", "gh200-96gb", "deepspeed", plan=fields)
    plain, beside = step_s(base), step_s(base, offload_overlap="superoffload")
    assert 1.3 <= plain / beside <= 1.7


def test_zenflow_gains_on_two_a100_what_its_authors_say():
    """Qwen2.5-3B: 2.497 to 1.116 s, in a second table 1.365 to 0.569; no lengths (DeepSpeed, zenflow-corebinding)."""
    times = [
        predict_training(
            offloaded(way, ds_zero=2, micro_batch_size=4, gradient_accumulation_steps=1, seq_len=512)
        )
        for way in ("none", "zenflow")
    ]
    assert 1.6 <= times[0].step_time_s / times[1].step_time_s <= 2.8


def test_frameworks_without_such_an_update_say_so():
    inputs = {"model": "opt-125m", "gpu": "a100-sxm-40gb", "ds_zero": 2, "optimizer_device": "cpu"}
    with pytest.raises(SpecError, match="framework fsdp has no such way"):
        build_training_scenario(TrainingInputs(**inputs, framework="fsdp", offload_overlap="zenflow"))
