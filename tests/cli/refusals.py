"""What tests of bad input share: small questions that are answered, and how an input that is refused has to look."""

from __future__ import annotations

from pathlib import Path
from typing import Any

SMALL = {"--model": "opt-1.3b", "--gpu": "t4"}  # 24 layers, 32 heads, 2048 positions
ZERO = {**SMALL, "--ds-zero": "3"}


def refused(infer: Any, flags: dict[str, str] | list[str]) -> str:
    """The message of a refused input, which has left nothing behind."""
    words = flags if isinstance(flags, list) else [word for pair in flags.items() for word in pair]
    before = sorted(Path().rglob("*"))
    outcome = infer(*words)
    assert sorted(Path().rglob("*")) == before
    error: str = outcome.error
    assert error.isprintable()
    assert len(error) < 600 + sum(map(len, words))
    return error
