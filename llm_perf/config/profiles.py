"""Profiles: calibrated values that take the place of a host's, a GPU's or a system's own."""

import os
import sys
from pathlib import Path
from typing import Any, Final, TypeVar

from pydantic import Field, model_validator

from llm_perf.config.base import Name, NonNegativeQuantity, Spec
from llm_perf.config.calibration import Calibration
from llm_perf.config.files import looks_like_path
from llm_perf.config.gpu import GPUConfig
from llm_perf.config.host import HostConfig, Rate
from llm_perf.config.loading import load_spec
from llm_perf.config.names import normalise
from llm_perf.config.scenario import Scenario
from llm_perf.errors import SpecError, UnknownNameError

S = TypeVar("S", bound=Spec)


class Profile(Spec):
    """Values learned on a machine, with their provenance.

    Attributes:
        system_constants: per system, constants by name (those of the YAMLs in the system's folder); ``vllm@0.10`` sets
            those of one version, the file of that name, and no other's.
        host: fields of HostConfig to replace; tables (``copies``, ``layer_overhead_ms``) and ``disk`` may be given in part.
        gpu: fields of GPUConfig to replace; ``efficiency``, its tables, ``link`` and ``peak_tflops`` may be given in part.
        provenance: machine, versions, date, runs used, residuals, what it was not fitted on.
        calibration: where it was fitted, what its runs cover, how wide its intervals are; None where written by hand.

    ``gpu`` and ``host`` with a ``name`` describe a whole device, a CPU for example: they replace that one and no other.
    """

    name: Name
    system_constants: dict[str, dict[str, NonNegativeQuantity]] = Field(default_factory=dict)
    host: dict[str, Any] = Field(default_factory=dict)
    gpu: dict[str, Any] = Field(default_factory=dict)
    provenance: dict[str, Any] = Field(default_factory=dict)
    calibration: Calibration | None = None

    @model_validator(mode="after")
    def _provenance_can_be_shown(self) -> "Profile":
        made = self.provenance  # ValueErrors are what pydantic turns into lines with file and field
        if not isinstance(made.get("runs") or [], list):
            raise ValueError(f"provenance.runs must be a list, got {made['runs']!r}")  # noqa: TRY004
        for table, fields in (
            ("residuals", ("median_abs_error", "max_abs_error", "bias")),
            ("parameters", ("standard_error",)),
        ):
            entries = made.get(table) or {}
            if not isinstance(entries, dict):
                raise ValueError(f"provenance.{table} must be a mapping, got {entries!r}")  # noqa: TRY004
            for name, entry in entries.items():
                numbers = [entry.get(field) if isinstance(entry, dict) else None for field in fields]
                if entry and not all(isinstance(number, (int, float)) for number in numbers):
                    raise ValueError(f"provenance.{table}.{name} must have {', '.join(fields)} as numbers")
        return self

    def own_gpu(self, name: str | None) -> GPUConfig | None:
        """The device that this profile describes as a whole, if it has that name, or none is given.

        Raises:
            SpecError: its fields do not make a GPUConfig.
        """
        own = self.gpu.get("name")
        if (
            self.calibration is None
            or own is None
            or (name is not None and normalise(name) != normalise(own))
        ):
            return None
        return self._whole(GPUConfig, self.gpu)

    def own_host(self) -> HostConfig | None:
        """The host that this profile describes as a whole.

        Raises:
            SpecError: its fields do not make a HostConfig.
        """
        if self.calibration is None or "name" not in self.host:
            return None
        return self._whole(HostConfig, self.host)

    def _whole(self, spec: type[S], fields: dict[str, Any]) -> S:
        try:
            return spec(**fields)
        except SpecError as error:
            raise SpecError(f"profile {self.name}: {error}") from None

    def _describes_another(self, spec: GPUConfig | HostConfig, fields: dict[str, Any]) -> bool:
        own = fields.get("name")
        return self.calibration is not None and own is not None and normalise(own) != normalise(spec.name)

    def constants_of(self, system: str, release: str | None = None) -> tuple[tuple[str, float], ...]:
        """The constants that this profile sets for a system, and for the file of its version where that is named."""
        found = self.system_constants.get(system, {})
        if release is not None:
            found = found | self.system_constants.get(f"{system}@{release}", {})
        return tuple(sorted(found.items()))

    def version_of(self, system: str) -> str | None:
        """The version of a system that this profile was fitted to, which is meant where none is asked for; else None."""
        versions = {} if self.calibration is None else self.calibration.machine.versions
        fitted = any(name.startswith(f"{system}@") for name in self.system_constants)
        return versions.get(system) if fitted else None

    def apply_to_host(self, host: HostConfig, system: str) -> HostConfig:
        """The host with this profile's fields, as a system sees it.

        A constant of the system that the profile sets goes before the host's own figure for the same.

        Raises:
            SpecError: a field does not exist or is out of range.
        """
        changes = {} if self._describes_another(host, self.host) else dict(self.host)
        if "layer_overhead_ms" in self.system_constants.get(system, {}):
            own = host.layer_overhead_ms | changes.get("layer_overhead_ms", {})
            host = host.replace(layer_overhead_ms={})
            changes["layer_overhead_ms"] = {name: time for name, time in own.items() if name != system}
        return self._applied(host, changes | {"from_profile": tuple(changes)} if changes else changes)

    def apply_to_gpu(self, gpu: GPUConfig) -> GPUConfig:
        """The GPU with this profile's fields.

        Raises:
            SpecError: a field does not exist or is out of range.
        """
        return gpu if self._describes_another(gpu, self.gpu) else self._applied(gpu, self.gpu)

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
            calibration=self.own_calibration or scenario.calibration,
            fits=scenario.fits and self.fits,
        )

    def apply_where_fitted(self, scenario: Scenario) -> Scenario:
        """The scenario with this profile if it is of the machine that the profile was fitted on, else as it is."""
        machine = None if self.calibration is None else self.calibration.machine
        if machine is not None and normalise(machine.gpu) != normalise(scenario.gpu.name):
            return scenario
        if machine is not None and machine.host is not None and machine.host != scenario.host.name:
            return scenario
        return self.apply(scenario)

    @property
    def fits(self) -> bool:
        """Whether what was fitted to published runs holds where this profile says nothing."""
        return True

    @property
    def own_calibration(self) -> Calibration | None:
        """How far to trust this profile, under its name; None where it was written by hand."""
        return None if self.calibration is None else self.calibration.replace(profile=self.name)

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


class NoFit(Profile):
    """``--profile none``: nothing that was fitted to whole runs is used, of systems, hosts or GPUs."""

    @property
    def fits(self) -> bool:
        """Never."""
        return False

    def apply_to_host(self, host: HostConfig, system: str) -> HostConfig:  # noqa: ARG002 - as for any profile
        """The host with its data sheet and what was measured apart from whole runs."""
        return host.without_fits()

    def apply_to_gpu(self, gpu: GPUConfig) -> GPUConfig:
        """The GPU with what operators alone gave in place of what runs did."""
        return gpu.without_fits()


NO_PROFILE = Profile.model_construct(
    name="none"
)  # not checked: most commands read no profile, and build no check of one
"""No profile was given: every constant as it ships."""

NO_FIT = NoFit.model_construct(name="none")
"""``--profile none``: no constant that was fitted to runs."""

NO_FIT_USED: Final = "no fitted constant is used (--profile none)"
"""What every report of such predictions says."""


def user_folder() -> Path:
    """Where a user's own profiles are: LLM_PERF_PROFILES, else the system's usual folder for configurations."""
    given = os.environ.get("LLM_PERF_PROFILES")
    if given:
        return Path(given).expanduser()
    if sys.platform == "win32":
        base = Path(os.environ.get("APPDATA") or "~/AppData/Roaming")
    elif sys.platform == "darwin":
        base = Path("~/Library/Application Support")
    else:
        base = Path(os.environ.get("XDG_CONFIG_HOME") or "~/.config")
    return base.expanduser() / "llm-perf" / "profiles"


def own_profiles() -> dict[str, Path]:
    """The user's profiles by name; a name goes before that of a bundled one."""
    try:
        return {path.stem: path for path in sorted(user_folder().glob("*.yaml"))}
    except OSError:
        return {}


def load_profile(name: str | None) -> Profile:
    """A profile by name or path; None changes nothing, "none" takes away what was fitted. The user's own go first.

    Raises:
        SpecError: unknown name or malformed file.
    """
    if name is None:
        return NO_PROFILE
    if name.lower() == "none":
        return NO_FIT
    if looks_like_path(name):
        return _loaded(name)
    own = own_profiles()
    found = {normalise(stem): path for stem, path in own.items()}.get(normalise(name))
    if found is not None:
        return _loaded(str(found))
    try:
        return _loaded(name)
    except UnknownNameError as error:
        raise UnknownNameError("profile", name, dict.fromkeys((*own, *error.known))) from None


def _loaded(name: str) -> Profile:
    profile = load_spec("profile", Profile, name)
    if profile.name.lower() == "none":
        raise SpecError(f"{name}: name: 'none' says that nothing fitted is used, so none can have that name")
    return profile
