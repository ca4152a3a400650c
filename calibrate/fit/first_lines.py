"""The first five lines of what ``calibrate`` says: of results that were read, of constants that were fitted, of a session.

Made of the objects that ``--json`` prints, so that both say the same.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any, Final

from llm_perf.report.answer import Answer
from llm_perf.report.units import brief

__all__ = ["outside", "read_answer", "session_answer", "stack_fit_answer"]

_READ_LABELS: Final = ("Read:", "Off by:", "How sure:", "Not said:", "Next:")
_IMPOSSIBLE_LABELS: Final = ("Read:", "Cannot be:", "Off by:", "How sure:", "Next:")
_FIT_LABELS: Final = ("Fitted:", "Off by:", "How sure:", "Not known:", "Next:")
_COMPARED: Final = (
    ("tpot_s", "TPOT"), ("ttft_s", "TTFT"), ("e2e_s", "E2E"), ("decode_s", "decode"), ("step_s", "decode step"),
    ("prefill_s", "prefill"), ("batch_s", "whole batch"), ("output_tokens_per_s", "tokens/s"),
)  # fmt: skip
"""Quantities by what a reader asks for first."""
_NEXT: Final = "llm-perf calibrate fit of these files makes a profile of this engine"
_NEXT_KNOWN: Final = "runs that no fit has seen say what these constants are worth"


def read_answer(found: Mapping[str, Any], flags: Mapping[str, str], known: str | None = None) -> Answer:
    """What results say beside their predictions.

    Args:
        found: The runs, as ``--json`` prints them.
        flags: Of what a file may leave out.
        known: What may have been fitted to these very runs; None where nothing was.
    """
    runs, refused = found["runs"], found["refused"]
    errors = _errors(runs)
    predicted = [run for run in runs if run["reason"] is None]
    tools = list(dict.fromkeys(run["tool"] for run in runs))
    missing = list(dict.fromkeys(name for run in runs for name in run["unknown"] if name in flags))
    reasons = [run["reason"] for run in runs if run["reason"]] + [one["reason"] for one in refused]
    read = [
        f"{_runs(len(runs))} of {', '.join(tools)}" if runs else "no run",
        *([f"{len(refused)} refused"] if refused else []),
    ]
    off = [
        f"{title} {median(errors[name]):+.1%}" + (" (median)" if len(errors[name]) > 1 else "")
        for name, title in _COMPARED
        if name in errors
    ]
    sure = [_spread(errors, known), *(said for run in runs for said in outside(run))]
    if any(impossible := [run["cannot_be"] for run in runs if run.get("cannot_be")]):
        more = f"; so are {len(impossible) - 1} more" if len(impossible) > 1 else ""
        return Answer(
            fits=read,
            speed=[impossible[0]["short"] + more],
            sure=off,
            bound=[said for run in runs for said in outside(run)] or sure,
            change=[impossible[0]["why"]],
            good=False,
            labels=_IMPOSSIBLE_LABELS,
        )
    return Answer(
        fits=read,
        speed=off
        or [f"not predicted: {_without_source(reasons[0])}" if reasons else "nothing that is predicted"],
        sure=sure,
        bound=[", ".join(flags[name] for name in missing)] if missing else ["nothing that a prediction asks"],
        change=[_NEXT_KNOWN if known else _NEXT] if predicted else [_asked(reasons)],
        good=bool(predicted),
        labels=_READ_LABELS,
    )


def _runs(number: int) -> str:
    return f"{number} run" + ("s" if number != 1 else "")


def _without_source(reason: str) -> str:
    """A reason without the file that it begins with, which stands in every line below."""
    source, _, rest = reason.partition(": ")
    return rest if rest and " " not in source else reason


def _asked(reasons: Sequence[str]) -> str:
    """The flags that a reason asks for."""
    flags = next((reason.rpartition(": pass ")[2] for reason in reasons if ": pass " in reason), None)
    return "the details say why" if flags is None else f"pass {flags}"


def _errors(runs: Sequence[Mapping[str, Any]]) -> dict[str, list[float]]:
    """Signed errors of the means, by quantity."""
    found: dict[str, list[float]] = {}
    for run in runs:
        for figure in run["predicted"]:
            if figure["statistic"] == "mean" and figure["error"] is not None:
                found.setdefault(figure["quantity"], []).append(figure["error"])
    return found


def outside(run: Mapping[str, Any]) -> list[str]:
    """Means of a run that lie outside of the interval that was predicted, each with its ends."""
    titles = dict(_COMPARED)
    return [
        f"{titles[one['quantity']]} {brief(one['measured'])} is outside of {brief(one['interval'][0])} to "
        f"{brief(one['interval'][1])} (90%)"
        for one in sorted(run["predicted"], key=lambda one: one["quantity"] != "tpot_s")
        if one.get("interval") is not None and not one["interval"][0] <= one["measured"] <= one["interval"][1]
    ]


def _spread(errors: Mapping[str, Sequence[float]], known: str | None) -> str:
    """How far the furthest is off, and whether a fit knows these runs."""
    all_ = [error for values in errors.values() for error in values]
    if not all_:
        return "-"
    return f"{known or 'nothing was fitted to them'}; the furthest figure is {max(all_, key=abs):+.0%} off"


def stack_fit_answer(found: Mapping[str, Any]) -> Answer:
    """What a fit of an engine's version to results of tools found."""
    moved, kept = len(found["parameters"]), len(found["not_told"])
    off = [
        f"{title} x/{one['fitted']:.3f}, as shipped x/{one['shipped']:.3f}"
        for title, one in (("decode", found["gm"]["decode"]), ("first token", found["gm"]["first_token"]))
        if one["fitted"] is not None
    ]
    interval = found["interval"]
    sure = ["not known: that takes runs of two settings or more"]
    if interval is not None and interval["decode"] is not None:
        sure = [f"90% interval of a decode step x/{math.exp(interval['decode']):.2f}"]
    advice = found["next_run"]
    return Answer(
        fits=[
            f"{found['release']} to {_runs(found['runs'])} of {', '.join(found['models'])}",
            *([f"{len(found['refused'])} left out"] if found.get("refused") else []),
        ],
        speed=off or ["-"],
        sure=sure,
        bound=[f"{kept} constants, which stay as shipped; told: {', '.join(found['parameters']) or 'none'}"]
        if kept
        else [f"all {moved} constants were told"],
        change=[f"llm-perf infer --profile {found['profile']} predicts with it"]
        if advice is None
        else [
            f"one more run: {advice['concurrency']} in flight, {advice['prompt_len']} + {advice['gen_len']} tokens"
        ],
        good=True,
        labels=_FIT_LABELS,
    )


def session_answer(found: Mapping[str, Any]) -> Answer:
    """What a session against a server found."""
    fit, sent = found["fit"], found["requests"]["sent"]
    if fit is None:
        return Answer(
            [f"no. {found['points']} points of {sent} requests"], ["-"], ["-"],
            [str(found["ended"] or "the session was not fitted")],
            ["the data is kept: calibrate fit its folder"], good=False, labels=_FIT_LABELS,
        )  # fmt: skip
    off, left_out = (_medians(fit["rows"], key) for key in ("error", "left_out_error"))
    unknown = list(fit["not_identified"])
    return Answer(
        fits=[f"{found['model']} on {found['system']}", f"{found['points']} points, {sent} requests"],
        speed=off,
        sure=[f"each load left out: {left_out[0]}", *left_out[1:]],
        bound=[f"{len(unknown)} constants are not told apart: {unknown[0]}"]
        if unknown
        else ["all constants were told apart"],
        change=["observe a second model of another size, then calibrate fit both folders"]
        if len(fit["models"]) == 1
        else [f"llm-perf simulate --profile {found['profile']} predicts with it"],
        good=True,
        labels=_FIT_LABELS,
    )  # fmt: skip


def _medians(rows: Sequence[Mapping[str, Any]], key: str) -> list[str]:
    """The median size of an error of decode steps and of first tokens."""
    found = []
    for kind, title in (("step", "decode steps"), ("first", "first tokens")):
        values = [abs(row[key]) for row in rows if row["kind"] == kind and row[key] is not None]
        found += [f"{title} {median(values):.1%} in the middle"] if values else []
    return found or ["-"]
