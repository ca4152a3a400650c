"""Rows that no model of their engine can meet: figures of docs/accuracy_stacks.md, "Known to be off", held to the tables."""

import csv
import gzip
import math
from pathlib import Path

import pytest

from calibrate.evidence.ratios import gm
from calibrate.evidence.serving_rows import load_rows
from calibrate.validate import stacks
from llm_perf.analysis.inference import predict_inference
from llm_perf.analysis.request import InferenceInputs, build_scenario

TABLES = Path(__file__).parents[2] / "calibrate" / "measurements" / "serving"
SAID = " ".join(Path(stacks.__file__).read_text("utf-8").split())


def ms_per_token(size: str, weights: str) -> dict[int, float]:
    """Milliseconds per generated token of Qwen3 under transformers on an H20, by prompt length."""
    return {
        int(row["prompt_len_tok"]): float(row["total_latency_s"]) / 2048 * 1e3
        for row in load_rows()
        if row["system"] == "transformers"
        and row["model"] == f"Qwen/Qwen3-{size}"
        and row["weight_dtype"] == weights
    }


def test_two_models_of_the_same_attention_differ_by_more_than_the_aim() -> None:
    shares = [
        ms_per_token("0.6B", name)[30720] / ms_per_token("1.7B", name)[30720] for name in ("bf16", "fp8")
    ]
    assert shares == pytest.approx([2.38, 1.77], abs=0.01)
    found = [round(ms_per_token(size, name)[30720]) for size in ("0.6B", "1.7B") for name in ("bf16", "fp8")]
    assert found == [91, 120, 38, 68]  # 120.5 is even
    assert "takes 91 ms a token in bf16 and 120 in FP8" in SAID
    assert "38 and 68" in SAID


def test_attention_of_one_run_does_not_grow_with_its_length() -> None:
    """Six thousand tokens cost more than the next twenty-five thousand, in one table, with weights in AWQ's layout."""
    awq, wide = ms_per_token("32B", "awq-int4"), ms_per_token("32B", "bf16")
    assert [round(awq[length]) for length in (1, 6144, 30720)] == [24, 58, 85]
    assert round(awq[6144] - awq[1]) == 34
    assert round(awq[30720] - awq[6144]) == 27
    assert (wide[30720] - wide[6144]) / (wide[6144] - wide[1]) == pytest.approx(24576 / 6143, rel=0.05)
    layers = {"32B": 64, "4B": 36, "8B": 36}
    per_layer = {size: ms_per_token(size, "awq-int4")[1] / count for size, count in layers.items()}
    assert [round(per_layer[size], 2) for size in layers] == [0.37, 0.54, 0.54]
    assert "adds 34 ms, 24,576 more add 27" in SAID or "add 34 ms, 24,576 more add 27" in SAID


def test_the_first_call_of_a_process_takes_longer_than_sixteen_sequences() -> None:
    text = gzip.decompress((TABLES / "llm_inference_bench.csv.gz").read_bytes()).decode("utf-8")
    found = {
        (row["model"].split("/")[-1], row["tp"], row["batch_size"]): round(float(row["total_latency_s"]), 2)
        for row in csv.DictReader(text.splitlines())
        if row["system"] == "deepspeed-mii" and row["prompt_len_tok"] == "128"
    }
    assert [found["Llama-2-7b-hf", "1", batch] for batch in ("1", "16")] == [2.73, 2.59]
    assert [found["Mixtral-8x7B-v0.1", "4", batch] for batch in ("1", "16")] == [2.62, 2.41]


def test_boards_with_faster_memory_are_slower_in_the_table_of_vllm_0_7() -> None:
    rows = [row for row in load_rows() if row["system"] == "vllm" and row["system_version"] == "0.7.3"]
    long = {row["gpu"]: float(row["tpot_s"]) * 1e3 for row in rows
            if row["prompt_len_tok"] in ("28650", "28635") and row["batch_size"] == "1"}  # fmt: skip
    small = {row["gpu"]: float(row["throughput_tok_s"]) for row in rows
             if row["model"] == "Qwen/Qwen2.5-0.5B-Instruct" and row["batch_size"] == "32"}  # fmt: skip
    names = ("A100-SXM-40GB", "A100-SXM-80GB", "H100-SXM-80GB", "H200-SXM-141GB")
    assert [round(long[name], 1) for name in names] == [18.0, 30.6, 11.9, 16.1]
    assert [int(small[name]) for name in names] == [3972, 2386, 6144, 1425]
    assert [int(small[name]) for name in ("RTX 4090-24GB", "RTX 4090D-24GB")] == [1698, 5995]
    assert all(
        said in SAID
        for said in ("18.0 ms a token", "30.6 on one with 80 GB", "1,698 tokens/s", "5,995 of a 4090D")
    )


def test_a_model_and_lengths_of_the_same_page_that_are_in_no_table_are_met() -> None:
    """Qwen3-14B on an H20 (QwenLM/Qwen3, docs/source/getting_started/speed_benchmark.md, 7a2f61ff)."""
    lengths = (1, 6144, 14336, 30720)
    printed = {
        "bf16": (24.6, 36.9, 58.7, 103.0),
        "fp8_block": (76.8, 89.2, 111.2, 155.9),
        "awq": (22.4, 31.2, 36.3, 44.0),
    }  # ms per generated token, (length + 2048) / speed / 2048
    off = {}
    for weights, times in printed.items():
        for length, ms in zip(lengths, times, strict=True):
            asked = InferenceInputs(
                model="qwen3-14b", gpu="h20-sxm-96gb", system="transformers@4.51.3", weight_format=weights,
                prompt_len=length, gen_len=2048, batch_size=1,
            )  # fmt: skip
            found = predict_inference(build_scenario(asked)).total_latency_s
            off[weights, length] = math.log(found / 2048 * 1e3 / ms)
    same = [value for (weights, _), value in off.items() if weights != "awq"]
    assert len(same) == 8
    assert f"are {gm(same):.2f} off" in SAID
    assert f"with AWQ {gm(value for (weights, _), value in off.items() if weights == 'awq'):.2f}" in SAID
