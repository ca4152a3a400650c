"""Bundled accelerators, hosts and efficiencies: complete, plausible, found by name; what is refused, and how."""

from __future__ import annotations

import contextlib
import json
import re
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml

from llm_perf.config import (
    GPUConfig,
    GPUEfficiency,
    HostConfig,
    get_gpu_config_by_name,
    get_host_config_by_name,
    here,
)
from llm_perf.config.gpu import DTYPES, TEXTBOOK, Link, PeakDtype
from llm_perf.config.host import pcie_link_gb_per_s
from llm_perf.config.loading import gpu_of_driver, host_of_processor, known_names, load_spec, resolve_name
from llm_perf.config.names import normalise
from llm_perf.config.parallelism import ActivationRecomputation, DSZeRO
from llm_perf.errors import AmbiguousNameError, SpecError, UnknownNameError

SPECS = Path(__file__).parents[2] / "hardware_specs"
GPUS, HOSTS, EFFICIENCIES = known_names("GPU"), known_names("host"), known_names("efficiency")


def raw(folder: str, stem: str) -> dict[str, Any]:
    """A bundled file as it is written."""
    data = yaml.safe_load((SPECS / folder / f"{stem}.yaml").read_text("utf-8"))
    assert isinstance(data, dict)
    return data


def one_line(error: pytest.ExceptionInfo[SpecError]) -> str:
    """The message of an error, which has to be one line."""
    message = str(error.value)
    assert "\n" not in message
    return message


# -- what is bundled -------------------------------------------------------------------------------------------


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


# -- names -----------------------------------------------------------------------------------------------------

NAMES = {
    "t4": "t4-16gb",
    "T4-16GB": "t4-16gb",
    "t4 16gb": "t4-16gb",
    "T4_16GB": "t4-16gb",
    "h200": "h200-sxm-141gb",  # the plain name is the SXM board's
    "rtx-3090": "rtx-3090-24gb",
    "rtx3090": "rtx-3090-24gb",
    "RTX 3090": "rtx-3090-24gb",
    "3090": "rtx-3090-24gb",
    "4090": "rtx-4090-24gb",
    "a6000": "rtx-a6000-48gb",
    "a6000-48gb": "rtx-a6000-48gb",
    "a10g-pcie-24gb": "a10g-24gb",
    "a100-sxm-40gb": "a100-sxm-40gb",
    "a100-pcie-80gb": "a100-pcie-80gb",
    "v100-pcie-16gb": "v100-pcie-16gb",
    "V100-PCIE-16GB": "v100-pcie-16gb",
    "v100-sxm-16gb": "v100-sxm2-16gb",
    "mi250x-128gb": "mi250x-128gb",
    "mi300x": "mi300x-192gb",
    "l40": "l40-48gb",
    "l40s": "l40s-48gb",
    "a100_80gb": "a100-sxm-80gb",
    "A100-80GB (330W limit)": "a100-sxm-80gb",
    "A100-SXM-80GB (Selene, DGX A100, 8x HDR IB)": "a100-sxm-80gb",
    "DGX-B200": "b200-180gb",
    "DGX-GB300": "gb300",
    "H20-SXM": "h20-sxm-96gb",
    "GH200-141GB": "gh200-144gb",
    "Apple M1 Max 32c": "apple-m1-max-32c",
    "Gaudi2": "gaudi2-96gb",
    # What nvidia-smi, rocm-smi and system_profiler print.
    "NVIDIA GeForce RTX 4090": "rtx-4090-24gb",
    "NVIDIA A100-SXM4-80GB": "a100-sxm-80gb",
    "NVIDIA H100 80GB HBM3": "h100-sxm-80gb",
    "NVIDIA H100 PCIe": "h100-pcie-80gb",
    "NVIDIA GeForce RTX 4060 Laptop GPU": "rtx-4060-laptop-8gb",
    "NVIDIA RTX 6000 Ada Generation": "rtx-6000-ada-48gb",
    "NVIDIA RTX PRO 6000 Blackwell Workstation Edition": "rtx-pro-6000-blackwell-workstation-96gb",
    "NVIDIA RTX PRO 6000 Blackwell Server Edition": "rtx-pro-6000-blackwell-server",
    "NVIDIA GH200 480GB": "gh200-96gb",
    "NVIDIA GB10": "gb10-128gb",
    "Tesla T4": "t4-16gb",
    "Tesla V100-SXM2-32GB": "v100-sxm2-32gb",
    "Quadro RTX 6000": "quadro-rtx-6000-24gb",
    "AMD Radeon RX 7900 XTX": "rx-7900-xtx-24gb",
    "AMD Instinct MI300X": "mi300x-192gb",
    "Intel(R) Arc(TM) A770 Graphics": "arc-a770-16gb",
    "Apple M4 Max": "apple-m4-max-40c",
    # Boards of which a larger one was made later keep their name.
    "rtx-2060": "rtx-2060-6gb",
    "NVIDIA GeForce RTX 3080": "rtx-3080-10gb",
    "rtx-3080-12gb": "rtx-3080-12gb",
    "rtx-2080": "rtx-2080-8gb",
    "rtx-2080-super": "rtx-2080-super-8gb",
    "rtx-4070-ti-super": "rtx-4070-ti-super-16gb",
}


@pytest.mark.parametrize(("name", "stem"), NAMES.items())
def test_a_gpu_is_found_by_what_people_call_it(name: str, stem: str) -> None:
    assert resolve_name("GPU", name) == stem
    assert get_gpu_config_by_name(name) is get_gpu_config_by_name(stem)


@pytest.mark.parametrize(
    ("name", "candidates"),
    [
        ("v100", ["v100-pcie-16gb", "v100-pcie-32gb", "v100-sxm2-16gb", "v100-sxm2-32gb"]),
        ("a100", ["a100-pcie-40gb", "a100-pcie-80gb", "a100-sxm-40gb", "a100-sxm-80gb"]),
        ("H100", ["h100-nvl-94gb", "h100-pcie-80gb", "h100-sxm-80gb"]),
        ("gh200", ["gh200-144gb", "gh200-96gb"]),
        ("NVIDIA GeForce RTX 4060 Ti", ["rtx-4060-ti-16gb", "rtx-4060-ti-8gb"]),
        ("rtx-pro", ["rtx-pro-4000-24gb", "rtx-pro-6000-blackwell-server"]),
    ],
)
def test_an_ambiguous_name_lists_the_candidates(name: str, candidates: list[str]) -> None:
    with pytest.raises(AmbiguousNameError) as error:
        get_gpu_config_by_name(name)
    listed = list(error.value.candidates)
    assert listed == candidates if name != "rtx-pro" else set(candidates) < set(listed)
    assert all(candidate in one_line(error) for candidate in candidates)


@pytest.mark.parametrize(
    ("kind", "name", "nearest"),
    [
        ("GPU", "rtx-4091", "rtx-4090-24gb"),
        ("GPU", "a100-sxm-90gb", "a100-sxm-80gb"),
        ("host", "dgx-h10", "dgx-h100"),
        ("host", "gcp-t44", "gcp-t4"),
    ],
)
def test_an_unknown_name_suggests_the_nearest(kind: str, name: str, nearest: str) -> None:
    get = get_gpu_config_by_name if kind == "GPU" else get_host_config_by_name
    with pytest.raises(UnknownNameError) as error:
        get(name)
    assert nearest in one_line(error)


@pytest.mark.parametrize(
    ("name", "stem"),
    [
        ("t4", "gcp-t4"),
        ("GCP N1 T4", "gcp-t4"),
        ("lia", "h100-spr-host"),
        ("dgx_h200", "dgx-h100"),
        ("g5", "cloud-a10g"),
        # What /proc/cpuinfo prints.
        ("AMD EPYC 7742 64-Core Processor", "epyc-7742"),
        ("Intel(R) Xeon(R) Platinum 8368 CPU @ 2.40GHz", "xeon-platinum-8368"),
        ("INTEL(R) XEON(R) GOLD 6530", "xeon-gold-6530"),
        ("13th Gen Intel(R) Core(TM) i9-13900K", "core-i9-13900k"),
        ("AMD Ryzen 9 7950X 16-Core Processor", "ryzen-9-7950x"),
        ("AMD Ryzen Threadripper PRO 7965WX 24-Cores", "threadripper-pro-7965wx"),
        ("AMD RYZEN AI MAX+ 395 w/ Radeon 8060S", "strix-halo"),
        ("2x AMD EPYC 9654 (2x96 cores)", "2x epyc-9654"),
    ],
)
def test_a_host_is_found_by_what_people_call_it(name: str, stem: str) -> None:
    assert get_host_config_by_name(name).name == stem


@pytest.mark.parametrize(("folder", "stems"), [("gpus", GPUS), ("hosts", HOSTS)])
def test_aliases_lead_somewhere_and_hide_nothing(folder: str, stems: tuple[str, ...]) -> None:
    aliases = raw(folder, "aliases")
    for alias, stem in aliases.items():
        assert isinstance(alias, str), f"{alias} must stand in quotes"
        assert stem in stems, alias
        assert alias == normalise(alias)
        assert alias not in stems
    # What must be answered with a question, since people mean different boards by it.
    assert not {"v100", "a100", "h100", "gh200", "p100"} & set(aliases)


@pytest.mark.parametrize("folder", ["gpus", "hosts"])
def test_no_alias_is_written_twice(folder: str) -> None:
    # YAML takes the last of two equal keys without a word.
    lines = (SPECS / folder / "aliases.yaml").read_text("utf-8").splitlines()
    keys = [line.partition(":")[0].strip('"') for line in lines if line and not line.startswith("#")]
    assert len(keys) == len(set(keys))


# -- one's own files -------------------------------------------------------------------------------------------

OWN_GPU = {
    "name": "Mine",
    "peak_tflops": {"fp16": 100, "int8": 200},
    "fp16_accumulate_tflops": 200,
    "year": 2024,
    "memory_gib": 16,
    "usable_memory_gib": 15,
    "hbm_bandwidth_gb_per_s": 500,
    "l2_mib": 32,
    "sm_count": 60,
    "sm_clock_mhz": 2000,
    "pcie_gb_per_s": 31.5,
    "link": {"name": "bridge", "gb_per_s_per_direction": 50, "topology": "pairs"},
    "inter_node_gb_per_s": 3,
    "min_message_latency_us": 8,
    "tdp_w": 200,
    "efficiency": "ada",
}
OWN_HOST = {
    "name": "Mine",
    "memory_gib": 64,
    "usable_memory_gib": 60,
    "swap_gib": 8,
    "pcie_generation": 4,
    "pinned_h2d": {"gb_per_s": 25, "provenance": "measured", "source": "my own run"},
    "disk": {"capacity_gib": 900, "stated_read_gb_per_s": 5},
    "source": "my desk",
}


def write(path: Path, data: dict[str, Any]) -> Path:
    text = json.dumps(data, indent=1) if path.suffix == ".json" else yaml.safe_dump(data, sort_keys=False)
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize("suffix", [".yaml", ".yml", ".json"])
def test_ones_own_files_work_by_path(tmp_path: Path, suffix: str) -> None:
    gpu = get_gpu_config_by_name(str(write(tmp_path / f"gpu{suffix}", OWN_GPU)))
    assert gpu.name == "Mine"
    assert gpu.memory_bytes == 16 * 2**30
    assert gpu.efficiency == load_spec("efficiency", GPUEfficiency, "ada")
    host = get_host_config_by_name(str(write(tmp_path / f"host{suffix}", OWN_HOST)))
    assert host.pcie_bytes_per_s == pytest.approx(31.5e9, rel=0.001)
    assert host.disk is not None
    assert host.disk.read_bytes_per_s("direct") == 5e9


ODD: tuple[Any, ...] = (1, -1.5, True, None, "", "x", [], [1], ["x"], [[]], {}, {"x": 1}, {1: [2]}, 10**30)
"""What a field may hold that somebody wrote by hand, or a program."""


@pytest.mark.parametrize(
    ("own", "get"), [(OWN_GPU, get_gpu_config_by_name), (OWN_HOST, get_host_config_by_name)]
)
def test_whatever_a_field_holds_is_taken_or_refused_in_one_line(
    tmp_path: Path, own: dict[str, Any], get: Any
) -> None:
    """Parts of a file are read before it is checked as a whole: ``assumed: 1`` was an error of Python."""
    spec = GPUConfig if get is get_gpu_config_by_name else HostConfig
    refused = []
    for field in (*spec.model_fields, "extends", "aliases", "mem_per_GPU_in_GB"):
        for value in ODD:
            file = write(tmp_path / "odd.json", own | {field: value})
            try:
                get(str(file))
            except SpecError as error:
                refused.append(str(error))
    assert len(refused) > len(spec.model_fields)
    assert not [message for message in refused if "\n" in message]


def test_a_copy_of_a_bundled_file_is_a_start_for_ones_own(tmp_path: Path) -> None:
    for folder, stem, get in (
        ("gpus", "t4-16gb", get_gpu_config_by_name),
        ("hosts", "gcp-t4", get_host_config_by_name),
    ):
        copy = tmp_path / f"{stem}.yaml"
        copy.write_text((SPECS / folder / f"{stem}.yaml").read_text("utf-8"), encoding="utf-8")
        assert get(str(copy)) == get(stem)


@pytest.mark.parametrize("get", [get_gpu_config_by_name, get_host_config_by_name])
@pytest.mark.parametrize(
    ("file", "text", "line"),
    [
        ("bad.yaml", "name: Mine\nmemory_gib: [16\nsource: x\n", 3),
        ("bad.yaml", "name: Mine\n\tmemory_gib: 16\n", 2),
        ("bad.json", '{\n "name": "Mine",\n "memory_gib": ,\n}', 3),
        ("list.yaml", "- name\n- memory_gib\n", 1),
        ("empty.yaml", "", 1),
        ("list.json", "[]", 1),
    ],
)
def test_a_malformed_file_is_named_with_its_line(
    tmp_path: Path, get: Any, file: str, text: str, line: int
) -> None:
    path = tmp_path / file
    path.write_text(text, encoding="utf-8")
    with pytest.raises(SpecError) as error:
        get(str(path))
    assert f"{path}:{line}:" in one_line(error)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    for get in (get_gpu_config_by_name, get_host_config_by_name):
        with pytest.raises(SpecError, match=r"none\.yaml"):
            get(str(tmp_path / "none.yaml"))


@pytest.mark.parametrize("suffix", [".yaml", ".json"])
def test_a_missing_and_an_unknown_field_are_named(tmp_path: Path, suffix: str) -> None:
    cases: list[tuple[Any, dict[str, Any], str]] = [
        (get_gpu_config_by_name, OWN_GPU, "hbm_bandwidth_gb_per_s"),
        (get_host_config_by_name, OWN_HOST, "usable_memory_gib"),
    ]
    for get, good, required in cases:
        without = {field: value for field, value in good.items() if field != required}
        with pytest.raises(SpecError, match=required) as error:
            get(str(write(tmp_path / f"without{suffix}", without)))
        assert f"without{suffix}:" in one_line(error)
        with pytest.raises(SpecError, match="bandwith") as error:
            get(str(write(tmp_path / f"extra{suffix}", good | {"bandwith": 1})))
        assert f"extra{suffix}:" in one_line(error)


# Every number of a GPU file, and of a host file; link and peaks stand for the fields inside them.
GPU_NUMBERS = [
    "peak_tflops.fp16", "fp16_accumulate_tflops", "year", "memory_gib", "usable_memory_gib", "hbm_bandwidth_gb_per_s",
    "l2_mib", "sm_count", "sm_clock_mhz", "pcie_gb_per_s", "link.gb_per_s_per_direction", "link.peers", "inter_node_gb_per_s",
    "min_message_latency_us", "tdp_w",
]  # fmt: skip
HOST_NUMBERS = [
    "memory_gib", "usable_memory_gib", "swap_gib", "pcie_generation", "pinned_h2d.gb_per_s", "disk.capacity_gib",
    "disk.stated_read_gb_per_s",
]  # fmt: skip
MAY_BE_ZERO = {"min_message_latency_us", "swap_gib"}
BAD_NUMBERS = {"NaN": float("nan"), "infinite": float("inf"), "negative": -1, "zero": 0, "huge": 1e300, "text": "many",
               "yes": True, "list": [1]}  # fmt: skip


def test_the_list_of_numbers_is_complete() -> None:
    words = {
        "name",
        "aliases",
        "vendor",
        "architecture",
        "memory_type",
        "pcie",
        "default_host",
        "source",
        "provenance",
        "assumed",
        "notes",
    }
    specs = {"peak_tflops", "link", "efficiency"}
    assert {field.partition(".")[0] for field in GPU_NUMBERS} | words | specs == set(GPUConfig.model_fields)
    assert set(Link.model_fields) == {"name", "gb_per_s_per_direction", "topology", "peers"}
    assert get_args(PeakDtype) == DTYPES


def with_value(good: dict[str, Any], field: str, value: Any) -> dict[str, Any]:
    outer, _, inner = field.partition(".")
    return good | {outer: good[outer] | {inner: value} if inner else value}


@pytest.mark.parametrize("suffix", [".yaml", ".json"])
@pytest.mark.parametrize("bad", BAD_NUMBERS)
@pytest.mark.parametrize(
    ("kind", "field"), [("GPU", field) for field in GPU_NUMBERS] + [("host", field) for field in HOST_NUMBERS]
)
def test_an_impossible_number_is_refused_by_file_line_and_field(
    tmp_path: Path, kind: str, field: str, bad: str, suffix: str
) -> None:
    good, get = (OWN_GPU, get_gpu_config_by_name) if kind == "GPU" else (OWN_HOST, get_host_config_by_name)
    if bad == "zero" and field in MAY_BE_ZERO:
        return
    path = write(tmp_path / f"mine{suffix}", with_value(good, field, BAD_NUMBERS[bad]))
    with pytest.raises(SpecError) as error:
        get(str(path))
    inner = field.rpartition(".")[2]
    line = next(
        i
        for i, text in enumerate(path.read_text("utf-8").splitlines(), 1)
        if f"{inner}:" in text.replace('"', "")
    )
    message = one_line(error)
    assert f"{path}:{line}:" in message
    assert inner in message


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"memory_gib": 10}, "usable_memory_gib"),
        ({"link": {"topology": "star"}}, "topology"),
        ({"peak_tflops": {}}, "peak_tflops"),
        ({"peak_tflops": {"fp12": 1}}, "fp12"),
        ({"name": ""}, "name"),
    ],
)
def test_what_cannot_be_is_refused(tmp_path: Path, changes: dict[str, Any], named: str) -> None:
    path = write(tmp_path / "mine.yaml", OWN_GPU | changes)
    with pytest.raises(SpecError, match=named) as error:
        get_gpu_config_by_name(str(path))
    assert "mine.yaml:" in one_line(error)


def test_more_usable_than_installed_memory_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "mine.yaml", OWN_HOST | {"usable_memory_gib": 65})
    with pytest.raises(SpecError, match="usable_memory_gib"):
        get_host_config_by_name(str(path))


def test_an_unknown_efficiency_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "mine.yaml", OWN_GPU | {"efficiency": "hoper"})
    with pytest.raises(SpecError, match="hopper") as error:
        get_gpu_config_by_name(str(path))
    one_line(error)


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


# -- laws of names -----------------------------------------------------------------------------------------------

OTHER_PRODUCTS = ("ti", "super", "xtx")


@pytest.mark.parametrize(
    "stem", [stem for stem in GPUS if stem.startswith(("rtx-", "rx-", "t4", "l4", "a10"))]
)
def test_a_name_never_means_another_product(stem: str) -> None:
    """A product word after a GPU's name leads to a GPU that is called so, or nowhere."""
    product = re.sub(r"-\d+gb$", "", stem)
    for word in OTHER_PRODUCTS:
        with contextlib.suppress(SpecError):
            found = resolve_name("GPU", f"{product}-{word}")
            assert f"{product}{word}".replace("-", "") in found.replace("-", "")


@pytest.mark.parametrize(
    "name", ["rtx-209", "rtx-5080-ti", "rtx-4090-ti", "rx-7900-gre", "epyc", "h10", "a10-80gb", "rtx"]
)
def test_no_device_is_guessed(name: str) -> None:
    with pytest.raises(SpecError) as error:
        resolve_name("GPU", name)
    one_line(error)


@pytest.mark.parametrize(("kind", "folder"), [("GPU", "gpus"), ("host", "hosts")])
def test_own_aliases_hide_nothing_and_are_reached(kind: str, folder: str) -> None:
    stems = known_names(kind)
    spelled: dict[str, str] = {}
    for stem in stems:
        for alias in raw(folder, stem).get("aliases", []):
            assert isinstance(alias, str), f"{stem}: {alias} must stand in quotes"
            assert resolve_name(kind, alias) == stem, alias
            assert normalise(alias) not in stems, alias
            assert spelled.setdefault(normalise(alias), stem) == stem, alias


@pytest.mark.parametrize("own", [{}, {"usable_memory_gib": 100}])
def test_other_memory_of_a_host_is_usable_by_the_same_share(tmp_path: Path, own: dict[str, float]) -> None:
    base = get_host_config_by_name("core-i9-13900k")
    path = write(
        tmp_path / "mine.yaml", {"extends": "core-i9-13900k", "name": "Mine", "memory_gib": 128} | own
    )
    share = base.usable_memory_gib / base.memory_gib
    wanted = own.get("usable_memory_gib", 128 * share)
    assert get_host_config_by_name(str(path)).usable_memory_gib == pytest.approx(wanted, rel=1e-12)


def test_a_file_that_extends_a_bundled_gpu_says_only_what_differs(tmp_path: Path) -> None:
    path = write(
        tmp_path / "mine.yaml", {"extends": "h100-sxm-80gb", "name": "Mine", "memory_gib": 96, "tdp_w": 500}
    )
    mine, base = get_gpu_config_by_name(str(path)), get_gpu_config_by_name("h100-sxm-80gb")
    usable = None if base.usable_memory_gib is None else base.usable_memory_gib * 96 / base.memory_gib
    assert mine == base.replace(name="Mine", memory_gib=96, usable_memory_gib=usable, tdp_w=500)
    assert mine.aliases == ()
    host = write(
        tmp_path / "host.yaml",
        {"extends": "epyc-9654", "name": "Mine", "memory_gib": 96, "usable_memory_gib": 90},
    )
    assert get_host_config_by_name(str(host)).memory_channels_per_socket == 12


@pytest.mark.parametrize(
    ("extends", "named"),
    [("h100-sxm-90gb", "h100-sxm-80gb"), ("h100", "h100-pcie-80gb"), ("./x.yaml", "bundled"), (3, "bundled")],
)
def test_what_cannot_be_extended_is_refused_in_one_line(tmp_path: Path, extends: Any, named: str) -> None:
    path = write(tmp_path / "mine.yaml", {"extends": extends, "name": "Mine"})
    with pytest.raises(SpecError, match=named) as error:
        get_gpu_config_by_name(str(path))
    assert "extends" in one_line(error)


def test_a_circle_of_extensions_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from llm_perf.config import loading

    for stem, other in (("a", "b"), ("b", "a")):
        write(tmp_path / f"{stem}.yaml", {"extends": other, "name": stem})
    monkeypatch.setattr(loading, "_folder", lambda _kind: tmp_path)
    monkeypatch.setattr(loading, "resolve_name", lambda _kind, name: name)
    with pytest.raises(SpecError, match=r"leads back to itself: a -> b -> a") as error:
        loading._bundled.__wrapped__("GPU", GPUConfig, "a")
    one_line(error)


# -- processors --------------------------------------------------------------------------------------------------

# Cores, channels, MT/s, GB/s of a socket: product pages of AMD and Intel; the reference table of the project's processors.
PROCESSORS = [
    ("core-i9-12900k", 16, 2, 4800, 76.8),
    ("core-i9-13900k", 24, 2, 5600, 89.6),
    ("epyc-7742", 64, 8, 3200, 204.8),
    ("epyc-7763", 64, 8, 3200, 204.8),
    ("epyc-9654", 96, 12, 4800, 460.8),
    ("xeon-e5-2697-v2", 12, 4, 1866, 59.7),
    ("xeon-e5-2698-v4", 20, 4, 2400, 76.8),
    ("xeon-gold-6132", 14, 6, 2666, 128),
    ("xeon-platinum-8168", 24, 6, 2666, 128),
    ("xeon-platinum-8380", 40, 8, 3200, 204.8),
    ("xeon-platinum-8480-plus", 56, 8, 4800, 307.2),
]


@pytest.mark.parametrize(("stem", "cores", "channels", "rate", "bandwidth"), PROCESSORS)
def test_processors_of_data_sheets(
    stem: str, cores: int, channels: int, rate: float, bandwidth: float
) -> None:
    host = get_host_config_by_name(stem)
    assert (host.cores_per_socket, host.memory_channels_per_socket, host.memory_mt_per_s) == (
        cores,
        channels,
        rate,
    )
    assert host.memory_bandwidth_gb_per_s_per_socket == pytest.approx(bandwidth, rel=0.001)


@pytest.mark.parametrize("stem", HOSTS)
def test_instruction_sets_of_a_processor_go_together(stem: str) -> None:
    sets = set(get_host_config_by_name(stem).instruction_sets)
    for narrow, wide in (
        ("avx2", "avx512"),
        ("avx512", "avx512_vnni"),
        ("avx512_vnni", "avx512_bf16"),
        ("avx512_bf16", "amx_bf16"),
        ("amx_bf16", "amx_int8"),
        ("amx_int8", "amx_fp16"),
    ):
        assert narrow in sets or wide not in sets
    assert not sets & {"sve2", "neon", "sme"} or not sets & {"avx2", "amx_int8"}


def test_two_sockets_are_twice_the_machine() -> None:
    one, two = get_host_config_by_name("epyc-9654"), get_host_config_by_name("2x EPYC 9654")
    assert (two.sockets, two.memory_gib, two.usable_memory_gib) == (
        2,
        2 * one.memory_gib,
        2 * one.usable_memory_gib,
    )
    assert two.memory_bandwidth_gb_per_s_per_socket == one.memory_bandwidth_gb_per_s_per_socket
    assert get_host_config_by_name("2x dgx-2").sockets == 4


def test_bandwidth_follows_from_channels_and_must_not_contradict_them(tmp_path: Path) -> None:
    channels = {"memory_channels_per_socket": 2, "memory_mt_per_s": 6000}
    host = get_host_config_by_name(str(write(tmp_path / "mine.yaml", OWN_HOST | channels)))
    assert host.memory_bandwidth_gb_per_s_per_socket == 96
    wrong = OWN_HOST | channels | {"memory_bandwidth_gb_per_s_per_socket": 48}
    with pytest.raises(SpecError, match="2 channels at 6000 MT/s give, 96") as error:
        get_host_config_by_name(str(write(tmp_path / "mine.yaml", wrong)))
    one_line(error)
    with pytest.raises(SpecError, match="instruction_sets") as error:
        get_host_config_by_name(str(write(tmp_path / "mine.yaml", OWN_HOST | {"instruction_sets": ["mmx"]})))
    one_line(error)


# -- this machine ------------------------------------------------------------------------------------------------

CPUINFO = """processor\t: 0
model name\t: {name}
physical id\t: 0
core id\t\t: 0
flags\t\t: fpu avx2 avx512f avx512_vnni
processor\t: 1
physical id\t: 1
core id\t\t: 0
"""
MEMINFO = "MemTotal:       67108864 kB\nMemFree: 1 kB\nMemAvailable:   33554432 kB\n"


TI = "NVIDIA GeForce RTX 4060 Ti"


def driver(printed: dict[str, str]) -> Any:
    """Programs that print what they are said to, and no other."""
    return lambda command: printed.get(command[0], "")


@pytest.mark.parametrize(
    ("printed", "found", "stem"),
    [
        (
            {"nvidia-smi": "NVIDIA GeForce RTX 4060 Ti, 16380\n"},
            [("NVIDIA GeForce RTX 4060 Ti", 16380 / 1024)],
            "rtx-4060-ti-16gb",
        ),
        (
            {"nvidia-smi": "NVIDIA GeForce RTX 4060 Ti, 8188\n"},
            [("NVIDIA GeForce RTX 4060 Ti", 8188 / 1024)],
            "rtx-4060-ti-8gb",
        ),
        ({"nvidia-smi": "NVIDIA GB10, [N/A]\n"}, [("NVIDIA GB10", None)], "gb10-128gb"),
        (
            {
                "rocm-smi": '{"card0": {"Card series": "AMD Instinct MI300X", "VRAM Total Memory (B)": "206141652992"}}'
            },
            [("AMD Instinct MI300X", 206141652992 / 2**30)],
            "mi300x-192gb",
        ),
        ({"sysctl": "Apple M4 Max\n"}, [("Apple M4 Max", None)], "apple-m4-max-40c"),
    ],
)
def test_the_gpu_here_is_what_its_driver_says(printed: dict[str, str], found: list[Any], stem: str) -> None:
    assert here.driver_gpus(driver(printed)) == found
    assert gpu_of_driver(*found[0]) is get_gpu_config_by_name(stem)


@pytest.mark.parametrize(
    "printed",
    [{}, {"nvidia-smi": "NVIDIA-SMI has failed"}, {"rocm-smi": "{"}, {"sysctl": "Intel(R) Core(TM)"}],
)
def test_a_machine_without_a_gpu_says_so_in_one_line(printed: dict[str, str]) -> None:
    assert here.driver_gpus(driver(printed)) == []
    with pytest.raises(SpecError, match="name one, such as rtx-4090") as error:
        here.named_here("gpu", [])
    one_line(error)


def test_a_variant_that_memory_does_not_tell_is_asked_for() -> None:
    with pytest.raises(AmbiguousNameError):
        gpu_of_driver("NVIDIA GeForce RTX 4060 Ti", None)


def test_the_host_here_is_its_processors_file_with_its_own_memory() -> None:
    facts = here.processor(CPUINFO.format(name="AMD EPYC 9654 96-Core Processor"), MEMINFO)
    host, known = host_of_processor(facts), get_host_config_by_name("epyc-9654")
    assert (host.memory_gib, host.usable_memory_gib, host.sockets, host.cores_per_socket) == (64, 32, 2, 1)
    assert host.instruction_sets == ("avx2", "avx512", "avx512_vnni")
    assert host.memory_bandwidth_gb_per_s_per_socket == known.memory_bandwidth_gb_per_s_per_socket
    unknown = host_of_processor(here.processor(CPUINFO.format(name="Unheard of"), MEMINFO))
    assert unknown.memory_gib == 64
    assert unknown.memory_channels_per_socket is None
    assert "memory_bandwidth_gb_per_s_per_socket" in unknown.assumed
    assert "memory_gib" not in unknown.assumed + host.assumed
    assert unknown.source
    assert unknown.source.endswith("all else assumed as desktop-gen4")


def test_this_machine_can_be_asked() -> None:
    if not Path("/proc/cpuinfo").is_file():
        pytest.skip("no /proc here")
    host = get_host_config_by_name("here")
    assert host.name == "here"
    assert host.memory_gib >= host.usable_memory_gib > 0


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


def test_rates_that_a_file_gives_itself_are_not_borrowed(tmp_path: Path) -> None:
    measured = get_gpu_config_by_name("l40s").efficiency.model_dump(mode="json")
    file = tmp_path / "mine.json"
    file.write_text(json.dumps({"name": "Mine", "extends": "rtx-5080", "efficiency": measured}), "utf-8")
    assert get_gpu_config_by_name(str(file)).efficiency.evidence == "partly measured"


RENTED = """processor\t: 0
vendor_id\t: AuthenticAMD
cpu family\t: 25
model\t\t: 17
model name\t: AMD EPYC
physical id\t: 0
core id\t\t: 0
flags\t\t: fpu hypervisor avx2 avx512f avx512_vnni

processor\t: 1
model name\t: AMD EPYC
physical id\t: 0
core id\t\t: 1
flags\t\t: fpu hypervisor avx2 avx512f avx512_vnni
"""


def test_a_part_of_a_processor_reads_what_its_cores_and_their_link_can():
    kind = here.processor_id(RENTED, last_level_caches=1)
    assert kind == here.ProcessorId("AuthenticAMD", 25, 17, virtual=True, last_level_caches=1)
    host = host_of_processor(here.processor(RENTED, MEMINFO), kind)
    assert (host.cores_per_socket, host.shared_cores) == (2, 96)
    # 48 lines of 64 bytes in 110 ns; 32 bytes a cycle at 1.8 GHz
    assert host.core_read_gb_per_s == pytest.approx(48 * 64 / 110, rel=0.01)
    assert host.cores_read_gb_per_s_per_socket == pytest.approx(32 * 1.8)
    assert host.all_core_ghz == get_host_config_by_name("epyc-9654").all_core_ghz
    assert {
        "core_read_gb_per_s",
        "cores_read_gb_per_s_per_socket",
        "memory_bandwidth_gb_per_s_per_socket",
    } <= set(host.assumed)


def test_a_kind_that_no_list_has_changes_nothing():
    text = RENTED.replace(": 25", ": 999")
    kind, facts = here.processor_id(text), here.processor(text, MEMINFO)
    assert host_of_processor(facts, kind) == host_of_processor(facts)
    assert here.processor_id("processor: 0\n") is None


def test_a_whole_processor_is_as_its_file_says():
    text = CPUINFO.format(name="AMD EPYC 9654 96-Core Processor")
    kind = here.ProcessorId("AuthenticAMD", 25, 17, virtual=False, last_level_caches=12)
    facts = here.processor(text, MEMINFO) | {"cores_per_socket": 96}
    host = host_of_processor(facts, kind)
    assert host.cores_read_gb_per_s_per_socket is None
    assert host.core_read_gb_per_s == get_host_config_by_name("epyc-9654").core_read_gb_per_s


def test_generations_name_hosts_that_ship():
    from llm_perf.config.loading import _generations

    for entry in _generations():
        host = get_host_config_by_name(entry["host"])
        assert host.memory_bandwidth_gb_per_s_per_socket
        assert (
            entry["core_gb_per_s"] * host.cores_per_socket > host.memory_bandwidth_gb_per_s_per_socket * 0.5
        )
