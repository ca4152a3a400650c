"""What authors' scripts set on servers is read for the rows that they are of, and for no others."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from calibrate.evidence.engine_tuning import trtllm_bench
from calibrate.evidence.published.names import version_of
from calibrate.evidence.repeats import Repeats, sent
from calibrate.evidence.request_runs import answer_of, request_run
from calibrate.evidence.server_settings import Settings, settings_of
from calibrate.evidence.serving_rows import load_rows
from calibrate.evidence.settings import scenario_of
from calibrate.evidence.stated import stated_run
from calibrate.evidence.stated_formats import served_format
from calibrate.validate.requests import rows as request_rows
from llm_perf.analysis.request import InferenceInputs, build_scenario
from llm_perf.errors import SpecError

INFERENCEX = (
    "InferenceX closed loop: max_concurrency=4, uniform in [0.8,1.0] of nominal; measured 2025-11-10;"
)


def row(notes: str = INFERENCEX, **more: str) -> dict[str, str]:
    return {
        "system": "tensorrt-llm", "model": "meta-llama/Llama-3.1-70B", "gpu": "H200-SXM-141GB", "weight_dtype": "fp8",
        "prompt_len_tok": "1024", "gen_len_tok": "1024", "tp": "2", "batch_size": "16", "notes": notes,
    } | more  # fmt: skip


def test_a_row_of_nobody_s_scripts_has_no_settings() -> None:
    assert settings_of(row("a table of its own")) == Settings()
    assert settings_of(row("a table of its own")).engine == {}


def test_settings_of_a_source_add_up() -> None:
    found = settings_of(row())
    assert (found.kv_format, found.max_num_batched_tokens, found.stream_interval) == ("fp8", 16384, 10)
    assert found.waits is not None
    assert found.waits.steps == 20
    assert settings_of(row(tp="8")).waits is None
    assert settings_of(row(prompt_len_tok="8192")).waits is None


def test_amounts_follow_the_row() -> None:
    deepseek = row(model="deepseek-ai/DeepSeek-R1", prompt_len_tok="8192")
    assert settings_of(deepseek).max_num_batched_tokens == 8320  # 8192 + 16 + 64, in whole 64s
    generator = "NVIDIA aiconfigurator gap-analysis run (aiperf/genai-perf closed loop); concurrency=16"
    assert settings_of(row(generator)).max_num_batched_tokens == 2560  # 1024 + 16 + 1500, in whole 32s
    assert settings_of(row(generator)).max_num_seqs == 16


@pytest.mark.parametrize(("concurrency", "steps"), [("4", 10), ("16", 30), ("64", 30)])
def test_sglang_on_b200_looks_for_arrivals_as_often_as_was_set(concurrency: str, steps: int) -> None:
    stated = row(
        system="sglang",
        model="deepseek-ai/DeepSeek-R1",
        gpu="B200-180GB",
        weight_dtype="nvfp4",
        batch_size=concurrency,
    )
    assert settings_of(stated).engine["looks_every"] == steps


def test_dates_decide_where_scripts_changed() -> None:
    blackwell = {
        "system": "vllm",
        "model": "openai/gpt-oss-120b",
        "gpu": "B200-180GB",
        "weight_dtype": "mxfp4",
    }
    assert settings_of(row(**blackwell)).kv_format is None
    later = INFERENCEX.replace("2025-11-10", "2026-02-25")
    assert settings_of(row(later, **blackwell)).kv_format == "fp8"


def test_every_rule_holds_for_rows_of_the_tables() -> None:
    """A rule that no row is of is a slip in a name."""
    from calibrate.evidence.server_settings import _sources

    rows = (*request_rows(), *load_rows())
    for source in _sources():
        own = [one for one in rows if source.phrase in one["notes"]]
        for rule in source.rules:
            assert any(rule.for_.holds(one) for one in own), (source.phrase, rule.for_)


def test_what_was_set_reaches_the_run_and_the_engine() -> None:
    found = next(one for one in load_rows() if settings_of(one).waits is not None)
    run = stated_run(found)
    assert (run.kv_format, run.max_num_batched_tokens) == ("fp8", 16384)
    assert request_run(found).engine["waits"].steps == 20


@pytest.mark.parametrize(
    ("tp", "experts", "gpus", "ep"), [("1", 2, 2, 2), ("2", 4, 4, 4), ("2", 2, 2, 1), ("2", 1, 2, 1)]
)
def test_more_ranks_of_experts_than_share_attention_are_replicas_of_it(
    tp: str, experts: int, gpus: int, ep: int
) -> None:
    """tp x replicas of attention are the ranks of the experts, whatever a table's default says of replicas."""
    stated = f"closed loop; moe_tp={experts} moe_ep=1 attention_dp=1"
    model = {"model": "Qwen/Qwen3-235B-A22B-FP8", "system": "vllm", "system_version": "0.12.0"}
    run = stated_run(row(stated, tp=tp, gpu_count=tp, ep="1", **model))
    assert (run.num_gpus, run.tp, run.ep) == (gpus, int(tp), ep)
    parallelism = scenario_of(run).parallelism
    assert (parallelism.tp_size, parallelism.dp_size) == (int(tp), gpus // int(tp))


def test_a_generator_s_prompts_come_round_again() -> None:
    found = next(one for one in load_rows() if "aiperf" in one["notes"] and settings_of(one).distinct_prompts)
    run = request_run(found)
    distinct = len(np.unique(run.requests.prefix_id))
    assert distinct == min(len(run.requests), 100)
    assert (run.requests.prefix_tokens == run.requests.prompt_tokens).all()
    assert run.warm_up == 2 * (run.requests.concurrency or 0)


def accelmark(**wanted: str) -> dict[str, str]:
    """The one row of the generator's tables that has these cells."""
    found = [
        one for one in request_rows()
        if "AccelMark" in one["source_repo"] and all(one.get(name) == cell for name, cell in wanted.items())
    ]  # fmt: skip
    assert len(found) == 1
    return dict(found[0])


def test_runs_of_a_generator_are_sent_as_its_seed_has_them() -> None:
    """The published ends of its runs: 32.0 and 7.9 s, of which the last answer takes half a second."""
    program = Repeats(runs=3, seed=42, rates=(10, 40))
    slow, before = sent(program, 10.0, 300)
    assert before == 0
    assert np.median(slow.reshape(3, 300)[:, -1] - [0, 1e5, 2e5]) == pytest.approx(31.5, abs=0.05)
    fast, before = sent(program, 40.0, 300)
    assert (len(fast), before) == (4 * 300, 300)
    np.testing.assert_allclose(fast[:300], slow[600:] - 2e5, atol=1e-9)  # the last run of the rate before
    assert np.median(fast.reshape(4, 300)[1:, -1] - [1e5, 2e5, 3e5]) == pytest.approx(7.4, abs=0.05)
    with pytest.raises(SpecError, match="sends at 10"):
        sent(program, 20.0, 300)
    at_once, before = sent(Repeats(before=1), np.inf, 5)
    assert (at_once.tolist(), before) == ([0.0] * 5 + [1e5] * 5, 5)


def test_prompts_of_an_earlier_run_are_found_again_where_an_engine_keeps_them() -> None:
    row = accelmark(
        system_version="0.20.1+transformers-5.8.1", source_table="metrics.online qps=25",
        model="meta-llama/Llama-3.1-8B-Instruct",
    )  # fmt: skip
    run = request_run(row)
    assert (run.warm_up, len(run.requests), run.statistic) == (300, 1200, "median")
    read_anew = answer_of(replace(run, engine={"prefix_cache": False}))
    assert answer_of(run).ttft_s < 0.5 * read_anew.ttft_s
    first = accelmark(system_version="0.20.1+transformers-5.8.1", source_table="metrics.online qps=0.5")
    assert (request_run(first).warm_up, len(request_run(first).requests)) == (0, 200)


def test_a_batch_that_is_sent_again_and_a_loop_that_goes_round_are_warm() -> None:
    rows = [one for one in request_rows() if one["system_version"].startswith("0.20.1")]
    at_once = [request_run(one) for one in rows if one.get("request_rate", "").startswith("inf")]
    assert at_once
    assert {run.warm_up / len(run.requests) for run in at_once} == {0.5}
    loops = [request_run(one) for one in rows if "per-minute" in one["notes"]]
    assert {run.warm_up for run in loops} == {50, 100, 200}
    for run in loops:
        assert run.requests.prefix_id.max() + 1 == run.warm_up


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("vllm serve m --async-scheduling --max-num-batched-tokens 4096", {"max_num_batched_tokens": 4096, "ahead": True}),
        ("trtllm-serve m --max_num_tokens=16384", {"max_num_batched_tokens": 16384}),
        ("trtllm-serve m --enable_chunked_prefill", {"chunked": True}),
        ("sglang.launch_server --mem-fraction-static .8 --disable-radix-cache", {"gpu_memory_utilization": 0.8}),
        ("sglang.launch_server --mem-fraction-static .8 --disable-radix-cache", {"prefix_cache": False}),
        ("vllm serve m --max-num-seqs", {"max_num_seqs": None}),
        ("vllm serve m --max-num-seqs many", {"max_num_seqs": None}),
    ],
)  # fmt: skip
def test_a_quoted_command_says_what_was_set(command: str, said: dict[str, object]) -> None:
    found = settings_of({"notes": f"medians; cmd: {command}; duration 3 s", "system": "any"})
    assert {name: getattr(found, name) for name in said} == said


def test_runs_without_captured_graphs_are_asked_for_so() -> None:
    eager = [one for one in load_rows() if settings_of(one).eager]
    assert len(eager) == 6  # three of AccelMark, three of Qwen2-72B
    for one in eager:
        run = stated_run(one)
        assert run.enforce_eager
        assert scenario_of(run).workload.enforce_eager


def test_trtllm_bench_builds_an_engine_for_the_lengths() -> None:
    """By hand: 141 GiB less 8.03e9 bytes, .95 of it, over 64 KiB per token; tokens as 1 + prompt / output."""
    formats = {"weight_format": "fp8", "kv_format": "fp8"}
    asked = build_scenario(
        InferenceInputs(model="llama-3.1-8b", gpu="h200-sxm", system="tensorrt_llm@0.17", **formats)
    )
    assert trtllm_bench(asked, 2048, 2048) == (512, 2048)  # 506 sequences; 1,012 tokens, 2,048 at the least
    assert trtllm_bench(asked, 20000, 2000) == (96, 2048)  # 94; 1,037
    assert trtllm_bench(asked, 128, 128) == (4096, 8192)  # 8,098 would be more than it builds for
    assert trtllm_bench(asked, 2048, 128) == (1024, 16384)  # 952; 16,191


def test_settings_of_a_program_that_builds_engines_reach_the_simulation() -> None:
    saturated = [one for one in request_rows() if settings_of(one).tuned_by is not None]
    assert len(saturated) == 225
    run = request_run(next(one for one in saturated if one["prompt_len_tok"] == "20000"))
    assert run.scenario.workload.max_num_batched_tokens is not None
    assert run.scenario.workload.max_num_batched_tokens < 20000
    assert run.engine["chunked"]


def test_settings_are_read_from_the_notes_that_a_score_program_shows() -> None:
    shown = row("") | {"notes_for_prediction": INFERENCEX}
    assert settings_of(shown) == settings_of(row())
    assert settings_of(shown) != Settings()


@pytest.mark.parametrize(
    ("model", "stated", "notes", "found"),
    [
        ("Qwen/Qwen3-8B-FP8", "fp8", "", "fp8_block"),
        ("Qwen/Qwen3-32B", "fp8", "gemm=fp8 moe=fp8", "fp8"),
        ("Qwen/Qwen3-235B-A22B-FP8", "fp8", "gemm=fp8 moe=fp8", "fp8_block"),
        ("meta-llama/Llama-3.1-8B-Instruct", "fp8", "gemm=fp#_block", "fp8_block"),
        ("nvidia/Llama-3.1-8B-Instruct-FP8", "fp8", "", "fp8"),
        ("deepseek-ai/DeepSeek-R1", "nvfp4", "", "nvfp4"),
        ("deepseek-ai/DeepSeek-R1", "", "", None),
    ],
)
def test_who_made_a_checkpoint_says_what_its_scales_are_of(
    model: str, stated: str, notes: str, found: str | None
) -> None:
    assert served_format(model, stated, notes) == found


@pytest.mark.parametrize(
    ("stated", "spec"),
    [
        ("nvidia/DeepSeek-R1-0528-FP4-v2", "deepseek-ai_DeepSeek-V3"),
        ("amd/Llama-3.3-70B-Instruct-MXFP4-Preview", "meta-llama_Llama-3.1-70B"),
        ("cpatonn/Qwen3-30B-A3B-Instruct-2507-AWQ-4bit", "Qwen_Qwen3-30B-A3B-Instruct-2507"),
        ("amd/gpt-oss-120b-w-mxfp4-a-fp8", "openai_gpt-oss-120b"),
    ],
)
def test_a_converted_checkpoint_has_the_shapes_of_its_original(stated: str, spec: str) -> None:
    found = stated_run(row(model=stated, system="sglang + ATOM", system_version="0.5.9"))
    assert found.model == spec
    assert found.system == "sglang@0.5.9"


@pytest.mark.parametrize(
    ("printed", "version"),
    [
        ("gpt-oss-dev image (inferred)", "1.1"),
        ("commit b6261862 (about 1.0.0rc, 2025-07)", "1.0.0"),
        ("build 9515 (2024-11, about 0.6.4)", "0.6.4"),
    ],
)
def test_a_build_is_of_the_version_that_it_lies_at(printed: str, version: str) -> None:
    assert version_of("tensorrt-llm", printed) == version


@pytest.mark.parametrize(
    ("printed", "version"),
    [
        ("vllm 0.5.4", "0.5.4"),
        ("vLLM 0.6.5.dev964+mlperf50, Pytorch 2.7.0a0, ROCm 6.3.1", "0.6.5.dev964"),
        (
            "Mango LLMBoost AI Enterprise Platform, vllm-0.9.0.2.dev108+g71faa1880.d20250717.rocm641",
            "0.9.0.2.dev108",
        ),
        ("0.6.6 ROCm 6.3.1", "0.6.6"),
        ("see README (2025-03 dev)", None),
    ],
)
def test_an_engine_s_name_before_its_version_hides_none(printed: str, version: str | None) -> None:
    assert version_of("vllm", printed) == version


def test_experts_that_were_told_not_to_run_as_one_module_do_not() -> None:
    replicas = row(
        model="deepseek-ai/DeepSeek-R1", gpu="B200-180GB", weight_dtype="nvfp4", tp="1", ep="8", gpu_count="8"
    )
    told = stated_run(replicas | {"system_version": "1.2.0"})
    assert told.fused_experts is False
    assert dict(scenario_of(told).constants)["fused_experts_us"] == 0
    assert settings_of(replicas | {"tp": "8"}).fused_experts is None
    assert not scenario_of(stated_run(replicas | {"tp": "8", "system_version": "1.2.0"})).constants
