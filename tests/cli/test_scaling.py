"""llm-perf scaling as people meet it."""

import json
from pathlib import Path
from typing import Any

import pytest

BASE = ("scaling", "--model", "llama-2-13b", "--gpu", "a100-sxm-80gb")


def test_report_is_readable_at_80_columns(llm_perf: Any) -> None:
    outcome = llm_perf(*BASE, "--tp-sizes", "1,8", "--prompt-lens", "32,2048")
    assert outcome.code == 0
    assert max(map(len, outcome.out.splitlines())) <= 80
    assert "worthwhile" in outcome.out
    assert outcome.out.count("\n   8 ") == 3  # one row of thresholds, two of curves


def test_json_has_every_curve_and_equals_infer(llm_perf: Any) -> None:
    outcome = llm_perf(*BASE, "--tp-sizes", "2", "--prompt-lens", "64", "--batch-sizes", "1,16", "--json")
    found = json.loads(outcome.out)
    assert [curve["batch_size"] for curve in found["curves"]] == [[1, 16]]
    flags = ("--model", "llama-2-13b", "--gpu", "a100-sxm-80gb", "--tp-size", "2", "--prompt-len", "64")
    single = json.loads(llm_perf("infer", *flags, "--batch-size", "16", "--json").out)
    assert found["curves"][0]["latency_s"][1] == pytest.approx(single["total"]["latency_s"], rel=1e-12)
    assert found["thresholds"][0]["prefill_tokens"] == pytest.approx(single["pivot"]["prefill_tokens"])


@pytest.mark.parametrize("suffix", [".png", ".svg"])
def test_plot_is_a_picture(llm_perf: Any, tmp_path: Path, suffix: str) -> None:
    pytest.importorskip("matplotlib")
    file = tmp_path / f"curves{suffix}"
    outcome = llm_perf(*BASE, "--tp-sizes", "1,2", "--prompt-lens", "32", "--plot", str(file))
    assert outcome.code == 0
    assert file.read_bytes()[:5] in (b"\x89PNG\r", b"<?xml")
    assert [path.name for path in tmp_path.iterdir()] == [file.name]
    if suffix == ".svg":
        drawn = file.read_text()
        assert all(label in drawn for label in ("1 GPU<", "2 GPUs<", "80 % of its best throughput"))
        curves = json.loads(llm_perf(*BASE, "--tp-sizes", "1,2", "--prompt-lens", "32", "--json").out)[
            "curves"
        ]
        assert ("does not fit" in drawn) is not all(all(curve["fits"]) for curve in curves)


def test_numbers_of_gpus_that_cannot_divide_the_model_are_left_out(llm_perf: Any) -> None:
    found = json.loads(llm_perf(*BASE, "--tp-sizes", "3,4", "--json").out)
    assert {curve["tp_size"] for curve in found["curves"]} == {4}
    assert [entry["tp_size"] for entry in found["left_out"]] == [3]
    report = " ".join(llm_perf(*BASE, "--tp-sizes", "3,4").out.split())
    assert "Left out: tp_size 3 does not divide the 40 attention heads" in report


def test_where_nothing_fits_it_says_so(llm_perf: Any) -> None:
    outcome = llm_perf("scaling", "--model", "opt-175b", "--gpu", "t4", "--tp-sizes", "1")
    assert outcome.code == 3
    assert "does not fit" in outcome.out


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("scaling",), "--model is required"),
        ((*BASE, "--tp-sizes", "3"), "attention heads"),
        ((*BASE, "--tp-sizes", "a"), "whole numbers"),
        ((*BASE, "--batch-sizes", "0"), "whole numbers"),
        ((*BASE, "--prompt-lens", "100000"), "positions"),
        ((*BASE, "--plot", "x.pdf"), ".png"),
    ],
)
def test_bad_input_is_one_line_and_exit_2(llm_perf: Any, flags: tuple[str, ...], message: str) -> None:
    outcome = llm_perf(*flags)
    assert message in outcome.error
