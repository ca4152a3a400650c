"""Which accelerators a program has kernels for, and which stand in which host: data of their files, asked in one place."""

from collections.abc import Callable, Iterable
from itertools import chain
from typing import Final

from pydantic import Field, model_validator

from llm_perf.config.base import GB, Spec
from llm_perf.config.gpu import GPUConfig
from llm_perf.config.host import HostConfig
from llm_perf.config.loading import get_host_config_by_name
from llm_perf.errors import SpecError

__all__ = ["MAKERS", "RunsOn", "check_runs", "machine_note", "runs_note"]

MAKERS: Final = ("nvidia", "amd", "intel", "apple", "google", "aws")
"""Vendors as the files of accelerators name them."""


class RunsOn(Spec):
    """Accelerators that a program runs on, as its makers say, from one version on.

    Attributes:
        since: The first version that this holds for; "0" for all.
        devices: Vendors, or architectures where it is not all that a vendor makes.
        but_not: Architectures of a vendor among them that it has no kernels for.
        barely: Vendors or architectures among them that it runs on with another backend than the one its constants
            are of, each with what to know of it.
        source: Where its makers say so.
    """

    since: str = "0"
    devices: tuple[str, ...] = Field(min_length=1)
    but_not: dict[str, tuple[str, ...]] = Field(default_factory=dict)
    barely: dict[str, str] = Field(default_factory=dict)
    source: str = Field(min_length=1)

    @model_validator(mode="after")
    def _of_its_devices(self) -> "RunsOn":
        if not set(self.but_not) <= set(self.devices):
            raise ValueError("but_not is of vendors that devices name")
        return self

    def takes(self, gpu: GPUConfig) -> bool:
        """Whether it runs there; of an accelerator whose file names neither vendor nor architecture nothing is known."""
        kinds = _kinds(gpu)
        if not kinds:
            return True
        return bool(kinds & set(self.devices)) and kinds.isdisjoint(chain(*self.but_not.values()))

    def words(self) -> str:
        """What it runs on, for a message: ``nvidia (but pascal), amd``."""
        return ", ".join(
            f"{device} (but {', '.join(self.but_not[device])})" if device in self.but_not else device
            for device in self.devices
        )


def _kinds(gpu: GPUConfig) -> set[str]:
    """Vendor and architecture; empty for no GPU, and for a vendor that no file here names."""
    kinds = {kind.lower() for kind in gpu.device}
    return kinds if gpu.maker in MAKERS else set()


def check_runs(
    program: str, rule: RunsOn | None, gpu: GPUConfig, others: Callable[[], Iterable[str]]
) -> None:
    """A program has kernels for an accelerator.

    Args:
        program: What it is and its name: ``system mlx``.
        rule: What it runs on; None where nothing is known of it.
        gpu: The accelerator.
        others: Names the programs that run there, where this one does not.

    Raises:
        SpecError: it has none.
    """
    if rule is None or rule.takes(gpu):
        return
    kind = " ".join(filter(None, (gpu.vendor, gpu.architecture)))
    raise SpecError(
        f"{program} does not run on {gpu.name} ({kind}): it runs on {rule.words()}; what runs on this one: "
        f"{', '.join(others())}"
    )


def runs_note(program: str, rule: RunsOn | None, gpu: GPUConfig) -> str | None:
    """What to know of an accelerator that a program runs on with another backend than the one its constants are of."""
    if rule is None:
        return None
    said = next((text for kind, text in rule.barely.items() if kind in _kinds(gpu)), None)
    return None if said is None else f"{program} on {gpu.name}: {said}"


def machine_note(gpu: GPUConfig, host: HostConfig) -> str | None:
    """What to know of an accelerator in a host that no machine has it in; None where one may."""
    if gpu.absent or gpu.default_host is None or gpu.default_host == host.name:
        return None
    usual = get_host_config_by_name(gpu.default_host)
    kinds = _kinds(gpu)
    if host.made_with and kinds and not kinds & set(host.made_with):
        return (
            f"host {host.name} is a machine made with {' or '.join(host.made_with)} accelerators; of one with "
            f"{gpu.name} in it nothing is known ({usual.name} is the usual host)"
        )
    own, there = gpu.pcie_bytes_per_s, host.pcie_bytes_per_s
    if own is None:
        return (
            None
            if there is None
            else f"{gpu.name} shares the memory of its own processor ({usual.name}); no machine has it in host {host.name}"
        )
    if there is None:
        return f"host {host.name} shares its memory with an accelerator of its own and has no link for {gpu.name}"
    least = min(own, usual.pcie_bytes_per_s or own)
    if usual.made_with and there < _SAME_LINK * least and "pcie_generation" not in host.assumed:
        return (
            f"{gpu.name} stands in machines such as {usual.name}, with {least / GB:.3g} GB/s between host and GPU; host "
            f"{host.name} has {there / GB:.3g}"
        )
    return None


_SAME_LINK: Final = 0.95
"""Links that differ by less are of one generation, as data sheets round."""
