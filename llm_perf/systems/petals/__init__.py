"""Petals: layers over servers in a network, several clients that go from server to server.

A server works on one client's request at a time, so C clients and p servers are a closed loop: a round takes as long
as one client's way through all servers and links, or as C requests at the slowest of them, whichever is longer
(asymptotic bounds of closed queueing networks, Denning and Buzen, ACM Computing Surveys 10(3), 1978; requests of equal
length that take turns reach them). Source of the system: arXiv 2209.01188.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from llm_perf.config.scenario import Scenario
from llm_perf.counts.arrays import Number, maximum, minimum
from llm_perf.counts.products import lm_head_products
from llm_perf.counts.quadrature import context_nodes
from llm_perf.errors import SpecError
from llm_perf.systems.base import (
    ALL_ON_GPU,
    NO_MEMORY,
    Evaluation,
    Load,
    MemoryParts,
    MemoryUse,
    PhaseCost,
    Placement,
    System,
)
from llm_perf.systems.costs import Costs
from llm_perf.systems.footprint import layers_weight_bytes, stage_kv_bytes, stage_layer_share
from llm_perf.systems.forward import Forward, decode_steps
from llm_perf.systems.products import gemm_rates_used
from llm_perf.systems.resident import gpu_memory, notes
from llm_perf.systems.terms import Factor, Term

_HEAD_PARTS = ("lm_head", "all_gather", "pipeline_transfer")


class Petals(System):
    """Pipeline of servers in a network; ``pp_size`` is the number of servers, the batch that of all clients."""

    name = "petals"

    def check(self, scenario: Scenario) -> None:
        """Refuse what a swarm of servers does not do.

        Raises:
            SpecError: with what would work.
        """
        p, offload = scenario.parallelism, scenario.offload
        if p.tp_size > 1 or p.dp_size > 1 or p.ep_size > 1:
            raise SpecError(
                "system petals puts successive layers on one server per GPU: set pp_size to the number of GPUs and leave "
                "tp_size, dp_size and ep_size at 1"
            )
        if any(s is not None and s.gpu < 1 for s in (offload.weights, offload.kv_cache, offload.activations)):
            raise SpecError(
                "system petals keeps everything on the servers' GPUs; add servers (pp_size) instead"
            )
        if scenario.model.encoder:
            raise SpecError(f"system petals generates text, and {scenario.model.name} is an encoder")
        if scenario.host.memory_bandwidth_gb_per_s_per_socket is None:
            raise SpecError(
                f"host {scenario.host.name} states no memory bandwidth, so the head on the client's CPU cannot be priced"
            )

    def place(self, scenario: Scenario, load: Load) -> Placement:  # noqa: ARG002 - the interface of System
        """Everything on the servers' GPUs; table and head with the clients."""
        return Placement(
            ALL_ON_GPU, ALL_ON_GPU, ALL_ON_GPU, "layers on the servers, table and head with the clients"
        )

    def memory(self, scenario: Scenario, load: Load, placement: Placement) -> MemoryUse:  # noqa: ARG002 - likewise
        """Memory of the fullest server."""
        return server_memory(scenario, load, self.constants(scenario))

    def evaluate(self, scenario: Scenario, load: Load) -> Evaluation:
        """Placement, memory and both phases of a round of all clients."""
        constants = self.constants(scenario)
        loop = Loop(scenario, constants, load)
        return Evaluation(
            self.place(scenario, load),
            server_memory(scenario, load, constants),
            loop.prefill(load.prompt_len),
            loop.decode(load),
            notes(scenario),
        )


def server_memory(scenario: Scenario, load: Load, constants: dict[str, float]) -> MemoryUse:
    """Memory of the fullest server: its layers, the caches of all clients, the activations of one."""
    clients = minimum(constants["parallel_clients"], load.batch)
    one = Load(load.batch / clients, load.prompt_len, load.gen_len)
    whole = gpu_memory(scenario, one, constants)
    gpu = MemoryParts(
        weights_bytes=layers_weight_bytes(scenario) * stage_layer_share(scenario),
        kv_cache_bytes=stage_kv_bytes(scenario, load.batch, load.context_len),
        activations_bytes=whole.activations_bytes,
        buffers_bytes=0.0,
        reserved_bytes=whole.reserved_bytes,
        capacity_bytes=whole.capacity_bytes,
    )
    return MemoryUse(gpu, NO_MEMORY, NO_MEMORY)


@dataclass(frozen=True, slots=True)
class _Visit:
    """One client's request: at the slowest server, at all servers, on the links of one server and of all, at the client."""

    slowest_server_s: Number
    servers_s: Number
    server_link_s: Number
    links_s: Number
    client_s: Number

    def served_s(self, clients: Number) -> Number:
        """Seconds of a round that belong to the servers: the way through them, or the turns at the slowest."""
        return maximum(clients * self.slowest_server_s, self.servers_s)

    def round_s(self, clients: Number) -> Number:
        """Seconds until every client has had one request served."""
        way = self.servers_s + self.links_s + self.client_s
        return maximum(maximum(clients * self.slowest_server_s, clients * self.server_link_s), way)


class Loop:
    """C clients that go round p servers."""

    def __init__(self, scenario: Scenario, constants: dict[str, float], load: Load) -> None:
        self.scenario, self.constants = scenario, constants
        self.forward = Forward(scenario, constants)
        self.clients = minimum(constants["parallel_clients"], load.batch)
        self.batch = load.batch / self.clients
        self.servers = scenario.parallelism.pp_size

    def prefill(self, prompt_len: Number) -> PhaseCost:
        """All clients' prompts."""
        costs = self.forward.prefill(self.batch, prompt_len, with_head=False)  # the client computes it
        visit = self._visit(_layers_s(costs), self.batch * prompt_len)
        return self._phase(costs, visit.round_s(self.clients), visit.served_s(self.clients), visit, 1.0)

    def decode(self, load: Load) -> PhaseCost:
        """All steps of all clients: step i works on a context of prompt_len + i tokens."""
        costs, attention = self.forward.decode_step(self.batch)
        steps = decode_steps(load)
        total: Number = 0.0
        served: Number = 0.0
        base = _layers_s(costs)
        # Attention grows until the servers' least time no longer hides it: a corner.
        kinks = (*self.forward.windows, self.forward.context_when(attention, self.least_s - base))
        for context, weight in context_nodes(load.prompt_len + 1, steps, kinks):
            visit = self._visit(base + self.forward.attention_s(attention, context), self.batch)
            total = total + weight * visit.round_s(self.clients)
            served = served + weight * visit.served_s(self.clients)
        return self._phase(costs, total, served, self._visit(base, self.batch), steps)

    @property
    def least_s(self) -> float:
        """A server's framework sets the least time of each layer."""
        return self.scenario.model.num_layers * self.constants["server_ms_per_layer"] * 1e-3

    def _visit(self, layers_s: Number, tokens: Number) -> _Visit:
        """``layers_s``: all layers of one request on the device."""
        c, model = self.constants, self.scenario.model
        servers = maximum(layers_s, self.least_s)
        size = tokens * model.hidden_size * self.scenario.dtype.activation_bits / 8
        message = c["hop_latency_ms"] * 1e-3 + size / (c["network_gb_per_s"] * 1e9)
        messages = c["messages_per_server"] if self.servers > 1 else 0.0
        return _Visit(
            slowest_server_s=servers * stage_layer_share(self.scenario),
            servers_s=servers,
            server_link_s=size / (c["network_gb_per_s"] * 1e9) if self.servers > 1 else 0.0,
            links_s=messages * self.servers * message,
            client_s=self._client_s() if self.servers > 1 else 0.0,
        )

    def _client_s(self) -> float:
        """The head on the client's CPU reads its weights once per step."""
        bandwidth = self.scenario.host.memory_bandwidth_gb_per_s_per_socket
        assert bandwidth is not None
        c = self.constants
        weights = sum(product.weights for product in lm_head_products(self.scenario.model))
        return weights * c["client_bytes_per_logit_weight"] / (bandwidth * 1e9 * c["client_bandwidth_share"])

    def _phase(
        self, costs: Costs, total: Number, servers_s: Number, visit: _Visit, passes: Number
    ) -> PhaseCost:
        """Exposed parts: the servers, waiting for their turn included, then the client's head; the rest is the network."""
        servers = minimum(servers_s, total)
        client = minimum(passes * visit.client_s, total - servers)
        parts = {"servers": servers, "client_head": client, "network": total - servers - client}
        way_s = visit.servers_s + visit.links_s + visit.client_s
        # Clients are on their way beside one another: busy times are of one of them, as long as all take.
        rounds = minimum(passes * self.clients, total / way_s)
        busy = {name: rounds * seconds for name, seconds in costs.busy_s.items()}
        busy["host"] = rounds * (visit.servers_s + visit.client_s)
        busy["interconnect"] = rounds * visit.links_s

        def terms() -> Iterator[Term]:
            of = gemm_rates_used(self.forward.rates.gemm)
            for name, seconds in parts.items():
                yield Term(name, name.replace("_", " "), (Factor("seconds of all rounds", seconds, of),))

        return PhaseCost(total, parts, busy, terms=terms)


def _layers_s(costs: Costs) -> Number:
    """Seconds of the layers alone: the head is the client's, the links are the network's."""
    total: Number = 0.0
    for name, seconds in costs.parts_s.items():
        if name not in _HEAD_PARTS:
            total = total + seconds
    return total
