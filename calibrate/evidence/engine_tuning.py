"""What a benchmark program sets of its engine by itself, for a model and a machine: rules that are counted from its source.

``trtllm-bench build --dataset`` (tensorrt_llm/bench/build/tuning.py, ``calc_engine_setting`` and ``finetune_setting``) sizes
TensorRT-LLM's engines for the lengths of a data set.
"""

from __future__ import annotations

import math
from typing import Final

from llm_perf.config.scenario import Scenario
from llm_perf.counts.attention import cache_elements_per_token
from llm_perf.counts.parameters import total_params

_SHARE: Final = 0.95
"""Of the memory that weights leave, what it counts as cache."""
_MOST_SEQUENCES, _MOST_TOKENS = 4096, 32768


def trtllm_bench(scenario: Scenario, prompt: int, output: int) -> tuple[int, int]:
    """(max_batch_size, max_num_tokens) of an engine for prompts and outputs of these lengths.

    As many sequences as the cache holds, rounded up; as many tokens as a step of them has where prompts come as fast as
    sequences end.
    """
    model, p, dtype = scenario.model, scenario.parallelism, scenario.dtype
    ranks = p.tp_size * p.pp_size
    weight_bytes, cache_bytes = (1.0 if bits == 8 else 2.0 for bits in (dtype.weight_bits, dtype.kv_bits))
    per_token = p.tp_size * cache_elements_per_token(model, p.tp_size) * cache_bytes
    room = scenario.gpu.memory_bytes * ranks - total_params(model) * weight_bytes
    held = max(room, 0.0) * _SHARE / (per_token * (prompt + output))
    sequences = min(held, _MOST_SEQUENCES) / p.pp_size
    tokens = min(sequences * (1 + prompt / output), _MOST_TOKENS)
    step = 32 if sequences < 256 else 128 if sequences < 1024 else 256
    most = max(step * math.ceil(sequences / step), 64)
    step = 256 if tokens < 4096 else 512 if tokens < 8192 else 1024
    return most, max(step * math.ceil(tokens / step), 2048)
