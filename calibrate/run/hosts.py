"""A run on several machines through DeepSpeed's launcher, and its result brought back to the one that asked for it."""

from __future__ import annotations

import base64
import json
import os
import re
import subprocess
import sys
import threading
import zlib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import IO, Any

from calibrate.probe.own_process import EXIT_INTERRUPTED, error_of_exit_code
from calibrate.probe.ranks import free_port
from calibrate.run.launch import GRACE_S, with_report
from calibrate.run.settings import RunSettings
from llm_perf.config import files
from llm_perf.errors import EnvironmentFailure, LLMPerfError, SpecError

SETTINGS_FLAG = "--settings"
_MARK = "llm-perf-result"
_CHUNK = 4000
"""Characters per line: what carries a remote machine's output may cut lines that are much longer."""

_HOST = re.compile(r"^(\S+)\s+slots=(\d+)\s*(#.*)?$")
_PART = re.compile(rf"{_MARK} (\d+)/(\d+) (\S+)")
_ERROR_LINE = re.compile(r"llm-perf: (?!warning: )(.+)")


def measure_on_hosts(
    fields: dict[str, Any], hostfile: str, measure: Callable[[RunSettings], dict[str, Any] | None]
) -> dict[str, Any] | None:
    """Run what the settings say on the hosts of a file.

    Args:
        fields: Of ``RunSettings``. ``num_nodes`` takes the first hosts of the file, all of them by default;
            ``num_gpus_per_node`` is at most a host's slots, and all of them by default.
        hostfile: DeepSpeed's form, ``worker-0 slots=8`` per line.
        measure: Runs on this machine alone, for a file that names nothing but localhost.

    Returns:
        The first rank's result.

    Raises:
        SpecError: the file or the settings are wrong.
        LLMPerfError: what the first rank that failed said.
    """
    hosts = read_hostfile(hostfile)
    settings = settings_for_hosts(fields, hosts)
    if list(hosts)[: settings.num_nodes] == ["localhost"]:
        return measure(settings)  # nothing to reach over the network
    return _outcome(*_run(hosts_command(settings, hostfile)))


def read_hostfile(name: str) -> dict[str, int]:
    """Slots of each host, in the order of the file.

    Raises:
        SpecError: the file cannot be read, or the line that is wrong.
    """
    path = Path(name).expanduser()
    if not files.is_file(path):
        raise SpecError(f"--hostfile {name}: no such file")
    hosts: dict[str, int] = {}
    for number, line in enumerate(files.read_text(path).splitlines(), 1):
        plain = line.strip()
        if not plain or plain.startswith("#"):
            continue
        found = _HOST.match(plain)
        if found is None or int(found[2]) < 1:
            raise SpecError(
                f"--hostfile {name}, line {number}: {plain!r}: expected 'HOST slots=N' with N above 0"
            )
        if found[1] in hosts:
            raise SpecError(f"--hostfile {name}, line {number}: host {found[1]} is there twice")
        hosts[found[1]] = int(found[2])
    if not hosts:
        raise SpecError(f"--hostfile {name}: it names no host; expected 'HOST slots=N' per line")
    return hosts


def settings_for_hosts(fields: dict[str, Any], hosts: dict[str, int]) -> RunSettings:
    """Settings with the nodes and the ranks per node that the hosts have, where none were given.

    Raises:
        SpecError: more are asked for than the file has.
    """
    nodes = fields.get("num_nodes") or len(hosts)
    if nodes > len(hosts):
        raise SpecError(f"--num-nodes {nodes}: the hostfile has {len(hosts)}")
    least = min(list(hosts.values())[:nodes])
    per_node = fields.get("num_gpus_per_node") or least
    if per_node > least:
        raise SpecError(f"--num-gpus {per_node}: a host of the hostfile has {least} slots")
    ranks = {"num_nodes": nodes, "num_gpus_per_node": per_node}
    return RunSettings(**(fields | ranks))


def hosts_command(settings: RunSettings, hostfile: str) -> list[str]:
    """The ``deepspeed`` command that starts a run.

    Settings travel as one word of letters and digits: the launcher passes no variables of ours to other machines, and
    their shells would take a JSON text apart.
    """
    port = os.environ.get("MASTER_PORT") or str(free_port())
    packed = base64.urlsafe_b64encode(settings.model_dump_json().encode()).decode()
    return [
        sys.executable, "-m", "deepspeed.launcher.runner", "--hostfile", str(Path(hostfile).expanduser()),
        "--num_nodes", str(settings.num_nodes), "--num_gpus", str(settings.num_gpus_per_node),
        "--master_port", port, "--no_local_rank", "--module", "calibrate.run.worker", SETTINGS_FLAG, packed,
    ]  # fmt: skip


def unpack_settings(packed: str) -> RunSettings:
    """The settings that ``hosts_command`` packed."""
    return RunSettings(**json.loads(base64.urlsafe_b64decode(packed)))


def result_lines(result: dict[str, Any]) -> list[str]:
    """A result as lines that survive among other output, prefixes of host names included."""
    text = base64.b64encode(zlib.compress(json.dumps(result, allow_nan=False).encode())).decode()
    chunks = [text[start : start + _CHUNK] for start in range(0, len(text), _CHUNK)]
    return [f"{_MARK} {number}/{len(chunks)} {chunk}" for number, chunk in enumerate(chunks, 1)]


def find_result(lines: Iterable[str]) -> dict[str, Any] | None:
    """The result among lines of output; None where it is not there whole."""
    found = [part for part in map(_PART.search, lines) if part]
    parts = {int(part[1]): part[3] for part in found}
    if not parts or len(parts) != int(found[-1][2]):
        return None
    text = "".join(parts[number] for number in sorted(parts))
    return json.loads(zlib.decompress(base64.b64decode(text)))  # type: ignore[no-any-return]


def _run(command: list[str]) -> tuple[int, list[str], list[str]]:
    """Exit code and the lines on stdout and stderr; an interrupt is passed on and waited for."""
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, errors="replace", bufsize=1
    )
    output: list[str] = []
    said: list[str] = []
    readers = [
        threading.Thread(target=_collect, args=(stream, lines), daemon=True)
        for stream, lines in ((process.stdout, output), (process.stderr, said))
    ]
    for reader in readers:
        reader.start()
    try:
        process.wait()
    except KeyboardInterrupt:
        # Ctrl-C has reached the launcher too, which ends what it started; a signal to us alone has not.
        process.terminate()
        try:
            process.wait(GRACE_S)
        except subprocess.TimeoutExpired:
            process.kill()
        raise
    for reader in readers:
        reader.join(GRACE_S)
    return process.returncode, output, said


def _collect(stream: IO[str] | None, lines: list[str]) -> None:
    loud = bool(os.environ.get("LLM_PERF_DEBUG"))
    for line in stream or ():
        lines.append(line.rstrip("\n"))
        if loud:
            sys.stderr.write(line)


def _outcome(code: int, output: list[str], said: list[str]) -> dict[str, Any]:
    """The result, or the error that explains why there is none."""
    result = find_result(output)
    if result is not None and result["status"] == "done":
        return result
    errors = [found[1] for found in map(_ERROR_LINE.search, [*said, *output]) if found]
    if errors == ["interrupted"] or code == EXIT_INTERRUPTED:
        raise KeyboardInterrupt
    raise with_report(_failure(code, errors, said), result)


def _failure(code: int, errors: list[str], said: list[str]) -> LLMPerfError:
    if errors:
        # The launcher may end with a code of its own; what a rank said holds.
        return error_of_exit_code(code)(errors[0])
    last = next((line for line in reversed(said) if line.strip()), f"exit code {code}")
    plain = re.sub(r"^\w*(Error|Exception): ", "", last.strip())
    return EnvironmentFailure(f"DeepSpeed's launcher failed: {' '.join(plain.split())}")
