"""Laws of products and attention from microbenchmarks."""

from __future__ import annotations

from copy import deepcopy

import pytest
import synthetic
from hypothesis import given, settings
from hypothesis import strategies as st

from calibrate.fit.kernels import gemm_law, gpu_fields, host_fields, measured_items, system_constants
from llm_perf.config.gpu import GPUConfig
from llm_perf.config.host import HostConfig, Rate
from llm_perf.errors import SpecError
from llm_perf.hardware.roofline import p_norm
from llm_perf.hardware.transfer import SizeCurve
from llm_perf.systems.constants import load_constants


def test_the_law_of_serial_products_comes_back() -> None:
    law = gemm_law(measured_items(synthetic.microbench(noise=0.03), "gemm"))
    assert law.exponent == 1
    assert law.flops_per_s == pytest.approx(synthetic.FLOPS_PER_S, rel=0.05)
    assert law.bytes_per_s == pytest.approx(synthetic.BYTES_PER_S, rel=0.08)
    assert law.floor_s == pytest.approx(synthetic.FLOOR_S, rel=0.15)
    assert law.residual < 1.05


@settings(max_examples=8)
@given(
    flops=st.floats(1e12, 1e15),
    intensity=st.floats(50, 400),
    floor_us=st.floats(2, 20),
    exponent=st.sampled_from([1.0, 4.0]),
)
def test_any_law_of_this_form_comes_back(
    flops: float, intensity: float, floor_us: float, exponent: float
) -> None:
    items = []
    for m in (1, 8, 64, 512, 4096):
        for k, n in ((2048, 2048), (4096, 16384), (11008, 4096)):
            work = {"flops": 2.0 * m * k * n, "bytes": 2.0 * (k * n + m * k + m * n)}
            seconds = floor_us * 1e-6 + p_norm(
                work["flops"] / flops, work["bytes"] * intensity / flops, exponent
            )
            items.append(
                synthetic.item("gemm", {"dtype": "fp16", "m": m, "k": k, "n": n}, work, float(seconds))
            )
    law = gemm_law(items)
    assert law.flops_per_s == pytest.approx(flops, rel=0.1)
    assert law.bytes_per_s == pytest.approx(flops / intensity, rel=0.1)
    assert law.residual < 1.02


def test_too_few_products_are_refused() -> None:
    items = measured_items(synthetic.microbench(), "gemm")
    with pytest.raises(SpecError, match="do not tell arithmetic from memory"):
        gemm_law([item for item in items if item["settings"]["m"] == 1])


def test_disturbed_sizes_are_left_out_where_enough_are_not() -> None:
    record = deepcopy(synthetic.microbench())
    for item in measured_items(record, "gemm")[::3]:
        item["disturbed"] = True
        item["median_s"] *= 20
    law = gemm_law(measured_items(record, "gemm"))
    assert law.flops_per_s == pytest.approx(synthetic.FLOPS_PER_S, rel=0.02)


def test_the_fields_make_specs() -> None:
    record = synthetic.microbench()
    gpu, host = GPUConfig(**gpu_fields(record)), HostConfig(**host_fields(record))
    assert gpu.efficiency.knee_exponent == 1
    assert gpu.peak_flops_per_s("bf16") == pytest.approx(synthetic.FLOPS_PER_S, rel=0.01)
    assert host.name == "this machine"
    constants = system_constants(record)
    assert constants["resident"].items() <= constants["transformers"].items()
    shipped = {name: one.value for name, one in load_constants("transformers").constants.items()}
    assert (shipped | constants["transformers"])["eager_attention_us"] == 0  # attention is fused by now
    assert constants["zero_inference"]["layer_overhead_ms"] == pytest.approx(3.0)


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_reads_of_host_memory_say_what_products_on_the_cpu_read(device: str) -> None:
    """Under every system that computes there, on a machine with a GPU as well."""
    record = deepcopy(synthetic.microbench())
    record["device"] = device
    for seconds in (0.02, 0.016):
        size = 512 << 20
        record["items"].append(synthetic.item("host_read", {"bytes": size}, {"bytes": float(size)}, seconds))
    assert host_fields(record)["read_gb_per_s"] == pytest.approx((512 << 20) / 0.016 / 1e9)
    assert "read_gb_per_s" not in host_fields(synthetic.microbench())


def test_a_cuda_record_changes_efficiencies_of_the_bundled_gpu_only() -> None:
    """As the H200 would give it: events, pinned and pageable copies. Made by its law, since no GPU is at hand."""
    record = deepcopy(synthetic.microbench())
    record["device"], record["dtypes"] = "cuda", ["fp16"]
    record["environment"]["device"] = {"kind": "cuda", "name": "NVIDIA H200", "memory_bytes": 141 << 30}
    for item in record["items"]:
        if "dtype" in item["settings"]:
            item["settings"]["dtype"] = "fp16"
        if "median_s" in item:
            item["median_s"] /= 1500
    for direction in ("h2d", "d2h"):
        for pinned, rate in ((True, 54e9), (False, 9e9)):
            for size in (64 << 10, 256 << 20):
                work = {"bytes": float(size)}
                given = {"direction": direction, "pinned": pinned, "bytes": size}
                seconds = size / rate + (10e-6 if size < 1 << 20 else 0)
                record["items"].append(synthetic.item("transfer", given, work, seconds))
    record["items"].append(synthetic.item("launch", {"operation": "add"}, {}, 5e-6))
    fields = gpu_fields(record)
    assert "name" not in fields
    gemm = fields["efficiency"]["gemm"]["default"]
    assert 0 < gemm["flops_efficiency"] <= 1
    host = host_fields(record)
    assert host["copies"]["zero_inference.pinned_h2d"]["gb_per_s"] == pytest.approx(54)
    assert host["copies"]["zero_inference.pageable_h2d"]["gb_per_s"] == pytest.approx(9)
    assert host["pinned_d2h"]["gb_per_s"] == pytest.approx(54)
    assert host["copies"]["accelerate.mmap_h2d"]["gb_per_s"] == pytest.approx(9)
    assert "name" not in host
    pinned = Rate(**host["copies"]["zero_inference.pinned_h2d"])
    curve = SizeCurve.of(pinned)
    assert curve is not None
    assert curve.of_copy_s(64 << 10) == pytest.approx(
        10e-6
    )  # what the law of the record adds to a small copy
    assert curve.of_copy_s(1 << 30) == 0
    plain = system_constants(record)["resident"]
    assert plain["launch_us"] == pytest.approx(5)
    assert "overlap_exponent" not in plain  # launches run ahead of kernels there
