"""The same run under torchrun and under DeepSpeed's launcher, and what the command line prints."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from calibrate.run.ranks import free_port

SMALL = (
    "--model",
    "tiny-opt",
    "--prompt-len",
    "8",
    "--gen-len",
    "4",
    "--dtype",
    "fp32",
    "--device",
    "cpu",
    "--loops",
    "1",
)
WORKER = "calibrate.run.worker"


def launched(launcher: list[str], offload_dir: Path) -> dict:
    flags = [*SMALL, "--batch-size", "2", "--offload-dir", str(offload_dir), "--allow-concurrent", "--json"]
    done = subprocess.run(
        [*launcher, WORKER, *flags], capture_output=True, text=True, timeout=180, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    objects = [line for line in done.stdout.splitlines() if line.startswith("{")]
    assert len(objects) == 1, "one of the ranks prints, once"
    return json.loads(objects[0])


def test_torchrun_starts_the_ranks(offload_dir):
    one = launched(
        [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "-m"], offload_dir
    )
    assert one["run"]["ranks"] == 2
    assert one["log_file"] == "ds-tiny-opt-bs2-prompt8-gen4-n1x2-gpu.log"


def test_deepspeeds_launcher_starts_the_ranks(offload_dir):
    port = ["--master_port", str(free_port())]
    runner = [sys.executable, "-m", "deepspeed.launcher.runner", "--num_gpus", "2", *port, "--module"]
    assert launched(runner, offload_dir)["run"]["num_gpus_per_node"] == 2


def test_without_arguments_a_model_that_fits_runs_and_json_is_one_object(cli, offload_dir):
    done = cli("calibrate", "--run", "--offload-dir", str(offload_dir), "--json")
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    one = json.loads(done.stdout)
    assert one["run"]["model_name"] == "tiny-opt"
    wanted = {
        "run",
        "measured",
        "predicted",
        "error",
        "benchmark_log",
        "predicted_benchmark_log",
        "log_file",
        "raw",
        "environment",
    }
    assert wanted <= one.keys()


def test_a_log_is_read_back(cli, tmp_path):
    flexgen = (
        "model size: 55.803 GB\tcache size: 133.875 GB\thidden size (p): 1.395 GB\n"
        "peak gpu mem: 7.038 GB\tprojected: False\nprefill latency: 164.071 s\tprefill throughput: 599.154 token/s\n"
        "decode latency: 503.554 s\tdecode throughput: 11.820 token/s\n"
        "total latency: 667.625 s\ttotal throughput: 9.203 token/s\n"
    )
    (tmp_path / "flexgen.log").write_text(flexgen)
    done = cli("calibrate", "--read-log", "flexgen.log", "--json")
    record = json.loads(done.stdout)["records"][0]
    assert record["total_latency_s"] == 667.625
    assert record["extra"] == {"projected": "False"}
    shown = cli("calibrate", "--read-log", "flexgen.log")
    assert "prefill_latency_s" in shown.stdout
    assert cli("calibrate", "--read-log", "missing.log").returncode == 2
