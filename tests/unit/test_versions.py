"""Versions of systems: which file stands for which, and that a report says so."""

from __future__ import annotations

import json
import re
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm_perf.analysis.inference import predict_inference
from llm_perf.analysis.request import InferenceInputs, build_scenario
from llm_perf.cli.main import run
from llm_perf.errors import SpecError
from llm_perf.systems import get_system, system_names
from llm_perf.systems.constants import load_constants, load_release, own_constants
from llm_perf.systems.families import (
    covers,
    distance,
    find,
    folder_of,
    nearest,
    numbers,
    release_of,
    scheduler_rules,
)

ASKED = {"model": "opt-13b", "gpu": "a100-sxm-80gb"}
RELEASES = [(family, release) for family in system_names() for release in folder_of(family).releases]


# -- the files that ship --------------------------------------------------------------------------------------


@pytest.mark.parametrize(("family", "release"), RELEASES)
def test_a_file_is_found_by_its_name_and_by_each_end_of_its_range(family: str, release: str) -> None:
    assert release_of(family, release) == (release, True)
    for end in own_constants(family, release).covers or ():
        if end is not None:
            assert release_of(family, end) == (release, True)


@pytest.mark.parametrize(("family", "release"), RELEASES)
def test_a_file_is_named_after_a_version_that_it_covers(family: str, release: str) -> None:
    """Names order the files, so that the newest is known without reading any."""
    stated = own_constants(family, release).covers
    if stated is not None:
        first, last = (None if end is None else numbers(end) for end in stated)
        assert covers(numbers(release), (first, last))


@pytest.mark.parametrize("family", system_names())
def test_ranges_of_a_family_do_not_overlap(family: str) -> None:
    stated = [own_constants(family, release).covers for release in folder_of(family).releases]
    for before, after in pairwise([ends for ends in stated if ends is not None]):
        last, first = before[1], after[0]
        assert last is not None, f"{family}: only the newest range may be open"
        assert first is not None, f"{family}: only the oldest range may begin anywhere"
        assert numbers(last) < numbers(first)


@pytest.mark.parametrize("family", system_names())
def test_a_family_alone_is_its_newest_version(family: str) -> None:
    newest = max(folder_of(family).releases, key=numbers)
    assert load_constants(family) == load_constants(f"{family}@{newest}")
    assert get_system(family) is get_system(f"{family}@{newest}")


def test_an_end_of_a_range_is_text() -> None:
    """0.10 as a number is 0.1."""
    file = own_constants("vllm", "0.2")
    with pytest.raises(SpecError, match="covers"):
        file.replace(covers=(0.1, 0.10))


# -- the nearest ----------------------------------------------------------------------------------------------

ONE = st.tuples(st.integers(0, 30), st.integers(0, 30)).map(lambda pair: f"{pair[0]}.{pair[1]}")


@st.composite
def disjoint_ranges(draw: st.DrawFn) -> dict[str, tuple[tuple[int, ...], tuple[int, ...]]]:
    ends = sorted({numbers(draw(ONE)) for _ in range(2 * draw(st.integers(1, 4)))})
    ends = ends[: len(ends) // 2 * 2] or [(0, 1), (0, 2)]
    return {f"{first}": (first, last) for first, last in zip(ends[::2], ends[1::2], strict=True)}


@given(disjoint_ranges(), ONE)
def test_the_nearest_is_the_range_around_a_version_or_one_beside_it(
    ranges: dict[str, tuple[tuple[int, ...], tuple[int, ...]]], version: str
) -> None:
    wanted, names = numbers(version), list(ranges)
    found, inside = nearest(wanted, dict(ranges))
    first, last = ranges[found]
    assert inside == (first <= wanted <= last)
    assert inside == any(first <= wanted <= last for first, last in ranges.values())
    place = names.index(found)
    if wanted > last and place + 1 < len(names):
        assert wanted < ranges[names[place + 1]][0]
    if wanted < first and place:
        assert wanted > ranges[names[place - 1]][1]


@pytest.mark.parametrize(
    ("version", "found"),
    [
        ("0.9", "old"),
        ("0.10", "new"),
        ("0.9.4", "old"),
        ("0.12", "new"),
        ("0.1", "old"),
        ("2", "new"),
        ("0.11", "new"),
    ],
)
def test_numbers_order_versions(version: str, found: str) -> None:
    ranges = {"old": ((0, 5), (0, 9)), "new": ((0, 10), (0, 11))}
    assert nearest(numbers(version), dict(ranges))[0] == found


def test_of_two_that_are_as_near_the_newer_is_taken() -> None:
    """It predicts what lies between them better: docs/accuracy_stacks.md."""
    assert nearest((0, 5), {"old": ((0, 1), (0, 4)), "new": ((0, 6), (0, 9))}) == ("new", False)
    assert nearest((0, 5), {"old": ((0, 1), (0, 4)), "new": ((0, 7), (0, 9))}) == ("old", False)
    assert nearest((0, 6), {"old": ((0, 1), (0, 4)), "new": ((0, 7), (0, 9))}) == ("new", False)


@given(disjoint_ranges(), ONE)
def test_none_is_nearer_than_the_nearest(
    ranges: dict[str, tuple[tuple[int, ...], tuple[int, ...]]], version: str
) -> None:
    wanted = numbers(version)
    found, inside = nearest(wanted, dict(ranges))
    if not inside:
        assert all(distance(wanted, ranges[found]) <= distance(wanted, ends) for ends in ranges.values())


def test_a_version_that_does_not_ship_is_that_of_its_device() -> None:
    """Kernels of one kind of device are nearer to those of the next version there than another device's are."""
    mi300x, hopper, workstation = ("amd", "cdna3"), ("nvidia", "hopper"), ("nvidia", "blackwell gddr7")
    assert release_of("vllm", "0.31", mi300x) == ("0.15-cdna3", False)
    assert release_of("vllm", "0.31", workstation) == ("0.15-gddr7", False)
    assert release_of("vllm", "0.31", hopper) == ("0.15", False)
    assert release_of("sglang", "0.9", mi300x) == ("0.5-cdna3", False)
    assert release_of("sglang", "0.2", mi300x) == ("0.3", False)  # the other one begins with 0.4
    asked = InferenceInputs(model="llama-2-7b", gpu="mi300x", system="vllm@0.31")
    said = predict_inference(build_scenario(asked)).warnings
    assert any("the nearest version, vllm@0.15-cdna3" in text for text in said)


def test_the_constants_of_a_version_are_of_the_engine_that_schedules_it() -> None:
    """vLLM's second engine is the default from 0.8 on: host times of the first say nothing of it."""
    for version in ("0.3", "0.5", "0.7.3", "0.8.0", "0.9.2", "0.11.2", "0.20"):
        rules, file = scheduler_rules("vllm", version), get_system(f"vllm@{version}").file
        assert rules is not None
        assert (
            ("V0" in rules.name) == (file.value("step_ms") > 1) == (not file.value("expert_load_variation"))
        )


# -- what is asked for ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["vLLM@0.2", "vllm@0.1.7", "vllm-2023", "vllm@2023"])
def test_names_of_a_version(name: str) -> None:
    assert get_system(name) is get_system("vllm@0.2")


def test_a_version_of_other_devices_is_said() -> None:
    """Its own name chooses it anywhere; its rows say nothing of this device."""
    result = predict_inference(build_scenario(InferenceInputs(**ASKED, system="vllm@0.5-cdna3")))
    assert any("is for cdna3 alone" in text for text in result.warnings)
    own = predict_inference(
        build_scenario(InferenceInputs(**ASKED | {"gpu": "mi300x-192gb"}, system="vllm@0.5-cdna3"))
    )
    assert not any("alone" in text for text in own.warnings)


@pytest.mark.parametrize(("year", "release"), [("2024", "0.6"), ("2025", "0.10"), ("2026", "0.15")])
def test_a_year_is_the_version_of_its_end(year: str, release: str) -> None:
    """By its numbers a year is nearest to the newest version there is."""
    assert find(f"vllm-{year}") == ("vllm", release)
    assert get_system(f"vllm@{year}") is get_system(f"vllm@{release}")


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("vllm@0.6@0.5", "'0.6@0.5' is no version"),
        ("vllm@-1", "'-1' is no version"),
        ("vllm@", "names no version after '@'"),
        ("vllm@new", "'new' is no version; there are 0.2, 0.4"),
        ("lightllm@new", "'new' is no version; there are numbers, such as 1.0"),
        ("resident@2", "system resident has no versions"),
        ("vllm-2023@0.2", "vllm-2023 is the version vllm@0.2 already"),
        ("vlm@0.2", "unknown system 'vlm'; the nearest known: vllm"),
    ],
)
def test_a_version_that_cannot_be(name: str, said: str) -> None:
    with pytest.raises(SpecError, match=said):
        build_scenario(InferenceInputs(**ASKED, system=name))


def test_a_version_that_does_not_ship_is_said() -> None:
    listed = predict_inference(build_scenario(InferenceInputs(**ASKED, system="deepspeed_inference@0.10.1")))
    other = predict_inference(build_scenario(InferenceInputs(**ASKED, system="deepspeed_inference@0.3")))
    assert not [text for text in listed.warnings if "does not ship" in text]
    (said,) = [text for text in other.warnings if "does not ship" in text]
    assert said.startswith("deepspeed_inference 0.3 does not ship")
    assert "deepspeed_inference@0.10 (0.8 to 0.10" in said
    assert other.total_latency_s == listed.total_latency_s
    assert other.scenario.system == "deepspeed_inference"
    assert find("deepspeed_inference@0.3") == ("deepspeed_inference", "0.3")


@pytest.mark.parametrize(
    "asked", ["deepspeed_inference@0.10", "deepspeed_inference@0.3", "deepspeed_inference"]
)
def test_json_replays_with_its_version(
    asked: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--model", ASKED["model"], "--gpu", ASKED["gpu"], "--system", asked]
    assert run(["infer", *words, "--json"]) == 0
    first = json.loads(capsys.readouterr().out)
    assert first["system"] == "deepspeed_inference@0.10"
    assert first["inputs"]["system"] == asked
    file = tmp_path / "asked.json"
    file.write_text(json.dumps(first))
    assert run(["infer", "--config", str(file), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == first


@pytest.mark.parametrize(
    "words",
    [
        (
            "sweep",
            "--model",
            "opt-13b",
            "--gpu",
            "a100-sxm-80gb",
            "--batch-size",
            "1,2",
            "--system",
            "deepspeed_inference@0.10,ft@5",
        ),
        ("plan", "--model", "opt-13b", "--gpus", "a100-sxm-80gb", "--system", "deepspeed_inference@0.10"),
        ("scaling", "--model", "opt-13b", "--gpu", "a100-sxm-80gb", "--system", "deepspeed_inference@0.10"),
    ],
)
def test_other_commands_take_versions(words: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    """Same figures as without them, where only one version ships; the commands that it prints keep the version."""
    assert run([*words]) == 0
    with_version = _untimed(capsys.readouterr().out)
    assert run([word.replace("@0.10", "").replace("@5", "") for word in words]) == 0
    assert (
        with_version.replace("@0.10", "").replace("@5", "").split()
        == _untimed(capsys.readouterr().out).split()
    )


def _untimed(out: str) -> str:
    """Without how long it took, and without how lines of commands are broken."""
    return re.sub(r"[\d.]+ ms, [\d,]+ points/s|predicted in [\d.]+ m?s", "", out).replace("\\\n", "")


@pytest.mark.parametrize(
    "words",
    [
        ("infer", "--model", "opt-13b", "--gpu", "a100-sxm-80gb", "--system", "deepspeed_inference@0.3"),
        (
            "sweep",
            "--model",
            "opt-13b",
            "--gpu",
            "a100-sxm-80gb",
            "--batch-size",
            "1,2",
            "--system",
            "ft,deepspeed_inference@0.3",
        ),
        ("plan", "--model", "opt-13b", "--gpus", "a100-sxm-80gb", "--system", "deepspeed_inference@0.3"),
        ("policy", "--model", "opt-1.3b", "--gpu", "t4", "--gen-len", "4", "--system", "flexgen@0.3"),
    ],
)
def test_every_command_says_that_a_version_does_not_ship(
    words: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run([*words]) == 0
    said = capsys.readouterr()
    assert "0.3 does not ship" in " ".join((said.out + said.err).split())
    assert run([word.replace("@0.3", "") for word in words]) == 0
    said = capsys.readouterr()
    assert "does not ship" not in said.out + said.err


def test_a_version_that_does_not_ship_has_the_wider_interval() -> None:
    asked = {"model": "llama-2-70b", "gpu": "a100-sxm-80gb", "tp_size": 8, "batch_size": 8}
    same, other = (
        predict_inference(build_scenario(InferenceInputs(**asked, system=name))).interval
        for name in ("fastertransformer@5", "fastertransformer@6")
    )
    assert same is not None
    assert other is not None
    assert other.total_factor > same.total_factor
    assert "--system names yours" not in other.method


def test_where_nothing_is_known_of_versions_there_is_no_interval() -> None:
    asked = {"model": "opt-30b", "gpu": "t4", "ds_zero": 3, "cpu_offload": True, "batch_size": 8}
    listed, other = (
        predict_inference(build_scenario(InferenceInputs(**asked, system=f"zero_inference@{version}")))
        for version in ("0.9", "0.16")
    )
    assert listed.interval is not None
    assert other.interval is None
    assert "how far versions differ is not known" in (other.no_interval or "")


# -- systems list and show --------------------------------------------------------------------------------------


def test_every_version_is_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["systems", "list", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["systems"]
    inference = [row for row in rows if row["kind"] == "inference"]
    assert sorted(row["name"] for row in inference) == sorted(
        f"{family}@{release}" for family in system_names() for release in folder_of(family).all_releases
    )
    assert sum(row["newest"] for row in inference) == len(system_names())
    assert run(["systems", "list"]) == 0
    text = capsys.readouterr().out
    assert all(row["name"] in text for row in rows)
    assert run(["systems", "list", "llm", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["systems"]
    assert all(any("llm" in name for name in (row["name"], *row["aliases"])) for row in found)


def test_what_stands_in_is_said_on_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["systems", "show", "vllm@9"]) == 0
    assert "vllm 9 does not ship" in capsys.readouterr().err
    assert run(["systems", "show", "vlm"]) == 2


@pytest.mark.parametrize(
    ("asked", "engine"),
    [
        ("nim@1.3", "tensorrt_llm@0.9"),
        ("nim@1.8.0", "tensorrt_llm@0.14"),
        ("nim@1.15", "tensorrt_llm@1.0"),
        ("nim@2.0.8", "vllm@0.15"),
    ],
)
def test_a_container_has_the_constants_of_the_engine_inside(asked: str, engine: str) -> None:
    family, version = find(asked)
    inside, release = engine.split("@")
    ours = load_release(family, release_of(family, version)[0]).constants
    theirs = load_release(inside, release).constants
    assert {name: one.value for name, one in ours.items()} == {
        name: one.value for name, one in theirs.items()
    }


@pytest.mark.parametrize("name", ["tgi", "text-generation-inference@2.4", "aphrodite@0.1", "mlc-llm"])
def test_engines_without_runs_are_any_engine_in_whatever_version(name: str) -> None:
    family, version = find(name)
    assert (family, release_of(family, version)) == ("engine", ("any", True))
