"""What one replica's engine can hold: blocks of cache, tokens and sequences of a step."""

from __future__ import annotations

import math
from dataclasses import dataclass

from llm_perf.config.scenario import Scenario
from llm_perf.errors import DoesNotFitError
from llm_perf.systems.kv_cache import kv_capacity_of
from llm_perf.systems.scheduling import SchedulerRules
from llm_perf.systems.stack_memory import budget_for

_UNLIMITED = 1024
"""Sequences of a step where neither the question nor the engine's rule says."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Numbers of one replica.

    Attributes:
        block_tokens: Tokens of one block.
        kv_blocks: Blocks of the cache.
        step_tokens: Tokens of a step at most.
        max_sequences: Sequences that run at once at most.
        max_context: Prompt and output of one request at most.
        watermark_blocks: Blocks that stay free when a request is admitted.
    """

    block_tokens: int
    kv_blocks: int
    step_tokens: int
    max_sequences: int
    max_context: int
    watermark_blocks: int

    @property
    def kv_tokens(self) -> int:
        """Tokens of the cache."""
        return self.kv_blocks * self.block_tokens

    @classmethod
    def of(cls, scenario: Scenario, rules: SchedulerRules, longest: int) -> Limits:
        """Those of a deployment whose longest request is of ``longest`` tokens, prompt and output.

        Raises:
            DoesNotFitError: the weights leave no room for a cache.
        """
        budget = budget_for(scenario)
        held = kv_capacity_of(scenario)
        tokens = 0 if held is None else held.tokens
        block = 1 if budget is None else budget.rules.block_tokens
        positions = scenario.model.max_position_embeddings
        if positions is None or scenario.allow_long_context:
            positions = max(longest, positions or 0)
        blocks = tokens // block
        if blocks < 1:
            raise DoesNotFitError(
                f"{scenario.model.name} leaves no memory for a KV cache on {scenario.gpu.name} "
                f"x {scenario.parallelism.num_gpus}"
            )
        asked = scenario.workload.max_num_seqs if budget is None else budget.max_num_seqs
        if rules.batch == "static":
            asked = scenario.workload.batch_size // scenario.parallelism.dp_size
        sequences = min(asked or rules.max_num_seqs or _UNLIMITED, blocks)
        if held is not None and math.isfinite(held.max_states):
            sequences = max(min(sequences, math.floor(held.max_states)), 1)
        step = (None if budget is None else budget.batched_tokens) or rules.max_num_batched_tokens
        step = step or max(longest, 1)
        if scenario.workload.max_num_batched_tokens is not None:
            sequences = min(sequences, step)  # each running sequence is a token of a step at least
        if rules.divides_cache:
            positions = min(positions, blocks * block // sequences)
        if not rules.chunked:  # a prompt is read whole, and so is what a preempted sequence computes anew
            step = max(step, min(positions, longest))
        return cls(
            block_tokens=block,
            kv_blocks=blocks,
            # Each running sequence has a token of a step that it shares with prompts.
            step_tokens=step if rules.prompts == "before decodes" else max(step, sequences),
            max_sequences=sequences,
            max_context=positions,
            watermark_blocks=int((rules.watermark or 0.0) * blocks),
        )
