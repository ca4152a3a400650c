"""What the README shows is what the commands print."""

from __future__ import annotations

import math
import re
import shlex
from pathlib import Path

import pytest

from calibrate.evidence.hybrid_rows import left_out_lines
from calibrate.evidence.published import load_measurements
from calibrate.evidence.settings import run_of, scenario_of
from llm_perf.analysis.evidence import ANY, RESIDENT, evidence_of
from llm_perf.analysis.inference import predict_inference
from llm_perf.cli.main import run

README = Path(__file__).parents[2] / "README.md"
_BLOCK = re.compile(
    r"^```console\n\$ llm-perf (?P<command>[^\n]*)\n(?P<shown>.*?)^```", re.MULTILINE | re.DOTALL
)
BLOCKS = [(match["command"], match["shown"]) for match in _BLOCK.finditer(README.read_text("utf-8"))]


def _lines(text: str) -> list[str]:
    return [line.rstrip() for line in text.rstrip().splitlines()]


def test_the_demo_comes_first() -> None:
    assert BLOCKS[0][0] == "infer --model opt-175b --gpu t4 --ds-zero 3"


@pytest.mark.parametrize(("command", "shown"), BLOCKS, ids=[command for command, _ in BLOCKS])
def test_shown_output_is_printed(command: str, shown: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A line of one ellipsis first or last says that more is printed there; everything else is as a whole."""
    run(shlex.split(command))
    printed = _lines(capsys.readouterr().out)
    wanted = _lines(shown)
    before, after = wanted[0] == "…", wanted[-1] == "…"
    excerpt = wanted[before : len(wanted) - after]
    starts = range(len(printed)) if before else (0,)
    ends = [at + len(excerpt) for at in starts if printed[at : at + len(excerpt)] == excerpt]
    assert ends
    assert before or after or ends == [len(printed)]


def test_it_is_short_and_what_was_left_out_stands_before_what_was_fitted() -> None:
    lines = README.read_text("utf-8").splitlines()
    assert len(lines) <= 140
    first_picture = next(number for number, line in enumerate(lines) if line.startswith("!["))
    assert first_picture <= 80  # two screens
    text = "\n".join(lines)
    assert text.index("without the model") < text.index("$ llm-perf validate")


def test_it_asks_one_thing_of_each_kind() -> None:
    assert [command.split()[0] for command, _ in BLOCKS] == [
        "infer",
        "infer",
        "simulate",
        "train",
        "validate",
    ]


def test_the_intervals_that_are_quoted_are_those_of_today() -> None:
    """They move with every refit, and with every run that is added."""
    text = README.read_text("utf-8")
    quoted = text[text.index("**Every prediction has a 90 % interval") :].partition("\n\n")[0]
    wanted = (
        ("zero_inference", "offload-cpu", "model", 2), ("zero_inference", "offload-cpu", "gpu", 2),
        ("vllm", "resident-tp", "model", 2), (ANY, RESIDENT, "gpu", 2), ("llama_cpp", "edge", "model", 2),
        ("resident", "resident-tp", "system", 1),
    )  # fmt: skip
    for system, name, leave_out, digits in wanted:
        entry = evidence_of(system, name, "nvidia")
        assert entry is not None
        width = entry.left_out[leave_out].total
        assert width is not None
        assert f"{math.exp(width):.{digits}f}" in quoted, (system, name, leave_out)


def test_runs_that_are_held_against_predictions_are_predicted_so_today() -> None:
    text = (README.parent / "docs" / "questions" / "sure.md").read_text("utf-8")
    rows = {row.row_id: row for row in load_measurements()}
    wanted = (
        (1507, "total", 202.0, 1), (1508, "total", 204.0, 1), (1509, "total", 205.0, 1), (1504, "total", 5008.0, 1),
        (4, "rate", 9.28, 1), (623, "prefill", 63.17, 1e3), (623, "step", 22.0, 1e3),
    )  # fmt: skip
    shown = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in text[text.index("| run | measured") :].partition("\n\n")[0].splitlines()[2:]
    ]
    assert len(shown) == len(wanted)
    for (row_id, what, measured, scale), (_, stated, predicted, error) in zip(wanted, shown, strict=True):
        result = predict_inference(scenario_of(run_of(rows[row_id])))
        values = {
            "total": result.total_latency_s, "rate": result.total_throughput_tokens_per_s,
            "prefill": result.ttft_s, "step": result.tpot_s,
        }  # fmt: skip
        value = values[what]
        assert value is not None
        assert float(stated.split()[0].replace(",", "")) == measured
        assert predicted.split()[0] == (
            f"{value * scale:,.0f}" if value * scale >= 100 else f"{value * scale:.3g}"
        )
        assert error == f"{value * scale / measured - 1:+.1%}".replace("%", " %")


def test_figures_of_stacks_are_those_of_their_page() -> None:
    """The README shows some versions; every number of a line stands in that version's line of docs/accuracy_stacks.md."""
    text = README.read_text("utf-8")
    page = (README.parent / "docs" / "accuracy_stacks.md").read_text("utf-8").replace("**", "").splitlines()
    names = (
        "vllm@0.5",
        "vllm@0.10",
        "vllm@0.12",
        "vllm@0.15",
        "vllm@0.15-gddr7",
        "tensorrt_llm@0.9",
        "tensorrt_llm@1.1",
        "tensorrt_llm@1.2",
        "sglang@0.5",
        "deepspeed_mii@0.15",
    )
    shown = text[text.index("| stack | rows") :].partition("\n\n")[0].splitlines()[2:]
    for name, line in zip(names, shown, strict=True):
        of_page = [one.split() for one in page if one.startswith(f"| {name} |")]  # batches and closed loops
        figures = re.findall(r"(?<=\| )[\d.]+(?= \|)", line)
        assert len(figures) >= 3
        assert any(set(figures) <= set(one) for one in of_page), name


def test_figures_of_requests_are_those_of_their_page() -> None:
    """What the README says of requests over time in words is what docs/accuracy_requests.md shows."""
    said = " ".join(README.read_text("utf-8").split())
    page = (README.parent / "docs" / "accuracy_requests.md").read_text("utf-8")
    closed, others = (
        [cell.strip() for cell in line.split("|")][4]
        for start in ("| closed loop | TTFT gm", "| rate, all at once | TTFT gm")
        for line in page.splitlines()
        if line.startswith(start)
    )
    tpot = re.search(r"\| closed loop \| TPOT gm \| [\d.]+ \| ([\d.]+) ", page)
    assert tpot is not None
    assert f"factor of {tpot[1]} in closed loops" in said
    assert f"TTFT by {float(closed):.1f} there and {float(others):.1f} elsewhere" in said
    errors = {
        name: re.findall(rf"^\| {name} \|[^|]*\|[^|]*\| ([-+][\d.]+)%", page, re.MULTILINE)
        for name in ("TPOT", "TTFT")
    }
    first, second, without = (abs(round(float(error))) for error in errors["TTFT"])
    assert (
        f"TTFT {second} and {first} %; of the second {abs(round(float(errors['TPOT'][2])))} and {without} %"
        in said
    )


def test_figures_of_training_are_those_of_their_pages() -> None:
    said = " ".join(README.read_text("utf-8").split())
    text = (README.parent / "docs" / "accuracy_training.md").read_text("utf-8").splitlines()
    at = next(number for number, line in enumerate(text) if line.startswith("| rows | shipped"))
    _, _, _, _, gpu, family = [cell.strip() for cell in text[at + 2].strip("|").split("|")]
    assert (
        f"off by {float(family):.2f} without the model's family and {float(gpu):.2f} without the GPU" in said
    )
    tuning = (README.parent / "docs" / "accuracy_tuning.md").read_text("utf-8").splitlines()
    memory, time = [line.split("|")[6].strip() for line in tuning if line.startswith("| all |")][:2]
    assert (
        f"peak memory {memory.replace('%', ' %')} off in the median, iterations {time.replace('%', ' %')}"
        in said
    )


def test_figures_of_hosts_are_those_of_the_fits_without_them() -> None:
    """On the README and on the page of hybrids, from the log ratios that the fits left."""
    said = " ".join(README.read_text("utf-8").split())
    page = " ".join((README.parent / "docs" / "systems" / "hybrid.md").read_text("utf-8").split())
    ratios: dict[str, list[tuple[float, float]]] = {}
    for line in left_out_lines():
        ratios.setdefault(line["phase"], []).append((float(line["shipped"]), float(line["left_out"])))
    found = {
        phase: [math.exp(sum(abs(one[which]) for one in ones) / len(ones)) for which in (0, 1)]
        for phase, ones in ratios.items()
    }
    (shipped, left), (prompts, prompts_left) = found["decode"], found["prefill"]
    assert f"fit are off by {left:.2f} and prompts by {prompts_left:.2f}" in said
    assert (
        f"decode {shipped:.2f}, prompts {prompts:.2f}; by fits without the host, {left:.2f} and {prompts_left:.2f}"
        in page
    )
    assert f"({len(ratios['decode'])} decode and {len(ratios['prefill'])} prompt rates" in page
