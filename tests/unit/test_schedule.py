"""Schedules: the overlap rule, closed forms against an explicit walk, attribution, crossings, traces."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm_perf.hardware.streams import COMPUTE, D2H, DISK_READ, H2D, STREAMS
from llm_perf.hardware.transfer import Path
from llm_perf.report.trace import schedule_spans, trace_json
from llm_perf.systems.schedule import Block, Schedule, Step, Work, crossings, sum_costs, sum_linear

seconds = st.floats(0, 100)


@st.composite
def steps(draw):
    """Up to four lanes of up to three pieces of work."""
    works = st.builds(Work, st.sampled_from(sorted(STREAMS)), st.sampled_from(["a", "b", "c"]), seconds)
    lanes = draw(
        st.dictionaries(
            st.sampled_from(["one", "two", "three", "four"]),
            st.lists(works, min_size=1, max_size=3).map(tuple),
            min_size=1,
        )
    )
    return Step(
        "step",
        lanes,
        draw(st.sampled_from([1.0, 2.0, 7.0])),
        draw(st.booleans()),
        draw(st.sampled_from([1.0, 1.5, 2.0])),
    )


@st.composite
def schedules(draw):
    blocks = st.builds(
        Block, st.lists(steps(), min_size=1, max_size=3).map(tuple), st.sampled_from([1.0, 3.0, 2.5])
    )
    return Schedule(draw(st.lists(blocks, min_size=1, max_size=3).map(tuple)))


def test_a_step_lasts_as_long_as_its_longest_lane():
    step = Step("s", {"gpu": (Work(COMPUTE, "mlp", 3.0),), "copies": (Work(H2D, "weights", 5.0),)})
    assert step.duration_s == 5.0


def test_without_overlap_it_lasts_as_long_as_all_its_work():
    lanes = {"gpu": (Work(COMPUTE, "mlp", 3.0),), "copies": (Work(H2D, "weights", 5.0),)}
    assert Step("s", lanes, overlap=False).duration_s == 8.0


def test_a_stream_that_two_lanes_use_is_a_limit_of_its_own():
    lanes = {
        "copies": (Work(H2D, "weights", 3.0),),
        "disk": (Work(DISK_READ, "weights", 1.0), Work(H2D, "weights", 4.0)),
    }
    assert Step("s", lanes).duration_s == 7.0


def test_both_directions_of_the_link_disturb_each_other():
    lanes = {"in": (Work(H2D, "weights", 4.0),), "out": (Work(D2H, "cache", 4.0),)}
    assert Step("s", lanes, duplex=2.0).duration_s == 4.0
    assert Step("s", lanes, duplex=1.6).duration_s == pytest.approx(5.0)
    assert Step("s", lanes, duplex=1.0).duration_s == 8.0


def test_a_share_of_overlap_is_between_all_and_none():
    lanes = {"gpu": (Work(COMPUTE, "mlp", 3.0),), "copies": (Work(H2D, "weights", 5.0),)}
    assert Step("s", lanes, overlap=0.0).duration_s == 8.0
    assert Step("s", lanes, overlap=1.0).duration_s == 5.0
    assert Step("s", lanes, overlap=0.75).duration_s == pytest.approx(8 - 0.75 * 3)


def test_a_step_inside_a_lane_takes_its_own_duration_and_is_waited_for_by_its_own_work():
    fetch = Step("fetch", {"disk": (Work(DISK_READ, "read", 4.0),), "copies": (Work(H2D, "copy", 2.0),)})
    step = Step("s", {"weights": (fetch, Work(COMPUTE, "unpack", 1.0)), "gpu": (Work(COMPUTE, "mlp", 3.0),)})
    assert step.duration_s == 5.0  # 4 of the fetch and 1; both lanes' computing takes 4
    waited: dict[str, float] = {}
    for work, seconds in step.exposed():
        waited[work.label] = waited.get(work.label, 0.0) + seconds
    assert waited == {"read": 4.0, "unpack": 1.0}
    assert sum(work.seconds for work in step.works()) == 10.0
    assert step.scaled(0.5).duration_s == 2.5


@given(steps(), st.floats(0, 1), st.floats(0, 1))
def test_more_of_the_overlap_is_never_slower_and_what_is_waited_for_adds_up(inner, less, more):
    less, more = sorted((less, more))
    kernels = (Work(COMPUTE, "kernels", 7.0),)
    shares = [Step("s", {"stream": (inner,), "gpu": kernels}, overlap=share) for share in (less, more)]
    assert shares[1].duration_s <= shares[0].duration_s * (1 + 1e-12)
    for step in shares:
        assert sum(s for _, s in step.exposed()) == pytest.approx(step.duration_s)


@given(steps())
def test_a_step_is_between_its_slowest_stream_and_all_its_work(step):
    busy: dict[str, float] = {}
    for work in step.works():
        busy[work.stream] = busy.get(work.stream, 0.0) + work.seconds
    assert max(busy.values()) <= step.duration_s * (1 + 1e-12)
    assert step.duration_s <= step.serial_s * (1 + 1e-12)


@given(schedules())
def test_what_is_waited_for_adds_up_to_the_latency(schedule):
    for parts in (schedule.exposed_by_stream(), schedule.cost().parts_s):
        assert all(part >= 0 for part in parts.values())
        assert sum(parts.values()) == pytest.approx(schedule.latency_s, rel=1e-9, abs=1e-9)


@given(schedules())
def test_no_stream_is_waited_for_longer_than_it_works(schedule):
    busy = schedule.busy_s()
    for stream, waited in schedule.exposed_by_stream().items():
        assert waited <= busy[stream] * (1 + 1e-9) + 1e-9


@given(schedules())
def test_the_closed_form_is_the_walk_over_all_steps(schedule):
    spans = [span for span in schedule_spans(schedule) if span.track == "steps"]
    assert sum(span.duration_s for span in spans) == pytest.approx(schedule.latency_s, rel=1e-9, abs=1e-9)
    end = 0.0
    for span in spans:
        assert span.start_s == pytest.approx(end, abs=1e-6)
        end = span.start_s + span.duration_s


@given(schedules())
def test_a_trace_shows_all_work_inside_its_step(schedule):
    spans = list(schedule_spans(schedule))
    busy: dict[str, float] = {}
    step = None
    for span in spans:
        if span.track == "steps":
            step = span
            continue
        assert step is not None
        stream = span.track.split(" (")[0]
        busy[stream] = busy.get(stream, 0.0) + span.duration_s
        assert span.start_s >= step.start_s - 1e-9
        assert span.start_s + span.duration_s <= (step.start_s + step.duration_s) * (1 + 1e-9) + 1e-6
    for stream, worked in schedule.busy_s().items():
        assert busy.get(STREAMS[stream], 0.0) == pytest.approx(worked, rel=1e-9, abs=1e-9)


def test_a_trace_is_complete_events_in_microseconds():
    schedule = Schedule((Block((Step("mlp first", {"executor": (Work(COMPUTE, "mlp", 0.002),)}),), 2.0),))
    events = json.loads(trace_json([("prefill", list(schedule_spans(schedule)))]))["traceEvents"]
    complete = [event for event in events if event["ph"] == "X"]
    assert [event["ts"] for event in complete if event["cat"] == "steps"] == [0.0, 2000.0]
    assert {event["dur"] for event in complete} == {2000.0}
    named = {event["args"]["name"] for event in events if event["ph"] == "M"}
    assert {"prefill", "steps", "GPU arithmetic (executor)"} <= named


def test_arrays_are_the_single_numbers():
    def of(left, right, overlap):
        lanes = {
            "a": (Work(H2D, "w", left), Work(D2H, "k", right)),
            "b": (Work(H2D, "w", right * 2),),
        }
        return Schedule((Block((Step("s", lanes, 3.0, overlap, 1.7),), 2.0),))

    left, right = np.array([1.0, 2.0, 5.0, 0.0]), np.array([3.0, 0.5, 5.0, 0.0])
    overlap = np.array([True, True, False, True])
    whole = of(left, right, overlap)
    for i in range(4):
        one = of(float(left[i]), float(right[i]), bool(overlap[i]))
        assert whole.latency_s[i] == pytest.approx(one.latency_s, rel=1e-12)
        for label, value in one.cost().parts_s.items():
            assert whole.cost().parts_s[label][i] == pytest.approx(value, rel=1e-12)


def growing(context):
    lanes = {"gpu": (Work(COMPUTE, "a", 10.0),), "copies": (Work(H2D, "kv", 0.1 * context),)}
    return Schedule((Block((Step("s", lanes),)),))


def test_crossings_are_where_another_lane_becomes_the_longest():
    def at(context):
        return growing(context).blocks[0].steps[0]

    assert crossings(at(50.0), at(150.0), 101) == pytest.approx([50.0])
    assert crossings(at(110.0), at(150.0), 41) == []


@given(st.integers(1, 300), st.integers(1, 200))
def test_a_sum_over_growing_work_is_the_sum_of_each(first, count):
    each = [growing(float(context)).cost() for context in range(first, first + count)]
    whole = sum_linear(growing(float(first)), growing(first + count - 1.0), float(count))
    assert whole.latency_s == pytest.approx(sum(cost.latency_s for cost in each), rel=1e-12)
    for label in ("a", "kv"):
        waited = sum(cost.parts_s.get(label, 0.0) for cost in each)
        # Where both lanes are equally long, rounding says which one is waited for.
        assert whole.parts_s.get(label, 0.0) == pytest.approx(waited, rel=1e-12, abs=10.001)
    for stream in (COMPUTE, H2D):
        assert whole.busy_s[stream] == pytest.approx(sum(cost.busy_s[stream] for cost in each), rel=1e-12)


@given(schedules(), st.floats(0, 10), st.floats(0, 10))
def test_costs_are_summed_with_their_weights(schedule, first, second):
    cost = schedule.cost()
    both = sum_costs([(cost, first), (cost, second)])
    assert both.latency_s == pytest.approx((first + second) * cost.latency_s)
    assert sum(both.parts_s.values()) == pytest.approx(both.latency_s, abs=1e-9)


def test_the_bottleneck_is_what_is_waited_for_longest():
    lanes = {"gpu": (Work(COMPUTE, "mlp", 3.0),), "copies": (Work(H2D, "weights", 5.0),)}
    assert Schedule((Block((Step("s", lanes),)),)).bottleneck == H2D


def test_small_copies_are_slow():
    path = Path(H2D, 1e9, 1e-3)
    assert path.seconds(1e6, 1) == pytest.approx(2e-3)  # half of the rate at latency x rate bytes
    assert path.shared_by(2).seconds(1e6) == pytest.approx(2e-3)
