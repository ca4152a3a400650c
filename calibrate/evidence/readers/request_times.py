"""Traces: a line per request with its times in seconds, as CSV or JSONL, as ``simulate --trace-out`` writes them."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from typing import Final

from calibrate.evidence.benchmark_run import BenchmarkRun, Counts, LoadPattern, RequestTimes, TokenLengths
from calibrate.evidence.readers.source import Fields, Source
from calibrate.evidence.request_figures import figures_of_requests
from llm_perf.errors import SpecError

__all__ = ["is_times", "read_times"]

_NEEDED: Final = ("arrival_s", "prompt_tokens", "output_tokens", "first_token_s")
_ENDS: Final = ("last_token_s", "finished_s")
_KNOWN: Final = (
    "request_id",
    "queued_s",
    "scheduled_s",
    "status",
    "prefix_id",
    "prefix_tokens",
    "session",
    "turn",
)


def is_times(source: Source) -> bool:
    """A trace: requests with the times at which they came, began and ended."""
    if source.begins_json:
        return source.has(*_NEEDED) and any(source.has(end) for end in _ENDS)
    head = source.text.lstrip("\ufeff").split("\n", 1)[0].strip().split(",")
    return all(name in head for name in _NEEDED) and any(end in head for end in _ENDS)


def read_times(source: Source) -> list[BenchmarkRun]:
    """One run of all its requests.

    Raises:
        SpecError: a cell is no number, times are not in order, or a line has fewer cells than the head.
    """
    rows = list(_rows(source))
    if not rows:
        raise SpecError(f"{source.name}: holds no request")
    requests = tuple(sorted((_request(fields) for fields in rows), key=lambda one: one.arrival_s))
    done = [one for one in requests if one.finished_s is not None]
    if not done:
        raise SpecError(f"{source.name}: none of its {len(requests)} requests ended")
    unread = dict.fromkeys(name for fields in rows[:1] for name in fields.known(*_KNOWN).unread)
    return [
        BenchmarkRun(
            tool="trace",
            load=LoadPattern(kind="trace", num_requests=len(requests)),
            prompt=_lengths([one.prompt_tokens or 0 for one in requests]),
            output=_lengths([one.output_tokens or 0 for one in requests]),
            figures=figures_of_requests(requests),
            counts=Counts(completed=len(done), failed=len(requests) - len(done)),
            requests=requests,
            source=source.name,
            unread=tuple(unread),
        )
    ]


def _rows(source: Source) -> Iterator[Fields]:
    if source.begins_json:
        yield from (Fields(record, where) for where, record in source.objects)
        return
    reader = csv.reader(source.text.lstrip("\ufeff").splitlines())
    names = next(reader)
    for number, row in enumerate(reader, 2):
        if row and len(row) != len(names):
            raise SpecError(f"{source.name}:{number}: has {len(row)} cells of {len(names)}: it was cut off")
        if row:
            yield Fields(dict(zip(names, row, strict=True)), f"{source.name}:{number}")


def _request(fields: Fields) -> RequestTimes:
    fields.needed("arrival_s", "prompt_tokens", "output_tokens")
    arrival = fields.number("arrival_s") or 0.0
    first = fields.number("first_token_s")
    end = next((fields.number(name) for name in _ENDS if fields.values.get(name) not in (None, "")), None)
    if first is not None and (first < arrival or (end is not None and end < first)):
        raise SpecError(
            f"{fields.where}: first_token_s and the last are before arrival_s: times are not in order"
        )
    return RequestTimes(
        arrival_s=arrival,
        prompt_tokens=fields.count("prompt_tokens"),
        output_tokens=fields.integer("output_tokens"),
        first_token_s=first,
        finished_s=end if first is not None else None,
    )


def _lengths(tokens: list[int]) -> TokenLengths:
    mean = sum(tokens) / len(tokens)
    if not mean:
        return TokenLengths()
    return TokenLengths(mean=mean, kind="fixed" if len(set(tokens)) == 1 else "vary", values=tuple(tokens))
