"""One first step: a run that was measured and the same question by flags are one scenario."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

import pytest

from calibrate.evidence.settings import Run, dtype_of, scenario_of
from calibrate.evidence.stated import stated_run
from calibrate.probe.local_machine import LocalMachine
from calibrate.run.prediction import build_run_scenario
from calibrate.run.settings import RunSettings
from llm_perf.analysis.format_request import requested_dtype
from llm_perf.analysis.request import InferenceInputs, build_scenario
from llm_perf.analysis.run_facts import NO_FACTS, RunFacts
from llm_perf.cli.infer import infer
from llm_perf.config import get_gpu_config_by_name, get_host_config_by_name, get_model_config_by_name
from llm_perf.config.workload import Shares
from llm_perf.systems import get_system, system_names

SIZES: dict[str, Any] = {"batch_size": 4, "prompt_len": 128, "gen_len": 16}
PAIRS: dict[str, tuple[Run, dict[str, Any]]] = {
    "a stack over ranks": (
        Run("vllm", "llama-2-70b", "h100-sxm-80gb", **SIZES, num_gpus=4, tp=4),
        {"system": "vllm", "model": "llama-2-70b", "gpu": "h100-sxm-80gb", "tp_size": 4},
    ),
    "a version": (
        Run("vllm@0.2", "llama-2-7b", "a100-sxm-80gb", **SIZES),
        {"system": "vllm@0.2", "model": "llama-2-7b", "gpu": "a100-sxm-80gb"},
    ),
    "stages and replicas": (
        Run("resident", "llama-2-7b", "a100-sxm-80gb", **SIZES, num_gpus=4, pp=2),
        {"system": "resident", "model": "llama-2-7b", "gpu": "a100-sxm-80gb", "pp_size": 2, "dp_size": 2},
    ),
    "streamed in 4 bits, cache on the host": (
        Run(
            "zero_inference", "opt-30b", "t4", **SIZES, weight_bits=4, weight_group_size=64, weights=(0, 1, 0),
            kv_cache=(0, 1, 0), pin_memory=False,
        ),
        {
            "ds_zero": 3, "model": "opt-30b", "gpu": "t4", "quant_bits": 4, "cpu_offload": True, "kv_offload": True,
            "pin_memory": False,
        },
    ),
    "a FlexGen policy": (
        Run(
            "flexgen", "opt-30b", "t4", **SIZES, weights=(0.2, 0.8, 0), kv_cache=(0, 1, 0), hidden=(0, 1, 0), pin_memory=True,
            gpu_batch_size=2, num_gpu_batches=2, cpu_attention=True, overlap=False,
        ),
        {
            "system": "flexgen", "model": "opt-30b", "gpu": "t4", "percent": "20 80 0 100 0 100", "gpu_batch_size": 2,
            "num_gpu_batches": 2, "cpu_cache_compute": True, "overlap": False,
        },
    ),
}  # fmt: skip


def without_origin(scenario):
    """A scenario less the words that say where its widths are from: a flag, a run's table, the checkpoint."""
    return scenario.replace(dtype=scenario.dtype.replace(origin=""))


@pytest.mark.parametrize("name", PAIRS)
def test_a_run_is_the_question_that_flags_ask(name):
    run, flags = PAIRS[name]
    asked = build_scenario(InferenceInputs(**flags | SIZES, allow_long_context=True))
    assert without_origin(scenario_of(run)) == without_origin(asked)
    assert dtype_of(run) == scenario_of(run).dtype


def test_a_real_run_is_the_question_that_flags_ask():
    model, gpu, host = (
        get_model_config_by_name("opt-1.3b"), get_gpu_config_by_name("t4"), get_host_config_by_name("gcp-t4"),
    )  # fmt: skip
    settings = RunSettings(model_name="opt-1.3b", **SIZES, cpu_offload=True, quant_bits=4)
    found = build_run_scenario(settings, model, LocalMachine(gpu, host), "fp16", "cuda", 1)
    asked = build_scenario(
        InferenceInputs(model="opt-1.3b", gpu="t4", ds_zero=3, cpu_offload=True, quant_bits=4, **SIZES)
    )
    assert found.constants  # what a run knows of its software
    assert without_origin(replace(found, constants=())) == without_origin(asked)


def test_a_row_of_a_table_is_the_run():
    row = {
        "system": "vllm", "model": "llama-2-70b", "gpu": "H100-SXM-80GB", "gpu_count": "4", "tp": "4", "batch_size": "4",
        "prompt_len_tok": "128", "gen_len_tok": "16", "weight_dtype": "bf16",
    }  # fmt: skip
    stated, run = scenario_of(stated_run(row)), scenario_of(PAIRS["a stack over ranks"][0])
    assert without_origin(stated) == without_origin(run)


def test_facts_say_what_no_flag_can():
    inputs = InferenceInputs(model="opt-30b", gpu="t4", ds_zero=3, **SIZES)
    plain = build_scenario(inputs)
    assert build_scenario(inputs, NO_FACTS) == plain
    host = plain.host.replace(memory_gib=1000)
    weights = Shares(gpu=0.25, cpu=0.5, nvme=0.25)
    found = build_scenario(
        inputs, RunFacts(host=host, weights=weights, constants=(("layer_overhead_ms", 5.0),))
    )
    assert (found.host, found.offload.weights) == (host, weights)
    assert dict(found.constants) == {"layer_overhead_ms": 5.0}
    assert replace(found, host=plain.host, offload=plain.offload, constants=()) == plain


@pytest.mark.parametrize("name", system_names())
def test_tables_are_narrow_only_where_the_system_quantises_them(name):
    system, model = get_system(name), get_model_config_by_name("opt-1.3b")
    for bits in (4, 8):
        dtype = requested_dtype(InferenceInputs(model="opt-1.3b", gpu="t4", quant_bits=bits), system, model)
        assert dtype.embedding_bits == (bits if system.family.quantises_embeddings else 16)
    for activations in (8, 16, 32):
        inputs = InferenceInputs(model="opt-1.3b", gpu="t4", activation_bits=activations)
        assert requested_dtype(inputs, system, model).embedding_bits == max(16, activations)


def test_every_input_is_an_option_of_the_command_and_says_what_it_is():
    options = {parameter.name: parameter for parameter in infer.params}
    for name, field in InferenceInputs.model_fields.items():
        assert field.description, name
        assert options["gpus" if name == "gpu" else name].help == field.description


def test_facts_default_to_nothing_known():
    assert all(not getattr(NO_FACTS, field.name) for field in fields(RunFacts))
