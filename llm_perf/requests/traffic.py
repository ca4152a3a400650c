"""What is asked of a service, as flags say it, and the requests that it means."""

from __future__ import annotations

import math
from typing import Annotated, Any, ClassVar, Final

import numpy as np
from pydantic import BeforeValidator, Field

from llm_perf.config.base import AsText, NonNegativeInt, PositiveInt, Spec
from llm_perf.errors import SpecError
from llm_perf.requests.arrivals import Turns, arrivals
from llm_perf.requests.lengths import Lengths, parse_lengths
from llm_perf.requests.request_file import RequestFile, read_requests
from llm_perf.requests.workload import LATEST_S, NONE, Floats, Ints, Requests

__all__ = ["DEFAULT_COUNT", "LEAST_BURSTINESS", "Traffic", "requests_of"]

DEFAULT_COUNT: Final = 1000
"""Requests of a simulation that states none: enough for a 99th percentile."""


_HIGHEST_RATE: Final = 1e12
"""What comes faster comes at once."""
MOST: Final = 1_000_000
"""Requests of one simulation at most: 45 seconds and 0.8 GiB; percentiles do not change any more with further ones."""


def _number_or_inf(value: Any) -> Any:
    """JSON has no infinity: it is written as the word, as on the command line."""
    return math.inf if isinstance(value, str) and value.strip().lower() in ("inf", "infinity") else value


def _as_text(value: Any) -> Any:
    return str(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else value


Rate = Annotated[float, BeforeValidator(_number_or_inf), Field(gt=0)]
LEAST_BURSTINESS: Final = 1e-9
"""Gaps of a smaller shape are all zero in floating point."""
LengthText = Annotated[str, BeforeValidator(_as_text), Field(min_length=1)]


class Traffic(Spec):
    """Who asks when, for how many tokens. Fields are flags of ``llm-perf simulate``.

    One of ``requests``, ``rate`` and ``concurrency`` says when; ``requests`` may go with one of the others, which then
    replaces the file's times, and its lengths stay.
    """

    _label: ClassVar[str | None] = ""

    requests: Annotated[str, Field(min_length=1)] | None = Field(
        default=None,
        description="CSV or JSONL: arrival_s, prompt_tokens, output_tokens, and if wanted prefix_id, prefix_tokens.",
    )
    rate: Annotated[Rate | None, AsText] = Field(
        default=None,
        description='Requests per second (Poisson); "inf" sends all at once; a range 1:20:1 is swept to the knee.',
    )
    burstiness: Annotated[Rate, Field(ge=LEAST_BURSTINESS), AsText] = Field(
        default=1.0,
        description="Shape of the gaps: below 1 bursts, above 1 more even, inf constant.  [default: 1]",
    )
    concurrency: PositiveInt | None = Field(
        default=None, description="Closed loop: so many in flight, the next is sent when one ends."
    )
    num_requests: Annotated[PositiveInt, Field(le=MOST)] | None = Field(
        default=None, description=f"Requests to send.  [default: {DEFAULT_COUNT}, or all of the file]"
    )
    warm_up: NonNegativeInt = Field(
        default=0, description="First requests that percentiles leave out.  [default: 0]"
    )
    seed: NonNegativeInt = Field(default=0, description="Of all that is drawn by chance.  [default: 0]")
    prompt_len: LengthText = Field(
        default="512",
        description="Prompt tokens: a number or mean, uniform:A:B, lognormal:MEAN:SD or a file.  [default: 512]",
    )
    gen_len: LengthText = Field(default="128", description="Output tokens, in the same ways.  [default: 128]")
    prefix_len: NonNegativeInt = Field(
        default=0, description="Tokens before each prompt that requests share.  [default: 0]"
    )
    num_prefixes: PositiveInt = Field(default=1, description="Different such prefixes.  [default: 1]")
    turns: PositiveInt = Field(
        default=1,
        description="Requests of one conversation, each with all that was said before.  [default: 1]",
    )
    think_time: LengthText = Field(
        default="0",
        description="Seconds from an answer to the next turn, as lengths are given.  [default: 0]",
    )


def requests_of(traffic: Traffic, file: RequestFile | None = None) -> Requests:
    """The requests that are meant; the same seed gives the same ones. Rates move the times alone, never the lengths.

    Args:
        traffic: What was asked.
        file: Its file of requests, where it was read before.

    Raises:
        SpecError: it does not say when requests are sent, or says it twice, or a part cannot be read.
    """
    if traffic.rate is not None and traffic.concurrency is not None:
        raise SpecError(
            "--rate and --concurrency exclude each other: requests come at a rate, or when others end"
        )
    if traffic.requests is None and traffic.rate is None and traffic.concurrency is None:
        raise SpecError("say when requests are sent: --rate R, --concurrency C or --requests FILE")
    times, prompts, outputs, pauses, groups = (
        np.random.default_rng(child) for child in np.random.SeedSequence(traffic.seed).spawn(5)
    )
    if traffic.requests is not None:
        return _of_file(traffic, file, times)
    said = parse_lengths("--prompt-len", traffic.prompt_len)
    answered = parse_lengths("--gen-len", traffic.gen_len)
    think = parse_lengths("--think-time", traffic.think_time, whole=False)
    if traffic.turns == 1 and think.mean > 0:
        raise SpecError("--think-time is the pause between turns of a conversation: give --turns")
    turns = Turns(traffic.num_requests or DEFAULT_COUNT, traffic.turns)
    output = answered.tokens(outputs, turns.count)
    prompt = said.tokens(prompts, turns.count)
    prefix = np.full(turns.count, NONE, np.int64)
    if traffic.prefix_len:
        prompt[: turns.sessions] += traffic.prefix_len
        prefix = groups.integers(0, traffic.num_prefixes, turns.sessions)[turns.session]
    elif traffic.num_prefixes > 1:
        raise SpecError(
            "--num-prefixes says how many prefixes there are: give --prefix-len, the tokens of each"
        )
    return Requests.of(
        _arrivals(traffic, turns, times),
        turns.whole_prompts(prompt, output),
        output,
        concurrency=traffic.concurrency,
        prefix_id=prefix,
        prefix_tokens=np.where(prefix == NONE, 0, traffic.prefix_len),
        previous=turns.previous,
        think_s=_pauses(think, turns, pauses),
    )


def _arrivals(traffic: Traffic, turns: Turns, generator: np.random.Generator) -> Any:
    """Times of first turns; those of later ones follow from the answers. The rate is that of requests."""
    found = np.zeros(turns.count)
    if traffic.rate is not None:
        found[: turns.sessions] = _at_rate(traffic, turns.sessions, turns.each, generator)
    return found


def _at_rate(traffic: Traffic, count: int, each: int, generator: np.random.Generator) -> Floats:
    """Times of ``count`` sessions of ``each`` requests, of which ``rate`` come per second."""
    rate = traffic.rate or 0.0
    if not count * each <= rate * LATEST_S:
        raise SpecError(
            f"--rate {rate:g}: {count * each} requests would come over more than {LATEST_S:g} s; the least is "
            f"{count * each / LATEST_S:g}"
        )
    if math.isfinite(rate) and rate > _HIGHEST_RATE:
        raise SpecError(f"--rate {rate:g}: expected at most {_HIGHEST_RATE:g} requests per second, or inf")
    return arrivals(rate / each, traffic.burstiness, count, generator)


def _pauses(think: Lengths, turns: Turns, generator: np.random.Generator) -> Any:
    drawn = think.draw(generator, turns.count)
    return np.where(turns.previous == NONE, 0.0, drawn)


_OF_FILES: Final = ("prompt_len", "gen_len", "prefix_len", "num_prefixes", "turns", "think_time")
"""What a file of requests says itself."""


def _of_file(traffic: Traffic, file: RequestFile | None, generator: np.random.Generator) -> Requests:
    for name in _OF_FILES:
        if getattr(traffic, name) != Traffic.model_fields[name].default:
            raise SpecError(
                f"--{name.replace('_', '-')} is what a file of requests says itself: leave it out"
            )
    timed = traffic.rate is None and traffic.concurrency is None
    if timed and traffic.burstiness != 1:
        raise SpecError("--burstiness belongs to --rate: the file says when its requests arrive")
    if file is None:
        file = read_requests(traffic.requests or "", timed=timed)
    there = len(file.requests)
    count = traffic.num_requests or there
    if count > there and timed:
        raise SpecError(
            f"--num-requests {count}: {traffic.requests} has {there} requests; give --rate or --concurrency to repeat them"
        )
    rows: Ints = np.arange(count, dtype=np.int64) % there
    found = file.requests
    arrival = found.arrival_s[rows]
    if traffic.rate is not None:
        arrival = _at_rate(traffic, count, 1, generator)
    elif not timed:
        arrival = np.zeros(count)
    return Requests.of(
        arrival,
        found.prompt_tokens[rows],
        found.output_tokens[rows],
        concurrency=traffic.concurrency,
        prefix_id=found.prefix_id[rows],
        prefix_tokens=found.prefix_tokens[rows],
    )
