"""Fine-tuning, B200 memory and public questions about training memory, each held to what it must show."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
from click.testing import CliRunner

from calibrate.evidence.tuning_rows import load_table, memory_of, tuning_run
from calibrate.validate.tuning import (
    PAGE,
    WIDTHS,
    compared,
    page,
    summary,
    verdicts,
    width_by_groups,
    widths,
    widths_text,
)
from llm_perf.analysis.training import predict_training
from llm_perf.cli.train import train
from llm_perf.errors import SpecError
from tests.published.score_adapter import predict_row

ROOT = Path(__file__).parents[2]
FINETUNING, B200 = load_table("finetuning"), load_table("b200")


def test_every_row_is_predicted_or_refused_for_a_reason():
    assert (len(FINETUNING), len(B200)) == (127, 18)
    refused = summary()["refused"]
    assert sum(refused.values()) == 24
    assert all(case.run is not None for case in B200)
    for case in FINETUNING:
        assert (case.run is None) == (case.reason is not None)


def test_peak_memory_of_fine_tuning():
    found = summary()["memory"]["all"]
    assert found["rows"] == 93
    assert found["median_error"] <= 0.06
    assert found["near_share"] >= 0.9
    assert found["left_out_median_error"] <= 0.06


def test_speed_of_fine_tuning():
    found = summary()["time"]["all"]
    assert found["rows"] == 98
    assert found["gm"] <= 1.25
    assert found["left_out_gm"] <= 1.35


def test_allocated_memory_on_b200():
    """SimuMax states 0.46 % over its 43 rows."""
    found = summary("b200")["memory"]["all"]
    assert found["rows"] == 18
    assert found["mean_error"] <= 0.015


def test_nothing_that_ran_out_of_memory_is_said_to_fit_nor_the_reverse():
    assert verdicts() == {"out of memory, said not to fit": 1, "ran, said to fit": 102}
    assert verdicts("b200") == {"ran, said to fit": 18}


def test_intervals_hold_nine_of_ten_rows_of_frameworks_left_out():
    for entry in widths().values():
        assert 0.85 <= entry["held"] / entry["tested"] <= 0.95


def test_a_width_is_what_other_groups_say():
    groups = {"a": [0.1] * 10, "b": [0.1] * 10, "c": [0.5] * 2}
    found = width_by_groups(groups)
    assert (found["held"], found["tested"], found["width"]) == (20, 22, 0.5)


def test_page_and_widths_are_those_that_the_tables_give():
    assert (ROOT / PAGE).read_text("utf-8") == page()
    assert (ROOT / WIDTHS).read_text("utf-8") == widths_text()


def test_units_and_scopes_are_the_sources():
    by_id = {case.row_id: case for case in FINETUNING}
    sums, reserved, allocated = (by_id[f"offt-{n}"].run for n in (74, 105, 139))
    parts = predict_training(sums.full).memory.gpu
    assert memory_of(sums, parts) == pytest.approx(2 * float(parts.total_bytes) / 1e9)
    parts = predict_training(reserved.full).memory.gpu
    assert memory_of(reserved, parts) == pytest.approx(float(parts.allocator_bytes) / 1e9)
    parts = predict_training(allocated.full).memory.gpu
    assert memory_of(allocated, parts) == pytest.approx(float(parts.allocated_bytes) / 2**30)
    assert allocated.timed is None  # its lengths are not stated


def test_the_adapter_answers_rows_of_fine_tuning():
    row = next(case.row for case in FINETUNING if case.row_id == "offt-105")
    asked = {name: value for name, value in row.items() if name not in ("iter_time_s", "peak_gpu_mem_GB")}
    found = predict_row(asked)
    shown = {one.quantity: one.predicted for one in compared() if one.row_id == "offt-105"}
    assert (found["iter_time_s"], found["peak_gpu_mem_GB"]) == (shown["time"], shown["memory"])
    low, high = found["interval"]["peak_gpu_mem_GB"]
    assert low < found["peak_gpu_mem_GB"] < high


def test_a_row_that_does_not_say_enough_is_refused():
    row = next(case.row for case in FINETUNING if case.row_id == "offt-105")
    with pytest.raises(SpecError, match="length of sequences"):
        tuning_run({**row, "seq_len": ""})
    with pytest.raises(SpecError, match="micro-batch"):
        tuning_run({**row, "micro_batch": ""})


# -- public questions --------------------------------------------------------------------------------------------------------

H100, A100, V100 = "h100-nvl-94gb", "a100-sxm-80gb", "v100-sxm2-32gb"
LLAMA_8B = ("--model", "llama-3.1-8b", "--framework", "fsdp", "--gradient-accumulation-steps", "1",
            "--activation-recomputation", "full")  # fmt: skip
TUNE_3B = ("--model", "llama-3.2-3b", "--framework", "torchtune", "--seq-len", "4096", "--micro-batch-size", "2",
           "--gradient-accumulation-steps", "1")  # fmt: skip
ONE = ("--micro-batch-size", "1", "--gradient-accumulation-steps", "1")

RESERVED_GIB = {
    "C1: 8 x H100, kept by operation, compiled (torchtitan)": (
        77.0, H100, (*LLAMA_8B, "--num-gpus", "8", "--seq-len", "8192", "--micro-batch-size", "2", "--kept-products", "half",
                     "--compile")),
    "C2: 128 x H100": (
        62.0, H100, (*LLAMA_8B, "--num-gpus", "8", "--num-nodes", "16", "--seq-len", "8192", "--micro-batch-size", "2",
                     "--kept-products", "half", "--compile")),
    "C3: 32,768 tokens, plain loss": (
        83.9, H100, (*LLAMA_8B, "--num-gpus", "8", "--seq-len", "32768", "--micro-batch-size", "1", "--precision", "fp8")),
    "C8: 32 x H200, compiled loss": (
        47.96, "h200", (*LLAMA_8B, "--num-gpus", "8", "--num-nodes", "4", "--seq-len", "8192", "--micro-batch-size", "2",
                        "--kept-products", "half", "--compile", "--loss", "fused", "--precision", "fp8")),
    "C9: torchtune, eager, plain loss": (60.0, A100, (*TUNE_3B, "--loss", "plain", "--activation-recomputation", "0")),
    "C9: compiled": (51.0, A100, (*TUNE_3B, "--loss", "plain", "--compile", "--activation-recomputation", "0")),
    "torchtune, chunked loss": (42.9, A100, (*TUNE_3B, "--compile", "--activation-recomputation", "0")),
    "torchtune, recomputation": (24.9, A100, (*TUNE_3B, "--compile")),
    "torchtune, optimizer in the backward pass": (23.1, A100, (*TUNE_3B, "--compile", "--optimizer-in-backward")),
    "torchtune, activations on the host": (
        21.8, A100, (*TUNE_3B, "--compile", "--optimizer-in-backward", "--activations-device", "cpu")),
    "torchtune, 8-bit optimizer": (
        17.6, A100, (*TUNE_3B, "--compile", "--optimizer-in-backward", "--activations-device", "cpu", "--optimizer",
                     "adam8bit")),
    "C11: 8B on one A6000": (
        37.4, "a6000", ("--model", "llama-3.1-8b", "--framework", "torchtune", "--seq-len", "2048", "--micro-batch-size", "2",
                        "--gradient-accumulation-steps", "1", "--optimizer", "adam8bit", "--optimizer-in-backward")),
    "C11: 8B on one 4090, paged": (
        18.9, "rtx-4090-24gb", ("--model", "llama-3.1-8b", "--framework", "torchtune", "--seq-len", "2048",
                                "--micro-batch-size", "2", "--gradient-accumulation-steps", "1", "--optimizer",
                                "paged_adam8bit", "--optimizer-in-backward")),
    "C13: 70B with LoRA on 8 A100": (
        27.6, A100, ("--model", "llama-3.1-70b", "--framework", "torchtune", "--num-gpus", "8", "--seq-len", "2048",
                     "--micro-batch-size", "2", "--gradient-accumulation-steps", "1", "--lora-rank", "16")),
    "C17: Mixtral with LoRA on 2 A100": (
        53.6, A100, ("--model", "mixtral-8x7b", "--framework", "hf_trainer", "--ds-zero", "3", "--num-gpus", "2", "--seq-len",
                     "4096", "--micro-batch-size", "2", "--gradient-accumulation-steps", "1", "--activation-recomputation",
                     "full", "--lora-rank", "16", "--lora-targets", "attention")),
}  # fmt: skip
"""What public runs say that they reserved, in GiB."""


LOOSER = {"C11: 8B on one 4090, paged": 0.12}
"""Its source states neither length nor batch: of both runs with the same ones 3 GiB are loss on one card, 6 on the other."""


def asked(gpu, arguments):
    """What ``train --json`` says of arguments."""
    result = CliRunner().invoke(train, ["--gpu", gpu, *arguments, "--json"], standalone_mode=False)
    assert result.exception is None, result.output
    return json.loads(result.stdout)


@pytest.mark.parametrize("name", RESERVED_GIB)
def test_memory_that_public_runs_state(name):
    stated, gpu, arguments = RESERVED_GIB[name]
    memory = asked(gpu, arguments)["memory"]["gpu"]
    reserved = (memory["total_bytes"] - memory["reserved_bytes"]) / 2**30
    assert reserved == pytest.approx(stated, rel=LOOSER.get(name, 0.1))


VERDICTS = {
    "C18: Llama-2-70B, LoRA, 2 A100": (
        False, A100, ("--model", "llama-2-70b", "--framework", "hf_trainer", "--ds-zero", "3", "--num-gpus", "2", "--seq-len",
                      "4096", "--micro-batch-size", "2", "--gradient-accumulation-steps", "1", "--activation-recomputation",
                      "full", "--lora-rank", "16", "--lora-targets", "attention")),
    "C19: Llama-3-8B, ZeRO-3, 8 RTX 3090": (
        False, "rtx-3090-24gb", ("--model", "llama-3-8b", "--framework", "deepspeed", "--num-gpus", "8", "--ds-zero", "3",
                                 "--seq-len", "1024", "--micro-batch-size", "1", "--gradient-accumulation-steps", "2",
                                 "--precision", "fp16", "--activation-recomputation", "full", "--host", "server-gen4")),
    "C20: Llama-7B, ZeRO-2, 8 V100": (
        False, V100, ("--model", "huggyllama/llama-7b", "--framework", "deepspeed", "--num-gpus", "8", "--ds-zero", "2",
                      "--seq-len", "1024", *ONE, "--precision", "fp16", "--activation-recomputation", "full")),
    "C26: Llama-3-70B, FSDP-QLoRA, 2 x 40 GB": (
        True, "a100-sxm-40gb", ("--model", "llama-3-70b", "--framework", "fsdp_qlora", "--num-gpus", "2", "--lora-rank", "16",
                                "--base-weight-bits", "4", *ONE, "--seq-len", "3072")),
    "C27: the same with CPU offload on 4 x 24 GB": (
        True, "l4", ("--model", "llama-3-70b", "--framework", "fsdp_qlora", "--num-gpus", "4", "--lora-rank", "16",
                     "--base-weight-bits", "4", *ONE, "--seq-len", "3072", "--weights-device", "cpu", "--optimizer-device",
                     "cpu")),
    "C30: Gemma-3-12B, 14,000 tokens": (
        True, "h100-sxm-80gb", ("--model", "gemma-3-12b", "--framework", "hf_trainer", "--seq-len", "14000", *ONE,
                                "--activation-recomputation", "full", "--lora-rank", "8", "--base-weight-bits", "8")),
    "C30: more": (
        False, "h100-sxm-80gb", ("--model", "gemma-3-12b", "--framework", "hf_trainer", "--seq-len", "15000", *ONE,
                                 "--activation-recomputation", "full", "--lora-rank", "8", "--base-weight-bits", "8")),
    "C31: Llama-2-7B, 16,384 tokens on a T4": (
        True, "t4", ("--model", "llama-2-7b", "--framework", "unsloth", "--seq-len", "16384", "--allow-long-context", *ONE,
                     "--lora-rank", "16", "--base-weight-bits", "4")),
    "C31: Llama-3-8B": (
        False, "t4", ("--model", "llama-3-8b", "--framework", "unsloth", "--seq-len", "16384", "--allow-long-context", *ONE,
                      "--lora-rank", "16", "--base-weight-bits", "4")),
    "C32: Llama-2-7B on a v4-8": (
        True, "tpu-v4", ("--model", "llama-2-7b", "--framework", "maxtext", "--num-gpus", "4", "--seq-len", "2048", *ONE)),
    "C33: Llama-2-13B, full, 2 x 80 GB": (
        False, A100, ("--model", "llama-2-13b", "--framework", "fsdp", "--num-gpus", "2", "--seq-len", "512",
                      "--micro-batch-size", "1", "--gradient-accumulation-steps", "2", "--activation-recomputation", "full")),
}  # fmt: skip


@pytest.mark.parametrize("name", VERDICTS)
def test_verdicts_of_public_questions(name):
    fits, gpu, arguments = VERDICTS[name]
    assert asked(gpu, arguments)["feasible"] is fits


def test_deepspeeds_own_estimates_of_model_states():
    """C23: 29.0 GiB under ZeRO-3 on 4 GPUs, 74.3 under ZeRO-2 on 2, for 6.7 B parameters; C25: a host of 94 GB is short."""
    for gpus, stage, stated in ((4, 3, 29.0), (2, 2, 74.3)):
        found = asked(A100, ("--model", "huggyllama/llama-7b", "--framework", "deepspeed", "--num-gpus", str(gpus),
                                       "--ds-zero", str(stage), "--seq-len", "512", *ONE, "--precision", "fp16"))  # fmt: skip
        terms = found["memory"]["phases"]["step"]["terms"]
        state = ("weights_bytes", "gradients_bytes", "optimizer_bytes", "temporaries_bytes")
        size = math.fsum(term["bytes"] for term in terms if term["use"] in state) / 2**30
        assert size == pytest.approx(stated, rel=0.03)
    whole = asked("a100-sxm-40gb", ("--model", "llama-2-7b", "--framework", "deepspeed", "--ds-zero", "3",
                                              "--optimizer-device", "cpu", "--weights-device", "cpu", "--seq-len", "1024",
                                              *ONE, "--precision", "fp16"))  # fmt: skip
    assert whole["memory"]["cpu"]["total_bytes"] > 94 * 2**30
