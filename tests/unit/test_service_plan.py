"""A plan over requests: against brute force, the question that it was made for, targets, and the start command."""

from __future__ import annotations

import math

import pytest

from llm_perf.analysis.request import InferenceInputs
from llm_perf.analysis.simulation import ServiceInputs, simulation_of
from llm_perf.errors import SpecError
from llm_perf.report.service_json import service_object
from llm_perf.report.start_command import start_command
from llm_perf.search.plan import PlanQuestion, plan
from llm_perf.search.service import plan_service
from llm_perf.search.targets import Target, parse_targets

QUESTION = PlanQuestion(
    model="llama-3.1-70b", weight_format="fp8", kv_format="fp8", prompt_len=1024, gen_len=1024,
    gpus=("h100-sxm-80gb",), target="tpot<50ms, ttft<1s",
)  # fmt: skip


def test_a_measured_service_takes_two_gpus_and_not_four():
    """vLLM meets both on 2 H100 with 64 in flight: TTFT 0.415 s, TPOT 28.8 ms."""
    (best,) = plan_service(QUESTION.replace(concurrency=64)).best
    assert best.num_gpus == 2
    assert best.inputs.tp_size == 2
    assert best.simulation.summary.tpot_s.mean == pytest.approx(0.0288, rel=0.1)
    (batch,) = plan(QUESTION).best
    assert batch.num_gpus == 2


RATE = PlanQuestion(
    model="llama-3.1-8b", gpus=("a100-sxm-80gb", "l4-24gb"), prompt_len=512, gen_len=128, rate=12.0, max_gpus=8,
    target="p95 ttft<500ms, p95 tpot<60ms", objective="gpus",
)  # fmt: skip


def test_nothing_smaller_serves_the_rate():
    """Brute force over ranks and engines: each simulated by itself, none with fewer GPUs meets the targets."""
    answer = plan_service(RATE, top=2)
    least: dict[str, float] = {}
    for gpu in RATE.gpus:
        for tp in (1, 2, 4, 8):
            for engines in range(1, RATE.max_gpus // tp + 1):
                deployment = InferenceInputs(model=RATE.model, gpu=gpu, system="vllm", tp_size=tp)
                traffic = ServiceInputs(
                    rate=12.0 / engines, num_requests=600, prompt_len=512, gen_len=128, seed=0
                )
                if tp * engines >= least.get(gpu, math.inf):
                    break
                found = simulation_of(deployment, traffic)
                if found.summary.ttft_s.p95 < 0.5 and found.summary.tpot_s.p95 < 0.06:
                    keeps_up = found.capacity is not None and found.capacity.keeps_up
                    if keeps_up:
                        least[gpu] = tp * engines
    assert {one.inputs.gpu.lower(): one.num_gpus for one in answer.best} == {
        "a100-sxm-80gb": least["a100-sxm-80gb"],
        "l4-24gb": least["l4-24gb"],
    }


def test_a_higher_rate_takes_no_fewer_gpus():
    asked = RATE.replace(gpus=("a100-sxm-80gb",), max_gpus=16)
    gpus = [plan_service(asked.replace(rate=rate)).best[0].num_gpus for rate in (2.0, 10.0, 40.0)]
    assert gpus == sorted(gpus)
    assert gpus[-1] > gpus[0]


def test_what_meets_nothing_names_the_nearest():
    answer = plan_service(RATE.replace(target="p95 tpot<1ms"))
    assert answer.best == ()
    assert answer.nearest is not None
    assert not answer.nearest.meets


def test_a_file_is_planned_for_as_it_comes(tmp_path):
    file = tmp_path / "r.csv"
    rows = [f"{index / 4},{100 + index},{50}" for index in range(200)]
    file.write_text("arrival_s,prompt_tokens,output_tokens\n" + "\n".join(rows))
    answer = plan_service(RATE.replace(rate=None, requests=str(file), gpus=("a100-sxm-80gb",)))
    assert answer.best[0].num_gpus == 1
    assert answer.question.prompt_len == 200
    assert answer.best[0].simulation.summary.completed == 200


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"concurrency": 4}, "exclude each other"),
        ({"batching": "static"}, "--batching static"),
        ({"system": "flexgen"}, "no stack"),
        ({"requests": "nowhere.csv"}, "nowhere.csv"),
    ],
)
def test_what_does_not_go_together_is_refused(changes, said):
    with pytest.raises(SpecError, match=said):
        plan_service(RATE.replace(**changes))


def test_the_json_replays_and_carries_the_start_command():
    found = service_object(plan_service(RATE.replace(gpus=("a100-sxm-80gb",))))
    best = found["best"][0]
    assert best["start_command"].startswith("vllm serve meta-llama/Llama-3.1-8B")
    assert best["share_of_targets"]["p95 tpot"] <= 1
    assert set(best["simulated"]["ttft_s"]) == {"mean", "p50", "p90", "p95", "p99"}
    assert best["interval"] is None or best["interval"]["ttft_s"]["p95"][0] > 0


# -- targets ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "target"),
    [
        ("p95 ttft<1s", Target("ttft", 1.0, True, "p95")),
        ("P99 TPOT < 50 ms", Target("tpot", 0.05, True, "p99")),
        ("median latency<=3s", Target("latency", 3.0, True, "p50")),
        ("mean ttft<0.5", Target("ttft", 0.5, True, "mean")),
    ],
)
def test_targets_name_percentiles(text, target):
    assert parse_targets(text) == (target,)


@pytest.mark.parametrize(
    "text", ["tpot<50", "ttft<500", "p95 cost<1", "p93 ttft<1s", "p95 ttft<1s, p95 ttft<2s"]
)
def test_what_is_ambiguous_is_refused(text):
    with pytest.raises(SpecError, match="--target"):
        parse_targets(text)


def test_one_quantity_may_have_two_figures():
    assert len(parse_targets("ttft<500ms, p95 ttft<1s")) == 2


# -- start commands -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("system", "words"),
    [
        (
            "vllm",
            "vllm serve meta-llama/Llama-3.1-70B --tensor-parallel-size 4 --max-num-seqs 64 --quantization fp8",
        ),
        (
            "sglang",
            "python -m sglang.launch_server --model-path meta-llama/Llama-3.1-70B --tp-size 4 --max-running-requests 64",
        ),
        (
            "tensorrt_llm",
            "# weights in fp8 trtllm-serve meta-llama/Llama-3.1-70B --tp_size 4 --max_batch_size 64",
        ),
    ],
)
def test_engines_are_started_in_their_own_words(system, words):
    inputs = InferenceInputs(
        model="llama-3.1-70b",
        gpu="h100-sxm-80gb",
        system=system,
        tp_size=4,
        max_num_seqs=64,
        weight_format="fp8",
    )
    found = start_command(inputs)
    assert found is not None
    plain = " ".join(
        found.replace("\\\n", " ").replace(": give a checkpoint that has them so\n", " ").split()
    )
    assert plain.startswith(words)
    assert all(len(line) < 80 for line in found.splitlines())


def test_an_engine_that_nobody_starts_has_no_command():
    assert start_command(InferenceInputs(model="llama-3.1-8b", gpu="l4", system="gpt_fast")) is None
