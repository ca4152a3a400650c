"""Which experts tokens are sent to: one number says how unevenly, and what the busiest rank gets follows from it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm_perf.analysis.request import InferenceInputs, build_scenario
from llm_perf.counts.routing import Routing, choice_rates, highest_of, popularities
from llm_perf.systems.forward import Forward
from llm_perf.systems.registry import system_of

MIXTURES = ((2, 8), (4, 128), (8, 128), (8, 256), (10, 512))
VARIATIONS = st.floats(0.05, 2.5)


def forward(variation: float | None, **inputs: Any) -> Forward:
    asked = build_scenario(
        InferenceInputs(
            model="Qwen3-235B-A22B", gpu="h100-sxm", system="vllm@0.10", weight_format="fp8", **inputs
        )
    )
    own = {} if variation is None else {"expert_load_variation": variation}
    changed = asked.replace(constants=tuple(own.items()))
    return Forward(changed, system_of(changed).constants(changed))


def experts(one: Forward) -> list[Any]:
    return [product for _, products in one.groups for product in products if product.is_expert]


@given(VARIATIONS)
def test_kinds_of_experts_vary_as_much_as_is_asked_for(variation: float) -> None:
    found = np.array(popularities(variation))
    assert found.mean() == pytest.approx(1)
    assert found.std() == pytest.approx(variation, rel=1e-6)


@given(st.sampled_from(MIXTURES), VARIATIONS)
def test_one_token_is_sent_to_as_many_experts_as_the_model_says(
    mixture: tuple[int, int], variation: float
) -> None:
    active, count = mixture
    assert Routing(active, count, variation).touched_share(1.0) * count == pytest.approx(active)
    rates = choice_rates(active, count, variation)
    assert max(rates) / min(rates) == pytest.approx(
        max(popularities(variation)) / min(popularities(variation))
    )


@given(st.sampled_from(MIXTURES), VARIATIONS, st.floats(1, 1e5), st.floats(1, 1e3))
def test_uneven_tokens_meet_in_fewer_experts(
    mixture: tuple[int, int], variation: float, tokens: float, more: float
) -> None:
    uneven, even = Routing(*mixture, variation), Routing(*mixture, 0.0)
    assert uneven.touched_share(tokens) <= even.touched_share(tokens) * (1 + 1e-9)
    assert uneven.touched_share(tokens) <= uneven.touched_share(tokens + more) <= 1


@given(st.sampled_from(MIXTURES), VARIATIONS, st.sampled_from([2, 4, 8]), st.floats(1, 1e5))
def test_the_busiest_rank_has_the_mean_at_least_and_everything_at_most(
    mixture: tuple[int, int], variation: float, ranks: int, tokens: float
) -> None:
    active, count = mixture
    routing = Routing(active, count, variation)
    assert 1 <= routing.busiest_rows(tokens, ranks) <= ranks
    touched = routing.busiest_touched(tokens, ranks)
    mean = routing.touched_share(tokens) * count / ranks
    assert mean * (1 - 1e-9) <= touched <= min(count / ranks, active * tokens) * (1 + 1e-9)
    assert routing.busiest_rows(tokens, 1) == 1


@pytest.mark.parametrize("tokens", [4, 16, 64, 512])
@pytest.mark.parametrize(("active", "count", "ranks"), [(8, 128, 4), (8, 128, 8), (8, 256, 8), (4, 128, 8)])
@pytest.mark.parametrize("variation", [0.3, 1.0])
def test_formulas_give_what_tokens_that_are_drawn_do(
    active: int, count: int, ranks: int, tokens: int, variation: float
) -> None:
    """Tokens draw experts one after the other, without putting any back, in layers of their own popularity."""
    random = np.random.default_rng(tokens + count)
    spread = np.sqrt(np.log1p(variation**2))
    rows, touched, shares = [], [], []
    for _ in range(60):
        popular = np.exp(spread * random.standard_normal(count))
        keys = np.log(popular) + random.gumbel(size=(tokens, count))
        chosen = np.argpartition(-keys, active, axis=1)[:, :active]
        counts = np.bincount(chosen.ravel(), minlength=count)
        by_rank = counts.reshape(ranks, -1)
        shares.append((counts > 0).mean())
        rows.append(by_rank.sum(axis=1).max() / (tokens * active / ranks))
        touched.append((by_rank > 0).sum(axis=1).max())
    routing = Routing(active, count, variation)
    assert routing.touched_share(tokens) == pytest.approx(np.mean(shares), rel=0.06)
    assert routing.busiest_rows(tokens, ranks) == pytest.approx(np.mean(rows), rel=0.13)
    assert routing.busiest_touched(tokens, ranks) == pytest.approx(np.mean(touched), rel=0.13)


def test_the_highest_of_several_normal_deviates() -> None:
    # Tables of order statistics: 0.564, 1.029, 1.424, 1.766.
    assert [highest_of(count) for count in (1, 2, 4, 8, 16)] == pytest.approx(
        [0, 0.564, 1.029, 1.424, 1.766], rel=0.05
    )


def test_even_routing_is_what_products_count_themselves() -> None:
    even = forward(0.0, num_gpus=4, tp_size=4, ep_size=4)
    for product in experts(even):
        for tokens in (1.0, 16.0, 4096.0):
            assert even.touched(product, tokens) == product.touched(tokens, 1)
            assert even.product_s(product, tokens).rows == product.rows(tokens) / 4


def test_a_decode_step_on_one_group_of_ranks_reads_fewer_experts_and_a_rank_of_experts_waits() -> None:
    def decode_s(variation: float, **inputs: Any) -> float:
        costs, _ = forward(variation, num_gpus=8, tp_size=8, **inputs).decode_step(32.0)
        return float(costs.total_s)

    assert decode_s(1.0) < decode_s(0.0)
    assert decode_s(1.0, ep_size=8) > decode_s(1.0)


def test_what_is_asked_for_of_a_rank_stands_where_it_is_more() -> None:
    inputs: dict[str, Any] = {"num_gpus": 8, "tp_size": 8, "ep_size": 8}
    some, most = forward(1.0, **inputs), forward(1.0, expert_imbalance=4.0, **inputs)
    product = experts(some)[0]
    assert most.product_s(product, 4096.0).rows == pytest.approx(4.0 * product.rows(4096.0) / 8)
    own = some.product_s(product, 4096.0).rows / (product.rows(4096.0) / 8)
    assert (
        1.3 < own < 2
    )  # 16 experts a rank that vary as much as they are large: 1 + 1.43 (7 / 128) ** .5 and some chance


def test_versions_that_were_timed_with_uneven_traffic_have_it_and_others_are_even() -> None:
    assert forward(None).constants["expert_load_variation"] == 1
    plain = build_scenario(InferenceInputs(model="mixtral-8x7b", gpu="a100-sxm-80gb", system="vllm@0.5"))
    assert Forward(plain, system_of(plain).constants(plain)).constants["expert_load_variation"] == 0
