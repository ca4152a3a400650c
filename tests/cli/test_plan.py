"""`llm-perf plan` as its user meets it: the report, the JSON object, the plot, exit codes, bad input."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

BASE = ("plan", "--model", "llama-2-13b", "--gpus", "t4,a100-sxm-80gb", "--target", "tpot<50ms")


def test_json_has_the_contract_and_its_inputs_replay(llm_perf, folder):
    outcome = llm_perf(*BASE, "--json")
    assert outcome.code == 0
    assert outcome.err == ""
    found = outcome.json
    assert {"schema_version", "best", "front", "evaluated", "seconds"} <= set(found)
    assert isinstance(found["evaluated"], int)
    best = found["best"][0]
    Path("inputs.json").write_text(json.dumps(best["inputs"]))
    again = llm_perf("infer", "--config", "inputs.json", "--json").json
    assert again["total"]["throughput_tokens_per_s"] == pytest.approx(
        best["throughput_tokens_per_s"], rel=1e-9
    )
    assert again["decode"]["latency_per_token_s"] == pytest.approx(best["latency_per_token_s"], rel=1e-9)
    assert best["share_of_targets"]["tpot"] == pytest.approx(best["latency_per_token_s"] / 0.05)


def test_report_at_80_columns_with_a_command_that_replays(llm_perf, folder):
    outcome = llm_perf(*BASE, "--quant-bits", "16,8,4")
    assert outcome.code == 0
    assert all(len(line) <= 80 for line in outcome.out.splitlines())
    text = " ".join(outcome.out.split())
    command = text[text.index("llm-perf infer") :].split(" Front")[0].split()
    best = llm_perf(*BASE, "--quant-bits", "16,8,4", "--json").json["best"][0]
    found = llm_perf(*command[1:], "--json").json
    assert found["total"]["latency_s"] == pytest.approx(best["total_latency_s"], rel=1e-9)


def test_nothing_meets_is_exit_3_with_the_nearest(llm_perf, folder):
    outcome = llm_perf("plan", "--model", "opt-30b", "--gpus", "t4", "--target", "tpot<1ms")
    assert outcome.code == 3
    assert "Nothing meets the targets" in outcome.out
    assert "Nearest: " in outcome.out
    assert "of 1 ms" in outcome.out


@pytest.mark.parametrize("ending", ["png", "svg"])
def test_plot(llm_perf, folder, ending):
    pytest.importorskip("matplotlib", reason="the extra 'plot' is not installed")
    assert llm_perf(*BASE, "--plot", f"front.{ending}").code == 0
    content = Path(f"front.{ending}").read_bytes()
    assert content.startswith(b"\x89PNG" if ending == "png" else b"<?xml")


@pytest.mark.parametrize("target", ["tpot<1000s", "tpot<50ms, ttft<100ms"])
def test_the_plot_names_the_best_and_tells_what_misses_a_target(llm_perf, folder, target):
    pytest.importorskip("matplotlib", reason="the extra 'plot' is not installed")
    found = llm_perf(*BASE, "--target", target, "--plot", "front.svg", "--json").json
    drawn = Path("front.svg").read_text()
    best = found["best"][0]
    assert re.search(
        rf"best: {best['num_gpus']} x {best['inputs']['gpu']}.* batch {best['inputs']['batch_size']}<", drawn
    )
    missed = not all(point["meets_targets"] for point in found["front"])
    assert missed is ("ttft" in target)
    assert ("open: misses a target" in drawn) is missed


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "--model is required"),
        (("--model", "nothing"), "nothing"),
        (("--model", "opt-13b", "--gpus", "t4,none"), "none"),
        (("--model", "opt-13b", "--gpus", "t4,,l4"), "--gpus"),
        (("--model", "opt-13b", "--target", "fast"), "--target"),
        (("--model", "opt-13b", "--objective", "beauty"), "objective"),
        (("--model", "opt-13b", "--max-gpus", "0"), "max_gpus"),
        (("--model", "opt-13b", "--quant-bits", "5"), "quant_bits"),
        (("--model", "opt-13b", "--max-batch-size", "-1"), "max_batch_size"),
        (("--model", "opt-13b", "--prompt-len", "100000"), "positions"),
        (("--model", "opt-13b", "--system", "nothing"), "system"),
        (("--model", "opt-13b", "--system", "flexgen"), "no stack"),
        (("--model", "opt-13b", "--prices", "nowhere.yaml"), "nowhere.yaml"),
        (("--model", "opt-13b", "--top", "0"), "--top"),
        (("--model", "opt-13b", "--plot", "front.pdf"), "--plot"),
        (("--model", "opt-13b", "--gpus", "apple-m1-max-32c"), "no price"),
    ],
)
def test_bad_input_is_one_line(llm_perf, folder, arguments, said):
    assert said in llm_perf("plan", *arguments).error
    assert list(Path().iterdir()) == []
