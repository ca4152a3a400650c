"""Profiles: calibrated values that take the place of a host's, a GPU's or a system's own."""

from __future__ import annotations

from typing import Any, TypeVar

from pydantic import Field

from llm_perf.config.base import Name, Spec
from llm_perf.config.gpu import GPUConfig, NonNegativeQuantity
from llm_perf.config.host import HostConfig, Rate
from llm_perf.config.loading import load_spec
from llm_perf.config.scenario import Scenario
from llm_perf.errors import SpecError

S = TypeVar("S", bound=Spec)


class Profile(Spec):
    """Values learned on a machine, with their provenance.

    Attributes:
        system_constants: per system, constants by name (those of the YAML beside the system's module).
        host: fields of HostConfig to replace; tables (``copies``, ``layer_overhead_ms``) and ``disk`` may be given in part.
        gpu: fields of GPUConfig to replace; ``efficiency``, its tables, ``link`` and ``peak_tflops`` may be given in part.
        provenance: machine, versions, date, runs used, residuals, what it was not fitted on.
    """

    name: Name
    system_constants: dict[str, dict[str, NonNegativeQuantity]] = Field(default_factory=dict)
    host: dict[str, Any] = Field(default_factory=dict)
    gpu: dict[str, Any] = Field(default_factory=dict)
    provenance: dict[str, Any] = Field(default_factory=dict)

    def constants_of(self, system: str) -> tuple[tuple[str, float], ...]:
        """The constants that this profile sets for a system."""
        return tuple(sorted(self.system_constants.get(system, {}).items()))

    def apply_to_host(self, host: HostConfig, system: str) -> HostConfig:
        """The host with this profile's fields, as a system sees it.

        A constant of the system that the profile sets goes before the host's own figure for the same.

        Raises:
            SpecError: a field does not exist or is out of range.
        """
        changes = dict(self.host)
        if "layer_overhead_ms" in self.system_constants.get(system, {}):
            own = host.layer_overhead_ms | changes.get("layer_overhead_ms", {})
            host = host.replace(layer_overhead_ms={})
            changes["layer_overhead_ms"] = {name: time for name, time in own.items() if name != system}
        return self._applied(host, changes)

    def apply_to_gpu(self, gpu: GPUConfig) -> GPUConfig:
        """The GPU with this profile's fields.

        Raises:
            SpecError: a field does not exist or is out of range.
        """
        return self._applied(gpu, self.gpu)

    def apply(self, scenario: Scenario) -> Scenario:
        """The scenario with this profile's constants of its system and its fields of host and GPU.

        Constants that the scenario overrides already and this profile does not name stay.

        Raises:
            SpecError: a field does not exist or is out of range.
        """
        constants = dict(scenario.constants) | dict(self.constants_of(scenario.system))
        return scenario.replace(
            constants=tuple(sorted(constants.items())),
            host=self.apply_to_host(scenario.host, scenario.system),
            gpu=self.apply_to_gpu(scenario.gpu),
        )

    def _applied(self, spec: S, changes: dict[str, Any]) -> S:
        """The spec with changed fields; tables and parts of specs may be given in part."""
        try:
            merged = {name: _merged(getattr(spec, name, None), change) for name, change in changes.items()}
            return spec.replace(**merged) if merged else spec
        except SpecError as error:
            raise SpecError(f"profile {self.name}: {error}") from None


def _merged(current: Any, change: Any) -> Any:
    """A rate is replaced as a whole, since its source belongs to its value; tables and other specs entry by entry."""
    if isinstance(change, dict) and isinstance(current, dict):
        return current | {key: _merged(current.get(key), entry) for key, entry in change.items()}
    if isinstance(change, dict) and isinstance(current, Spec) and not isinstance(current, Rate):
        known = type(current).model_fields
        return current.replace(
            **{k: _merged(getattr(current, k), entry) if k in known else entry for k, entry in change.items()}
        )
    return change


NO_PROFILE = Profile(name="none")


def load_profile(name: str | None) -> Profile:
    """A profile by name or path; None and "none" change nothing.

    Raises:
        SpecError: unknown name or malformed file.
    """
    return NO_PROFILE if name is None or name.lower() == "none" else load_spec("profile", Profile, name)
