"""What tables print wrongly of their own rows: what shows it is measured here."""

import csv
import gzip
import math
from pathlib import Path

import pytest

from calibrate.evidence.errata import as_meant
from calibrate.evidence.ratios import gm
from calibrate.evidence.serving_rows import Case, Cases, load_cases, load_rows
from calibrate.validate.requests import rows

SMALL, LARGE = "amd/Llama-3.1-70B-Instruct-FP8-KV", "amd/Llama-3.1-405B-Instruct-FP8-KV"
TABLE = Path(__file__).parents[2] / "calibrate/measurements/serving/llm_inference_bench.csv.gz"
MISNAMED = ("0.6.6 ROCm 6.3.1", "0.7.3 ROCm 6.3.1", "0.8.3 ROCm 6.3.1")


def cases_as(model: str) -> list[Case]:
    """The misnamed rows, read as runs of a model."""
    rows = [row for row in load_rows() if row["system_version"] in MISNAMED]
    return load_cases([dict(row) | {"model": model} for row in rows])


def test_rows_of_the_405b_are_read_as_such() -> None:
    rows = [row for row in load_rows() if row["system_version"] in MISNAMED]
    assert len(rows) == 48
    assert {row["model"] for row in rows} == {LARGE}


def test_they_are_the_405b_by_a_model_that_never_saw_them() -> None:
    """Constants of later versions, fitted to runs of the 70B, predict them as the 405B; as the 70B they are far too slow."""
    as_large, as_small = cases_as(LARGE), cases_as(SMALL)
    assert gm(Cases(as_large).log_ratios({})) < 1.06
    found = Cases(as_small).log_ratios({})
    assert math.exp(float(sorted(found)[len(found) // 2])) < 1 / 2.2


def test_no_measured_cell_is_touched() -> None:
    for row in load_rows():
        printed = dict(row) | {"model": SMALL} if row["system_version"] in MISNAMED else row
        meant = as_meant(printed)
        changed = {column for column in meant if meant[column] != printed.get(column)}
        assert changed <= {"model", "system_version", "gpu"}


@pytest.mark.parametrize(
    ("system", "gpu", "model", "found"),
    [("vllm", "MI300X-192GB", "Llama-2-7b", 4), ("deepspeed-mii", "A100-SXM-40GB", "", 2)],
)
def test_no_sequence_takes_longer_than_sixteen(system: str, gpu: str, model: str, found: int) -> None:
    """Rows of LLM-Inference-Bench that do are doubtful, and those alone of their deployments."""
    text = gzip.decompress(TABLE.read_bytes()).decode("utf-8")
    seconds: dict[tuple[str, str, str], dict[str, float]] = {}
    for row in csv.DictReader(text.splitlines()):
        if (
            (row["system"], row["gpu"]) == (system, gpu)
            and model in row["model"]
            and row["batch_size"] in ("1", "16")
        ):
            at = seconds.setdefault((row["model"], row["tp"], row["prompt_len_tok"]), {})
            at[row["batch_size"]] = float(row["total_latency_s"])
    left = {(row["model"], row["tp"], row["prompt_len_tok"]) for row in load_rows()
            if (row["system"], row["gpu"], row["batch_size"]) == (system, gpu, "1")}  # fmt: skip
    impossible = {key for key, at in seconds.items() if len(at) == 2 and at["1"] > at["16"]}
    assert len(impossible) == found
    assert impossible == {key for key in seconds if key not in left}


@pytest.mark.parametrize("cell", ["system", "system_version", "notes"])
def test_other_rows_are_as_they_are_printed(cell: str) -> None:
    row = {
        "system": "vllm",
        "system_version": MISNAMED[0],
        "model": SMALL,
        "notes": "benchmark_latency.py static batch",
    }
    assert as_meant(row)["model"] == LARGE
    other = row | {cell: "another"}
    assert as_meant(other) is other


def test_long_prompts_came_a_hundred_at_a_time() -> None:
    """AccelMark's suite D: what is printed of one submission's offline run and of how long its others took agree so."""
    long = [
        row
        for row in rows()
        if "lengths vary; mean 286" in row.get("notes", "") and "Poisson" in row.get("request_rate", "")
    ]
    assert len(long) == 12
    assert {row["num_prompts"] for row in long} == {"100"}
    offline = [
        row
        for row in rows()
        if "lengths vary; mean 286" in row.get("notes", "") and row.get("request_rate", "").startswith("inf")
    ]
    per_second = {
        row["gpu"]: float(row["throughput_tok_s"]) / 256
        for row in offline
        if row["system_version"] == "0.7.3"
    }
    elapsed = {"A100-SXM-80GB": 366.0, "RTX A6000-48GB": 866.0}
    for gpu, seconds in elapsed.items():
        assert seconds * per_second[gpu] == pytest.approx(100, rel=0.07)


def test_runs_on_the_page_of_the_32b_are_the_32b() -> None:
    """As much as the 32B's other runs of this engine there, and a third of the 14B's."""
    page = [
        row
        for row in rows()
        if "qwen3-32b/a100" in row.get("source_path", "") and row["system"] == "tensorrt-llm"
    ]
    assert {row["model"] for row in page} == {"Qwen/Qwen3-32B"}
    chats = [float(row["throughput_tok_s"]) for row in page if row["gen_len_tok"] == "201"]
    assert len(chats) == 3
    assert max(chats) < 1.3 * min(chats)
    other = [row for row in rows() if row["model"] == "Qwen/Qwen3-14B" and row["system"] == "tensorrt-llm"]
    assert min(float(row["throughput_tok_s"]) for row in other if row["prompt_len_tok"] == "217") > 2 * max(
        chats
    )


EARLY = "inferred from InferenceX configs of 2025-11-"


def test_early_runs_with_ranks_for_experts_took_as_long_as_later_ones_that_say_so() -> None:
    """One engine, the same GPUs, lengths and concurrency: what was printed without ranks, and what is printed with them."""
    names = (
        "model",
        "gpu",
        "gpu_count",
        "tp",
        "ep",
        "weight_dtype",
        "prompt_len_tok",
        "gen_len_tok",
        "batch_size",
    )
    early: dict[tuple[str, ...], float] = {}
    later: dict[tuple[str, ...], float] = {}
    for row in load_rows():
        if row["system"] == "tensorrt-llm" and row["ep"] != "1" and row["tpot_s"]:
            engine = row["system_version"].partition(" ")[0]
            kept = early if EARLY in row["system_version"] else later
            kept[(engine, *(row[name] for name in names))] = float(row["tpot_s"])
    found = [math.log(early[key] / later[key]) for key in early.keys() & later.keys()]
    assert len(found) >= 30
    assert max(map(abs, found)) < 0.04
    assert sum(map(abs, found)) / len(found) < 0.01


def test_replicas_of_attention_stand_where_the_script_had_them() -> None:
    replicas = {
        (row["gpu"][:4], row["prompt_len_tok"], row["batch_size"])
        for row in load_rows()
        if EARLY in row["system_version"] and row["tp"] == "1" and row["gpu_count"] != "1"
    }
    assert replicas == {
        ("B200", "1024", "256"), ("B200", "8192", "64"), ("B200", "8192", "256"), ("H200", "8192", "64"),
    }  # fmt: skip


TORCHAO = [row for row in load_rows() if row["source_repo"] == "pytorch/ao"]


def test_rows_of_torchao_are_of_the_h100_that_its_authors_have() -> None:
    """Meta's, of 2.4 TB/s by their own roofline; constants that saw none of these rows predict them there and not at 3.35."""
    narrow = [dict(row) for row in TORCHAO if row["gpu"].startswith("H100")]
    assert [row["gpu"] for row in narrow] == ["H100-SXM-96GB"] * 3
    assert gm(Cases(load_cases(narrow)).log_ratios({})) < 1.06
    fast = load_cases([row | {"gpu": "H100-SXM-80GB"} for row in narrow])
    assert gm(Cases(fast).log_ratios({})) > 1.2


def test_eight_bit_weights_of_torchao_are_converted_in_each_step() -> None:
    """What they take more than bf16 a step is 3 bytes of each of 6.98e9 weights, at 85 % of the memory's 2.4 TB/s."""
    steps = {
        row["weight_dtype"]: 128 / float(row["decode_throughput_tok_s"])
        for row in TORCHAO
        if row["gpu"] == "H100-SXM-96GB"
    }
    assert 3 * 6.98e9 / (steps["int8-wo"] - steps["bf16"]) == pytest.approx(0.85 * 2.4e12, rel=0.01)
