"""The first words with a server: which API and fields it takes, and how many tokens it makes of a text."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from calibrate.probe.endpoint.answers import objection
from calibrate.probe.endpoint.load import Account
from calibrate.probe.endpoint.prompts import Prompts, TokenLaw
from calibrate.probe.endpoint.request import Asking, Sample, ask

_EXTRAS: tuple[tuple[tuple[str, Any], ...], ...] = (
    (("ignore_eos", True),),
    (),
)
"""Fields that make answers as long as asked, tried in turn: most engines take them, some refuse the request."""

_REFUSED = ("http 400", "http 404", "http 405", "http 422")
_SHORT, _LONG = 120, 720
"""Letters of the two texts."""

_TOKENS = 4


class OpeningError(Exception):
    """Why a server cannot be observed, in one sentence."""


async def opened(asking: Asking, prompts: Prompts, account: Account) -> tuple[Asking, TokenLaw]:
    """How a server is asked, and its tokens of a text.

    Raises:
        OpeningError: it cannot be asked.
    """
    asking, short = await _api(asking, prompts, account)
    long = await _one(asking, prompts, account, _LONG)
    for sample in (short, long):
        said = sample.text if not sample.ok else objection([sample], asking.model, None)
        if said is not None:
            raise OpeningError(said)
    law = TokenLaw.of((_SHORT, short.prompt_tokens or 0), (_LONG, long.prompt_tokens or 0))
    if law is None:
        raise OpeningError(
            f"the server counts {short.prompt_tokens} tokens in {_SHORT} letters and {long.prompt_tokens} in {_LONG}: "
            "its counts cannot be used"
        )
    return asking, law


async def _api(asking: Asking, prompts: Prompts, account: Account) -> tuple[Asking, Sample]:
    """The first combination of API and fields that is not refused."""
    sample: Sample | None = None
    for api in ("completions", "chat"):
        for extra in _EXTRAS:
            tried = replace(asking, api=api, extra=extra)
            sample = await _one(tried, prompts, account, _SHORT)
            if sample.kind not in _REFUSED:
                return tried, sample
    assert sample is not None
    raise OpeningError(sample.text)


async def _one(asking: Asking, prompts: Prompts, account: Account, letters: int) -> Sample:
    account.sent += 1
    sample = await ask(asking, prompts.of_letters(letters), 0, _TOKENS)
    account.take(sample, may_refuse=sample.kind in _REFUSED)
    return sample
