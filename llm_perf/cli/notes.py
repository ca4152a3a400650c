"""What is said on stderr of how a question was taken, once there is an answer: a refusal is one line."""

from __future__ import annotations

import click


def note(text: str) -> None:
    """Say this beside the answer of the command that runs; at once where nobody gathers notes."""
    context = click.get_current_context(silent=True)
    waiting = None if context is None else context.find_root().obj
    if isinstance(waiting, list):
        waiting.append(text)
    else:
        click.echo(f"llm-perf: {text}", err=True)
