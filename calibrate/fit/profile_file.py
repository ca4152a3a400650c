"""A fit as a profile, and the profile as a YAML file."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from calibrate.fit.observation import Observation
from llm_perf import __version__
from llm_perf.config import files
from llm_perf.config.base import GIB, Spec
from llm_perf.config.calibration import Calibration, Coverage, Range
from llm_perf.config.host import Rate
from llm_perf.config.profiles import Profile, user_folder
from llm_perf.config.scenario import Scenario
from llm_perf.errors import OutputError
from llm_perf.systems import Load, system_of
from llm_perf.systems.footprint import model_weight_bytes
from llm_perf.systems.profiles import checked_profile
from llm_perf.systems.registry import family_of

if TYPE_CHECKING:
    from calibrate.fit.calibrator import Calibrator, Compared

_SIGNIFICANT = 6


def build_profile(fitted: Calibrator, observations: Sequence[Observation]) -> Profile:
    """What a calibrator learned, on top of what it started from."""
    start = fitted.start_
    gpu, host = dict(start.gpu), dict(start.host)
    constants = {system: dict(values) for system, values in start.system_constants.items()}
    for name in fitted.values_:
        room, _, path = name.partition(".")
        scenario = next(one.scenario for one in observations if room in ("gpu", "host", one.scenario.system))
        applied = fitted.apply(scenario)
        if room in ("gpu", "host"):
            keys = _keys(path)
            _put(gpu if room == "gpu" else host, keys, _value(getattr(applied, room), keys))
        else:
            constants.setdefault(room, {})[path] = dict(applied.constants)[path]
    for system in list(constants):
        # Plain runs of transformers are predicted as resident; asked for by its own name it is the same.
        other = family_of(system).calibration.shared_with
        if other is not None and any(name.startswith(f"{system}.") for name in fitted.values_):
            constants[other] = constants.get(other, {}) | constants[system]
    return Profile(
        name=fitted.name,
        gpu=_rounded(gpu),
        host=_rounded(host),
        system_constants=_rounded(constants),
        provenance=_rounded(_provenance(fitted, observations)),
        calibration=Calibration(
            machine=observations[0].machine,
            covers=coverage(observations),
            interval=None
            if fitted.interval_ is None
            else fitted.interval_.replace(
                **{
                    phase: None if width is None else round(width, 4)
                    for phase in ("prefill", "decode", "total")
                    for width in [getattr(fitted.interval_, phase)]
                }
            ),
            not_identified=fitted.not_identified_,
        ),
    )


def _keys(path: str) -> tuple[str, ...]:
    first, _, rest = path.partition(".")
    return (first, rest) if first == "copies" else tuple(path.split("."))


def _value(spec: Any, keys: Sequence[str]) -> Any:
    for key in keys:
        spec = getattr(spec, key) if isinstance(spec, Spec) else spec[key]
    return spec.model_dump(exclude_none=True) if isinstance(spec, Rate) else spec


def _put(table: dict[str, Any], keys: Sequence[str], value: Any) -> None:
    for key in keys[:-1]:
        table[key] = dict(table.get(key, {}))
        table = table[key]
    table[keys[-1]] = value


def coverage(observations: Sequence[Observation]) -> Coverage:
    """The systems, tiers and sizes of runs."""
    scenarios = [one.scenario for one in observations]

    return Coverage(
        systems=tuple(sorted({name for s in scenarios for name in _names(s.system)})),
        tiers=tuple(tier for tier in ("gpu", "cpu", "nvme") if any(_holds(s, tier) for s in scenarios)),
        weight_bits=tuple(sorted({s.dtype.weight_bits for s in scenarios})),
        model_gib=Range.of([round(model_weight_bytes(s) / GIB, 4) for s in scenarios]),
        batch_size=Range.of([float(s.workload.batch_size) for s in scenarios]),
        prompt_len=Range.of([float(s.workload.prompt_len) for s in scenarios]),
        gen_len=Range.of([float(s.workload.gen_len) for s in scenarios]),
    )


def _names(system: str) -> tuple[str, ...]:
    other = family_of(system).calibration.shared_with
    return (system,) if other is None else (system, other)


def _holds(scenario: Scenario, tier: str) -> bool:
    load = Load.of(scenario.workload)
    return float(getattr(system_of(scenario).place(scenario, load).weights, tier)) > 0


def _provenance(fitted: Calibrator, observations: Sequence[Observation]) -> dict[str, Any]:
    """Machine, versions, date, runs, residuals, and what was not used."""
    groups = sorted({one.group for one in observations})
    return {
        "made_by": f"llm-perf {__version__}",
        "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "microbenchmarks": None
        if fitted.microbench is None
        else {
            "created": fitted.microbench.get("created"),
            "sizes": len(fitted.microbench["items"]),
            "spent_s": fitted.microbench.get("spent_s"),
        },
        "runs": [
            {
                "source": Path(one.source).name,
                "digest": one.digest,
                "what": one.label,
                "repeats_accepted": one.accepted,
                "repeats_rejected": one.rejected,
            }
            for one in observations
        ],
        "parameters": {
            name: {"value": value, "standard_error": fitted.standard_errors_[name]}
            for name, value in fitted.values_.items()
        },
        "condition": fitted.identification_.condition if fitted.identification_.condition < 1e12 else None,
        "residuals": {phase: _errors(fitted.compared_, phase) for phase in ("prefill", "decode", "total")},
        "left_out": {
            group: {
                phase: _errors([c for c in fitted.left_out_ if c.observation.group == group], phase)
                for phase in ("prefill", "decode", "total")
            }
            for group in (groups if fitted.left_out_ else [])
        },
        "not_fitted_on": "other models, systems and sizes than those of the runs",
    }


def _errors(compared: Sequence[Compared], phase: str) -> dict[str, float] | None:
    errors = sorted(error for one in compared if (error := one.error(phase)) is not None)
    if not errors:
        return None
    sizes = sorted(abs(error) for error in errors)
    return {
        "median_abs_error": sizes[len(sizes) // 2]
        if len(sizes) % 2
        else sum(sizes[len(sizes) // 2 - 1 :][:2]) / 2,
        "max_abs_error": sizes[-1],
        "bias": sum(errors) / len(errors),
    }


def _rounded(value: Any) -> Any:
    """Six digits: more were not measured."""
    if isinstance(value, dict):
        return {key: _rounded(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_rounded(item) for item in value]
    if isinstance(value, float):
        return float(f"{value:.{_SIGNIFICANT}g}")
    return value


def check_target(out: str | None) -> None:
    """Refuse a file that a profile cannot be written to, before anything is fitted.

    Raises:
        OutputError: it is no .yaml, a folder, or its folder does not exist.
    """
    if out is None:
        return
    path = files.expanded(out)
    if path.suffix not in (".yaml", ".yml"):
        raise OutputError(f"--out {out!r}: a profile is a .yaml file")
    if path.stem.lower() == "none":
        raise OutputError(
            f"--out {out!r}: 'none' says that nothing fitted is used, so none can have that name"
        )
    try:
        missing = path.is_dir() or not path.parent.is_dir()
    except OSError as error:  # a name that no file can have
        raise OutputError(f"--out {out!r}: cannot be written: {error.strerror or error}") from None
    if missing:
        raise OutputError(f"--out {out!r}: there is no folder {str(path.parent)!r}, or it is one itself")


def write_profile(profile: Profile, out: str | None) -> Path:
    """Write a profile to a file, or under its name into the user's folder; read back, so that what is written is good.

    Raises:
        OutputError: it cannot be written.
    """
    path = user_folder() / f"{profile.name}.yaml" if out is None else files.expanded(out)
    fields = {
        k: v for k, v in profile.model_dump(mode="json", exclude_none=True).items() if v not in ({}, ())
    }
    text = f"# A calibrated profile: llm-perf infer --profile {path.stem} ...\n" + yaml.safe_dump(
        fields, sort_keys=False, width=110, allow_unicode=True
    )
    part = path.with_name(f"{path.name}.part.yaml")
    try:
        if out is None:
            path.parent.mkdir(parents=True, exist_ok=True)
        part.write_text(text, encoding="utf-8")
        checked_profile(str(part))
        part.replace(path)
    except OSError as error:
        raise OutputError(f"{path}: cannot be written: {error.strerror or error}") from None
    finally:
        with contextlib.suppress(OSError):
            part.unlink()
    return path
