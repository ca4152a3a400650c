"""Requests to servers of every kind: what is measured, what is said, and that no request is lost."""

import asyncio
import importlib.util
from itertools import repeat
from pathlib import Path

import pytest

from calibrate.probe.endpoint.answers import objection
from calibrate.probe.endpoint.contention import Contention, listener
from calibrate.probe.endpoint.facts import ServerFacts, served_name, server_facts
from calibrate.probe.endpoint.http import Address, Client, EndpointError
from calibrate.probe.endpoint.load import Account, closed_loop
from calibrate.probe.endpoint.opening import OpeningError, opened
from calibrate.probe.endpoint.prompts import Prompts, TokenLaw
from calibrate.probe.endpoint.request import Asking, Sample, ask
from llm_perf.errors import SpecError

_SPEC = importlib.util.spec_from_file_location("stub_server", Path(__file__).with_name("stub_server.py"))
assert _SPEC is not None
assert _SPEC.loader is not None
stub_server = importlib.util.module_from_spec(_SPEC)
__import__("sys").modules["stub_server"] = stub_server
_SPEC.loader.exec_module(stub_server)
Stub, MemoryClient, serving, MODEL = (
    stub_server.Stub, stub_server.MemoryClient, stub_server.serving, stub_server.MODEL
)  # fmt: skip

KINDS = {
    "good": "ok", "stall": "stalled", "429": "http 429", "500": "http 500", "cut": "cut", "foreign": "foreign",
    "no usage": "ok", "lies": "ok", "other model": "ok",
}  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_ten_thousand_requests_lose_none_in_the_account(kind: str) -> None:
    """Whatever a server does, every request that was sent has ended as one kind or another."""
    client = MemoryClient(Address.of("http://stub/v1"), stall_s=0.05)
    client.stub = Stub(kind=kind, bad_after=100)
    account, seen = Account(), []
    lengths = repeat((8, 2), 10_000)
    samples = asyncio.run(
        closed_loop(
            Asking(client, MODEL),
            Prompts(1),
            TokenLaw(0, 1),
            lengths,
            500,
            account,
            give_up_after=10**9,
            on_end=seen.append,
        )
    )
    assert account.sent == account.ended == len(samples) == len(seen) == 10_000
    assert client.stub.completions == 10_000
    expected = {"ok": 10_000} if KINDS[kind] == "ok" else {"ok": 100, KINDS[kind]: 9_900}
    assert account.by_kind == expected
    assert f"{expected['ok']} answered" in account.sentence()


def test_a_failure_stops_the_load_and_what_is_in_flight_is_counted() -> None:
    client = MemoryClient(Address.of("http://stub/v1"), stall_s=1.0)
    client.stub = Stub(kind="500", bad_after=20)
    account = Account()
    asyncio.run(
        closed_loop(Asking(client, MODEL), Prompts(1), TokenLaw(0, 1), repeat((8, 2), 1000), 4, account)
    )
    assert account.sent == account.ended < 40
    assert account.first_failure.startswith("HTTP 500: ")


def test_what_a_server_does_not_take_is_asked_and_is_no_failure() -> None:
    """A refusal of the opening is an answer; what is told of a failure is what failed later, here a stall."""
    client = MemoryClient(Address.of("http://stub/v1"), stall_s=0.1)
    client.stub = Stub(kind="stall", strict=True, bad_after=2)
    account = Account()

    async def load() -> None:
        asking, law = await opened(Asking(client, MODEL), Prompts(1), account)
        assert asking.extra == ()
        assert (account.failed, account.refused, account.first_failure) == (0, 1, "")
        await closed_loop(asking, Prompts(1), law, repeat((8, 2), 10), 1, account)

    asyncio.run(load())
    assert account.by_kind == {"http 422": 1, "ok": 2, "stalled": 1}
    assert account.sent == account.ended == 4
    assert account.failed == 1
    assert "sent nothing for 0.1 s" in account.first_failure


def test_times_of_tokens_are_when_they_came() -> None:
    with serving(Stub(step_s=1e-3, token_s=0.02)) as url:
        sample = asyncio.run(_one(url, "x" * 100, 6))
    assert sample.ok
    assert sample.prompt_tokens == 100
    assert sample.output_tokens == 6 == len(sample.token_s)
    assert sample.token_s[0] - sample.sent_s >= 0.1
    gaps = [late - early for early, late in zip(sample.token_s, sample.token_s[1:], strict=False)]
    assert min(gaps) > 0.01
    times = sample.as_times(sample.sent_s)
    assert times.arrival_s == 0
    assert times.first_token_s == times.token_s[0]
    assert times.error is None


async def _one(url: str, prompt: str, output: int) -> Sample:
    client = Client(Address.of(url), stall_s=10.0)
    try:
        return await ask(Asking(client, MODEL), prompt, len(prompt), output)
    finally:
        await client.close()


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("no usage", "streams without usage"), ("lies", "says that it generated 12 tokens, and 4 were asked for"),
        ("other model", "answers as another model: 'another-model'"), ("500", "HTTP 500"), ("cut", "was cut after 2 of 4"),
        ("stall", "sent nothing for 0.2 s"), ("foreign", "which is no JSON"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_server_is_said_at_once(kind: str, said: str) -> None:
    with serving(Stub(kind=kind)) as url, pytest.raises(OpeningError, match=said):
        asyncio.run(_opened(url))


async def _opened(url: str) -> tuple[Asking, TokenLaw]:
    client = Client(Address.of(url), stall_s=0.2)
    try:
        return await opened(Asking(client, MODEL), Prompts(1), Account())
    finally:
        await client.close()


def test_the_tokens_of_a_text_are_found() -> None:
    with serving(Stub()) as url:
        asking, law = asyncio.run(_opened(url))
    assert law == TokenLaw(0.0, 1.0)
    assert asking.api == "completions"
    assert asking.extra == (("ignore_eos", True),)
    assert TokenLaw.of((120, 40), (720, 40)) is None  # a count that does not grow with the text


def test_prompts_never_begin_alike() -> None:
    prompts = Prompts(3)
    drawn = [prompts.of_letters(64) for _ in range(500)]
    assert len({text[:12] for text in drawn}) == 500
    assert {len(text) for text in drawn} == {64}


def test_what_a_server_says_of_itself() -> None:
    async def asked(url: str) -> ServerFacts:
        client = Client(Address.of(url), stall_s=5.0)
        try:
            return await server_facts(client)
        finally:
            await client.close()

    with serving(Stub()) as url:
        facts = asyncio.run(asked(url))
    assert (facts.system, facts.version, facts.models) == ("llama_cpp", "b1", (MODEL,))
    assert facts.settings == {"total_slots": 8, "n_ctx": 512}
    assert served_name(facts, "org/Stub_Model", None) == MODEL
    assert served_name(facts, "opt-125m", None) is None
    with pytest.raises(EndpointError, match="cannot be reached"):
        asyncio.run(asked("http://127.0.0.1:9/v1"))


def test_counts_that_cannot_be() -> None:
    good = Sample(0.0, 100, 4, token_s=[1.0, 2.0, 3.0, 4.0], prompt_tokens=100, output_tokens=4, model=MODEL)
    law = TokenLaw(0, 1)
    assert objection([good], MODEL, law) is None
    assert objection([good], f"folder/{MODEL}@main", law) is None
    for field, value, said in (
        ("prompt_tokens", 300, "in a prompt of about 100"), ("output_tokens", 3, "and sent 4"),
        ("output_tokens", 5, "and 4 were asked for"), ("token_s", [4.0], "is ok"),
    ):  # fmt: skip
        bad = Sample(**{**{name: getattr(good, name) for name in Sample.__dataclass_fields__}, field: value})
        found = objection([bad], MODEL, law)
        assert (found is None) if said == "is ok" else (found is not None and said in found)


@pytest.mark.parametrize(
    "url", ["", "localhost:8000", "ftp://x/v1", "http://a:b/v1", "http://u:p@x/v1", "http:///v1"]
)
def test_addresses_that_are_none(url: str) -> None:
    with pytest.raises(SpecError, match="--url"):
        Address.of(url)


def test_the_process_behind_a_port_and_its_waiting() -> None:
    with serving(Stub()) as url:
        pid = listener(Address.of(url).port)
        assert pid == __import__("os").getpid()
    contention = Contention(pid)
    sum(range(2_000_000))
    share = contention.share()
    assert share is not None
    assert 0 <= share <= 1
    assert Contention(None).share() is None
