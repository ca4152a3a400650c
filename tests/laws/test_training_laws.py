"""Laws of training: memory under ZeRO and recomputation, time, FLOPs, batches; and a sweep is its single predictions."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from llm_perf.analysis.training import predict_training
from llm_perf.analysis.training_sweep import sweep_training
from llm_perf.config import (
    ActivationRecomputation,
    ModelConfig,
    ParallelismConfig,
    get_gpu_config_by_name,
    get_host_config_by_name,
    get_model_config_by_name,
)
from llm_perf.config.training import TrainingPlan, TrainingScenario
from llm_perf.counts.flops import recomputed_flops, training_flops
from llm_perf.counts.parameters import active_params, embedding_params, total_params
from llm_perf.errors import SpecError
from llm_perf.systems.training.base import BACKWARD, PHASES, STEP, TrainingLoad
from llm_perf.systems.training.framework import FRAMEWORKS, get_framework
from llm_perf.systems.training.step import TrainingStep, stage_sizes

GPUS = (
    "a100-sxm-80gb",
    "h100-sxm-80gb",
    "b200-180gb",
    "gb200-192gb",
    "v100-sxm2-32gb",
    "t4-16gb",
    "mi300x-192gb",
)
MODELS = ("mpt-1b", "llama-3-8b", "qwen3-30b-a3b", "gpt-oss-20b", "deepseek-v2-lite", "gemma-2-2b")
DENSE = ("mpt-1b", "llama-3-8b", "gemma-2-2b")


def scenario(
    model="llama-3-8b", gpu="h100-sxm-80gb", framework="megatron", plan=None, nodes=1, **parallelism
) -> TrainingScenario:
    spec = get_gpu_config_by_name(gpu)
    return TrainingScenario(
        model=get_model_config_by_name(model),
        gpu=spec,
        host=get_host_config_by_name(spec.default_host),
        framework=framework,
        plan=TrainingPlan(
            **{"seq_len": 1024, "micro_batch_size": 1, "gradient_accumulation_steps": 4} | (plan or {})
        ),
        parallelism=ParallelismConfig(**parallelism),
        num_nodes=nodes,
    )


def with_plan(base: TrainingScenario, **changes) -> TrainingScenario:
    return base.replace(plan=base.plan.replace(**changes))


SCENARIOS = st.builds(
    lambda model, gpu, framework, micro, steps, seq_len, tp, dp: scenario(
        model,
        gpu,
        framework,
        {"micro_batch_size": micro, "gradient_accumulation_steps": steps, "seq_len": seq_len},
        tp_size=tp,
        dp_size=dp,
        sp_size=tp,
    ),
    st.sampled_from(MODELS),
    st.sampled_from(GPUS),
    st.sampled_from(FRAMEWORKS),
    st.integers(1, 8),
    st.integers(1, 16),
    st.sampled_from((256, 512, 1024, 2048)),
    st.sampled_from((1, 2, 4)),
    st.sampled_from((1, 2, 8)),
)


# -- memory -----------------------------------------------------------------------------------------------------


@settings(max_examples=25, deadline=None)
@given(base=SCENARIOS)
def test_zero_stages_only_ever_reduce_the_state_of_a_gpu(base):
    parts = [predict_training(with_plan(base, ds_zero=stage)).memory.at(STEP).parts for stage in range(4)]
    states = [float(part.state_bytes) for part in parts]
    assert states == sorted(states, reverse=True)
    if base.parallelism.dp_size > 1:
        assert states[0] > states[1] > states[2] > states[3]
    else:
        assert len(set(states)) == 1


@settings(max_examples=25, deadline=None)
@given(base=SCENARIOS, flash=st.booleans())
def test_recomputation_trades_time_for_memory_level_by_level(base, flash):
    results = [
        predict_training(with_plan(base, activation_recomputation=level, flash_attn=flash))
        for level in range(5)
    ]
    kept = [float(result.memory.at(BACKWARD).parts.activations_bytes) for result in results]
    times = [result.step_time_s for result in results]
    flops = [result.hardware_flops_per_step for result in results]
    assert kept == sorted(kept, reverse=True)
    assert all(later >= earlier * (1 - 1e-12) for earlier, later in pairwise(times))
    assert flops == sorted(flops)
    assert len({result.model_flops_per_step for result in results}) == 1


def test_full_recomputation_keeps_one_input_per_layer():
    """arXiv 2205.05198, table 2: 2 s b h per layer; everything kept is 34 s b h + 5 a s^2 b."""
    model = ModelConfig(
        name="gpt", num_layers=4, n_head=16, hidden_dim=2048, vocab_size=50000, max_seq_len=2048
    )
    plan = {
        "seq_len": 2048,
        "flash_attn": False,
        "softmax_dropout": True,
        "dropout": True,
        "micro_batch_size": 3,
    }
    base = scenario("mpt-1b", plan=plan).replace(model=model)
    tokens, wide = 3 * 2048, 2048
    full = (
        predict_training(with_plan(base, activation_recomputation=4))
        .memory.at(BACKWARD)
        .parts.activations_bytes
    )
    none = predict_training(base).memory.at(BACKWARD).parts.activations_bytes
    assert full == 4 * 2 * tokens * wide
    assert none == 4 * (34 * tokens * wide + 5 * 16 * 2048 * tokens)


@settings(max_examples=30, deadline=None)
@given(base=SCENARIOS, more=st.integers(2, 8))
def test_memory_grows_with_the_micro_batch_and_not_with_accumulation(base, more):
    """But for gradients, which frameworks that drop them after a step hold from the second micro-batch on."""
    base = with_plan(base, gradient_accumulation_steps=base.plan.gradient_accumulation_steps + 1)
    once = predict_training(base).memory
    larger = predict_training(with_plan(base, micro_batch_size=base.plan.micro_batch_size * more)).memory
    longer = predict_training(
        with_plan(base, gradient_accumulation_steps=base.plan.gradient_accumulation_steps * more)
    ).memory
    for phase in PHASES:
        small, large = once.at(phase).parts, larger.at(phase).parts
        assert large.activations_bytes == pytest.approx(more * small.activations_bytes)
        assert large.state_bytes == small.state_bytes
    assert longer.gpu.total_bytes == once.gpu.total_bytes
    alone = predict_training(with_plan(base, gradient_accumulation_steps=1)).memory
    assert alone.gpu.total_bytes <= once.gpu.total_bytes


@pytest.mark.parametrize("chunks", [1, 2, 4])
def test_a_pipeline_keeps_as_many_micro_batches_as_its_schedule_says(chunks):
    """arXiv 2205.05198, section 4.2.3: all layers' worth on the first stage, and (p-1)/(p v) more where interleaved."""
    whole = predict_training(scenario(plan={"gradient_accumulation_steps": 64}))
    plan = {"gradient_accumulation_steps": 64, "virtual_stages": chunks}
    piped = predict_training(scenario(pp_size=8, plan=plan))
    more = 1 + 7 / (8 * chunks) if chunks > 1 else 1
    assert piped.memory.gpu.activations_bytes == pytest.approx(more * whole.memory.gpu.activations_bytes)


@settings(max_examples=25, deadline=None)
@given(model=st.sampled_from(DENSE), stage=st.sampled_from((2, 3)), dp=st.sampled_from((2, 8)))
def test_offloading_moves_state_and_loses_none(model, stage, dp):
    base = scenario(model, "a100-sxm-80gb", "deepspeed", {"ds_zero": stage}, dp_size=dp)
    kept = predict_training(base).memory
    moved = predict_training(with_plan(base, optimizer_device="cpu")).memory
    assert moved.gpu.optimizer_bytes == 0
    assert moved.cpu.optimizer_bytes == pytest.approx(dp * kept.gpu.optimizer_bytes)
    assert moved.gpu.total_bytes < kept.gpu.total_bytes


def test_offloading_costs_time_and_nvme_more_than_host_memory():
    base = scenario("llama-3-8b", "a100-sxm-80gb", "deepspeed", {"ds_zero": 3}, dp_size=8)
    kept = predict_training(base).step_time_s
    cpu = predict_training(with_plan(base, optimizer_device="cpu", weights_device="cpu")).step_time_s
    nvme = predict_training(with_plan(base, optimizer_device="nvme", weights_device="nvme")).step_time_s
    assert kept < cpu < nvme


def test_stage_1_adds_up_whole_gradients_on_the_gpu_until_the_step_ends():
    """So ZeRO-Offload at stage 1 keeps them there, and stage 2 is what frees them."""
    first, second = (
        predict_training(
            scenario(framework="deepspeed", plan={"ds_zero": stage, "optimizer_device": "cpu"}, dp_size=8)
        ).memory
        for stage in (1, 2)
    )
    # Eight shards, on the host in 32 bits.
    assert 2 * first.at(STEP).parts.gradients_bytes == pytest.approx(second.cpu.gradients_bytes)
    assert first.cpu.gradients_bytes == second.gpu.gradients_bytes == 0
    assert first.gpu.optimizer_bytes == second.gpu.optimizer_bytes == 0


def test_activations_off_the_gpu_are_those_that_are_kept():
    """Copies follow what stays to be kept where only some layers recompute."""
    plan = {"activations_device": "cpu", "activation_recomputation": 4, "micro_batch_size": 4}

    def moved_s(layers):
        job = scenario("mpt-1b", framework="deepspeed", plan=plan | {"recompute_layers": layers})
        return predict_training(job).busy_s["h2d"]

    none = predict_training(
        scenario("mpt-1b", framework="deepspeed", plan={"activations_device": "cpu", "micro_batch_size": 4})
    ).busy_s["h2d"]
    layers = get_model_config_by_name("mpt-1b").num_layers
    assert moved_s(layers // 2) == pytest.approx((none + moved_s(layers)) / 2, rel=0.01)


@pytest.mark.parametrize(("level", "passes"), [(0, 3), (1, 4), (2, 4), (4, 4)])
def test_keys_and_values_go_around_once_forward_and_twice_backward(level, passes):
    """And once more where attention is computed again."""
    job = scenario(plan={"activation_recomputation": level, "gradient_accumulation_steps": 1}, cp_size=2)
    model = TrainingStep(job, get_framework(job.framework))
    load = TrainingLoad(1.0, 1.0, 1024.0)
    (group,) = job.model.layer_groups
    once = model.exchange.context_s(group, model.kernels.rank_tokens(load))
    assert model.exchange.context.stream in model.step_cost(load).busy_s
    found = sum(
        work.seconds * step.repeats
        for step in (
            *model._forward(0, load, model.kernels.layer(group, load)),
            *model._backward(0, load, model.kernels.layer(group, load)),
        )
        for lane in step.lanes.values()
        for work in lane
        if work.label == "context_parallel"
    )
    assert found == pytest.approx(passes * once)


@pytest.mark.parametrize(
    ("gpu", "precision", "same"),
    [("a100-sxm-80gb", "fp8", "bf16"), ("a100-sxm-80gb", "nvfp4", "bf16"), ("h100-sxm-80gb", "nvfp4", "fp8")],
)
def test_a_format_that_a_gpu_lacks_costs_what_it_runs_instead(gpu, precision, same):
    """Never an integer format, and no conversion into what is not there."""
    found, instead = (
        predict_training(scenario(gpu=gpu, plan={"precision": name})) for name in (precision, same)
    )
    assert found.peak_dtype == same
    assert found.step_time_s == pytest.approx(instead.step_time_s)
    assert any(f"runs in {same}" in note or f"run in {same}" in note for note in found.warnings)


def test_adapters_need_less_memory_and_time_than_full_training():
    base = scenario("llama-3-8b", "a100-sxm-80gb", "axolotl")
    full, lora = predict_training(base), predict_training(with_plan(base, lora_rank=16))
    quantised = predict_training(with_plan(base, lora_rank=16, base_weight_bits=4))
    assert lora.step_time_s < full.step_time_s
    assert quantised.memory.gpu.state_bytes < lora.memory.gpu.state_bytes < full.memory.gpu.state_bytes / 3
    assert quantised.step_time_s > lora.step_time_s
    assert lora.model_flops_per_step < full.model_flops_per_step


@pytest.mark.parametrize(
    ("optimizer", "least"), [("sgd", 4), ("lion", 8), ("adam8bit", 6), ("adamw", 12), ("muon", 8)]
)
def test_optimizer_state_by_name(optimizer, least):
    result = predict_training(scenario("mpt-1b", plan={"optimizer": optimizer}))
    held = total_params(get_model_config_by_name("mpt-1b"))
    assert result.memory.gpu.optimizer_bytes / held == pytest.approx(least, rel=0.02)


# -- time -------------------------------------------------------------------------------------------------------


@settings(max_examples=25, deadline=None)
@given(base=SCENARIOS, replicas=st.sampled_from((2, 4, 8)))
def test_replicas_scale_throughput_at_most_linearly(base, replicas):
    """Of one replica's: shared optimizer state and the links of a mesh would let 4 be more than twice as fast as 2."""
    alone = base.replace(parallelism=base.parallelism.replace(dp_size=1))
    assume(replicas * base.parallelism.tp_size <= base.host.gpus_per_node)
    wider = alone.replace(parallelism=base.parallelism.replace(dp_size=replicas))
    one, many = predict_training(alone), predict_training(wider)
    assert many.throughput_tokens_per_s <= one.throughput_tokens_per_s * replicas * (1 + 1e-9)


def test_nodes_scale_throughput_at_most_linearly():
    rates = [
        predict_training(scenario(dp_size=8 * nodes, nodes=nodes)).throughput_tokens_per_s_per_gpu
        for nodes in (1, 2, 8, 32)
    ]
    assert rates == sorted(rates, reverse=True)


@settings(max_examples=25, deadline=None)
@given(base=SCENARIOS)
def test_no_step_is_faster_than_its_arithmetic_and_parts_sum_to_it(base):
    result = predict_training(base)
    assert 0 < result.mfu <= result.hfu < 1
    assert sum(result.breakdown_s.values()) == pytest.approx(result.step_time_s)
    assert min(result.breakdown_s.values()) > 0


@settings(max_examples=30, deadline=None)
@given(base=SCENARIOS, more=st.integers(2, 6))
def test_accumulation_conserves_the_global_batch_and_pays_its_ends_once(base, more):
    plan = base.plan
    longer = with_plan(base, gradient_accumulation_steps=plan.gradient_accumulation_steps * more)
    once, times = predict_training(base), predict_training(longer)
    batch = times.batch
    assert batch.global_batch_size == more * once.batch.global_batch_size
    assert (
        batch.micro_batch_size * batch.gradient_accumulation_steps * base.parallelism.dp_size
        == batch.global_batch_size
    )
    assert once.step_time_s < times.step_time_s <= more * once.step_time_s * (1 + 1e-9)


def test_interleaving_shrinks_the_bubble_by_its_chunks():
    """arXiv 2104.04473, section 2.2.2."""
    plan = {"gradient_accumulation_steps": 16}
    bubbles = [
        predict_training(scenario(pp_size=4, plan=plan | {"virtual_stages": chunks})).breakdown_s[
            "pipeline_bubble"
        ]
        for chunks in (1, 2, 4)
    ]
    assert bubbles[0] == pytest.approx(2 * bubbles[1], rel=0.02)
    assert bubbles[0] == pytest.approx(4 * bubbles[2], rel=0.05)


@pytest.mark.parametrize(
    ("layers", "stages", "chunks", "sizes"),
    [
        (96, 8, 3, (12, 12)),
        (94, 4, 12, (24, 23)),
        (94, 8, 1, (12, 11)),
        (61, 4, 4, (16, 13)),
        (24, 1, 1, (24, 24)),
    ],
)
def test_stages_that_do_not_divide(layers, stages, chunks, sizes):
    assert stage_sizes(layers, stages, chunks) == sizes


# -- counts -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("model", DENSE)
def test_six_flops_per_parameter_and_token_in_the_limit(model):
    """Short sequences leave nothing but the weights: 6 N per token, embeddings looked up instead of multiplied."""
    spec = get_model_config_by_name(model)
    tokens = 10**6
    flops = training_flops(spec, tokens, 1)
    multiplied = total_params(spec) - (0 if spec.tied_embeddings else embedding_params(spec))
    assert flops == pytest.approx(6 * multiplied * tokens, rel=0.01)


def test_mixtures_count_the_experts_that_a_token_uses():
    spec = get_model_config_by_name("qwen3-30b-a3b")
    used = active_params(spec) - embedding_params(spec)
    assert training_flops(spec, 10**6, 1) == pytest.approx(6 * used * 10**6, rel=0.01)


@given(level=st.integers(0, 4), sequences=st.integers(1, 64), seq_len=st.integers(1, 4096))
def test_recomputed_flops_are_part_of_one_forward_pass(level, sequences, seq_len):
    spec = get_model_config_by_name("llama-3-8b")
    again = recomputed_flops(spec, sequences, seq_len, ActivationRecomputation(level))
    assert 0 <= again < training_flops(spec, sequences, seq_len) / 3


@given(
    dp=st.sampled_from((1, 2, 8)),
    given_sizes=st.sampled_from(("micro+steps", "micro+global", "steps+global")),
    micro=st.integers(1, 16),
    steps=st.integers(1, 32),
)
@settings(max_examples=25, deadline=None)
def test_any_two_batch_sizes_give_the_third(dp, given_sizes, micro, steps):
    sizes = {
        "micro_batch_size": micro,
        "gradient_accumulation_steps": steps,
        "global_batch_size": micro * steps * dp,
    }
    left_out = {"micro+steps": "global_batch_size", "micro+global": "gradient_accumulation_steps",
                "steps+global": "micro_batch_size"}[given_sizes]  # fmt: skip
    result = predict_training(scenario("mpt-1b", plan=sizes | {left_out: None}, dp_size=dp))
    assert (
        result.batch.micro_batch_size,
        result.batch.gradient_accumulation_steps,
        result.batch.global_batch_size,
    ) == tuple(sizes.values())


def test_an_open_batch_is_the_largest_that_fits_and_never_negative():
    plan = {"micro_batch_size": None, "gradient_accumulation_steps": None}
    found = predict_training(scenario("mpt-1b", plan=plan))
    assert found.feasible
    assert found.batch.micro_batch_size == found.max_micro_batch_size > 1
    one_more = {"micro_batch_size": found.max_micro_batch_size + 1}
    assert not predict_training(scenario("mpt-1b", plan=one_more)).feasible
    small = predict_training(scenario("opt-175b", "t4-16gb", plan=plan))
    assert not small.feasible
    assert small.batch.micro_batch_size == 1
    assert small.max_micro_batch_size == 0
    assert "GiB missing" in small.reason


@pytest.mark.parametrize("stages", [1, 2, 8])
def test_a_global_batch_alone_leaves_no_stage_of_a_pipeline_without_work(stages):
    plan = {"micro_batch_size": None, "gradient_accumulation_steps": None, "global_batch_size": 16}
    found = predict_training(scenario("mpt-1b", plan=plan, pp_size=stages)).batch
    assert found.gradient_accumulation_steps >= stages
    assert found.micro_batch_size * found.gradient_accumulation_steps == 16


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        (
            {"micro_batch_size": 3, "gradient_accumulation_steps": 2, "global_batch_size": 10},
            "but global_batch_size is 10",
        ),
        (
            {"micro_batch_size": 3, "gradient_accumulation_steps": None, "global_batch_size": 10},
            "does not divide",
        ),
        ({"global_batch_size": 9}, "not a multiple of dp_size 2"),
    ],
)
def test_batch_sizes_that_contradict_each_other_are_refused(sizes, message):
    with pytest.raises(SpecError, match=message):
        predict_training(scenario("mpt-1b", plan=sizes, dp_size=2))


# -- sweeps -----------------------------------------------------------------------------------------------------


@settings(max_examples=15, deadline=None)
@given(base=SCENARIOS, pp=st.sampled_from((1, 2)))
def test_a_sweep_equals_its_single_predictions(base, pp):
    base = base.replace(parallelism=base.parallelism.replace(pp_size=pp), num_nodes=pp)
    if pp > 1:
        base = with_plan(base, ds_zero=1)
    micro, steps, lengths = np.array([1, 2, 5]), np.array([1, 4, 7]), np.array([128, 1024, 2048])
    sweep = sweep_training(base, micro, steps, lengths)
    for index in range(3):
        plan = {
            "micro_batch_size": int(micro[index]),
            "gradient_accumulation_steps": int(steps[index]),
            "seq_len": int(lengths[index]),
        }
        single = predict_training(with_plan(base, **plan))
        assert sweep.step_time_s[index] == pytest.approx(single.step_time_s, rel=1e-12)
        assert sweep.mfu[index] == pytest.approx(single.mfu, rel=1e-12)
        assert sweep.gpu_memory_bytes[index] == pytest.approx(float(single.memory.gpu.total_bytes), rel=1e-12)
        assert bool(sweep.feasible[index]) == single.feasible
        assert sweep.global_batch_size[index] == single.batch.global_batch_size


@pytest.mark.parametrize("bad", [0, -1, 1.5, math.nan, math.inf])
def test_a_sweep_refuses_what_is_no_batch(bad):
    with pytest.raises(SpecError, match="positive whole numbers"):
        sweep_training(scenario("mpt-1b"), [1, bad])


def test_a_sweep_refuses_no_points():
    with pytest.raises(SpecError, match="no points"):
        sweep_training(scenario("mpt-1b"), [])


# -- frameworks ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FRAMEWORKS)
def test_every_framework_states_its_constants_with_sources(name):
    file = get_framework(name)
    assert file.name == name
    assert file.description
    assert all(constant.source for constant in file.constants.values())
    for alias in file.aliases:
        assert get_framework(alias).name == name


def test_every_constant_is_used():
    from importlib import resources
    from pathlib import Path

    folder = Path(str(resources.files("llm_perf.systems.training")))
    code = "\n".join(path.read_text("utf-8") for path in folder.glob("*.py"))
    assert {name for name in get_framework("megatron").constants if f'"{name}"' not in code} == set()
