"""Each fault is one clear line and a clean exit."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import torch
from click.testing import CliRunner

from calibrate.probe import ops
from calibrate.probe.records import measuring
from calibrate.run import demo, hub
from llm_perf.cli import main as entry
from llm_perf.errors import DoesNotFitError, EnvironmentFailure, OutputError, SpecError
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
    assert "the first word may be run, train, microbench" in line


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


# -- disks that fill up, signals, and what must be left behind --------------------------------------------------

LIMITED = """
import resource, sys
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[1]),) * 2)
from llm_perf.cli.main import main
main(sys.argv[2:])
"""


def limited(bytes_per_file: int, *arguments: str) -> subprocess.CompletedProcess[str]:
    """``llm-perf`` where no file may grow beyond some bytes: the system refuses to write more, as on a full disk."""
    command_line = [
        sys.executable,
        "-c",
        LIMITED,
        str(bytes_per_file),
        "calibrate",
        "--run",
        *SMALL,
        *arguments,
    ]
    return subprocess.run(command_line, capture_output=True, text=True, timeout=240, check=False)


def test_a_disk_that_fills_up_under_the_checkpoint_leaves_no_half_of_it(tmp_path):
    folder = tmp_path / "offload"
    done = limited(8 << 20, "--offload-dir", str(folder), "--dummy-on-disk")
    assert done.returncode == 4
    assert re.fullmatch(r"llm-perf: .*the dummy checkpoint cannot be written: .+", done.stderr.strip())
    assert not list(folder.iterdir())


def test_a_disk_that_fills_up_under_the_swap_files_ends_the_run_and_frees_it(tmp_path):
    folder = tmp_path / "offload"
    # The disk probe is 64 MiB, the token table 49 MiB, in rows of 1 KiB: with more layers it would be the largest file.
    done = limited(20 << 20, "--offload-dir", str(folder), "--disk-offload", "--no-dummy-on-disk")
    assert done.returncode == 4
    assert len(done.stderr.strip().splitlines()) == 1
    assert not list(folder.glob("swap-*"))


def test_a_log_that_can_no_longer_be_written_costs_no_finished_loop(run, tmp_path, monkeypatch):
    from calibrate.run import result

    def full(*_args, **_more):
        raise OutputError("cannot append to the benchmark log: no space left on device")

    monkeypatch.setattr(result, "write_benchmark_log", full)
    with pytest.raises(OutputError, match="no space left"):
        run(loops=2)
    record = json.loads(next(Path("runs").glob("*.json")).read_text())
    assert record["status"] == "failed"
    assert len(record["raw"]["loops"]) == 2


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        ({"output_file": "/nowhere/here.log"}, "no folder /nowhere"),
        ({"output_file": "/"}, "cannot be written"),
        ({"runs_dir": "/proc/runs"}, "--runs-dir /proc/runs: cannot be written"),
    ],
)
def test_outputs_that_cannot_be_written_are_found_before_anything_is_loaded(run, monkeypatch, flags, says):
    import calibrate.run.measurement as measurement

    monkeypatch.setattr(measurement, "measure_cases", lambda *_: pytest.fail("it was loaded"))
    with pytest.raises(OutputError, match=says):
        run(**flags)


def test_the_process_group_is_destroyed_when_a_loop_is_interrupted(run, monkeypatch, offload_dir):
    import calibrate.run.measurement as measurement

    once, turns = measurement._one_loop, []

    def interrupted(*arguments):
        if len(turns) == 2:
            raise KeyboardInterrupt
        turns.append(1)
        return once(*arguments)

    monkeypatch.setattr(measurement, "_one_loop", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(loops=5, disk_offload=True)
    assert not torch.distributed.is_initialized()
    assert not list(offload_dir.glob("swap-*"))
    record = json.loads(next(Path("runs").glob("*.json")).read_text())
    assert record["status"] == "interrupted"
    assert len(record["raw"]["loops"]) == 2
    monkeypatch.setattr(measurement, "_one_loop", once)
    assert run()["status"] == "done"  # the next run in this process finds everything put back


def test_a_request_to_end_ends_all_ranks_as_ctrl_c_does(tmp_path, offload_dir):
    process = started(offload_dir, "--num-gpus", "2", "--allow-concurrent")
    finished_loops(process, 1)
    ranks = ranks_of(process)
    process.terminate()
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert said.strip() == "llm-perf: interrupted"
    assert not any(rank.is_running() for rank in ranks.values())
    assert json.loads(next(Path("runs").glob("*.json")).read_text())["status"] == "interrupted"


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a process that its parent is gone")
def test_ranks_do_not_outlive_the_process_that_started_them(tmp_path, offload_dir):
    process = started(offload_dir, "--num-gpus", "2", "--allow-concurrent")
    finished_loops(process, 1)
    ranks = ranks_of(process)
    process.kill()
    process.communicate(timeout=60)
    gone, alive = psutil.wait_procs(ranks.values(), timeout=30)
    assert not alive
    assert len(gone) == 2


def test_a_rank_that_finds_no_room_hands_back_the_prediction(cli, offload_dir):
    done = cli(
        "calibrate", "--run", "--model", "opt-175b", "--dummy", "--device", "cpu", "--cpu-offload", "--num-gpus", "2",
        "--batch-size", "2", "--offload-dir", str(offload_dir), "--json",
    )  # fmt: skip
    assert done.returncode == 3
    report = json.loads(done.stdout)
    assert report["status"] == "does not fit"
    assert report["predicted"]["memory"]["cpu"]["weights_bytes"] > 300e9


def test_a_hub_that_does_not_answer_is_one_line(monkeypatch, capsys):
    import huggingface_hub

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    hub.answers.cache_clear()
    for name, says in (("some-one/some-model", "is no bundled model"), ("opt-125m", "pass --dummy")):
        code, line = fails(capsys, "--run", *SMALL, "--model", name)
        assert code == 4
        assert says in line
        assert "the hub does not answer" in line
    hub.answers.cache_clear()


def test_a_checkpoint_that_memory_cannot_hold_is_not_begun(run, monkeypatch):
    from calibrate.probe import environment
    from calibrate.run import session

    monkeypatch.setattr(session, "checkpoint_bytes", lambda _session: 1e15)
    with pytest.raises(DoesNotFitError, match=r"memory for writing the dummy checkpoint.*--no-dummy-on-disk"):
        run(dummy_on_disk=True, seed=7)
    assert run(seed=7)["status"] == "done"  # where there is a choice, the weights go straight into place
    assert environment.memory_bytes()["available_bytes"] < 1e15


def test_deepspeed_that_runs_on_another_device_already_says_so(monkeypatch, run):
    import deepspeed.accelerator

    class Elsewhere:
        def device_name(self):
            return "cuda"

    monkeypatch.setattr(deepspeed.accelerator, "get_accelerator", Elsewhere)
    with pytest.raises(EnvironmentFailure, match="start another one for cpu"):
        run()


def test_a_kernel_that_cannot_be_compiled_is_said_before_loading(monkeypatch):
    import deepspeed

    class Builder:
        name = "quantizer"

        def is_compatible(self, verbose):
            return True

        def load(self, verbose):
            raise RuntimeError("nvcc fatal: unsupported\nmore")

    monkeypatch.setattr(deepspeed.ops.op_builder, "QuantizerBuilder", Builder, raising=False)
    with pytest.raises(
        EnvironmentFailure, match=r"quantizer could not be compiled: nvcc fatal: unsupported$"
    ):
        ops.load_quantiser()
    monkeypatch.setattr(Builder, "is_compatible", lambda _self, verbose: False)
    with pytest.raises(EnvironmentFailure, match="needs nvcc; --dtype bf16 does without"):
        ops.load_quantiser()


def test_an_option_is_no_model_of_the_demo(monkeypatch, capsys):
    monkeypatch.setattr(demo, "_run_all", lambda _model: pytest.fail("it started"))
    assert demo.main(["--help"]) == 2
    assert capsys.readouterr().err == (
        "llm-perf: usage: python -m calibrate.run.demo [MODEL]; it has no options, got --help\n"
    )


@pytest.mark.parametrize("left", ["async_io", "pin_memory"])
def test_a_lock_that_a_killed_build_left_is_said_instead_of_waited_for(monkeypatch, tmp_path, left):
    import deepspeed

    loaded = []

    class Builder:
        name = "async_io"

        def is_compatible(self, verbose: bool) -> bool:
            return True

        def load(self, verbose: bool) -> None:
            loaded.append(self.name)

    monkeypatch.setattr(deepspeed.ops.op_builder, "AsyncIOBuilder", Builder, raising=False)
    monkeypatch.setenv(ops.DIRECTORY_VARIABLE, str(tmp_path))
    lock = tmp_path / left / "lock"
    lock.parent.mkdir()
    with lock.open("w"):  # whoever compiles holds it open: torch waits for that
        ops.load_async_io()
    assert loaded == ["async_io"]
    with pytest.raises(EnvironmentFailure) as refusal:
        ops.load_async_io()
    assert f"{left} was stopped and left {lock}" in str(refusal.value)
    assert "\n" not in str(refusal.value)
    lock.unlink()
    ops.load_async_io()
    assert loaded == ["async_io"] * 2


def test_rates_that_were_measured_while_others_worked_are_said_to_be(run, monkeypatch):
    """What is probed before the run decides the prediction beside it."""
    from calibrate.probe import local_machine, usage

    for probe in vars(
        local_machine
    ).values():  # an earlier test of this process may have measured them already
        if hasattr(probe, "cache_clear"):
            probe.cache_clear()
    ticks = iter(range(0, 10**9, 1000))
    monkeypatch.setattr(usage, "_machine_busy_s", lambda: float(next(ticks)))
    assert any("while this machine's rates were measured" in line for line in run()["warnings"])
    monkeypatch.setattr(usage, "_machine_busy_s", lambda: 0.0)
    assert not any("while this machine's rates were measured" in line for line in run()["warnings"])
