"""Figures that pages state in words or tables of their own: each is held to what it is from."""

from __future__ import annotations

import csv
import json
import re
import shlex
from pathlib import Path

import pytest

from llm_perf.cli.main import run
from llm_perf.report.units import seconds

ROOT = Path(__file__).parents[2]
PREDICTIONS = ROOT / "calibrate" / "measurements" / "predictions.csv"


def page(name: str) -> str:
    return (ROOT / "docs" / name).read_text("utf-8")


def rows(text: str, after: str) -> list[list[str]]:
    """The body of the table whose head begins so."""
    table = text[text.index(after) :].partition("\n\n")[0].splitlines()[2:]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table]


def test_the_scoreboards_left_out_column_is_that_of_the_classes() -> None:
    of_class = {
        cells[0]: f"{cells[5]} ({cells[2]})"
        for cells in rows(page("accuracy.md"), "| class | left out | runs |")
        if cells[1] == "gpu"
    }
    shown = {cells[0]: cells[3] for cells in rows(page("scoreboard.md"), "| class | rows | llm-perf |")}
    compared = {name: shown[name] for name in of_class if name != "training"}
    assert compared == {name: of_class[name] for name in compared}
    assert len(compared) == 7


def test_the_scoreboards_rows_of_flexgen_are_predicted_so() -> None:
    known = {
        row["measured"]: (row["predicted"], float(row["ratio"]))
        for row in csv.DictReader(PREDICTIONS.read_text("utf-8").splitlines())
        if row["quantity"] == "throughput_tokens_per_s" and row["row_id"] in ("7", "8", "9")
    }
    for _, measured, _, shown in rows(page("scoreboard.md"), "| row | measured | FlexGen"):
        predicted, ratio = known[measured.split()[0]]
        value, error = re.fullmatch(r"([\d.]+) \((.*) %\)", shown).groups()  # type: ignore[union-attr]
        assert value == predicted
        assert float(error) == pytest.approx(100 * (ratio - 1), abs=0.051)


def test_the_scoreboards_traces_are_those_of_their_page() -> None:
    text = page("accuracy_requests.md")
    for (_, *shown), trace in zip(
        rows(page("scoreboard.md"), "| trace | TTFT | TPOT | E2E |"),
        ("llama-3.1-8b", "qwen3-32b-tp2"),
        strict=True,
    ):
        own = text[text.index(f"### vllm-0.19-{trace}") :]
        errors = [
            re.search(rf"^\| {name} \|[^|]*\|[^|]*\| ([-+][\d.]+)% ", own, re.MULTILINE)[1]  # type: ignore[index]
            for name in ("TTFT", "TPOT", "E2E")
        ]
        assert [value.removesuffix(" %") for value in shown] == errors


def test_what_each_option_does_alone(capsys: pytest.CaptureFixture[str]) -> None:
    text = page("workload_options.md")
    command = re.search(r"^\$ llm-perf (.*?) \\$", text, re.MULTILINE)
    assert command is not None
    found = rows(text, "| option | prefill | per token |")
    for option, prefill, per_token in found:
        flags = [] if option == "none" else shlex.split(option.strip("`"))
        assert run([*shlex.split(command[1]), *flags, "--json"]) == 0
        result = json.loads(capsys.readouterr().out)
        assert [seconds(result["ttft_s"]), seconds(result["tpot_s"])] == [prefill, per_token], option
    assert len(found) == 4
