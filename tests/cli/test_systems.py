"""`llm-perf systems list` and `systems show`: versions, constants, and what published runs say of them."""

from __future__ import annotations

import csv
import re
from pathlib import Path
from typing import Any

import pytest

from llm_perf.systems.constants import load_constants
from llm_perf.systems.families import family_names, folder_of
from llm_perf.systems.training.framework import FRAMEWORKS, get_framework

PREDICTIONS = Path(__file__).parents[2] / "calibrate" / "measurements" / "predictions.csv"
LEAVE_OUT = Path(__file__).parents[1] / "published" / "leave_out.csv"
VERSIONS = [f"{family}@{release}" for family in family_names() for release in folder_of(family).all_releases]


def test_every_version_is_listed(llm_perf: Any) -> None:
    listed = llm_perf("systems", "list", "--json").json["systems"]
    assert sorted(one["name"] for one in listed) == sorted([*VERSIONS, *FRAMEWORKS])
    text = llm_perf("systems", "list").out
    assert max(map(len, text.splitlines())) <= 80
    for one in listed:
        assert one["name"] in text
        assert one["inherited"] <= one["constants"]


def test_figures_of_a_family_stand_once(llm_perf: Any) -> None:
    """Rows are of all versions together: beside each version they would seem to be its own."""
    text = llm_perf("systems", "list", "llama_cpp").out
    lines = [line for line in text.splitlines() if line.split()[:1] == ["llama_cpp"] or "llama_cpp@" in line]
    assert len(lines) > 3
    figures = [found[1] for line in lines if (found := re.search(r" (\d+) +\d\.\d\d +\d\.\d\d$", line))]
    assert lines[0].split()[1] == figures[0]
    assert figures.count(figures[0]) == 1


def test_a_version_shows_its_own_rows(llm_perf: Any) -> None:
    one = llm_perf("systems", "list", "vllm@0.10", "--json").json["systems"][0]["of_version"]
    line = next(line for line in llm_perf("systems", "list").out.splitlines() if "vllm@0.10 " in line)
    worst = max(one["left_out"].values())
    assert (
        f"backed by: {one['rows']} published runs of this version"
        in llm_perf("systems", "show", "vllm@0.10").out
    )
    assert line.split()[-3:] == [str(one["rows"]), f"{one['gm']:.2f}", f"{worst:.2f}"]


def test_what_was_published_is_read_once_for_a_list(llm_perf: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from calibrate.validate import left_out
    from llm_perf.cli import systems

    systems._published.cache_clear()
    read = []
    whole = left_out.load_left_out
    monkeypatch.setattr(left_out, "load_left_out", lambda: read.append(1) or whole())
    assert "rows: published runs of all versions together" in llm_perf("systems", "list").out
    assert len(read) == 1


def test_a_list_says_how_many_runs_stand_behind_a_system(llm_perf: Any) -> None:
    found = {
        one["name"].partition("@")[0]: one for one in llm_perf("systems", "list", "--json").json["systems"]
    }
    rows = list(csv.DictReader(PREDICTIONS.read_text("utf-8").splitlines()))
    trained = [row for row in rows if row["table"] == "training" and row["predicted"]]
    # The fits without a group say whose run a row is: hybrids and the B200 table have had theirs too.
    assert sum(found[name]["rows"] for name in FRAMEWORKS) == len(trained) > 280
    measured = [one for one in found.values() if one["rows"]]
    assert len(measured) > 10
    assert all(one["gm"] >= 1 for one in measured)
    assert found["vllm"]["left_out"]["model"] > found["vllm"]["gm"]
    assert found["deepspeed_inference"]["gm"] is None


@pytest.mark.parametrize("name", [*VERSIONS, *FRAMEWORKS])
def test_a_system_is_shown_with_every_constant(llm_perf: Any, name: str) -> None:
    file = get_framework(name) if name in FRAMEWORKS else load_constants(name)
    found = llm_perf("systems", "show", name, "--json").json
    assert found["constants"].keys() == file.constants.keys()
    for constant, one in file.constants.items():
        shown = found["constants"][constant]
        assert shown["value"] == one.value
        assert shown["provenance"] == one.provenance
        assert shown["source"] == one.source
        assert shown.get("rows") == one.rows
        assert (constant in found["own"]) == (not shown["inherited"])
        assert shown["inherited"] == (constant in file.inherited)
    assert {host: set(stated) for host, stated in found["hosts"].items()} == {
        host: set(stated) for host, stated in file.hosts.items()
    }
    outcome = llm_perf("systems", "show", name)
    assert outcome.code == 0
    assert max(map(len, outcome.out.splitlines())) <= 80
    for constant in file.constants:
        assert f"  {constant} = " in outcome.out


def test_names_and_versions(llm_perf: Any) -> None:
    assert llm_perf("systems", "show", "trt-llm", "--json").json["title"] == "TensorRT-LLM"
    assert llm_perf("systems", "show", "vllm", "--json").json["newest"]
    assert llm_perf("systems", "show", "nemo", "--json").json["kind"] == "training"


def test_an_unknown_name_is_refused_with_the_nearest(llm_perf: Any) -> None:
    outcome = llm_perf("systems", "show", "vlm")
    assert outcome.code == 2
    assert "vllm" in outcome.err
    assert len(outcome.err.splitlines()) == 1


def test_the_factor_is_that_of_the_refits_table(llm_perf: Any) -> None:
    table = csv.DictReader(LEAVE_OUT.read_text("utf-8").splitlines())
    line = next(
        one for one in table if (one["system"], one["leave_out"], one["class"]) == ("vllm", "model", "all")
    )
    shown = llm_perf("systems", "show", "vllm", "--json").json
    assert shown["rows"] == int(line["rows"])
    assert shown["gm"] == pytest.approx(float(line["shipped"]), abs=2e-4)
    assert shown["left_out"]["model"] == pytest.approx(float(line["left_out"]), abs=2e-4)


ASKED = ("--model", "llama-3-8b", "--gpu", "h100-sxm-80gb")


@pytest.mark.parametrize("name", [name for name in FRAMEWORKS if name != "deepspeed"])
def test_a_framework_is_said_to_train_where_a_system_is_asked(llm_perf: Any, name: str) -> None:
    """DeepSpeed generates too, in two systems, which are said."""
    outcome = llm_perf("infer", *ASKED, "--system", name)
    assert (outcome.code, outcome.out) == (2, "")
    assert outcome.err.startswith(f"llm-perf: unknown system '{name}': {name} is a framework that trains")
    assert f"llm-perf train --framework {name}" in outcome.err
    assert len(outcome.err.splitlines()) == 1


@pytest.mark.parametrize("command", ["infer", "sweep", "plan", "simulate", "scaling", "policy"])
def test_every_command_says_so(llm_perf: Any, command: str) -> None:
    gpu = ("--gpus", "h100*") if command == "plan" else ("--gpu", "h100-sxm-80gb")
    more = ("--rate", "1") if command == "simulate" else ()
    outcome = llm_perf(command, "--model", "llama-3-8b", *gpu, *more, "--system", "nemo-automodel@25.11")
    assert outcome.code == 2
    assert "automodel is a framework that trains" in outcome.err
    assert len(outcome.err.splitlines()) == 1


@pytest.mark.parametrize(
    ("name", "family"), [("vllm", "vllm"), ("trt-llm", "tensorrt_llm"), ("llama.cpp", "llama_cpp")]
)
def test_a_system_is_said_to_generate_where_a_framework_is_asked(
    llm_perf: Any, name: str, family: str
) -> None:
    outcome = llm_perf("train", *ASKED, "--framework", name)
    assert (outcome.code, outcome.out) == (2, "")
    assert f"unknown framework '{name}': {family} is a system that generates" in outcome.err
    assert f"llm-perf infer --system {family}" in outcome.err
    assert len(outcome.err.splitlines()) == 1
