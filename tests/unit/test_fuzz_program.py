"""`make fuzz`: a short run of what needs no processes, and a fault that it must find."""

from __future__ import annotations

import importlib.util
import json
import random
import sys
from pathlib import Path
from typing import Any

import pytest

PROGRAM = Path(__file__).parents[2] / "bench" / "fuzz.py"


@pytest.fixture
def fuzz(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    spec = importlib.util.spec_from_file_location("fuzz_program", PROGRAM)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "fuzz_program", module)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "ROOT", tmp_path)
    return module


@pytest.mark.parametrize(("target", "count"), [("cli", 12), ("files", 60), ("api", 40), ("roof", 150)])
def test_a_short_run_finds_nothing(fuzz: Any, tmp_path: Path, target: str, count: int) -> None:
    for seed in range(count):
        fuzz.TARGETS[target][0](random.Random(f"{target} {seed}"), tmp_path)


@pytest.mark.parametrize(
    ("code", "out", "err"),
    [(4, "", "llm-perf: internal error, please report it: KeyError: x\n"), (1, "", ""), (2, "half", "llm-perf: no\n"),
     (2, "", "two\nlines\n"), (0, '{"x": NaN}', ""), (0, "a defect of llm-perf, please report it", "")],
)  # fmt: skip
def test_what_is_a_fault(fuzz: Any, code: int, out: str, err: str) -> None:
    with pytest.raises(fuzz.Failure):
        fuzz.check(code, out, err, ["infer", "--json"])


def test_a_failed_case_is_kept_with_its_number(
    fuzz: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    def faulty(draw: random.Random, folder: Path) -> None:
        if draw.random() < 0.5:
            raise fuzz.Failure("found")

    monkeypatch.setattr(fuzz, "TARGETS", {"cli": (faulty, 1.0)})
    monkeypatch.setattr(sys, "argv", ["fuzz.py", "--minutes", "0.002", "--seed", "5"])
    assert fuzz.main() == 1
    kept = [json.loads(line) for line in (tmp_path / "fuzz_failures.jsonl").read_text().splitlines()]
    assert kept
    assert {one["target"] for one in kept} == {"cli"}
    assert f"cli {kept[0]['seed']}: found" in capsys.readouterr().out
