"""The packages that a real run needs, asked for before any of them is imported."""

from __future__ import annotations

import importlib.util

from llm_perf.errors import MissingExtraError

PACKAGES = ("torch", "deepspeed", "transformers", "accelerate")


def require_extra(purpose: str = "a real run") -> None:
    """Make sure that the packages of the extra ``calibrate`` are installed.

    Raises:
        MissingExtraError: one is not; the message says what to install.
    """
    if any(importlib.util.find_spec(package) is None for package in PACKAGES):
        raise MissingExtraError("calibrate", purpose)
