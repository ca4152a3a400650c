"""Reports for notebooks: what the command line prints, as HTML."""

from __future__ import annotations

import io

from rich.console import Console, RenderableType
from rich.terminal_theme import DEFAULT_TERMINAL_THEME

_FORMAT = '<pre style="font-family: monospace; line-height: 1.3; white-space: pre">{code}</pre>'
_WIDTH = 100


def html_of(report: RenderableType) -> str:
    """A report in colours, as a self-contained piece of HTML."""
    console = Console(
        file=io.StringIO(),
        record=True,
        width=_WIDTH,
        force_terminal=True,
        markup=False,
        emoji=False,
        highlight=False,
    )
    console.print(report)
    return console.export_html(theme=DEFAULT_TERMINAL_THEME, inline_styles=True, code_format=_FORMAT)
