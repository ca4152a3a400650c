"""A plan against brute force over the same predictions, and against what infer says of each deployment."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from importlib import resources
from itertools import product
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm_perf.analysis.economics import cost_of, energy_of, gpu_price
from llm_perf.analysis.inference import InferenceResult, predict_inference
from llm_perf.analysis.request import InferenceInputs, build_scenario
from llm_perf.errors import SpecError
from llm_perf.search import plan as plan_module
from llm_perf.search.divisions import batch_sizes
from llm_perf.search.plan import OBJECTIVES, Candidate, PlanQuestion, plan
from llm_perf.search.targets import Target, parse_targets

GPUS = ("t4", "a100-sxm-80gb", "h100-sxm-80gb", "l4")
QUESTION = PlanQuestion(
    model="llama-2-13b", target="tpot<40ms, ttft<2s", gpus=GPUS, quant_bits=(16, 4), batching="static"
)


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
        ("tpot<50MIN, ttft<1US", (Target("tpot", 3000.0, True), Target("ttft", 1e-6, True))),
        ("tpot<1\u00b5s", (Target("tpot", 1e-6, True),)),  # the micro sign
        ("tpot<1\u03bcs", (Target("tpot", 1e-6, True),)),  # the Greek letter
        ("cost<2$, energy<500mJ", (Target("cost", 2.0, True), Target("energy", 0.5, True))),
    ],
)
def test_targets(text, targets):
    assert parse_targets(text) == targets


@pytest.mark.parametrize(
    "text",
    ["tpot", "tpot<", "tpot=50ms", "speed<1s", "tpot>50ms", "throughput<10", "tpot<0ms", "tpot<-1ms",
     "tpot<1e999s", "tpot<50 parsecs", "tpot<50ms ttft<1s", "tpot<50ms,tpot<60ms", "cost<1s", "tpot<1.2.3ms",
     "energy<1MJ", "tpot<1Ms"],
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
        "ttft_s": result.ttft_s,
        "tpot_s": math.nan if steps is None else steps,
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


@dataclass(frozen=True)
class Found:
    """One deployment that fits, as brute force finds it."""

    gpu: str
    inputs: InferenceInputs
    measures: dict[str, float]


def everything(question: PlanQuestion) -> list[Found]:
    """Every deployment of the plan's space that fits, each predicted by itself: no vectors, nothing left out."""
    batches = [int(size) for size in batch_sizes(question.max_batch_size)]
    powers = [2**n for n in range(question.max_gpus.bit_length())]
    divisions: list[dict[str, Any]] = [
        {"tp_size": tp, "pp_size": pp, "system": question.system}
        for tp, pp in product(powers, powers)
        if tp * pp <= question.max_gpus
    ]
    found = []
    for gpu, bits, how, batch in product(
        question.gpus, question.quant_bits, [*divisions, {"system": "zero_inference"}], batches
    ):
        lengths = {"prompt_len": question.prompt_len, "gen_len": question.gen_len}
        inputs = InferenceInputs(
            model=question.model, gpu=gpu, quant_bits=bits, batch_size=batch, **how, **lengths
        )
        try:
            result, measures = predicted(Candidate(inputs, {}, meets=True))
        except SpecError:  # the model does not divide so
            continue
        if result.feasible:
            found.append(Found(result.scenario.gpu.name, inputs, measures))
    return found


MIXTRAL = PlanQuestion(
    model="mixtral-8x7b", gpus=("rtx-4090",), max_batch_size=192, objective="energy", batching="static"
)
BRUTE = [
    QUESTION.replace(max_gpus=4, max_batch_size=8),
    QUESTION.replace(max_gpus=4, max_batch_size=8, objective="energy", target="latency<4s"),
    QUESTION.replace(max_gpus=2, max_batch_size=8, objective="gpus", target=""),
    # Stages beyond the first that fit win: experts on GPUs without a fast link want large batches.
    MIXTRAL.replace(target="tpot<100ms"),
    # Where a latency is limited, none is on the front; where nothing meets the targets, all that fit may be nearest.
    MIXTRAL.replace(target="ttft<1s"),
    MIXTRAL.replace(target="tpot<26ms, energy<1J"),
    # Streamed weights are faster than vLLM's host work where nothing is decoded, although they would fit.
    PlanQuestion(model="phi-2", gpus=("h100-sxm-80gb",), system="vllm", prompt_len=64, gen_len=1, max_gpus=1),
]  # fmt: skip


@pytest.mark.parametrize("question", BRUTE, ids=range(len(BRUTE)))
def test_nothing_that_was_not_evaluated_is_better(question):
    """The pruning loses nothing: every division and batch predicted by itself has no better answer, and the same front."""
    answer, found, measure = plan(question, top=10), everything(question), OBJECTIVES[question.objective]
    meeting = [one for one in found if all(t.met(one.measures[t.measure]) for t in question.targets)]
    least: dict[str, float] = {}
    for one in meeting:
        least[one.gpu] = min(least.get(one.gpu, math.inf), one.measures[measure])
    assert {c.inputs.gpu: c.measures[measure] for c in answer.best} == pytest.approx(least, rel=1e-9)

    points = sorted((time_of(one.measures), one.measures[measure]) for one in meeting or found)
    front: list[tuple[float, float]] = []
    for time_s, value in points:
        if math.isfinite(value) and (not front or value < front[-1][1] * (1 - 1e-12)):
            front.append((time_s, value))
    shown = [(time_of(c.measures), c.measures[measure]) for c in answer.front]
    assert np.array(shown) == pytest.approx(np.array(front), rel=1e-9)

    if not meeting:
        assert answer.nearest is not None
        missed = min(worst(one.measures, question) for one in found)
        assert worst(answer.nearest.measures, question) == pytest.approx(missed, rel=1e-9)


def time_of(measures: dict[str, float]) -> float:
    """Time per token, or of all where nothing is decoded."""
    per_token = measures["latency_per_token_s"]
    return measures["total_latency_s"] if math.isnan(per_token) else per_token


def worst(measures: dict[str, float], question: PlanQuestion) -> float:
    """The share of the limit that is missed by most."""
    return max(target.used(measures[target.measure]) for target in question.targets)


def test_brute_force_holds_a_case_where_more_stages_win():
    (best,) = plan(BRUTE[3]).best
    fewest = next(stages for stages in (1, 2, 4) if predicted(with_stages(best, stages, 1))[0].feasible)
    assert (best.inputs.pp_size or 1) > fewest


def with_stages(candidate: Candidate, stages: int, batch: int) -> Candidate:
    inputs = candidate.inputs.replace(pp_size=stages, batch_size=batch)
    return Candidate(inputs, {}, meets=True)


def test_no_command_has_sizes_of_one():
    for candidate in plan(QUESTION, top=10).best:
        assert 1 not in (candidate.inputs.tp_size, candidate.inputs.pp_size, candidate.inputs.dp_size)


def test_without_decode_steps_a_limit_on_them_does_not_hide_the_nearest():
    """The time per token does not exist there: what misses the other target least is the nearest."""
    question = PlanQuestion(model="opt-1.3b", gpus=("t4",), gen_len=1, target="tpot<1ms, ttft<1us")
    nearest = plan(question).nearest
    assert nearest is not None
    only = plan(question.replace(target="ttft<1us")).nearest
    assert only is not None
    assert nearest.inputs == only.inputs
    assert nearest.inputs.tp_size == 8


def test_an_unknown_energy_meets_no_limit_on_it(tmp_path):
    file = tmp_path / "mine.yaml"
    text = (resources.files("hardware_specs") / "gpus" / "t4-16gb.yaml").read_text("utf-8")
    file.write_text(text.replace("tdp_w: 70", "").replace("name: T4-16GB", "name: Mine"))
    question = PlanQuestion(model="opt-1.3b", gpus=(str(file), "t4"), objective="gpus", target="energy<1J")
    assert [candidate.inputs.gpu for candidate in plan(question).best] == ["T4-16GB"]
    free = plan(question.replace(target="")).best
    assert {candidate.inputs.gpu for candidate in free} == {str(file), "T4-16GB"}
    assert plan(question).unrated == ("Mine",)
    for asked in (question, question.replace(objective="energy", target="")):
        with pytest.raises(SpecError, match=r"no rated power \(tdp_w\) is known for Mine"):
            plan(asked.replace(gpus=(str(file),)))


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
    answer = plan(PlanQuestion(model="opt-1.3b", gpus=GPUS, prices=str(prices), batching="static"))
    assert [candidate.inputs.gpu for candidate in answer.best] == ["T4-16GB"]
    assert len(answer.unpriced) == 3
    (best,) = answer.best
    price = gpu_price("T4-16GB", None, best.inputs.prices)  # a plan's inputs give its cost again
    assert price is not None
    result = predict_inference(build_scenario(best.inputs))
    wanted = best.measures["cost_per_million_tokens"]
    assert cost_of(result, price).per_million_tokens == pytest.approx(wanted, rel=1e-9)
    with pytest.raises(SpecError, match="no price is known"):
        plan(PlanQuestion(model="opt-1.3b", gpus=("h200",), prices=str(prices)))


def test_what_is_too_slow_already_gets_no_more_stages():
    assert plan(MIXTRAL.replace(target="ttft<1s")).evaluated < plan(MIXTRAL).evaluated


@pytest.mark.parametrize(
    ("target", "more"),
    [
        ("tpot<50ms, ttft<1s", {"quant_bits": (16, 4)}),
        ("tpot<25ms", {"system": "vllm", "gen_len": 400}),
        ("latency<6s, throughput>900", {}),
        ("tpot<1ms", {"model": "llama-2-7b"}),
        ("ttft<200ms", {"batching": "static", "model": "mixtral-8x7b"}),
    ],
)
def test_what_is_not_evaluated_would_change_no_answer(
    target: str, more: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    gpus = ("t4", "l4", "a100-sxm-80gb", "h100-sxm-80gb", "rtx-4090", "mi300x", "b200", "l40s")
    question = PlanQuestion(
        **{"model": "llama-2-70b", "objective": "gpus", "gpus": gpus, "target": target, **more}
    )
    found = plan(question, top=9)
    monkeypatch.setattr(plan_module.Pool, "_streams_in_time", lambda *_: True)
    monkeypatch.setattr(
        plan_module, "Pool", functools.partial(plan_module.Pool, every_division=lambda _: False)
    )
    monkeypatch.setattr(plan_module.Alone, "least_of", lambda *_: (0.0, 0.0))
    monkeypatch.setattr(plan_module, "least_streamed_s", lambda *_: (0.0, 0.0))
    monkeypatch.setattr(plan_module.Alone, "weight_bytes", 0.0)
    whole = plan(question, top=9)
    for name in ("best", "nearest", "front"):
        assert repr(getattr(found, name)) == repr(getattr(whole, name))  # NaN is no other than itself
    assert found.evaluated <= whole.evaluated
    assert found.evaluated < whole.evaluated or not found.best
