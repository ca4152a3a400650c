"""What twenty runs of one model on one GPU are worth on all other runs of their stack, by the path that users take.

    python bench/user_fits.py                          five stacks, five draws each; half an hour
    python bench/user_fits.py vllm@0.5 --draws 10
    python bench/user_fits.py --traces                 from each trace that ships to the other

Rows of the tables are read as ``calibrate read-log`` reads them, fitted as ``calibrate fit`` fits them, and all others are
predicted with the profile's constants. The constants that ship were fitted to the very rows that are held out here; so each
draw is made twice, around what ships, and around the nearest other version of the family, as if this one did not ship.
"""

from __future__ import annotations

import argparse
import collections
import random
import statistics
import sys
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

from calibrate.evidence.ratios import gm
from calibrate.evidence.readers import read_file
from calibrate.evidence.readers.published_rows import run_of_row
from calibrate.evidence.serving_rows import load_rows
from calibrate.evidence.traces import compare, figures, traces
from calibrate.fit.served.deployment import Served, served_of, told_run
from calibrate.fit.served.fit import fit_stack
from calibrate.fit.served.points import Points
from calibrate.fit.stack_priors import SPREAD
from llm_perf.errors import LLMPerfError
from llm_perf.systems import system_of
from llm_perf.systems.constants import beside, load_release

STACKS = ("vllm@0.5", "tensorrt_llm@0.9", "sglang@0.5", "vllm@0.10", "tensorrt_llm@1.0")
DRAWN, FEWEST = 20, 22


def runs_of(release: str) -> list[Served]:
    """Rows of a version that can be predicted."""
    found = []
    for row in load_rows():
        try:
            run = run_of_row(row, row["row_id"])
            if run.engine.name != release.partition("@")[0]:
                continue
            served = served_of(run)
        except LLMPerfError:
            continue
        file = system_of(served.scenario).file
        if f"{file.name}@{file.release}" == release:
            found.append(served)
    return found


def neighbour(release: str) -> dict[str, float]:
    """Constants of the version that would stand in for one, of those that a fit may move."""
    family, _, own = release.partition("@")
    nearest = beside(family, own)[0]
    constants = load_release(family, nearest).constants
    print(f"  without its own file: around {family}@{nearest}")
    return {name: constants[name].value for name in SPREAD if name in constants and constants[name].value > 0}


def of_stack(release: str, draws: int) -> None:
    """Print the figures of one version."""
    served = runs_of(release)
    whole = Points(served)
    shipped = whole.exact({})
    usable = [i for i in range(len(served)) if i not in whole.left_out]
    main = [n for n, target in enumerate(whole.targets) if target.main and target.at not in whole.left_out]
    groups: dict[tuple[str, str], list[int]] = collections.defaultdict(list)
    for index in usable:
        groups[served[index].model, served[index].scenario.gpu.name].append(index)
    large = sorted(key for key, runs in groups.items() if len(runs) >= FEWEST)
    print(
        f"{release}: {len(usable)} rows of {len(groups)} groups, shipped gm {gm(shipped[main]):.3f}",
        flush=True,
    )
    starts = {"shipped": {}, "unseen": neighbour(release)}
    of: dict[str, list[float]] = collections.defaultdict(list)
    generator = random.Random(0)
    for _ in range(draws):
        key = generator.choice(large)
        chosen = set(generator.sample(groups[key], DRAWN))
        rest = [served[i] for i in usable if i not in chosen]
        for how, start in starts.items():
            begun = time.monotonic()
            found = fit_stack([served[i] for i in sorted(chosen)], start)
            took = time.monotonic() - begun
            points = Points(rest)
            for name, constants in ((how, start | found.values), (f"{how}, not fitted", start)):
                off = points.exact(constants)
                of[name].append(
                    gm(np.array([off[n] for n, target in enumerate(points.targets) if target.main]))
                )
            print(f"  {key[0]} on {key[1]}, {how}: {of[how][-1]:.3f}, {took:.0f} s", flush=True)
    for name, values in of.items():
        print(
            f"  {release} {name}: median {statistics.median(values):.3f}, largest {max(values):.3f}",
            flush=True,
        )


def of_traces() -> None:
    """Print how far each trace is off with a profile of the other."""
    known = {}
    for trace in traces():
        inputs = trace.inputs
        told = {"model": inputs.model, "gpu": inputs.gpu, "system": inputs.system, "tp": inputs.tp_size,
                "max_num_seqs": inputs.max_num_seqs, "max_num_batched_tokens": inputs.max_num_batched_tokens,
                "gpu_memory_utilization": inputs.gpu_memory_utilization, "machine": inputs.host}  # fmt: skip
        run = told_run(read_file(trace.path)[0], told)
        known[trace.name] = trace, served_of(run)
    for source, (_, served) in known.items():
        found = fit_stack([served])
        constants = tuple(sorted(found.values.items()))
        print(f"fitted to {source}: {found.values}")
        for name, (trace, _) in known.items():
            plain, fitted = compare(trace), compare_with(trace, constants)
            for quantity, one in figures(fitted).items():
                before = figures(plain)[quantity]
                print(
                    f"  {name} {quantity}: mean {before['error']['mean']:+.1%} -> {one['error']['mean']:+.1%}, "
                    f"p95 {before['error']['p95']:+.1%} -> {one['error']['p95']:+.1%}, requests {one['median_abs_error']:.1%}"
                )


def compare_with(trace, constants):
    """A trace with constants, as a profile of them gives it."""
    import tempfile

    import yaml

    profile = {"name": "fitted", "system_constants": {trace.inputs.system.partition("@")[0]: dict(constants)}}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "fitted.yaml"
        path.write_text(yaml.safe_dump(profile))
        return compare(trace, trace.inputs.replace(profile=str(path)))


def main() -> int:
    """Print the figures that are asked for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("stacks", nargs="*")
    parser.add_argument("--draws", type=int, default=5)
    parser.add_argument("--traces", action="store_true")
    arguments = parser.parse_args()
    if arguments.traces:
        of_traces()
        return 0
    for release in arguments.stacks or STACKS:
        of_stack(release, arguments.draws)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
