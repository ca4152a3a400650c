"""Load on an endpoint: bursts, and closed loops that keep so many requests in flight. Every request is in the account."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from calibrate.probe.endpoint.prompts import Prompts, TokenLaw
from calibrate.probe.endpoint.request import Asking, Sample, ask

Lengths = tuple[int, int]
"""(tokens of the prompt, tokens to generate)."""


@dataclass
class Account:
    """What became of requests, by kind; nothing that was sent is missing.

    Attributes:
        sent: Requests that were begun.
        by_kind: Those that ended, by `Sample.kind`.
        refused: Those of them whose refusal was an answer, since they asked what a server takes.
        first_failure: What the first that failed said.
    """

    sent: int = 0
    by_kind: dict[str, int] = field(default_factory=dict)
    refused: int = 0
    first_failure: str = ""

    def take(self, sample: Sample, *, may_refuse: bool = False) -> None:
        """Count a request that ended; with ``may_refuse`` one that is not answered is no failure."""
        self.by_kind[sample.kind] = self.by_kind.get(sample.kind, 0) + 1
        if sample.ok:
            return
        if may_refuse:
            self.refused += 1
        elif not self.first_failure:
            self.first_failure = sample.text

    @property
    def ended(self) -> int:
        """Requests that ended, whichever way."""
        return sum(self.by_kind.values())

    @property
    def failed(self) -> int:
        """Requests without a whole answer, but for those that only asked what is taken."""
        return self.ended - self.by_kind.get("ok", 0) - self.refused

    def sentence(self) -> str:
        """Sent, answered and failed by kind."""
        others = ", ".join(f"{count} {kind}" for kind, count in sorted(self.by_kind.items()) if kind != "ok")
        return f"{self.sent} requests sent, {self.by_kind.get('ok', 0)} answered" + (
            f", {others}" if others else ""
        )


async def closed_loop(
    asking: Asking,
    prompts: Prompts,
    law: TokenLaw,
    requests: Iterator[Lengths],
    concurrency: int,
    account: Account,
    *,
    give_up_after: int = 1,
    on_end: Callable[[Sample], object] = lambda _sample: None,
) -> list[Sample]:
    """Keep ``concurrency`` requests in flight until there are no more, or too many have failed; samples in order of sending.

    With as many requests as are kept in flight this is a burst.

    Args:
        asking: The server.
        prompts: Where texts come from.
        law: Tokens of a text.
        requests: Lengths, drawn as connections become free.
        concurrency: Requests in flight.
        account: Is told of each.
        give_up_after: Failures after which no more are sent; what is in flight is waited for.
        on_end: Called with each that ended.
    """
    samples: list[Sample] = []
    failures = 0

    async def worker() -> None:
        nonlocal failures
        for prompt, output in requests:
            account.sent += 1
            sample = await ask(asking, prompts.of_letters(law.letters(prompt)), prompt, output)
            account.take(sample)
            samples.append(sample)
            on_end(sample)
            failures += not sample.ok
            if failures >= give_up_after:
                return

    await asyncio.gather(*(worker() for _ in range(concurrency)))
    return sorted(samples, key=lambda one: one.sent_s)
