"""Which of how many processes this is, and the process group that joins them."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from llm_perf.errors import EnvironmentFailure, SpecError, first_line

TIMEOUT_VARIABLE = "LLM_PERF_RANK_TIMEOUT_S"
DEFAULT_TIMEOUT_S = 600.0
_LAUNCHED = ("RANK", "WORLD_SIZE")


@dataclass(frozen=True, slots=True)
class Rank:
    """One process of a run."""

    rank: int = 0
    local_rank: int = 0
    world_size: int = 1
    local_world_size: int = 1

    @property
    def nodes(self) -> int:
        """Machines of the run."""
        return self.world_size // self.local_world_size

    @property
    def first(self) -> bool:
        """Whether this process writes and prints."""
        return self.rank == 0


def launched() -> bool:
    """Whether a launcher (torchrun, deepspeed, our own) started this process as one of its ranks."""
    return all(name in os.environ for name in _LAUNCHED)


def this_rank() -> Rank:
    """The rank that the launcher gave to this process; the only one where there was no launcher.

    Raises:
        SpecError: the launcher's variables are no numbers or contradict each other.
    """
    if not launched():
        return Rank()
    world = _number("WORLD_SIZE")
    local = next((_number(name) for name in ("LOCAL_WORLD_SIZE", "LOCAL_SIZE") if name in os.environ), world)
    if world % local:
        raise SpecError(f"WORLD_SIZE {world} is no multiple of the {local} ranks on this machine")
    return Rank(_number("RANK"), _number("LOCAL_RANK", "RANK"), world, local)


def _number(*names: str) -> int:
    text = next((os.environ[name] for name in names if name in os.environ), "0")
    if not text.isdigit():
        raise SpecError(f"{names[0]}={text!r}: expected a number from the launcher")
    return int(text)


def free_port() -> int:
    """A TCP port that nothing listens on at this moment."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


def check_port(port: int) -> None:
    """Make sure that a port can be listened on.

    Raises:
        EnvironmentFailure: something else has it.
    """
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(("", port))
        except OSError as error:
            raise EnvironmentFailure(
                f"MASTER_PORT {port} cannot be used ({error.strerror}): set it to a free one, or unset it to have one chosen"
            ) from None


@contextlib.contextmanager
def process_group(rank: Rank, backend: str) -> Iterator[Any]:
    """The process group of the run, destroyed at the end: without that a process now and then aborts after its work.

    Args:
        rank: This process.
        backend: "nccl" or "gloo".

    Raises:
        EnvironmentFailure: the ranks do not find each other.
    """
    import deepspeed
    import deepspeed.comm as dist

    given = {"RANK": rank.rank, "LOCAL_RANK": rank.local_rank, "WORLD_SIZE": rank.world_size}
    before = {name: os.environ.get(name) for name in (*given, "MASTER_ADDR", "MASTER_PORT")}
    os.environ.update({name: str(value) for name, value in given.items()})
    os.environ.setdefault("MASTER_ADDR", "127.0.0.1")
    if "MASTER_PORT" not in os.environ:
        os.environ["MASTER_PORT"] = str(free_port())
    elif rank.first and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
        check_port(_number("MASTER_PORT"))
    # Compiling this op takes half a minute, and gloo does without it.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    seconds = float(os.environ.get(TIMEOUT_VARIABLE, DEFAULT_TIMEOUT_S))
    try:
        deepspeed.init_distributed(dist_backend=backend, timeout=timedelta(seconds=seconds), verbose=False)
    except (RuntimeError, ValueError) as error:
        raise EnvironmentFailure(
            f"the {rank.world_size} ranks did not find each other: {first_line(error)}"
        ) from None
    try:
        yield dist
    finally:
        with contextlib.suppress(Exception):
            dist.destroy_process_group()
        # Else a second run in this process would take the destroyed group for a live one.
        dist.comm.cdb = None
        for name, value in before.items():
            os.environ.pop(name, None) if value is None else os.environ.update({name: value})
