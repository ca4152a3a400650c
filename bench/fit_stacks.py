"""Constants of serving stacks by version: fitted to runs of each, and what they are worth on runs that no fit saw.

    python bench/fit_stacks.py                     fit every version and write what its runs tell into its file; minutes
    python bench/fit_stacks.py vllm@0.6 sglang     these versions or families only
    python bench/fit_stacks.py --around vllm@0.6   refit along straight lines around what ships: a tenth of the time
    python bench/fit_stacks.py --figures           left out, transferred and by neighbours; docs/accuracy_stacks.md; an hour

The fit is least squares on log ratios under a soft_l1 loss, with a log-normal prior on each constant, the value of the engine
that a version extends. A constant whose runs leave it as wide as its prior is not written: it stays the inherited one.
"""

from __future__ import annotations

import argparse
import collections
import functools
import json
import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from calibrate.evidence.published.names import version_of  # noqa: E402
from calibrate.evidence.ratios import gm  # noqa: E402
from calibrate.evidence.saturated_rows import load_saturated  # noqa: E402
from calibrate.evidence.serving_rows import Case, Cases, load_cases  # noqa: E402
from calibrate.evidence.settings import Run  # noqa: E402
from calibrate.fit.stack_priors import SPREAD  # noqa: E402
from llm_perf.systems.constants import load_constants, own_constants  # noqa: E402
from llm_perf.systems.families import covers, numbers  # noqa: E402


@dataclass(frozen=True)
class Plan:
    """What a version's runs may move, and where it starts from where that is not the inherited value."""

    free: tuple[str, ...]
    prior: dict[str, float]
    given: dict[str, float]
    measured: dict[str, dict[str, Any]]
    first_tokens: bool = False
    saturated: bool = False
    versions: tuple[str, str] | None = None
    alone: str | None = None

    def fits(self, case: Case) -> bool:
        """Whether a row counts in the fit; some of a range's rows are predicted by it only."""
        stated = version_of(case.row["system"], case.row["system_version"])
        if self.versions is None or stated is None:
            return True
        first, last = map(numbers, self.versions)
        return covers(numbers(stated), (first, last))


def plans() -> dict[str, Plan]:
    """Plans by version, from the file beside this program."""
    stated = yaml.safe_load((Path(__file__).parent / "stack_plans.yaml").read_text("utf-8"))
    return {
        release: Plan(
            tuple(plan["free"]),
            {name: float(value) for name, value in plan.get("prior", {}).items()},
            {name: float(value) for name, value in plan.get("given", {}).items()}
            | {name: float(one["value"]) for name, one in plan.get("measured", {}).items()},
            plan.get("measured", {}),
            plan.get("first_tokens", False),
            plan.get("saturated", False),
            None if plan.get("versions") is None else tuple(plan["versions"]),
            plan.get("alone"),
        )
        for release, plan in stated.items()
    }


WIDTH = SPREAD | {"expert_16bit_flops": 0.3, "pcie_bus_efficiency": 0.5, "block_8bit_walk_us": 0.3}
"""What is known of each constant, and of three that a user's own runs do not move."""

PLANS = plans()
"""One plan per version with runs of its own."""

NOISE, TOLD, MOVED = 0.1, 0.9, 0.5
STEP = 1e-3
"""Log step of a derivative."""

MANY, DEPLOYMENTS, ROWS = 120, 24, 6
"""Rows beyond which a fit takes some only: of so many deployments, so many rows each at most."""

FIRST, WAITING = 0.5, 16
"""What a time to first token counts beside one per token, where no more requests are in flight: of more, most is waiting."""

LOOPS = 1
"""Times that closed loops are simulated anew and the constants fitted again."""


@dataclass(frozen=True)
class Found:
    """A fit: values of what was free, how uncertain each is (log), and what was given."""

    values: dict[str, float]
    spread: dict[str, float]
    given: dict[str, float]
    start: dict[str, float]

    @property
    def constants(self) -> dict[str, float]:
        """All together."""
        return self.given | self.values

    def told(self, name: str) -> bool:
        """Whether the runs narrow a constant down, or pull it away from what was known of it."""
        moved = abs(math.log(self.values[name] / self.start[name]))
        return self.spread[name] < TOLD * WIDTH[name] or moved > MOVED * WIDTH[name]


def start_of(release: str) -> dict[str, float]:
    """Where each free constant starts: the plan's prior, else what the version inherits."""
    plan = PLANS[release]
    family, _, version = release.partition("@")
    parent = load_constants(own_constants(family, version).extends or "engine")
    return {name: plan.prior.get(name, parent.value(name)) for name in plan.free}


def fit(release: str, data: Cases, rounds: int = 3) -> Found:
    """Fit a version's free constants to runs; then those alone that the runs tell, with the others where they start."""
    data = thinned(data)
    plan, every = PLANS[release], start_of(release)
    first = _fit(release, data.with_loops({}), plan.free, rounds)
    told = tuple(name for name in plan.free if first.told(name)) or plan.free
    found = first
    for _ in range(LOOPS):
        second = _fit(release, data.with_loops(found.constants), told, rounds)
        found = Found(every | second.values, first.spread | second.spread, plan.given, every)
    return found


def thinned(data: Cases) -> Cases:
    """Of many cases some deployments of every model, GPU and format, and some rows of each, from end to end."""
    if len(data.cases) <= MANY:
        return data
    kinds: dict[tuple[str, str, str | None], list[int]] = collections.defaultdict(list)
    for index, key in enumerate(data.keys):
        kinds[key.model, key.gpu, key.weight_format].append(index)
    for indices in kinds.values():
        indices.sort(key=lambda index: -len(data.groups[index]))
    turns = (
        indices[turn] for turn in range(DEPLOYMENTS) for indices in kinds.values() if turn < len(indices)
    )
    kept = [data.groups[index] for index in list(turns)[:DEPLOYMENTS]]
    rows = [int(one) for group in kept for one in group[:: -(-len(group) // ROWS)]]
    return Cases([data.cases[index] for index in sorted(rows)])


def fit_once(release: str, data: Cases) -> dict[str, float]:
    """Constants by one quick fit to runs, for refits by the dozen."""
    data = thinned(data)
    firsts = any(case.closed for case in data.cases)
    found = _fit(release, data.with_loops({}), PLANS[release].free, 3, firsts).constants
    if not firsts:
        return found
    return _fit(release, data.with_loops(found), PLANS[release].free, 3, firsts).constants


def fit_first_tokens(release: str, data: Cases) -> dict[str, float]:
    """Constants by one quick fit that counts times to first token as the version's own fit does."""
    return _fit(release, data.with_loops({}), PLANS[release].free, 3).constants


class Problem:
    """Residuals of a version's runs under its free constants, as logarithms, and their derivatives; priors come last."""

    def __init__(
        self,
        release: str,
        data: Cases,
        free: Sequence[str],
        *,
        firsts: bool = True,
        start: dict[str, float] | None = None,
    ) -> None:
        plan, every = PLANS[release], start_of(release)
        self.release, self.data, self.names = release, data, list(free)
        self.known = plan.given | every
        self.fixed = plan.given | {name: value for name, value in every.items() if name not in free}
        self.centre = np.log([every[name] for name in self.names])
        self.start = np.log([(start or every)[name] for name in self.names])
        self.spread = np.array([WIDTH[name] for name in self.names])
        self.firsts = plan.first_tokens and firsts
        self.counted = np.array([FIRST * (case.run.batch_size <= WAITING) for case in data.cases])
        self.residuals = functools.lru_cache(maxsize=2)(self._residuals)

    def constants(self, x: np.ndarray) -> dict[str, float]:
        """All constants where the free ones have these logarithms."""
        return self.fixed | dict(zip(self.names, np.exp(x).tolist(), strict=True))

    def found(self, x: np.ndarray, spread: np.ndarray) -> Found:
        """The fit that ends at these logarithms."""
        plan = PLANS[self.release]
        values = dict(zip(self.names, np.exp(x).tolist(), strict=True))
        return Found(
            values, dict(zip(self.names, spread.tolist(), strict=True)), plan.given, start_of(self.release)
        )

    def of(self, x: np.ndarray) -> np.ndarray:
        """Residuals: of each row's main quantity, of first tokens if they count, of the priors."""
        return self.residuals(tuple(x.tolist()))

    def _residuals(self, point: tuple[float, ...]) -> np.ndarray:
        x = np.array(point)
        at = self.constants(x)
        first = self.data.first_tokens(at) * self.counted if self.firsts else np.zeros(0)
        return np.concatenate(
            [self.data.log_ratios(at) / NOISE, first / NOISE, (x - self.centre) / self.spread]
        )

    def jacobian(self, x: np.ndarray) -> np.ndarray:
        """Derivatives, of the groups alone that a constant moves."""
        before, rows, columns = self.of(x), len(self.data.cases), []
        for index, name in enumerate(self.names):
            step = np.zeros(len(self.names))
            step[index] = STEP
            keys = moving(self.release, self.data, name, math.exp(self.centre[index]), self.known)
            inside, at = rows_of(self.data, keys), self.constants(x + step)
            moved = [self.data.log_ratios(at, keys) / NOISE]
            if self.firsts:
                moved.append(self.data.first_tokens(at, keys) * self.counted / NOISE)
            change = np.concatenate(
                [
                    np.where(inside, one - before[k * rows : (k + 1) * rows], 0.0)
                    for k, one in enumerate(moved)
                ]
            )
            columns.append(np.concatenate([change, step / self.spread]) / STEP)
        return np.stack(columns, axis=1)

    def solve(
        self,
        residuals: Callable[[np.ndarray], np.ndarray],
        jacobian: Callable[[np.ndarray], np.ndarray],
        rounds: int,
        held: np.ndarray | None = None,
    ) -> tuple[np.ndarray, np.ndarray]:
        """The point of the least soft_l1 loss, in so many rounds, and the spread of each constant there.

        ``held``: constants that stay what they are without runs.
        """
        from scipy.optimize import least_squares

        point, spread = self.start.copy(), self.spread.copy()
        low, high = self.centre - 3.5 * self.spread, self.centre + 3.5 * self.spread
        free = np.ones(len(point), dtype=bool) if held is None else ~held
        point[~free] = self.centre[~free]

        def whole(part: np.ndarray) -> np.ndarray:
            moved = point.copy()
            moved[free] = part
            return moved

        found = least_squares(
            lambda part: residuals(whole(part)), point[free], jac=lambda part: jacobian(whole(part))[:, free],
            loss="soft_l1", f_scale=1.5, max_nfev=rounds, bounds=(low[free], high[free]), xtol=1e-3, ftol=1e-4,
        )  # fmt: skip
        covariance = np.diag(np.linalg.pinv(found.jac.T @ found.jac))
        point[free], spread[free] = found.x, np.sqrt(np.maximum(covariance, 0.0))
        return point, spread


def shipped(release: str) -> dict[str, float]:
    """The version's own constants."""
    return {name: one.value for name, one in load_constants(release).constants.items()}


def _fit(release: str, data: Cases, free: Sequence[str], rounds: int, first_tokens: bool = True) -> Found:
    problem = Problem(release, data, free, firsts=first_tokens)
    return problem.found(*problem.solve(problem.of, problem.jacobian, rounds))


class Around:
    """Refits without some rows around one fit to all: residuals are taken as straight lines there, which needs no run again.

    What is left out is then predicted by simulations under the constants found, as after a fit from the beginning.
    """

    def __init__(self, release: str, data: Cases, found: dict[str, float]) -> None:
        firsts, every = any(case.closed for case in data.cases), start_of(release)
        found = found | PLANS[release].given
        found |= {name: value for name, value in every.items() if found.get(name, 0.0) <= 0}
        self.data = data.with_loops(found)
        self.problem = Problem(
            release,
            self.data,
            PLANS[release].free,
            firsts=firsts,
            start=every | found,
        )
        self.at = self.problem.of(self.problem.start)
        self.slopes = self.problem.jacobian(self.problem.start)

    def without(self, rows: Sequence[int]) -> dict[str, float]:
        """Constants fitted to these rows alone, to as many of them as a fit from the beginning takes."""
        return self.fitted(rows).constants

    def fitted(self, rows: Sequence[int], told: Sequence[str] | None = None) -> Found:
        """The same, with how sure they are; of those that runs ``told`` alone, where they are given."""
        kept = {id(case) for case in thinned(Cases([self.data.cases[row] for row in rows])).cases}
        inside = np.array([id(case) in kept for case in self.data.cases])
        parts = [inside] * (2 if self.problem.firsts else 1)
        used = np.concatenate([*parts, np.ones(len(self.problem.names), dtype=bool)])
        held = np.array([told is not None and name not in told for name in self.problem.names], dtype=bool)
        at, slopes, start = self.at[used], self.slopes[used], self.problem.start
        return self.problem.found(
            *self.problem.solve(lambda x: at + slopes @ (x - start), lambda _: slopes, 100, held)
        )


def refit(release: str, data: Cases, known: dict[str, float]) -> Found:
    """A version's constants fitted along straight lines around what is known; then those alone that the runs tell."""
    around, every, rows = Around(release, data, known), start_of(release), range(len(data.cases))
    first = around.fitted(rows)
    told = [name for name in PLANS[release].free if first.told(name)] or list(PLANS[release].free)
    last = around.fitted(rows, told)
    fitted = {name: last.values[name] for name in told}
    spread = {name: last.spread[name] for name in told}
    return Found(every | fitted, first.spread | spread, last.given, every)


_MOVES: dict[tuple[str, str], dict[Run, bool]] = collections.defaultdict(dict)
"""By version and constant, for groups of runs as they are met, whether it changes them."""


def moving(release: str, data: Cases, name: str, value: float, others: dict[str, float]) -> frozenset[Run]:
    """Groups of runs that a constant changes when it is a third or three times as large: no others are asked again."""
    known = _MOVES[release, name]
    if missing := frozenset(key for key in data.keys if key not in known):
        plain, less, more = (
            np.stack(
                [
                    told(others | {name: value * factor}, missing)
                    for told in (data.log_ratios, data.first_tokens)
                ]
            )
            for factor in (1.0, 1 / 3, 3.0)
        )
        changed = ((plain != less) | (plain != more)).any(axis=0)
        for key, indices in zip(data.keys, data.groups, strict=True):
            if key in missing:
                known[key] = bool(changed[indices].any())
    return frozenset(key for key in data.keys if known[key])


def rows_of(data: Cases, keys: frozenset[Run]) -> np.ndarray:
    """Which rows are of these groups."""
    found = np.zeros(len(data.cases), dtype=bool)
    for key, indices in zip(data.keys, data.groups, strict=True):
        found[indices] = key in keys
    return found


# -- files ----------------------------------------------------------------------------------------------------


def write(release: str, found: Found, cases: Sequence[Case]) -> None:
    """Write the constants that runs tell, and those that are given, into the version's file.

    What the file states beside these stays as it is, and so does a given constant that has its value already.
    """
    family, _, version = release.partition("@")
    path = ROOT / "llm_perf" / "systems" / "stacks" / family / f"{version}.yaml"
    head, _, stated = path.read_text("utf-8").partition("\nconstants:\n")
    sources = ", ".join(sorted({case.row["source_repo"] for case in cases}))
    rows, groups = len(cases), len({case.group for case in cases})
    start, blocks = start_of(release), _blocks(stated)
    for name in PLANS[release].free:
        blocks.pop(name, None)
        if found.told(name):
            value, width = found.values[name], math.exp(1.64 * found.spread[name])
            blocks[name] = [
                f"  {name}:", f"    value: {_digits(value)}",
                f"    range: [{_digits(value / width)}, {_digits(value * width)}]",
                "    provenance: fitted", f"    rows: {rows}", f"    groups: {groups}",
                f"    source: runs of {sources}; fitted 2026-11",
            ]  # fmt: skip
        elif name in PLANS[release].prior:
            blocks[name] = [
                f"  {name}:", f"    value: {_digits(start[name])}", "    provenance: assumed",
                "    source: what versions of its kind have; its own runs do not tell",
            ]  # fmt: skip
    for name, value in found.given.items():
        if f"    value: {_digits(value)}" in blocks.get(name, ()):
            continue
        if name in PLANS[release].measured:
            one = PLANS[release].measured[name]
            low, high = one["range"]
            blocks[name] = [
                f"  {name}:", f"    value: {_digits(value)}", *([f"    range: {one['range']}"] if low < high else []),
                "    provenance: measured", f"    source: {json.dumps(one['source'])}" if ": " in one["source"]
                else f"    source: {one['source']}",
            ]  # fmt: skip
            continue
        blocks[name] = [
            f"  {name}:", f"    value: {_digits(value)}", "    provenance: assumed",
            "    source: as its software is documented, or taken from other versions; not fitted",
        ]  # fmt: skip
    free = [name for name in PLANS[release].free if name in blocks]
    order = [*free, *(name for name in blocks if name not in free)]
    lines = [line for name in order for line in blocks[name]]
    path.write_text(head + "\nconstants:\n" + "\n".join(lines) + "\n", "utf-8")


def _blocks(stated: str) -> dict[str, list[str]]:
    """Lines of a file's constants by name."""
    found: dict[str, list[str]] = {}
    name = ""
    for line in stated.splitlines():
        if line.startswith("  ") and line[2] not in " #" and line.rstrip().endswith(":"):
            name = line.strip()[:-1]
        found.setdefault(name, []).append(line)
    return found


def _digits(value: float) -> str:
    """Three digits, and no exponent where YAML would take it for a word."""
    return f"{float(f'{value:.3g}'):g}"


def by_release() -> dict[str, list[Case]]:
    """Cases by the file that predicts them; a file without a plan is that of another family."""
    found: dict[str, list[Case]] = collections.defaultdict(list)
    for case in load_cases():
        found[ALIASES.get(case.release, case.release)].append(case)
    for case in load_saturated():
        if case.release in PLANS and PLANS[case.release].saturated:
            found[case.release].append(case)
    return dict(found)


ALIASES = {
    "deepspeed_inference@2024-hpu": "optimum_habana@2024",
    "transformers@4.45": "transformers@4.38",  # differs in memory alone
}


def shown(name: str, log_ratios: np.ndarray, cases: Sequence[Case]) -> str:
    """Figures of a version: decided rows and closed loops apart."""
    closed = np.array([case.closed for case in cases])
    apart = ((which, mask) for which, mask in (("decided", ~closed), ("closed", closed)) if mask.any())
    return f"{name}: " + ", ".join(
        f"{which} {mask.sum()} gm {gm(log_ratios[mask]):.3f}" for which, mask in apart
    )


def main() -> int:
    """Fit what is asked for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("stacks", nargs="*")
    parser.add_argument("--dry-run", action="store_true", help="print, write nothing")
    parser.add_argument("--around", action="store_true", help="from what ships, along straight lines")
    arguments = parser.parse_args()
    cases = by_release()
    for release in PLANS:
        if arguments.stacks and not any(
            release == one or release.startswith(f"{one}@") for one in arguments.stacks
        ):
            continue
        own = cases.get(release, [])
        if not own:
            print(f"{release}: no rows", flush=True)
            continue
        counted = [case for case in own if PLANS[release].fits(case)]
        data = Cases(counted)
        found = refit(release, data, shipped(release)) if arguments.around else fit(release, data)
        some = list(thinned(Cases(own)).cases)
        print(shown(release, Cases(some).simulated(found.constants), some), flush=True)
        print(
            "   ",
            ", ".join(f"{n}={v:.3g}{'' if found.told(n) else '?'}" for n, v in found.values.items()),
            flush=True,
        )
        if not arguments.dry_run:
            write(release, found, thinned(Cases(counted)).cases)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
