"""Torch's C++ headers, parsed once for all files of an operator and not once per file, which is most of compiling it.

A program named ``c++`` stands before the compiler: it has GCC precompile ``torch/extension.h`` with the options that it is
called with, and hands each file on with that header first. Where GCC cannot use what was precompiled it reads the header
itself. What torch and ninja write down names ``c++`` as ever, so that no later process takes the operator for another.

``python torch_headers.py COMPILER FOLDER OPTIONS...`` is what that program calls.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

COMPILER = "c++"
"""What torch calls where CXX names no other."""
HEADER = "torch/extension.h"
_PREFIX = "all_of_torch.h"

_OF_ONE_FILE = {"-c": 1, "-o": 1, "-MF": 1, "-MT": 1, "-MMD": 0, "-MD": 0}
"""Options that say which file is compiled, each with the words that follow it; all others decide what headers become."""


@contextlib.contextmanager
def precompiled(within: Path) -> Iterator[None]:
    """Compile with torch's headers precompiled inside the block, where the compiler is GCC.

    Args:
        within: A folder that exists or can be made, with some 2 GB of room until the block ends.
    """
    compiler = shutil.which(COMPILER)
    if fcntl is None or os.environ.get("CXX") or compiler is None or not _is_gcc(compiler):
        yield
        return
    try:
        within.mkdir(parents=True, exist_ok=True)
        folder = tempfile.TemporaryDirectory(dir=within, prefix="headers-", ignore_cleanup_errors=True)
    except OSError:  # whoever compiles there will say so
        yield
        return
    before = os.environ.get("PATH", "")
    with folder as name:
        program = Path(name) / COMPILER
        words = shlex.join([sys.executable, "-S", __file__, compiler, name])
        try:
            program.write_text(f'#!/bin/sh\nexec {words} "$@"\n', encoding="utf-8")
            program.chmod(0o700)
        except OSError:
            yield
            return
        os.environ["PATH"] = f"{name}{os.pathsep}{before}"
        try:
            yield
        except BaseException:
            _end_users(name)
            raise
        finally:
            os.environ["PATH"] = before


def _end_users(folder: str) -> None:
    """End compilers that use a folder: whoever is interrupted kills ninja, which leaves them behind for minutes."""
    wanted = os.fsencode(folder)
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            if wanted in file.read_bytes():
                os.kill(int(file.parent.name), signal.SIGTERM)


def _is_gcc(compiler: str) -> bool:
    environment = {**os.environ, "LC_ALL": "C"}
    try:
        said = subprocess.run([compiler, "-v"], capture_output=True, text=True, check=False, env=environment)
    except OSError:
        return False
    return "gcc version" in said.stderr


def shared_options(arguments: Sequence[str]) -> list[str]:
    """What a call of the compiler says of all files: its arguments without the file's own."""
    kept = []
    skip = 0
    for word in arguments:
        if skip:
            skip -= 1
        elif word in _OF_ONE_FILE:
            skip = _OF_ONE_FILE[word]
        else:
            kept.append(word)
    return kept


def with_headers(compiler: str, folder: Path, arguments: Sequence[str]) -> list[str]:
    """Arguments that use the precompiled header, made first if need be; as they are where there is none."""
    try:
        return _with_headers(compiler, folder, arguments)
    except OSError:  # a full disk: the compiler says so itself, where it needs room too
        return list(arguments)


def _with_headers(compiler: str, folder: Path, arguments: Sequence[str]) -> list[str]:
    options = shared_options(arguments)
    if "-c" not in arguments or not any(
        option == "-isystem" and (Path(value) / HEADER).is_file() for option, value in pairwise(options)
    ):
        return list(arguments)
    source = arguments[list(arguments).index("-c") + 1]
    read = subprocess.run(
        [compiler, *options, "-M", source], capture_output=True, text=True, check=False
    ).stdout
    if HEADER not in read:  # without torch it compiles in a second, with all of torch before it in ten
        return list(arguments)
    place = folder / hashlib.blake2b("\0".join(options).encode(), digest_size=8).hexdigest()
    place.mkdir(parents=True, exist_ok=True)
    header, made = place / _PREFIX, place / f"{_PREFIX}.gch"
    with (place / "lock").open("w") as lock:  # ninja compiles several files at once
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not header.exists():
            header.write_text(f"#include <{HEADER}>\n", encoding="utf-8")
            part = place / "part"
            precompile = [compiler, *options, "-x", "c++-header", str(header), "-o", str(part)]
            if subprocess.run(precompile, capture_output=True, check=False).returncode == 0:
                part.replace(made)
            part.unlink(missing_ok=True)  # of a full disk
    if not made.is_file():
        return list(arguments)
    # Among the system's, which no list of a file's own headers has: ninja does not miss it when it is gone.
    return ["-isystem", str(place), "-include", _PREFIX, *arguments]


def main(compiler: str, folder: str, *arguments: str) -> None:
    """Become the compiler."""
    os.execv(compiler, [compiler, *with_headers(compiler, Path(folder), arguments)])


if __name__ == "__main__":
    main(*sys.argv[1:])
