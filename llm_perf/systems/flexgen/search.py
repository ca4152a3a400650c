"""The best FlexGen policies, found by trying them all on the vectorised model and by looking closer where it pays.

Why not the linear program of FlexGen's paper (section 4.3): percentages place whole tensors and whole sequences, so the
placement is a choice among a few dozen outcomes and not a continuum; latency is a sum of maxima of what overlaps; and
memory has steps (page-locked blocks, double buffers). A relaxed program is off by whole matrices and needs rounding and a
second search. Three properties of the model keep enumeration small, and exact where they apply:

- placement: only outcomes that differ are enumerated (`weight_pairs`), with the cache in corners and some mixtures;
- GPU batches: memory and latency are affine in their number from two on, so the most that fit, or that stay under a
  latency limit, come in closed form, and throughput over that number is best at 1, at 2 or at the end;
- page-locked weights are never slower than pageable ones, so the latter count only where they let more batches fit.

Search: (1) memory of the whole grid by broadcasting its axes; (2) latency of what fits, decode taken at the middle
context (right to about a percent); (3) finer GPU batches and cache shares around the best and around the front; (4) exact
latency, all decode steps, of the best some hundred. What is reported is from step 4.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from llm_perf.config.scenario import Scenario
from llm_perf.counts.arrays import Number
from llm_perf.errors import SpecError
from llm_perf.systems import Load
from llm_perf.systems.base import MemoryUse
from llm_perf.systems.flexgen import FlexGen
from llm_perf.systems.flexgen.grid import (
    Floats,
    PolicyRows,
    coarse_weight_cuts,
    joined,
    moved_weights,
    near_front,
    weight_cuts,
    weight_pairs,
)
from llm_perf.systems.flexgen.memory import memory_use
from llm_perf.systems.flexgen.times import BlockSchedule, machine_rates

MOST_GPU_BATCHES = 256
"""Blocks are not made of more GPU batches: what more of them would add to throughput is below a percent."""

GPU_BATCHES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)
"""Sizes of a GPU batch on the grid, beside the largest that fits."""

_COUNTS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256)
"""Numbers of GPU batches for the front."""

_MIXED = ((50, 50), (25, 75), (10, 90), (0, 75), (0, 50), (0, 25))
"""Cache on (GPU, host) in percent beside the three corners."""

_CHUNK = 4096
"""Policies evaluated together: their arrays stay in a core's cache."""

_MOST_FAMILIES, _MOST_EXACT = 96, 512
_NEAR = 0.85
"""Share of the best throughput from which on a policy of the grid is worth a closer look."""

_Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Evaluated:
    """Policies with their exact latency. ``searched`` counts all that were looked at on the way."""

    rows: PolicyRows
    latency_s: Floats
    throughput_tokens_per_s: Floats
    searched: int


@dataclass(frozen=True)
class _Lines:
    """Policies with any number of GPU batches from 1 to ``most``: one line each, ``rows`` have the number 1.

    ``times`` are seconds at 1, 2 and 3 GPU batches on the first axis.
    """

    rows: PolicyRows
    most: Floats
    times: Floats = field(default_factory=lambda: np.zeros((3, 0)))


@dataclass(frozen=True)
class _Moves:
    """Steps to neighbours: factors and differences of the GPU batch, percents of the cache that change place.

    ``weights`` are steps of the two cuts, before which weights are on disk and from which on the GPU.
    """

    shares: tuple[float, ...]
    steps: tuple[int, ...]
    percents: tuple[float, ...]
    weights: tuple[tuple[int, int], ...] = ()


_WIDE = _Moves((0.55, 0.65, 0.75, 0.85, 0.92, 1.08, 1.15, 1.25, 1.4, 1.55, 1.7), (1,), (5, 15))
_TENSORS = ((0, -1), (0, 1), (-1, 0), (1, 0), (-1, -1), (1, 1))
_CLOSER = (
    (40, _Moves((), (-4, -3, -2, -1, 1, 2, 3, 4), (1, 2.5, 5))),
    (16, _Moves((), (-8, -6, -4, -3, -2, -1, 1, 2, 3, 4, 6, 8), (0.5, 1, 2, 4), _TENSORS)),
    (12, _Moves((), (-2, -1, 1, 2), (0.5, 1, 2, 3, 10), _TENSORS)),
    (12, _Moves((), (-2, -1, 1, 2), (0.5, 1, 2, 3, 10), _TENSORS)),
)
"""Rounds of looking closer: around so many placements, with these steps."""


class FlexGenSearch:
    """One search. ``scenario`` gives model, machine and lengths; its own placement is not looked at.

    ``lossless`` leaves compressed weights and caches out, since those change the model's answers.
    """

    def __init__(
        self, scenario: Scenario, lossless: bool = False, max_latency_s: float | None = None
    ) -> None:
        self.scenario, self.lossless, self.max_latency_s = scenario, lossless, max_latency_s
        self.system = FlexGen()
        self.constants = self.system.constants(scenario)
        self.prompt_len = float(scenario.workload.prompt_len)
        self.gen_len = float(scenario.workload.gen_len)
        self.cuts = weight_cuts(scenario.model)
        self.stages = scenario.parallelism.pp_size
        self.searched = 0

    # -- the steps ------------------------------------------------------------------------------------------------

    def run(self) -> Evaluated | None:
        """The policies worth a look with exact latencies, all of which fit; None where none fits."""
        grid = self._grid()
        most = self._most(grid)
        coarse = self._lines(grid, most)
        if not len(coarse.rows):
            return None
        fullest = self._fullest(grid, most)
        coarse = _joined_lines(coarse, self._lines(fullest, self._most(fullest)))
        found = self._measured(self._neighbours(coarse.rows.take(self._families(coarse)), _WIDE))
        for count, moves in _CLOSER:
            best = _leaders(found.rows, self._best_rates(found), count)
            found = _joined_lines(found, self._measured(self._neighbours(found.rows.take(best), moves)))
        return self._exact(self._candidates(found))

    def _measured(self, rows: PolicyRows) -> _Lines:
        """Lines of the rows with the times from which the latency at every number of GPU batches follows."""
        spread = rows.replace(**{name: column[:, None] for name, column in rows.columns().items()})
        lines = self._lines(spread, self._most(spread))
        times = [self.estimate(lines.rows.replace(num_gpu_batches=0 * lines.most + n)) for n in (1, 2, 3)]
        return dataclasses.replace(lines, times=np.array(times))

    def _grid(self) -> PolicyRows:
        """All combinations, one axis each for weights, hidden states, cache and GPU batch."""
        disk = self.scenario.host.disk is not None
        cuts = coarse_weight_cuts(self.scenario.model)
        weights = np.array([(*pair, bits) for pair in weight_pairs(cuts, disk) for bits in self._widths])
        hidden = np.array([(100, 0), (0, 100), *([(0, 0)] if disk else [])])
        cache = np.array(self._caches(disk))
        sizes = np.array(GPU_BATCHES, dtype=float)
        return PolicyRows(
            wg=_axis(weights[:, 0], 0),
            wc=_axis(weights[:, 1], 0),
            weight_4bit=_axis(weights[:, 2], 0) > 0,
            hg=_axis(hidden[:, 0], 1),
            hc=_axis(hidden[:, 1], 1),
            cg=_axis(cache[:, 0], 2),
            cc=_axis(cache[:, 1], 2),
            cache_4bit=_axis(cache[:, 2], 2) > 0,
            cpu_attention=_axis(cache[:, 3], 2) > 0,
            gpu_batch=_axis(sizes, 3),
            num_gpu_batches=_axis(np.ones(1), 3),
            pin_weights=_axis(np.ones(1), 3) > 0,
            micro_batches=_axis(np.array([float(self.stages)]), 3),
        )

    def _fullest(self, grid: PolicyRows, most: Floats) -> PolicyRows:
        """The grid with one GPU batch size for each placement: the largest that fits, to a sixteenth of a step."""
        fitting = (most.max(axis=-1) >= 1).sum(axis=-1)
        ends = np.array([1, *GPU_BATCHES, 2 * GPU_BATCHES[-1]], dtype=float)
        low, high = ends[fitting][..., None], ends[fitting + 1][..., None]
        sizes = np.floor(low + (high - low) * np.arange(16) / 16)
        finer = grid.replace(gpu_batch=sizes, pin_weights=np.zeros((1, 1, 1, 1), dtype=bool))
        fits = np.broadcast_to(np.asarray(self._memory(finer).fits), sizes.shape)
        last = np.maximum(fits.sum(axis=-1) - 1, 0)
        return grid.replace(gpu_batch=np.take_along_axis(sizes, last[..., None], axis=-1))

    @property
    def _widths(self) -> tuple[int, ...]:
        return (0,) if self.lossless else (0, 1)

    def _caches(self, disk: bool) -> list[tuple[int, int, int, int]]:
        """(cg, cc, 4 bit, attention on CPU). A compressed cache is in one place and its attention on the GPU."""
        corners = ((100, 0), (0, 100), (0, 0)) if disk else ((100, 0), (0, 100))
        mixed = [pair for pair in _MIXED if disk or sum(pair) == 100]
        devices = (0, 1) if self._cpu_attends() else (0,)
        found = [
            (*pair, 0, device)
            for pair in (*corners, *mixed)
            for device in devices
            if not (device and pair[0] == 100)
        ]
        return found if self.lossless else [*found, *((*pair, 1, 0) for pair in corners)]

    def _cpu_attends(self) -> bool:
        """Whether the machine's rate of attention on the CPU is known."""
        try:
            machine_rates(self.scenario, self.constants, True)
        except SpecError:
            return False
        return True

    def _most(self, columns: PolicyRows) -> Floats:
        """The most GPU batches that fit, page-locked and pageable on a last axis; 0 where one does not."""
        wide = {name: np.asarray(column)[..., None, None] for name, column in columns.columns().items()}
        wide |= {
            "num_gpu_batches": np.array([1.0, 2.0, 3.0])[:, None],
            "pin_weights": np.array([True, False]),
        }
        use = self._memory(PolicyRows(**wide))
        most: Number = float(MOST_GPU_BATCHES)
        for tier in (use.gpu, use.cpu, use.nvme):
            most = np.minimum(most, _most_that_fit(np.asarray(tier.total_bytes), tier.capacity_bytes))
        self.searched += int(np.prod(most.shape))
        return np.asarray(most)

    def _memory(self, rows: PolicyRows) -> MemoryUse:
        policy = rows.policy()
        return memory_use(
            self.scenario, Load(policy.batch, self.prompt_len, self.gen_len), policy, self.constants
        )

    def _lines(self, columns: PolicyRows, most: Floats) -> _Lines:
        """What fits as flat rows: page-locked, and pageable where that lets more GPU batches fit."""
        locked, pageable = most[..., 0], most[..., 1]
        shape = locked.shape
        spread = columns.replace(**{name: np.broadcast_to(c, shape) for name, c in columns.columns().items()})
        parts, counts = [], []
        for pinned, chosen in ((True, locked >= 1), (False, pageable > locked)):
            part = spread.take(chosen)
            parts.append(part.replace(pin_weights=np.full(len(part), pinned)))
            counts.append((locked if pinned else pageable)[chosen])
        return _Lines(joined(parts), np.concatenate(counts))

    def _families(self, lines: _Lines) -> npt.NDArray[np.intp]:
        """Lines that are best under the limit, or near the front, judged by the two ends of each line."""
        first = self.estimate(lines.rows)
        last = first.copy()
        more = lines.most > 1
        last[more] = self.estimate(lines.rows.replace(num_gpu_batches=lines.most).take(more))
        best, at = self._reached(lines, first, last)
        size = lines.rows.sequences * self.gen_len
        ends = (
            np.concatenate((first, last, at)),
            np.concatenate((size / first, size * lines.most / last, best)),
        )
        order = _leaders(lines.rows, best, _MOST_FAMILIES // 2)
        fastest = np.argsort(first)[:8]
        front = near_front(*ends, 0.02) % len(lines.rows)
        step = max(len(front) * 2 // _MOST_FAMILIES, 1)
        return np.unique(np.concatenate((order, fastest, front[::step])))

    def _reached(self, lines: _Lines, first: Floats, last: Floats) -> tuple[Floats, Floats]:
        """Throughput and latency of each line at the most GPU batches that the latency limit allows, between its ends."""
        limit = np.inf if self.max_latency_s is None else self.max_latency_s
        meets, all_meet = first <= limit, last <= limit
        slope = np.maximum((last - first) / np.maximum(lines.most - 1, 1), 1e-12)
        room = np.where(meets & ~all_meet, limit - first, 0.0) if np.isfinite(limit) else 0.0 * first
        allowed = np.where(all_meet, lines.most, 1 + np.floor(room / slope))
        latency = np.where(all_meet, last, first + slope * (allowed - 1))
        reached = lines.rows.sequences * allowed * self.gen_len / latency
        return np.where(meets, reached, 0.0), np.where(meets, latency, np.inf)

    def _neighbours(self, rows: PolicyRows, moves: _Moves) -> PolicyRows:
        """Other GPU batches and cache shares around the rows."""
        sizes = [np.maximum(np.round(rows.gpu_batch * share), 1) for share in moves.shares]
        sizes += [np.maximum(rows.gpu_batch + step, 1) for step in moves.steps]
        sized = joined([rows, *(rows.replace(gpu_batch=size) for size in sizes)]).distinct()
        parts = [sized]
        disk = self.scenario.host.disk is not None
        for at_disk, at_gpu in moves.weights:
            if disk or not at_disk:
                parts.append(moved_weights(sized, self.cuts, at_disk, at_gpu))
        for share in moves.percents:
            for gpu, cpu in (
                (share, -share),
                (-share, share),
                (share, 0),
                (-share, 0),
                (0, share),
                (0, -share),
            ):
                cg, cc = sized.cg + gpu, sized.cc + cpu
                rest = 100 - cg - cc
                allowed = ~np.asarray(sized.cache_4bit) & (cg >= 0) & (cc >= 0) & (rest >= 0)
                parts.append(sized.replace(cg=cg, cc=cc).take(allowed if disk else allowed & (rest == 0)))
        return joined(parts).distinct()

    def _best_rates(self, lines: _Lines) -> Floats:
        """The best throughput of each line under the latency limit: at 1, at 2, or at the most GPU batches."""
        counts = self._counts(lines, ladder=(1, 2))
        rates = lines.rows.sequences[:, None] * counts * self.gen_len / _at(lines.times[..., None], counts)
        return np.asarray(np.where(self._allowed(lines, counts), rates, 0.0).max(axis=1))

    def _allowed(self, lines: _Lines, counts: Floats) -> _Bools:
        """Whether so many GPU batches fit and meet the latency limit."""
        fits = (counts >= 1) & (counts <= lines.most[:, None])
        limit = np.inf if self.max_latency_s is None else self.max_latency_s
        return np.asarray(fits & (_at(lines.times[..., None], counts) <= limit))

    def _candidates(self, lines: _Lines) -> PolicyRows:
        """Rows for exact evaluation: lines at several numbers of GPU batches, the best and the front of them."""
        counts = self._counts(lines)
        which = np.repeat(np.arange(len(lines.rows)), counts.shape[1])
        counts = counts.ravel()
        latency = _at(lines.times[:, which], counts)
        good = (counts >= 1) & (counts <= lines.most[which])
        which, counts, latency = which[good], counts[good], latency[good]
        self.searched += len(which)
        rate = lines.rows.sequences[which] * counts * self.gen_len / latency
        limit = np.inf if self.max_latency_s is None else self.max_latency_s * 1.02
        order = np.argsort(np.where(latency <= limit, -rate, 0.0))[: _MOST_EXACT // 2]
        front = near_front(latency, rate, 0.005)
        step = max(len(front) * 2 // _MOST_EXACT, 1)
        sharp = near_front(latency, rate, 1e-9)
        chosen = np.unique(np.concatenate((order, front[::step], sharp)))
        return lines.rows.take(which[chosen]).replace(num_gpu_batches=counts[chosen])

    def _counts(self, lines: _Lines, ladder: tuple[int, ...] = _COUNTS) -> Floats:
        """Numbers of GPU batches to look at: a ladder, the most that fit, and the most that the limit allows."""
        fixed = np.broadcast_to(np.array(ladder, dtype=float), (len(lines.most), len(ladder)))
        columns = [fixed, lines.most[:, None]]
        if self.max_latency_s is not None:
            slope = np.maximum(lines.times[2] - lines.times[1], 1e-12)
            allowed = np.minimum(np.floor(2 + (self.max_latency_s - lines.times[1]) / slope), lines.most)
            columns += [np.maximum(allowed[:, None] + shift, 1) for shift in (-1, 0, 1)]
        return np.concatenate(columns, axis=1)

    def _exact(self, rows: PolicyRows) -> Evaluated:
        """Exact latencies of the rows that fit."""
        rows = rows.distinct()
        rows = rows.take(np.broadcast_to(np.asarray(self._memory(rows).fits), len(rows)))
        latency = self.latency_s(rows)
        return Evaluated(rows, latency, rows.batch * self.gen_len / latency, self.searched)

    # -- times ------------------------------------------------------------------------------------------------------

    def estimate(self, rows: PolicyRows) -> Floats:
        """Latency in seconds with all decode steps at the middle context."""
        steps = self.gen_len - 1
        middle = self.prompt_len + (steps + 1) / 2

        def seconds(part: PolicyRows) -> Number:
            block = BlockSchedule(self.scenario, self.constants, part.policy())
            # A pipeline's last stage takes a turn for each micro-batch, the first block passes the other stages.
            prefill = self.stages * block.prefill(self.prompt_len, last=steps == 0).latency_s
            if self.stages > 1:
                prefill = prefill + (self.stages - 1) * block.prefill(self.prompt_len, inner=True).latency_s
            return prefill + steps * self.stages * block.decode_step(middle).latency_s if steps else prefill

        self.searched += len(rows)
        return _in_chunks(seconds, rows)

    def latency_s(self, rows: PolicyRows) -> Floats:
        """Exact latency in seconds, as a single prediction of each row has it."""

        def seconds(part: PolicyRows) -> Number:
            policy = part.policy()
            load = Load(policy.batch, self.prompt_len, self.gen_len)
            return self.system.policy_latency_s(self.scenario, policy, load)

        return _in_chunks(seconds, rows)

    def least_shortfall(self) -> PolicyRows:
        """The policy of one sequence that lacks the fewest bytes, as one row: for the report where nothing fits."""
        grid = self._grid()
        alone = grid.replace(gpu_batch=grid.num_gpu_batches, pin_weights=~np.asarray(grid.pin_weights)).flat()
        use = self._memory(alone)
        missing = sum(np.asarray(tier.shortfall_bytes) for tier in (use.gpu, use.cpu, use.nvme))
        least = int(np.argmin(np.broadcast_to(missing, len(alone))))
        return alone.take(slice(least, least + 1))


def _axis(values: npt.NDArray[np.generic], index: int) -> Number:
    return values.reshape([-1 if axis == index else 1 for axis in range(4)])


def _most_that_fit(total_bytes: Floats, capacity_bytes: float) -> Floats:
    """The most GPU batches whose bytes fit, from the bytes of 1, 2 and 3 on the axis before the last."""
    if total_bytes.ndim < 2 or total_bytes.shape[-2] != 3:
        return np.where(total_bytes <= capacity_bytes, float(MOST_GPU_BATCHES), 0.0)
    one, two, three = (total_bytes[..., index, :] for index in range(3))
    more = np.maximum(three - two, 1e-6)
    several = 2 + np.floor((capacity_bytes - two) / more)
    fitting = np.where(two <= capacity_bytes, several, np.where(one <= capacity_bytes, 1.0, 0.0))
    return np.minimum(fitting, float(MOST_GPU_BATCHES))


def _at(times: Floats, counts: Floats) -> Floats:
    """Latency at any number of GPU batches from that of 1, 2 and 3 (the first axis): affine from 2 on."""
    one, two, three = times
    return np.asarray(np.where(counts == 1, one, two + (counts - 2) * (three - two)))


def _joined_lines(*parts: _Lines) -> _Lines:
    return _Lines(
        joined([part.rows for part in parts]),
        np.concatenate([part.most for part in parts]),
        np.concatenate([part.times for part in parts], axis=1),
    )


def _leaders(rows: PolicyRows, rate: Floats, most: int) -> npt.NDArray[np.intp]:
    """The rows of highest rate of the ``most`` best placements, and of each kind of policy that comes near the best.

    A placement has the same weights, hidden states and tiers of the cache, a kind the same but for the weights. Only
    with all kinds is a kind not lost that is ahead once its GPU batch and its cache are just right.
    """
    cg, cc = np.asarray(rows.cg), np.asarray(rows.cc)
    kind = (
        cg > 0,
        cc > 0,
        cg + cc < 100,
        rows.hg,
        rows.hc,
        rows.weight_4bit,
        rows.cache_4bit,
        rows.cpu_attention,
    )
    good = np.flatnonzero(rate >= _NEAR * rate.max())
    order = good[np.argsort(-rate[good], kind="stable")]
    placements = _first_of_each((*kind, rows.wg, rows.wc), order)[:most]
    return np.unique(np.concatenate((placements, _first_of_each(kind, order))))


def _first_of_each(columns: tuple[Number, ...], order: npt.NDArray[np.intp]) -> npt.NDArray[np.intp]:
    """The first of the ordered rows with each combination of values, in that order."""
    key: Number = 0.0
    for column in columns:
        key = key * 101 + np.asarray(column, dtype=float)
    _, first = np.unique(np.asarray(key)[order], return_index=True)
    return order[np.sort(first)]


def _in_chunks(function: Callable[[PolicyRows], Number], rows: PolicyRows) -> Floats:
    parts = []
    for start in range(0, len(rows), _CHUNK):
        part = rows.take(slice(start, start + _CHUNK))
        parts.append(np.broadcast_to(np.asarray(function(part), dtype=float), len(part)))
    return np.concatenate(parts) if parts else np.zeros(0)
