"""The whole loop, its measurements made by the machine of known law."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import synthetic

from calibrate import loop
from calibrate.fit.report import held_out_lines
from llm_perf.config.profiles import load_profile
from llm_perf.errors import SpecError

SYSTEMS = {"plain": "transformers", "ZeRO-3, CPU offload": "zero_inference"}


def measured(folder: Path) -> None:
    """What the stages would have left."""
    synthetic.write_microbench(folder)
    for process in loop.processes():
        place = folder / process.name
        place.mkdir()
        for batch, prompt in loop.WORKLOADS:
            record = synthetic.run_record(
                f"facebook_{process.model}",
                SYSTEMS[process.mode],
                batch,
                prompt,
                noise=0.03,
                seed=process.cycle,
            )
            (place / f"{batch}-{prompt}.json").write_text(json.dumps(record))
        (place / "done").write_text("")


def test_every_other_cycle_runs_backwards() -> None:
    made = loop.processes()
    half = len(made) // 2
    assert [(p.model, p.mode) for p in made[:half]] == [(p.model, p.mode) for p in made[half:]][::-1]
    assert len({p.name for p in made}) == len(made)


def test_the_model_that_was_left_out_is_predicted(tmp_path: Path) -> None:
    measured(tmp_path)
    found = loop.conclude(tmp_path)
    held = found["held_out"]
    assert held["models"] == [f"facebook_{loop.LEFT_OUT}"]
    assert loop.LEFT_OUT not in " ".join(found["models"])
    assert held["median_abs_error"] < 0.1
    assert held["times_closer"] > 3
    assert len(held["rows"]) == 12
    assert all(row["interval_s"] is not None for row in held["rows"])
    assert load_profile(found["profile"]).calibration is not None
    assert json.loads((tmp_path / "result.json").read_text()) == found
    text = "\n".join(held_out_lines(found))
    assert "times closer" in text
    assert "Never seen: opt-1.3b" in text
    assert all(len(line) <= 80 for line in text.splitlines() if not line.startswith("Profile: "))


def test_nothing_is_concluded_from_half_a_loop(tmp_path: Path) -> None:
    synthetic.write_microbench(tmp_path)
    with pytest.raises(SpecError, match=r"no run of opt-1.3b"):
        loop.conclude(tmp_path)


def test_a_served_engine_is_observed_where_it_is_built(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from calibrate.fit.observe import loop as observed
    from calibrate.run.llama_cpp import build

    asked = []

    def run_loop(engine, folder, say, size):
        asked.append((engine.system, folder, size))
        return {
            "system": engine.system, "observed": ["a", "b"], "predicted": "c", "observed_s": 60.0, "load": [0.5], "rows": [],
            "summary": {},
        }  # fmt: skip

    monkeypatch.setattr(observed, "run_loop", run_loop)
    monkeypatch.setattr(build, "built", lambda: object())
    assert loop.observed_lines(tmp_path)[1] == "llama_cpp: a and b observed in 60 s, c predicted; load 0.5"
    assert asked == [("llama_cpp", tmp_path / "served", observed.SHORT)]
    assert 2 * observed.SHORT.budget_s <= 60, "two sessions of a minute in all"
    monkeypatch.setattr(build, "built", lambda: None)
    assert loop.observed_lines(tmp_path) == [
        "No served engine was observed: llama.cpp is not built here (make llama-cpp)"
    ]
    assert len(asked) == 1


def test_a_request_to_end_is_an_interruption(tmp_path, monkeypatch, capsys):
    """SIGTERM ends the run that is going on too, which the loop waits for; what is finished stays."""
    import os
    import signal

    def stages(folder, stop_after_s, say):
        os.kill(os.getpid(), signal.SIGTERM)
        return True

    monkeypatch.setattr(loop, "run_stages", stages)
    before = signal.getsignal(signal.SIGTERM)
    assert loop.main([str(tmp_path)]) == 130
    assert "interrupted; call it again to go on" in capsys.readouterr().err
    assert signal.getsignal(signal.SIGTERM) is before


@pytest.mark.parametrize(
    ("arguments", "said"),
    [(["--help"], "usage: python -m calibrate.loop"), (["runs", "soon"], "'soon' is no number of seconds")],
)
def test_wrong_arguments_start_no_loop_and_leave_no_folder(tmp_path, monkeypatch, capsys, arguments, said):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(loop, "run_stages", lambda *_: pytest.fail("it started"))
    assert loop.main(arguments) == 2
    error = capsys.readouterr().err.strip()
    assert said in error
    assert "\n" not in error
    assert not any(tmp_path.iterdir())
