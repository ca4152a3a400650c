"""Rows of tables whose requests come and go: closed loops, open loops, and all at once.

A row becomes a deployment and the requests that its load generator sent, as far as the row states them. What it does not
state is assumed here once for all rows: `LOOP_ROUNDS` and `SPREAD`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final, Literal

import numpy as np

from calibrate.evidence.engine_tuning import trtllm_bench
from calibrate.evidence.repeats import sent
from calibrate.evidence.server_settings import settings_of
from calibrate.evidence.settings import Run, scenario_of
from calibrate.evidence.stated import cells_of, rate_kind, stated_run
from llm_perf.config.scenario import Scenario
from llm_perf.errors import SpecError
from llm_perf.requests.arrivals import arrivals
from llm_perf.requests.lengths import Lengths
from llm_perf.requests.outcome import COMPLETED, Outcome
from llm_perf.requests.pools import simulate_pools
from llm_perf.requests.simulate import simulate
from llm_perf.requests.summary import tpot_of
from llm_perf.requests.workload import Floats, Ints, Requests

Statistic = Literal["mean", "median"]

LOOP_ROUNDS: Final = 10
"""Requests over concurrency of a closed loop that does not state them: what InferenceX sends, and most load generators."""

WARM_UP_ROUNDS: Final = 2
"""Requests over concurrency that are sent before those that are counted, where it matters which were sent before."""

SPREAD: Final = 1.0
"""Standard deviation over mean of prompts and outputs that are said to vary, where nobody says how much: of the order of
ShareGPT's."""

MOST_OUTPUT: Final = 512
"""Tokens at which generators that draw real conversations cut answers, where they do not say."""

_MOST: Final = 3000
"""Requests of a row's simulation: more change no figure by a percent."""

_MOST_AT_ONCE: Final = 30_000
"""The same of a queue that drains: its two ends are as long as what the engine runs at once, 4,096 at the most."""

_CLOSED: Final = re.compile(r"closed loop|in flight")
_VARY: Final = re.compile(r"lengths vary|variable lengths")
_UNIFORM: Final = re.compile(r"uniform in \[([\d.]+),([\d.]+)\] of nominal")
_MEDIANS: Final = re.compile(r"\bmedians\b|\bp50;|median of|^p50\b")
_UNSTATED: Final = re.compile(r"median or mean is not stated[^;]*")
"""A table that says neither: its times are taken as means, as those of all tables that say nothing. In a closed loop the two
differ by the requests that are sent at once at its beginning."""

_POOL: Final = re.compile(r"((?:prefill|decode)_\w+)=(\d+)")
_MARGIN: Final = re.compile(r"kept in flight")


@dataclass(frozen=True)
class Pools:
    """One engine that reads prompts, and how many there are of both kinds."""

    prefill: Scenario
    prefill_replicas: int
    decode_replicas: int


@dataclass(frozen=True)
class RequestRun:
    """A row as a deployment and its requests.

    Attributes:
        scenario: One engine, its data ranks included.
        requests: What was sent.
        statistic: What the row's times are of all requests.
        warm_up: First requests that its figures leave out.
        engine: What was set of the engine's scheduling.
        pools: Where prompts are read by engines of their own, ``scenario`` being one that generates.
    """

    run: Run
    scenario: Scenario
    requests: Requests
    statistic: Statistic
    warm_up: int
    engine: Mapping[str, Any]
    pools: Pools | None = None


@dataclass(frozen=True)
class Answer:
    """What is predicted of a row, in seconds and tokens per second; NaN where there is none."""

    ttft_s: float
    tpot_s: float
    e2e_s: float
    output_tokens_per_s: float
    total_tokens_per_s: float
    completed: int
    rejected: int


def is_closed_loop(row: Mapping[str, str]) -> bool:
    """Whether a row keeps a number of requests running, more than one."""
    batch = cells_of({"batch_size": row.get("batch_size", "")}).integer("batch_size")
    return bool(_CLOSED.search(_notes(row))) and batch is not None and batch > 1


def request_run(row: Mapping[str, str]) -> RequestRun:
    """The deployment and the requests of a row.

    Raises:
        SpecError: it does not state its lengths, or is of a kind that is not modelled.
    """
    notes, when = _notes(row), row.get("request_rate", "")
    asked = dict(row) | {"request_rate": ""}
    if not asked.get("prompt_len_tok") or not asked.get("gen_len_tok"):
        raise SpecError("it does not state the lengths of its requests")
    closed = "closed loop" in when or (not when and is_closed_loop(row))
    if not closed and not when:
        raise SpecError("it is one batch, and no requests that come and go")
    if not asked.get("batch_size"):
        asked["batch_size"] = "1"
    divided = "disaggregated" in row["system"]
    if divided:
        asked["system"] = re.sub(r"\s*\(.*\)", "", row["system"])
        if "tensorrtllm-runtime" in notes:  # the version is Dynamo's, whose image it is
            asked["system_version"] = ""
    run, pools = stated_run(asked), None
    if divided:
        decode, pools = _pools(run, notes, row.get("max_num_seqs", ""))
        run = replace(run, num_gpus=decode.num_gpus, tp=decode.tp, ep=decode.ep)
    scenario = _deployment(run, row.get("max_num_seqs", ""))
    concurrency = run.batch_size if closed else None
    settings = settings_of(row)
    count = _count(row, concurrency) + (settings.warm_up or 0)
    if settings.tuned_by is not None:
        scenario = tuned(scenario, asked)
    generator = np.random.default_rng(0)
    prompt = _lengths(asked["prompt_len_tok"], notes, settings.prompt_spread or SPREAD).tokens(
        generator, count
    )
    output = capped_outputs(
        _lengths(asked["gen_len_tok"], notes, settings.output_spread or SPREAD),
        float(asked["gen_len_tok"]), generator, count,
        settings.most_output or MOST_OUTPUT,
    )  # fmt: skip
    warm_up = concurrency or 0 if _MARGIN.search(notes) else 0
    again: dict[str, Ints] = {}
    if closed:
        arrival = np.zeros(count)
    elif settings.repeats is None:
        arrival = arrivals(_rate(when), 1.0, count, generator)
    else:
        arrival, warm_up = sent(settings.repeats, _rate(when), count)
        prompt, output = (np.resize(one, len(arrival)) for one in (prompt, output))
        again = {"prefix_id": np.arange(len(arrival)) % count, "prefix_tokens": prompt}
    if settings.distinct_prompts is not None and concurrency is not None:
        # The generator's prompts come round again, and what it sent before has left the first of them in the cache.
        again = {"prefix_id": np.arange(count) % settings.distinct_prompts, "prefix_tokens": prompt}
        warm_up = settings.warm_up or WARM_UP_ROUNDS * concurrency
    return RequestRun(
        run=run,
        scenario=scenario,
        requests=Requests.of(arrival, prompt, output, concurrency=concurrency, **again),
        engine=settings.engine,
        pools=pools,
        statistic="median" if _MEDIANS.search(_UNSTATED.sub("", notes)) else "mean",
        warm_up=warm_up,
    )


def answer_of(run: RequestRun) -> Answer:
    """Simulate a row.

    Raises:
        SpecError: its engine's scheduler is not known.
        DoesNotFitError: its weights leave no room for a cache.
    """
    if run.pools is not None:
        pools = run.pools
        outcome = simulate_pools(
            pools.prefill, run.scenario, run.requests,
            prefill_replicas=pools.prefill_replicas, decode_replicas=pools.decode_replicas,
        )  # fmt: skip
    else:
        outcome = simulate(run.scenario, run.requests, settings=run.engine)
    return _answer(outcome, run)


_LONGER: Final = 1.05
"""Times that steps take where it is asked what they do to the time to the first token."""


def amplification(run: RequestRun, answer: Answer) -> float:
    """What an error of every step makes of the time to the first token, d ln TTFT / d ln step; 1 unless requests keep coming.

    Steps that are f times as long are the same steps under arrivals that are f times as near to one another, all times of
    which are f times as long.
    """
    if run.pools is not None or not run.requests.arrival_s.any():
        return 1.0
    nearer = replace(run.requests, arrival_s=run.requests.arrival_s / _LONGER)
    slower = _LONGER * answer_of(replace(run, requests=nearer)).ttft_s
    return math.log(slower / answer.ttft_s) / math.log(_LONGER)


def _answer(outcome: Outcome, run: RequestRun) -> Answer:
    done = (outcome.status == COMPLETED) & (np.arange(len(outcome.status)) >= run.warm_up)
    of = np.mean if run.statistic == "mean" else np.median

    def figure(values: Floats) -> float:
        there = values[done & np.isfinite(values)]
        return float(of(there)) if len(there) else math.nan

    ends, starts = outcome.finished_s[done], outcome.arrival_s[done]
    duration = float(ends.max() - starts.min()) if len(ends) else math.nan
    output = float(outcome.requests.output_tokens[done].sum())
    prompt = float(outcome.requests.prompt_tokens[done].sum())
    return Answer(
        ttft_s=figure(outcome.first_token_s - outcome.arrival_s),
        tpot_s=figure(tpot_of(outcome)),
        e2e_s=figure(outcome.finished_s - outcome.arrival_s),
        output_tokens_per_s=output / duration,
        total_tokens_per_s=(output + prompt) / duration,
        completed=int(done.sum()),
        rejected=int((outcome.status != COMPLETED).sum()),
    )


def throughput_of(answer: Answer, row: Mapping[str, str], num_gpus: int) -> float:
    """The rate that a row's definition counts."""
    counted = rate_kind(row.get("throughput_def", ""))
    rate = answer.total_tokens_per_s if counted == "total" else answer.output_tokens_per_s
    return rate / num_gpus if row.get("throughput_scope") == "per_gpu" else rate


def _notes(row: Mapping[str, str]) -> str:
    return f"{row.get('notes_for_prediction') or ''} {row.get('notes') or ''}".strip()


def _pools(run: Run, notes: str, max_num_seqs: str) -> tuple[Run, Pools]:
    """The run of one engine that generates, and the pools that a row's notes describe.

    Raises:
        SpecError: they do not, or an engine of a pool is divided in a way that is not simulated.
    """
    stated = {name: int(count) for name, count in _POOL.findall(notes)}

    def engine(pool: str) -> Run:
        try:
            sizes = {
                name: stated[f"{pool}_{name}"]
                for name in ("tp_size", "pp_size", "attention_dp_size", "moe_ep_size")
            }
        except KeyError as missing:
            raise SpecError(f"it does not state {missing.args[0]} of its pools") from None
        if sizes["attention_dp_size"] > 1 or sizes["pp_size"] > 1:
            raise SpecError(
                "pools whose engines are divided otherwise than by tensor ranks are not simulated"
            )
        tp = sizes["tp_size"]
        return replace(run, num_gpus=tp, tp=tp, ep=min(sizes["moe_ep_size"], tp), num_nodes=None)

    prefill = _deployment(engine("prefill"), max_num_seqs)
    return engine("decode"), Pools(prefill, stated["prefill_num_workers"], stated["decode_num_workers"])


def _deployment(run: Run, max_num_seqs: str) -> Scenario:
    """The scenario of a row. What it says of a batch means nothing to an engine that forms its own."""
    scenario = scenario_of(
        replace(run, batch_size=max(run.num_gpus // (run.tp * run.pp), 1), prompt_len=1, gen_len=1)
    )
    stated = re.search(r"\d+", max_num_seqs)
    if stated is None:
        return scenario
    return scenario.replace(workload=scenario.workload.replace(max_num_seqs=int(stated[0])))


def tuned(scenario: Scenario, row: Mapping[str, str]) -> Scenario:
    """The scenario with the limits that ``trtllm-bench`` builds an engine with for a row's lengths."""
    prompt, output = (int(float(row[name])) for name in ("prompt_len_tok", "gen_len_tok"))
    sequences, tokens = trtllm_bench(scenario, prompt, output)
    limits = {"max_num_seqs": sequences, "max_num_batched_tokens": tokens}
    return scenario.replace(workload=scenario.workload.replace(**limits))


def _count(row: Mapping[str, str], concurrency: int | None) -> int:
    stated = re.match(r"\d+", row.get("num_prompts", ""))
    if stated is not None:
        at_once = row.get("request_rate", "").startswith("inf")
        return min(int(stated[0]), _MOST_AT_ONCE if at_once else _MOST)
    if concurrency is None:
        return _MOST
    return min(LOOP_ROUNDS * concurrency, max(_MOST, 2 * concurrency))


def _rate(when: str) -> float:
    """Requests per second, infinite where all are there at once.

    Raises:
        SpecError: it is none of both.
    """
    if when.startswith(("inf", "offline")):
        return math.inf
    stated = re.match(r"[\d.]+", when)
    if stated is None:
        raise SpecError(f"request_rate {when}: the rate is what was measured")
    return float(stated[0])


def capped_outputs(
    drawn: Lengths, mean: float, generator: np.random.Generator, count: int, most: int = MOST_OUTPUT
) -> Ints:
    """Output tokens of a distribution. Those that vary end at ``most``, and have the stated mean with that end."""
    if drawn.kind != "lognormal" or mean >= most:
        drawn = Lengths("fixed", mean) if drawn.kind == "lognormal" else drawn
        return drawn.tokens(generator, count)
    found = drawn.tokens(generator, count) / mean
    low, high = mean, 100 * mean
    for _ in range(50):  # the uncut mean with which the cut ones have the stated mean
        uncut = (low + high) / 2
        low, high = (uncut, high) if np.minimum(found * uncut, most).mean() < mean else (low, uncut)
    return np.maximum(np.minimum(found * low, most).round(), 1).astype(np.int64)


def _lengths(cell: str, notes: str, spread: float = SPREAD) -> Lengths:
    nominal = float(cell)
    drawn = _UNIFORM.search(notes)
    if drawn is not None:
        return Lengths(
            "uniform", max(round(nominal * float(drawn[1])), 1), max(round(nominal * float(drawn[2])), 1)
        )
    if _VARY.search(notes):
        return Lengths("lognormal", nominal, spread * nominal)
    return Lengths("fixed", nominal)
