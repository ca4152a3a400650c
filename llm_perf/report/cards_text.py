"""Cards for a machine as text for people and as JSON."""

from __future__ import annotations

from typing import Any

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from llm_perf.config.economics import dollars_per_hour
from llm_perf.report.answer import Answer, interval_pieces
from llm_perf.report.command import infer_command_in_lines
from llm_perf.report.inference_json import SCHEMA_VERSION, finite, interval_object
from llm_perf.report.inference_text import bound_pieces, interval_text
from llm_perf.report.policy_text import describe
from llm_perf.report.start_command import divided_start_command
from llm_perf.report.units import count, rate, seconds
from llm_perf.search.cards import Card, CardsAnswer
from llm_perf.search.targets import QUANTITIES


def cards_report(answer: CardsAnswer) -> RenderableType:
    """The whole report, readable at 80 columns."""
    blocks: list[RenderableType] = [cards_answer(answer).text, _title(answer)]
    if answer.best:
        blocks.append(_table(answer))
        blocks.append(_first(answer.best[0]))
    else:
        blocks.append(Text("No card runs this model with this host: not even one sequence fits.", "red"))
    if answer.best and not answer.met:
        blocks.insert(2, Text("No card meets the targets; the nearest:", "yellow"))
    blocks.append(Text(_counted(answer), "dim"))
    return Group(*[Padding(block, (0, 0, 1, 0)) for block in blocks])


def cards_answer(answer: CardsAnswer) -> Answer:
    """Which card, in five lines."""
    none = ["-"]
    result = answer.best[0].answer.result if answer.best else None
    if result is None:
        said = "no. No card runs this model with this host, not even one sequence"
        return Answer(
            [said], none, none, none, ["a smaller --weight-format, or a host with more memory"], good=False
        )
    card, *others = answer.best
    name = card.gpu.name if card.count == 1 else f"{card.count} x {card.gpu.name}"
    price = _per_hour(card)
    cost = [] if price is None else [f"${price:.2f} an hour"]
    change = ["no other card is shown that runs it (--top)"]
    if not answer.met:
        change = ["a looser target: no card that was looked at meets it"]
    elif others and others[0].tpot_s:
        change = [f"next best: {others[0].gpu.name}, {rate(1 / others[0].tpot_s)}"]
    return Answer(
        fits=[f"yes. {name}" if answer.met else f"no. No card meets the targets; the nearest: {name}", *cost],
        speed=[
            *([f"decode {rate(1 / card.tpot_s)}"] if card.tpot_s else []),
            f"first token {seconds(card.ttft_s)}",
        ],
        sure=interval_pieces(result.interval, result.no_interval),
        bound=bound_pieces(result),
        change=change,
        good=answer.met,
    )


def _counted(answer: CardsAnswer) -> str:
    refused = f", {count(answer.refused)} without room for the model" if answer.refused else ""
    return f"{count(answer.tried)} cards looked at{refused} in {seconds(answer.seconds)}."


def _title(answer: CardsAnswer) -> Text:
    question = answer.question
    limits = ", ".join(
        f"{QUANTITIES[target.name][2]} {'at most' if target.at_most else 'at least'} "
        + (seconds(target.limit) if QUANTITIES[target.name][1] == "s" else rate(target.limit))
        for target in question.targets
    )
    order = f"{limits}; the smallest that meet it first" if limits else "the fastest first"
    text = Text.assemble("A card for ", (question.host, "bold"), " to run ", (question.model, "bold"))
    text.append(f"\none sequence, prompt {question.prompt_len}, generate {question.gen_len}; {order}")
    if answer.without is not None:
        one = answer.without
        text.append(
            f"\nwithout a card: {rate(1 / one.tpot_s) if one.tpot_s else '-'}, first token after {seconds(one.ttft_s)}"
        )
    return text


def _table(answer: CardsAnswer) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("card", overflow="fold")
    for name in ("decode", "TTFT", "$/h"):
        table.add_column(name, justify="right", no_wrap=True)
    if answer.question.targets:
        table.add_column("meets")
    table.add_column("system", no_wrap=True)
    table.add_column("what is where")
    for card in answer.best:
        price = _per_hour(card)
        cells = [
            card.gpu.name if card.count == 1 else f"{card.count} x {card.gpu.name}",
            (f"{1 / card.tpot_s:.3g}/s" if card.tpot_s else "-"),
            seconds(card.ttft_s),
            "-" if price is None else f"{price:.2f}",
        ]
        if answer.question.targets:
            cells.append("yes" if card.meets(answer.question.targets, answer.question.gen_len) else "no")
        flags = {} if card.answer.best is None else card.answer.best.flags
        table.add_row(*cells, str(flags.get("system", "")), describe(flags))
    return table


def _first(card: Card) -> Text:
    """How to ask about the first card alone, and how to start it."""
    inputs, result = card.answer.inputs, card.answer.result
    if inputs is None or result is None:
        return Text()
    text = Text.assemble((f"{card.gpu.name}: ", "bold"), f"{result.placement.reason}.\n")
    text.append(infer_command_in_lines(inputs), "cyan")
    started = divided_start_command(result, inputs.model)
    if started is not None:
        text.append("\nTo start it:\n")
        text.append(started, "cyan")
    certainty = interval_text(result.interval, result.no_interval)
    if certainty is not None:
        text.append("\n")
        text.append_text(certainty)
    for warning in result.warnings:
        text.append("\nnote: ", "yellow")
        text.append(warning)
    return text


def _per_hour(card: Card) -> float | None:
    """US dollars that renting the cards costs per hour."""
    if card.price is None:
        return None
    return dollars_per_hour(card.price) * card.count


def cards_object(answer: CardsAnswer) -> dict[str, Any]:
    """Everything as plain JSON types. The ``inputs`` of a card can be fed to ``llm-perf infer --config``."""
    found = {
        "schema_version": SCHEMA_VERSION,
        "question": answer.question.model_dump(),
        "without_card": None if answer.without is None else _card(answer, answer.without),
        "cards": [_card(answer, card) for card in answer.best],
        "meets_targets": answer.met,
        "tried": answer.tried,
        "refused": answer.refused,
        "seconds": answer.seconds,
    }
    return finite(found)  # type: ignore[no-any-return]


def _card(answer: CardsAnswer, card: Card) -> dict[str, Any]:
    question, found = answer.question, card.answer
    result = found.result
    return {
        "gpu": card.gpu.name,
        "num_gpus": 0 if card.gpu.absent else card.count,
        "memory_gib": card.memory_gib,
        "ttft_s": card.ttft_s,
        "tpot_s": card.tpot_s,
        "tokens_per_s": 1 / card.tpot_s if card.tpot_s else None,
        "price_per_hour": _per_hour(card),
        "meets_targets": card.meets(question.targets, question.gen_len),
        "policy": None if found.best is None else found.best.flags,
        "inputs": None if found.inputs is None else found.inputs.model_dump(),
        "start_command": None if result is None else divided_start_command(result, question.model),
        "interval": None if result is None else interval_object(result),
        "warnings": [] if result is None else list(result.warnings),
    }
