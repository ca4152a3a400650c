"""What predictions of inference and of training have in common: one name for each thing that both say."""

from __future__ import annotations

from abc import ABC, abstractmethod
from functools import cached_property
from typing import TYPE_CHECKING

from llm_perf.analysis.calibrated import PredictionInterval
from llm_perf.systems.constants import ConstantsFile
from llm_perf.systems.tiers import Tiers

if TYPE_CHECKING:
    from llm_perf.config.scenario import Scenario
    from llm_perf.config.training import TrainingScenario

Found = tuple[PredictionInterval | None, str | None]
"""An interval, or why there is none."""


class Result(ABC):
    """A prediction. What only inference or only training has stands in the class that derives from this one.

    Attributes:
        scenario: What was asked.
        feasible: Whether it fits; times are given even where it does not.
        reason: What is missing where it does not fit.
        memory: Of the fullest GPU, of one host, of its disks.
        warnings: What to know of it.
    """

    scenario: Scenario | TrainingScenario
    feasible: bool
    reason: str | None
    memory: Tiers
    warnings: tuple[str, ...]

    @property
    @abstractmethod
    def latency_s(self) -> float:
        """Seconds of what was asked for: the whole batch, or one optimizer step."""

    @property
    @abstractmethod
    def tokens_per_s(self) -> float:
        """Tokens per second of the whole deployment, over all of that time."""

    @property
    @abstractmethod
    def software(self) -> ConstantsFile:
        """The version of a system or framework whose constants it was made with."""

    @property
    def version(self) -> str | None:
        """The versions of the software that its constants are of; None where they are of none, or a profile's."""
        return None if self.scenario.constants else self.software.stands_for

    @property
    def inherits(self) -> tuple[int, int] | None:
        """Constants that are not the version's own but those of the software it extends, and all of them."""
        return self.software.inherits

    @property
    def peak_gpu_memory_bytes(self) -> float:
        """What the allocator would report: everything on the GPU but context and reserve."""
        return float(self.memory.gpu.allocator_bytes)

    @property
    def memory_interval_bytes(self) -> tuple[float, float] | None:
        """Where a GPU's peak lies in nine of ten runs; None where it is set aside at the start, and so known."""
        return None

    @property
    def may_not_fit(self) -> bool:
        """Whether it fits as counted, but the upper end of the peak's interval does not."""
        ends = self.memory_interval_bytes
        return self.feasible and ends is not None and bool(ends[1] > self.memory.gpu.capacity_bytes)

    @property
    def interval(self) -> PredictionInterval | None:
        """Where a measurement is to be expected; None where nothing is known of that, and `no_interval` says why."""
        return self._found[0]

    @property
    def no_interval(self) -> str | None:
        """Why there is no interval; None where there is one."""
        return self._found[1]

    @cached_property
    def _found(self) -> Found:
        """Found when it is first asked for: a search that compares predictions does not pay for it."""
        return self._find_interval()

    @abstractmethod
    def _find_interval(self) -> Found:
        """The interval, or why there is none."""
