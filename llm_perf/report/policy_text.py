"""A policy search as text for people: the best policy, what it takes and what binds it, and the front."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from llm_perf.analysis.economics import cost_of
from llm_perf.analysis.inference import InferenceResult, Phase
from llm_perf.report.answer import Answer, in_width, interval_pieces
from llm_perf.report.assumed_text import meant_names, said_of_inference
from llm_perf.report.command import infer_command_in_lines
from llm_perf.report.inference_text import TIERS, bound_pieces, interval_text, memory_of, memory_pieces
from llm_perf.report.policy_json import bottlenecks
from llm_perf.report.start_command import divided_start_command
from llm_perf.report.units import brief, count, rate, seconds
from llm_perf.search.policy import FrontPoint, PolicyAnswer
from llm_perf.systems import get_system, system_of

_SHOWN = 12
"""Points of the front in the table; the JSON has them all."""

_QUICKER = 0.95
"""Share of the best policy's latency below which another one is worth naming."""

_NAMES = {
    "throughput": "most tokens per second",
    "latency": "least latency",
    "cost": "least cost per token",
    "decode": "fast decode",
    "ttft": "fast first token",
    "mixed": "fast as a whole",
}


def policy_report(answer: PolicyAnswer) -> RenderableType:
    """The whole report of one search, readable at 80 columns."""
    blocks: list[RenderableType] = [policy_answer(answer).text, _title(answer)]
    if answer.best is None or answer.result is None:
        blocks.append(_nothing(answer))
    else:
        result = answer.result
        if answer.one_chat is not None:
            blocks.append(_one_chat(answer.one_chat, result))
        blocks.append(_best(answer.best, result, answer))
        certainty = interval_text(result.interval, result.no_interval)
        blocks += [] if certainty is None else [certainty]
        blocks += [memory_of(result), _binding(answer, result)]
    if answer.front:
        blocks.append(_front(answer))
    if answer.result is not None:
        blocks += [Text.assemble(("note: ", "yellow"), warning) for warning in answer.result.warnings]
    blocks.append(Text(f"{count(answer.searched)} policies searched in {seconds(answer.seconds)}.", "dim"))
    return Group(*[Padding(block, (0, 0, 1, 0)) for block in blocks])


def policy_answer(answer: PolicyAnswer) -> Answer:
    """What a search found, in five lines."""
    best, result = answer.best, answer.result
    if best is None or result is None:
        none = ["-"]
        change = ["fewer bits, a smaller model or another machine; nothing that was searched fits"]
        if answer.nearest is not None:
            change = [f"a limit of {answer.nearest.latency_s:.3g} s or more: that is the fastest policy"]
        return Answer(
            [f"no. {str(answer.reason)[:1].upper()}{str(answer.reason)[1:]}"],
            none,
            none,
            none,
            change,
            good=False,
        )
    others = [point for point in answer.front if point != best]
    quick = min(others, key=lambda point: point.latency_s, default=None)
    change = [f"nothing: no policy that was searched is {1 - _QUICKER:.0%} quicker"]
    if quick is not None and quick.latency_s < _QUICKER * best.latency_s:
        change = [
            f"for less latency, {brief(quick.latency_s)} at {rate(quick.throughput_tokens_per_s)}",
            describe(quick.flags),
        ]
    if answer.one_chat is not None and answer.one_chat.best is not None:
        change = [f"for one chat at a time see {answer.one_chat.best.flags['system']} below", *change]
    return Answer(
        fits=memory_pieces(result),
        speed=_speed(answer, best, result),
        sure=interval_pieces(result.interval, result.no_interval),
        bound=bound_pieces(result),
        change=change,
        good=True,
    )


def _speed(answer: PolicyAnswer, best: FrontPoint, result: InferenceResult) -> list[str]:
    """What the best policy reaches, of which system and of how many sequences together, and what one chat gets."""
    together = result.scenario.workload.batch_size
    if best.tpot_s is not None:
        alone = "one chat" if together == 1 else f"{count(together)} at once"
        return [
            f"{alone} {_decoded(best, together)} ({best.flags['system']})",
            f"first token {seconds(best.ttft_s or 0.0)}",
            f"all {brief(best.latency_s)}",
        ]
    said = [f"{count(together)} at once {rate(best.throughput_tokens_per_s)} ({best.flags['system']})"]
    chat = answer.one_chat
    if chat is not None and chat.best is not None:
        alone = _decoded(chat.best, 1).removesuffix(" token/s")
        said.append(f"one chat {alone} ({chat.best.flags['system']})")
    return [*said, f"{brief(best.latency_s)} a batch"]


def _decoded(point: FrontPoint, together: int) -> str:
    return rate(together / point.tpot_s if point.tpot_s else point.throughput_tokens_per_s)


def describe(flags: dict[str, Any]) -> str:
    """A policy in few words, for one cell of a table."""
    return get_system(flags["system"]).describe_policy(flags)


def _title(answer: PolicyAnswer) -> Text:
    question = answer.question
    host = "" if question.host is None else f" (host {question.host})"
    gpus = question.gpu if question.total_gpus == 1 else f"{question.total_gpus} x {question.gpu}"
    text = Text.assemble((question.model, "bold"), " on ", (gpus, "bold"), host)
    if question.num_nodes > 1:
        text.append(f", {question.num_nodes} nodes")
    text.append(f"\nprompt {question.prompt_len}, generate {question.gen_len}; {_NAMES[_objective(answer)]}")
    if question.max_latency is not None:
        text.append(f", at most {question.max_latency:g} s for a batch")
    if question.lossless:
        text.append(", nothing compressed")
    formats = None if answer.result is None else answer.result.scenario.dtype.formats
    if question.divides and formats is not None:
        text.append(f"; weights {formats.name}")
    text.append(f"; searched: {', '.join(question.running)}")
    by_reason: dict[str, list[str]] = {}
    chat = () if answer.one_chat is None else answer.one_chat.question.running
    for name, why in question.left_out.items():
        if name not in chat:
            by_reason.setdefault(why, []).append(name)
    if chat:
        text.append(f"\nsearched for one chat at a time: {', '.join(chat)}")
    if answer.refused is not None:
        text.append(f"\nbatches are not answered: {answer.refused}")
    text.append("".join(f"\nnot searched: {', '.join(names)} ({why})" for why, names in by_reason.items()))
    if question.divides and question.context is not None:
        text.append(
            f"\nthe cache has room for {count(question.context)} tokens of each sequence; times and the table of memory"
        )
        text.append(" are those of the lengths above")
    for line in _assumed(answer):
        text.append(f"\n{line}")
    return text


def _assumed(answer: PolicyAnswer) -> Iterator[str]:
    """What names were taken for, and host memory and network that the best policy rests on."""
    if answer.result is not None:
        scenario = answer.result.scenario
        yield from meant_names(answer.question, scenario.model, scenario.gpu)
        chat = None if answer.one_chat is None else answer.one_chat.result
        yield from dict.fromkeys(
            line for one in (answer.result, chat) if one is not None for line in said_of_inference(one)
        )


def _objective(answer: PolicyAnswer) -> str:
    question = answer.question
    return question.objective or ("mixed" if question.divides else "throughput")


def _best(best: FrontPoint, result: InferenceResult, answer: PolicyAnswer) -> Text:
    text = Text.assemble(("Best policy: ", "bold"), f"{best.flags['system']}, {describe(best.flags)}\n")
    text.append(f"{rate(best.throughput_tokens_per_s)}, {seconds(best.latency_s)} for a batch of ")
    text.append(f"{count(result.scenario.workload.batch_size)}")
    price = answer.question.price
    if price is not None:
        text.append(f", ${cost_of(result, price).per_million_tokens:.4g} per million tokens")
    text.append(f"\n{result.placement.reason}.\n")
    if best.ttft_s is not None and best.tpot_s:
        text.append(
            f"First token after {seconds(best.ttft_s)}, then {rate(result.scenario.workload.batch_size / best.tpot_s)}.\n"
        )
    text.append(infer_command_in_lines(answer.question.inputs(best.flags)), "cyan")
    started = divided_start_command(result, answer.question.model, answer.question.context)
    if started is not None:
        text.append("\nTo start it:\n")
        text.append(started, "cyan")
    return text


def _one_chat(chat: PolicyAnswer, batches: InferenceResult) -> Text:
    """What is the best for one sequence at a time, and that the policy below is for many."""
    together = count(batches.scenario.workload.batch_size)
    text = Text.assemble(("One chat at a time: ", "bold"))
    if chat.best is None or chat.result is None:
        text.append(f"{chat.reason}.\n")
    else:
        text.append(f"{chat.best.flags['system']}, {describe(chat.best.flags)}\n")
        text.append(f"First token after {seconds(chat.best.ttft_s or 0.0)}, then {_decoded(chat.best, 1)}")
        text.append(f".\n{in_width(interval_pieces(chat.result.interval, chat.result.no_interval), 80)}\n")
        text.append(infer_command_in_lines(chat.question.inputs(chat.best.flags)), "cyan")
        started = divided_start_command(chat.result, chat.question.model, chat.question.context)
        if started is not None:
            text.append("\nTo start it:\n")
            text.append(started, "cyan")
        text.append(
            "\nMore of it, and other such systems: --system auto (--batch-size for several at once).\n"
        )
    text.append(
        f"\nWhat follows answers {together} sequences at once: the tokens of all of them together, as for a job"
    )
    text.append(" that runs overnight; each one alone is slower.")
    return text


def _binding(answer: PolicyAnswer, result: InferenceResult) -> Text:
    fullest = bottlenecks(answer)["memory"] or "gpu"
    parts = getattr(result.memory, fullest)
    text = Text.assemble(("What binds: ", "bold"))
    text.append(
        f"{TIERS[fullest]} memory is fullest ({float(parts.total_bytes) / parts.capacity_bytes:.0%}); "
    )
    text.append(f"prefill waits for {_bound(result, result.prefill)}")
    if result.decode is not None:
        text.append(f", decode for {_bound(result, result.decode)}")
    text.append(".")
    return text


def _bound(result: InferenceResult, phase: Phase) -> str:
    busy = min(phase.busy_s[phase.bottleneck] / phase.latency_s, 1.0)
    return f"{system_of(result.scenario).resource_title(phase.bottleneck)} (busy {busy:.0%}, {seconds(phase.latency_s)})"


def _front(answer: PolicyAnswer) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), title_justify="left")
    table.add_column("latency", justify="right", no_wrap=True)
    table.add_column("throughput", justify="right", no_wrap=True)
    divided = any(point.ttft_s is not None for point in answer.front)
    if divided:
        table.add_column("first token", justify="right", no_wrap=True)
        table.add_column("decode", justify="right", no_wrap=True)
    table.add_column("system", no_wrap=True)
    table.add_column("policy")
    for point in _spread(answer.front, answer.best):
        table.add_row(
            brief(point.latency_s),
            rate(point.throughput_tokens_per_s),
            *(_phases(point, answer) if divided else ()),
            point.flags["system"],
            describe(point.flags),
            style="bold" if point == answer.best else None,
        )
    return table


def _phases(point: FrontPoint, answer: PolicyAnswer) -> tuple[str, str]:
    """First token and rate of decode of a divided model."""
    tokens = answer.question.sequences / point.tpot_s if point.tpot_s else 0.0
    return brief(point.ttft_s or 0.0), rate(tokens)


def _spread(front: tuple[FrontPoint, ...], best: FrontPoint | None) -> list[FrontPoint]:
    """Some points of the front, evenly over it, both ends and the best among them."""
    if len(front) <= _SHOWN:
        return list(front)
    steps = {round(step * (len(front) - 1) / (_SHOWN - 1)) for step in range(_SHOWN)}
    return [point for index, point in enumerate(front) if index in steps or point == best]


def _nothing(answer: PolicyAnswer) -> Text:
    text = Text.assemble(("No policy. ", "bold red"), f"{answer.reason}.")
    if answer.nearest is not None:
        text.append(f"\nThe fastest: {answer.nearest.flags['system']}, {describe(answer.nearest.flags)}\n")
        text.append(infer_command_in_lines(answer.question.inputs(answer.nearest.flags)), "cyan")
    return text
