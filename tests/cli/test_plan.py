"""`llm-perf plan` as its user meets it: the report, the JSON object, the plot, exit codes, bad input."""

from __future__ import annotations

import json
import re
import shlex
from importlib import resources
from pathlib import Path

import pytest

BASE = (
    "plan",
    "--model",
    "llama-2-13b",
    "--gpus",
    "t4,a100-sxm-80gb",
    "--target",
    "tpot<50ms",
    "--batching",
    "static",
)


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


def shown_command(out: str) -> list[str]:
    """The words of the command in a report, as a shell takes them: a backslash goes on in the next line."""
    return shlex.split(out[out.index("llm-perf infer") : out.index("\n\nFront")].replace("\\\n", ""))


def test_report_at_80_columns_with_a_command_that_replays(llm_perf, folder):
    outcome = llm_perf(*BASE, "--quant-bits", "16,8,4")
    assert outcome.code == 0
    assert all(len(line) <= 80 for line in outcome.out.splitlines())
    command = shown_command(outcome.out)
    best = llm_perf(*BASE, "--quant-bits", "16,8,4", "--json").json["best"][0]
    found = llm_perf(*command[1:], "--json").json
    assert found["total"]["latency_s"] == pytest.approx(best["total_latency_s"], rel=1e-9)


def test_a_gpu_of_a_file_and_prices_of_ones_own_replay(llm_perf, folder):
    text = (resources.files("hardware_specs") / "gpus" / "t4-16gb.yaml").read_text("utf-8")
    Path("my gpu.yaml").write_text(text.replace("name: T4-16GB", "name: Mine"))
    Path("prices.yaml").write_text("gpus:\n  Mine: {per_gpu_hour: 0.5, date: 2026-01-01, source: a bill}\n")
    asked = (
        "plan",
        "--model",
        "opt-1.3b",
        "--gpus",
        "my gpu.yaml",
        "--prices",
        "prices.yaml",
        "--batching",
        "static",
    )
    best = llm_perf(*asked, "--json").json["best"][0]
    found = llm_perf(*shown_command(llm_perf(*asked).out)[1:], "--json").json
    assert found["total"]["latency_s"] == pytest.approx(best["total_latency_s"], rel=1e-9)
    assert found["cost"]["per_million_tokens"] == pytest.approx(best["cost_per_million_tokens"], rel=1e-9)


@pytest.mark.parametrize("name", ["rtx-pro-6000-blackwell-server", f"{'long-' * 15}name.yaml"])
def test_a_long_name_of_a_gpu_hides_no_column(llm_perf, folder, name):
    text = (resources.files("hardware_specs") / "gpus" / "a100-sxm-80gb.yaml").read_text("utf-8")
    Path(f"{'long-' * 15}name.yaml").write_text(text.replace("name: A100-SXM-80GB", "name: Mine"))
    ask = ("plan", "--model", "llama-2-70b", "--gpus", name, "--max-gpus", "16", "--objective", "energy")
    out = llm_perf(*ask, "--max-batch-size", "100000").out
    assert all(len(line) <= 80 for line in out.splitlines() if "llm-perf infer" not in line)
    assert "\u2026" not in out.partition("\n\n")[2]
    found = llm_perf(*ask, "--max-batch-size", "100000", "--json").json["best"][0]
    assert f"tp {found['inputs']['tp_size']}" in out
    assert f"{found['energy_j_per_token']:.3g}" in out


def test_patterns_name_several_gpus(llm_perf, folder):
    found = llm_perf(
        "plan", "--model", "opt-1.3b", "--gpus", "a100-sxm*,t4", "--max-gpus", "1", "--json"
    ).json
    assert {one["inputs"]["gpu"] for one in found["best"]} == {"A100-SXM-40GB", "A100-SXM-80GB", "T4-16GB"}


def test_a_least_throughput_is_no_limit(llm_perf, folder):
    out = llm_perf("plan", "--model", "opt-1.3b", "--gpus", "t4", "--target", "throughput>100").out
    assert re.search(r"throughput \d{3,4}% of its least", out)
    assert "Front within the targets" in out


def test_nothing_meets_is_exit_3_with_the_nearest(llm_perf, folder):
    outcome = llm_perf("plan", "--model", "opt-30b", "--gpus", "t4", "--target", "tpot<1ms")
    assert outcome.code == 3
    assert "Nothing meets the targets" in outcome.out
    assert "Nearest: " in outcome.out
    assert "of 1 ms" in outcome.out


def test_nothing_fits_is_exit_3_and_says_nothing_of_targets(llm_perf, folder):
    outcome = llm_perf("plan", "--model", "opt-175b", "--gpus", "t4", "--no-offload")
    assert outcome.code == 3
    assert "Nothing fits. Allow more GPUs" in outcome.out
    assert "targets" not in outcome.out


def test_the_best_say_how_sure_their_latencies_are(llm_perf, folder):
    asked = ("--model", "opt-13b", "--gpus", "a100-sxm-80gb,mi300x", "--objective", "gpus")
    found = llm_perf("plan", *asked, "--json").json
    out = " ".join(llm_perf("plan", *asked).out.split())
    known = {best["inputs"]["gpu"]: best for best in found["best"]}
    low, high = known["A100-SXM-80GB"]["interval"]["total_latency_s"]
    assert low < known["A100-SXM-80GB"]["total_latency_s"] < high
    assert f"90% interval x/{(high / low) ** 0.5:.2f}" in out
    assert known["MI300X-192GB"]["interval"] is None
    assert known["MI300X-192GB"]["no_interval"]
    assert "no interval" in out


def test_what_stops_the_batch_is_a_sentence(llm_perf, folder):
    out = " ".join(
        llm_perf("plan", "--model", "opt-1.3b", "--gpus", "apple-m1-7c", "--objective", "gpus").out.split()
    )
    assert "; a larger batch is no better in GPUs" in out


@pytest.mark.parametrize("ending", ["png", "svg"])
def test_plot(llm_perf, folder, ending):
    pytest.importorskip("matplotlib", reason="the extra 'plot' is not installed")
    assert llm_perf(*BASE, "--plot", f"front.{ending}").code == 0
    content = Path(f"front.{ending}").read_bytes()
    assert content.startswith(b"\x89PNG" if ending == "png" else b"<?xml")


@pytest.mark.parametrize("target", ["tpot<1000s", "tpot<50ms, ttft<100ms", "tpot<1us"])
def test_the_plot_names_the_best_and_tells_what_misses_a_target(llm_perf, folder, target):
    pytest.importorskip("matplotlib", reason="the extra 'plot' is not installed")
    found = llm_perf(*BASE, "--target", target, "--plot", "front.svg", "--json").json
    drawn = Path("front.svg").read_text()
    for best in found["best"][:1]:
        assert re.search(
            rf"best: {best['num_gpus']} x {best['inputs']['gpu']}.* batch {best['inputs']['batch_size']}<",
            drawn,
        )
    # The front is of what meets the targets; where nothing does, of what fits, and none of it does.
    assert [point["meets_targets"] for point in found["front"]] == [bool(found["best"])] * len(found["front"])
    assert ("open: misses a target" in drawn) is (target == "tpot<1us")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "--model is required"),
        (("--model", "nothing"), "nothing"),
        (("--model", "opt-13b", "--gpus", "t4,none"), "none"),
        (("--model", "opt-13b", "--gpus", "t4,zz*"), "matches no bundled GPU"),
        (("--model", "opt-13b", "--gpus", "t4,,l4"), "--gpus"),
        (("--model", "opt-13b", "--target", "fast"), "--target"),
        (("--model", "opt-13b", "--objective", "beauty"), "objective"),
        (("--model", "opt-13b", "--max-gpus", "0"), "max_gpus"),
        (("--model", "opt-13b", "--quant-bits", "4,5"), "quant_bits must be 4, 8 or 16, got 5"),
        (("--model", "opt-13b", "--max-batch-size", "-1"), "max_batch_size"),
        (("--model", "opt-13b", "--prompt-len", "100000"), "positions"),
        (("--model", "opt-13b", "--system", "nothing"), "system"),
        (("--model", "opt-13b", "--system", "flexgen"), "no stack"),
        (("--model", "opt-13b", "--prices", "nowhere.yaml"), "nowhere.yaml"),
        (("--model", "opt-13b", "--top", "0"), "--top"),
        (("--model", "opt-13b", "--plot", "front.pdf"), "--plot"),
        (("--model", "opt-13b", "--rate", "1e-300"), "--rate 1e-300: expected at least 6e-07"),
        (("--model", "opt-13b", "--rate", "1", "--burstiness", "1e-300"), "burstiness"),
        (("--model", "opt-13b", "--gpus", "apple-m1-max-32c"), "no price"),
    ],
)
def test_bad_input_is_one_line(llm_perf, folder, arguments, said):
    assert said in llm_perf("plan", *arguments).error
    assert list(Path().iterdir()) == []


@pytest.mark.parametrize("service", [(), ("--rate", "2")])
def test_a_list_cut_at_one_does_not_say_that_nothing_else_does(llm_perf, service):
    asked = ("plan", "--model", "llama-3.1-8b", "--gpus", "h100-sxm-80gb,l4", "--top", "1", *service)
    found = llm_perf(*asked)
    assert found.code == 0
    assert (
        found.out.splitlines()[4]
        == "Change:    no other GPU meets the targets, or none is shown (--gpus, --top)"
    )


@pytest.mark.parametrize("gpu", ["p40", "m3-ultra"])
def test_a_rate_on_chips_that_the_usual_engine_does_not_run_on_is_any_engine_s(llm_perf, gpu):
    """As `simulate` answers them."""
    asked = (
        "plan",
        "--model",
        "llama-3.1-8b",
        "--gpus",
        gpu,
        "--rate",
        "0.2",
        "--prompt-len",
        "500",
        "--gen-len",
        "100",
    )
    found = llm_perf(*asked, "--objective", "gpus", "--json")
    assert found.json["best"][0]["inputs"]["system"] == "engine"
    assert "--objective (gpus, energy, throughput)" in llm_perf(*asked).error


@pytest.mark.parametrize(
    "asked", [("--rate", "2", "--target", "p95 ttft<2s"), ("--no-offload",)], ids=["requests", "batches"]
)
def test_the_answer_names_the_gpus_that_were_asked_for_and_not_searched(llm_perf, asked):
    words = ("plan", "--model", "llama-3.1-70b", "--gpus", "h100-sxm,t4,m4-max-48gb", "--objective", "gpus")
    stated = (*words, "--system", "vllm", *asked)
    found = json.loads(llm_perf(*stated, "--json").out)["left_out"]
    assert list(found) == ["T4-16GB", "Apple M4 Max 40c 48GB"]
    assert found["T4-16GB"] == "does not hold the model on up to 8"
    assert "does not run on Apple M4 Max" in found["Apple M4 Max 40c 48GB"]
    text = " ".join(llm_perf(*stated).out.split())
    assert (
        "Not searched: T4-16GB: does not hold the model on up to 8; Apple M4 Max 40c 48GB: system vllm"
        in text
    )
    costs = json.loads(llm_perf(*words[:-2], *asked, "--json").out)["left_out"]
    assert costs["Apple M4 Max 40c 48GB"] == "has no price (--prices FILE)"
    assert json.loads(llm_perf(*words[:3], *asked, "--max-gpus", "4", "--json").out)["left_out"] == {}
