"""What ran fits, and what ran out of memory does not, over all published runs that ship and all questions that were asked."""

from collections import Counter
from functools import cache
from typing import Any

from calibrate.evidence.published import Measurement, load_measurements
from calibrate.evidence.settings import run_of, scenario_of
from calibrate.evidence.training_questions import load_training_questions
from calibrate.evidence.tuning_rows import load_table
from llm_perf.analysis.inference import predict_inference
from llm_perf.analysis.request import InferenceInputs, build_scenario
from llm_perf.analysis.result import Result
from llm_perf.analysis.training import predict_training
from llm_perf.analysis.tuning_intervals import memory_interval
from llm_perf.errors import SpecError
from llm_perf.systems import Load, system_of
from llm_perf.systems.base import MemoryUse, System

RAN = ("ok", "doubtful", "doubtful-e2e")
LEAST_SHARE = 0.97

MOST_WARNED = 0.01
"""Share of what ran of which it may be said that it may not fit."""
NEARLY_FULL = {22, 261}
"""Runs out of memory of which no more is said than that they may not fit; a new one fails the test, and so does one fewer."""


def warned(system: System, memory: MemoryUse) -> bool:
    """Whether it is said of what fits that it may not."""
    reaches = memory_interval(float(memory.gpu.total_bytes))[1]
    return system.family.allocates_as_it_goes and reaches > memory.gpu.capacity_bytes


def verdict_of(result: Result) -> str:
    """What the first line of a report says of it."""
    return "no" if not result.feasible else "likely" if result.may_not_fit else "yes"


@cache
def whether_it_fits() -> dict[int, tuple[Measurement, str]]:
    """Of each run: no, likely or yes, as the first line of a report has it."""
    found = {}
    for measurement in load_measurements():
        try:
            scenario = scenario_of(run_of(measurement))
        except SpecError:  # a setting that is not stated or not modelled
            continue
        system, load = system_of(scenario), Load.of(scenario.workload)
        memory = system.memory(scenario, load, system.place(scenario, load))
        fits = "no" if not memory.fits else "likely" if warned(system, memory) else "yes"
        found[measurement.row_id] = (measurement, fits)
    return found


def test_nothing_that_ran_out_of_memory_fits():
    said = {row: fits for row, (run, fits) in whether_it_fits().items() if run.status not in RAN}
    assert "yes" not in said.values()
    # DeepSpeed's ZeRO-3 of OPT-175B with 1,024 tokens on a T4, BLOOM in 8 bits on four GPUs: 5 and 10 % are left.
    assert {row for row, fits in said.items() if fits == "likely"} == NEARLY_FULL
    assert sum(run.status not in RAN for run, _ in whether_it_fits().values()) >= 10


FLEXGEN = {"model": "opt-30b", "gpu": "rtx-3090-24gb", "system": "flexgen", "percent": "20 80 0 100 0 100",
           "gpu_batch_size": 48, "prompt_len": 512}  # fmt: skip
SAID = {
    # Rows of the table that leave something out, asked with what decides: host memory with any GPU, weights at any batch.
    "row 56: FlexGen without a disk, OPT-175B": (
        {"model": "opt-175b", "gpu": "t4", "system": "flexgen", "percent": "20 80 0 100 0 100", "prompt_len": 512}, None),
    "row 65: FlexGen, a host of 125 GiB, batch 192": ({**FLEXGEN, "num_gpu_batches": 4, "batch_size": 192}, 125),
    "row 66: batch 144": ({**FLEXGEN, "num_gpu_batches": 3, "batch_size": 144}, 125),
    "row 67: batch 96": ({**FLEXGEN, "num_gpu_batches": 2, "batch_size": 96}, 125),
    # kvcache-ai/ktransformers, doc/en/DeepseekR1_V3_tutorial.md, the table of longer contexts: 8K tokens, version 0.2.0.
    "off-712: DeepSeek-V3, ktransformers 0.2.0 on a 4090": (
        {"model": "deepseek-v3", "gpu": "rtx-4090", "host": "2x xeon-gold-6454s", "weight_format": "q4_k_m",
         "system": "ktransformers@0.2.0", "prompt_len": 7678, "gen_len": 128}, None),
    # Questions of tests/published/test_public_questions.py, which has their sources.
    "A2": ({"model": "llama-3.1-8b", "gpu": "rtx-3090-24gb", "system": "vllm@0.6", "prompt_len": 28900, "gen_len": 100},
           None),
    "A3": ({"model": "llama-3.1-70b", "gpu": "h100-sxm-80gb", "weight_bits": 8, "system": "vllm@0.15", "prompt_len": 15000,
            "gen_len": 1000}, None),
    "A31": ({"model": "llama-2-70b", "gpu": "a100-sxm-80gb", "tp_size": 2, "batch_size": 50, "prompt_len": 2048,
             "gen_len": 2048}, None),
    "A32": ({"model": "llama-3.2-3b", "gpu": "rtx-4080-16gb", "system": "vllm", "prompt_len": 131000, "gen_len": 72}, None),
    "A34": ({"model": "qwen3-30b-a3b", "gpu": "rtx-5090", "weight_bits": 8, "prompt_len": 16000, "gen_len": 384}, None),
    "A35: ZeRO-Inference from NVMe, 15 GB of host memory (deepspeedai/DeepSpeed, issue 7074)": (
        {"model": "opt-6.7b", "gpu": "rtx-3070-8gb", "ds_zero": 3, "disk_offload": True, "batch_size": 8}, 15),
    "A37: 35 % of OPT-30B on 24 GB (FMInference/FlexLLMGen, issue 108)": (
        {"model": "opt-30b", "gpu": "rtx-3090-24gb", "system": "flexgen", "percent": "30 70 60 40 0 100",
         "gpu_batch_size": 4, "num_gpu_batches": 1, "batch_size": 4}, None),
}  # fmt: skip
"""What ran out of memory: inputs of ``llm-perf infer``, and the host's memory in GiB where the source states it."""


def whether_said_to_fit(asked: dict[str, Any], host_gib: float | None) -> str:
    scenario = build_scenario(InferenceInputs(**asked))
    if host_gib is not None:
        host = scenario.host.replace(memory_gib=host_gib, usable_memory_gib=host_gib)
        scenario = scenario.replace(host=host)
    return verdict_of(predict_inference(scenario))


def test_nothing_in_any_table_or_question_that_ran_out_of_memory_is_said_to_fit():
    """All open rows and questions that say so, counted: of 34 none is said to fit, of two that they may not."""
    said = {f"row {row}": fits for row, (run, fits) in whether_it_fits().items() if run.status not in RAN} | {
        name: whether_said_to_fit(*asked) for name, asked in SAID.items()
    }
    for table in ("finetuning", "b200"):
        for case in load_table(table):
            if case.run is not None and case.row.get("status", "ok") == "OOM":
                said[case.row_id] = verdict_of(predict_training(case.run.full))
    for question in load_training_questions():
        if question.fits is False:
            said[f"{question.id}: {question.question}"] = verdict_of(question.answer())
    assert "yes" not in said.values()
    assert {name for name, fits in said.items() if fits == "likely"} == {f"row {row}" for row in NEARLY_FULL}
    kinds = Counter(name[0] for name in said)
    assert kinds == {"r": 18, "o": 2, "A": 7, "C": 7}


def test_what_ran_fits():
    ran = [fits for run, fits in whether_it_fits().values() if run.status in RAN]
    assert len(ran) > 800
    assert sum(fits != "no" for fits in ran) / len(ran) >= LEAST_SHARE
    assert sum(fits == "likely" for fits in ran) / len(ran) <= MOST_WARNED
