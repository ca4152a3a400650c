"""What public code says changed in a system at one of its versions: facts, known of versions that no constants are of."""

from __future__ import annotations

from pydantic import Field, model_validator

from llm_perf.config.provenance import Evidence


class VersionFact(Evidence):
    """Constants that changed at a version, and what they were before it.

    Constants are fitted to the versions that runs are of. Where one of these stands in for a version that has none, what is
    known to have changed between the two is taken into account (`llm_perf.systems.constants.changes`).

    Attributes:
        since: The first version that is so.
        constants: Values from then on.
        before: Values of the same constants until then.
    """

    since: str = Field(min_length=1)
    constants: dict[str, float] = Field(min_length=1)
    before: dict[str, float]

    @model_validator(mode="after")
    def _the_same_constants(self) -> VersionFact:
        if self.constants.keys() != self.before.keys():
            raise ValueError(
                f"`before` says what {', '.join(sorted(self.constants))} were, and of nothing else"
            )
        return self
