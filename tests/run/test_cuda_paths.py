"""What only a CUDA machine does, held by stand-ins for its driver: names, energy, the default model, the prediction."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import pytest
import torch

from calibrate.probe.devices import Device, choose_device, choose_dtype
from calibrate.probe.environment import describe_environment
from calibrate.probe.local_machine import LocalMachine
from calibrate.probe.ops import wanted
from calibrate.probe.usage import DeviceMeter, Repeat
from calibrate.run.default_model import CANDIDATES, model_for_gpu
from calibrate.run.ds_config import get_ds_config
from calibrate.run.fetches import Fetches
from calibrate.run.prediction import build_run_scenario, check_fit, predict_run
from calibrate.run.quantisation import needs_kernel
from calibrate.run.settings import RunSettings
from llm_perf.config.loading import get_gpu_config_by_name, get_host_config_by_name, get_model_config_by_name
from llm_perf.errors import DoesNotFitError, EnvironmentFailure

CUDA = Device("cuda", 1)


def settings(**changes) -> RunSettings:
    return RunSettings(**({"model_name": "opt-1.3b", "dummy": True} | changes))


@pytest.fixture
def driver(monkeypatch):
    """Two devices, of which the second is asked about; NVML knows it by its UUID alone."""
    asked = []

    class Nvml:
        NVML_CLOCK_SM, NVML_CLOCK_MEM, NVML_TEMPERATURE_GPU = 1, 2, 0
        millijoules = 1000

        @staticmethod
        def nvmlInit():  # noqa: N802
            pass

        @staticmethod
        def nvmlDeviceGetHandleByUUID(uuid):  # noqa: N802
            asked.append(uuid)
            return uuid

        @classmethod
        def nvmlDeviceGetTotalEnergyConsumption(cls, handle):  # noqa: N802
            assert handle == "GPU-1111"
            cls.millijoules += 2500
            return cls.millijoules

        @staticmethod
        def nvmlDeviceGetClockInfo(_handle, kind):  # noqa: N802
            return {1: 1980, 2: 3201}[kind]

        @staticmethod
        def nvmlDeviceGetCurrPcieLinkGeneration(_handle):  # noqa: N802
            return 5

        @staticmethod
        def nvmlDeviceGetCurrPcieLinkWidth(_handle):  # noqa: N802
            raise RuntimeError("not supported")

        @staticmethod
        def nvmlDeviceGetTemperature(_handle, _sensor):  # noqa: N802
            return 41

    monkeypatch.setitem(sys.modules, "pynvml", Nvml)
    properties = SimpleNamespace(
        name="NVIDIA H200", uuid="1111", total_memory=150 << 30, multi_processor_count=132
    )
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _index: properties)
    return asked


def test_energy_and_clocks_are_those_of_the_device_that_torch_means(driver):
    meter = DeviceMeter(CUDA)
    assert driver == ["GPU-1111"]
    with Repeat(meter) as repeat:
        pass
    assert repeat.found["energy_j"] == 2.5
    assert repeat.found["device_state"] == {
        "sm_clock_mhz": 1980, "memory_clock_mhz": 3201, "pcie_generation": 5, "pcie_width": None, "temperature_c": 41,
    }  # fmt: skip


def test_without_nvml_there_is_no_figure(monkeypatch):
    monkeypatch.setitem(sys.modules, "pynvml", None)
    meter = DeviceMeter(CUDA)
    assert meter.joules() is None
    assert meter.state() is None


def test_the_environment_asks_the_driver_about_the_same_device(driver, monkeypatch, tmp_path):
    import calibrate.probe.environment as environment

    commands = []
    monkeypatch.setattr(environment, "_run", lambda *command: commands.append(command) or "H200, 580.1")
    found = describe_environment(CUDA, "fp16", tmp_path)["device"]
    assert found["name"] == "NVIDIA H200"
    assert found["nvidia_smi"] == {"name": "H200", "driver_version": "580.1"}
    assert ("-i", "GPU-1111") in [command[-2:] for command in commands]


def test_the_default_model_follows_from_the_gpu():
    sizes = {
        gpu: CANDIDATES.index(model_for_gpu(settings(model_name="auto"), get_gpu_config_by_name(gpu)))
        for gpu in ("h200", "t4")
    }
    assert sizes["h200"] < sizes["t4"], "a larger and faster device takes a larger model"
    assert model_for_gpu(settings(model_name="auto"), None) == CANDIDATES[-1]


def test_the_default_model_shrinks_where_its_weights_have_to_travel():
    gpu = get_gpu_config_by_name("t4")
    resident = CANDIDATES.index(model_for_gpu(settings(model_name="auto"), gpu))
    offloaded = CANDIDATES.index(
        model_for_gpu(settings(model_name="auto", cpu_offload=True, gen_len=128, loops=9), gpu)
    )
    assert offloaded > resident


def test_a_device_that_is_asked_for_is_the_ranks_own(monkeypatch):
    chosen = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    monkeypatch.setattr("calibrate.probe.devices._tell_deepspeed", lambda _kind: None)
    monkeypatch.setenv("DS_ACCELERATOR", "cpu")
    assert choose_device("auto", 1, 2) == CUDA
    assert chosen == [1]
    assert choose_device("cpu", 1, 2).kind == "cpu"
    with pytest.raises(EnvironmentFailure, match="4 ranks on this machine, but it has 2 CUDA devices"):
        choose_device("cuda", 0, 4)


def test_quantised_fp16_weights_need_the_kernel_on_cuda_and_do_not_exist_on_a_cpu(monkeypatch):
    from deepspeed.accelerator import get_accelerator

    assert needs_kernel("cuda", "fp16", 64)
    assert not needs_kernel("cuda", "fp16", 12)
    assert not needs_kernel("cuda", "bf16", 64)
    assert not needs_kernel("cpu", "fp16", 64)
    assert wanted(cuda=True) == (*wanted(cuda=False), "quantizer")
    every = [torch.float32, torch.bfloat16, torch.float16]
    monkeypatch.setattr(type(get_accelerator()), "supported_dtypes", lambda _self: every)
    assert choose_dtype("auto", Device("cpu", 0)) == "fp16"
    with pytest.warns(UserWarning, match="bf16 is used instead"):
        assert choose_dtype("auto", Device("cpu", 0), quantised=True) == "bf16"
    with pytest.raises(EnvironmentFailure, match="refuses it"):
        choose_dtype("fp16", Device("cpu", 0), quantised=True)


def test_gpu_direct_storage_reaches_deepspeeds_configuration():
    config = get_ds_config(settings(disk_offload=True, use_gds=True), 64, 1 << 20, "fp16", "cuda", "/here")
    assert config["aio"]["use_gds"] is True
    assert config["zero_optimization"]["offload_param"]["pin_memory"] is True


def machine(gpu: str = "t4") -> LocalMachine:
    spec = get_gpu_config_by_name(gpu)
    return LocalMachine(spec, get_host_config_by_name(spec.default_host))


def predicted(run: RunSettings, largest: int = 50272 * 2048):
    model = get_model_config_by_name(run.model_name)
    return predict_run(build_run_scenario(run, model, machine(), "fp16", "cuda", largest), "cuda", 0)


def test_the_prediction_copies_an_offloaded_cache_to_the_gpu_as_the_run_does():
    run = settings(cpu_offload=True, kv_offload=True, batch_size=16)
    found = predicted(run).result
    assert found.scenario.offload.attention_device == "gpu"
    link = found.scenario.host.copies.get("zero_inference.pinned_h2d")
    rate = link.bytes_per_s if link is not None else found.scenario.gpu.pcie_gb_per_s * 1e9
    cache = 2 * 24 * 2048 * 2 * 16 * 512  # keys and values, layers, width, bytes, sequences, prompt
    plain = predicted(run.replace(kv_offload=False)).result
    # 31 steps fetch at least the prompt's keys and values each, and nothing hides them.
    assert found.decode.latency_s - plain.decode.latency_s > 0.9 * 31 * cache / rate


def test_quantised_tables_cost_their_unpacking():
    """The token table is unpacked for the lookup and for the head, each weight as one of a layer is."""
    run = settings(cpu_offload=True, quant_bits=4)
    found = predicted(run).result
    model = found.scenario.model
    layers = 24 * 12 * 2048**2
    tables = 2 * model.vocab_size * 2048
    seconds = found.decode.breakdown_s["dequantisation"]
    gpu = found.scenario.gpu
    rate = gpu.hbm_bandwidth_bytes_per_s * gpu.efficiency.elementwise.memory_efficiency
    assert seconds / 31 * rate / (layers + tables) == pytest.approx(2.8, rel=1e-3)


def test_gpu_memory_that_is_not_there_is_found_before_loading():
    run = settings(model_name="opt-13b")
    with pytest.raises(DoesNotFitError, match="nothing was loaded"):
        check_fit(predicted(run, 50272 * 5120), "cuda", 0.0, 1 << 40)


def test_what_zero_3_fetches_is_counted_by_shard():
    def param(elements: int, shard: int) -> SimpleNamespace:
        one = SimpleNamespace(
            ds_numel=elements, ds_tensor=SimpleNamespace(ds_numel=shard), element_size=lambda: 2
        )
        one.all_gather_coalesced = lambda params, **_more: [p.ds_numel for p in params]
        return one

    table, norm = param(100, 50), param(10, 5)
    model = SimpleNamespace(parameters=lambda: [table, norm, torch.zeros(3)])
    fetches = Fetches().watch(model)
    assert table.all_gather_coalesced([table, norm], quantize=False) == [100, 10]
    table.all_gather_coalesced(iter([table]))  # the head that is the table comes a second time
    assert fetches.own_bytes == 2 * (50 + 5 + 50)
    assert fetches.others_bytes == 2 * (50 + 5 + 50)
