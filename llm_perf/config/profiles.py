"""Profiles: calibrated values that take the place of a host's, a GPU's or a system's own."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from llm_perf.config.base import Spec
from llm_perf.config.gpu import GPUConfig
from llm_perf.config.host import HostConfig
from llm_perf.config.loading import load_spec


class Profile(Spec):
    """Values learned on a machine, with their provenance.

    Attributes:
        system_constants: per system, constants by name (those of the YAML beside the system's module).
        host: fields of HostConfig to replace.
        gpu: fields of GPUConfig to replace; ``efficiency`` may be given field by field.
        provenance: machine, versions, date, runs used, residuals, what it was not fitted on.
    """

    name: str = Field(min_length=1)
    system_constants: dict[str, dict[str, float]] = Field(default_factory=dict)
    host: dict[str, Any] = Field(default_factory=dict)
    gpu: dict[str, Any] = Field(default_factory=dict)
    provenance: dict[str, Any] = Field(default_factory=dict)

    def constants_of(self, system: str) -> tuple[tuple[str, float], ...]:
        """The constants that this profile sets for a system."""
        return tuple(sorted(self.system_constants.get(system, {}).items()))

    def apply_to_host(self, host: HostConfig) -> HostConfig:
        """The host with this profile's fields.

        Raises:
            SpecError: a field does not exist or is out of range.
        """
        return host.replace(**self.host) if self.host else host

    def apply_to_gpu(self, gpu: GPUConfig) -> GPUConfig:
        """The GPU with this profile's fields.

        Raises:
            SpecError: a field does not exist or is out of range.
        """
        if not self.gpu:
            return gpu
        changes = dict(self.gpu)
        if isinstance(changes.get("efficiency"), dict):
            changes["efficiency"] = gpu.efficiency.replace(**changes["efficiency"])
        return gpu.replace(**changes)


NO_PROFILE = Profile(name="none")


def load_profile(name: str | None) -> Profile:
    """A profile by name or path; None and "none" change nothing.

    Raises:
        SpecError: unknown name or malformed file.
    """
    return NO_PROFILE if name is None or name.lower() == "none" else load_spec("profile", Profile, name)
