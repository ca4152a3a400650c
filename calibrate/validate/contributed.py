"""Runs that others added to the project, beside their predictions; what constants that ship know of them is said."""

from __future__ import annotations

import math
import textwrap
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from calibrate.evidence.benchmark_run import BenchmarkRun
from calibrate.evidence.contributed import Known, contributed_runs, contributions, known_contributions
from calibrate.evidence.ratios import gm
from calibrate.fit.served.points import MAIN
from calibrate.fit.served.report import Compared, compare, read_lines, read_object, version_named
from llm_perf.config.loading import get_gpu_config_by_name
from llm_perf.systems.families import find


def compared_runs(
    system: str | None = None,
    gpu: str | None = None,
    profile: str | None = None,
    runs: Sequence[BenchmarkRun] | None = None,
) -> list[Compared]:
    """Contributed runs, of one system and GPU where these are named.

    Raises:
        SpecError: a file is no contribution, or the system or the GPU is unknown.
    """
    family = None if system is None else find(system)[0]
    device = None if gpu is None else get_gpu_config_by_name(gpu).name
    found = []
    for run in contributed_runs() if runs is None else runs:
        if family is not None and find(str(run.engine.name))[0] != family:
            continue
        one = compare(run, profile)
        name = one.served.scenario.gpu.name if one.served is not None else str(run.deployment.gpu)
        if device is None or name == device:
            found.append(one)
    return found


def contributed_object(found: Sequence[Compared]) -> dict[str, Any]:
    """The comparison as plain JSON types, with how far each version is off."""
    return read_object([], found) | {"by_version": _by_version(found), "in_sample": _in_sample(found)}


def contributed_lines(found: Sequence[Compared]) -> list[str]:
    """The comparison for people."""
    if not found:
        return ["no contributed run of that kind ships yet: CONTRIBUTING.md says how to add yours"]
    lines = [f"{'version':<30}{'runs':>6}{'decode gm':>12}"]
    for name, one in _by_version(found).items():
        lines.append(
            f"{name:<30}{one['runs']:>6}{'-' if one['gm'] is None else format(one['gm'], '.3f'):>12}"
        )
    for one in _in_sample(found):
        off = "" if one["left_out_gm"] is None else f": off by x/: {one['left_out_gm']:.3f} (geometric mean)"
        lines += textwrap.wrap(
            f"in-sample: {', '.join(one['quantities'])} of {one['file']} ({one['runs']} runs): {one['by']}. "
            f"{one['left_out']} knows nothing of them{off}",
            100, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False,
        )  # fmt: skip
    return [*lines, "", *read_lines(found, "in-sample in part" if _in_sample(found) else None)]


def _in_sample(found: Sequence[Compared]) -> list[dict[str, Any]]:
    """Files of which constants know something, with how far a version is off that does not."""
    entries = []
    for file, known in known_contributions().items():
        of_file = contributions()[file]
        runs = [
            one.run
            for one in found
            if one.run in of_file and any(figure.quantity in known.quantities for figure in one.run.figures)
        ]
        if runs:
            off = [ratio for run in runs if (ratio := _left_out(run, known)) is not None]
            entries.append(
                {
                    "file": file,
                    "quantities": list(known.quantities),
                    "by": known.by,
                    "runs": len(runs),
                    "left_out": known.left_out,
                    "left_out_gm": gm(off) if off else None,
                }
            )
    return entries


def _left_out(run: BenchmarkRun, known: Known) -> float | None:
    """log(predicted / measured) of the first quantity that constants know, by a version that does not."""
    family, _, version = known.left_out.partition("@")
    other = compare(run.replace(engine=run.engine.replace(name=family, version=version)))
    return next((ratio for name in known.quantities if (ratio := _ratio(other, name)) is not None), None)


def _by_version(found: Sequence[Compared]) -> dict[str, dict[str, Any]]:
    ratios: dict[str, list[float]] = defaultdict(list)
    counts: dict[str, int] = defaultdict(int)
    for one in found:
        name = str(one.run.engine.name) if one.served is None else version_named(one.served)
        counts[name] += 1
        main = next((ratio for quantity in MAIN if (ratio := _ratio(one, quantity)) is not None), None)
        if main is not None:
            ratios[name].append(main)
    return {
        name: {"runs": counts[name], "gm": gm(ratios[name]) if ratios[name] else None}
        for name in sorted(counts)
    }


def _ratio(one: Compared, quantity: str) -> float | None:
    """log(predicted / measured) of the mean or median of a quantity."""
    for figure, predicted in zip(one.run.figures, one.predicted, strict=True):
        if figure.quantity == quantity and figure.statistic in ("mean", "p50") and predicted and figure.value:
            return math.log(predicted / figure.value)
    return None
