"""Laws of accelerate and petals: bounds, monotony, limit cases, and arrays that mean what their elements mean."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llm_perf.analysis.inference import predict_inference
from llm_perf.analysis.request import InferenceInputs, build_scenario
from llm_perf.analysis.sweep import sweep_inference
from llm_perf.config import OffloadConfig, ParallelismConfig, Shares
from llm_perf.config.dtype import DtypeConfig
from llm_perf.config.scenario import Scenario
from llm_perf.errors import SpecError
from llm_perf.hardware.transfer import host_link_bytes_per_s
from llm_perf.systems import Load, get_system
from llm_perf.systems.base import MemoryParts
from llm_perf.systems.footprint import (
    embedding_bytes,
    head_bytes,
    layer_weight_bytes,
    layers_weight_bytes,
    model_weight_bytes,
)
from llm_perf.systems.hybrid import used_share
from tests.laws import strategies as draw

EXAMPLES = settings(max_examples=40)
ROUNDING = 1e-9

factors = st.floats(1.0, 100.0)
shares = st.sampled_from(
    [Shares.on("gpu"), Shares.on("cpu"), Shares.on("nvme"), Shares(gpu=0.25, cpu=0.5, nvme=0.25)]
)


@st.composite
def accelerate_scenarios(draw_, weights=shares):
    model = draw_(draw.models())
    return Scenario(
        model=model,
        gpu=draw_(draw.gpus()),
        host=draw_(draw.hosts()),
        system="accelerate",
        parallelism=ParallelismConfig(pp_size=draw_(st.integers(1, min(4, model.num_layers)))),
        workload=draw_(draw.workloads()),
        offload=OffloadConfig(weights=draw_(weights)),
        allow_long_context=True,
    )


@st.composite
def petals_scenarios(draw_, latency=None):
    model = draw_(draw.models())
    constants = (
        ("hop_latency_ms", draw_(st.floats(0.1, 200)) if latency is None else latency),
        ("network_gb_per_s", draw_(st.floats(0.01, 25))),
        ("parallel_clients", draw_(st.sampled_from([1.0, 2.0, 6.0]))),
        ("server_ms_per_layer", draw_(st.floats(0.0, 10))),
    )
    return Scenario(
        model=model,
        gpu=draw_(draw.gpus()),
        host=draw_(draw.hosts()),
        system="petals",
        dtype=draw_(st.sampled_from([DtypeConfig(), DtypeConfig(weight_bits=8)])),
        parallelism=ParallelismConfig(pp_size=draw_(st.integers(1, min(24, model.num_layers)))),
        workload=draw_(draw.workloads()),
        allow_long_context=True,
        constants=constants,
    )


def phases(scenario, **changes):
    found = draw.evaluate(scenario, **changes)
    return found.prefill, found.decode


def assert_no_faster(slower, faster):
    for left, right in zip(phases(slower), phases(faster), strict=True):
        assert left.latency_s >= right.latency_s * (1 - ROUNDING)


# -- bounds -----------------------------------------------------------------------------------------------------


@EXAMPLES
@given(accelerate_scenarios())
def test_accelerate_takes_as_long_as_its_streams_one_after_another(scenario):
    """Nothing overlaps: copies and disk reads add up, and neither is faster than the link.

    Of a mixture, at least the experts that one token is sent to are copied.
    """
    weights = layers_weight_bytes(scenario) * used_share(scenario, 1.0)
    away = 1 - scenario.offload.weights.gpu
    for phase, passes in zip(phases(scenario), (1, scenario.workload.gen_len - 1), strict=True):
        assert phase.latency_s >= (phase.busy_s.get("pcie", 0) + phase.busy_s.get("nvme", 0)) * (1 - ROUNDING)
        link = host_link_bytes_per_s(scenario.gpu, scenario.host)
        assert phase.latency_s >= passes * weights * away / link * (1 - ROUNDING)


@EXAMPLES
@given(petals_scenarios())
def test_petals_is_never_faster_than_its_slowest_server_or_one_clients_way(scenario):
    prefill, decode = phases(scenario)
    steps = scenario.workload.gen_len - 1
    constants = dict(scenario.constants)
    clients = min(constants["parallel_clients"], scenario.workload.batch_size)
    layers, servers = scenario.model.num_layers, scenario.parallelism.pp_size
    least = layers * constants["server_ms_per_layer"] * 1e-3
    fullest = -(-layers // servers) / layers
    messages = 2 * servers * constants["hop_latency_ms"] * 1e-3 if servers > 1 else 0
    for phase, passes in ((prefill, 1), (decode, steps)):
        assert phase.latency_s >= passes * max(clients * fullest * least, least + messages) * (1 - ROUNDING)


@EXAMPLES
@given(st.one_of(accelerate_scenarios(), petals_scenarios()))
def test_parts_add_up_to_the_latency_and_none_is_negative(scenario):
    for phase in phases(scenario):
        assert sum(phase.parts_s.values()) == pytest.approx(phase.latency_s, rel=1e-9)
        assert min(phase.parts_s.values()) >= -1e-12 * phase.latency_s


# -- limit cases ------------------------------------------------------------------------------------------------


@EXAMPLES
@given(accelerate_scenarios(st.just(Shares.on("gpu"))))
def test_accelerate_with_everything_on_the_gpu_is_transformers(scenario):
    alone = scenario.replace(
        system="transformers", system_version="4.20"
    )  # which accelerate's constants extend
    for left, right in zip(phases(scenario), phases(alone), strict=True):
        assert left.latency_s == pytest.approx(right.latency_s, rel=1e-12)


@EXAMPLES
@given(petals_scenarios(), st.sampled_from([2, 3, 5]))
def test_one_client_cannot_use_more_than_one_server_at_a_time(scenario, servers):
    """Without a network more servers neither help nor hurt a single client."""
    constants = dict(scenario.constants) | {"parallel_clients": 1.0, "messages_per_server": 0.0}
    constants["network_gb_per_s"] = 1e9
    alone = scenario.replace(constants=tuple(constants.items()), parallelism=ParallelismConfig())
    servers = min(servers, scenario.model.num_layers)
    split = alone.replace(
        parallelism=ParallelismConfig(pp_size=servers),
        constants=tuple((constants | {"client_bytes_per_logit_weight": 0.0}).items()),
    )
    for left, right in zip(phases(split), phases(alone), strict=True):
        assert left.latency_s == pytest.approx(right.latency_s, rel=1e-6)


# -- faster is never slower -------------------------------------------------------------------------------------


@EXAMPLES
@given(accelerate_scenarios(), factors)
def test_a_faster_pcie_link_never_hurts_accelerate(scenario, factor):
    gpu = scenario.gpu.replace(pcie_gb_per_s=scenario.gpu.pcie_gb_per_s * factor)
    assert_no_faster(scenario, scenario.replace(gpu=gpu))


@EXAMPLES
@given(accelerate_scenarios(), factors)
def test_a_faster_disk_never_hurts_accelerate(scenario, factor):
    disk = scenario.host.disk
    faster = disk.replace(stated_read_gb_per_s=disk.stated_read_gb_per_s * factor)
    assert_no_faster(scenario, scenario.replace(host=scenario.host.replace(disk=faster)))


@EXAMPLES
@given(accelerate_scenarios(st.just(Shares.on("cpu"))))
def test_accelerate_from_disk_is_never_faster_than_from_memory(scenario):
    from_disk = scenario.replace(offload=OffloadConfig(weights=Shares.on("nvme")))
    assert_no_faster(from_disk, scenario)


@EXAMPLES
@given(petals_scenarios(), factors, st.sampled_from(["hop_latency_ms", "network_gb_per_s"]))
def test_a_faster_network_never_hurts_petals(scenario, factor, what):
    constants = dict(scenario.constants)
    constants[what] = constants[what] / factor if what == "hop_latency_ms" else constants[what] * factor
    assert_no_faster(scenario, scenario.replace(constants=tuple(constants.items())))


# -- arrays -----------------------------------------------------------------------------------------------------


@EXAMPLES
@given(st.one_of(accelerate_scenarios(st.one_of(shares, st.none())), petals_scenarios()))
def test_arrays_give_what_their_elements_give(scenario):
    system = get_system(scenario.system)
    batches, prompts = np.array([1.0, 6.0, 300.0]), np.array([7.0, 512.0, 2000.0])
    whole = system.evaluate(scenario, Load(batches, prompts, 33.0))
    for index, (batch, prompt) in enumerate(zip(batches, prompts, strict=True)):
        one = system.evaluate(scenario, Load(float(batch), float(prompt), 33.0))
        for left, right in ((whole.prefill, one.prefill), (whole.decode, one.decode)):
            value = np.broadcast_to(left.latency_s, batches.shape)[index]
            assert value == pytest.approx(right.latency_s, rel=1e-9)
        for tier in ("gpu", "cpu", "nvme"):
            total = np.broadcast_to(getattr(whole.memory, tier).total_bytes, batches.shape)[index]
            assert total == pytest.approx(getattr(one.memory, tier).total_bytes, rel=1e-9, abs=1)


# -- placement --------------------------------------------------------------------------------------------------


@EXAMPLES
@given(accelerate_scenarios(st.none()))
def test_the_tiers_are_filled_in_order_and_hold_every_byte(scenario):
    found = draw.evaluate(scenario)
    weights = found.placement.weights
    assert weights.gpu + weights.cpu + weights.nvme == pytest.approx(1)
    assert min(weights.gpu, weights.cpu, weights.nvme) >= 0
    if weights.gpu == 1:
        return
    if weights.nvme > 0:
        assert found.memory.cpu.total_bytes == pytest.approx(found.memory.cpu.capacity_bytes, rel=1e-6)
    resident = get_system("transformers@4.20").memory(scenario, draw.load_of(scenario), found.placement)
    assert not resident.gpu.fits


# -- a GPU that is filled to the byte -------------------------------------------------------------------------------


FILLED = {
    "model": st.sampled_from(["opt-66b", "opt-30b", "llama-2-70b", "bloom", "mixtral-8x7b"]),
    "gpu": st.sampled_from(["v100-pcie-16gb", "t4", "rtx-3090", "a100-sxm-40gb"]),
    "batch": st.integers(1, 32),
    "prompt_len": st.integers(1, 1024),
    "gen_len": st.integers(1, 512),
}


@EXAMPLES
@given(**FILLED)
def test_what_the_gpu_is_filled_with_fits_in_it(model, gpu, batch, prompt_len, gen_len):
    """Accelerate fills the GPU to its last byte; the sum of the parts is the capacity, whatever a float's last digit says."""
    inputs = {"model": model, "gpu": gpu, "host": "dgx-2", "system": "accelerate", "allow_long_context": True}
    lengths = {"batch_size": batch, "prompt_len": prompt_len, "gen_len": gen_len}
    result = predict_inference(build_scenario(InferenceInputs(**inputs, **lengths)))
    parts, weights = result.memory.gpu, result.placement.weights
    if 0 < weights.gpu < 1:
        assert parts.total_bytes == pytest.approx(parts.capacity_bytes, rel=1e-12)
        assert parts.fits
        assert parts.shortfall_bytes == 0
    assert " 0.0 GiB missing" not in (result.reason or "")
    swept = sweep_inference(result.scenario, batch, prompt_len, gen_len)
    assert bool(swept.feasible[0]) == result.feasible


def test_a_byte_that_is_missing_is_missing():
    """What is a sum's rounding ends below one byte."""
    short = MemoryParts(1e11, 0.0, 0.0, 0.0, 0.0, 1e11 - 1)
    assert not short.fits
    assert short.shortfall_bytes == 1
    assert MemoryParts(1e11, 0.0, 0.0, 0.0, 0.0, 1e11 - 2e-5).fits


@pytest.mark.parametrize("field", ["attention_weights", "mlp_weights", "embedding_weights", "projected"])
def test_a_placement_that_nothing_reads_is_refused_with_what_is_read(field):
    with pytest.raises(
        SpecError, match=f"unknown field '{field}'; accepted are weights, kv_cache, activations"
    ) as error:
        OffloadConfig(**{field: "cpu"})
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(("model", "bits", "gib"), [("llama-3.1-70b", None, 4), ("llama-3.1-405b", 4, 8)])
def test_airllm_holds_one_module_at_a_time_and_reads_every_byte(
    model: str, bits: int | None, gib: int
) -> None:
    """A 70B on 4 GB, a 405B on 8, as its README says: the largest of token table, layer and head, and all on the disk."""
    inputs = InferenceInputs(model=model, gpu="rtx-4060-8gb", host="desktop-gen4", system="airllm", quant_bits=bits,
                             prompt_len=64, gen_len=8)  # fmt: skip
    scenario = build_scenario(inputs)
    used = predict_inference(scenario).memory
    assert used.gpu.total_bytes < gib * 2**30
    assert used.nvme.weights_bytes == pytest.approx(model_weight_bytes(scenario), rel=1e-6)
    largest = max(*layer_weight_bytes(scenario), embedding_bytes(scenario), head_bytes(scenario))
    held = used.gpu.weights_bytes + used.gpu.buffers_bytes
    assert held >= largest
    assert held < 0.1 * used.nvme.weights_bytes
