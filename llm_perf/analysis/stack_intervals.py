"""Intervals of serving stacks by version: how far a version's rows were off when their model or GPU was in no fit.

What a question does not pin decides: a version that ships on a GPU that its rows know leaves the model unknown, on another
GPU that too, and a version that does not ship is as far off as versions of its family are under each other's constants. So is
one on GPUs of a maker that none of its rows has: kernels are written anew for each maker, as for a version. A program of
which no row ships is as far off as on another maker's GPUs: its kernels are its own as well. Whatever else no
row of a version has widens its interval by what that adds to the error of versions that were predicted without having seen it
(`llm_perf.analysis.novelty`): what is new never narrows. No interval reaches below what the data sheet allows: a lower end is
the time at the peaks of arithmetic and memory at least. Every interval holds the prediction that it is of.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from llm_perf.analysis.calibrated import PredictionInterval, around
from llm_perf.analysis.evidence import entries_of, published_widths
from llm_perf.config.gpu import TEXTBOOK
from llm_perf.config.scenario import Scenario
from llm_perf.systems import Load, get_system, system_of
from llm_perf.systems.constants import ConstantsFile
from llm_perf.systems.registry import ANY_ENGINE, DEFAULT, full_name, stack_names, version_note

if TYPE_CHECKING:
    from llm_perf.analysis.novelty import Novel

_FILE = "stack_widths.yaml"
_GENERIC = frozenset({DEFAULT, ANY_ENGINE})
"""What stands for any stack: rows of all say how far it is off."""

Seconds = tuple[float, float | None, float]


@dataclass(frozen=True, slots=True)
class StackWidth:
    """A half-width as a log ratio with what it is of. ``novel``: what no row of the version has, in words."""

    value: float
    groups: int
    what: str
    coverage: float | None = None
    novel: tuple[str, ...] = ()


def knows(scenario: Scenario) -> bool:
    """Whether rows of serving stacks by version speak for a scenario's system."""
    file = system_of(scenario).file
    release = f"{file.name}@{file.release}"
    known = published_widths(_FILE).get("releases") or {}
    return release in known or _of_a_device(file) or _of_no_row(file)


def _of_no_row(file: ConstantsFile) -> bool:
    """Whether it is a serving stack of which no table has a row, of no version and on no device."""
    of_family = published_widths(_FILE).get("families") or {}
    return (
        file.name in set(stack_names()) - _GENERIC
        and file.name not in of_family
        and not entries_of(file.name)
    )


def _of_a_device(file: ConstantsFile) -> bool:
    """Whether it is another version with kernels of one vendor's devices, no row of which was left out of a fit."""
    of_family = (published_widths(_FILE).get("families") or {}).get(file.name)
    return bool(file.only_on) and (file.extends or "").startswith(f"{file.name}@") and of_family is not None


def stack_interval(scenario: Scenario, seconds: Seconds) -> tuple[PredictionInterval | None, str | None]:
    """The interval around predicted prefill, decode (None without steps) and total; or why there is none.

    That of times to first token is of single requests, whose rows are fewer: of the version's own where they are enough, else
    of all versions.
    """
    if scenario.num_nodes > 1:
        return None, f"no published run of {scenario.system} has more than one node"
    found = stack_width(scenario)
    if found is None:
        return None, f"no published run says how far this version of {scenario.system} is off"
    prefill_s, decode_s, total_s = seconds
    least = _least_s(scenario)
    first = _first_token_width(scenario)
    if first is not None and found.novel:
        first = max(first, found.value)
    interval = PredictionInterval.published(
        method=f"published runs of serving stacks, {found.what}",
        groups=found.groups,
        prefill_s=None if first is None else _above(around(prefill_s, first), least[0], prefill_s),
        decode_s=_above(around(decode_s, found.value), least[1], decode_s),
        total_s=_above(around(total_s, found.value), least[2], total_s),
        coverage=found.coverage,
        novel=found.novel,
    )
    return interval, None


def stack_width(scenario: Scenario) -> StackWidth | None:
    """The half-width of a question: its version's, or other versions', and what is new to the version's rows beside it."""
    from llm_perf.analysis.novelty import (
        MAKER,
        levels_of,
        measured,
        novelty,
        question_of,
    )  # others do without

    file = system_of(scenario).file
    if _of_no_row(file):
        return _of_unknown(file)
    ships = version_note(full_name(scenario), scenario.gpu.device) is None
    stated = published_widths(_FILE)["releases"].get(f"{file.name}@{file.release}") if ships else None
    release = f"{file.name}@{file.release}"
    known, family = measured(release), measured(file.name)
    question = question_of(scenario)
    novel = () if known is None else novelty(question, known)
    in_family = None if family is None else novelty(question, family)
    levels = levels_of(novel, in_family)
    base = None if stated is None or MAKER in levels else _of_version(scenario, stated)
    if base is None:
        base = _of_others(file, another_device=ships)
    elif levels:
        return _with_novel(base, levels, novel, release, known_version=True)
    return base if base is None or not levels else _with_novel(base, levels, novel, release, False)


def _with_novel(
    base: StackWidth, levels: Sequence[str], novel: Sequence[Novel], release: str, known_version: bool
) -> StackWidth:
    """A width with what is new beside it: in quadrature where the version is known, else at least what such rows were off by.

    Of another maker's GPU the width that is given speaks, whatever it computes: at least that of a mechanism, too.
    """
    stated = published_widths(_FILE)["novel"]
    entries = [stated[level] for level in levels if level in stated]
    widest = max(entries, key=lambda entry: float(entry["width"]))
    value = max(base.value, *(float(entry["width"]) for entry in entries))
    if known_version:
        value = math.hypot(base.value, max(float(entry["adds"]) for entry in entries))
    texts = tuple(one.text for one in novel)
    what = f"no run of {release} has {' or '.join(texts)}; {base.what}"
    decides = base if value == base.value else StackWidth(value, int(widest["groups"]), what, _share(widest))
    return replace(decides, value=value, what=what, novel=texts)


def _share(entry: Mapping[str, Any]) -> float:
    return float(entry["held"] / entry["tested"])


def _of_version(scenario: Scenario, stated: Mapping[str, Any]) -> StackWidth | None:
    """How far a version's own rows were off without their model, or their GPU where the question's is none of theirs."""
    known = scenario.gpu.name.lower() in {name.lower() for name in stated.get("gpus", ())}
    entries = [stated[how] for how in (("model",) if known else ("model", "gpu")) if how in stated]
    if not entries:
        return None
    widest = max(entries, key=lambda entry: float(entry["width"]))
    whose = "of this version" if widest["of"] == "own" else "of all versions"
    what = f"{whose}, refitted without each {'model' if widest is stated.get('model') else 'GPU'}"
    share = _share(widest) if widest["tested"] else None
    return StackWidth(float(widest["width"]), int(widest["groups"]), what, share)


def _of_others(file: ConstantsFile, another_device: bool) -> StackWidth | None:
    """How far versions are off by the constants of the one that would stand in: of the family, or on devices with files."""
    families = published_widths(_FILE).get("families") or {}
    if file.name not in families:
        return None
    found = published_widths(_FILE)["devices"] if another_device or file.only_on else families[file.name]
    what = "each under another version's constants"
    what = f"{what}, as on GPUs of another maker" if another_device else what
    return StackWidth(float(found["width"]), int(found["groups"]), what, _share(found))


def _of_unknown(file: ConstantsFile) -> StackWidth:
    """How far a program of which no row ships is off: as far as others under constants that were not made with their rows."""
    found = published_widths(_FILE)["devices"]
    what = f"none of {file.name}; each under another version's constants, as on GPUs of another maker"
    return StackWidth(float(found["width"]), int(found["groups"]), what, _share(found), (file.name,))


def width_of_another_maker() -> float:
    """Half-width on GPUs of a maker that no run of a program has: kernels are written anew for each, as for a version."""
    return float(published_widths(_FILE)["devices"]["width"])


def _first_token_width(scenario: Scenario) -> float | None:
    """Half-width of times to first token: the version's own where it ships and has enough rows, else that of all versions."""
    stated, file = published_widths(_FILE).get("first_tokens") or {}, system_of(scenario).file
    ships = version_note(full_name(scenario), scenario.gpu.device) is None
    entry = stated.get(f"{file.name}@{file.release}") if ships else None
    entry = entry or stated.get("any")
    return None if entry is None else float(entry["width"])


def request_widths(load: str) -> dict[str, float]:
    """Half-widths of requests' figures by quantity, where requests come so: in a closed loop, at a rate, all at once."""
    return {name: float(entry["width"]) for name, entry in published_widths(_FILE)["requests"][load].items()}


def _least_s(scenario: Scenario) -> tuple[float, float, float]:
    """(prefill, decode, total) at the peaks of the data sheet."""
    prefill, decode = peak_times(scenario, Load.of(scenario.workload))
    return prefill, decode, prefill + decode


def peak_times(scenario: Scenario, load: Load) -> tuple[float, float]:
    """Seconds of (prefill, all decode steps) at the peaks of the data sheet, without launches, floors and a host."""
    ideal = scenario.replace(
        gpu=scenario.gpu.replace(efficiency=TEXTBOOK),
        system=DEFAULT,
        system_version=None,
        constants=_FULL_RATE,
        calibration=None,
    )
    evaluated = get_system(DEFAULT).evaluate(ideal, load)
    decode = _on_device(evaluated.decode.parts_s) if evaluated.decode is not None else 0.0
    return _on_device(evaluated.prefill.parts_s), decode


_FULL_RATE = (
    ("weight_only_4bit_bandwidth", 1.0),
    ("weight_only_8bit_bandwidth", 1.0),
    ("expert_bandwidth", 1.0),
    ("unpack_bytes_per_weight", 0.0),
)
"""Kernels that read and unpack weights as fast as memory gives them: what the generic stack assumes of them is no bound."""

_DEVICE = ("attention_projections", "attention", "mlp", "lm_head")


def _on_device(parts_s: dict[str, Any]) -> float:
    return sum(float(parts_s.get(name, 0.0)) for name in _DEVICE)


def _above(
    ends: tuple[float, float] | None, least: float, predicted: float | None
) -> tuple[float, float] | None:
    if ends is None or predicted is None:
        return None
    low, high = ends
    return max(low, min(least, predicted)), high
