"""The pieces of a run, each alone."""

from __future__ import annotations

import time

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from calibrate.probe.local_machine import disk_rates, known_gpu
from calibrate.probe.records import RunRecord, finite
from calibrate.run import kv_offload
from calibrate.run.ds_config import aio_block_bytes, get_ds_config, nvme_buffer_elements
from calibrate.run.hooks import add_model_hooks, set_model_stage
from calibrate.run.kv_offload import CopyLane, Traffic, make_cache
from calibrate.run.metrics import phases
from calibrate.run.model_config import get_model_config, spec_of
from calibrate.run.prediction import signed_error
from calibrate.run.quantisation import get_quant_config
from calibrate.run.report import comparison_lines
from calibrate.run.settings import RunSettings
from calibrate.run.timer import Timers
from calibrate.run.weights import empty_model, meta_to_cpu, random_fill
from llm_perf.config.loading import get_model_config_by_name
from llm_perf.counts.parameters import total_params
from llm_perf.errors import OutputError, SpecError


def test_a_timer_waits_for_the_device_at_both_ends():
    waits = []
    timer = Timers()("generate-forward")
    timer.start(sync_func=lambda: waits.append("start"))
    time.sleep(0.01)
    timer.stop(sync_func=lambda: waits.append("stop"))
    assert waits == ["start", "stop"]
    assert 0.01 <= timer.elapsed() < 1
    with pytest.raises(SpecError, match="has not been started"):
        timer.stop()


def test_timers_are_found_by_name():
    timers = Timers()
    assert timers("a") is timers("a")
    assert timers("a") is not timers("b")
    assert "c" not in timers


def test_hooks_tell_the_prefill_from_the_steps():
    model = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Linear(2, 2))
    handles = add_model_hooks(model)
    assert len(handles) == 2
    set_model_stage(model, "prefill")
    for _ in range(3):
        model(torch.zeros(1, 2))
    assert model.__duration__ > 0
    assert model.stage == "decode"
    assert len(model.__step_durations__) == 2
    set_model_stage(model, "prefill")
    assert model.__step_durations__ == []
    for handle in handles:
        handle.remove()
    model(torch.zeros(1, 2))
    assert model.__duration__ is None


def test_meta_tensors_become_cpu_tensors_of_the_same_shapes():
    meta = {
        "a.weight": torch.empty(3, 4, device="meta"),
        "nested": (torch.empty(2, dtype=torch.int64, device="meta"),),
    }
    found = meta_to_cpu(meta, torch.float16)
    assert found["a.weight"].shape == (3, 4)
    assert found["a.weight"].dtype == torch.float16
    assert found["nested"][0].dtype == torch.int64
    with pytest.raises(TypeError, match="no tensor"):
        meta_to_cpu([1])


def test_random_weights_depend_on_name_and_seed_alone():
    one, same, other, elsewhere = (torch.empty(4, 4) for _ in range(4))
    random_fill(0)("x.weight", one)
    random_fill(0)("x.weight", same)
    random_fill(1)("x.weight", other)
    random_fill(0)("y.weight", elsewhere)
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
    assert not torch.equal(one, elsewhere)
    norm, bias = torch.empty(4), torch.empty(4)
    random_fill(0)("norm.weight", norm)
    random_fill(0)("norm.bias", bias)
    assert norm.tolist() == [1] * 4
    assert bias.tolist() == [0] * 4


@pytest.mark.parametrize(
    "name",
    ["opt-125m", "opt-350m", "opt-175b", "bloom-560m", "llama-7b", "TinyLlama-1.1B", "Mixtral-8x7B-v0.1", "Mistral-7B-v0.1",
     "gpt2", "pythia-70m", "Qwen2-0.5B", "Qwen3-0.6B", "Qwen3-30B-A3B", "gemma-2b", "gemma-2-2b", "Phi-3-mini-4k", "gpt-j-6b",
     "falcon-7b", "falcon-40b", "megatron-gpt-1.7B"],
)  # fmt: skip
def test_a_config_made_offline_builds_the_models_parameters(name):
    config = get_model_config(name)
    counted = total_params(get_model_config_by_name(name))
    # BLOOM's and GPT-NeoX' specs round their published vocabulary; otherwise shapes are the same.
    assert sum(parameter.numel() for parameter in empty_model(config).parameters()) == pytest.approx(
        counted, rel=1e-4
    )
    assert total_params(spec_of(config)) == pytest.approx(counted, rel=1e-4)


def test_opt_175b_is_derived_from_opt_66b():
    config = get_model_config("facebook/opt-175b")
    assert (config.hidden_size, config.num_hidden_layers, config.num_attention_heads, config.ffn_dim) == (
        12288,
        96,
        96,
        49152,
    )
    assert config.name_or_path == "facebook/opt-175b"


def test_an_architecture_without_a_converter_says_what_works():
    with pytest.raises(SpecError, match=r"config\.json"):
        get_model_config("DeepSeek-V3")


def settings(**changes):
    return RunSettings(**({"model_name": "tiny-opt", "batch_size": 8} | changes))


def test_the_deepspeed_configuration_is_the_originals():
    config = get_ds_config(settings(cpu_offload=True, quant_bits=4), 1024, 4 << 20, "fp16", "cuda", None)
    zero = config["zero_optimization"]
    assert zero["stage"] == 3
    assert zero["stage3_prefetch_bucket_size"] == zero["stage3_max_live_parameters"] == 2 * 1024**2
    assert zero["stage3_param_persistence_threshold"] == 1024
    assert zero["offload_param"] == {"device": "cpu", "pin_memory": True}
    assert config["fp16"]["enabled"]
    assert not config["bf16"]["enabled"]
    assert config["train_batch_size"] == 8
    assert config["weight_quantization"]["quantized_initialization"]["num_bits"] == 4
    assert "aio" not in config
    assert (
        get_ds_config(settings(cpu_offload=True), 8, 8, "fp32", "cpu", None)["zero_optimization"][
            "offload_param"
        ]["pin_memory"]
        is False
    )


def test_the_nvme_section_fits_the_largest_parameter():
    config = get_ds_config(settings(disk_offload=True), 1024, 5_000_001, "bf16", "cpu", "/somewhere")
    offload = config["zero_optimization"]["offload_param"]
    assert offload["nvme_path"] == "/somewhere"
    assert offload["buffer_size"] >= 5_000_001
    assert offload["buffer_size"] * 2 % 4096 == 0
    assert config["aio"]["block_size"] == 1 << 18
    assert aio_block_bytes(1 << 30, "fp16") == 1 << 20
    assert nvme_buffer_elements(1024, "fp32") == 1024


def test_weights_are_quantised_at_four_and_at_eight_bits():
    for bits in (4, 8):
        section = get_quant_config(bits, 32)["quantized_initialization"]
        assert section == {"num_bits": bits, "group_size": 32, "group_dim": 1, "symmetric": False}
    with pytest.raises(SpecError, match="4 or 8"):
        get_quant_config(16, 64)


def test_an_offloaded_cache_gives_back_what_it_was_given_and_grows():
    traffic = Traffic()
    cache = make_cache(torch.device("cpu"), 2, traffic=traffic)
    pieces = [torch.randn(2, 4, tokens, 8) for tokens in (3, 1, 1, 7)]
    for piece in pieces:
        for layer in (0, 1):
            keys, values = cache.update(piece + layer, piece - layer, layer)
    whole = torch.cat(pieces, dim=2)
    assert torch.equal(keys, whole + 1)
    assert torch.equal(values, whole - 1)
    assert cache.get_seq_length() == 12
    assert traffic.to_host_bytes == 2 * 2 * whole.numel() * 4
    cache.reset()
    assert cache.get_seq_length() == 0


class OrderKeeper(TorchDispatchMode):
    """What a stream would see: the number of each operation, and of that which made a tensor."""

    def __init__(self):
        super().__init__()
        self.now = 0
        self.made_at: dict[int, int] = {}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.now += 1
        made = func(*args, **(kwargs or {}))
        own_memory = all(returned.alias_info is None for returned in func._schema.returns)
        if own_memory and isinstance(made, torch.Tensor):
            self.made_at[made.data_ptr()] = self.now
        return made


class OrderedLane(CopyLane):
    """An asynchronous lane that knows which work of the device it waited for."""

    def __init__(self, order: OrderKeeper):
        super().__init__(torch.device("cpu"), asynchronous=True)
        self.asynchronous, self.order, self.begun_at, self.copies = True, order, -1, 0

    def begin(self):
        self.begun_at = self.order.now

    def copy(self, target, source):
        # An uninitialised target needs no kernel.
        assert self.order.made_at.get(source.data_ptr(), 0) <= self.begun_at, "copied before it was computed"
        self.copies += 1
        super().copy(target, source)


def test_a_stream_of_its_own_copies_only_what_the_device_has_computed_by_then(monkeypatch):
    order = OrderKeeper()
    lane = OrderedLane(order)
    monkeypatch.setattr(kv_offload, "CopyLane", lambda *_args: lane)
    cache = make_cache(torch.device("cpu"), 16, asynchronous=True)
    with order:
        for tokens in (5, 1, 1):
            for layer in (0, 1, 2):
                piece = torch.randn(2, 4, tokens, 8)
                keys, _ = cache.update(piece, piece + 1, layer)
    assert keys.shape == (2, 4, 7, 8)
    # Every update stores keys and values, every later one fetches them as well.
    assert lane.copies == 3 * (2 + 4 + 4)


@pytest.mark.parametrize(
    ("driver", "gib", "name"),
    [
        ("NVIDIA H200", 139.8, "H200-SXM-141GB"),
        ("Tesla T4", 14.6, "T4-16GB"),
        ("NVIDIA A100-SXM4-80GB", 79.2, "A100-SXM-80GB"),
        ("NVIDIA A100-SXM4-40GB", 39.4, "A100-SXM-40GB"),
        ("NVIDIA A100 80GB PCIe", 79.2, "A100-PCIe-80GB"),
        ("Tesla V100-SXM2-32GB", 31.7, "V100-SXM2-32GB"),
        ("NVIDIA L4", 22.0, "L4-24GB"),
        ("NVIDIA GeForce RTX 4090", 23.6, "RTX-4090-24GB"),
    ],
)
def test_a_drivers_name_finds_the_bundled_gpu(driver, gib, name):
    found = known_gpu(driver, gib)
    assert found is not None
    assert found.name.lower().replace(" ", "-") == name.lower()


def test_an_unknown_board_has_no_spec():
    assert known_gpu("NVIDIA Unheard-Of 9000", 10.0) is None


def test_a_disk_has_rates(tmp_path):
    read, write, _ = disk_rates(tmp_path, 4 << 20)
    assert read > 1e6
    assert write > 1e6
    assert not list(tmp_path.iterdir())


def test_disturbed_loops_are_left_out_where_three_are_left():
    calm = [{"prefill_s": 1.0, "total_s": 2.0 + step / 10, "disturbed": False} for step in range(3)]
    noisy = [{"prefill_s": 9.0, "total_s": 90.0, "disturbed": True}]
    found = phases(settings(gen_len=3), calm + noisy)
    assert found["total"]["latency_s"] == pytest.approx(2.1)
    assert found["loops_used"] == 3
    assert found["loops_disturbed"] == 1
    assert phases(settings(gen_len=3), calm[:2] + noisy)["loops_used"] == 3


def test_errors_are_signed_fractions_or_nothing():
    assert signed_error(3.0, 2.0) == 0.5
    assert signed_error(1.0, 2.0) == -0.5
    assert signed_error(None, 2.0) is None
    assert signed_error(1.0, None) is None
    assert signed_error(1.0, 0.0) is None


def test_a_record_that_cannot_be_written_says_so(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot be written"):
        RunRecord(tmp_path / "file" / "below", "x").save()
    assert finite({"a": [float("nan"), 1.0], 2: float("inf")}) == {"a": [None, 1.0], "2": None}


def test_the_table_of_a_run_has_the_interval_of_its_profile():
    phase = {"latency_s": 1.0, "throughput_tokens_per_s": 64.0}
    side = dict.fromkeys(("prefill", "decode", "total"), phase) | {"peak_gpu_memory_bytes": None}
    errors = {
        f"{name}_{kind}": 0.0 for name in ("prefill", "decode", "total") for kind in ("latency", "throughput")
    }
    result = {"measured": side, "predicted": side, "error": errors | {"peak_gpu_memory": None}}
    assert "interval" not in "\n".join(comparison_lines(result))
    interval = {
        "level": 0.9,
        "profile": "mine",
        "prefill_latency_s": [0.8, 1.25],
        "decode_latency_s": None,
        "total_latency_s": [0.7, 1.5],
    }
    lines = comparison_lines(result | {"predicted": side | {"interval": interval}})
    assert [line.split() for line in lines[-3:]] == [
        ["90%", "interval", "of", "profile", "mine"],
        ["prefill", "latency", "0.800", "to", "1.250", "s"],
        ["total", "latency", "0.700", "to", "1.500", "s"],
    ]
