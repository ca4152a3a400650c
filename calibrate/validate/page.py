"""``docs/accuracy.md``: what predictions are worth uncalibrated, written from the figures."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from calibrate.validate.evidence import Key, Residuals
from calibrate.validate.left_out import LeftOutRow
from calibrate.validate.operators import SIZES, operator_residuals
from calibrate.validate.relatives import relatives, with_relatives_efficiency
from calibrate.validate.scoreboard import CLASSES, Validation, validate
from llm_perf.analysis.evidence import ANY, pool_of
from llm_perf.config.scenario import Scenario
from llm_perf.systems.families import declaration, family_names

_OPERATIONS: Final[Mapping[str, tuple[str, str, float]]] = {
    "gemm": ("matrix products", "rows", 1),
    "attention_prefill": ("attention, prefill", "tokens", 1),
    "attention_decode": ("attention, decode", "MB of cache read", 1e6),
}
"""Operation -> what it is called, what its size is, and one unit of that."""

_SYSTEMS_WITHOUT_FIT: Final = "nothing would be left to fit"
_GROUPINGS: Final = ("gpu", "family")
"""What the page shows left out; ``docs/accuracy_resident.md`` has models as well."""


def accuracy_page(found: Validation, leave_out: str, left_out_rows: Sequence[LeftOutRow]) -> str:
    """The page.

    Args:
        found: All published runs with the constants as they ship.
        leave_out: The CSV of classes that ``bench/leave_out.py`` writes.
        left_out_rows: The rows that it writes.
    """
    rows = list(csv.DictReader(leave_out.splitlines()))
    return "\n".join([_HEAD, *_classes(found), _RELATIVES, *_relatives(found), _LEFT_OUT, *_left_out(rows), _INTERVALS,
                      *_intervals(left_out_rows), _OPERATORS, *_operators()]) + "\n"  # fmt: skip


def resident_table(leave_out: str) -> str:
    """What the resident stacks are worth without each GPU and each model in turn, one line per class.

    Args:
        leave_out: The CSV that ``bench/leave_out.py`` writes.
    """
    lines = [
        "| stack | left out | class | rows | as shipped | refit to all | left out |",
        "| --- | --- | --- | --: | --: | --: | --: |",
    ]
    for row in csv.DictReader(leave_out.splitlines()):
        wanted = row["leave_out"] in ("gpu", "model") and row["class"] in CLASSES
        if not wanted or row["class"].startswith("offload") or not _on_gpu(row["system"]):
            continue
        figures = " | ".join(_number(float(row[column])) for column in ("shipped", "refit", "left_out"))
        lines.append(
            f"| `{row['system']}` | {row['leave_out']} | {row['class']} | {row['rows']} | {figures} |"
        )
    return "\n".join(lines)


def _on_gpu(system: str) -> bool:
    """Whether a system has its weights on the GPU unless told otherwise."""
    return system in family_names() and declaration(system).usual_weights == "gpu"


_HEAD = """# Accuracy without calibration

`make accuracy` writes this page; a test holds it to what the code predicts. gm is the geometric mean of
max(predicted / measured, measured / predicted) over the runs that are predicted, "all" the same with 10 for each run that is
not. No constant belongs to a row or a model: each is of a GPU, a host or a system, with its source. But most were fitted to
these very runs, so the first table shows that one model explains them; the third says what it is worth on others.

## Published runs by class

| class | runs | covered | median error | within 10 % | gm | all | roofline, all | llm-analysis, all |
| --- | --: | --: | --: | --: | --: | --: | --: | --: |"""


def _classes(found: Validation) -> list[str]:
    lines = []
    for name, s in found.classes().items():
        others = [s["baselines"].get(other, {}) for other in ("roofline", "llm_analysis")]
        cells = [_number(other["gm_all"]) if other.get("covered") else "-" for other in others]
        lines.append(
            f"| {name} | {s['rows']} | {s['covered']} | {_percent(s['median_abs_error'])} | {_percent(s['within_10'])} | "
            f"{_number(s['gm'])} | {_number(s['gm_all'])} | {' | '.join(cells)} |"
        )
    return lines


_RELATIVES = """
## A GPU whose family was never measured

Each row is predicted with the efficiencies of its GPU's nearest relative in place of its own: the nearest generation of the
same vendor with the same kind of memory, the older of two, a measured one before one that is not. Apple's GPUs have no
relative and are left out of this table.

| class | runs | own efficiencies | nearest relative's | difference |
| --- | --: | --: | --: | --: |"""


def _relatives(found: Validation) -> list[str]:
    def swap(scenario: Scenario) -> Scenario:
        return scenario.replace(gpu=with_relatives_efficiency(scenario.gpu))

    other = {row.run.row_id: row for row in validate(change=swap).rows if row.run.table == "inference"}
    groups: dict[str, list[tuple[float, float]]] = {}
    for row in found.rows:
        if (
            row.run.table == "inference"
            and row.accuracy_class
            and row.ratio
            and not _without_relative(row.run.gpu)
        ):
            swapped = other[row.run.row_id].ratio
            if swapped is not None:
                groups.setdefault(row.accuracy_class, []).append((row.ratio, swapped))
    return [
        _compared(name, len(groups[name]), *(_mean(values) for values in zip(*groups[name], strict=True)))
        for name in CLASSES
        if name in groups
    ]


def _without_relative(gpu: str) -> bool:
    return gpu.startswith(("Apple", "M1", "Gaudi", "TPU"))


_LEFT_OUT = """
## Constants refitted without a GPU, or without a model family

Every constant of a system that has a plausible range is fitted again to the runs of all other GPUs (or families), and the
runs that were left out are predicted with that (`llm-perf validate --system S --leave-out gpu`). "Shipped" are the constants
of the YAML files, which know all runs. `bench/leave_out.py` writes the figures (minutes);
[accuracy_resident.md](accuracy_resident.md) says more of the serving stacks.

| class | left out | runs | shipped | refit to all | left out | difference to shipped |
| --- | --- | --: | --: | --: | --: | --: |"""


def _left_out(found: Sequence[Mapping[str, str]]) -> list[str]:
    rows = [row for row in found if row["leave_out"] in _GROUPINGS]
    lines = []
    for name in CLASSES:
        for leave in _GROUPINGS:
            chosen = [row for row in rows if row["class"] == name and row["leave_out"] == leave]
            if chosen:
                count = sum(int(row["rows"]) for row in chosen)
                shipped, refit, left = (
                    _pooled(chosen, column) for column in ("shipped", "refit", "left_out")
                )
                lines.append(
                    f"| {name} | {leave} | {count} | {_number(shipped)} | {_number(refit)} | {_number(left)} | "
                    f"{left - shipped:+.2f} |"
                )
    single = [
        f"{row['system']} (one {row['leave_out']})" for row in rows if _SYSTEMS_WITHOUT_FIT in row["note"]
    ]
    fitted = ", ".join(dict.fromkeys(row["system"] for row in rows if not row["note"]))
    lines.append(f"\nSystems in these figures: {fitted}.\nOf one GPU or family only: {', '.join(single)}.")
    return [*lines, *_by_system(rows)]


def _by_system(rows: Sequence[Mapping[str, str]]) -> list[str]:
    lines = [
        "\n| system | left out | class | runs | shipped | refit to all | left out |",
        "| --- | --- | --- | --: | --: | --: | --: |",
    ]
    lines += [
        f"| {row['system']} | {row['leave_out']} | {row['class']} | {row['rows']} | {_number(float(row['shipped']))} | "
        f"{_number(float(row['refit']))} | {_number(float(row['left_out']))} |"
        for row in rows
        if row["class"] in CLASSES
    ]
    return lines


def _pooled(rows: Iterable[Mapping[str, str]], column: str) -> float:
    logs = [(int(row["rows"]), math.log(float(row[column]))) for row in rows]
    return math.exp(sum(count * log for count, log in logs) / sum(count for count, _ in logs))


_INTERVALS = """
## Prediction intervals

Without a profile, `infer` and `train` give 90 % intervals from the rows above that were left out: the factor x/ by which
predictions were off, as the largest conformal quantile among the groups left out in turn. On a machine that the
system's runs know, its model is unknown (for training: its family); elsewhere the GPU is, too. "Inside" is what was
measured of the promised 90 %: of the rows for which the *other* groups say enough, how many are within what these say;
neither the fit nor the width knew anything of them. Every report prints its own. With few groups that is less than a promise:
a new one is within the largest of n that differ alike with a chance of n / (n + 1). A system with fewer than two groups or
nine rows in a class has the width of all systems of its class, and for an unknown GPU of all with their tensors on the GPU,
marked with \\*; "-": too little for either. Cards with one chip count as one GPU, a run that several sources print as one.
`resident` names no stack: its groups are the stacks that it stands for, in the classes that a question to it has.

| system | class | runs | model unknown, x/ | groups | inside | GPU unknown, x/ | groups | inside |
| --- | --- | --: | --: | --: | --: | --: | --: | --: |"""


def _intervals(lines: Sequence[LeftOutRow]) -> list[str]:
    residuals = Residuals(lines)
    kinds = sorted(
        {(line.accuracy_class, line.system, line.vendor) for line in lines},
        key=lambda kind: (CLASSES.index(kind[0]), kind[1:]),
    )
    texts = []
    for name, system, vendor in kinds:
        generic = (system, name, vendor, "system") in residuals.keys
        leaves = ("system",) * 2 if generic else ("family" if name == "training" else "model", "gpu")
        cells = [_interval_cells(residuals, (system, name, vendor, leave)) for leave in leaves]
        kind = (name, system, vendor)
        rows = {line.row for line in lines if (line.accuracy_class, line.system, line.vendor) == kind}
        shown = system if vendor == "nvidia" else f"{system} ({vendor})"
        texts.append(f"| {shown} | {name} | {len(rows)} | {' | '.join(cells)} |")
    return texts


def _interval_cells(residuals: Residuals, key: Key) -> str:
    """Width, groups, and how many rows were inside, of one system in one class, for one thing that is unknown."""
    own = residuals.widths(key)
    used = own or residuals.widths((ANY, pool_of(key[1], key[3]), *key[2:]))
    if used is None:
        return "- | - | -"
    mark = "" if own else "\\*"
    return f"{math.exp(used['total']):.2f}{mark} | {used['groups']} | {used['held']} of {used['tested']}"


_OPERATORS = """
## Efficiency tables against measured operators

The tables of `hardware_specs/efficiency` against a sample of public kernel timings (`calibrate/measurements/operators.csv`),
by size. Bias is the median of predicted / measured - 1. A family without measurements takes its nearest relative's figures,
and every report on such a GPU says so; what is assumed inside a measured family is marked in its file."""


def _operators() -> list[str]:
    lines: list[str] = []
    found = operator_residuals()
    for op, (title, unit, one) in _OPERATIONS.items():
        limits = [f"{limit / one:g}" for limit in SIZES[op]]
        columns = [f"to {limits[0]}", *(f"to {limit}" for limit in limits[1:]), "more"]
        lines.append(f"\n### {title[0].upper()}{title[1:]}, gm by {unit}\n")
        lines.append(f"| GPU | format | family | evidence | kernels | gm | bias | {' | '.join(columns)} |")
        lines.append("| --- | --- | --- | --- | --: | --: | --: |" + " --: |" * len(columns))
        for row in found:
            if row["op"] == op:
                sizes = " | ".join("-" if gm is None else _number(gm) for gm in row["gm_by_size"])
                lines.append(
                    f"| {row['gpu']} | {row['dtype']} | {row['family']} | {row['evidence']} | {row['rows']} | "
                    f"{_number(row['gm'])} | {100 * row['bias']:+.0f} % | {sizes} |"
                )
    lines += [
        "",
        "Nearest relatives: "
        + ", ".join(f"{name} -> {gpu}" for name, gpu in sorted(relatives().items()))
        + ".",
    ]
    return [*lines, _READING]


_READING = """
What the residuals say: large products and long prompts are within 10 %; the law is weakest where a kernel is short, since
one floor stands for kernels of several kinds. Decode attention of the A100's sample (vLLM 0.14) has a floor of 17 µs where
other stacks' kernels have 9, which is what ships. The fp8 products of the L40S sample reach .28 of the peak, while whole
prefills of TensorRT-LLM reach .44 and more, so .50 ships. Those of B200 and GB200 are vLLM 0.19's, at .31; SGLang's and
TensorRT-LLM's reach .47 to .52 and so do whole runs of all three, so .50 ships. MI210's small products come from a library of
2023 with a floor of 32 µs, launch included; a floor of 8 is assumed."""


def _compared(name: str, count: int, own: float, other: float) -> str:
    return f"| {name} | {count} | {_number(own)} | {_number(other)} | {other - own:+.2f} |"


def _mean(values: Iterable[float]) -> float:
    logs = [math.log(value) for value in values]
    return math.exp(sum(logs) / len(logs))


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.0f} %"
