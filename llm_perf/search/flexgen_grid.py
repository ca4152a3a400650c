"""FlexGen's policies as columns of numbers, and the distinct ones among them.

FlexGen places whole tensors, so most percentages of weights mean the same: an OPT layer has six large matrices, and of
the 5151 pairs wg + wc <= 100 some fifty differ. Those are enumerated instead of percent steps.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from llm_perf.config.model import ModelConfig
from llm_perf.counts.arrays import Number
from llm_perf.systems.base import TierShares
from llm_perf.systems.flexgen_placement import model_phases, place_tensors
from llm_perf.systems.flexgen_policy import GROUP_SIZE, Policy, bytes_per_element

_ROUND = (100, 50, 25, 20, 10, 5, 2, 1)
"""Steps in percent by which people like to state shares, the roundest first."""

_MOST_CUTS = 14
"""Cuts that are kept of a model whose layers have many tensors (experts)."""


@dataclass(frozen=True)
class PolicyRows:
    """Policies as columns, one row each (or columns that broadcast). Shares in percent, as FlexGen's flag has them.

    ``weight_4bit``, ``cache_4bit``, ``cpu_attention`` and ``pin_weights`` are true or false.
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

    def __len__(self) -> int:
        return len(self.wg)

    @property
    def batch(self) -> Number:
        """Sequences of the whole policy."""
        return self.gpu_batch * self.num_gpu_batches

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
        return {
            "system": "flexgen",
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
    """Percentages that divide each layer's tensors differently, from 0 to 100, each the roundest that does so.

    Where large tensors stay the same, the way biases and norms go is not told apart.
    """
    percents = np.arange(101)
    shares = TierShares(1 - percents / 100, percents / 100, np.zeros(101))
    outcomes = []
    for phase in model_phases(model):
        moved = place_tensors(phase, shares, 2.0).cpu_bytes
        outcomes.append(np.round(200 * np.broadcast_to(moved, 101) / (2 * phase.elements)))
    _, runs = np.unique(np.column_stack(outcomes), axis=0, return_inverse=True)
    runs = np.asarray(runs).ravel()
    cuts = sorted(_roundest(percents[runs == run]) for run in np.unique(runs))
    if len(cuts) <= _MOST_CUTS:
        return cuts
    kept = np.unique(np.linspace(0, len(cuts) - 1, _MOST_CUTS).round().astype(int))
    return [cuts[index] for index in kept]


def _roundest(percents: npt.NDArray[np.int64]) -> int:
    for step in _ROUND:
        fitting = percents[percents % step == 0]
        if len(fitting):
            return int(fitting[len(fitting) // 2])
    return int(percents[0])


def weight_pairs(model: ModelConfig, disk: bool) -> list[tuple[int, int]]:
    """Distinct (wg, wc); without a disk the two make 100."""
    cuts = weight_cuts(model)
    on_disk = cuts if disk else cuts[:1]
    return [(100 - off_gpu, off_gpu - nvme) for nvme in on_disk for off_gpu in cuts if off_gpu >= nvme]
