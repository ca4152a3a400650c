"""A measured run in the shape that the fit knows, whatever it was read from."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from llm_perf.config.calibration import CalibratedMachine
from llm_perf.config.scenario import Scenario
from llm_perf.errors import SpecError

PHASES = ("prefill", "decode", "total")


@dataclass(frozen=True)
class Observation:
    """One measured run.

    Attributes:
        source: File, and record in it, for messages.
        group: What is left out together when predictions are tested: the model.
        scenario: What predicts the run, before any profile.
        measured_s: Seconds by phase; phases that were not measured are missing.
        machine: Where it ran.
        accepted: Repeats that count.
        rejected: Repeats that do not, since others used the machine's cores.
        digest: Of what was measured, to recognise a run that is given twice.
        facts: What base rates can be taken from: the run's own record of machine and framework times.
    """

    source: str
    group: str
    scenario: Scenario
    measured_s: Mapping[str, float]
    machine: CalibratedMachine
    accepted: int = 1
    rejected: int = 0
    digest: str = ""
    facts: Mapping[str, Any] = field(default_factory=dict)

    @property
    def label(self) -> str:
        """Model, system and sizes on one line."""
        s, w = self.scenario, self.scenario.workload
        return (
            f"{s.model.name.rpartition('_')[2]} {s.system} batch {w.batch_size}, {w.prompt_len} + {w.gen_len}"
        )


@dataclass(frozen=True)
class Rejected:
    """A run that does not count, and the evidence."""

    source: str
    reason: str


def needed(record: Mapping[str, Any], source: str, *path: str) -> Any:
    """What stands at a path in a record.

    Raises:
        SpecError: nothing does; the message names file and field.
    """
    value: Any = record
    for depth, name in enumerate(path):
        if not isinstance(value, Mapping) or value.get(name) is None:
            raise SpecError(
                f"{source}: {'.'.join(path[: depth + 1])} is missing: the file is truncated, or of another form"
            )
        value = value[name]
    return value


def positive(
    source: str | Path, name: str, value: Any, zero: bool = False, unit: str = " of seconds"
) -> float:
    """A positive, finite number (or 0 where ``zero``).

    Raises:
        SpecError: it is none; the message names file and field.
    """
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not number or not math.isfinite(value) or value < 0 or (value == 0 and not zero):
        raise SpecError(f"{source}: {name} = {value!r}: expected a positive number{unit}")
    return float(value)
