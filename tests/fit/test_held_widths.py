"""Widths of intervals that were tried: each group of errors is held against the others, which never saw it."""

from __future__ import annotations

import math

import pytest

from calibrate.evidence.ratios import gm
from calibrate.fit.intervals import HeldWidth, held_width, of_equal_groups, of_rows

QUANTILES = {"equal groups": of_equal_groups, "rows": of_rows}


@pytest.mark.parametrize("quantile", QUANTILES.values(), ids=QUANTILES)
def test_groups_that_are_alike_hold_one_another(quantile) -> None:
    assert held_width({name: [0.1] * 10 for name in "abc"}, quantile) == HeldWidth(0.1, 30, 30)


@pytest.mark.parametrize("quantile", QUANTILES.values(), ids=QUANTILES)
def test_a_group_that_is_off_by_more_is_held_by_no_other_and_makes_the_width(quantile) -> None:
    groups = {name: [0.1] * 10 for name in "abc"} | {"d": [0.5] * 10}
    assert held_width(groups, quantile) == HeldWidth(0.5, 30, 40)


def test_what_comes_together_is_held_against_the_rest_together() -> None:
    groups = {
        ("old", "a"): [0.4] * 10,
        ("old", "b"): [0.4] * 10,
        ("new", "a"): [0.1] * 10,
        ("new", "b"): [0.1] * 10,
    }
    apart = held_width(groups, of_equal_groups, apart=lambda name: name[0])
    assert (apart.width, apart.held, apart.tested) == (0.4, 20, 40)
    assert held_width(groups, of_equal_groups).held == 40  # each old one by the other


def test_a_quantile_weighs_groups_alike_or_their_rows() -> None:
    groups = {"many": [0.1] * 99, "one": [0.5]}
    assert of_equal_groups(groups, 0.9) == 0.5
    assert of_rows(groups, 0.9) == 0.1


def test_the_least_quantile_that_holds_is_taken() -> None:
    rising = {name: [0.01 * n for n in range(1, 101)] for name in "abc"}
    found = held_width(rising, of_equal_groups)
    assert found.width == pytest.approx(0.9)
    assert (found.held, found.tested) == (270, 300)


def test_a_figure_is_the_same_too_fast_and_too_slow() -> None:
    assert gm([0.1, -0.1]) == gm([0.1]) == pytest.approx(1.10517, rel=1e-5)
    assert math.isnan(gm([]))
