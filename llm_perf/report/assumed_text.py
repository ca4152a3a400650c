"""What an answer rests on that was not said: which model and board a name stands for, which memory, network and machine."""

from __future__ import annotations

import re
from collections.abc import Iterator

from llm_perf.analysis.inference import InferenceResult, Phase
from llm_perf.config.base import Spec
from llm_perf.config.formats import nearest_mixture
from llm_perf.config.gpu import GPUConfig
from llm_perf.config.host import HostConfig
from llm_perf.config.loading import known_names
from llm_perf.config.model import ModelConfig
from llm_perf.config.named_models import is_model_file
from llm_perf.config.names import normalise

__all__ = ["meant_names", "said_of_inference", "said_of_machine"]

_BOARD = re.compile(r"-(?:sxm\d?|pcie|nvl|\d+c)(?=-|$)")
_MEMORY = re.compile(r"-\d+gb$")
_BUSY = 0.05
"""Share of a phase from which on what a resource does is worth a line."""


def meant_names(asked: Spec, found: ModelConfig, device: GPUConfig) -> Iterator[str]:
    """A line for each name that a spec of another answers: the model's, a format's, the board that a GPU's leaves open.

    ``asked`` has the names as typed: ``model``, ``gpu`` and, of an inference, ``weight_format``.
    """
    model, gpu = str(getattr(asked, "model", "")), str(getattr(asked, "gpu", ""))
    if model and not _is_file(model):
        from llm_perf.config.repackaged import meant_model

        meant = meant_model(model, found)
        if meant is not None:
            yield f"{model} is answered as {meant}"
    if gpu and (other := _meant_board(gpu, device)) is not None:
        yield f"{gpu} is answered as {other}"
    stored = getattr(asked, "weight_format", None)
    if stored and (mixture := nearest_mixture(stored)) is not None:
        yield f"{stored} is answered as {mixture}, the nearest known to it in size"


def _is_file(model: str) -> bool:
    return is_model_file(model) and not model.lower().endswith(".gguf")


def _meant_board(typed: str, device: GPUConfig) -> str | None:
    """The GPU that a name was taken for where the name leaves its board or its memory open, with what else it may mean."""
    own = normalise(device.name)
    if device.absent or normalise(typed) == own or typed.lower().endswith((".yaml", ".yml", ".json")):
        return None
    plain = _BOARD.sub("", _MEMORY.sub("", own))
    said = normalise(typed)
    others = [
        name
        for name in known_names("GPU")
        if name != own and _BOARD.sub("", _MEMORY.sub("", normalise(name))) == plain
    ]
    open_board = bool(_BOARD.search(own)) and not _BOARD.search(said)
    open_memory = bool(others) and not _MEMORY.search(said)
    if not open_board and not open_memory:
        return None
    return device.name + (f" (others: {', '.join(others[:4])})" if others else "")


def said_of_inference(result: InferenceResult, asked: Spec | None = None) -> Iterator[str]:
    """Lines on host memory, network and machine, each where it enters the answer."""
    scenario = result.scenario
    busy = {
        resource: max(
            (phase.busy_s.get(resource, 0.0) / phase.latency_s for phase in _phases(result)), default=0.0
        )
        for resource in ("cpu", "pcie")
    }
    on_host = result.memory.cpu.weights_bytes > 0 or result.memory.cpu.kv_cache_bytes > 0
    if scenario.gpu.absent or (busy["cpu"] > _BUSY and on_host):
        yield host_memory_text(scenario.host)
    elif busy["pcie"] > _BUSY and on_host:
        yield link_text(scenario.gpu, scenario.host)
    yield from said_of_machine(scenario.gpu, scenario.host, scenario.num_nodes, asked)


def _phases(result: InferenceResult) -> Iterator[Phase]:
    yield result.prefill
    if result.decode is not None:
        yield result.decode


def host_memory_text(host: HostConfig) -> str:
    """The rate of the host's memory that is assumed, and the flags that say another."""
    if host.read_gb_per_s is not None:
        return f"host memory reads at {host.read_gb_per_s:g} GB/s, as --host-bandwidth says"
    stated = host.memory_bandwidth_gb_per_s_per_socket
    if stated is None:
        return "host memory: its rate is not known; --host-bandwidth says it"
    channels = ""
    if host.memory_channels_per_socket is not None and host.memory_mt_per_s is not None:
        sockets = f"{host.sockets} x " if host.sockets > 1 else ""
        channels = f"{sockets}{host.memory_channels_per_socket} channels of {host.memory_mt_per_s:g} MT/s, "
    return (
        f"host memory: {channels}{host.sockets * stated:g} GB/s by its sheet, {host.memory_gib:g} GiB; another: "
        "--host-bandwidth, --host-memory, --host"
    )


def link_text(gpu: GPUConfig, host: HostConfig) -> str:
    """The link that weights stream over, and how another is said."""
    rates = [rate for rate in (gpu.pcie_bytes_per_s, host.pcie_bytes_per_s) if rate is not None]
    rate = f"{min(rates) / 1e9:.4g} GB/s by its sheet" if rates else "not known"
    return f"host-to-GPU link: {rate}; {host.memory_gib:g} GiB of host memory; another: --host, --host-memory"


def said_of_machine(
    gpu: GPUConfig, host: HostConfig, num_nodes: int, asked: Spec | None = None
) -> Iterator[str]:
    """What joins the nodes, and that nobody sells the machine, where these are."""
    if num_nodes > 1:
        rate = host.nic_gb_per_s or gpu.inter_node_gb_per_s
        whose = f"of {host.name}" if host.nic_gb_per_s is not None else "assumed"
        another = f"{whose}); another: --network-bandwidth"
        if getattr(asked, "network_bandwidth", None) is not None:
            another = "as asked)"
        yield f"network between nodes: {rate:g} GB/s per GPU and direction ({8 * rate:g} Gb/s, {another}"
    if host.improvised and host.notes is not None:
        yield f"host {host.name} is assumed: {host.notes}"
