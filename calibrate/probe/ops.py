"""DeepSpeed's compiled operators: where they are kept, and building them once.

NVMe offload needs some, quantised fp16 weights on CUDA another.

``python -m calibrate.probe.ops`` builds them and says how long it took; the Makefile's target ``ops`` calls it.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import os
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from calibrate.probe.own_process import exit_code_of
from llm_perf import streams
from llm_perf.errors import EnvironmentFailure, first_line

DIRECTORY_VARIABLE = "TORCH_EXTENSIONS_DIR"
USUAL_SECONDS = 210
"""What a first build takes on two cores."""

_RELEASE_SECONDS = 0.2
"""Between a lock's closing and its removal torch needs far less."""


def extensions_dir() -> Path:
    """Folder of the compiled operators: TORCH_EXTENSIONS_DIR, else one per environment under ~/.cache."""
    given = os.environ.get(DIRECTORY_VARIABLE)
    if given:
        return Path(given)
    versions = f"py{sys.version_info.major}{sys.version_info.minor}"
    for package in ("torch", "deepspeed"):
        try:
            versions += f"-{package}{importlib.metadata.version(package)}"
        except importlib.metadata.PackageNotFoundError:
            versions += f"-{package}none"
    # Each environment has its own: the build names its headers, and another's would be compiled anew at every change.
    versions += "-" + hashlib.blake2b(sys.prefix.encode(), digest_size=3).hexdigest()
    return Path("~/.cache/llm-perf/torch_extensions").expanduser() / versions


def wanted(cuda: bool) -> tuple[str, ...]:
    """Names of the operators that runs need: NVMe's, and on CUDA the kernel that unpacks quantised fp16 weights."""
    return ("pin_memory", "async_io", *(("quantizer",) if cuda else ()))


def built(names: Iterable[str] = ("pin_memory", "async_io")) -> bool:
    """Whether operators are there already."""
    folder = extensions_dir()
    return all((folder / name / f"{name}.so").is_file() for name in names)


def load_async_io(gds: bool = False) -> None:
    """Load what NVMe offload needs, compiled if need be.

    Args:
        gds: The one that reads straight into GPU memory, too.

    Raises:
        EnvironmentFailure: headers, a library or a compiler are missing, or compiling failed.
    """
    import deepspeed

    builders = deepspeed.ops.op_builder
    _load(
        builders.AsyncIOBuilder(),
        "NVMe offload needs libaio's headers, which are not installed (Debian and Ubuntu: apt-get install libaio-dev)",
    )
    if gds:
        _load(
            builders.GDSBuilder(), "--use-gds needs NVIDIA's GPUDirect Storage library (libcufile) and nvcc"
        )


def load_quantiser() -> None:
    """Load the CUDA kernel that unpacks quantised fp16 weights, compiled if need be.

    Raises:
        EnvironmentFailure: there is no CUDA compiler, or compiling failed.
    """
    import deepspeed

    _load(
        deepspeed.ops.op_builder.QuantizerBuilder(),
        "quantised fp16 weights need DeepSpeed's CUDA kernel, and that needs nvcc; --dtype bf16 does without",
    )


def _load(builder: Any, missing: str) -> None:
    if not builder.is_compatible(verbose=False):
        raise EnvironmentFailure(missing)
    for name in dict.fromkeys(("pin_memory", builder.name)):  # which loading another compiles first
        refuse_a_left_lock(name)
    try:
        builder.load(verbose=False)
    except Exception as error:  # noqa: BLE001 - compilers and torch fail in many ways
        first = first_line(error)
        raise EnvironmentFailure(f"DeepSpeed's {builder.name} could not be compiled: {first}") from None


def refuse_a_left_lock(name: str) -> None:
    """Stop where a build that was killed left its lock, for which torch waits without end.

    Torch keeps the lock open while it compiles. It is not removed here: with a shared home, a build on another machine
    may hold it.

    Raises:
        EnvironmentFailure: the lock is there, and no process of this machine has it open.
    """
    lock = Path(os.environ.get(DIRECTORY_VARIABLE, extensions_dir())) / name / "lock"
    if not Path("/proc/self/fd").is_dir() or not lock.exists() or _is_open(lock):
        return
    time.sleep(_RELEASE_SECONDS)
    if lock.exists() and not _is_open(lock):
        raise EnvironmentFailure(
            f"an earlier build of DeepSpeed's {name} was stopped and left {lock}: unless another machine compiles "
            "there now, remove that file and start again"
        )


def _is_open(file: Path) -> bool:
    """Whether a process of this machine that may be looked into has a file open."""
    target = str(file.resolve())
    for link in Path("/proc").glob("[0-9]*/fd/*"):
        with contextlib.suppress(OSError):
            if str(link.readlink()) == target:
                return True
    return False


def build_ops() -> float:
    """Compile the operators unless they are there. Returns the seconds that it took.

    Raises:
        MissingExtraError: the packages of the real run are not installed.
        EnvironmentFailure: libaio or a compiler is missing, or compiling failed.
    """
    from calibrate.probe.extras import require_extra
    from calibrate.probe.process import prepare_process, quiet_libraries
    from calibrate.probe.torch_headers import precompiled

    require_extra("compiling DeepSpeed's operators")
    prepare_process(1)
    start = time.perf_counter()
    with quiet_libraries(), precompiled(extensions_dir()):
        import torch

        cuda = torch.cuda.is_available()
        os.environ.setdefault("DS_ACCELERATOR", "cuda" if cuda else "cpu")
        load_async_io()
        if "quantizer" in wanted(cuda):
            load_quantiser()
    return time.perf_counter() - start


def _torch_has_cuda() -> bool:
    """Whether this build of torch may use CUDA; asked without importing it, which takes seconds."""
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        return not importlib.metadata.version("torch").endswith("+cpu")
    return False


def main() -> int:
    """Build and report on stderr."""
    streams.prepare()
    if built() and not _torch_has_cuda():
        sys.stderr.write(f"DeepSpeed's operators are compiled already ({extensions_dir()})\n")
        return 0
    if not built():
        sys.stderr.write(
            f"Compiling DeepSpeed's async_io and pin_memory, once: about {USUAL_SECONDS} seconds on two cores.\n"
        )

    def work() -> None:
        from calibrate.probe.process import signals_interrupt

        with signals_interrupt():
            seconds = build_ops()
        sys.stderr.write(f"Compiled or found in {seconds:.0f} seconds: {extensions_dir()}\n")

    return exit_code_of(work)


if __name__ == "__main__":
    sys.exit(main())
