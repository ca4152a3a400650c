"""Bundled accelerators, hosts and efficiencies: complete, plausible, as their data sheets say, with their sources."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from llm_perf.config import (
    GPUConfig,
    GPUEfficiency,
    HostConfig,
    get_gpu_config_by_name,
    get_host_config_by_name,
)
from llm_perf.config.gpu import TEXTBOOK
from llm_perf.config.host import pcie_link_gb_per_s
from llm_perf.config.loading import load_spec, resolve_name
from llm_perf.config.parallelism import ActivationRecomputation, DSZeRO
from tests.unit.hardware_files import EFFICIENCIES, GPUS, HOSTS, SPECS, raw


def test_all_accelerators_and_hosts_are_there() -> None:
    assert len(GPUS) >= 68
    assert {"gcp-t4", "dgx-2", "a6000-workstation", "h100-spr-host", "flexgen-reproduction"} <= set(HOSTS)


@pytest.mark.parametrize("stem", GPUS)
def test_a_gpu_is_complete(stem: str) -> None:
    gpu = get_gpu_config_by_name(stem)
    assert stem == gpu.name.lower().replace(" ", "-")
    assert gpu.source
    assert gpu.vendor
    assert gpu.architecture
    assert gpu.year
    assert gpu.memory_type
    assert gpu.default_host in HOSTS
    assert get_host_config_by_name(gpu.default_host).name == gpu.default_host
    assert gpu.efficiency is not TEXTBOOK
    written = raw("gpus", stem)
    while "efficiency" not in written:
        written = raw("gpus", resolve_name("GPU", written["extends"]))
    assert written["efficiency"] in EFFICIENCIES


@pytest.mark.parametrize("stem", GPUS)
def test_a_gpus_memory_is_plausible(stem: str) -> None:
    gpu = get_gpu_config_by_name(stem)
    # Apple lets a GPU have three quarters of the memory that it shares with the CPU, two thirds of less than 36 GB, and AMD's
    # firmware sets three quarters apart.
    shares = gpu.vendor == "apple" or stem.startswith("radeon-8060s")
    # ECC takes 1/16 of GDDR6 and the driver up to 2 % of the rest.
    least = 0.66 if shares else 0.918
    assert least * gpu.memory_gib <= gpu.usable_memory_gib <= gpu.memory_gib
    # Reading the whole memory once takes between 14 ms (RTX 3080) and 260 ms (M2 Ultra with 192 GB); memory that a CPU
    # shares is larger for its rate, up to 670 ms (M3 Ultra with 512 GB).
    unified = gpu.pcie is None and get_host_config_by_name(str(gpu.default_host)).pcie_bytes_per_s is None
    assert 0.01 < gpu.memory_bytes / gpu.hbm_bandwidth_bytes_per_s < (0.7 if unified else 0.3)


@pytest.mark.parametrize("stem", GPUS)
def test_a_gpus_peaks_are_plausible(stem: str) -> None:
    gpu = get_gpu_config_by_name(stem)
    peak = gpu.peak_tflops
    wide = peak.get("fp16", peak.get("bf16"))
    if wide is None:  # P40 and Apple: products run in fp32
        assert gpu.dtype_for(16) == "fp32"
        return
    assert wide >= peak.get("fp32", 0)
    assert wide >= peak.get("tf32", 0)
    assert peak.get("fp8", wide) >= wide
    assert peak.get("fp4", wide) >= wide
    if "bf16" in peak and stem != "mi100-32gb":  # the only one with bf16 at half rate
        assert peak["bf16"] == wide
    if gpu.architecture != "blackwell-ultra":  # which gave up int8
        assert peak.get("int8", wide) >= wide
    # Rooflines bend between 25 (P100) and 560 (TPU v6e) FLOP per byte, at 950 where a data centre's tensor cores have a
    # laptop's memory.
    most = 1000 if stem == "jetson-thor-128gb" else 600
    assert 20 < wide * 1e12 / gpu.hbm_bandwidth_bytes_per_s < most


def test_only_geforce_cards_gain_by_16_bit_accumulation() -> None:
    faster = {stem for stem in GPUS if get_gpu_config_by_name(stem).fp16_accumulate_tflops is not None}
    geforce = {stem for stem in GPUS if re.fullmatch(r"rtx-\d{4}d?(-ti|ti)?(-super|-laptop)?-\d+gb", stem)}
    assert faster == geforce
    for stem in faster:
        gpu = get_gpu_config_by_name(stem)
        assert gpu.fp16_accumulate_tflops == pytest.approx(2 * gpu.peak_tflops["fp16"], rel=0.01)


@pytest.mark.parametrize("stem", GPUS)
def test_a_gpus_links_are_plausible(stem: str) -> None:
    gpu = get_gpu_config_by_name(stem)
    link = re.fullmatch(r"gen(\d)x(8|16)", gpu.pcie or "")
    if link:
        assert gpu.pcie_gb_per_s == pytest.approx(pcie_link_gb_per_s(int(link[1]), int(link[2])), rel=0.001)
    else:
        assert gpu.pcie in (None, "nvlink-c2c")
        assert (gpu.pcie is None) == (gpu.pcie_gb_per_s is None)
    assert (gpu.link.name == "none") == (gpu.link.topology == "none")
    if (
        gpu.link.gb_per_s_per_direction is not None
        and gpu.pcie_gb_per_s is not None
        and gpu.pcie != "nvlink-c2c"
    ):
        assert gpu.link.gb_per_s_per_direction > gpu.pcie_gb_per_s
    assert gpu.inter_node_gb_per_s <= 112


# Peaks in TFLOP/s, GiB, GB/s, GB/s per direction, W. NVIDIA data sheets of T4 (DS-09192), A100 (nvidia-a100-datasheet,
# 2021), H100 and H200 (SXM columns; dense, that is half of the figures with sparsity), AMD data sheet of MI300X.
DATA_SHEETS = [
    ("t4-16gb", {"fp32": 8.1, "fp16": 65, "int8": 130}, 16, 320, None, 70),
    ("a100-sxm-80gb", {"fp32": 19.5, "tf32": 156, "bf16": 312, "int8": 624}, 80, 2039, 300, 400),
    ("h100-sxm-80gb", {"fp32": 67, "bf16": 989.5, "fp8": 1979}, 80, 3350, 450, 700),
    ("h200-sxm-141gb", {"fp32": 67, "bf16": 989.5, "fp8": 1979}, 141, 4800, 450, 700),
    ("mi300x-192gb", {"fp32": 163.4, "fp16": 1307.4, "fp8": 2614.9}, 192, 5300, 448, 750),
]


@pytest.mark.parametrize(("stem", "peaks", "memory", "bandwidth", "link", "power"), DATA_SHEETS)
def test_data_sheet_values(
    stem: str, peaks: dict[str, float], memory: float, bandwidth: float, link: float | None, power: float
) -> None:
    gpu = get_gpu_config_by_name(stem)
    assert {dtype: gpu.peak_flops_per_s(dtype) for dtype in peaks} == {k: v * 1e12 for k, v in peaks.items()}
    assert (gpu.memory_gib, gpu.hbm_bandwidth_gb_per_s, gpu.tdp_w) == (memory, bandwidth, power)
    assert gpu.link.gb_per_s_per_direction == link


# cli99/llm-analysis, gpu_configs of docs-6bacd4f: GB, HBM GB/s, GPU link GB/s, peak fp16. Its v100-sxm-16gb has 32 GB
# and its mi250 3200 GB/s by mistake, so these are left out.
LLM_ANALYSIS = [
    ("a100-pcie-40gb", 40, 1555, 300, 312),
    ("a100-pcie-80gb", 80, 1935, 300, 312),
    ("a100-sxm-40gb", 40, 1555, 300, 312),
    ("a100-sxm-80gb", 80, 2039, 300, 312),
    ("a10g-pcie-24gb", 24, 600, 31.5, 70),
    ("a6000-48gb", 48, 768, 56.25, 154.8),
    ("h100-pcie-80gb", 80, 2000, 300, 756),
    ("h100-sxm-80gb", 80, 3350, 450, 989.5),
    ("mi100-32gb", 32, 1229, 138, 184.6),
    ("mi210-64gb", 64, 1638, 150, 181),
    ("v100-pcie-16gb", 16, 900, 15.75, 112),
    ("v100-pcie-32gb", 32, 900, 15.75, 112),
    ("v100-sxm-32gb", 32, 900, 150, 125),
]


@pytest.mark.parametrize(("name", "memory", "bandwidth", "link", "peak"), LLM_ANALYSIS)
def test_seed_002_finds_its_gpus_and_their_figures(
    name: str, memory: float, bandwidth: float, link: float, peak: float
) -> None:
    gpu = get_gpu_config_by_name(name)
    assert gpu.mem_per_GPU_in_GB == memory
    assert gpu.hbm_bandwidth_in_GB_per_sec == bandwidth
    assert gpu.intra_node_bandwidth_in_GB_per_sec == link
    assert gpu.peak_fp16_TFLOPS == peak


@pytest.mark.parametrize("stem", EFFICIENCIES)
def test_an_efficiency_is_complete_and_plausible(stem: str) -> None:
    efficiency = load_spec("efficiency", GPUEfficiency, stem)
    assert efficiency.knee_exponent == 4
    assert efficiency.source
    if efficiency.evidence == "assumed":
        assert "assumed" in efficiency.source
    for gemm in efficiency.gemm.values():
        assert 0.2 < gemm.flops_efficiency < 1
        assert 0.45 < gemm.memory_efficiency < 1
        assert gemm.floor_us <= 10
        assert gemm.residual is None or 1 < gemm.residual < 1.2
    # Constants of measured products say how well they fit; assumed ones have nothing to fit.
    fitted = any(gemm.residual is not None for gemm in efficiency.gemm.values())
    assert fitted == (efficiency.evidence != "assumed")
    alpha = efficiency.collective.alpha_us
    assert set(alpha) == {2, 4, 8}
    assert 0 < alpha[2] < alpha[4] < alpha[8]
    assert 0.1 < efficiency.collective.bus_efficiency <= 1


def test_every_efficiency_is_used() -> None:
    assert {raw("gpus", stem).get("efficiency") for stem in GPUS} - {None} == set(EFFICIENCIES)


COPY_PATHS = {
    "pinned_h2d", "pageable_h2d", "mmap_h2d", "growing_slice_h2d", "cpu_attention_kv", "cpu_weights",
}  # fmt: skip


def rates_of(host: HostConfig) -> dict[str, Any]:
    """All rates of a host by name, those of its disk with ``disk.`` before them."""
    own = ("cpu_attention_kv", "pinned_h2d", "pinned_d2h", "pageable_h2d", "growing_slice_h2d", "fresh_d2h")
    paths = ("direct_read", "direct_write", "buffered_read", "buffered_write", "mmap_read")
    rates = {name: getattr(host, name) for name in own} | dict(host.copies)
    rates |= {f"disk.{path}": getattr(host.disk, path) for path in paths if host.disk}
    return {name: rate for name, rate in rates.items() if rate is not None}


@pytest.mark.parametrize("stem", HOSTS)
def test_a_host_is_complete_and_plausible(stem: str) -> None:
    host = get_host_config_by_name(stem)
    assert host.name == stem
    assert host.source
    assert 0.9 * host.memory_gib < host.usable_memory_gib <= host.memory_gib
    if host.pcie_generation is not None:
        link = pcie_link_gb_per_s(host.pcie_generation, host.pcie_lanes)
        assert host.pcie_gb_per_s == pytest.approx(link, rel=0.001)
    for name, rate in rates_of(host).items():
        assert rate.source, name
        path = name.rpartition(".")[2]
        if not name.startswith("disk.") and "." in name:
            assert path in COPY_PATHS, name
        if path.endswith(("h2d", "d2h")):  # no copy is faster than the link that it goes over
            assert host.pcie_gb_per_s
            assert rate.gb_per_s <= host.pcie_gb_per_s
        if path in ("cpu_attention_kv", "cpu_weights") and host.memory_bandwidth_gb_per_s_per_socket:
            assert rate.gb_per_s < host.memory_bandwidth_gb_per_s_per_socket * host.sockets
    if (
        host.disk and host.disk.direct_read
    ):  # software that reads directly comes near to what the device is sold for
        assert 0.8 < host.disk.direct_read.gb_per_s / host.disk.stated_read_gb_per_s < 1.5


def test_hosts_without_measurements_state_no_rates() -> None:
    measured = {stem for stem in HOSTS if rates_of(get_host_config_by_name(stem))}
    assert measured == {"gcp-t4", "h100-spr-host"}


def test_unified_memory_has_no_link_to_stream_over() -> None:
    for stem in ("apple", "apple-m2-ultra"):
        assert get_host_config_by_name(stem).pcie_bytes_per_s is None
    assert get_gpu_config_by_name("m2-ultra").pcie_bytes_per_s is None


def test_a_gpu_and_its_default_host_have_the_same_kind_of_link() -> None:
    # The card is gen4 on a gen3 CPU, or gen6 on a gen5 CPU.
    slower_host = {"l4-24gb", "b300-sxm"}
    for stem in GPUS:
        gpu = get_gpu_config_by_name(stem)
        assert gpu.default_host
        host = get_host_config_by_name(gpu.default_host)
        if stem in slower_host:
            assert host.pcie_gb_per_s
            assert gpu.pcie_gb_per_s
            assert host.pcie_gb_per_s < gpu.pcie_gb_per_s
        elif gpu.pcie is not None and gpu.pcie.endswith("x8"):  # half of the slot's lanes
            assert host.pcie_gb_per_s == pytest.approx(2 * float(gpu.pcie_gb_per_s or 0)), stem
        else:
            assert host.pcie_gb_per_s == gpu.pcie_gb_per_s, stem


# -- what is written stays presentable ---------------------------------------------------------------------------

FILES = sorted(file for folder in ("gpus", "hosts", "efficiency") for file in (SPECS / folder).glob("*.yaml"))


@pytest.mark.parametrize("file", FILES, ids=lambda file: f"{file.parent.name}/{file.stem}")
def test_files_name_public_sources_only(file: Path) -> None:
    text = file.read_text("utf-8")
    assert not re.search(r"(?<![\w.])/\w+/|\.\./", text)  # no path of anybody's machine
    assert max(map(len, text.splitlines())) <= 125


def test_a_peak_of_zero_in_seed_002s_arguments_is_a_format_that_the_gpu_lacks() -> None:
    """llm-analysis' V100 files say 0 and its 8-bit predictions divide by it; here the next wider format runs."""
    gpu = GPUConfig("v100", 16, 900, 16, 8e-6, 112, 0, 0)
    assert gpu.dtype_for(8) == "fp16"
    assert gpu.peak_i8_TFLOPS == gpu.peak_i4_TFLOPS == gpu.peak_fp16_TFLOPS == 112


def test_stages_are_ordered_as_seed_002s_are() -> None:
    assert DSZeRO.NONE < DSZeRO.STAGE_1 <= DSZeRO.STAGE_3
    assert ActivationRecomputation.FULL > ActivationRecomputation.ATTN


# -- what is claimed ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stem", GPUS)
def test_a_gpu_says_with_what_it_was_compared(stem: str) -> None:
    source = get_gpu_config_by_name(stem).source
    assert source
    assert "compared with" in source


def test_measured_rates_are_of_the_architecture_that_was_measured() -> None:
    # A GPU of another architecture may borrow them, and then they are assumed.
    found = {
        (gpu.efficiency.name, gpu.architecture)
        for gpu in map(get_gpu_config_by_name, GPUS)
        if gpu.efficiency.evidence != "assumed"
    }
    assert found == {
        ("A100", "ampere"),
        ("A100 40 GB", "ampere"),
        ("GA10x", "ampere"),
        ("Ada", "ada"),
        ("Hopper", "hopper"),
        ("H20", "hopper"),
        ("Blackwell", "blackwell"),
        ("Blackwell Ultra", "blackwell-ultra"),
        ("RTX PRO Blackwell", "blackwell"),
    }


def test_borrowed_rates_are_the_family_s_but_assumed() -> None:
    own, borrowed = (
        get_gpu_config_by_name(name).efficiency for name in ("rtx-pro-6000-server", "rtx-pro-4000")
    )
    assert own.evidence == "partly measured"
    assert borrowed.evidence == borrowed.provenance == "assumed"
    assert borrowed.source == f"assumed as those of RTX PRO Blackwell: {own.source}"
    assert borrowed.gemm == own.gemm
    training = get_gpu_config_by_name("a30").efficiency.training
    assert training
    assert training.evidence == "assumed"
