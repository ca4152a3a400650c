"""What `LLMAnalysis.training` is asked, checked, and how its batch is completed from what is known."""

from __future__ import annotations

from dataclasses import dataclass, replace

from llm_perf.config.model import ModelConfig
from llm_perf.config.parallelism import DSZeRO
from llm_perf.errors import SpecError
from llm_perf.llm_analysis.batching import complete_batching
from llm_perf.llm_analysis.checks import positive_int
from llm_perf.llm_analysis.memory import ActivationOptions


@dataclass(frozen=True, slots=True)
class TrainingRequest:
    """A step of the optimizer. ``batch`` is one micro-batch of one GPU; what is None is still to be derived."""

    batch: int | None
    accumulation: int | None
    global_batch: int | None
    seq_len: int
    total_num_tokens: float | None
    stage: DSZeRO
    master_weights_bytes: float
    other_op_bytes: float | None
    options: ActivationOptions

    def known_accumulation(self, dp: int) -> int | None:
        """Micro-batches per step as far as they do not depend on what fits; None for a global batch alone."""
        if self.accumulation is not None:
            return self.accumulation
        if self.global_batch is None:
            return 1
        return None if self.batch is None else max(1, self.global_batch // (self.batch * dp))

    def completed(self, max_batch: int, dp: int) -> Training:
        """The request with all three batch sizes.

        Raises:
            SpecError: they do not multiply to the global batch.
            DoesNotFitError: a batch has to be chosen and not even one sequence fits.
        """
        sizes = complete_batching(max_batch, dp, self.batch, self.accumulation, self.global_batch)
        batch, accumulation, global_batch = sizes
        known = replace(self, batch=batch, accumulation=accumulation, global_batch=global_batch)
        return Training(known, batch, accumulation, global_batch)


@dataclass(frozen=True, slots=True)
class Training:
    """A request whose ``batch``, ``accumulation`` and ``global_batch`` are known."""

    request: TrainingRequest
    batch: int
    accumulation: int
    global_batch: int

    @property
    def iterations(self) -> int | None:
        """Whole steps of the optimizer that the tokens are enough for.

        Raises:
            SpecError: they are not enough for one.
        """
        tokens, per_step = self.request.total_num_tokens, self.global_batch * self.request.seq_len
        if tokens is None:
            return None
        if tokens < per_step:
            raise SpecError(f"total_num_tokens {tokens:g} are fewer than the {per_step} of one step")
        return int(tokens // per_step)


def checked_seq_len(model: ModelConfig, seq_len: int | None, allow_long_context: bool) -> int:
    """The sequence length: as given, else the model's positions.

    Raises:
        SpecError: it is not given and the model states no positions, or it exceeds them.
    """
    limit = model.max_position_embeddings
    if seq_len is None:
        if limit is None:
            raise SpecError(f"seq_len is needed: {model.name} states no max_seq_len")
        return limit
    if limit is not None and seq_len > limit and not allow_long_context:
        raise SpecError(
            f"seq_len {seq_len} exceeds the {limit} positions of {model.name}; shorten it or pass allow_long_context=True"
        )
    return seq_len


def replicas_of(
    dp_size: int | None, tp_size: int, pp_size: int, total_num_gpus: int | None, num_gpus_per_node: int
) -> int:
    """Replicas, from ``dp_size`` or the number of GPUs; 1 where neither is given.

    Raises:
        SpecError: a number is none, they do not go together, or a tensor-parallel group does not fit in a node.
    """
    for field, value in (
        ("tp_size", tp_size),
        ("pp_size", pp_size),
        ("num_gpus_per_node", num_gpus_per_node),
        ("dp_size", 1 if dp_size is None else dp_size),
        ("total_num_gpus", 1 if total_num_gpus is None else total_num_gpus),
    ):
        positive_int(field, value)
    if tp_size > num_gpus_per_node:
        raise SpecError(
            f"tp_size {tp_size} is more than num_gpus_per_node {num_gpus_per_node}: tensor parallelism needs the links "
            "within a node"
        )
    if total_num_gpus is None:
        return 1 if dp_size is None else dp_size
    replicas, rest = divmod(total_num_gpus, tp_size * pp_size)
    if rest or not replicas:
        raise SpecError(
            f"total_num_gpus {total_num_gpus} is no multiple of tp_size {tp_size} x pp_size {pp_size}"
        )
    if dp_size not in (None, replicas):
        raise SpecError(
            f"total_num_gpus {total_num_gpus} is not tp_size {tp_size} x pp_size {pp_size} x dp_size {dp_size}"
        )
    return replicas
