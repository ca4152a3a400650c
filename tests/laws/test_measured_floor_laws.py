"""Runs below the floor: what memory cannot read in a measured time is no run of what its file states."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from calibrate.evidence.benchmark_run import (
    BenchmarkRun,
    Deployment,
    Engine,
    Figure,
    LoadPattern,
    TokenLengths,
)
from calibrate.fit.served.answers import answer_of
from calibrate.fit.served.deployment import served_of
from calibrate.fit.served.floor import below_floor
from calibrate.fit.served.plausible import least_times

NAMES = ("ttft_s", "tpot_s", "output_tokens_per_s")


def a_loop(
    model: str, gpu: str, concurrency: int, prompt: int, output: int, **figures: float
) -> BenchmarkRun:
    return BenchmarkRun(
        tool="test",
        engine=Engine(name="vllm", version="0.12"),
        deployment=Deployment(model=model, gpu=gpu),
        load=LoadPattern(kind="closed_loop", concurrency=concurrency, num_requests=3 * concurrency),
        prompt=TokenLengths(mean=prompt, kind="fixed"),
        output=TokenLengths(mean=output, kind="fixed"),
        figures=tuple(
            Figure(quantity=name, value=value, scope="system" if name.endswith("per_s") else None)
            for name, value in figures.items()
        ),
        source="test.json",
    )


@settings(max_examples=12, deadline=None)
@given(
    st.sampled_from([("qwen2.5-14b", "h100-sxm-80gb"), ("llama-3.1-8b", "l40s"), ("gpt-oss-20b", "h100-sxm-80gb")]),
    st.integers(1, 96), st.integers(16, 3000), st.integers(2, 300),
)  # fmt: skip
def test_no_run_as_it_is_predicted_is_below_its_own_floor(where, concurrency, prompt, output):
    asked = served_of(a_loop(*where, concurrency, prompt, output))
    answer = answer_of(asked)
    figures = {name: answer.of(name, "mean") for name in NAMES}
    for kept in (figures, {name: figures[name] for name in NAMES[:2]}):
        assert below_floor(served_of(a_loop(*where, concurrency, prompt, output, **kept))) is None


@settings(max_examples=25, deadline=None)
@given(st.integers(2, 200), st.integers(16, 3000), st.integers(16, 300), st.floats(0.2, 0.9))
def test_a_run_is_below_its_floor_where_memory_cannot_read_what_generates_at_once(
    sequences, prompt, output, share
):
    """By Little's law, whatever was kept in flight: as many tokens per second as so many sequences write at this pace."""
    where, in_flight = ("llama-3.1-8b", "h100-sxm-80gb"), 2 * sequences
    scenario = served_of(a_loop(*where, in_flight, prompt, output)).scenario
    _, least = least_times(scenario, sequences, prompt + output / 2, 2)
    for tpot, impossible in ((least * share, True), (least * 1.01, False)):
        rate = sequences / tpot * output / (output - 1)
        found = below_floor(
            served_of(a_loop(*where, in_flight, prompt, output, tpot_s=tpot, output_tokens_per_s=rate))
        )
        assert (found is not None) == impossible
        if found is not None:
            assert found.least_s == pytest.approx(least)
            assert found.sequences == pytest.approx(sequences)


def test_a_card_that_reads_64_sequences_at_864_gb_per_s_takes_no_less_than_27_ms():
    """By hand: 9.29 GiB of weights and 64 x 1,151 tokens of 192 KiB, 24.5 GB, are 28.3 ms; tokens' table is not read."""
    run = a_loop("qwen2.5-14b", "l40s", 64, 1023, 256, tpot_s=0.0221, output_tokens_per_s=64 / 0.0221)
    found = below_floor(served_of(run.replace(deployment=run.deployment.replace(weight_format="awq"))))
    assert found is not None
    assert found.sequences == pytest.approx(64, rel=0.01)
    assert found.least_s == pytest.approx(28.3e-3, rel=0.05)
    assert "below the 27 ms" in found.reason
    assert "1,151 tokens" in found.reason
