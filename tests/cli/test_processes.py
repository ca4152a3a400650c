"""The command as a process: exit codes, streams, pipes, signals, and two writers of one log."""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
COMMAND = (sys.executable, "-c", "from llm_perf.cli.main import main; main()")
SMALL = ("infer", "--model", "opt-1.3b", "--gpu", "t4")


def environment(**changes: str) -> dict[str, str]:
    kept = {
        name: value
        for name, value in os.environ.items()
        if name in ("PATH", "HOME", "LANG", "LC_ALL", "SYSTEMROOT")
    }
    return kept | {"PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"} | changes


def start(
    folder: Path, *words: str, stdout: int = subprocess.PIPE, **changes: str
) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [*COMMAND, *words], cwd=folder, env=environment(**changes), stdout=stdout, stderr=subprocess.PIPE
    )


def end(process: subprocess.Popen[bytes]) -> tuple[int, bytes, bytes]:
    out, err = process.communicate(timeout=60)
    return process.returncode, out, err


def test_the_demo(tmp_path: Path) -> None:
    code, out, err = end(start(tmp_path, "infer", "--model", "opt-175b", "--gpu", "t4", "--ds-zero", "3"))
    assert (code, err) == (0, b"")
    text = out.decode()
    assert "\x1b" not in text  # a pipe is no terminal
    assert max(len(line) for line in text.splitlines() if "\t" not in line) <= 80
    assert text.splitlines()[-1].startswith("total latency: ")
    assert list(tmp_path.iterdir()) == []


def test_json_is_ascii_on_one_line(tmp_path: Path) -> None:
    code, out, err = end(start(tmp_path, *SMALL, "--json", PYTHONIOENCODING="ascii"))
    assert (code, err) == (0, b"")
    assert json.loads(out)["inputs"]["gpu"] == "t4"
    assert out.endswith(b"}\n")
    assert out.count(b"\n") == 1


def test_a_letter_that_the_terminal_lacks_costs_no_result(tmp_path: Path) -> None:
    """0.9 ms per token is printed in µs, which ASCII cannot."""
    words = ("infer", "--model", "opt-125m", "--gpu", "h200")
    whole = end(start(tmp_path, *words, PYTHONIOENCODING="utf-8"))[1].decode()
    assert "µs" in whole
    code, out, err = end(start(tmp_path, *words, PYTHONIOENCODING="ascii"))
    assert (code, err) == (0, b"")
    assert out.decode("ascii") == whole.replace("µ", "?")


def test_a_terminal_that_is_forced_gets_colours(tmp_path: Path) -> None:
    assert b"\x1b[1m" in end(start(tmp_path, *SMALL, FORCE_COLOR="1"))[1]


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (("--version",), 0),
        (("infer", "--model", "opt-175b", "--gpu", "t4"), 3),
        ((*SMALL, "--batch-size", "0"), 2),
        ((*SMALL, "--no-such-flag"), 2),
        (("no-such-command",), 2),
    ],
)
def test_exit_codes(tmp_path: Path, words: tuple[str, ...], code: int) -> None:
    found, out, err = end(start(tmp_path, *words))
    assert found == code
    assert (out == b"") is (code == 2)
    assert err.count(b"\n") == (code == 2)
    assert b"Traceback" not in err


def test_bytes_that_are_no_text(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [*map(os.fsencode, COMMAND), b"infer", b"--model", b"\xff\xfe", b"--gpu", b"t4"],
        cwd=tmp_path, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    code, out, err = end(process)
    assert (code, out, err.count(b"\n")) == (2, b"", 1)
    assert b"internal" not in err


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="only Linux has a device that is always full")
def test_a_full_disk_behind_stdout_is_one_line(tmp_path: Path) -> None:
    with Path("/dev/full").open("wb") as full:
        process = start(tmp_path, *SMALL, stdout=full.fileno())
        code, _, err = end(process)
    assert code == 4
    assert err.count(b"\n") == 1
    assert b"No space left on device" in err


def test_a_reader_that_goes_away_ends_it_without_a_word_as_sigpipe_would(tmp_path: Path) -> None:
    read, write = os.pipe()
    process = start(tmp_path, "models", "show", "opt-175b", stdout=write)
    os.close(write)
    os.close(read)
    assert end(process)[::2] == (128 + 13, b"")


@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
def test_an_interrupt_ends_with_130(tmp_path: Path) -> None:
    """Interrupted while it waits for its inputs, which come from a pipe that nobody writes to."""
    fifo = tmp_path / "inputs.yaml"
    os.mkfifo(fifo)
    process = start(tmp_path, *SMALL, "--config", fifo.name)
    with fifo.open("w"):  # returns when the command has opened the other end
        # Again where the first one came between Python's look for signals and its wait for the pipe.
        for _ in range(10):
            time.sleep(0.2)
            process.send_signal(signal.SIGINT)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(5)
                break
        code, out, err = end(process)
    assert (code, out, err.strip()) == (130, b"", b"llm-perf: interrupted")


def test_processes_append_whole_records_to_one_log(tmp_path: Path) -> None:
    batches = [str(batch) for batch in range(1, 7)]
    started = [
        start(tmp_path, *SMALL, "--batch-size", batch, "--log-file", "runs.log", "--json")
        for batch in batches
    ]
    ended = [end(process) for process in started]
    assert [code for code, _, _ in ended] == [0] * len(batches)
    logs = [json.loads(out)["benchmark_log"] for _, out, _ in ended]
    written = (tmp_path / "runs.log").read_text()
    assert len(written) == sum(len(log) + 1 for log in logs)
    assert sorted(written.split("\n")) == sorted("\n".join([*logs, ""]).split("\n"))
    assert all(f"{log}\n" in written for log in logs)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="only Linux has a device that is always full")
@pytest.mark.parametrize(
    ("words", "redirected", "code", "said"),
    [
        (SMALL, ">&-", 4, b"llm-perf: standard output is closed: the answer has nowhere to go\n"),
        (("--version",), ">&-", 4, b"llm-perf: standard output is closed: the answer has nowhere to go\n"),
        ((*SMALL, "--gpu", "zzz"), ">&-", 2, None),
        ((*SMALL, "--gpu", "zzz"), "2>&-", 2, b""),
        ((*SMALL, "--gpu", "zzz"), "2>/dev/full", 2, b""),
        ((*SMALL, "--gpu", "zzz"), "<&- >&- 2>&-", 2, b""),
        (SMALL, "<&- 2>&-", 0, b""),
        (SMALL, "<&- >&- 2>&-", 4, b""),
    ],
    ids=lambda value: "-".join(value).strip("-") if isinstance(value, tuple) else None,
)
def test_closed_and_full_streams(
    tmp_path: Path, words: tuple[str, ...], redirected: str, code: int, said: bytes | None
) -> None:
    command = f"{shlex.join([*COMMAND, *words])} {redirected}"
    done = subprocess.run(
        command, shell=True, capture_output=True, cwd=tmp_path, env=environment(), check=False
    )
    assert done.returncode == code
    assert done.stderr.count(b"\n") == (1 if said is None else said.count(b"\n"))
    assert said is None or done.stderr == said
    assert (done.stdout != b"") == (code == 0)


def test_a_refusal_that_nobody_reads_is_one_all_the_same(tmp_path: Path) -> None:
    for stream in ("stdout", "stderr"):
        read, write = os.pipe()
        command = [*COMMAND, "infer", "--model", "zzz", "--gpu", "t4"]
        both = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL} | {stream: write}
        process = subprocess.Popen(command, cwd=tmp_path, env=environment(), **both)
        os.close(write)
        os.close(read)
        assert process.wait(60) == 2


def test_a_note_that_nobody_reads_does_not_cost_the_answer(tmp_path: Path) -> None:
    words = (*SMALL, "--weight-bits", "8", "--quant-bits", "8")
    noted = start(tmp_path, *words)
    code, out, _ = end(noted)
    read, write = os.pipe()
    process = subprocess.Popen(
        [*COMMAND, *words], cwd=tmp_path, env=environment(), stdout=subprocess.PIPE, stderr=write
    )
    os.close(write)
    os.close(read)
    assert process.communicate(timeout=60)[0] == out
    assert process.returncode == code


def test_a_file_is_never_opened_in_the_place_of_a_closed_stream(tmp_path: Path) -> None:
    """What a library or a child writes to standard output would stand in it."""
    code = "import os, sys; from llm_perf import streams; streams.prepare(); print(os.open('x', os.O_CREAT), file=sys.stderr)"
    command = f"{shlex.join([sys.executable, '-c', code])} <&- >&-"
    done = subprocess.run(
        command, shell=True, capture_output=True, cwd=tmp_path, env=environment(), check=False
    )
    assert int(done.stderr) > 2


def test_the_programs_of_calibration_have_the_same_streams(tmp_path: Path) -> None:
    code = "import sys; from calibrate.probe.own_process import exit_code_of; "
    code += "sys.exit(exit_code_of(lambda: sys.stdout.write('x') and None))"
    for redirected, expected in ((">&-", 4), (">&- 2>&-", 4), ("2>&-", 0)):
        command = f"{shlex.join([sys.executable, '-c', code])} {redirected}"
        done = subprocess.run(
            command, shell=True, capture_output=True, cwd=tmp_path, env=environment(), check=False
        )
        assert done.returncode == expected
        assert b"Traceback" not in done.stderr
