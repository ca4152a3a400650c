"""GPUs and hosts in files of one's own: taken by path, extended from bundled ones, refused by file, line and field."""

from __future__ import annotations

import json
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
from llm_perf.config.gpu import Link
from llm_perf.config.loading import load_spec
from llm_perf.errors import SpecError
from tests.unit.hardware_files import OWN_GPU, OWN_HOST, SPECS, one_line, write


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
    from llm_perf.config import bundled

    for stem, other in (("a", "b"), ("b", "a")):
        write(tmp_path / f"{stem}.yaml", {"extends": other, "name": stem})
    monkeypatch.setattr(bundled, "_folder", lambda _kind: tmp_path)
    monkeypatch.setattr(bundled, "resolve_name", lambda _kind, name: name)
    with pytest.raises(SpecError, match=r"leads back to itself: a -> b -> a") as error:
        bundled._bundled.__wrapped__("GPU", GPUConfig, "a")
    one_line(error)


def test_rates_that_a_file_gives_itself_are_not_borrowed(tmp_path: Path) -> None:
    measured = get_gpu_config_by_name("l40s").efficiency.model_dump(mode="json")
    file = tmp_path / "mine.json"
    file.write_text(json.dumps({"name": "Mine", "extends": "rtx-5080", "efficiency": measured}), "utf-8")
    assert get_gpu_config_by_name(str(file)).efficiency.evidence == "partly measured"
