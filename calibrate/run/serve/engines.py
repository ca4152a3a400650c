"""Engines that are served with random weights here: how each is started, and which sizes of it are compared."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from calibrate.run.serve.models import hf_config_dict, sample
from calibrate.run.serve.server import Served
from llm_perf.analysis.request import InferenceInputs

THREADS = 1
"""Of an engine that is compared: with two, a machine shared by others says more of these than of the engine."""


@dataclass(frozen=True)
class ServedEngine:
    """How one engine is served, and with which sizes.

    Attributes:
        system: Its family.
        observed: Models whose times are fitted.
        predicted: The model that is predicted.
        flags: Of the deployment, beside the model and the machine.
        served: Starts a model in a folder.
        model_of: The model as ``--model`` takes it.
    """

    system: str
    observed: tuple[str, ...]
    predicted: str
    flags: dict[str, Any]
    served: Callable[[str, Path], contextlib.AbstractContextManager[Served]]
    model_of: Callable[[str, Path], str]

    def inputs(self, name: str, folder: Path, profile: str | None = None) -> InferenceInputs:
        """The deployment of a model."""
        return InferenceInputs(
            model=self.model_of(name, folder), gpu="none", host="here", system=self.system, threads=THREADS,
            profile=profile, **self.flags,
        )  # fmt: skip


def engines() -> dict[str, ServedEngine]:
    """Both engines, by their families."""
    from calibrate.run.serve import llama_server, transformers_serve

    @contextlib.contextmanager
    def of_llama(name: str, folder: Path) -> Iterator[Served]:
        path = llama_server.write_served_gguf(sample(name), folder)
        with llama_server.llama_server(path, threads=THREADS) as served:
            yield served

    @contextlib.contextmanager
    def of_transformers(name: str, folder: Path) -> Iterator[Served]:
        transformers_serve.write_checkpoint(hf_config_dict(name), folder / name)
        with transformers_serve.transformers_serve(folder / name, threads=THREADS) as served:
            yield served

    return {
        "llama_cpp": ServedEngine(
            "llama_cpp", ("served-110m", "served-370m"), "served-260m", {"max_num_seqs": llama_server.SLOTS}, of_llama,
            lambda name, folder: str(folder / f"{name}-q8_0.gguf"),
        ),
        "transformers_serve": ServedEngine(
            "transformers_serve", ("served-31m", "served-260m"), "served-110m",
            {"max_num_batched_tokens": transformers_serve.STEP_TOKENS}, of_transformers,
            lambda name, folder: str(folder / name),
        ),
    }  # fmt: skip
