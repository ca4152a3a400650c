"""The record of a measured point: what it keeps, and what it refuses."""

import json

import pytest

from calibrate.evidence.benchmark_run import (
    BenchmarkRun,
    Figure,
    LoadPattern,
    RequestTimes,
    read_runs,
    runs_text,
)
from llm_perf.errors import SpecError

RUN = BenchmarkRun(
    tool="vllm-bench-serve",
    source="a.json",
    load=LoadPattern(kind="closed_loop", concurrency=8),
    figures=(
        Figure(quantity="ttft_s", value=0.1, stated="mean_ttft_ms 100"),
        Figure(quantity="output_tokens_per_s", value=10.0, scope="per_gpu"),
        Figure(quantity="output_tokens_per_s", value=20.0, scope="system"),
    ),
    requests=(RequestTimes(arrival_s=0.0, token_s=(0.1, 0.2)),),
    environment={"gpu": {"clocks": [1, 2]}},
)


def test_runs_come_back_as_they_were_written(tmp_path):
    file = tmp_path / "runs.jsonl"
    file.write_text(runs_text([RUN, RUN.replace(source="b.json")]))
    assert read_runs(file) == [RUN, RUN.replace(source="b.json")]
    file.write_text(json.dumps(RUN.as_dict(), indent=2))
    assert read_runs(file) == [RUN]


def test_every_key_stands_and_what_is_not_known_is_said():
    found = RUN.as_dict()
    assert found["deployment"]["gpu"] is None
    assert "deployment.gpu" in found["unknown"]
    assert "load.kind" not in found["unknown"]


def test_the_figure_of_a_whole_deployment_comes_before_one_gpus():
    found = RUN.figure("output_tokens_per_s")
    assert found is not None
    assert found.value == 20.0
    assert RUN.figure("e2e_s") is None


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "holds no benchmark run"),
        ("{}", "schema_version is missing"),
        ("[1]", "is no benchmark run"),
        (runs_text([RUN])[:-40], "may have been cut off"),
        (runs_text([RUN]).replace('"schema_version": 1', '"schema_version": 9'), "schema_version is 9"),
        (runs_text([RUN]).replace("10.0", "NaN"), "is no JSON"),
        (runs_text([RUN]).replace("10.0", "-10.0"), "value must be greater"),
        (runs_text([RUN]).replace('"tool"', '"tools"'), "'tool' is required"),
    ],
)
def test_what_is_no_run_is_one_line(tmp_path, text, said):
    file = tmp_path / "runs.jsonl"
    file.write_text(text)
    with pytest.raises(SpecError) as error:
        read_runs(file)
    assert said in str(error.value)
    assert "\n" not in str(error.value)
    assert str(file) in str(error.value)
