"""DeepSpeed's compiled operators that NVMe offload needs: where they are kept, and building them once.

``python -m calibrate.run.ops`` builds them and says how long it took; the Makefile's target ``ops`` calls it.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import os
import sys
import time
from pathlib import Path

from llm_perf.errors import EnvironmentFailure, LLMPerfError

DIRECTORY_VARIABLE = "TORCH_EXTENSIONS_DIR"
USUAL_SECONDS = 210
"""What a first build takes on two cores."""


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


def built() -> bool:
    """Whether the operators are there already."""
    folder = extensions_dir()
    return all((folder / name / f"{name}.so").is_file() for name in ("pin_memory", "async_io"))


def check_async_io() -> None:
    """Make sure that NVMe offload can be compiled or is compiled.

    Raises:
        EnvironmentFailure: libaio's headers are missing.
    """
    from deepspeed.ops.op_builder import AsyncIOBuilder

    if not AsyncIOBuilder().is_compatible(verbose=False):
        raise EnvironmentFailure(
            "NVMe offload needs libaio's headers, which are not installed (Debian and Ubuntu: apt-get install libaio-dev)"
        )


def build_ops() -> float:
    """Compile the operators unless they are there. Returns the seconds that it took.

    Raises:
        MissingExtraError: the packages of the real run are not installed.
        EnvironmentFailure: libaio or a compiler is missing, or compiling failed.
    """
    from calibrate.run.extras import require_extra
    from calibrate.run.process import prepare_process, quiet_libraries

    require_extra("compiling DeepSpeed's operators")
    prepare_process(1)
    start = time.perf_counter()
    with quiet_libraries():
        import torch

        os.environ.setdefault("DS_ACCELERATOR", "cuda" if torch.cuda.is_available() else "cpu")
        check_async_io()
        from deepspeed.ops.op_builder import AsyncIOBuilder

        try:
            AsyncIOBuilder().load(verbose=False)
        except Exception as error:  # noqa: BLE001 - compilers and torch fail in many ways
            first = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise EnvironmentFailure(f"DeepSpeed's async_io could not be compiled: {first}") from None
    return time.perf_counter() - start


def main() -> int:
    """Build and report on stderr."""
    if built():
        sys.stderr.write(f"DeepSpeed's operators are compiled already ({extensions_dir()})\n")
        return 0
    sys.stderr.write(
        f"Compiling DeepSpeed's async_io and pin_memory, once: about {USUAL_SECONDS} seconds on two cores.\n"
    )
    try:
        seconds = build_ops()
    except LLMPerfError as error:
        sys.stderr.write(f"llm-perf: {error}\n")
        return error.exit_code
    sys.stderr.write(f"Compiled in {seconds:.0f} seconds into {extensions_dir()}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
