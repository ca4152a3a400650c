"""Collectives and topology: what must hold on any links."""

import dataclasses
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llm_perf.config import ParallelismConfig, get_gpu_config_by_name, get_host_config_by_name
from llm_perf.config.gpu import Link
from llm_perf.hardware.collective import Topology, fabric, with_pcie_share

SIZES = st.floats(1.0, 1e10)
RANKS = st.sampled_from([2, 3, 4, 6, 8, 16, 64])
GPUS = st.sampled_from(
    ["a100-sxm-80gb", "h100-sxm-80gb", "a100-pcie-80gb", "mi300x", "l40s", "t4", "v100-sxm2-16gb"]
)
COLLECTIVES = (
    "all_reduce_s",
    "one_shot_all_reduce_s",
    "all_gather_s",
    "reduce_scatter_s",
    "all_to_all_s",
    "send_s",
)


def joined(gpu_name: str, ranks: int, per_node: int, **link):
    gpu = get_gpu_config_by_name(gpu_name)
    if link:
        gpu = gpu.replace(link=gpu.link.replace(**link))
    return fabric(gpu, ranks, per_node, get_host_config_by_name(gpu.default_host))


@given(gpu=GPUS, size=SIZES, kind=st.sampled_from(COLLECTIVES))
def test_a_collective_over_one_gpu_costs_nothing(gpu, size, kind):
    assert getattr(joined(gpu, 1, 8), kind)(size) == 0


@settings(max_examples=60)
@given(gpu=GPUS, ranks=RANKS, size=SIZES, more=st.floats(1, 10), kind=st.sampled_from(COLLECTIVES))
def test_faster_links_are_never_slower(gpu, ranks, size, more, kind):
    rate = get_gpu_config_by_name(gpu).intra_node_bytes_per_s / 1e9
    slow = joined(gpu, ranks, 8, gb_per_s_per_direction=rate)
    fast = joined(gpu, ranks, 8, gb_per_s_per_direction=rate * more)
    assert getattr(fast, kind)(size) <= getattr(slow, kind)(size)


@given(gpu=st.sampled_from(["a100-sxm-80gb", "h100-sxm-80gb"]), ranks=RANKS, size=SIZES)
def test_larger_nodes_are_never_slower(gpu, ranks, size):
    """More GPUs behind the node's own links: less goes over the network.

    GPUs without such links are left out: a PCIe tree that eight share was measured slower than a network card for each.
    """
    times = [joined(gpu, ranks, per_node).all_reduce_s(size) for per_node in (1, 2, 4, 8, 16, 64)]
    assert times == sorted(times, reverse=True)


@given(ranks=RANKS, size=SIZES)
def test_a_reduce_scatter_and_an_all_gather_move_the_bytes_of_an_all_reduce(ranks, size):
    textbook = dataclasses.replace(joined("a100-sxm-80gb", ranks, 64), latency_s=0.0, sqrt_term_s=0.0)
    both = textbook.reduce_scatter_s(size) + textbook.all_gather_s(size)
    assert both == pytest.approx(textbook.all_reduce_s(size))


@given(ranks=RANKS, size=SIZES, limit=st.floats(0, 1e9))
def test_a_one_shot_kernel_never_makes_an_all_reduce_slower(ranks, size, limit):
    group = joined("h100-sxm-80gb", ranks, 64)
    assert group.small_all_reduce_s(size, limit) <= group.all_reduce_s(size)
    assert group.small_all_reduce_s(size, 0) == group.all_reduce_s(size)


def test_one_shot_wins_for_small_messages_and_rings_for_large_ones():
    group = joined("h100-sxm-80gb", 8, 8)
    assert group.one_shot_all_reduce_s(1e4) < group.all_reduce_s(1e4)
    assert group.one_shot_all_reduce_s(1e8) > group.all_reduce_s(1e8)


def test_tensor_parallelism_over_pcie_is_priced_as_pcie():
    """Bridged pairs: two ranks use the bridge, four cross PCIe, as the operator timings of such a node show.

    Source of the rates: microsoft/vidur, all-reduce on 4 A100 with pairwise NVLink, 198 GB/s over 2 and 24 over 4 ranks.
    """
    two, four = joined("a100-pcie-80gb", 2, 8), joined("a100-pcie-80gb", 4, 8)
    assert two.bytes_per_s == pytest.approx(198e9, rel=0.2)
    assert four.bytes_per_s == pytest.approx(24e9, rel=0.2)


def test_a_mesh_gives_two_ranks_one_of_its_links():
    gpu = get_gpu_config_by_name("mi300x")
    host = get_host_config_by_name(gpu.default_host)
    assert gpu.link.topology == "mesh"
    assert fabric(gpu, 2, 8, host).bytes_per_s == pytest.approx(fabric(gpu, 8, 8, host).bytes_per_s / 7)
    switched = gpu.replace(link=Link(name="switch", gb_per_s_per_direction=448, topology="switch"))
    assert fabric(switched, 2, 8, host).bytes_per_s > fabric(gpu, 2, 8, host).bytes_per_s


def test_a_ring_over_nodes_uses_the_network_cards_of_all_ranks_in_a_node():
    """NCCL's bus bandwidth over two nodes of 8 A100 is that of the 8 cards together, not of one."""
    topology = Topology(
        get_gpu_config_by_name("a100-sxm-80gb"),
        get_host_config_by_name("dgx-a100"),
        ParallelismConfig(tp_size=8, dp_size=2),
        8,
    )
    card = 25e9 * topology.gpu.efficiency.collective.inter_node_efficiency
    assert topology.replicas.bytes_per_s == card  # two ranks, one in each node
    whole = dataclasses.replace(topology, parallelism=ParallelismConfig(dp_size=16)).replicas
    assert whole.bytes_per_s == pytest.approx(8 * card)
    assert whole.nic_bytes_per_s == card  # an all-to-all goes over each rank's own


def test_between_nodes_an_all_to_all_costs_more_than_a_gather():
    group = joined("h100-sxm-80gb", 16, 8)
    assert group.all_to_all_s(1e9) > group.all_gather_s(1e9)


# NCCL's tables in ai-dynamo/aiconfigurator (systems/data/*/comm/nccl/2.27.3/nccl_perf.parquet): microseconds by GPU, ranks
# and collective at 16 KiB, 1 MiB, 16 MiB and 256 MiB.
NCCL = [
    ("a100-sxm-80gb", 8, "all_reduce", (22.55, 38.85, 216.5, 2182.5)),
    ("a100-sxm-80gb", 8, "all_gather", (15.83, 26.79, 135.0, 1216.8)),
    ("a100-sxm-80gb", 8, "all_to_all", (12.57, 25.81, 114.3, 1197.9)),
    ("h100-sxm-80gb", 2, "all_reduce", (6.97, 14.22, 81.4, 881.18)),
    ("h100-sxm-80gb", 8, "all_reduce", (16.69, 25.4, 122.08, 1087.61)),
    ("h100-sxm-80gb", 8, "reduce_scatter", (11.07, 14.69, 71.14, 721.66)),
    ("h100-sxm-80gb", 8, "all_to_all", (7.25, 15.64, 72.58, 763.52)),
    ("b200-180gb", 4, "all_reduce", (15.55, 18.8, 95.18, 657.7)),
    ("b200-180gb", 4, "all_gather", (11.46, 14.51, 57.19, 368.11)),
    ("l40s", 2, "all_reduce", (7.54, 74.76, 850.4, 13373.0)),
    ("l40s", 4, "all_reduce", (16.13, 268.3, 4922.3, 78355.0)),
    ("l40s", 4, "all_gather", (10.55, 154.6, 2646.6, 42720.0)),
]


@pytest.mark.parametrize(("gpu", "ranks", "kind", "measured_us"), NCCL)
def test_collectives_in_a_node_take_the_time_measured_at_every_size(gpu, ranks, kind, measured_us):
    group = joined(gpu, ranks, 8)
    times = [getattr(group, f"{kind}_s")(2.0**power) * 1e6 for power in (14, 20, 24, 28)]
    ratios = [max(ours / theirs, theirs / ours) for ours, theirs in zip(times, measured_us, strict=True)]
    assert max(ratios) < 1.45
    assert math.prod(ratios) ** 0.25 < 1.2


def test_a_host_says_how_fast_its_cards_copy_to_each_other_over_pcie() -> None:
    """Ranks over PCIe take the host's rate, whatever the stack's share of the bus; ranks over a link do not."""
    slow = get_host_config_by_name("two-rtx-pro-6000")
    usual = slow.model_copy(update={"peer_gb_per_s": None})
    card, linked = (
        get_gpu_config_by_name("rtx-pro-6000-blackwell-server"),
        get_gpu_config_by_name("h100-sxm-80gb"),
    )
    assert fabric(card, 2, 2, slow).bytes_per_s == 16e9
    assert fabric(card, 2, 2, usual).bytes_per_s > 30e9
    assert with_pcie_share(fabric(card, 2, 2, slow), card, slow, 0.9).bytes_per_s == 16e9
    assert fabric(linked, 2, 2, slow) == fabric(linked, 2, 2, usual)


EIGHT_RTX_PRO = {32: (24.5, 48.2), 64: (24.1, 48.7), 256: (28.0, 56.5)}
"""Microseconds of NCCL's all-reduce by KiB: behind PCIe switches, and on two CPUs (voipmonitor/rtx6kpro, results.md)."""


@pytest.mark.parametrize("size_kib", EIGHT_RTX_PRO)
def test_eight_cards_over_pcie_start_an_all_reduce_as_late_as_measured(size_kib: int) -> None:
    """Workstation cards of Blackwell on a host whose rate between cards is not known: between the two machines."""
    least, most = EIGHT_RTX_PRO[size_kib]
    card = get_gpu_config_by_name("rtx-pro-6000-blackwell-server")
    host = get_host_config_by_name(card.default_host).model_copy(update={"peer_gb_per_s": None})
    assert least < fabric(card, 8, 8, host).all_reduce_s(size_kib * 1024.0) * 1e6 < most


MIB = 2**20
KERNELS_OF_MI300X = {
    (2, 1): 28.15, (2, 2): 49.67, (2, 4): 93.79, (2, 8): 181.43,
    (4, 1): 22.91, (4, 2): 36.64, (4, 4): 63.86, (4, 8): 118.31,
}  # fmt: skip
"""Microseconds of (ranks, MiB): "vllm cr" of ROCm/aiter pull request 801, "baseline" of sgl-project/sglang one 6619."""


@pytest.mark.parametrize(("ranks", "size_mib"), KERNELS_OF_MI300X)
def test_kernels_of_a_stack_over_a_mesh_take_the_time_that_was_published(ranks: int, size_mib: int) -> None:
    taken = joined("mi300x", ranks, 8).custom_all_reduce_s(size_mib * MIB, 5e-6) * 1e6
    assert abs(math.log(taken / KERNELS_OF_MI300X[ranks, size_mib])) < math.log(1.25)


@given(gpu=st.sampled_from(["mi300x", "mi325x", "mi355x"]), ranks=st.sampled_from([2, 4]), size=SIZES)
def test_kernels_over_a_mesh_use_every_link_once_in_each_direction(gpu: str, ranks: int, size: float) -> None:
    """A rank sends each peer its part twice, once to be added up and once as the sum, over the link between both."""
    group, whole = joined(gpu, ranks, 8), get_gpu_config_by_name(gpu)
    link = whole.intra_node_bytes_per_s / 7 * whole.efficiency.collective.bus_efficiency
    assert group.custom_all_reduce_s(size, 0.0) == pytest.approx(2 * size / ranks / link)


@given(ranks=st.sampled_from([2, 4]), size=SIZES, small=st.floats(0.0, 1e-5))
def test_kernels_over_a_mesh_are_never_slower_than_the_ring_by_more_than_their_start(ranks, size, small):
    group = joined("mi300x", ranks, 8)
    assert group.custom_all_reduce_s(size, small) <= group.all_reduce_s(size) + 1.6 * small


@pytest.mark.parametrize(
    "gpu", ["l40s-48gb", "rtx-4090-24gb", "a100-pcie-40gb", "h100-sxm-80gb", "mi300x-192gb"]
)
def test_an_all_to_all_over_nodes_takes_what_passes_each_ranks_port(gpu: str):
    """Cards on PCIe send to the network by the port that they share inside a node: two nodes have no wider one.

    Behind a link of their own, what stays in the node takes that link.
    """
    inside, twice = joined(gpu, 8, 8), joined(gpu, 8, 4)
    assert twice.one_port == (gpu not in ("h100-sxm-80gb", "mi300x-192gb"))
    size = 1e9
    assert twice.all_to_all_s(size) >= (7 if twice.one_port else 3) / 8 * size / inside.bytes_per_s
    assert joined(gpu, 8, 1).port_bytes_per_s == math.inf  # one card a node shares its port with none


def test_a_stacks_share_of_pcie_bounds_a_ring_over_nodes_too():
    gpu = get_gpu_config_by_name("a100-pcie-40gb")
    host = get_host_config_by_name(gpu.default_host)
    share = 0.1
    inside, twice = (with_pcie_share(fabric(gpu, 8, in_node, host), gpu, host, share) for in_node in (8, 4))
    assert twice.bytes_per_s <= inside.bytes_per_s == pytest.approx(share * gpu.pcie_gb_per_s * 1e9)
    slow = with_pcie_share(fabric(gpu, 8, 1, host), gpu, host, 1.0)
    assert slow.bytes_per_s == fabric(gpu, 8, 1, host).bytes_per_s  # the network is narrower
