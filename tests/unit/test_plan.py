"""A plan against brute force over the same predictions, and against what infer says of each deployment."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm_perf.analysis.economics import cost_of, energy_of, gpu_price
from llm_perf.analysis.inference import InferenceResult, predict_inference
from llm_perf.analysis.request import InferenceInputs, build_scenario
from llm_perf.errors import SpecError
from llm_perf.search.plan import OBJECTIVES, Candidate, PlanQuestion, plan
from llm_perf.search.targets import Target, parse_targets

GPUS = ("t4", "a100-sxm-80gb", "h100-sxm-80gb", "l4")
QUESTION = PlanQuestion(model="llama-2-13b", target="tpot<40ms, ttft<2s", gpus=GPUS, quant_bits=(16, 4))


# -- targets ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "targets"),
    [
        ("", ()),
        ("tpot<50ms", (Target("tpot", 0.05, True),)),
        ("tpot<=50 ms, ttft < 1s", (Target("tpot", 0.05, True), Target("ttft", 1.0, True))),
        ("TPOT<0.05", (Target("tpot", 0.05, True),)),
        ("latency<2min", (Target("latency", 120.0, True),)),
        ("throughput>1000", (Target("throughput", 1000.0, False),)),
        ("throughput>=1e3 tokens/s", (Target("throughput", 1000.0, False),)),
        ("cost<2$, energy<500mJ", (Target("cost", 2.0, True), Target("energy", 0.5, True))),
    ],
)
def test_targets(text, targets):
    assert parse_targets(text) == targets


@pytest.mark.parametrize(
    "text",
    ["tpot", "tpot<", "tpot=50ms", "speed<1s", "tpot>50ms", "throughput<10", "tpot<0ms", "tpot<-1ms",
     "tpot<1e999s", "tpot<50 parsecs", "tpot<50ms ttft<1s", "tpot<50ms,tpot<60ms", "cost<1s", "tpot<1.2.3ms"],
)  # fmt: skip
def test_bad_targets_are_refused(text):
    with pytest.raises(SpecError, match="--target"):
        parse_targets(text)


# -- plans --------------------------------------------------------------------------------------------------------


def predicted(candidate: Candidate) -> tuple[InferenceResult, dict[str, float]]:
    """What infer says of a candidate."""
    result = predict_inference(build_scenario(candidate.inputs))
    price, energy = gpu_price(result.scenario.gpu.name, None, None), energy_of(result)
    steps = result.decode.latency_per_token_s if result.decode else None
    return result, {
        "prefill_latency_s": result.prefill.latency_s,
        "latency_per_token_s": math.nan if steps is None else steps,
        "total_latency_s": result.total_latency_s,
        "throughput_tokens_per_s": result.total_throughput_tokens_per_s,
        "num_gpus": result.scenario.parallelism.num_gpus,
        "cost_per_million_tokens": math.nan if price is None else cost_of(result, price).per_million_tokens,
        "energy_j_per_token": math.nan if energy is None else energy.j_per_token,
        "gpu_memory_bytes": result.memory.gpu.total_bytes,
    }


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"objective": "energy", "gen_len": 1, "target": "ttft<1s"},
        {"objective": "gpus"},
        {"objective": "throughput", "max_gpus": 4},
        {"target": "throughput>3000, tpot<60ms"},
        {"model": "opt-66b", "target": "", "quant_bits": (16,), "gpus": ("t4",), "max_gpus": 2},
        {"model": "mixtral-8x7b", "system": "vllm"},
    ],
)
def test_candidates_are_what_infer_predicts(changes):
    answer = plan(QUESTION.replace(**changes), top=10)
    assert answer.best
    assert answer.front
    for candidate in (*answer.best, *answer.front):
        result, measures = predicted(candidate)
        assert result.feasible
        assert candidate.measures == pytest.approx(measures, rel=1e-9, nan_ok=True)


def brute_force(question: PlanQuestion) -> float:
    """The least cost that meets the targets, over every division and batch, each predicted by itself."""
    best = math.inf
    for gpu in question.gpus:
        price = gpu_price(build_scenario(InferenceInputs(model=question.model, gpu=gpu)).gpu.name, None, None)
        for bits in question.quant_bits:
            for tp, pp in ((1, 1), (1, 2), (1, 4), (2, 1), (2, 2), (4, 1)):
                for batch in (1, 2, 3, 4, 6, 8):
                    inputs = {"tp_size": tp, "pp_size": pp, "batch_size": batch, "quant_bits": bits}
                    lengths = {"prompt_len": question.prompt_len, "gen_len": question.gen_len}
                    result = predict_inference(
                        build_scenario(InferenceInputs(model=question.model, gpu=gpu, **inputs, **lengths))
                    )
                    tpot = result.decode.latency_per_token_s
                    if result.feasible and tpot <= 0.04 and result.prefill.latency_s <= 2:
                        best = min(best, cost_of(result, price).per_million_tokens)
    return best


def test_nothing_that_was_not_evaluated_is_better():
    """The pruning loses nothing: every division and batch predicted by itself has no better answer."""
    question = QUESTION.replace(max_gpus=4, max_batch_size=8, offload=False)
    answer = plan(question)
    assert answer.best[0].measures["cost_per_million_tokens"] == pytest.approx(
        brute_force(question), rel=1e-9
    )


def test_the_best_of_each_gpu_in_order():
    answer = plan(QUESTION, top=10)
    gpus = [candidate.inputs.gpu for candidate in answer.best]
    assert len(gpus) == len(set(gpus))
    costs = [candidate.measures["cost_per_million_tokens"] for candidate in answer.best]
    assert costs == sorted(costs)
    assert len(plan(QUESTION, top=1).best) == 1
    for candidate in answer.best:
        assert candidate.meets
        assert candidate.stops
        assert all(target.met(candidate.measures[target.measure]) for target in QUESTION.targets)


@pytest.mark.parametrize("objective", sorted(OBJECTIVES))
def test_nothing_beats_a_point_of_the_front_in_both(objective):
    front = plan(QUESTION.replace(objective=objective)).front
    times = [candidate.measures["latency_per_token_s"] for candidate in front]
    values = [candidate.measures[OBJECTIVES[objective]] for candidate in front]
    assert times == sorted(times)
    assert values == sorted(values, reverse=objective != "throughput")
    assert len(set(values)) == len(values)


@given(st.floats(5, 200), st.floats(1, 4))
def test_a_tighter_target_never_costs_less(milliseconds, factor):
    question = QUESTION.replace(gpus=("a100-sxm-80gb",), quant_bits=(16,))
    tight = plan(question.replace(target=f"tpot<{milliseconds}ms"))
    loose = plan(question.replace(target=f"tpot<{milliseconds * factor}ms"))
    if tight.best:
        assert loose.best
        least = loose.best[0].measures["cost_per_million_tokens"]
        assert least <= tight.best[0].measures["cost_per_million_tokens"] * (1 + 1e-12)


def test_what_meets_nothing_names_the_nearest():
    answer = plan(QUESTION.replace(target="tpot<1ms"))
    assert answer.best == ()
    assert answer.nearest is not None
    fastest = min(candidate.measures["latency_per_token_s"] for candidate in answer.front)
    assert answer.nearest.measures["latency_per_token_s"] == fastest


def test_what_fits_nowhere_has_no_nearest():
    answer = plan(PlanQuestion(model="opt-175b", gpus=("t4",), max_gpus=2, offload=False))
    assert (answer.best, answer.front, answer.nearest) == ((), (), None)
    assert answer.too_large > 0


def test_weights_are_streamed_where_they_do_not_fit():
    question = PlanQuestion(model="opt-175b", gpus=("t4",), max_gpus=2, target="")
    (best,) = plan(question).best
    assert best.inputs.system == "zero_inference"
    small = plan(PlanQuestion(model="opt-1.3b", gpus=("a100-sxm-80gb",), max_batch_size=4))
    assert {candidate.inputs.system for candidate in small.front} == {"resident"}


def test_replicas_reach_a_throughput():
    one = plan(QUESTION.replace(gpus=("a100-sxm-80gb",), target="tpot<40ms"))
    rate = one.best[0].measures["throughput_tokens_per_s"]
    several = plan(QUESTION.replace(gpus=("a100-sxm-80gb",), target=f"tpot<40ms, throughput>{2.5 * rate}"))
    assert several.best[0].measures["throughput_tokens_per_s"] >= 2.5 * rate
    assert (several.best[0].inputs.dp_size or 1) >= 2


def test_prices_of_ones_own(tmp_path):
    prices = tmp_path / "prices.yaml"
    entry = "{per_gpu_hour: 0.001, date: 2026-01-01, source: a gift}"
    prices.write_text(f"gpus:\n  T4-16GB: {entry}\n")
    answer = plan(PlanQuestion(model="opt-1.3b", gpus=GPUS, prices=str(prices)))
    assert [candidate.inputs.gpu for candidate in answer.best] == ["T4-16GB"]
    assert len(answer.unpriced) == 3
    with pytest.raises(SpecError, match="no price is known"):
        plan(PlanQuestion(model="opt-1.3b", gpus=("h200",), prices=str(prices)))
