"""The closed form of the steady state beside the simulation that it stands for, and its own laws."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from llm_perf.analysis.inference import predict_inference
from llm_perf.analysis.request import InferenceInputs, build_scenario
from llm_perf.config.scenario import Scenario
from llm_perf.errors import SpecError
from llm_perf.requests.simulate import simulate
from llm_perf.requests.steady import SteadyState
from llm_perf.requests.step_times import Table, table_counts
from llm_perf.requests.workload import Requests

STACKS = ("vllm@0.19", "vllm@0.6", "sglang@0.5", "tensorrt_llm@1.0")
LENGTHS = ((512, 128), (2000, 200), (200, 800))


def scenario(system: str, **more: Any) -> Scenario:
    asked = {"model": "llama-3.1-8b", "gpu": "h100-sxm", "system": system, **more}
    return build_scenario(InferenceInputs(**asked))


def around(mean: int, count: int, rng: np.random.Generator) -> Any:
    return np.rint(mean * rng.uniform(0.8, 1.2, count)).astype(int)


def means(requests: Requests, asked: Scenario, skipped: int) -> tuple[float, float]:
    """Mean TTFT and TPOT without the first requests."""
    found = simulate(asked, requests)
    ttft = (found.first_token_s - found.arrival_s)[skipped:].mean()
    gaps = found.requests.output_tokens - 1
    tpot = ((found.finished_s - found.first_token_s) / gaps)[skipped:].mean()
    return float(ttft), float(tpot)


@pytest.mark.parametrize("system", STACKS)
@pytest.mark.parametrize("lengths", LENGTHS)
@pytest.mark.parametrize("share", [0.05, 0.3, 0.6])
def test_under_a_rate_it_is_the_simulation_s_mean(
    system: str, lengths: tuple[int, int], share: float
) -> None:
    asked, rng = scenario(system), np.random.default_rng(0)
    prompt, output = lengths
    state = SteadyState(asked, 4000)
    rate = share * float(state.at(prompt, output, rate=1e9).requests_per_s)
    arrival = np.cumsum(rng.exponential(1 / rate, 1500))
    requests = Requests.of(arrival, around(prompt, 1500, rng), around(output, 1500, rng))
    ttft, tpot = means(requests, asked, 300)
    found = state.at(prompt, output, rate=rate)
    assert not found.saturated
    assert float(found.tpot_s) == pytest.approx(tpot, rel=0.07)
    assert float(found.ttft_s) == pytest.approx(ttft, rel=0.1)


@pytest.mark.parametrize("share", [0.7, 0.85])
def test_host_bound_prompts_that_come_while_others_are_read_are_read_next(share: float) -> None:
    """SGLang's prefills take what its host takes to launch them, long enough for the next prompts to come meanwhile."""
    asked, rng = scenario("sglang@0.5"), np.random.default_rng(0)
    state = SteadyState(asked, 4000)
    rate = share * float(state.at(800, 200, rate=1e9).requests_per_s)
    arrival = np.cumsum(rng.exponential(1 / rate, 6000))
    requests = Requests.of(arrival, around(800, 6000, rng), around(200, 6000, rng))
    ttft, tpot = means(requests, asked, 2000)
    found = state.at(800, 200, rate=rate)
    assert float(found.tpot_s) == pytest.approx(tpot, rel=0.04)
    assert float(found.ttft_s) == pytest.approx(ttft, rel=0.04)


@pytest.mark.parametrize(("lengths", "concurrency"), [((512, 128), 16), ((500, 500), 64), ((2000, 200), 16)])
def test_the_steady_state_launches_prompts_beside_decode_steps_as_the_simulation_does(
    lengths: tuple[int, int], concurrency: int
) -> None:
    """Of 94 layers with experts the host launches a prompt for longer than three decode steps take."""
    asked = scenario("sglang@0.5", model="qwen3-235b-a22b", gpu="h200", num_gpus=8, tp_size=8)
    rng, count = np.random.default_rng(0), 20 * concurrency
    prompt, output = (around(one, count, rng) for one in lengths)
    requests = Requests.of(np.zeros(count), prompt, output, concurrency=concurrency)
    ttft, tpot = means(requests, asked, 3 * concurrency)
    found = SteadyState(asked, 4000).at(*lengths, concurrency=concurrency)
    assert float(found.tpot_s) == pytest.approx(tpot, rel=0.025)
    assert float(found.ttft_s) == pytest.approx(ttft, rel=0.08)


def test_an_engine_whose_arrivals_fill_it_decodes_as_one_that_is_full() -> None:
    """A request that waits for a slot is read where another ends, so that a token never takes longer than then."""
    state = SteadyState(scenario("sglang@0.5"), 4000)
    full = state.at(800, 200, rate=1e9)
    for share in (0.94, 0.97, 0.999, 1.5):
        found = state.at(800, 200, rate=share * float(full.requests_per_s))
        assert float(found.tpot_s) == pytest.approx(float(full.tpot_s), rel=1e-6)
        assert bool(found.saturated) == (share > 1)


@pytest.mark.parametrize("system", STACKS)
@pytest.mark.parametrize("lengths", LENGTHS)
@pytest.mark.parametrize("concurrency", [4, 16, 64])
def test_with_so_many_in_flight_it_is_the_simulation_s_mean(
    system: str, lengths: tuple[int, int], concurrency: int
) -> None:
    asked, rng = scenario(system), np.random.default_rng(0)
    count = 20 * concurrency
    requests = Requests.of(
        np.zeros(count),
        around(lengths[0], count, rng),
        around(lengths[1], count, rng),
        concurrency=concurrency,
    )
    ttft, tpot = means(requests, asked, 3 * concurrency)
    found = SteadyState(asked, 4000).at(*lengths, concurrency=concurrency)
    assert float(found.tpot_s) == pytest.approx(tpot, rel=0.05)
    assert float(found.ttft_s) == pytest.approx(ttft, rel=0.25)


@pytest.mark.parametrize("system", STACKS)
@pytest.mark.parametrize("model", ["llama-3.1-8b", "gpt-oss-20b"])
def test_one_at_a_time_is_infer(system: str, model: str) -> None:
    asked = scenario(system, model=model, prompt_len=700, gen_len=300)
    one = predict_inference(asked)
    assert one.tpot_s is not None
    state = SteadyState(asked, 4000)
    for found in (state.at(700, 300, concurrency=1), state.at(700, 300, rate=1e-9)):
        assert float(found.ttft_s) == pytest.approx(one.ttft_s, rel=1e-6)
        assert float(found.tpot_s) == pytest.approx(one.tpot_s, rel=5e-4)


@pytest.mark.parametrize("system", STACKS)
@pytest.mark.parametrize("lengths", [*LENGTHS, (512, 1), (512, 2)])
def test_nothing_is_served_beyond_the_roof(system: str, lengths: tuple[int, int]) -> None:
    asked, rng = scenario(system), np.random.default_rng(1)
    steady = SteadyState(asked, 4000).at(*lengths, rate=1e9)
    roof = float(steady.roof_requests_per_s)
    assert float(steady.requests_per_s) <= roof < 500
    for spread in (True, False):
        prompt, output = (around(one, 3000, rng) if spread else one for one in lengths)
        found = simulate(asked, Requests.of(np.zeros(3000), prompt, output))
        assert 3000 / found.finished_s.max() <= roof


def test_arrays_are_as_many_numbers() -> None:
    state, rng = SteadyState(scenario("vllm@0.19"), 8000), np.random.default_rng(2)
    prompt, output = rng.integers(1, 4000, 200), rng.integers(1, 2000, 200)
    rate, concurrency = rng.uniform(0.01, 60, 200), rng.integers(1, 2000, 200)
    for asked in ({"rate": rate}, {"concurrency": concurrency}):
        together = state.at(prompt, output, **asked)
        for index in (0, 17, 199):
            alone = state.at(
                prompt[index], output[index], **{name: one[index] for name, one in asked.items()}
            )
            for name in ("ttft_s", "tpot_s", "requests_per_s", "batch", "saturated"):
                np.testing.assert_allclose(getattr(alone, name), getattr(together, name)[index], rtol=1e-9)
        # Little's law, where requests end as fast as they come.
        inside = together.requests_per_s * together.e2e_s
        expected = concurrency if "concurrency" in asked else inside
        np.testing.assert_allclose(inside, expected, rtol=1e-3)
        assert (together.requests_per_s <= together.roof_requests_per_s * (1 + 1e-9)).all()


def test_more_arrivals_wait_longer() -> None:
    found = SteadyState(scenario("sglang@0.5"), 4000).at(800, 200, rate=np.linspace(0.1, 100, 60))
    assert (np.diff(found.tpot_s) >= -1e-6).all()
    assert found.saturated[-1]
    assert np.isinf(found.ttft_s[-1])
    assert (np.diff(found.requests_per_s) >= -1e-9).all()


def test_a_rate_or_a_concurrency() -> None:
    with pytest.raises(SpecError, match="give one of the two"):
        SteadyState(scenario("vllm@0.19"), 100).at(10, 10)
    with pytest.raises(SpecError, match="pp_size 2: the steady state"):
        SteadyState(scenario("vllm@0.19", pp_size=2), 100)
    with pytest.raises(SpecError, match="no steady state"):
        SteadyState(scenario("transformers"), 100)


@pytest.mark.parametrize("dense", [4, 64])
def test_a_table_has_one_value_for_a_count_however_it_is_asked(dense: int) -> None:
    """By itself, among a few that are searched, and among many for which the table is written out."""
    counts = table_counts(200, dense)
    few, many = Table(counts, counts**1.5, dense), Table(counts, counts**1.5, dense)
    asked = np.array([0.0, 0.5, 1.0, 3.25, 63.0, 64.5, 150.7, 199.0, 200.0])
    written_out = many.at(np.tile(asked, 100))[: len(asked)]
    assert few.at(asked[:2]).tolist() == pytest.approx(written_out[:2].tolist())
    assert [float(few.at(np.array([one]))[0]) for one in asked] == pytest.approx(written_out.tolist())
    whole = [one for one in asked if one == int(one)]
    assert [few(one) for one in whole] == pytest.approx(
        [written_out[list(asked).index(one)] for one in whole]
    )
