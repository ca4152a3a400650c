"""Published runs of others that no constant was made with: asked as their pages state them, and how far off the answers are.

    python bench/unseen.py            asks all anew (a minute) and writes docs/accuracy_unseen.md
    python bench/unseen.py --check    writes nothing; 1 where the page is not what the files say

``runs.csv`` has one line per published figure: its page, the command that asks for it, and what was answered first,
by a version of which nobody had seen these pages. They were collected by one who had not read the code, in three sets;
settings that a page does not print stay at their defaults, so that a part of what is missed is not known rather than
wrong.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import io
import json
import math
import shlex
import statistics
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Final

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

FOLDER: Final = ROOT / "calibrate" / "measurements" / "unseen"
RUNS, PREDICTED = FOLDER / "runs.csv", FOLDER / "predicted.csv"
PAGE: Final = ROOT / "docs" / "accuracy_unseen.md"

Line = Mapping[str, str]
Ends = tuple[float | None, float | None]

_TIMES: Final = {
    "tpot_mean_ms": ("tpot_s", "mean", 1e3), "tpot_median_ms": ("tpot_s", "p50", 1e3), "itl_mean_ms": ("itl_s", "mean", 1e3),
    "ttft_mean_ms": ("ttft_s", "mean", 1e3), "ttft_median_ms": ("ttft_s", "p50", 1e3), "e2e_mean_s": ("e2e_s", "mean", 1.0),
}  # fmt: skip
_RATES: Final = {
    "output_tok_s": "output_tokens_per_s",
    "total_tok_s": "total_tokens_per_s",
    "requests_s": "requests_per_s",
}
KINDS: Final = {
    "time between tokens": ("tpot_mean_ms", "tpot_median_ms", "itl_mean_ms", "request_tok_s", "tg_tok_s"),
    "throughput of a server": tuple(_RATES),
    "first token, prompts": ("ttft_mean_ms", "ttft_median_ms", "pp_tok_s"),
    "whole request": ("e2e_mean_s",),
    "training": ("train_step_s", "train_tok_s", "train_tok_s_per_gpu", "train_tflops_per_gpu"),
    "memory of a training GPU": ("train_peak_gib",),
}


def answer(command: str) -> dict[str, Any]:
    """The JSON object that a command prints; ``refused`` where it prints none."""
    from llm_perf.cli.main import run

    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        run([*shlex.split(command), "--json"])
    if not out.getvalue():
        lines = err.getvalue().strip().splitlines()
        return {"refused": (lines or ["?"])[-1].removeprefix("llm-perf: ")}
    found: dict[str, Any] = json.loads(out.getvalue())
    return found


def figure(found: Mapping[str, Any], quantity: str) -> tuple[float, Ends] | None:
    """What is predicted of a quantity and the ends of its 90 % interval; None where nothing is."""
    if quantity.startswith("train"):
        return _of_training(found, quantity)
    return _of_requests(found, quantity) if "engine" in found else _of_batch(found, quantity)


def _of_training(found: Mapping[str, Any], quantity: str) -> tuple[float, Ends] | None:
    """A step of training, or its largest GPU's memory; what does not fit has no figure."""
    if not found.get("feasible") or not found.get("step"):
        return None
    if quantity == "train_peak_gib":
        peak = found["memory"]["peak"]
        low, high = (end / 2**30 for end in peak.get("interval_bytes") or (math.nan, math.nan))
        ends = (None, None) if math.isnan(low) else (low, high)
        return found["memory"]["gpu"]["total_bytes"] / 2**30, ends
    step, tokens = found["step"]["latency_s"], found["batch"]["tokens_per_step"]
    work = {
        "train_tok_s": tokens,
        "train_tok_s_per_gpu": tokens / found["num_gpus"],
        "train_tflops_per_gpu": found["flops"]["model_flops_per_s_per_gpu"] * step / 1e12,
    }
    slow_and_quick = (found.get("interval") or {}).get("step_latency_s")
    if quantity == "train_step_s":
        return step, (None, None) if slow_and_quick is None else tuple(slow_and_quick)
    ends = (
        (None, None)
        if slow_and_quick is None
        else (work[quantity] / slow_and_quick[1], work[quantity] / slow_and_quick[0])
    )
    return work[quantity] / step, ends


def _of_requests(found: Mapping[str, Any], quantity: str) -> tuple[float, Ends] | None:
    interval = found.get("interval") or {}
    if quantity in _RATES:
        name = _RATES[quantity]
        return found["throughput"][name], tuple((interval.get("throughput") or {}).get(name) or (None, None))
    if quantity == "request_tok_s":
        told = _of_requests(found, "tpot_mean_ms")
        if told is None:
            return None
        slow, quick = (None if end is None else 1e3 / end for end in reversed(told[1]))
        return 1e3 / told[0], (slow, quick)
    if quantity not in _TIMES:
        return None
    name, statistic, unit = _TIMES[quantity]
    value: float | None = found[name][statistic] if found.get(name) else None
    if value is None:
        return None
    ends = (interval.get("tpot_s" if name == "itl_s" else name) or {}).get(statistic) or (None, None)
    low, high = (None if end is None else end * unit for end in ends)
    return value * unit, (low, high)


def _of_batch(found: Mapping[str, Any], quantity: str) -> tuple[float, Ends] | None:
    if not found.get("feasible") or found.get("prefill") is None or found.get("decode") is None:
        return None
    asked, interval = found["inputs"], found.get("interval") or {}
    batch, prompt, generated = asked["batch_size"], asked["prompt_len"], asked["gen_len"]
    prefill, decode, whole = (found[part]["latency_s"] for part in ("prefill", "decode", "total"))

    def time(part: str, seconds: float, value: float, unit: float) -> tuple[float, Ends]:
        ends = interval.get(f"{part}_latency_s")
        return value * unit, (None, None) if ends is None else tuple(
            end / seconds * value * unit for end in ends
        )

    def rate(part: str, seconds: float, tokens: float) -> tuple[float, Ends]:
        ends = interval.get(f"{part}_latency_s")
        return tokens / seconds, (None, None) if ends is None else (tokens / ends[1], tokens / ends[0])

    token = found["tpot_s"]
    if quantity.startswith(("tpot", "itl")):
        return None if token is None else time("decode", decode, token, 1e3)
    if quantity in ("tg_tok_s", "request_tok_s"):
        sequences = batch if quantity == "tg_tok_s" else 1
        return None if token is None else rate("decode", decode, sequences * decode / token)
    if quantity.startswith("ttft"):
        return time("prefill", prefill, found["ttft_s"], 1e3)
    counted = {
        "output_tok_s": batch * generated,
        "total_tok_s": batch * (prompt + generated),
        "requests_s": batch,
    }
    if quantity == "pp_tok_s":
        return rate("prefill", prefill, batch * prompt)
    return (
        rate("total", whole, counted[quantity]) if quantity in counted else time("total", whole, whole, 1.0)
    )


def ask_all(runs: Iterable[Line]) -> list[dict[str, str]]:
    """What is predicted of every line, one command asked once."""
    answers: dict[str, dict[str, Any]] = {}
    lines = []
    for run in runs:
        if run["command"] not in answers:
            answers[run["command"]] = answer(run["command"])
        found = answers[run["command"]]
        told = None if "refused" in found else figure(found, run["quantity"])
        if told is None or told[0] is None:
            reason = found.get("refused") or found.get("reason") or "no such figure"
            lines.append({"id": run["id"], "predicted": "", "low": "", "high": "", "reason": reason})
            continue
        value, (low, high) = told
        ends = ("" if end is None else f"{end:.5g}" for end in (low, high))
        lines.append({"id": run["id"], "predicted": f"{value:.5g}", **dict(zip(("low", "high"), ends, strict=True)),
                      "reason": ""})  # fmt: skip
    return lines


def read(path: Path) -> list[dict[str, str]]:
    """The lines of one of the two files."""
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


# -- the page ----------------------------------------------------------------------------------------------------------


def page(runs: list[dict[str, str]], predicted: list[dict[str, str]]) -> str:
    """The page of both files."""
    told = {line["id"]: line for line in predicted}
    rows = [run | told[run["id"]] for run in runs]
    first = [
        row | {"predicted": row["first_predicted"], "low": row["first_low"], "high": row["first_high"]}
        for row in rows
    ]
    sources = len({row["source"] for row in rows})
    parts = [_HEAD.format(rows=len(rows), sources=sources, done=sum(1 for row in first if row["predicted"]))]
    parts.append(_table("", [("as first answered", first), ("by today's constants", rows)]))
    parts.append(_BY)
    parts.append(_table("engine", _groups(rows, _engine)))
    kinds = {quantity: kind for kind, names in KINDS.items() for quantity in names}
    parts.append(_table("quantity", _groups(rows, lambda row: kinds[row["quantity"]])))
    parts.append(_table("GPU's maker and kind", _groups(rows, _device)))
    parts.append(_FAR)
    far = sorted((row for row in rows if row["predicted"]), key=lambda row: -abs(_off(row)))[:20]
    parts.append("\n".join(f"- {math.exp(_off(row)):.2f}: `llm-perf {row['command']}`, {row['quantity']} {row['measured']} "
                           f"([page]({row['source']}))" for row in far))  # fmt: skip
    return "\n\n".join(parts) + "\n"


def _off(row: Line) -> float:
    return math.log(float(row["predicted"]) / float(row["measured"]))


def _groups(rows: list[dict[str, str]], key: Callable[[Line], str]) -> list[tuple[str, list[dict[str, str]]]]:
    found: dict[str, list[dict[str, str]]] = {}
    for row in rows:
        found.setdefault(key(row), []).append(row)
    return sorted(found.items(), key=lambda group: (-len(group[1]), group[0]))


def _option(row: Line, name: str) -> str:
    words = shlex.split(row["command"])
    return words[words.index(name) + 1] if name in words else ""


def _engine(row: Line) -> str:
    if row["command"].startswith("train "):
        return "training frameworks"
    return _option(row, "--system").partition("@")[0]


def _device(row: Line) -> str:
    name = _option(row, "--gpu").lower()
    if not name:
        return "CPU alone"
    makers = {
        "AMD Instinct": ("mi3", "mi2", "mi1", "mi5", "instinct"), "AMD Radeon": ("radeon", "rx ", "rx-"),
        "Apple": ("apple", "m4", "m3"), "Intel": ("arc", "gaudi"),
        "NVIDIA workstation and desktop": ("rtx", "gtx", "gb10", "jetson"),
    }  # fmt: skip
    return next(
        (kind for kind, words in makers.items() if any(word in name for word in words)), "NVIDIA server"
    )


def _table(title: str, groups: list[tuple[str, list[dict[str, str]]]]) -> str:
    lines = [
        f"| {title} | figures | answered | gm | median | within 1.5 | in the 90 % interval | its width, x/ |",
        "| --- | --: | --: | --: | --: | --: | --: | --: |",
    ]
    for name, rows in groups:
        done = [row for row in rows if row["predicted"]]
        off = [abs(_off(row)) for row in done]
        held = [row for row in done if row["low"] or row["high"]]
        inside = sum(_inside(row) for row in held)
        widths = [
            math.sqrt(float(row["high"]) / float(row["low"])) for row in held if row["low"] and row["high"]
        ]
        figures = ["-"] * 5
        if off:
            figures[0] = f"{math.exp(statistics.fmean(off)):.2f}"
            figures[1] = f"{math.exp(statistics.median(off)):.2f}"
            figures[2] = f"{sum(one <= math.log(1.5) for one in off) / len(off):.0%}"
        if held:
            figures[3] = f"{inside} of {len(held)}"
        if widths:
            figures[4] = f"{statistics.median(widths):.2f}"
        lines.append(f"| {name} | {len(rows)} | {len(done)} | " + " | ".join(figures) + " |")
    return "\n".join(lines)


def _inside(row: Line) -> bool:
    measured = float(row["measured"])
    return (not row["low"] or float(row["low"]) <= measured) and (
        not row["high"] or measured <= float(row["high"])
    )


_HEAD = """# Runs that nobody here had seen

The other pages leave a model or a GPU out of a table whose other rows a fit has seen. This one is harder, and nearer
to what you ask: {rows} figures from {sources} pages of benchmarks, issues, pull requests and blogs of 2023 to 2026,
collected by one who had not read the code and kept from those who write it until they were predicted, {done} of them
at once. Engines, versions, models and machines are as people publish them: nightly builds, forks, cards with a power
limit or on an adapter, lengths as means, settings that are not printed and stay at their defaults here.

Of 782 figures that were collected in three sets 92 do not print their lengths or load, or are of what no command asks (a
prompt behind others, a format that is not named), and 208 stand on
pages of projects that constants came from; no other was left out, none for being odd. Where a page says less than a
command needs it was chosen once for all: H100 and A100 are the SXM boards (A100 with 80 GB), a date stands for a
build of llama.cpp, a file of a mixture that is not known (UD-Q4_K_XL) is the usual one of its width, adapters whose
rank is not printed are of rank 16, and 4 bits under MLX are its own.

gm is the geometric mean of max(predicted / measured, measured / predicted); half of the figures are nearer than the
median. `python bench/unseen.py` asks all of them again (`calibrate/measurements/unseen/runs.csv` has each command and
its page)."""
_BY = """"As first answered" is by the version that had not seen them, which is the figure to trust; answers since then had
these pages in view. By what was asked, today:"""
_FAR = """## The farthest

Predicted over measured, today. Some are not what they seem (a request rate that was not printed, caches that were
warm, a card in a slot of one lane); which ones is not known, and none is taken out."""


def main() -> int:
    """Ask, write, print; with ``--check`` 1 where the page is another one."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--check", action="store_true")
    given = parser.parse_args()
    runs = read(RUNS)
    if given.check:
        same = PAGE.read_text("utf-8") == page(runs, read(PREDICTED))
        print("as the files say" if same else f"{PAGE.name} is another one: python bench/unseen.py")
        return int(not same)
    lines = ask_all(runs)
    with PREDICTED.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, ("id", "predicted", "low", "high", "reason"), lineterminator="\n")
        writer.writeheader()
        writer.writerows(lines)
    text = page(runs, lines)
    PAGE.write_text(text, "utf-8")
    print("\n".join(line for line in text.splitlines() if line.startswith("|"))[:2000])
    return 0


if __name__ == "__main__":
    sys.exit(main())
