"""Where a number comes from, as a word that code can read."""

from typing import Any, Literal

from pydantic import Field, model_validator

from llm_perf.config.base import PositiveInt, Spec

Provenance = Literal["counted", "documented", "measured", "fitted", "assumed"]
"""How a number was found.

``counted``: in code or in shapes. ``documented``: stated by a data sheet, a paper or the software itself. ``measured``:
by a benchmark of the thing alone, apart from whole runs. ``fitted``: to whole runs, so that it may hold what is not its own.
``assumed``: usual, estimated or the ideal case.
"""


class Prior(Spec):
    """What is known of a fitted number without the runs that it was fitted to: its physical value."""

    value: float = Field(allow_inf_nan=False)
    provenance: Literal["counted", "documented", "measured", "assumed"]
    source: str = Field(min_length=1)


class Evidence(Spec):
    """What stands behind one number: its provenance and, where it was fitted, to how much.

    Attributes:
        provenance: How it was found.
        rows: Measured runs whose prediction it changes, or to which it was fitted.
        groups: Distinct conditions among these: host, GPU, model and weight format.
        source: Where it comes from, in words for people. No code reads it.
    """

    provenance: Provenance
    rows: PositiveInt | None = None
    groups: PositiveInt | None = None
    source: str = Field(min_length=1)

    @property
    def fitted(self) -> bool:
        """Whether it was fitted to whole runs."""
        return self.provenance == "fitted"

    @model_validator(mode="after")
    def _groups_are_of_rows(self) -> "Evidence":
        if self.rows is not None and self.groups is not None and self.groups > self.rows:
            raise ValueError(f"groups {self.groups} are more than rows {self.rows}")
        if not self.fitted and (self.rows, self.groups) != (None, None):
            raise ValueError(f"rows and groups belong to a fitted number, and this one is {self.provenance}")
        return self


def check_fields(spec: Spec, paths: tuple[str, ...], field: str = "assumed") -> None:
    """Each path, with dots between nested fields or keys, leads to a value of the spec.

    Raises:
        ValueError: one does not.
    """
    for path in paths:
        here: Any = spec
        for part in path.split("."):
            here = here.get(part) if isinstance(here, dict) else getattr(here, part, None)
        if here is None:
            raise ValueError(f"{field}: there is no {path!r} here")
