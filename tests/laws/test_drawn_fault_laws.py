"""Laws that faults drawn at random asked for: where requests go, parts of a batch, prompts in pieces, means of nothing."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm_perf.analysis.inference import predict_inference
from llm_perf.analysis.request import InferenceInputs, build_scenario
from llm_perf.analysis.training_request import TrainingInputs, build_training_scenario
from llm_perf.config import get_host_config_by_name, get_model_config_by_name
from llm_perf.config.quantization import read_quantization
from llm_perf.counts.activations import activation_widths
from llm_perf.counts.optimizer import OPTIMIZERS
from llm_perf.counts.parameters import layer_vectors
from llm_perf.counts.products import layer_products
from llm_perf.counts.weight_formats import resolve_formats
from llm_perf.hardware.cpu_time import CpuRates
from llm_perf.hardware.gpu_time import kernel_rates
from llm_perf.requests.limits import Limits
from llm_perf.requests.outcome import COMPLETED, REJECTED
from llm_perf.requests.simulate import rules_of, simulate, step_times
from llm_perf.requests.steady import SteadyState
from llm_perf.requests.summary import summary_of
from llm_perf.requests.workload import Requests
from llm_perf.systems import Load, system_of
from llm_perf.systems.accounting import BySize, MemoryRules
from llm_perf.systems.base import TierShares
from llm_perf.systems.constants import host_under, load_constants
from llm_perf.systems.families import memory_rules
from llm_perf.systems.footprint import step_activation_bytes
from llm_perf.systems.format_kernels import read_factor
from llm_perf.systems.forward import Forward
from llm_perf.systems.stacks.llama_cpp import offload, pipelined_s, queue_room
from llm_perf.systems.training.base import TrainingLoad
from llm_perf.systems.training.framework import get_framework
from llm_perf.systems.training.step import TrainingStep
from llm_perf.systems.zero_inference.times import ZeroPasses, stream_rates


@given(st.integers(2, 4), st.integers(1, 5), st.integers(0, 2**32 - 1))
def test_requests_of_one_prefix_go_where_its_first_one_went(replicas, prefixes, seed):
    """Under prefix-aware routing, whatever number a prefix has: its blocks are in one replica's cache."""
    rng = np.random.default_rng(seed)
    prefix = rng.integers(0, prefixes, 30)
    requests = Requests.of(np.arange(30) * 0.01, 300, 20, prefix_id=prefix, prefix_tokens=np.full(30, 200))
    scenario = build_scenario(InferenceInputs(model="llama-3.1-8b", gpu="h100-sxm", system="vllm@0.19"))
    found = simulate(scenario, requests, replicas=replicas, routing="prefix-aware")
    homes = [set(found.replica[prefix == one].tolist()) for one in set(prefix.tolist())]
    assert all(len(home) == 1 for home in homes)
    # New prefixes take turns among equally loaded replicas, so that none stays without work.
    assert len(set.union(*homes)) == min(replicas, len(homes))


@pytest.mark.parametrize("model", ["opt-6.7b", "opt-30b"])
def test_flexgen_cuts_a_batch_into_as_few_parts_as_the_gpu_holds(model):
    """Unless it is told how: the parts fit, and the next smaller number of parts does not."""

    def asked(**how):
        return build_scenario(
            InferenceInputs(
                model=model, gpu="t4", system="flexgen", percent="0 100 0 100 0 100", batch_size=512, prompt_len=512,
                gen_len=8, **how,
            )
        )  # fmt: skip

    scenario = asked()
    parts = system_of(scenario).place(scenario, Load(512.0, 512.0, 8.0)).policy.num_gpu_batches
    fewer = 2 ** int(math.log2(parts - 1))
    coarser = asked(gpu_batch_size=512 // fewer, num_gpu_batches=fewer)
    held, more = (predict_inference(one).memory.gpu.total_bytes for one in (scenario, coarser))
    assert parts > 1
    assert held <= scenario.gpu.usable_memory_bytes < more


@pytest.mark.parametrize("tokens", [512, 1024])
def test_a_prompt_in_pieces_with_nobody_beside_it_takes_what_infer_says(tokens):
    """In the closed form too: there is no step of others that its pieces would be added to."""
    asked = build_scenario(
        InferenceInputs(
            model="llama-3.1-8b", gpu="h100-sxm", system="vllm@0.19", prompt_len=6000, gen_len=64,
            max_num_batched_tokens=tokens,
        )
    )  # fmt: skip
    found = SteadyState(asked, 8000).at(6000, 64, concurrency=1)
    assert float(found.ttft_s) == pytest.approx(predict_inference(asked).ttft_s, rel=0.03)


def test_where_nothing_is_generated_there_is_no_mean_batch():
    """Requests of one token end with their prompts: no step decodes, and the mean of no steps is not a number."""
    scenario = build_scenario(InferenceInputs(model="llama-3.1-8b", gpu="h100-sxm", system="vllm@0.19"))
    found = summary_of(simulate(scenario, Requests.of(np.arange(5.0), 300, 1)))
    assert math.isnan(found.mean_batch)
    assert found.completed == 5


def test_what_was_never_admitted_found_nothing_in_a_cache():
    """A request that no cache could hold, beside one that is served."""
    scenario = build_scenario(
        InferenceInputs(model="llama-3.1-8b", gpu="h100-sxm", system="vllm@0.19", gpu_memory_utilization=0.27)
    )
    found = simulate(scenario, Requests.of([0.0, 1.0], [100, 120_000], [5, 5]))
    assert found.status.tolist() == [COMPLETED, REJECTED]
    assert found.cached_tokens.tolist() == [0, 0]


# -- kernels ----------------------------------------------------------------------------------------------------


@given(st.floats(0.01, 1), st.integers(1, 64), st.integers(1, 8))
def test_matrix_vector_kernels_read_4_bit_weights_again_for_each_further_row(again, rows, copies):
    """Of each copy: rows / copies - 1 further ones, none fewer than none; other widths read once."""
    scenario = build_scenario(InferenceInputs(model="opt-13b", gpu="a100-sxm-80gb", system="vllm"))
    constants = system_of(scenario).constants(scenario) | {"reread_per_row": again, "expert_bandwidth": 1.0}
    gemm = kernel_rates(scenario.gpu, 16).gemm
    found = read_factor(constants, "weight-only 4-bit", gemm, False, rows, copies)
    assert found == pytest.approx(1 + again * (max(rows / copies, 1) - 1), rel=1e-12)
    assert read_factor(constants, "weight-only 8-bit", gemm, False, rows, copies) == 1.0


@given(st.integers(1, 4096), st.floats(1e10, 1e13), st.floats(1e10, 1e13))
def test_a_program_without_a_border_takes_the_quicker_kernels(rows, plain_per_s, wide_per_s):
    """Kernels that unpack for every row, or once for many: where neither is bound to a number of rows, the quicker ones."""
    inputs = InferenceInputs(model="llama-3.1-8b", gpu="none", host="xeon-6960p", system="llama_cpp")
    constants = system_of(scenario := build_scenario(inputs)).constants(scenario)
    product = layer_products(scenario.model, scenario.model.layer_groups[0], 1, 1, 1)[0]

    def seconds(few, **rates):
        speeds = {"plain_per_s": plain_per_s, "wide_per_s": wide_per_s, **rates}
        return CpuRates(constants | {"cpu_plain_rows": few}, 8, 1e15, **speeds).product_s(
            product, rows, 1, 4.5
        )

    plain, wide = seconds(rows), seconds(1 if rows > 1 else 1e-9)
    assert seconds(0) == pytest.approx(min(plain, wide), rel=1e-9)


# -- pipelines --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stages", [2, 4])
@pytest.mark.parametrize("batch", [1, 8])
def test_of_a_batch_in_one_piece_one_stage_works_at_a_time(stages, batch):
    """A request passes the stages one after the other, so that the energy of the phase is one stage's at a time."""
    scenario = build_scenario(
        InferenceInputs(model="opt-13b", gpu="a100-sxm-80gb", system="vllm", pp_size=stages, batch_size=batch)
    )
    found = predict_inference(scenario)
    assert found.decode is not None
    assert found.prefill.cost.stages_busy == found.decode.cost.stages_busy == 1.0


@pytest.mark.parametrize("model", ["llama-2-7b", "llama-2-70b"])
@pytest.mark.parametrize("stages", [2, 4])
def test_many_passes_over_stages_follow_one_another_as_the_launch_queue_lets_them(model, stages):
    """k + 1 passes per pp + k - f turns of the fullest stage, one turn each at least; the head is dealt out as a layer."""
    scenario = build_scenario(
        InferenceInputs(model=model, gpu="a100-sxm-80gb", system="llama_cpp", pp_size=stages)
    )
    forward, layers = Forward(scenario, system_of(scenario).constants(scenario)), scenario.model.num_layers
    room = queue_room(forward)
    ahead = int(room)
    turns = max(stages + ahead - room, ahead + 1) / (ahead + 1)
    fullest = math.ceil((layers + 1) / stages) / layers
    found = pipelined_s(forward, 1e6, 1.0, 1.0) / 1e6
    assert found == pytest.approx(min(turns * fullest, 1.0), rel=1e-4)
    assert found < 0.8  # a queue has room for some passes of half a model


@pytest.mark.parametrize("experts_on_cpu", [0, 13, 26])
@pytest.mark.parametrize("gpus", [1, 2, 3, 4])
def test_layers_are_dealt_out_to_the_gpus_that_there_are(experts_on_cpu, gpus):
    """One part for each GPU, all layers in them, and no GPU above an equal share by more than a layer."""
    inputs = InferenceInputs(
        model="gpt-oss-120b", gpu="rtx-3090-24gb", host="ryzen-9-7950x", system="llama_cpp",
        weight_format="q4_k_m", n_cpu_moe=experts_on_cpu,
    )  # fmt: skip
    scenario = build_scenario(inputs)
    division = offload.division_of(scenario, system_of(scenario).constants(scenario))
    dealt = offload.layers_per_gpu(scenario, division, gpus)
    assert len(dealt) == gpus
    assert sum(part.layers for part in dealt) == scenario.model.num_layers
    whole = offload.gpu_weight_bytes(scenario, division)
    layer = whole / (scenario.model.num_layers - experts_on_cpu)
    assert max(part.weight_bytes for part in dealt) <= whole / gpus + 2 * layer


def test_a_cache_that_is_copied_is_attended_to_as_one_on_the_gpu():
    """ZeRO-Inference without attention on the CPU: the same kernels over the same tokens, once the copy is there."""
    asked = {
        "model": "opt-6.7b",
        "gpu": "a6000",
        "host": "a6000-workstation",
        "ds_zero": 3,
        "cpu_offload": True,
    }
    own, away = (
        build_scenario(InferenceInputs(**asked, batch_size=8, prompt_len=256, kv_offload=moved))
        for moved in (False, True)
    )
    copied = away.replace(offload=away.offload.replace(attention_device="gpu"))
    there, here, on_cpu = (predict_inference(one).decode for one in (copied, own, away))
    assert there is not None
    assert there.breakdown_s["attention"] == pytest.approx(here.breakdown_s["attention"], rel=1e-12)
    assert there.busy_s["cpu"] == 0 < on_cpu.busy_s["cpu"]


# -- memory of engines ------------------------------------------------------------------------------------------


@given(
    st.dictionaries(st.sampled_from([1, 2, 4, 8]), st.floats(0.5, 1), min_size=1),
    st.sampled_from([1, 2, 4, 8]),
)
def test_the_share_of_memory_is_that_of_the_most_ranks_not_above(shares, ranks):
    """As engines state it by tensor-parallel ranks; below the first entry that one holds."""
    scenario = build_scenario(
        InferenceInputs(model="opt-13b", gpu="a100-sxm-80gb", system="vllm", tp_size=ranks)
    )
    rules = MemoryRules(
        since="0", utilization_by_ranks=shares, of="total", max_num_batched_tokens=BySize(steps={0: 1}),
        provenance="assumed", source="a law",
    )  # fmt: skip
    known = [count for count in shares if count <= ranks] or [min(shares)]
    assert rules.utilization(scenario, 1) == shares[max(known)]


# -- training ---------------------------------------------------------------------------------------------------


def kernels_of(**inputs):
    asked = {
        "model": "opt-6.7b",
        "gpu": "b200-180gb",
        "host": "dgx-b200",
        "micro_batch_size": 1,
        "seq_len": 2048,
        **inputs,
    }
    scenario = build_training_scenario(TrainingInputs(**asked))
    step = TrainingStep(scenario, get_framework(scenario.framework))
    load = TrainingLoad(1.0, 1.0, 2048.0)
    return step, step.kernels.layer(scenario.model.layer_groups[0], load), load


def test_a_product_draws_at_least_three_times_its_forward_pass():
    """Gradients of the inputs and of the weights are a product each, and what attends and moves comes on top."""
    step, layer, load = kernels_of()
    products = layer_products(step.model, step.model.layer_groups[0], 1, 1, 1)
    flops = 2.0 * load.micro_batch * load.seq_len * sum(product.weights for product in products)
    board = step.kernels.rates.board
    assert board is not None
    assert 3 * flops * board.product_j < layer.joules < 6 * flops * board.product_j


def test_a_plain_activation_function_moves_two_vectors_forward_and_three_backward():
    """Read and written; read again with the gradient, and the gradient of the input written. Gated: 3 and 5."""
    for model, there, back in (("opt-6.7b", 2, 3), ("llama-2-7b", 3, 5)):
        step, layer, load = kernels_of(model=model, compile=True)
        width = step.model.layer_groups[0].mlp.ffn_size
        each = load.micro_batch * load.seq_len * width * 2 / step.kernels.rates.elementwise_bytes_per_s
        assert layer.forward["activation_function"] == pytest.approx(there * each, rel=1e-9)
        assert layer.backward["activation_function"] == pytest.approx(back * each, rel=1e-9)


def test_parts_of_latent_attention_are_put_together_once_each_way():
    """Queries and keys of two parts and copied values are moved beside the norms, forward and back alike."""
    step, layer, load = kernels_of(model="deepseek-v2-lite", gpu="h100-sxm-80gb", host=None)
    group, c = step.model.layer_groups[0], step.kernels.c
    each = load.micro_batch * load.seq_len * 2 / step.kernels.rates.elementwise_bytes_per_s
    norms, joined = step.model.hidden_size * group.norms / 2, group.attention.assembled_elements(1)
    assert joined > 0
    for way, seconds in (("forward", layer.forward["norms"]), ("backward", layer.backward["norms"])):
        assert seconds == pytest.approx(each * (norms * c[f"hidden_vectors_{way}"] + joined), rel=1e-9)


def test_a_backward_pass_works_in_so_many_vectors_of_one_layer():
    """Without recomputation: gradients in feed-forward and hidden vectors per token, of the widest layer."""
    step, _, load = kernels_of(model="llama-2-7b", activation_recomputation=0)
    c, group = step.footprint.constants, step.model.layer_groups[0]
    widths = activation_widths(step.model, group, 1)
    elements = c["backward_ffn_vectors"] * widths.ffn + c["backward_hidden_vectors"] * widths.hidden
    tokens = load.micro_batch * load.seq_len
    assert step.footprint.working_bytes(load) == pytest.approx(tokens * elements * 2, rel=1e-9)


def test_experts_whose_activation_function_is_computed_again_keep_less():
    def kept(*modules):
        step, _, load = kernels_of(
            model="mixtral-8x7b", activation_recomputation=0, recompute_modules=modules
        )
        return float(step.footprint.stage_activation_bytes(load))

    assert kept("moe_act") < 0.95 * kept()


@pytest.mark.parametrize("name", [name for name in OPTIMIZERS if name.startswith("paged_")])
def test_a_paged_optimizer_keeps_what_the_resident_one_does(name):
    paged, resident = OPTIMIZERS[name], OPTIMIZERS[name.removeprefix("paged_")]
    assert (paged.state_bytes, paged.flops, paged.paged) == (resident.state_bytes, resident.flops, True)


# -- what is counted and named ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "biases", "norms"), [("opt-1.3b", 6, 4), ("llama-2-7b", 0, 2), ("qwen3-8b", 0, 3)]
)
def test_a_layer_stores_a_vector_per_bias_and_its_norms_rounded_up(name, biases, norms):
    """Two norms with a bias each are four hidden vectors; those of Qwen3's heads take a part of a third one."""
    model = get_model_config_by_name(name)
    assert layer_vectors(model, model.layer_groups[0]) == biases + norms


@pytest.mark.parametrize(("module", "place"), [("q_a_proj", 0), ("kv_a_proj_with_mqa", 2)])
def test_a_latent_projection_that_stays_wide_is_the_one_that_is_named(module, place):
    """With a latent of queries the first product is the queries' latent, and the third that of keys and values."""
    model = get_model_config_by_name("deepseek-v3")
    config = {"quant_method": "fp8", "modules_to_not_convert": [module]}
    row = resolve_formats(model, read_quantization(config)).layers[0]
    assert [index for index, entry in enumerate(row) if entry.bits == 16] == [place]


# -- requests, and messages between ranks -----------------------------------------------------------------------


def test_prompts_of_a_static_batch_have_nothing_in_a_cache_unless_it_is_said():
    scenario = build_scenario(InferenceInputs(model="opt-1.3b", gpu="t4", system="transformers"))
    times = step_times(scenario, Limits.of(scenario, rules_of(scenario), 2048))
    assert (
        times.equal_prompts_s(4, 512) == times.equal_prompts_s(4, 512, 0) < times.equal_prompts_s(4, 512, 256)
    )


def test_a_message_goes_in_one_shot_up_to_the_size_that_a_stack_says():
    """4 sequences of a model 4,096 wide are messages of 32 KiB: of the next smaller limit they go around the ring."""
    scenario = build_scenario(
        InferenceInputs(model="llama-3.1-8b", gpu="a100-sxm-80gb", system="vllm", tp_size=8, batch_size=4)
    )

    def reduced_s(limit_kib):
        constants = (("one_shot_all_reduce_kib", limit_kib), ("custom_all_reduce_us", 0.0))
        decode = predict_inference(scenario.replace(constants=constants)).decode
        assert decode is not None
        return decode.breakdown_s["all_reduce"]

    assert reduced_s(32.0) == reduced_s(33.0) < reduced_s(31.0) == reduced_s(1.0)


@given(st.floats(1e6, 1e12), st.floats(1e9, 1e13))
def test_scores_on_a_cpu_reach_the_share_that_a_program_says(flops, plain_per_s):
    """Two operations a multiplication; where next to nothing is read, scores are all there is."""
    inputs = InferenceInputs(model="llama-3.1-8b", gpu="none", host="xeon-6960p", system="llama_cpp")
    constants = system_of(scenario := build_scenario(inputs)).constants(scenario)
    rates = CpuRates(constants, 8, 1e15, plain_per_s=plain_per_s, wide_per_s=1e13)
    scored = flops / (2 * plain_per_s * constants["cpu_decode_score_share"])
    assert rates.attention_s(flops, 0.0) == pytest.approx(scored, rel=1e-9)


# -- what a second draw asked for -------------------------------------------------------------------------------


def test_rates_that_a_version_states_for_a_host_are_those_of_its_copies():
    """Found once and the same for whoever asks again; a host of which a version says nothing stays as it is."""
    file, host = load_constants("zero_inference"), get_host_config_by_name("gcp-t4")
    rates = {name: one for name, one in file.on_host(host.name).items() if name not in file.constants}
    under = host_under(host, file, "zero_inference")
    assert rates
    for name, one in rates.items():
        assert under.copies[f"zero_inference.{name.removesuffix('_gb_per_s')}"].gb_per_s == one.value
    assert host_under(host, file, "zero_inference") is under
    other = get_host_config_by_name("epyc-9654")
    assert host_under(other, file, "zero_inference") is other


@given(st.sampled_from([512, 2048, 8192]), st.integers(1, 256))
def test_workspaces_of_experts_that_are_kept_never_need_less(tokens, sequences):
    """Where the widest layer is more than what a sampler needs, keeping them between layers changes nothing."""
    scenario = build_scenario(
        InferenceInputs(model="mixtral-8x7b", gpu="h100-sxm-80gb", system="vllm", tp_size=2)
    )
    rules = memory_rules("vllm", scenario.system_version)
    kept, given_back = (
        float(step_activation_bytes(scenario, tokens, sequences, rules.replace(keeps_expert_workspaces=flag)))
        for flag in (True, False)
    )
    assert kept >= given_back
    if sequences == 1:
        assert kept == pytest.approx(given_back)


@pytest.mark.parametrize("stages", [2, 4])
def test_the_slowest_stage_works_for_its_share_of_a_phase_at_least(stages):
    def asked(pp_size):
        inputs = InferenceInputs(model="opt-13b", gpu="a100-sxm-80gb", system="vllm", pp_size=pp_size)
        found = predict_inference(build_scenario(inputs))
        assert found.decode is not None
        return found.prefill, found.decode

    for phase in asked(stages):
        assert phase.slowest_stage_s is not None
        assert 0.9 * phase.latency_s / stages < phase.slowest_stage_s < phase.latency_s
    assert [phase.slowest_stage_s for phase in asked(1)] == [None, None]


@given(st.floats(0, 1), st.floats(1e-6, 1e-2))
def test_weights_are_copied_by_each_path_in_their_share_alone(share, latency_s):
    """Bytes and starts: a path that nothing takes costs nothing, and two of equal rates cost what one would."""
    scenario = build_scenario(InferenceInputs(model="opt-6.7b", gpu="t4", ds_zero=3, cpu_offload=True))
    system = system_of(scenario)
    constants = system.constants(scenario)
    forward = Forward(scenario, constants)
    rates, placed = stream_rates(scenario, constants), system.place(scenario, Load.of(scenario.workload))
    path = replace(rates.host_to_gpu, latency_s=latency_s)
    rates = replace(rates, host_to_gpu=path, buffers_to_gpu=path)

    placement = replace(placed, weights=TierShares(0.0, share, 1.0 - share))
    passes = ZeroPasses(scenario, constants, forward, placement, rates, 1.0)
    _, _, weights, ranks, parameters = passes.copies[0]
    assert ranks == 1
    assert passes.copy_s == pytest.approx(path.seconds(weights, parameters), rel=1e-9)
