"""Serving stacks by version on rows that no fit saw: the page of figures and the widths of intervals.

Both follow from ``calibrate/measurements/serving/left_out.csv.gz``, which ``bench/stack_figures.py`` makes.
"""

from __future__ import annotations

import csv
import gzip
import io
import math
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from importlib import resources
from typing import Final

from calibrate.evidence.ratios import gm
from calibrate.fit.intervals import HeldWidth, held_width, of_equal_groups
from calibrate.validate.novelty import read_levels
from llm_perf.analysis.novelty import LEVELS, MAKER, MECHANISM, REGIME
from llm_perf.systems.families import folder_of

PAGE: Final = "docs/accuracy_stacks.md"
WIDTHS: Final = "llm_perf/analysis/stack_widths.yaml"
FIRST_TOKEN: Final = "first token"
OTHER_SIDE: Final = "other side"
"""By the nearest version on the other side of the one that would stand in."""

OTHER_DEVICE: Final = "other device"
"""Rows of a file for some devices by what stands for its version on all others."""

BESIDE: Final = ("neighbour", OTHER_SIDE)
"""Lines by constants of another version for the same devices."""

REFITS: Final = ("model", "gpu")
"""Lines by a version's own constants, fitted without the row's group."""

IN_LOOPS: Final = {how: f"{how}, {FIRST_TOKEN} in loops" for how in ("shipped", "model", "gpu")}
"""First tokens of closed loops by the kinds of fits that main quantities have."""

_FEWEST: Final = 3
"""Groups below which a version's own rows say nothing of others, and its family's are taken."""

_VERSIONS: Final = 5
"""Versions of a family below which its own say nothing of one that does not ship, and all families' are taken."""

_ENOUGH: Final = 10
"""Groups of first tokens below which a version's own say nothing of nine tenths."""

Line = Mapping[str, str]


def read_left_out() -> list[Line]:
    """The lines of the file."""
    data = (resources.files("calibrate") / "measurements" / "serving" / "left_out.csv.gz").read_bytes()
    return list(csv.DictReader(io.StringIO(gzip.decompress(data).decode("utf-8"))))


# -- figures --------------------------------------------------------------------------------------------------


def gm_of(lines: Iterable[Line]) -> float:
    """Geometric mean of max(p / m, m / p)."""
    return gm(float(line["log_ratio"]) for line in lines)


def page(lines: Sequence[Line]) -> str:
    """docs/accuracy_stacks.md."""
    by: dict[str, dict[str, list[Line]]] = defaultdict(lambda: defaultdict(list))
    for line in lines:
        by[line["release"]][line["how"]].append(line)
    whole = [_HEAD]
    for name, closed in (("Static batches, single requests and decode windows", "0"), ("Closed loops", "1")):
        rows = [text for release in sorted(by, key=place_of) if (text := _row(release, by[release], closed))]
        whole += [f"## {name}\n", _CLOSED if closed == "1" else _OPEN, _COLUMNS, *rows, ""]
    whole += [_LOOP_FIRSTS, *_loop_firsts(by), "", *_novel_rows(lines), ""]
    families: dict[str, list[Line]] = defaultdict(list)
    for release, found in by.items():
        families[release.partition("@")[0]] += [line for line in found["shipped"] if line["closed"] == "0"]
    whole += ["## By family, as fitted\n", "| family | rows | gm |\n| --- | --: | --: |"]
    whole += [
        f"| {name} | {len(found)} | {_beside_aim(gm_of(found), 'shipped', '0')} |"
        for name, found in sorted(families.items())
        if found
    ]
    return "\n".join([*whole, "", _FOOT])


def _novel_rows(lines: Sequence[Line]) -> Iterator[str]:
    """By what was new to the fit of a row: how wide intervals are, and how many rows they held."""
    yield _NOVEL.format(alone=math.exp(level_width(lines, MECHANISM, REFITS)[0].width))
    for level, name in ((None, "nothing"), *zip(LEVELS, _LEVEL_NAMES, strict=False)):
        found, groups = level_width(lines, level, BESIDE)
        share = f"{found.held / found.tested:.0%} of {found.tested:,}"
        cells = [name, str(groups), share, f"{math.exp(found.width):.2f}"]
        yield "| " + " | ".join([*cells, *_of_known_versions(lines, level)]) + " |"


def _of_known_versions(lines: Sequence[Line], level: str | None) -> list[str]:
    """Share of rows inside, groups weighing the same, and median width of versions whose constants are known."""
    adds = {None: 0.0} | {name: found[2] for name, found in novel_widths(lines).items()}
    held: dict[tuple[str, ...], list[bool]] = defaultdict(list)
    widths = []
    for (release, how), own in _by_fit(lines).items():
        width = width_of(own) or width_of([line for line in lines if line["how"] == how])
        assert width is not None, "there are three groups in all"
        reach = math.hypot(width.width, adds[level])
        for line in own:
            if highest_level(line) == level:
                held[(release, *_key(line))].append(abs(float(line["log_ratio"])) <= reach)
                widths.append(reach)
    share = sum(sum(found) / len(found) for found in held.values()) / len(held)
    return [f"{share:.0%} of {len(widths):,}", f"{math.exp(sorted(widths)[len(widths) // 2]):.2f}"]


def _by_fit(lines: Sequence[Line]) -> dict[tuple[str, str], list[Line]]:
    found: dict[tuple[str, str], list[Line]] = defaultdict(list)
    for line in lines:
        if line["how"] in REFITS and not _has_rows_elsewhere(line["release"]):
            found[line["release"], line["how"]].append(line)
    return found


_LEVEL_NAMES: Final = (
    "sizes, generation, cache",
    "a mechanism that other versions have",
    "a mechanism that none has",
)

_NOVEL = """## Intervals, by what is new

A row is predicted by constants that were fitted without it. What it has that none of their rows has decides how wide an
interval is: more sequences or longer ones than any, another generation of GPUs or width of the cache; kinds of layers, kinds
of ranks, or a format on a generation, which have kernels of their own. Under another version's constants each version is held
against the width that the others give. Under a version's own, refitted without the row's model or GPU, what is new adds what
it adds there: such refits keep formulas and tables that were made with these rows in view, and alone they say too little (a
mechanism that a refit had not seen leaves nine of ten of its rows within {alone:.2f}).

| new | models and GPUs | inside, under another version's constants | x/ | inside, under its own | median x/ |
| --- | --: | --: | --: | --: | --: |"""


def _loop_firsts(by: Mapping[str, Mapping[str, Sequence[Line]]]) -> list[str]:
    """Rows of first tokens in closed loops, of versions whose fits saw some."""
    rows = []
    for release in sorted(by, key=place_of):
        found = {how: by[release].get(name, ()) for how, name in IN_LOOPS.items()}
        if found["shipped"] and found["model"]:
            cells = [f"{gm_of(found[how]):.3f}" if found[how] else "-" for how in ("model", "gpu", "shipped")]
            rows.append(f"| {release} | {len(found['shipped'])} | " + " | ".join(cells) + " |")
    return rows


_LOOP_FIRSTS = """## First tokens in closed loops

These versions' fits count times to first token where at most 16 requests are in flight; all rows are shown.

| version | rows | without a model | without a GPU | fitted |
| --- | --: | --: | --: | --: |"""

_HEAD = """# Serving stacks by version

What constants of a version are worth on runs that no fit saw, then on those that they were fitted to. gm is the geometric
mean of max(predicted / measured, measured / predicted) of each row's main quantity: time per output token, else throughput or
latency. `python bench/stack_figures.py` makes the fits, `make accuracy` this page.

- **Without a model, without a GPU**: every constant of the version refitted without the rows of each in turn; how many there
  are in brackets.
- **From 20 rows**: fitted to 20 rows of one model on one GPU, the others predicted; median and 90th percentile over seeded
  draws, and how many these were.
- **Neighbour**: predicted by the nearest other version of the family, as a version that does not ship is, with what public
  code says changed between the two; files for some devices by that of their version on all others, as where there is none
  for a device ([what a neighbour cannot know](accuracy_versions.md)).

Aimed at were 1.12 without a model, 1.18 without a GPU, 1.15 from 20 rows, 1.25 by the neighbour, 1.12 as fitted (by family)
and 1.25 in closed loops. What is above its aim stands in **bold**.
"""
_OPEN = "These decide: the batch runs as it is predicted.\n"
_CLOSED = """A load generator keeps as many requests running, and these are simulated as `llm-perf simulate` does; `llm-perf
infer` predicts the batch without others' prompts. Columns from 20 rows are older but for vLLM 0.15: there each running
sequence waited for the prefills of the others. Of vLLM 0.10, 0.12 and 0.15, SGLang 0.5 and TensorRT-LLM 1.0 to 1.2 those
without a model or GPU are refitted along straight lines around a fit to all, and what is left out is simulated. vLLM 0.12's
file says only what differs from 0.10's: Qwen3-235B in FP8 on H200, whose experts DeepGEMM pads, was in no fit
(docs/systems/stacks.md). Four of these refits were made from the beginning as well, with the constants of then: vLLM 0.15
without B200 1.057 (1.062 along lines) and without gpt-oss-120b 1.077 (1.085), TensorRT-LLM 1.1 without H200 1.078 (1.079)
and without DeepSeek-R1 1.081 (1.081).
"""
_AIMS = {"model": 1.12, "gpu": 1.18, "transfer": 1.15, "neighbour": 1.25, "shipped": 1.12}
_AIM_CLOSED: Final = 1.25
_COLUMNS = """| version | rows | without a model | without a GPU | from 20 rows | neighbour | fitted |
| --- | --: | --: | --: | --: | --: | --: |"""
_FOOT = """A dash: a fit that was not made. Where there is one group, (1), it is predicted by what its version inherits and
by timings of kernels. Versions that no row is of, such as vLLM 0.3, 0.8, 0.14 and 0.19, and TensorRT-LLM 0.7, 0.8, 0.10, 0.13
and 0.18 to 0.21, are taken to be as those in whose range they are. GPU tables and time scales of hosts were chosen on all
rows and not refitted within a fold: what a fit leaves out is in those.

## Known to be off

- **transformers 4.47**: seven of its one table's 45 rows, by which 1.12 without a model cannot be met. At 30,720
  tokens Qwen3-0.6B takes 91 ms a token in bf16 and 120 in FP8, Qwen3-1.7B, whose layers and heads are as many and as
  wide, 38 and 68. With AWQ weights Qwen3-32B takes 24, 58 and 85 ms at 1, 6,144 and 30,720 tokens: the first 6,143 add
  34 ms, 24,576 more add 27, where attention is the same for each; those rows at 30,720 are 1.9 to 2.4 off, and none of
  AWQ at 6,144 is. Its short run has .37 ms a layer where those of 4B and 8B have .54. Without the seven the figure is
  1.07. In bf16 a layer takes .6 ms and .04 per query head more at 30,720 tokens (16, 32, 32 and 64 heads of the 1.7B,
  4B, 8B and 32B, less prompt and weights), which is what copies of keys and values for each head take; with AWQ .8 ms
  whatever the heads, as a kernel does that has one block for each of them on 78 multiprocessors. For AWQ its page names
  another environment, AutoAWQ with its kernels and no FlashAttention, and does not say whose attention ran. Of rows of
  that page which are in no table, those of Qwen3-14B in bf16 and FP8, at four lengths, are 1.03 off, and those of the 14B
  with AWQ 1.30, at 30,720 tokens 2.0 like the others.
- **Qwen2-57B-A14B under vLLM 0.4** (3 rows of the only mixture): 2.3 too fast by constants that did not see it.
- **vLLM 0.7**: 1.14 to 1.17 without a model or GPU. Its rows are of one machine each, and machines differ by more:
  Llama-3.1-8B over 28,650 tokens takes 18.0 ms a token on an A100 with 40 GB and 30.6 on one with 80 GB and faster
  memory, 11.9 on an H100 and 16.1 on an H200; 32 requests to Qwen2.5-0.5B get 1,698 tokens/s of an RTX 4090 and 5,995
  of a 4090D, 2,387 of an A100 with 80 GB and 3,972 of one with 40, 6,145 of an H100 and 1,425 of an H200. No constant
  of a version turns the order of two boards round.
- **DeepSpeed-MII 0.15**: 1.13 without a model. Its source times the first call of a new process, which adds up to .8 s
  that no setting explains: one sequence of 128 and 128 tokens takes 2.73 s (Llama-2-7B on one GPU) and 2.62 s (Mixtral
  on four), 16 of them 2.59 and 2.41 s; these two rows are left out. What a sequence adds is at odds between models: from
  1 to 64 of 128 and 128 tokens a token grows by 30 ms for Llama-2-70B and by 5 for the 7B on the same four ranks, of
  which prompts are 12 and 1; .28 and .06 ms a sequence are left, and constants of either are off for the other by 1.1 to
  1.4. Launches of each layer, which nothing captures here, in place of milliseconds per doubling of ranks fit 1.082
  and leave 1.128 to 1.144 by what is assumed of them beforehand, so they are not told.
- **torchao under vLLM 0.13 on a B200** (3 rows): 1.07 to 1.25 times slower than predicted, NVFP4 most. Its three rows
  on an H100, of memory with 2.4 TB/s, are within 1.06, with 8-bit weights that are converted in each step.
- **INT8 and INT4 checkpoints under vLLM 0.20 on an A100**: 2.6 and 3.1 times slower than predicted; their source
  shows them slower than bf16 (3 rows).
- **DeepSeek-R1 over replicas of attention under TensorRT-LLM 1.0** (3 rows of trtllm-bench with 1,024 to 7,168 requests): 1.4
  times too fast. They weigh little since experts are by timings of kernels there; before, they made Qwen3-235B, unseen, 1.34
  too slow.
- **gpt-oss on 8 H200 under TensorRT-LLM 1.1** (12 rows): 1.18 off, too slow for 4 sequences and too fast for 16 to 64.
- **DeepSeek-R1 in 8 bits on 8 H200 under SGLang 0.5** (9 rows): 1.2 times too slow.
- **Prompts of 64,000 tokens and more on RTX PRO 6000**: 1.25 to 1.5 times too slow.
- **Time to first token** of one request at a time: a factor of 1.2 with vLLM, 1.09 with TensorRT-LLM 0.9, by fits that did
  not see its model; of closed loops with at most 16 requests, 1.2 with vLLM 0.15 as fitted. SGLang's in these tables are
  means in which a server's first requests wait for kernels that are compiled then, up to minutes: 1.6 too fast. Medians of
  16 models that are in no table are 1.2 off.
- **One sequence under SGLang 0.5 on B200**: GLM-4.6 in 16 bits 1.5 times too fast, MiniMax-M2 in 8 bits and GLM-5 1.8, by
  runs that are in no table; Qwen3-235B and DeepSeek-R1 within 1.1.
- **Kimi-K2 in 4 bits under SGLang 0.5.6 on 8 H200**: one short sequence within 1.2, many or long ones 3 to 8 times too fast.
- **Peak memory** of transformers and LMDeploy in these tables.
"""


def place_of(release: str) -> tuple[str, list[int], str]:
    """Where a version stands in a list: by family, then by its numbers."""
    family, _, version = release.partition("@")
    numbers = [int(part) for part in version.replace("-", ".").split(".") if part.isdigit()]
    return family, numbers, version


def _row(release: str, found: Mapping[str, Sequence[Line]], closed: str) -> str | None:
    def of(how: str) -> list[Line]:
        return [line for line in found.get(how, ()) if line["closed"] == closed]

    shipped = of("shipped")
    if not shipped:
        return None
    cells = [release, str(len(shipped))]
    for how in ("model", "gpu"):
        lines = of(how)
        groups = len({line["group"] for line in found[how]})
        cells.append(f"{_beside_aim(gm_of(lines), how, closed)} ({groups})" if lines else "-")
    draws = sorted(math.exp(float(line["log_ratio"])) for line in found.get("transfer", ()))
    decided = not any(line["closed"] == "1" for line in found["shipped"])
    shown = draws and (decided or closed == "1")
    middle = _beside_aim(_at(draws, 0.5), "transfer", closed) if shown else ""
    cells.append(f"{middle}, {_at(draws, 0.9):.3f} ({len(draws)})" if shown else "-")
    near = [line for line in standing_in(found) if line["closed"] == closed]
    other = near[0]["group"].partition("@")[2] if near else ""
    cells.append(f"{_beside_aim(gm_of(near), 'neighbour', closed)} ({other})" if near else "-")
    return "| " + " | ".join([*cells, f"{gm_of(shipped):.3f}"]) + " |"


def standing_in(found: Mapping[str, Sequence[Line]]) -> list[Line]:
    """Lines by what stands for a version whose file is not there, as `llm_perf.systems.families.release_of` takes it.

    That is a file of the version for all devices, if there is one, else the nearest other version. ``found``: lines by what
    predicted them.
    """
    return list(found.get(OTHER_DEVICE) or found.get("neighbour", ()))


def _beside_aim(gm: float, how: str, closed: str) -> str:
    """A figure, in bold where it is above what was aimed at."""
    text = f"{gm:.3f}"
    return f"**{text}**" if float(text) > (_AIM_CLOSED if closed == "1" else _AIMS[how]) else text


def _at(ordered: Sequence[float], share: float) -> float:
    return ordered[min(round(share * (len(ordered) - 1)), len(ordered) - 1)]


# -- intervals ------------------------------------------------------------------------------------------------


def _groups(lines: Iterable[Line]) -> dict[tuple[str, ...], list[float]]:
    """Errors by model and GPU: they come by whole groups."""
    found: dict[tuple[str, ...], list[float]] = defaultdict(list)
    for line in lines:
        found[_key(line)].append(abs(float(line["log_ratio"])))
    return found


def width_of(lines: Sequence[Line]) -> HeldWidth | None:
    """Half-width of a 90 % interval, each group held against the others; None of fewer than three groups."""
    groups = _groups(lines)
    return None if len(groups) < _FEWEST else held_width(groups, of_equal_groups)


def widths_text(lines: Sequence[Line]) -> str:
    """llm_perf/analysis/stack_widths.yaml."""
    by: dict[str, dict[str, list[Line]]] = defaultdict(lambda: defaultdict(list))
    for line in lines:
        if line["how"] in ("shipped", "model", "gpu"):
            by[line["release"]][line["how"]].append(line)
    pooled = {how: [line for found in by.values() for line in found[how]] for how in ("model", "gpu")}
    text = [_WIDTHS_HEAD, "releases:"]
    for release in sorted(by, key=place_of):
        found, parts = by[release], []
        if _has_rows_elsewhere(release):
            continue
        for how in ("model", "gpu"):
            own = width_of(found[how])
            rows = found[how] if own is not None else pooled[how]
            best = own or width_of(pooled[how])
            if best is None:
                continue
            groups = len(_groups(rows))
            kind = "own" if own is not None else "pooled"
            parts.append(
                f"    {how}: {{width: {best.width:.4f}, groups: {groups}, of: {kind}, held: {best.held}, "
                f"tested: {best.tested}}}"
            )
        if not parts:
            continue
        gpus = sorted({line["gpu"] for line in found["shipped"]})
        text += [f"  {release}:", f"    gpus: [{', '.join(gpus)}]", *parts]
    text += ["first_tokens:", *_first_token_widths(lines), "families:"]
    text += [
        f"  {name}: {_held(found, versions)}" for name, (found, versions) in unlisted_widths(lines).items()
    ]
    text += [f"devices: {_held(*device_width(lines))}", "novel:", *_novel_widths(lines)]
    return "\n".join(text) + "\n"


def unlisted_widths(lines: Sequence[Line]) -> dict[str, tuple[HeldWidth, int]]:
    """Half-widths of versions that do not ship, by family, and how many versions say so: of all where its own are few.

    Each version is held against the others, on devices that have no files of their own.
    """
    near = [line for line in lines if line["how"] == "neighbour" and not _on_a_device(line["release"])]
    found = {}
    for family in sorted({line["release"].partition("@")[0] for line in lines}):
        own = [line for line in near if line["release"].startswith(f"{family}@")]
        rows = own if len({line["release"] for line in own}) >= _VERSIONS else near
        width = width_of_versions(rows)
        if width is not None:
            found[family] = width[0], len({line["release"] for line in rows})
    return found


def device_width(lines: Sequence[Line]) -> tuple[HeldWidth, int]:
    """The half-width of a version that no row on a device is of which has files of its own: by others there, or elsewhere."""
    rows = [line for line in lines if line["how"] in ("neighbour", OTHER_DEVICE)]
    found = width_of_versions(rows)
    assert found is not None, "the table of left-out rows has three versions"
    return found[0], len({line["release"] for line in rows})


def level_width(lines: Sequence[Line], level: str | None, hows: Collection[str]) -> tuple[HeldWidth, int]:
    """The half-width of lines whose fit had not seen what is of a level and of none above it (None: had seen all).

    Each version is held against the others, on devices that have no files of their own.
    """
    rows = [
        line
        for line in lines
        if line["how"] in hows and not _on_a_device(line["release"]) and highest_level(line) == level
    ]
    found = width_of_versions(rows)
    assert found is not None, f"three versions have rows with a novel {level}"
    return found


def highest_level(line: Line) -> str | None:
    """The last of `LEVELS` that was new to a line's fit, "" where nobody can say; None where it had seen all of it."""
    levels = read_levels().get((line["release"], line["row_id"], line["how"]))
    if levels is None:
        return ""
    return next((level for level in reversed(LEVELS) if level in levels), None)


def novel_widths(lines: Sequence[Line]) -> dict[str, tuple[HeldWidth, int, float]]:
    """By level of what is new: half-width under another version's constants, groups, and what it adds under its own.

    Of GPUs of another maker `device_width` speaks. What is new adds to a known version's own width in quadrature. The fit of
    a version without a model or GPU says too little of that: formulas, tables and priors were chosen with all its rows in
    view, so that what a mechanism adds is what it adds to another version's constants, which were not chosen for it. Sizes
    are another matter, and the wider of both counts. A higher level adds no less than a lower one.
    """
    own = [level_width(lines, level, REFITS)[0].width for level in (None, REGIME)]
    seen, found, least = level_width(lines, None, BESIDE)[0].width, {}, _beside(own[1], own[0])
    width = seen
    for level in LEVELS[: LEVELS.index(MAKER)]:
        held, groups = level_width(lines, level, BESIDE)
        width, least = max(width, held.width), max(least, _beside(held.width, seen))
        found[level] = HeldWidth(width, held.held, held.tested), groups, least
    return found


def _beside(width: float, without: float) -> float:
    """What an error has beside another one that it is independent of."""
    return math.sqrt(max(width**2 - without**2, 0.0))


def _novel_widths(lines: Sequence[Line]) -> Iterator[str]:
    for level, (found, groups, adds) in novel_widths(lines).items():
        yield f"  {level}: {_held(found, groups).rstrip('}')}, adds: {adds:.4f}}}"


def _on_a_device(release: str) -> bool:
    family, _, version = release.partition("@")
    return version in folder_of(family).special


def _held(found: HeldWidth, versions: int) -> str:
    return f"{{width: {found.width:.4f}, groups: {versions}, held: {found.held}, tested: {found.tested}}}"


def _first_token_widths(lines: Sequence[Line]) -> list[str]:
    """Half-widths of times to first token: of a version's own groups, and of all versions, each held against the others."""
    first = [line for line in lines if line["how"] == FIRST_TOKEN]
    found = []
    for release in sorted({line["release"] for line in first}, key=place_of):
        own = [line for line in first if line["release"] == release]
        width = width_of(own)
        if width is not None and len(_groups(own)) >= _ENOUGH:
            found.append(_first_token_entry(release, width, len(_groups(own))))
    pooled = width_of_versions(first)
    return [*found, *([] if pooled is None else [_first_token_entry("any", *pooled)])]


def _first_token_entry(name: str, found: HeldWidth, groups: int) -> str:
    return f"  {name}: {{width: {found.width:.4f}, groups: {groups}, held: {found.held}, tested: {found.tested}}}"


def width_of_versions(lines: Sequence[Line]) -> tuple[HeldWidth, int] | None:
    """Half-width and number of groups where each version's rows are held against those of the other versions."""
    by: dict[tuple[str, ...], list[float]] = defaultdict(list)
    for line in lines:
        by[(line["release"], *_key(line))].append(abs(float(line["log_ratio"])))
    if len({release for release, *_ in by}) < _FEWEST:
        return None
    return held_width(by, of_equal_groups, apart=lambda key: key[0]), len(by)


def _key(line: Line) -> tuple[str, str]:
    return line["model"], line["gpu"]


def _has_rows_elsewhere(release: str) -> bool:
    """Whether the older table of published runs says how far a version is off: the first of a family that is in it."""
    family, _, version = release.partition("@")
    stated = resources.files("llm_perf.analysis") / "left_out" / f"{family}.yaml"
    return stated.is_file() and version == folder_of(family).releases[0]


_WIDTHS_HEAD = """# Half-widths of 90 % intervals of serving stacks as log ratios, written by `make accuracy` from
# calibrate/measurements/serving/left_out.csv.gz: what a version's rows were off by when their model, or their GPU, was in no
# fit (of all versions together where its own groups are fewer than three), by family what a version's rows were off by under
# the one that would stand in for it, each version held against the others, and on devices that have files of their own.
# Times to first token of single requests: of a version's own models and GPUs, and of any version. By what is new to a
# version's rows (llm_perf/analysis/novelty.py): what rows were off by under constants of versions to which it was new, each
# version held against the others, and what that adds to the width of a version whose constants are known. Of requests over
# time: what rows were off by under the constants that ship, by load, each version's model and GPU held against the others."""
