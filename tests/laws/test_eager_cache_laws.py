"""What an engine without kernels of its own adds to a step: copies of the cache, and a host that waits."""

from hypothesis import given
from hypothesis import strategies as st

from llm_perf.analysis.request import InferenceInputs, build_scenario
from llm_perf.analysis.run_facts import RunFacts
from llm_perf.hardware.roofline import p_norm
from llm_perf.systems import system_of
from llm_perf.systems.decode_attention import copies_s_per_token, kv_reads
from llm_perf.systems.forward import Forward
from llm_perf.systems.host_time import exposed_host_s, host_s_per_pass

MODELS = st.sampled_from(["qwen3-8b", "llama-2-7b", "qwen2-72b"])
GPUS = st.sampled_from(["a100-sxm-80gb", "h20", "h200"])
RATES = st.floats(0.1, 10)


def forward_of(constants, **asked):
    facts = RunFacts(constants=tuple(constants.items()))
    scenario = build_scenario(InferenceInputs(system="transformers@4.51", **asked), facts)
    return Forward(scenario, system_of(scenario).constants(scenario))


def copies_of(forward, batch=1):
    (group, _), *_ = forward.groups
    reads = kv_reads(forward.scenario, forward.constants, group.attention, batch)
    return copies_s_per_token(forward.scenario, forward.constants, forward.rates, group.attention, reads)


@given(MODELS, GPUS, RATES, RATES, st.integers(1, 64))
def test_copies_of_the_cache_grow_with_it_and_add_up(model, gpu, append, repeat, batch):
    """Appending and repeating are two kernels, one after the other; each moves every sequence's cache."""
    both, first, second = (
        forward_of(
            {"append_gb_per_s_per_sm_ghz": one, "repeat_gb_per_s_per_sm_ghz": two}, model=model, gpu=gpu
        )
        for one, two in ((append, repeat), (append, 0.0), (0.0, repeat))
    )
    whole = copies_of(both, batch)
    assert abs(whole - copies_of(first, batch) - copies_of(second, batch)) <= 1e-12 * whole
    assert abs(whole - batch * copies_of(both)) <= 1e-9 * whole


@given(MODELS, GPUS, RATES)
def test_no_copy_of_the_cache_is_faster_than_memory(model, gpu, rate):
    """A cache that is written anew is read and written, whatever the multiprocessors could do."""
    forward = forward_of(
        {"append_gb_per_s_per_sm_ghz": 1000 * rate, "repeat_gb_per_s_per_sm_ghz": 0.0}, model=model, gpu=gpu
    )
    (group, _), *_ = forward.groups
    stored = kv_reads(forward.scenario, forward.constants, group.attention, 1).stored
    assert copies_of(forward) * forward.rates.elementwise_bytes_per_s >= 2 * stored * (1 - 1e-12)


@given(MODELS, GPUS, st.floats(1e-4, 1.0))
def test_a_host_that_waits_adds_its_time_and_one_that_runs_ahead_hides_some(model, gpu, device_s):
    """Modules with FP8 weights that wait: device and host in turn. Others take the longer one at least, their sum at most."""
    waits, ahead = (
        forward_of({}, model=model, gpu=gpu, weight_format=name) for name in ("fp8_block", "bf16")
    )
    host_s = host_s_per_pass(waits)
    if waits.scenario.gpu.peak_tflops.get("fp8"):
        assert abs(exposed_host_s(waits, device_s) - host_s) <= 1e-9 * (host_s + device_s)
    took = device_s + exposed_host_s(ahead, device_s)
    longer, sum_s = max(device_s, host_s_per_pass(ahead)), device_s + host_s_per_pass(ahead)
    assert longer * (1 - 1e-9) <= took <= min(sum_s, p_norm(device_s, host_s_per_pass(ahead), 1)) * (1 + 1e-9)
