"""A plan as text for people: the best deployments, why each, and the front."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from llm_perf.config.files import looks_like_path
from llm_perf.config.parallelism import DSZeRO
from llm_perf.config.profiles import NO_FIT, NO_FIT_USED, load_profile
from llm_perf.report.answer import Answer
from llm_perf.report.command import infer_command_in_lines
from llm_perf.report.plan_json import prediction_of
from llm_perf.report.units import count, rate, seconds, three_digits
from llm_perf.search.plan_question import Candidate, PlanAnswer, PlanOutcome
from llm_perf.search.targets import QUANTITIES, Target
from llm_perf.systems.registry import DEFAULT, family_of, get_system

_SHOWN: Final = 12
"""Points of the front in the table; the JSON has them all."""

_OBJECTIVES: Final = {
    "cost": "least US dollars per token",
    "energy": "least joules per token",
    "gpus": "fewest GPUs",
    "throughput": "most tokens per second",
}


def plan_report(answer: PlanAnswer) -> RenderableType:
    """The whole report, readable at 80 columns."""
    return Group(*[Padding(block, (0, 0, 1, 0)) for block in plan_sections(answer).values()])


def plan_sections(answer: PlanAnswer) -> dict[str, Text | Table]:
    """The report's parts by name, in its order."""
    found: dict[str, Text | Table] = {"answer": plan_answer(answer).text, "title": _title(answer)}
    if answer.best:
        found["best"] = _table("Best of each GPU", answer.best)
        found["reasons"] = _reasons(answer)
        found["command"] = Text(infer_command_in_lines(answer.best[0].inputs), "cyan")
    else:
        found["nothing"] = _nothing(answer)
    if answer.front:
        found["front"] = _front(answer)
    found["counts"] = _counts(answer)
    return found


def plan_answer(answer: PlanAnswer) -> Answer:
    """What a plan found, in five lines."""
    if not answer.best:
        none = ["-"]
        said = _nothing(answer).plain.splitlines()
        change = ["more GPUs (--max-gpus)", "fewer bits (--quant-bits 4)", "other GPUs", "looser targets"]
        return Answer([f"no. {said[0]}"], said[1:] or none, none, none, change, good=False)
    best, *others = answer.best
    m, predicted = best.measures, prediction_of(best)
    system = get_system(best.inputs.system or DEFAULT)
    waits = predicted["bottlenecks"].get("decode") or predicted["bottlenecks"].get("prefill")
    ends = predicted["interval"] and predicted["interval"]["total_latency_s"]
    sure = ["not known: no published run is near enough"]
    if ends:
        factor = math.sqrt(ends[1] / ends[0])
        risky = [t.name for t in answer.question.targets if not t.met(_off_by(factor, t, m[t.measure]))]
        sure = [f"90% interval x/{factor:.2f}" + (f": may miss {', '.join(risky)}" if risky else "")]
        if (best.inputs.system or DEFAULT) == DEFAULT:
            sure.append("for no stack by name (--system)")
    how = f"{best.num_gpus} x {gpu_name(best)} {deployment(best)}".strip()
    cost = three_digits(m["cost_per_million_tokens"])
    larger = best.stops.startswith("a larger")
    change = ["no other GPU meets the targets, or none is shown (--gpus, --top)"]
    if others:
        change = [
            f"next best: {other.num_gpus} x {gpu_name(other)}, ${three_digits(other.measures['cost_per_million_tokens'])}/M, "
            f"{rate(other.measures['throughput_tokens_per_s'])}"
            for other in others[:1]
        ]
    return Answer(
        fits=[f"yes. {how}, batch {count(best.inputs.batch_size)}", f"${cost} per million tokens"],
        speed=[
            ", ".join(
                f"{name.upper()} {amount(name, m[f'{name}_s'])}{_of_limit(answer, name, m)}"
                for name in ("tpot", "ttft")
            ),
            rate(m["throughput_tokens_per_s"]),
        ],
        sure=sure,
        bound=[
            *([system.resource_title(waits)] if waits else []),
            best.stops if larger else f"the batch ends at {best.stops}",
        ],
        change=change,
        good=True,
    )


def _of_limit(answer: PlanAnswer, name: str, measures: Mapping[str, float]) -> str:
    """How much of its limit is used, where it has one."""
    used = [
        f" ({measures[t.measure] / t.limit:.0%} of the limit)"
        for t in answer.question.targets
        if t.name == name
    ]
    return used[0] if used else ""


def _off_by(factor: float, target: Target, value: float) -> float:
    """A value as bad as the interval allows."""
    return value * factor if target.at_most else value / factor


def _title(answer: PlanAnswer) -> Text:
    question = answer.question
    wanted = ", ".join(_limit(target) for target in question.targets) or "no target"
    return Text.assemble(
        (question.model, "bold"),
        f", prompt {question.prompt_len}, generate {question.gen_len}, {_machines(question.max_gpus)}\n",
        f"{wanted}; {_OBJECTIVES[question.objective]}",
        "" if question.batching == "static" else "\nTTFT and TPOT of a request while the batch is kept full",
        "" if load_profile(question.profile) is not NO_FIT else f"\n{NO_FIT_USED}",
    )


def _machines(max_gpus: int) -> str:
    return "one GPU" if max_gpus == 1 else f"up to {count(max_gpus)} GPUs"


def _limit(target: Target) -> str:
    sign = "at most" if target.at_most else "at least"
    return f"{QUANTITIES[target.name][2]} {sign} {amount(target.name, target.limit)}"


def amount(name: str, value: float) -> str:
    """A value of a target's quantity as people read it."""
    unit = QUANTITIES[name][1]
    if not math.isfinite(value):
        return "-"
    if unit == "s":
        return seconds(value)
    return {"token/s": rate(value), "$": f"${value:.3g}", "J": f"{value:.3g} J"}[unit]


def gpu_name(candidate: Candidate) -> str:
    """The GPU as a table shows it: of a file, its name without folder and ending."""
    name = candidate.inputs.gpu
    return Path(name).stem if looks_like_path(name) else name


def deployment(candidate: Candidate) -> str:
    """How a candidate runs, in few words."""
    inputs = candidate.inputs
    sizes = (("tp", inputs.tp_size), ("pp", inputs.pp_size), ("dp", inputs.dp_size))
    words = [f"{name} {size}" for name, size in sizes if size and size > 1]
    if inputs.quant_bits and inputs.quant_bits < 16:
        words.append(f"{inputs.quant_bits} bit")
    if DSZeRO.STAGE_3.value in (inputs.ds_zero, family_of(inputs.system or DEFAULT).ds_zero):
        words.append("offload")
    return " ".join(words)


def _table(title: str, candidates: tuple[Candidate, ...]) -> Table:
    table = Table(box=None, pad_edge=False, title=title, title_justify="left", title_style="bold")
    table.add_column("GPU", overflow="fold")  # the only column that may have no room
    table.add_column("how", no_wrap=True)
    for name in ("batch", "TTFT", "TPOT", "token/s", "$/M\ntoken", "J/\ntoken"):
        table.add_column(name, justify="right", no_wrap=True)
    for candidate in candidates:
        m = candidate.measures
        table.add_row(
            f"{candidate.num_gpus} x {gpu_name(candidate)}",
            deployment(candidate),
            count(candidate.inputs.batch_size),
            amount("ttft", m["ttft_s"]),
            amount("tpot", m["tpot_s"]),
            rate(m["throughput_tokens_per_s"]).removesuffix(" token/s"),
            three_digits(m["cost_per_million_tokens"]),
            three_digits(m["energy_j_per_token"]),
        )
    return table


def _reasons(answer: PlanAnswer) -> Text:
    """Of each of the best: how much of each limit it uses, what it waits for, what stops a larger batch, how sure it is."""
    text = Text()
    for candidate in answer.best:
        used = [
            _share(target, candidate.measures[target.measure])
            for target in answer.question.targets
            if math.isfinite(candidate.measures[target.measure])
        ]
        predicted = prediction_of(candidate)
        system = get_system(candidate.inputs.system or DEFAULT)
        waits = {
            phase: system.resource_title(name)
            for phase, name in predicted["bottlenecks"].items()
            if name is not None
        }
        found = [*used, *(f"{phase} waits for {name}" for phase, name in waits.items())]
        larger = candidate.stops.startswith("a larger")
        found.append(candidate.stops if larger else f"the batch ends at {candidate.stops}")
        found.append(_certainty(predicted["interval"]))
        text.append(f"{gpu_name(candidate)}: ", "bold")
        text.append("; ".join(found) + "\n")
    text.rstrip()
    return text


def _certainty(interval: Mapping[str, Any] | None) -> str:
    """How far off the latencies may be, in a word: what a margin below a limit is worth."""
    ends = None if interval is None else interval["total_latency_s"]
    return "no interval" if ends is None else f"90% interval x/{math.sqrt(ends[1] / ends[0]):.2f}"


def _share(target: Target, value: float) -> str:
    return f"{target.name} {value / target.limit:.0%} of its {'limit' if target.at_most else 'least'}"


def _nothing(answer: PlanAnswer) -> Text:
    if answer.nearest is None:
        text = Text("Nothing fits.", "bold red")
        return text.append(" Allow more GPUs, fewer bits (--quant-bits 4) or other GPUs.", "default")
    text = Text("Nothing meets the targets.", "bold red")
    candidate = answer.nearest
    missed = [
        f"{t.name} {amount(t.name, candidate.measures[t.measure])} of {amount(t.name, t.limit)}"
        for t in answer.question.targets
        if not t.met(candidate.measures[t.measure])
    ]
    how = f"{candidate.num_gpus} x {gpu_name(candidate)} {deployment(candidate)}".strip()
    return text.append(
        f"\nNearest: {how}, batch {candidate.inputs.batch_size}: {', '.join(missed)}.", "default"
    )


def _front(answer: PlanAnswer) -> Table:
    points: tuple[Candidate, ...] = answer.front
    if len(points) > _SHOWN:
        chosen = [round(i * (len(points) - 1) / (_SHOWN - 1)) for i in range(_SHOWN)]
        points = tuple(points[i] for i in chosen)
    shown = "" if len(points) == len(answer.front) else f", {len(points)} of {len(answer.front)}"
    within = " within the targets" if answer.best and answer.question.targets else ""
    objective = answer.question.objective.replace("gpus", "GPUs")
    title = f"Front{within}: nothing beats these in TPOT and {objective}{shown}"
    return _table(title, points)


def not_searched(answer: PlanOutcome) -> str:
    """Which of the GPUs that were asked for were not looked at, and why; empty where all were."""
    said = "; ".join(f"{gpu}: {why.rstrip('.')}" for gpu, why in answer.left_out.items())
    return f"\nNot searched: {said}." if said else ""


def _counts(answer: PlanAnswer) -> Text:
    text = f"{count(answer.evaluated)} configurations predicted in {seconds(answer.seconds)}"
    if answer.too_large:
        text += f"; {count(answer.too_large)} more are too large for their GPUs"
    for left_out, what in ((answer.unpriced, "price (--prices FILE)"), (answer.unrated, "rated power")):
        if left_out:
            text += f"; {len(left_out)} {'GPU has' if len(left_out) == 1 else 'GPUs have'} no {what}"
    return Text(text + "." + not_searched(answer), "dim")
