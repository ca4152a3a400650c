"""The answer of ``llm-perf plan --train`` as text and as JSON."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from llm_perf.search.plan_training import TrainingCandidate, TrainingPlanAnswer

_DAY_S = 86400


def training_plan_lines(answer: TrainingPlanAnswer) -> list[str]:
    """The table, and what was left out."""
    question = answer.question
    lines = [
        f"{question.model}: {question.tokens:.4g} tokens within {question.deadline / _DAY_S:.4g} days, "
        f"{question.framework}, cheapest first"
    ]
    shown = answer.best or ((answer.nearest,) if answer.nearest else ())
    if not answer.best:
        lines.append(
            "nothing meets the deadline" + ("; the fastest that fits:" if shown else ", and nothing fits")
        )
    if shown:
        lines.append(
            f"{'GPU':<22}{'GPUs':>6}{'days':>9}{'GPU-hours':>12}{'US dollars':>13}{'MFU':>7}  division"
        )
    lines += [_row(one) for one in shown]
    if shown:
        lines += _certainty(shown, question.deadline)
        lines.append(f"the first one again: llm-perf train {_flags(shown[0])}")
    lines.append(f"{answer.evaluated} configurations in {answer.seconds:.1f} s")
    if answer.unpriced:
        lines.append(f"no price is known of {len(answer.unpriced)} GPU types, which were left out")
    return lines


def _certainty(shown: Sequence[TrainingCandidate], deadline: float) -> Iterator[str]:
    """Where real runs may end, and which of the rows may not keep the deadline or fit."""
    first = shown[0]
    if first.run_interval_s is None:
        yield "90% interval of the first: none; llm-perf train says why"
    else:
        low, high = (f"{end / _DAY_S:.2f}" for end in first.run_interval_s)
        yield f"90% interval of the first: {low} to {high} days"
    late = [
        str(one.inputs.gpu) for one in shown if one.run_s <= deadline < (one.run_interval_s or (0.0, 0.0))[1]
    ]
    if late:
        yield f"may miss the deadline within its 90% interval: {', '.join(late)}"
    large = [str(one.inputs.gpu) for one in shown if one.may_not_fit]
    if large:
        yield f"may not fit, as the 90% interval of its memory has it: {', '.join(large)}"


def _row(one: TrainingCandidate) -> str:
    i = one.inputs
    division = " ".join(
        f"{name} {size}"
        for name, size in (("tp", i.tp_size), ("pp", i.pp_size), ("dp", i.dp_size), ("ep", i.ep_size))
        if (size or 1) > 1
    )
    extras = f"zero {i.ds_zero}, micro-batch {i.micro_batch_size}" + (
        ", recomputed" if i.activation_recomputation else ""
    )
    return (
        f"{i.gpu!s:<22}{one.num_gpus:>6}{one.run_s / _DAY_S:>9.2f}{one.gpu_hours:>12,.0f}{one.cost:>13,.0f}"
        f"{one.mfu:>7.1%}  {division or 'one GPU'}, {extras}"
    )


def _flags(one: TrainingCandidate) -> str:
    """What to type for the candidate's own page."""
    given = one.inputs.model_dump(exclude_none=True, exclude_defaults=True)
    names = ("model", "gpu", "framework", "seq_len", "precision", "num_nodes", "num_gpus", "tp_size", "pp_size", "ep_size",
             "ds_zero", "activation_recomputation", "micro_batch_size", "global_batch_size", "total_num_tokens")  # fmt: skip
    return " ".join(f"--{name.replace('_', '-')} {given[name]}" for name in names if name in given)


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
