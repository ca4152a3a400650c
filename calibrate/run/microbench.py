"""``llm-perf calibrate --microbench``: this process made ready, everything measured, one file written."""

from __future__ import annotations

import contextlib
import json
import os
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from calibrate.probe.progress import Progress
from calibrate.probe.suite import DEFAULT_BUDGET_S, LEAST_BUDGET_S, run_microbench
from llm_perf.config import files
from llm_perf.errors import OutputError, SpecError


def microbench(
    device_name: str = "auto",
    dtype: str = "auto",
    budget_s: float = DEFAULT_BUDGET_S,
    out: str | None = None,
    folder: str = "~/.cache/llm-perf/offload",
    allow_concurrent: bool = False,
) -> dict[str, Any]:
    """``llm-perf calibrate --microbench``: prepare this process, measure, write the file.

    Args:
        device_name: "auto", "cuda" or "cpu".
        dtype: One number format, or "auto": fp16 and bf16 on CUDA; on a CPU bf16 and fp32.
        budget_s: Seconds for measuring.
        out: The file; None names it after the moment, in the working directory.
        folder: Where the disk is measured.
        allow_concurrent: Although another run measures here.

    Returns:
        The record, with ``file``.

    Raises:
        LLMPerfError: packages are missing, the device is, or the file cannot be written.
    """
    from calibrate.probe.devices import choose_device, choose_dtype
    from calibrate.probe.extras import require_extra
    from calibrate.probe.process import prepare_process, quiet_libraries
    from calibrate.probe.records import finite, measuring, writable_folder
    from calibrate.run.layer_times import layer_times

    require_extra("llm-perf calibrate microbench")
    if not budget_s >= LEAST_BUDGET_S:
        raise SpecError(f"--budget {budget_s:g}: expected at least {LEAST_BUDGET_S:g} seconds")
    target = _target(out)
    prepare_process(1)
    progress = Progress()
    with (
        measuring(allow_concurrent),
        quiet_libraries(bool(os.environ.get("LLM_PERF_DEBUG"))),
        progress.shown(),
    ):
        progress.say("importing torch and deepspeed")
        device = choose_device(device_name, 0, 1)
        if dtype != "auto":
            dtypes: tuple[str, ...] = (choose_dtype(dtype, device),)
        else:
            dtypes = ("fp16", "bf16") if device.kind == "cuda" else (choose_dtype("auto", device), "fp32")
        record = finite(
            run_microbench(
                device, dtypes, budget_s, writable_folder(folder, "--offload-dir"), progress, layer_times
            )
        )
    part = target.with_name(target.name + ".part")
    try:
        part.write_text(json.dumps(record, indent=1, allow_nan=False) + "\n", encoding="utf-8")
        part.replace(target)
    except OSError as error:
        raise OutputError(f"--out {str(target)!r}: {error.strerror or error}") from None
    finally:
        with contextlib.suppress(OSError):
            part.unlink()
    return record | {"file": str(target)}  # type: ignore[no-any-return]


def _target(out: str | None) -> Path:
    """The file to write, refused before anything is measured where it cannot be one.

    Raises:
        OutputError: it is no .json, a folder, or its folder does not exist.
    """
    if out is None:
        return Path(f"microbench-{datetime.now(timezone.utc):%Y%m%dT%H%M%SZ}.json")
    target = files.expanded(out)
    if target.suffix != ".json":
        raise OutputError(f"--out {out!r}: microbenchmarks are a .json file")
    try:
        missing = target.is_dir() or not target.parent.is_dir()
    except OSError as error:  # a name that no file can have
        raise OutputError(f"--out {out!r}: cannot be written: {error.strerror or error}") from None
    if missing:
        raise OutputError(f"--out {out!r}: there is no folder {str(target.parent)!r}, or it is one itself")
    return target
