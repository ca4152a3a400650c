"""A sweep as text for people: how many points, why some cannot be, and the best."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from llm_perf.analysis.inference import predict_inference
from llm_perf.analysis.request import InferenceInputs, build_scenario
from llm_perf.analysis.speedups import faster
from llm_perf.config.profiles import NO_FIT, NO_FIT_USED, load_profile
from llm_perf.report.answer import Answer
from llm_perf.report.command import infer_command_in_lines
from llm_perf.report.inference_text import inference_answer
from llm_perf.report.units import count, gib, rate, seconds
from llm_perf.search.checks import NUMERIC
from llm_perf.search.summary import MORE_IS_BETTER, Summary
from llm_perf.search.sweep import Sweep

_REASONS: Final = 8
_WIDTH: Final = 80
_Shown = tuple[str, Callable[[float], str]]
_MEASURES: Final[Mapping[str, _Shown]] = {
    "throughput_tokens_per_s": ("token/s", lambda value: rate(value).removesuffix(" token/s")),
    "prefill_latency_s": ("TTFT", seconds),
    "latency_per_token_s": ("TPOT", seconds),
    "gpu_memory_bytes": ("GPU\nmemory", gib),
    "decode_latency_s": ("decode", seconds),
    "total_latency_s": ("total", seconds),
    "cpu_memory_bytes": ("host\nmemory", gib),
    "nvme_bytes": ("NVMe", gib),
    "weights_on_gpu": ("weights\non GPU", "{:.0%}".format),
    "weights_on_cpu": ("weights\non host", "{:.0%}".format),
    "ttft_s": ("TTFT", seconds),
    "tpot_s": ("TPOT", seconds),
}
_USUAL: Final = tuple(_MEASURES)[:4]
_SHORT: Final = {"batch_size": "batch", "prompt_len": "prompt", "gen_len": "gen"}


def sweep_report(summary: Summary, out: str | None) -> RenderableType:
    """The whole report, readable at 80 columns."""
    blocks: list[RenderableType] = [sweep_answer(summary).text, _counts(summary, out)]
    if summary.reasons:
        blocks.append(_reasons(summary))
    if summary.best:
        blocks.append(_best(summary))
        first = InferenceInputs(**summary.inputs_of(summary.best[0]))
        blocks.append(Text(infer_command_in_lines(first), "cyan"))
    elif summary.feasible and summary.top:
        blocks.append(Text(f"Nothing that fits has a {summary.by}."))
    return Group(*[Padding(block, (0, 0, 1, 0)) for block in blocks])


def sweep_answer(summary: Summary) -> Answer:
    """How many points fit, and what the best of them does, in five lines."""
    points = f"{count(summary.feasible)} of {count(summary.evaluated)}"
    if not summary.best:
        none = ["-"]
        if summary.feasible:
            return Answer([f"yes. {points} points"], none, none, none, none, good=True)
        reason = summary.reasons.most_common(1)[0][0] if summary.reasons else "nothing was asked"
        change = ["smaller models or formats, more GPUs (--tp-size), --ds-zero 3"]
        return Answer(
            [f"no. None of {count(summary.evaluated)} points", reason], none, none, none, change, good=False
        )
    best = InferenceInputs(**summary.inputs_of(summary.best[0]))
    result = predict_inference(build_scenario(best))
    one = inference_answer(result, (), faster(best, result))
    words = _in_words(summary.best[0], varying(summary.sweep))
    kind = "most" if summary.by in MORE_IS_BETTER else "least"
    title = _MEASURES[summary.by][0].replace("\n", " ")
    return Answer(
        fits=[f"yes. {points} points", *([f"{kind} {title}: {words}"] if words else [])],
        speed=one.speed,
        sure=one.sure,
        bound=one.bound,
        change=one.change,
        good=True,
    )


def _counts(summary: Summary, out: str | None) -> Text:
    speed = summary.computed / summary.seconds if summary.seconds else 0.0
    points = "1 point" if summary.evaluated == 1 else f"{count(summary.evaluated)} points"
    text = Text.assemble(
        (points, "bold"),
        f", {count(summary.feasible)} fit; {seconds(summary.seconds)}, {count(speed)} points/s",
    )
    if any(load_profile(name) is NO_FIT for name in summary.sweep.axes.get("profile", ())):
        text.append(f"\n{NO_FIT_USED}")
    return text if out is None else text.append(f"\nwritten to {out}")


def _reasons(summary: Summary) -> Table:
    table = Table(
        box=None, pad_edge=False, title="What does not fit", title_justify="left", title_style="bold"
    )
    table.add_column("points", justify="right")
    table.add_column("reason")
    shown = summary.reasons.most_common(_REASONS)
    for reason, number in shown:
        table.add_row(count(number), reason)
    if len(summary.reasons) > _REASONS:
        rest = sum(summary.reasons.values()) - sum(number for _, number in shown)
        table.add_row(count(rest), f"{len(summary.reasons) - _REASONS} other reasons")
    return table


def varying(sweep: Sweep) -> list[str]:
    """Inputs that have several values; the table needs no others."""
    listed = list(sweep.listed[0]) if sweep.listed else []
    return [*(name for name, values in sweep.axes.items() if len(values) > 1), *listed]


def _best(summary: Summary) -> RenderableType:
    """The best points: what they have in common in a line, what tells them apart in a table."""
    rows, names = summary.best, varying(summary.sweep)
    common = [name for name in names if len(rows) > 1 and len({_value(row[name]) for row in rows}) == 1]
    different = [name for name in names if name not in common]
    kind = "most" if summary.by in MORE_IS_BETTER else "least"
    parts: list[RenderableType] = [Text(f"Best of what fits: {kind} {summary.by}", "bold")]
    if common:
        words = ", ".join(f"{name.replace('_', ' ')} {_value(rows[0][name])}" for name in common)
        parts.append(Text(f"all with {words}"))
    table = _table(summary, different)
    if Console(width=10 * _WIDTH).measure(table).maximum > _WIDTH:
        table = _table(summary, different, in_words=True)
    return Group(*parts, table)


def _table(summary: Summary, names: list[str], *, in_words: bool = False) -> Table:
    """One row per point. Where there are too many inputs for columns, they are words in one."""
    table = Table(box=None, pad_edge=False)
    if in_words:
        table.add_column("inputs", ratio=1)
    for name in () if in_words else names:
        numeric = name in NUMERIC or all(isinstance(row[name], (int, float)) for row in summary.best)
        header = _SHORT.get(name, name.replace("_", "\n"))
        table.add_column(header, justify="right" if numeric else "left", no_wrap=True)
    measures = [*_USUAL, *(() if summary.by in _USUAL else (summary.by,))]
    for name in measures:
        table.add_column(_MEASURES[name][0], justify="right", no_wrap=True)
    for row in summary.best:
        inputs = [_in_words(row, names)] if in_words else [_value(row[name]) for name in names]
        table.add_row(*inputs, *[_shown(row[name], _MEASURES[name][1]) for name in measures])
    return table


def _in_words(row: Mapping[str, Any], names: list[str]) -> str:
    """Such as "llama-2-7b, h200, tp size 2, batch 8": numbers and switches need their name, other values do not."""
    return ", ".join(
        row[name]
        if isinstance(row[name], str)
        else f"{_SHORT.get(name, name).replace('_', ' ')} {_value(row[name])}"
        for name in names
        if row[name] is not None
    )


def _value(value: Any) -> str:
    """An input as its flag takes it; nothing where it has its default."""
    return (
        "" if value is None else {True: "on", False: "off"}[value] if isinstance(value, bool) else str(value)
    )


def _shown(value: float | None, show: Callable[[float], str]) -> str:
    return "-" if value is None else show(value)
