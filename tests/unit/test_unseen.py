"""Runs of others that nobody had seen: their page is what the files say, and the files what the program answers."""

from __future__ import annotations

import importlib.util
import shlex
from pathlib import Path

import pytest

spec = importlib.util.spec_from_file_location(
    "unseen_program", Path(__file__).parents[2] / "bench" / "unseen.py"
)
assert spec is not None
assert spec.loader is not None
program = importlib.util.module_from_spec(spec)
spec.loader.exec_module(program)  # no package: other programs import bench/bench.py by its name
KINDS, PAGE, PREDICTED, RUNS = program.KINDS, program.PAGE, program.PREDICTED, program.RUNS
answer, ask_all, figure, page, read = (
    program.answer,
    program.ask_all,
    program.figure,
    program.page,
    program.read,
)

LINES = read(RUNS)
TOLD = {line["id"]: line for line in read(PREDICTED)}
SAMPLE = [line for line in LINES if TOLD[line["id"]]["predicted"]][::41]


def test_the_page_is_what_the_files_say() -> None:
    assert PAGE.read_text("utf-8") == page(LINES, list(TOLD.values()))


def test_each_figure_has_a_page_a_command_and_a_kind() -> None:
    kinds = {quantity for names in KINDS.values() for quantity in names}
    for line in LINES:
        assert line["source"].startswith(("https://", "http://"))
        assert shlex.split(line["command"])[0] in ("infer", "simulate", "train")
        assert line["quantity"] in kinds
        assert float(line["measured"]) > 0
    assert list(TOLD) == [line["id"] for line in LINES]


def test_the_readme_says_what_was_answered_first() -> None:
    row = next(
        line for line in PAGE.read_text("utf-8").splitlines() if line.startswith("| as first answered")
    )
    _, _, figures, answered, _, median, within, inside, _, _ = (cell.strip() for cell in row.split("|"))
    text = " ".join((PAGE.parents[1] / "README.md").read_text("utf-8").split())
    assert (
        f"{answered} of {figures} figures were answered at once: half within a factor of {median}, {within} within 1.5"
        in text
    )
    assert f"{inside} inside the 90% interval" in text
    assert int(figures) == len(LINES)


@pytest.mark.parametrize("line", SAMPLE, ids=[line["id"] for line in SAMPLE])
def test_the_answers_are_those_of_today(line: dict[str, str]) -> None:
    """A few of them: all take minutes, and `python bench/unseen.py` asks them."""
    (found,) = ask_all([line])
    assert float(found["predicted"]) == pytest.approx(float(TOLD[line["id"]]["predicted"]), rel=1e-3)


def test_figures_are_those_that_benchmarks_print() -> None:
    found = answer(
        "infer --model llama-3.1-8b --gpu h100-sxm-80gb --system vllm --batch-size 4 --prompt-len 100 --gen-len 50"
    )
    total, prefill, decode = (found[part]["latency_s"] for part in ("total", "prefill", "decode"))
    whole = {"output_tok_s": 200, "total_tok_s": 600, "requests_s": 4}
    for quantity, counted in whole.items():
        told = figure(found, quantity)
        assert told is not None
        value, (low, high) = told
        assert value == pytest.approx(counted / total)
        assert low is not None
        assert high is not None
        assert low < value < high
    told = figure(found, "pp_tok_s")
    assert told is not None
    assert told[0] == pytest.approx(400 / prefill)
    between, rate = figure(found, "tpot_mean_ms"), figure(found, "tg_tok_s")
    assert between is not None
    assert rate is not None
    assert between[0] == pytest.approx(decode / 49 * 1e3, rel=1e-6)
    assert rate[0] * between[0] == pytest.approx(4e3)


def test_figures_of_training_are_one_step_counted_in_several_ways() -> None:
    found = answer(
        "train --model llama-3.1-8b --gpu h100-sxm-80gb --framework fsdp --num-gpus 8 --seq-len 4096"
        " --micro-batch-size 1 --global-batch-size 16"
    )
    told = {name: figure(found, name) for name in KINDS["training"]}
    values = {name: told[name][0] for name in told}
    assert values["train_tok_s"] * values["train_step_s"] == pytest.approx(16 * 4096)
    assert values["train_tok_s"] == pytest.approx(8 * values["train_tok_s_per_gpu"])
    flops = found["flops"]["model_flops_per_step"]
    assert values["train_tflops_per_gpu"] * values["train_step_s"] == pytest.approx(flops / 8 / 1e12)
    for value, (low, high) in told.values():
        assert low < value < high
    low, high = told["train_step_s"][1]
    assert told["train_tok_s"][1] == pytest.approx((16 * 4096 / high, 16 * 4096 / low))
    peak, (least, most) = figure(found, "train_peak_gib")
    assert least < peak < most
    assert peak == pytest.approx(found["memory"]["gpu"]["total_bytes"] / 2**30)


def test_what_is_refused_says_why() -> None:
    assert "unknown model" in answer("infer --model no-such-model --gpu t4")["refused"]
