"""Operations of a pass: they are the pass, one by one, and none is faster than the machine."""

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from llm_perf.analysis.inference import predict_inference
from llm_perf.analysis.request import InferenceInputs, build_scenario
from llm_perf.errors import SpecError
from llm_perf.systems import get_system
from llm_perf.systems.operations import operations

MODELS = ("opt-13b", "llama-3.1-70b", "mixtral-8x7b")


def of(model, tp_size, batch, prompt, gen=2, **more):
    scenario = build_scenario(
        InferenceInputs(
            model=model,
            gpu="h100-sxm-80gb",
            tp_size=tp_size,
            batch_size=batch,
            prompt_len=prompt,
            gen_len=gen,
            **more,
        )
    )
    constants = get_system(scenario.system).constants(scenario)
    return scenario, operations(scenario, constants, float(batch), float(prompt), float(prompt + 1))


SETTINGS = ({}, {"cp_size": 2}, {"system": "transformers"})
"""Context ranks share the tokens of a prompt; transformers computes logits for all of them."""


@given(
    st.sampled_from(MODELS),
    st.sampled_from([1, 2, 8]),
    st.integers(1, 64),
    st.integers(2, 1500),
    st.sampled_from(SETTINGS),
)
def test_operations_add_up_to_the_parts_of_the_pass(model, tp_size, batch, prompt, more):
    try:
        scenario, found = of(model, tp_size, batch, prompt, **more)
    except SpecError:
        assume(False)
    result = predict_inference(scenario)
    for phase, parts in (("prefill", result.prefill.breakdown_s), ("decode", result.decode.breakdown_s)):
        named = sum(parts[name] for name in ("attention_projections", "attention", "mlp", "lm_head"))
        assert sum(one.seconds for one in found if one.phase == phase) == pytest.approx(named, rel=1e-6)


@given(st.sampled_from(MODELS), st.integers(1, 64), st.integers(1, 1500))
def test_no_operation_is_above_its_roof(model, batch, prompt):
    scenario, found = of(model, 1, batch, prompt)
    gpu = scenario.gpu
    peak = gpu.peak_flops_per_s(gpu.dtype_for(16))
    for one in found:
        assert one.flops > 0
        assert one.flops_per_s <= min(peak, one.intensity * gpu.hbm_bandwidth_bytes_per_s) * (1 + 1e-9)
