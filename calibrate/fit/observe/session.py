"""``llm-perf calibrate observe``: a planned session against a server, within a budget of seconds."""

from __future__ import annotations

import asyncio
import ipaddress
import os
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from calibrate.evidence.benchmark_run import Deployment, Engine
from calibrate.fit.observe.design import Design, Planned, candidates, planned_rows
from calibrate.fit.observe.model import ServedModel
from calibrate.fit.observe.parameters import parameters_of
from calibrate.fit.observe.rows import PLANNED, QUIET, WAITED, rows_of
from calibrate.fit.observe.stack_fit import fit_rows
from calibrate.fit.observe.store import Store
from calibrate.fit.refit import require_scipy
from calibrate.probe.endpoint.answers import objection
from calibrate.probe.endpoint.contention import Contention, listener
from calibrate.probe.endpoint.facts import ServerFacts, served_name, server_facts
from calibrate.probe.endpoint.http import Address, Client, EndpointError
from calibrate.probe.endpoint.load import Account
from calibrate.probe.endpoint.opening import OpeningError, opened
from calibrate.probe.endpoint.point import About, LoadPoint, measure_point
from calibrate.probe.endpoint.prompts import Prompts, TokenLaw
from calibrate.probe.endpoint.request import Asking
from llm_perf.analysis.request import InferenceInputs, build_scenario
from llm_perf.config.names import normalise
from llm_perf.config.scenario import Scenario
from llm_perf.errors import EnvironmentFailure, SpecError
from llm_perf.requests.limits import Limits
from llm_perf.requests.simulate import rules_of
from llm_perf.systems.families import declaration, family_names, find

_FEW, _MORE = 4, 1.5
"""The plan is made anew from a fit of what was measured after so many points, and each time there are so many times more."""

_DISTURBED_WORTH = 0.05
"""What a point whose server waited for its cores is worth, of an undisturbed one."""

_BUSY = ("http 429", "http 503")
_BUSY_S = 2.0


@dataclass(frozen=True)
class ObserveSettings:
    """What a session is asked to do.

    Attributes:
        url: Of the server's API.
        inputs: The deployment, as ``llm-perf infer`` describes it; the system may be left to what the server says.
        out: Folder of the session.
        budget_s: Seconds for everything that is sent.
        served_name: The server's name of the model, where it is not the model's.
        remote: Whether the server may be on another machine.
        stall_s: Seconds without a byte after which a request is given up.
        most_concurrency: Requests at once at most.
        longest: Tokens of prompt and output at most; what the server or model allows if None.
        output: Tokens to generate per request.
        seed: Of the prompts.
    """

    url: str
    inputs: InferenceInputs
    out: Path
    budget_s: float = 120.0
    served_name: str | None = None
    remote: bool = False
    stall_s: float = 30.0
    most_concurrency: int = 8
    longest: int | None = None
    output: int = 24
    seed: int | None = None

    def asked(self) -> dict[str, Any]:
        """What makes a session the same when it goes on."""
        return {
            "url": self.url, "deployment": self.inputs.model_dump(mode="json"), "served_name": self.served_name,
            "most_concurrency": self.most_concurrency, "longest": self.longest, "output": self.output,
        }  # fmt: skip


@dataclass
class Observed:
    """What a session came to.

    Attributes:
        scenario: The deployment.
        facts: What the server says of itself.
        account: What became of every request of this call.
        seconds: Of all calls.
        points: That are stored.
        ended: Why it ended early; None where the budget was used, or there was nothing left to learn.
    """

    scenario: Scenario
    facts: ServerFacts
    account: Account
    seconds: float = 0.0
    points: int = 0
    ended: str | None = None
    said: list[str] = field(default_factory=list)


def observe(settings: ObserveSettings, say: Callable[[str], object]) -> Observed:
    """Run a session to its end; what was measured is stored point by point.

    Raises:
        SpecError: the question is wrong, or the host is another machine and that was not allowed.
        EnvironmentFailure: the server cannot be reached or asked at all.
        KeyboardInterrupt: it was interrupted; called again it goes on.
    """
    require_scipy("calibrate observe")
    address = Address.of(settings.url)
    if not settings.remote and not is_local(address.host):
        raise SpecError(
            f"--url {settings.url}: {address.host} is another machine, which a session puts load on: add --remote if it is "
            "yours"
        )
    if settings.budget_s <= 0 or settings.most_concurrency < 1 or settings.output < 6:
        raise SpecError("budget and concurrency must be positive, and --gen-len 6 or more")
    return asyncio.run(_Session(settings, address, say).run())


def is_local(host: str) -> bool:
    """Whether a name means this machine: a loopback address, or one of its own."""
    try:
        addresses = {str(info[4][0]) for info in socket.getaddrinfo(host, None)}
        own = {str(info[4][0]) for info in socket.getaddrinfo(socket.gethostname(), None)}
    except OSError:
        try:
            return ipaddress.ip_address(host).is_loopback
        except ValueError:
            return host == "localhost"
    return all(ipaddress.ip_address(one.partition("%")[0]).is_loopback or one in own for one in addresses)


class _Session:
    """One call of `observe`."""

    def __init__(self, settings: ObserveSettings, address: Address, say: Callable[[str], object]) -> None:
        self.settings, self.address, self.say = settings, address, say
        self.client = Client(address, settings.stall_s, os.environ.get("OPENAI_API_KEY") or None)
        self.prompts = Prompts(settings.seed if settings.seed is not None else time.time_ns())
        self.account = Account()
        self.store = Store(settings.out)
        self.start = time.perf_counter()

    @property
    def spent_s(self) -> float:
        return self.store.spent_s + time.perf_counter() - self.start

    @property
    def left_s(self) -> float:
        return self.settings.budget_s - self.spent_s

    async def run(self) -> Observed:
        try:
            return await self._run()
        except EndpointError as error:
            raise EnvironmentFailure(str(error)) from None
        finally:
            await self.client.close()

    async def _run(self) -> Observed:
        facts = await server_facts(self.client)
        scenario = self._scenario(facts)
        self.store.begin(self.settings.asked(), scenario)
        found = Observed(scenario, facts, self.account)
        try:
            asking, law = await opened(Asking(self.client, self._name(facts)), self.prompts, self.account)
            await self._points(found, asking, law)
        except OpeningError as error:
            found.ended = str(error)
        finally:
            found.seconds, found.points = self.spent_s, len(self.store.runs)
            self.store.save(
                spent_s=found.seconds, server={"system": facts.system, "version": facts.version, **facts.settings},
                account={"sent": self.account.sent, **self.account.by_kind}, ended=found.ended,
            )  # fmt: skip
        return found

    def _scenario(self, facts: ServerFacts) -> Scenario:
        """The deployment, of the system that the server says it is where none was named.

        Raises:
            SpecError: neither says it, or both differ.
        """
        inputs = self.settings.inputs
        if inputs.system is None:
            if facts.system is None:
                raise SpecError(
                    f"the server does not say what it is: give --system ({', '.join(family_names())})"
                )
            inputs = inputs.replace(system=facts.system)
        inputs = inputs.replace(system=_in_version(str(inputs.system), facts.version))
        scenario = build_scenario(inputs.replace(batch_size=1, prompt_len=1, gen_len=1))
        if facts.system is not None and facts.system != scenario.system:
            raise SpecError(f"--system {scenario.system}: the server says that it is {facts.system}")
        return scenario

    def _name(self, facts: ServerFacts) -> str:
        """The server's name of the model.

        Raises:
            OpeningError: it serves others.
        """
        model, given = self.settings.inputs.model, self.settings.served_name
        name = served_name(facts, model, given)
        if name is None:
            there = ", ".join(facts.models[:4]) or "none that it lists"
            raise OpeningError(
                f"the server serves another model ({there}), not {model}; --served-name says its own name"
            )
        if facts.models and name not in facts.models and normalise(name) not in map(normalise, facts.models):
            raise OpeningError(f"the server serves another model ({', '.join(facts.models[:4])}), not {name}")
        return name

    async def _points(self, found: Observed, asking: Asking, law: TokenLaw) -> None:
        scenario, facts = found.scenario, found.facts
        parameters = parameters_of(scenario)
        points = self._candidates(scenario, facts)
        name = scenario.model.name
        planned = [row for point in points for row in planned_rows(name, point)]
        model = ServedModel.of({name: scenario}, parameters, planned)
        design = Design(model, name, points)
        values = {one.name: one.value for one in parameters}
        done = self._done()
        about = About(
            Engine(name=scenario.system, version=facts.version, settings=facts.settings),
            deployment_of(self.settings.inputs, scenario), str(self.address), {},
        )  # fmt: skip
        contention = Contention(listener(self.address.port) if is_local(self.address.host) else None)
        await self._warm_up(points, asking, law, about)
        fitted_at = len(self.store.runs)
        if self.store.runs:
            values = fit_rows(model, rows_of(self.store.runs)).values
        while (chosen := design.best(values, done, self.left_s)) is not None:
            if not await self._measure(found, chosen, asking, law, about, contention, done):
                return
            if len(self.store.runs) >= fitted_at * _MORE + _FEW:
                fitted_at = len(self.store.runs)
                values = fit_rows(model, rows_of(self.store.runs), values).values

    def _candidates(self, scenario: Scenario, facts: ServerFacts) -> list[LoadPoint]:
        """Loads that the server can take."""
        settings = self.settings
        known = [facts.settings.get(name) for name in ("max_model_len", "n_ctx")]
        bounds = [settings.longest or 1024, scenario.model.max_position_embeddings, *known]
        longest = min(int(one) for one in bounds if isinstance(one, int) and one > 0)
        limits = Limits.of(scenario, rules_of(scenario), longest)
        slots = facts.settings.get("total_slots")
        most = min(
            settings.most_concurrency, limits.max_sequences, slots if isinstance(slots, int) else 1 << 30
        )
        return candidates(most, longest, settings.output)

    def _done(self) -> dict[LoadPoint, float]:
        """Points of earlier calls."""
        done: dict[LoadPoint, float] = {}
        for run in self.store.runs:
            if run.environment.get(PLANNED) and not run.counts.failed:
                point = LoadPoint(*run.environment[PLANNED])  # type: ignore[misc]
                done[point] = done.get(point, 0.0) + _worth(run.environment.get(WAITED))
        return done

    async def _warm_up(self, points: list[LoadPoint], asking: Asking, law: TokenLaw, about: About) -> None:
        """Requests that do not count: what is compiled, allocated or read for the first time is then there."""
        self.say("warming up")
        shortest = min(point.prompt for point in points)
        for concurrency in (1, max(point.concurrency for point in points)):
            await measure_point(
                LoadPoint(concurrency, shortest, 8), asking, self.prompts, law, self.account, about
            )

    async def _measure(
        self, found: Observed, chosen: Planned, asking: Asking, law: TokenLaw, about: About, contention: Contention,
        done: dict[LoadPoint, float],
    ) -> bool:  # fmt: skip
        """One point; whether the session goes on."""
        point = chosen.point
        for attempt in (1, 2):
            sent = self.account.sent / max(time.perf_counter() - self.start, 1e-9)
            self.say(
                f"{self.spent_s:.0f} of {self.settings.budget_s:.0f} s: {point} ({len(self.store.runs)} points, "
                f"{sent:.1f} requests/s)"
            )
            contention.share()
            run, samples = await measure_point(point, asking, self.prompts, law, self.account, about)
            share = contention.share()
            environment = {WAITED: share, PLANNED: [point.concurrency, point.prompt, point.output]}
            failed = [sample for sample in samples if not sample.ok]
            said = objection([sample for sample in samples if sample.ok], asking.model, law)
            if said is not None:
                found.ended = said
                return False
            self.store.add(run.replace(environment=environment))
            if not failed:
                done[point] = done.get(point, 0.0) + _worth(share)
                return True
            if failed[0].kind not in _BUSY or attempt == 2 or self.left_s < _BUSY_S:
                break
            await asyncio.sleep(_BUSY_S)
        found.ended = f"{failed[0].text} ({len(failed)} of {point.requests} requests at concurrency {point.concurrency})"
        return False


def _in_version(system: str, said: str | None) -> str:
    """A system in the version that its server says; builds of a family that counts these say no version."""
    counts_builds = bool(declaration(find(system.partition("@")[0])[0]).builds)
    if "@" in system or said is None or counts_builds or not any(map(str.isdigit, said)):
        return system
    return f"{system}@{said}"


def _worth(share: Any) -> float:
    """How much a point counts in the plan."""
    return 1.0 if not isinstance(share, (int, float)) or share <= QUIET else _DISTURBED_WORTH


def deployment_of(inputs: InferenceInputs, scenario: Scenario) -> Deployment:
    """The record of a deployment."""
    p, absent = scenario.parallelism, scenario.gpu.absent
    return Deployment(
        model=scenario.model.name,
        gpu="none" if absent else scenario.gpu.name,
        num_gpus=None if absent else p.num_gpus,
        num_nodes=scenario.num_nodes,
        tp=p.tp_size,
        pp=p.pp_size,
        dp=p.dp_size,
        ep=p.ep_size,
        host=scenario.host.name,
        weight_format=inputs.weight_format,
        kv_format=inputs.kv_format,
        max_num_seqs=inputs.max_num_seqs,
        max_num_batched_tokens=inputs.max_num_batched_tokens,
        gpu_memory_utilization=inputs.gpu_memory_utilization,
        n_gpu_layers=inputs.n_gpu_layers,
        ubatch_size=inputs.ubatch_size,
        threads=inputs.threads,
        prefix_hit_rate=0.0,
    )
