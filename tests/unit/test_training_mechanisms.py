"""Mechanisms of a training step that one number decides: 8-bit attention, biases of experts, Grace, scans, gradients."""

from __future__ import annotations

import pytest

from llm_perf.analysis.training_request import TrainingInputs, build_training_scenario
from llm_perf.config.layers.state_space import StateSpace
from llm_perf.config.loading import (
    get_gpu_config_by_name,
    get_host_config_by_name,
    get_model_config_by_name,
)
from llm_perf.config.parallelism import ActivationRecomputation, ParallelismConfig
from llm_perf.config.training import TrainingPlan, TrainingScenario
from llm_perf.errors import SpecError
from llm_perf.systems.training.base import BACKWARD_END, TrainingLoad
from llm_perf.systems.training.framework import get_framework
from llm_perf.systems.training.step import TrainingStep

NANO = "nvidia/NVIDIA-Nemotron-3-Nano-30B-A3B"
LOAD = TrainingLoad(2.0, 4.0, 8192.0)


def step_of(
    model: str, gpu: str = "b200-180gb", dp: int = 8, framework: str = "megatron", **plan: object
) -> TrainingStep:
    spec = get_gpu_config_by_name(gpu)
    fields = {"seq_len": 8192, "micro_batch_size": 2, "gradient_accumulation_steps": 4}
    scenario = TrainingScenario(
        model=get_model_config_by_name(model),
        gpu=spec,
        host=get_host_config_by_name(spec.default_host or ""),
        framework=framework,
        plan=TrainingPlan(**fields | plan),
        parallelism=ParallelismConfig(dp_size=dp),
        allow_long_context=True,
    )
    return TrainingStep(scenario, get_framework(framework))


def attention_s(step: TrainingStep) -> tuple[float, float]:
    times = step.kernels.layer(step.model.layer_groups[0], LOAD)
    return float(times.forward["attention"]), float(times.backward["attention"])


@pytest.mark.parametrize("gpu", ["b200-180gb", "h100-sxm-80gb"])
def test_attention_in_8_bits_is_faster_by_less_than_the_peaks_differ(gpu: str) -> None:
    wide, narrow = (
        attention_s(step_of("llama-3-8b", gpu, precision="fp8", fp8_attention=on)) for on in (False, True)
    )
    for before, after in zip(wide, narrow, strict=True):
        assert before / 2 < after < before
    plain = step_of("llama-3-8b", gpu, precision="fp8")
    assert plain.kernels.rates.narrow_peak_ratio == pytest.approx(2, rel=0.01)


def test_attention_in_8_bits_needs_layers_in_8_or_4() -> None:
    with pytest.raises(SpecError, match="give precision fp8, mxfp8 or nvfp4"):
        step_of("llama-3-8b", fp8_attention=True)


def test_layers_in_16_bit_beside_8_bit_attention_attend_in_16() -> None:
    step = step_of("llama-3-8b", precision="mxfp8", fp8_attention=True, wide_layers=4)
    assert not step.wide_kernels.plan.fp8_attention


def test_experts_with_biases_launch_more_and_a_fused_one_does_not() -> None:
    """Ten operations of 12 us for each expert that a rank holds."""
    step = step_of("gpt-oss-120b")
    group = step.model.layer_groups[0]
    fused = step_of("gpt-oss-120b", fused_experts=True)
    more = step._launching_ms(group) - fused._launching_ms(fused.model.layer_groups[0])
    assert more == pytest.approx(0.12 * group.mlp.routed_experts, rel=1e-12)


def test_a_gated_function_moves_what_one_kernel_does_and_eager_ones_as_two() -> None:
    part = "activation_function"
    for framework, vectors in (("megatron", (3, 5)), ("fsdp", (5, 9))):
        step = step_of("llama-3-8b", framework=framework)
        group = step.model.layer_groups[0]
        width = group.mlp.ffn_size
        assert step.kernels._traffic(group)[part] == (vectors[0] * width, vectors[1] * width)
    plain = step_of("megatron-gpt-1.7b", framework="fsdp")
    group = plain.model.layer_groups[0]
    assert plain.kernels._traffic(group)[part] == (2 * group.mlp.ffn_size, 3 * group.mlp.ffn_size)


def test_biases_of_experts_move_what_is_counted_and_fused_experts_none_of_it() -> None:
    step, fused = step_of("gpt-oss-120b"), step_of("gpt-oss-120b", fused_experts=True)
    group = step.model.layer_groups[0]
    plain = group.replace(mlp=group.mlp.replace(bias=False))
    part, routed = "activation_function", group.mlp.routed_width
    more = [
        a - b
        for a, b in zip(step.kernels._traffic(group)[part], step.kernels._traffic(plain)[part], strict=True)
    ]
    assert more == pytest.approx([22 * routed, 37 * routed], rel=1e-12)
    assert fused.kernels._traffic(group)[part] == fused.kernels._traffic(plain)[part]


def test_a_compiled_loss_in_chunks_holds_one_chunks_gradient() -> None:
    loss = step_of("llama-3-8b", loss="chunked", compile=True).footprint.loss
    eager = step_of("llama-3-8b", loss="chunked").footprint.loss
    assert loss.bytes_per_logit == 2 + 2 / 8
    assert loss.bytes_per_logit < eager.bytes_per_logit


def test_an_update_of_8_bit_moments_widens_the_largest_tensor_in_torchtune_alone() -> None:
    """12 bytes per element of the table (both moments and the weight), when the backward pass has come to its end."""
    model = get_model_config_by_name("llama-3.1-8b")
    found = {}
    for framework in ("torchtune", "hf_trainer"):
        for name in ("adam8bit", "paged_adam8bit"):
            plan = {"optimizer": name, "optimizer_in_backward": True, "gradient_accumulation_steps": 1}
            step = step_of("llama-3.1-8b", framework=framework, **plan)
            found[framework, name] = float(
                step.footprint.memory(LOAD).at(BACKWARD_END).parts.temporaries_bytes
            )
    table = model.vocab_size * model.hidden_size
    assert found["torchtune", "adam8bit"] == pytest.approx(12 * table, rel=1e-5)
    assert found["torchtune", "paged_adam8bit"] < 12 * table
    assert found["hf_trainer", "adam8bit"] == found["hf_trainer", "paged_adam8bit"]


def test_shared_experts_are_launched_like_a_dense_block_unless_a_graph_holds_them() -> None:
    step = step_of("deepseek-v2")
    group = next(group for group in step.model.layer_groups if group.mlp.routed_experts)
    without = group.replace(mlp=group.mlp.replace(shared_ffn_size=0))
    assert step._launching_ms(group) - step._launching_ms(without) == pytest.approx(
        step.c["host_ms_per_layer"] / 2, rel=1e-12
    )
    graphed = step_of("deepseek-v2", cuda_graphs="layers")
    assert graphed._launching_ms(group) == graphed._launching_ms(without)


def test_a_grace_cpu_launches_as_much_slower_as_was_measured() -> None:
    """37.1 and 33.2 us of a linear layer on GB200 and GH200, 13.5 on a Xeon (NVIDIA/TransformerEngine, issue 2053)."""
    rack, board = step_of("llama-3-8b", "gb200"), step_of("llama-3-8b", "b200-180gb")
    group = rack.model.layer_groups[0]
    ratio = rack._host_s(group) / board._host_s(group)
    assert ratio == pytest.approx((37.08 / 13.48 + 33.17 / 13.48) / 2, rel=0.01)


@pytest.mark.parametrize(("delta_rule", "share"), [(False, "mamba"), (True, "chunked")])
def test_backward_scans_are_slower_by_their_kernels_share(delta_rule: bool, share: str) -> None:
    step = step_of(NANO)
    mixer = next(g.attention for g in step.model.layer_groups if isinstance(g.attention, StateSpace))
    mixer = mixer.replace(delta_rule=delta_rule)
    found = step.kernels._scan(mixer, LOAD)
    own = step.kernels.rates.efficiency
    even = own.model_copy(update={"scan_backward": {}})
    object.__setattr__(step.kernels.rates, "efficiency", even)
    equal = step.kernels._scan(mixer, LOAD)
    assert found.forward == equal.forward
    assert found.backward == pytest.approx(equal.backward / own.scan_backward[share], rel=1e-12)  # type: ignore[index]
    assert found.backward_j == equal.backward_j


def test_gradients_in_16_bits_are_reduced_in_16_bits() -> None:
    wide, narrow = (step_of("llama-3-8b", ds_zero=1, gradient_dtype_bytes=width) for width in (4, 2))
    params = wide.footprint.trained
    assert narrow.exchange.reduced_s(params) == pytest.approx(wide.exchange.reduced_s(params) / 2, rel=0.02)
    assert narrow.exchange.updated_s(params) == wide.exchange.updated_s(params)
    assert narrow.kernels._weight_gradient_bytes == wide.kernels._weight_gradient_bytes / 2
    unsaid = step_of("llama-3-8b", ds_zero=1)
    assert unsaid.exchange.reduced_s(params) == wide.exchange.reduced_s(params)


def test_exchanges_that_are_waited_for_give_products_no_power() -> None:
    """With and without tensor parallelism's waits the kernels of a layer are stretched alike."""
    step = step_of("llama-3-8b")
    cost = step._layer(0, LOAD, True, step.kernels)
    joules, kernels = 50.0, 0.01
    assert step.kernels.rates.board is not None
    least = step.kernels.rates.board.least_s(joules)
    stretched = step._within_power(cost, joules, kernels)
    assert stretched.latency_s == pytest.approx(cost.latency_s + max(least - kernels, 0.0), rel=1e-12)
    longer = cost.__class__(cost.latency_s + 1.0, cost.parts_s, cost.busy_s)
    assert step._within_power(longer, joules, kernels).latency_s == pytest.approx(
        longer.latency_s + max(least - kernels, 0.0), rel=1e-12
    )


def plan_of(framework: str, **asked: object) -> TrainingPlan:
    inputs = TrainingInputs(model="llama-3.1-8b", gpu="h100-sxm", framework=framework, num_gpus=8, **asked)
    return build_training_scenario(inputs).plan


def test_selective_recomputation_is_what_the_users_of_a_framework_mean() -> None:
    megatron, titan = (
        plan_of(name, activation_recomputation="selective") for name in ("megatron", "torchtitan")
    )
    assert megatron.activation_recomputation is ActivationRecomputation.ATTN_COMPUTE
    assert (titan.activation_recomputation, titan.kept_products) == (ActivationRecomputation.FULL, "half")
    own = plan_of("torchtitan", activation_recomputation="selective", kept_products="all")
    assert own.kept_products == "all"


def test_torchtitan_splits_its_loss_over_tensor_ranks() -> None:
    assert plan_of("torchtitan").loss == "plain"
    assert plan_of("torchtitan", tp_size=4).loss == "vocab-parallel"
    assert plan_of("torchtitan", tp_size=4, loss="plain").loss == "plain"


def test_compiled_kernels_move_less_where_eager_ones_are_many() -> None:
    def norms_s(framework: str, compiled: bool) -> float:
        inputs = TrainingInputs(
            model="llama-3.1-8b", gpu="h100-sxm", framework=framework, num_gpus=8, micro_batch_size=1,
            compile=compiled,
        )  # fmt: skip
        scenario = build_training_scenario(inputs)
        step = TrainingStep(scenario, get_framework(framework))
        times = step.kernels.layer(step.model.layer_groups[0], LOAD)
        return float(times.forward["norms"] + times.backward["norms"])

    assert norms_s("torchtitan", False) == pytest.approx((59 + 85) / (13 + 19) * norms_s("torchtitan", True))
    assert norms_s("megatron", False) == norms_s("megatron", True)


def test_a_power_limit_below_the_rated_one_slows_products_and_the_rated_one_nothing() -> None:
    def forward_s(limit: float | None) -> float:
        step = step_of("llama-3-8b", "h100-sxm-80gb", power_limit_w=limit)
        return float(step.step_cost(LOAD).latency_s)

    assert forward_s(700) == forward_s(None)
    assert 1.1 < forward_s(400) / forward_s(700) < (700 - 175) / (400 - 175)
