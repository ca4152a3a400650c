"""Options of serving stacks: what must hold of ranks, micro-batches, chunks, prefixes and drafts."""

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from llm_perf.analysis.inference import predict_inference
from llm_perf.analysis.request import InferenceInputs, build_scenario
from llm_perf.analysis.sweep import sweep_inference
from llm_perf.config.parallelism import ParallelismConfig
from llm_perf.config.speculation import Speculation
from llm_perf.errors import SpecError
from llm_perf.systems import Load, get_system, system_of
from llm_perf.systems.costs import Costs
from llm_perf.systems.footprint import head_bytes, layers_weight_bytes
from llm_perf.systems.forward import Forward
from llm_perf.systems.pipeline import engine_micro_batches, stage_layers
from llm_perf.systems.prompts import prompt_passes
from llm_perf.systems.resident import decode_phase
from llm_perf.systems.speculation import Rounds, draft_scenario
from tests.laws import strategies as draw

FEW = settings(max_examples=25, deadline=None)
SYSTEMS = st.sampled_from(["resident", "fastertransformer", "vllm", "tensorrt_llm"])
BASE: dict[str, Any] = {"model": "llama-2-13b", "gpu": "a100-sxm-80gb", "prompt_len": 512, "gen_len": 32}


def scenario(**changes: Any):
    return build_scenario(InferenceInputs(**(BASE | changes)))


def predict(**changes: Any):
    return predict_inference(scenario(**changes))


# -- pipelines -----------------------------------------------------------------------------------------------------


@given(layers=st.integers(1, 200), stages=st.integers(1, 200))
def test_stages_hold_all_layers_as_evenly_as_they_go(layers, stages):
    held = stage_layers(layers, stages)
    assert sum(held) == layers
    assert max(held) - min(held) <= 1
    assert list(held) == sorted(held, reverse=True)  # the last stage has the head as well


@FEW
@given(stages=st.sampled_from([2, 4, 5, 8, 40]), batch=st.sampled_from([1, 8]), system=SYSTEMS)
def test_stages_never_lower_one_requests_latency(stages, batch, system):
    assume(
        batch == 1 or system != "fastertransformer"
    )  # it cuts a batch by itself, so that stages work at once
    one = predict(system=system, batch_size=batch)
    several = predict(system=system, batch_size=batch, pp_size=stages, num_nodes=-(-stages // 8))
    assert several.prefill.latency_s > one.prefill.latency_s
    assert several.decode.latency_s > one.decode.latency_s
    assert several.steady_throughput_tokens_per_s > one.total_throughput_tokens_per_s


@FEW
@given(stages=st.sampled_from([2, 4, 5, 8]), count=st.sampled_from([2, 4, 8, 32]))
def test_no_stage_works_longer_than_the_batch_takes(stages, count):
    result = predict(pp_size=stages, micro_batches=count, batch_size=32)
    for phase in (result.prefill, result.decode):
        assert phase.slowest_stage_s <= phase.latency_s * (1 + 1e-9)
        assert 1 <= phase.stages_busy <= stages
        assert sum(phase.breakdown_s.values()) == pytest.approx(phase.latency_s)
    assert result.steady_throughput_tokens_per_s >= result.total_throughput_tokens_per_s * (1 - 1e-9)


def test_the_bubble_of_equal_stages_is_that_of_gpipe():
    """(p - 1) / (m + p - 1) of the time (arXiv 1811.06965, section 2.3); 40 layers in 4 stages, the head aside."""
    result = predict(pp_size=4, micro_batches=8, batch_size=64, prompt_len=2048)
    assert 1 - result.prefill.stages_busy / 4 == pytest.approx(3 / 11, rel=0.03)


def test_micro_batches_help_long_prefills_and_never_one_request():
    naive, filled = (predict(pp_size=4, batch_size=16, prompt_len=2048, micro_batches=m) for m in (1, 8))
    assert filled.prefill.latency_s < 0.5 * naive.prefill.latency_s
    assert filled.memory.gpu.activations_bytes < naive.memory.gpu.activations_bytes
    assert filled.memory.gpu.kv_cache_bytes == naive.memory.gpu.kv_cache_bytes


@given(batch=st.integers(1, 512), tokens=st.integers(1, 4096), stages=st.sampled_from([2, 3, 4, 8]))
def test_an_engine_cuts_a_batch_by_its_published_rule(batch, tokens, stages):
    """FasterTransformer's getLocalBatchSize, step by step; arrays as single values."""
    local = batch // stages if batch % stages == 0 else batch
    while local * tokens > 1024 and local % 2 == 0:
        local //= 2
    found = engine_micro_batches(batch, tokens, stages, 1024)
    assert found == batch / local
    both = engine_micro_batches(np.array([batch, 1.0]), np.array([tokens, 1.0]), stages, 1024)
    assert both.tolist() == [found, 1.0]


def test_fastertransformer_keeps_stages_busy_by_itself_and_the_question_goes_first():
    asked: dict[str, Any] = {"system": "fastertransformer", "pp_size": 4, "prompt_len": 512}
    own, other = (predict(batch_size=batch, **asked) for batch in (16, 18))
    assert (own.prefill.cost.micro_batches, own.decode.cost.micro_batches) == (8, 4)
    assert other.decode.cost.micro_batches == 1  # 18 sequences are not divided by 4 stages
    two = predict(batch_size=16, micro_batches=2, **asked)
    assert (two.prefill.cost.micro_batches, two.decode.cost.micro_batches) == (2, 2)
    # Stages meet after every step: four parts take their way and three turns more, not four turns.
    assert own.decode.latency_s > predict(batch_size=16, micro_batches=4, **asked).decode.latency_s


@FEW
@given(
    scenario=draw.resident_scenarios(system="fastertransformer", encoders=True),
    stages=st.sampled_from([2, 4]),
    odd=st.sampled_from([1, 3, 7]),
)
def test_micro_batches_of_an_engine_follow_one_another_and_are_scheduled_together(scenario, stages, odd):
    """An odd number of sequences for each stage, which the engine cuts once: one way of a micro-batch, a turn of the slowest
    stage for each other one, and what the host does once in a step."""
    assume(scenario.model.num_layers >= stages)
    scenario = scenario.replace(parallelism=ParallelismConfig(pp_size=stages))
    once_s = get_system("fastertransformer").constants(scenario)["step_ms"] * 1e-3
    alone, cut = (draw.evaluate(scenario, batch=float(batch)) for batch in (odd, odd * stages))
    steps = {"prefill": 1, "decode": scenario.workload.gen_len - 1}
    for name, count in steps.items():
        one, all_of_them = getattr(alone, name), getattr(cut, name)
        if one is None or count == 0:
            continue
        assert (one.micro_batches, all_of_them.micro_batches) == (1, stages)
        host_s = count * once_s
        turn_s, way_s = one.slowest_stage_s - host_s, one.latency_s - host_s
        assert 0 < turn_s <= way_s <= stages * turn_s * (1 + 1e-9)
        assert all_of_them.latency_s == pytest.approx(host_s + way_s + (stages - 1) * turn_s, rel=1e-9)
        assert all_of_them.slowest_stage_s == pytest.approx(host_s + stages * turn_s, rel=1e-9)
        busy_s = all_of_them.stages_busy * all_of_them.latency_s
        assert busy_s == pytest.approx(host_s + stages * way_s, rel=1e-9)
        assert sum(all_of_them.parts_s.values()) == pytest.approx(all_of_them.latency_s, rel=1e-9)


# -- context parallelism -----------------------------------------------------------------------------------------


@FEW
@given(ranks=st.sampled_from([2, 4, 8]), batch=st.sampled_from([1, 4]), system=SYSTEMS)
def test_context_ranks_share_the_cache_and_the_prompt_but_not_the_weights(ranks, batch, system):
    one = predict(system=system, batch_size=batch, prompt_len=3072)
    shared = predict(system=system, batch_size=batch, prompt_len=3072, cp_size=ranks)
    assert shared.memory.gpu.weights_bytes == one.memory.gpu.weights_bytes
    assert shared.memory.gpu.kv_cache_bytes == pytest.approx(one.memory.gpu.kv_cache_bytes / ranks)
    assert shared.prefill.latency_s < one.prefill.latency_s
    # A part of the scores may fit the L2 cache where all of them did not, so a little less than its share is possible.
    assert shared.prefill.latency_s > 0.9 * one.prefill.latency_s / ranks
    assert shared.scenario.parallelism.num_gpus == ranks


def test_context_ranks_pay_at_decode_until_the_context_is_long():
    def tpot(length, ranks):
        return predict(
            model="llama-3.1-8b", batch_size=16, prompt_len=length, cp_size=ranks
        ).decode.latency_per_token_s

    assert tpot(256, 4) > tpot(256, 1)
    assert tpot(65536, 4) < tpot(65536, 1)


# -- experts ------------------------------------------------------------------------------------------------------


@FEW
@given(more=st.floats(1, 8), batch=st.sampled_from([4, 64]))
def test_an_uneven_load_of_experts_is_never_faster(more, batch):
    settings_: dict[str, Any] = {"model": "mixtral-8x7b", "dp_size": 4, "ep_size": 4, "batch_size": batch}
    even, uneven = predict(**settings_), predict(expert_imbalance=more, **settings_)
    assert uneven.prefill.latency_s >= even.prefill.latency_s
    assert uneven.decode.latency_s >= even.decode.latency_s


# -- prompts ------------------------------------------------------------------------------------------------------


@FEW
@given(chunk=st.integers(1, 700), hit=st.sampled_from([0.0, 0.25, 0.9]), length=st.integers(2, 640))
def test_chunks_are_summed_as_if_each_were_visited(chunk, hit, length):
    case = scenario(prompt_len=length, prefill_chunk=chunk, prefix_hit_rate=hit)
    forward = Forward(case, get_system(case.system).constants(case))
    summed, passes, *_ = prompt_passes(forward, 2.0, float(length))
    each, start, count = Costs(), min(hit * length, length - 1), 0
    while start < length - 1e-9:
        end = min(start + min(chunk, length), length)
        each.add(forward.prefill(2.0, end - start, start, with_head=end == length), 1.0)
        start, count = end, count + 1
    assert passes == count
    assert summed.total_s == pytest.approx(each.total_s, rel=2e-3)


@FEW
@given(chunk=st.integers(16, 2000), system=SYSTEMS)
def test_chunks_cost_time_and_save_activations(chunk, system):
    whole, chunked = predict(system=system), predict(system=system, prefill_chunk=chunk)
    assert chunked.memory.gpu.activations_bytes <= whole.memory.gpu.activations_bytes
    assert chunked.decode.latency_s == whole.decode.latency_s
    if chunk >= 512:
        assert chunked.prefill.latency_s == pytest.approx(whole.prefill.latency_s, rel=1e-12)
    elif (
        system != "fastertransformer"
    ):  # its unfused kernels compute the whole square, of which chunks leave half
        assert chunked.prefill.latency_s > whole.prefill.latency_s


@FEW
@given(hits=st.lists(st.floats(0, 1), min_size=2, max_size=4), system=SYSTEMS)
def test_more_of_the_prompt_in_the_prefix_cache_is_never_slower(hits, system):
    times = [predict(system=system, prefix_hit_rate=hit).prefill.latency_s for hit in sorted(hits)]
    assert all(later <= earlier * (1 + 1e-9) for earlier, later in pairwise(times))


def test_a_prefix_cache_saves_time_and_no_memory():
    plain, cached = predict(), predict(prefix_hit_rate=0.75)
    assert cached.prefill.latency_s < 0.5 * plain.prefill.latency_s
    assert cached.memory.gpu.kv_cache_bytes == plain.memory.gpu.kv_cache_bytes
    assert predict(prefix_hit_rate=0.0).total_latency_s == plain.total_latency_s


# -- speculation --------------------------------------------------------------------------------------------------

DRAFTED: dict[str, Any] = {"model": "llama-3.1-70b", "tp_size": 4, "draft_model": "llama-3.2-1b"}


@FEW
@given(tokens=st.integers(1, 12), batch=st.sampled_from([1, 8, 256]), system=SYSTEMS)
def test_drafts_that_are_never_kept_are_never_faster(tokens, batch, system):
    plain = predict(model="llama-3.1-70b", tp_size=4, batch_size=batch, system=system)
    drafted = predict(**DRAFTED, draft_tokens=tokens, acceptance_rate=0.0, batch_size=batch, system=system)
    assert drafted.decode.latency_s > plain.decode.latency_s
    assert drafted.prefill.latency_s > plain.prefill.latency_s


@given(rate=st.floats(0, 1), tokens=st.integers(1, 64))
def test_a_round_gives_between_one_token_and_all(rate, tokens):
    draft = scenario().model
    kept = Speculation(draft=draft, tokens=tokens, token_acceptance=rate)
    assert 1 <= kept.tokens_per_round <= tokens + 1
    if rate < 1:
        assert kept.tokens_per_round == pytest.approx((1 - rate ** (tokens + 1)) / (1 - rate))
    # Accepted over drafted tokens says the same round: the two differ in what they count, not in what they mean.
    said = Speculation(draft=draft, tokens=tokens, acceptance_rate=kept.share_kept)
    assert said.tokens_per_round == pytest.approx(kept.tokens_per_round)
    assert said.share_kept == pytest.approx(kept.share_kept)


@given(rate=st.floats(0, 1))
def test_of_one_drafted_token_the_share_kept_is_its_chance(rate):
    draft = scenario().model
    by_share = Speculation(draft=draft, tokens=1, acceptance_rate=rate)
    assert by_share.tokens_per_round == pytest.approx(
        Speculation(draft=draft, tokens=1, token_acceptance=rate).tokens_per_round
    )


def test_a_share_of_drafted_tokens_is_what_was_measured():
    """3 drafted, 64.5 % accepted: 2.92 tokens per round were measured, 2.33 if the share were each token's chance."""
    kept = Speculation(draft=scenario().model, tokens=3, acceptance_rate=0.645)
    assert kept.tokens_per_round == pytest.approx(2.92, rel=0.01)


@pytest.mark.parametrize("given_too", [{}, {"acceptance_rate": 0.5, "token_acceptance": 0.5}])
def test_a_draft_says_its_acceptance_in_exactly_one_way(given_too):
    with pytest.raises(SpecError, match=r"acceptance_rate|acceptance-rate"):
        Speculation(draft=scenario().model, **given_too)


def test_drafts_that_are_often_kept_pay_at_small_batches_and_not_at_large_ones():
    def gain(batch):
        plain = predict(model="llama-3.1-70b", tp_size=4, batch_size=batch).decode.latency_s
        return plain / predict(**DRAFTED, acceptance_rate=0.7, batch_size=batch).decode.latency_s

    assert gain(1) > 1.3
    assert gain(512) < 1 < gain(1)


def test_the_draft_takes_memory_of_its_own():
    plain, drafted = predict(model="llama-3.1-70b", tp_size=4), predict(**DRAFTED, acceptance_rate=0.5)
    assert drafted.memory.gpu.weights_bytes > plain.memory.gpu.weights_bytes
    assert drafted.memory.gpu.kv_cache_bytes > plain.memory.gpu.kv_cache_bytes


def test_a_draft_over_two_nodes_pays_for_the_network():
    """Its ranks stand where the model's do: an all-reduce of sixteen does not become one inside a node."""
    over_nodes = scenario(model="llama-2-70b", draft_model="llama-2-70b", acceptance_rate=0.5, tp_size=16)
    draft = draft_scenario(over_nodes)
    assert over_nodes.num_nodes == draft.num_nodes == 2
    inside = scenario(model="llama-2-70b", draft_model="llama-2-70b", acceptance_rate=0.5, tp_size=8)
    assert draft_scenario(inside).num_nodes == 1


@pytest.mark.parametrize("prompt_len", [512, 4096])
def test_the_drafts_attention_and_launches_count_as_busy(prompt_len):
    """A model that drafts for itself keeps memory as busy while it drafts as its own steps would."""
    lengths: dict[str, Any] = {"model": "llama-2-7b", "prompt_len": prompt_len, "allow_long_context": True}
    own = predict(**lengths, batch_size=32)
    itself = predict(**lengths, batch_size=32, draft_model="llama-2-7b", acceptance_rate=0.0, draft_tokens=1)
    for resource in ("hbm", "host"):
        assert itself.decode.busy_s[resource] > 1.95 * own.decode.busy_s[resource]


def test_a_draft_is_smaller_than_its_model_and_shares_its_tokens():
    with pytest.raises(
        SpecError, match=r"more than the 6\.74 of meta-llama/Llama-2-7b-hf: speculation needs"
    ):
        scenario(model="llama-2-7b", draft_model="llama-2-13b", acceptance_rate=0.5)
    notes = predict(model="llama-2-7b", draft_model="opt-125m", acceptance_rate=0.5).warnings
    assert any("50,272 tokens" in note and "same tokeniser" in note for note in notes)
    assert not predict(model="llama-2-13b", draft_model="llama-2-7b", acceptance_rate=0.5).warnings


# -- gathers ------------------------------------------------------------------------------------------------------


def test_zero_gathers_cost_more_over_nodes_than_inside_one() -> None:
    """Eight ranks of ZeRO stage 3 in one DGX, and the same over two and eight."""
    settings_: dict[str, Any] = {
        "model": "opt-66b",
        "ds_zero": 3,
        "cpu_offload": True,
        "dp_size": 8,
        "batch_size": 8,
    }
    gathers = [predict(**settings_, num_nodes=nodes).decode.busy_s["interconnect"] for nodes in (1, 2, 8)]
    assert gathers[0] < gathers[1] < gathers[2]


# -- together -----------------------------------------------------------------------------------------------------

OPTIONS: dict[str, dict[str, Any]] = {
    "sequence": {"tp_size": 4, "sp_size": 4},
    "context": {"cp_size": 2, "tp_size": 2},
    "micro-batches": {"pp_size": 4, "micro_batches": 4},
    "chunks": {"prefill_chunk": 100},
    "chunks over stages": {"prefill_chunk": 100, "pp_size": 4, "system": "fastertransformer"},
    "prefix": {"prefix_hit_rate": 0.4, "prefill_chunk": 64},
    "speculation": {"draft_model": "llama-2-7b", "acceptance_rate": 0.6},
    "pipelined speculation": {"draft_model": "llama-2-7b", "acceptance_rate": 0.6, "pp_size": 3},
}


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_a_sweep_with_options_equals_single_predictions(options):
    case = scenario(**options, batch_size=4)
    batch, prompt, gen = np.array([4, 8, 16, 64]), np.array([64, 333, 512, 100]), np.array([1, 2, 32, 100])
    swept = sweep_inference(case, batch, prompt, gen)
    for index in range(len(batch)):
        single = predict(
            **options, batch_size=int(batch[index]), prompt_len=int(prompt[index]), gen_len=int(gen[index])
        )
        assert swept.total_latency_s[index] == pytest.approx(single.total_latency_s, rel=1e-12)
        assert swept.gpu_memory_bytes[index] == pytest.approx(single.memory.gpu.total_bytes, rel=1e-12)


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
@pytest.mark.parametrize("gen_len", [1, 2, 40])
def test_parts_sum_to_the_latency(options, gen_len):
    result = predict(**options, batch_size=8, gen_len=gen_len)
    for phase in filter(None, (result.prefill, result.decode)):
        assert sum(phase.breakdown_s.values()) == pytest.approx(phase.latency_s)
        assert all(seconds >= 0 for seconds in phase.breakdown_s.values())
        assert phase.bottleneck in phase.busy_s


def test_one_rank_of_everything_is_exactly_one_gpu():
    plain = predict()
    ones = predict(
        tp_size=1, pp_size=1, dp_size=1, ep_size=1, sp_size=1, cp_size=1, micro_batches=1, prefix_hit_rate=0.0
    )
    assert ones.total_latency_s == plain.total_latency_s
    assert ones.memory == plain.memory


# -- drafts that belong to a model ------------------------------------------------------------------------------------

MODULES = {"mtp": {"model": "deepseek-v3", "gpu": "h200", "tp_size": 8}, "eagle": {"model": "llama-3.1-8b"}}


def test_shares_by_position_are_as_many_tokens_as_their_sum():
    draft = scenario().model
    kept = Speculation(draft=draft, tokens=3, acceptance=(0.85, 0.7, 0.55))
    assert kept.tokens_per_round == pytest.approx(3.1)
    assert kept.share_kept == pytest.approx(0.7)
    same = Speculation(draft=draft, tokens=3, acceptance_rate=0.7)
    assert same.tokens_per_round == pytest.approx(kept.tokens_per_round)
    # A chance per token is the shares that it means.
    chance = Speculation(draft=draft, tokens=3, token_acceptance=0.8)
    by_position = Speculation(draft=draft, tokens=3, acceptance=(0.8, 0.8**2, 0.8**3))
    assert by_position.tokens_per_round == pytest.approx(chance.tokens_per_round)


@pytest.mark.parametrize("shares", [(0.5, 0.6, 0.1), (0.5, 0.4), (1.2, 0.5, 0.1)])
def test_shares_by_position_never_rise_and_are_one_per_token(shares):
    with pytest.raises(SpecError, match="acceptance"):
        Speculation(draft=scenario().model, tokens=3, acceptance=shares)


@pytest.mark.parametrize("module", MODULES)
@pytest.mark.parametrize("batch", [1, 32])
def test_a_module_that_is_never_kept_costs_its_draft_and_the_longer_check(module, batch):
    """Acceptance 0 is plain decode of two tokens per sequence, and what the draft reads and computes."""
    asked = {**MODULES[module], "system": "vllm", "batch_size": batch, "prompt_len": 256, "gen_len": 8}
    drafted = scenario(**asked, draft_model=module, acceptance="0", draft_tokens=1)
    found = predict_inference(drafted)
    rounds = Rounds(drafted, system_of(drafted).constants(drafted))
    assert rounds.tokens == 1.0
    without = decode_phase(
        Forward(drafted, system_of(drafted).constants(drafted)),
        batch,
        Load.of(drafted.workload),
        _Undrafted(rounds),
    )
    draft_s = found.decode.breakdown_s["draft_model"]
    assert found.decode.latency_s == pytest.approx(without.latency_s + draft_s, rel=1e-12)
    plain = predict(**asked)
    assert without.latency_s >= plain.decode.latency_s
    # What the draft takes at least: its bytes, over the memory's bandwidth.
    own = draft_scenario(drafted)
    read = (layers_weight_bytes(own) if module == "eagle" else 0.0) + head_bytes(own)
    assert draft_s >= 7 * read / drafted.gpu.hbm_bandwidth_bytes_per_s
    assert (
        0 < drafted_bytes(found) - drafted_bytes(plain) == pytest.approx(layers_weight_bytes(own), rel=1e-9)
    )


class _Undrafted:
    """A round that checks as many tokens, which cost nothing to draft."""

    def __init__(self, rounds):
        self.tokens, self.queries, self.drafted, self.draft = rounds.tokens, rounds.queries, 0, None


def drafted_bytes(found):
    return found.memory.gpu.weights_bytes


@pytest.mark.parametrize("module", MODULES)
def test_a_module_that_is_kept_often_makes_tokens_faster(module):
    asked = {**MODULES[module], "system": "vllm"}
    tpot = [
        predict(**asked, draft_model=module, acceptance=shares).tpot_s
        for shares in ("0,0,0", ".5,.2,.1", ".85,.7,.55", "1,1,1")
    ]
    assert tpot == sorted(tpot, reverse=True)
    assert tpot[-1] < 0.5 * predict(**asked).tpot_s < tpot[0]


def test_what_has_no_module_is_refused():
    with pytest.raises(SpecError, match="no multi-token prediction module"):
        scenario(model="llama-3.1-8b", draft_model="mtp", acceptance="0.5")
    with pytest.raises(SpecError, match="heads of models with experts"):
        scenario(model="qwen3-30b-a3b", draft_model="eagle", acceptance="0.5")
    with pytest.raises(SpecError, match="is no share"):
        scenario(draft_model="eagle", acceptance=".5,often")
    with pytest.raises(SpecError, match="3 positions, --draft-tokens 2"):
        scenario(draft_model="eagle", acceptance=".5,.4,.3", draft_tokens=2)
