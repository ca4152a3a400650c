"""Runs of served engines: questions asked of them, figures that cannot be, and constants that come back from known ones."""

import math
from pathlib import Path

import numpy as np
import pytest

from calibrate.evidence.benchmark_run import (
    BenchmarkRun,
    Deployment,
    Engine,
    Figure,
    LoadPattern,
    TokenLengths,
)
from calibrate.evidence.readers import read_file
from calibrate.evidence.readers.published_rows import run_of_row
from calibrate.evidence.server_settings import Settings, settings_of
from calibrate.evidence.serving_rows import Case, Cases, load_cases, load_rows
from calibrate.fit.served.answers import answer_of
from calibrate.fit.served.deployment import served_of, told_run
from calibrate.fit.served.design import additions, next_run
from calibrate.fit.served.fit import fit_stack, release_of_runs
from calibrate.fit.served.plausible import check, check_figures
from calibrate.fit.served.points import Points
from calibrate.fit.served.profile import profile_of
from calibrate.fit.stack_priors import SPREAD
from llm_perf.errors import SpecError

FOLDER = Path(__file__).parents[1] / "data" / "benchmarks"


def a_run(kind="batch", concurrency=8, prompt=512, output=128, figures=(), **deployment) -> BenchmarkRun:
    return BenchmarkRun(
        tool="test",
        engine=Engine(name="vllm", version="0.12"),
        deployment=Deployment(**({"model": "meta-llama/Llama-3.1-8B", "gpu": "h100-sxm"} | deployment)),
        load=LoadPattern(kind=kind, concurrency=concurrency),
        prompt=TokenLengths(mean=prompt, kind="fixed"),
        output=TokenLengths(mean=output, kind="fixed"),
        figures=figures,
        source="test.json",
    )


def cases_of(release: str) -> list[Case]:
    """The published rows that one file of constants predicts."""
    engine = release.partition("@")[0].replace("_", "-")
    rows = [row for row in load_rows() if row["system"].startswith(engine)]
    return [case for case in load_cases(rows) if case.release == release]


def measured(run: BenchmarkRun, constants: dict[str, float], noise=0.0, generator=None) -> BenchmarkRun:
    """The run as an engine with these constants would have it, times off by chance."""
    names = ("step_s", "prefill_s") if run.load.kind == "batch" else ("tpot_s", "ttft_s")
    answer = answer_of(served_of(run), constants)
    off = np.zeros(2) if generator is None else generator.normal(0, noise, 2)
    figures = tuple(
        Figure(quantity=name, value=answer.of(name, "mean") * math.exp(one))
        for name, one in zip(names, off, strict=True)
    )
    return run.replace(figures=figures)


# -- questions -------------------------------------------------------------------------------------------------------


def test_what_a_source_leaves_out_is_asked_for_by_its_flags():
    run = read_file(FOLDER / "vllm_latency.txt")[0]
    with pytest.raises(SpecError) as error:
        served_of(run)
    for flag in ("--model", "--gpu", "--batch-size", "--prompt-len", "--gen-len"):
        assert flag in str(error.value)
    told = {"model": "qwen3-8b", "gpu": "mi300x", "batch_size": 8, "prompt_len": 256, "gen_len": 128}
    served = served_of(told_run(run, told))
    assert (served.concurrency, served.prompt, served.output) == (8, 256, 128)


def test_what_is_told_goes_before_what_the_source_says():
    run = told_run(a_run(), {"system": "sglang@0.5", "tp": 2, "num_gpus": 2, "concurrency": 4})
    served = served_of(run)
    assert (served.scenario.system, served.scenario.system_version) == ("sglang", "0.5")
    assert (served.num_gpus, served.concurrency, run.load.kind) == (2, 4, "closed_loop")


def test_a_converted_checkpoint_is_its_models_in_its_format():
    served = served_of(a_run(model="meta-llama/Llama-3.1-8B-Instruct-FP8"))
    assert served.model == "meta-llama/Llama-3.1-8B"
    assert served.scenario.dtype.weight_bits == 8


def test_names_of_tools_are_understood_and_unknown_ones_ask_for_theirs():
    assert (
        served_of(a_run(gpu="NVIDIA H100 80GB HBM3")).scenario.gpu.name
        == served_of(a_run()).scenario.gpu.name
    )
    with pytest.raises(SpecError, match="pass --model with one that does"):
        served_of(a_run(model="someone/unheard-of-9b"))
    with pytest.raises(SpecError, match="h100"):
        served_of(a_run(gpu="h100-xl"))


def test_builds_of_llama_cpp_are_its_versions():
    prompt, _ = read_file(FOLDER / "llama_bench.json")
    assert served_of(prompt).scenario.system_version == "2025"  # b5163
    new = prompt.replace(engine=prompt.engine.replace(version="b9000"))
    assert served_of(new).scenario.system_version is None  # of the newest
    old = prompt.replace(engine=prompt.engine.replace(version="b3000"))
    assert served_of(old).scenario.system_version == "2024-05"  # before prompts multiplied integers
    commit = prompt.replace(engine=prompt.engine.replace(version="8cf427ff"))
    assert served_of(commit).scenario.system_version is None


def test_a_run_that_drafted_tokens_is_not_predicted():
    run = a_run()
    drafted = run.replace(engine=run.engine.replace(settings={"accept_length": 2.7}))
    with pytest.raises(SpecError, match="drafted tokens"):
        served_of(drafted)


def test_a_row_keeps_the_limits_that_its_engine_had():
    (case,) = load_cases([row for row in load_rows() if row["row_id"] == "102230"])
    stated = run_of_row(case.row, case.row_id).deployment
    assert stated.max_num_batched_tokens == case.run.max_num_batched_tokens == 16384
    assert stated.gpu_memory_utilization == case.run.gpu_memory_utilization == 0.85


@pytest.mark.parametrize("release", ["vllm@0.5", "sglang@0.5"])
def test_rows_of_tables_are_predicted_as_the_tables_predict_them(release):
    """Equality: a published row read as a user's file is the question that the accuracy pages ask."""
    # What a source's scripts set on its servers stands in no file of a user's.
    cases = [
        case
        for case in cases_of(release)
        if case.quantity != "ttft_s" and settings_of(case.row) == Settings()
    ]
    cases = cases[:: max(1, len(cases) // 9)]
    assert len(cases) > 5
    points = Points([served_of(run_of_row(case.row, case.row_id)) for case in cases])
    main = [n for n, target in enumerate(points.targets) if target.main]
    assert points.exact({})[main] == pytest.approx(Cases(cases).simulated({}), abs=2e-3)


def test_a_loop_whose_generator_begins_again_finds_its_prompts():
    """aiperf sends 100 prompts over and over, twice the concurrency before it counts: `settings.yaml`."""
    row = next(
        row for row in load_rows() if row["gpu"].startswith("H200") and settings_of(row).distinct_prompts
    )
    run = run_of_row(row, row["row_id"])
    assert run.load.distinct_prompts == settings_of(row).distinct_prompts == 100
    served = served_of(run)
    assert served.warm_up == 2 * run.load.concurrency
    assert len(set(served.requests.prefix_id.tolist())) == min(100, len(served.requests))
    assert (served.requests.prefix_tokens == served.requests.prompt_tokens).all()
    new = served_of(run.replace(load=run.load.replace(distinct_prompts=None)))
    assert (new.requests.prefix_id < 0).all()


def test_a_mean_with_a_fraction_is_that_of_the_requests_that_are_sent():
    run = told_run(a_run("closed_loop", 8), {"prompt_len": 1023.4, "gen_len": 255.8})
    requests = served_of(run).requests
    assert requests.prompt_tokens.mean() == pytest.approx(1023.4, abs=0.01)
    assert set(requests.prompt_tokens.tolist()) == {1023, 1024}
    assert requests.output_tokens.mean() == pytest.approx(255.8, abs=0.01)


# -- what no run can be ----------------------------------------------------------------------------------------------


def test_a_whole_run_is_let_through():
    run = measured(a_run(), {})
    check(served_of(run))


@pytest.mark.parametrize(
    ("quantity", "factor", "said"),
    [
        ("step_s", 1e-3, "is faster than 1 x H100"),
        ("prefill_s", 1e-3, "is faster than 1 x H100"),
    ],
)
def test_a_time_in_another_unit_is_above_the_roofline(quantity, factor, said):
    run = measured(a_run(), {})
    wrong = tuple(
        one.replace(value=one.value * factor) if one.quantity == quantity else one for one in run.figures
    )
    with pytest.raises(SpecError, match=said):
        check(served_of(run.replace(figures=wrong)))


def test_a_rate_of_eight_gpus_on_one_is_above_the_roofline():
    run = measured(a_run(), {})
    rate = 8 / run.figures[0].value
    fine = run.replace(figures=(Figure(quantity="decode_tokens_per_s", value=rate, scope="system"),))
    check(served_of(fine))
    with pytest.raises(SpecError, match="its unit or its scope is another one"):
        check(
            served_of(
                run.replace(figures=(Figure(quantity="decode_tokens_per_s", value=8 * rate, scope="system"),))
            )
        )


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"ttft_s": 231.5}, "one of the two is in another unit"),
        ({"tpot_s": 18.9}, "one of the two is in another unit"),
        ({"e2e_s": 0.00505}, "one of the two is in another unit"),
        ({"output_tokens_per_s": 8000.0}, "81920 tokens in 51.2 s are 1600/s"),
        ({"total_tokens_per_s": 1600.0}, "generated ones with prompts of 1024"),
        ({"duration_s": 0.0512}, "generated tokens/s"),
        ({"requests_per_s": 62.5}, "320 requests in 51.2 s are 6.25"),
    ],
)
def test_figures_that_contradict_each_other_are_refused_with_both(change, said):
    run = read_file(FOLDER / "vllm_serve.json")[0]
    check_figures(run)
    ((name, value),) = change.items()
    wrong = tuple(
        one.replace(value=value) if one.quantity == name and one.statistic == "mean" else one
        for one in run.figures
    )
    with pytest.raises(SpecError, match=said) as error:
        check_figures(run.replace(figures=wrong))
    assert str(error.value).startswith("vllm_serve.json: ")


def test_every_sample_that_can_be_placed_agrees_with_itself():
    for file in FOLDER.iterdir():
        if file.name != "sglang_metrics.prom":  # its sums are of other loads than its histograms
            for run in read_file(file):
                check_figures(run)


# -- the fit ---------------------------------------------------------------------------------------------------------

TRUTH = {"step_ms": 1.6, "sequence_us": 9.0, "attention_gb_per_s_per_sm_ghz": 240.0, "prefill_ms": 14.0}
BATCHES = [(b, p, o) for b in (1, 8, 64, 256) for p, o in ((128, 64), (1024, 128), (4096, 64))]


def batches(constants, noise, seed):
    generator = np.random.default_rng(seed)
    runs = [measured(a_run("batch", b, p, o), constants, noise, generator) for b, p, o in BATCHES]
    return [served_of(run) for run in runs]


def test_known_constants_come_back_within_the_stated_uncertainty():
    """Over seeds: 90 % intervals of the constants that are told hold their truth about as often as they say."""
    held = []
    for seed in range(6):
        found = fit_stack(batches(TRUTH, 0.02, seed))
        truth = found.start | TRUTH
        assert {"step_ms", "sequence_us"} <= set(found.values)
        assert 0.01 < found.noise[0] < 0.045
        for name in found.values:
            low, high = found.interval(name)
            held.append(low <= truth[name] <= high)
    assert np.mean(held) >= 0.8


def test_a_served_simulation_with_known_constants_gives_them_back():
    loads = [(c, p, o) for c in (1, 8, 64) for p, o in ((128, 64), (1024, 64))]
    generator = np.random.default_rng(5)
    runs = [measured(a_run("closed_loop", c, p, o), TRUTH, 0.01, generator) for c, p, o in loads]
    found = fit_stack([served_of(run) for run in runs])
    for name in ("step_ms", "sequence_us"):
        low, high = found.interval(name)
        assert low / 1.1 <= TRUTH[name] <= high * 1.1, name
    unseen = measured(a_run("closed_loop", 32, 512, 128), TRUTH)
    predicted = answer_of(served_of(unseen), found.values)
    for figure in unseen.figures:
        assert predicted.figure(figure) == pytest.approx(figure.value, rel=0.04)


def test_what_runs_do_not_tell_stays_as_it_ships():
    found = fit_stack(batches({}, 0.02, 1)[:3])
    assert "all_reduce_extra_us" not in found.start
    assert set(found.values) | set(found.untold) == set(found.start)
    for name in found.untold:
        assert found.spread[name] >= 0.9 * SPREAD[name]
    assert not {"moe_us", "native_4bit_flops"} & set(found.start)


def test_more_runs_never_widen_an_interval_much():
    few, many = fit_stack(batches(TRUTH, 0.02, 2)[:4]), fit_stack(batches(TRUTH, 0.02, 2))
    for name in ("step_ms", "sequence_us"):
        assert many.spread[name] < 1.1 * few.spread[name]


def test_the_next_run_narrows_what_is_predicted():
    found = fit_stack(
        batches(TRUTH, 0.02, 3)[:3]
    )  # one sequence at a time: nothing says what a sequence costs
    advice = next_run(found)
    assert advice is not None
    assert advice.after < advice.before
    assert advice.concurrency > 1
    assert f"concurrency {advice.concurrency}" in advice.sentence


def test_what_a_second_model_and_more_gpus_add_is_said():
    """Of one 8B on one GPU: another size is known worse than it, two GPUs too, and a run of either narrows it."""
    found = fit_stack(batches(TRUTH, 0.02, 0))
    here = next_run(found)
    model, gpus = additions(found)
    assert model.what == "one run of llama-3.1-70b"
    assert gpus.what == "one run over 2 GPUs"
    for one in (model, gpus):
        assert here.before < one.before
        assert one.after < one.before
        assert f"from +-{one.before:.1%} to +-{one.after:.1%}" in one.sentence
    loops = [served_of(measured(a_run("closed_loop", c, 128, 64), TRUTH)) for c in (1, 8, 64)]
    assert additions(fit_stack(loops))[0].what == "one run of llama-3.2-1b"  # the other does not fit one GPU


def test_runs_of_two_versions_or_gpus_make_no_profile():
    one = served_of(a_run())
    other = a_run()
    with pytest.raises(SpecError, match="runs of one version of one engine make a profile"):
        release_of_runs([one, served_of(other.replace(engine=Engine(name="vllm", version="0.5")))])
    with pytest.raises(SpecError, match="a profile is of one machine"):
        release_of_runs([one, served_of(a_run(gpu="a100-sxm-80gb"))])
    assert release_of_runs([one, served_of(a_run(concurrency=1))]) == "vllm@0.12"


def test_a_profile_holds_for_its_version_alone():
    found = fit_stack(batches(TRUTH, 0.02, 0))
    profile = profile_of(found, "mine")
    assert set(profile.system_constants) == {"vllm@0.12"}
    assert profile.constants_of("vllm") == ()
    assert dict(profile.constants_of("vllm", "0.12")).keys() == found.values.keys()
    assert profile.constants_of("vllm", "0.5") == ()
    assert profile.version_of("vllm") == "0.12"
    assert profile.version_of("sglang") is None
    assert profile.calibration.covers.batch_size.high == 256
    assert profile.calibration.interval.decode < 0.12


def test_a_trace_is_fitted_by_its_parts():
    from calibrate.evidence.traces import traces

    trace = traces()[0]
    told = {"model": trace.inputs.model, "gpu": trace.inputs.gpu, "system": "vllm@0.19", "max_num_seqs": 128}
    points = Points([served_of(told_run(read_file(trace.path)[0], told))])
    assert [target.part for target in points.targets if target.main] == [
        (0, 75),
        (75, 150),
        (150, 225),
        (225, 300),
    ]
    assert np.abs(points.log_ratios({})).max() < 0.4


# -- swapped units, every kind of file ---------------------------------------------------------------------------------

NOT_SEEN = (
    "weight_bytes",
    "peak_gpu_memory_bytes",
    "kv_cache_tokens",
    "kv_cache_usage",
    "running_requests",
    "waiting_requests",
)
"""Figures that are in bytes, in tokens of a cache or in requests: no step's time says what they can be."""

NOT_CAUGHT = {
    ("inference_perf.json", "input_tokens_per_s", 1e-3): "a rate of prompts that came at a rate, of no batch",
    ("inference_perf.json", "input_tokens_per_s", 1e3): "likewise",
    (
        "sglang_serving.jsonl",
        "itl_s",
        1e3,
    ): "a gap between pieces of a stream may hold whatever the server did meanwhile",
    ("vllm_serve.json", "itl_s", 1e3): "likewise",
    ("vllm_serve.txt", "itl_s", 1e3): "likewise",
    (
        "vllm_serve.txt",
        "ttft_s",
        1e3,
    ): "all came at once, so that a first token may wait as long as the whole run",
}
"""(file, quantity, factor) that a swapped unit goes through with, and why."""

STATED = {"model": "llama-3.1-8b", "gpu": "h100-sxm", "system": "vllm@0.12"}


def placed(file: Path) -> BenchmarkRun:
    """A sample with what it leaves out."""
    run = read_file(file)[0]
    told = {k: v for k, v in STATED.items() if k != "system" and getattr(run.deployment, k) is None}
    told |= {} if run.engine.name else {"system": STATED["system"]}
    if run.engine.name == "ktransformers":
        told["model"] = "deepseek-v2-lite"
    if run.load.kind is None:
        told["concurrency"] = 8
    if run.load.kind == "batch" and run.load.concurrency is None:
        told["batch_size"] = 4
    told |= {} if run.prompt.mean else {"prompt_len": 512}
    told |= {} if run.output.mean else {"gen_len": 128}
    return told_run(run, told)


def scaled(run: BenchmarkRun, quantity: str, factor: float) -> BenchmarkRun:
    figures = tuple(
        figure.replace(value=figure.value * factor) if figure.quantity == quantity else figure
        for figure in run.figures
    )
    return run.replace(figures=figures)


@pytest.mark.parametrize(
    "file",
    [f for f in sorted(FOLDER.iterdir()) if f.name not in ("llama_bench.md", "sglang_metrics.prom")],
    ids=lambda file: file.name,
)
def test_a_swapped_unit_of_any_figure_of_any_tool_is_refused(file):
    """Milliseconds taken for seconds and back, thousands of tokens for tokens: each figure in turn."""
    run = placed(file)
    check(served_of(run))
    for quantity in {figure.quantity for figure in run.figures} - set(NOT_SEEN):
        for factor in (1e-3, 1e3):
            wrong = served_of(scaled(run, quantity, factor))
            if (file.name, quantity, factor) in NOT_CAUGHT:
                check(wrong)
                continue
            with pytest.raises(SpecError, match="unit"):
                check(wrong)


@pytest.mark.parametrize("release", ["vllm@0.5", "sglang@0.5", "tensorrt_llm@1.0"])
def test_a_bound_refuses_no_published_row(release):
    cases = cases_of(release)
    for case in cases[:: max(1, len(cases) // 25)]:
        check(served_of(run_of_row(case.row, case.row_id)))
