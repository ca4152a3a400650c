"""What constants of serving stacks are worth on runs that no fit saw.

    python bench/stack_figures.py                        all versions; an hour
    python bench/stack_figures.py vllm@0.6 sglang@0.4    these versions' lines, the others stay; may run beside another
    python bench/stack_figures.py --no-draws vllm@0.6    fits without a model or GPU alone; draws of 20 rows stay as they are
    python bench/stack_figures.py --draws vllm@0.6       draws of 20 rows alone
    python bench/stack_figures.py --around vllm@0.15     refits along straight lines around what ships: a minute or two
    python bench/stack_figures.py --quick                what ships, its neighbours and the roofline alone; a minute
    python bench/stack_figures.py --beside vllm@0.6      its neighbours alone
    python bench/stack_figures.py --first-tokens         times to first token of single requests alone; minutes
    python bench/stack_figures.py --novelty              what of each line its fit had not seen, and what rows have; seconds

It writes ``calibrate/measurements/serving/left_out.csv.gz``: the log ratio of every row by fits that never saw its model or
GPU, by fits to 20 rows of another group, and by the nearest version. ``make accuracy`` makes ``docs/accuracy_stacks.md`` and
the widths of intervals (``llm_perf/analysis/stack_widths.yaml``) of it. Every run ends with what ``--novelty`` alone does.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import io
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))

from fit_stacks import PLANS, ROOT, Around, by_release, fit_first_tokens, fit_once, shipped, start_of

from calibrate.evidence.published.names import version_of
from calibrate.evidence.serving_rows import Case, Cases, log_ratio_of
from calibrate.validate.baselines import ROOFLINE, inference_roofline
from calibrate.validate.novelty import FACETS, NOVEL, facets_text, folds_of, novel_lines, novel_text
from calibrate.validate.stacks import FIRST_TOKEN, IN_LOOPS, OTHER_DEVICE, OTHER_SIDE
from llm_perf.analysis.novelty import question_of
from llm_perf.systems.constants import beside, changes, load_release, own_constants, stands_on
from llm_perf.systems.families import release_of

LEFT_OUT = ROOT / "calibrate" / "measurements" / "serving" / "left_out.csv.gz"
COLUMNS = ("release", "row_id", "model", "gpu", "closed", "quantity", "how", "group", "log_ratio")
GROUPS: dict[str, Callable[[Case], str]] = {
    "model": lambda case: case.run.model,
    "gpu": lambda case: case.run.gpu,
}
FIRST, QUICK = FIRST_TOKEN, ("shipped", IN_LOOPS["shipped"], ROOFLINE)
BESIDE = ("neighbour", OTHER_SIDE, OTHER_DEVICE)
DRAWS, DRAWN = 50, 20
TRANSFER_S = 120.0
"""Draws end after so many seconds of this process, whatever else runs; the page says how many there were."""


def main() -> int:
    """Refit what is asked for, then write the file."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("stacks", nargs="*")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--first-tokens", action="store_true")
    parser.add_argument("--no-draws", action="store_true")
    parser.add_argument("--draws", action="store_true")
    parser.add_argument("--beside", action="store_true")
    parser.add_argument("--around", action="store_true")
    parser.add_argument("--novelty", action="store_true")
    arguments = parser.parse_args()
    cases = by_release()
    if not arguments.novelty:
        predict(arguments, cases)
    write_novelty(cases)
    return 0


def predict(arguments: argparse.Namespace, cases: dict[str, list[Case]]) -> None:
    """Refit and predict what is asked for."""
    if arguments.first_tokens:
        lines = [line for line in read() if line["how"] != FIRST]
        store(lines + [line for release, own in cases.items() for line in first_tokens(release, own)])
        return
    store([line for line in read() if line["release"] in cases])  # versions that are no more
    asked = [release for release in arguments.stacks or cases if release in cases]
    refits = arguments.around or arguments.draws
    for release in () if refits or arguments.beside else asked:
        update(release, QUICK, quick(release, cases[release]))
    for release in () if refits else asked:
        update(release, BESIDE, by_others(release, cases))
    for release in () if arguments.quick or arguments.beside else asked:
        if release not in PLANS:
            continue
        start, own = time.perf_counter(), cases[release]
        around = Around(release, Cases(own), shipped(release)) if arguments.around else None
        if around is not None and not arguments.draws:
            update(release, ("shipped", IN_LOOPS["shipped"]), around_lines(release, own, around))
        for how, key in () if arguments.draws else GROUPS.items():
            names = [key(case) for case in own]
            update(release, (how, IN_LOOPS[how]), both(release, own, how, names, around))
        if not arguments.no_draws:
            update(release, ("transfer",), transferred(release, own, around))
        print(f"{release}: {time.perf_counter() - start:.0f} s", file=sys.stderr, flush=True)


def write_novelty(cases: dict[str, list[Case]]) -> None:
    """What rows have, and what of each line its fit had not seen."""
    rows = {name: {case.row_id: question_of(case.scenario) for case in own} for name, own in cases.items()}
    counted = {
        (name, case.row_id)
        for name, own in cases.items()
        for case in own
        if name not in PLANS or PLANS[name].fits(case)
    }
    (ROOT / FACETS).write_text(facets_text(rows), "utf-8")
    found = novel_lines(read(), rows, lambda release, row_id: (release, row_id) in counted)
    (ROOT / NOVEL).write_bytes(novel_text(found))


def quick(release: str, own: list[Case]) -> list[dict[str, str]]:
    """What needs no fit: the constants that ship, the roofline."""
    main, first = Cases(own).simulated_both({})
    lines = lines_of(release, own, "shipped", [""] * len(own), main)
    lines += in_loops(release, own, "shipped", [""] * len(own), first)
    at_once = [case for case in own if not case.closed]
    return lines + lines_of(release, at_once, ROOFLINE, [""] * len(at_once), by_roofline(at_once))


def by_others(release: str, cases: dict[str, list[Case]]) -> list[dict[str, str]]:
    """By other versions: the one that would stand in, the one on its other side, what stands for it on other devices."""
    own, lines = cases[release], []
    for how, near in others(release, own).items():
        constants, ratios = constants_without(near, release, cases), np.zeros(len(own))
        for version, inside in by_version(own).items():
            known = {name: one.value for name, one in changes(*near.split("@"), version).items()}
            ratios[inside] = Cases([own[index] for index in inside]).simulated(constants | known)
        lines += lines_of(release, own, how, [near] * len(own), ratios)
    return lines


def by_version(own: Sequence[Case]) -> dict[str | None, list[int]]:
    """Rows by the version that their table states, whose known changes hold whatever stands in for it."""
    found: dict[str | None, list[int]] = {}
    for index, case in enumerate(own):
        found.setdefault(version_of(case.row["system"], case.row["system_version"]), []).append(index)
    return found


def update(release: str, hows: Sequence[str], lines: list[dict[str, str]]) -> None:
    """Put a version's lines of some kinds in the place of those that the file has now."""
    others = [line for line in read() if line["release"] != release or line["how"] not in hows]
    store(others + lines)


def first_tokens(release: str, own: list[Case]) -> list[dict[str, str]]:
    """Log ratios of times to first token of single requests: by a fit without their model where the version's fit has them.

    Of a single model, by what the version inherits. Where no fit has them, by the constants that ship.
    """
    single = [case for case, alone in zip(own, Cases(own).single_requests, strict=True) if alone]
    plan = PLANS.get(release)
    if not single:
        return []
    names = [case.run.model for case in single]
    ratios = Cases(single).first_tokens_alone({})
    if plan is not None and plan.first_tokens:
        for name in sorted(set(names)):
            inside = [index for index, other in enumerate(names) if other == name]
            rest = [case for case in own if case.run.model != name and not case.closed and plan.fits(case)]
            constants = fit_first_tokens(release, Cases(rest)) if rest else start_of(release) | plan.given
            ratios[inside] = Cases([single[index] for index in inside]).first_tokens_alone(constants)
    return lines_of(release, single, FIRST, names, ratios, "ttft_s")


def both(
    release: str, own: list[Case], how: str, names: list[str], around: Around | None
) -> list[dict[str, str]]:
    """Lines by fits without each row's group, of first tokens in closed loops too where fits count them."""
    main, first = left_out(release, own, names, around)
    lines = lines_of(release, own, how, names, main)
    return lines + (in_loops(release, own, how, names, first) if PLANS[release].first_tokens else [])


def in_loops(
    release: str, own: list[Case], how: str, names: list[str], first: np.ndarray
) -> list[dict[str, str]]:
    """Lines of the rows that have a time to first token in a closed loop."""
    there = np.flatnonzero(np.isfinite(first))
    cases, groups = [own[index] for index in there], [names[index] for index in there]
    return lines_of(release, cases, IN_LOOPS[how], groups, first[there], "ttft_s")


def around_lines(release: str, own: list[Case], around: Around) -> list[dict[str, str]]:
    """Lines of what ships, which refits around it have simulated already."""
    main, first = around.data.known_both(shipped(release))
    names = [""] * len(own)
    return lines_of(release, own, "shipped", names, main) + in_loops(release, own, "shipped", names, first)


def left_out(
    release: str, own: list[Case], names: list[str], around: Around | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Log ratios of rows, and of their first tokens in closed loops, by fits without their group.

    Groups of a few rows are left out together, which asks more.

    Groups whose rows are in no fit (of versions that a plan leaves out) share one.
    """
    fitted = [PLANS[release].fits(case) for case in own]
    folds = folds_of(names, fitted)
    fits: dict[frozenset[int], dict[str, float]] = {}
    main, first = np.zeros(len(own)), np.zeros(len(own))
    for fold in sorted(set(folds)):
        inside = [index for index, other in enumerate(folds) if other == fold]
        rest = frozenset(index for index, other in enumerate(folds) if other != fold and fitted[index])
        if rest not in fits:
            fits[rest] = fit_to(release, own, sorted(rest), around)
        main[inside], first[inside] = Cases([own[index] for index in inside]).simulated_both(fits[rest])
    return main, first


def fit_to(release: str, own: list[Case], rows: Sequence[int], around: Around | None) -> dict[str, float]:
    """Constants fitted to these rows: from the beginning, or around a fit to all; of none, what is known before any."""
    if not rows:
        return start_of(release) | PLANS[release].given
    if around is not None:
        return around.without(rows)
    return fit_once(release, Cases([own[index] for index in rows]))


def transferred(release: str, own: list[Case], around: Around | None = None) -> list[dict[str, str]]:
    """Fits to 20 rows of one model on one GPU: the log ratios of the others' geometric mean, one line per draw."""
    groups: dict[tuple[str, str], list[int]] = {}
    for index, case in enumerate(own):
        if PLANS[release].fits(case):
            groups.setdefault(case.group, []).append(index)
    large = [found for found in groups.values() if len(found) >= DRAWN]
    if not large or len(groups) < 2:
        return []
    random, found, start = np.random.default_rng(0), [], time.process_time()
    for draw in range(DRAWS):
        if time.process_time() - start > TRANSFER_S:
            break
        group = large[random.integers(len(large))]
        chosen = random.choice(group, DRAWN, replace=False)
        constants = fit_to(release, own, chosen.tolist(), around)
        others = [case for index, case in enumerate(own) if index not in set(group)]
        mean = float(np.mean(np.abs(Cases(others).simulated(constants))))
        found.append(
            dict.fromkeys(COLUMNS, "")
            | {"release": release, "how": "transfer", "group": str(draw), "log_ratio": f"{mean:.4f}"}
        )
    return found


def others(release: str, own: Sequence[Case]) -> dict[str, str]:
    """Other files of a family by what they stand in for: another version, on each side, or the same one on other devices."""
    family, _, version = release.partition("@")
    alone = {name.partition("@")[2] for name, plan in PLANS.items() if plan.alone == release}
    found = beside(family, version, own[0].scenario.gpu.device, alone)
    by_kind = dict(zip(("neighbour", OTHER_SIDE), found, strict=False))
    if own_constants(family, version).only_on:
        place = version.partition("-")[0]
        by_kind[OTHER_DEVICE] = release_of(family, place)[0]
    return {how: f"{family}@{name}" for how, name in by_kind.items()}


def constants_without(release: str, left_out: str, cases: dict[str, list[Case]]) -> dict[str, float]:
    """A version's constants where another one is unknown: fitted to its own rows alone if it inherits from that one."""
    family, _, version = release.partition("@")
    file = {name: one.value for name, one in load_release(family, version).constants.items()}
    if not stands_on(family, version, left_out.partition("@")[2]):
        return file
    own = cases[release]
    return file | Around(left_out, Cases(own), file).without(range(len(own)))


def by_roofline(own: list[Case]) -> np.ndarray:
    """Log ratios by the plain roofline that stands beside all published runs."""
    found = []
    for case in own:
        said = inference_roofline(case.run)
        times = (said["latency_per_token_s"], said["prefill_latency_s"], said["total_latency_s"])
        found.append(log_ratio_of(case, *times))
    return np.array(found)


def lines_of(
    release: str, own: list[Case], how: str, groups: list[str], ratios: np.ndarray, quantity: str = ""
) -> list[dict[str, str]]:
    """One line per row."""
    return [
        {
            "release": release, "row_id": case.row_id, "model": case.run.model, "gpu": case.run.gpu,
            "closed": str(int(case.closed)), "quantity": quantity or case.quantity, "how": how, "group": group,
            "log_ratio": f"{ratio:.4f}",
        }
        for case, group, ratio in zip(own, groups, ratios, strict=True)
    ]  # fmt: skip


def read() -> list[dict[str, str]]:
    """The lines of the file; none where it is not there."""
    if not LEFT_OUT.exists():
        return []
    return list(csv.DictReader(io.StringIO(gzip.decompress(LEFT_OUT.read_bytes()).decode("utf-8"))))


def store(lines: list[dict[str, str]]) -> None:
    """Write the file, the same bytes for the same lines."""
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(
        sorted(
            lines,
            key=lambda line: (line["release"], line["how"], line["row_id"].zfill(9), line["group"].zfill(4)),
        )
    )
    LEFT_OUT.write_bytes(gzip.compress(text.getvalue().encode("utf-8"), mtime=0))


if __name__ == "__main__":
    raise SystemExit(main())
