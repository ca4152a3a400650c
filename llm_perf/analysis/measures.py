"""The last step of every prediction: from a system's evaluation to what people ask for, on numbers and arrays alike.

``gen_len`` tokens take one prefill, which gives the first of them, and ``gen_len - 1`` decode steps. Where there are no
decode steps (``gen_len`` 1, encoders), ``decode_latency_s`` is 0 and ``tpot_s`` is NaN.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np

from llm_perf.config.model import ModelConfig
from llm_perf.config.scenario import Scenario
from llm_perf.counts.arrays import Number, is_array, where
from llm_perf.systems import Load, system_of
from llm_perf.systems.base import Evaluation, MemoryUse


@dataclass(frozen=True, slots=True)
class Measures:
    """Times in seconds and rates of one batch, as numbers or arrays. Rates count the tokens of the whole deployment.

    ``evaluation`` has the placement, the memory and both phases by part; None where only the times were asked for.
    """

    load: Load
    encoder: bool
    prefill_latency_s: Number
    decode_latency_s: Number
    evaluation: Evaluation | None = None

    @classmethod
    def of(cls, evaluation: Evaluation, load: Load, model: ModelConfig) -> Measures:
        """What an evaluation of a load means."""
        decode = 0.0 if evaluation.decode is None else evaluation.decode.latency_s
        return cls.of_times(evaluation.prefill.latency_s, decode, load, model, evaluation)

    @classmethod
    def of_times(
        cls,
        prefill_s: Number,
        decode_s: Number,
        load: Load,
        model: ModelConfig,
        evaluation: Evaluation | None = None,
    ) -> Measures:
        """From the seconds of both phases."""
        decode = where(load.steps(model.encoder) > 0, decode_s, 0.0)
        return cls(load, model.encoder, prefill_s, decode, evaluation)

    # -- times --------------------------------------------------------------------------------------------------

    @property
    def steps(self) -> Number:
        """Decode steps of one sequence."""
        return self.load.steps(self.encoder)

    @property
    def ttft_s(self) -> Number:
        """Time to first token (TTFT): the prefill of the batch."""
        return self.prefill_latency_s

    @property
    def tpot_s(self) -> Number:
        """Time per output token (TPOT): the mean decode step; NaN without decode steps."""
        steps, decode = self.steps, self.decode_latency_s
        if not is_array(steps, decode):
            return decode / steps if steps > 0 else math.nan
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.where(steps > 0, decode / steps, np.nan)

    @property
    def latency_per_token_s(self) -> Number:
        """The older name of :attr:`tpot_s`."""
        return self.tpot_s

    @property
    def total_latency_s(self) -> Number:
        """Prefill and all decode steps."""
        return self.prefill_latency_s + self.decode_latency_s

    # -- rates --------------------------------------------------------------------------------------------------

    @property
    def tokens(self) -> Number:
        """Tokens that :attr:`throughput_tokens_per_s` counts: generated ones, for encoders those that are read."""
        return self.load.tokens(self.encoder)

    @property
    def throughput_tokens_per_s(self) -> Number:
        """Generated tokens per second of prefill and decode (tokens read, for encoders)."""
        return self.tokens / self.total_latency_s

    @property
    def total_token_throughput_per_s(self) -> Number:
        """Prompt and generated tokens per second of prefill and decode."""
        generated = 0.0 if self.encoder else self.load.gen_len
        return self.load.batch * (self.load.prompt_len + generated) / self.total_latency_s

    @property
    def prefill_throughput_tokens_per_s(self) -> Number:
        """Prompt tokens per second of prefill."""
        return self.load.batch * self.load.prompt_len / self.prefill_latency_s

    @property
    def decode_throughput_tokens_per_s(self) -> Number:
        """Tokens that decode steps give per second of decode; NaN without decode steps."""
        steps, decode = self.steps, self.decode_latency_s
        if not is_array(steps, decode, self.load.batch):
            return self.load.batch * steps / decode if steps > 0 else math.nan
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.where(steps > 0, self.load.batch * steps / decode, np.nan)

    @property
    def requests_per_s(self) -> Number:
        """Sequences per second."""
        return self.load.batch / self.total_latency_s

    # -- memory -------------------------------------------------------------------------------------------------

    @property
    def memory(self) -> MemoryUse:
        """Memory by tier and use."""
        return self._evaluated.memory

    @property
    def gpu_memory_bytes(self) -> Number:
        """Bytes of the fullest GPU, context and reserve included."""
        return self.memory.gpu.total_bytes

    @property
    def cpu_memory_bytes(self) -> Number:
        """Bytes of one host's memory."""
        return self.memory.cpu.total_bytes

    @property
    def nvme_bytes(self) -> Number:
        """Bytes of one host's disks."""
        return self.memory.nvme.total_bytes

    @property
    def feasible(self) -> Number:
        """Whether every tier fits."""
        return self.memory.fits

    @property
    def weights_on_gpu(self) -> Number:
        """Share of the weights in GPU memory."""
        return self._evaluated.placement.weights.gpu

    @property
    def weights_on_cpu(self) -> Number:
        """Share of the weights in host memory."""
        return self._evaluated.placement.weights.cpu

    @property
    def _evaluated(self) -> Evaluation:
        if self.evaluation is None:
            raise ValueError("only the times of this load were asked for: see measure()")
        return self.evaluation


@runtime_checkable
class Quick(Protocol):
    """A system that can tell the seconds of both phases without all the rest."""

    def latencies_s(self, scenario: Scenario, load: Load) -> tuple[Number, Number]:
        """Prefill and decode."""


@runtime_checkable
class Undivided(Protocol):
    """A system that is quicker where nobody asks what a phase's seconds consist of."""

    def evaluate_undivided(self, scenario: Scenario, load: Load) -> Evaluation:
        """As `evaluate`, with phases that have no parts."""


def measure(scenario: Scenario, load: Load | None = None, *, parts: bool = True) -> Measures:
    """Evaluate a scenario with its own workload, or with another one of numbers or arrays.

    Without ``parts`` nobody will ask what the phases consist of, and how busy what is.

    Raises:
        SpecError: the machine lacks what the system needs.
    """
    load = Load.of(scenario.workload) if load is None else load
    system = system_of(scenario)
    evaluate = system.evaluate_undivided if not parts and isinstance(system, Undivided) else system.evaluate
    return Measures.of(evaluate(scenario, load), load, scenario.model)


def latencies(scenario: Scenario, load: Load | None = None) -> Measures:
    """The times of :func:`measure` without memory and parts, quicker where the system has a shorter way.

    Raises:
        SpecError: the machine lacks what the system needs.
    """
    load = Load.of(scenario.workload) if load is None else load
    system = system_of(scenario)
    if not isinstance(system, Quick):
        return measure(scenario, load)
    return Measures.of_times(*system.latencies_s(scenario, load), load, scenario.model)
