"""Collectives between the ranks of one machine: gloo between processes on a CPU, NCCL between its GPUs.

Every rank is a process of its own; the first one times and prints one line of JSON.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from typing import Any

from calibrate.probe.clock import now
from calibrate.probe.sampler import median_uncertainty

SIZES = (64 << 10, 1 << 20, 16 << 20)
_OPERATIONS = ("all_reduce", "all_gather")
_MOST_SAMPLES = 60
_START_S = 60.0
"""What importing torch in every rank may take, beyond the time for measuring."""


def measure(device: Any, limit_s: float) -> list[dict[str, Any]]:
    """Records of each operation and size; none where the machine has no second rank or the ranks do not meet."""
    from calibrate.probe.environment import usable_cores
    from calibrate.probe.ranks import free_port

    ranks = _ranks(device, usable_cores())
    if ranks < 2:
        return []
    common = os.environ | {
        "WORLD_SIZE": str(ranks), "LOCAL_WORLD_SIZE": str(ranks), "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(free_port()), "OMP_NUM_THREADS": "1",
    }  # fmt: skip
    command = [sys.executable, "-m", "calibrate.probe.collective", device.kind, str(limit_s)]
    processes = [
        subprocess.Popen(
            command,
            env=common | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE if rank == 0 else subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        for rank in range(ranks)
    ]
    try:
        output, _ = processes[0].communicate(timeout=_START_S + limit_s)
    except subprocess.TimeoutExpired:
        output = ""
    finally:
        for process in processes:
            process.kill()
            process.wait()
    return _records_of(output)


def gather_bytes_per_s(world: int, device: Any, size: int = 16 << 20) -> float:
    """Bytes per second that arrive at a rank when all ranks of this run gather a tensor: of some gathers the quickest."""
    import deepspeed.comm as dist
    import torch

    shard = torch.zeros(size, dtype=torch.uint8, device=device.torch_device)
    whole = torch.empty(size * world, dtype=torch.uint8, device=device.torch_device)
    sync = device.synchronize or (lambda: None)
    seconds = []
    for _ in range(8):
        dist.barrier()
        sync()
        start = now()
        dist.all_gather_into_tensor(whole, shard)
        sync()
        seconds.append(now() - start)
    return size * (world - 1) / min(seconds[1:])


def _records_of(output: str) -> list[dict[str, Any]]:
    """What the first rank printed last; nothing where it ended before it did, whatever libraries printed."""
    try:
        found = json.loads((output.splitlines() or [""])[-1])
    except json.JSONDecodeError:
        return []
    return found if isinstance(found, list) else []


def _ranks(device: Any, cores: int) -> int:
    if device.kind != "cuda":
        return min(2, cores)
    import torch

    return int(torch.cuda.device_count())


def _rank(kind: str, limit_s: float) -> None:
    """What one rank does."""
    import torch
    import torch.distributed as dist

    rank, world = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    where = torch.device(kind, rank) if kind == "cuda" else torch.device("cpu")
    if kind == "cuda":
        torch.cuda.set_device(where)
    dist.init_process_group("nccl" if kind == "cuda" else "gloo")
    records = []
    share_s = limit_s / (len(SIZES) * len(_OPERATIONS))
    for operation in _OPERATIONS:
        for size in SIZES:
            seconds = _samples(operation, size, world, where, share_s)
            records.append(
                {
                    "kind": "collective",
                    "settings": {"operation": operation, "bytes": size, "ranks": world},
                    "work": {"bytes": float(size)},
                    "samples_s": seconds,
                    "inner": 1,
                }
            )
    dist.destroy_process_group()
    if rank == 0:
        sys.stdout.write(json.dumps(records) + "\n")


def _samples(operation: str, size: int, world: int, where: Any, limit_s: float) -> list[float]:
    """Seconds of one operation; the first rank says when it is known, since all have to stop together."""
    import torch
    import torch.distributed as dist

    own = torch.zeros(size // world if operation == "all_gather" else size, dtype=torch.uint8, device=where)
    whole = torch.empty(own.numel() * world, dtype=torch.uint8, device=where)
    seconds: list[float] = []
    go_on = torch.ones(1, device=where)
    start = time.perf_counter()
    while bool(go_on.item()):
        dist.barrier()
        _sync(where)
        begin = time.perf_counter()
        if operation == "all_gather":
            dist.all_gather_into_tensor(whole, own)
        else:
            dist.all_reduce(own)
        _sync(where)
        seconds.append(time.perf_counter() - begin)
        enough = len(seconds) >= _MOST_SAMPLES or median_uncertainty(seconds[1:]) <= 0.02
        go_on.fill_(float(not enough and time.perf_counter() - start < limit_s))
        dist.broadcast(go_on, 0)
    return seconds[1:] or seconds


def _sync(where: Any) -> None:
    if where.type == "cuda":
        import torch

        torch.cuda.synchronize(where)


if __name__ == "__main__":
    _rank(sys.argv[1], float(sys.argv[2]))
