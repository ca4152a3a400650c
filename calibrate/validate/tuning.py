"""Fine-tuning and memory in training against the prediction of each run, and what of it holds where nothing was fitted.

A row's left-out prediction has none of the constants that were set in view of its framework's rows: each has its prior. No
constant of a GPU was set in view of these tables, so that leaving a row's GPU out asks the same.
"""

from __future__ import annotations

import math
import statistics
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Final, Literal

from calibrate.evidence.ratios import gm
from calibrate.evidence.tuning_rows import TuningCase, TuningRun, load_table, memory_of
from calibrate.fit.intervals import held_width, of_equal_groups, of_rows
from calibrate.validate.scoreboard import validate
from calibrate.validate.training_questions import question_lines
from calibrate.validate.training_transfer import training_cases, training_without_fits
from llm_perf.analysis.training import predict_training
from llm_perf.config.loading import get_gpu_config_by_name
from llm_perf.config.training import TrainingScenario
from llm_perf.systems.training.framework import own_framework

PAGE: Final = "docs/accuracy_tuning.md"
WIDTHS: Final = "llm_perf/analysis/tuning_widths.yaml"
_NEAR: Final = 0.15
Quantity = Literal["memory", "time"]


@dataclass(frozen=True)
class Compared:
    """One measured quantity of a row with what is predicted, as it ships and by constants that never saw its framework."""

    row_id: str
    framework: str
    gpu: str
    quantity: Quantity
    measured: float
    predicted: float
    left_out: float

    @property
    def error(self) -> float:
        """Signed fraction of what was measured."""
        return self.predicted / self.measured - 1


@cache
def compared(table: Literal["finetuning", "b200"] = "finetuning") -> tuple[Compared, ...]:
    """Every measured quantity of a table's rows that a prediction exists for."""
    found = []
    for case in load_table(table):
        if case.run is not None and case.row.get("status", "ok") == "ok":
            found += _quantities(case, case.run)
    return tuple(found)


def _quantities(case: TuningCase, run: TuningRun) -> list[Compared]:
    row, found = case.row, []
    gpu, framework = run.full.gpu.name, run.full.framework
    memory = _number(row.get("peak_gpu_mem_GB") or row.get("peak_alloc_GiB"))
    if memory is not None:
        ends = [memory_of(run, predict_training(one).memory.gpu) for one in (run.full, unseen(run.full))]
        found.append(Compared(case.row_id, framework, gpu, "memory", memory, ends[0], ends[1]))
    seconds = _number(row.get("iter_time_s"))
    rate = _number(row.get("throughput_tok_s"))
    if run.timed is not None and (seconds is not None or rate is not None):
        measured = seconds if seconds is not None else run.tokens / (rate or 1.0)
        times = [predict_training(one).step_time_s for one in (run.timed, unseen(run.timed))]
        found.append(Compared(case.row_id, framework, gpu, "time", measured, times[0], times[1]))
    return found


def unseen(scenario: TrainingScenario) -> TrainingScenario:
    """The scenario without what was fitted to runs of its framework alone."""
    own = own_framework(scenario.framework).constants
    priors = tuple((name, one.unfitted) for name, one in own.items() if one.fitted)
    return scenario.replace(constants=(*priors, *scenario.constants))


def _number(text: str | None) -> float | None:
    try:
        value = float(text or "")
    except ValueError:
        return None
    return value if value > 0 else None


# -- figures ------------------------------------------------------------------------------------------------------------


def gm_of(rows: Iterable[Compared], value: Callable[[Compared], float]) -> float:
    """Geometric mean of max(p / m, m / p)."""
    return gm(math.log(value(row) / row.measured) for row in rows)


def _figures(rows: Sequence[Compared]) -> dict[str, Any]:
    errors = [abs(row.error) for row in rows]
    unseen_errors = [abs(row.left_out / row.measured - 1) for row in rows]
    return {
        "rows": len(rows),
        "median_error": statistics.median(errors),
        "mean_error": statistics.fmean(errors),
        "near_share": sum(error <= _NEAR for error in errors) / len(errors),
        "gm": gm_of(rows, lambda row: row.predicted),
        "left_out_median_error": statistics.median(unseen_errors),
        "left_out_near_share": sum(error <= _NEAR for error in unseen_errors) / len(errors),
        "left_out_gm": gm_of(rows, lambda row: row.left_out),
    }


def summary(table: Literal["finetuning", "b200"] = "finetuning") -> dict[str, Any]:
    """Figures by quantity: all rows, by framework, by GPU; rows that are refused by reason; out-of-memory verdicts."""
    found: dict[str, Any] = {}
    for quantity in ("memory", "time"):
        rows = [row for row in compared(table) if row.quantity == quantity]
        by: dict[str, dict[str, list[Compared]]] = {"framework": defaultdict(list), "gpu": defaultdict(list)}
        for row in rows:
            by["framework"][row.framework].append(row)
            by["gpu"][row.gpu].append(row)
        found[quantity] = {"all": _figures(rows)} | {
            key: {name: _figures(some) for name, some in sorted(groups.items())} for key, groups in by.items()
        }
    refused = Counter(case.reason for case in load_table(table) if case.reason)
    found["refused"] = dict(refused.most_common())
    found["verdicts"] = verdicts(table)
    return found


def verdicts(table: Literal["finetuning", "b200"] = "finetuning") -> dict[str, int]:
    """How many runs that ran are said to fit and not to, and of those that ran out of memory."""
    found: Counter[str] = Counter()
    for case in load_table(table):
        if case.run is not None:
            fits = predict_training(case.run.full).feasible
            ran = case.row["status"] != "OOM" if "status" in case.row else True
            found[f"{'ran' if ran else 'out of memory'}, said {'to fit' if fits else 'not to fit'}"] += 1
    return dict(sorted(found.items()))


# -- widths of intervals ---------------------------------------------------------------------------------------------------


def width_by_groups(groups: dict[str, list[float]], equal: bool = False) -> dict[str, Any]:
    """The width of all groups, at the level at which each group falls into what the others say in nine of ten rows.

    ``equal``: each group has the same weight, however many rows it has, in ``share``, what was held, as in the width.
    """
    found = held_width(groups, of_equal_groups if equal else of_rows)
    return {
        "width": round(found.width, 4),
        "groups": len(groups),
        "rows": found.tested,
        "held": found.held,
        "tested": found.tested,
        "share": round(found.of_a_group if equal else found.held / found.tested, 4),
        "frameworks": sorted(groups),
    }


def widths() -> dict[str, dict[str, Any]]:
    """Widths of memory, of fine-tuning's time and of any training's step, each framework left out in turn."""
    found: dict[str, dict[str, Any]] = {}
    for quantity in ("memory", "time"):
        groups: dict[str, list[float]] = defaultdict(list)
        makers: set[str] = set()
        tables = ("finetuning", "b200") if quantity == "memory" else ("finetuning",)
        for table in tables:
            for row in compared(table):
                if row.quantity == quantity:
                    groups[row.framework].append(abs(math.log(row.left_out / row.measured)))
                    makers.add(get_gpu_config_by_name(row.gpu).maker)
        found[quantity] = width_by_groups(groups) | {"makers": sorted(makers)}
    for case, ratio in _unfitted_steps():
        groups[case.framework].append(abs(math.log(ratio)))
        makers.add(case.gpu.maker)
    found["step"] = width_by_groups(groups, equal=True) | {"makers": sorted(makers)}
    return found


def _unfitted_steps() -> Iterator[tuple[TrainingScenario, float]]:
    """Published trainings with predicted over measured time of a step, without anything that was fitted to whole runs."""
    shipped = validate("training")
    scenarios = {case.compared.run.row_id: case.scenario for case in training_cases(shipped)}
    for row in training_without_fits(shipped).rows:
        if row.predicted is not None:
            yield scenarios[row.run.row_id], row.predicted / row.bound


def widths_text() -> str:
    """llm_perf/analysis/tuning_widths.yaml."""
    lines = [
        "# Half-widths of 90 % intervals of memory in training and of steps in fine-tuning as log ratios, written by",
        "# `python bench/tuning_figures.py` from calibrate/measurements/training: what rows were off by under constants",
        "# that were not set in view of their framework. `step` is of all trainings, those of the published table without",
        "# anything that was fitted, each framework with the same weight. Of `tested` rows the others' widths held `held`;",
        "# `share` is that, of `step` the mean of the frameworks' own.",
    ]
    for name, entry in widths().items():
        lines.append(f"{name}:")
        lines += [f"  {key}: {entry[key]}" for key in ("width", "groups", "rows", "held", "tested", "share")]
        lines += [f"  {key}: [{', '.join(entry[key])}]" for key in ("frameworks", "makers")]
    return "\n".join(lines) + "\n"


# -- the page ------------------------------------------------------------------------------------------------------------

_HEAD = """# Fine-tuning and memory in training

Written by `python bench/tuning_figures.py`; `llm-perf validate --tuning` shows the same. Errors are of peak GPU memory as the
source counts it (allocated, reserved, or all that the driver shows) and of an iteration's time. "Left out" has none of the
constants that were set in view of the framework's rows, each at its prior; none of a GPU was set in view of these rows.
What was counted or documented of a framework (which copies its loss makes, which gradients it keeps) was found with some of
these residuals in sight: a framework of which nothing is known is worth less than "left out" says.
"""


_QUESTIONS = """
## Questions that were asked in public

What people asked about the memory of training, as they would ask it (the inputs of `llm-perf train` are in
`calibrate/measurements/training/questions.yaml`), and what is right: what a run reserved or allocated on one GPU, whether it
ran, or the framework's own estimate of model states. Those of one number were asked together.
"""


def _against_what_was_asked() -> list[str]:
    """What fine-tuning was asked to show, and what it does."""
    memory, time = (summary()[quantity]["all"] for quantity in ("memory", "time"))
    held = [entry["share"] for name, entry in widths().items() if name != "step"]
    return [
        "| | asked | as it ships | without the framework |",
        "| --- | --: | --: | --: |",
        f"| peak GPU memory, median error | 6 % | {memory['median_error']:.1%} | {memory['left_out_median_error']:.1%} |",
        f"| rows within 15 % | 90 % | {memory['near_share']:.0%} | {memory['left_out_near_share']:.0%} |",
        f"| time of an iteration, gm | 1.25, without the framework 1.35 | {time['gm']:.2f} | {time['left_out_gm']:.2f} |",
        f"| rows in 90 % intervals: memory, time | 85 to 95 % | | {', '.join(f'{share:.0%}' for share in held)} |",
    ]


def page() -> str:
    """docs/accuracy_tuning.md."""
    parts = [_HEAD, *_against_what_was_asked()]
    for table, title in (("finetuning", "Fine-tuning"), ("b200", "Megatron-LM on eight B200")):
        found = summary(table)  # type: ignore[arg-type]
        parts.append(f"\n## {title}\n")
        for quantity, name in (("memory", "Peak GPU memory"), ("time", "Time of an iteration")):
            parts.append(f"\n### {name}\n")
            parts.append(
                "| rows of | rows | median error | within 15 % | gm | left out: median | within 15 % | gm |"
            )
            parts.append("| --- | --: | --: | --: | --: | --: | --: | --: |")
            parts.append(_line("all", found[quantity]["all"]))
            for key in ("framework", "gpu"):
                parts += [_line(name, one) for name, one in found[quantity][key].items()]
        if found["refused"]:
            parts.append("\nRows that are refused:\n")
            parts += [f"- {count}: {reason}" for reason, count in found["refused"].items()]
        parts.append(
            "\nVerdicts: " + "; ".join(f"{name}: {count}" for name, count in found["verdicts"].items()) + "."
        )
    parts.append("\n## Intervals of 90 %\n")
    parts.append("| of | frameworks | rows | factor | held by the others' width |")
    parts.append("| --- | --: | --: | --: | --: |")
    for name, entry in widths().items():
        parts.append(
            f"| {name} | {entry['groups']} | {entry['rows']} | {math.exp(entry['width']):.2f} | {entry['share']:.0%} |"
        )
    parts.append("\nMemory and time count rows; a step counts every framework the same, as its width does.")
    parts.append(_QUESTIONS)
    parts += question_lines()
    return "\n".join(parts) + "\n"


def _line(name: str, one: dict[str, Any]) -> str:
    return (
        f"| {name} | {one['rows']} | {one['median_error']:.1%} | {one['near_share']:.0%} | {one['gm']:.2f} | "
        f"{one['left_out_median_error']:.1%} | {one['left_out_near_share']:.0%} | {one['left_out_gm']:.2f} |"
    )
