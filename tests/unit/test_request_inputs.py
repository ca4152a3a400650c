"""Who asks when: rates, burstiness, lengths, sessions, files of requests; seeds; what is refused, and how."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llm_perf.errors import SpecError
from llm_perf.requests.arrivals import Turns, arrivals
from llm_perf.requests.lengths import parse_lengths
from llm_perf.requests.request_file import read_requests
from llm_perf.requests.traffic import DEFAULT_COUNT, Traffic, requests_of
from llm_perf.requests.workload import NONE, Requests

COLUMNS = ("arrival_s", "prompt_tokens", "output_tokens", "prefix_id", "prefix_tokens", "previous", "think_s")


def same(one: Requests, other: Requests) -> bool:
    return all(np.array_equal(getattr(one, name), getattr(other, name)) for name in COLUMNS)


# -- arrivals -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("burstiness", [0.25, 1.0, 4.0, math.inf])
def test_gaps_have_the_rate_and_the_spread_of_a_gamma_distribution(burstiness):
    times = arrivals(10.0, burstiness, 20_000, np.random.default_rng(1))
    gaps = np.diff(times, prepend=0.0)
    assert times[-1] == pytest.approx(2000.0)  # the nominal duration, as vLLM's generator stretches it
    assert (gaps >= 0).all()
    assert gaps.std() / gaps.mean() == pytest.approx(1 / math.sqrt(burstiness), abs=0.02)


def test_an_infinite_rate_is_all_at_once():
    assert not requests_of(Traffic(rate=math.inf, num_requests=7)).arrival_s.any()
    assert requests_of(Traffic(rate="inf")).arrival_s.shape == (DEFAULT_COUNT,)


# -- lengths ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "mean", "deviation"),
    [("300", 300, 0), ("uniform:100:500", 300, 115.8), ("lognormal:300:150", 300, 150)],
)
def test_lengths_have_the_moments_that_are_written(text, mean, deviation):
    lengths = parse_lengths("--prompt-len", text)
    drawn = lengths.tokens(np.random.default_rng(0), 200_000)
    assert drawn.dtype == np.int64
    assert lengths.mean == pytest.approx(mean)
    assert drawn.mean() == pytest.approx(mean, rel=0.01)
    assert drawn.std() == pytest.approx(deviation, rel=0.03, abs=1e-9)


@settings(max_examples=60, deadline=None)
@given(st.floats(1, 1e6), st.integers(1, 3000))
def test_a_mean_with_a_fraction_is_the_mean_of_whole_lengths_next_to_it(mean, count):
    """As equal as lengths of that mean can be: benchmarks print 1023.4, and no request has that many."""
    lengths = parse_lengths("--prompt-len", repr(mean))
    drawn = lengths.tokens(np.random.default_rng(0), count)
    assert lengths.mean == mean
    assert set(drawn.tolist()) <= {math.floor(mean), math.ceil(mean)}
    assert abs(drawn.sum() - mean * count) <= 0.5 + 1e-6


def test_a_uniform_range_includes_both_ends():
    drawn = parse_lengths("--gen-len", "uniform:1:3").tokens(np.random.default_rng(0), 1000)
    assert set(drawn.tolist()) == {1, 2, 3}


def test_lengths_of_a_file(tmp_path):
    file = tmp_path / "lengths.txt"
    file.write_text("10\n\n20\n")
    drawn = parse_lengths("--gen-len", str(file)).tokens(np.random.default_rng(0), 100)
    assert set(drawn.tolist()) == {10, 20}


@pytest.mark.parametrize(
    "text",
    ["", "0", "-3", "0.5", "uniform:1.5:9", "nan", "inf", "1e30", "ten", "uniform:5", "uniform:9:3", "uniform:0:3",
     "uniform:1:2:3",
     "lognormal:0:1", "lognormal:100:-1", "lognormal:1:1e9", "no-file.txt", "\x00"],
)  # fmt: skip
def test_lengths_that_cannot_be_are_refused_by_their_flag(text):
    with pytest.raises(SpecError, match="--gen-len"):
        parse_lengths("--gen-len", text)


@pytest.mark.parametrize(
    ("content", "said"), [("", "empty"), ("5\nx\n", ":2: 'x' is no number"), ("0\n", ":1")]
)
def test_a_file_of_lengths_says_where_it_is_wrong(tmp_path, content, said):
    file = tmp_path / "lengths.txt"
    file.write_text(content)
    with pytest.raises(SpecError, match=said):
        parse_lengths("--prompt-len", str(file))


# -- seeds --------------------------------------------------------------------------------------------------------


VARIED = {"prompt_len": "uniform:10:500", "gen_len": "lognormal:100:50", "prefix_len": 32, "num_prefixes": 3}


def test_the_same_seed_gives_the_same_requests_and_another_others():
    asked = Traffic(rate=3.0, num_requests=200, turns=3, think_time="uniform:1:5", **VARIED)
    assert same(requests_of(asked), requests_of(asked))
    assert not same(requests_of(asked), requests_of(asked.replace(seed=1)))


def test_another_rate_moves_times_and_nothing_else():
    slow, fast = (requests_of(Traffic(rate=rate, num_requests=100, **VARIED)) for rate in (2.0, 8.0))
    assert slow.arrival_s == pytest.approx(4 * fast.arrival_s)
    assert np.array_equal(slow.prompt_tokens, fast.prompt_tokens)
    assert np.array_equal(slow.output_tokens, fast.output_tokens)


# -- sessions -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("count", "each"), [(10, 3), (9, 3), (5, 5), (4, 1)])
def test_a_turn_repeats_what_was_said_before(count, each):
    turns = Turns(count, each)
    said, answered = np.full(count, 7), np.full(count, 5)
    prompts = turns.whole_prompts(said, answered)
    for index, before in enumerate(turns.previous):
        expected = 7 if before == NONE else prompts[before] + 5 + 7
        assert prompts[index] == expected
        if before != NONE:
            assert turns.session[index] == turns.session[before]
    assert (turns.previous == NONE).sum() == turns.sessions


def test_the_rate_of_sessions_counts_their_turns():
    requests = requests_of(Traffic(rate=6.0, num_requests=300, turns=3, think_time="2"))
    first = requests.previous == NONE
    assert requests.arrival_s[first].max() == pytest.approx(first.sum() / 2.0)
    assert not requests.think_s[first].any()
    assert (requests.think_s[~first] == 2).all()


def test_a_prefix_is_counted_once_in_a_session():
    requests = requests_of(
        Traffic(rate=1.0, num_requests=4, turns=2, prompt_len=10, gen_len=5, prefix_len=100)
    )
    assert requests.prompt_tokens.tolist() == [110, 110, 125, 125]
    assert (requests.prefix_tokens == 100).all()


# -- what is asked together ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({}, "say when requests are sent"),
        ({"rate": 1.0, "concurrency": 2}, "exclude each other"),
        ({"rate": 1.0, "think_time": "3"}, "--turns"),
        ({"rate": 1.0, "num_prefixes": 3}, "--prefix-len"),
        ({"rate": 1.0, "gen_len": "x"}, "--gen-len"),
        ({"rate": 5e-324, "burstiness": 1e-9}, "--rate 4.94066e-324: 1000 requests"),
        ({"rate": 1e-7}, "the least is 1e-06"),
        ({"rate": 1e308}, "at most 1e[+]12 requests per second, or inf"),
    ],
)
def test_what_does_not_go_together_is_refused(asked, said):
    with pytest.raises(SpecError, match=said):
        requests_of(Traffic(**asked))


@pytest.mark.parametrize(
    "asked",
    [{"rate": 0.0}, {"rate": -1.0}, {"rate": math.nan}, {"burstiness": 0.0}, {"burstiness": 1e-300},
     {"concurrency": 0}, {"seed": -1}, {"num_requests": 0}, {"num_requests": 10**9}, {"turns": 0}],
)  # fmt: skip
def test_numbers_out_of_range_name_their_flag(asked):
    with pytest.raises(SpecError, match=next(iter(asked))):
        Traffic(**({"rate": 1.0} | asked))


# -- files --------------------------------------------------------------------------------------------------------


GOOD = "arrival_s,prompt_tokens,output_tokens\n0,10,5\n0.5,20,6\n"


def written(folder: Path, content: str | bytes, name: str = "requests.csv") -> str:
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return str(path)


def test_a_csv_and_a_jsonl_say_the_same(tmp_path):
    rows = [
        {"arrival_s": 0, "prompt_tokens": 10, "output_tokens": 5, "prefix_id": "a", "prefix_tokens": 8},
        {"arrival_s": 0.5, "prompt_tokens": 20, "output_tokens": 6},
        {"arrival_s": 0.5, "prompt_tokens": 30, "output_tokens": 7, "prefix_id": "a", "prefix_tokens": 8},
    ]
    lines = "\n".join(json.dumps(row) for row in rows)
    table = "\ufeffprefix_id,prefix_tokens,output_tokens,arrival_s,prompt_tokens\na,8,5,0,10\n,,6,.5,20\na,8,7,.5,30\n"
    one = read_requests(written(tmp_path, lines, "requests.jsonl")).requests
    assert same(one, read_requests(written(tmp_path, table)).requests)
    assert one.prefix_id.tolist() == [0, NONE, 0]


def test_other_columns_are_named_as_unread(tmp_path):
    file = read_requests(written(tmp_path, GOOD.replace("\n", ",x\n")))
    assert file.ignored == ("x",)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("", "is empty"),
        ("  \n", "is empty"),
        ("arrival_s,prompt_tokens,output_tokens\n", "no requests"),
        ("time,prompt_tokens,output_tokens\n0,1,1\n", "no column 'arrival_s'"),
        ("arrival_s,arrival_s,prompt_tokens,output_tokens\n0,0,1,1\n", "names the column 'arrival_s' twice"),
        (GOOD + "-1,10,5\n", ":4: arrival_s '-1'"),
        (GOOD + "0.4,10,5\n", ":4: arrival_s 0.4 is earlier"),
        (GOOD + "nan,10,5\n", ":4: arrival_s 'nan'"),
        (GOOD + "1e99,10,5\n", ":4: arrival_s '1e99'"),
        (GOOD + "1,0,5\n", ":4: prompt_tokens '0'"),
        (GOOD + "1,10,0\n", ":4: output_tokens '0'"),
        (GOOD + "1,10,-5\n", ":4: output_tokens '-5'"),
        (GOOD + "1,10.5,5\n", ":4: prompt_tokens '10.5'"),
        (GOOD + "1,1e30,5\n", ":4: prompt_tokens '1e30'"),
        (GOOD + "1,10\n", ":4: has 2 cells"),
        (GOOD + '1,"10,5\n', "malformed CSV"),
        (GOOD.replace("\n", ",\n").replace("tokens,", "tokens,prefix_tokens", 2), "no column"),
        ('{"arrival_s": 0}\n', ":1: has no field 'prompt_tokens'"),
        (f'{{"arrival_s": {"9" * 400}, "prompt_tokens": 4, "output_tokens": 1}}', ":1: arrival_s 999"),
        ('{"arrival_s": 0, "prompt_tokens": true, "output_tokens": 1}\n', ":1: prompt_tokens True"),
        ('{"arrival_s": 0,\n', ":1: is malformed JSON"),
        ('{"arrival_s": 0, "prompt_tokens": 4, "output_tokens": 1}\n[1]\n', ":2: is no object"),
        (
            '{"arrival_s": 0, "prompt_tokens": 4, "output_tokens": 1, "prefix_tokens": 5, "prefix_id": 1}\n',
            ":1: prefix_tokens 5",
        ),
        (
            '{"arrival_s": 0, "prompt_tokens": 4, "output_tokens": 1, "prefix_tokens": 3}\n',
            "needs a prefix_id",
        ),
        (b"\xff\xfe\x00", "not a text file"),
        ("[" * 100_000, "no column"),
        ('{"a":' * 100_000, "malformed JSON"),
    ],
)
def test_a_file_says_which_row_and_field_is_wrong(tmp_path, content, said):
    with pytest.raises(SpecError) as caught:
        read_requests(written(tmp_path, content))
    assert said in str(caught.value)
    assert "requests.csv" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize("name", ["nowhere.csv", "", "\x00", "~nobody-here/x.csv", "x" * 5000])
def test_a_file_that_cannot_be_read_is_one_line(tmp_path, name):
    with pytest.raises(SpecError):
        read_requests(name)


def test_a_file_at_another_rate_keeps_its_lengths_and_repeats(tmp_path):
    name = written(tmp_path, GOOD)
    requests = requests_of(Traffic(requests=name, rate=2.0, num_requests=5))
    assert requests.prompt_tokens.tolist() == [10, 20, 10, 20, 10]
    assert requests.arrival_s[-1] == pytest.approx(2.5)
    untimed = written(tmp_path, "prompt_tokens,output_tokens\n10,5\n", "untimed.csv")
    assert requests_of(Traffic(requests=untimed, concurrency=1)).concurrency == 1
    with pytest.raises(SpecError, match="no column 'arrival_s'"):
        requests_of(Traffic(requests=untimed))
    with pytest.raises(SpecError, match="--num-requests 5"):
        requests_of(Traffic(requests=name, num_requests=5))
    with pytest.raises(SpecError, match="--gen-len"):
        requests_of(Traffic(requests=name, gen_len="7"))
    assert len(requests_of(Traffic(requests=name, num_requests=1))) == 1


def test_columns_of_requests_go_together():
    with pytest.raises(SpecError, match="output_tokens has 1 values, arrival_s has 2"):
        Requests.of([0, 1], [1, 1], np.array([1]))
    with pytest.raises(SpecError, match="ascending"):
        Requests.of([1, 0], 1, 1)
    with pytest.raises(SpecError, match="previous of request 0"):
        Requests.of([0, 0], 1, 1, previous=[0, 0])
    with pytest.raises(SpecError, match="there are none"):
        Requests.of([], [], [])
