"""A new system is its own folder and nothing else: a toy that streams weights works in every command."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
CODE = '''
"""Weights in host memory, copied to the GPU in every pass, with nothing overlapped."""

from llm_perf.systems.base import (
    ALL_ON_CPU, ALL_ON_GPU, NO_MEMORY, Evaluation, MemoryParts, MemoryUse, PhaseCost, Placement, System,
)
from llm_perf.systems.footprint import model_weight_bytes, prefill_activation_bytes, stage_kv_bytes
from llm_perf.systems.forward import Forward, decode_steps
from llm_perf.systems.resident import decode_phase, prefill_phase


class ToyStream(System):
    name = "toy_stream"

    def place(self, scenario, load):
        return Placement(ALL_ON_CPU, ALL_ON_GPU, ALL_ON_GPU, "a toy streams its weights")

    def memory(self, scenario, load, placement):
        constants, weights = self.constants(scenario), model_weight_bytes(scenario)
        kv = stage_kv_bytes(scenario, load.batch, load.context_len)
        activations = prefill_activation_bytes(scenario, load.batch, load.prompt_len, constants)
        gpu = MemoryParts(0.0, kv, activations, 0.0, 0.0, scenario.gpu.usable_memory_bytes)
        cpu = MemoryParts(weights, 0.0, 0.0, 0.0, 0.0, scenario.host.usable_memory_bytes)
        return MemoryUse(gpu, cpu, NO_MEMORY)

    def evaluate(self, scenario, load):
        forward = Forward(scenario, self.constants(scenario))
        placement = self.place(scenario, load)
        prefill = self._copied(scenario, prefill_phase(forward, load.batch, load.prompt_len), 1)
        decode = self._copied(scenario, decode_phase(forward, load.batch, load), decode_steps(load))
        return Evaluation(placement, self.memory(scenario, load, placement), prefill, decode)

    def _copied(self, scenario, cost, passes):
        copy_s = passes * model_weight_bytes(scenario) / (self.constants(scenario)["toy_link_gb_per_s"] * 1e9)
        parts, busy = {**cost.parts_s, "toy_copies": copy_s}, {**cost.busy_s, "toy_link": copy_s}
        return PhaseCost(cost.latency_s + copy_s, parts, busy)

    def smaller(self, inputs, scenario):
        yield {"kv_bits": 8}

    def knobs(self, lossless):
        for bits in (16,) if lossless else (16, 4):
            yield {"quant_bits": bits, "cpu_offload": True}
'''
SAID = """
title: Toy streaming
aliases: [toy]
implementation: ToyStream
weights_on: cpu
parts:
  toy_copies: {title: copies of a toy, waits_for: [toy_link]}
resources:
  toy_link: the link of a toy
"""
VERSION = """
version: "{covers} (2026)"
covers: ["{covers}", "{covers}"]
description: A toy that streams its weights, for a test.
extends: resident
constants:
  toy_link_gb_per_s:
    value: {rate}
    range: [1, 20]
    provenance: assumed
    source: written for a test
"""
ASKED = ("--model", "opt-13b", "--gpu", "t4", "--batch-size", "4", "--system", "toy")


@pytest.fixture(scope="module")
def toys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of one's own systems with a toy in it, in two versions."""
    folder = tmp_path_factory.mktemp("systems")
    toy = folder / "toy_stream"
    toy.mkdir()
    (toy / "__init__.py").write_text(CODE)
    (toy / "system.yaml").write_text(SAID)
    for covers, rate in (("0.9", 5), ("0.10", 10)):
        (toy / f"{covers}.yaml").write_text(VERSION.format(covers=covers, rate=rate))
    return folder


def called(toys: Path, *words: str, code: int = 0) -> str:
    done = subprocess.run(
        [sys.executable, "-c", "from llm_perf.cli.main import main; main()", *words],
        cwd=ROOT,
        env=os.environ | {"LLM_PERF_SYSTEMS": str(toys)},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout if code in (0, 3) else done.stderr


def predicted(toys: Path, *words: str, code: int = 0) -> dict[str, Any]:
    found = json.loads(called(toys, "infer", *ASKED, *words, "--json", code=code))
    assert isinstance(found, dict)
    return found


def test_infer_prints_its_own_titles_and_version(toys: Path) -> None:
    text = called(toys, "infer", *ASKED)
    assert "system toy_stream" in text
    assert "constants as of toy_stream 0.10 (2026)" in text
    assert "copies of a toy" in text
    assert "bound by" in text
    assert "the link of a toy (busy" in text
    assert "copies of a toy" in called(toys, "infer", *ASKED, "--explain")


def test_its_numbers_are_its_own(toys: Path) -> None:
    """24 GiB of weights at 10 GB/s in every pass: prefill and 31 steps; at 5 GB/s twice as long."""
    newer, older = predicted(toys), predicted(toys, "--system", "toy_stream@0.9")
    assert (newer["system"], older["system"]) == ("toy_stream@0.10", "toy_stream@0.9")
    weights = newer["memory"]["cpu"]["weights_bytes"]
    for found, rate in ((newer, 10e9), (older, 5e9)):
        assert found["prefill"]["breakdown_s"]["toy_copies"] == pytest.approx(weights / rate)
        assert found["decode"]["breakdown_s"]["toy_copies"] == pytest.approx(31 * weights / rate)
        assert found["decode"]["bottleneck"] == "toy_link"
        assert found["placement"]["weights"] == {"gpu": 0.0, "cpu": 1.0, "nvme": 0.0}


def test_a_version_that_it_does_not_have(toys: Path) -> None:
    notes = predicted(toys, "--system", "toy@0.11")["warnings"]
    assert any(note.startswith("toy_stream 0.11 does not ship") for note in notes)


def test_options_that_it_does_not_know(toys: Path) -> None:
    said = called(toys, "infer", *ASKED, "--percent", "0 100 100 0 100 0", code=2)
    assert "system toy_stream does not know --percent; systems that do: flexgen" in said
    assert "does not know --prefill-chunk" in called(toys, "infer", *ASKED, "--prefill-chunk", "64", code=2)


def test_advice_where_it_does_not_fit(toys: Path) -> None:
    found = predicted(toys, "--prompt-len", "1500", "--batch-size", "14", code=3)
    changes = [change["inputs"] for change in found["suggestions"]]
    assert {"kv_bits": 8} in changes


def test_sweep_and_policy(toys: Path) -> None:
    table = called(
        toys,
        "sweep",
        "--model",
        "opt-13b",
        "--gpu",
        "t4",
        "--batch-size",
        "1,4",
        "--system",
        "toy,zero_inference",
    )
    assert table.count("toy") >= 2
    found = json.loads(
        called(
            toys,
            "policy",
            "--model",
            "opt-13b",
            "--gpu",
            "t4",
            "--system",
            "toy_stream",
            "--gen-len",
            "4",
            "--json",
        )
    )
    assert found["policy"]["system"] == "toy_stream"
    assert found["policy"]["quant_bits"] == 4  # a quarter of the copies
    text = called(toys, "policy", "--model", "opt-13b", "--gpu", "t4", "--system", "toy", "--gen-len", "4")
    assert "quant_bits 4" in text


def test_its_schedule_can_be_traced(toys: Path, tmp_path: Path) -> None:
    file = tmp_path / "trace.json"
    called(toys, "infer", *ASKED, "--trace", str(file))
    assert "toy_copies" in file.read_text()


def test_it_is_listed_where_systems_are(toys: Path) -> None:
    code = (
        "from llm_perf.systems import system_names; from llm_perf.explore.controls import *; "
        "import llm_perf.explore.controls as c; assert 'toy_stream' in system_names(); print(c.__name__)"
    )
    environment = os.environ | {"LLM_PERF_SYSTEMS": str(toys)}
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environment, check=True, timeout=60)
    assert "the nearest known: toy_stream" in called(toys, "infer", *ASKED, "--system", "toy_strem", code=2)


def test_docs_have_its_constants(toys: Path) -> None:
    pytest.importorskip("mkdocs")
    code = "from docs import hooks; print(hooks.constants('toy_stream')); print(hooks.constants('toy_stream@0.9'))"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=os.environ | {"LLM_PERF_SYSTEMS": str(toys)},
        capture_output=True, text=True, check=True, timeout=60,
    )  # fmt: skip
    assert "Version: 0.10 (2026)" in done.stdout
    assert "Version: 0.9 (2026)" in done.stdout
    assert "| `toy_link_gb_per_s` | 10 | 1 to 20 | written for a test |" in done.stdout


def test_without_the_folder_it_is_unknown(tmp_path: Path) -> None:
    assert "unknown system 'toy'" in called(tmp_path, "infer", *ASKED, code=2)
