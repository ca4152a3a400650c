"""``llm-perf serve``."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Sequence
from typing import Any

import click

from llm_perf.errors import bad_value

_PORT = 8765


@click.command("serve")
@click.option(
    "--port", type=click.IntRange(0, 65535), default=_PORT, show_default=True, help="0 takes a free one."
)
def serve(port: int) -> int:
    """Explore predictions in a browser: model, GPU, system, batch, lengths, offload.

    The page is for this machine alone (127.0.0.1); the address of a question can be kept or sent. Ctrl-C ends it.
    """
    from llm_perf.cli.report import accuracy
    from llm_perf.explore.controls import options
    from llm_perf.explore.page import served_page
    from llm_perf.explore.server import HOST, bound_socket, build_app
    from llm_perf.explore.server import serve as answer

    app = build_app(served_page(options(), accuracy()), view_of)
    with bound_socket(port) as on:
        click.echo(f"llm-perf answers on http://{HOST}:{on.getsockname()[1]}/ until Ctrl-C", err=True)
        threading.Thread(target=_load, daemon=True).start()
        answer(app, on)
    return 0


def _load() -> None:
    """Load what a first answer needs while the browser opens: half a second that nobody has to wait for."""
    from llm_perf.explore.controls import START

    with contextlib.suppress(Exception):  # whoever asks gets the message
        view_of(tuple(START.items()))


def view_of(parameters: Sequence[tuple[str, str]]) -> dict[str, Any]:
    """The view that a request asks for, with the other GPUs beside it where ``gpu`` is given several times.

    Raises:
        SpecError: as ``llm-perf infer``, or with ``task=train`` ``llm-perf train``, refuses the same flags.
    """
    from dataclasses import replace

    from llm_perf.cli.explore_question import TASK, TASKS, questions_of, training_question_of
    from llm_perf.cli.report import prediction_of
    from llm_perf.explore.training_view import training_view
    from llm_perf.explore.view import prediction_view

    task = dict(parameters).get(TASK, TASKS[0])
    if task not in TASKS:
        raise bad_value(TASK, task[:80], " or ".join(TASKS))
    if task == "train":
        return training_view(training_question_of(parameters))
    parameters = [(name, value) for name, value in parameters if name != TASK]
    first, *others = [prediction_of(question) for question in questions_of(parameters)]
    return prediction_view(replace(first, others=tuple(others)))
