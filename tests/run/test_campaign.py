"""One runner for every list of measured cases, and the processes that they run in."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from calibrate.probe.own_process import EXIT_INTERRUPTED, exit_code_of, run_python
from calibrate.run.campaign import Campaign, time
from llm_perf.errors import DoesNotFitError, EnvironmentFailure, LLMPerfError, SpecError


class Clock:
    """Time that passes only while a case is measured."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now_s = 100.0
        monkeypatch.setattr(time, "monotonic", lambda: self.now_s)

    def taking(self, seconds: float) -> Callable[[str, float], dict[str, str]]:
        def measure(case: str, _left_s: float) -> dict[str, str]:
            self.now_s += seconds
            return {"status": "done", "case": case}

        return measure


def test_what_is_there_is_not_measured_again(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    kept: dict[str, object] = {"a": None}
    campaign = Campaign[str](
        Clock(monkeypatch).taking(1.0), say=said.append, keep=kept.__setitem__, is_there=kept.__contains__
    )
    assert campaign.run_all(["a", "b", "c"])
    assert list(kept) == ["a", "b", "c"]
    assert said == ["b (1 of 2)", "c (2 of 2)"]
    assert campaign.run_all(["a", "b", "c"])
    assert len(campaign.done) == 2, "the second call finds all of them"


def test_no_case_begins_after_the_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    campaign = Campaign[str](Clock(monkeypatch).taking(10.0), budget_s=15.0)
    assert not campaign.run_all(["a", "b", "c"])
    assert [(case, result["status"]) for case, result in campaign.done] == [
        ("a", "done"), ("b", "done"), ("c", "dropped"),
    ]  # fmt: skip


def test_estimates_are_put_right_by_what_was_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    """Predicted 5 s, measured 20: the second would end after the budget, and a shorter one still fits."""
    seconds = {"a": 5.0, "b": 5.0, "short": 2.0}
    said: list[str] = []
    campaign = Campaign[str](
        Clock(monkeypatch).taking(20.0), say=said.append, estimate_s=seconds.__getitem__, budget_s=30.0
    )
    assert not campaign.run_all(["a", "b", "short"])
    assert [result["status"] for _, result in campaign.done] == ["done", "dropped", "done"]
    assert campaign.done[1][1]["reason"] == "20 s by estimate, 10 s left"
    assert said == ["a (1 of 3): about 5 s", "short (3 of 3): about 8 s"]


def failing(_case: str, _left_s: float) -> dict[str, str]:
    raise EnvironmentFailure("no swap files")


def test_a_failure_ends_a_campaign_unless_it_goes_on() -> None:
    kept: list[tuple[str, dict[str, str]]] = []
    with pytest.raises(EnvironmentFailure):
        Campaign[str](failing, keep=lambda *both: kept.append(both)).run_all(["a", "b"])
    assert kept == []
    assert Campaign[str](failing, keep=lambda *both: kept.append(both), goes_on=True).run_all(["a", "b"])
    assert kept == [(case, {"status": "failed", "reason": "no swap files"}) for case in "ab"]


@pytest.mark.parametrize("kind", [SpecError, DoesNotFitError, EnvironmentFailure])
def test_an_error_comes_back_from_a_process_as_what_it_was(kind: type[LLMPerfError]) -> None:
    program = (
        "from calibrate.probe.own_process import *; import llm_perf.errors as e\n"
        f"def work(): raise e.{kind.__name__}('of two\\nlines')\n"
        "end_process(exit_code_of(work))"
    )
    with pytest.raises(LLMPerfError) as caught:
        run_python(("-c", program), "a case")
    assert type(caught.value) is kind
    assert str(caught.value) == "a case: of two lines"


def test_what_a_process_prints_comes_back() -> None:
    assert run_python(("-c", "print('here')"), "a case") == "here\n"
    with pytest.raises(EnvironmentFailure, match=r"^a case: exit code 7$"):
        run_python(("-c", "raise SystemExit(7)"), "a case")


def test_a_process_that_does_not_end_is_interrupted() -> None:
    with pytest.raises(EnvironmentFailure, match=r"^a case: no end after 0 s$"):
        run_python(("-c", "import time; time.sleep(600)"), "a case", timeout_s=0.2)


def test_exit_codes_of_programs(capsys: pytest.CaptureFixture[str]) -> None:
    def interrupted() -> int:
        raise KeyboardInterrupt

    def missing() -> None:
        Path("/nowhere/at all").read_text("utf-8")

    assert exit_code_of(lambda: None) == 0
    assert exit_code_of(lambda: 5) == 5
    assert exit_code_of(interrupted, "call it again") == EXIT_INTERRUPTED
    assert exit_code_of(interrupted, "") == EXIT_INTERRUPTED
    assert exit_code_of(missing) == 2
    assert capsys.readouterr().err.splitlines() == [
        "llm-perf: call it again",
        "llm-perf: [Errno 2] No such file or directory: '/nowhere/at all'",
    ]


def rank(monkeypatch: pytest.MonkeyPatch, outcome: dict[str, object] | LLMPerfError, *arguments: str) -> int:
    """The worker with a measurement that has this outcome."""
    from calibrate.run import worker

    def measure(_settings: object) -> dict[str, object]:
        if isinstance(outcome, LLMPerfError):
            raise outcome
        return outcome

    monkeypatch.setattr(worker, "measure", measure)
    return worker.main(arguments)


def packed() -> tuple[str, str]:
    from calibrate.run.hosts import SETTINGS_FLAG, hosts_command
    from calibrate.run.settings import RunSettings

    command = hosts_command(RunSettings(model_name="tiny-opt"), "hosts")
    return SETTINGS_FLAG, command[command.index(SETTINGS_FLAG) + 1]


def test_a_rank_on_another_machine_prints_its_result_or_its_error(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from calibrate.run.hosts import find_result

    assert rank(monkeypatch, {"status": "done"}, *packed()) == 0
    assert find_result(capsys.readouterr().out.splitlines()) == {"status": "done"}
    error = DoesNotFitError("1 GiB missing")
    error.report = {"total": 3}
    assert rank(monkeypatch, error, *packed()) == 3
    said = capsys.readouterr()
    assert find_result(said.out.splitlines()) == {"status": "does not fit", "predicted": {"total": 3}}
    assert said.err == "llm-perf: 1 GiB missing\n"


def test_a_rank_on_this_machine_hands_back_its_result_or_its_error(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setenv("LLM_PERF_RUN_RESULT", str(tmp_path / "result"))
    monkeypatch.setenv("LLM_PERF_RUN_ERROR", str(tmp_path / "error"))
    assert rank(monkeypatch, {"status": "done"}, *packed()) == 0
    assert json.loads((tmp_path / "result").read_text()) == {"status": "done"}
    assert rank(monkeypatch, EnvironmentFailure("port 1\nin use"), *packed()) == 4
    assert (tmp_path / "error").read_text() == "port 1 in use"
    assert capsys.readouterr() == ("", "")
