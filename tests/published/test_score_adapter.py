"""The scoring program's adapter: it predicts a row of each kind that is modelled, and refuses the others by name."""

import importlib.util
import math
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from calibrate.evidence.stated import rate_kind, stated_run
from llm_perf.analysis.inference import predict_inference
from llm_perf.analysis.request import InferenceInputs, build_scenario
from llm_perf.errors import SpecError

ROW: dict[str, Any] = {
    "kind": "inference",
    "system": "fastertransformer",
    "system_version": "",
    "gpu_count": 1,
    "nodes": 1,
    "tp": 1,
    "pp": 1,
    "dp": 1,
    "micro_batches": 1,
    "parallel": "none",
    "batch_size": 1,
    "batch_is_per_gpu": False,
    "prompt_len": 512,
    "gen_len": 32,
    "weight_bits": 16,
    "weight_bits_stored": 16,
    "act_bits": 16,
    "kv_bits": 16,
    "kv_bits_stored": 16,
    "gpu_batch_size": None,
    "num_gpu_batches": None,
    "overlap": "",
    "pin_memory": "",
    "cpu_compute": "",
    "host_ram_GB": None,
    "disk_read_GBps": None,
    "disk_write_GBps": None,
    "interconnect": "",
    "throughput_def": "out/total",
} | {f"{kind}_{tier}": float(tier == "gpu") for kind in ("w", "kv", "h") for tier in ("gpu", "cpu", "disk")}
"""A hand-written row: everything on one GPU."""

ON_CPU = {"w_gpu": 0.0, "w_cpu": 1.0}
ON_DISK = {"w_gpu": 0.0, "w_disk": 1.0}
T4 = {"system": "deepspeed-zero-inference", "host_ram_GB": 208.0, "disk_read_GBps": 2.0}
GCP = "Intel Xeon @ 2.00GHz (GCP)"


def load() -> ModuleType:
    """The adapter as the scoring program loads it: from its file."""
    spec = importlib.util.spec_from_file_location("adapter", Path(__file__).with_name("score_adapter.py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


adapter = load()


def predict(model: str, gpu: str, host_cpu: str = "", **changes: Any) -> dict[str, float]:
    row = ROW | {"model": model, "gpu": gpu} | changes
    host = {
        "cpu": None,
        "host_cpu_text": host_cpu,
        "ram_GB": row["host_ram_GB"],
        "pcie_GBps_per_dir": None,
        "disk": "",
        "disk_read_GBps": row["disk_read_GBps"],
        "disk_write_GBps": row["disk_write_GBps"],
    }
    return adapter.predict(row, {"name": model}, {"name": gpu}, host)


def own(**inputs: Any) -> tuple[float, float | None]:
    """(prefill, decode step) of the same question asked by names."""
    result = predict_inference(build_scenario(InferenceInputs(**inputs)))
    return result.prefill.latency_s, result.decode and result.decode.latency_per_token_s


def assert_is(found: dict[str, float], **inputs: Any) -> None:
    """The adapter's answer is llm_perf's own, complete and usable."""
    prefill, step = own(**inputs)
    assert found["prefill_s"] == pytest.approx(prefill, rel=1e-12)
    assert found.get("tpot_s") == (step if step is None else pytest.approx(step, rel=1e-12))
    assert all(math.isfinite(value) and value > 0 for value in found.values())


def test_fastertransformer_over_two_ranks():
    found = predict("facebook/opt-13b", "A100-SXM-80GB", gpu_count=2, tp=2, parallel="tp")
    assert_is(found, model="opt-13b", gpu="a100-sxm-80gb", system="fastertransformer", tp_size=2)


def test_a_row_without_decode_has_no_step():
    found = predict("facebook/opt-13b", "A100-SXM-80GB", gen_len=1)
    assert "tpot_s" not in found
    assert_is(found, model="opt-13b", gpu="a100-sxm-80gb", system="fastertransformer", gen_len=1)


def test_zero_inference_from_cpu_memory():
    found = predict("facebook/opt-30b", "T4-16GB", GCP, **T4, **ON_CPU)
    assert_is(found, model="opt-30b", gpu="t4", ds_zero=3, cpu_offload=True)


def test_zero_inference_from_nvme():
    found = predict("facebook/opt-175b", "T4-16GB", GCP, **T4, **ON_DISK)
    assert_is(found, model="opt-175b", gpu="t4", ds_zero=3, disk_offload=True)


def test_zero_inference_on_four_gpus_has_its_batch_per_gpu():
    ranks = {"gpu_count": 4, "dp": 4, "parallel": "zero3", "batch_size": 64, "batch_is_per_gpu": True}
    row = {"system": "deepspeed-zero-inference"} | ranks | ON_CPU
    found = predict("facebook/opt-30b", "V100-SXM2-32GB", "DGX-2 host", **row)
    asked = {"ds_zero": 3, "cpu_offload": True, "num_gpus": 4, "batch_size": 256}
    assert_is(found, model="opt-30b", gpu="v100-sxm2-32gb", host="dgx-2", **asked)


def test_zero_inference_with_quantised_weights_and_the_cache_on_the_host():
    bits = {"weight_bits": 4, "weight_bits_stored": 4.5, "pin_memory": "0", "batch_size": 96}
    row = {"system": "deepspeed-zero-inference", "kv_gpu": 0.0, "kv_cpu": 1.0} | bits | ON_CPU
    found = predict("facebook/opt-30b", "RTX A6000-48GB", "Lambda workstation", **row)
    asked = {"ds_zero": 3, "cpu_offload": True, "kv_offload": True, "quant_bits": 4, "pin_memory": False}
    assert_is(found, model="opt-30b", gpu="rtx-a6000-48gb", host="a6000-workstation", batch_size=96, **asked)


@pytest.mark.parametrize("system", ["vllm (splitwise profile)", "tensorrt-llm", "gpt-fast"])
def test_stacks_that_keep_everything_on_the_gpu(system):
    found = predict("meta-llama/Llama-2-7b-hf", "A100-SXM-80GB", system=system)
    assert found["total_s"] == pytest.approx(found["prefill_s"] + 31 * found["tpot_s"], rel=1e-9)
    assert found["peak_gpu_mem_bytes"] > 2 * 6.7e9


@pytest.mark.parametrize(
    "changes",
    [
        {"system": "a system that nobody wrote"},
        {"system": "fastertransformer"} | ON_CPU,
        {"system": "deepspeed-zero-inference", "kv_gpu": 0.0, "kv_disk": 1.0},
        {"tp": 5, "gpu_count": 5},
    ],
    ids=lambda changes: " ".join(map(str, changes.values())),
)
def test_what_is_not_modelled_is_refused_by_name(changes):
    with pytest.raises(Exception) as caught:  # noqa: PT011 - by name, as the scoring program does
        predict("facebook/opt-30b", "A100-SXM-80GB", **changes)
    assert type(caught.value).__name__ == "Unsupported"
    assert str(caught.value)


# -- rows as strings ----------------------------------------------------------------------------------------------

STATED = {
    "system": "tensorrt-llm",
    "system_version": "0.9.0",
    "model": "meta-llama/Llama-2-70b-hf",
    "gpu": "H100-SXM-80GB",
    "gpu_count": "4",
    "num_nodes": "1",
    "tp": "4",
    "weight_dtype": "fp16",
    "batch_size": "8",
    "prompt_len_tok": "512",
    "gen_len_tok": "128",
    "throughput_def": "output tok/s (table is per GPU, multiplied by TP), gen/(prefill+decode)",
    "throughput_scope": "system",
}
ASKED = {
    "model": "llama-2-70b", "gpu": "h100-sxm-80gb", "system": "tensorrt_llm@0.9.0", "tp_size": 4, "batch_size": 8,
    "prompt_len": 512, "gen_len": 128, "allow_long_context": True,
}  # fmt: skip


def test_a_row_is_answered_as_the_same_question_is():
    found = adapter.predict_row(STATED)
    result = predict_inference(build_scenario(InferenceInputs(**ASKED)))
    assert found["ttft_s"] == result.ttft_s
    assert found["tpot_s"] == result.tpot_s
    assert found["total_latency_s"] == result.total_latency_s
    assert found["throughput_tok_s"] == result.total_throughput_tokens_per_s
    assert found["peak_gpu_mem_GB"] == result.peak_gpu_memory_bytes / 2**30
    assert found["ttft_s"] + found["tpot_s"] * 127 == pytest.approx(found["total_latency_s"], rel=1e-12)


def test_a_rate_is_what_the_row_defines_of_the_gpus_that_it_is_about():
    whole = adapter.predict_row(STATED)
    both = adapter.predict_row(STATED | {"throughput_def": "(in+out)*batch/latency"})
    assert both["throughput_tok_s"] * whole["total_latency_s"] == pytest.approx(8 * (512 + 128))
    one = adapter.predict_row(STATED | {"throughput_scope": "per_gpu"})
    assert one["throughput_tok_s"] == pytest.approx(whole["throughput_tok_s"] / 4)
    decode = adapter.predict_row(STATED | {"throughput_def": "decode output tok/s over the batch"})
    assert decode["throughput_tok_s"] * whole["tpot_s"] == pytest.approx(8)
    read = adapter.predict_row(STATED | {"throughput_def": "prefill tok/s"})
    assert read["throughput_tok_s"] * whole["ttft_s"] == pytest.approx(8 * 512)
    assert "throughput_tok_s" not in adapter.predict_row(STATED | {"throughput_def": "tok/s as printed"})


def test_intervals_hold_the_prediction_and_are_those_of_its_times():
    found = adapter.predict_row(STATED)
    interval = found["interval"]
    assert {"total_latency_s", "throughput_tok_s"} <= interval.keys()
    for quantity, (low, high) in interval.items():
        assert low < found[quantity] < high, quantity
    low, high = interval["total_latency_s"]
    assert interval["throughput_tok_s"] == pytest.approx((8 * 128 / high, 8 * 128 / low))


@pytest.mark.parametrize(
    ("definition", "kind"),
    [
        ("(in+out)*batch/latency", "total"),
        ("(prompt+gen)/(prefill+decode) as the source defines it; latency derived from it", "total"),
        ("total tok/s", "total"),
        ("output tok/s, wall time", "output"),
        ("output tok/s incl. prefill", "output"),
        ("gen_tokens/(prefill+decode), derived from latency", "output"),
        ("total output tok/s", "output"),
        ("out/total", "output"),
        ("output_per_total", "output"),
        ("output_per_decode", "decode"),
        ("decode output tok/s over the batch", "decode"),
        ("gen/decode", "decode"),
        ("prompt_per_prefill", "prefill"),
        ("prefill tok/s", "prefill"),
        ("tok/s as printed", None),
        ("", None),
    ],
)
def test_definitions_of_throughput_are_read_as_words(definition, kind):
    assert rate_kind(definition) == kind


@pytest.mark.parametrize(
    ("cells", "bits", "act", "group"),
    [
        ({"weight_dtype": "bf16"}, 16, 16, None),
        ({"weight_dtype": "fp16/bf16"}, 16, 16, None),
        ({"weight_dtype": "fp8"}, 8, 8, None),
        ({"weight_dtype": "int4-gptq-g128"}, 4, 16, 128),
        ({"weight_dtype": "awq"}, 4, 16, None),
        ({"weight_dtype": "gptq-int8"}, 8, 16, None),
        ({"weight_dtype": "int8-w8a8"}, 8, 8, None),
        ({"weight_dtype": "int8-w8a16"}, 8, 16, None),
        ({"weight_dtype": "mxfp4", "act_dtype": "bfloat16"}, 4, 16, None),
        ({"weight_dtype": "Q8_0"}, 8, 16, None),
        ({"weight_dtype": ""}, 16, 16, None),
    ],
)
def test_formats_are_read_as_bits(cells, bits, act, group):
    run = stated_run(STATED | cells)
    assert (run.weight_bits, run.activation_bits, run.weight_group_size) == (bits, act, group)


@pytest.mark.parametrize(
    ("cells", "said"),
    [
        ({"system": "a system that nobody wrote"}, "no such family ships"),
        ({"model": "nobody/nothing-1b"}, "no such spec ships"),
        ({"gpu": "RTX 9999-1GB"}, "unknown GPU"),
        ({"gpu": "", "gpu_count": "0"}, "CPUs only"),
        ({"batch_size": ""}, "batch size"),
        ({"gpu_layers": "13"}, "layers on the CPU"),
        ({"experts_on_cpu": "all"}, "experts on the CPU"),
        ({"weight_offload": "cpu"}, "tensorrt_llm"),
        ({"system": "tensorrt-llm (disaggregated)"}, "engines of their own"),
    ],
)
def test_what_a_row_cannot_be_asked_about_is_refused_with_the_reason(cells, said):
    with pytest.raises(Exception, match=said) as caught:
        adapter.predict_row(STATED | cells)
    assert type(caught.value).__name__ == "Unsupported"


def test_a_converted_checkpoint_has_the_shapes_of_the_original():
    for name in ("RedHatAI/Meta-Llama-3.1-8B-Instruct-quantized.w4a16", "nvidia/Llama-3.1-8B-Instruct-FP8"):
        assert (
            stated_run(STATED | {"model": name}).model
            == stated_run(STATED | {"model": "meta-llama/Llama-3.1-8B-Instruct"}).model
        )
    with pytest.raises(SpecError):
        stated_run(STATED | {"model": "nobody/nothing-1b-FP8"})


def test_stages_of_a_stack_that_splits_layers_are_its_gpus():
    run = stated_run(STATED | {"system": "llama.cpp", "system_version": "b4000", "gpu_count": "2", "tp": "2"})
    assert (run.tp, run.pp, run.num_gpus) == (1, 2, 2)


TRAINED = {
    "framework": "Megatron-Bridge 25.09", "model": "LLAMA3_8B", "gpu": "DGX-H100", "gpu_count": "8", "tp": "1", "pp": "1",
    "cp": "2", "seq_len": "8192", "micro_batch": "1", "global_batch_seqs": "128", "precision": "bf16",
}  # fmt: skip


def test_a_training_row_gives_its_step_and_the_rate_that_follows():
    found = adapter.predict_row(TRAINED)
    assert found["throughput_tok_s_per_gpu"] * found["iter_time_s"] * 8 == pytest.approx(128 * 8192)
    derived = adapter.predict_row(TRAINED | {"global_batch_seqs": "", "grad_accum": "32"})
    assert derived == found  # 32 accumulation steps of 4 replicas
    tuned = adapter.predict_row(TRAINED | {"grad_accum": "32", "method": "LoRA", "lora_rank": "64"})
    assert tuned["iter_time_s"] < found["iter_time_s"]
    assert tuned["throughput_tok_s_per_gpu"] * tuned["iter_time_s"] * 8 == pytest.approx(128 * 8192)
    with pytest.raises(Exception, match="KTransformers"):
        adapter.predict_row(TRAINED | {"framework": "KTransformers", "method": "LoRA", "lora_rank": "8"})


def test_a_model_of_fewer_layers_takes_its_share_of_the_step():
    """Whole layers are alike, so the step is affine in their number."""
    shape = {
        "framework": "Megatron-LM 0.14 (TE 2.x)",
        "gpu": "B200-180GB",
        "cp": "1",
        "tp": "8",
        "micro_batch": "1",
    }
    steps = {
        n: adapter.predict_row(TRAINED | shape | {"model": f"LLAMA3_70B shape, {n} layers"})["iter_time_s"]
        for n in (4, 8, 12)
    }
    assert steps[12] - steps[8] == pytest.approx(steps[8] - steps[4], rel=1e-9)
    with pytest.raises(Exception, match="80 layers"):
        adapter.predict_row(TRAINED | {"model": "LLAMA3_70B, 81 layers"})


# -- requests that come and go ----------------------------------------------------------------------------------

LOOP = {
    "system": "vllm", "system_version": "0.15.1", "model": "meta-llama/Llama-3.1-8B-Instruct", "gpu": "H100-SXM-80GB",
    "gpu_count": "1", "tp": "1", "weight_dtype": "bf16", "batch_size": "16", "prompt_len_tok": "512", "gen_len_tok": "128",
    "throughput_def": "output tok/s", "throughput_scope": "system",
    "notes_for_prediction": "closed loop, ISL/OSL uniform in [0.8,1.0] of nominal",
}  # fmt: skip


def test_a_closed_loop_is_answered_by_its_requests():
    found = adapter.predict_row(LOOP)
    batch = adapter.predict_row(LOOP | {"notes_for_prediction": "ISL/OSL uniform in [0.8,1.0] of nominal"})
    assert found["tpot_s"] > batch["tpot_s"]  # others' prompts are read in between
    assert found["ttft_s"] < batch["ttft_s"]  # and not all of them before the first token
    assert found["throughput_tok_s"] == pytest.approx(16 * 0.9 * 128 / found["total_latency_s"], rel=0.1)
    low, high = found["interval"]["tpot_s"]
    assert low < found["tpot_s"] < high


def test_requests_that_replicas_do_not_share_evenly_take_the_memory_of_the_fullest():
    """Experts over two ranks of which each has attention: two replicas of it, and five requests in flight."""
    notes = {"notes_for_prediction": f"{LOOP['notes_for_prediction']}; moe_tp=1 moe_ep=2"}
    asked = LOOP | notes | {"model": "Qwen/Qwen3-30B-A3B"}
    four, five, six = (adapter.predict_row(asked | {"batch_size": count}) for count in ("4", "5", "6"))
    assert four["peak_gpu_mem_GB"] <= five["peak_gpu_mem_GB"] == six["peak_gpu_mem_GB"]
    assert 0 < five["throughput_tok_s"] < six["throughput_tok_s"]


def test_an_open_loop_is_answered_by_its_requests():
    asked = LOOP | {
        "batch_size": "",
        "request_rate": "4 (Poisson)",
        "num_prompts": "100",
        "notes_for_prediction": "",
    }
    slow, fast = (adapter.predict_row(asked | {"request_rate": f"{rate} (Poisson)"}) for rate in (4, 20))
    assert slow["throughput_tok_s"] < fast["throughput_tok_s"]
    assert slow["tpot_s"] < fast["tpot_s"]


def test_a_row_whose_rate_was_measured_is_refused():
    with pytest.raises(adapter.Unsupported, match="what was measured"):
        adapter.predict_row(LOOP | {"request_rate": "Server (Poisson at the highest passing rate)"})


def test_a_row_with_all_layers_on_the_gpu_needs_no_processor() -> None:
    row = {
        "system": "llama.cpp", "system_version": "2025", "model": "meta-llama/Llama-3.2-3B", "gpu": "RTX 3060-12GB",
        "gpu_count": "1", "host_cpu": "", "gguf_type": "Q4_K_M", "gpu_layers": "all", "batch_size": "1",
        "prompt_len_tok": "30", "gen_len_tok": "300",
    }  # fmt: skip
    assert load().predict_row(row)["decode_throughput_tok_s"] > 50
    with pytest.raises(Exception, match="host empty") as refused:
        load().predict_row({**row, "gpu_layers": "20"})
    assert type(refused.value).__name__ == "Unsupported"
    with pytest.raises(Exception, match="host empty"):  # the driver takes the host's memory for the rest
        load().predict_row({**row, "model": "Qwen/Qwen3-30B-A3B"})


TITAN = {
    "framework": "torchtitan (FSDP2)", "model": "meta-llama/Llama-3.1-8B", "gpu": "H100-SXM-80GB", "gpu_count": "8",
    "seq_len": "8192", "micro_batch": "2", "global_batch_seqs": "16", "precision": "bf16", "sharding": "FSDP2",
    "recompute": "selective",
}  # fmt: skip


def test_what_the_text_of_a_training_row_says_is_read() -> None:
    plain, compiled, limited = (
        load().predict_row({**TITAN, "notes": notes}) for notes in ("", "torch.compile", "boards at 500 W")
    )
    assert compiled["iter_time_s"] < plain["iter_time_s"] < limited["iter_time_s"]
    whole = load().predict_row({**TITAN, "recompute": "none"})
    assert plain["peak_alloc_GiB"] < 0.7 * whole["peak_alloc_GiB"]


def test_a_pipeline_of_a_framework_that_shards_all_keeps_weights_whole() -> None:
    row = {**TITAN, "pp": "2", "global_batch_seqs": "64", "micro_batch": "1"}
    assert load().predict_row(row)["iter_time_s"] > 0


def test_what_the_text_of_a_tuning_row_says_is_read() -> None:
    row = {
        "framework": "torchtune", "model": "meta-llama/Llama-3.1-8B", "gpu": "RTX 4090-24GB", "gpu_count": "1",
        "seq_len": "2048", "micro_batch": "2", "grad_accum": "1", "precision": "bf16", "method": "full", "recompute": "full",
        "mem_unit": "GiB", "mem_scope": "per GPU (allocated)",
    }  # fmt: skip
    plain = load().predict_row(row)
    paged = load().predict_row({**row, "notes": "PagedAdamW8bit, optimizer in backward, compile"})
    assert paged["peak_gpu_mem_GB"] < 24 < plain["peak_gpu_mem_GB"]
    assert paged["iter_time_s"] > 0
