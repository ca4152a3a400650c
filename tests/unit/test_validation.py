"""Statistics of compared runs: what they must be by hand, and what must hold for any."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from calibrate.evidence.published import load_measurements
from calibrate.evidence.settings import run_of
from calibrate.validate.baselines import BANDWIDTH_EFFICIENCY, FLOPS_EFFICIENCY, inference_roofline
from calibrate.validate.evidence import with_intervals
from calibrate.validate.figures import statistics_of
from calibrate.validate.row import Compared, Interval, Run

RUN = Run(1, "inference", "vllm", "opt-13b", "T4-16GB", 1, 1, 512, 32, None, "gpu", "a table", "A: log")
ROWS = {measurement.row_id: measurement for measurement in load_measurements()}

positive = st.floats(1e-6, 1e6)
pairs = st.lists(st.tuples(positive, st.none() | positive), min_size=1, max_size=20)


def compared(measured, predicted, **changes):
    reason = "refused" if predicted is None else None
    return replace(Compared(RUN, "edge", "total_latency_s", measured, predicted, reason), **changes)


def test_figures_by_hand():
    rows = [compared(10, 11), compared(10, 7.5), compared(100, 200), compared(1, None)]
    found = statistics_of(rows)
    assert (found["rows"], found["covered"]) == (4, 3)
    assert found["median_abs_error"] == pytest.approx(0.25)
    assert found["mean_abs_error"] == pytest.approx((0.1 + 0.25 + 1) / 3)
    assert found["bias"] == pytest.approx(0.1)
    assert found["within_10"] == pytest.approx(1 / 3)
    assert found["within_20"] == pytest.approx(1 / 3)
    assert found["gm"] == pytest.approx((1.1 * 4 / 3 * 2) ** (1 / 3))
    assert found["gm_all"] == pytest.approx((1.1 * 4 / 3 * 2 * 10) ** (1 / 4))
    assert found["interval_coverage"] is None


@given(pairs)
def test_statistics_keep_their_bounds(values):
    found = statistics_of([compared(*pair) for pair in values])
    assert 0 <= found["covered"] <= found["rows"]
    if found["covered"]:
        assert found["gm"] >= 1
        assert found["median_abs_error"] >= 0
        assert 0 <= found["within_10"] <= found["within_20"] <= 1
    else:
        assert found["gm"] is None


@given(pairs)
def test_a_prediction_is_as_far_off_when_all_units_change(values):
    there = statistics_of([compared(*pair) for pair in values])
    here = statistics_of([compared(m * 1000, p and p * 1000) for m, p in values])
    assert here["gm_all"] == pytest.approx(there["gm_all"])


def test_coverage_counts_the_rows_whose_interval_holds_the_measured_value():
    rows = [
        compared(10, 11, interval=Interval(9, 13, 0.9)),
        compared(10, 20, interval=Interval(15, 25, 0.9)),
        compared(10, 11),
    ]
    assert statistics_of(rows)["interval_coverage"] == 0.5
    assert rows[0].as_dict()["interval"] == {"low": 9, "high": 13, "level": 0.9}


def nine(first, ratio, **changes):
    """Rows of one group, as many as a 90 % quantile takes, each off by the same ratio."""
    return [
        compared(measured, measured * ratio, run=replace(RUN, row_id=measured), **changes)
        for measured in range(first, first + 9)
    ]


def left_out(groups):
    """Rows of {group: rows} with their intervals."""
    rows = [row for found in groups.values() for row in found]
    names = [name for name, found in groups.items() for _ in found]
    return with_intervals(rows, [name.rstrip("2") for name in names], "model", "vllm")


def test_the_interval_of_a_left_out_row_knows_the_other_groups_of_its_class_only():
    alone = nine(400, 1.3, accuracy_class="quantised")
    rows = left_out({"a": nine(100, 1.1), "b": nine(200, 1.2), "c": nine(300, 3), "a2": alone})
    a, b, c, other = rows[0], rows[9], rows[18], rows[27]
    assert (a.interval.low, a.interval.high) == pytest.approx((110 / 3, 330))  # the largest of b's and c's
    assert (b.interval.low, b.interval.high) == pytest.approx((80, 720))
    assert (c.interval.low, c.interval.high) == pytest.approx(
        (750, 1080)
    )  # c's own residuals do not widen it
    assert other.interval is None  # no other group of its class
    assert statistics_of(rows)["interval_coverage"] == pytest.approx(2 / 3)


@given(st.lists(st.floats(0.2, 5), min_size=2, max_size=12), st.data())
def test_intervals_of_left_out_rows_ignore_their_own_error(ratios, data):
    groups = {str(index): nine(100 * (index + 1), ratio) for index, ratio in enumerate(ratios)}
    here = data.draw(st.integers(0, len(ratios) - 1))
    off = [replace(row, measured=row.measured * 1.7) for row in groups[str(here)]]
    before, after = left_out(groups), left_out(groups | {str(here): off})
    own = slice(9 * here, 9 * here + 9)
    assert [row.interval for row in after[own]] == [row.interval for row in before[own]]
    assert all(row.interval is not None for row in before)


def test_a_baseline_is_held_to_the_same_rows():
    rows = [compared(10, 11, baselines={"roofline": 20}), compared(10, None, baselines={"roofline": None})]
    found = statistics_of(rows)["baselines"]["roofline"]
    assert (found["rows"], found["covered"], found["gm"]) == (2, 1, 2)
    assert found["gm_all"] == pytest.approx(20**0.5)


# -- the roofline -------------------------------------------------------------------------------------------


def test_the_roofline_of_one_decode_step_by_hand():
    """OPT-13B on an A100-80GB: reading 25.7 GB of weights and 0.4 GB of cache at 80 % of 2039 GB/s."""
    run = replace(
        run_of(next(m for m in ROWS.values() if m.gpu == "A100-SXM-80GB" and m.num_gpus == 1)),
        model="facebook/opt-13b", batch_size=1, prompt_len=512, gen_len=2, weights=None, kv_cache=None, weight_bits=16,
    )  # fmt: skip
    weights = 2 * (40 * (12 * 5120**2) + 50272 * 5120)
    cache = 2 * 2 * 40 * 5120 * 513
    expected = (weights + cache) / (2039e9 * BANDWIDTH_EFFICIENCY)
    assert inference_roofline(run)["latency_per_token_s"] == pytest.approx(expected, rel=0.005)
    flops = 2 * 40 * 12 * 5120**2 * 512 + 40 * 4 * 5120 * 512 * 513 / 2
    assert inference_roofline(run)["prefill_latency_s"] == pytest.approx(
        flops / (312e12 * FLOPS_EFFICIENCY), rel=0.005
    )


@pytest.mark.parametrize("row_id", [149, 156, 178])
def test_the_roofline_streams_what_is_not_on_the_gpu(row_id):
    run = run_of(ROWS[row_id])
    streamed = inference_roofline(run)["latency_per_token_s"]
    resident = inference_roofline(replace(run, weights=None, kv_cache=None))["latency_per_token_s"]
    assert streamed > 5 * resident


@given(st.integers(1, 64), st.integers(1, 2048))
def test_the_roofline_is_monotonic(batch, prompt):
    run = replace(run_of(ROWS[149]), batch_size=batch, prompt_len=prompt)
    more = replace(run, batch_size=batch + 1, prompt_len=prompt + 1)
    for name in ("prefill_latency_s", "latency_per_token_s", "total_latency_s"):
        assert inference_roofline(run)[name] <= inference_roofline(more)[name]
