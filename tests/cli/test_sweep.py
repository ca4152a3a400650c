"""`llm-perf sweep` as its user meets it: files, resuming, what does not fit, bad input."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
from importlib import resources
from pathlib import Path

import pytest

from llm_perf.search import sweep
from llm_perf.search.sweep import MEASURES

pytest.importorskip("pyarrow", reason="the extra 'explore' is not installed")

BASE = ("sweep", "--model", "opt-1.3b", "--gpu", "t4,l4", "--batch-size", "1:8:x2", "--gen-len", "1,32")
LARGE = (
    "sweep", "--model", "opt-1.3b", "--gpu", "t4,l4", "--batch-size", "1:20:1", "--prompt-len", "1:20:1",
    "--gen-len", "1:20:1", "--json",
)  # fmt: skip

HUGE = tuple(
    part for name in ("batch-size", "prompt-len", "gen-len") for part in (f"--{name}", "1:3000000:1")
)


def table(file: str):
    import pyarrow.parquet as pq

    return pq.read_table(file)


def test_three_formats_hold_the_same_points(llm_perf, folder):
    from pyarrow import csv

    for ending in ("parquet", "csv", "json"):
        outcome = llm_perf(*BASE, "--out", f"points.{ending}", "--json")
        assert outcome.code == 0
        assert outcome.json["out"] == f"points.{ending}"
    rows = table("points.parquet").to_pylist()
    assert len(rows) == 2 * 4 * 2
    assert json.loads(Path("points.json").read_text())["points"] == rows
    assert csv.read_csv("points.csv")["throughput_tokens_per_s"].to_pylist() == [
        row["throughput_tokens_per_s"] for row in rows
    ]
    assert sorted(path.name for path in Path().iterdir()) == ["points.csv", "points.json", "points.parquet"]


def test_points_equal_infer(llm_perf, folder):
    llm_perf(*BASE, "--out", "points.parquet")
    for row in table("points.parquet").to_pylist()[::5]:
        flags = (
            "--model",
            row["model"],
            "--gpu",
            row["gpu"],
            "--batch-size",
            row["batch_size"],
            "--gen-len",
            row["gen_len"],
        )
        found = llm_perf("infer", *map(str, flags), "--json").json
        assert row["total_latency_s"] == pytest.approx(found["total"]["latency_s"], rel=1e-12)
        assert row["feasible"] == found["feasible"]


def test_report_at_80_columns(llm_perf, folder):
    outcome = llm_perf(
        "sweep",
        "--model",
        "llama-2-70b",
        "--gpu",
        "a100-sxm*,h100*,t4",
        "--tp-size",
        "1:8:x2",
        "--quant-bits",
        "4,16",
    )
    assert outcome.code == 0
    assert all(len(line) <= 80 for line in outcome.out.splitlines())
    assert "more GPU memory needed than there is" in outcome.out
    assert "h100-sxm-80gb" in outcome.out


MANY = ("--system", "resident,vllm", "--quant-bits", "4,8,16", "--kv-bits", "8,16", "--prompt-len", "128,512")


@pytest.mark.parametrize(
    "more", [(), ("--pin-memory", "on,off", "--activation-bits", "16,32", "--sp-size", "1,2")]
)
def test_a_report_of_many_inputs_cuts_nothing_off(llm_perf, folder, more):
    """What the best have in common is said once; where the rest has no room for columns, it is in words."""
    ask = (
        "sweep",
        "--model",
        "llama-2-7b,opt-13b",
        "--gpu",
        "t4,h200",
        "--batch-size",
        "1,8",
        "--gen-len",
        "32,64",
    )
    outcome = llm_perf(*ask, *MANY, *more, "--top", "1200" if more else "20")
    assert all(len(line) <= 80 for line in outcome.out.splitlines())
    assert "\u2026" not in outcome.out
    assert ("all with gpu h200" in outcome.out) != bool(more)
    best = llm_perf(*ask, *MANY, *more, "--json").json["best"][0]
    assert f"{best['throughput_tokens_per_s']:,.0f}" in outcome.out
    assert ("llama-2-7b, h200, batch 8, gen 64" in outcome.out) == bool(more)


def test_a_measure_that_nothing_has_ranks_nothing(llm_perf, folder):
    ask = ("sweep", "--model", "opt-1.3b", "--gpu", "t4", "--gen-len", "1", "--best", "latency_per_token_s")
    outcome = llm_perf(*ask)
    assert outcome.code == 0
    assert "Nothing that fits has a latency_per_token_s." in outcome.out
    assert llm_perf(*ask, "--json").json["best"] == []


@pytest.mark.parametrize("measure", MEASURES)
def test_what_is_ranked_by_is_in_the_table(llm_perf, folder, measure):
    ask = (
        "sweep",
        "--model",
        "opt-30b",
        "--gpu",
        "t4",
        "--system",
        "zero_inference",
        "--batch-size",
        "1,4,16",
    )
    outcome = llm_perf(*ask, "--best", measure)
    kind = "most" if measure == "throughput_tokens_per_s" else "least"
    assert f"Best of what fits: {kind} {measure}" in outcome.out
    header = outcome.out[outcome.out.index("Best of what fits") :].splitlines()[2]
    words = {
        "decode_latency_s": "decode",
        "nvme_bytes": "NVMe",
        "weights_on_cpu": "on host",
        "cpu_memory_bytes": "memory",
    }
    assert words.get(measure, "batch") in header


@pytest.mark.parametrize(
    "more",
    [
        (
            "--gpu",
            "t4",
            "--ds-zero",
            "3",
            "--quant-bits",
            "4,16",
            "--pin-memory",
            "off",
            "--batch-size",
            "4,8",
        ),
        ("--gpu", "t4", "--system", "flexgen", "--percent", "20 80 0 100 0 100", "--gpu-batch-size", "4,8"),
        ("--gpu", "my gpu.yaml", "--host", "gcp-t4", "--tp-size", "4,8", "--gen-len", "5,50"),
    ],
)
def test_the_best_point_replays(llm_perf, folder, more):
    """By the command in the report, and by its inputs in the object."""
    gpu = (resources.files("hardware_specs") / "gpus" / "a100-sxm-80gb.yaml").read_text("utf-8")
    Path("my gpu.yaml").write_text(gpu.replace("name: A100-SXM-80GB", "name: Mine"))
    ask = ("sweep", "--model", "opt-30b", *more)
    best = llm_perf(*ask, "--json").json["best"][0]
    Path("inputs.json").write_text(json.dumps(best["inputs"]))
    out = llm_perf(*ask).out
    command = shlex.split(out[out.index("llm-perf infer") :].replace("\\\n", ""))[1:]
    for again in (
        llm_perf(*command, "--json").json,
        llm_perf("infer", "--config", "inputs.json", "--json").json,
    ):
        assert again["total"]["latency_s"] == best["total_latency_s"]
        assert again["total"]["throughput_tokens_per_s"] == best["throughput_tokens_per_s"]


def test_nothing_fits_is_exit_3_with_the_reasons(llm_perf, folder):
    outcome = llm_perf("sweep", "--model", "opt-175b", "--gpu", "t4,l4", "--json")
    assert outcome.code == 3
    assert outcome.json["infeasible"] == {"more GPU memory needed than there is": 2}
    assert outcome.json["best"] == []


def test_listed_points(llm_perf, folder):
    Path("points.csv").write_text("tp-size,quant-bits\n1,4\n2,\n")
    Path("points.yaml").write_text(
        "points:\n- {tp_size: 1, quant_bits: 4}\n- {tp_size: 2, quant_bits: null}\n"
    )
    ask = ("sweep", "--model", "llama-2-7b", "--gpu", "a100-sxm-80gb", "--json")
    found = [llm_perf(*ask, "--points", file).json for file in ("points.csv", "points.yaml")]
    assert found[0]["best"] == found[1]["best"]
    assert sorted((row["tp_size"], row["quant_bits"]) for row in found[0]["best"]) == [(1, 4), (2, None)]


CUT = """
import os, signal, sys
from llm_perf.cli.main import main
from llm_perf.search import executors, sweep

sweep.CHUNK_POINTS = int(sys.argv[1])
whole = executors.local

def cut(question, chunks):
    for number, result in enumerate(whole(question, chunks)):
        if number == 3:
            os.kill(os.getpid(), int(sys.argv[2]))
        yield result

executors.local = cut
sys.exit(main(sys.argv[3:]))
"""
"""Runs the command in small chunks, and sends itself a signal when three of them are done."""


@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGKILL])
def test_an_interrupted_sweep_goes_on_without_loss(llm_perf, folder, monkeypatch, end):
    monkeypatch.setattr(sweep, "CHUNK_POINTS", 1000)
    wanted = llm_perf(*LARGE, "--out", "whole.parquet").json
    command = [sys.executable, "-c", CUT, "1000", str(int(end)), *LARGE, "--out", "cut.parquet"]
    process = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert process.stdout == ""
    assert not Path("cut.parquet").exists()
    if end == signal.SIGINT:
        assert process.returncode == 130
        assert "the same command goes on" in process.stderr
        assert "Traceback" not in process.stderr
    else:
        assert process.returncode == -end
    kept = Path("cut.parquet.partial")
    assert sorted(path.name for path in kept.glob("chunk-*.arrow")) == [
        f"chunk-{n:08d}.arrow" for n in range(3)
    ]

    refused = llm_perf(*LARGE[:-3], "--gen-len", "1:5:1", "--json", "--out", "cut.parquet")
    assert "unfinished sweep of other inputs" in refused.error

    outcome = llm_perf(*LARGE, "--out", "cut.parquet")
    assert "of which 3 of 16 parts are done" in outcome.err
    for key in ("evaluated", "feasible", "infeasible", "best"):
        assert outcome.json[key] == wanted[key]
    assert table("cut.parquet").equals(table("whole.parquet"))
    assert not kept.exists()


@pytest.mark.parametrize("left", [0, 10, 1000, -1])
def test_a_chunk_that_was_cut_short_is_evaluated_again(llm_perf, folder, monkeypatch, left):
    """As a power cut leaves it: the file is there, and its end is not."""
    monkeypatch.setattr(sweep, "CHUNK_POINTS", 1000)
    wanted = llm_perf(*LARGE, "--out", "whole.parquet").json
    command = [sys.executable, "-c", CUT, "1000", str(int(signal.SIGKILL)), *LARGE, "--out", "cut.parquet"]
    subprocess.run(command, capture_output=True, timeout=300, check=False)
    part = Path("cut.parquet.partial/chunk-00000001.arrow")
    part.write_bytes(part.read_bytes()[:left])
    outcome = llm_perf(*LARGE, "--out", "cut.parquet")
    assert "of which 2 of 16 parts are done" in outcome.err
    for key in ("evaluated", "feasible", "infeasible", "best"):
        assert outcome.json[key] == wanted[key]
    assert table("cut.parquet").equals(table("whole.parquet"))


@pytest.mark.parametrize("harm", ["swapped", "overwritten"])
def test_a_chunk_that_is_not_what_was_written_is_evaluated_again(llm_perf, folder, monkeypatch, harm):
    """Both leave files of the right length with the right columns."""
    monkeypatch.setattr(sweep, "CHUNK_POINTS", 1000)
    wanted = llm_perf(*LARGE, "--out", "whole.parquet").json
    command = [sys.executable, "-c", CUT, "1000", str(int(signal.SIGKILL)), *LARGE, "--out", "cut.parquet"]
    subprocess.run(command, capture_output=True, timeout=300, check=False)
    first, second = (Path(f"cut.parquet.partial/chunk-{n:08d}.arrow") for n in (0, 1))
    if harm == "swapped":
        held = first.read_bytes()
        first.write_bytes(second.read_bytes())
        second.write_bytes(held)
    else:
        content = bytearray(first.read_bytes())
        middle = len(content) // 2
        content[middle : middle + 64] = bytes(64 * [63])
        first.write_bytes(content)
    Path("cut.parquet.partial/chunk-00000005.arrow.4711.part").write_bytes(b"half a chunk")
    Path("cut.parquet.4711.part").write_bytes(b"half a file")
    outcome = llm_perf(*LARGE, "--out", "cut.parquet")
    assert f"of which {1 if harm == 'swapped' else 2} of 16 parts are done" in outcome.err
    assert outcome.json["best"] == wanted["best"]
    assert table("cut.parquet").equals(table("whole.parquet"))
    assert sorted(path.name for path in Path().iterdir()) == ["cut.parquet", "whole.parquet"]


def test_two_sweeps_into_one_file(llm_perf, folder):
    fcntl = pytest.importorskip("fcntl")
    Path("points.csv.partial").mkdir()
    with Path("points.csv.partial/lock").open("ab") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        refused = llm_perf(*BASE, "--out", "points.csv")
        assert "another sweep is writing it" in refused.error
        assert not Path("points.csv").exists()
    assert llm_perf(*BASE, "--out", "points.csv").code == 0


def test_a_link_to_a_name_of_no_format_has_the_links_format(llm_perf, folder):
    Path("latest.csv").symlink_to("2026-12-01")
    assert llm_perf(*BASE, "--out", "latest.csv").code == 0
    assert Path("2026-12-01").read_text().startswith('"')
    assert sorted(file.name for file in Path().iterdir()) == ["2026-12-01", "latest.csv"]


def test_what_is_no_ordinary_file_is_refused_before_anything_is_evaluated(llm_perf, folder):
    os.mkfifo("pipe")
    Path("link.csv").symlink_to("pipe")
    said = llm_perf(*BASE, "--out", "link.csv")
    assert said.code == 2
    assert said.err.strip() == "llm-perf: --out 'link.csv': pipe is no ordinary file"
    assert Path("pipe").is_fifo()
    assert sorted(file.name for file in Path().iterdir()) == ["link.csv", "pipe"]


def test_a_name_that_is_no_text_is_refused_before_anything_is_written(llm_perf, folder):
    """As an ASCII locale has names with umlauts."""
    said = llm_perf(*BASE, "--out", "m\udcc3\udcb6.csv")
    assert said.code == 2
    assert "the name is no text in this locale" in said.err
    assert list(folder.iterdir()) == []


def test_a_link_keeps_pointing_at_what_is_written(llm_perf, folder):
    Path("target.csv").write_text("old")
    Path("link.csv").symlink_to("target.csv")
    assert llm_perf(*BASE, "--out", "link.csv").code == 0
    assert Path("link.csv").is_symlink()
    assert "tpot" in Path("target.csv").read_text()


def test_a_range_without_a_step_has_step_1(llm_perf, folder):
    asked = [*BASE]
    one = llm_perf(*asked, "--batch-size", "1:20", "--json")
    assert one.json["evaluated"] == llm_perf(*asked, "--batch-size", "1:20:1", "--json").json["evaluated"]


def test_a_name_that_a_spreadsheet_would_compute_is_text(llm_perf, folder):
    from importlib import resources

    text = (resources.files("hardware_specs") / "gpus" / "t4-16gb.yaml").read_text("utf-8")
    Path("=2+3.yaml").write_text(text)
    asked = ["sweep", "--model", "opt-1.3b", "--gpu", "=2+3.yaml", "--batch-size", "1,2"]
    assert llm_perf(*asked, "--out", "points.csv").code == 0
    assert "'=2+3.yaml" in Path("points.csv").read_text()
    assert '"=2+3' not in Path("points.csv").read_text()


def test_a_spec_that_was_edited_since_is_another_sweep(llm_perf, folder, monkeypatch):
    monkeypatch.setattr(sweep, "CHUNK_POINTS", 1000)
    text = (resources.files("hardware_specs") / "gpus" / "t4-16gb.yaml").read_text("utf-8")
    Path("mine.yaml").write_text(text)
    asked = [part.replace("t4,l4", "mine.yaml") for part in LARGE]
    command = [sys.executable, "-c", CUT, "1000", str(int(signal.SIGKILL)), *asked, "--out", "cut.csv"]
    subprocess.run(command, capture_output=True, timeout=300, check=False)
    Path("mine.yaml").write_text(text.replace("tdp_w: 70", "tdp_w: 75"))
    assert "specs that have changed" in llm_perf(*asked, "--out", "cut.csv").error
    Path("mine.yaml").write_text(text)
    assert "of which 3 of 8 parts are done" in llm_perf(*asked, "--out", "cut.csv").err


@pytest.mark.parametrize("more", [(), ("--restart",)])
def test_a_folder_of_someone_else_is_left_alone(llm_perf, folder, more):
    Path("points.csv.partial").mkdir()
    Path("points.csv.partial/mine.txt").write_text("precious")
    assert "is in the way" in llm_perf(*BASE, "--out", "points.csv", *more).error
    assert Path("points.csv.partial/mine.txt").read_text() == "precious"


def test_restart_throws_away_what_there_was(llm_perf, folder):
    Path("points.csv.partial").mkdir()
    Path("points.csv.partial/sweep.json").write_text('{"llm_perf": "0.0.1"}')
    assert "--restart" in llm_perf(*BASE, "--out", "points.csv").error
    assert llm_perf(*BASE, "--out", "points.csv", "--restart").code == 0


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--gpu", "t4"), "--model is required"),
        (("--model", "opt-13b"), "--gpu is required"),
        (("--model", "opt-13b", "--gpu", "nothing*"), "matches no bundled GPU"),
        (("--model", "opt-13b", "--gpu", "t4", "--batch-size", "1:8:"), "--batch-size"),
        (("--model", "opt-13b", "--gpu", "t4", "--batch-size", "0,1"), "positive integer"),
        (("--model", "opt-13b", "--gpu", "t4", "--gen-len", "-5"), "positive integer"),
        (("--model", "opt-13b", "--gpu", "t4", "--kv-offload", "maybe"), "on, off or both"),
        (("--model", "opt-13b", "--gpu", "t4", "--flops-efficiency", "high"), "no number"),
        (("--model", "opt-13b", "--gpu", "t4", "--out", "points.xlsx"), "--out"),
        (("--model", "opt-13b", "--gpu", "t4", "--out", "nowhere/points.csv"), "no folder"),
        (("--model", "opt-13b", "--gpu", "t4", "--out", f"{'x' * 300}.csv"), "name too long"),
        (("--model", "opt-13b", "--gpu", "t4", "--executor", "cloud"), "--executor"),
        (("--model", "opt-13b", "--gpu", "t4", "--top", "-1"), "--top"),
        (("--model", "opt-13b", "--gpu", "t4", "--best", "beauty"), "--best"),
        (("--model", "opt-13b", "--gpu", "t4", "--points", "nothing.csv"), "nothing.csv"),
        (("--model", "opt-13b", "--gpu", "t4", "--points", "bad.csv"), "bad.csv: line 1"),
        (("--model", "opt-13b", "--gpu", "t4", "--points", "bad.yaml"), "list of mappings"),
        (("--model", "opt-13b", "--gpu", "t4", "--points", "empty.csv"), "has no points"),
        (("--model", "opt-13b,nothing", "--gpu", "t4"), "unknown model 'nothing'"),
        (("--model", "opt-13b", "--gpu", "t4,v100"), "ambiguous"),
        (("--model", "opt-13b", "--gpu", "t4", "--system", "resident,nothing"), "unknown system"),
        (("--model", "opt-13b", "--gpu", "t4", "--host", "nothing"), "unknown host"),
        (("--model", "opt-13b", "--gpu", "t4", "--profile", "nothing"), "unknown profile"),
        (("--model", "opt-13b", "--gpu", "t4", "--draft-model", "nothing"), "unknown model"),
        (("--model", "opt-13b", "--gpu", "t4", "--quant-bits", "4,5"), "quant_bits must be 4, 8 or 16"),
        (("--model", "opt-13b", "--gpu", "t4", "--tp-size", "0,1"), "tp_size must be greater than 0"),
        (("--model", "opt-13b", "--gpu", "t4", "--batch-size", "10000000000000"), "batch_size must be"),
        (("--model", "opt-13b", "--gpu", "t4", *HUGE), "2.7e+19 points"),
    ],
)
def test_bad_input_is_one_line(llm_perf, folder, arguments, said):
    Path("bad.csv").write_text("tp-size,colour\n1,red\n")
    Path("bad.yaml").write_text("points: 5\n")
    Path("empty.csv").write_text("tp-size\n")
    before = sorted(Path().iterdir())
    assert said in llm_perf("sweep", *arguments).error
    assert sorted(Path().iterdir()) == before


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("p.csv", "tp-size\n1:8:x2\n", "line 2: tp_size '1:8:x2': a cell holds one value"),
        ("p.csv", 'kv-offload\n"on,off"\n', "a cell holds one value"),
        ("p.csv", "tp-size,tp_size\n1,2\n", "tp_size occurs twice"),
        ("p.csv", "tp-size,pp-size\n1,2\n\n1\n", "line 4: 1 cells"),
        ("p.csv", "tp-size\n1\n\ntwo\n", "line 4: tp_size 'two' is no whole number"),
        ("p.yaml", "points: [{tp_size: [1]}]", "tp_size must be a valid integer, got [1]"),
        ("p.yaml", "points: [{prompt_len: long}]", "prompt_len must be a positive integer"),
        ("p.yaml", "points: [{prompt_len: true}]", "prompt_len must be a positive integer"),
        ("p.json", '{"points": [{"batch_size": 1e400}]}', "batch_size must be a positive integer"),
        ("p.json", '{"points": [{"batch_size": 1, "gpu_batch_size": 1}]}', "not both"),
    ],
)
def test_faults_of_a_points_file_are_one_line(llm_perf, folder, name, content, said):
    Path(name).write_text(content)
    assert said in llm_perf("sweep", "--model", "opt-1.3b", "--gpu", "t4", "--points", name).error


def test_empty_cells_are_defaults_and_a_byte_order_mark_is_none_of_the_name(llm_perf, folder):
    Path("points.csv").write_text("\ufefftp-size,gen-len\n1,\n,7\n", encoding="utf-8")
    rows = llm_perf("sweep", "--model", "opt-1.3b", "--gpu", "t4", "--points", "points.csv", "--json").json[
        "best"
    ]
    assert sorted((row["gen_len"], row["tp_size"]) for row in rows) == [(7, None), (32, 1)]


def test_a_file_needs_the_extra(llm_perf, folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    assert "llm-perf[explore]" in llm_perf(*BASE, "--out", "points.parquet").error
    assert llm_perf(*BASE).code == 0
