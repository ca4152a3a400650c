"""Processors by their data sheets, and the machine at hand as its drivers and /proc describe it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from llm_perf.analysis.inference import predict_inference
from llm_perf.analysis.request import InferenceInputs, build_scenario
from llm_perf.config import get_gpu_config_by_name, get_host_config_by_name, here
from llm_perf.config.formats import MatrixFormat
from llm_perf.config.loading import gpu_of_driver, host_of_processor
from llm_perf.counts.products import Product
from llm_perf.errors import AmbiguousNameError, SpecError
from llm_perf.hardware.cpu_time import cpu_rates
from llm_perf.systems.constants import load_constants
from tests.unit.hardware_files import HOSTS, OWN_HOST, one_line, write

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


def test_rows_of_4_bits_with_one_scale_are_interleaved_for_prompts() -> None:
    """llama.cpp repacks Q4_0 and IQ4_NL as it does Q4_K: on wide units their prompts take about as long, not twice."""

    def prompt_s(weight_format: str, system: str) -> float:
        asked = InferenceInputs(
            model="llama-3.1-8b", gpu="none", host="epyc-9755", system=system, weight_format=weight_format
        )
        return float(predict_inference(build_scenario(asked)).prefill.latency_s)

    mixed = prompt_s("q4_k_m", "llama_cpp@2026")
    assert 0.8 * mixed < prompt_s("q4_0", "llama_cpp@2026") < 1.3 * mixed
    assert prompt_s("iq4_nl", "llama_cpp@2026") == pytest.approx(prompt_s("q4_0", "llama_cpp@2026"), rel=0.1)
    assert prompt_s("q8_0", "llama_cpp@2026") > 1.3 * mixed  # which is not


@pytest.mark.parametrize(
    ("older", "newer"), [("apple-m2-ultra", "apple-m3-ultra"), ("apple", "apple-m4-max")]
)
@pytest.mark.parametrize("weight_format", ["q4_k_m", "q8_0"])
def test_a_macs_cores_are_no_slower_than_those_before(older: str, newer: str, weight_format: str) -> None:
    def both_s(host: str) -> tuple[float, float]:
        asked = InferenceInputs(
            model="llama-3.1-8b", gpu="none", host=host, system="llama_cpp", weight_format=weight_format
        )
        found = predict_inference(build_scenario(asked))
        return float(found.prefill.latency_s), float(found.tpot_s or 0.0)

    assert "neon" in get_host_config_by_name(older).instruction_sets
    for before, after in zip(both_s(older), both_s(newer), strict=True):
        assert after <= before * (1 + 1e-9)


def test_two_sockets_are_twice_the_machine() -> None:
    one, two = get_host_config_by_name("epyc-9654"), get_host_config_by_name("2x EPYC 9654")
    assert (two.sockets, two.memory_gib, two.usable_memory_gib) == (
        2,
        2 * one.memory_gib,
        2 * one.usable_memory_gib,
    )
    assert two.memory_bandwidth_gb_per_s_per_socket == one.memory_bandwidth_gb_per_s_per_socket
    with pytest.raises(
        SpecError, match="--num-nodes 2"
    ):  # of a whole machine with its GPUs there are two nodes
        get_host_config_by_name("2x dgx-2")


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


def test_neighbours_leave_a_virtual_machine_a_part_of_its_link_and_one_core_all_that_it_loads():
    kind = here.processor_id(RENTED, last_level_caches=1)
    assert kind is not None
    host, own = (
        host_of_processor(here.processor(RENTED, MEMINFO), each)
        for each in (kind, replace(kind, virtual=False))
    )
    constants = _constants()
    left = constants["cpu_virtual_link_share"]
    one, both, alone = (
        cpu_rates(machine, constants, threads).read_bytes_per_s / 1e9
        for machine, threads in ((host, 1), (host, 2), (own, 2))
    )
    assert both == pytest.approx(32 * 1.8 * left * constants["cpu_stream_share"])
    assert one == min(host.core_read_gb_per_s, both)
    assert alone > both
    measured = cpu_rates(host.replace(read_gb_per_s=45.0), constants, 2)
    assert measured.read_bytes_per_s == pytest.approx(45e9)


def test_units_of_512_bits_are_faster_where_kernels_are_written_for_them():
    """Rows of 16 bits, tiles and interleaved rows; blocks of 8 bits have kernels of 256, and keep their time."""
    constants = _constants()
    host = get_host_config_by_name("epyc-9475f")
    wide, narrow = (cpu_rates(one, constants) for one in (host, host.replace(vector_bits=256)))
    assert host.vector_bits == 512
    assert wide.row_16bit_per_s == 2 * narrow.row_16bit_per_s
    assert wide.row_8bit_per_s == narrow.row_8bit_per_s
    gained = constants["cpu_wide_512"]
    for name, bits, gain in (("q4_k", 4.5, gained), ("q8_0", 8.5, 1.0), ("bf16", 16.0, gained)):
        product = Product("up", 1e9, 1.0, 1.0, stored=MatrixFormat(bits, "weight-only", name))
        ratio = narrow.product_s(product, 4096, 1, bits) / wide.product_s(product, 4096, 1, bits)
        assert ratio == pytest.approx(gain, rel=1e-3), name


def _constants():
    return {name: constant.value for name, constant in load_constants("llama_cpp").constants.items()}


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
    from llm_perf.config.named_hosts import _generations

    for entry in _generations():
        host = get_host_config_by_name(entry["host"])
        assert host.memory_bandwidth_gb_per_s_per_socket
        assert (
            entry["core_gb_per_s"] * host.cores_per_socket > host.memory_bandwidth_gb_per_s_per_socket * 0.5
        )
