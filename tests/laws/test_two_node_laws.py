"""Tensor ranks on two nodes: what they exchange takes the network, whatever kernels a stack has inside a node."""

from __future__ import annotations

import dataclasses
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llm_perf.api import predict
from llm_perf.config import get_gpu_config_by_name, get_host_config_by_name
from llm_perf.hardware.collective import Fabric, fabric

STACKS = ["vllm@0.7", "vllm@0.10", "vllm", "sglang@0.4", "sglang", "tensorrt_llm@1.0", "tensorrt_llm"]
GPUS = ["h100-sxm-80gb", "h20-sxm-141gb", "a100-sxm-80gb", "b200-180gb", "mi300x"]


def all_reduces_s(system: str, gpu: str, batch: int, ranks: int, nodes: int) -> float:
    """What the all-reduces of all decode steps of a run take."""
    found = predict(
        "llama-3.1-70b",
        gpu,
        system=system,
        tp_size=ranks,
        num_gpus=ranks // nodes,
        num_nodes=nodes,
        batch_size=batch,
        prompt_len=64,
        gen_len=2,
    )
    return found.result.decode.breakdown_s["all_reduce"]


def latencies_s(gpu: str, ranks: int, in_node: int) -> float:
    """Starts of the all-reduces of a step, as the library has them: two in each of 80 layers."""
    found = get_gpu_config_by_name(gpu)
    return 160 * fabric(found, ranks, in_node, get_host_config_by_name(found.default_host)).latency_s


@pytest.mark.parametrize(
    ("system", "gpu"),
    [(system, gpu) for system in STACKS for gpu in GPUS if ("tensorrt" in system, gpu) != (True, "mi300x")],
)
def test_an_all_reduce_over_two_nodes_is_never_quicker_than_within_one(system: str, gpu: str) -> None:
    """Message by message, from one token's hidden state to a thousand's: a stack's own kernels end at the node.

    Two nodes of as many GPUs each, and one whose GPUs are shared out to two. Each message starts as the library's does.
    """
    for batch in (1, 8, 64, 1024):
        inside = all_reduces_s(system, gpu, batch, 8, 1)
        twice, halved = (all_reduces_s(system, gpu, batch, ranks, 2) for ranks in (16, 8))
        assert inside < min(twice, halved)
        assert twice > latencies_s(gpu, 16, 8)
        assert halved > latencies_s(gpu, 8, 4)


@settings(max_examples=40)
@given(gpu=st.sampled_from(GPUS), size=st.floats(1.0, 1e9), doublings=st.integers(1, 4))
def test_more_nodes_of_as_many_gpus_never_exchange_sooner(gpu: str, size: float, doublings: int) -> None:
    found = get_gpu_config_by_name(gpu)
    host = get_host_config_by_name(found.default_host)
    fewer, more = (fabric(found, 8 * 2**power, 8, host) for power in (doublings - 1, doublings))
    assert fewer.all_reduce_s(size) < more.all_reduce_s(size)
    assert fewer.all_gather_s(size) < more.all_gather_s(size)


def cards(gpu: str, ranks: int, in_node: int, card_gb_per_s: float) -> Fabric:
    """Ranks on nodes whose GPUs have network cards of so much each."""
    found = get_gpu_config_by_name(gpu)
    host = get_host_config_by_name(found.default_host).replace(nic_gb_per_s=card_gb_per_s)
    return fabric(found, ranks, in_node, host)


OVER_NODES = {
    "two nodes of eight H100": (
        ("h100-sxm-80gb", 16, 8, 50),
        (24.7, 32.2, 33.1, 46.8, 71.5, 94.2, 183.8, 466),
    ),
    "four nodes of eight H100": (("h100-sxm-80gb", 32, 8, 50), (34.8, 46.4, 47.6, 66.9, 82.2, 154, 258, 574)),
    "two nodes of four GH200": (("h100-sxm-80gb", 8, 4, 25), (18.3, 39.0, 70.1, 113.7, 167, 288, 451, 1015)),
}
"""Microseconds that nccl-tests' all_reduce_perf prints, in place, at 8 bytes, 16, 64 and 256 KiB, 1, 4, 16 and 64 MiB.

Sources: NVIDIA/nccl-tests issue 309 (8 x 400 Gb/s InfiniBand), CSCS's container of nccl-tests (4 x 200 Gb/s Slingshot).
"""
SIZES = [8, *(2**power for power in (14, 16, 18, 20, 22, 24, 26))]


@pytest.mark.parametrize("machine", OVER_NODES)
def test_all_reduces_over_nodes_take_the_time_measured_at_every_size(machine: str) -> None:
    (gpu, ranks, in_node, card), measured_us = OVER_NODES[machine]
    group = cards(gpu, ranks, in_node, card)
    ratios = [
        group.all_reduce_s(size) * 1e6 / theirs for size, theirs in zip(SIZES, measured_us, strict=True)
    ]
    assert all(0.5 < ratio < 2.3 for ratio in ratios), ratios
    mean = math.exp(sum(abs(math.log(ratio)) for ratio in ratios) / len(ratios))
    assert mean < 1.65, mean


@pytest.mark.parametrize("machine", ["two nodes of eight H100", "two nodes of four GH200"])
def test_messages_of_megabytes_fill_the_network_as_slowly_as_measured(machine: str) -> None:
    """With the root of the size that links inside a node have, they would be over sooner than measured."""
    (gpu, ranks, in_node, card), measured_us = OVER_NODES[machine]
    group = cards(gpu, ranks, in_node, card)
    inside = get_gpu_config_by_name(gpu).efficiency.collective.sqrt_term_us * 1e-6
    assert group.sqrt_term_s > 5 * inside
    as_inside = dataclasses.replace(group, sqrt_term_s=inside)
    for size, theirs in list(zip(SIZES, measured_us, strict=True))[4:6]:
        assert as_inside.all_reduce_s(size) * 1e6 < theirs
