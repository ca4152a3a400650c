"""FlexGen's policies as columns of numbers, and the distinct ones among them.

FlexGen places whole tensors, so most percentages of weights mean the same: an OPT layer has six large matrices, and of
the 5151 pairs wg + wc <= 100 some fifty differ. Those are enumerated instead of percent steps.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from llm_perf.config.model import ModelConfig
from llm_perf.counts.arrays import Number
from llm_perf.systems.base import TierShares
from llm_perf.systems.flexgen.placement import model_phases, place_tensors
from llm_perf.systems.flexgen.policy import GROUP_SIZE, Policy, bytes_per_element

Floats: TypeAlias = npt.NDArray[np.float64]

_ROUND = (100, 50, 25, 20, 10, 5, 2, 1)
"""Steps in percent by which people like to state shares, the roundest first."""

_MOST_CUTS = 10
"""Cuts of the grid that are kept of a model whose layers have many tensors (experts)."""

_SMALL = 0.015
"""Share of all weights below which the grid does not tell two placements apart; a closer look does."""


@dataclass(frozen=True)
class PolicyRows:
    """Policies as columns, one row each (or columns that broadcast). Shares in percent, as FlexGen's flag has them.

    ``weight_4bit``, ``cache_4bit``, ``cpu_attention`` and ``pin_weights`` are true or false. ``micro_batches`` are as many
    as the pipeline has stages, FlexGen's default.
    """

    wg: Number
    wc: Number
    cg: Number
    cc: Number
    hg: Number
    hc: Number
    gpu_batch: Number
    num_gpu_batches: Number
    weight_4bit: Number
    cache_4bit: Number
    cpu_attention: Number
    pin_weights: Number
    micro_batches: Number

    def __len__(self) -> int:
        return len(self.wg)

    @property
    def batch(self) -> Number:
        """Sequences of the whole policy."""
        return self.sequences * self.num_gpu_batches

    @property
    def sequences(self) -> Number:
        """Sequences that one more GPU batch in the blocks adds: one GPU batch in each micro-batch."""
        return self.gpu_batch * self.micro_batches

    def policy(self) -> Policy:
        """The rows as one policy of arrays, its numbers exactly those that the flags of one row give."""
        narrow = bytes_per_element(4, GROUP_SIZE)
        return Policy(
            gpu_batch=self.gpu_batch,
            num_gpu_batches=self.num_gpu_batches,
            weights=_shares(self.wg, self.wc),
            kv_cache=_shares(self.cg, self.cc),
            hidden=_shares(self.hg, self.hc),
            weight_bytes=np.where(self.weight_4bit, narrow, 2.0),
            kv_bytes=np.where(self.cache_4bit, narrow, 2.0),
            cpu_attention=np.asarray(self.cpu_attention) & (np.asarray(self.cg) < 100),
            pin_weights=self.pin_weights,
            micro_batches=self.micro_batches,
        )

    def take(self, which: npt.NDArray[np.bool_] | npt.NDArray[np.intp] | slice) -> PolicyRows:
        """Some of the rows."""
        return PolicyRows(**{name: column[which] for name, column in self.columns().items()})

    def columns(self) -> dict[str, Number]:
        """Columns by name."""
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}

    def replace(self, **changes: Number) -> PolicyRows:
        """The rows with other columns."""
        return dataclasses.replace(self, **changes)

    def flat(self) -> PolicyRows:
        """Columns that broadcast as columns of one length."""
        spread = np.broadcast_arrays(*self.columns().values())
        return PolicyRows(*(column.ravel() for column in spread))

    def distinct(self) -> PolicyRows:
        """The rows without repetitions."""
        table = np.column_stack([np.asarray(column, dtype=float) for column in self.columns().values()])
        _, first = np.unique(table, axis=0, return_index=True)
        return self.take(np.sort(first))

    def flags(self, row: int) -> dict[str, object]:
        """One row under the names of ``llm-perf infer``'s inputs."""
        percent = (self.wg[row], self.wc[row], self.cg[row], self.cc[row], self.hg[row], self.hc[row])
        stages = int(self.micro_batches[row])
        return {
            "system": "flexgen",
            **({"pp_size": stages} if stages > 1 else {}),
            "percent": " ".join(f"{share:g}" for share in percent),
            "gpu_batch_size": int(self.gpu_batch[row]),
            "num_gpu_batches": int(self.num_gpu_batches[row]),
            "batch_size": int(self.batch[row]),
            "compress_weight": bool(self.weight_4bit[row]),
            "compress_cache": bool(self.cache_4bit[row]),
            "cpu_cache_compute": bool(self.cpu_attention[row]),
            "pin_memory": bool(self.pin_weights[row]),
        }


def joined(parts: Sequence[PolicyRows]) -> PolicyRows:
    """Rows one after the other."""
    columns = [part.columns() for part in parts]
    return PolicyRows(**{name: np.concatenate([part[name] for part in columns]) for name in columns[0]})


def _shares(gpu: Number, cpu: Number) -> TierShares:
    gpu, cpu = np.asarray(gpu) / 100, np.asarray(cpu) / 100
    return TierShares(gpu, cpu, np.maximum(np.round(1 - gpu - cpu, 12), 0.0))


def weight_cuts(model: ModelConfig) -> list[int]:
    """Percentages from 0 to 100 that divide each layer's tensors differently, each the roundest that does so.

    Where large tensors stay the same, the way biases and norms go is not told apart.
    """
    percents, moved = _moved(model)
    steps = np.any(np.diff(moved, axis=1) > 0.005, axis=0)
    return _one_of_each(percents, steps)


def coarse_weight_cuts(model: ModelConfig) -> list[int]:
    """Those that differ by a share of all weights that matters, and few where layers have many tensors (experts)."""
    percents, moved = _moved(model)
    sizes = [phase.elements * (phase.group.count if phase.group else 1) for phase in model_phases(model)]
    share = np.average(moved, axis=0, weights=sizes)
    cuts = _one_of_each(percents, np.diff(share) > _SMALL)
    kept = np.unique(np.linspace(0, len(cuts) - 1, min(_MOST_CUTS, len(cuts))).round().astype(int))
    return [cuts[index] for index in kept]


def _moved(model: ModelConfig) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
    """Share of each phase's weights that leave the GPU, by phase and percent stated."""
    percents = np.arange(101)
    stated = TierShares(1 - percents / 100, percents / 100, np.zeros(101))
    phases = model_phases(model)
    moved = [place_tensors(phase, stated, 2.0).cpu_bytes / (2 * phase.elements) for phase in phases]
    return percents, np.array([np.broadcast_to(share, 101) for share in moved])


def _one_of_each(percents: npt.NDArray[np.int64], steps: npt.NDArray[np.bool_]) -> list[int]:
    """One percentage of each run between steps; 0 and 100 are in."""
    runs = np.concatenate(([0], np.cumsum(steps)))
    inner = [_roundest(percents[runs == run]) for run in range(1, int(runs[-1]))]
    return [0, *inner, 100]


def _roundest(percents: npt.NDArray[np.int64]) -> int:
    for step in _ROUND:
        fitting = percents[percents % step == 0]
        if len(fitting):
            return int(fitting[len(fitting) // 2])
    return int(percents[0])


def weight_pairs(cuts: Sequence[int], disk: bool) -> list[tuple[int, int]]:
    """All (wg, wc) that cut at two of the percentages; without a disk the two make 100."""
    on_disk = cuts if disk else cuts[:1]
    return [(100 - off_gpu, off_gpu - nvme) for nvme in on_disk for off_gpu in cuts if off_gpu >= nvme]


def moved_weights(rows: PolicyRows, cuts: Sequence[int], disk_step: int, gpu_step: int) -> PolicyRows:
    """The rows with one tensor more or less on disk, on the GPU, or both; those that cannot are left out."""
    edges = np.array(cuts)
    at_disk = np.searchsorted(edges, 100 - rows.wg - rows.wc) + disk_step
    at_gpu = np.searchsorted(edges, 100 - rows.wg) + gpu_step
    good = (at_disk >= 0) & (at_gpu < len(edges)) & (at_disk <= at_gpu)
    nvme, off_gpu = edges[at_disk[good]], edges[at_gpu[good]]
    return rows.take(good).replace(wg=100.0 - off_gpu, wc=(off_gpu - nvme).astype(float))


def near_front(latency_s: Floats, throughput: Floats, slack: float) -> npt.NDArray[np.intp]:
    """Indices of the points whose throughput is at least 1 - ``slack`` times what is reached by then."""
    order = np.lexsort((-throughput, latency_s))
    ordered = throughput[order]
    return order[ordered >= (1 - slack) * np.maximum.accumulate(ordered)]
