"""Runs beside their predictions, and what a fit found, as JSON and as text."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from calibrate.evidence.benchmark_run import BenchmarkRun, Figure
from calibrate.evidence.ratios import gm
from calibrate.fit.first_lines import outside, read_answer, stack_fit_answer
from calibrate.fit.served.answers import answer_of
from calibrate.fit.served.deployment import FLAGS, Served, served_of
from calibrate.fit.served.design import Addition, Advice
from calibrate.fit.served.fit import StackFit
from calibrate.fit.served.floor import WHY, Below, below_floor
from calibrate.fit.served.interval import intervals_of
from calibrate.fit.served.plausible import check, check_figures
from calibrate.fit.stack_priors import SHOWN_BY
from llm_perf.config.profiles import Profile
from llm_perf.errors import LLMPerfError
from llm_perf.systems.registry import full_name, system_of

_WIDTH: Final = 80
_SHOWN: Final = ("mean", "p50", "p95", "p99")
_TITLES: Final = {
    "ttft_s": "TTFT", "tpot_s": "TPOT", "itl_s": "ITL", "e2e_s": "E2E", "batch_s": "whole batch", "prefill_s": "prefill",
    "decode_s": "decode", "step_s": "decode step", "output_tokens_per_s": "output tokens/s",
    "input_tokens_per_s": "input tokens/s", "total_tokens_per_s": "tokens/s in all", "requests_per_s": "requests/s",
    "prefill_tokens_per_s": "prefill tokens/s", "decode_tokens_per_s": "decode tokens/s", "duration_s": "duration",
    "kv_cache_tokens": "tokens of cache", "kv_cache_usage": "cache in use", "running_requests": "running",
    "waiting_requests": "waiting", "peak_gpu_memory_bytes": "peak memory", "weight_bytes": "weights", "queue_s": "queue",
    "power_w": "power",
}  # fmt: skip


@dataclass(frozen=True)
class Compared:
    """A run, and its predictions or why there are none; ``refused`` where the run itself cannot be.

    ``below`` is what of a run that is shown is quicker than memory allows for what its file states: no fit takes it.
    """

    run: BenchmarkRun
    served: Served | None
    predicted: tuple[float | None, ...]
    reason: str | None = None
    refused: bool = False
    below: Below | None = None

    @property
    def fitted(self) -> Compared:
        """As a fit takes it: refused where it is below what memory allows."""
        if self.below is None:
            return self
        return replace(self, reason=f"{self.run.source}: {self.below.reason}", refused=True)


def compare(run: BenchmarkRun, profile: str | None = None) -> Compared:
    """A run beside what is predicted of it, under a profile where one is named."""
    nothing: tuple[float | None, ...] = (None,) * len(run.figures)
    try:
        check_figures(run)
    except LLMPerfError as error:
        return Compared(run, None, nothing, str(error), refused=True)
    try:
        served = served_of(run, profile)
    except LLMPerfError as error:
        return Compared(run, None, nothing, str(error))
    try:
        check(served)
    except LLMPerfError as error:
        return Compared(run, served, nothing, str(error), refused=True)
    try:
        answer = answer_of(served)
    except LLMPerfError as error:
        return Compared(run, served, nothing, str(error))
    predicted = tuple(answer.figure(figure) for figure in run.figures)
    return Compared(run, served, predicted, below=below_floor(served))


def version_named(served: Served) -> str:
    """The engine with the version that was asked for, else with the file that predicts it."""
    if served.scenario.system_version is not None:
        return full_name(served.scenario)
    file = system_of(served.scenario).file
    return file.name if file.stands_for is None else f"{file.name}@{file.release}"


# -- read-log --------------------------------------------------------------------------------------------------------


def read_object(files: Sequence[str], compared: Sequence[Compared]) -> dict[str, Any]:
    """Runs and predictions as one JSON object."""
    return {
        "schema_version": 1,
        "files": list(files),
        "runs": [_entry(one) for one in compared if not one.refused],
        "refused": [{"source": one.run.source, "reason": one.reason} for one in compared if one.refused],
    }


def _entry(one: Compared) -> dict[str, Any]:
    known = {} if one.served is None or one.reason is not None else intervals_of(one.served)
    return one.run.as_dict() | {
        "system": None if one.served is None else version_named(one.served),
        "predicted": [
            {
                "quantity": figure.quantity,
                "statistic": figure.statistic,
                "scope": figure.scope,
                "measured": figure.value,
                "predicted": predicted,
                "error": None if predicted is None or not figure.value else predicted / figure.value - 1,
                "interval": list(known[figure.quantity])
                if figure.statistic == "mean" and figure.quantity in known
                else None,
            }
            for figure, predicted in zip(one.run.figures, one.predicted, strict=True)
        ],
        "reason": one.reason,
        "cannot_be": None
        if one.below is None
        else {
            "short": one.below.short,
            "reason": one.below.reason,
            "why": WHY,
        },
    }


def read_lines(compared: Sequence[Compared], known: str | None = None) -> list[str]:
    """Runs and predictions for people; ``known`` says what may have been fitted to these very runs."""
    found = read_object((), compared)
    entries = iter(found["runs"])
    answer = read_answer(found, _FLAG_OF, known)
    lines: list[str] = [*answer.text.plain.splitlines(), ""]
    for one in compared:
        if one.refused:
            lines += [*_wrapped(f"refused: {one.reason}"), ""]
            continue
        lines += [*_wrapped(_headline(one)), f"  {'':<26}{'measured':>12}{'predicted':>12}{'error':>9}"]
        for figure, predicted in zip(one.run.figures, one.predicted, strict=True):
            if figure.statistic in _SHOWN:
                lines.append(_figure_line(figure, predicted))
        if one.reason is not None:
            lines += _wrapped(f"not predicted: {one.reason}", 2)
        if one.below is not None:
            lines += _wrapped(f"cannot be: {one.below.reason}", 2)
        for said in outside(next(entries)):
            lines += _wrapped(said, 2)
        asked = _asked(one.run)
        if asked:
            lines += _wrapped(f"not said: {asked}", 2)
        if one.run.unread:
            lines += _wrapped(f"not read: {', '.join(one.run.unread)}", 2)
        for note in one.run.notes:
            lines += _wrapped(f"note: {note}", 2)
        lines.append("")
    return lines[:-1]


def _headline(one: Compared) -> str:
    run, d = one.run, one.run.deployment
    gpus = "" if d.num_gpus in (None, 1) else f"{d.num_gpus} x "
    machine = "?" if d.gpu is None else f"{gpus}{d.gpu}"
    engine = version_named(one.served) if one.served is not None else run.engine.name or "?"
    return f"{run.source}: {run.tool}; {d.model or '?'} on {machine}, {engine}; {_asked_load(run)}"


def _asked_load(run: BenchmarkRun) -> str:
    load = run.load
    how = {
        "batch": f"batch {load.concurrency or '?'}",
        "closed_loop": f"{load.concurrency or '?'} in flight",
        "rate": f"{load.request_rate or 0:g} requests/s",
        "all_at_once": "all at once",
        "trace": "a trace",
        None: "load not said",
    }[load.kind]
    lengths = [
        f"{name} {lengths.mean:.0f}" + (" on average" if lengths.kind in ("vary", "uniform") else "")
        for name, lengths in (("prompts", run.prompt), ("outputs", run.output))
        if lengths.mean is not None
    ]
    sent = [f"{load.num_requests} requests"] if load.num_requests else []
    return ", ".join([how, *lengths, *sent])


def _figure_line(figure: Figure, predicted: float | None) -> str:
    name = _TITLES[figure.quantity] + ("" if figure.statistic == "mean" else f" {figure.statistic}")
    name += " per GPU" if figure.scope == "per_gpu" else ""
    error = "" if predicted is None or not figure.value else f"{predicted / figure.value - 1:+.1%}"
    return f"  {name:<26}{_value(figure, figure.value):>12}{_value(figure, predicted):>12}{error:>9}".rstrip()


def _value(figure: Figure, value: float | None) -> str:
    if value is None:
        return "-"
    if figure.quantity.endswith("_bytes"):
        return f"{value / 2**30:.2f} GiB"
    if figure.quantity.endswith("_s") and not figure.quantity.endswith("_per_s"):
        return f"{value:.3g} s" if value >= 1 else f"{value * 1e3:.3g} ms"
    return f"{value:,.0f}" if value >= 1000 else f"{value:.4g}"


_FLAG_OF: Final = {
    "engine.name": FLAGS["system"], "engine.version": "--system NAME@VERSION", "deployment.model": FLAGS["model"],
    "deployment.gpu": FLAGS["gpu"], "deployment.num_gpus": FLAGS["num_gpus"], "deployment.tp": FLAGS["tp"],
    "deployment.weight_format": FLAGS["weight_format"], "deployment.kv_format": FLAGS["kv_format"],
    "load.kind": f"{FLAGS['concurrency']} or {FLAGS['rate']}", "prompt.mean": FLAGS["prompt_len"],
    "output.mean": FLAGS["gen_len"],
}  # fmt: skip


def _asked(run: BenchmarkRun) -> str:
    """What a source does not say, each with the flag that says it; defaults stand in for the rest."""
    return ", ".join(f"{name} ({_FLAG_OF[name]})" for name in run.unknown)


def _wrapped(text: str, indent: int = 0) -> list[str]:
    space = " " * indent
    return textwrap.wrap(
        text,
        _WIDTH,
        initial_indent=space,
        subsequent_indent=space + "  ",
        break_long_words=False,
        break_on_hyphens=False,
    )


# -- fit -------------------------------------------------------------------------------------------------------------


def fit_object(
    found: StackFit,
    profile: Profile,
    path: str | None,
    advice: Advice | None,
    refused: Sequence[Compared],
    others: Sequence[Addition] = (),
) -> dict[str, Any]:
    """What a fit found, as one JSON object."""
    main = [target.main for target in found.points.targets]
    interval = None if profile.calibration is None else profile.calibration.interval
    return {
        "schema_version": 1,
        "profile": path,
        "release": found.release,
        "runs": len(found.runs),
        "models": sorted({one.model for one in found.points.served}),
        "parameters": {
            name: {
                "value": value,
                "shipped": found.start[name],
                "interval": list(found.interval(name)),
                "log_standard_error": found.spread[name],
            }
            for name, value in found.values.items()
        },
        "not_told": {name: SHOWN_BY.get(name) for name in found.untold},
        "noise": {"decode": found.noise[0], "first_token": found.noise[1]},
        "gm": {
            "decode": {"shipped": _gm(found.before, main, True), "fitted": _gm(found.after, main, True)},
            "first_token": {
                "shipped": _gm(found.before, main, False),
                "fitted": _gm(found.after, main, False),
            },
        },
        "interval": None if interval is None else interval.model_dump(mode="json"),
        "next_run": None
        if advice is None
        else {
            "concurrency": advice.concurrency,
            "prompt_len": advice.prompt,
            "gen_len": advice.output,
            "half_width_before": advice.before,
            "half_width_after": advice.after,
            "sentence": advice.sentence,
        },
        "other_runs": [
            {
                "what": one.what,
                "half_width_before": one.before,
                "half_width_after": one.after,
                "sentence": one.sentence,
            }
            for one in others
        ],
        "left_out": [
            {"source": found.points.served[i].run.source, "reason": reason}
            for i, reason in sorted(found.points.left_out.items())
        ],
        "refused": [{"source": one.run.source, "reason": one.reason} for one in refused],
    }


def _gm(values: Any, main: Sequence[bool], kind: bool) -> float | None:
    found = gm([float(value) for value, is_main in zip(values, main, strict=True) if is_main == kind])
    return found if math.isfinite(found) else None


def fit_lines(found: dict[str, Any]) -> list[str]:
    """A fit for people."""
    lines = [*stack_fit_answer(found).text.plain.splitlines(), ""]
    lines += [*_wrapped(f"{found['release']}: {found['runs']} runs of {', '.join(found['models'])}"), ""]
    lines.append(f"{'constant':<34}{'shipped':>11}{'fitted':>11}   90 % interval")
    for name, one in found["parameters"].items():
        low, high = one["interval"]
        lines.append(f"{name:<34}{one['shipped']:>11.4g}{one['value']:>11.4g}   {low:.4g} to {high:.4g}")
    if not found["parameters"]:
        lines += _wrapped("none: the runs tell no constant better than what ships")
    if found["not_told"]:
        shown: dict[str | None, list[str]] = {}
        for name, kind in found["not_told"].items():
            shown.setdefault(kind, []).append(name)
        for kind, names in shown.items():
            lines += _wrapped(f"as shipped: {', '.join(names)}" + (f"; {kind} would tell" if kind else ""))
    lines.append("")
    for title, one in (("decode", found["gm"]["decode"]), ("first token", found["gm"]["first_token"])):
        if one["fitted"] is not None:
            lines += _wrapped(
                f"{title}: off by x/: {one['shipped']:.3f} with what ships, x/: {one['fitted']:.3f} fitted (geometric mean)"
            )
    interval = found["interval"]
    if interval is not None and interval["decode"] is not None:
        lines += _wrapped(
            f"90 % interval of a decode step: x/: {math.exp(interval['decode']):.2f} ({interval['method']})"
        )
    if found["next_run"] is not None:
        lines += _wrapped(found["next_run"]["sentence"])
    for one in found["other_runs"]:
        lines += _wrapped(one["sentence"])
    lines += _wrapped("another type of GPU needs runs of its own: a profile is of one machine")
    lines += [
        line for one in found["left_out"] for line in _wrapped(f"left out: {one['source']}: {one['reason']}")
    ]
    lines += [line for one in found["refused"] for line in _wrapped(f"refused: {one['reason']}")]
    return lines
