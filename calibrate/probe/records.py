"""The JSON of a run, kept up to date while it runs, so that an interrupted one loses no finished loop."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime, timezone
from pathlib import Path
from tempfile import gettempdir
from typing import Any

from llm_perf.errors import EnvironmentFailure, OutputError

SCHEMA_VERSION = 1
LOCK_VARIABLE = "LLM_PERF_RUN_LOCK"

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]


class RunRecord:
    """The JSON file of one run.

    Attributes:
        path: The file.
        content: What it holds; ``save`` writes it.
    """

    def __init__(self, folder: Path, stem: str) -> None:
        moment = datetime.now(timezone.utc).strftime("%Y%m%dT%H%M%S.%fZ")
        self.path = folder / f"{moment}-{os.getpid()}-{stem}.json"
        self.content: dict[str, Any] = {"schema_version": SCHEMA_VERSION, "status": "running"}

    def save(self, **changes: Any) -> None:
        """Take over changes and replace the file in one step: a reader never sees half of it.

        Raises:
            OutputError: it cannot be written.
        """
        self.content |= changes
        part = self.path.with_suffix(".part")
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            part.write_text(
                json.dumps(finite(self.content), indent=1, allow_nan=False) + "\n", encoding="utf-8"
            )
            part.replace(self.path)
        except OSError as error:
            with suppress(OSError):
                part.unlink(missing_ok=True)
            raise OutputError(f"{self.path}: cannot be written: {error.strerror or error}") from None


def finite(value: Any) -> Any:
    """JSON has no NaN and no infinity: such a number does not exist."""
    if isinstance(value, dict):
        return {str(key): finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


@contextmanager
def measuring(allow_concurrent: bool) -> Iterator[None]:
    """Hold the machine's measuring lock: two runs at once would spoil each other's times.

    Raises:
        EnvironmentFailure: another run holds it.
    """
    if fcntl is None or allow_concurrent:
        yield
        return
    name = os.environ.get(LOCK_VARIABLE) or str(Path(gettempdir()) / f"llm-perf-run-{os.getuid()}.lock")
    try:
        descriptor = os.open(name, os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as error:
        raise EnvironmentFailure(
            f"{name}: the lock file cannot be opened: {error.strerror or error}"
        ) from None
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            holder = os.read(descriptor, 32).decode("ascii", "replace").strip() or "unknown"
            raise EnvironmentFailure(
                f"another run (process {holder}) is measuring on this machine, and two at once spoil each other's "
                "times: wait for it, or pass --allow-concurrent"
            ) from None
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, str(os.getpid()).encode("ascii"), 0)
        yield
    finally:
        os.close(descriptor)


def writable_folder(name: str, flag: str) -> Path:
    """Make a folder, if need be, and write to it.

    Raises:
        EnvironmentFailure: it cannot be made or written; the message names the flag.
    """
    folder = Path(name).expanduser()
    probe = folder / f".llm-perf-{os.getpid()}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe.write_bytes(b"x")
        probe.unlink()
    except OSError as error:
        raise EnvironmentFailure(f"{flag} {folder}: cannot be written: {error.strerror or error}") from None
    return folder
