"""All microbenchmarks under one budget, and the file that keeps their samples."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from calibrate.probe import attention, collective, dequantise, disk, gemm, launch, memory, transfer
from calibrate.probe.progress import Progress
from calibrate.probe.sampler import TARGET, Clock, Item, Samples, sample

SCHEMA_VERSION = 1
DEFAULT_BUDGET_S = 60.0
LEAST_BUDGET_S = 1.0

_LAYER_SHARE, _COLLECTIVE_SHARE = 0.1, 0.1
"""Parts of the budget for what starts processes or models of its own; single operations have the rest."""

_LEAST_ITEM_S = 0.02


def run_microbench(
    device: Any,
    dtypes: tuple[str, ...],
    budget_s: float,
    folder: Path,
    progress: Progress,
    layer_times: Callable[[Any, str, float], list[dict[str, Any]]],
) -> dict[str, Any]:
    """Measure everything that this device has.

    Args:
        device: A ``calibrate.probe.devices.Device``.
        dtypes: Number formats, the most important first.
        budget_s: Seconds for measuring; imports come on top.
        folder: Where the disk is measured.
        progress: Says what is going on.
        layer_times: Framework times per layer of real models (device, dtype, seconds): what runs models knows how.

    Returns:
        The record: ``items`` with all samples, ``environment``, ``budget_s``, ``spent_s``.
    """
    from calibrate.probe.environment import describe_environment

    start = time.perf_counter()
    records = _single(device, dtypes, budget_s, folder, progress, start)
    progress.say("framework time per layer")
    records += layer_times(device, dtypes[0], _LAYER_SHARE * budget_s)
    progress.say("collectives")
    records += [_summarised(record) for record in collective.measure(device, _COLLECTIVE_SHARE * budget_s)]
    return {
        "schema_version": SCHEMA_VERSION,
        "kind": "microbench",
        "status": "done",
        "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "device": device.kind,
        "dtypes": list(dtypes),
        "budget_s": budget_s,
        "spent_s": time.perf_counter() - start,
        "environment": describe_environment(device, dtypes[0], folder),
        "items": records,
    }


def _items(device: Any, dtypes: tuple[str, ...], folder: Path) -> list[Item]:
    """Single operations, what a prediction needs most first."""
    groups: tuple[Iterable[Item], ...] = (
        launch.items(device),
        memory.items(device),
        transfer.items(device),
        gemm.items(device, dtypes),
        attention.items(device, dtypes),
        dequantise.items(device, dtypes),
        disk.items(folder),
    )
    return [item for group in groups for item in group]


def _single(
    device: Any, dtypes: tuple[str, ...], budget_s: float, folder: Path, progress: Progress, start: float
) -> list[dict[str, Any]]:
    """Each item in its turn; what one does not use the others share. Disturbed ones again, while there is time."""
    items = _items(device, dtypes, folder)
    end = start + budget_s * (1 - _LAYER_SHARE - _COLLECTIVE_SHARE)
    found: dict[int, dict[str, Any]] = {}
    waiting = list(range(len(items)))
    for _ in range(1 + _RETRIES):
        while waiting and time.perf_counter() < end:
            progress.say(f"{items[waiting[0]].kind.replace('_', ' ')}, {len(waiting)} sizes to go")
            measured = _window(device, items, waiting, end)
            # A size that was disturbed both times keeps the first samples, and its mark.
            found |= {n: one for n, one in measured.items() if n not in found or not one.get("disturbed")}
            waiting = waiting[len(measured) :]
        waiting = [number for number, one in found.items() if one.get("disturbed")]
    return [found.get(number, _unmeasured(item)) for number, item in enumerate(items)]


_WINDOW_S = 0.4
"""What others use is counted in ticks of 10 ms: so long at least, that a single tick is no evidence."""

_RETRIES = 2


def _window(device: Any, items: list[Item], waiting: list[int], end: float) -> dict[int, dict[str, Any]]:
    """Some items measured in a row, and what others used of the machine's cores meanwhile, as evidence with each."""
    from calibrate.probe.usage import DeviceMeter, Repeat

    measured: dict[int, dict[str, Any]] = {}
    start = time.perf_counter()
    with Repeat(DeviceMeter(device)) as usage:
        for left, number in zip(range(len(waiting), 0, -1), waiting, strict=True):
            now = time.perf_counter()
            if measured and (now - start > _WINDOW_S or now > end):
                break
            measured[number] = _measured(device, items[number], max(_LEAST_ITEM_S, (end - now) / left))
    kept = {name: usage.found[name] for name in ("wall_s", "others_cores", "disturbed")}
    return {number: one if one.get("error") else one | kept for number, one in measured.items()}


def _unmeasured(item: Item) -> dict[str, Any]:
    named = {"kind": item.kind, "settings": item.settings, "work": item.work}
    return named | {"error": "not measured: the budget had ended", "samples_s": []}


def _measured(device: Any, item: Item, limit_s: float) -> dict[str, Any]:
    """One record; ``error`` says why there are no samples."""
    record: dict[str, Any] = {"kind": item.kind, "settings": item.settings, "work": item.work}
    try:
        call = item.prepare()
        found = sample(call, Clock(device, item.host_only), limit_s, item.inner)
    except (RuntimeError, OSError, ValueError, ImportError) as error:
        return record | {"error": f"{type(error).__name__}: {str(error).splitlines()[0]}", "samples_s": []}
    finally:
        call = None  # type: ignore[assignment]
        _free(device)
    return _summarised(record | {"samples_s": found.seconds, "inner": found.inner})


def _free(device: Any) -> None:
    if device.kind == "cuda":
        import torch

        torch.cuda.empty_cache()


def _summarised(record: dict[str, Any]) -> dict[str, Any]:
    """The record with its median, and whether that is known."""
    found = Samples(record["samples_s"])
    uncertainty = found.relative_uncertainty
    return record | {
        "median_s": found.median_s,
        "relative_uncertainty": uncertainty if uncertainty != float("inf") else None,
        "converged": uncertainty <= TARGET,
    }
