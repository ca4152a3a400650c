"""Questions that people asked in public about the memory of training, as they would ask them, with what is right.

They ship in ``calibrate/measurements/training/questions.yaml``; ``bench/tuning_figures.py`` writes the table of answers.
"""

from __future__ import annotations

import json
import tempfile
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any, Final

from llm_perf.analysis.training import TrainingResult, predict_training
from llm_perf.analysis.training_request import TrainingInputs, build_training_scenario
from llm_perf.config.base import GIB
from llm_perf.config.files import parse_mapping
from llm_perf.errors import LLMPerfError
from llm_perf.systems.training.base import STEP

NEAR: Final = 0.1
"""What a size may be off by."""
_STATES = frozenset({"weights_bytes", "gradients_bytes", "optimizer_bytes", "temporaries_bytes"})


@dataclass(frozen=True)
class TrainingQuestion:
    """One question.

    Attributes:
        id: The question's number in the collection that it is from; those of one source share it.
        question: In words.
        source: Where it was asked and answered.
        asked: Inputs of ``llm-perf train``.
        config: A model's config.json, where no spec of it ships.
        host_memory_gib: What the host has, all of it, in place of the GPU's usual host.
        reserved_gib: What the allocator reserved on one GPU, or what a source does not say more of.
        allocated_gib: What was allocated of it.
        states_gib: Model states on one GPU by the framework's own estimate.
        fits: Whether it ran, or ran out of memory.
        refused: A word of the refusal that is right: the model is not modelled.
        tokens_per_s: Measured speed of all GPUs; shown, not held.
        tokens_per_s_per_gpu: The same of one GPU.
        missed: Why the answer is not right, where it is not.
    """

    id: str
    question: str
    source: str
    asked: dict[str, Any]
    config: dict[str, Any] | None = None
    host_memory_gib: float | None = None
    reserved_gib: float | None = None
    allocated_gib: float | None = None
    states_gib: float | None = None
    fits: bool | None = None
    refused: str | None = None
    tokens_per_s: float | None = None
    tokens_per_s_per_gpu: float | None = None
    missed: str | None = None

    def answer(self) -> TrainingResult:
        """What ``llm-perf train`` answers.

        Raises:
            LLMPerfError: it refuses.
        """
        if self.config is None:
            return self._answer(self.asked)
        with tempfile.TemporaryDirectory() as folder:
            (Path(folder) / "config.json").write_text(json.dumps(self.config), "utf-8")
            return self._answer({**self.asked, "model": folder})

    def _answer(self, asked: dict[str, Any]) -> TrainingResult:
        scenario = build_training_scenario(TrainingInputs(**asked))
        if self.host_memory_gib is not None:
            sizes = {"memory_gib": self.host_memory_gib, "usable_memory_gib": self.host_memory_gib}
            scenario = scenario.replace(host=scenario.host.replace(**sizes))
        return predict_training(scenario)

    def answered(self) -> TrainingAnswer:
        """The answer beside what is right."""
        try:
            result = self.answer()
        except LLMPerfError as error:
            right = self.refused is not None and self.refused in str(error)
            return TrainingAnswer("refused" if self.refused else "answered", "refused", right)
        if self.refused is not None:
            return TrainingAnswer("refused", "answered", False)
        if self.fits is not None:
            said = "runs" if self.fits else "out of memory"
            return TrainingAnswer(said, _verdict(result), result.feasible == self.fits)
        size, rate = self._size_gib(result), result.throughput_tokens_per_s
        speed = rate / result.scenario.num_gpus if self.tokens_per_s_per_gpu else rate
        stated = self.reserved_gib or self.allocated_gib or self.states_gib or 0.0
        return TrainingAnswer(
            f"{stated:g} GiB", f"{size:.1f} GiB", abs(size / stated - 1) <= NEAR, size / stated, speed
        )

    def _size_gib(self, result: TrainingResult) -> float:
        if self.states_gib is not None:
            terms = result.memory.at(STEP).terms
            return sum(float(term.size_bytes) for term in terms if term.part in _STATES) / GIB
        sizes = result.memory.gpu
        return float(sizes.allocator_bytes if self.allocated_gib is None else sizes.allocated_bytes) / GIB


@dataclass(frozen=True)
class TrainingAnswer:
    """An answer beside what is right, in words, with the ratio of sizes and the predicted rate where they are compared."""

    right: str
    answered: str
    holds: bool
    ratio: float | None = None
    tokens_per_s: float | None = None


def _verdict(result: TrainingResult) -> str:
    """Whether it fits, and where it does not which memory is short."""
    gpu, host = result.memory.gpu, result.memory.cpu
    if result.feasible or float(gpu.total_bytes) > gpu.capacity_bytes:
        sizes, of = gpu, "GPU"
    else:
        sizes, of = host, "host"
    word = "fits" if result.feasible else "does not fit"
    return f"{word}: {of} {float(sizes.total_bytes) / GIB:.1f} of {sizes.capacity_bytes / GIB:.1f} GiB"


def load_training_questions() -> tuple[TrainingQuestion, ...]:
    """All questions, in the file's order."""
    file = resources.files("calibrate") / "measurements" / "training" / "questions.yaml"
    found = parse_mapping(file.read_text("utf-8"), "questions.yaml")
    return tuple(TrainingQuestion(**entry) for entry in found["questions"])
