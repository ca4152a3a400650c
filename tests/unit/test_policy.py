"""The search's pieces: fronts, distinct placements, policies as flags, and the published policies as bars to clear."""

import numpy as np
import pytest

from llm_perf.analysis.inference import predict_inference
from llm_perf.analysis.request import InferenceInputs, build_scenario
from llm_perf.config import get_model_config_by_name
from llm_perf.errors import SpecError
from llm_perf.search.pareto import pareto_front
from llm_perf.search.policy import PolicyQuestion, search_policy
from llm_perf.systems.base import TierShares
from llm_perf.systems.flexgen.grid import near_front, weight_cuts, weight_pairs
from llm_perf.systems.flexgen.placement import model_phases, place_tensors
from llm_perf.systems.flexgen.search import FlexGenSearch

# Policies of the FlexGen paper (arXiv 2303.06865), table 10, for 512 + 32 tokens on the T4:
# model, percent, GPU batch, number of GPU batches, weights compressed, cache compressed.
PUBLISHED = [
    ("opt-30b", "20 80 0 100 0 100", 48, 3, False, False),
    ("opt-30b", "20 80 0 100 100 0", 16, 20, True, True),
    ("opt-30b", "20 80 0 100 100 0", 16, 20, False, True),
    ("opt-175b", "0 50 0 0 0 100", 32, 8, False, False),
    ("opt-175b", "0 100 0 100 0 100", 48, 3, True, True),
]


@pytest.mark.parametrize(("model", "percent", "gpu_batch", "count", "weights", "cache"), PUBLISHED)
def test_searched_policies_are_at_least_as_fast_as_the_published_ones(
    model, percent, gpu_batch, count, weights, cache
):
    inputs = InferenceInputs(
        model,
        "t4",
        system="flexgen",
        percent=percent,
        gpu_batch_size=gpu_batch,
        num_gpu_batches=count,
        compress_weight=weights,
        compress_cache=cache,
    )
    published = predict_inference(build_scenario(inputs))
    found = search_policy(PolicyQuestion(model, "t4", system="flexgen", lossless=not (weights or cache)))
    assert published.feasible
    assert found.best.throughput_tokens_per_s >= published.total_throughput_tokens_per_s


def test_front_keeps_what_no_other_point_beats_in_order():
    latency = np.array([3.0, 1.0, 2.0, 2.0, 4.0])
    rate = np.array([5.0, 1.0, 4.0, 3.0, 5.0])
    assert pareto_front(latency, rate).tolist() == [1, 2, 0]
    assert pareto_front(np.zeros(0), np.zeros(0)).tolist() == []
    assert set(near_front(latency, rate, 0.0)) == {1, 2, 0, 4}


@pytest.mark.parametrize("model", ["opt-30b", "llama-2-70b", "bloom-176b"])
def test_every_percentage_means_one_of_the_distinct_placements(model):
    config = get_model_config_by_name(model)
    cuts = np.array(weight_cuts(config))

    def layers(percents):
        shares = TierShares(1 - percents / 100, percents / 100, 0 * percents)
        phases = model_phases(config)
        return np.array([place_tensors(p, shares, 2.0).cpu_bytes / (2 * p.elements) for p in phases])

    of_all, of_cuts = layers(np.arange(101.0)), layers(cuts.astype(float))
    distance = np.abs(of_all[:, :, None] - of_cuts[:, None, :]).max(axis=0).min(axis=1)
    assert distance.max() < 0.02  # biases and norms are not told apart
    assert len(cuts) < 15


def test_pairs_of_weights_sum_to_a_hundred_without_a_disk():
    assert all(wg + wc == 100 for wg, wc in weight_pairs([0, 25, 50, 100], disk=False))
    assert (0, 0) in weight_pairs([0, 25, 50, 100], disk=True)


def test_arrays_of_policies_give_what_single_predictions_give():
    search = FlexGenSearch(build_scenario(InferenceInputs("opt-6.7b", "t4", system="flexgen")))
    found = search.run()
    for row in range(0, len(found.rows), len(found.rows) // 7):
        question = PolicyQuestion("opt-6.7b", "t4", system="flexgen")
        single = predict_inference(build_scenario(question.inputs(found.rows.flags(row))))
        assert single.feasible
        assert single.total_latency_s == pytest.approx(found.latency_s[row], rel=1e-12)


def test_estimate_is_near_the_exact_latency():
    search = FlexGenSearch(build_scenario(InferenceInputs("opt-30b", "t4", system="flexgen")))
    found = search.run()
    assert search.estimate(found.rows) == pytest.approx(found.latency_s, rel=0.02)


@pytest.mark.parametrize("objective", ["throughput", "latency", "cost"])
def test_objective_is_what_the_front_offers_most_of(objective):
    answer = search_policy(PolicyQuestion("opt-6.7b", "t4", objective=objective, cost_per_gpu_hour=1.0))
    best = answer.front[0] if objective == "latency" else answer.front[-1]
    assert answer.best == best


def test_cost_needs_a_price():
    with pytest.raises(SpecError, match="cost-per-gpu-hour"):
        search_policy(PolicyQuestion("opt-6.7b", "p100-pcie-16gb", objective="cost"))
    with pytest.raises(SpecError, match="cost-per-gpu-hour"):
        search_policy(PolicyQuestion("opt-6.7b", "t4", objective="cost", cost_per_gpu_hour=0.0))


def test_lossless_compresses_nothing():
    answer = search_policy(PolicyQuestion("opt-6.7b", "t4", lossless=True))
    for point in answer.front:
        flags = point.flags
        assert flags.get("quant_bits", 16) == 16
        assert not flags.get("compress_weight")
        assert not flags.get("compress_cache")


def test_an_unreachable_limit_says_how_fast_it_can_be():
    answer = search_policy(PolicyQuestion("opt-30b", "t4", max_latency=1.0))
    assert answer.best is None
    assert answer.inputs is None
    assert "fastest" in answer.reason
    assert answer.nearest.latency_s > 1.0
