"""Products of llama.cpp that multiply integers, queries that share the keys among them, and weights as MLX stores them."""

from __future__ import annotations

from typing import Any

import pytest

from calibrate.evidence.published.names import version_of
from llm_perf import predict
from llm_perf.analysis.request import InferenceInputs, build_scenario
from llm_perf.counts.parameters import total_params
from llm_perf.errors import SpecError
from llm_perf.systems import Load
from llm_perf.systems.families import release_of
from llm_perf.systems.registry import system_of


def parts_s(prompt: float = 512.0, more: dict[str, float] | None = None, **inputs: Any) -> float:
    asked = {
        "model": "llama-3-8b",
        "gpu": "rtx-3090",
        "system": "llama_cpp@2025",
        "weight_format": "q4_0",
    } | inputs
    scenario = build_scenario(InferenceInputs(**asked)).replace(constants=tuple((more or {}).items()))
    return float(system_of(scenario).evaluate(scenario, Load(1.0, prompt, 1.0)).prefill.latency_s)


def test_integer_products_are_bound_by_multiprocessors_and_not_by_tensor_cores() -> None:
    found = [parts_s(more={"integer_gflops_per_sm_per_ghz": rate}) for rate in (345.0, 690.0)]
    assert 1.6 < found[0] / found[1] < 2.0
    # Rows that tiles lose count as arithmetic, so short passes are slower by the token.
    assert parts_s(128.0) * 4 > 1.1 * parts_s(512.0)


def test_types_whose_scales_are_products_are_slower_than_those_of_one_scale() -> None:
    assert parts_s(weight_format="q5_K_M") > 1.05 * parts_s(weight_format="q5_0")
    free = {"integer_block_share": 1.0}
    assert parts_s(weight_format="q5_K_M", more=free) < 1.05 * parts_s(weight_format="q5_0")


def test_weights_of_sixteen_bits_stay_on_tensor_cores() -> None:
    slow, fast = ({"integer_gflops_per_sm_per_ghz": rate} for rate in (345.0, 690.0))
    assert parts_s(weight_format="bf16", more=slow) == parts_s(weight_format="bf16", more=fast)


@pytest.mark.parametrize(
    ("gpu", "release"),
    [
        ("rtx-3090", "2026"),
        ("v100-sxm2-32gb", "2025-volta"),
        ("p40", "2025-pascal"),
        ("p100-pcie-16gb", "2025-pascal-hbm2"),
        ("m4-max-40c", "2025-metal"),
        ("mi300x", "2025-cdna"),
        ("rx-7900-xtx", "2025-rdna3"),
        ("radeon-8060s-128gb", "2026-rdna"),
        ("rx-9070-xt", "2025-rdna4"),
    ],
)
def test_gpus_with_kernels_of_their_own_have_files_of_their_own(gpu: str, release: str) -> None:
    device = build_scenario(InferenceInputs(model="llama-3-8b", gpu=gpu, system="llama_cpp")).gpu.device
    assert release_of("llama_cpp", None, device) == (release, True)


def test_a_gpu_without_integer_instructions_multiplies_no_integers() -> None:
    """A P100 has no dp4a, so a quantised prompt is its 16-bit one after unpacking, and no quicker than its data sheet."""
    on_p100 = {"gpu": "p100-pcie-16gb", "system": "llama_cpp"}
    assert parts_s(weight_format="q4_0", **on_p100) > parts_s(weight_format="fp16", **on_p100)
    warnings = predict(model="llama-2-7b", weight_format="q4_0", **on_p100).result.warnings
    assert not [warning for warning in warnings if "quicker than the data sheets" in warning]


def test_tables_of_may_2024_precede_integer_products() -> None:
    assert version_of("llama.cpp", "May 2024") == "2024-05"
    assert release_of("llama_cpp", "2024-05") == ("2024-05", True)
    assert release_of("llama_cpp", "2024-08") == ("2024-07", True)


def test_experts_of_2025_are_padded_to_the_width_of_the_pass() -> None:
    found = {
        mean: parts_s(model="Qwen3-30B-A3B", more={"integer_expert_tile_of_mean": mean})
        for mean in (0.0, 1.0, 2.0)
    }
    assert found[1.0] < found[2.0] < found[0.0]


@pytest.mark.parametrize(("depth", "low", "high"), [(0, 1, 1), (2000, 1.5, 2.5), (16000, 4, 8)])
def test_few_queries_at_depth_divide_the_keys_among_multiprocessors(
    depth: int, low: float, high: float
) -> None:
    context = depth + 16
    whole, divided = (
        parts_s(
            float(context),
            {"attention_splits_keys": splits},
            prefix_hit_rate=depth / context,
            prompt_len=context,
            gen_len=1,
            allow_long_context=True,
        )
        for splits in (0.0, 1.0)
    )
    assert low <= whole / divided <= high


@pytest.mark.parametrize(("bits", "stored"), [(4, 4.5), (5, 5.5), (6, 6.5), (8, 8.5)])
def test_mlx_stores_tables_in_groups_like_all_other_matrices(bits: int, stored: float) -> None:
    asked = {"model": "llama-3-8b", "gpu": "m4-max-40c", "system": "mlx", "weight_format": f"mlx_{bits}bit"}
    scenario = build_scenario(InferenceInputs(**asked))
    weights = predict(**asked).result.memory.gpu.weights_bytes
    assert weights / total_params(scenario.model) * 8 == pytest.approx(stored, rel=0.01)


def test_formats_of_mlx_run_on_mlx_alone() -> None:
    with pytest.raises(SpecError):
        build_scenario(
            InferenceInputs(model="llama-3-8b", gpu="rtx-3090", system="llama_cpp", weight_format="mlx_4bit")
        )
    build_scenario(
        InferenceInputs(model="llama-3-8b", gpu="m4-max-40c", system="mlx-lm", weight_format="mlx_4bit")
    )


@pytest.mark.parametrize(
    ("given", "means"),
    [
        ("int4", "mlx_4bit"),
        ("4bit", "mlx_4bit"),
        ("6-bit", "mlx_6bit"),
        ("INT8", "mlx_8bit"),
        ("8_bit", "mlx_8bit"),
    ],
)
def test_a_width_means_the_groups_of_mlx_to_its_users_and_the_answer_says_so(given: str, means: str) -> None:
    """Elsewhere int4 is another format, and a width alone is none."""
    asked: dict[str, Any] = {"model": "llama-3-8b", "gpu": "m4-max-40c", "system": "mlx"}
    dtype = build_scenario(InferenceInputs(**asked, weight_format=given)).dtype
    assert dtype.origin == f"{means}, which {given} means to MLX"
    plain = build_scenario(InferenceInputs(**asked, weight_format=means)).dtype
    assert dtype.stored_weight_bits == plain.stored_weight_bits
    assert dtype.formats is not None
    assert plain.formats is not None
    assert dtype.formats.layers == plain.formats.layers
    elsewhere: dict[str, Any] = {
        "model": "llama-3-8b",
        "gpu": "rtx-3090",
        "system": "vllm",
        "weight_format": given,
    }
    if "bit" in given:
        with pytest.raises(SpecError, match="is not a known format"):
            build_scenario(InferenceInputs(**elsewhere))
    else:
        assert "means" not in build_scenario(InferenceInputs(**elsewhere)).dtype.origin


@pytest.mark.parametrize(
    ("gpu", "system", "release"),
    [
        ("m1-max-24c", "mlx", "2025-m1"), ("m2-pro-19c", "mlx@2026", "2025-m1"), ("m1-max-24c", "mlx@0.31.3", "2025-m1"),
        ("m1-max-24c", "mlx-fp16", "m1-float16"), ("m3-max-40c", "mlx@0.31.3", "2025"), ("m5-max-40c", "mlx", "2025"),
    ],
)  # fmt: skip
def test_mlx_has_constants_of_its_own_where_a_gpu_has_no_bf16(gpu: str, system: str, release: str) -> None:
    scenario = build_scenario(
        InferenceInputs(model="llama-3-8b", gpu=gpu, system=system, weight_format="4bit")
    )
    assert system_of(scenario).file.release == release
