"""A fit, and runs that it never saw beside their predictions, as JSON and as text."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

from calibrate.fit.calibrator import Calibrator, Compared, predicted_s
from calibrate.fit.runs import Inputs
from llm_perf.analysis.inference import predict_inference
from llm_perf.config.gpu import TEXTBOOK
from llm_perf.config.parallelism import DSZeRO
from llm_perf.config.scenario import Scenario
from llm_perf.config.workload import OffloadConfig
from llm_perf.report.answer import Answer

_PHASES = ("prefill", "decode", "total")
_WIDTH = 80


def roofline(scenario: Scenario) -> Scenario:
    """The textbook roofline of the same machine: its measured peaks, nothing of its software."""
    nothing = (
        "kernels_per_layer",
        "launch_us",
        "python_us_per_layer",
        "step_ms",
        "prefill_ms",
        "server_ms",
        "sequence_us",
    )
    return scenario.replace(
        gpu=scenario.gpu.replace(efficiency=TEXTBOOK),
        system="resident",
        ds_zero=DSZeRO.NONE,
        offload=OffloadConfig(),
        constants=tuple((name, 0.0) for name in nothing),
    )


def fit_object(fitted: Calibrator, inputs: Inputs, profile: str | None) -> dict[str, Any]:
    """What a fit found, as one JSON object."""
    interval = fitted.interval_
    return {
        "schema_version": 1,
        "profile": profile,
        "machine": fitted.compared_[0].observation.machine.model_dump(mode="json"),
        "runs": len(fitted.compared_),
        "models": sorted({one.observation.group for one in fitted.compared_}),
        "repeats_rejected": sum(one.observation.rejected for one in fitted.compared_),
        "runs_rejected": [{"source": one.source, "reason": one.reason} for one in inputs.rejected],
        "parameters": {
            name: {
                "value": value,
                "standard_error": fitted.standard_errors_[name],
                "at_bound": name in fitted.at_bound_,
            }
            for name, value in fitted.values_.items()
        },
        "not_identified": list(fitted.not_identified_),
        "condition": fitted.identification_.condition
        if math.isfinite(fitted.identification_.condition)
        else None,
        "singular_values": list(fitted.identification_.singular_values),
        "residuals": {phase: _errors(fitted.compared_, phase) for phase in _PHASES},
        "left_out": {phase: _errors(fitted.left_out_, phase) for phase in _PHASES},
        "interval": None if interval is None else interval.model_dump(mode="json"),
        "rows": [_row(one) for one in fitted.compared_],
        "warnings": list(inputs.warnings),
    }


def held_out_object(fitted: Calibrator, inputs: Inputs, tests: Inputs, profile: str) -> dict[str, Any]:
    """The fit, and runs of models that it never saw: predictions with intervals, and the roofline's."""
    rows = []
    for one in fitted.compare(tests.observations):
        result = predict_inference(fitted.profile_.apply(one.observation.scenario))
        plain = predicted_s(roofline(fitted.start_.apply(one.observation.scenario)))
        interval = None if result.interval is None else result.interval.total_s
        measured = one.observation.measured_s["total"]
        rows.append(
            _row(one)
            | {
                "interval_s": None if interval is None else list(interval),
                "inside": None if interval is None else interval[0] <= measured <= interval[1],
                "roofline_s": plain["total"],
                "roofline_error": plain["total"] / measured - 1,
            }
        )
    errors = [abs(row["errors"]["total"]) for row in rows]
    rooflines = [abs(row["roofline_error"]) for row in rows]
    return fit_object(fitted, inputs, profile) | {
        "held_out": {
            "models": sorted({one.group for one in tests.observations}),
            "rows": rows,
            "runs_rejected": [{"source": one.source, "reason": one.reason} for one in tests.rejected],
            "median_abs_error": median(errors) if errors else None,
            "roofline_median_abs_error": median(rooflines) if rooflines else None,
            "times_closer": median(rooflines) / median(errors) if errors and median(errors) else None,
            "inside_interval": sum(bool(row["inside"]) for row in rows) / len(rows) if rows else None,
        }
    }


def _row(one: Compared) -> dict[str, Any]:
    observation = one.observation
    return {
        "source": observation.source,
        "what": observation.label,
        "measured_s": dict(observation.measured_s),
        "predicted_s": dict(one.predicted_s),
        "errors": {phase: one.error(phase) for phase in _PHASES},
        "repeats_accepted": observation.accepted,
        "repeats_rejected": observation.rejected,
    }


def _errors(compared: Sequence[Compared], phase: str) -> dict[str, float] | None:
    errors = [error for one in compared if (error := one.error(phase)) is not None]
    if not errors:
        return None
    return {
        "median_abs_error": median(map(abs, errors)),
        "max_abs_error": max(map(abs, errors)),
        "bias": sum(errors) / len(errors),
    }


# -- text -----------------------------------------------------------------------------------------------------


def fit_lines(found: dict[str, Any]) -> list[str]:
    """A fit for people, at 80 columns."""
    lines = [
        *fit_answer(found).text.plain.splitlines(),
        "",
        *_wrapped(
            f"Fitted to {found['runs']} runs of {', '.join(_short(model) for model in found['models'])} on "
            f"{found['machine']['gpu']}"
        ),
        f"({found['repeats_rejected']} repeats and {len(found['runs_rejected'])} runs rejected for others' CPU time)",
        "",
        f"{'parameter':<52}{'value':>12}{'+-':>8}",
    ]
    for name, parameter in found["parameters"].items():
        bound = " at end" if parameter["at_bound"] else ""
        lines.append(f"{name:<52}{parameter['value']:>12.4g}{parameter['standard_error']:>8.0%}{bound}")
    if any(parameter["at_bound"] for parameter in found["parameters"].values()):
        lines.append("at end: of the range of what is physical")
    for sentence in found["not_identified"]:
        lines += _wrapped(f"not identified: {sentence}")
    lines += ["", f"{'median (largest) absolute error':<36}{'prefill':>14}{'decode':>14}{'total':>14}"]
    for title, key in (
        ("of the runs of the fit", "residuals"),
        ("each model left out of its fit", "left_out"),
    ):
        if any(found[key].values()):
            lines.append(f"{title:<36}" + "".join(f"{_pair(found[key][phase]):>14}" for phase in _PHASES))
    interval = found["interval"]
    if interval is None:
        lines.append("no interval: that takes runs of two models or more")
    else:
        cells = "".join(
            f"{'-' if interval[phase] is None else f'x/: {math.exp(interval[phase]):.2f}':>14}"
            for phase in _PHASES
        )
        lines.append(f"{'90 % interval (' + str(interval['groups']) + ' models left out)':<36}{cells}")
    lines += _rejected(found["runs_rejected"])
    for text in found["warnings"]:
        lines += _wrapped(f"warning: {text}")
    return lines


def fit_answer(found: Mapping[str, Any]) -> Answer:
    """What a fit found, in five lines: the figure of models that it was not fitted to before that of its own runs."""
    interval, left_out = found["interval"], found["left_out"]["total"]
    sure = ["not known: that takes runs of two models or more"]
    if left_out is not None:
        sure = [
            f"each model left out: total {left_out['median_abs_error']:.1%} off, {left_out['max_abs_error']:.0%} at most"
        ]
    if interval is not None and interval["total"] is not None:
        sure.append(f"90% interval x/{math.exp(interval['total']):.2f}")
    own = found["residuals"]["total"]
    unknown = [sentence.split(" is ")[0] for sentence in found["not_identified"]]
    return Answer(
        fits=[f"yes. {found['runs']} runs of {len(found['models'])} models", found["machine"]["gpu"]],
        speed=[
            "-"
            if own is None
            else f"total {own['median_abs_error']:.1%} in the middle, {own['max_abs_error']:.0%} at most"
        ],
        sure=sure,
        bound=[f"{len(unknown)} constants these runs do not tell apart: {unknown[0]}", *unknown[1:]]
        if unknown
        else ["all constants were told apart"],
        change=["llm-perf infer --profile FILE predicts with it"],
        good=True,
        labels=("Fitted:", "Off by:", "How sure:", "Not known:", "Next:"),
    )


def _rejected(runs: Sequence[Mapping[str, Any]]) -> list[str]:
    return [line for one in runs for line in _wrapped(f"rejected: {one['source']}: {one['reason']}")]


def _wrapped(text: str) -> list[str]:
    return textwrap.wrap(text, _WIDTH, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False)


def _pair(errors: dict[str, float] | None) -> str:
    return "-" if errors is None else f"{errors['median_abs_error']:.1%} ({errors['max_abs_error']:.0%})"


def _short(model: str) -> str:
    return model.rpartition("/")[2].rpartition("_")[2]


def held_out_lines(found: dict[str, Any]) -> list[str]:
    """The fit, and the table of runs that it never saw."""
    held = found["held_out"]
    lines = [
        *fit_lines(found), "",
        f"Never seen: {', '.join(_short(model) for model in held['models'])}; total seconds (roof: error of the roofline)",
        f"{'':<33}{'measured':>8}{'predicted':>10}{'error':>7}{'90 % interval':>14}{'roof':>8}",
    ]  # fmt: skip
    for row in held["rows"]:
        interval = (
            "-" if row["interval_s"] is None else f"{row['interval_s'][0]:.2f} .. {row['interval_s'][1]:.2f}"
        )
        outside = " " if row["inside"] in (True, None) else "!"
        lines.append(
            f"{_short_label(row['what'])[:33]:<33}{row['measured_s']['total']:>8.3f}{row['predicted_s']['total']:>10.3f}"
            f"{row['errors']['total']:>+7.1%}{interval:>14}{outside}{row['roofline_error']:>+7.0%}"
        )
    if any(row["inside"] is False for row in held["rows"]):
        lines.append("!: measured outside the interval")
    lines += _rejected(held["runs_rejected"])
    if held["median_abs_error"] is not None:
        closer = held["times_closer"]
        lines += _wrapped(
            f"Median absolute error {held['median_abs_error']:.1%}, uncalibrated roofline "
            f"{held['roofline_median_abs_error']:.0%}"
            + (f": {closer:.1f} times closer" if closer else "")
            + f"; {held['inside_interval']:.0%} inside the interval"
        )
    return [*lines, f"Profile: {found['profile']}"]


def _short_label(label: str) -> str:
    """What ran, without the model's organisation."""
    model, _, rest = label.partition(" ")
    return f"{_short(model)} {rest}".replace("zero_inference", "ZeRO-3").replace("resident", "plain")
