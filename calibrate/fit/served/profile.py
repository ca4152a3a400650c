"""A fit of a stack as a profile that ``infer``, ``simulate``, ``plan`` and ``sweep`` take."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Sequence
from datetime import datetime, timezone
from typing import Any

import numpy as np

from calibrate.fit.intervals import conformal_quantile, group_width
from calibrate.fit.served.deployment import Served
from calibrate.fit.served.fit import StackFit, fit_stack
from calibrate.fit.served.points import Points
from llm_perf import __version__
from llm_perf.config.base import GIB
from llm_perf.config.calibration import CalibratedMachine, Calibration, Coverage, IntervalWidths, Range
from llm_perf.config.profiles import Profile
from llm_perf.systems.families import declaration
from llm_perf.systems.footprint import model_weight_bytes

_DIGITS = 5
_FEWEST = 3
"""Runs of each model that make leaving one model out worth a fit."""


def profile_of(found: StackFit, name: str, warnings: Sequence[str] = ()) -> Profile:
    """The profile: constants of the engine's version that the runs tell, the machine, and how far to trust it."""
    served = [one for i, one in enumerate(found.points.served) if i not in found.points.left_out]
    first = served[0]
    family = found.release.partition("@")[0]
    # As --system takes it: a build, which is none, is named by the release that it was resolved to.
    known = declaration(family).version_of_build
    stated = sorted({one.run.engine.version or "" for one in served} - {""})
    version = stated[-1] if stated else None
    if version is not None and known(version) != version:
        version = found.release.partition("@")[2] or None
    return Profile(
        name=name,
        system_constants={found.release: {key: _digits(value) for key, value in found.values.items()}},
        provenance={
            "made_by": f"llm-perf {__version__}",
            "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
            "runs": [_run(one) for one in served],
            "parameters": {
                key: {
                    "value": _digits(value),
                    "standard_error": _digits(found.spread[key]),
                    "interval": [_digits(end) for end in found.interval(key)],
                    "shipped": _digits(found.start[key]),
                }
                for key, value in found.values.items()
            },
            "residuals": {"decode": _errors(found, main=True), "prefill": _errors(found, main=False)},
            "noise": {"decode": _digits(found.noise[0]), "first_token": _digits(found.noise[1])},
            "not_fitted_on": "other models, GPUs, number formats and lengths than those of the runs",
            **({"warnings": list(warnings)} if warnings else {}),
        },
        calibration=Calibration(
            machine=CalibratedMachine(gpu=first.scenario.gpu.name, versions={family: version}),
            covers=_coverage(found.release, served),
            interval=widths_of(found),
            not_identified=tuple(f"{found.release}.{key}" for key in found.untold),
        ),
    )


def widths_of(found: StackFit) -> IntervalWidths | None:
    """Half-widths from runs that their fit never saw: each model left out in turn, or each run of a single model."""
    served = found.points.served
    models: dict[str, list[int]] = {}
    for index, one in enumerate(served):
        if index not in found.points.left_out:
            models.setdefault(one.model, []).append(index)
    if len(models) > 1 and all(len(runs) >= _FEWEST for runs in models.values()):
        residuals = {name: _without(found, runs) for name, runs in models.items()}
        decode = group_width([[abs(x) for x in one[0]] for one in residuals.values()])
        prefill = group_width([[abs(x) for x in one[1]] for one in residuals.values()])
        method = f"each of {len(models)} models left out in turn"
    else:
        off = np.abs(found.left_out_residuals())
        main, first = _of_kind(found.points, off, main=True), _of_kind(found.points, off, main=False)
        decode = conformal_quantile(main) if main else None
        prefill = conformal_quantile(first) if first else None
        method = f"each of {len(found.runs)} runs left out in turn, all of one model: others are farther off"
        if len(models) > 1:
            method = f"each of {len(found.runs)} runs left out in turn"
    if decode is None and prefill is None:
        return None
    both = [width for width in (decode, prefill) if width is not None]
    return IntervalWidths(
        method=method,
        groups=len(models),
        prefill=None if prefill is None else round(min(prefill, 9.0), 4),
        decode=None if decode is None else round(min(decode, 9.0), 4),
        total=round(min(decode if decode is not None else max(both), 9.0), 4),
    )


def _without(found: StackFit, runs: Sequence[int]) -> tuple[list[float], list[float]]:
    """Log ratios of a model's runs, decode and first tokens, by a fit to the others."""
    served = found.points.served
    rest = [one for i, one in enumerate(served) if i not in runs and i not in found.points.left_out]
    other = fit_stack(rest)
    points = Points([served[i] for i in runs])
    off = points.exact(other.values)
    return _of_kind(points, off, main=True), _of_kind(points, off, main=False)


def _of_kind(points: Points, values: np.ndarray, *, main: bool) -> list[float]:
    return [
        float(values[n])
        for n, target in enumerate(points.targets)
        if target.main == main and target.at not in points.left_out
    ]


def _coverage(release: str, served: Sequence[Served]) -> Coverage:
    return Coverage(
        systems=(release,),
        tiers=("gpu",) if not served[0].scenario.gpu.absent else ("cpu",),
        weight_bits=tuple(sorted({one.scenario.dtype.weight_bits for one in served})),
        model_gib=Range.of([round(float(model_weight_bytes(one.scenario)) / GIB, 4) for one in served]),
        batch_size=Range.of([float(one.concurrency) for one in served]),
        prompt_len=Range.of([one.prompt for one in served]),
        gen_len=Range.of([one.output for one in served]),
    )


def _run(served: Served) -> dict[str, Any]:
    run = served.run
    content = json.dumps([one.model_dump(mode="json") for one in run.figures], sort_keys=True).encode()
    return {
        "source": run.source,
        "digest": hashlib.sha256(content).hexdigest()[:16],
        "what": f"{served.model}, {_load(served)}, prompts {served.prompt:.0f}, outputs {served.output:.0f}",
    }


def _load(served: Served) -> str:
    load = served.run.load
    if load.kind == "batch":
        return f"batch {served.concurrency}"
    if load.kind == "closed_loop":
        return f"{served.concurrency} in flight"
    return f"{load.request_rate:g} requests/s" if load.request_rate else str(load.kind).replace("_", " ")


def _errors(found: StackFit, *, main: bool) -> dict[str, float] | None:
    errors = sorted(math.expm1(x) for x in _of_kind(found.points, found.after, main=main))
    if not errors:
        return None
    sizes = sorted(map(abs, errors))
    return {
        "median_abs_error": _digits(sizes[len(sizes) // 2]),
        "max_abs_error": _digits(sizes[-1]),
        "bias": _digits(sum(errors) / len(errors)),
    }


def _digits(value: float) -> float:
    return float(f"{value:.{_DIGITS}g}")
