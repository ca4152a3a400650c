"""Real engines on this CPU: served with random weights, observed, fitted and predicted, in a short sample."""

import json
import math
from pathlib import Path

import pytest

from calibrate.fit.observe.session import ObserveSettings, observe
from calibrate.fit.observe.stack_fit import fit_sessions, profile_of
from calibrate.fit.observe.store import stored
from calibrate.fit.profile_file import write_profile
from calibrate.run.llama_cpp.build import built
from calibrate.run.serve.engines import engines
from calibrate.run.serve.vocabulary import words
from llm_perf.analysis.simulation import ServiceInputs, simulation_of
from llm_perf.cli.main import run

pytestmark = [pytest.mark.run, pytest.mark.slow]
NAME = "served-31m"


@pytest.fixture(scope="module", autouse=True)
def _llama_cpp() -> None:
    if built() is None:
        pytest.fail("llama.cpp is not built: make llama-cpp")


@pytest.mark.parametrize("system", ["llama_cpp", "transformers_serve"])
def test_a_real_engine_is_observed_fitted_and_predicted(system: str, tmp_path: Path) -> None:
    loop = engines()[system]
    with loop.served(NAME, tmp_path) as served:
        inputs = loop.inputs(NAME, tmp_path)
        found = observe(
            ObserveSettings(
                url=served.url, inputs=inputs, out=tmp_path / "session", budget_s=12.0, served_name=served.model,
                most_concurrency=4, longest=320, seed=1,
            ),
            lambda _text: None,
        )  # fmt: skip
    assert found.ended is None
    assert found.points >= 3
    # One request finds out that transformers takes no ignore_eos; all others are answered.
    assert found.account.refused == (1 if system == "transformers_serve" else 0)
    assert found.account.failed == 0
    session = stored(tmp_path / "session")
    times = [one for point in session.runs for one in point.requests or ()]
    assert all(one.output_tokens == len(one.token_s or ()) == 24 for one in times)
    if system == "llama_cpp":
        assert found.facts.system == "llama_cpp"
        assert found.facts.settings["total_slots"] == 8
    fitted = fit_sessions([session])
    assert fitted.fitted.gm is not None
    profile = write_profile(profile_of(fitted, system, {}), str(tmp_path / f"{system}.yaml"))
    # The profile says of a load what was measured of one: not exactly, since others use these cores, but closer than before.
    step = next(row for row in fitted.rows if row.kind == "step")
    asked = ServiceInputs(
        concurrency=step.batch,
        num_requests=step.batch,
        prompt_len=str(step.point[1]),
        gen_len=str(step.point[2]),
    )
    after = simulation_of(inputs.replace(profile=str(profile)), asked).summary.tpot_s.mean
    before = simulation_of(inputs, asked).summary.tpot_s.mean
    assert abs(math.log(after / step.seconds)) < max(abs(math.log(before / step.seconds)), 0.7)


def test_calibrate_run_serves_transformers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folders = ["--offload-dir", str(tmp_path), "--runs-dir", str(tmp_path / "runs")]
    command = [
        "calibrate",
        "run",
        "--system",
        "transformers_serve",
        "--batch-size",
        "2",
        "--prompt-len",
        "48",
    ]
    assert run([*command, "--gen-len", "8", "--loops", "1", "--allow-concurrent", *folders, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["status"] == "done"
    assert set(found["measured"]) == {"ttft_s", "tpot_s", "e2e_s", "output_tokens_per_s"}
    assert all(found["measured"][name] > 0 and found["predicted"][name] > 0 for name in found["measured"])
    assert found["raw"][0]["counts"] == {
        "completed": 2, "failed": 0, "preempted": None, "prompt_tokens": 96, "output_tokens": 16
    }  # fmt: skip
    assert json.loads(Path(found["run_file"]).read_text())["status"] == "done"
    assert not list(tmp_path.glob("served-*"))
    assert run([*command, "--weight-format", "q8_0"]) == 2
    assert "--weight-format means nothing with --system transformers_serve" in capsys.readouterr().err
    assert run([*command, "--gen-len", "20000"]) == 2
    assert "need a cache of" in capsys.readouterr().err


def test_every_character_is_a_token() -> None:
    tokens = words(8192)
    assert len(set(tokens)) == 8192
    assert all(chr(code) in tokens for code in range(0x20, 0x7F))
