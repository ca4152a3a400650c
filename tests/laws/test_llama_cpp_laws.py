"""Laws of llama.cpp: passes in pieces, the overlap of stages and its bounds, limits that never speed anything up."""

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from llm_perf.analysis.inference import predict_inference
from llm_perf.analysis.request import InferenceInputs, build_scenario
from llm_perf.analysis.run_facts import RunFacts
from llm_perf.config.loading import get_model_config_by_name
from llm_perf.config.scenario import Scenario
from llm_perf.systems import Load, get_system
from llm_perf.systems.forward import Forward
from llm_perf.systems.stacks.llama_cpp import passes_of, pipelined_s

EXAMPLES = settings(max_examples=40)
GPUS = st.sampled_from(["rtx-4080", "rtx-a6000", "a100-sxm-80gb", "rtx-3080"])
PROMPTS = st.integers(1, 8192)


def scenario(gpu: str = "rtx-a6000", stages: int = 1, bits: int = 16, **inputs: object) -> Scenario:
    asked = {"model": "llama-3-8b", "gpu": gpu, "host": "dgx-a100", "system": "llama_cpp", "quant_bits": bits}
    return build_scenario(InferenceInputs(**(asked | {"num_gpus": stages, "pp_size": stages} | inputs)))


def prefill_s(asked: Scenario, prompt_len: float, **constants: float) -> float:
    asked = asked.replace(constants=tuple(constants.items()))
    return float(get_system("llama_cpp").evaluate(asked, Load(1.0, prompt_len, 1.0)).prefill.latency_s)


@EXAMPLES
@given(GPUS, PROMPTS, st.sampled_from([4, 16]), st.integers(1, 8))
def test_a_prompt_over_several_stages_is_never_slower_than_the_sum_nor_faster_than_its_fullest_stage(
    gpu, prompt, bits, stages
):
    one, many = scenario(gpu, 1, bits), scenario(gpu, stages, bits)
    free = {"hop_us": 0.0}
    alone, together = (prefill_s(which, prompt, **free) for which in (one, many))
    forward = Forward(many, get_system("llama_cpp").constants(many))
    hops = (
        passes_of(prompt, forward.constants) * forward.exchanges.hop_in_node.send_s(512 * 4096 * 2) * stages
    )
    assert alone / stages <= together <= alone + hops + 1e-9


@EXAMPLES
@given(st.integers(1, 40), st.integers(2, 8), st.floats(200, 4000), st.floats(1.1, 4))
def test_a_deeper_launch_queue_never_slows_down(passes, stages, queue, deeper):
    asked = scenario(stages=stages)
    constants = get_system("llama_cpp").constants(asked)
    times = [
        pipelined_s(Forward(asked, constants | {"launch_queue_kernels": size}), passes, 1.0, 1.0)
        for size in (queue, queue * deeper)
    ]
    # Passes go in groups, and one that does not come out even waits for the stages once more.
    assert times[1] <= times[0] + 1.2
    assert 1.0 <= times[0] <= passes


@EXAMPLES
@given(GPUS, st.integers(1, 4096), st.sampled_from([4, 16]))
def test_a_limit_of_the_processors_never_speeds_up(gpu, prompt, bits):
    asked = scenario(gpu, 1, bits)
    names = [name for name in get_system("llama_cpp").file.constants if name.endswith("_per_sm_ghz")]
    assert len(names) == 8  # two of them of stacks that copy their cache
    for load in (Load(1.0, prompt, 1.0), Load(1.0, 1.0, prompt)):
        limited = get_system("llama_cpp").evaluate(asked, load)
        lifted = asked.replace(constants=tuple(dict.fromkeys(names, 0.0).items()))
        free = get_system("llama_cpp").evaluate(lifted, load)
        assert limited.prefill.latency_s >= free.prefill.latency_s * (1 - 1e-9)
        assert limited.decode.latency_s >= free.decode.latency_s * (1 - 1e-9)


@EXAMPLES
@given(GPUS, PROMPTS, st.integers(1, 4))
def test_parts_add_up_and_arrays_mean_their_elements(gpu, prompt, stages):
    asked = scenario(gpu, stages, 4)
    system = get_system("llama_cpp")
    batches = np.array([1.0, 3.0, 8.0, 9.0, 64.0])
    whole = system.evaluate(asked, Load(batches, prompt, 33.0))
    for index, batch in enumerate(batches):
        one = system.evaluate(asked, Load(float(batch), prompt, 33.0))
        for left, right in ((whole.prefill, one.prefill), (whole.decode, one.decode)):
            assert np.broadcast_to(left.latency_s, 5)[index] == pytest.approx(right.latency_s, rel=1e-9)
            assert sum(right.parts_s.values()) == pytest.approx(right.latency_s, rel=1e-9)


def test_a_pass_after_cached_tokens_and_the_pass_before_are_one_prompt():
    """Attention's pairs and every product's FLOPs of two pieces are those of the whole."""
    asked = scenario()
    constants = get_system("resident").constants(asked.replace(system="resident"))
    forward = Forward(asked, constants | {"floor_scale": 0.0})
    pieces = [forward.prefill(1.0, 256.0), forward.prefill(1.0, 768.0, 256.0)]
    whole = forward.prefill(1.0, 1024.0)
    half_rows = forward.rates.gemm.half_m / 1024
    assert sum(piece.busy_s["compute"] for piece in pieces) == pytest.approx(
        whole.busy_s["compute"], rel=2 * half_rows
    )


# llama-bench of May 2024 (XiongjieDai/GPU-Benchmarks-on-LLM-Inference, README.md): tokens per second.
# (GPU, GPUs, model, bits, pp 512, tg 512); the first two were fitted, the others were not.
BENCHED = [
    ("rtx-a6000", 1, "llama-3-8b", 16, 4511, 40.7),
    ("a100-pcie-80gb", 1, "llama-3-8b", 4, 5981, 140.6),
    ("rtx-3080ti-12gb", 1, "llama-3-8b", 4, 3690, 110.6),
    ("rtx-4070ti-12gb", 1, "llama-3-8b", 4, 3936, 83.5),
    ("rtx-4000-ada-20gb", 4, "llama-3-70b", 4, 282.3, 7.36),
]


@pytest.mark.parametrize(("gpu", "num_gpus", "model", "bits", "prefill", "decode"), BENCHED)
def test_rates_are_those_that_were_measured(gpu, num_gpus, model, bits, prefill, decode):
    group = {"quant_group_size": 38} if bits == 4 else {}
    asked = scenario(gpu, num_gpus, bits, model=model, system="llama_cpp@2024-05", **group)
    prompt = predict_inference(asked.replace(workload=asked.workload.replace(prompt_len=512, gen_len=1)))
    text = predict_inference(asked.replace(workload=asked.workload.replace(prompt_len=1, gen_len=512)))
    assert 512 / prompt.prefill.latency_s == pytest.approx(prefill, rel=0.2)
    assert 1 / text.decode.latency_per_token_s == pytest.approx(decode, rel=0.1)


@pytest.mark.parametrize("gpu", ["none", "rtx-4080"])
def test_a_prompt_leaves_out_the_mlp_of_the_last_layer_and_a_token_does_not(gpu):
    """Logits are asked for of one token: behind the last attention no other goes further, whatever the number of layers."""
    saved = []
    for layers in (4, 9):
        model = get_model_config_by_name("llama-3-8b")
        facts = RunFacts(model=model.replace(layer_groups=(model.layer_groups[0].replace(count=layers),)))
        asked = build_scenario(
            InferenceInputs(
                model="llama-3-8b", gpu=gpu, host="ryzen-9-7950x", system="llama_cpp", weight_format="q8_0"
            ),
            facts,
        )
        found = {}
        for value in (0.0, 1.0):
            evaluated = get_system("llama_cpp").evaluate(
                asked.replace(constants=(("last_mlp_of_logits", value),)), Load(1.0, 512.0, 9.0)
            )
            found[value] = evaluated
        assert found[0.0].decode.latency_s == pytest.approx(found[1.0].decode.latency_s, rel=1e-9)
        saved.append(found[0.0].prefill.latency_s - found[1.0].prefill.latency_s)
        assert 0 < saved[-1] < found[0.0].prefill.latency_s / layers
    assert saved[0] == pytest.approx(saved[1], rel=1e-6)


def test_experts_of_wide_formats_are_multiplied_row_by_row():
    """`mul_mat_id` has tiles for formats that are not repacked and none for 8 and 16 bits: these do not profit from tiles."""

    def experts_s(weight_format: str, factor: float) -> float:
        asked = build_scenario(
            InferenceInputs(
                model="mixtral-8x7b",
                gpu="none",
                host="epyc-9654",
                system="llama_cpp",
                weight_format=weight_format,
            )
        )
        constants = get_system("llama_cpp").constants(asked)
        asked = asked.replace(constants=(("cpu_wide_kernels", factor * constants["cpu_wide_kernels"]),))
        found = get_system("llama_cpp").evaluate(asked, Load(1.0, 512.0, 1.0))
        return float(found.prefill.parts_s["cpu_experts"])

    assert experts_s("q8_0", 2.0) == experts_s("q8_0", 1.0)
    assert experts_s("q6_k", 2.0) < 0.8 * experts_s("q6_k", 1.0)


def test_tiles_are_of_x86_alone():
    """Arm has rows of its own side by side; cores of RISC-V have neither."""
    times = [
        predict_inference(
            build_scenario(
                InferenceInputs(
                    model="llama-3-8b",
                    gpu="none",
                    host=host,
                    system=system,
                    weight_format="q4_k_m",
                    gen_len=1,
                )
            )
        ).prefill.breakdown_s["cpu_layers"]
        for host in ("ryzen-9-7950x", "sifive-p550")
        for system in ("llama_cpp@2025", "llama_cpp@2026")
    ]
    assert times[1] < times[0]
    assert times[3] == times[2]


@EXAMPLES
@given(
    st.sampled_from(["llama_cpp", "host_compute"]),
    st.integers(1, 8),
    st.integers(1, 4096),
    st.sampled_from([1, 1024]),
)
@example("host_compute", 2, 3, 1024)
def test_one_thread_that_launches_for_all_stages_is_busy_no_longer_than_a_prompt_takes(
    system, stages, prompt, batch
):
    """A small model on quick GPUs waits for launches, which stages that work at once do not share."""
    asked = scenario("gb300", stages, model="qwen3-0.6b", system=system)
    found = get_system(system).evaluate(asked, Load(float(batch), float(prompt), 1.0)).prefill
    assert found.busy_s["host"] <= found.latency_s * (1 + 1e-9)
    assert sum(found.parts_s.values()) == pytest.approx(found.latency_s, rel=1e-9)


@pytest.mark.parametrize("batch", [1, 4, 128])
@pytest.mark.parametrize("model", ["qwen3-next-80b-a3b", "qwen3-30b-a3b"])
def test_a_prompt_of_more_tokens_is_read_no_sooner(model: str, batch: int) -> None:
    """Of few tokens each too, which a scan takes one after another and attention in tiles of queries."""
    asked = {"model": model, "gpu": "rtx-4090", "system": "llama_cpp", "batch_size": batch, "gen_len": 2}
    read = [
        predict_inference(build_scenario(InferenceInputs(**asked, prompt_len=tokens)))
        for tokens in (1, 2, 3, 4, 8, 16, 64)
    ]
    first = [one.prefill.latency_s for one in read]
    assert first == sorted(first)
    assert first[0] < 1.5 * read[0].decode.latency_s  # a prompt of one token is a step
