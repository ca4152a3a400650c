"""A model divided between GPU and CPU: the ends equal the undivided answers, more of the machine is never slower."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest

from llm_perf.analysis.inference import InferenceResult, predict_inference
from llm_perf.analysis.request import InferenceInputs, build_scenario
from llm_perf.analysis.run_facts import RunFacts
from llm_perf.config.formats import MatrixFormat
from llm_perf.config.host import HostConfig
from llm_perf.config.loading import get_gpu_config_by_name, get_host_config_by_name, get_model_config_by_name
from llm_perf.counts.products import Product, layer_products
from llm_perf.errors import SpecError
from llm_perf.hardware.cpu_time import cpu_rates
from llm_perf.systems import Load, system_of
from llm_perf.systems.constants import load_constants
from llm_perf.systems.footprint import model_weight_bytes
from llm_perf.systems.hybrid import expert_layer_bytes, layers_between, used_share
from llm_perf.systems.stacks.llama_cpp import offload

DENSE, MIXTURE = "llama-3.1-8b", "qwen3-30b-a3b"
MODELS = (DENSE, MIXTURE, "deepseek-v3", "gpt-oss-20b", "mixtral-8x7b")


def asked(facts: RunFacts | None = None, **changes: Any) -> InferenceResult:
    inputs = {
        "model": MIXTURE, "gpu": "rtx-4090", "host": "ryzen-9-7950x", "system": "llama_cpp", "weight_format": "q4_k_m",
        "prompt_len": 300, "gen_len": 40,
    } | changes  # fmt: skip
    inputs = {name: value for name, value in inputs.items() if value is not None}
    return predict_inference(build_scenario(InferenceInputs(**inputs), facts or RunFacts()))


def seconds(result: InferenceResult) -> tuple[float, float]:
    assert result.decode is not None
    return result.prefill.latency_s, result.decode.latency_s


# -- the ends ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("model", MODELS)
def test_all_layers_on_the_gpu_is_the_resident_answer(model: str) -> None:
    whole, every = asked(model=model), asked(model=model, n_gpu_layers="all")
    assert seconds(whole) == seconds(every)
    assert whole.memory == every.memory


@pytest.mark.parametrize("model", MODELS)
def test_a_host_without_a_gpu_answers_as_no_gpu(model: str) -> None:
    """Only where the system computes on a host: without its name, or with another's, the GPU is missing."""
    assert asked(model=model, gpu=None) == asked(model=model, gpu="none")
    for other in ({"system": "vllm"}, {"system": None}, {"host": None}):
        with pytest.raises(SpecError):
            asked(model=model, gpu=None, **other)


# -- cores of two kinds, and kernels of NEON ----------------------------------------------------------------------


def values(version: str) -> dict[str, float]:
    return {name: one.value for name, one in load_constants(f"llama_cpp@{version}").constants.items()}


def host_with(**changes: Any) -> HostConfig:
    return get_host_config_by_name("core-i9-13900k").replace(**changes)


@pytest.mark.parametrize("version", ["2024-07", "2025", "2026", "2025-ik"])
def test_as_many_threads_as_fast_cores_compute_where_none_are_asked_for(version: str) -> None:
    """On x86: 8 of 24 cores. Where all cores are of one kind, or on Arm, one on each."""
    constants = values(version)
    intel = host_with()
    assert cpu_rates(intel, constants) == cpu_rates(intel, constants, threads=8)
    alike = host_with(performance_cores_per_socket=None)
    assert cpu_rates(alike, constants) == cpu_rates(alike, constants, threads=24)
    board = get_host_config_by_name("rk3588")
    assert cpu_rates(board, constants) == cpu_rates(board, constants, threads=8)


@pytest.mark.parametrize("share", [0.2, 0.5, 1.0])
def test_slow_cores_multiply_their_share_of_fast_ones(share: float) -> None:
    """Where cores do not hold one another back, 24 threads are 8 + 16 shares; a share of 1 is 24 fast cores."""
    constants = values("2026") | {"cpu_product_half_cores": float("inf")}
    mixed = host_with(efficiency_core_share=share)
    one = cpu_rates(mixed, constants, threads=1).plain_per_s
    for threads in (1, 8, 9, 24):
        expected = min(threads, 8) + share * max(threads - 8, 0)
        assert cpu_rates(mixed, constants, threads).plain_per_s == pytest.approx(one * expected, rel=1e-12)
    if share == 1.0:
        alike = host_with(performance_cores_per_socket=None)
        assert cpu_rates(mixed, constants, 24) == cpu_rates(alike, constants, 24)


@pytest.mark.parametrize("kind", ["q8_0", "q4_0", "q4_k", "q6_k", "iq3_s"])
def test_prompts_of_interleaved_formats_gain_what_their_kernel_does_with_neon(kind: str) -> None:
    """Long products: seconds x rate is weights x rows, of the class's own kernel in 2026 and of plain ones before."""
    stored = MatrixFormat(8.0, "weight-only", kind)
    product = Product("o", 4096.0 * 4096.0, 4096.0, 4096.0, stored=stored)
    board, rows = get_host_config_by_name("raspberry-pi-5"), 1e9
    gain = {"q8_0": 2.3, "q4_0": 1.6, "q4_k": 1.6, "q6_k": 1.25, "iq3_s": 0.22}[kind]
    plain = {"q8_0": 1.0, "q4_0": 1.0, "q4_k": 0.735, "q6_k": 0.735 * 0.72, "iq3_s": 0.22}[kind]
    for version, factor in (("2026", gain), ("2025", plain)):
        rates = cpu_rates(board, values(version))
        seconds = float(rates.product_s(product, rows, 1.0, 8.0))
        assert seconds == pytest.approx(4096 * 4096 * rows / (rates.plain_per_s * factor), rel=1e-3)


@pytest.mark.parametrize("model", MODELS)
def test_no_layer_on_the_gpu_decodes_as_the_cpu_alone(model: str) -> None:
    """Prompts differ: with a GPU they copy the weights to it."""
    none = asked(model=model, n_gpu_layers=0)
    cpu = asked(model=model, gpu="none")
    assert seconds(none)[1] == pytest.approx(seconds(cpu)[1], rel=1e-6)
    short = {"model": model, "prompt_len": 16}  # too short to copy weights for
    assert seconds(asked(n_gpu_layers=0, **short))[0] == pytest.approx(
        seconds(asked(gpu="cpu", **short))[0], rel=1e-6
    )


@pytest.mark.parametrize("system", ["ktransformers", "moe_infinity", "fiddler"])
def test_a_hit_rate_of_one_is_all_experts_on_the_gpu(system: str) -> None:
    fits: dict[str, Any] = {"gpu": "h200", "host": "epyc-9654", "system": system, "weight_format": "bf16"}
    hit = asked(**fits, kt_num_gpu_experts=16, expert_hit_rate=1.0)
    held = asked(**fits, kt_num_gpu_experts=128)
    assert seconds(hit) == pytest.approx(seconds(held), rel=1e-9)
    assert not hit.prefill.breakdown_s.get("cpu_experts")
    assert not hit.prefill.breakdown_s.get("weight_copies")


def test_all_experts_held_take_as_long_as_a_resident_stack_with_the_same_constants() -> None:
    held = asked(
        gpu="h200", host="epyc-9654", system="ktransformers", weight_format="bf16", kt_num_gpu_experts=128
    )
    constants = system_of(held.scenario).constants(held.scenario)
    resident = build_scenario(
        InferenceInputs(
            model=MIXTURE, gpu="h200", host="epyc-9654", weight_format="bf16", prompt_len=300, gen_len=40
        )
    )
    own = system_of(resident).constants(resident)
    same = resident.replace(constants=tuple((name, constants[name]) for name in own))
    assert seconds(held) == pytest.approx(seconds(predict_inference(same)), rel=1e-6)


def test_layers_with_experts_are_dealt_out_by_size() -> None:
    """Dealt out by number, the last of two GPUs would hold all experts that are on GPUs."""
    one = asked(model="gpt-oss-120b", gpu="rtx-3090-24gb", host="ryzen-9-7950x", n_cpu_moe=26).scenario
    division = offload.division_of(one, system_of(one).constants(one))
    dealt = offload.layers_per_gpu(one, division, 2)
    assert sum(part.layers for part in dealt) == 36
    assert dealt[0].layers > 26 > dealt[1].layers
    whole = offload.gpu_weight_bytes(one, division)
    assert sum(part.weight_bytes for part in dealt) == pytest.approx(whole)
    largest_layer = whole / 10
    assert max(part.weight_bytes for part in dealt) <= whole / 2 + largest_layer
    assert offload.layers_per_gpu(one, division, 1)[0].weight_bytes == pytest.approx(whole)


# -- more is never slower ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("model", [DENSE, MIXTURE, "gpt-oss-20b"])
@pytest.mark.parametrize("prompt_len", [16, 2000])
def test_more_layers_on_the_gpu_are_never_slower(model: str, prompt_len: int) -> None:
    layers = get_model_config_by_name(model).num_layers
    found = [
        seconds(asked(model=model, n_gpu_layers=n, prompt_len=prompt_len)) for n in range(0, layers + 2, 4)
    ]
    found.append(seconds(asked(model=model, prompt_len=prompt_len)))
    for phase in zip(*found, strict=True):
        # The first layer on the GPU adds a hop between both.
        assert all(later <= before * 1.002 for before, later in itertools.pairwise(phase[1:]))
        assert phase[-1] < phase[0]


@pytest.mark.parametrize(
    ("gpu", "host"),
    [("l4", "2x epyc-9654"), ("rtx-4060-ti-8gb", "2x xeon-gold-6454s"), ("l4", "ryzen-9-7950x")],
)
def test_layers_help_where_the_gpu_reads_faster_than_the_host(gpu: str, host: str) -> None:
    """A GPU of 300 GB/s beside processors of 460 makes a token slower with each layer that it takes; else none does."""
    card, machine = get_gpu_config_by_name(gpu), get_host_config_by_name(host)
    of_host = machine.memory_bandwidth_gb_per_s_per_socket or 0.0
    found = [
        seconds(asked(model=DENSE, gpu=gpu, host=host, weight_format="q4_k_m", n_gpu_layers=n))[1]
        for n in range(1, 29, 9)
    ]
    rises = any(later > before * 1.002 for before, later in itertools.pairwise(found))
    assert not rises or card.memory_bandwidth_gb_per_s < of_host


@pytest.mark.parametrize("system", ["llama_cpp", "ik_llama.cpp"])
def test_fewer_experts_on_the_cpu_are_never_slower(system: str) -> None:
    found = [seconds(asked(system=system, n_cpu_moe=n)) for n in range(48, 0, -6)]
    for phase in zip(*found, strict=True):
        assert list(phase) == sorted(phase, reverse=True)


@pytest.mark.parametrize("gpu", ["none", "rtx-4090"])
@pytest.mark.parametrize(
    "field", ["memory_mt_per_s", "memory_channels_per_socket", "cores_per_socket", "all_core_ghz"]
)
@pytest.mark.parametrize("system", ["llama_cpp", "ik_llama.cpp"])
def test_a_larger_machine_is_never_slower(gpu: str, field: str, system: str) -> None:
    host = get_host_config_by_name("epyc-9374f")
    small, large = [], []
    for share, found in ((1, small), (2, large)):
        value = getattr(host, field) * share
        changed = host.replace(**{field: value, "memory_bandwidth_gb_per_s_per_socket": None})
        changed = type(host)(**{k: v for k, v in changed.model_dump().items() if v is not None})
        # Barriers cost more the more threads meet: as many threads as the smaller machine has.
        found += seconds(
            asked(
                RunFacts(host=changed),
                gpu=gpu,
                system=system,
                n_cpu_moe=None if gpu == "none" else 48,
                threads=32,
            )
        )
    assert all(fast <= slow * (1 + 1e-9) for fast, slow in zip(large, small, strict=True))
    if field.startswith("memory"):
        assert large[1] < small[1]


def test_a_measured_bandwidth_takes_the_place_of_the_channels() -> None:
    slow, fast = (asked(gpu="none", host_bandwidth=gb).tpot_s for gb in (30, 60))
    assert slow is not None
    assert fast is not None
    assert 1.5 < slow / fast < 2.0


# -- bytes ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("layers", [0, 1, 7, 20])
@pytest.mark.parametrize("moe", [None, 5])
def test_memory_of_gpu_and_host_holds_every_byte_once(model: str, layers: int, moe: int | None) -> None:
    if moe is not None and model == DENSE:
        pytest.skip("a dense model has no experts")
    result = asked(model=model, n_gpu_layers=layers, n_cpu_moe=moe, host="2x epyc-9654")
    whole = model_weight_bytes(result.scenario)
    used = result.memory
    assert used.gpu.weights_bytes + used.cpu.weights_bytes + used.nvme.weights_bytes == pytest.approx(
        whole, rel=1e-9
    )
    shares = result.placement.weights
    assert shares.gpu + shares.cpu + shares.nvme == pytest.approx(1)
    cache = used.gpu.kv_cache_bytes + used.cpu.kv_cache_bytes
    assert cache == pytest.approx(asked(model=model, host="2x epyc-9654").memory.gpu.kv_cache_bytes, rel=1e-9)


def test_a_file_larger_than_memory_is_read_from_the_disk() -> None:
    fits = asked(model="deepseek-v3", gpu="none", host="2x epyc-9654")
    small = asked(model="deepseek-v3", gpu="none", host="ryzen-9-7950x")
    assert fits.memory.nvme.weights_bytes == 0
    assert small.memory.nvme.weights_bytes > 300 * 2**30
    assert small.decode is not None
    assert small.decode.breakdown_s["file_reads"] > 0.5 * small.decode.latency_s
    assert any("do not fit in host memory" in warning for warning in small.warnings)


@pytest.mark.parametrize("model", ["mixtral-8x7b", MIXTURE])
def test_routed_bytes_of_a_batch_lie_between_those_of_one_token_and_all(model: str) -> None:
    spec = get_model_config_by_name(model)
    (group,) = spec.layer_groups
    expert = next(product for product in layer_products(spec, group) if product.is_expert)
    touched = expert.touched(np.arange(1.0, 400.0))
    assert touched[0] == pytest.approx(group.mlp.experts_per_token)
    assert (np.diff(touched) >= 0).all()
    assert touched[-1] <= group.mlp.routed_experts
    scenario = asked(model=model).scenario
    assert used_share(scenario, 1e9) == pytest.approx(1.0)
    assert used_share(scenario, 1.0) < 0.5


def test_a_division_by_layers_covers_each_layer_once() -> None:
    for name in MODELS:
        model = get_model_config_by_name(name)
        for cut in range(model.num_layers + 1):
            first, last = layers_between(model, 0, cut), layers_between(model, cut, model.num_layers)
            assert sum(first) == cut
            assert sum(last) == model.num_layers - cut
    assert layers_between(get_model_config_by_name("deepseek-v3"), 0, 10) == (3, 7)


def test_experts_are_most_of_a_mixture() -> None:
    scenario = asked(model="deepseek-v3").scenario
    experts = sum(
        group.count * size
        for group, size in zip(scenario.model.layer_groups, expert_layer_bytes(scenario), strict=True)
    )
    assert 0.95 < experts / model_weight_bytes(scenario) < 0.99


# -- arrays and single numbers ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "changes",
    [
        {"n_cpu_moe": 24},
        {"gpu": "none"},
        {"n_gpu_layers": 20, "system": "ik_llama.cpp"},
        {"system": "ktransformers", "weight_format": "fp8", "kt_num_gpu_experts": 8},
        {"system": "moe_infinity", "weight_format": "bf16"},
        {"system": "fiddler", "weight_format": "bf16"},
    ],
)
def test_arrays_of_batches_equal_single_predictions(changes: dict[str, Any]) -> None:
    scenario = asked(**changes).scenario
    batches = np.array([1.0, 4.0, 40.0, 300.0])
    system = system_of(scenario)
    many = system.evaluate(scenario, Load(batches, 300.0, 40.0))
    for index, batch in enumerate(batches):
        one = system.evaluate(scenario, Load(float(batch), 300.0, 40.0))
        for phase, single in ((many.prefill, one.prefill), (many.decode, one.decode)):
            assert phase is not None
            assert single is not None
            latency = np.broadcast_to(phase.latency_s, batches.shape)[index]
            assert latency == pytest.approx(float(single.latency_s), rel=1e-9)
        for tier in ("gpu", "cpu"):
            total = np.broadcast_to(getattr(many.memory, tier).total_bytes, batches.shape)[index]
            assert total == pytest.approx(float(getattr(one.memory, tier).total_bytes), rel=1e-9)


@pytest.mark.parametrize("changes", [{"n_cpu_moe": 24}, {"gpu": "none"}, {"n_gpu_layers": 20}])
def test_terms_sum_to_the_latency(changes: dict[str, Any]) -> None:
    result = asked(**changes)
    for phase in (result.prefill, result.decode):
        assert phase is not None
        assert sum(term.value for term in phase.terms) == pytest.approx(phase.latency_s, rel=1e-6)
        assert sum(phase.breakdown_s.values()) == pytest.approx(phase.latency_s, rel=1e-9)


@pytest.mark.parametrize(
    "model", ["qwen3-30b-a3b", "gpt-oss-20b", "mixtral-8x7b", "deepseek-v2-lite", "qwen3-235b-a22b"]
)
def test_a_token_of_a_mixture_runs_the_kernels_of_one_row(model: str) -> None:
    """Each expert that one token asks multiplies one row: kernels of many rows change nothing, whatever E and k are.

    A power that rounds below k experts once made them look as if they had more rows, and a probe's profile decode mixtures
    with the wrong kernels.
    """
    scenario = build_scenario(
        InferenceInputs(
            model=model, gpu="none", host="ryzen-9-7950x", system="llama_cpp", weight_format="q8_0"
        )
    )
    token, prompt = [], []
    for wide in (0.0, 3.0):
        evaluated = system_of(scenario).evaluate(
            scenario.replace(constants=(("cpu_wide_kernels", wide), ("cpu_wide_lost_rows", 6.0))),
            Load(1.0, 64.0, 8.0),
        )
        token.append(evaluated.decode.latency_s)
        prompt.append(evaluated.prefill.latency_s)
    assert token[0] == token[1]
    assert prompt[0] != prompt[1], "the constant is read"


# -- many cores, weights read in place, experts that are copied ------------------------------------------------


@pytest.mark.parametrize("system", ["llama_cpp", "ik_llama.cpp", "ktransformers@0.2"])
@pytest.mark.parametrize("host", ["epyc-9654", "xeon-6980p", "ryzen-9-7950x"])
def test_each_further_thread_speeds_a_prompt_up_by_less_than_its_share(host: str, system: str) -> None:
    """Clocks fall under load: twice the threads take less than before, and more than half of it."""
    gpu = "rtx-4090" if system.startswith("kt") else "none"
    cores = get_host_config_by_name(host).cores_per_socket
    assert cores is not None
    counts = [threads for threads in (2, 4, 8, 16, 32, 64) if threads <= cores]
    times = [
        asked(host=host, gpu=gpu, system=system, threads=threads).prefill.latency_s for threads in counts
    ]
    for slow, fast in itertools.pairwise(times):
        assert 0.5 * slow < fast < slow


def test_a_second_socket_adds_less_than_another_one_like_it() -> None:
    one, two = (asked(host=host, gpu="none").prefill.latency_s for host in ("epyc-9654", "2x epyc-9654"))
    assert one / 2 < two < one


def test_weights_read_in_place_are_those_that_tokens_ask_for() -> None:
    """Of a dense model all, of a mixture the routed ones: one token reads few, many read all; copies are always whole."""
    same: dict[str, Any] = {
        "gpu": "gh200-144gb",
        "host": None,
        "weight_format": None,
        "prompt_len": 64,
        "gen_len": 8,
        "cpu_offload_gb": 20,
    }

    def moved_s(model: str, system: str, batch: int) -> float:
        decode = asked(model=model, system=system, batch_size=batch, **same).decode
        assert decode is not None
        return decode.breakdown_s["weight_streaming"]

    assert moved_s(DENSE, "vllm", 1) == pytest.approx(moved_s(DENSE, "vllm@0.7", 1), rel=1e-9)
    copied = moved_s(MIXTURE, "vllm@0.7", 1)
    assert moved_s(MIXTURE, "vllm@0.7", 64) == pytest.approx(copied, rel=1e-9)
    assert moved_s(MIXTURE, "vllm", 1) < 0.2 * copied
    assert moved_s(MIXTURE, "vllm", 1) < moved_s(MIXTURE, "vllm", 8) < moved_s(MIXTURE, "vllm", 200) < copied
    assert moved_s(MIXTURE, "vllm", 200) == pytest.approx(copied, rel=1e-3)


def test_fiddler_copies_an_expert_that_many_tokens_ask_for() -> None:
    """Beyond ten rows for each expert a prompt takes what copies take, however long it is; below, the CPU computes."""
    same: dict[str, Any] = {
        "model": "mixtral-8x7b",
        "gpu": "rtx-3090",
        "host": "xeon-gold-6230",
        "system": "fiddler",
        "weight_format": None,
    }
    short, medium, long = (asked(**same, prompt_len=tokens) for tokens in (16, 64, 512))
    assert "weight_copies" not in short.prefill.breakdown_s
    assert short.prefill.breakdown_s["cpu_experts"] > 0
    for result in (medium, long):
        assert "cpu_experts" not in result.prefill.breakdown_s
    assert long.prefill.breakdown_s["weight_copies"] == pytest.approx(
        medium.prefill.breakdown_s["weight_copies"], rel=1e-2
    )


# -- ktransformers under SGLang ---------------------------------------------------------------------------------

KERNELS: dict[str, Any] = {
    "gpu": "rtx-5090-32gb", "host": "2x epyc-9355", "system": "ktransformers@0.4", "weight_format": "bf16",
    "prompt_len": 1000,
}  # fmt: skip


def test_experts_on_the_cpu_take_as_long_whatever_the_ranks() -> None:
    results = [asked(**KERNELS, tp_size=ranks) for ranks in (1, 2, 4)]
    for phase in ("prefill", "decode"):
        on_cpu = [getattr(result, phase).breakdown_s["cpu_experts"] for result in results]
        assert on_cpu == pytest.approx([on_cpu[0]] * 3, rel=1e-9)


def test_each_rank_copies_its_part_of_what_one_has_written() -> None:
    """Seconds of copies are those of the writing and of one rank's link."""
    one, two, four = (
        asked(**KERNELS, tp_size=ranks, kt_gpu_prefill_token_threshold=512).prefill.breakdown_s[
            "weight_copies"
        ]
        for ranks in (1, 2, 4)
    )
    assert one - two == pytest.approx(2 * (two - four), rel=1e-6)
    assert four > one / 4


@pytest.mark.parametrize("system", ["moe_infinity", "mixtral_offloading", "fiddler", "ktransformers@0.2"])
@pytest.mark.parametrize("flag", ["kt_max_deferred_experts_per_token", "kt_gpu_prefill_token_threshold"])
def test_only_what_computes_layers_of_experts_on_the_cpu_takes_flags_for_them(system: str, flag: str) -> None:
    asked(model="mixtral-8x7b", gpu="rtx-4090", host="epyc-9654", system=system, weight_format="bf16")
    with pytest.raises(SpecError, match="is of ktransformers"):
        asked(model="mixtral-8x7b", gpu="rtx-4090", host="epyc-9654", system=system, **{flag: 2})


def test_deferred_experts_hide_what_the_gpu_takes_for_a_layer() -> None:
    """At decode: their own share of the experts' time, or all that the GPU's layers take; prompts wait for every expert."""
    results = {
        each: asked(**KERNELS, kt_max_deferred_experts_per_token=each) for each in (None, 0, 1, 2, 4, 8, 99)
    }
    assert results[None].decode == results[0].decode
    whole = results[None].decode.breakdown_s["cpu_experts"]
    hidden = {
        each: whole - result.decode.breakdown_s["cpu_experts"] for each, result in results.items() if each
    }
    most = hidden[99]
    assert most > 0
    for each, seconds in hidden.items():
        assert seconds == pytest.approx(min(whole * min(each, 8) / 8, most), rel=1e-9)
        assert results[each].prefill == results[None].prefill
    for system in ("ktransformers@0.3", "fiddler"):
        with pytest.raises(SpecError, match="kt-max-deferred-experts-per-token"):
            asked(**KERNELS | {"system": system}, kt_max_deferred_experts_per_token=1)


def test_a_threshold_says_from_where_on_prompts_copy_experts() -> None:
    below, at, never, usual = (
        asked(**KERNELS, kt_gpu_prefill_token_threshold=tokens) for tokens in (1001, 1000, 0, None)
    )
    assert at.prefill.breakdown_s["weight_copies"] > 0
    assert not at.prefill.breakdown_s.get("cpu_experts")
    assert not at.prefill.breakdown_s.get("cpu_hops")
    assert at.decode == below.decode
    for result in (below, never, usual):
        assert result.prefill.breakdown_s["cpu_experts"] > 0
        assert not result.prefill.breakdown_s.get("weight_copies")
    long = KERNELS | {"prompt_len": 4096}
    assert asked(**long).prefill.breakdown_s["weight_copies"] > 0
    for system in ("ktransformers@0.3", "fiddler"):
        with pytest.raises(SpecError, match="kt-gpu-prefill-token-threshold"):
            asked(**KERNELS | {"system": system}, kt_gpu_prefill_token_threshold=512)


@pytest.mark.parametrize(
    ("changes", "measured"),
    [
        # kvcache-ai/ktransformers, doc/en/kt-kernel/MiniMax-M2.1-Tutorial.md: one RTX 5090 and two, two EPYC 9355.
        ({"tp_size": 1, "kt_num_gpu_experts": 10, "prompt_len": 2048}, 408),
        ({"tp_size": 2, "kt_num_gpu_experts": 40, "prompt_len": 2048}, 414),
        ({"tp_size": 1, "kt_num_gpu_experts": 10, "prompt_len": 8192}, 1196),
        ({"tp_size": 2, "kt_num_gpu_experts": 40, "prompt_len": 8192}, 1847),
        # Issue 1914 of the same repository: 16 threads of one.
        (
            {"model": MIXTURE, "weight_format": "bf16", "kt_num_gpu_experts": 28, "host": "epyc-9355", "threads": 16,
             "prompt_len": 969},
            1179.6,
        ),
        (
            {"model": "qwen3.5-122b-a10b", "kt_num_gpu_experts": 24, "host": "epyc-9355", "threads": 16, "prompt_len": 969},
            278.2,
        ),
    ],
    ids=["2048 on one", "2048 on two", "8192 on one", "8192 on two", "16 bits", "8-bit floats"],
)  # fmt: skip
def test_prompts_of_kt_kernel_take_as_long_as_was_published(changes: dict[str, Any], measured: float) -> None:
    run = KERNELS | {"model": "minimax-m2", "weight_format": "fp8"} | changes
    assert run["prompt_len"] / seconds(asked(**run))[0] == pytest.approx(measured, rel=0.2)


def test_eight_bit_floats_have_kernels_of_their_own_where_the_program_has() -> None:
    on_amx = KERNELS | {"host": "2x xeon-platinum-8488c", "prompt_len": 2048}
    floats, blocks = (
        seconds(asked(**on_amx | {"weight_format": name}))[0] for name in ("fp8", "int8_weight_only")
    )
    assert floats > 4 * blocks
    older = on_amx | {"system": "ktransformers@0.3"}
    floats, blocks = (
        seconds(asked(**older | {"weight_format": name}))[0] for name in ("fp8", "int8_weight_only")
    )
    assert floats == pytest.approx(blocks, rel=0.1)


# -- HIP builds whose prompts a library multiplies ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("version", "model", "weight_format", "measured"),
    [
        # lhl/strix-halo-testing, llm-bench: 512 tokens without flash attention and, of a mixture, with rocWMMA's.
        ("hip-rocblas", "llama-2-7b", "q4_0", 322.4),
        ("hip-hipblaslt", "llama-2-7b", "q4_0", 975.3),
        ("hip-rocblas", "mistral-small-3.1-24b-instruct-2503", "q4_k_m", 96),
        ("hip-hipblaslt", "mistral-small-3.1-24b-instruct-2503", "q4_k_m", 336),
        ("hip-rocblas", MIXTURE, "q4_k_m", 434),
        ("hip-hipblaslt", MIXTURE, "q4_k_m", 669),
    ],
)
def test_a_library_multiplies_prompts_as_fast_as_was_published(
    version: str, model: str, weight_format: str, measured: float
) -> None:
    run = asked(
        model=model, gpu="radeon-8060s-128gb", host=None, system=f"llama_cpp@{version}", weight_format=weight_format,
        prompt_len=512,
    )  # fmt: skip
    assert 512 / seconds(run)[0] == pytest.approx(measured, rel=0.2)
