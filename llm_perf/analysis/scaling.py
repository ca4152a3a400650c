"""Latency and throughput over the batch, for several prompt lengths and numbers of GPUs: where more of each still pays."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from llm_perf.analysis.request import InferenceInputs, build_scenario
from llm_perf.analysis.sweep import sweep_inference
from llm_perf.analysis.thresholds import Thresholds, thresholds_of
from llm_perf.errors import SpecError

DEFAULT_TP_SIZES = (1, 2, 4, 8)
DEFAULT_PROMPT_LENS = (32, 128, 512)
DEFAULT_BATCH_SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)
_WORTH = 0.8
"""A batch is worth while from the share of the best throughput per GPU on that it reaches."""


@dataclass(frozen=True, slots=True)
class Curve:
    """One number of GPUs and one prompt length over the batch; ``fits`` where memory holds it."""

    tp_size: int
    prompt_len: int
    batch_size: npt.NDArray[np.int64]
    latency_s: npt.NDArray[np.float64]
    throughput_tokens_per_s: npt.NDArray[np.float64]
    memory_bytes: npt.NDArray[np.float64]
    fits: npt.NDArray[np.bool_]

    @property
    def throughput_per_gpu(self) -> npt.NDArray[np.float64]:
        """Generated tokens per second and GPU."""
        return self.throughput_tokens_per_s / self.tp_size

    @property
    def worthwhile_batch(self) -> int | None:
        """The smallest batch that fits and reaches 80 % of the best throughput that does; None if none fits."""
        if not self.fits.any():
            return None
        rates = np.where(self.fits, self.throughput_tokens_per_s, 0.0)
        return int(self.batch_size[np.argmax(rates >= _WORTH * rates.max())])


@dataclass(frozen=True, slots=True)
class Scaling:
    """The curves of one question and the thresholds of each number of GPUs (None for systems that move tensors).

    ``left_out`` are the numbers of GPUs that cannot be, each with the reason.
    """

    inputs: InferenceInputs
    curves: tuple[Curve, ...]
    thresholds: tuple[Thresholds | None, ...]
    left_out: tuple[tuple[int, str], ...] = ()


def predict_scaling(
    inputs: InferenceInputs,
    tp_sizes: tuple[int, ...] = DEFAULT_TP_SIZES,
    prompt_lens: tuple[int, ...] = DEFAULT_PROMPT_LENS,
    batch_sizes: tuple[int, ...] = DEFAULT_BATCH_SIZES,
) -> Scaling:
    """Predict every combination; numbers of GPUs that cannot divide the model are left out.

    Raises:
        SpecError: the question cannot be asked at all, or no number of GPUs can divide the model.
    """
    batches = np.array(sorted(set(batch_sizes)))
    curves: list[Curve] = []
    thresholds: list[Thresholds | None] = []
    left_out: list[tuple[int, str]] = []
    for tp in sorted(set(tp_sizes)):
        longest = max(prompt_lens)
        try:
            scenario = build_scenario(inputs.replace(tp_size=tp, batch_size=1, prompt_len=longest))
        except SpecError as error:
            left_out.append((tp, str(error)))
            continue
        thresholds.append(thresholds_of(scenario))
        for length in sorted(set(prompt_lens)):
            swept = sweep_inference(scenario, batches, length, inputs.gen_len)
            curves.append(
                Curve(
                    tp,
                    length,
                    batches,
                    swept.total_latency_s,
                    swept.throughput_tokens_per_s,
                    swept.gpu_memory_bytes,
                    swept.feasible,
                )
            )
    if not curves:
        raise SpecError(left_out[-1][1] if left_out else "tp_sizes are empty")
    return Scaling(inputs, tuple(curves), tuple(thresholds), tuple(left_out))
