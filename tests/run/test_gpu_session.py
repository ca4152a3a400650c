"""The script for a GPU machine that is lent for minutes, at tiny scale on whatever is here."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from calibrate.gpu_session import BATCHES, LARGE, MODELS, Case, Session, cases, predicted_s
from llm_perf.errors import EnvironmentFailure

TINY = ("--models", "tiny-opt", "--batches", "1", "--prompt-len", "8", "--gen-len", "3", "--loops", "1")


def test_a_step_measures_its_cases_and_keeps_all_raw_samples(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "calibrate.gpu_session", "resident", "--out", str(tmp_path / "here"), *TINY],
        capture_output=True, text=True, timeout=240, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    kept = [json.loads(line) for line in (tmp_path / "here" / "resident.jsonl").read_text().splitlines()]
    assert [one["case"]["label"] for one in kept] == ["transformers", "zero-3"]
    for one in kept:
        assert one["status"] == "done"
        assert len(one["raw"]["loops"][0]["decode_steps_s"]) == 2
        assert one["environment"]["versions"]["torch"]
    shown = done.stdout.splitlines()
    assert [line.split()[0] for line in shown[1:3]] == ["transformers", "zero-3"]
    assert all(len(line) <= 80 for line in shown[:3])
    assert not list(Path().glob("ds-*")), "nothing is left where it was called"


def test_each_step_has_the_cases_of_the_plan():
    resident = list(cases("resident", MODELS, BATCHES, None))
    assert len(resident) == 2 * len(MODELS) * len(BATCHES)
    assert {case.gen_len for case in resident} == {32}
    offload = list(cases("offload", MODELS, BATCHES, None))
    labels = Counter(case.label for case in offload)
    assert labels["cpu pageable"] == labels["cpu, 4 bit"] == labels["cpu, KV pinned"] == 9
    assert {(case.batch, case.label) for case in offload if case.model == LARGE} == {
        (1, "cpu pinned"),
        (32, "cpu pinned"),
    }
    assert [case.model for case in offload if case.gen_len == 32] == list(MODELS)
    assert {case.model for case in cases("nvme", MODELS, BATCHES, None)} == set(MODELS[1:])


def fake_clock(monkeypatch, session: Session, seconds_per_case: float, outcome=None) -> list[tuple[str, ...]]:
    """Cases that take so long without anything being run."""
    import calibrate.gpu_session as module
    from calibrate.run.campaign import time

    calls: list[tuple[str, ...]] = []
    now = [time.monotonic()]

    def run_cli(*flags, timeout_s):
        now[0] += seconds_per_case
        calls.append(flags)
        if outcome is not None:
            raise outcome
        numbers = {"latency_s": 1.0, "latency_per_token_s": None}
        return {
            "status": "done", "measured": {"prefill": numbers, "decode": numbers, "peak_gpu_memory_bytes": 1 << 30},
            "error": {"prefill_latency": 0.1, "decode_latency": None, "peak_gpu_memory": -0.1},
        }  # fmt: skip

    monkeypatch.setattr(module, "run_cli", run_cli)
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    return calls


def test_a_case_that_would_not_end_in_time_is_dropped_and_said_so(tmp_path, monkeypatch):
    case = Case("cpu pinned", "opt-1.3b", 1, 8, ("--cpu-offload",))
    predicted = predicted_s(case, "H200-SXM-141GB", 512, 3)
    assert 20 < predicted < 100
    # After what takes time itself: the clock stands still from the next line on.
    session = Session(tmp_path, "offload", 200.0, "H200-SXM-141GB", 512, 3)
    calls = fake_clock(monkeypatch, session, 90.0)
    for _ in range(4):
        session.run(case)
    # Two take 180 of 200 seconds; the first has shown that a case takes 90, whatever was predicted.
    assert len(calls) == 2
    assert [found["status"] for _, found in session.done] == ["done", "done", "dropped", "dropped"]
    assert "dropped: 90 s by estimate, 20 s left" in session.table()[-1]
    assert len((tmp_path / "offload.jsonl").read_text().splitlines()) == 4


def test_a_case_that_fails_is_kept_and_the_next_one_is_run(tmp_path, monkeypatch):
    session = Session(tmp_path, "nvme", 1000.0, None, 512, 3)
    fake_clock(monkeypatch, session, 1.0, EnvironmentFailure("no swap files"))
    session.run(Case("nvme", "opt-6.7b", 1, 8, ("--disk-offload",)))
    assert "failed: no swap files" in session.table()[-1]


@pytest.mark.parametrize("step", ["resident", "offload", "nvme"])
def test_larger_cases_are_predicted_to_take_longer(step):
    seconds = [
        [predicted_s(case, "H200-SXM-141GB", 512, 3) for case in cases(step, (model,), (1,), None)]
        for model in MODELS
    ]
    assert seconds[0] < seconds[1] < seconds[2]


def rehearse(*flags: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "calibrate.gpu_session", *flags],
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip


def test_a_quarter_of_an_hour_is_rehearsed_without_a_gpu(tmp_path):
    done = rehearse("all", "--dry-run", "--gpu", "h200-sxm-141gb", "--out", str(tmp_path / "none"))
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert [line.partition(":")[0] for line in lines if line.endswith(" s") and line[0] in "ron"][:3] == [
        "resident", "offload", "nvme",
    ]  # fmt: skip
    spent, whole = map(float, re.findall(r"(\d+) of (\d+) s", lines[-1])[0])
    assert whole == 840
    assert 0.5 * whole < spent <= whole
    assert any("dropped: " in line for line in lines), "18 + 41 + 6 cases are more than a quarter of an hour"
    run = {line[2:17].strip() for line in lines if "about" in line}
    assert run == {
        "transformers",
        "zero-3",
        "cpu pinned",
        "cpu, KV pinned",
        "cpu, 4 bit",
        "cpu pageable",
        "nvme",
    }
    assert any(line.startswith("not run: a served engine: ") for line in lines)
    assert not (tmp_path / "none").exists()


def test_what_a_step_leaves_of_its_budget_the_next_has(tmp_path, monkeypatch):
    import calibrate.gpu_session as module

    given = []

    def session(folder, name, budget_s, *rest):
        given.append((name, budget_s))
        made = Session(folder, name, budget_s, *rest)
        monkeypatch.setattr(
            type(made),
            "run",
            lambda self, case: self.done.append((case, {"status": "dropped", "reason": ""})),
        )
        monkeypatch.setattr(type(made), "left_s", 50.0)
        return made

    monkeypatch.setattr(module, "Session", session)
    planned = {name: [] for name in module.STEPS}
    with pytest.raises(EnvironmentFailure, match="no case was measured"):
        module._measure("all", planned, 840.0, tmp_path, None, 8, 1)
    assert given == [("resident", 252.0), ("offload", 428.0), ("nvme", 260.0)]


def test_a_gpu_is_named_for_a_rehearsal_alone():
    done = rehearse("resident", "--gpu", "t4")
    assert done.returncode == 2
    assert done.stderr == "llm-perf: --gpu is of a --dry-run: a session measures the GPU that is here\n"


@pytest.mark.parametrize(
    ("flags", "said"),
    [(("zzz",), "'resident'"), ((), "resident"), (("all", "--lops", "3"), "--loops"), (("all", "--loops", "x"), "integer")],
)  # fmt: skip
def test_a_wrong_word_is_one_line(flags, said):
    done = rehearse(*flags)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.count("\n") == 1
    assert said in done.stderr
