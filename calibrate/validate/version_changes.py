"""What changes from one version of a stack to the next, as measured: what no prediction by another version can know.

Runs of two versions that are equal in all else say it without any prediction. Where two versions ran one deployment under
other loads, the loads are taken off by the constants of one of them. Nothing here goes into a prediction.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import fmean, pstdev
from typing import Final

from calibrate.evidence.published.names import version_of
from calibrate.evidence.ratios import gm
from calibrate.evidence.serving_rows import positive_number
from calibrate.fit.intervals import HeldWidth
from calibrate.validate.stacks import (
    OTHER_DEVICE,
    OTHER_SIDE,
    Line,
    device_width,
    gm_of,
    place_of,
    standing_in,
    unlisted_widths,
)
from llm_perf.systems.families import numbers

PAGE: Final = "docs/accuracy_versions.md"

Row = Mapping[str, str]

_EQUAL: Final = (
    "source_repo", "system", "model", "gpu", "gpu_count", "num_nodes", "tp", "pp", "ep", "weight_dtype", "act_dtype",
    "kv_dtype", "batch_size", "prompt_len_tok", "gen_len_tok", "throughput_def",
)  # fmt: skip
_DEPLOYMENT: Final = ("model", "gpu", "gpu_count", "weight_dtype")
_FEWEST: Final = 4
"""Pairs of rows below which a change from version to version is not shown."""


@dataclass(frozen=True)
class Change:
    """From one version to a later one: log of the later time over the earlier, by run or by deployment."""

    earlier: str
    later: str
    files: tuple[str, str]
    logs: tuple[float, ...]
    rows: int

    @property
    def ratio(self) -> float:
        """Geometric mean of later over earlier time."""
        return math.exp(fmean(self.logs))

    @property
    def gm(self) -> float:
        """Geometric mean of max(later / earlier, earlier / later)."""
        return gm(self.logs)

    @property
    def spread(self) -> float:
        """What is left of it once their mean is known: the factor of one standard deviation."""
        return math.exp(pstdev(self.logs))


def equal_runs(rows: Iterable[Row], lines: Iterable[Line]) -> list[Change]:
    """Changes between versions, each and the next that there is, by runs of one source that are equal in all else."""
    told = {line["row_id"]: line for line in lines if line["how"] == "shipped"}
    same: dict[tuple[str, ...], dict[str, list[tuple[str, float]]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        line, version = told.get(row["row_id"]), version_of(row["system"], row["system_version"])
        if line is None or version is None or (value := _log_time(row, line["quantity"])) is None:
            continue
        key = (*(row[column] for column in _EQUAL), line["quantity"])
        same[key][version].append((line["release"], value))
    found: dict[tuple[str, str, tuple[str, str]], list[float]] = defaultdict(list)
    for by in same.values():
        for earlier, later in pairwise(sorted(by, key=lambda version: (numbers(version), version))):
            files = (by[earlier][0][0], by[later][0][0])
            change = fmean(value for _, value in by[later]) - fmean(value for _, value in by[earlier])
            found[earlier, later, files].append(change)
    return [
        Change(earlier, later, files, tuple(logs), len(logs))
        for (earlier, later, files), logs in sorted(found.items(), key=lambda one: place_of(one[0][2][1]))
        if len(logs) >= _FEWEST
    ]


def _log_time(row: Row, quantity: str) -> float | None:
    """Log of a time, of a rate the negative."""
    value = positive_number(row[quantity])
    return None if value is None else math.log(value) * (-1 if quantity.endswith("_tok_s") else 1)


def equal_deployments(rows: Iterable[Row], lines: Sequence[Line]) -> list[Change]:
    """Changes between files of versions by deployments that both ran; the earlier one's constants take their loads off."""
    of = {row["row_id"]: tuple(row[column] for column in _DEPLOYMENT) for row in rows}
    fitted: dict[tuple[str, tuple[str, ...]], list[float]] = defaultdict(list)
    other: dict[tuple[str, str], dict[tuple[str, ...], list[float]]] = defaultdict(lambda: defaultdict(list))
    for line in lines:
        if (key := of.get(line["row_id"])) is None:
            continue
        if line["how"] == "shipped":
            fitted[line["release"], key].append(float(line["log_ratio"]))
        elif line["how"] in ("neighbour", OTHER_SIDE):
            other[line["group"], line["release"]][key].append(float(line["log_ratio"]))
    changes = []
    for (near, release), by in other.items():
        shared = {key: found for key, found in by.items() if (near, key) in fitted}
        if not shared or place_of(near) > place_of(release):
            continue
        logs = tuple(fmean(fitted[near, key]) - fmean(found) for key, found in shared.items())
        changes.append(Change(near, release, (near, release), logs, sum(map(len, shared.values()))))
    return sorted(changes, key=lambda one: place_of(one.later))


def between(lines: Iterable[Line]) -> Iterator[tuple[str, float, float, float]]:
    """Versions between two others: gm by the earlier, by the later, by the mean of both predictions' logarithms."""
    by: dict[str, dict[str, dict[tuple[str, str], float]]] = defaultdict(lambda: defaultdict(dict))
    for line in lines:
        if line["how"] in ("neighbour", OTHER_SIDE):
            key = line["row_id"], line["quantity"]
            by[line["release"]][line["group"]][key] = float(line["log_ratio"])
    for release in sorted(by, key=place_of):
        if len(by[release]) == 2:
            earlier, later = (by[release][name] for name in sorted(by[release], key=place_of))
            yield (
                release,
                gm(earlier.values()),
                gm(later.values()),
                gm((earlier[key] + later[key]) / 2 for key in earlier),
            )


# -- the page -------------------------------------------------------------------------------------------------


def page(rows: Sequence[Row], lines: Sequence[Line]) -> str:
    """docs/accuracy_versions.md."""
    return "\n".join(
        [
            _HEAD, *_neighbours(lines), "", _RUNS, *map(_row_of, equal_runs(rows, lines)), "",
            _DEPLOYMENTS, *map(_row_of, equal_deployments(rows, lines)), "", _BETWEEN, *_sides(lines), "",
            _DEVICES, *_devices(lines), "", _WIDTHS, *_widths(lines), "", _FOOT,
        ]
    )  # fmt: skip


def _neighbours(lines: Sequence[Line]) -> Iterator[str]:
    by: dict[str, dict[str, list[Line]]] = defaultdict(lambda: defaultdict(list))
    for line in lines:
        by[line["release"]][line["how"]].append(line)
    for release in sorted(by, key=place_of):
        near = standing_in(by[release])
        if near:
            cells = (gm_of(rows) for rows in (near, by[release]["model"], by[release]["shipped"]))
            figures = " | ".join("-" if math.isnan(cell) else f"{cell:.3f}" for cell in cells)
            yield f"| {release} | {len(near)} | {near[0]['group']} | {figures} |"


def _row_of(change: Change) -> str:
    first, last = change.files
    which = first if first == last else f"{first} to {last}"
    name = f"{which}: {change.earlier} to {change.later}" if change.earlier != first else which
    count = (
        str(change.rows) if len(change.logs) == change.rows else f"{len(change.logs)} ({change.rows} rows)"
    )
    return f"| {name} | {count} | {change.ratio:.3f} | {change.gm:.3f} | {change.spread:.3f} |"


def _sides(lines: Sequence[Line]) -> Iterator[str]:
    found = list(between(lines))
    mean = (gm(map(math.log, column)) for column in list(zip(*found, strict=True))[1:])
    for release, *figures in [*found, ("all", *mean)]:
        yield f"| {release} | " + " | ".join(f"{one:.3f}" for one in figures) + " |"


def _devices(lines: Sequence[Line]) -> Iterator[str]:
    by: dict[str, dict[str, list[Line]]] = defaultdict(lambda: defaultdict(list))
    for line in lines:
        if line["how"] in ("neighbour", OTHER_DEVICE):
            by[line["release"]][line["how"]].append(line)
    for release in sorted(by, key=place_of):
        if elsewhere := by[release].get(OTHER_DEVICE):
            cells = [release, str(len(elsewhere))]
            for found in (elsewhere, by[release].get("neighbour")):
                cells += [found[0]["group"], f"{gm_of(found):.3f}"] if found else ["-", "-"]
            yield "| " + " | ".join(cells) + " |"


def _widths(lines: Sequence[Line]) -> Iterator[str]:
    by: dict[tuple[HeldWidth, int], list[str]] = defaultdict(list)
    for name, found in unlisted_widths(lines).items():
        by[found].append(name)
    by[device_width(lines)].append("on a device with files of its own")
    for (width, versions), names in by.items():
        held = f"{width.held} of {width.tested} ({width.held / width.tested:.0%})"
        yield f"| {', '.join(names)} | {versions} | {math.exp(width.width):.2f} | {held} |"


_HEAD = """# What a neighbour cannot know

A version of a stack that does not ship is predicted by the nearest one that does. Here each range of versions is left out in
turn and predicted by what would stand for it; a file that inherits from it is fitted to its own rows alone first. What public
code says changed between the two is taken into account (`facts` of a family's `system.yaml`). A file for some devices is
stood in for by that of its version on all others. gm is the geometric mean of max(predicted / measured, measured /
predicted); 1.25 was aimed at. `python bench/stack_figures.py --beside` makes the predictions, `make accuracy` this page.

| version | rows | stands in | by it | without a model | fitted |
| --- | --: | --- | --: | --: | --: |"""
_RUNS = """## Equal runs

Runs of one source that are equal in model, GPU, parallelism, formats, requests in flight and lengths, and differ in version.
*Later / earlier* is the ratio of their times. Who knows the one version alone is off by the gm on such runs; who knew the
mean change too, by about the spread (one standard deviation). Where both versions are of one file, no constants of that file
come nearer to both than half of it.

| versions | pairs | later / earlier | gm | spread |
| --- | --: | --: | --: | --: |"""
_DEPLOYMENTS = """## Equal deployments

A model on so many GPUs in one format that both versions ran, with other requests: what the earlier one's constants are off by
on its own rows is taken off what they are off by on the later one's.

| versions | deployments | later / earlier | gm | spread |
| --- | --: | --: | --: | --: |"""
_BETWEEN = """## The one before, the one after, or both

Versions that lie between two others, and the mean over them. *Both* is the mean of the logarithms of both predictions.

| version | by the one before | by the one after | by both |
| --- | --: | --: | --: |"""
_DEVICES = """## The same version on another device

Files for some devices alone, predicted by what is used for their version on all others, which stands in for them: an unseen
device, not an unseen version. Beside it, the nearest other version on the device.

| version | rows | by the same version elsewhere | gm | by another version there | gm |
| --- | --: | --- | --: | --- | --: |"""
_WIDTHS = """## The interval of a version that does not ship

Each range of versions is held against the width that the other ranges give. Families of fewer than five ranges have that of
all; on devices that have files of their own, versions there and on other devices count too.

| family | ranges | 90 % interval, x/ | rows inside |
| --- | --: | --: | --: |"""
_FOOT = """## What follows

- **Equal runs differ by 1.01 to 1.20 from one version to the next**, within one file as well as between two. Where a range of
  versions is off by no more than that under its neighbour's constants, there is nothing left to find.
- **The one after is nearer than the one before** in eight of eleven, by both one is as near at best; flags of kernels have no
  mean either. So of two equally near the newer stands in. What is newer than all that ships has only one before it.
- **TensorRT-LLM 1.0** is against that: 1.15 by 0.14, 1.24 by 1.1. Deployments of DeepSeek-R1 that 1.1 ran as well became a
  quarter faster with it, and what 1.1 has runs of does not tell what a dense model's step takes in 1.0: Qwen3-32B
  comes out 1.3 too fast and Llama-3.1-8B 1.16, Qwen3-235B 1.24 too slow. It was 1.40 too slow, and 1.28 all, before kernels
  with scales of blocks took time for each expert that a rank holds.
- **SGLang 0.4**: three rows of Qwen3-235B in GPTQ, whose experts ran by two kernels each, one after another (a fact of
  public code), come out 2.0 times too fast, and 5 times without that. Without them it is 1.23 by 0.5. With an H20 that
  reads 16-bit weights at .40 of its memory's rate, as steps of SGLang there have it (.33 to .36), it is 1.215 with them;
  but Marlin's kernels were timed there at more than .46, which stays.
- **transformers 4.47**: what stands in for it knows from public code that FP8 modules wait for the GPU and launch two Triton
  kernels each (1.53 without that). Its GPTQ kernels and its AWQ rows, which ran without FlashAttention beside the others with
  it by their source, are what is left.
- **vLLM of mid-2024 on MI300X** ran products at 0.13 of what the GPU's table has: no later version and no other device says
  so.
"""
