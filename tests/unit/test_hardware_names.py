"""Names of accelerators and hosts: what people and drivers call them, what is refused or asked for, aliases."""

from __future__ import annotations

import contextlib
import re

import pytest

from llm_perf.config import get_gpu_config_by_name, get_host_config_by_name
from llm_perf.config.loading import host_with, known_names, resolve_name, usual_host
from llm_perf.config.named_hosts import one_memory
from llm_perf.config.names import has_words, normalise
from llm_perf.errors import AmbiguousNameError, SpecError, UnknownNameError
from tests.unit.hardware_files import GPUS, HOSTS, SPECS, one_line, raw

NAMES = {
    "t4": "t4-16gb",
    "T4-16GB": "t4-16gb",
    "rtx 6000 pro": "rtx-pro-6000-blackwell-server",
    "RTX PRO 6000 Blackwell": "rtx-pro-6000-blackwell-server",
    "RTX PRO 6000 Blackwell Workstation": "rtx-pro-6000-blackwell-workstation-96gb",
    "t4 16gb": "t4-16gb",
    "T4_16GB": "t4-16gb",
    "h200": "h200-sxm-141gb",  # the plain name is the SXM board's
    "rtx-3090": "rtx-3090-24gb",
    "rtx3090": "rtx-3090-24gb",
    "RTX 3090": "rtx-3090-24gb",
    "3090": "rtx-3090-24gb",
    "4090": "rtx-4090-24gb",
    "5060 Ti 16GB": "rtx-5060-ti-16gb",
    "RTX 5060 Ti 16 GB": "rtx-5060-ti-16gb",
    "4090 24 GB": "rtx-4090-24gb",
    "H100 96 GB": "h100-sxm-96gb",
    "4060 ti 16gb": "rtx-4060-ti-16gb",
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
    "m3-max-40c": "apple-m3-max-40c",
    "M2 Ultra 60c 64GB": "apple-m2-ultra-60c-64gb",
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
    # Board and cores are left out where the memory is said.
    "NVIDIA H200 141GB": "h200-sxm-141gb",
    "Apple M4 Max 64GB": "apple-m4-max-40c",
    "Apple M3 Max 64 GB": "apple-m3-max-40c-64gb",
    "M4 Max 36GB": "apple-m4-max-32c",
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
        ("H100", ["h100-nvl-94gb", "h100-pcie-80gb", "h100-sxm-80gb", "h100-sxm-96gb"]),
        ("gh200", ["gh200-144gb", "gh200-96gb"]),
        ("Tesla P100 16GB", ["p100-pcie-16gb", "p100-sxm2-16gb"]),
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
        ("Ryzen 9 9950X 256 GB", "ryzen-9-9950x-256gb"),
        ("2x EPYC 7763 1 TB", "2x epyc-7763-1024gb"),
        ("2x Xeon 8480+", "2x xeon-platinum-8480-plus"),
        ("dual Xeon 8480+", "2x xeon-platinum-8480-plus"),
        ("Dual-socket EPYC 9654", "2x epyc-9654"),
        ("Xeon 8480+ x2", "2x xeon-platinum-8480-plus"),
        ("EPYC 9654 (x2)", "2x epyc-9654"),
        ("EPYC 9354 x2 512 GB", "2x epyc-9354-512gb"),
        ("xeon 8480", "xeon-platinum-8480-plus"),
        ("Xeon 6430", "xeon-gold-6430"),
        ("Xeon 6980P", "xeon-6980p"),
        ("EPYC 9554P", "epyc-9554"),
        ("M3 Ultra", "apple-m3-ultra"),
        ("2x epyc-9654-1536gb", "2x epyc-9654-1536gb"),
        ("dgx-a100-320gb", "dgx-a100-320gb"),
    ],
)
def test_a_host_is_found_by_what_people_call_it(name: str, stem: str) -> None:
    assert get_host_config_by_name(name).name == stem


def test_this_machine_is_counted_and_given_memory_as_others_are(monkeypatch: pytest.MonkeyPatch) -> None:
    from llm_perf.config import here

    facts = {
        "cpu": "AMD EPYC 9654",
        "sockets": 1,
        "cores_per_socket": 96,
        "memory_gib": 128.0,
        "usable_memory_gib": 100.0,
    }
    monkeypatch.setattr(here, "processor_here", lambda: (facts, None))
    one, two, other = (get_host_config_by_name(name) for name in ("here", "2x here", "here-64gb"))
    assert (two.name, two.sockets, two.memory_gib) == ("2x here", 2, 256)
    assert (other.name, other.memory_gib, other.usable_memory_gib) == ("here-64gb", 64, 50)
    assert (one.sockets, one.cores_per_socket) == (1, other.cores_per_socket)


@pytest.mark.parametrize("name", ["-256gb", "-99999tb", "256 GB", "(512gb)"])
def test_memory_of_no_host_is_refused_with_where_it_goes(name: str) -> None:
    amount = name.strip("-()").replace(" ", "").lower()
    said = f"amount of memory; put it behind a host, as in ryzen-9-7950x-{amount} "
    with pytest.raises(SpecError, match=said) as error:
        get_host_config_by_name(name)
    one_line(error)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("2x EPYC 9554P", "2x epyc-9554 "),
        ("dual epyc-8124p", "give one"),
        ("dual Ryzen 9 7950X", "give ryzen-9-7950x"),
        ("2x Core i9-14900K", "give core-i9-14900k"),
        ("2x M2 Ultra", "give apple-m2-ultra"),
        ("dual Xeon w9-3495X 512 GB", "give xeon-w9-3495x"),
    ],
)
def test_processors_of_one_socket_are_not_two(name: str, said: str) -> None:
    with pytest.raises(SpecError, match="works alone in a machine") as error:
        get_host_config_by_name(name)
    one_line(error)
    assert said in str(error.value)


def test_the_x_of_a_processor_counts_nothing() -> None:
    found = get_host_config_by_name("7950x")
    assert (found.name, found.sockets) == ("ryzen-9-7950x", 1)


@pytest.mark.parametrize(
    ("gpu", "gib"), [("m3-ultra", 512), ("apple-m1-8c-8gb", 8), ("apple-m2-ultra-76c", 192)]
)
def test_a_mac_has_the_memory_of_its_gpu(gpu: str, gib: int) -> None:
    found = usual_host(get_gpu_config_by_name(gpu), 1)
    assert found.memory_gib == gib
    assert found == get_host_config_by_name(found.name)
    card = get_gpu_config_by_name("rtx-4090-24gb")
    assert usual_host(card, 1).name == card.default_host


def test_a_host_with_its_memory_is_that_host_with_so_much() -> None:
    plain, larger = (get_host_config_by_name(name) for name in ("2x epyc-9654", "2x epyc-9654-1024gb"))
    assert larger.memory_gib == 1024
    assert larger.usable_memory_gib / 1024 == pytest.approx(plain.usable_memory_gib / plain.memory_gib)
    assert "memory_gib" in plain.assumed
    assert "memory_gib" not in larger.assumed
    same = {"name", "memory_gib", "usable_memory_gib", "assumed"}
    assert larger.model_dump(exclude=same) == plain.model_dump(exclude=same)
    assert get_host_config_by_name("dgx-a100-320gb").memory_gib != 320  # of its GPUs
    with pytest.raises(UnknownNameError, match="'nonesuch-256gb'"):
        get_host_config_by_name("nonesuch-256gb")


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
    "name", ["rtx-209", "rtx-5080-ti", "rtx-4090-ti", "rx-7800-gre", "epyc", "h10", "a10-80gb", "rtx"]
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


@pytest.mark.parametrize("name", ["9x xeon 8480+", "+2x xeon 8480+", "2x2x xeon 8480+", "(2x xeon 8480+"])
def test_a_refused_count_of_sockets_says_a_name_that_is_one(name):
    with pytest.raises(SpecError, match=r"give (.+), or 2x \1 to 8x \1 for") as refused:
        get_host_config_by_name(name)
    said = str(refused.value).partition(": give ")[2].partition(", or ")[0]
    assert get_host_config_by_name(said).name == "xeon-platinum-8480-plus"


@pytest.mark.parametrize(
    ("name", "stem"),
    [
        ("6000 pro blackwell", "rtx-pro-6000-blackwell-server"),
        ("RTX 6000 Pro Blackwell", "rtx-pro-6000-blackwell-server"),
        ("pcie h100 80gb", "h100-pcie-80gb"),
        ("ada 6000", "rtx-6000-ada-48gb"),
        ("RTX 5000 Pro", "rtx-pro-5000-48gb"),
        ("pro 4500", "rtx-pro-4500-32gb"),
        ("nvl h100", "h100-nvl-94gb"),
    ],
)
def test_the_words_of_a_name_may_stand_in_another_order(name: str, stem: str) -> None:
    assert get_gpu_config_by_name(name) == get_gpu_config_by_name(stem)


def test_of_several_memories_that_words_in_another_order_leave_open_one_is_asked_for() -> None:
    with pytest.raises(AmbiguousNameError, match="v100-pcie-16gb, v100-pcie-32gb"):
        get_gpu_config_by_name("pcie v100")


@pytest.mark.parametrize("name", ["super ti 4070", "rtx 6000", "6000-6000 pro"])
def test_words_of_another_product_in_another_order_are_not_guessed(name: str) -> None:
    with pytest.raises(UnknownNameError):
        get_gpu_config_by_name(name)


def test_a_list_is_of_names_with_all_words_of_a_pattern() -> None:
    assert has_words("rtx-pro-6000-blackwell-server", "6000 Pro Blackwell")
    assert not has_words("rtx-6000-ada-48gb", "6000 Pro Blackwell")


@pytest.mark.parametrize(
    ("gpu", "host", "gib"),
    [
        ("m4-max-48gb", "MacBook Pro M4 Max", 48),
        ("m4-max-128gb", "apple", 128),
        ("gb10", "dgx-spark", 128),
        ("jetson-orin-nano-8gb", "jetson-orin", 8),
    ],
)
def test_a_named_host_has_the_one_memory_of_the_chip(gpu: str, host: str, gib: int) -> None:
    chip = get_gpu_config_by_name(gpu)
    found = host_with(chip, host)
    assert found.memory_gib == gib
    assert found.usable_memory_gib < gib
    with pytest.raises(SpecError, match="they are one memory"):
        host_with(chip, f"{host}-96gb")


def test_a_card_has_a_memory_of_its_own() -> None:
    card = get_gpu_config_by_name("rtx-4090-24gb")
    assert host_with(card, "2x epyc-9654-1024gb").memory_gib == 1024


@pytest.mark.parametrize(
    "name", [name for name in known_names("GPU") if get_gpu_config_by_name(name).pcie_bytes_per_s is None]
)
def test_a_chip_without_a_link_and_its_usual_host_are_of_one_size(name: str) -> None:
    chip = get_gpu_config_by_name(name)
    if chip.default_host is None:
        return
    host = usual_host(chip, 1)
    if one_memory(chip, host) and host.gpus_per_node == 1:
        assert abs(host.memory_gib - chip.memory_gib) < 1
