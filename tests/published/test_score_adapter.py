"""The scoring program's adapter: it predicts a row of each kind that is modelled, and refuses the others by name."""

import importlib.util
import math
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from llm_perf.analysis.inference import predict_inference
from llm_perf.analysis.request import InferenceInputs, build_scenario

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
