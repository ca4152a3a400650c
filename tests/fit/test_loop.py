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
