"""``llm-perf calibrate run --system llama_cpp``, with programs that only say what llama-bench would."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from calibrate.run.llama_cpp.gguf_file import write_random_gguf
from llm_perf.config.huggingface import from_hf_config
from llm_perf.report.benchmark_log import parse_benchmark_log

RUN = ("calibrate", "run", "--system", "llama_cpp", "--threads", "1", "--prompt-len", "16", "--gen-len", "5")

STUB = """#!{python}
import json, sys
arguments = dict(zip(sys.argv[1::2], sys.argv[2::2]))
p, n, d, t, r = (int(arguments[flag]) for flag in ("-p", "-n", "-d", "-t", "-r"))
each = p * 10_000_000 if p else n * 20_000_000
print(json.dumps([{{"n_prompt": p, "n_gen": n, "n_depth": d, "n_threads": t, "samples_ns": [each] * r}}]))
"""


@pytest.fixture(autouse=True)
def _own_lock(tmp_path, monkeypatch):
    monkeypatch.setenv("LLM_PERF_RUN_LOCK", str(tmp_path / "lock"))


@pytest.fixture
def programs(tmp_path, monkeypatch):
    """Puts a program in llama-bench's place."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("LLM_PERF_LLAMA_CPP", str(folder))

    def put(text: str) -> Path:
        for name in ("llama-bench", "llama-quantize"):
            (folder / name).write_text(text)
            (folder / name).chmod(0o755)
        return folder

    put(STUB.format(python=sys.executable))
    return put


@pytest.fixture
def model(tmp_path) -> str:
    """A GGUF file of a model of 3 layers."""
    config = {
        "model_type": "llama", "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 3, "num_attention_heads": 4,
        "vocab_size": 160, "max_position_embeddings": 128, "tie_word_embeddings": False,
    }  # fmt: skip
    file = tmp_path / "tiny.gguf"
    write_random_gguf(from_hf_config(config, "tiny"), file)
    return str(file)


def test_a_run_is_logged_recorded_and_laid_beside_its_prediction(llm_perf, programs, model, folder):
    found = llm_perf(*RUN, "--model", model, "--loops", "4", "--json")
    assert (found.code, found.err) == (0, "")
    result = found.json
    assert result["status"] == "done"
    assert result["measured"]["prefill"]["latency_s"] == pytest.approx(0.16)
    assert result["measured"]["decode"]["latency_s"] == pytest.approx(0.08)  # the first comes with the prompt
    assert result["measured"]["decode"]["throughput_tokens_per_s"] == pytest.approx(50)
    assert len(result["raw"]["loops"]) == 4
    assert [test["n_depth"] for test in result["raw"]["llama_bench"]] == [0, 16]
    assert result["predicted"]["decode"]["latency_s"] > 0
    error = result["predicted"]["decode"]["latency_s"] / result["measured"]["decode"]["latency_s"] - 1
    assert result["error"]["decode_latency"] == pytest.approx(error)
    assert result["run"]["weight_format"] == "f16"
    assert json.loads(Path(result["run_file"]).read_text()) == result
    (record,) = parse_benchmark_log(Path(result["log_file"]).read_text())
    assert record.prefill_latency_s == pytest.approx(0.16, abs=5e-4)


def test_runs_are_compared_as_those_of_other_systems_are(llm_perf, programs, model, folder):
    result = llm_perf(*RUN, "--model", model, "--json").json
    calm = {"disturbed": False, "others_cores": 0.0}  # whatever else runs beside the tests
    result["raw"]["loops"] = [loop | calm for loop in result["raw"]["loops"]]
    Path(result["run_file"]).write_text(json.dumps(result))
    (one,) = llm_perf("compare", "runs", "--json").json["runs"]
    assert (one["system"], one["host"], one["gpu"]) == ("llama_cpp", "here", "none")
    assert one["error"]["decode_latency"] == pytest.approx(result["error"]["decode_latency"])
    assert one["memory_bytes"]["allocated"] == result["measured"]["peak_gpu_memory_bytes"]


def test_text_shows_both_logs_and_the_errors(llm_perf, programs, model):
    found = llm_perf(*RUN, "--model", model)
    assert found.code == 0
    for words in (
        "measured:",
        "predicted:",
        "decode latency",
        "1 threads",
        "llama.cpp of your own",
        "ms per token",
    ):
        assert words in found.out


def test_one_token_has_no_decode(llm_perf, programs, model):
    result = llm_perf(*RUN, "--model", model, "--gen-len", "1", "--json").json
    assert result["measured"]["decode"]["latency_s"] is None
    assert len(result["raw"]["llama_bench"]) == 1


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (("--threads", "100000"), "threads = 100000: expected at most"),
        (("--threads", "0"), "threads must be greater than 0"),
        (("--weight-format", "q9"), "weight_format 'q9' is not a known format"),
        (("--batch-size", "4"), "--batch-size means nothing with --system llama_cpp"),
        (("--cpu-offload",), "--cpu-offload means nothing"),
        (("--quant-bits", "4"), "--quant-bits means nothing"),
        (("--hostfile", "hosts"), "--hostfile means nothing"),
        (("--model", "opt-125m"), "are written for models with the layers of Llama"),
        (("--model", "no-such-model"), "unknown model"),
        (("--model", "missing.gguf"), "missing.gguf: cannot be read"),
        (("--prompt-len", "5000"), "exceed the 4096 positions"),
        (("--profile", "nope"), "unknown profile 'nope'"),
        (("--gen-len", "0"), "gen_len must be greater than 0"),
    ],
)  # fmt: skip
def test_wrong_input_is_one_line(llm_perf, programs, folder, flags, said):
    assert said in llm_perf(*RUN, *flags).error
    assert not list(folder.rglob("*.gguf"))


def test_a_file_has_a_format_of_its_own(llm_perf, programs, model):
    assert "has a format of its own" in llm_perf(*RUN, "--model", model, "--weight-format", "q8_0").error


@pytest.mark.parametrize("flag", ["--threads", "--weight-format", "--ubatch-size"])
def test_its_flags_mean_nothing_elsewhere(llm_perf, flag):
    value = "q8_0" if flag == "--weight-format" else "2"
    assert f"{flag} describes a run of llama.cpp" in llm_perf("calibrate", "run", flag, value).error


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (("--system", "transformers"), "--system transformers says nothing about calibrate microbench"),
        (("--system", "llama_cpp", "--budget", "9s"), "--budget says nothing"),
        (("--system", "llama_cpp", "--dtype", "bf16"), "--dtype says nothing"),
        (("--system", "llama_cpp", "--threads", "1"), "--threads says nothing about calibrate microbench"),
        (("--runs-dir", "x"), "--runs-dir says nothing"),
    ],
)
def test_flags_that_a_probe_has_not_are_refused(llm_perf, programs, flags, said):
    assert said in llm_perf("calibrate", "microbench", *flags).error


def test_a_probe_that_could_not_write_its_profile_does_not_begin(llm_perf, programs):
    found = llm_perf("calibrate", "microbench", "--system", "llama_cpp", "--out", "here.json")
    assert found.code != 0
    assert "a profile is a .yaml file" in found.err


def test_words_stand_for_the_flags_of_modes(llm_perf):
    assert "nothing.log" in llm_perf("calibrate", "read-log", "nothing.log").error
    assert "files of runs are for calibrate fit" in llm_perf("calibrate", "run", "x.json").error


@pytest.mark.parametrize(
    ("program", "code", "said"),
    [
        (
            "#!/bin/sh\necho 'llama_bench: error: failed to load model' >&2\nexit 1\n",
            4,
            "failed to load model",
        ),
        ("#!/bin/sh\nkill -9 $$\n", 3, "was killed"),
        ("#!/bin/sh\necho '[]'\n", 4, "expected one test"),
        ("#!/bin/sh\necho 'no json'\n", 4, "is no JSON"),
    ],
)
def test_a_run_that_fails_is_one_line_and_a_record(llm_perf, programs, model, folder, program, code, said):
    programs(program)
    found = llm_perf(*RUN, "--model", model)
    assert found.code == code
    assert said in found.err
    assert found.err.count("\n") == 1
    (record,) = (folder / "runs").glob("*.json")
    assert json.loads(record.read_text())["status"] == "failed"


def test_without_llama_cpp_the_environment_is_at_fault(llm_perf, model, tmp_path, monkeypatch):
    monkeypatch.setenv("LLM_PERF_LLAMA_CPP", str(tmp_path / "nowhere"))
    found = llm_perf(*RUN, "--model", model)
    assert found.code == 4
    assert "has no llama-bench and llama-quantize" in found.err


def test_a_model_larger_than_memory_is_refused_before_anything_is_written(llm_perf, programs, folder):
    found = llm_perf(*RUN, "--model", "mixtral-8x22b", "--weight-format", "fp16", "--json")
    assert found.code == 3
    assert found.json["status"] == "does not fit"
    assert found.json["measured"] is None
    assert not list(folder.rglob("*.gguf"))


def test_an_interrupt_ends_the_program_and_says_so_in_the_record(programs, model, folder):
    pid = folder / "pid"
    programs(f"#!/bin/sh\necho $$ > {pid}\nexec sleep 60\n")
    entry = "from llm_perf.cli.main import main; main()"
    process = subprocess.Popen([sys.executable, "-c", entry, *RUN, "--model", model], stderr=subprocess.PIPE)
    deadline = time.monotonic() + 30
    while not (pid.exists() and pid.read_text().strip()) and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=20)
    assert process.returncode == 130
    deadline = time.monotonic() + 10
    while Path(f"/proc/{pid.read_text().strip()}").exists() and time.monotonic() < deadline:
        time.sleep(0.05)  # what was ended is listed until its new parent has noticed
    with pytest.raises(ProcessLookupError):
        os.kill(int(pid.read_text()), 0)
    (record,) = (folder / "runs").glob("*.json")
    assert json.loads(record.read_text())["status"] == "interrupted"
