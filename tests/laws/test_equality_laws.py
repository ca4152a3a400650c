"""Equalities: closed forms of what monotony cannot tell from its half or its double."""

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from llm_perf.analysis.economics import joules
from llm_perf.analysis.inference import predict_inference
from llm_perf.analysis.request import InferenceInputs, build_scenario
from llm_perf.analysis.training import predict_training
from llm_perf.analysis.training_request import TrainingInputs, build_training_scenario
from llm_perf.config.loading import get_host_config_by_name
from llm_perf.counts.flops import prefill_flops
from llm_perf.counts.parameters import total_params
from llm_perf.counts.products import layer_products
from llm_perf.errors import SpecError
from llm_perf.hardware.gpu_time import kernel_rates
from llm_perf.hardware.transfer import Path, link_sharers
from llm_perf.report.explain import explanations
from llm_perf.report.trace import schedule_spans
from llm_perf.report.training_explain import training_explanations
from llm_perf.systems import system_names, system_of
from llm_perf.systems.base import Load, PhaseCost
from llm_perf.systems.footprint import prefill_activation_bytes
from llm_perf.systems.forward import Forward
from llm_perf.systems.passes import mean_pass, passes
from llm_perf.systems.speculation import Rounds
from llm_perf.systems.training.framework import get_framework
from llm_perf.systems.training.step import TrainingStep
from llm_perf.systems.zero_inference.memory import live_param_bytes


def scenario_of(**inputs):
    return build_scenario(InferenceInputs(**inputs))


def forward_of(scenario):
    return Forward(scenario, system_of(scenario).constants(scenario))


# -- expert parallelism -----------------------------------------------------------------------------------------


@given(st.sampled_from([2, 4, 8]), st.integers(1, 64), st.integers(1, 64))
def test_a_layer_of_experts_exchanges_tokens_twice(ep, batch, prompt):
    """To the experts and back: per layer two all-to-alls of every token's hidden state for each expert it visits.

    Over n GPUs that all reach each other, an all-to-all of B bytes keeps 1/n of them where they are.
    """
    scenario = scenario_of(
        model="mixtral-8x7b",
        gpu="h100-sxm-80gb",
        dp_size=ep,
        ep_size=ep,
        batch_size=ep * batch,
        prompt_len=prompt,
    )
    forward, model = forward_of(scenario), scenario.model
    routed = batch * prompt * 2 * model.hidden_size * scenario.dtype.activation_bits / 8
    one = forward.exchanges.experts.all_to_all_s(routed)
    assert forward.prefill(batch, prompt).parts_s["all_to_all"] == pytest.approx(2 * 32 * one, rel=1e-12)


@given(st.sampled_from([1, 2, 4, 8]), st.integers(1, 4096))
def test_every_expert_loses_its_own_partly_filled_tile(ep, tokens):
    """One product over E experts takes as long as E products of a share of the rows, each with rows lost of its own."""
    scenario = scenario_of(model="mixtral-8x7b", gpu="a100-sxm-80gb", dp_size=ep, ep_size=ep, batch_size=ep)
    forward = forward_of(scenario)
    gemm = forward.rates.gemm
    assert gemm.half_m > 0
    experts = 8 / ep
    for product in layer_products(scenario.model, scenario.model.layer_groups[0], 1, ep, ep):
        if not product.is_expert:
            continue
        # A token's two experts are different ones, and each of all ranks' tokens picks them anew.
        touched = experts * (1 - (1 - 2 / 8) ** (tokens * ep))
        rows = tokens * 2
        assert product.weights == product.in_features * product.out_features
        taken = rows / touched
        taken = max(taken, gemm.tile_rows) + min(max(taken - gemm.tile_rows, 0), gemm.half_m)
        each = 2 * product.in_features * product.out_features * taken / gemm.flops_per_s
        compute_s = forward.product_s(product, tokens).compute_s
        assert compute_s == pytest.approx(touched * each, rel=1e-9), product.op


# -- shared links -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("host", ["dgx-1", "dgx-2", "dgx-a100"])
def test_a_deployment_spreads_over_the_links_of_a_node(host):
    """A link each as far as links go, then equal shares: n GPUs on L links are n/L to a link."""
    spec = get_host_config_by_name(host)
    links = spec.gpus_per_node // spec.gpus_per_pcie_link
    assert spec.gpus_per_pcie_link == 2
    for gpus in range(1, spec.gpus_per_node + 1):
        assert link_sharers(spec, gpus) == max(1, gpus / links)


@pytest.mark.parametrize("device", ["cpu_offload", "disk_offload"])
def test_n_gpus_on_a_link_take_n_times_as_long_to_copy_as_one(device):
    """ZeRO-Inference: bytes wait for those of the others on the link, latencies of copies wait for nobody."""
    scenario = scenario_of(
        model="opt-175b",
        gpu="v100-sxm2-32gb",
        host="dgx-2",
        ds_zero=3,
        dp_size=16,
        batch_size=16,
        **{device: True},
    )

    def copies_s(sharers):
        host = scenario.host.replace(gpus_per_pcie_link=sharers)
        return predict_inference(scenario.replace(host=host)).prefill.busy_s["pcie"]

    each = copies_s(2) - copies_s(1)
    assert copies_s(1) == pytest.approx(each, rel=5e-3)  # but for the latencies
    assert copies_s(4) - copies_s(1) == pytest.approx(3 * each, rel=1e-9)
    assert copies_s(16) - copies_s(1) == pytest.approx(15 * each, rel=1e-9)


@pytest.mark.parametrize(("gpus", "sharers"), [(2, 1), (4, 1), (8, 1), (16, 2)])
def test_stages_of_flexgen_have_a_link_each_where_the_node_has_as_many(gpus, sharers):
    """Copies take what they take with a link for every GPU, times the GPUs that share one."""
    scenario = scenario_of(
        model="opt-30b", gpu="v100-sxm2-32gb", host="dgx-2", system="flexgen", pp_size=gpus,
        percent="0 100 100 0 100 0", batch_size=16, prompt_len=128, gen_len=2,
    )  # fmt: skip
    own = scenario.replace(host=scenario.host.replace(gpus_per_pcie_link=1))
    together, alone = (predict_inference(each).prefill.busy_s["h2d"] for each in (scenario, own))
    assert together == pytest.approx(sharers * alone, rel=1e-12 if sharers == 1 else 0.02)


# -- energy of pipelines ----------------------------------------------------------------------------------------


@given(st.sampled_from([2, 4, 8]), st.floats(0.01, 100), st.floats(0, 0.85), st.floats(0, 0.85))
def test_stages_that_take_turns_spend_the_energy_of_one_gpu_and_the_idle_power_of_the_others(
    stages, latency_s, compute, memory
):
    """One way through the stages is the work of one GPU: what it draws above idle is spent once, by whoever's turn it is."""
    one = scenario_of(model="opt-13b", gpu="a100-sxm-80gb", system="resident")
    many = scenario_of(model="opt-13b", gpu="a100-sxm-80gb", system="resident", pp_size=stages)
    phase = PhaseCost(latency_s, {}, {"compute": compute * latency_s, "hbm": memory * latency_s})
    idle = PhaseCost(latency_s, {}, {})
    load = Load(8.0, 500.0, 1.0)
    above = joules(one, load, phase, None) - joules(one, load, idle, None)
    several = joules(many, load, phase, None) - joules(many, load, idle, None)
    assert several == pytest.approx(above, rel=1e-9, abs=1e-9)
    assert joules(many, load, idle, None) == pytest.approx(stages * joules(one, load, idle, None), rel=1e-12)


@given(st.integers(1, 64), st.floats(0.001, 100))
def test_arithmetic_draws_power_for_what_it_multiplies(batch, latency_s):
    """Rows that a kernel loses to its tiles take time, and no power; what is multiplied is the model's FLOPs."""
    scenario = scenario_of(model="opt-13b", gpu="a100-sxm-80gb", system="resident")
    load = Load(float(batch), 100.0, 1.0)
    flops = prefill_flops(scenario.model, batch, 100.0)
    seconds = flops / kernel_rates(scenario.gpu, 16).gemm.flops_per_s
    idle, busy, waiting = (
        joules(scenario, load, PhaseCost(latency_s, {}, {"compute": share * latency_s}), None) / latency_s
        for share in (0.0, min(seconds / latency_s, 1.0), 1.0)
    )
    assert waiting == pytest.approx(busy, rel=1e-9)
    assert busy > idle


# -- memory of logits -------------------------------------------------------------------------------------------


@given(st.integers(64, 512), st.sampled_from([1, 2, 4]))
def test_logits_stand_beside_two_vectors_of_hidden_states_per_token(batch, prompt):
    """Logits of all positions of a wide vocabulary are the fullest moment: with a block's input and output beside them."""
    scenario = scenario_of(model="gemma-2-2b", gpu="h100-sxm-80gb", system="resident", batch_size=batch)
    model = scenario.model
    constants = system_of(scenario).constants(scenario) | {"logits_all_positions": 1.0}
    tokens = batch * prompt
    expected = tokens * (model.vocab_size * constants["logit_bytes"] + 2 * model.hidden_size * 2)
    assert prefill_activation_bytes(scenario, batch, prompt, constants) == pytest.approx(expected, rel=1e-12)


# -- copies and what is kept for them ---------------------------------------------------------------------------


@given(st.floats(0, 1e12), st.integers(0, 10**6), st.floats(1e6, 1e12), st.floats(0, 1e-2))
def test_copies_take_their_bytes_and_a_start_each(moved, copies, rate, latency):
    """bytes / rate + copies x latency; of users that share a path each waits for the bytes of all, not for their starts."""
    path = Path("h2d", rate, latency)
    assert path.seconds(moved, copies) == pytest.approx(moved / rate + copies * latency, rel=1e-12)
    shared = path.shared_by(4).seconds(moved, copies)
    assert shared == pytest.approx(4 * moved / rate + copies * latency, rel=1e-12)


@given(st.sampled_from(["opt-6.7b", "opt-66b", "mixtral-8x7b"]), st.floats(0, 20), st.floats(0, 20))
def test_a_bucket_is_fetched_beside_the_parameters_that_live(model, live, bucket):
    """Elements of both as multiples of hidden^2, but the largest parameter at least, which no gather can divide."""
    scenario = scenario_of(model=model, gpu="a100-sxm-80gb", ds_zero=3, cpu_offload=True)
    constants = system_of(scenario).constants(scenario)
    constants |= {"max_live_hidden_squares": live, "prefetch_bucket_hidden_squares": bucket}
    square = scenario.model.hidden_size**2
    largest = max(
        scenario.model.vocab_size * scenario.model.hidden_size,
        scenario.model.hidden_size * scenario.model.layer_groups[0].mlp.ffn_size,
    )
    expected = 2 * (max(live * square, largest) + bucket * square)
    assert live_param_bytes(scenario, constants) == pytest.approx(expected, rel=1e-12)


@given(
    st.integers(1, 8), st.integers(1, 1024)
)  # more at once the T4 does not hold: they go in waves of equal sizes
def test_flexgen_packs_every_new_key_and_value(batch, prompt):
    """2 x hidden elements per token and layer at so many bytes each, over the GPU's memory; nothing hides in one stream."""
    scenario = scenario_of(
        model="opt-30b", gpu="t4", system="flexgen", percent="20 80 100 0 100 0", compress_cache=True,
        batch_size=batch, prompt_len=prompt, gen_len=2, overlap=False,
    )  # fmt: skip
    model, constants = scenario.model, system_of(scenario).constants(scenario)
    new = batch * prompt * 2 * model.hidden_size * model.num_layers
    moved = new * constants["pack_bytes_per_element"]
    packing = predict_inference(scenario).prefill.breakdown_s["quantisation"]
    assert packing == pytest.approx(moved / kernel_rates(scenario.gpu, 16).elementwise_bytes_per_s, rel=1e-9)


# -- speculation ------------------------------------------------------------------------------------------------


@given(st.integers(1, 8), st.integers(1, 64))
def test_a_round_checks_one_query_more_than_it_drafted(drafted, batch):
    """The drafted tokens, and the last one before them, whose successor is the first that the model itself gives."""
    scenario = scenario_of(
        model="opt-13b",
        gpu="a100-sxm-80gb",
        draft_model="opt-125m",
        draft_tokens=drafted,
        token_acceptance=0.7,
        batch_size=batch,
    )
    rounds = Rounds(scenario, system_of(scenario).constants(scenario))
    assert rounds.queries == drafted + 1
    alone = Rounds(scenario.replace(speculation=None), system_of(scenario).constants(scenario))
    assert (alone.queries, alone.drafted, alone.tokens) == (1, 0, 1.0)


# -- training ---------------------------------------------------------------------------------------------------


@given(st.sampled_from([2, 4, 8]), st.integers(1, 4), st.sampled_from([1, 2]))
def test_a_stage_sends_hidden_states_on_and_their_gradients_back(stages, micro_batch, chunks):
    """One micro-batch crosses a border twice, each time with its hidden states' bytes, and so for each chunk of a rank."""
    scenario = build_training_scenario(
        TrainingInputs(
            model="opt-13b", gpu="a100-sxm-80gb", host="dgx-a100", pp_size=stages, seq_len=2048,
            micro_batch_size=micro_batch, virtual_stages=chunks if 40 % (stages * chunks) == 0 else 1,
            gradient_accumulation_steps=stages,
        )
    )  # fmt: skip
    step = TrainingStep(scenario, get_framework(scenario.framework))
    sent = step.exchange.pipeline.send_s(micro_batch * 2048 * 5120 * 2)
    expected = 2 * scenario.plan.virtual_stages * sent
    assert step.exchange.stage_transfer_s(micro_batch * 2048) == pytest.approx(expected, rel=1e-12)


@given(st.sampled_from(["opt-1.3b", "opt-6.7b"]), st.sampled_from([0, 1, 2]), st.sampled_from([1, 2, 8]))
def test_an_update_reads_and_writes_the_state_of_every_parameter(model, stage, replicas):
    """Mixed precision with Adam on an own share of the parameters: gradients are read and once more for their norm,
    12 bytes of state are read and written, the 2 of the weights are written (arXiv 1910.02054, section 3.1).
    """
    scenario = build_training_scenario(
        TrainingInputs(
            model=model,
            gpu="h100-sxm-80gb",
            host="dgx-h100",
            dp_size=replicas,
            ds_zero=stage,
            micro_batch_size=1,
        )
    )
    step = TrainingStep(scenario, get_framework(scenario.framework))
    own = total_params(scenario.model) / (replicas if stage else 1)
    gradients = step.footprint.gradient_element_bytes
    moved = 2 * gradients + 2 * 12 + 2 + step.c["update_copy_bytes"]
    expected = own * moved / step.kernels.rates.elementwise_bytes_per_s
    parts = predict_training(scenario).breakdown_s
    assert parts["optimizer"] == pytest.approx(expected, rel=1e-9)


# -- terms ------------------------------------------------------------------------------------------------------


DEPLOYMENTS = st.one_of(
    st.fixed_dictionaries(
        {
            "model": st.sampled_from(["opt-6.7b", "llama-2-70b", "gemma-2-9b", "bert-base", "mixtral-8x7b"]),
            "system": st.sampled_from(sorted(set(system_names()) - {"petals"})),
            "gpu": st.sampled_from(["t4", "v100-sxm2-32gb", "a100-sxm-80gb"]),
        },
        optional={"pp_size": st.sampled_from([2, 3]), "tp_size": st.sampled_from([2, 4]), "quant_bits": st.just(8)},
    ),
    st.fixed_dictionaries(
        {
            "model": st.sampled_from(["opt-30b", "llama-2-70b", "mixtral-8x7b", "bert-base"]),
            "gpu": st.just("v100-sxm2-32gb"),
            "host": st.sampled_from(["dgx-1", "dgx-2", "dgx-a100"]),
            "ds_zero": st.just(3),
            "dp_size": st.sampled_from([1, 2, 8, 16]),
        },
        optional={
            "cpu_offload": st.just(True),
            "kv_offload": st.booleans(),
            "disk_offload": st.booleans(),
            "async_kv_offload": st.booleans(),
        },
    ),
    st.fixed_dictionaries(
        {"model": st.just("mixtral-8x7b"), "gpu": st.just("h100-sxm-80gb"), "ep_size": st.sampled_from([2, 4])},
        optional={"dp_size": st.just(4), "prefill_chunk": st.just(64), "prefix_hit_rate": st.just(0.3)},
    ),
    st.fixed_dictionaries(
        {"model": st.just("opt-13b"), "gpu": st.just("a100-sxm-80gb"), "system": st.sampled_from(["vllm", "petals"])},
        optional={
            "pp_size": st.just(2), "micro_batches": st.just(4), "draft_model": st.just("opt-125m"),
            "cp_size": st.just(2),
        },
    ),
)  # fmt: skip


@given(DEPLOYMENTS, st.sampled_from([16, 64, 240]), st.integers(1, 480), st.integers(1, 64))
def test_explained_terms_sum_to_the_latency(deployment, batch, prompt, gen):
    """For every system: part by part the terms are the breakdown, so that nothing that is waited for stays unsaid."""
    try:
        result = predict_inference(
            scenario_of(**deployment, batch_size=batch, prompt_len=prompt, gen_len=gen)
        )
    except SpecError:
        assume(False)
    for phase in (result.prefill, result.decode):
        if phase is None:
            continue
        spent = {}
        for term in phase.terms:
            spent[term.part] = spent.get(term.part, 0.0) + term.value
        for part, seconds in phase.breakdown_s.items():
            assert spent.get(part, 0.0) == pytest.approx(seconds, rel=1e-9, abs=1e-9 * phase.latency_s), part
        assert sum(spent.values()) == pytest.approx(phase.latency_s, rel=1e-9)
    printed = {"prefill": 0.0, "decode": 0.0}
    for entry in explanations(result):
        value = eval(entry.expression, {"__builtins__": {}})
        assert value == pytest.approx(entry.value, rel=1e-9, abs=0), entry
        phase_name = entry.name.partition(", ")[0]
        if phase_name in printed:
            printed[phase_name] += value
    assert printed["prefill"] == pytest.approx(result.prefill.latency_s, rel=1e-9)
    assert printed["decode"] == pytest.approx(result.decode.latency_s if result.decode else 0.0, rel=1e-9)


def test_explain_prints_the_copies_that_are_waited_for_on_shared_links():
    """OPT-175B on 16 V100 of a DGX-2, two to a link: each waits for the other's copies, which explain left out once."""
    result = predict_inference(
        scenario_of(
            model="opt-175b",
            gpu="v100-sxm2-32gb",
            host="dgx-2",
            dp_size=16,
            batch_size=16,
            ds_zero=3,
            cpu_offload=True,
        )
    )
    (printed,) = (entry for entry in explanations(result) if entry.name == "host-to-GPU copies per pass")
    assert printed.value == pytest.approx(result.prefill.busy_s["pcie"], rel=1e-12)
    assert printed.value == pytest.approx(4.0205, rel=1e-4)


@given(st.sampled_from(["opt-30b", "opt-66b"]), st.sampled_from([2, 4, 8]), st.integers(1, 64))
def test_a_streamed_pass_takes_its_copies_its_gathers_and_its_hooks(model, ranks, batch):
    """Copy and gather of a bucket are on one CUDA stream: over N GPUs W / (N r) + (N-1)/N W / bus + L o, a sum.

    Without overlap a prefill is that and its kernels, so that nothing of the gather hides.
    """
    settings = {"gpu": "v100-sxm2-32gb", "host": "dgx-2", "ds_zero": 3, "cpu_offload": True, "prompt_len": 4}
    result = predict_inference(
        scenario_of(model=model, dp_size=ranks, batch_size=ranks * batch, overlap=False, **settings)
    )
    busy, parts = result.prefill.busy_s, result.prefill.breakdown_s
    streamed = parts["weight_streaming"] + parts["framework"]
    assert busy["interconnect"] > 0
    assert streamed == pytest.approx(busy["pcie"] + busy["interconnect"] + busy["host"], rel=1e-9)


def test_what_was_read_from_disk_is_copied_from_page_locked_buffers():
    """Whatever pin_memory says of tensors in host memory: the swapper's buffers are page-locked."""
    settings = {"model": "opt-30b", "gpu": "a6000", "host": "a6000-workstation", "ds_zero": 3}
    locked, pageable, kept, freed = (
        predict_inference(scenario_of(**settings, **tier, pin_memory=pinned)).prefill.busy_s["pcie"]
        for tier in ({"disk_offload": True}, {"cpu_offload": True})
        for pinned in (True, False)
    )
    assert locked == pageable == pytest.approx(kept, rel=1e-12)
    assert freed > 1.1 * kept


@given(
    st.fixed_dictionaries(
        {"model": st.sampled_from(["opt-6.7b", "mixtral-8x7b"]), "micro_batch_size": st.integers(1, 4)},
        optional={
            "dp_size": st.sampled_from([2, 16]),
            "tp_size": st.sampled_from([2, 4]),
            "pp_size": st.just(2),
            "ds_zero": st.sampled_from([1, 2, 3]),
            "optimizer_device": st.just("cpu"),
            "lora_rank": st.just(8),
        },
    )
)
def test_explained_terms_of_training_sum_to_the_step(inputs):
    """The same for one optimizer step; what it says of memory is what the memory holds."""
    try:
        scenario = build_training_scenario(TrainingInputs(gpu="a100-sxm-80gb", host="dgx-a100", **inputs))
        result = predict_training(scenario)
    except SpecError:
        assume(False)
    assert sum(term.value for term in result.terms) == pytest.approx(result.step_time_s, rel=1e-9)
    printed = 0.0
    for entry in training_explanations(result):
        value = eval(entry.expression, {"__builtins__": {}})
        assert value == pytest.approx(entry.value, rel=1e-9, abs=0), entry
        printed += value if entry.name.startswith("step, ") else 0.0
    assert printed == pytest.approx(result.step_time_s, rel=1e-9)


@given(DEPLOYMENTS, st.sampled_from([16, 64]), st.integers(1, 480))
def test_a_value_is_what_it_is_said_to_follow_from(deployment, batch, prompt):
    """A kernel's time in a term is the arithmetic of its two roofs, which is printed beside it."""
    try:
        result = predict_inference(scenario_of(**deployment, batch_size=batch, prompt_len=prompt, gen_len=8))
    except SpecError:
        assume(False)
    seen = 0
    for phase in (result.prefill, result.decode):
        for term in () if phase is None else phase.terms:
            for factor in term.factors:
                for quantity in factor.of:
                    if quantity.name == factor.name:
                        assert quantity.value == pytest.approx(factor.value, rel=1e-9)
                        seen += 1
    assert seen or deployment["system"] in ("flexgen", "petals", "lia")


@given(DEPLOYMENTS, st.sampled_from([16, 64]), st.integers(2, 480), st.integers(1, 64))
def test_a_mean_pass_is_the_phase_part_by_part(deployment, batch, prompt, gen):
    """Also of systems whose trace shows a schedule of their own, which has laws of its own."""
    try:
        scenario = scenario_of(**deployment, batch_size=batch, prompt_len=prompt, gen_len=gen)
        result = predict_inference(scenario)
    except SpecError:
        assume(False)
    for phase, count in ((result.prefill, 1), (result.decode, gen - 1)):
        if phase is None:
            continue
        schedule = mean_pass(system_of(scenario), phase.cost, scenario.model.num_layers, count)
        assert schedule.latency_s == pytest.approx(phase.latency_s / count, rel=1e-9)
        exposed = schedule.cost().parts_s
        for part in exposed | phase.breakdown_s:
            told = phase.breakdown_s.get(part, 0.0) / count
            assert exposed.get(part, 0.0) == pytest.approx(told, rel=1e-9, abs=1e-12 * phase.latency_s), part
        for stream, busy in schedule.busy_s().items():
            assert busy <= schedule.latency_s * (1 + 1e-9), stream


def test_launches_that_kernels_hide_run_beside_them():
    """A prompt of 512 tokens keeps the GPU busy while the host launches: nobody waits, and the trace shows both."""
    result = predict_inference(scenario_of(model="opt-13b", gpu="t4", system="vllm", prompt_len=512))
    ((_, prefill), (name, step)) = passes(
        system_of(result.scenario), result.scenario, result.prefill.cost, result.decode.cost
    )
    assert name == "decode step (mean of 31)"
    busy, exposed = prefill.busy_s(), prefill.exposed_by_stream()
    assert busy["host"] == pytest.approx(result.prefill.busy_s["host"], rel=1e-9)
    assert exposed["host"] == pytest.approx(result.prefill.breakdown_s["framework"], rel=1e-9)
    assert exposed["host"] < busy["host"] < prefill.latency_s
    assert len(list(schedule_spans(step))) > 40
