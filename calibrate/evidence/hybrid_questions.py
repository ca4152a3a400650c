"""Questions that people asked about machines that are too small, as they would ask them, with what was measured.

They ship in ``calibrate/measurements/hybrid/questions.yaml``; ``bench/hybrid_questions.py`` writes the table of answers.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from importlib import resources
from typing import Any, Final

from llm_perf.analysis.inference import InferenceResult, predict_inference
from llm_perf.analysis.request import InferenceInputs, build_scenario
from llm_perf.config.files import parse_mapping

FACTOR: Final = 1.4
"""What an answer may be off by."""


@dataclass(frozen=True)
class HybridQuestion:
    """One question.

    Attributes:
        question: In words.
        source: Who measured it.
        asked: Inputs of ``llm-perf infer``.
        prompt: Tokens per second of the prompt that were measured, if any.
        decode: The same of decoding, of all sequences together.
        missed: Why the answer is off by more than ``FACTOR``, where it is.
    """

    question: str
    source: str
    asked: dict[str, Any]
    prompt: float | None = None
    decode: float | None = None
    missed: str | None = None

    def answer(self) -> InferenceResult:
        """What ``llm-perf infer`` answers."""
        return predict_inference(build_scenario(InferenceInputs(**self.asked)))

    def rates(self) -> Iterator[tuple[str, float, float]]:
        """Name, answered and measured tokens per second of each phase that was measured."""
        result = self.answer()
        if self.prompt is not None:
            yield "prompt", float(result.measures.prefill_throughput_tokens_per_s), self.prompt
        if self.decode is not None and result.tpot_s is not None:
            yield "decode", result.scenario.workload.batch_size / float(result.tpot_s), self.decode


def load_questions() -> tuple[HybridQuestion, ...]:
    """All questions, in the file's order."""
    file = resources.files("calibrate") / "measurements" / "hybrid" / "questions.yaml"
    found = parse_mapping(file.read_text("utf-8"), "questions.yaml")
    usual: dict[str, Any] = found["usual"]
    return tuple(
        HybridQuestion(**(entry | {"asked": usual | entry["asked"]})) for entry in found["questions"]
    )
