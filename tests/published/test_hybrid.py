"""Published runs on a GPU and a CPU that computes: how many are answered, how far off, and questions that people asked."""

from __future__ import annotations

import csv
import gzip
import math
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from calibrate.evidence.hybrid_questions import FACTOR, HybridQuestion, load_questions
from calibrate.evidence.hybrid_rows import kind_of, load_cases, load_rows, log_ratio
from calibrate.evidence.stated_hybrid import hybrid_cells, hybrid_run
from llm_perf.analysis.division import fewer_threads
from llm_perf.analysis.inference import InferenceResult, predict_inference
from llm_perf.analysis.request import InferenceInputs, build_scenario
from llm_perf.errors import LLMPerfError
from llm_perf.search.policy import PolicyQuestion, search_policy

LEFT_OUT = Path(__file__).parents[2] / "calibrate" / "measurements" / "hybrid" / "left_out.csv.gz"
PAGE = Path(__file__).parents[2] / "docs" / "systems" / "hybrid.md"


@pytest.fixture(scope="module")
def ratios() -> list[tuple[Any, float]]:
    return [(case, log_ratio(case)) for case in load_cases() if case.kind != "moved"]


def gm(values: list[float]) -> float:
    return math.exp(float(np.mean(np.abs(values))))


def test_nine_of_ten_rows_are_answered_and_the_others_say_why() -> None:
    reasons: Counter[str] = Counter()
    for row in load_rows():
        try:
            hybrid_run(hybrid_cells(row))
        except LLMPerfError as error:
            reasons[str(error).partition(":")[0].split()[0]] += 1
    assert sum(reasons.values()) <= 0.1 * len(load_rows())
    assert set(reasons) <= {"system", "host", "model", "gguf_type", "experts_on_cpu", "unknown"}


def test_rates_are_as_near_as_the_page_says(ratios: list[tuple[Any, float]]) -> None:
    assert gm([value for case, value in ratios if case.phase == "decode"]) < 1.25
    assert gm([value for case, value in ratios if case.phase == "prefill"]) < 1.45
    for kind, limit in (("cpu", 1.25), ("cpu and gpu", 1.3), ("shared memory", 1.25)):
        assert gm([v for case, v in ratios if case.phase == "decode" and case.kind == kind]) < limit, kind


def test_refits_without_a_host_are_of_todays_constants(ratios: list[tuple[Any, float]]) -> None:
    """Else `bench/hybrid_figures.py` must run again."""
    lines = list(csv.DictReader(gzip.decompress(LEFT_OUT.read_bytes()).decode().splitlines()))
    assert len(lines) == len(ratios)
    for line, (case, value) in zip(lines, ratios, strict=True):
        assert (line["row_id"], line["phase"]) == (case.row_id, case.phase)
        assert float(line["shipped"]) == pytest.approx(value, abs=2e-3)
    for phase, limit in (("decode", 1.35), ("prefill", 1.50)):
        assert gm([float(line["left_out"]) for line in lines if line["phase"] == phase]) < limit


def test_intervals_hold_what_was_measured(ratios: list[tuple[Any, float]]) -> None:
    lines = list(csv.DictReader(gzip.decompress(LEFT_OUT.read_bytes()).decode().splitlines()))
    held: Counter[tuple[str, bool]] = Counter()
    for line, (case, _) in zip(lines, ratios, strict=True):
        if case.kind not in ("cpu", "cpu and gpu"):
            continue
        interval = predict_inference(case.run.scenario).interval
        assert interval is not None
        ends = interval.prefill_s if case.phase == "prefill" else interval.decode_s
        assert ends is not None
        width = math.log(ends[1] / ends[0]) / 2
        held[case.phase, abs(float(line["left_out"])) <= width] += 1
    for phase in ("prefill", "decode"):
        share = held[phase, True] / (held[phase, True] + held[phase, False])
        assert 0.85 <= share <= 0.95


def test_kinds_are_told_apart() -> None:
    kinds = Counter(kind_of(case.run.scenario) for case in load_cases())
    assert set(kinds) == {"cpu", "cpu and gpu", "shared memory", "moved", "gpu"} - ({"gpu"} - set(kinds))
    assert min(kinds[kind] for kind in ("cpu", "cpu and gpu", "shared memory")) > 100


# -- questions of 2025 and 2026, as a person would ask them -----------------------------------------------------

QUESTIONS = load_questions()


def asked(inputs: dict[str, Any]) -> InferenceResult:
    usual = {"system": "llama_cpp", "prompt_len": 512, "gen_len": 128} | inputs
    return predict_inference(build_scenario(InferenceInputs(**usual)))


@pytest.mark.parametrize("question", QUESTIONS, ids=lambda question: question.question)
def test_questions_that_people_asked(question: HybridQuestion) -> None:
    found = list(question.rates())
    assert found
    for phase, answered, measured in found:
        assert (1 / FACTOR < answered / measured < FACTOR) == (question.missed is None), phase


def test_the_page_shows_what_is_answered_today() -> None:
    """Else `bench/hybrid_questions.py` must run again."""
    shown = [
        line.split(" | ")
        for line in PAGE.read_text("utf-8").splitlines()
        if line.count(" | ") == 4 and "token/s" not in line
    ]
    rows = {(cells[0].removeprefix("| "), cells[1]): cells for cells in shown}
    for question in QUESTIONS:
        for phase, answered, measured in question.rates():
            cells = rows[question.question, phase]
            assert float(cells[2]) == measured
            assert float(cells[3]) == pytest.approx(answered, rel=0.01)


def test_one_bandwidth_gives_all_splits_of_a_dense_model() -> None:
    """Qwen2.5-Coder-14B with -ngl 0 to all of 48 layers on a 16 GB card; the host is not named, its bandwidth from -ngl 0."""
    measured = {0: 2.89, 8: 3.58, 16: 4.24, 24: 5.61, 32: 7.26, 40: 12.5, "all": 43.2}
    same = {
        "model": "qwen2.5-coder-14b",
        "gpu": "rtx-5060-ti-16gb",
        "host": "desktop-gen4",
        "weight_format": "q4_k_m",
    }
    for layers, rate in measured.items():
        result = asked({**same, "host_bandwidth": 26.5, "n_gpu_layers": layers})
        assert result.tpot_s is not None
        assert 1 / 1.25 < 1 / result.tpot_s / rate < 1.25, layers


# -- the division that is found -------------------------------------------------------------------------------


def test_the_division_found_is_no_slower_than_what_people_published() -> None:
    """Of runs of mixtures on ten machines and more, each by its own number of layers whose experts were on the CPU."""
    seen: set[tuple[str, str, str]] = set()
    without: set[tuple[str, str, str]] = set()
    for case in load_cases():
        scenario = case.run.scenario
        layers, key = scenario.offload.n_cpu_moe, (scenario.host.name, scenario.gpu.name, scenario.model.name)
        if not layers or key in seen or key in without:  # those with several GPUs are asked about on one
            continue
        host, gpu, model = key
        same = {"model": model, "gpu": gpu, "host": host, "weight_format": "q4_k_m", "gen_len": 128}
        published = asked({**same, "n_cpu_moe": layers})
        if not published.feasible:
            continue
        found = search_policy(PolicyQuestion(**same, system="llama_cpp", objective="decode"))
        if found.best is None:  # whatever a row's own number of layers
            without.add(key)
            continue
        seen.add(key)
        assert published.tpot_s is not None
        assert found.best.tpot_s is not None
        assert found.best.tpot_s <= published.tpot_s * 1.011, key
    assert len(seen) >= 10


def test_more_cores_are_no_loss_once_the_threads_are_chosen() -> None:
    """With a thread per core an EPYC 9755 (128 cores) decodes slower than a 9475F (48), whose memory is the same.

    That is what barriers cost: DeepSeek-R1 in Q4_K_M makes 10.0 token/s with 64 threads of a Xeon 6980P and 9.1 with 128
    (ikawrakow/ik_llama.cpp, pull request 259). The search finds the number that loses nothing.
    """
    same: dict[str, Any] = {"model": "deepseek-r1", "gpu": "none", "weight_format": "q4_k_m", "gen_len": 128}
    few, many = (asked({**same, "host": host}).tpot_s for host in ("epyc-9475f", "epyc-9755"))
    assert few is not None
    assert many is not None
    assert many > few
    found = [
        search_policy(PolicyQuestion(**same, host=host, system="llama_cpp", objective="decode"))
        for host in ("epyc-9475f", "epyc-9755")
    ]
    fewer, chosen = (one.best for one in found)
    assert fewer is not None
    assert chosen is not None
    assert chosen.flags["threads"] < 128
    assert chosen.tpot_s is not None
    assert fewer.tpot_s is not None
    assert chosen.tpot_s <= fewer.tpot_s * 1.05


def test_threads_of_a_many_core_socket_slow_tokens_as_was_measured() -> None:
    """The 6980P's own sweep: from 64 threads to 128 a token of the Q4_K file takes 1.10 times as long."""
    same = {"model": "deepseek-r1", "gpu": "none", "host": "xeon-6980p", "weight_format": "q4_k_m",
            "system": "ik_llama.cpp"}  # fmt: skip
    sweep = [asked({**same, "threads": threads}).tpot_s for threads in (64, 86, 128)]
    one, _, other = sweep
    assert one is not None
    assert other is not None
    assert 1.0 < other / one < 1.3


def test_no_fewer_threads_are_tried_than_load_the_memory() -> None:
    """43 threads of a Xeon 6980P make 0.86 of what 64 make (pull request 259): they are too few, and 64 are tried."""
    inputs = InferenceInputs(
        model="deepseek-r1", gpu="none", host="xeon-6980p", system="llama_cpp", weight_format="q8_0"
    )
    found = fewer_threads(inputs, build_scenario(inputs))
    assert 64 in found
    assert min(found) > 43
    asked_for = inputs.replace(threads=8)
    assert fewer_threads(asked_for, build_scenario(asked_for)) == ()
