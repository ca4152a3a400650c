"""llama.cpp's ``llama-server`` with a GGUF file of random weights."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from calibrate.probe.environment import usable_cores
from calibrate.run.llama_cpp.build import PROGRAMS, required
from calibrate.run.llama_cpp.gguf_file import quantise, write_random_gguf
from calibrate.run.serve.server import Served, serving, some_port
from calibrate.run.serve.vocabulary import add_to_gguf
from llm_perf.config.model import ModelConfig

SLOTS = 8
CONTEXT = 2048
"""Tokens of one slot."""


def write_served_gguf(model: ModelConfig, folder: Path, weight_format: str = "q8_0", seed: int = 0) -> Path:
    """A file of random weights with a vocabulary; one that is there is left as it is.

    Args:
        model: Its shapes.
        folder: Where it goes.
        weight_format: As llama-quantize makes it, or "fp16".
        seed: Of the weights.

    Raises:
        LLMPerfError: it cannot be made.
    """
    name = model.name.rpartition("/")[2]
    path = folder / f"{name}-{weight_format}.gguf"
    if path.exists():
        return path
    wide = folder / f"{name}-fp16.gguf"
    write_random_gguf(model, wide, seed, add_to_gguf)
    if weight_format != "fp16":
        quantise(required(PROGRAMS), wide, path, weight_format, usable_cores())
        wide.unlink()
    return path


@contextlib.contextmanager
def llama_server(
    path: Path, *, threads: int | None = None, slots: int = SLOTS, context: int = CONTEXT
) -> Iterator[Served]:
    """Serve a GGUF file on this machine's CPU.

    Args:
        path: The file.
        threads: Of llama.cpp; all cores if None.
        slots: Requests that run at once.
        context: Tokens of each.

    Raises:
        EnvironmentFailure: llama.cpp is not built, or the server does not come up.
    """
    port, count = some_port(), str(threads or usable_cores())
    command = [
        str(required(PROGRAMS).server), "--model", str(path),
        "--alias", path.stem, "--host", "127.0.0.1", "--port", str(port),
        "--threads", count, "--threads-batch", count, "--parallel", str(slots), "--ctx-size", str(slots * context),
        "--no-webui", "--metrics", "--n-gpu-layers", "0",
    ]  # fmt: skip
    with serving(command, port, path.stem, "llama-server") as served:
        yield served
