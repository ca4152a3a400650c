"""What is predicted of hybrid runs whose host was in no fit.

    python bench/hybrid_figures.py        two minutes

Every fitted constant of the CPU as a device moves the predictions by its derivative, so that a refit without a host is a
least absolute deviation over the other hosts' rows. It writes ``calibrate/measurements/hybrid/left_out.csv.gz`` (the log
ratio of every rate, shipped and by refits without its host) and the widths of intervals
(``llm_perf/analysis/hybrid_widths.yaml``), and prints the figures of ``docs/systems/hybrid.md``.
"""

from __future__ import annotations

import collections
import csv
import gzip
import io
import math
from functools import cache
from pathlib import Path

import numpy as np

from calibrate.evidence.hybrid_rows import HybridCase, load_cases, log_ratio
from calibrate.evidence.ratios import gm
from calibrate.fit.intervals import held_width, of_rows
from llm_perf.config.cpu import cpu_facts
from llm_perf.systems import system_of
from llm_perf.systems.constants import load_constants

ROOT = Path(__file__).parents[1]
LEFT_OUT = ROOT / "calibrate" / "measurements" / "hybrid" / "left_out.csv.gz"
WIDTHS = ROOT / "llm_perf" / "analysis" / "hybrid_widths.yaml"
FITTED = (
    "cpu_expert_share", "cpu_expert_share_many_channels", "cpu_core_half_cores", "cpu_unpack_16bit_widened",
    "cpu_decode_score_share", "cpu_product_half_cores", "cpu_second_socket_products",
    "cpu_dense_share", "cpu_barrier_us", "cpu_layer_us", "cpu_hop_us", "cpu_attention_share",
    "cpu_second_socket_share", "cpu_core_gb_per_s", "cpu_stream_share", "cpu_flops_per_cycle_avx512",
    "cpu_flops_per_cycle_amx", "cpu_flops_per_cycle_avx2", "cpu_flops_per_cycle_neon", "cpu_expert_lost_rows",
    "cpu_wide_kernels", "cpu_row_kernels", "cpu_score_share", "cpu_wide_lost_rows", "host_copy_link_share",
)  # fmt: skip
"""Constants that runs determine. One that a version's file states anew is a constant of its own."""
STEP = 1.1
PRIOR = math.log(1.6)
"""How far a refit may go from what ships before that weighs as much as a row that is off by so much."""
SHOWN = 0.05
"""Rows whose rate moves less with a constant say nothing of it: without one that moves more nothing does."""
DEVICE_FILES = ("llama_cpp@2025-rdna", "llama_cpp@2026-rdna")
"""Files that were fitted to one host alone, oldest first: without them the file that the oldest extends stands."""

Owned = tuple[str, str]
"""A constant and the file that states it: ``cpu_row_kernels`` of ``llama_cpp@2025-ik``."""


def main() -> None:
    """Write both files and print the figures."""
    cases = [case for case in load_cases() if case.kind != "moved"]
    shipped = np.array([log_ratio(case) for case in cases])
    left_out = without_host(cases, shipped)
    store(cases, shipped, left_out)
    for phase in ("decode", "prefill"):
        chosen = np.array([case.phase == phase for case in cases])
        print(
            f"{phase}: {chosen.sum()} rates, shipped {gm(shipped[chosen]):.3f}, host left out {gm(left_out[chosen]):.3f}"
        )
    known = with_bandwidth(cases)
    print(f"decode, the host's bandwidth from one of its rows: {gm(known):.3f} on {len(known)} others")
    WIDTHS.write_text(widths(cases, left_out), "utf-8")


@cache
def owner(file: str, name: str) -> str:
    """The file that states a constant for a version: its own, or one that it extends."""
    constants = load_constants(file)
    while name in constants.inherited and constants.extends is not None:
        constants = load_constants(constants.extends)
    return f"{constants.name}@{constants.release}"


def derivatives(cases: list[HybridCase], shipped: np.ndarray) -> tuple[list[Owned], np.ndarray]:
    """The constants with their files, and d log(rate) / d log(constant), one column per constant."""
    found: dict[Owned, np.ndarray] = {}
    for row, case in enumerate(cases):
        system = system_of(case.run.scenario)
        values = system.constants(case.run.scenario)
        for name in FITTED:
            if not values.get(name):
                continue
            changed = log_ratio(case, {name: values[name] * STEP})
            column = (name, owner(f"{system.file.name}@{system.file.release}", name))
            found.setdefault(column, np.zeros(len(cases)))[row] = (changed - shipped[row]) / math.log(STEP)
    return list(found), np.array(list(found.values())).T


def without_rows(columns: list[Owned]) -> np.ndarray:
    """Where a constant stands that no row shows, over what ships: what a version's replaces, else its prior or range says."""
    found = []
    for name, file in columns:
        own = load_constants(file)
        before = load_constants(own.extends).constants.get(name) if own.extends else None
        known = before.value if before is not None and before.value > 0 else own.constants[name].unfitted
        found.append(math.log(known / own.value(name)))
    return np.array(found)


def without_host(cases: list[HybridCase], shipped: np.ndarray) -> np.ndarray:
    """Log ratios by refits without each case's host."""
    columns, slopes = derivatives(cases, shipped)
    unseen = without_rows(columns)
    groups = collections.Counter(case.group for case in cases)
    weight = np.array([groups[case.group] ** -0.5 for case in cases])
    found = shipped.copy()
    parent = own_parent()
    for host in sorted({case.host for case in cases}):
        own = np.array([case.host == host for case in cases])
        shown = np.abs(slopes[~own]).max(axis=0) > SHOWN
        moved = np.where(shown, refit(shipped[~own], slopes[~own], weight[~own]), unseen)
        found[own] = shipped[own] + slopes[own] @ moved
        for index in np.flatnonzero(own):
            file = system_of(cases[index].run.scenario).file
            if f"{file.name}@{file.release}" in DEVICE_FILES:
                found[index] = log_ratio(cases[index], parent)
    return found


def own_parent() -> dict[str, float]:
    """Values of the files that the device's extend, of all that the device's files change."""
    values: dict[str, float] = {}
    for name in DEVICE_FILES:
        device = load_constants(name)
        assert device.extends is not None
        parent = load_constants(device.extends)
        values |= {one: parent.value(one) for one in set(device.constants) - set(device.inherited)}
    return values


def refit(ratios: np.ndarray, slopes: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Logs by which constants move: least absolute deviations by reweighted least squares."""
    moved = np.zeros(slopes.shape[1])
    ridge = np.eye(slopes.shape[1]) / PRIOR**2
    for _ in range(30):
        rest = ratios + slopes @ moved
        own = weight / np.maximum(np.abs(rest), 0.03)
        left = (slopes * own[:, None]).T @ slopes + ridge
        moved = np.linalg.solve(left, -(slopes * own[:, None]).T @ ratios)
    return np.clip(moved, -PRIOR, PRIOR)


def with_bandwidth(cases: list[HybridCase], picks: int = 3) -> np.ndarray:
    """Decode of a host's other rows once one row of it says how fast its memory is read."""
    found: list[float] = []
    hosts = collections.defaultdict(list)
    for case in cases:
        if case.phase == "decode" and case.kind in ("cpu", "cpu and gpu"):
            hosts[case.machine].append(case)
    for own in hosts.values():
        if len(own) < 3:
            continue
        ranked = sorted(own, key=lambda case: -bound_by_reads(case))
        for pick in ranked[:picks]:
            rate = solved(pick)
            found += [log_ratio(case, None, rate) for case in own if case is not pick]
    return np.array(found)


def usual_gb_per_s(case: HybridCase) -> float:
    """GB/s that reads of a case's host are taken to reach where nobody measured them."""
    scenario = case.run.scenario
    constants = system_of(scenario).constants(scenario)
    facts = cpu_facts(scenario.host)
    channels = min(facts.channels_bytes_per_s, facts.cores_bytes_per_s or math.inf)
    return facts.sockets * channels * constants["cpu_stream_share"] / 1e9


def bound_by_reads(case: HybridCase) -> float:
    """D log(rate of decode) / d log(bandwidth): how much a row says of its machine's memory."""
    usual = usual_gb_per_s(case)
    return log_ratio(case, None, usual * 1.1) - log_ratio(case, None, usual / 1.1)


def solved(case: HybridCase) -> float:
    """GB/s of reads at which a row is predicted as it was measured, between half and twice what is usual."""
    usual = usual_gb_per_s(case)
    low, high = usual / 2, usual * 2
    for _ in range(20):
        middle = math.sqrt(low * high)
        low, high = (middle, high) if log_ratio(case, None, middle) < 0 else (low, middle)
    return math.sqrt(low * high)


def store(cases: list[HybridCase], shipped: np.ndarray, left_out: np.ndarray) -> None:
    """Write the log ratios."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("row_id", "family", "host", "kind", "phase", "shipped", "left_out"))
    for case, one, other in zip(cases, shipped, left_out, strict=True):
        writer.writerow(
            (case.row_id, case.family, case.host, case.kind, case.phase, f"{one:.4f}", f"{other:.4f}")
        )
    with LEFT_OUT.open("wb") as file, gzip.GzipFile(fileobj=file, mode="wb", mtime=0, filename="") as packed:
        packed.write(text.getvalue().encode())


def widths(cases: list[HybridCase], left_out: np.ndarray) -> str:
    """Half-widths of 90 % intervals by what computes and by phase, and how many rates those of the other hosts hold."""
    lines = [
        "# Half-widths of 90 % intervals of divided models as log ratios, written by bench/hybrid_figures.py: what published",
        "# rates were off by when their host was in no fit. Of `tested` rates the widths of the other hosts held `held`.",
        "# `makers`: of the GPUs beside the CPU.",
    ]
    for kind in ("cpu", "cpu and gpu"):
        makers = {case.run.scenario.gpu.maker for case in cases if case.kind == kind} - {""}
        lines += [f"{kind}:", f"  makers: [{', '.join(sorted(makers))}]"]
        for phase in ("prefill", "decode"):
            hosts: dict[str, list[float]] = collections.defaultdict(list)
            for case, ratio in zip(cases, left_out, strict=True):
                if (case.kind, case.phase) == (kind, phase):
                    hosts[case.host].append(abs(float(ratio)))
            found = held_width(hosts, of_rows)
            lines.append(
                f"  {phase}: {{width: {found.width:.4f}, hosts: {len(hosts)}, held: {found.held}, tested: {found.tested}}}"
            )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
