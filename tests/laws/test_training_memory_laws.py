"""Laws of a training job's memory by phase and term, of ways to compute the loss, of adapters and paged optimizers."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llm_perf.analysis.training import predict_training
from llm_perf.counts.trained import adapted_linears, adapter_params
from llm_perf.systems.training.base import ALWAYS, PARTS, PHASES, STEP, MemoryTerm, fullest, moments_of
from llm_perf.systems.training.framework import FRAMEWORKS, get_framework
from llm_perf.systems.training.step import TrainingLoad, TrainingStep
from tests.laws.test_training_laws import DENSE, GPUS, MODELS, scenario, with_plan

LOSSES = ("plain", "chunked", "fused", "vocab-parallel")
BASES = st.builds(
    lambda model, gpu, framework, micro, steps, tp, dp: scenario(
        model, gpu, framework, {"micro_batch_size": micro, "gradient_accumulation_steps": steps},
        tp_size=tp, dp_size=dp, sp_size=tp,
    ),
    st.sampled_from(MODELS), st.sampled_from(GPUS), st.sampled_from(FRAMEWORKS),
    st.integers(1, 8), st.integers(1, 4), st.sampled_from((1, 2)), st.sampled_from((1, 2, 8)),
)  # fmt: skip


@settings(max_examples=40, deadline=None)
@given(base=BASES)
def test_terms_sum_to_the_total_in_every_phase_and_the_fullest_one_counts(base):
    memory = predict_training(base).memory
    for moment in memory.moments:
        whole = math.fsum(float(term.size_bytes) for term in moment.terms)
        assert whole == pytest.approx(float(moment.parts.total_bytes), rel=1e-12)
        for part in PARTS:
            own = math.fsum(float(term.size_bytes) for term in moment.terms if term.part == part)
            assert own == pytest.approx(float(getattr(moment.parts, part)), rel=1e-12, abs=1e-6)
        assert all(float(term.size_bytes) >= 0 for term in moment.terms)
    totals = {phase: float(memory.at(phase).parts.total_bytes) for phase in PHASES}
    assert max(totals.values()) == float(memory.gpu.total_bytes)
    assert totals[memory.binding.phase] == float(memory.gpu.total_bytes)
    assert totals["load"] == min(totals.values())


@settings(max_examples=40, deadline=None)
@given(base=BASES, recompute=st.sampled_from((0, 4)))
def test_losses_are_ordered_in_memory_and_change_no_flops(base, recompute):
    results = {
        loss: predict_training(with_plan(base, loss=loss, activation_recomputation=recompute))
        for loss in LOSSES
    }
    sizes = {loss: float(result.memory.gpu.total_bytes) for loss, result in results.items()}
    assert sizes["chunked"] <= sizes["plain"]
    assert sizes["fused"] <= sizes["plain"]
    assert sizes["vocab-parallel"] <= sizes["plain"]
    for count in ("model_flops_per_step", "hardware_flops_per_step"):
        assert len({getattr(result, count) for result in results.values()}) == 1
    assert results["fused"].step_time_s <= results["plain"].step_time_s
    assert results["chunked"].step_time_s <= results["plain"].step_time_s


def test_a_frameworks_own_loss_is_what_nobody_asks_for():
    for name in FRAMEWORKS:
        base = scenario("llama-3-8b", "h100-sxm-80gb", name)
        own = predict_training(with_plan(base, loss=get_framework(name).loss))
        default = predict_training(base)
        assert (own.step_time_s, own.memory.gpu) == (default.step_time_s, default.memory.gpu)


@settings(max_examples=25, deadline=None)
@given(base=BASES)
def test_paged_state_never_needs_more_of_the_gpu(base):
    for resident, paged in (("adamw", "paged_adamw"), ("adam8bit", "paged_adam8bit")):
        kept, moved = (predict_training(with_plan(base, optimizer=name)).memory for name in (resident, paged))
        assert float(moved.gpu.total_bytes) <= float(kept.gpu.total_bytes)
        freed = float(kept.at(STEP).parts.optimizer_bytes - moved.at(STEP).parts.optimizer_bytes)
        if base.parallelism.tp_size == 1:
            assert float(moved.cpu.optimizer_bytes) == pytest.approx(freed * base.gpus_per_node)


@settings(max_examples=25, deadline=None)
@given(base=BASES)
def test_updating_in_the_backward_pass_never_needs_more(base):
    once = with_plan(base, gradient_accumulation_steps=1)
    usual = predict_training(once).memory
    earlier = predict_training(with_plan(once, optimizer_in_backward=True)).memory
    assert float(earlier.at(STEP).parts.gradients_bytes) == 0
    if base.parallelism.dp_size == 1:
        assert float(earlier.gpu.total_bytes) <= float(usual.gpu.total_bytes) * (1 + 1e-12)


# -- adapters -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("model", DENSE)
def test_adapters_on_nothing_are_the_pass_through_frozen_weights(model):
    """Whatever their rank: forward, and backward without gradients of weights."""
    base = scenario(model, "a100-sxm-80gb", "hf_trainer", {"lora_rank": 8, "lora_targets": "none"})
    frozen = predict_training(base)
    again = predict_training(with_plan(base, lora_rank=64))
    assert (frozen.step_time_s, frozen.memory.gpu) == (again.step_time_s, again.memory.gpu)
    step = frozen.memory.at(STEP).parts
    assert step.gradients_bytes == step.optimizer_bytes == 0
    kernels = TrainingStep(base, get_framework("hf_trainer")).kernels
    load = TrainingLoad(1.0, 1.0, 1024.0)
    group = base.model.layer_groups[0]
    alone = kernels.layer(group, load)
    full = TrainingStep(
        scenario(model, "a100-sxm-80gb", "hf_trainer"), get_framework("hf_trainer")
    ).kernels.layer(group, load)
    assert alone.forward == full.forward
    for part in ("attention_projections", "mlp"):
        assert alone.backward[part] < full.backward[part]


@settings(max_examples=25, deadline=None)
@given(
    model=st.sampled_from(DENSE),
    rank=st.integers(1, 64),
    framework=st.sampled_from(("hf_trainer", "unsloth", "fsdp_qlora")),
)
def test_more_adapters_cost_more(model, rank, framework):
    plan = {"lora_rank": rank}
    times, sizes = [], []
    for targets in ("none", "qv", "qkv", "attention", "all"):
        result = predict_training(
            scenario(model, "a100-sxm-80gb", framework, plan | {"lora_targets": targets})
        )
        times.append(result.step_time_s)
        sizes.append(float(result.memory.at(STEP).parts.total_bytes))
    assert times == sorted(times)
    assert sizes == sorted(sizes)
    lora, dora = (
        predict_training(scenario(model, "a100-sxm-80gb", framework, plan | {"adapter": kind}))
        for kind in ("lora", "dora")
    )
    assert dora.step_time_s > lora.step_time_s
    assert dora.memory.at(STEP).parts.weights_bytes > lora.memory.at(STEP).parts.weights_bytes


def test_parameters_of_adapters():
    """r (in + out) per matrix (arXiv 2106.09685); Llama-2-7B at rank 8 on query and value: 4,194,304."""
    base = scenario("llama-2-7b")
    group = base.model.layer_groups[0]
    assert 32 * adapter_params(base.model, group, 8, "qv") == 4_194_304
    assert 32 * adapter_params(base.model, group, 8, "all") == 19_988_480
    outputs = sum(linear.out_features for linear in adapted_linears(base.model, group, "all"))
    dora = adapter_params(base.model, group, 8, "all", magnitudes=True)
    assert dora - adapter_params(base.model, group, 8, "all") == outputs


@pytest.mark.parametrize("bits", [4, 8])
def test_quantised_weights_are_smaller_and_slower(bits):
    base = scenario("llama-3-8b", "a100-sxm-80gb", "hf_trainer", {"lora_rank": 8})
    wide, narrow = predict_training(base), predict_training(with_plan(base, base_weight_bits=bits))
    assert narrow.memory.gpu.weights_bytes < wide.memory.gpu.weights_bytes
    assert narrow.step_time_s > wide.step_time_s
    single, double = (
        predict_training(with_plan(base, base_weight_bits=4, base_double_quant=on)).memory.gpu.weights_bytes
        for on in (False, True)
    )
    assert double < single


def test_offloaded_adapters_take_the_weights_off_the_gpu():
    """FSDP-QLoRA with CPU offload: shards wait on the host as they are stored."""
    plan = {"lora_rank": 16, "base_weight_bits": 4, "ds_zero": 3, "micro_batch_size": 1}
    kept = predict_training(scenario("llama-3-70b", "rtx-3090-24gb", "fsdp_qlora", plan, dp_size=2))
    plan |= {"weights_device": "cpu", "optimizer_device": "cpu"}
    moved = predict_training(scenario("llama-3-70b", "rtx-3090-24gb", "fsdp_qlora", plan, dp_size=2))
    assert moved.memory.gpu.weights_bytes == 0
    assert float(moved.memory.cpu.weights_bytes) == pytest.approx(
        2 * float(kept.memory.at(STEP).parts.weights_bytes)
    )
    assert moved.memory.gpu.total_bytes < kept.memory.gpu.total_bytes
    assert moved.step_time_s > kept.step_time_s


# -- fragmentation --------------------------------------------------------------------------------------------------


def test_what_an_allocator_wastes_shrinks_where_the_device_is_full():
    terms = (
        MemoryTerm("weights", "weights_bytes", 60e9, ALWAYS),
        MemoryTerm("activations", "activations_bytes", 10e9, ALWAYS),
    )

    def wasted(capacity: float) -> float:
        return float(fullest(moments_of(terms, 0, capacity, (0.4, 0.05))).fragmentation_bytes)

    assert wasted(100e9) == pytest.approx(4e9)
    assert wasted(72e9) == pytest.approx(2e9, rel=1e-4)
    assert wasted(70e9) == wasted(50e9) == pytest.approx(0.5e9)
    assert bool(fullest(moments_of(terms, 0, 72e9, (0.4, 0.05))).fits)
    assert not bool(fullest(moments_of(terms, 0, 70.4e9, (0.4, 0.05))).fits)


def test_kept_products_trade_memory_for_time():
    base = scenario("llama-3-8b", "h100-sxm-80gb", "fsdp", {"activation_recomputation": 4})
    found = [predict_training(with_plan(base, kept_products=kept)) for kept in ("none", "half", "all")]
    assert [f.memory.at("backward").parts.activations_bytes for f in found] == sorted(
        f.memory.at("backward").parts.activations_bytes for f in found
    )
    assert [f.step_time_s for f in found] == sorted((f.step_time_s for f in found), reverse=True)


# -- parts that are computed again one by one ---------------------------------------------------------------------------

MODULES = ("core_attn", "layernorm", "moe_act", "moe", "mlp")


@settings(max_examples=40, deadline=None)
@given(base=BASES, modules=st.sets(st.sampled_from(MODULES)), more=st.sampled_from(MODULES))
def test_recomputing_more_parts_keeps_less_and_takes_longer(base, modules, more):
    if not any(group.mlp.routed_experts for group in base.model.layer_groups):
        modules, more = modules - {"moe", "moe_act"}, more if more not in ("moe", "moe_act") else "mlp"
    base = with_plan(base, activation_recomputation=0)
    load = TrainingLoad(1.0, 1.0, float(base.plan.seq_len))

    def kept_and_s(chosen) -> tuple[float, float]:
        plan = with_plan(base, recompute_modules=tuple(sorted(chosen)))
        step = TrainingStep(plan, get_framework(plan.framework))
        return float(step.footprint.stage_activation_bytes(load)), predict_training(plan).step_time_s

    (fewer, fewer_s), (all_of_them, all_s) = kept_and_s(modules), kept_and_s(modules | {more})
    assert 0 < all_of_them <= fewer * (1 + 1e-12)
    assert all_s >= fewer_s * (1 - 1e-12)


@pytest.mark.parametrize("model", DENSE)
def test_attention_alone_as_a_part_is_that_level(model):
    base = scenario(model, plan={"micro_batch_size": 2})
    level, part = (
        with_plan(base, activation_recomputation=1),
        with_plan(base, recompute_modules=("core_attn",)),
    )
    load = TrainingLoad(2.0, 1.0, float(base.plan.seq_len))
    kept = [
        float(TrainingStep(one, get_framework(one.framework)).footprint.stage_activation_bytes(load))
        for one in (level, part)
    ]
    assert kept[0] == pytest.approx(kept[1], rel=1e-12)
    assert predict_training(level).step_time_s == pytest.approx(predict_training(part).step_time_s, rel=1e-12)
