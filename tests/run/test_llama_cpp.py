"""A real llama.cpp, built by make llama-cpp, on a model of random weights that takes seconds."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from calibrate.run.llama_cpp.build import built

CONFIG = {
    "model_type": "qwen3_moe", "vocab_size": 1024, "hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 4,
    "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 64, "num_experts": 4, "num_experts_per_tok": 2,
    "moe_intermediate_size": 256, "max_position_embeddings": 512, "tie_word_embeddings": False,
}  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def _llama_cpp() -> None:
    if built() is None:
        pytest.fail("llama.cpp is not built: make llama-cpp")


@pytest.mark.parametrize("weights", ["fp16", "q8_0", "q4_k_m"])
def test_random_weights_are_made_run_and_removed(weights, cli, tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text(json.dumps(CONFIG))
    done = cli(
        "calibrate", "run", "--system", "llama_cpp", "--model", str(tmp_path / "model" / "config.json"),
        "--weight-format", weights, "--threads", "1", "--prompt-len", "32", "--gen-len", "9", "--loops", "3",
        "--offload-dir", str(tmp_path / "weights"), "--json",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["status"] == "done"
    prompt, generated = result["raw"]["llama_bench"]
    assert (prompt["n_prompt"], prompt["n_threads"], len(prompt["samples_ns"])) == (32, 1, 3)
    assert (generated["n_gen"], generated["n_depth"]) == (8, 32)
    # llama.cpp counts the same parameters and bytes as this project does.
    assert prompt["model_n_params"] == result["run"]["parameters"]
    assert prompt["model_size"] == result["run"]["checkpoint_bytes"]
    assert result["measured"]["decode"]["latency_s"] > 0
    assert result["predicted"]["decode"]["latency_s"] > 0
    assert result["environment"]["llama_cpp"]["package"].startswith("llama-cpp-python ")
    assert not list((tmp_path / "weights").iterdir())
    assert Path(result["log_file"]).is_file()


def _shrunk(monkeypatch):
    """The probe's models so small that their times say little of the machine, but come in seconds."""
    from calibrate.run.llama_cpp import probe, rounds

    small = {"hidden_size": 256, "intermediate_size": 256, "num_hidden_layers": 2, "num_attention_heads": 4}
    monkeypatch.setattr(probe, "_SHAPES", {name: shape | small for name, shape in probe._SHAPES.items()})
    monkeypatch.setitem(probe._SHAPES["experts"], "num_key_value_heads", 4)
    monkeypatch.setattr(rounds, "REPETITIONS", 2)
    monkeypatch.setattr(probe, "MOST_ROUNDS", 2)
    for module in (probe, rounds):  # several wait for one another, and tests run side by side
        monkeypatch.setattr(module, "thread_counts", lambda: [1])
    monkeypatch.setattr(probe, "_STREAM_BYTES", 8 << 20)
    return small


def test_the_table_is_measured_in_rounds_with_the_probe_and_printed(tmp_path, monkeypatch):
    """Of one small model: every file in all rounds that it needs, and a line for each run."""
    from calibrate.run.llama_cpp.build import required
    from calibrate.validate import llama_cpp_table
    from llm_perf.config.huggingface import from_hf_config

    small = _shrunk(monkeypatch)
    model = from_hf_config(
        {"model_type": "llama", "vocab_size": 512, "max_position_embeddings": 512, **small}, "one"
    )
    monkeypatch.setattr(llama_cpp_table, "SAMPLES", ("one",))
    monkeypatch.setattr(llama_cpp_table, "sample", lambda name: model)
    monkeypatch.setattr(llama_cpp_table, "DEFAULT_OFFLOAD_DIR", str(tmp_path / "weights"))
    monkeypatch.setattr(llama_cpp_table, "LEAST_ROUNDS", 1)
    monkeypatch.setattr(llama_cpp_table, "MOST_ROUNDS", 2)
    said: list[str] = []
    (tmp_path / "table").mkdir()
    found = llama_cpp_table.measure_table(required(), tmp_path / "table", said.append)
    assert [line for line in said if line.startswith("round")] == [
        "round 1 over 14 files",
        "round 2 over 14 files",
    ]
    assert len(found["rows"]) == 3
    for row in found["rows"]:
        assert [len(samples) for samples in row["samples_s"]["decode"]] == [2, 2]
        assert row["measured_s"] == row["quiet_s"]
    lines = llama_cpp_table.table_lines(found)
    assert sum(line.startswith("one ") for line in lines) == 3
    assert any(line.endswith(" *") for line in lines) == (found["summary"]["unsettled"] > 0)


def test_a_probe_makes_a_profile_that_predictions_take(cli, tmp_path, monkeypatch):
    """With models of the probe's kinds that are so small that their times say little of the machine, but come in seconds."""
    from calibrate.fit import llama_cpp_profile as microbench
    from calibrate.run.llama_cpp.build import required
    from llm_perf.config.profiles import load_profile

    _shrunk(monkeypatch)
    out = tmp_path / "here.yaml"
    found = microbench.probed(
        required(), str(out), str(tmp_path / "weights"), str(tmp_path / "runs"), lambda _: None
    )
    assert found["status"] == "done"
    assert not list((tmp_path / "weights").iterdir())
    profile = load_profile(str(out))
    assert profile.host["read_gb_per_s"] > 0
    probed = json.loads(Path(found["file"]).read_text())["probe"]
    assert probed["rounds"] == 2
    for run in probed["runs"]:
        assert [len(samples) for samples in run["samples_s"]["decode"]] == [2, 2]
        assert run["spread"]["decode"] >= 0
    asked = (
        "infer",
        "--model",
        "qwen3-0.6b",
        "--system",
        "llama_cpp",
        "--gpu",
        "none",
        "--host",
        "here",
        "--json",
    )
    plain, calibrated = (json.loads(cli(*asked, *more).stdout) for more in ((), ("--profile", str(out))))
    assert calibrated["decode"]["latency_s"] != plain["decode"]["latency_s"]
