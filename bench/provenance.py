"""Count what stands behind every fitted number: measured rows that it changes, and distinct conditions among them.

    python bench/provenance.py           writes ``rows`` and ``groups`` into the YAML files of systems, hosts and efficiencies
    python bench/provenance.py --check   writes nothing; exits with 1 where a file says something else
    python bench/provenance.py --check --of fiddler gpt_fast   these families' constants alone, by their own rows: seconds

To be run where measured rows were added or a constant became a fitted one. A number changes a row where its prediction, of
time or of memory, moves between the ends of the number's range (half and twice a host's rate). What a file states for all
machines is counted as refits see it (`calibrate.validate.transfer`): without any machine's own fitted numbers in its place. A
condition is a host, a GPU, a model and a width of weights. Versions of stacks that ``bench/fit_stacks.py`` fits say what it
counted, a model and a GPU being a condition; other numbers of stacks and those of CPUs are counted on the tables of serving
stacks and of divided models as well.
"""

from __future__ import annotations

import argparse
import contextlib
import math
import re
import sys
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT), str(Path(__file__).parent)]

from fit_stacks import PLANS, by_release, thinned  # noqa: E402

from calibrate.evidence import hybrid_rows, serving_rows  # noqa: E402
from calibrate.evidence.published import load_measurements  # noqa: E402
from calibrate.evidence.settings import peak_memory_bytes, run_of, scenario_of  # noqa: E402
from calibrate.evidence.training_runs import training_run_of, training_scenario_of  # noqa: E402
from calibrate.fit.training import step_time_s  # noqa: E402
from calibrate.validate.scoreboard import Validation, validate  # noqa: E402
from calibrate.validate.transfer import predicted, unfitted  # noqa: E402
from llm_perf.analysis.inference import predict_inference  # noqa: E402
from llm_perf.config.host import Rate  # noqa: E402
from llm_perf.config.loading import get_host_config_by_name, known_names  # noqa: E402
from llm_perf.config.scenario import Scenario  # noqa: E402
from llm_perf.errors import LLMPerfError, SpecError  # noqa: E402
from llm_perf.systems.constants import ConstantsFile, file_of, load_constants, own_constants  # noqa: E402
from llm_perf.systems.families import family_names, folder_of  # noqa: E402
from llm_perf.systems.training.framework import FRAMEWORKS, get_framework, own_framework  # noqa: E402

MOVES = 1e-6
"""Least relative change of a prediction that counts."""

HOST_FACTORS = (0.5, 2.0)
MEMORY = "peak_gpu_memory_bytes"
TIMES = ("throughput_tokens_per_s", "total_latency_s", "prefill_latency_s", "latency_per_token_s")

Number = tuple[Path, tuple[str, ...]]
"""A number's file, and where it stands in it."""


@dataclass(frozen=True)
class Row:
    """One measured row: its scenario as it ships and without fits, what predicts it, and the chain of its constants."""

    scenario: Any
    bare: Any
    predict: Callable[[Any], tuple[float, ...]]
    owners: Mapping[str, Path]

    @property
    def condition(self) -> tuple[Any, ...]:
        """Host, GPU, model and weight format."""
        one = self.scenario
        bits = one.dtype.weight_bits if isinstance(one, Scenario) else one.plan.compute_dtype
        return one.host.name, one.gpu.name, one.model.name, bits

    def moves(self, base: Any, changed: Iterable[Any]) -> bool:
        """Whether any of the changed scenarios is predicted otherwise than the one that they come from."""
        plain = self.predict(base)
        for scenario in changed:
            try:
                found = self.predict(scenario)
            except LLMPerfError:  # a change that makes it impossible is a change
                return True
            if any(abs(a - b) > MOVES * abs(b) for a, b in zip(found, plain, strict=True)):
                return True
        return False


# -- rows -----------------------------------------------------------------------------------------------------


def inference_rows(shipped: Validation) -> Iterator[Row]:
    """Every published run of inference that is predicted: its time, and its memory where that was measured."""
    measured = {one.row_id: one for one in load_measurements()}
    for row in shipped.rows:
        if row.run.table != "inference" or row.predicted is None:
            continue
        scenario = scenario_of(run_of(measured[row.run.row_id]))
        yield Row(scenario, unfitted(scenario), prediction_of(row), owners_of(file_of(scenario)))


def prediction_of(row: Any) -> Callable[[Scenario], tuple[float, ...]]:
    """What a row's prediction is compared by."""
    stated = (row.quantity, *row.others)
    times = [name for name in stated if name in TIMES]
    with_memory = MEMORY in stated

    def predict(scenario: Scenario) -> tuple[float, ...]:
        memory = [peak_memory_bytes(predict_inference(scenario))] if with_memory else []
        return (*(predicted(scenario, quantity) for quantity in times), *memory)

    return predict


def training_rows(shipped: Validation) -> Iterator[Row]:
    """Every published training run that is predicted: the time of its step."""
    measured = {one.row_id: one for one in load_measurements("training")}
    for row in shipped.rows:
        if row.run.table != "training" or row.predicted is None:
            continue
        scenario = training_scenario_of(training_run_of(measured[row.run.row_id]))
        bare = scenario.replace(
            gpu=scenario.gpu.without_fits(), host=scenario.host.without_fits(), fits=False
        )
        owners = owners_of(get_framework(scenario.framework))
        yield Row(scenario, bare, lambda one: (step_time_s(one),), owners)


def serving_table_rows(families: Collection[str] = ()) -> Iterator[Row]:
    """Every run of a serving stack that is predicted: its main quantity as one batch."""
    for case in serving_rows.load_cases():
        if families and case.scenario.system not in families:
            continue
        yield Row(case.scenario, case.scenario, prediction_of_case(case), owners_of(file_of(case.scenario)))


def prediction_of_case(case: serving_rows.Case) -> Callable[[Scenario], tuple[float, ...]]:
    """The time or rate of a run of a serving stack under another scenario."""

    def predict(scenario: Scenario) -> tuple[float, ...]:
        one = serving_rows.Cases([replace(case, scenario=scenario, closed=False)])
        return (math.exp(float(one.log_ratios({})[0])),)

    return predict


def hybrid_table_rows(families: Collection[str] = ()) -> Iterator[Row]:
    """Every rate of a divided model that is predicted."""
    for case in hybrid_rows.load_cases():
        scenario = case.run.scenario
        if families and scenario.system not in families:
            continue
        yield Row(scenario, scenario, prediction_of_rate(case), owners_of(file_of(scenario)))


def prediction_of_rate(case: hybrid_rows.HybridCase) -> Callable[[Scenario], tuple[float, ...]]:
    """The rate of a divided model under another scenario."""

    def predict(scenario: Scenario) -> tuple[float, ...]:
        return (math.exp(hybrid_rows.log_ratio(replace(case, run=replace(case.run, scenario=scenario)))),)

    return predict


def owners_of(file: ConstantsFile) -> dict[str, Path]:
    """For each constant of a system or framework the file that states it."""
    own, path = own_file(file.name, file.release)
    found = {} if own.extends is None else owners_of(parent_of(own))
    return found | dict.fromkeys(own.constants, path)


def parent_of(own: ConstantsFile) -> ConstantsFile:
    """The file that another one extends, with what it inherits."""
    assert own.extends is not None
    return get_framework(own.extends) if own.extends in FRAMEWORKS else load_constants(own.extends)


def own_file(name: str, release: str) -> tuple[ConstantsFile, Path]:
    """A system's or framework's own file, and where it is."""
    if name in FRAMEWORKS:
        return own_framework(name), ROOT / "llm_perf" / "systems" / "training" / f"{name}.yaml"
    return own_constants(name, release), Path(str(folder_of(name).path / f"{release}.yaml"))


def own_files(families: Collection[str] = ()) -> Iterator[tuple[ConstantsFile, Path]]:
    """All files of constants, or those of some families of systems."""
    for family in families or family_names():
        for release in folder_of(family).all_releases:
            yield own_file(family, release)
    for name in () if families else FRAMEWORKS:
        yield own_file(name, "")


# -- numbers --------------------------------------------------------------------------------------------------


def numbers_of_systems(rows: list[Row], families: Collection[str] = ()) -> Iterator[tuple[Number, list[Row]]]:
    """Fitted constants of systems and frameworks, for all machines and for single ones, with the rows that each changes."""
    for file, path in own_files(families):
        plan = PLANS.get(f"{file.name}@{file.release}")
        for name, constant in file.constants.items():
            if constant.fitted and (plan is None or name not in plan.free):
                mine = [row for row in rows if row.owners.get(name) == path]
                yield (
                    (path, ("constants", name)),
                    [row for row in mine if set_changes(row, row.bare, name, constant)],
                )
        for host, stated in file.hosts.items():
            mine = [row for row in rows if path in row.owners.values() and row.scenario.host.name == host]
            for name, constant in stated.items():
                if constant.fitted:
                    changed = [row for row in mine if set_changes(row, row.scenario, name, constant)]
                    yield (path, ("hosts", host, name)), changed


def counted_by_fits(families: Collection[str] = ()) -> Iterator[tuple[Number, tuple[int, int]]]:
    """Constants of serving stacks with the rows that their fits counted, and models on GPUs among these."""
    plans = {name: plan for name, plan in PLANS.items() if not families or name.partition("@")[0] in families}
    cases = by_release() if plans else {}
    for release, plan in plans.items():
        file, path = own_file(*release.split("@"))
        counted = thinned(
            serving_rows.Cases([case for case in cases.get(release, []) if plan.fits(case)])
        ).cases
        counts = len(counted), len({case.group for case in counted})
        for name, constant in file.constants.items():
            if constant.fitted and name in plan.free:
                yield (path, ("constants", name)), counts


def set_changes(row: Row, base: Any, name: str, constant: Any) -> bool:
    """Whether a constant of its system, or a rate of its copies, changes a row."""
    if name in row.owners:
        changed = [base.replace(constants=((name, end),)) for end in constant.range]
    else:
        key = f"{base.system}.{name.removesuffix('_gb_per_s')}"
        changed = [base.replace(host=base.host.replace(copies={key: rate_of(end)})) for end in constant.range]
    return row.moves(base, changed)


def rate_of(gb_per_s: float) -> Rate:
    """A rate to try."""
    return Rate(gb_per_s=gb_per_s, provenance="assumed", source="tried")


def numbers_of_hosts(rows: list[Row]) -> Iterator[tuple[Number, list[Row]]]:
    """Fitted rates of hosts, with the rows that each changes."""
    for name in known_names("host"):
        host = get_host_config_by_name(name)
        mine = [row for row in rows if row.scenario.host.name == host.name]
        path = ROOT / "hardware_specs" / "hosts" / f"{name}.yaml"
        for field in type(host).model_fields:
            if isinstance(rate := getattr(host, field), Rate) and rate.fitted:
                yield (path, (field,)), [row for row in mine if host_changes(row, field)]
        for field in () if host.disk is None else type(host.disk).model_fields:
            if isinstance(rate := getattr(host.disk, field), Rate) and rate.fitted:
                yield (path, ("disk", field)), [row for row in mine if host_changes(row, field, disk=True)]


def host_changes(row: Row, field: str, disk: bool = False) -> bool:
    """Whether half or twice a rate of its host changes a row."""
    base = row.scenario
    spec = base.host.disk if disk else base.host
    rate = getattr(spec, field)
    specs = [spec.replace(**{field: rate.replace(gb_per_s=rate.gb_per_s * f)}) for f in HOST_FACTORS]
    hosts = [base.host.replace(disk=one) for one in specs] if disk else specs
    return row.moves(base, [base.replace(host=host) for host in hosts])


def numbers_of_efficiencies(rows: list[Row]) -> Iterator[tuple[Number, list[Row]]]:
    """Fitted efficiencies of GPU families, with the training rows that each changes."""
    families = {row.scenario.gpu.efficiency.name: row.scenario.gpu.efficiency for row in rows}
    files = {name_in(path): path for path in (ROOT / "hardware_specs" / "efficiency").glob("*.yaml")}
    found: dict[Number, list[Row]] = {}
    for name, family in families.items():
        for path, one in family.training.fitted.items():
            ends = (one.prior / one.factor, min(one.prior * one.factor, 1.0 if one.prior <= 1 else 1e9))
            mine = [row for row in rows if row.scenario.gpu.efficiency.name == name]
            found.setdefault((stating(files[name], path), ("training", "fitted", path)), []).extend(
                row
                for row in mine
                if row.moves(row.bare, [with_efficiency(row.bare, path, end) for end in ends])
            )
    yield from found.items()


def stating(path: Path, name: str) -> Path:
    """The file of a GPU family, or of the one that it extends, that states a fitted number."""
    text = path.read_text("utf-8")
    extended = re.search(r"^extends: (.*)$", text, re.MULTILINE)
    if extended is None or re.search(rf"^ +{re.escape(name)}:", text, re.MULTILINE):
        return path
    return stating(path.with_name(f"{extended[1].strip()}.yaml"), name)


def name_in(path: Path) -> str:
    """The name that a file gives itself."""
    found = re.search(r"^name: (.*)$", path.read_text("utf-8"), re.MULTILINE)
    return "" if found is None else found[1].strip()


def with_efficiency(scenario: Any, path: str, value: float) -> Any:
    """A training scenario whose GPU has another efficiency."""
    efficiency = scenario.gpu.efficiency
    training = efficiency.training.with_values({path: value})
    return scenario.replace(gpu=scenario.gpu.replace(efficiency=efficiency.replace(training=training)))


# -- files ----------------------------------------------------------------------------------------------------


def with_counts(text: str, counts: Mapping[tuple[str, ...], tuple[int, int]]) -> str:
    """The text of a YAML file with other ``rows`` and ``groups`` at some places."""
    lines, keys, left = [], [], dict(counts)
    for line in text.splitlines(keepends=True):
        content = line.lstrip()
        indent = len(line) - len(content)
        key = re.match(r"([\w.@-]+):", content)
        if key and key[1] not in ("rows", "groups"):
            keys = [(at, name) for at, name in keys if at < indent] + [(indent, key[1])]
        place = tuple(name for at, name in keys if at < indent or (key and key[1] not in ("rows", "groups")))
        if place in counts:
            for field, count in zip(("rows", "groups"), counts[place], strict=True):
                line, changed = re.subn(rf"\b{field}: \d+", f"{field}: {count}", line)
                if changed:
                    left.pop(place, None)
        lines.append(line)
    if left:
        raise SystemExit(f"no rows and groups found for {', '.join('.'.join(place) for place in left)}")
    return "".join(lines)


def published_rows(families: Collection[str]) -> tuple[list[Row], list[Row]]:
    """Published rows of inference and of training, or those of inference of some families alone."""
    if not families:
        shipped = validate()
        return list(inference_rows(shipped)), list(training_rows(shipped))
    found: list[Row] = []
    for family in families:
        with contextlib.suppress(SpecError):  # nothing was measured on it
            found += inference_rows(validate(family))
    return found, []


def main(argv: Sequence[str] | None = None) -> int:
    """Count, and write or compare."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--check", action="store_true", help="write nothing")
    parser.add_argument("--of", nargs="+", default=(), metavar="FAMILY", choices=family_names())
    arguments = parser.parse_args(argv)
    of = tuple(arguments.of)
    inference, training = published_rows(of)
    stale, counts = False, dict[Path, dict[tuple[str, ...], tuple[int, int]]]()
    tables = [*inference, *training, *serving_table_rows(of), *hybrid_table_rows(of)]
    sources: tuple[Iterator[tuple[Number, list[Row]]], ...] = (numbers_of_systems(tables, of),)
    if not of:
        sources += (numbers_of_hosts(inference), numbers_of_efficiencies(training))
    for found in sources:
        for (path, place), rows in found:
            if rows:
                counts.setdefault(path, {})[place] = len(rows), len({row.condition for row in rows})
                continue
            stale = True
            print(
                f"{path.relative_to(ROOT)}: {'.'.join(place)} changes no measured row, so it cannot be fitted"
            )
    for (path, place), (rows_counted, groups) in counted_by_fits(of):
        counts.setdefault(path, {})[place] = rows_counted, groups
    for path, of_file in counts.items():
        before = path.read_text("utf-8")
        after = with_counts(before, of_file)
        if before != after:
            stale = True
            print(f"{path.relative_to(ROOT)}: {'not what the rows say' if arguments.check else 'written'}")
            if not arguments.check:
                path.write_text(after, "utf-8")
    return 1 if stale and arguments.check else 0


if __name__ == "__main__":
    sys.exit(main())
