"""EAGLE beside what a user of vLLM measured: vllm-project/vllm, issue 20780 of 2025-07. Nothing was fitted to it.

Llama-3.1-8B, one request at a time, MT-Bench; tokens per round and milliseconds per token by drafted tokens. The issue does
not name the GPU; 7.07 ms without drafting are an H100's, on which the same author measured (pull requests 16035 and 16937).
"""

from __future__ import annotations

import pytest

from llm_perf.analysis.inference import predict_inference
from llm_perf.analysis.request import InferenceInputs, build_scenario

PLAIN_MS = 7.07
EAGLE = {2: (2.10, 4.37), 3: (2.29, 4.29), 4: (2.39, 4.48), 5: (2.43, 4.71), 6: (2.45, 4.94), 7: (2.47, 5.20)}
"""By drafted tokens: tokens per round, milliseconds per token."""


def predicted_ms(drafted: int = 0) -> float:
    """Milliseconds per token; 0: without a draft."""
    draft = {}
    if drafted:
        rate = (EAGLE[drafted][0] - 1) / drafted
        draft = {"draft_model": "eagle", "draft_tokens": drafted, "acceptance_rate": rate}
    inputs = InferenceInputs(
        model="llama-3.1-8b", gpu="h100-sxm", system="vllm@0.9", prompt_len=100, gen_len=212, **draft
    )
    found = predict_inference(build_scenario(inputs)).tpot_s
    assert found is not None
    return found * 1e3


def test_without_a_draft_the_machine_is_the_one_that_is_meant() -> None:
    assert predicted_ms() == pytest.approx(PLAIN_MS, rel=0.05)


@pytest.mark.parametrize("drafted", EAGLE)
def test_eagle_takes_what_was_measured_within_fifteen_percent(drafted: int) -> None:
    assert predicted_ms(drafted) == pytest.approx(EAGLE[drafted][1], rel=0.15)


def test_as_many_drafted_tokens_are_best_as_were_measured_to_be() -> None:
    assert min(EAGLE, key=predicted_ms) == min(EAGLE, key=lambda drafted: EAGLE[drafted][1]) == 3
