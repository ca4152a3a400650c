"""A summary as text for people, and as files."""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from llm_perf.errors import OutputError, SpecError

LINE_WIDTH = 100

_LARGE = ("", "K", "M", "G", "T")
_DURATIONS = ((86400, "days"), (3600, "hours"), (60, "minutes"), (1, "s"), (1e-3, "ms"), (1e-6, "us"))


def readable(summary: Mapping[str, Any], title: str) -> str:
    """One ``key: value`` per line under a title; seconds, bytes and large counts get a unit that suits them."""
    lines = [f"{key}: {_value(key, value)}" for key, value in summary.items()]
    return "\n".join(["", title.center(LINE_WIDTH, "-"), *lines, "-" * LINE_WIDTH, ""])


def _value(key: str, value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return str(value)
    if "latency" in key:
        return _duration(value)
    if "efficiency" in key:
        return str(value)
    if "memory" in key:
        return f"{_scaled(value, 1024)}B"
    if any(part in key for part in ("num_tokens", "num_params", "num_active_params", "flops")):
        return _scaled(value, 1000)
    return str(value)


def _scaled(value: float, base: int) -> str:
    """At most two decimals and a prefix: 1.31 G."""
    power = 0
    while abs(value) >= base and power < len(_LARGE) - 1:
        value, power = value / base, power + 1
    return f"{round(value, 2)} {_LARGE[power]}"


def _duration(seconds: float) -> str:
    size, unit = next(((size, unit) for size, unit in _DURATIONS if seconds >= size), _DURATIONS[-1])
    return f"{round(seconds / size, 2)} {unit}"


def file_stem(description: str, suffix: str) -> str:
    """The name that a summary's files share: the configuration, with what no file name may hold replaced.

    Raises:
        SpecError: the suffix is no text, or would lead to another folder.
    """
    if not isinstance(suffix, str) or any(part in suffix for part in ("/", "\\", "\0")):
        raise SpecError(f"output_file_suffix = {suffix!r}: expected text without path separators")
    return description.translate(str.maketrans("/\\\0", "___")) + suffix


def write_all(folder: str | os.PathLike[str], texts: Mapping[str, str]) -> None:
    """Write files into a folder, which is made where there is none; all of them or none.

    Raises:
        OutputError: the folder cannot be made or written to. Files that were there before are unchanged.
    """
    try:
        target = Path(folder)
        target.mkdir(parents=True, exist_ok=True)
        with contextlib.ExitStack() as undo:
            finished = [(_write_beside(target, text, undo), target / name) for name, text in texts.items()]
            for temporary, final in finished:
                temporary.replace(final)
    except (
        OSError,
        ValueError,
        TypeError,
    ) as error:  # ValueError: a null byte in the name; TypeError: no path
        reason = (isinstance(error, OSError) and error.strerror) or str(error)
        raise OutputError(f"cannot write into output_dir {folder!r}: {reason}") from None


def _write_beside(folder: Path, text: str, undo: contextlib.ExitStack) -> Path:
    """Write a temporary file in the folder; it is gone at the end unless it was renamed."""
    handle, name = tempfile.mkstemp(prefix=".", suffix=".part", dir=folder)
    temporary = Path(name)
    undo.callback(temporary.unlink, missing_ok=True)
    with os.fdopen(handle, "w", encoding="utf-8") as file:
        file.write(text)
    temporary.chmod(0o666 & ~_umask())
    return temporary


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def as_json(summary: Mapping[str, Any]) -> str:
    """The summary as JSON text, without NaN or infinity."""
    return json.dumps(summary, indent=4, allow_nan=False) + "\n"
