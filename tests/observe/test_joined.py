"""One fit of two sources: sessions of an endpoint, and results of benchmark tools of the same engine on the same machine."""

import json
import math
from pathlib import Path

import numpy as np
import pytest

from calibrate.evidence.benchmark_run import (
    BenchmarkRun,
    Counts,
    Deployment,
    Engine,
    Figure,
    LoadPattern,
    RequestTimes,
    TokenLengths,
    runs_text,
)
from calibrate.fit.observe.results import check_same, results_of_session, rows_of_results
from calibrate.fit.observe.stack_fit import fit_sessions
from calibrate.fit.observe.store import RUNS, Store, Stored, stored
from calibrate.fit.served.answers import answer_of
from calibrate.fit.served.deployment import Served, served_of, with_constants
from calibrate.fit.served.fit import fit_stack
from llm_perf.analysis.request import InferenceInputs, build_scenario
from llm_perf.cli.main import run
from llm_perf.config.profiles import load_profile
from llm_perf.config.scenario import Scenario
from llm_perf.errors import SpecError
from llm_perf.requests.simulate import simulate
from llm_perf.requests.workload import Requests

TRUTH = {"step_ms": 1.6, "sequence_us": 9.0}
ON_GPU = InferenceInputs(model="llama-3.1-8b", gpu="h100-sxm", system="vllm@0.12")
ON_CPU = InferenceInputs(
    model="qwen3-0.6b", gpu="none", host="dgx-a100", system="llama_cpp", threads=1, max_num_seqs=8, weight_format="q8_0"
)  # fmt: skip
CPU_TRUTH = {
    "cpu_layer_us": 80.0, "sequence_us": 300.0, "cpu_one_row_flops_per_cycle": 0.0, "cpu_cached_row_flops_per_cycle": 0.0,
}  # fmt: skip
POINTS = [(size, prompt, 16) for size in (1, 2, 4, 8) for prompt in (32, 128, 512) if size * prompt <= 2048]
"""Bursts whose prompts are one batch, so that all of their tokens come at even distances."""


def observed(folder: Path, inputs: InferenceInputs, truth: dict[str, float], noise: float = 0.01) -> Stored:
    """A session as it would have been with a server that has these constants."""
    scenario = build_scenario(inputs.replace(batch_size=1, prompt_len=1, gen_len=1))
    store = Store(folder)
    store.begin({"deployment": inputs.model_dump(mode="json")}, scenario)
    true = scenario.replace(constants=tuple((dict(scenario.constants) | truth).items()))
    generator = np.random.default_rng(3)
    for point in POINTS * 2:
        store.add(_burst(inputs, true, point, math.exp(noise * generator.standard_normal())))
    return stored(folder)


def _burst(
    inputs: InferenceInputs, true: Scenario, point: tuple[int, int, int], slower: float
) -> BenchmarkRun:
    count, prompt, output = point
    at = np.arange(count) * 1e-5
    outcome = simulate(true, Requests.of(at, np.full(count, prompt), np.full(count, output)))
    first, last = (
        at + slower * (outcome.first_token_s - at),
        at + slower * (outcome.finished_s - at),
    )
    times = tuple(
        RequestTimes(
            arrival_s=float(at[n]), prompt_tokens=prompt, output_tokens=output, first_token_s=float(first[n]),
            finished_s=float(last[n]), token_s=tuple(np.linspace(first[n], last[n], output).tolist()),
        )
        for n in range(count)
    )  # fmt: skip
    return BenchmarkRun(
        tool="llm-perf-observe", source="stub", engine=Engine(name=str(inputs.system)),
        deployment=Deployment(model=true.model.name, gpu=inputs.gpu), load=LoadPattern(kind="all_at_once", concurrency=count),
        prompt=TokenLengths(mean=prompt, kind="fixed"), output=TokenLengths(mean=output, kind="fixed"),
        figures=(
            Figure(quantity="tpot_s", value=float(np.mean((last - first) / (output - 1)))),
            Figure(quantity="ttft_s", value=float(np.mean(first - at))),
        ),
        counts=Counts(completed=count, failed=0), requests=times, environment={"waited_share": 0.0, "planned": list(point)},
    )  # fmt: skip


def a_result(inputs: InferenceInputs, truth: dict[str, float], batch: int, prompt: int) -> BenchmarkRun:
    """A static batch as a tool would have measured it there."""
    system, _, version = str(inputs.system).partition("@")
    gpu = {"gpu": inputs.gpu} | (
        {"machine": inputs.host, "threads": 1} if inputs.gpu == "none" else {"num_gpus": 1}
    )
    plain = BenchmarkRun(
        tool="test", source="result.json", engine=Engine(name=system, version=version or None),
        deployment=Deployment(model=inputs.model, weight_format=inputs.weight_format, **gpu),
        load=LoadPattern(kind="batch", concurrency=batch), prompt=TokenLengths(mean=prompt, kind="fixed"),
        output=TokenLengths(mean=33, kind="fixed"),
    )  # fmt: skip
    answer = answer_of(served_of(plain), truth)
    figures = [Figure(quantity=name, value=answer.of(name, "mean")) for name in ("step_s", "prefill_s")]
    return plain.replace(figures=tuple(figures))


def test_a_session_counts_as_runs_of_its_stack_and_gives_its_constants_back(tmp_path: Path) -> None:
    session = observed(tmp_path / "mine", ON_GPU, TRUTH)
    loads = results_of_session(session)
    assert len(loads) == len(POINTS)  # repeats of a load are one run
    results = [served_of(a_result(ON_GPU, TRUTH, batch, 1024)) for batch in (32, 128)]
    both = fit_stack([*results, *loads])
    alone = fit_stack(loads)
    for name, true in TRUTH.items():
        low, high = both.interval(name)
        assert low / 1.15 <= true <= high * 1.15, name
        assert both.spread[name] <= alone.spread[name] * 1.02
    assert both.spread["sequence_us"] < 0.9 * alone.spread["sequence_us"]  # what bursts of eight hardly show


def test_a_result_beside_a_session_on_a_cpu_is_a_row_like_its_own(tmp_path: Path) -> None:
    session = observed(tmp_path / "mine", ON_CPU, CPU_TRUTH)
    results = [served_of(a_result(ON_CPU, CPU_TRUTH, 1, 256))]
    rows = rows_of_results(results)
    assert [row.kind for row in rows] == ["step", "first"]
    assert rows[0].seconds == results[0].run.figure("step_s").value  # type: ignore[union-attr]
    assert rows[0].result is not None
    true = with_constants(results[0], CPU_TRUTH)
    assert rows[0].result.seconds_of(true) == pytest.approx(rows[0].seconds)
    plain, joined = fit_sessions([session]), fit_sessions([session], results)
    assert len(joined.rows) == len(plain.rows) + 2
    assert {row.source for row in joined.rows} == {"", "result.json"}
    assert len({row.load for row in joined.rows}) == len({row.load for row in plain.rows}) + 1
    of_result = [
        off for off, row in zip(joined.fitted.log_ratios, joined.rows, strict=True) if row.result is not None
    ]
    assert max(map(abs, of_result)) < 0.05


def test_rates_are_rows_of_the_time_that_they_are_of() -> None:
    run_ = a_result(ON_GPU, TRUTH, 4, 512)
    step = run_.figure("step_s")
    assert step is not None
    rate = run_.replace(
        figures=(Figure(quantity="decode_tokens_per_s", value=4 / step.value, scope="system"),)
    )
    (row,) = rows_of_results([served_of(rate)])
    assert row.seconds == pytest.approx(step.value / 4)
    assert row.result is not None
    assert row.result.seconds_of(with_constants(served_of(rate), TRUTH)) == pytest.approx(row.seconds)


def test_results_of_another_stack_or_machine_are_refused() -> None:
    def asked(**changes: str) -> Served:
        return served_of(a_result(ON_GPU.replace(**changes), {}, 4, 128))

    scenario = build_scenario(ON_GPU.replace(batch_size=1, prompt_len=1, gen_len=1))
    check_same(scenario, [asked()])
    with pytest.raises(SpecError, match="ran on A100"):
        check_same(scenario, [asked(gpu="a100-sxm-80gb")])
    with pytest.raises(SpecError, match="is of sglang, the sessions are of vllm: a fit is of one stack"):
        check_same(scenario, [asked(system="sglang@0.5")])


@pytest.mark.parametrize(("inputs", "truth"), [(ON_GPU, TRUTH), (ON_CPU, CPU_TRUTH)], ids=["gpu", "cpu"])
def test_the_command_fits_folders_and_files_together(
    inputs: InferenceInputs, truth: dict[str, float], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    observed(tmp_path / "mine", inputs, truth)
    file, target = tmp_path / "result.jsonl", tmp_path / "both.yaml"
    file.write_text(
        runs_text([a_result(inputs, truth, batch, 256) for batch in ((1,) if inputs.gpu == "none" else (4, 32))])
    )  # fmt: skip
    assert run(["calibrate", "fit", str(tmp_path / "mine"), str(file), "--out", str(target), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["profile"] == str(target)
    constants = next(iter(load_profile(str(target)).system_constants.values()))
    assert constants
    if inputs.gpu != "none":
        assert found["runs"] == len(POINTS) + 2
        assert constants["step_ms"] == pytest.approx(TRUTH["step_ms"], rel=0.25)
    else:
        assert len(found["fit"]["rows"]) == 2 * len(POINTS) + 2
    other = tmp_path / "other.jsonl"
    elsewhere = (
        inputs.replace(gpu="a100-sxm-80gb") if inputs.gpu != "none" else ON_GPU.replace(system="vllm@0.12")
    )
    other.write_text(runs_text([a_result(elsewhere, {}, 4, 128)]))
    before = target.read_bytes()
    assert run(["calibrate", "fit", str(tmp_path / "mine"), str(other), "--out", str(target)]) == 2
    said = capsys.readouterr().err
    assert len(said.strip().splitlines()) == 1
    assert "a fit is of one" in said
    assert target.read_bytes() == before


def test_a_session_knows_the_system_that_its_server_said(tmp_path: Path) -> None:
    """Where --system is left out, the folder still says which engine it is of, and in which version."""
    scenario = build_scenario(ON_GPU.replace(batch_size=1, prompt_len=1, gen_len=1))
    store = Store(tmp_path / "mine")
    store.begin({"deployment": ON_GPU.replace(system=None).model_dump(mode="json")}, scenario)
    (tmp_path / "mine" / RUNS).write_text("")
    found = stored(tmp_path / "mine").scenario
    assert (found.system, found.system_version) == ("vllm", "0.12")
