"""Known parameters are given back by served times, and the plan asks for what tells them apart."""

import itertools
import math
from functools import lru_cache
from typing import Any

import numpy as np
import pytest

from calibrate.evidence.benchmark_run import BenchmarkRun, Deployment, LoadPattern, RequestTimes, TokenLengths
from calibrate.fit.intervals import Scattered, median_variance, width_beyond_scatter
from calibrate.fit.observe.design import Design, candidates, planned_rows
from calibrate.fit.observe.model import ServedModel
from calibrate.fit.observe.parameters import off_of, parameters_of
from calibrate.fit.observe.rows import Row, rows_of, step_of
from calibrate.fit.observe.stack_fit import fit_rows
from calibrate.probe.endpoint.point import LoadPoint
from calibrate.run.serve.models import sample
from llm_perf.analysis.request import InferenceInputs, build_scenario
from llm_perf.analysis.run_facts import RunFacts
from llm_perf.config.host import HostConfig
from llm_perf.config.loading import get_host_config_by_name
from llm_perf.config.scenario import Scenario

HOST: HostConfig = get_host_config_by_name("dgx-a100")
SIZES = ("served-31m", "served-260m")


@lru_cache
def scenario_of(name: str, system: str) -> Scenario:
    tokens: dict[str, Any] = (
        {"max_num_batched_tokens": 512}
        if system == "transformers_serve"
        else {"max_num_seqs": 8, "weight_format": "q8_0"}
    )
    inputs = InferenceInputs(model=name, gpu="none", host=HOST.name, system=system, threads=1, **tokens)
    return build_scenario(inputs, RunFacts(model=sample(name), host=HOST))


def _rows(
    model: ServedModel, names: tuple[str, ...], true: dict[str, float], noise: float, seed: int
) -> list[Row]:
    """Times that a server with these values would have shown."""
    random = np.random.default_rng(seed)
    found = []
    for name in names:
        for point in candidates(8, 1024, 24):
            for row in planned_rows(name, point):
                seconds = model(row, true) * math.exp(noise * random.standard_normal())
                found.append(
                    Row(**{**{f: getattr(row, f) for f in Row.__dataclass_fields__}, "seconds": seconds})
                )
    return found


def _deviations(model: ServedModel, values: dict[str, float]) -> Any:
    """In units of half ranges, after one run of every candidate on each model."""
    done = dict.fromkeys(candidates(8, 1024, 24), 1.0)
    information = np.eye(len(model.parameters))
    for name in model.scenarios:
        design = Design(model, name, candidates(8, 1024, 24))
        design.best(values, done, 0.0)
        information = information + design.information(done) - np.eye(len(model.parameters))
    return np.sqrt(np.diag(np.linalg.inv(information)))


def _model(system: str, names: tuple[str, ...]) -> ServedModel:
    scenarios = {name: scenario_of(name, system) for name in names}
    rows = [row for name in names for point in candidates(8, 1024, 24) for row in planned_rows(name, point)]
    return ServedModel.of(scenarios, parameters_of(scenarios[names[-1]]), rows)


@pytest.mark.parametrize("system", ["transformers_serve", "llama_cpp"])
def test_known_parameters_come_back_within_their_uncertainty(system: str) -> None:
    """A synthetic truth a factor away from where the fit starts, seen with 3 % of noise on two sizes."""
    model = _model(system, SIZES)
    true = {}
    for number, one in enumerate(model.parameters):
        factor = 1.6 if number % 2 else 0.6
        true[one.name] = min(max(one.value * factor, one.low), one.high)
    rows = _rows(model, SIZES, true, 0.03, 7)
    found = fit_rows(model, rows)
    # Where a time is the larger of two, what the smaller is of is seen at one of the two places only.
    deviations = np.maximum(_deviations(model, found.values), _deviations(model, true))
    off = [
        abs(one.position(found.values[one.name]) - one.position(true[one.name])) / deviation
        for one, deviation in zip(model.parameters, deviations, strict=True)
    ]
    assert max(off) < 3.0, dict(zip((one.name for one in model.parameters), off, strict=True))
    # What was not seen: a third size, other lengths.
    third = _model(system, ("served-110m",))
    for row in (
        one
        for point in (LoadPoint(3, 200, 40), LoadPoint(8, 64, 16))
        for one in planned_rows("served-110m", point)
    ):
        assert third(row, found.values) == pytest.approx(third(row, true), rel=0.06)


def test_the_plan_prefers_what_tells_more_and_ends() -> None:
    model = _model("transformers_serve", ("served-31m",))
    values = {one.name: one.value for one in model.parameters}
    design = Design(model, "served-31m", candidates(8, 1024, 24))
    done: dict[LoadPoint, float] = {}
    spread = [sum(math.log(size) for size in design.deviations(values, done).values())]
    for _ in range(12):
        chosen = design.best(values, done, 60.0)
        assert chosen is not None
        assert 0 < chosen.seconds <= 60.0
        done[chosen.point] = done.get(chosen.point, 0.0) + 1
        spread.append(sum(math.log(size) for size in design.deviations(values, done).values()))
    assert all(later < earlier + 1e-9 for earlier, later in itertools.pairwise(spread))
    assert len({point.concurrency for point in done}) >= 3
    assert len({point.prompt for point in done}) >= 3
    assert design.best(values, done, 1e-4) is None  # no time is left for any
    # More is known than after as many seconds of the grid, in whatever order it is run.
    designed = np.linalg.slogdet(design.information(done))[1]
    spent = sum(count * design.seconds[point] for point, count in done.items())
    for seed in range(8):
        left, grid = spent, dict[LoadPoint, float]()
        for index in np.random.default_rng(seed).permutation(len(design.points)):
            point = design.points[index]
            if design.seconds[point] <= left:
                grid[point] = 1.0
                left -= design.seconds[point]
        assert designed > np.linalg.slogdet(design.information(grid))[1]


def test_candidates_keep_to_what_a_server_takes() -> None:
    points = candidates(6, 256, 24)
    assert {point.concurrency for point in points} == {1, 2, 4, 6}
    assert {point.prompt for point in points} == {32, 128}
    assert [point.prompt for point in candidates(1, 40, 24)] == [16]


def _run(batch: int, waited: float, step_s: float, held_up_s: float = 0.0) -> BenchmarkRun:
    requests = []
    for number in range(batch):
        first = 0.1 * (number + 1)
        times = tuple(first + step_s * index for index in range(40))
        requests.append(
            RequestTimes(
                arrival_s=held_up_s * number,
                prompt_tokens=64,
                output_tokens=40,
                first_token_s=first,
                finished_s=times[-1],
                token_s=times,
            )
        )
    return BenchmarkRun(
        tool="t", source="s", deployment=Deployment(model="m"), load=LoadPattern(kind="all_at_once", concurrency=batch),
        prompt=TokenLengths(mean=64), output=TokenLengths(mean=40), requests=tuple(requests),
        environment={"waited_share": waited},
    )  # fmt: skip


def test_rows_are_of_the_window_in_which_all_decode_and_of_undisturbed_repeats() -> None:
    runs = [_run(3, 0.1, 0.020), _run(3, 0.1, 0.021), _run(3, 0.9, 0.050)]
    step, first = rows_of(runs)
    assert (step.kind, step.batch, step.repeats) == ("step", 3, 2)
    assert step.seconds == pytest.approx(0.0205)  # the median, which the disturbed one is not of
    assert step.context == pytest.approx(64 + 20, abs=12)
    assert (first.kind, first.repeats) == ("first", 2)
    assert first.seconds == pytest.approx(0.2)
    assert first.arrivals is not None
    assert first.arrivals.prompt == (64, 64, 64)
    short = _run(2, 0.0, 0.02).requests
    assert short is not None
    assert step_of([one.replace(token_s=(one.token_s or ())[:3], output_tokens=3) for one in short]) is None


def test_requests_are_taken_as_they_came_where_nothing_held_the_client_up() -> None:
    """A delay between two sends would put them into two batches of the simulated server, and did not in the real one."""
    _, first = rows_of([_run(3, 0.1, 0.020, held_up_s=0.004), _run(3, 0.1, 0.020, held_up_s=1e-4)])
    assert first.arrivals is not None
    assert first.arrivals.arrival_s == pytest.approx((0.0, 1e-4, 2e-4))


def test_what_is_known_of_a_class_of_machines_does_not_bound_what_its_endpoint_shows() -> None:
    """A cap on products of one row that is of other machines: a step follows from the rates that are fitted."""
    scenario = scenario_of("served-31m", "llama_cpp")
    assert off_of(scenario) == {"cpu_one_row_flops_per_cycle": 0.0, "cpu_cached_row_flops_per_cycle": 0.0}
    assert off_of(scenario_of("served-31m", "transformers_serve")) == {}
    model = _model("llama_cpp", ("served-31m",))
    step = next(row for row in planned_rows("served-31m", LoadPoint(1, 32, 24)) if row.kind == "step")
    known = {one.name: one.value for one in model.parameters}
    rate = next(name for name in known if "flops_per_cycle" in name)
    faster = known | {rate: 4 * known[rate], "llama_cpp.cpu_core_gb_per_s": 1e3}
    slower = known | {rate: known[rate] / 4, "llama_cpp.cpu_core_gb_per_s": 1e3}
    assert model(step, slower) > 3 * model(step, faster)


@pytest.mark.parametrize("repeats", [1, 3, 12])
def test_an_interval_is_as_wide_as_the_model_is_off_and_a_measurement_scatters(repeats: int) -> None:
    """Loads whose model is off by 4 % and whose repeats scatter by 8 %, however often each was repeated."""
    random = np.random.default_rng(repeats)
    off, scatter = 0.04, 0.08
    drawn = []
    for _ in range(4000):
        values = off * random.standard_normal() + scatter * random.standard_normal(repeats)
        spread = float(np.std(values, ddof=1)) if repeats > 1 else None
        drawn.append(Scattered(float(np.median(values)), spread, repeats))
    if repeats == 1:  # another load of the session was repeated, which says how far times scatter
        drawn.append(Scattered(0.0, scatter, 5))
    width = width_beyond_scatter(drawn)
    assert width == pytest.approx(1.645 * math.hypot(off, scatter * math.sqrt(median_variance(9))), rel=0.12)
    fresh = off * random.standard_normal(4000) + np.median(
        scatter * random.standard_normal((4000, 9)), axis=1
    )
    assert 0.85 <= np.mean(np.abs(fresh) <= width) <= 0.95


@pytest.mark.parametrize("count", [1, 2, 3, 5, 21])
def test_the_variance_of_a_median(count: int) -> None:
    drawn = np.median(np.random.default_rng(0).standard_normal((20_000, count)), axis=1)
    assert median_variance(count) == pytest.approx(float(np.var(drawn)), rel=0.25)


def test_an_interval_of_nothing_is_none_and_of_a_model_that_is_right_is_what_scatters() -> None:
    assert width_beyond_scatter([]) is None
    exact = [Scattered(0.0, 0.03, 3)] * 8
    assert width_beyond_scatter(exact) == pytest.approx(
        1.645 * 0.03 * math.sqrt(median_variance(9)), rel=1e-3
    )
