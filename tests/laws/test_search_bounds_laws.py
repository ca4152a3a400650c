"""No prediction is below the times by which a plan leaves machines out."""

from hypothesis import assume, given, settings
from hypothesis import strategies as st

from llm_perf.analysis.inference import predict_inference
from llm_perf.analysis.request import InferenceInputs, build_scenario
from llm_perf.config.loading import known_names
from llm_perf.errors import SpecError
from llm_perf.search.bounds import least_resident_s, least_streamed_s

MODELS = st.sampled_from(
    ["llama-2-70b", "llama-3.1-8b", "mixtral-8x7b", "gpt-oss-20b", "opt-13b", "deepseek-v2-lite"]
)
GPUS = st.sampled_from(known_names("GPU"))


@settings(max_examples=60, deadline=None)
@given(MODELS, GPUS, st.sampled_from([16, 8, 4]), st.sampled_from([1, 2, 8]), st.sampled_from([1, 64, 4000]))
def test_no_machine_beats_its_data_sheet(model, gpu, bits, tp, prompt):
    asked = {"model": model, "gpu": gpu, "quant_bits": bits, "prompt_len": prompt, "gen_len": 8}
    for system, ranks in (("resident", tp), ("vllm", tp), ("zero_inference", 1)):
        try:
            scenario = build_scenario(
                InferenceInputs(**asked, system=system, tp_size=ranks, allow_long_context=True)
            )
            result = predict_inference(scenario)
        except SpecError:
            assume(system != "resident")
            continue
        if system == "zero_inference":
            prefill_s, step_s = least_streamed_s(scenario, prompt)
        else:
            prefill_s, step_s = least_resident_s(scenario, ranks, prompt)
        assert result.ttft_s >= prefill_s * (1 - 1e-9), system
        assert result.tpot_s >= step_s * (1 - 1e-9), system
