"""Laws of lia: the faster of two ways, never faster than either's slowest resource."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llm_perf.config.scenario import Scenario
from llm_perf.systems import Load, get_system
from llm_perf.systems.footprint import model_weight_bytes
from tests.laws import strategies as draw

EXAMPLES = settings(max_examples=40)


@st.composite
def lia_scenarios(draw_):
    host = draw_(draw.hosts()).replace(
        cpu_matmul_tflops_small_batch=draw_(st.floats(0.5, 10)),
        cpu_matmul_tflops_large_batch=draw_(st.floats(10, 40)),
    )
    return Scenario(
        model=draw_(draw.models()),
        gpu=draw_(draw.gpus()),
        host=host,
        system="lia",
        workload=draw_(draw.workloads()),
        allow_long_context=True,
    )


@EXAMPLES
@given(lia_scenarios())
def test_a_pass_reads_all_weights_from_memory_or_over_the_link(scenario):
    found = draw.evaluate(scenario)
    host = scenario.host
    bandwidth = host.memory_bandwidth_gb_per_s_per_socket * 1e9
    link = min(x for x in (scenario.gpu.pcie_bytes_per_s, host.pcie_bytes_per_s) if x)
    floor = model_weight_bytes(scenario) / max(bandwidth, link)
    assert found.prefill.latency_s >= floor * (1 - 1e-9)
    assert found.decode.latency_s >= (scenario.workload.gen_len - 1) * floor * (1 - 1e-9)


@EXAMPLES
@given(lia_scenarios(), st.floats(1, 100))
def test_a_faster_cpu_or_link_never_hurts(scenario, factor):
    host, gpu = scenario.host, scenario.gpu
    before = draw.evaluate(scenario)
    faster_cpu = host.replace(
        cpu_matmul_tflops_small_batch=host.cpu_matmul_tflops_small_batch * factor,
        cpu_matmul_tflops_large_batch=host.cpu_matmul_tflops_large_batch * factor,
    )
    for after in (
        draw.evaluate(scenario.replace(host=faster_cpu)),
        draw.evaluate(scenario.replace(gpu=gpu.replace(pcie_gb_per_s=gpu.pcie_gb_per_s * factor))),
    ):
        assert after.prefill.latency_s <= before.prefill.latency_s * (1 + 1e-9)
        assert after.decode.latency_s <= before.decode.latency_s * (1 + 1e-9)


@EXAMPLES
@given(lia_scenarios())
def test_parts_add_up_and_arrays_mean_their_elements(scenario):
    system = get_system("lia")
    batches = np.array([1.0, 8.0, 640.0])
    whole = system.evaluate(scenario, Load(batches, 100.0, 33.0))
    for index, batch in enumerate(batches):
        one = system.evaluate(scenario, Load(float(batch), 100.0, 33.0))
        for left, right in ((whole.prefill, one.prefill), (whole.decode, one.decode)):
            assert np.broadcast_to(left.latency_s, 3)[index] == pytest.approx(right.latency_s, rel=1e-9)
            assert sum(right.parts_s.values()) == pytest.approx(right.latency_s, rel=1e-9)
            assert min(right.parts_s.values()) >= 0
