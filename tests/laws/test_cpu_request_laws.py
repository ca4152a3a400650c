"""Requests on a CPU: what one request takes is what infer says of it, and what a shared step costs."""

import numpy as np
import pytest

from llm_perf.analysis.inference import predict_inference
from llm_perf.analysis.request import InferenceInputs, build_scenario
from llm_perf.config.scenario import Scenario
from llm_perf.requests.limits import Limits
from llm_perf.requests.simulate import rules_of, simulate, step_times
from llm_perf.requests.step_times import StepTimes
from llm_perf.requests.workload import Requests
from llm_perf.systems import system_of
from llm_perf.systems.attention import Chunk
from llm_perf.systems.cpu_forward import CpuForward

HOST = "ryzen-9-7950x"
SYSTEMS = ("llama_cpp", "transformers_serve")


def scenario_of(system: str, **more: object) -> Scenario:
    inputs = InferenceInputs(model="llama-3.2-1b", gpu="none", host=HOST, system=system, **more)
    return build_scenario(inputs)


def times_of(scenario: Scenario, longest: int = 2048) -> StepTimes:
    return step_times(scenario, Limits.of(scenario, rules_of(scenario), longest))


@pytest.mark.parametrize("system", SYSTEMS)
@pytest.mark.parametrize(("prompt", "output"), [(64, 16), (400, 40)])
def test_one_request_takes_what_infer_says(system: str, prompt: int, output: int) -> None:
    scenario = scenario_of(system, prompt_len=prompt, gen_len=output)
    told = predict_inference(scenario)
    found = simulate(scenario, Requests.of(0.0, [prompt], [output]))
    first = float(found.first_token_s[0])
    assert told.decode is not None
    assert float(found.finished_s[0]) - first == pytest.approx(told.decode.latency_s, rel=1e-6)
    # What a server does once per request, and an idle one's wait for others, are no part of a batch.
    beside = rules_of(scenario).gathers_ms * 1e-3
    constants = system_of(scenario).constants(scenario)
    once = 0.0 if system == "transformers_serve" else (constants["prefill_ms"] - constants["step_ms"]) * 1e-3
    assert first == pytest.approx(told.prefill.latency_s + beside + once, rel=0.02)


@pytest.mark.parametrize("system", SYSTEMS)
def test_a_decode_step_costs_what_a_pass_of_the_same_tokens_does(system: str) -> None:
    """Products do not know whether a token is a prompt's: chunks of one token cost what decoding sequences do."""
    scenario = scenario_of(system)
    forward = CpuForward(scenario, system_of(scenario).constants(scenario))
    decode, _ = forward.decode_step(4.0)
    read = forward.prefill(4.0, 1.0)
    for part in ("cpu_layers", "lm_head"):
        assert decode.parts_s[part] == pytest.approx(read.parts_s[part])


def test_packed_attention_grows_with_the_square_of_the_sequences() -> None:
    """Of sequences side by side each token meets the keys of all: the square of the pairs, as many copies."""
    packed, plain = (times_of(scenario_of(system)) for system in ("transformers_serve", "llama_cpp"))

    def attention_s(times: StepTimes, batch: int) -> float:
        return times.decode_s(batch, 1000.0) - times.decode_s(batch, 0.0)

    assert attention_s(plain, 4) == pytest.approx(4 * attention_s(plain, 1), rel=0.01)
    # Reads grow with the sequences, pairs with their square: what is beyond twice the half grows fourfold.
    beyond = [attention_s(packed, 2 * size) - 2 * attention_s(packed, size) for size in (2, 4, 8)]
    assert beyond[0] > 0
    assert [beyond[1] / beyond[0], beyond[2] / beyond[1]] == pytest.approx([4.0, 4.0])
    # Prompts that share a step cost more than one after the other where they are packed, and the same where not.
    for times, more in ((packed, True), (plain, False)):
        forward = times.forward
        assert isinstance(forward, CpuForward)
        one, both = (float(forward.chunks_s([(300, 0)] * count, 0, 0.0)) for count in (1, 2))
        assert (both > 2.5 * one) if more else (both == pytest.approx(2 * one))
        alike = float(forward.chunks_s([(300, 0)], 0, 0.0, 2.0))
        assert alike == pytest.approx(both)


def test_a_mixed_pass_is_the_sum_of_its_parts_where_nothing_is_shared() -> None:
    scenario = scenario_of("llama_cpp")
    forward = CpuForward(scenario, system_of(scenario).constants(scenario))
    costs, attention = forward.mixed_step((Chunk(1.0, 100.0, 50.0),), 0.0, 1.0)
    alone = forward.prefill(1.0, 100.0, 50.0)
    assert costs.total_s == pytest.approx(alone.total_s)
    assert attention == []


def test_an_idle_engine_gathers_and_one_frontend_reads_one_after_another() -> None:
    """Four requests within a millisecond share llama-server's first batch; transformers' loop lets the first go alone."""
    sent = np.array([0.0, 2e-4, 4e-4, 6e-4])
    gathered = simulate(scenario_of("llama_cpp", max_num_seqs=8), Requests.of(sent, [64] * 4, [4] * 4))
    assert np.ptp(gathered.first_token_s) == pytest.approx(0.0, abs=1e-9)
    read = simulate(scenario_of("transformers_serve"), Requests.of(sent, [64] * 4, [4] * 4))
    assert read.first_token_s[1] > read.first_token_s[0]
    assert len(np.unique(read.first_token_s)) == 2  # the others came while the first was read


def test_a_step_has_no_more_sequences_than_tokens() -> None:
    scenario = scenario_of("transformers_serve", max_num_batched_tokens=16)
    limits = Limits.of(scenario, rules_of(scenario), 100)
    assert (limits.step_tokens, limits.max_sequences) == (16, 16)


def test_a_model_that_host_memory_does_not_hold_is_not_simulated(capsys: pytest.CaptureFixture[str]) -> None:
    from llm_perf.cli.main import run

    command = ["simulate", "--model", "llama-3.1-405b", "--gpu", "none", "--host", HOST, "--concurrency", "2"]
    for system in SYSTEMS:
        code = run(
            [*command, "--system", system, "--num-requests", "2", "--prompt-len", "32", "--gen-len", "8"]
        )
        assert code in (2, 3)
        assert len(capsys.readouterr().err.strip().splitlines()) == 1
