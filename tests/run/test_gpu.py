"""The paths that only a CUDA device has: page-locked memory, copies beside computing, the allocator's figures."""

from __future__ import annotations

import pytest
import torch

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


@pytest.mark.parametrize(
    ("pin", "asynchronous"), [(True, True), (True, False), (False, True), (False, False)]
)
def test_an_offloaded_cache_gives_the_tokens_of_plain_transformers(run, models, pin, asynchronous):
    cuda = {"model_name": models["llama"], "device": "cuda", "gen_len": 16}
    plain = run(system="transformers", **cuda)["raw"]["tokens"]
    one = run(cpu_offload=True, kv_offload=True, pin_kv_cache=pin, async_kv_offload=asynchronous, **cuda)
    assert one["raw"]["tokens"] == plain
    assert one["measured"]["h2d_bytes_per_pass"] > 0


def test_the_allocators_peak_is_reported(run):
    one = run(device="cuda", cpu_offload=True)
    measured = one["measured"]
    assert 0 < measured["peak_gpu_memory_bytes"] <= measured["peak_gpu_memory_reserved_bytes"]
    assert one["environment"]["device"]["kind"] == "cuda"


def test_quantised_weights_run_on_cuda(run, models):
    found = run(model_name=models["opt"], device="cuda", dtype="bf16", quant_bits=4)["measured"][
        "quantisation"
    ]
    assert found["quantised_tensors"] == 3 * 6 + 1
