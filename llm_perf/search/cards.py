"""Which card to add to a machine whose CPU computes what the card does not hold: each card with its best division.

Every card is looked at with the defaults of each system, filled as far as it goes; the best ones are then searched in
full (`llm_perf.search.policy`). A card is a GPU that plugs into a host of another maker: its usual host is one of the
general ones.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar, Final

from llm_perf.analysis.asked import Text
from llm_perf.analysis.division import Divided, best, divisions
from llm_perf.analysis.economics import gpu_price
from llm_perf.config.base import PositiveInt
from llm_perf.config.economics import Price
from llm_perf.config.gpu import GPUConfig
from llm_perf.config.loading import get_gpu_config_by_name, get_host_config_by_name, known_names
from llm_perf.errors import SpecError
from llm_perf.search.plan_question import MachinesQuestion
from llm_perf.search.policy import AUTO, Objective, PolicyAnswer, PolicyQuestion, search_policy
from llm_perf.search.targets import Target, parse_targets

_GENERAL_HOSTS: Final = ("desktop-", "workstation-", "server-")
_LIMITED: Final = ("ttft", "tpot", "latency", "throughput")
"""What a target may limit here: one sequence on a machine of one's own."""


class CardsQuestion(MachinesQuestion):
    """What ``llm-perf plan --host`` can be asked, under the names of its flags.

    Attributes:
        host: the machine that there is.
        max_gpus: cards of one kind to add; as many as the host has room for at most.
        system: llama_cpp, ktransformers or auto for both.
    """

    _positional: ClassVar[tuple[str, ...]] = ("model", "host")

    host: Text
    max_gpus: PositiveInt = 1
    system: Text = AUTO

    @cached_property
    def targets(self) -> tuple[Target, ...]:
        """The limits.

        Raises:
            SpecError: one of more than one sequence, or of money.
        """
        found = parse_targets(self.target)
        for target in found:
            if target.name not in _LIMITED or target.figure != "mean":
                raise SpecError(
                    f"--target {target.written}: of a card for --host, limits are on {', '.join(_LIMITED)} of one sequence"
                )
        return found

    @property
    def objective(self) -> Objective:
        """What a division is to be fast at: what the targets limit, decode where they limit nothing."""
        limited = {target.name for target in self.targets}
        if limited <= {"tpot", "throughput"}:
            return "decode"
        return "ttft" if limited == {"ttft"} else "mixed"

    def of_card(self, gpu: str, count: int) -> PolicyQuestion:
        """The search for the best division with so many of a card; without any where ``gpu`` is ``none``."""
        return PolicyQuestion(
            model=self.model,
            gpu=gpu,
            host=self.host,
            num_gpus=count,
            system=self.system,
            objective=self.objective,
            prompt_len=self.prompt_len,
            gen_len=self.gen_len,
            weight_format=self.weight_format,
            prices=self.prices,
            profile=self.profile,
            allow_long_context=self.allow_long_context,
        )


@dataclass(frozen=True, slots=True)
class Card:
    """A card, how many, and what they reach: seconds of a prompt and of a token. ``answer``: the search in full."""

    gpu: GPUConfig
    count: int
    ttft_s: float
    tpot_s: float
    price: Price | float | None
    answer: PolicyAnswer

    @property
    def memory_gib(self) -> float:
        """Memory of all of them."""
        return self.gpu.memory_gib * self.count

    def measures(self, gen_len: int) -> dict[str, float]:
        """What targets limit, by their names."""
        latency = self.ttft_s + self.tpot_s * (gen_len - 1)
        rate = 1 / self.tpot_s if self.tpot_s else gen_len / latency
        return {"ttft": self.ttft_s, "tpot": self.tpot_s, "latency": latency, "throughput": rate}

    def meets(self, targets: tuple[Target, ...], gen_len: int) -> bool:
        """Whether it keeps all limits."""
        found = self.measures(gen_len)
        return all(bool(target.met(found[target.name])) for target in targets)


@dataclass(frozen=True, slots=True)
class CardsAnswer:
    """The best cards, best first; those that meet the targets before the others. ``without`` is the host alone, if it can.

    ``tried`` counts cards and numbers of them, ``refused`` those on which the model does not run with this host.
    """

    question: CardsQuestion
    best: tuple[Card, ...]
    without: Card | None
    tried: int
    refused: int
    seconds: float

    @property
    def met(self) -> bool:
        """Whether a card meets the targets."""
        q = self.question
        return any(card.meets(q.targets, q.gen_len) for card in self.best)


def cards() -> tuple[str, ...]:
    """Names of the cards that ship."""
    found = []
    for name in known_names("GPU"):
        gpu = get_gpu_config_by_name(name)
        fits_anywhere = (gpu.default_host or "").startswith(_GENERAL_HOSTS)
        if fits_anywhere and gpu.pcie_bytes_per_s is not None and "laptop" not in name:
            found.append(name)
    return tuple(found)


def find_cards(question: CardsQuestion, top: int = 5) -> CardsAnswer:
    """The cards that suit a machine best: with targets the smallest that meet them, else the fastest.

    Raises:
        SpecError: unknown names, or a model or host that no system here can run.
    """
    begin = time.perf_counter()
    host = get_host_config_by_name(question.host)
    if host.pcie_bytes_per_s is None:
        raise SpecError(
            f"host {host.name} has no place for a card: its file states no PCIe; llm-perf infer says what runs on it as it is"
        )
    room = min(question.max_gpus, host.gpus_per_node)
    looked: list[tuple[str, int, Divided]] = []
    tried = refused = 0
    names = question.gpus or cards()
    for name in names:
        get_gpu_config_by_name(name)  # an unknown one is refused, not counted as without room
    for name in names:
        for count in range(1, room + 1):
            tried += 1
            found = best(list(_looked_at(question.of_card(name, count))), question.of_card(name, count).aim)
            if found is None:
                refused += 1
            else:
                looked.append((name, count, found))
    without = _searched(question, "none", 1)
    if not looked and without is None:
        search_policy(
            question.of_card((question.gpus or cards())[0], 1)
        )  # says what is wrong with the question, if anything
    searched: list[Card] = []
    seen: set[str] = set()
    for name, count, _ in sorted(looked, key=lambda one: _rank(question, *one)):
        if name in seen:
            continue
        card = _searched(question, name, count)
        if card is not None:
            seen.add(name)
            searched.append(card)
        if len(searched) == top:
            break
    ordered = sorted(searched, key=lambda card: _rank_of(question, card))
    return CardsAnswer(question, tuple(ordered), without, tried, refused, time.perf_counter() - begin)


def _looked_at(policy: PolicyQuestion) -> Iterator[Divided]:
    """The divisions with every setting at its default, of each system."""
    for system in policy.systems:
        yield from divisions(
            policy.of_system(system), [system], policy.lossless, policy.context, defaults=True
        )


def _searched(question: CardsQuestion, name: str, count: int) -> Card | None:
    """A card with the full search; None where the model does not run with it."""
    policy = question.of_card(name, count)
    try:
        answer = search_policy(policy)
    except SpecError:
        return None
    point = answer.best
    if point is None or point.ttft_s is None or point.tpot_s is None:
        return None
    gpu = get_gpu_config_by_name(name, or_none=True)
    price = None if gpu.absent else gpu_price(gpu.name, None, question.prices) or None
    return Card(gpu, count, point.ttft_s, point.tpot_s, price, answer)


def _rank(question: CardsQuestion, name: str, count: int, found: Divided) -> tuple[float, ...]:
    gpu = get_gpu_config_by_name(name)
    steps = max(question.gen_len - 1, 1)
    return _key(question, gpu.memory_gib * count, found.prefill_s, found.decode_s / steps)


def _rank_of(question: CardsQuestion, card: Card) -> tuple[float, ...]:
    return _key(question, card.memory_gib, card.ttft_s, card.tpot_s)


def _key(question: CardsQuestion, memory_gib: float, ttft_s: float, tpot_s: float) -> tuple[float, ...]:
    """Small first: with targets those that meet them, of these the smallest; others by how far they are off."""
    steps = question.gen_len - 1
    total = ttft_s + tpot_s * steps
    seconds = {"decode": tpot_s, "ttft": ttft_s}.get(question.objective, total)
    if not question.targets:
        return 0.0, seconds, memory_gib
    found = {"ttft": ttft_s, "tpot": tpot_s, "latency": total, "throughput": 1 / tpot_s if tpot_s else 0.0}
    used = max(float(target.used(found[target.name])) for target in question.targets)
    return (0.0, memory_gib, seconds) if used <= 1 else (1.0, used, memory_gib)
