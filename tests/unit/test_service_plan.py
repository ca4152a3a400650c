"""A plan over requests: against brute force, the question that it was made for, targets, and the start command."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace

import pytest
from rich.text import Text

from llm_perf.analysis.request import InferenceInputs
from llm_perf.analysis.simulation import ServiceInputs, simulation_of
from llm_perf.config.loading import checkpoint_of, published_models
from llm_perf.errors import DoesNotFitError, SpecError
from llm_perf.report.service_json import service_object
from llm_perf.report.service_text import service_answer, service_sections
from llm_perf.report.simulate_text import may_not_keep_up
from llm_perf.report.start_command import start_command
from llm_perf.requests import simulate
from llm_perf.search.misses import Misses
from llm_perf.search.plan import PlanQuestion, plan
from llm_perf.search.service import _Search, plan_service
from llm_perf.search.service_options import ClosedForm
from llm_perf.search.targets import Target, parse_targets

QUESTION = PlanQuestion(
    model="llama-3.1-70b", weight_format="fp8", kv_format="fp8", prompt_len=1024, gen_len=1024,
    gpus=("h100-sxm-80gb",), target="tpot<50ms, ttft<1s",
)  # fmt: skip


def test_a_measured_service_takes_two_gpus_and_not_four():
    """vLLM meets both on 2 H100 with 64 in flight: TTFT 0.415 s, TPOT 28.8 ms."""
    (best,) = plan_service(QUESTION.replace(concurrency=64)).best
    assert best.num_gpus == 2
    assert best.inputs.tp_size == 2
    assert best.simulation.summary.tpot_s.mean == pytest.approx(0.0288, rel=0.1)
    (batch,) = plan(QUESTION).best
    assert batch.num_gpus == 2


RATE = PlanQuestion(
    model="llama-3.1-8b", gpus=("a100-sxm-80gb", "l4-24gb"), prompt_len=512, gen_len=128, rate=12.0, max_gpus=8,
    target="p95 ttft<500ms, p95 tpot<60ms", objective="gpus",
)  # fmt: skip


def test_nothing_smaller_serves_the_rate():
    """Brute force over ranks and engines: each simulated by itself, none with fewer GPUs meets the targets."""
    answer = plan_service(RATE, top=2)
    least: dict[str, float] = {}
    for gpu in RATE.gpus:
        for tp in (1, 2, 4, 8):
            for engines in range(1, RATE.max_gpus // tp + 1):
                deployment = InferenceInputs(model=RATE.model, gpu=gpu, system="vllm", tp_size=tp)
                traffic = ServiceInputs(
                    rate=12.0 / engines, num_requests=600, prompt_len=512, gen_len=128, seed=0
                )
                if tp * engines >= least.get(gpu, math.inf):
                    break
                found = simulation_of(deployment, traffic)
                if found.summary.ttft_s.p95 < 0.5 and found.summary.tpot_s.p95 < 0.06:
                    keeps_up = found.capacity is not None and found.capacity.keeps_up
                    if keeps_up:
                        least[gpu] = tp * engines
    assert [one.inputs.gpu.lower() for one in answer.best] == list(RATE.gpus)
    for one in answer.best:
        found, fewest = one.simulation.summary, least[one.inputs.gpu.lower()]
        assert found.ttft_s.p95 < 0.5
        assert found.tpot_s.p95 < 0.06
        # Pools that read prompts beside pools that generate may do with fewer than engines that do both.
        assert one.num_gpus < fewest if one.simulation.traffic.prefill_replicas else one.num_gpus == fewest


def serves(inputs: InferenceInputs, traffic: ServiceInputs, question: PlanQuestion) -> bool:
    """Whether a simulation by itself meets the targets of a question and keeps up with its rate."""
    try:
        found = simulation_of(inputs, traffic)
    except (SpecError, DoesNotFitError):
        return False
    met = all(
        target.met(getattr(found.summary, target.of_requests).percentile(target.figure))
        for target in question.targets
    )
    known = found.capacity
    return bool(met) and (known is None or known.keeps_up is not False)


def divisions(question: PlanQuestion, gpus: int) -> Iterator[tuple[dict[str, int], int]]:
    """Ranks of an engine and how many engines, of so many GPUs in all."""
    for tp in (1, 2, 4, 8):
        for pp in (1, 2, 4):
            if gpus % (tp * pp) == 0:
                yield {"tp_size": tp, "pp_size": pp}, gpus // (tp * pp)


@pytest.mark.parametrize(
    ("gpu", "target", "rate"),
    [
        ("rtx-5090", "p95 ttft<300ms, p95 tpot<15ms", 30.0),
        ("a100-sxm-40gb", "p95 ttft<300ms, p95 tpot<15ms", 30.0),
        ("l4-24gb", "p95 tpot<70ms", 3.0),
        ("h100-sxm-80gb", "p95 ttft<60ms, p95 tpot<12ms", 60.0),
    ],
)
def test_no_fewer_gpus_do_in_any_division_nor_as_pools(gpu, target, rate):
    question = RATE.replace(gpus=(gpu,), target=target, rate=rate, max_gpus=8)
    (best,) = plan_service(question).best
    common = {"num_requests": 600, "prompt_len": "512", "gen_len": "128"}
    for gpus in range(1, best.num_gpus):
        for ranks, engines in divisions(question, gpus):
            inputs = InferenceInputs(model=question.model, gpu=gpu, system="vllm", **ranks)
            for cap in (None, 256, 128, 64, 32, 16, 8):
                asked = inputs.replace(max_num_seqs=cap)
                assert not serves(asked, ServiceInputs(rate=rate / engines, **common), question)
            for reading in range(1, engines) if ranks["pp_size"] == 1 else ():
                pools = {
                    "replicas": engines - reading,
                    "prefill_replicas": reading,
                    "pools_on_one_node": True,
                }
                sent = min(600 * max(reading, engines - reading), 1500)
                assert not serves(
                    inputs, ServiceInputs(rate=rate, **common | {"num_requests": sent}, **pools), question
                )
    # What is answered does, as its own command simulates it.
    assert serves(best.inputs, best.simulation.traffic, question)


LARGE = PlanQuestion(
    model="llama-3.3-70b", weight_format="fp8", prompt_len=1500, gen_len=300, target="p95 ttft<2s", gpus=("l40s",),
    system="vllm",
)  # fmt: skip


@pytest.mark.parametrize(("rate", "most", "gpus"), [(1.0, 4, 4), (5.0, 20, 16)])
def test_more_stages_than_hold_the_model_serve_with_fewer_gpus(rate, most, gpus):
    """On PCIe, where ranks wait for one another: a batch is no faster for stages, but requests keep all of them busy."""
    question = LARGE.replace(rate=rate, max_gpus=most, pools=False)
    (best,) = plan_service(question).best
    assert best.num_gpus == gpus
    assert best.inputs.pp_size == 4
    assert serves(best.inputs, best.simulation.traffic, question)


@pytest.mark.parametrize("rate", [1.0, 3.0])
def test_no_fewer_gpus_do_in_any_ranks_and_stages_of_a_large_model(rate):
    question = LARGE.replace(rate=rate, max_gpus=16, pools=False)
    (best,) = plan_service(question).best
    common = {"num_requests": 600, "prompt_len": "1500", "gen_len": "300"}
    for gpus in range(2, best.num_gpus, 2):
        for ranks, engines in divisions(question, gpus):
            inputs = InferenceInputs(
                model=question.model, gpu="l40s", system="vllm", weight_format="fp8", **ranks
            )
            assert not serves(inputs, ServiceInputs(rate=rate / engines, **common), question)


def test_of_what_costs_the_same_the_best_is_chosen():
    """By its share of the limits: of 4 H100, whatever is the first that meets them."""
    question = LARGE.replace(gpus=("h100-sxm-80gb",), rate=5.0, max_gpus=4)
    (best,) = plan_service(question).best
    assert best.num_gpus == 4
    common = {"num_requests": 600, "prompt_len": "1500", "gen_len": "300"}
    others = []
    for ranks, engines in divisions(question, 4):
        inputs = InferenceInputs(
            model=question.model, gpu="h100-sxm-80gb", system="vllm", weight_format="fp8", **ranks
        )
        traffic = ServiceInputs(rate=5.0 / engines, **common)
        if serves(inputs, traffic, question):
            others.append(simulation_of(inputs, traffic).summary.ttft_s.p95)
    assert len(others) > 2
    assert best.simulation.summary.ttft_s.p95 == min(others)


def test_the_first_line_says_where_the_slow_end_misses_a_target():
    question = QUESTION.replace(concurrency=None, rate=1.0, gpus=("h100-sxm-80gb",), target="p95 ttft<10s")
    loose = plan_service(question)
    (best,) = loose.best
    (target,) = question.targets
    _, high = best.simulation.interval.ends("ttft_s", "p95")
    assert best.figure(target) < high < target.limit
    assert service_answer(loose).fits[0].startswith("yes.")
    middle = math.sqrt(best.figure(target) * high)
    tight = replace(loose, question=question.replace(target=f"p95 ttft<{1e3 * middle:.0f}ms"))
    assert service_answer(tight).fits[0].startswith("as predicted, but it may miss a target.")


def test_an_engine_may_hold_more_than_the_largest_batch_that_was_evaluated():
    """Sizes go up by half: of 12 and 16, 15 may fit. No engine serves more than what the search begins with."""
    search = _Search(LARGE.replace(rate=40.0, max_gpus=8))
    search.pool.fill()
    options = [one for one in search.pool.divisions() if one[0].scenario.parallelism.num_gpus in (2, 4)]
    assert len(options) > 2
    for structure, columns in options:
        sizes = {name: structure.inputs[name] for name in ("tp_size", "pp_size") if name in structure.inputs}
        inputs = InferenceInputs(model=LARGE.model, gpu="l40s", system="vllm", weight_format="fp8", **sizes)
        traffic = ServiceInputs(rate=40.0, num_requests=100, prompt_len="1500", gen_len="300")
        most = simulation_of(inputs, traffic).capacity.requests_per_s
        assert (search.closed_form.fewest(structure, columns) - 1) * most < 40.0
        last = int(columns["fits"].nonzero()[0][-1])
        in_flight = int(search.pool.batches[last + 1]) - 1
        closed = ClosedForm(LARGE.replace(concurrency=in_flight), search.pool, None, lengths_differ=False)
        assert closed.fewest(structure, columns) == 1


@pytest.mark.parametrize(
    ("gpu", "target", "rate"),
    [
        ("rtx-4090", "p95 ttft<300ms, p95 tpot<20ms", 1.0),
        ("rtx-4090", "p50 tpot<30ms, p99 ttft<1000ms", 10.0),
        ("l4-24gb", "tpot<60ms", 4.0),
        ("a100-sxm-80gb", "p50 tpot<15ms, p99 ttft<4000ms", 10.0),
    ],
)  # fmt: skip
def test_no_number_of_sequences_at_once_makes_one_gpu_do(gpu, target, rate):
    """Drawn at random: of 38 questions whose answers were compared so, none had one that the plan missed."""
    question = RATE.replace(gpus=(gpu,), target=target, rate=rate, max_gpus=2)
    (best,) = plan_service(question).best
    assert best.num_gpus == 2
    traffic = ServiceInputs(rate=rate, num_requests=600, prompt_len="512", gen_len="128")
    inputs = InferenceInputs(model=question.model, gpu=gpu, system="vllm")
    for cap in (None, 256, 192, 128, 96, 64, 48, 32, 24, 16, 12, 8, 6, 4):
        assert not serves(inputs.replace(max_num_seqs=cap), traffic, question)


def test_pools_are_chosen_where_they_take_fewer_gpus():
    """Prompts read elsewhere leave decoding alone: two and two engines instead of many that do both."""
    question = RATE.replace(
        gpus=("rtx-5090",), target="p95 ttft<300ms, p95 tpot<15ms", rate=30.0, max_gpus=16
    )
    (pools,), (plain,) = plan_service(question).best, plan_service(question.replace(pools=False)).best
    assert pools.reading > 0
    assert plain.reading == 0
    assert pools.num_gpus < plain.num_gpus
    found = service_object(plan_service(question))["best"][0]
    assert "NixlConnector" in found["start_command"]
    assert "NixlConnector" in found["start_command_of_readers"]
    assert found["num_gpus"] == found["engines"] + found["reading_engines"]


def test_fewer_sequences_at_once_are_chosen_where_decoding_is_too_slow():
    question = RATE.replace(
        rate=None, concurrency=256, gpus=("h100-sxm-80gb",), target="tpot<12ms", max_gpus=1
    )
    (best,) = plan_service(question).best
    most = best.inputs.max_num_seqs
    assert most is not None
    traffic = best.simulation.traffic
    for other, meets in ((most, True), (2 * most, False), (None, False)):
        assert serves(best.inputs.replace(max_num_seqs=other), traffic, question) is meets
    assert f"--max-num-seqs {most}" in service_object(plan_service(question))["best"][0]["start_command"]


def test_the_first_line_does_not_hide_that_a_plan_may_not_keep_up():
    found = plan_service(
        QUESTION.replace(concurrency=None, rate=5.0, gpus=("b200-180gb",), target="p95 ttft<1s")
    )
    answer, shown = service_answer(found), found.best[0].simulation
    assert answer.fits[0].startswith(
        "as predicted, but it may not keep up" if may_not_keep_up(shown) else "yes"
    )
    assert may_not_keep_up(shown) == ("it may not keep up" in answer.sure[0])


def test_what_is_shown_is_what_simulate_says():
    """Load, cost and energy have one number each: that of the command that is printed."""
    (best,) = plan_service(RATE.replace(gpus=("l4-24gb",))).best
    again = simulation_of(best.inputs, best.simulation.traffic)
    assert best.load == again.capacity.load
    assert best.values["cost_per_million_tokens"] == again.cost_per_million_tokens
    assert best.values["energy_j_per_token"] == again.energy_j_per_token


def test_every_answer_has_its_interval():
    found = service_object(plan_service(RATE, top=2))["best"]
    assert len(found) == 2
    for one in found:
        low, high = one["interval"]["ttft_s"]["p95"]
        assert low <= one["simulated"]["ttft_s"]["p95"] <= (high or math.inf)


def test_a_higher_rate_takes_no_fewer_gpus():
    asked = RATE.replace(gpus=("a100-sxm-80gb",), max_gpus=16)
    gpus = [plan_service(asked.replace(rate=rate)).best[0].num_gpus for rate in (2.0, 10.0, 40.0)]
    assert gpus == sorted(gpus)
    assert gpus[-1] > gpus[0]


def test_what_meets_nothing_names_the_nearest():
    answer = plan_service(RATE.replace(target="p95 tpot<1ms"))
    assert answer.best == ()
    assert answer.nearest is not None
    assert not answer.nearest.meets


TOO_FAST = RATE.replace(gpus=("l4-24gb",), rate=60.0, target="p95 ttft<300ms, p95 tpot<60ms")


def test_what_a_target_is_missed_by_is_known_though_simulations_ended_early(monkeypatch):
    """Of a rate that overwhelms every division; each was simulated to its end, and nothing else is said."""
    answer = plan_service(TOO_FAST)
    monkeypatch.setattr("llm_perf.search.service.Misses", lambda *_: None)
    whole = plan_service(TOO_FAST)
    assert not answer.best
    assert answer.nearest.simulation.summary.running == 0
    assert answer.nearest.simulation.summary == whole.nearest.simulation.summary
    assert (answer.nearest.engines, answer.simulated) == (whole.nearest.engines, whole.simulated)


def test_a_simulation_ends_where_its_target_is_missed_for_certain():
    deployment = InferenceInputs(model=RATE.model, gpu="l4-24gb", system="vllm")
    traffic = ServiceInputs(rate=60.0, num_requests=600, prompt_len=512, gen_len=128)
    targets = parse_targets(TOO_FAST.target)
    early, whole = (simulation_of(deployment, traffic, ends_early=ends) for ends in (Misses(targets), None))
    assert early.summary.running > 0
    assert early.summary.steps < whole.summary.steps / 2
    assert simulation_of(deployment, traffic, ends_early=Misses(())).summary == whole.summary


def test_tables_of_steps_are_made_once_for_engines_that_are_simulated_again(monkeypatch):
    made = []
    monkeypatch.setattr(simulate, "_recent", [])
    monkeypatch.setattr(
        simulate, "step_times", lambda *args, once=simulate.step_times, **more: made.append(1) or once(*args, **more)
    )  # fmt: skip
    deployment = InferenceInputs(model=RATE.model, gpu="a100-sxm-80gb", system="vllm")
    traffic = ServiceInputs(rate=4.0, num_requests=40, prompt_len=512, gen_len=128)
    found = simulation_of(deployment, traffic)
    assert found.capacity.keeps_up
    assert found.interval is not None
    assert len(made) == 1
    other = simulation_of(deployment.replace(max_num_seqs=2), traffic)
    assert other.summary.ttft_s.mean > found.summary.ttft_s.mean
    assert len(made) == 2


def test_requests_of_one_token_have_no_tpot_and_no_nan():
    answer = plan_service(RATE.replace(gpus=("l4-24gb",), gen_len=1, target="tpot<1us"))
    words = "\n".join(part.plain for part in service_sections(answer).values() if isinstance(part, Text))
    assert "none of these requests has one" in words
    assert "nan" not in words


def test_a_file_is_planned_for_as_it_comes(tmp_path):
    file = tmp_path / "r.csv"
    rows = [f"{index / 4},{100 + index},{50}" for index in range(200)]
    file.write_text("arrival_s,prompt_tokens,output_tokens\n" + "\n".join(rows))
    answer = plan_service(RATE.replace(rate=None, requests=str(file), gpus=("a100-sxm-80gb",)))
    assert answer.best[0].num_gpus == 1
    assert answer.question.prompt_len == 200
    assert answer.best[0].simulation.summary.completed == 200


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"concurrency": 4}, "exclude each other"),
        ({"batching": "static"}, "--batching static"),
        ({"system": "flexgen"}, "no stack"),
        ({"system": "exllamav2"}, "no scheduler of requests"),
        ({"requests": "nowhere.csv"}, "nowhere.csv"),
    ],
)
def test_what_does_not_go_together_is_refused(changes, said):
    with pytest.raises(SpecError, match=said):
        plan_service(RATE.replace(**changes))


def test_the_json_replays_and_carries_the_start_command():
    found = service_object(plan_service(RATE.replace(gpus=("a100-sxm-80gb",))))
    best = found["best"][0]
    assert best["start_command"].startswith("vllm serve meta-llama/Llama-3.1-8B")
    assert best["share_of_targets"]["p95 tpot"] <= 1
    assert set(best["simulated"]["ttft_s"]) == {"mean", "p50", "p90", "p95", "p99"}
    assert best["interval"] is None or best["interval"]["ttft_s"]["p95"][0] > 0


# -- targets ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "target"),
    [
        ("p95 ttft<1s", Target("ttft", 1.0, True, "p95")),
        ("P99 TPOT < 50 ms", Target("tpot", 0.05, True, "p99")),
        ("median latency<=3s", Target("latency", 3.0, True, "p50")),
        ("mean ttft<0.5", Target("ttft", 0.5, True, "mean")),
    ],
)
def test_targets_name_percentiles(text, target):
    assert parse_targets(text) == (target,)


@pytest.mark.parametrize(
    "text", ["tpot<50", "ttft<500", "p95 cost<1", "p93 ttft<1s", "p95 ttft<1s, p95 ttft<2s"]
)
def test_what_is_ambiguous_is_refused(text):
    with pytest.raises(SpecError, match="--target"):
        parse_targets(text)


def test_one_quantity_may_have_two_figures():
    assert len(parse_targets("ttft<500ms, p95 ttft<1s")) == 2


# -- start commands -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("system", "words"),
    [
        (
            "vllm",
            "vllm serve meta-llama/Llama-3.1-70B --tensor-parallel-size 4 --max-num-seqs 64 --quantization fp8",
        ),
        (
            "sglang",
            "python -m sglang.launch_server --model-path meta-llama/Llama-3.1-70B --tp-size 4 --max-running-requests 64",
        ),
        (
            "tensorrt_llm",
            "# weights in fp8 trtllm-serve meta-llama/Llama-3.1-70B --tp_size 4 --max_batch_size 64",
        ),
    ],
)
def test_engines_are_started_in_their_own_words(system, words):
    inputs = InferenceInputs(
        model="llama-3.1-70b",
        gpu="h100-sxm-80gb",
        system=system,
        tp_size=4,
        max_num_seqs=64,
        weight_format="fp8",
    )
    found = start_command(inputs)
    assert found is not None
    plain = " ".join(
        found.replace("\\\n", " ").replace(": give a checkpoint that has them so\n", " ").split()
    )
    assert plain.startswith(words)
    assert all(len(line) < 80 for line in found.splitlines())


@pytest.mark.parametrize(
    ("asked", "served"),
    [
        ("llama-3.3-70b", "meta-llama/Llama-3.3-70B-Instruct"),
        ("llama3.3:70b", "meta-llama/Llama-3.3-70B-Instruct"),
        ("meta-llama/Llama-3.3-70B-Instruct", "meta-llama/Llama-3.3-70B-Instruct"),
        ("deepseek-v3.1", "deepseek-ai/DeepSeek-V3.1"),
        ("llama-3.1-70b-instruct", "meta-llama/Llama-3.1-70B-Instruct"),
        ("llama-3-8b-instruct", "meta-llama/Meta-Llama-3-8B-Instruct"),
        ("unsloth/gpt-oss-20b", "unsloth/gpt-oss-20b"),
        ("llama-3.1-70b", "meta-llama/Llama-3.1-70B"),
        ("llama3-8b", "meta-llama/Meta-Llama-3-8B"),
    ],
)
def test_the_engine_loads_the_checkpoint_that_was_asked_for(asked, served):
    found = start_command(InferenceInputs(model=asked, gpu="h100-sxm-80gb", system="vllm"))
    assert str(found).split()[:3] == ["vllm", "serve", served]


def test_a_name_of_shapes_alone_asks_for_the_checkpoint():
    found = str(start_command(InferenceInputs(model="llama-33b", gpu="h100-sxm-80gb", system="vllm")))
    note, last = found.rsplit("\n", 1)
    assert note.replace("\n#", "") == (
        "# llama-33b has the shapes of huggyllama/llama-30b: give the checkpoint that you mean"
    )
    assert all(len(line) < 80 for line in found.splitlines())
    assert last.startswith("vllm serve huggyllama/llama-30b")


def test_every_alias_of_the_hub_is_its_own_checkpoint():
    moved = [name for name in published_models() if "(" not in name and checkpoint_of(name) != (name, True)]
    assert moved == []


@pytest.mark.parametrize("eager", [True, False])
def test_an_engine_without_graphs_is_started_so(eager):
    asked = InferenceInputs(model="llama-3.1-8b", gpu="l4", system="vllm", enforce_eager=eager)
    assert ("--enforce-eager" in str(start_command(asked)).split()) == eager


@pytest.mark.parametrize("bits", [4, 8, 16])
def test_weights_of_fewer_bits_are_asked_for_by_the_command(bits):
    found = start_command(InferenceInputs(model="llama-3.1-8b", gpu="l4", system="vllm", quant_bits=bits))
    assert found is not None
    assert (f"# weights in {bits} bits: give a checkpoint" in found) == (bits < 16)


def test_an_engine_that_nobody_starts_has_no_command():
    assert start_command(InferenceInputs(model="llama-3.1-8b", gpu="l4", system="gpt_fast")) is None
