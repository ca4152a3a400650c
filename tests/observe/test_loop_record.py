"""What is kept of a loop with real engines: the shipped records, and that a new one has their form."""

import contextlib
import json
import os
from collections.abc import Iterator
from functools import partial
from importlib import resources
from pathlib import Path

import pytest

from calibrate.fit.observe import loop
from calibrate.fit.observe.loop import main, record
from calibrate.fit.observe.session import Observed, ObserveSettings
from calibrate.fit.observe.store import SCHEMA_VERSION
from calibrate.probe.endpoint.facts import ServerFacts
from calibrate.probe.endpoint.load import Account
from calibrate.run.serve.engines import ServedEngine
from calibrate.run.serve.server import Served
from llm_perf.analysis.request import build_scenario
from llm_perf.errors import EnvironmentFailure

FOLDER = Path(str(resources.files("calibrate"))) / "measurements" / "observe"


@pytest.mark.parametrize(
    "file", sorted(FOLDER.rglob("*.json")), ids=lambda file: file.parent.name + "-" + file.stem
)
def test_a_record_that_ships_agrees_with_itself_and_is_what_a_loop_writes(file: Path, tmp_path: Path) -> None:
    shipped = json.loads(file.read_text("utf-8"))
    assert shipped["observed_s"] <= 240
    assert [(row["concurrency"], row["prompt"]) for row in shipped["rows"]] == [
        (count, prompt) for prompt in (96, 384) for count in (1, 2, 4, 8)
    ]
    for quantity, found in shipped["summary"].items():
        ones = [row["quantities"][quantity] for row in shipped["rows"]]
        assert found["count"] == len(ones)
        assert found["inside"] == sum(one["inside"] for one in ones)
        assert found["largest_after"] == pytest.approx(max(abs(one["error_after"]) for one in ones), rel=1e-3)
        for one in ones:
            low, high = one["interval"]
            assert one["inside"] == (low <= one["measured"] <= high)
            assert one["error_after"] == pytest.approx(one["after"] / one["measured"] - 1, abs=1e-4)
    again = record(shipped | {"profile": "/home/somebody/runs/x.yaml"}, tmp_path / "new")
    kept = json.loads(again.read_text())
    assert "profile" not in kept
    assert {name: kept[name] for name in ("rows", "summary")} == {
        name: shipped[name] for name in ("rows", "summary")
    }


def test_the_measured_errors_are_those_that_the_project_aims_at() -> None:
    """Of a third size, predicted: 8 % per token, 10 % of a request and of the rate, in the middle."""
    inside = count = 0
    for system in ("llama_cpp", "transformers_serve"):
        summary = json.loads((FOLDER / f"{system}.json").read_text("utf-8"))["summary"]
        for quantity, most in (("tpot_s", 0.08), ("e2e_s", 0.10), ("output_tokens_per_s", 0.10)):
            assert summary[quantity]["median_after"] <= most, (system, quantity)
        inside += sum(one["inside"] for one in summary.values())
        count += sum(one["count"] for one in summary.values())
    assert inside / count >= 0.85


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["vllm"], "expected llama_cpp or transformers_serve"),
        (["all", "x", "y", "none"], "how often each loop"),
    ],
)
def test_what_the_loop_is_asked_wrongly_is_one_line(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert said in error
    assert len(error.strip().splitlines()) == 1


def test_a_session_that_was_broken_off_is_begun_anew_and_one_that_ended_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server of a second call listens elsewhere, which `observe` takes for another question."""
    asked: list[bool] = []

    def observed(settings: ObserveSettings, say: object) -> Observed:
        asked.append(settings.out.exists())
        settings.out.mkdir(parents=True)
        spent_s = 3.0 if len(asked) == 1 else 9.5
        facts = {"schema_version": SCHEMA_VERSION, "spent_s": spent_s}
        (settings.out / "session.json").write_text(json.dumps(facts))
        ended = "the server sent nothing for 30 s" if len(asked) == 1 else None
        return Observed(build_scenario(settings.inputs), ServerFacts(), Account(), ended=ended)

    @contextlib.contextmanager
    def served(name: str, folder: Path) -> Iterator[Served]:
        yield Served("http://127.0.0.1:9/v1", name, os.getpid(), folder / "log")

    monkeypatch.setattr(loop, "observe", observed)
    engine = ServedEngine("llama_cpp", ("a",), "b", {}, served, lambda name, folder: "opt-125m")
    call = partial(loop._observed, engine, "a", tmp_path, tmp_path / "a", lambda text: None, 10.0)
    with pytest.raises(EnvironmentFailure, match="a: the session ended: the server sent nothing"):
        call()
    call()
    call()
    assert asked == [False, False]
