"""Laws of memory as serving stacks account for it, and published figures of engines that printed theirs."""

import math

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from llm_perf.analysis.advice import changes_that_fit
from llm_perf.analysis.inference import InferenceResult, predict_inference
from llm_perf.analysis.request import InferenceInputs, build_scenario
from llm_perf.config.base import GIB
from llm_perf.errors import SpecError
from llm_perf.systems.families import memory_rules
from llm_perf.systems.footprint import stage_kv_bytes
from llm_perf.systems.kv_cache import kv_capacity_of, scheduler_limit
from llm_perf.systems.stack_memory import budget_for

EXAMPLES = settings(max_examples=40, deadline=None)
STACKS = st.sampled_from(["vllm@0.2", "vllm@0.6", "vllm@0.10", "vllm@0.21", "tensorrt_llm@0.9", "resident"])
MODELS = st.sampled_from(
    ["llama-3.1-8b", "mixtral-8x7b", "gemma-2-9b", "gpt-oss-20b", "deepseek-v2-lite", "opt-13b"]
)
GPUS = st.sampled_from(["rtx-3090-24gb", "a100-sxm-80gb", "h100-sxm-80gb", "h200"])  # fmt: skip
SHARES = st.sampled_from([0.3, 0.5, 0.75, 0.9, 0.97])


def ask(**inputs: object) -> InferenceResult:
    return predict_inference(build_scenario(InferenceInputs(**inputs)))


@EXAMPLES
@given(STACKS, MODELS, GPUS, SHARES, SHARES)
def test_more_utilisation_never_holds_fewer_tokens(system, model, gpu, one, other):
    low, high = sorted((one, other))
    results = [
        ask(model=model, gpu=gpu, system=system, prompt_len=900, gen_len=100, gpu_memory_utilization=share)
        for share in (low, high)
    ]
    tokens = [result.kv_capacity.tokens for result in results]
    assert tokens[0] <= tokens[1]
    assert results[0].max_batch_size <= results[1].max_batch_size
    assert results[0].max_context_len <= results[1].max_context_len
    assert results[0].feasible <= results[1].feasible


@EXAMPLES
@given(STACKS, st.sampled_from(["llama-3.1-8b", "opt-13b", "qwen3-32b"]), GPUS, SHARES)
def test_tokens_times_their_bytes_are_the_room_of_the_cache(system, model, gpu, share):
    """Where every layer keeps all tokens, the capacity in tokens is the room divided by a token's bytes, in blocks."""
    result = ask(model=model, gpu=gpu, system=system, gpu_memory_utilization=share)
    scenario, parts, held = result.scenario, result.memory.gpu, result.kv_capacity
    rules = memory_rules(scenario.system, scenario.system_version)
    block = 1 if rules is None else rules.block_tokens
    per_token = stage_kv_bytes(scenario, 1.0, 1.0)
    room = max(parts.kv_room_bytes, 0.0)
    assert held.tokens % block == 0
    assert held.tokens * per_token <= room * (1 + 1e-9)
    assert (held.tokens + block) * per_token > room * (1 - 1e-9)
    found = kv_capacity_of(scenario)
    assert found is not None
    assert found.tokens == held.tokens


@EXAMPLES
@given(STACKS, MODELS, GPUS, st.sampled_from([128, 1000, 1900]))
def test_no_room_for_one_sequence_does_not_fit_and_room_does(system, model, gpu, prompt):
    result = ask(model=model, gpu=gpu, system=system, prompt_len=prompt, gen_len=96)
    assert result.feasible == (result.kv_capacity.max_concurrency >= 1 - 1e-12)


@EXAMPLES
@given(STACKS, MODELS, GPUS, st.integers(1, 400))
def test_the_largest_batch_is_whole_sequences_of_the_room(system, model, gpu, batch):
    result = ask(model=model, gpu=gpu, system=system, prompt_len=500, gen_len=12, batch_size=batch)
    assume(result.max_batch_size)
    if system == "resident":  # its activations grow with the batch
        return
    most = math.floor(result.kv_capacity.max_concurrency + 1e-9)
    limit = result.batch_limited_by
    assert result.max_batch_size == most if limit == "memory" else result.max_batch_size <= most
    waits = memory_rules(*system.split("@")).queues
    runs = min(batch, scheduler_limit(result.scenario) or batch)
    assert result.feasible == (waits or runs <= most)


@EXAMPLES
@given(MODELS, GPUS, st.integers(1, 2000))
def test_a_batch_that_waits_takes_no_more_than_the_room(model, gpu, batch):
    result = ask(model=model, gpu=gpu, system="vllm@0.10", prompt_len=900, gen_len=100, batch_size=batch)
    parts = result.memory.gpu
    assume(result.feasible)
    assert parts.total_bytes <= parts.capacity_bytes
    one = ask(model=model, gpu=gpu, system="vllm@0.10", prompt_len=900, gen_len=100).memory.gpu.kv_cache_bytes
    assert parts.kv_cache_bytes + parts.waiting_bytes == pytest.approx(batch * one, rel=1e-12)


@EXAMPLES
@given(MODELS, GPUS, st.integers(1, 300), st.integers(256, 16384))
def test_fewer_tokens_of_a_step_never_need_more(model, gpu, batch, tokens):
    asked = {"model": model, "gpu": gpu, "batch_size": batch, "prompt_len": 1000}
    for system in ("resident", "vllm@0.10"):
        steps = [
            ask(**asked, system=system, max_num_batched_tokens=size).memory.gpu.activations_bytes
            for size in (tokens, 2 * tokens)
        ]
        assert steps[0] <= steps[1]


@pytest.mark.parametrize("name", ["gpu_memory_utilization", "max_num_batched_tokens", "max_num_seqs"])
@pytest.mark.parametrize("value", [0, -1, 1.5, "much"])
def test_a_share_or_count_that_is_none_is_refused_by_name(name, value):
    if name != "gpu_memory_utilization" and value == 1.5:
        value = 1.25
    with pytest.raises(SpecError, match=name):
        ask(model="llama-3.1-8b", gpu="h200", system="vllm", **{name: value})


@pytest.mark.parametrize("system", ["zero_inference", "flexgen", "llama_cpp", "accelerate"])
def test_systems_without_such_a_rule_refuse_it(system):
    with pytest.raises(SpecError, match="gpu-memory-utilization"):
        ask(model="opt-13b", gpu="a100-sxm-40gb", system=system, gpu_memory_utilization=0.9)


def test_what_bounds_batch_and_context_is_named():
    asked = {
        "model": "llama-3.1-8b",
        "gpu": "h100-sxm-80gb",
        "system": "vllm@0.10",
        "prompt_len": 100,
        "gen_len": 28,
    }
    short = ask(**asked)
    assert (short.max_batch_size, short.batch_limited_by) == (1024, "scheduler")
    assert (short.max_context_len, short.context_limited_by) == (131072, "model positions")
    fewer = ask(**asked, max_num_seqs=7)
    assert (fewer.max_batch_size, fewer.batch_limited_by) == (7, "scheduler")
    longer = ask(**asked | {"prompt_len": 4000})
    assert longer.batch_limited_by == "memory"
    assert ask(**asked, allow_long_context=True).context_limited_by == "memory"


PRINTED = (
    # tokens that an engine printed, or the most sequences of 16,000 tokens; its source; what was asked
    ("tokens", 23648, "vllm issue 10517", {"model": "llama-3.1-8b", "gpu": "rtx-3090-24gb", "system": "vllm@0.6",
                                            "prompt_len": 28900, "gen_len": 100}),
    ("tokens", 81536, "vllm issue 13061", {"model": "qwen2.5-14b", "gpu": "rtx-4090", "tp_size": 2, "system": "vllm@0.7",
                                            "prompt_len": 32000, "gen_len": 700, "gpu_memory_utilization": 0.98}),
    ("tokens", 476000, "llm-d-planner, vLLM 0.19", {"model": "llama-3.1-8b", "gpu": "h100-sxm-80gb", "system": "vllm@0.19",
                                                     "prompt_len": 8000, "gpu_memory_utilization": 0.95}),
    ("tokens", 1096000, "llm-d-planner, vLLM 0.19", {"model": "qwen2.5-7b", "gpu": "h100-sxm-80gb", "system": "vllm@0.19",
                                                      "prompt_len": 8000, "gpu_memory_utilization": 0.95}),
    ("tokens", 117760, "tensorrtllm_backend issue 456", {"model": "gemma-7b", "gpu": "h100-sxm-80gb",
                                                          "system": "tensorrt_llm@0.9", "prompt_len": 1024}),
    ("max_concurrency", 26.3, "llm-d-planner", {"model": "llama-3.1-8b"}),
    ("max_concurrency", 136, "llm-d-planner", {"model": "gpt-oss-20b"}),
    ("max_concurrency", 6.1, "llm-d-planner", {"model": "gpt-oss-120b", "gpu_memory_utilization": 0.95}),
    ("max_concurrency", 17.7, "llm-d-planner", {"model": "qwen3-32b", "tp_size": 2}),
    ("max_concurrency", 13.1, "llm-d-planner", {"model": "llama-3.1-70b", "weight_bits": 8, "tp_size": 2}),
    ("max_concurrency", 37.7, "llm-d-planner", {"model": "qwen3-0.6b"}),
)  # fmt: skip
"""What vLLM and TensorRT-LLM printed, by issue or report."""


@pytest.mark.parametrize(("measure", "printed", "source", "asked"), PRINTED)
def test_capacities_are_those_that_engines_print(measure, printed, source, asked):
    result = ask(
        **{"gpu": "h100-sxm-80gb", "system": "vllm@0.10", "prompt_len": 15000, "gen_len": 1000} | asked
    )
    assert getattr(result.kv_capacity, measure) == pytest.approx(printed, rel=0.08), source


def test_a_model_that_vllm_could_not_start_does_not_fit():
    """Llama-3.3-70B in FP8 on one H100: 1.44 GiB too little at 0.90, too little at 0.95 as well (llm-d-benchmark 621)."""
    asked = {"model": "llama-3.1-70b", "gpu": "h100-sxm-80gb", "weight_bits": 8, "system": "vllm@0.10",
             "prompt_len": 15000, "gen_len": 1000}  # fmt: skip
    room = ask(**asked).memory.gpu.kv_room_bytes / GIB
    assert room == pytest.approx(-1.44, abs=0.1)
    assert not ask(**asked).feasible
    assert not ask(**asked, gpu_memory_utilization=0.95).feasible
    assert ask(**asked | {"tp_size": 2}).feasible


@pytest.mark.parametrize(
    ("release", "gpu", "ranks", "reserved_mib"),
    [
        # by hand from server_args.py of the release: what mem_fraction_static leaves of the GPU's memory
        ("0.5.2", "h100-sxm-80gb", 2, (9.5 + 2 / 2) * 1024),
        ("0.4.8", "h200", 8, (12 + 8 / 2) * 1024),
        ("0.4.10", "rtx-4090", 4, (2.8 + 4 / 10) * 1024),
        ("0.5.2", "b200", 8, 32 * 1024),
        ("0.5.3", "h100-sxm-80gb", 2, 512 + 8192 * 1.5 + 256 * 2 + 2 / 8 * 1024),
        ("0.5.3", "h100-sxm-80gb", 4, 512 + 8192 * 1.5 + 512 * 2 + 4 / 8 * 1024),
        ("0.5.10", "l40s", 4, 512 + 4096 * 1.5 + 160 * 2 + 4 / 8 * 1024),
    ],
)
def test_sglang_reserves_what_its_release_does(release, gpu, ranks, reserved_mib):
    scenario = build_scenario(
        InferenceInputs(
            model="llama-3.1-70b", gpu=gpu, tp_size=ranks, system=f"sglang@{release}", weight_bits=8
        )
    )
    budget = budget_for(scenario)
    assert (1 - budget.utilization) * scenario.gpu.usable_memory_gib * 1024 == pytest.approx(reserved_mib)


@EXAMPLES
@given(
    st.sampled_from(["vllm@0.10", "vllm@0.21", "sglang@0.4", "sglang@0.5"]),
    st.sampled_from(["qwen2.5-72b", "llama-3-70b", "qwen3-32b", "gemma-3-27b"]),
    st.sampled_from(["h100-sxm-80gb", "a100-sxm-80gb", "rtx-4090", "l40s"]),
    st.sampled_from([1, 2, 4]),
    st.sampled_from([500, 6000]),
)
def test_settings_that_are_advised_fit_and_are_the_least(system, model, gpu, ranks, prompt):
    """What a starting engine sets aside is named before another format: no more is given up than has to be."""
    question = InferenceInputs(model=model, gpu=gpu, tp_size=ranks, system=system, prompt_len=prompt)
    advised = changes_that_fit(question, predict_inference(build_scenario(question)))
    for name, steps in (
        ("max_num_seqs", (256, 128, 64, 32, 16)),
        ("gpu_memory_utilization", (0.88, 0.9, 0.92, 0.95)),
    ):
        for change in advised:
            if set(change.inputs) != {name}:
                continue
            chosen = change.inputs[name]
            assert predict_inference(build_scenario(question.replace(**change.inputs))).feasible
            milder = steps[: steps.index(chosen)]
            assert not any(ask(**dict(question) | {name: step}).feasible for step in milder)


@pytest.mark.parametrize(
    ("asked", "advice"),
    [
        ({"model": "qwen2.5-72b", "gpu": "h100-sxm-80gb", "system": "vllm@0.8"}, "--max-num-seqs 256"),
        (
            {"model": "llama-3-70b", "gpu": "h100-pcie-80gb", "system": "sglang@0.5"},
            "--gpu-memory-utilization 0.88",
        ),
    ],
    ids=["vllm", "sglang"],
)
def test_a_model_that_people_start_with_other_settings_is_told_these_first(asked, advice):
    """vLLM 0.8 tries to sample for 1,024 sequences, SGLang from 0.5.3 on sets 13 GiB aside: neither starts these so."""
    question = InferenceInputs(**asked, tp_size=2, weight_format="bf16", prompt_len=1024, gen_len=128)
    result = predict_inference(build_scenario(question))
    assert not result.feasible
    assert changes_that_fit(question, result)[0].text == advice
    earlier = {"vllm@0.8": None, "sglang@0.5": "sglang@0.5.2"}[asked["system"]]
    assert earlier is None or ask(**dict(question) | {"system": earlier}).feasible


# -- llama.cpp ------------------------------------------------------------------------------------------------------


def llama_cpp(**inputs: object) -> InferenceResult:
    return ask(system="llama_cpp", gpu="a100-sxm-80gb", **inputs)


@pytest.mark.parametrize(("context", "mib"), [(512, 258.5), (8192, 560.0)])
def test_the_compute_buffer_is_what_llama_cpp_prints(context, mib):
    """For Llama-3-8B: logits of 512 tokens, or with a long cache the scores of one layer, where no flash attention runs."""
    asked = {"model": "llama-3-8b", "prompt_len": context - 1, "gen_len": 1, "gpu": "a100-sxm-80gb"}
    parts = ask(system="llama_cpp@2024-05", **asked).memory.gpu
    assert parts.activations_bytes / 2**20 == pytest.approx(mib, rel=0.03)
    today = ask(system="llama_cpp", **asked).memory.gpu
    assert today.activations_bytes / 2**20 == pytest.approx(258.5, rel=0.03)


def test_the_token_table_stays_in_host_memory_unless_it_is_the_head():
    untied, tied = (
        llama_cpp(model=name).memory.gpu.weights_bytes for name in ("llama-3.1-8b", "llama-3.2-1b")
    )
    assert untied == pytest.approx((8_030_261_248 - 128_256 * 4096) * 2)
    assert tied == pytest.approx(1_235_814_400 * 2)


def test_layers_with_a_window_keep_it_and_one_pass():
    result = llama_cpp(model="gemma-3-12b", prompt_len=30000, gen_len=100)
    model = result.scenario.model
    full = sum(g.count for g in model.layer_groups if g.attention.saturates_at is None)
    window = sum(g.count for g in model.layer_groups if g.attention.saturates_at is not None)
    attention = model.layer_groups[0].attention
    per_token = 2 * attention.num_kv_heads * attention.head_dim * 2
    limit = next(g.attention.saturates_at for g in model.layer_groups if g.attention.saturates_at)
    expected = (full * 30100 + window * (limit + 512)) * per_token
    assert result.memory.gpu.kv_cache_bytes == pytest.approx(expected, rel=1e-12)


def test_q8_0_takes_eight_and_a_half_bits_per_element():
    plain, quantised = (
        llama_cpp(model="llama-3.1-8b", prompt_len=4000, gen_len=96, kv_format=name).memory.gpu.kv_cache_bytes
        for name in ("fp16", "q8_0")
    )
    assert quantised / plain == pytest.approx(8.5 / 16, rel=1e-12)


def test_recurrent_states_are_stated_apart_and_do_not_grow():
    results = [llama_cpp(model="Qwen_Qwen3.5-397B-A17B", prompt_len=size) for size in (500, 4000)]
    states = {result.kv_capacity.state_bytes_per_sequence for result in results}
    assert len(states) == 1
    assert states.pop() > 0
    dense = llama_cpp(model="llama-3.1-8b").kv_capacity
    assert dense.state_bytes_per_sequence == 0
