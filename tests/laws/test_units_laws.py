"""The law of units: a machine on which everything goes at twice the rate takes half the time, part by part.

Names carry units, so that what is a rate or a time can be told by its name, in the files of GPUs and hosts and among the
constants of systems alike. A term that adds what has to be multiplied, or leaves a latency out of what is scaled, shows.
"""

from __future__ import annotations

import re
from typing import Any, TypeVar

import numpy as np
import pytest

from llm_perf.analysis.economics import energy_of
from llm_perf.analysis.inference import InferenceResult, predict_inference
from llm_perf.analysis.request import InferenceInputs, build_scenario
from llm_perf.analysis.training import predict_training
from llm_perf.analysis.training_economics import training_energy
from llm_perf.analysis.training_request import TrainingInputs, build_training_scenario
from llm_perf.config.base import Spec
from llm_perf.config.host import HostConfig
from llm_perf.requests.simulate import simulate
from llm_perf.requests.workload import Requests
from llm_perf.systems import system_of
from llm_perf.systems.training.framework import framework_constants, get_framework

S = TypeVar("S", bound=Spec)

_RATE = re.compile(r"gb_per_s|tflops|_mhz$|_ghz$|mt_per_s|tdp_w|power_limit_w")
_TIME = re.compile(r"(^|_)(us|ms)(_|$)")
_NEITHER = re.compile(r"_per_(sm_)?ghz$|tflops_per_w")
"""Rates per clock, and per watt, go up with these."""


def unit(name: str, outer: float) -> float:
    """What a number of that name is multiplied by; names of a table's rows mean what the table is of."""
    if _NEITHER.search(name):
        return 1.0
    return 2.0 if _RATE.search(name) else 0.5 if _TIME.search(name) else outer


def quicker(value: Any, factor: float = 1.0) -> Any:
    """Numbers of a spec that are rates doubled, those that are times halved."""
    if isinstance(value, dict):
        return {key: quicker(each, unit(str(key), factor)) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return tuple(quicker(each, factor) for each in value)
    return value * factor if isinstance(value, float) else value


def twice(spec: S) -> S:
    return type(spec)(**quicker(spec.model_dump()))


def twice_the_host(host: HostConfig) -> HostConfig:
    link = host.pcie_bytes_per_s
    found = twice(host)
    return found if link is None else found.replace(pcie_gb_per_s=2 * link / 1e9)


def both(scenario: Any, constants: dict[str, float]) -> tuple[Any, Any]:
    """The question on a machine that no file has values of its own for, and on one that is twice as fast."""
    host = scenario.host.replace(name="some machine")
    asked = scenario.replace(host=host, constants=tuple(sorted(constants.items())))
    fast = asked.replace(
        gpu=twice(scenario.gpu),
        host=twice_the_host(host),
        constants=tuple(sorted(quicker(constants).items())),
    )
    return asked, fast


INFERENCE: tuple[dict[str, Any], ...] = (
    {"model": "llama-3.1-8b", "gpu": "h100-sxm-80gb", "batch_size": 8, "prompt_len": 1000},
    {"model": "llama-3.1-70b", "gpu": "h100-sxm-80gb", "system": "vllm", "tp_size": 4, "batch_size": 16, "kv_format": "fp8"},
    {"model": "llama-3.1-70b", "gpu": "a100-sxm-80gb", "system": "vllm@0.6", "tp_size": 2, "pp_size": 4, "batch_size": 16,
     "micro_batches": 4},
    {"model": "qwen3-235b-a22b", "gpu": "h200-sxm-141gb", "system": "sglang", "tp_size": 8, "ep_size": 8, "batch_size": 64},
    {"model": "qwen3-30b-a3b", "gpu": "b200-180gb", "system": "tensorrt_llm", "dp_size": 4, "ep_size": 4, "batch_size": 64},
    {"model": "deepseek-v3", "gpu": "h200-sxm-141gb", "system": "sglang", "tp_size": 16, "num_nodes": 2, "batch_size": 16,
     "draft_model": "mtp", "acceptance": "0.8"},
    {"model": "llama-3.1-8b", "gpu": "l40s-48gb", "system": "vllm", "weight_format": "awq", "tp_size": 2,
     "prefix_hit_rate": 0.5},
    {"model": "llama-3.1-8b", "gpu": "h100-sxm-80gb", "cp_size": 4, "prompt_len": 30000, "prefill_chunk": 4096},
    {"model": "gpt-oss-20b", "gpu": "h100-sxm-80gb", "system": "tensorrt_llm@1.0"},
    {"model": "jamba-v0.1", "gpu": "a100-sxm-80gb", "batch_size": 16, "prompt_len": 4000},
    {"model": "bert-base", "gpu": "t4", "batch_size": 16, "prompt_len": 128},
    {"model": "llama-2-13b", "gpu": "a100-sxm-80gb", "system": "fastertransformer", "pp_size": 4, "batch_size": 16},
    {"model": "llama-2-7b", "gpu": "a100-sxm-80gb", "system": "transformers", "weight_format": "nf4", "batch_size": 4},
    {"model": "llama-2-7b", "gpu": "rtx-4090-24gb", "system": "exllama", "weight_format": "gptq"},
    {"model": "llama-3.1-70b", "gpu": "h100-sxm-80gb", "system": "vllm", "cpu_offload_gb": 80, "batch_size": 2},
    {"model": "opt-30b", "gpu": "t4", "ds_zero": 3, "kv_offload": True, "batch_size": 4},
    {"model": "opt-66b", "gpu": "v100-sxm2-32gb", "host": "dgx-2", "dp_size": 4, "batch_size": 16, "ds_zero": 3,
     "cpu_offload": True, "pin_memory": False},
    {"model": "opt-175b", "gpu": "t4", "ds_zero": 3, "disk_offload": True, "quant_bits": 4, "batch_size": 8},
    {"model": "opt-30b", "gpu": "t4", "system": "flexgen", "percent": "20 80 0 100 0 100", "gpu_batch_size": 48,
     "num_gpu_batches": 3},
    {"model": "opt-30b", "gpu": "t4", "system": "flexgen", "percent": "10 60 0 100 100 0", "compress_weight": True,
     "compress_cache": True, "batch_size": 8},
    {"model": "opt-30b", "gpu": "t4", "system": "flexgen", "batch_size": 64, "pp_size": 4, "num_nodes": 4},
    {"model": "opt-30b", "gpu": "t4", "system": "accelerate", "batch_size": 2},
    {"model": "bloom", "gpu": "a100-sxm-80gb", "system": "petals", "pp_size": 6, "num_nodes": 6},
    {"model": "opt-30b", "gpu": "h100-pcie-80gb", "host": "h100-spr-host", "system": "lia", "batch_size": 64},
    {"model": "llama-3.1-70b", "gpu": "rtx-4090-24gb", "system": "airllm"},
    {"model": "mixtral-8x7b", "gpu": "rtx-4090-24gb", "host": "epyc-9654", "system": "fiddler"},
    {"model": "deepseek-v3", "gpu": "rtx-4090-24gb", "host": "epyc-9654", "system": "ktransformers",
     "weight_format": "q4_k_m"},
    {"model": "qwen3-235b-a22b", "gpu": "rtx-4090-24gb", "host": "epyc-9654", "system": "llama_cpp", "n_cpu_moe": "all",
     "weight_format": "q4_k_m"},
    {"model": "llama-3.1-70b", "gpu": "rtx-3090-24gb", "pp_size": 2, "system": "llama_cpp", "weight_format": "q4_k_m",
     "prompt_len": 3000},
    {"model": "llama-3.1-8b", "gpu": "none", "host": "xeon-e5-2690-v4", "system": "llama_cpp", "weight_format": "q8_0"},
    {"model": "llama-3.2-1b", "gpu": "none", "host": "epyc-9654", "system": "transformers_serve", "batch_size": 2},
)  # fmt: skip

TRAINING: tuple[dict[str, Any], ...] = (
    {"model": "llama-3.1-8b", "gpu": "h100-sxm-80gb", "num_gpus": 8, "tp_size": 2, "pp_size": 2, "micro_batch_size": 1,
     "global_batch_size": 32},
    {"model": "llama-3.1-8b", "gpu": "a100-sxm-80gb", "num_gpus": 8, "framework": "fsdp", "seq_len": 2048,
     "micro_batch_size": 1},
    {"model": "mixtral-8x7b", "gpu": "b200-180gb", "num_gpus": 8, "num_nodes": 2, "framework": "megatron_bridge",
     "ep_size": 8, "micro_batch_size": 1, "global_batch_size": 64, "precision": "fp8"},
    {"model": "llama-3.1-70b", "gpu": "h100-sxm-80gb", "num_gpus": 8, "num_nodes": 8, "tp_size": 4, "pp_size": 4,
     "cp_size": 2, "micro_batch_size": 1, "global_batch_size": 64, "activation_recomputation": "full"},
    {"model": "opt-13b", "gpu": "a100-sxm-40gb", "num_gpus": 8, "framework": "deepspeed", "ds_zero": 3,
     "optimizer_device": "cpu", "seq_len": 2048, "micro_batch_size": 2},
    {"model": "llama-3.1-8b", "gpu": "rtx-4090-24gb", "framework": "hf_trainer", "lora_rank": 16, "base_weight_bits": 4,
     "seq_len": 1024, "micro_batch_size": 1},
    {"model": "megatron-gpt-22b", "gpu": "a100-sxm-80gb", "num_gpus": 8, "framework": "megatron_2022", "tp_size": 8,
     "micro_batch_size": 4, "seq_len": 2048},
)  # fmt: skip


def named(asked: dict[str, Any]) -> str:
    return " ".join(str(asked.get(name, "")) for name in ("system", "framework", "model", "gpu"))


@pytest.mark.parametrize("asked", INFERENCE, ids=named)
def test_a_machine_that_is_twice_as_fast_in_everything_takes_half_the_time(asked: dict[str, Any]) -> None:
    """Every part of both phases, every resource; as many bytes, and as many joules."""
    scenario = build_scenario(InferenceInputs(**asked))
    slow, fast = map(predict_inference, both(scenario, dict(system_of(scenario).constants(scenario))))
    for before, after in zip(phases_of(slow), phases_of(fast), strict=True):
        assert after.latency_s == pytest.approx(before.latency_s / 2, rel=1e-9)
        assert after.breakdown_s == pytest.approx(
            {name: s / 2 for name, s in before.breakdown_s.items()}, rel=1e-9
        )
        assert after.busy_s == pytest.approx({name: s / 2 for name, s in before.busy_s.items()}, rel=1e-9)
        assert after.bottleneck == before.bottleneck
    assert slow.memory == fast.memory
    energies = energy_of(slow), energy_of(fast)
    if energies[0] is not None and energies[1] is not None:
        assert energies[1].total_j == pytest.approx(energies[0].total_j, rel=1e-9)


def phases_of(result: InferenceResult) -> list[Any]:
    return [result.prefill] if result.decode is None else [result.prefill, result.decode]


@pytest.mark.parametrize("asked", TRAINING, ids=named)
def test_training_on_a_machine_that_is_twice_as_fast_takes_half_the_time(asked: dict[str, Any]) -> None:
    scenario = build_training_scenario(TrainingInputs(**asked))
    constants = framework_constants(scenario, get_framework(scenario.framework))
    slow, fast = map(predict_training, both(scenario, constants))
    assert fast.step_time_s == pytest.approx(slow.step_time_s / 2, rel=1e-9)
    assert fast.breakdown_s == pytest.approx({name: s / 2 for name, s in slow.breakdown_s.items()}, rel=1e-9)
    assert fast.busy_s == pytest.approx({name: s / 2 for name, s in slow.busy_s.items()}, rel=1e-9)
    assert fast.memory == slow.memory
    assert fast.mfu == pytest.approx(slow.mfu, rel=1e-9)
    energies = training_energy(slow), training_energy(fast)
    if energies[0] is not None and energies[1] is not None:
        assert energies[1].j_per_token == pytest.approx(energies[0].j_per_token, rel=1e-9)


@pytest.mark.parametrize(
    "system", ["vllm", "vllm@0.6", "sglang", "tensorrt_llm", "lmdeploy", "fastertransformer"]
)
@pytest.mark.parametrize("division", [{}, {"tp_size": 2}, {"dp_size": 2}])
def test_requests_that_come_twice_as_fast_to_it_wait_half_as_long(
    system: str, division: dict[str, int]
) -> None:
    """The same steps with the same requests in them, at times of half the length."""
    inputs = InferenceInputs(
        model="llama-3.1-8b",
        gpu="l40s-48gb",
        system=system,
        batch_size=8,
        prompt_len=1,
        gen_len=1,
        **division,
    )
    scenario = build_scenario(inputs)
    slow, fast = both(scenario, dict(system_of(scenario).constants(scenario)))
    rng = np.random.default_rng(5)
    arrival, prompt, output = (
        np.cumsum(rng.exponential(0.08, 40)),
        rng.integers(1, 3000, 40),
        rng.integers(1, 90, 40),
    )
    before = simulate(slow, Requests.of(arrival, prompt, output))
    after = simulate(fast, Requests.of(arrival / 2, prompt, output))
    for name in ("scheduled_s", "first_token_s", "finished_s"):
        np.testing.assert_allclose(getattr(after, name), getattr(before, name) / 2, rtol=1e-9)
    for name in ("count", "decode_sequences", "prefill_tokens", "kv_tokens", "waiting"):
        assert getattr(after.steps, name).tolist() == getattr(before.steps, name).tolist()
    np.testing.assert_allclose(after.steps.duration_s, before.steps.duration_s / 2, rtol=1e-9)


_OF_LAYERS = (
    "attention_projections",
    "attention",
    "mlp",
    "elementwise",
    "all_reduce",
    "all_to_all",
    "dequantisation",
)


@pytest.mark.parametrize(
    "asked", [one for one in INFERENCE[:13] if not {"draft_model", "pp_size"} & one.keys()], ids=named
)
def test_twice_the_layers_take_twice_as_long(asked: dict[str, Any]) -> None:
    """Layers follow one another, whatever is in them; what comes once, the head and the gathering of its logits, stays."""
    scenario = build_scenario(InferenceInputs(**asked))
    groups = tuple(group.replace(count=2 * group.count) for group in scenario.model.layer_groups)
    deeper = scenario.replace(model=scenario.model.replace(layer_groups=groups))
    usual, deep = predict_inference(scenario), predict_inference(deeper)
    for before, after in zip(phases_of(usual), phases_of(deep), strict=True):
        for part in _OF_LAYERS:
            assert after.breakdown_s.get(part, 0.0) == pytest.approx(
                2 * before.breakdown_s.get(part, 0.0), rel=1e-9
            ), part
        for part in ("lm_head", "all_gather"):
            assert after.breakdown_s.get(part, 0.0) == pytest.approx(
                before.breakdown_s.get(part, 0.0), rel=1e-9
            ), part
