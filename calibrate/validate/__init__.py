"""Predictions beside published runs: one row, the statistics of many, and what simpler predictors say of them.

`calibrate.validate.scoreboard` puts the parts together; its names can be imported from here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from calibrate.validate.scoreboard import Compared, Validation, compare, validate

__all__ = ["Compared", "Validation", "compare", "validate"]


def __getattr__(name: str) -> Any:
    """A name of the scoreboard when first asked for: reading committed figures needs none of it."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from calibrate.validate import scoreboard

    return getattr(scoreboard, name)
