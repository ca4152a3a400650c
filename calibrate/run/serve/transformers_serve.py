"""``transformers serve --continuous-batching`` with a checkpoint of random weights."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from calibrate.probe.environment import usable_cores
from calibrate.run.serve.server import Served, serving, some_port
from calibrate.run.serve.vocabulary import write_tokenizer
from llm_perf.errors import MissingExtraError

BLOCK_TOKENS = 256
BLOCKS = 64
"""Blocks of its cache: the static mask that it allocates is as wide."""
STEP_TOKENS = 512
"""Tokens of a step at most."""
_NO_16_BITS = ("NO AVX", "AVX2")
"""Torch's names of x86 processors whose products of 16 bits have no kernels."""
_KEPT_BYTES = 1 << 30
"""Freed memory that the allocator keeps."""


def require_serving() -> None:
    """Make sure that it can be started.

    Raises:
        MissingExtraError: what it imports is not installed.
    """
    try:
        import fastapi  # noqa: F401
        import openai  # noqa: F401
        import torch  # noqa: F401
        import transformers  # noqa: F401
        import uvicorn  # noqa: F401
    except ImportError:
        raise MissingExtraError("calibrate", "transformers serve") from None


def served_dtype() -> str:
    """Torch's name of the format that this processor serves quickest: bfloat16 where its products have kernels.

    Without AVX-512 torch widens every product of it in loops of its own: five times as long for 128 rows (2 cores of
    Zen 3, torch 2.13), so that a prompt of a second takes a minute.
    """
    import torch

    return "float32" if torch.backends.cpu.get_cpu_capability() in _NO_16_BITS else "bfloat16"


def write_checkpoint(config: dict[str, Any], folder: Path, dtype: str | None = None, seed: int = 0) -> Path:
    """A folder with random weights, a vocabulary and no end token, as ``transformers serve`` takes it.

    Args:
        config: Of ``config.json``.
        folder: Where it goes; one that is there is left as it is.
        dtype: Torch's name of the weights' format; `served_dtype` if None.
        seed: Of the weights.

    Raises:
        EnvironmentFailure: the folder cannot be written.
    """
    import torch
    from transformers import AutoConfig

    from calibrate.run.weights import empty_model, write_dummy_checkpoint

    if (folder / "tokenizer_config.json").exists():
        return folder
    rest = dict(config)
    made = AutoConfig.for_model(rest.pop("model_type"), **rest)
    dtype = dtype or served_dtype()
    made.dtype = dtype
    # Whatever token a model of random weights picks, its answers are as long as they were asked to be.
    made.eos_token_id = made.bos_token_id = made.pad_token_id = None
    write_dummy_checkpoint(empty_model(made), folder, getattr(torch, dtype), seed)
    write_tokenizer(folder, made.vocab_size)
    (folder / "generation_config.json").write_text(
        json.dumps({"do_sample": False, "max_new_tokens": 1 << 20})
    )
    return folder


@contextlib.contextmanager
def transformers_serve(
    folder: Path, *, threads: int | None = None, blocks: int = BLOCKS, step_tokens: int = STEP_TOKENS
) -> Iterator[Served]:
    """Serve a checkpoint on this machine's CPU.

    Args:
        folder: As `write_checkpoint` makes it.
        threads: Of torch; all cores if None.
        blocks: Of the cache, of 256 tokens each.
        step_tokens: Of one step at most.

    Raises:
        EnvironmentFailure: the server does not come up.
    """
    require_serving()
    port, model = some_port(), str(folder.absolute())
    command = [
        sys.executable, "-m", "transformers.cli.transformers", "serve", model, "--continuous-batching", "--device", "cpu",
        "--attn-implementation", "sdpa", "--cb-num-blocks", str(blocks), "--cb-max-batch-tokens", str(step_tokens),
        "--host", "127.0.0.1", "--port", str(port), "--log-level", "error",
    ]  # fmt: skip
    environment = {
        "OMP_NUM_THREADS": str(threads or usable_cores()),
        # Spinning threads turn another process on a core into a fortyfold time.
        "OMP_WAIT_POLICY": "passive", "HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
        # Temporaries that go back to the kernel on every free make a step of many keys two to four times as long.
        "MALLOC_MMAP_THRESHOLD_": str(_KEPT_BYTES), "MALLOC_TRIM_THRESHOLD_": str(_KEPT_BYTES),
    }  # fmt: skip
    with serving(command, port, model, "transformers serve", environment) as served:
        yield served
