"""Batch size per GPU, gradient accumulation and global batch size: any of the three from the others."""

from __future__ import annotations

import logging

from llm_perf.errors import DoesNotFitError, SpecError
from llm_perf.llm_analysis import LOGGER
from llm_perf.llm_analysis.checks import positive_int

_log = logging.getLogger(LOGGER)


def complete_batching(
    max_batch: int, dp: int, batch: int | None, accumulation: int | None, global_batch: int | None
) -> tuple[int, int, int]:
    """(batch per GPU, accumulation steps, global batch) with global = batch x accumulation x ``dp``.

    What is not given is derived. With a global batch alone, the batch is the largest divisor of one replica's share
    that fits; with nothing, it is ``max_batch`` in one step.

    Raises:
        SpecError: a number is no positive integer, or they do not multiply to the global batch.
        DoesNotFitError: a batch has to be chosen and not even one sequence fits.
    """
    for field, value in (
        ("batch_size_per_gpu", batch),
        ("gradient_accumulation_steps", accumulation),
        ("global_batch_size", global_batch),
    ):
        if value is not None:
            positive_int(field, value)
    if isinstance(max_batch, bool) or not isinstance(max_batch, int):
        positive_int("max_batch_size_per_gpu", max_batch)
    if global_batch is not None:
        return _from_global(max_batch, dp, batch, accumulation, global_batch)
    if batch is None:
        batch = _at_least_one(max_batch)
    _warn_if_too_large(batch, max_batch)
    steps = accumulation or 1
    return batch, steps, batch * steps * dp


def _from_global(
    max_batch: int, dp: int, batch: int | None, accumulation: int | None, global_batch: int
) -> tuple[int, int, int]:
    share, rest = divmod(global_batch, dp)
    if rest:
        raise SpecError(f"global_batch_size {global_batch} is no multiple of dp_size {dp}")
    if batch is None and accumulation is None:
        limit = _at_least_one(max_batch)
        batch = next(size for size in range(min(share, limit), 0, -1) if share % size == 0)
    known = (batch or 1) * (accumulation or 1)
    if share % known or (batch and accumulation and share != known):
        raise SpecError(
            f"global_batch_size {global_batch} must be batch_size_per_gpu x gradient_accumulation_steps x "
            f"dp_size; got {batch or 'any'} x {accumulation or 'any'} x {dp}"
        )
    batch, accumulation = batch or share // known, accumulation or share // known
    _warn_if_too_large(batch, max_batch)
    return batch, accumulation, global_batch


def _at_least_one(max_batch: int) -> int:
    if max_batch < 1:
        raise DoesNotFitError(f"max_batch_size_per_gpu is {max_batch}: not even one sequence fits on a GPU")
    return max_batch


def _warn_if_too_large(batch: int, max_batch: int) -> None:
    if batch > max_batch:
        _log.warning("batch_size_per_gpu %d is more than the %d sequences that fit", batch, max_batch)
