"""The same run under torchrun and under DeepSpeed's launcher, and what the command line prints."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from calibrate.probe.ranks import free_port
from calibrate.run.hosts import find_result, read_hostfile, result_lines, settings_for_hosts
from llm_perf.errors import SpecError

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


@pytest.fixture
def two_hosts(tmp_path, monkeypatch) -> str:
    """A hostfile of two machines, both of which are this one: ssh and pdsh run here what they would run there."""
    programs = tmp_path / "bin"
    programs.mkdir()
    scripts = {
        "ssh": f'#!{sys.executable}\nprint("127.0.0.1")\n',  # "hostname -I", and the check that it answers
        "pdsh": f"#!{sys.executable}\n" + PDSH,
    }
    for name, text in scripts.items():
        (programs / name).write_text(text)
        (programs / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    (tmp_path / "hosts").write_text("# two machines\nnode-a slots=1\nnode-b slots=4\n")
    return str(tmp_path / "hosts")


PDSH = """
import subprocess, sys, threading
arguments = sys.argv[1:]
hosts = arguments[arguments.index("-w") + 1].split(",")
command = " ".join(arguments[arguments.index("-w") + 2 :])
codes = []

def there(number, host):
    done = subprocess.run(command.replace("%n", str(number)), shell=True, capture_output=True, text=True)
    for stream, text in ((sys.stdout, done.stdout), (sys.stderr, done.stderr)):
        stream.write("".join(f"{host}: {line}\\n" for line in text.splitlines()))
    codes.append(done.returncode)

threads = [threading.Thread(target=there, args=pair) for pair in enumerate(hosts)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
sys.exit(max(codes))
"""


def test_a_hostfile_starts_a_rank_on_each_machine_and_brings_the_result_back(cli, two_hosts, offload_dir):
    done = cli(
        "calibrate", "--run", *SMALL, "--batch-size", "2", "--offload-dir", str(offload_dir), "--allow-concurrent",
        "--hostfile", two_hosts, "--json", timeout=240,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stderr == ""
    one = json.loads(done.stdout)
    assert (one["run"]["num_nodes"], one["run"]["num_gpus_per_node"]) == (2, 1)
    assert one["log_file"] == "ds-tiny-opt-bs2-prompt8-gen4-n2x1-gpu.log"
    assert len(one["raw"]["tokens"]) == 2
    assert [rank["rank"] for rank in one["raw"]["ranks"]] == [0, 1]


def test_what_a_rank_on_another_machine_says_is_the_error(cli, two_hosts):
    done = cli(
        "calibrate",
        "--run",
        *SMALL,
        "--batch-size",
        "2",
        "--model",
        "no-such",
        "--hostfile",
        two_hosts,
        "--allow-concurrent",
    )
    assert done.returncode == 2
    assert len(done.stderr.strip().splitlines()) == 1
    assert "unknown model 'no-such'" in done.stderr


def test_two_agents_of_torchrun_are_two_machines(offload_dir):
    port = str(free_port())
    agent = [sys.executable, "-m", "torch.distributed.run", "--nnodes", "2", "--nproc-per-node", "1"]
    flags = [*SMALL, "--batch-size", "2", "--offload-dir", str(offload_dir), "--allow-concurrent", "--json"]
    agents = [
        subprocess.Popen(
            [
                *agent,
                "--node-rank",
                node,
                "--master-addr",
                "127.0.0.1",
                "--master-port",
                port,
                "-m",
                WORKER,
                *flags,
            ],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for node in ("0", "1")
    ]
    outputs = [one.communicate(timeout=240) for one in agents]
    assert [one.returncode for one in agents] == [0, 0], outputs
    objects = [line for output, _ in outputs for line in output.splitlines() if line.startswith("{")]
    assert len(objects) == 1, "one of the ranks prints, once"
    assert json.loads(objects[0])["log_file"] == "ds-tiny-opt-bs2-prompt8-gen4-n2x1-gpu.log"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("node-a slots=2\nnode-a slots=2\n", "line 2: host node-a is there twice"),
        ("node-a\n", "line 1: 'node-a': expected 'HOST slots=N'"),
        ("node-a slots=0\n", "N above 0"),
        ("# nothing\n", "names no host"),
    ],
)
def test_a_hostfile_that_is_wrong_names_the_line(tmp_path, text, says):
    (tmp_path / "hosts").write_text(text)
    with pytest.raises(SpecError, match=re.escape(says)):
        read_hostfile(str(tmp_path / "hosts"))


def test_nodes_and_ranks_come_from_the_hostfile():
    hosts = {"a": 4, "b": 2, "c": 8}

    def ranks(**fields):
        found = settings_for_hosts({"model_name": "tiny-opt", "batch_size": 24} | fields, hosts)
        return found.num_nodes, found.num_gpus_per_node

    assert ranks() == (3, 2)
    assert ranks(num_nodes=1) == (1, 4)
    assert ranks(num_nodes=2, num_gpus_per_node=1) == (2, 1)
    with pytest.raises(SpecError, match="has 2 slots"):
        ranks(num_gpus_per_node=4)
    with pytest.raises(SpecError, match="hostfile has 3"):
        ranks(num_nodes=4)
    with pytest.raises(SpecError, match="multiple of 6"):
        ranks(batch_size=4)


@given(
    st.dictionaries(st.text(max_size=8), st.text(max_size=9000) | st.integers(), max_size=4),
    st.text(max_size=5),
)
def test_a_result_survives_among_other_output(result, host):
    prefix = " ".join(host.split()) + ": "
    noise = ["[INFO] launching", *(prefix + line for line in result_lines(result)), "done"]
    assert find_result(noise) == result
    assert find_result(noise[:-2]) is None
