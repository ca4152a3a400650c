"""Several GPUs and nodes: who talks over what, what one of them holds, and what is waited for."""

from __future__ import annotations

from typing import Any

import pytest

from llm_perf.analysis.inference import InferenceResult, predict_inference
from llm_perf.analysis.request import InferenceInputs, build_scenario
from llm_perf.config import get_gpu_config_by_name, get_host_config_by_name
from llm_perf.errors import SpecError
from llm_perf.hardware.collective import fabric
from llm_perf.systems.footprint import model_weight_bytes, stage_kv_bytes, stage_weight_bytes

GIB = 2**30


def predict(model: str, gpu: str, **settings: Any) -> InferenceResult:
    return predict_inference(build_scenario(InferenceInputs(model=model, gpu=gpu, **settings)))


def test_nodes_are_as_few_as_the_host_has_places_for() -> None:
    assert predict("llama-3.1-70b", "h100-sxm-80gb", tp_size=8).scenario.num_nodes == 1
    assert predict("llama-3.1-70b", "h100-sxm-80gb", tp_size=16).scenario.num_nodes == 2


def test_a_node_takes_no_more_gpus_than_it_has_places_for() -> None:
    with pytest.raises(SpecError, match="places for 8"):
        predict("llama-3.1-70b", "h100-sxm-80gb", tp_size=16, num_nodes=1)
    with pytest.raises(SpecError, match="places for 4"):
        predict("opt-30b", "t4", ds_zero=3, num_gpus=8, batch_size=8)


def test_gpus_of_several_nodes_talk_over_the_network_card() -> None:
    gpu, host = get_gpu_config_by_name("h100-sxm-80gb"), get_host_config_by_name("dgx-h100")
    inside, outside = fabric(gpu, 8, 8, host), fabric(gpu, 16, 8, host)
    slow = fabric(gpu, 16, 8, host.replace(nic_gb_per_s=0.125))
    assert inside.bytes_per_s > outside.bytes_per_s > slow.bytes_per_s
    card = 0.125e9 * gpu.efficiency.collective.inter_node_efficiency
    assert slow.bytes_per_s == pytest.approx(8 * card)  # a ring crosses the border on all cards of a node
    assert fabric(gpu, 2, 8, host.replace(nic_gb_per_s=0.125), 16).bytes_per_s == pytest.approx(card)


def test_experts_that_spread_over_replicas_span_their_nodes() -> None:
    """16 ranks of tp 4 and ep 4 cannot all be in one node of 8, though 4 ranks of experts alone would fit."""
    wide = predict("mixtral-8x7b", "h100-sxm-80gb", tp_size=4, dp_size=4, ep_size=4, batch_size=64)
    narrow = predict("mixtral-8x7b", "h100-sxm-80gb", tp_size=2, dp_size=4, ep_size=4, batch_size=64)
    assert wide.decode is not None
    assert narrow.decode is not None
    assert wide.scenario.num_nodes == 2
    assert wide.decode.breakdown_s["all_to_all"] > 2 * narrow.decode.breakdown_s["all_to_all"]


def test_routed_tokens_travel_once_per_expert() -> None:
    """top_k copies of every hidden state are sent, so the bytes of an all-to-all grow with it."""
    scenario = build_scenario(
        InferenceInputs(
            model="mixtral-8x7b", gpu="h100-sxm-80gb", dp_size=4, ep_size=4, batch_size=4096, prompt_len=512
        )
    )
    group = scenario.model.layer_groups[0]
    one = group.replace(mlp=group.mlp.replace(top_k=1))
    fewer = scenario.replace(model=scenario.model.replace(layer_groups=(one,)))
    two = predict_inference(scenario).prefill.breakdown_s["all_to_all"]
    assert two == pytest.approx(2 * predict_inference(fewer).prefill.breakdown_s["all_to_all"], rel=0.05)


def test_a_pipeline_pays_each_border_once_and_the_network_only_between_nodes() -> None:
    settings: dict[str, Any] = {"prompt_len": 2048, "gen_len": 2}
    two = predict("llama-3.1-8b", "h100-sxm-80gb", pp_size=2, **settings).prefill
    four = predict("llama-3.1-8b", "h100-sxm-80gb", pp_size=4, **settings).prefill
    apart = predict("llama-3.1-8b", "h100-sxm-80gb", pp_size=4, num_nodes=2, **settings).prefill
    hop = two.breakdown_s["pipeline_transfer"]
    assert four.breakdown_s["pipeline_transfer"] == pytest.approx(3 * hop)
    between = apart.breakdown_s["pipeline_transfer"] - 2 * hop
    assert between > 2 * hop
    gpu, host = get_gpu_config_by_name("h100-sxm-80gb"), get_host_config_by_name("dgx-h100")
    assert between == pytest.approx(fabric(gpu, 2, 1, host).send_s(2048 * 4096 * 2))


def test_the_fullest_stage_holds_its_share_of_global_layers() -> None:
    """Gemma-3-12B: 8 of 48 layers are global; of 12 stages some hold a whole one, never a twelfth of all."""
    scenario = build_scenario(
        InferenceInputs(
            model="gemma-3-12b", gpu="h100-sxm-80gb", pp_size=12, batch_size=8, prompt_len=32768, gen_len=32
        )
    )
    attention = next(g.attention for g in scenario.model.layer_groups if g.attention.window is None)
    one_global_layer = 8 * (32768 + 32) * 2 * attention.num_kv_heads * attention.head_dim * 2
    assert stage_kv_bytes(scenario, 8.0, 32800.0) > one_global_layer


def test_the_fullest_stage_of_a_mixture_holds_no_dense_layers() -> None:
    scenario = build_scenario(InferenceInputs(model="deepseek-v3", gpu="h200", pp_size=8))
    average = model_weight_bytes(scenario) / 8
    assert stage_weight_bytes(scenario) > average * 1.02
    assert stage_weight_bytes(scenario) < average * 1.15


def test_a_tied_head_on_the_last_stage_is_a_copy_of_the_narrow_table() -> None:
    whole = build_scenario(InferenceInputs(model="opt-350m", gpu="t4"))
    split = whole.replace(parallelism=whole.parallelism.replace(pp_size=2))
    table = 50272 * 512 * 2
    assert model_weight_bytes(split) - model_weight_bytes(whole) == table


def test_disks_and_host_memory_are_shared_out_over_nodes() -> None:
    one = predict("opt-175b", "t4", ds_zero=3, dp_size=4, batch_size=4, disk_offload=True)
    two = predict("opt-175b", "t4", ds_zero=3, dp_size=4, batch_size=4, disk_offload=True, num_nodes=2)
    assert two.memory.nvme.weights_bytes == one.memory.nvme.weights_bytes / 2
    assert two.prefill.busy_s["nvme"] == pytest.approx(one.prefill.busy_s["nvme"] / 2)
    assert two.memory.cpu.buffers_bytes == one.memory.cpu.buffers_bytes / 2  # buffers are per GPU
    held = predict("opt-30b", "t4", ds_zero=3, dp_size=4, batch_size=4, cpu_offload=True)
    spread = predict("opt-30b", "t4", ds_zero=3, dp_size=4, batch_size=4, cpu_offload=True, num_nodes=2)
    assert spread.memory.cpu.weights_bytes == held.memory.cpu.weights_bytes / 2


def test_gathers_over_pcie_do_not_hide_behind_copies_on_the_same_link() -> None:
    """Four T4 have no links of their own: copying a quarter each and gathering the rest takes both times."""
    result = predict("opt-30b", "t4", ds_zero=3, dp_size=4, batch_size=4, cpu_offload=True)
    busy = result.prefill.busy_s
    assert result.prefill.latency_s > busy["pcie"] + busy["interconnect"]


def test_host_time_that_hides_behind_kernels_is_no_bottleneck() -> None:
    result = predict("llama-3.1-70b", "h100-sxm-80gb", tp_size=8)
    assert result.decode is not None
    assert result.decode.busy_s["host"] > result.decode.busy_s["compute"]
    assert result.decode.bottleneck != "host"


def test_hooks_without_streaming_are_framework_time() -> None:
    result = predict("opt-6.7b", "a100-sxm-80gb", ds_zero=3)
    assert result.placement.weights.gpu == 1
    assert result.decode is not None
    assert "weight_streaming" not in result.decode.breakdown_s
    assert result.decode.bottleneck == "host"


def test_rates_that_stand_in_for_measured_ones_are_said() -> None:
    assumed = predict("opt-30b", "a100-sxm-80gb", ds_zero=3, cpu_offload=True)
    measured = predict("opt-30b", "t4", ds_zero=3, cpu_offload=True)
    assert any("no copy rate was measured" in warning for warning in assumed.warnings)
    assert not any("measured on host" in warning for warning in measured.warnings)


def test_a_systems_caveat_reaches_the_reader() -> None:
    assert any("too fast" in warning for warning in predict("opt-6.7b", "t4", system="petals").warnings)
    assert any(
        "a guess" in warning
        for warning in predict("opt-6.7b", "a100-sxm-80gb", system="deepspeed_inference").warnings
    )


def test_four_bit_caches_store_scales_and_eight_bit_ones_none() -> None:
    sixteen, eight, four = (
        predict("llama-2-7b", "a100-sxm-80gb", kv_bits=bits).memory.gpu.kv_cache_bytes for bits in (16, 8, 4)
    )
    assert eight == sixteen / 2
    assert four == pytest.approx(sixteen / 4 * (4 + 32 / 64) / 4)


def test_sequence_parallelism_shares_activations_and_norms() -> None:
    """Long prompts: norms and residuals are divided, memory as well; the exchange moves the bytes of the all-reduce."""
    settings: dict[str, Any] = {"tp_size": 4, "batch_size": 8, "prompt_len": 4096}
    plain = predict("llama-3.1-70b", "h100-sxm-80gb", **settings)
    shared = predict("llama-3.1-70b", "h100-sxm-80gb", sp_size=4, **settings)
    before, after = plain.prefill.breakdown_s, shared.prefill.breakdown_s
    assert after["elementwise"] < before["elementwise"]
    assert "all_reduce" not in after
    assert before["all_reduce"] <= after["reduce_scatter_all_gather"] < 1.1 * before["all_reduce"]
    assert shared.memory.gpu.activations_bytes < plain.memory.gpu.activations_bytes
    assert shared.memory.gpu.weights_bytes == plain.memory.gpu.weights_bytes
    assert shared.prefill.latency_s < plain.prefill.latency_s


@pytest.mark.parametrize(
    ("gpu", "gpus", "host"),
    [
        ("rtx-3090", 2, "desktop-gen4"),
        ("rtx-3090", 4, "workstation-gen4"),
        ("rtx-5090", 4, "workstation-gen5"),
        ("rtx-5090", 8, "server-gen5"),
    ],
)
def test_cards_that_a_desktop_has_no_places_for_are_in_a_larger_host(gpu: str, gpus: int, host: str) -> None:
    for sizes in ({"tp_size": gpus}, {"tp_size": gpus, "num_gpus": gpus}):
        scenario = predict("llama-3.1-8b", gpu, **sizes).scenario
        assert (scenario.host.name, scenario.num_nodes) == (host, 1)
    with pytest.raises(SpecError, match="desktop-gen4 has places for 2"):
        predict("llama-3.1-8b", "rtx-3090", tp_size=4, num_gpus=4, host="desktop-gen4")


@pytest.mark.parametrize(
    ("system", "more", "stages", "replicas"),
    [
        ("llama_cpp", {}, 4, 1),
        ("ollama", {"tp_size": 1}, 4, 1),
        ("accelerate", {}, 4, 1),
        ("exllama", {"batch_size": 4, "dp_size": 4, "quant_bits": 4}, 1, 4),
        ("llama_cpp", {"pp_size": 2, "batch_size": 2}, 2, 2),
        ("llama_cpp", {"num_nodes": 2, "num_gpus": 2}, 4, 1),
        ("vllm", {"batch_size": 4}, 1, 4),
    ],
)
def test_gpus_of_programs_that_divide_layers_over_all_they_see_are_stages(
    system: str, more: dict[str, Any], stages: int, replicas: int
) -> None:
    asked = {"model": "llama-2-13b", "gpu": "rtx-4090", "system": system, "num_gpus": 4} | more
    found = build_scenario(InferenceInputs(**asked)).parallelism
    assert (found.pp_size, found.dp_size) == (stages, replicas)
