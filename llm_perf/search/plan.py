"""The best machines for a model under targets: GPUs, how many, how the model is divided, batch, number format, offload.

Every structure (GPU, division, format, system) is evaluated for all batch sizes at once, with the same systems that
``llm-perf infer`` predicts one of them with; structures whose weights alone do not fit are not evaluated.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from functools import cached_property
from typing import Any, Final

import numpy as np

from llm_perf.analysis.economics import joules
from llm_perf.analysis.measures import Measures, measure
from llm_perf.analysis.request import InferenceInputs, build_scenario
from llm_perf.analysis.run_facts import RunFacts
from llm_perf.analysis.sweep import columns_of
from llm_perf.config.economics import load_prices
from llm_perf.config.gpu import GPUConfig
from llm_perf.config.loading import get_gpu_config_by_name, get_model_config_by_name, known_names
from llm_perf.config.parallelism import DSZeRO
from llm_perf.config.profiles import Profile, load_profile
from llm_perf.config.scenario import Scenario
from llm_perf.errors import SpecError
from llm_perf.requests.served import served
from llm_perf.search.bounds import least_copied_s, least_resident_s, least_streamed_s
from llm_perf.search.divisions import Alone, Met, Structure, batch_sizes, powers
from llm_perf.search.pareto import pareto_front
from llm_perf.search.plan_question import OBJECTIVES, Candidate, PlanAnswer, PlanQuestion
from llm_perf.search.sweep import Array
from llm_perf.systems import Load, get_system, system_of
from llm_perf.systems.pipeline import cuts_batches
from llm_perf.systems.registry import dividing_systems, stack_names, system_of_stage

__all__ = ["OBJECTIVES", "Candidate", "PlanAnswer", "PlanQuestion", "Pool", "plan"]

_NOTHING_KNOWN: Final = {
    "cost": "no price is known for {}: give a list with --prices, or another --objective (gpus, energy, throughput)",
    "energy": "no rated power (tdp_w) is known for {}: ask for another --objective",
}

_MEASURES: Final = (
    "prefill_latency_s",
    "latency_per_token_s",
    "total_latency_s",
    "throughput_tokens_per_s",
    "num_gpus",
    "cost_per_million_tokens",
    "energy_j_per_token",
    "gpu_memory_bytes",
    "ttft_s",
    "tpot_s",
)


def plan(question: PlanQuestion, top: int = 5) -> PlanAnswer:
    """Find the best deployments.

    Raises:
        SpecError: unknown names, targets that cannot be read, a context that is too long, or cost or energy is asked
            for and no GPU has a price or a rated power.
    """
    start = time.perf_counter()
    pool = Pool(question)
    pool.fill()
    return PlanAnswer(
        question=question,
        best=tuple(pool.best(top)),
        front=tuple(pool.front()),
        nearest=pool.nearest(),
        evaluated=pool.evaluated,
        too_large=pool.too_large,
        unpriced=pool.unpriced,
        unrated=pool.unrated,
        refused=pool.refused,
        left_out=pool.left_out(),
        seconds=time.perf_counter() - start,
    )


_Asked = tuple[str, int, float | None]
"""A GPU as it is asked for, the width of its weights, its price per hour."""


class Pool:
    """All configurations that fit, as columns.

    Args:
        question: What is asked.
        every_division: Of a model over GPUs, those too that nothing in an answer to the question could be; more stages
            only until it says of a division's columns that a request alone is too slow, which stages never mend.
    """

    def __init__(
        self, question: PlanQuestion, every_division: Callable[[dict[str, Array]], bool] | None = None
    ) -> None:
        self.question = question
        self.prices = load_prices(question.prices)
        self.system = get_system(question.system).name
        if self.system not in stack_names():
            divides = self.system in dividing_systems()
            instead = "; of a machine whose CPU computes too give --host, its name or here" if divides else ""
            raise SpecError(
                f"--system {self.system} is no stack that holds its weights on GPUs{instead}; possible: "
                f"{', '.join(stack_names())}"
            )
        self.evaluated = self.too_large = 0
        self.refused: dict[str, str] = {}
        profile = load_profile(question.profile)
        found = [_chosen(name, profile) for name in question.gpus or known_names("GPU")]
        self.gpus: dict[str, tuple[GPUConfig, str]] = {}
        for gpu, written in found:
            self.gpus.setdefault(gpu.name, (gpu, written))
        self._named_gpus = dict(self.gpus) if question.gpus else {}
        self.unpriced: tuple[str, ...] = ()
        self.unrated: tuple[str, ...] = ()
        self.leave_out(question)
        self.batches = batch_sizes(question.max_batch_size)
        self._every, self._ends = (self._load(sizes) for sizes in (self.batches, self.batches[[0, -1]]))
        self.structures: list[Structure] = []
        self._parts: list[dict[str, Array]] = []
        self._left: list[tuple[Alone, int, Iterator[int]]] = []
        self._streaming: list[_Asked] = []
        self._no_stream: set[str] = set()
        counts = question.objective == "gpus" and question.gen_len > 1 and every_division is None
        self._met = Met() if counts else None
        self._stop = every_division
        self.columns: dict[str, Array] = {}
        self._meets: Array = np.empty(0, dtype=bool)

    def leave_out(self, question: PlanQuestion) -> None:
        """Leave out the GPUs of which a question asks for a cost or an energy that is not known.

        Raises:
            SpecError: it is known of none.
        """
        asked = (question.objective, *(target.name for target in question.targets))
        self.unpriced = self._leave_out("cost", asked, lambda gpu: self.prices.of(gpu.name) is not None)
        self.unrated = self._leave_out("energy", asked, lambda gpu: gpu.tdp_w is not None)

    def _leave_out(
        self, quantity: str, asked: tuple[str, ...], is_known: Callable[[GPUConfig], bool]
    ) -> tuple[str, ...]:
        """Leave out the GPUs of which a quantity is asked for and not known."""
        unknown = tuple(
            name for name, (gpu, _) in self.gpus.items() if quantity in asked and not is_known(gpu)
        )
        if len(unknown) == len(self.gpus):
            raise SpecError(_NOTHING_KNOWN[quantity].format(", ".join(unknown[:3])))
        self.gpus = {name: gpu for name, gpu in self.gpus.items() if name not in unknown}
        return unknown

    def left_out(self) -> dict[str, str]:
        """Why nothing was evaluated of a GPU that the question names; nothing of the others, nor where it names none."""
        searched = {structure.scenario.gpu.name for structure in self.structures}
        most = self.question.max_gpus
        found = {}
        for name, (_, written) in self._named_gpus.items():
            if name in searched:
                continue
            heads = (f"{name}, ", f"{written}, ")
            refused = (said for what, said in self.refused.items() if what.startswith(heads))
            if name in self.unpriced:
                found[name] = "has no price (--prices FILE)"
            elif name in self.unrated:
                found[name] = "has no rated power"
            else:
                found[name] = next(
                    refused, f"does not hold the model on {'one' if most == 1 else f'up to {most}'}"
                )
        return found

    # -- structures -----------------------------------------------------------------------------------------------

    def fill(self) -> None:
        """Evaluate every structure that could be wanted, at all batch sizes; every one where none meets the targets."""
        alone = [(self._alone(asked), asked) for asked in self._asked()]
        ranks = powers(self.question.max_gpus)
        every = [(one, tp) for one, _ in alone if one is not None for tp in ranks]
        if self._met is not None:  # few GPUs first, and of these the quickest by their data sheets
            every.sort(key=lambda pair: (pair[1], pair[0].least_s[1]))
        for one, tp in every:
            stages = iter(powers(self.question.max_gpus // tp))
            if self._too_slow_ever(*one.least_of(tp)):
                self._left.append((one, tp, stages))
            else:
                self._add_stages(one, tp, stages)
        for found, asked in alone if self.question.offload else ():
            self._fill_streamed(found, asked)
        if not self.structures and not self.too_large and self.refused:
            raise SpecError(next(iter(self.refused.values())))
        self._gather()
        if not self._meets.any() and (self._left or self._streaming):
            for one, tp, stages in self._left:
                self._add_stages(one, tp, stages, too_slow_as_well=True)
            for streamed in self._streaming:
                self._stream(streamed, too_slow_as_well=True)
            self._gather()

    def _asked(self) -> Iterator[_Asked]:
        """Every GPU in every width of weights."""
        for gpu, (_, written) in self.gpus.items():
            price = self.prices.of(gpu)
            hourly = None if price is None else price.per_gpu_hour
            for bits in self.question.quant_bits if self.question.weight_format is None else (16,):
                yield written, bits, hourly

    def _alone(self, asked: _Asked) -> Alone | None:
        """One GPU that holds its weights, whether they fit or not; None where it cannot run the system."""
        found = self._structure(*asked, {"system": self.question.system})
        if found is None:
            return None
        return Alone(found, least_resident_s(found.scenario, 1, self.question.prompt_len))

    def divisions(self) -> Iterator[tuple[Structure, dict[str, Array]]]:
        """Every division of the model that was evaluated, with its columns over batch sizes."""
        for part in self._parts:
            yield self.structures[int(part["structure"][0])], part

    def _gather(self) -> None:
        """The columns of all structures, and which points meet the targets."""
        names = (*_MEASURES, "batch_size", "fits", "structure")
        self.columns = {
            name: np.concatenate([part[name] for part in self._parts]) if self._parts else np.empty(0)
            for name in names
        }
        self._meets = self._meeting(self.columns)

    def _meeting(self, columns: dict[str, Array]) -> Array:
        """Which points fit and meet the targets."""
        meets = columns["fits"].astype(bool)
        for target in self.question.targets:
            meets = meets & target.met(columns[target.measure])
        return meets

    def _fill_streamed(self, one: Alone | None, asked: _Asked) -> None:
        """One GPU that streams what it does not hold."""
        least = (
            (0.0, 0.0) if one is None else least_streamed_s(one.structure.scenario, self.question.prompt_len)
        )
        if self._too_slow_ever(*least):
            self._streaming.append(asked)
        else:
            self._stream(asked)

    def _stream(self, asked: _Asked, *, too_slow_as_well: bool = False) -> None:
        """Evaluate one GPU that streams; its machine lacks the same for every width."""
        gpu, bits, price = asked
        if gpu in self._no_stream:
            return
        found = self._structure(gpu, bits, price, {"system": system_of_stage(DSZeRO.STAGE_3.value)})
        if found is None:
            return
        if not too_slow_as_well and not self._streams_in_time(found.scenario):
            self._streaming.append(asked)
        elif self._take(found) is None:
            self._no_stream.add(gpu)

    def _streams_in_time(self, scenario: Scenario) -> bool:
        """Whether what a machine copies for a pass meets the targets at some batch; one that copies nothing holds all."""
        on_gpu = np.asarray(system_of(scenario).place(scenario, self._every).weights.gpu)
        away = 1.0 - on_gpu[on_gpu < 1.0]
        if not away.size:
            return False
        copied_s = least_copied_s(scenario, float(away.min()))
        return copied_s is None or not self._too_slow_ever(copied_s, copied_s)

    def _too_slow_ever(self, prefill_s: float, step_s: float) -> bool:
        """Whether a target is missed by times that no batch is below."""
        times = {
            "ttft": prefill_s,
            "tpot": step_s,
            "latency": prefill_s + (self.question.gen_len - 1) * step_s,
        }
        upper = [target for target in self.question.targets if target.at_most and target.name in times]
        return any(not target.met(times[target.name]) for target in upper)

    def _add_stages(
        self, one: Alone, tp: int, stages: Iterator[int], *, too_slow_as_well: bool = False
    ) -> None:
        """Evaluate numbers of pipeline stages, fewest first, until more of them could bring nothing.

        Stages make nothing faster, they only buy room for larger batches: more of them bring nothing where the largest
        batch fits, or where the largest one that fits is too slow already. Where a stack cuts batches by itself to keep
        stages busy, or requests that come over time keep all of them busy, all are evaluated.
        """
        scenario = one.structure.scenario
        busy = self._stop is not None or cuts_batches(system_of(scenario).constants(scenario))
        for pp in stages:
            if self._met is not None and self._met.beats(scenario.gpu.name, tp * pp, one.least_of(tp)[1]):
                return
            if one.weight_bytes > tp * pp * scenario.gpu.usable_memory_bytes:
                self.too_large += len(self.batches)
                continue
            structure = self._divided(one.structure, tp, pp)
            if structure is None:
                continue
            smallest, largest = self._holds(structure)
            if not smallest:
                self.too_large += len(self.batches)
                continue
            found = self._take(structure)
            if found is None:
                return
            if pp == 1:
                one.learn(tp, found)
            if self._stop is not None and self._stop(found):
                return
            if busy:
                continue
            if largest:
                return
            if not too_slow_as_well and self._too_slow(found):
                self._left.append((one, tp, stages))
                return

    def _too_slow(self, found: dict[str, Array]) -> bool:
        """Whether the largest batch that fits misses a target that larger ones miss by more."""
        last = int(np.flatnonzero(found["fits"])[-1])
        slow = (t for t in self.question.targets if t.name in ("ttft", "tpot", "latency"))
        return not all(target.met(found[target.measure][last]) for target in slow)

    def _take(self, structure: Structure) -> dict[str, Array] | None:
        """Evaluate a structure and keep it; None where its machine lacks what the system needs."""
        try:
            columns = self._evaluate(structure)
        except SpecError as error:  # such as a link to the host
            self.refused[_named(structure)] = str(error)
            return None
        columns["structure"] = np.full(len(self.batches), len(self.structures))
        self.structures.append(structure)
        self.evaluated += len(self.batches)
        self._parts.append(columns)
        if self._met is not None:
            self._met.add(structure.scenario.gpu.name, columns, self._meeting(columns))
        return columns

    def _holds(self, structure: Structure) -> tuple[bool, bool]:
        """Whether a structure fits at the smallest batch size and at the largest."""
        system, load = system_of(structure.scenario), self._ends
        fits = system.memory(structure.scenario, load, system.place(structure.scenario, load)).fits
        smallest, largest = np.broadcast_to(fits, 2)
        return bool(smallest), bool(largest)

    def _inputs(self, gpu: str, bits: int, more: dict[str, Any]) -> dict[str, Any]:
        question = self.question
        found = {"model": question.model, "gpu": gpu, **more}
        if question.weight_format is None:
            found["quant_bits"] = bits
        formats = {"weight_format": question.weight_format, "kv_format": question.kv_format}
        found |= {name: stated for name, stated in formats.items() if stated is not None}
        found |= {"prompt_len": question.prompt_len, "gen_len": question.gen_len}
        found |= {} if question.prices is None else {"prices": question.prices}
        return found | {"profile": question.profile, "allow_long_context": question.allow_long_context}

    def _structure(self, gpu: str, bits: int, price: float | None, more: dict[str, Any]) -> Structure | None:
        """A single GPU; None where it cannot run the system."""
        inputs = self._inputs(gpu, bits, more)
        try:
            asked = InferenceInputs(**inputs)
            return Structure(inputs, asked, build_scenario(asked, self._facts), price)
        except SpecError as error:
            self.refused[f"{gpu}, {more['system']}"] = str(error)
            return None

    def _divided(self, one: Structure, tp: int, pp: int) -> Structure | None:
        """The structure over tp x pp GPUs on the fewest nodes; None where the model does not divide so."""
        sizes = {name: size for name, size in (("tp_size", tp), ("pp_size", pp)) if size > 1}
        if not sizes:
            return one
        asked = one.asked.model_copy(update=sizes)  # all else was looked at when the single GPU was asked for
        try:
            scenario = build_scenario(asked, self._facts)
        except SpecError as error:
            self.refused[f"{_named(one)}, tp {tp}, pp {pp}"] = str(error)
            return None
        return Structure(one.inputs | sizes, asked, scenario, one.price)

    @cached_property
    def _facts(self) -> RunFacts:
        """The model, which is the same for all: finding it anew takes as long as the rest of a question.

        Raises:
            SpecError: unknown.
        """
        return RunFacts(model=get_model_config_by_name(self.question.model))

    # -- evaluation -----------------------------------------------------------------------------------------------

    def _load(self, batch: Array) -> Load:
        size = np.ones_like(batch)
        return Load(batch, size * self.question.prompt_len, size * self.question.gen_len)

    def _evaluate(self, structure: Structure) -> dict[str, Array]:
        """One replica, and as many replicas as the throughput asks for."""
        scenario = structure.scenario
        found = measure(scenario, self._every)
        gpus, rate = scenario.parallelism.num_gpus, found.throughput_tokens_per_s
        asked = self._served(structure, found)
        if asked:
            rate = asked["requests_per_s"] * self.question.gen_len
        replicas = self._replicas(rate, gpus, scenario.system)
        scaled = {
            "throughput_tokens_per_s": rate * replicas,
            "num_gpus": gpus * replicas,
            "cost_per_million_tokens": np.nan
            if structure.price is None
            else structure.price * gpus / 3600 / rate * 1e6,
            "energy_j_per_token": _energy(scenario, found),
            "batch_size": self.batches * replicas,
            "fits": found.feasible,
        }
        if asked:
            scaled["fits"] = np.logical_and(found.feasible, found.memory.at_once)
        same = tuple(name for name in _MEASURES if name not in scaled)
        columns = dict(zip(same, columns_of(found, same), strict=True))
        kept = {name: value for name, value in asked.items() if name in _MEASURES}
        return columns | {name: self._full(value) for name, value in (scaled | kept).items()}

    def _served(self, structure: Structure, found: Measures) -> dict[str, Array]:
        """Times of requests while the batch is kept full; nothing where batches start and end together."""
        scenario, steps = (
            structure.scenario,
            self.question.gen_len > 1 and not structure.scenario.model.encoder,
        )
        if self.question.batching == "static" or not steps or found.evaluation is None:
            return {}
        if scenario.system != self.system:  # one that streams its weights runs batches
            return {}
        one = served(found.evaluation, found.load, system_of(scenario).family.prefill_seen_by_decode)
        return {
            "ttft_s": one.ttft_s,
            "tpot_s": one.tpot_s,
            "total_latency_s": one.e2e_s,
            "requests_per_s": one.requests_per_s,
        }

    def _full(self, value: Any) -> Array:
        shape = self.batches.shape
        return value if getattr(value, "shape", None) == shape else np.broadcast_to(np.asarray(value), shape)

    def _replicas(self, rate: Array, gpus: int, system: str) -> Array:
        """Copies of a deployment: what the target of throughput takes, or all that there is room for."""
        most = max(self.question.max_gpus // gpus, 1) if system == self.system else 1
        if self.question.objective == "throughput":
            return np.full(rate.shape, float(most))
        wanted = next((target.limit for target in self.question.targets if target.name == "throughput"), 0.0)
        return np.clip(np.ceil(wanted / rate), 1.0, most)

    # -- answers --------------------------------------------------------------------------------------------------

    @cached_property
    def _value(self) -> Array:
        """What is to be least: the objective, ties broken by time per batch."""
        value = self.columns[OBJECTIVES[self.question.objective]]
        return -value if self.question.objective == "throughput" else value

    def best(self, top: int) -> Iterator[Candidate]:
        """The best of each GPU type."""
        positions = np.flatnonzero(self._meets & np.isfinite(self._value))
        keys = (
            self.columns["total_latency_s"][positions],
            self._tie_break[positions],
            self._value[positions],
        )
        seen: set[str] = set()
        for position in positions[np.lexsort(keys)]:
            gpu = self.structures[int(self.columns["structure"][position])].scenario.gpu.name
            if gpu not in seen:
                seen.add(gpu)
                yield self._candidate(int(position), self._stops(int(position)))
            if len(seen) == top:
                return

    @cached_property
    def _tie_break(self) -> Array:
        """Between equals, as many GPUs often are, the cheaper one; an unknown price counts as the dearest."""
        return np.nan_to_num(self.columns["cost_per_million_tokens"], nan=np.inf)

    def front(self) -> Iterator[Candidate]:
        """What nothing else beats in both time per token and objective, among all that meet the targets, or else fit."""
        time_s = self.columns["tpot_s"]
        time_s = np.where(np.isfinite(time_s), time_s, self.columns["total_latency_s"])
        wanted = self._meets if self._meets.any() else self.columns["fits"].astype(bool)
        usable = np.flatnonzero(wanted & np.isfinite(self._value))
        for position in usable[pareto_front(time_s[usable], -self._value[usable])]:
            yield self._candidate(int(position))

    def nearest(self) -> Candidate | None:
        """What fits and misses the targets least; None where something meets them, or nothing fits."""
        usable = np.flatnonzero(self.columns["fits"].astype(bool))
        if self._meets.any() or not len(usable):
            return None
        missed = np.zeros(len(usable))
        for target in self.question.targets:
            values = self.columns[target.measure][usable]
            missed = np.fmax(missed, target.used(values))  # what does not exist misses nothing
        return self._candidate(int(usable[np.argmin(missed)]))

    def _candidate(self, position: int, stops: str = "") -> Candidate:
        structure = self.structures[int(self.columns["structure"][position])]
        measures = {name: float(self.columns[name][position]) for name in _MEASURES}
        replicas = int(measures["num_gpus"]) // structure.scenario.parallelism.num_gpus
        inputs = structure.inputs | {"batch_size": int(self.columns["batch_size"][position])}
        inputs |= {"dp_size": replicas} if replicas > 1 else {}
        return Candidate(InferenceInputs(**inputs), measures, bool(self._meets[position]), stops)

    def _stops(self, position: int) -> str:
        """Why the batch is not the next larger one: what that would break."""
        after = position + 1
        last = (
            after >= len(self._meets)
            or self.columns["structure"][after] != self.columns["structure"][position]
        )
        if last:
            return f"the largest that was considered (--max-batch-size {self.question.max_batch_size})"
        if not self.columns["fits"][after]:
            return "memory"
        broken = [t.name for t in self.question.targets if not t.met(self.columns[t.measure][after])]
        return (
            " and ".join(broken)
            if broken
            else f"a larger batch is no better in {self.question.objective.replace('gpus', 'GPUs')}"
        )


def _energy(scenario: Scenario, found: Measures) -> Any:
    """Joules per token; NaN for a GPU without a rated power."""
    if scenario.gpu.tdp_w is None or found.evaluation is None:
        return np.nan
    return joules(scenario, found.load, found.evaluation.prefill, found.evaluation.decode) / found.tokens


def _chosen(name: str, profile: Profile) -> tuple[GPUConfig, str]:
    """A GPU, and what is to be asked for: its name where that means the same GPU, else what was given."""
    own = profile.own_gpu(name)
    if own is not None:
        return own, name
    gpu = get_gpu_config_by_name(name)
    try:
        bundled = get_gpu_config_by_name(gpu.name) == gpu
    except SpecError:
        bundled = False
    return gpu, gpu.name if bundled else name


def _named(structure: Structure) -> str:
    """What was refused, for people."""
    return f"{structure.scenario.gpu.name}, {structure.scenario.system}"
