"""Memory as inference and training both answer it: what a tier holds beside what it can, and the three tiers of a machine."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import ClassVar

from llm_perf.config.base import GIB
from llm_perf.counts.arrays import Number, where


class Tier:
    """One memory: its parts, which have a sum, and what can be allocated. All may be arrays over configurations.

    Attributes:
        uses: The parts by the names of their fields, with what reports call them, in their order.
        reserved_bytes: The part that no allocator sees: context and reserve.
        capacity_bytes: What can be allocated.
    """

    __slots__ = ()
    uses: ClassVar[Mapping[str, str]]
    reserved_bytes: Number
    capacity_bytes: Number

    @property
    @abstractmethod
    def total_bytes(self) -> Number:
        """Sum of the parts."""

    @property
    def allocator_bytes(self) -> Number:
        """What the allocator of the software has: all but context and reserve."""
        return self.total_bytes - self.reserved_bytes

    @property
    def shortfall_bytes(self) -> Number:
        """Bytes missing, 0 where it fits."""
        return where(self.fits, 0.0, self.total_bytes - self.capacity_bytes)

    @property
    def fits(self) -> Number:
        """Whether the parts fit: memory comes in whole bytes, so less than one missing is a sum's rounding.

        A placement that fills what is free (Accelerate's) ends at the capacity, where sums of floats differ in their last
        digits.
        """
        return self.total_bytes - self.capacity_bytes < 1.0


class Tiers:
    """Memory of the fullest GPU, of one host, of one host's disks."""

    __slots__ = ()
    gpu: Tier
    cpu: Tier
    nvme: Tier

    @property
    def named(self) -> tuple[tuple[str, Tier], ...]:
        """The tiers with what they are called."""
        return (("GPU memory", self.gpu), ("host memory", self.cpu), ("NVMe", self.nvme))

    @property
    def fits(self) -> Number:
        """Whether every tier fits."""
        return self.gpu.fits & self.cpu.fits & self.nvme.fits

    @property
    def missing(self) -> str | None:
        """What is missing on each tier that does not fit, of a single configuration; None where all fit."""
        return "; ".join(_missing(name, tier) for name, tier in self.named if not tier.fits) or None


def _missing(name: str, tier: Tier) -> str:
    missing = float(tier.shortfall_bytes)
    # A digit of a GiB where that shows what is missing, else MiB: "0.0 GiB missing" would contradict itself.
    short = f"{missing / GIB:,.1f} GiB" if missing >= 0.05 * GIB else f"{max(missing / 2**20, 0.1):,.1f} MiB"
    whole = f"{tier.total_bytes / GIB:,.1f} GiB needed, {tier.capacity_bytes / GIB:,.1f} GiB usable"
    return f"{name}: {whole}, {short} missing"
