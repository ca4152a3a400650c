"""Progress of long work on stderr; nothing where that is no terminal."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


class Progress:
    """One line on the terminal that says what is going on and how far it is."""

    def __init__(self, visible: bool | None = None) -> None:
        self.visible = sys.stderr.isatty() if visible is None else visible
        self._status: Any = None

    @contextmanager
    def shown(self) -> Iterator[Progress]:
        """Show the line while the block runs."""
        if not self.visible:
            yield self
            return
        from rich.console import Console

        with Console(stderr=True).status("starting") as self._status:
            yield self
        self._status = None

    def say(self, text: str) -> None:
        """Replace the line."""
        if self._status is not None:
            self._status.update(text)
