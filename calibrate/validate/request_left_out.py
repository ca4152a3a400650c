"""Saturated runs as fits predict them that never saw their model, or their GPU: a table of docs/accuracy_requests.md."""

from __future__ import annotations

import csv
import io
import math
from collections import defaultdict
from collections.abc import Iterator
from importlib import resources
from typing import Final

LEFT_OUT: Final = "calibrate/measurements/requests/saturated_left_out.csv"
COLUMNS: Final = ("release", "without", "group", "row_id", "predicted_over_measured")
"""``bench/saturated_left_out.py`` writes them."""


def read_left_out() -> list[dict[str, str]]:
    """The lines that are committed."""
    text = (resources.files("calibrate") / LEFT_OUT.removeprefix("calibrate/")).read_text("utf-8")
    return list(csv.DictReader(io.StringIO(text)))


def left_out_table() -> Iterator[str]:
    """By version and what was left out: rows, gm and median; of all groups of a kind together, and of each."""
    found: dict[tuple[str, str, str], list[float]] = defaultdict(list)
    for line in read_left_out():
        ratio = math.log(float(line["predicted_over_measured"]))
        for group in ("each in turn", line["group"]):
            found[line["release"], line["without"], group].append(ratio)
    yield "| version | without | | rows | throughput gm | bias |"
    yield "| --- | --- | --- | --: | --: | --: |"
    for (release, kind, group), ratios in found.items():
        gm = math.exp(sum(map(abs, ratios)) / len(ratios))
        bias = math.exp(sorted(ratios)[len(ratios) // 2]) - 1
        yield f"| {release} | {kind} | {group} | {len(ratios)} | {gm:.3f} | {bias:+.0%} |"
