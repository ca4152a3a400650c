"""Sessions against local servers, as a user runs them: what is kept, what is said, and that they go on."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from stub_server import MODEL, Stub, serving

from calibrate.evidence.benchmark_run import read_runs
from calibrate.fit.observe.session import is_local
from llm_perf.cli.main import run
from llm_perf.config.profiles import load_profile

FLAGS = [
    "--gpu",
    "none",
    "--host",
    "dgx-a100",
    "--threads",
    "1",
    "--max-num-seqs",
    "8",
    "--gen-len",
    "8",
    "--max-len",
    "160",
]


@pytest.fixture
def model(tmp_path: Path) -> str:
    """A model that a stub could be said to serve."""
    config = {
        "model_type": "llama", "hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 4, "vocab_size": 1000, "max_position_embeddings": 512,
    }  # fmt: skip
    folder = tmp_path / MODEL
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config))
    return str(folder)


@pytest.fixture
def observe(
    model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str, str]]:
    """Run the command; (exit code, stdout, stderr without progress)."""

    def call(url: str, *more: str, budget: str = "6s", out: str = "session") -> tuple[int, str, str]:
        code = run(
            ["calibrate", "observe", "--url", url, "--model", model, *FLAGS, "--budget", budget, "--out",
             str(tmp_path / out), "--timeout", "1s", *more]
        )  # fmt: skip
        said = capsys.readouterr()
        return (
            code,
            said.out,
            "\n".join(line for line in said.err.splitlines() if line.startswith("llm-perf:")),
        )

    return call


def test_a_server_is_observed_fitted_and_the_session_goes_on(
    observe: Callable[..., tuple[int, str, str]], tmp_path: Path
) -> None:
    stub = Stub(step_s=2e-4, token_s=0.004)
    with serving(stub) as url:
        code, out, said = observe(url, "--json")
        assert (code, said) == (0, "")
        found = json.loads(out)
        assert found["status"] == "done"
        assert found["system"] == "llama_cpp"  # as the server says
        assert found["server"]["settings"] == {"total_slots": 8, "n_ctx": 512}
        runs = read_runs(tmp_path / "session" / "runs.jsonl")
        assert len(runs) == found["points"] >= 4
        assert found["requests"]["sent"] == sum(found["requests"]["by_kind"].values()) == stub.completions
        assert len({text[:16] for text in stub.seen}) == len(stub.seen)  # no prefix cache would find one
        times = [one for run_ in runs for one in run_.requests or ()]
        assert all(len(one.token_s or ()) == one.output_tokens == 8 for one in times)
        assert all(run_.deployment.prefix_hit_rate == 0 and run_.deployment.gpu == "none" for run_ in runs)
        profile = load_profile(found["profile"])
        assert profile.calibration is not None
        assert profile.calibration.covers is not None
        assert profile.calibration.covers.systems == ("llama_cpp",)
        # A step of the stub takes 4 ms whatever the batch, and longer where others have its cores.
        step = [row for row in found["fit"]["rows"] if row["kind"] == "step"]
        assert 0.0035 < min(row["measured_s"] for row in step) < 0.02
        before = stub.completions
        code, out, _ = observe(url, "--json", budget="12s")
        again = json.loads(out)
        assert code == 0
        assert again["points"] > found["points"]
        assert again["seconds"] > found["seconds"]
        assert stub.completions > before
        code, _, said = observe(url, "--max-concurrency", "2")
        assert code == 2
        assert "holds a session of another question (asked)" in said


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("429", "HTTP 429: "), ("500", "HTTP 500: "), ("cut", "the stream was cut after 4 of 8 tokens"),
        ("stall", "sent nothing for 1 s"), ("no usage", "streams without usage"),
        ("lies", "says that it generated 24 tokens, and 8 were asked for"), ("other model", "answers as another model"),
    ],
)  # fmt: skip
def test_a_session_with_a_bad_server_ends_in_one_line_and_keeps_what_was_measured(
    kind: str, said: str, observe: Callable[..., tuple[int, str, str]], tmp_path: Path
) -> None:
    with serving(Stub(kind=kind, bad_after=40, step_s=1e-4, token_s=0.002)) as url:
        code, _, line = observe(url, budget="30s")
    assert code == 4
    assert line.count("llm-perf:") == 1
    assert said in line
    assert "points are kept in" in line
    assert "requests sent" in line
    kept = read_runs(tmp_path / "session" / "runs.jsonl")
    assert sum(run_.counts.completed or 0 for run_ in kept) > 0
    facts = json.loads((tmp_path / "session" / "session.json").read_text())
    assert facts["ended"]
    assert facts["account"]["sent"] == sum(
        count for name, count in facts["account"].items() if name != "sent"
    )


def test_a_server_of_another_model_is_not_put_under_load(
    observe: Callable[..., tuple[int, str, str]], tmp_path: Path
) -> None:
    stub = Stub()
    with serving(stub) as url:
        code, _, said = observe(url, "--served-name", "something-else")
        assert code == 4
        assert f"the server serves another model ({MODEL}), not something-else" in said
        assert stub.completions == 0
        code, _, said = observe(url, "--system", "vllm", "--gpu", "a100-sxm-80gb", out="other")
        assert code == 2
        assert not (tmp_path / "other").exists()


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--url", "http://192.0.2.1:1/v1"], "192.0.2.1 is another machine"),
        (["--url", "127.0.0.1:80"], "expected a URL"),
        (["--url", "http://127.0.0.1:9/v1", "--batch-size", "4"], "--batch-size is of one batch"),
        (["--url", "http://127.0.0.1:9/v1", "--budget", "soon"], "--budget"),
        (["--url", "http://127.0.0.1:9/v1", "--budget", "0"], "must be positive"),
        (["--url", "http://127.0.0.1:9/v1", "--gpu", "a100-sxm-40gb"], "one kind of GPU"),
        ([], "--url is required"),
    ],
)
def test_wrong_input_is_one_line_and_nothing_is_written(
    flags: list[str], said: str, model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "session"
    code = run(
        [
            "calibrate",
            "observe",
            "--model",
            model,
            "--gpu",
            "none",
            "--host",
            "dgx-a100",
            "--out",
            str(out),
            *flags,
        ]
    )
    error = capsys.readouterr().err
    assert code == 2
    assert said in error
    assert len(error.strip().splitlines()) == 1
    assert not out.exists()


def test_a_server_that_is_not_there_is_the_environment(
    observe: Callable[..., tuple[int, str, str]], tmp_path: Path
) -> None:
    code, _, said = observe("http://127.0.0.1:9/v1")
    assert code == 4
    assert "127.0.0.1:9 cannot be reached" in said
    assert not (tmp_path / "session").exists()


def test_which_hosts_are_this_machine() -> None:
    assert is_local("localhost")
    assert is_local("127.0.0.1")
    assert is_local("::1")
    assert not is_local("192.0.2.1")


def test_sessions_of_two_models_are_fitted_together(
    observe: Callable[..., tuple[int, str, str]],
    tmp_path: Path,
    model: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with serving(Stub(step_s=1e-4, token_s=0.003)) as url:
        assert observe(url, budget="5s", out="one")[0] == 0
        wider = json.loads((Path(model) / "config.json").read_text()) | {"num_hidden_layers": 4}
        other = tmp_path / "wider-model"
        other.mkdir()
        (other / "config.json").write_text(json.dumps(wider))
        assert observe(url, "--model", str(other), "--served-name", MODEL, budget="5s", out="two")[0] == 0
    target = tmp_path / "both.yaml"
    found: Any
    assert (
        run(
            ["calibrate", "fit", str(tmp_path / "one"), str(tmp_path / "two"), "--out", str(target), "--json"]
        )
        == 0
    )
    found = json.loads(capsys.readouterr().out)
    assert found["profile"] == str(target)
    assert load_profile(str(target)).system_constants["llama_cpp"]
    command = [
        "simulate",
        "--model",
        model,
        *FLAGS[:8],
        "--system",
        "llama_cpp",
        "--profile",
        str(target),
        "--concurrency",
        "4",
        "--num-requests",
        "8",
    ]
    assert run([*command, "--prompt-len", "64", "--gen-len", "8", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["requests"]["completed"] == 8
    assert run(["calibrate", "fit", str(tmp_path / "one"), "--gpu", "t4", "--out", str(target)]) == 2
    assert "--gpu says nothing about sessions" in capsys.readouterr().err


def test_times_between_tokens_have_an_interval_of_their_own(tmp_path: Path, model: str) -> None:
    """A profile says how far steps are off and how far whole requests: each figure has the width of its own."""
    import math

    from llm_perf.analysis.request import InferenceInputs
    from llm_perf.analysis.simulation import ServiceInputs, simulation_of

    ranges = {
        name: {"low": 1e-3, "high": 1e4} for name in ("model_gib", "batch_size", "prompt_len", "gen_len")
    }
    covers = {"systems": ["llama_cpp"], "tiers": ["cpu"], "weight_bits": [16], **ranges}
    widths = {"method": "of a test", "groups": 9, "prefill": 0.02, "decode": 0.2, "total": 0.05}
    profile = {
        "name": "mine", "system_constants": {"llama_cpp": {"cpu_layer_us": 20.0}},
        "calibration": {"machine": {"gpu": "none"}, "covers": covers, "interval": widths},
    }  # fmt: skip
    path = tmp_path / "mine.yaml"
    path.write_text(json.dumps(profile))
    inputs = InferenceInputs(
        model=model,
        gpu="none",
        host="dgx-a100",
        system="llama_cpp",
        threads=1,
        max_num_seqs=8,
        profile=str(path),
    )
    traffic = ServiceInputs(concurrency=4, num_requests=12, prompt_len="64", gen_len="16")
    interval = simulation_of(inputs, traffic).interval
    assert interval is not None
    for name, width in (("ttft_s", 0.05), ("e2e_s", 0.05), ("tpot_s", 0.2), ("itl_s", 0.2)):
        low, high = interval.ends(name, "mean")
        middle = getattr(interval.middle, name).mean
        assert (low, high) == pytest.approx((middle * math.exp(-width), middle * math.exp(width)), rel=1e-6)
