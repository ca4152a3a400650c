"""`llm-perf simulate` as its user meets it: the answer, the JSON object, files, plots, sweeps, exit codes, bad input."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest

BASE = ("simulate", "--model", "llama-3.1-8b", "--gpu", "h100-sxm-80gb")
SMALL = (*BASE, "--num-requests", "60", "--gen-len", "20")
KEYS = {
    "schema_version", "inputs", "requests", "ttft_s", "tpot_s", "itl_s", "e2e_s", "throughput", "engine", "interval", "cost",
    "energy", "capacity", "warnings",
}  # fmt: skip
FIGURES = {"mean", "p50", "p90", "p95", "p99"}


def test_the_report_answers_first_at_80_columns(llm_perf, folder):
    outcome = llm_perf(*SMALL, "--rate", "10")
    assert outcome.code == 0
    assert all(len(line) <= 80 for line in outcome.out.splitlines())
    assert outcome.out.index("The engine keeps up") < outcome.out.index("TTFT")
    assert "60 requests, 10 per second (Poisson), prompt 512, generate 20; seed 0" in outcome.out
    assert "90% interval" in outcome.out


def test_json_has_the_contract_and_its_inputs_replay(llm_perf, folder):
    outcome = llm_perf(*SMALL, "--rate", "10", "--json")
    assert outcome.err == ""
    found = outcome.json
    assert set(found) >= KEYS
    for name in ("ttft_s", "tpot_s", "itl_s", "e2e_s"):
        assert set(found[name]) == FIGURES
    assert set(found["throughput"]) == {"output_tokens_per_s", "total_tokens_per_s", "requests_per_s"}
    assert set(found["engine"]) >= {"steps", "mean_batch", "kv_utilization", "prefix_hit_rate"}
    assert found["requests"] == {"completed": 60, "rejected": 0, "preempted": 0, "running": 0}
    Path("again.json").write_text(outcome.out)
    again = llm_perf("simulate", "--config", "again.json", "--json")
    assert again.out == outcome.out


def test_a_rate_above_capacity_is_exit_3_and_says_how_fast_the_queue_grows(llm_perf, folder):
    asked = (*SMALL, "--rate", "1000")
    outcome = llm_perf(*asked)
    assert outcome.code == 3
    assert "does not keep up" in outcome.out
    assert "grows without bound" in " ".join(outcome.out.split())
    found = llm_perf(*asked, "--json").json["capacity"]
    assert found["keeps_up"] is False
    assert found["queue_grows_per_s"] == pytest.approx(1000 - found["requests_per_s"])
    assert "or more" in " ".join(outcome.out.split())  # no upper end of what grows without bound


def test_a_rate_that_quicker_steps_would_serve_may_be_kept_up(llm_perf, folder):
    """The interval's quick end is as much an answer as its slow one."""
    most = llm_perf(*SMALL, "--rate", "1000", "--json").json
    served, quick = most["capacity"]["requests_per_s"], most["interval"]["step_time_factors"][0]
    for share, may in ((1.02, True), (1.1 / quick, False)):
        out = llm_perf(*SMALL, "--rate", f"{share * served:.4g}").out
        assert "does not keep up" in out
        assert (f"it may keep up: steps may take {quick:.2f} times as long" in out) is may


def test_prompts_are_named_where_most_of_the_time_goes_to_them(llm_perf, folder):
    """What a decode step waits for is no answer to why it is slow where others' prompts take the time."""
    long = llm_perf(
        *BASE, "--num-requests", "60", "--concurrency", "8", "--prompt-len", "4000", "--gen-len", "10"
    ).out
    short = llm_perf(
        *BASE, "--num-requests", "20", "--concurrency", "2", "--prompt-len", "20", "--gen-len", "400"
    ).out
    assert "Bound by:  reading prompts (" in long
    assert "reading prompts" not in short


def test_more_engines_than_are_simulated_are_no_advice(llm_perf, folder):
    out = llm_perf(*SMALL, "--rate", "1e9").out
    assert "--replicas" not in out
    assert "a lower --rate" in out
    assert "of at most 1,024" in out


def test_an_engine_without_graphs_is_slower_and_its_question_replays(llm_perf, folder):
    """Python of every layer, 435 us, in steps that take less than that on the device."""
    asked = (*SMALL, "--rate", "1", "--json")
    captured, eager = (llm_perf(*asked, *flag) for flag in ((), ("--enforce-eager",)))
    assert eager.json["tpot_s"]["p50"] > 1.5 * captured.json["tpot_s"]["p50"]
    assert eager.json["inputs"]["enforce_eager"] is True
    Path("again.json").write_text(eager.out)
    assert llm_perf("simulate", "--config", "again.json", "--json").out == eager.out


def test_a_closed_loop_of_one_is_infer(llm_perf, folder):
    found = llm_perf(*BASE, "--concurrency", "1", "--num-requests", "3", "--gen-len", "40", "--json").json
    alone = llm_perf("infer", *BASE[1:], "--system", "vllm", "--gen-len", "40", "--json").json
    assert found["tpot_s"]["mean"] == pytest.approx(alone["tpot_s"], rel=1e-3)
    assert found["ttft_s"]["mean"] == pytest.approx(alone["ttft_s"], rel=0.02)
    assert found["idle"]["tpot_s"] == pytest.approx(alone["tpot_s"], rel=1e-9)
    assert found["capacity"]["keeps_up"] is None


@pytest.mark.parametrize("kind", ["csv", "jsonl"])
def test_the_trace_and_the_timeline_hold_what_the_json_says(llm_perf, folder, kind):
    asked = (*SMALL, "--rate", "10", "--trace-out", f"t.{kind}", "--timeline", f"s.{kind}", "--json")
    found = llm_perf(*asked).json
    read = (lambda name: list(csv.DictReader(Path(name).read_text().splitlines()))) if kind == "csv" else (
        lambda name: [json.loads(line) for line in Path(name).read_text().splitlines()]
    )  # fmt: skip
    requests, steps = read(f"t.{kind}"), read(f"s.{kind}")
    ttft = [float(row["ttft_s"]) for row in requests]
    assert np.mean(ttft) == pytest.approx(found["ttft_s"]["mean"], rel=1e-6)
    assert np.percentile(ttft, 95) == pytest.approx(found["ttft_s"]["p95"], rel=1e-6)
    assert sum(int(row["count"]) for row in steps) == found["engine"]["steps"]
    # What was written is a file of requests: the same ones arrive again.
    again = llm_perf(*BASE, "--requests", f"t.{kind}", "--json").json
    assert again["ttft_s"]["mean"] == pytest.approx(found["ttft_s"]["mean"], rel=1e-4)
    assert any("not read" in warning for warning in again["warnings"])


def test_the_same_seed_writes_the_same_bytes(llm_perf, folder):
    varied = ("--prompt-len", "uniform:10:900", "--rate", "15", "--burstiness", "0.5")
    for name, seed in (("a", 7), ("b", 7), ("c", 8)):
        assert llm_perf(*SMALL, *varied, "--seed", str(seed), "--trace-out", f"{name}.csv").code == 0
    same, other, third = (Path(f"{name}.csv").read_bytes() for name in "abc")
    assert same == other
    assert same != third


def test_rates_are_swept_to_the_knee(llm_perf, folder):
    outcome = llm_perf(*SMALL, "--rate", "10:100000:x10")
    assert outcome.code == 0
    assert all(len(line) <= 80 for line in outcome.out.splitlines())
    found = llm_perf(*SMALL, "--rate", "10:100000:x10", "--json").json
    capacities = [one["capacity"] for one in found["rates"]]
    # The first rate beyond the knee is shown, those after it are not simulated.
    assert [one["keeps_up"] for one in capacities] == [True] * (len(capacities) - 1) + [False]
    assert found["knee_requests_per_s"] == capacities[-2]["offered_requests_per_s"]
    nothing = llm_perf(*SMALL, "--rate", "5000,9000")
    assert nothing.code == 3
    assert "None of these rates" in nothing.out


def test_replicas_share_the_requests(llm_perf, folder):
    one, two = (
        llm_perf(*SMALL, "--rate", "80", "--replicas", str(count), "--routing", "least-loaded", "--json").json
        for count in (1, 2)
    )
    assert two["num_gpus"] == 2 * one["num_gpus"]
    assert two["tpot_s"]["mean"] < one["tpot_s"]["mean"]
    assert two["capacity"]["requests_per_s"] == 2 * one["capacity"]["requests_per_s"]


def test_what_can_be_served_at_most_has_one_answer(llm_perf, folder):
    """It follows from lengths and engines: not from when requests come, how many, or by which seed."""
    varied = ("--prompt-len", "uniform:100:900", "--gen-len", "uniform:10:100", "--json")
    asked = (
        ("--rate", "10", "--num-requests", "50"),
        ("--rate", "90", "--num-requests", "300", "--seed", "5", "--burstiness", "0.5"),
        ("--concurrency", "8", "--num-requests", "100"),
        ("--rate", "inf", "--num-requests", "70"),
    )
    found = {llm_perf(*BASE, *varied, *one).json["capacity"]["requests_per_s"] for one in asked}
    assert len(found) == 1
    swept = llm_perf(*BASE, *varied, "--num-requests", "50", "--rate", "5,10").json["rates"]
    assert found == {one["capacity"]["requests_per_s"] for one in swept}


def test_what_is_rejected_loads_nothing(llm_perf, folder):
    rows = "".join(f"{index / 100},{5_000_000 if index % 2 else 100},5\n" for index in range(100))
    Path("r.csv").write_text("arrival_s,prompt_tokens,output_tokens\n" + rows)
    capacity = llm_perf(*BASE, "--requests", "r.csv", "--json").json["capacity"]
    assert capacity["keeps_up"] is (0.5 * capacity["offered_requests_per_s"] <= capacity["requests_per_s"])


def test_a_shared_prefix_is_found_in_the_cache(llm_perf, folder):
    asked = ("--rate", "10", "--prompt-len", "16", "--json")
    with_prefix = llm_perf(*SMALL, *asked, "--prefix-len", "1024").json
    assert with_prefix["engine"]["prefix_hit_rate"] > 0.8
    assert llm_perf(*SMALL, *asked).json["engine"]["prefix_hit_rate"] == 0


def test_requests_that_are_too_long_are_rejected_and_counted(llm_perf, folder):
    rows = "arrival_s,prompt_tokens,output_tokens\n0,100,5\n1,5000000,5\n"
    Path("r.csv").write_text(rows)
    outcome = llm_perf(*BASE, "--requests", "r.csv")
    assert outcome.code == 0
    assert "1 of 2 requests were rejected" in " ".join(outcome.out.split())
    Path("r.csv").write_text("arrival_s,prompt_tokens,output_tokens\n0,5000000,5\n")
    none = llm_perf(*BASE, "--requests", "r.csv", "--json")
    assert none.code == 3
    assert none.json["requests"]["rejected"] == 1
    assert none.json["ttft_s"]["mean"] is None
    assert none.json["cost"] is None
    assert none.json["interval"] is None
    said = llm_perf(*BASE, "--requests", "r.csv").out
    assert "No request ran." in said
    assert "nan" not in said


@pytest.mark.parametrize("rate", ["1", "1,2"])
def test_requests_of_one_token_have_no_decode_and_no_nan(llm_perf, folder, rate):
    said = llm_perf(*BASE, "--num-requests", "5", "--gen-len", "1", "--rate", rate).out
    assert "nan" not in said


@pytest.mark.parametrize("rate", ["1", "1,2"])
def test_what_does_not_fit_is_exit_3_and_still_one_json_object(llm_perf, folder, rate):
    outcome = llm_perf("simulate", "--model", "llama-3.1-70b", "--gpu", "t4", "--rate", rate, "--json")
    assert outcome.code == 3
    assert set(outcome.json) >= KEYS
    assert outcome.json["reason"].startswith("meta-llama/Llama-3.1-70B leaves no memory for a KV cache")
    assert outcome.json["requests"]["completed"] == 0
    assert set(outcome.json["ttft_s"]) == FIGURES
    assert outcome.err.count("\n") == 1


def test_the_first_lines_say_that_times_are_medians(llm_perf):
    asked = (
        "simulate",
        "--model",
        "llama-3.1-8b",
        "--gpu",
        "h100-sxm-80gb",
        "--rate",
        "2",
        "--num-requests",
        "40",
    )
    speed = llm_perf(*asked).out.splitlines()[1]
    times = llm_perf(*asked, "--json").json
    assert speed.startswith("Speed:     median (p95) TTFT ")
    for name in ("ttft_s", "tpot_s"):
        middle, late = (f"{1e3 * times[name][figure]:.3g}" for figure in ("p50", "p95"))
        assert f"{middle} ({late}) ms" in speed


@pytest.mark.parametrize(
    ("asked", "title"),
    [
        ("llama-3.3-70b", "meta-llama/Llama-3.1-70B (as llama-3.3-70b) on 4 x H100"),
        ("llama-3.1-70b", "meta-llama/Llama-3.1-70B on 4 x H100"),
    ],
)
def test_the_title_says_which_model_was_asked_for_by_its_shapes(llm_perf, asked, title):
    sizes = ("--gpu", "h100-sxm-80gb", "--tp-size", "4", "--rate", "1", "--num-requests", "5")
    assert title in llm_perf("simulate", "--model", asked, *sizes).out


@pytest.mark.parametrize("gpus", ["2", "4"])
def test_gpus_that_nothing_divides_are_told_what_to_give_and_no_batch(llm_perf, gpus):
    """Replicas that do not fit one by one: a batch is no option of simulate, and the GPUs that were counted stay."""
    model = "simulate --model llama-3.1-70b --weight-format fp8 --prompt-len 1500 --gen-len 300"
    asked = f"{model} --gpu h100-sxm-80gb --system vllm@0.11 --rate 1".split()
    outcome = llm_perf(*asked, "--num-gpus", gpus)
    assert outcome.code == 3
    assert "batch_size" not in outcome.out + outcome.err
    assert "or --tp-size 2\n" in outcome.out
    assert llm_perf(*asked, "--num-gpus", gpus, "--tp-size", "2", "--num-requests", "5").code == 0


def test_tables_are_all_written_or_none(llm_perf, folder):
    asked = (*SMALL, "--rate", "10", "--trace-out", "new/t.csv", "--timeline")
    outcome = llm_perf(*asked, "/proc/s.csv")
    assert outcome.code == 2
    assert "written there" in outcome.error
    assert list(Path().iterdir()) == []
    assert "give each its own file" in llm_perf(*asked, "./new/t.csv").error
    assert llm_perf(*asked, "s.csv").code == 0
    assert Path("new/t.csv").read_text().startswith("request,arrival_s")
    assert Path("s.csv").read_text().startswith("replica,start_s")


def test_requests_of_a_file_within_a_nanosecond_come_at_once(llm_perf, folder):
    rows = "arrival_s,prompt_tokens,output_tokens\n0,100,5\n5e-324,100,5\n"
    Path("r.csv").write_text(rows)
    found = llm_perf(*BASE, "--requests", "r.csv", "--json").json
    assert found["capacity"]["offered_requests_per_s"] is None


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("", "is empty"),
        (" \n\n", "is empty"),
        ("arrival_s,prompt_tokens,output_tokens\n", "has no requests"),
        ("arrival_s,prompt_tokens,output_tokens\n-1,10,5\n", "r.csv:2: arrival_s '-1'"),
        ("arrival_s,prompt_tokens,output_tokens\n2,10,5\n1,10,5\n", "earlier than the row's before it"),
        ("arrival_s,prompt_tokens,output_tokens\nnan,10,5\n", "arrival_s 'nan'"),
        ("arrival_s,prompt_tokens,output_tokens\n0,0,5\n", "prompt_tokens '0'"),
        ("arrival_s,prompt_tokens,output_tokens\n0,10,-5\n", "output_tokens '-5'"),
        ("arrival_s,prompt_tokens\n0,10\n", "no column 'output_tokens'"),
        ("arrival_s,prompt_tokens,output_tokens\n0,10\n", "has 2 cells"),
        ("{}\n", "has no field"),
        ("{\n", "malformed JSON"),
    ],
)
@pytest.mark.parametrize("command", [BASE, ("plan", "--model", "llama-3.1-8b", "--gpus", "l4")])
def test_a_bad_file_of_requests_is_one_line(llm_perf, folder, command, content, said):
    Path("r.csv").write_text(content)
    assert said in llm_perf(*command, "--requests", "r.csv").error


@pytest.mark.parametrize("ending", ["png", "svg"])
@pytest.mark.parametrize("rate", ["10", "10,20"])
def test_plots(llm_perf, folder, ending, rate):
    pytest.importorskip("matplotlib", reason="the extra 'plot' is not installed")
    assert llm_perf(*SMALL, "--rate", rate, "--plot", f"p.{ending}").code == 0
    assert Path(f"p.{ending}").read_bytes().startswith(b"\x89PNG" if ending == "png" else b"<?xml")


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ((), "say when requests are sent"),
        (("--rate", "0"), "--rate '0'"),
        (("--rate", "fast"), "--rate"),
        (("--rate", "1:2:"), "--rate"),
        (("--rate", "5:1:1"), "--rate"),
        (("--rate", "1:1000:1"), "at most 200"),
        (("--rate", "1", "--concurrency", "2"), "exclude each other"),
        (("--rate", "1", "--batch-size", "4"), "--batch-size is of one batch"),
        (("--rate", "1", "--prefix-hit-rate", "0.5"), "--prefix-hit-rate is of one batch"),
        (("--rate", "1", "--prompt-len", "0"), "--prompt-len"),
        (("--rate", "1", "--routing", "random"), "routing"),
        (("--rate", "1", "--system", "flexgen"), "no scheduler"),
        (("--rate", "1", "--warm-up", "60"), "--warm-up"),
        (("--rate", "1", "--trace-out", "x.txt"), "--trace-out"),
        (("--rate", "1,2", "--timeline", "x.csv"), "--timeline"),
        (("--rate", "1", "--plot", "x.pdf"), "--plot"),
        (("--rate", "1", "--gpu", "l4"), "one --gpu"),
        (("--rate", "1", "--num-requests", "100000000000"), "num_requests"),
        (("--requests", "nowhere.csv"), "nowhere.csv"),
        (("--config", "nowhere.json"), "nowhere.json"),
    ],
)
def test_bad_input_is_one_line(llm_perf, folder, asked, said):
    assert said in llm_perf(*SMALL, *asked).error
    assert list(Path().iterdir()) == []


def test_what_does_not_fit_is_exit_3(llm_perf, folder):
    outcome = llm_perf("simulate", "--model", "llama-3.1-70b", "--gpu", "l4", "--rate", "1")
    assert outcome.code == 3
    assert "Traceback" not in outcome.err


@pytest.mark.parametrize("setting", [("--max-num-seqs", "256"), ("--gpu-memory-utilization", "0.92")])
def test_what_the_engine_itself_could_be_told_is_named_and_then_fits(llm_perf, folder, setting):
    """A model a gibibyte too large runs by a setting of the engine, before anybody quantises it."""
    asked = (
        "simulate", "--model", "Qwen/Qwen2.5-72B-Instruct", "--system", "vllm@0.20.0", "--gpu", "h100-sxm-80gb",
        "--num-gpus", "2", "--tp-size", "2", "--concurrency", "1", "--num-requests", "5",
    )  # fmt: skip
    outcome = llm_perf(*asked)
    assert outcome.code == 3
    assert " ".join(setting) in outcome.out.split("What fits: ")[1]
    assert llm_perf(*asked, *setting).code == 0
