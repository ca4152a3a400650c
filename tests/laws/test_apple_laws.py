"""Apple's GPUs: what a core and its clock give, numbers without instructions, heads that read what they share."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm_perf.analysis.evidence import published_widths
from llm_perf.analysis.inference import predict_inference
from llm_perf.analysis.request import InferenceInputs, build_scenario
from llm_perf.config.gpu import GPUConfig
from llm_perf.config.loading import get_gpu_config_by_name, known_names
from llm_perf.counts.attention import score_flops_per_pair
from llm_perf.hardware.roofline import p_norm
from llm_perf.systems.attention import Chunk
from llm_perf.systems.forward import Forward
from llm_perf.systems.latent_kernels import NO_ROWS_LOST
from llm_perf.systems.registry import system_of

APPLE = tuple(name for name in known_names("GPU") if get_gpu_config_by_name(name).maker == "apple")
BEFORE_BF16 = tuple(name for name in APPLE if get_gpu_config_by_name(name).architecture in ("m1", "m2"))
LANES = 128
"""Lanes of a core, each of which multiplies and adds once per clock (philipturner/metal-benchmarks)."""

MODELS = ("llama-3.2-1b", "qwen3-8b", "qwen3-30b-a3b", "qwen3.5-35b-a3b", "gemma-3-4b")


def asked(gpu: str, model: str = "qwen3-8b", system: str = "mlx", **more: Any) -> InferenceInputs:
    """A question that fits whatever a Mac's memory is: formats and times alone are looked at."""
    return InferenceInputs(model=model, gpu=gpu, system=system, weight_format="4bit", **more)


def forward(inputs: InferenceInputs) -> Forward:
    """One pass as its system computes it."""
    scenario = build_scenario(inputs)
    return Forward(scenario, system_of(scenario).constants(scenario))


@pytest.mark.parametrize("name", APPLE)
def test_the_peak_of_an_apple_gpu_is_what_its_cores_do_at_their_clock(name: str) -> None:
    gpu: GPUConfig = get_gpu_config_by_name(name)
    assert gpu.sm_count is not None
    assert gpu.sm_clock_mhz is not None
    lanes = gpu.sm_count * LANES * 2 * gpu.sm_clock_mhz * 1e6
    assert gpu.peak_flops_per_s("fp32") == pytest.approx(lanes, rel=0.03)


@given(gpu=st.sampled_from(APPLE), model=st.sampled_from(MODELS), batch=st.integers(1, 64))
def test_each_query_head_of_mlx_reads_the_keys_that_its_group_shares(
    gpu: str, model: str, batch: int
) -> None:
    one = forward(asked(gpu, model, batch_size=batch))
    chip, rates = one.scenario.gpu, one.rates
    assert chip.sm_count is not None
    assert chip.sm_clock_mhz is not None
    cores = chip.sm_count * chip.sm_clock_mhz * 1e6
    for entry in one.decode_step(batch)[1]:
        mixer = entry.mixer
        if mixer.recurrent:
            continue
        layers = next(group.count for group, _ in one.groups if mixer in group.attention.parts)
        stored = batch * 2 * 2.0 * mixer.num_kv_heads * mixer.head_dim
        shared = stored / rates.attention_bytes_per_s
        wide = stored * mixer.num_heads / mixer.num_kv_heads
        reread = wide / (cores * one.constants["attention_gb_per_s_per_sm_ghz"])
        least = p_norm(shared, reread, 2)
        assert entry.per_token_s >= layers * least * (1 - 1e-9)
        assert entry.per_token_s <= layers * (least + entry.compute_per_token_s / layers) * (1 + 1e-9)


@given(
    gpu=st.sampled_from(BEFORE_BF16),
    model=st.sampled_from(MODELS),
    prompt=st.integers(64, 8192),
    batch=st.integers(1, 8),
)
def test_where_bf16_has_no_instructions_nothing_is_quicker_than_in_fp16(
    gpu: str, model: str, prompt: int, batch: int
) -> None:
    emulated = forward(asked(gpu, model))
    native = forward(asked(gpu, model, system="mlx-fp16"))
    assert emulated.prefill(batch, prompt).total_s > 1.2 * native.prefill(batch, prompt).total_s
    slow, quick = emulated.decode_step(batch), native.decode_step(batch)
    assert slow[0].total_s >= quick[0].total_s
    for one, other in zip(slow[1], quick[1], strict=True):
        assert one.per_token_s >= other.per_token_s


@pytest.mark.parametrize("system", ["mlx", "exllamav2", "atom", "nim", "deepspeed_inference"])
def test_a_program_of_which_no_run_ships_is_no_surer_than_kernels_for_another_maker(system: str) -> None:
    gpu = {"mlx": "m4-max-40c-128gb", "atom": "mi300x"}.get(system, "a100-sxm-80gb")
    inputs = InferenceInputs(model="qwen3-8b", gpu=gpu, system=system, prompt_len=1024, gen_len=128)
    found = predict_inference(build_scenario(inputs))
    width = float(published_widths("stack_widths.yaml")["devices"]["width"])
    assert found.interval is not None
    assert found.interval.total_s is not None
    low, high = found.interval.total_s
    assert math.log(high / found.latency_s) == pytest.approx(width)
    assert low == pytest.approx(found.latency_s * math.exp(-width)) or low > found.latency_s * math.exp(
        -width
    )
    assert low <= found.latency_s


@given(gpu=st.sampled_from(APPLE), tokens=st.integers(1, 8192), share=st.floats(30, 100))
def test_a_scan_that_steps_from_token_to_token_takes_what_the_lanes_of_a_core_do(
    gpu: str, tokens: int, share: float
) -> None:
    """Matrix units, which M5 has, make none of it quicker, and no rows are lost to tiles."""
    scenario = build_scenario(asked(gpu, "qwen3.5-35b-a3b"))
    scenario = scenario.replace(constants=(("scan_flops_per_sm_per_clock", share),))
    one = Forward(scenario, system_of(scenario).constants(scenario))
    chip = scenario.gpu
    assert chip.sm_count is not None
    assert chip.sm_clock_mhz is not None
    for mixer in {part for group, _ in one.groups for part in group.attention.parts if part.recurrent}:
        work = one.attention.chunks(mixer, (Chunk(1, tokens),))
        each = tokens * score_flops_per_pair(mixer, 1)
        seconds = work.flops / one.rates.attention_flops_per_s
        assert seconds == pytest.approx(each / (share * chip.sm_count * chip.sm_clock_mhz * 1e6))
        assert work.query_len == NO_ROWS_LOST
