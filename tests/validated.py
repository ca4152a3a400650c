"""The published runs beside their predictions: a dozen tests read them, and a process makes them once."""

from __future__ import annotations

from functools import cache

from calibrate.validate.scoreboard import Validation, validate


@cache
def validation() -> Validation:
    """What `validate` says of all runs."""
    return validate()
