"""Requests through a deployment: the first step from flags, the engine, and what a service's owner asks of the outcome."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Annotated, Any, ClassVar, Final, Literal

import numpy as np
from pydantic import Field, create_model, model_validator

from llm_perf.analysis.calibrated import PredictionInterval
from llm_perf.analysis.economics import gpu_price, phase_power_w
from llm_perf.analysis.floor import requests_below_the_roof
from llm_perf.analysis.inference import InferenceResult, predict_inference
from llm_perf.analysis.request import InferenceInputs, build_scenario, derive_parallelism, gpu_of
from llm_perf.analysis.request_intervals import AT_ONCE_S, CLOSED, TimeInterval, load_of
from llm_perf.analysis.stack_intervals import knows, peak_times, request_widths, stack_width
from llm_perf.config.base import Flag, PositiveInt
from llm_perf.config.economics import Price, dollars_per_hour, load_power_model
from llm_perf.config.parallelism import fewest_nodes
from llm_perf.config.scenario import Scenario
from llm_perf.errors import SpecError
from llm_perf.hardware.power import board_power_w
from llm_perf.requests.capacity import Capacity, capacity_of, sample_of
from llm_perf.requests.outcome import COMPLETED, Outcome
from llm_perf.requests.pools import simulate_pools
from llm_perf.requests.records import Records
from llm_perf.requests.request_file import RequestFile
from llm_perf.requests.simulate import of_mean_lengths, places, simulate
from llm_perf.requests.summary import Summary, summary_of
from llm_perf.requests.traffic import Traffic, requests_of
from llm_perf.requests.workload import Requests
from llm_perf.systems import Load
from llm_perf.systems.registry import engine_on

DEFAULT_ENGINE: Final = "vllm"
"""The engine where none is named: most measured requests are of it."""

NOT_OF_REQUESTS: Final = {
    "batch_size": "how many run at once follows from the requests; --concurrency and --max-num-seqs bound it",
    "prefix_hit_rate": "what is found in the cache follows from the requests; --prefix-len or a file says what they share",
    "shared_prefix": "--prefix-len says what requests share",
    "distinct_prompts": "--prefix-len says what requests share",
    "prefill_chunk": "--max-num-batched-tokens bounds what a step reads",
    "micro_batches": "an engine keeps as many in flight as it has stages",
}
"""Inputs of one batch that mean nothing where requests come and go, with what stands for each."""

_MOST_FOR_INTERVALS: Final = 20_000
"""Requests beyond which the two further simulations of an interval take too long."""


class ServiceInputs(Traffic):
    """Traffic, and the replicas that it is spread over."""

    _label: ClassVar[str | None] = ""

    replicas: PositiveInt = Field(
        default=1, description="Equal deployments behind one address.  [default: 1]"
    )
    routing: Literal["round-robin", "least-loaded", "prefix-aware"] = Field(
        default="round-robin", description="How requests are spread over them.  [default: round-robin]"
    )
    scheduler: Annotated[str, Field(min_length=1)] | None = Field(
        default=None, description="A policy of the engine by name; its default if not given."
    )
    prefill_replicas: PositiveInt | None = Field(
        default=None, description="Disaggregated: engines that only read prompts; --replicas then generate."
    )
    prefill_tp_size: PositiveInt | None = Field(
        default=None, description="Tensor-parallel ranks of one of those; as the others if not given."
    )
    pools_on_one_node: Flag = Field(
        default=False, description="Caches move inside a node, not over the network.  [default: off]"
    )

    stream_interval: PositiveInt | None = Field(
        default=None,
        description="Tokens of an answer that are sent at once (the engines' flag of that name); its default if not given.",
    )
    offline: Flag = Field(
        default=False,
        description="Requests of a program in the engine's process (vllm bench throughput, trtllm-bench): no server, and "
        "no token is sent alone.  [default: off]",
    )

    @property
    def settings(self) -> dict[str, Any]:
        """Fields of the scheduling rules that are not the engine's own."""
        sent = {} if self.stream_interval is None else {"stream_interval": self.stream_interval}
        return sent | ({"offline": True} if self.offline else {})

    @model_validator(mode="after")
    def _pools(self) -> ServiceInputs:
        if self.prefill_replicas is None and (self.prefill_tp_size is not None or self.pools_on_one_node):
            raise ValueError(
                "prefill_tp_size and pools_on_one_node belong to a pool that reads prompts: give prefill_replicas"
            )
        if self.prefill_replicas is not None and self.routing != "round-robin":
            raise ValueError(
                f"routing {self.routing} is of replicas that read and generate: leave prefill_replicas out"
            )
        if self.offline and (self.stream_interval is not None or self.prefill_replicas is not None):
            raise ValueError(
                "offline is a program in one engine's process, to which nothing is sent: leave stream_interval and "
                "prefill_replicas out"
            )
        return self


SimulationInputs: type[InferenceInputs] = create_model(
    "SimulationInputs",
    __base__=InferenceInputs,
    **{name: (field.annotation, field) for name, field in ServiceInputs.model_fields.items()},  # type: ignore[call-overload]
)
"""All that ``llm-perf simulate`` can be asked: a deployment, of which the traffic states the lengths."""


def parts_of(inputs: InferenceInputs) -> tuple[InferenceInputs, ServiceInputs]:
    """Deployment and traffic of `SimulationInputs`."""
    traffic = {name: getattr(inputs, name) for name in ServiceInputs.model_fields}
    named = {name: getattr(inputs, name) for name in InferenceInputs.model_fields if name not in traffic}
    return InferenceInputs(**named), ServiceInputs(**traffic)


def inputs_of(deployment: InferenceInputs, traffic: ServiceInputs) -> dict[str, Any]:
    """All inputs of a simulation under their flags' names, as ``--config`` takes them."""
    left = {name: value for name, value in deployment.model_dump().items() if name not in NOT_OF_REQUESTS}
    asked = traffic.model_dump()
    for name in ("rate", "burstiness"):
        asked[name] = "inf" if asked[name] == math.inf else asked[name]
    return left | asked


@dataclass(frozen=True)
class Simulation:
    """A simulated service.

    Attributes:
        deployment, traffic: What was asked.
        scenario: One replica, with the requests' mean lengths.
        outcome, summary: What became of the requests.
        file: The file of requests, where there is one.
        at_most: What is served at most, where that is known already; it does not depend on when requests come.
    """

    deployment: InferenceInputs
    traffic: ServiceInputs
    scenario: Scenario
    outcome: Outcome
    summary: Summary
    file: RequestFile | None = None
    at_most: Capacity | None = None

    @property
    def num_gpus(self) -> int:
        """GPUs of all replicas, those that only read prompts included."""
        reading = _prefill_pool(self.scenario, self.traffic).parallelism.num_gpus * (
            self.traffic.prefill_replicas or 0
        )
        return self.scenario.parallelism.num_gpus * self.traffic.replicas + reading

    @property
    def inputs(self) -> dict[str, Any]:
        """All inputs under their flags' names, as ``--config`` takes them."""
        return inputs_of(self.deployment, self.traffic)

    @cached_property
    def capacity(self) -> Capacity | None:
        """What the engines serve at most of these requests, no less than they did; None where none of them ran."""
        found = self._of_a_full_queue
        served = self.summary.requests_per_s
        if found is None or self.outcome.requests.concurrency is None or served <= found.requests_per_s:
            return found
        tokens = found.output_tokens_per_s / found.requests_per_s * served
        return replace(found, requests_per_s=served, output_tokens_per_s=tokens)

    @cached_property
    def _of_a_full_queue(self) -> Capacity | None:
        if not self.summary.completed:
            return None
        if self.at_most is not None:
            return replace(self.at_most, offered_per_s=self._offered_per_s)
        # Replicas that share the requests evenly are looked at one by one: N of them serve N times as much.
        traffic, times = self.traffic, self.traffic.replicas
        if traffic.prefill_replicas is not None:
            times = math.gcd(times, traffic.prefill_replicas)
            traffic = traffic.replace(prefill_replicas=traffic.prefill_replicas // times)
        elif (
            traffic.routing == "prefix-aware"
        ):  # which prefixes a replica has depends on how many replicas there are
            times = 1
        traffic = traffic.replace(replicas=traffic.replicas // times)
        sample = sample_of(self.traffic, self.file)
        return capacity_of(
            lambda requests: _serve(self.scenario, traffic, requests),
            sample,
            places(of_mean_lengths(self.scenario, sample), sample, traffic.scheduler),
            self._offered_per_s,
            self._engines // times,
            times,
        )

    def serve(self, requests: Requests) -> Outcome:
        """Other requests through the same engines."""
        return _serve(self.scenario, self.traffic, requests)

    @property
    def _offered_per_s(self) -> float | None:
        """Requests per second that come, whatever becomes of them; None in a closed loop, or where all come at once."""
        requests = self.outcome.requests
        if requests.concurrency is not None:
            return None
        if self.traffic.rate is not None:
            return self.traffic.rate if math.isfinite(self.traffic.rate) else None
        last = float(requests.arrival_s.max())
        return len(requests) / last if last > AT_ONCE_S else None

    @property
    def warnings(self) -> tuple[str, ...]:
        """What a reader should know of the deployment and of the file of requests."""
        ignored = () if self.file is None else self.file.ignored
        unread = f"columns of {self.traffic.requests} that are not read: {', '.join(ignored)}"
        idle = self.idle
        resources = (*idle.prefill.busy_s, *(() if idle.decode is None else idle.decode.busy_s))
        below = requests_below_the_roof(idle.scenario, idle.placement, resources, self.outcome, self.num_gpus)
        return (*filter(None, (below,)), *idle.warnings, *((unread,) if ignored else ()))

    # -- beside one batch -------------------------------------------------------------------------------------------

    @cached_property
    def idle(self) -> InferenceResult:
        """One request of the mean lengths alone."""
        return predict_inference(self._batch_of(1))

    @cached_property
    def typical(self) -> InferenceResult:
        """A static batch of as many requests as run on average."""
        running = self.summary.mean_running / self._engines
        return predict_inference(self._batch_of(max(round(running), 1) if math.isfinite(running) else 1))

    @property
    def _engines(self) -> int:
        return self.traffic.replicas * self.scenario.parallelism.dp_size

    def _batch_of(self, size: int) -> Scenario:
        batch = size * self.scenario.parallelism.dp_size
        return self.scenario.replace(workload=self.scenario.workload.replace(batch_size=batch))

    # -- how sure ---------------------------------------------------------------------------------------------------

    @cached_property
    def interval(self) -> TimeInterval | None:
        """What the interval of the steps' times means for the requests; None with `no_interval`."""
        return self._interval[0]

    @property
    def no_interval(self) -> str | None:
        """Why there is no interval; None where there is one."""
        return self._interval[1]

    @cached_property
    def _interval(self) -> tuple[TimeInterval | None, str | None]:
        if not self.summary.completed:
            return None, "no request ran"
        steps = self.typical.interval
        if steps is None:
            return None, self.typical.no_interval
        decode_s = 0.0 if self.typical.decode is None else self.typical.decode.latency_s
        # A profile's runs say apart how far whole requests are off, and how far their tokens are.
        apart = steps.profile is not None and None not in (steps.decode_s, steps.total_s)
        whole = steps.decode_s is None or apart
        ends, middle = (steps.total_s, self.typical.total_latency_s) if whole else (steps.decode_s, decode_s)
        if ends is None or not middle:
            return None, "no published run says how far steps of this deployment are off"
        if len(self.outcome.requests) > _MOST_FOR_INTERVALS:
            return (
                None,
                f"it takes two further simulations, which are made of up to {_MOST_FOR_INTERVALS:,} requests",
            )
        low, high = ends[0] / middle, ends[1] / middle
        if steps.profile is None and self._of_a_stack:
            return self._of_rows(steps, low, high), None
        found = self._of_clocks(steps, low, high)
        if not apart or steps.decode_s is None or not decode_s:
            return found, None
        tokens = self._of_clocks(steps, steps.decode_s[0] / decode_s, steps.decode_s[1] / decode_s)
        return replace(found, tokens=tokens), None

    @property
    def _of_a_stack(self) -> bool:
        """Whether rows of serving stacks say how far the steps are off, and how far their requests."""
        return knows(self.scenario) and float(self.typical.placement.weights.gpu) == 1

    def _of_rows(self, steps: PredictionInterval, low: float, high: float) -> TimeInterval:
        """The interval of a stack whose steps take from ``low`` to ``high`` times as long, no narrower than its rows say.

        Rows of closed loops count the requests in flight, not those that run: many that wait are as new as many that run.
        """
        load = load_of(self.outcome.requests, self._places)
        least = self._least(self.typical if load == CLOSED else self.idle)
        asked = self.outcome.requests.concurrency
        width = None if asked is None else stack_width(self._batch_of(-(-asked // self._engines)))
        if width is not None and width.novel:
            what = f"published runs of serving stacks, {width.what}"
            steps = replace(steps, method=what, groups=width.groups, novel=width.novel)
            low = min(low, max(math.exp(-width.value), self._least(self.typical)["tpot_s"]))
            high = max(high, math.exp(width.value))
        # What is new makes steps longer or shorter, and waits are off beside that: independent errors.
        new = math.log(high) if steps.novel else 0.0
        widths = {name: math.hypot(own, new) for name, own in request_widths(load).items()}
        return replace(self._of_clocks(steps, low, high), widths=widths, least=least, load=load)

    def _least(self, batch: InferenceResult) -> dict[str, float]:
        """Shares of the predicted times that hardware takes at least for a batch.

        Where requests wait that is a batch of one: how many run at once is not known then.
        """
        peaks = peak_times(batch.scenario, Load.of(batch.scenario.workload))
        typical = self.typical
        return {
            "ttft_s": min(peaks[0] / batch.prefill.latency_s, 1.0),
            "tpot_s": 1.0 if typical.decode is None else min(peaks[1] / typical.decode.latency_s, 1.0),
        }

    @property
    def _places(self) -> float:
        """Requests of these lengths that all engines run at once at most."""
        requests = self.outcome.requests
        own = places(of_mean_lengths(self.scenario, requests), requests, self.traffic.scheduler)
        return own * self._engines

    def _of_clocks(self, steps: PredictionInterval, low: float, high: float) -> TimeInterval:
        """What comes out where steps take from ``low`` to ``high`` times as long."""
        load = None if self.capacity is None else self.capacity.load
        slower = self._with_steps(high) if load is None or load * high <= 1 else None
        faster = self._with_steps(low)
        return TimeInterval(
            steps.level,
            steps.method,
            steps.groups,
            (low, high),
            faster,
            slower,
            self.summary,
            novel=steps.novel,
        )

    def _with_steps(self, factor: float) -> Summary:
        """The figures if every step took ``factor`` times as long.

        Nothing else takes time in an engine, so that this is the same as a clock that runs so much slower: requests come
        ``factor`` times as close together, and every time that comes out counts ``factor`` times.
        """
        asked = self.outcome.requests
        closer = Requests.of(
            asked.arrival_s / factor,
            asked.prompt_tokens,
            asked.output_tokens,
            prefix_id=asked.prefix_id,
            prefix_tokens=asked.prefix_tokens,
            concurrency=asked.concurrency,
            previous=asked.previous,
            think_s=asked.think_s / factor,
        )
        outcome = self.serve(closer)
        return summary_of(_slower(outcome, asked, factor), self.traffic.warm_up)

    # -- money and energy -------------------------------------------------------------------------------------------

    @cached_property
    def price(self) -> Price | float | None:
        """US dollars per GPU-hour; None where none is known."""
        return gpu_price(self.scenario.gpu.name, self.deployment.cost_per_gpu_hour, self.deployment.prices)

    @property
    def cost_per_million_tokens(self) -> float | None:
        """US dollars per million output tokens, all GPUs paid for the whole time; None without a price.

        At a rate that is kept up, of what the rate brings in the long run, whatever the first and the last requests took.
        """
        per_s = self.summary.output_tokens_per_s
        if self.price is None or not per_s > 0:
            return None
        known = self.capacity if self.traffic.rate is not None else None
        if known is not None and known.keeps_up and known.offered_per_s is not None:
            done = self.outcome.status == COMPLETED
            per_s = known.offered_per_s * float(self.outcome.requests.output_tokens[done].sum()) / len(done)
        hourly = dollars_per_hour(self.price)
        return hourly * self.num_gpus / 3600 / per_s * 1e6

    @cached_property
    def energy_j_per_token(self) -> float | None:
        """Joules of the GPUs per output token; None where the rated power is not known.

        Steps that read prompts draw what a prefill draws, others what a decode step of the typical batch draws, and an
        engine without requests what an idle board draws.
        """
        tdp_w = self.scenario.gpu.tdp_w
        if tdp_w is None:
            return None
        steps, typical = self.outcome.steps, self.typical
        reading = float(steps.duration_s[steps.prefill_tokens > 0].sum())
        writing = float(steps.duration_s.sum()) - reading
        # Of an engine with stages each micro-batch keeps one of them busy at a time.
        engines = max(self._engines, self.outcome.engines)
        idle = max(self.summary.duration_s * engines - reading - writing, 0.0)
        scenario = typical.scenario
        load = typical.measures.load
        prefill_w, writing_w = phase_power_w(scenario, load, typical.prefill, typical.decode)
        decode_w = prefill_w if writing_w is None else writing_w
        idle_w = float(board_power_w(tdp_w, load_power_model(), 0.0, 0.0))
        per_engine = float(prefill_w) * reading + float(decode_w) * writing + idle_w * idle
        tokens = self.summary.output_tokens_per_s * self.summary.duration_s
        return per_engine * self.num_gpus / engines / tokens if tokens > 0 else None


def simulation_of(
    deployment: InferenceInputs,
    traffic: ServiceInputs,
    file: RequestFile | None = None,
    at_most: Capacity | None = None,
    ends_early: Callable[[Records], bool] | None = None,
) -> Simulation:
    """Simulate a service.

    Args:
        deployment: One replica, as ``llm-perf infer`` describes it; without a system, `DEFAULT_ENGINE`, or
            any engine where that one does not run.
        traffic: Its requests. Lengths are the traffic's.
        file: Its file of requests, where it was read before.
        at_most: What the engines serve at most, where that is known from the same requests at other times.
        ends_early: As `llm_perf.requests.simulate.simulate` takes it. Pools go on to the end.

    Raises:
        SpecError: an input is wrong, or means nothing where requests come and go.
        DoesNotFitError: the weights leave no room for a cache.
    """
    for name, instead in NOT_OF_REQUESTS.items():
        if getattr(deployment, name) != InferenceInputs.model_fields[name].default:
            raise SpecError(f"--{name.replace('_', '-')} is of one batch: {instead}")
    requests = requests_of(traffic, file)
    if traffic.warm_up >= len(requests):
        raise SpecError(f"--warm-up {traffic.warm_up} leaves none of the {len(requests)} requests")
    if deployment.system is None and not deployment.ds_zero:
        deployment = deployment.replace(system=engine_on(gpu_of(deployment), DEFAULT_ENGINE))
    # Engines with static batches take their size from the scenario; others form their own.
    batch = derive_parallelism(deployment).dp_size * (deployment.max_num_seqs or 1)
    scenario = build_scenario(deployment.replace(batch_size=batch, prompt_len=1, gen_len=1))
    scenario = of_mean_lengths(scenario, requests)
    outcome = _serve(scenario, traffic, requests, ends_early)
    summary = summary_of(outcome, traffic.warm_up)
    return Simulation(deployment, traffic, scenario, outcome, summary, file, at_most)


def _serve(
    scenario: Scenario,
    traffic: ServiceInputs,
    requests: Requests,
    ends_early: Callable[[Records], bool] | None = None,
) -> Outcome:
    """Requests through replicas that read and generate, or through a pool for each."""
    if traffic.prefill_replicas is None:
        return simulate(
            scenario, requests, replicas=traffic.replicas, routing=traffic.routing, scheduler=traffic.scheduler,
            settings=traffic.settings, seed=traffic.seed, ends_early=ends_early,
        )  # fmt: skip
    return simulate_pools(
        _prefill_pool(scenario, traffic),
        scenario,
        requests,
        prefill_replicas=traffic.prefill_replicas,
        decode_replicas=traffic.replicas,
        between_nodes=not traffic.pools_on_one_node,
        scheduler=traffic.scheduler,
        settings=traffic.settings,
    )


def _prefill_pool(scenario: Scenario, traffic: ServiceInputs) -> Scenario:
    """One replica of the engines that only read prompts."""
    if traffic.prefill_tp_size is None:
        return scenario
    parallelism = scenario.parallelism.replace(tp_size=traffic.prefill_tp_size)
    nodes = fewest_nodes(parallelism.num_gpus, scenario.host.gpus_per_node)
    return scenario.replace(parallelism=parallelism, num_nodes=nodes)


def _slower(outcome: Outcome, requests: Requests, factor: float) -> Outcome:
    """The same outcome on a clock that counts ``factor`` seconds for each."""
    steps = outcome.steps
    return replace(
        outcome,
        requests=requests,
        arrival_s=outcome.arrival_s * factor,
        scheduled_s=outcome.scheduled_s * factor,
        first_token_s=outcome.first_token_s * factor,
        finished_s=outcome.finished_s * factor,
        steps=replace(
            steps, start_s=steps.start_s * factor, duration_s=np.asarray(steps.duration_s * factor)
        ),
    )
