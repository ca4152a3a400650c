"""The answer of ``llm-perf plan --train`` as text and as JSON."""

from __future__ import annotations

import shlex
import textwrap
from collections.abc import Iterator, Sequence
from typing import Any

from llm_perf.report.answer import Answer
from llm_perf.report.command import in_lines
from llm_perf.report.units import brief
from llm_perf.search.plan_training import TrainingCandidate, TrainingPlanAnswer, TrainingPlanQuestion

_DAY_S = 86400
_WIDTH = 80
_DIVISION = 60
"""Column at which a row says how the model is divided."""


def training_plan_lines(answer: TrainingPlanAnswer) -> list[str]:
    """The table, and what was left out."""
    question = answer.question
    lines = [*_answer(answer).text.plain.splitlines(), ""]
    heading = (
        f"{question.model}: {question.tokens:.4g} tokens within {question.deadline / _DAY_S:.4g} days, "
        f"{question.framework}{_adapters(question)}, cheapest first"
    )
    lines += textwrap.wrap(heading, _WIDTH, subsequent_indent="  ", break_on_hyphens=False)
    shown = answer.best or ((answer.nearest,) if answer.nearest else ())
    if not answer.best:
        lines.append(
            "nothing meets the deadline" + ("; the fastest that fits:" if shown else ", and nothing fits")
        )
    if shown:
        lines.append(f"{'GPU':<19}{'GPUs':>5}{'days':>8}{'GPU-hours':>10}{'dollars':>9}{'MFU':>7}  division")
    lines += [line for one in shown for line in _row(one)]
    if shown:
        for said in _certainty(shown, question.deadline):
            lines += textwrap.wrap(said, _WIDTH, subsequent_indent="  ", break_on_hyphens=False)
        lines += ["the first one again:", in_lines(["llm-perf train", *_flags(shown[0])])]
    lines.append(f"{answer.evaluated} configurations in {answer.seconds:.1f} s")
    if answer.unpriced:
        lines.append(f"no price is known of {len(answer.unpriced)} GPU types, which were left out")
    return lines


def _adapters(question: TrainingPlanQuestion) -> str:
    """Which adapters are trained, over weights of how many bits."""
    if not question.lora_rank:
        return ""
    kind = "DoRA" if question.adapter == "dora" else "LoRA"
    narrow = question.base_weight_bits is not None and question.base_weight_bits < 16
    over = f" over {question.base_weight_bits} bits" if narrow else ""
    return f" {kind} rank {question.lora_rank}{over}"


def _answer(answer: TrainingPlanAnswer) -> Answer:
    """Whether the run is done in time, and on what, in five lines."""
    none = ["-"]
    first = answer.best[0] if answer.best else answer.nearest
    if first is None:
        return Answer(["no. Nothing fits"], none, none, none, ["more GPUs (--max-gpus)"], good=False)
    days = f"{_time(first.run_s)} of {_time(answer.question.deadline)}".replace(" days of", " of")
    fits = f"{first.num_gpus} x {first.inputs.gpu}, ${_figure(first.cost)}"
    sure = ["not known: llm-perf train says why"]
    if first.run_interval_s is not None:
        low, high = first.run_interval_s
        late = high > answer.question.deadline
        sure = [f"90% interval: {_range(low, high)}" + (", may miss the deadline" if late else "")]
    verdict = "no. Nothing is done in time; the fastest:"
    if answer.best:
        verdict = "likely." if first.may_not_fit else "yes."
    change = ["more GPUs (--max-gpus), a later deadline"]
    if len(answer.best) == 1:
        change = ["nothing has to; a shorter --deadline asks for faster machines"]
    elif answer.best:
        other = answer.best[1]
        change = [
            f"next best: {other.num_gpus} x {other.inputs.gpu}, ${_figure(other.cost)}, {_time(other.run_s)}"
        ]
    return Answer(
        fits=[f"{verdict} {fits}"],
        speed=[f"{days}, {_figure(first.gpu_hours)} GPU-hours"],
        sure=sure,
        bound=[f"arithmetic, {first.mfu:.0%} of the peak; llm-perf train shows each part"],
        change=change,
        good=bool(answer.best),
    )


def _days(value_s: float) -> str:
    """Days with three digits, without powers of ten where a run takes years."""
    return _figure(value_s / _DAY_S)


def _time(value_s: float) -> str:
    """Days, or seconds and minutes of what takes less than a thousandth of one."""
    return f"{_days(value_s)} days" if value_s >= _DAY_S / 1000 else brief(value_s)


def _range(low_s: float, high_s: float) -> str:
    """From one time to another, in the unit of the longer one."""
    if high_s < _DAY_S / 1000:
        return f"{brief(low_s)} to {brief(high_s)}"
    return f"{_days(low_s)} to {_days(high_s)} days"


def _figure(value: float) -> str:
    """Three digits, and all before the point: of a fine-tuning run of minutes something is left, too."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _column(value: float, decimals: int) -> str:
    """A figure in a column: so many decimals, two digits of what is less than one."""
    return f"{value:.2g}" if value < 1 else f"{value:,.{decimals}f}"


def _run_days(value_s: float) -> str:
    """A run in the column of days, with its own unit where it takes less than a thousandth of one."""
    return _column(value_s / _DAY_S, 2) if value_s >= _DAY_S / 1000 else brief(value_s)


def _certainty(shown: Sequence[TrainingCandidate], deadline: float) -> Iterator[str]:
    """Where real runs may end, and which of the rows may not keep the deadline or fit."""
    first = shown[0]
    if first.run_interval_s is None:
        yield "90% interval of the first: none; llm-perf train says why"
    else:
        yield f"90% interval of the first: {_range(*first.run_interval_s)}"
    late = [
        str(one.inputs.gpu) for one in shown if one.run_s <= deadline < (one.run_interval_s or (0.0, 0.0))[1]
    ]
    if late:
        yield f"may miss the deadline within its 90% interval: {', '.join(late)}"
    wide = [f"{one.inputs.gpu} ({one.wider_format})" for one in shown if one.wider_format]
    if wide:
        yield f"has no {first.inputs.precision} products, so they run wider: {', '.join(wide)}"
    large = [str(one.inputs.gpu) for one in shown if one.may_not_fit]
    if large:
        yield f"may not fit, as the 90% interval of its memory has it: {', '.join(large)}"


def _row(one: TrainingCandidate) -> list[str]:
    i = one.inputs
    division = " ".join(
        f"{name} {size}"
        for name, size in (("tp", i.tp_size), ("pp", i.pp_size), ("dp", i.dp_size), ("ep", i.ep_size))
        if (size or 1) > 1
    )
    extras = f"zero {i.ds_zero}, micro-batch {i.micro_batch_size}"
    how = f"{division or 'one GPU'}, {extras}" + (", recomputed" if i.activation_recomputation else "")
    name, figures = (
        str(i.gpu),
        f"{one.num_gpus:>5}{_run_days(one.run_s):>8}{_column(one.gpu_hours, 0):>10}{_column(one.cost, 0):>9}",
    )
    first, *more = textwrap.wrap(how, _WIDTH - _DIVISION)
    return [f"{name:<19}{figures}{one.mfu:>7.1%}  {first}", *(" " * _DIVISION + line for line in more)]


def _flags(one: TrainingCandidate) -> list[str]:
    """What to type for the candidate's own page."""
    given = one.inputs.model_dump(exclude_none=True, exclude_defaults=True)
    names = ("model", "gpu", "framework", "seq_len", "precision", "lora_rank", "lora_targets", "adapter", "base_weight_bits",
             "base_double_quant", "optimizer", "num_nodes", "num_gpus", "tp_size", "pp_size", "ep_size", "ds_zero",
             "activation_recomputation", "micro_batch_size", "global_batch_size", "total_num_tokens",
             "allow_long_context")  # fmt: skip
    return [_flag(name, given[name]) for name in names if name in given]


def _flag(name: str, value: Any) -> str:
    """One flag as it is typed: a switch has no value."""
    flag = name.replace("_", "-")
    if isinstance(value, bool):
        return f"--{flag}" if value else f"--no-{flag}"
    return f"--{flag} {shlex.quote(str(value))}"


def training_plan_object(answer: TrainingPlanAnswer) -> dict[str, Any]:
    """One JSON object."""
    return {
        "schema_version": 1,
        "question": answer.question.model_dump(),
        "best": [_object(one) for one in answer.best],
        "nearest": None if answer.nearest is None else _object(answer.nearest),
        "evaluated": answer.evaluated,
        "unpriced": list(answer.unpriced),
        "refused": dict(answer.refused),
        "seconds": answer.seconds,
    }


def _object(one: TrainingCandidate) -> dict[str, Any]:
    return {
        "inputs": one.inputs.model_dump(exclude_none=True),
        "num_gpus": one.num_gpus,
        "run_s": one.run_s,
        "gpu_hours": one.gpu_hours,
        "cost": one.cost,
        "mfu": one.mfu,
        "run_interval_s": None if one.run_interval_s is None else list(one.run_interval_s),
        "may_not_fit": one.may_not_fit,
    }
