"""Laws of decode attention that reads each sequence by one thread block, where a stack's kernel with parts does not run."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm_perf.analysis.request import InferenceInputs, build_scenario
from llm_perf.config.scenario import Scenario
from llm_perf.systems import system_of
from llm_perf.systems.decode_attention import attention_s_per_token, kv_reads, parts_of_a_sequence
from llm_perf.systems.exchanges import Exchanges
from llm_perf.systems.forward import Forward

LIMITS = {"split_head_dim": 128.0, "split_context_tokens": 131072.0, "attention_kv_splits": 0.0}


def seconds(model: str, tp: int, batch: float, more: dict[str, float]) -> float:
    """Of the last group of layers per token of context, with what is said of the kernels."""
    asked: Scenario = build_scenario(
        InferenceInputs(model=model, gpu="mi300x", num_gpus=tp, tp_size=tp, system="vllm", batch_size=1)
    )
    constants = dict(system_of(asked).constants(asked)) | LIMITS | more
    forward = Forward(asked, constants)
    mixer = asked.model.layer_groups[-1].attention
    reads = kv_reads(asked, constants, mixer, batch)
    return float(attention_s_per_token(asked, constants, forward.rates, mixer, 0.0, reads))


@given(batch=st.integers(1, 32), tp=st.sampled_from([1, 2, 4, 8]))
def test_a_block_for_each_sequence_takes_as_long_whatever_the_batch_and_the_ranks(batch, tp):
    """Two vectors of a head per token at a block's own rate, and never less than memory takes."""
    own = {"split_gb_per_s_per_ghz": 1.0, "attention_gb_per_s_per_sm_ghz": 0.0}
    one_head_s = 2 * 128 * 2 / (1.0e9 * 2.1)
    took = seconds("mistralai/Mistral-Medium-3.5-128B", tp, batch, own)
    assert one_head_s <= took <= 1.1 * one_head_s
    divided = seconds("mistralai/Mistral-Medium-3.5-128B", tp, batch, own | {"split_context_tokens": 0.0})
    assert divided < took


@pytest.mark.parametrize(
    ("model", "parts"),
    [
        ("llama-3.1-8b", 0.0),  # heads of 128 elements, 131,072 positions
        ("Qwen/Qwen3-8B", 0.0),
        ("mistralai/Ministral-3-8B-Reasoning-2512", 1.0),  # 262,144 positions
        ("google/gemma-3-12b-it", 1.0),  # heads of 256 elements
        ("deepseek-ai/DeepSeek-V3", 0.0),  # latents have kernels of their own
        ("MiniMaxAI/MiniMax-M3", 0.0),  # and so have tokens that an indexer picks
    ],
)
def test_wide_heads_and_long_contexts_are_not_divided(model, parts):
    asked = build_scenario(InferenceInputs(model=model, gpu="mi300x", num_gpus=8, tp_size=8, system="vllm"))
    mixer = asked.model.layer_groups[-1].attention.parts[0]
    assert parts_of_a_sequence(asked, LIMITS, mixer) == parts
    none = LIMITS | {"split_head_dim": 0.0, "split_context_tokens": 0.0}
    assert parts_of_a_sequence(asked, none, mixer) == 0.0


@given(tp=st.sampled_from([2, 4]), megabytes=st.floats(0.01, 100))
def test_cards_without_kernels_of_the_stack_sum_up_as_the_library_does(tp, megabytes):
    """MI100: no all-reduce of vLLM's own, and a block for each sequence whatever the model."""
    asked = build_scenario(
        InferenceInputs(model="llama-3.1-8b", gpu="mi100", num_gpus=tp, tp_size=tp, system="vllm@0.8.5")
    )
    constants = dict(system_of(asked).constants(asked))
    links = Exchanges(asked, constants)
    assert links._sum_s(megabytes * 1e6) == links.tensor.all_reduce_s(megabytes * 1e6)
    assert parts_of_a_sequence(asked, constants, asked.model.layer_groups[0].attention) == 1.0
