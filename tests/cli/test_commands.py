"""The commands beside infer, and what holds for all of them: help, version, widths, colours, streams."""

from __future__ import annotations

import re
from importlib.metadata import version
from pathlib import Path
from typing import Any

import click
import pytest
import yaml

import llm_perf as package
from llm_perf.cli.main import cli
from llm_perf.config.loading import known_names
from llm_perf.report.answer import LABELS
from llm_perf.systems import system_names
from tests.cli.machines import on_its_machine

KINDS = {"models": ("model", "opt-175b"), "gpus": ("GPU", "t4"), "hosts": ("host", "gcp-t4")}
DEMO = ("infer", "--model", "opt-175b", "--gpu", "t4", "--ds-zero", "3")
COMMANDS = {
    "infer": DEMO,
    "explain": (*DEMO, "--explain"),
    "priced": (*DEMO, "--cost-per-gpu-hour", "0.35"),
    "does not fit": ("infer", "--model", "opt-175b", "--gpu", "t4"),
    "wide numbers": (
        "infer", "--model", "opt-175b", "--gpu", "t4", "--ds-zero", "3", "--batch-size", "1000000000",
        "--prompt-len", "1000000", "--allow-long-context",
    ),
    "many parts": (
        "infer", "--model", "mixtral-8x7b", "--gpu", "RTX PRO 6000 Blackwell Server", "--tp-size", "4", "--pp-size", "2",
        "--dp-size", "4", "--ep-size", "4", "--num-nodes", "4", "--batch-size", "64", "--quant-bits", "4", "--explain",
    ),
    "comparison": ("infer", "--model", "opt-30b", "--gpu", "t4", "--gpu", "RTX PRO 6000 Blackwell Server", "--gpu", "h200"),
    "models": ("models", "list"),
    "gpus": ("gpus", "list"),
    "hosts": ("hosts", "list"),
    "some models": ("models", "list", "llama"),
    "model": ("models", "show", "deepseek-v3"),
    "GPU": ("gpus", "show", "h100-sxm-80gb"),
    "host": ("hosts", "show", "gcp-t4"),
    "doctor": ("doctor",),
    "help": ("--help",),
    "help of infer": ("infer", "--help"),
    "help of models": ("models", "--help"),
    "version": ("--version",),
}  # fmt: skip
COMMANDS |= {f"system {name}": ("infer", *on_its_machine(name), "--explain") for name in system_names()}
JSON = [name for name in COMMANDS if "help" not in name and name != "version"]
LOG = re.compile(r"^(model size|peak gpu mem|decode latency|total latency): ")
MAY_BE_LONG = re.compile(r"https?://\S{60,}")  # an address cannot be wrapped


def _subcommands() -> set[str]:
    assert isinstance(cli, click.Group)
    return set(cli.list_commands(click.Context(cli)))


def test_every_command_is_covered() -> None:
    """A command that is added later has to be added above."""
    named = {arguments[0] for arguments in COMMANDS.values()}
    assert named >= _subcommands() & {"infer", "models", "gpus", "hosts", "doctor"}


@pytest.mark.parametrize("name", COMMANDS)
def test_output_fits_80_columns_without_colours(llm_perf: Any, name: str) -> None:
    outcome = llm_perf(*COMMANDS[name])
    assert outcome.code in (0, 3)
    assert "\x1b" not in outcome.out
    lines = outcome.out.splitlines()
    assert lines
    for line in lines:
        assert len(line) <= 80 or LOG.match(line) or MAY_BE_LONG.search(line), line
        assert line == line.rstrip() or LOG.match(line), line
        # Rich's mark of what it cut off; a reason too long for its line of the answer is whole in the details.
        assert "…" not in line or line.startswith(LABELS), line


@pytest.mark.parametrize("name", COMMANDS)
def test_nothing_but_results_is_said(llm_perf: Any, name: str) -> None:
    assert llm_perf(*COMMANDS[name]).err == ""


@pytest.mark.parametrize("name", JSON)
def test_json_is_one_object_with_a_version(llm_perf: Any, name: str) -> None:
    outcome = llm_perf(*COMMANDS[name], "--json")
    assert outcome.json["schema_version"] == 1
    assert outcome.out.count("\n") == 1
    assert outcome.err == ""


def test_version(llm_perf: Any) -> None:
    assert llm_perf("--version").out == f"llm-perf, version {package.__version__}\n"
    assert version("llm-perf") == package.__version__


def test_help_names_every_command_and_flag(llm_perf: Any) -> None:
    overview = llm_perf("--help").out
    for name in _subcommands():
        assert re.search(rf"^  {name}  +\S", overview, re.MULTILINE)
    assert "llm-perf infer --model opt-175b --gpu t4 --ds-zero 3" in overview
    flags = llm_perf("infer", "-h").out
    wanted = """model gpu host num-gpus system batch-size prompt-len gen-len ds-zero tp-size pp-size dp-size ep-size sp-size
        weight-bits activation-bits kv-bits quant-bits quant-group-size cpu-offload disk-offload kv-offload pin-memory
        flops-efficiency hbm-memory-efficiency cost-per-gpu-hour profile num-nodes allow-long-context config log-file
        output-dir explain json"""
    for flag in wanted.split():
        assert f"--{flag}" in flags


def test_without_a_command_help_is_shown(llm_perf: Any) -> None:
    outcome = llm_perf()
    assert (outcome.code, outcome.out) == (2, "")
    assert "Commands:" in outcome.err


# -- doctor ---------------------------------------------------------------------------------------------------


def test_doctor_finds_what_predictions_need(llm_perf: Any) -> None:
    checks = {check["name"]: check for check in llm_perf("doctor", "--json").json["checks"]}
    assert checks["llm-perf"]["detail"].startswith(package.__version__)
    for name in ("llm-perf", "base", "data"):
        assert checks[name]["ok"] is True
        assert checks[name]["required"] is True
    assert f"{len(known_names('model'))} model specs" in checks["data"]["detail"]
    assert "numpy" in checks["base"]["detail"]
    assert llm_perf("doctor").code == 0


def test_doctor_fails_where_a_base_package_is_missing(llm_perf: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("llm_perf.report.doctor._BASE", ("numpy", "no-such-package"))
    outcome = llm_perf("doctor")
    assert outcome.code == 4
    assert re.search(r"^--\s+base\s+not installed: no-such-package", outcome.out, re.MULTILINE)


# -- models, gpus, hosts --------------------------------------------------------------------------------------


@pytest.mark.parametrize("plural", KINDS)
def test_list_has_one_line_per_spec(llm_perf: Any, plural: str) -> None:
    rows = llm_perf(plural, "list", "--json").json[plural]
    assert len(rows) == len(known_names(KINDS[plural][0]))
    assert len({row["name"] for row in rows}) == len(rows)
    lines = llm_perf(plural, "list").out.splitlines()
    assert lines[0].startswith("name ")
    starts = iter(lines[1:])  # a long name goes on in a second line
    assert all(any(line.startswith(row["name"][:20]) for line in starts) for row in rows)
    assert len(lines) <= len(rows) + 1 + sum(len(row["name"]) > 20 for row in rows)


def test_list_finds_a_part_of_a_name_however_it_is_spelled(llm_perf: Any) -> None:
    for pattern in ("facebook/opt-17", "OPT-175", "opt_175b"):
        rows = llm_perf("models", "list", pattern, "--json").json["models"]
        assert [row["name"] for row in rows] == ["facebook/opt-175b"]
    assert rows[0]["total_params"] == pytest.approx(175e9, rel=0.01)
    assert llm_perf("gpus", "list", "no such thing", "--json").json["gpus"] == []


def test_list_finds_a_model_by_the_name_of_another_with_its_shapes(llm_perf: Any) -> None:
    for pattern, shapes in (("r1", "deepseek-ai/DeepSeek-V3"), ("Llama-3.3", "meta-llama/Llama-3.1-70B")):
        rows = llm_perf("models", "list", pattern, "--json").json["models"]
        assert shapes in [row["name"] for row in rows]
        told = [
            line for line in llm_perf("models", "list", pattern).out.splitlines() if "is answered as" in line
        ]
        assert any(line.endswith(shapes) for line in told)
        for line in told:  # what is said holds
            alias, _, name = line.partition(" is answered as ")
            assert llm_perf("models", "show", alias, "--json").json["name"] == name
    assert "answered as" not in llm_perf("models", "list").out


@pytest.mark.parametrize("plural", KINDS)
def test_show_by_name_and_as_json(llm_perf: Any, plural: str) -> None:
    name = KINDS[plural][1]
    text, found = llm_perf(plural, "show", name).out, llm_perf(plural, "show", name, "--json").json
    written = yaml.safe_load(text)
    assert written.items() <= found.items()
    assert "# derived: " in text
    assert found["source"]


@pytest.mark.parametrize("plural", KINDS)
def test_what_show_prints_is_a_spec_file(llm_perf: Any, folder: Path, plural: str) -> None:
    """The way to a spec of one's own: print the nearest, change it, give the file."""
    for name in known_names(KINDS[plural][0])[::7]:
        (folder / "mine.yaml").write_text(llm_perf(plural, "show", name).out, encoding="utf-8")
        named, read = (llm_perf(plural, "show", given, "--json").json for given in (name, "mine.yaml"))
        assert read == named | {"aliases": read.get("aliases")} or read == named


@pytest.mark.parametrize("plural", KINDS)
def test_show_of_an_unknown_name_lists_the_nearest(llm_perf: Any, plural: str) -> None:
    name = KINDS[plural][1]
    assert llm_perf(plural, "show", f"{name}x").error.startswith(
        f"unknown {KINDS[plural][0]} '{name}x'; the nearest known: "
    )
