"""Each fault is one clear line and a clean exit."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path

import psutil
import pytest
from click.testing import CliRunner

from calibrate.run.records import measuring
from llm_perf.cli import main as entry
from llm_perf.errors import DoesNotFitError, EnvironmentFailure, SpecError
from tests.run.conftest import command

SMALL = ("--model", "tiny-opt", "--prompt-len", "8", "--gen-len", "4", "--dtype", "fp32", "--device", "cpu")


def fails(capsys, *arguments: str) -> tuple[int, str]:
    """Exit code and the one line of a command that fails in this process."""
    code = entry.run(["calibrate", *arguments])
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1, lines
    return code, lines[0]


def test_without_the_packages_one_line_says_what_to_install(monkeypatch, capsys):
    real = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: None if name == "torch" else real(name, *rest)
    )
    code, line = fails(capsys, "--run")
    assert code == 2
    assert "pip install 'llm-perf[calibrate]'" in line


def test_nothing_to_do_is_said(capsys):
    code, line = fails(capsys)
    assert code == 2
    assert "--run" in line


def test_cuda_asked_for_where_there_is_none(monkeypatch, capsys):
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    code, line = fails(capsys, "--run", "--device", "cuda")
    assert code == 4
    assert "no CUDA device" in line


def test_fp16_where_the_device_refuses_it(monkeypatch, capsys, run):
    import torch
    from deepspeed.accelerator import get_accelerator

    monkeypatch.setattr(
        type(get_accelerator()), "supported_dtypes", lambda _self: [torch.float32, torch.bfloat16]
    )
    code, line = fails(capsys, "--run", *SMALL, "--dtype", "fp16")
    assert code == 4
    assert "fp16" in line
    one = run(dtype="auto")
    assert one["run"]["dtype"] == "bf16"
    assert any("bf16 is used instead" in warning for warning in one["warnings"])


def test_a_model_that_does_not_fit_is_refused_before_it_is_loaded(cli):
    start = time.monotonic()
    done = cli(
        "calibrate", "--run", "--model", "opt-175b", "--dummy", "--device", "cpu", "--cpu-offload", "--json"
    )
    assert done.returncode == 3
    assert time.monotonic() - start < 60
    assert "GiB missing" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    report = json.loads(done.stdout)
    assert report["measured"] is None
    assert report["predicted"]["memory"]["cpu"]["weights_bytes"] > 300e9


def test_too_little_disk_is_found_before_loading(monkeypatch, run):
    usage = shutil.disk_usage("/")._replace(free=50 << 20)
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: usage)
    with pytest.raises(DoesNotFitError, match="disk of the offload folder"):
        run(disk_offload=True)


def test_an_offload_folder_that_cannot_be_written(run, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(EnvironmentFailure, match="cannot be written"):
        run(offload_dir=str(tmp_path / "file" / "below"))


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (("--batch-size", "3", "--num-gpus", "2"), "multiple of 2"),
        (("--cpu-offload", "--disk-offload"), "exclude each other"),
        (("--quant-bits", "5"), "quant_bits"),
        (("--batch-size", "0"), "batch_size"),
        (("--use-gds",), "disk_offload"),
        (("--prompt-len", "3000"), "2048 positions"),
        (("--model", "no-such-model"), "unknown model"),
        (("--quant-bits", "4", "--quant-group-size", "48"), "does not divide"),
        (("--num-nodes", "2", "--batch-size", "2"), "hostfile"),
        (("--hostfile", "/nowhere"), "no such file"),
    ],
)
def test_bad_input_is_refused_with_exit_code_2(capsys, flags, says):
    code, line = fails(capsys, "--run", *SMALL, *flags)
    assert code == 2
    assert says in line


def test_a_group_size_that_does_not_divide_names_sizes_that_do(run, models):
    with pytest.raises(SpecError, match=r"128 columns.*possible for this model: 128, 64, 32, 16, 8"):
        run(model_name=models["llama"], quant_bits=4, quant_group_size=96)


def test_weights_that_are_nowhere(run, models, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(EnvironmentFailure, match="pass --dummy"):
        run(model_name=models["llama"], dummy=False)


def test_a_port_in_use(run, monkeypatch):
    with socket.socket() as taken:
        taken.bind(("", 0))
        taken.listen()
        monkeypatch.setenv("MASTER_PORT", str(taken.getsockname()[1]))
        with pytest.raises(EnvironmentFailure, match="MASTER_PORT"):
            run()


def test_two_runs_at_once(run):
    with (
        measuring(allow_concurrent=False),
        pytest.raises(EnvironmentFailure, match=rf"process {os.getpid()}"),
    ):
        run()


def test_libaio_that_is_missing(run, monkeypatch):
    from deepspeed.ops.op_builder import AsyncIOBuilder

    monkeypatch.setattr(AsyncIOBuilder, "is_compatible", lambda *_args, **_more: False)
    with pytest.raises(EnvironmentFailure, match="libaio-dev"):
        run(disk_offload=True)


def test_an_error_of_a_library_becomes_one_line(run, monkeypatch):
    import calibrate.run.ds_model as ds_model

    def broken(*_args, **_more):
        raise RuntimeError("first\nsecond")

    monkeypatch.setattr(ds_model, "get_ds_model", broken)
    with pytest.raises(EnvironmentFailure, match=r"RuntimeError: first$"):
        run()


def started(offload_dir: Path, *more: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        command(
            "calibrate",
            "--run",
            *SMALL,
            "--batch-size",
            "2",
            "--loops",
            "100000",
            "--offload-dir",
            str(offload_dir),
            *more,
        ),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finished_loops(process: subprocess.Popen[str], wanted: int, timeout: float = 90) -> Path:
    """Wait until a run has so many finished loops in its file."""
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline and process.poll() is None:
        for file in Path("runs").glob("*.json"):
            if len(json.loads(file.read_text()).get("raw", {}).get("loops", [])) >= wanted:
                return file
        time.sleep(0.1)
    process.kill()
    pytest.fail(f"no run file with {wanted} loops: {process.communicate()}")


def test_an_interrupted_run_keeps_its_finished_loops_and_removes_its_swap_files(tmp_path):
    process = started(tmp_path / "offload", "--disk-offload")
    file = finished_loops(process, 2)
    assert list((tmp_path / "offload").glob("swap-*"))
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=30)
    assert process.returncode == 130
    assert said.strip() == "llm-perf: interrupted"
    record = json.loads(file.read_text())
    assert record["status"] == "interrupted"
    assert len(record["raw"]["loops"]) >= 2
    assert not list((tmp_path / "offload").glob("swap-*"))


def ranks_of(process: subprocess.Popen[str]) -> dict[str, psutil.Process]:
    return {
        child.environ()["RANK"]: child
        for child in psutil.Process(process.pid).children()
        if "RANK" in child.environ()
    }


def test_the_other_ranks_end_when_one_is_killed(tmp_path, offload_dir):
    process = started(offload_dir, "--num-gpus", "2", "--allow-concurrent")
    finished_loops(process, 1)
    ranks = ranks_of(process)
    ranks["1"].kill()
    start = time.monotonic()
    _, said = process.communicate(timeout=60)
    assert time.monotonic() - start < 30
    assert process.returncode == 4
    assert "rank 1 of 2 was killed (SIGKILL)" in said
    assert not ranks["0"].is_running() or ranks["0"].status() == psutil.STATUS_ZOMBIE


def test_an_interrupt_ends_all_ranks(tmp_path, offload_dir):
    process = started(offload_dir, "--num-gpus", "2", "--allow-concurrent")
    finished_loops(process, 1)
    ranks = ranks_of(process)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert said.strip() == "llm-perf: interrupted"
    assert not any(rank.is_running() for rank in ranks.values())


def test_the_command_line_knows_the_flags_of_the_issue():
    from llm_perf.cli.calibrate import calibrate as calibrate_command

    text = CliRunner().invoke(calibrate_command, ["--help"]).output
    flags = [
        "--model",
        "--dummy",
        "--loops",
        "--batch-size",
        "--prompt-len",
        "--gen-len",
        "--pin-memory",
        "--cpu-offload",
        "--disk-offload",
        "--offload-dir",
        "--kv-offload",
        "--pin-kv-cache",
        "--async-kv-offload",
        "--quant-bits",
        "--quant-group-size",
        "--use-gds",
        "--num-gpus",
        "--hostfile",
        "--dtype",
        "--device",
        "--log-file",
        "--verbose",
        "--json",
    ]
    assert not [flag for flag in flags if flag not in text]
