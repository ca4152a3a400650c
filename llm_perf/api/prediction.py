"""One prediction."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

from llm_perf.analysis.advice import Change, changes_that_fit
from llm_perf.analysis.economics import gpu_price
from llm_perf.analysis.inference import InferenceResult, predict_inference
from llm_perf.analysis.request import InferenceInputs, build_scenario
from llm_perf.analysis.without_gpu import missing_gpu, names_host_alone
from llm_perf.config.economics import Price


def predict(model: str, gpu: str | None = None, **inputs: Any) -> Prediction:
    """Predict one inference, as ``llm-perf infer`` does.

    Args:
        model: Name, YAML or JSON file, Hugging Face ``config.json`` or its folder.
        gpu: Name or file; without it a system that can computes on the CPU of ``host``.
        inputs: Flags of ``llm-perf infer`` with underscores: ``batch_size``, ``tp_size``, ``ds_zero`` … (fields of
            `InferenceInputs`).

    Raises:
        SpecError: unknown names, or settings that contradict each other.
    """
    asked = {"model": model, **inputs} | ({} if gpu is None else {"gpu": gpu})
    if gpu is None and not names_host_alone(asked):
        raise missing_gpu(asked)
    question = InferenceInputs(**asked)
    return Prediction(question, predict_inference(build_scenario(question)))


@dataclass(frozen=True)
class Prediction:
    """A question and what is predicted: seconds, bytes, tokens per second of the whole deployment.

    Attributes:
        inputs: The question; what was not given has its default.
        result: Everything that is known: placement, memory by tier and use, both phases with their breakdown.
    """

    inputs: InferenceInputs
    result: InferenceResult

    @property
    def feasible(self) -> bool:
        """Whether it fits on every tier; `result.reason` says what is missing."""
        return self.result.feasible

    @property
    def prefill_latency_s(self) -> float:
        """Seconds to the first token of the batch."""
        return self.result.prefill.latency_s

    @property
    def latency_per_token_s(self) -> float | None:
        """Seconds of one decode step; None without decode steps."""
        return self.result.tpot_s

    @property
    def ttft_s(self) -> float:
        """Time to first token: the prefill of the batch."""
        return self.result.ttft_s

    @property
    def tpot_s(self) -> float | None:
        """Time per output token: the mean decode step of the batch; None without decode steps."""
        return self.result.tpot_s

    @property
    def total_latency_s(self) -> float:
        """Seconds of prefill and all decode steps."""
        return self.result.total_latency_s

    @property
    def throughput_tokens_per_s(self) -> float:
        """Generated tokens per second over the whole (tokens read, for encoders)."""
        return self.result.total_throughput_tokens_per_s

    @property
    def peak_gpu_memory_bytes(self) -> float:
        """What the allocator of the fullest GPU would report."""
        return self.result.peak_gpu_memory_bytes

    @cached_property
    def changes(self) -> tuple[Change, ...]:
        """What would make it fit; empty where it does."""
        return changes_that_fit(self.inputs, self.result)

    @property
    def _price(self) -> Price | float | None:
        asked = self.inputs
        return gpu_price(self.result.scenario.gpu.name, asked.cost_per_gpu_hour, asked.prices)

    def as_dict(self) -> dict[str, Any]:
        """The object that ``llm-perf infer --json`` prints, without the nearest measured run."""
        from llm_perf.report.inference_json import result_object

        return result_object(self.result, self.inputs.model_dump(), self.changes, None, self._price)

    def __repr__(self) -> str:
        fits = "fits" if self.feasible else "does not fit"
        return (
            f"<Prediction {self.inputs.model} on {self.inputs.gpu}: {self.total_latency_s:.4g} s, "
            f"{self.throughput_tokens_per_s:.4g} token/s, {fits}>"
        )

    def _repr_html_(self) -> str:
        from llm_perf.api.html import html_of
        from llm_perf.report.inference_text import inference_report

        return html_of(inference_report(self.result, self.changes, None, self._price))
