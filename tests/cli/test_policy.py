"""`llm-perf policy` as its user meets it: the report, the JSON object, the plot, exit codes, bad input."""

import json
import shlex
from pathlib import Path

import pytest
import yaml

from llm_perf.config import get_host_config_by_name
from llm_perf.systems.registry import dividing_systems, searched_systems

BASE = ("policy", "--model", "opt-30b", "--gpu", "t4")
SMALL = ("policy", "--model", "opt-1.3b", "--gpu", "t4", "--prompt-len", "64", "--gen-len", "4")


@pytest.mark.parametrize("system", ["flexgen", "zero_inference", "all"])
def test_json_has_the_contract_and_replays_in_infer(llm_perf, folder, system):
    outcome = llm_perf(*BASE, "--system", system, "--json")
    assert outcome.code == 0
    assert outcome.err == ""
    found = outcome.json
    assert found["schema_version"] == 1
    assert found["question"]["objective"] == "throughput"  # where none is stated, what is searched for
    assert {
        "policy",
        "throughput_tokens_per_s",
        "latency_s",
        "memory",
        "front",
        "searched",
        "seconds",
    } <= set(found)
    assert isinstance(found["searched"], int)
    assert found["seconds"] > 0
    for tier in found["memory"].values():
        assert tier["total_bytes"] <= tier["capacity_bytes"]
    for point in found["front"]:
        assert set(point) == {"latency_s", "throughput_tokens_per_s", "policy", "ttft_s", "tpot_s"}
    Path("found.json").write_text(outcome.out)
    again = llm_perf("infer", "--config", "found.json", "--json").json
    assert again["feasible"]
    assert again["total"]["latency_s"] == found["latency_s"]
    assert again["total"]["throughput_tokens_per_s"] == found["throughput_tokens_per_s"]
    assert again["memory"] == found["memory"]


def printed_command(out):
    """Words of the command in a report, as a shell takes its lines when they are copied."""
    lines = out[out.index("llm-perf infer") :].splitlines()
    last = next(number for number, line in enumerate(lines) if not line.endswith("\\"))
    return shlex.split("\n".join(lines[: last + 1]).replace("\\\n", ""))  # as a shell joins them


@pytest.mark.parametrize(
    "more", [("--system", "flexgen"), ("--system", "zero_inference"), ("--max-latency", "100")]
)
def test_the_command_that_is_printed_gives_the_same_numbers(llm_perf, more):
    found = llm_perf(*BASE, *more, "--json").json
    words = printed_command(llm_perf(*BASE, *more).out)
    assert all(word.isascii() for word in words)
    again = llm_perf(*words[1:], "--json").json
    assert again["total"]["latency_s"] == found["latency_s"]
    assert again["memory"] == found["memory"]


def test_report_has_memory_what_binds_the_front_and_80_columns(llm_perf):
    outcome = llm_perf(*BASE, "--cost-per-gpu-hour", "0.35", "--objective", "cost")
    assert outcome.code == 0
    for words in (
        "Best policy",
        "usable",
        "What binds",
        "latency",
        "per million tokens",
        "policies searched",
    ):
        assert words in outcome.out
    assert max(len(line) for line in outcome.out.splitlines()) <= 80


def test_an_unreachable_limit_is_reported_with_exit_3(llm_perf):
    outcome = llm_perf(*BASE, "--max-latency", "0.5", "--json")
    assert outcome.code == 3
    found = outcome.json
    assert found["policy"] is None
    assert found["throughput_tokens_per_s"] is None
    assert found["latency_s"] is None
    assert found["memory"] is None
    assert found["front"]
    text = llm_perf(*BASE, "--max-latency", "0.5")
    assert text.code == 3
    assert "No policy" in text.out
    assert "fastest" in text.out


def test_nothing_fits_is_reported_with_exit_3(llm_perf):
    tiny = get_host_config_by_name("gcp-t4").replace(
        name="tiny", memory_gib=12, usable_memory_gib=11, disk=None
    )
    Path("tiny.yaml").write_text(yaml.safe_dump(json.loads(tiny.model_dump_json())))
    outcome = llm_perf(*BASE, "--host", "tiny.yaml", "--json")
    assert outcome.code == 3, outcome.err
    assert outcome.json["policy"] is None
    assert outcome.json["front"] == []
    assert "missing" in outcome.json["reason"]


@pytest.mark.parametrize("suffix", ["png", "svg"])
def test_plot_is_written_and_the_json_stays_alone_on_stdout(llm_perf, suffix):
    pytest.importorskip("matplotlib")
    outcome = llm_perf(*BASE, "--plot", f"front.{suffix}", "--max-latency", "150", "--json")
    assert outcome.code == 0
    assert outcome.json["policy"]
    written = Path(f"front.{suffix}").read_bytes()
    assert written.startswith(b"\x89PNG" if suffix == "png" else b"<?xml")
    assert [path.name for path in Path().iterdir()] == [f"front.{suffix}"]


@pytest.mark.parametrize("lossless", [True, False])
def test_the_plot_tells_what_is_stored_in_fewer_bits(llm_perf, lossless):
    pytest.importorskip("matplotlib")
    flags = ("--lossless",) if lossless else ()
    assert llm_perf(*BASE, *flags, "--plot", "front.svg").code == 0
    drawn = Path("front.svg").read_text()
    assert "16 bits" in drawn
    assert ("4 or 8 bits" in drawn) is not lossless


BAD = {
    "no model": (("policy", "--gpu", "t4"), "--model"),
    "no gpu": (("policy", "--model", "opt-30b"), "--gpu"),
    "unknown model": (("policy", "--model", "opt-31b", "--gpu", "t4"), "opt-31b"),
    "unknown system": ((*SMALL, "--system", "vllm"), "system"),
    "unknown objective": ((*SMALL, "--objective", "speed"), "objective"),
    "limit 0": ((*SMALL, "--max-latency", "0"), "max_latency"),
    "limit nan": ((*SMALL, "--max-latency", "nan"), "max_latency"),
    "limit a word": ((*SMALL, "--max-latency", "soon"), "soon"),
    "negative price": ((*SMALL, "--cost-per-gpu-hour", "-1"), "cost_per_gpu_hour"),
    "cost at no price": ((*SMALL, "--objective", "cost", "--cost-per-gpu-hour", "0"), "cost-per-gpu-hour"),
    "prompt 0": ((*SMALL[:5], "--prompt-len", "0"), "prompt_len"),
    "context too long": ((*SMALL[:5], "--prompt-len", "4096"), "2048"),
    "encoder": (("policy", "--model", "bert-base-uncased", "--gpu", "t4", "--gen-len", "4"), "bert"),
    "plot of another kind": ((*SMALL, "--plot", "front.pdf"), ".png"),
    "plot without a name": ((*SMALL, "--plot", ""), "--plot"),
    "plot without a folder": ((*SMALL, "--plot", "nowhere/front.png"), "nowhere"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_line_and_exit_2(llm_perf, case):
    if "folder" in case:
        pytest.importorskip("matplotlib")
    arguments, words = BAD[case]
    assert words.lower() in llm_perf(*arguments).error.lower().replace("--max-latency", "max_latency")


@pytest.mark.parametrize("system", ["flexgen", "zero_inference"])
@pytest.mark.parametrize("gpus", [("--num-gpus", "4"), ("--num-nodes", "4")])
def test_several_gpus_replay_in_infer_and_fit_no_less(llm_perf, folder, system, gpus):
    found = llm_perf(*BASE, *gpus, "--system", system, "--json").json
    assert found["question"]["num_gpus"] * found["question"]["num_nodes"] == 4
    Path("found.json").write_text(json.dumps(found))
    again = llm_perf("infer", "--config", "found.json", "--json").json
    assert again["feasible"]
    assert again["total"]["latency_s"] == found["latency_s"]
    assert again["total"]["throughput_tokens_per_s"] == found["throughput_tokens_per_s"]
    words = printed_command(llm_perf(*BASE, *gpus, "--system", system).out)
    printed = llm_perf(*words[1:], "--json").json
    assert printed["total"]["latency_s"] == found["latency_s"]
    one = llm_perf(*BASE, "--system", system, "--json").json
    assert found["throughput_tokens_per_s"] > one["throughput_tokens_per_s"]


def test_the_searched_pipeline_is_no_slower_than_the_published_one(llm_perf):
    """FlexGen's paper, table 3: OPT-30B on four machines with one T4 each, 64 x 3, four micro-batches."""
    four = ("--num-gpus", "1", "--num-nodes", "4")
    found = llm_perf(*BASE, *four, "--system", "flexgen", "--lossless", "--json").json
    policy = ("--percent", "20 80 0 100 0 100", "--gpu-batch-size", "64", "--num-gpu-batches", "3")
    published = llm_perf(
        "infer", *BASE[1:], *four, "--system", "flexgen", "--pp-size", "4", *policy, "--json"
    ).json
    assert published["feasible"]
    assert found["throughput_tokens_per_s"] >= published["total"]["throughput_tokens_per_s"]


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (("--num-gpus", "0"), "num_gpus must be greater than 0"),
        (("--num-nodes", "-1"), "num_nodes must be greater than 0"),
        (("--num-gpus", "5"), "places for 4"),
    ],
)
def test_gpus_that_cannot_be_are_one_line(llm_perf, flags, says):
    outcome = llm_perf(*BASE, *flags)
    assert outcome.code == 2
    assert says in outcome.err
    assert outcome.err.count("\n") == 1


def test_the_best_policy_says_how_sure_it_is(llm_perf):
    asked = ("policy", "--model", "opt-30b", "--gpu", "t4", "--system", "zero_inference")
    found = llm_perf(*asked, "--json").json
    low, high = found["interval"]["total_latency_s"]
    assert low < found["latency_s"] < high
    assert found["no_interval"] is None
    assert "90% interval: total" in llm_perf(*asked).out


def test_systems_that_all_leaves_out_are_named_with_why(llm_perf):
    asked = ("policy", "--model", "opt-1.3b", "--gpu", "t4", "--prompt-len", "64", "--gen-len", "8")
    found = llm_perf(*asked)
    assert "searched: flexgen, zero_inference" in " ".join(found.out.split())
    assert "not searched: " in found.out
    said = llm_perf(*asked, "--json").json
    assert said["systems"] == ["flexgen", "zero_inference"]
    assert set(said["systems"]).isdisjoint(said["left_out"])
    assert {*said["systems"], *said["left_out"]} == {*searched_systems(), *dividing_systems()}
    assert "--system auto" in said["left_out"]["llama_cpp"]
    divided = llm_perf(*asked, "--system", "auto", "--json").json
    assert "flexgen" in divided["left_out"]
    assert llm_perf(*asked, "--system", "flexgen", "--json").json["left_out"] == {}
