"""``llm-perf plan --train`` as a user meets it."""

from __future__ import annotations

import json
import re
import shlex

import pytest

from llm_perf.analysis.training import predict_training
from llm_perf.analysis.training_request import TrainingInputs, build_training_scenario
from llm_perf.search.plan_training import TrainingPlanQuestion, plan_training

ASKED = (
    "plan",
    "--train",
    "--model",
    "llama-3-8b",
    "--tokens",
    "10e9",
    "--gpus",
    "h100-sxm-80gb,a100-sxm-80gb",
)


@pytest.fixture(scope="module", autouse=True)
def searched_once():
    """A question that a report, its JSON and a test all ask is searched once."""
    known = {}

    def searched(question, *more, **settings):
        asked = repr((question, more, settings))
        if asked not in known:
            known[asked] = plan_training(question, *more, **settings)
        return known[asked]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("llm_perf.search.plan_training.plan_training", searched)
        yield


def test_the_cheapest_comes_first_and_says_how_to_see_it(llm_perf):
    found = llm_perf(*ASKED, "--deadline", "10d")
    assert found.code == 0, found.out
    answer, details = found.out.split("\n\n", 1)
    assert answer.startswith("Fits: ")
    assert details.startswith("llama-3-8b: 1e+10 tokens within 10 days, megatron, cheapest first\n")
    assert "the first one again:\nllm-perf train --model llama-3-8b --gpu" in details
    assert all(len(line) <= 80 for line in found.out.splitlines())


def test_json_is_one_object_in_order_of_cost(llm_perf):
    found = llm_perf(*ASKED, "--deadline", "10d", "--json")
    answer = json.loads(found.out)
    costs = [one["cost"] for one in answer["best"]]
    assert costs == sorted(costs)
    assert all(one["run_s"] <= answer["question"]["deadline"] == 864000 for one in answer["best"])
    assert answer["nearest"] is None


def test_its_certainty_is_that_of_the_run_it_names(llm_perf):
    answer = json.loads(llm_perf(*ASKED, "--deadline", "10d", "--json").out)
    for one in answer["best"]:
        result = predict_training(build_training_scenario(TrainingInputs(**one["inputs"])))
        low, high = result.interval.total_s
        scale = one["run_s"] / result.step_time_s
        assert one["run_interval_s"] == pytest.approx([low * scale, high * scale])
        assert low < result.step_time_s < high
        assert one["may_not_fit"] == (result.memory_interval_bytes[1] > result.memory.gpu.capacity_bytes)
    slowest = max(one["run_s"] for one in answer["best"])
    text = llm_perf(*ASKED, "--deadline", f"{int(slowest / 3600) + 1}h").out
    assert "90% interval of the first: " in text
    assert "may miss the deadline" in text


def test_a_candidate_is_timed_with_the_defaults_of_its_stage():
    asked = {
        "model": "llama-3-70b",
        "tokens": "1e9",
        "deadline": "30d",
        "gpus": ["h100-sxm-80gb"],
        "max_gpus": 64,
    }
    found = plan_training(TrainingPlanQuestion(**asked, framework="deepspeed")).best[0]
    result = predict_training(build_training_scenario(found.inputs))
    assert found.inputs.ds_zero == 3
    assert found.run_s == pytest.approx(1e9 / result.throughput_tokens_per_s, rel=1e-6)


def test_what_no_machine_can_do_exits_with_3_and_shows_the_fastest(llm_perf):
    found = llm_perf(*ASKED, "--deadline", "1m", "--max-gpus", "16")
    assert found.code == 3
    assert "nothing meets the deadline; the fastest that fits:" in found.out


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (("--tokens", "many", "--deadline", "3d"), "tokens: must be a number of tokens such as 100e9, got 'many'"),
        (("--tokens", "1.5", "--deadline", "3d"), "tokens: must be a whole number of tokens from 1 to 1e18, got '1.5'"),
        (("--tokens", "1e9", "--deadline", "soon"), "deadline: must be a time such as 30d, 12h, 2w or 90m, got 'soon'"),
        (("--tokens", "1e9", "--deadline", "0d"), "deadline: must be a time such as 30d, 12h, 2w or 90m, got '0d'"),
        (("--tokens", "1e9"), "--deadline is required with --train"),
        (("--deadline", "3d"), "--tokens is required with --train"),
        (("--tokens", "1e9", "--deadline", "3d", "--framework", "colossal"), "unknown framework 'colossal'"),
        (("--tokens", "1e9", "--deadline", "3d", "--gen-len", "5"), "--gen-len is of a deployment and means nothing"),
        (("--tokens", "1e9", "--deadline", "3d", "--gpus", "nothing"), "nothing"),
        (("--tokens", "1e9", "--deadline", "3d", "--max-gpus", "0"), "max_gpus"),
    ],
)  # fmt: skip
def test_bad_input_is_one_line(llm_perf, flags, said):
    found = llm_perf("plan", "--train", "--model", "llama-3-8b", *flags)
    assert found.code == 2
    assert found.out == ""
    assert found.err.count("\n") == 1
    assert said in found.err


@pytest.mark.parametrize("more", [("--precision", "fp8"), ()])
def test_a_run_in_time_needs_no_change_that_its_gpu_cannot_make(llm_perf, more):
    """A T4 has no 8-bit arithmetic, and what is asked for already changes nothing."""
    asked = ("plan", "--train", "--model", "llama-3-8b", "--tokens", "1e9", "--gpus", "t4", *more)
    found = llm_perf(*asked, "--deadline", "30d", "--framework", "torchtune")
    assert found.code == 0, found.out
    assert "\nChange:    nothing has to; a shorter --deadline" in found.out


def test_a_run_of_years_is_told_without_powers_of_ten(llm_perf):
    found = llm_perf(*ASKED, "--tokens", "1e15", "--deadline", "3m", "--max-gpus", "64")
    assert found.code == 3
    speed, change = (found.out.splitlines()[line] for line in (1, 4))
    assert "e+" not in speed
    assert float(speed.split()[1].replace(",", "")) > 1000
    assert change == "Change:    more GPUs (--max-gpus), a later deadline"


def test_flags_of_a_run_need_train(llm_perf):
    found = llm_perf("plan", "--model", "llama-3-8b", "--tokens", "1e9")
    assert (found.code, found.err) == (2, "llm-perf: --tokens is of a training run: give --train\n")


# -- laws -------------------------------------------------------------------------------------------------------------


def question(**changes) -> TrainingPlanQuestion:
    fields = {
        "model": "llama-3-8b",
        "tokens": "20e9",
        "deadline": "5d",
        "gpus": ("h100-sxm-80gb",),
        "max_gpus": 256,
    }
    return TrainingPlanQuestion(**fields | changes)


def test_a_candidate_is_what_train_says_of_its_inputs():
    best = plan_training(question()).best[0]
    result = predict_training(build_training_scenario(best.inputs))
    assert result.feasible
    assert result.run.time_s == pytest.approx(best.run_s, rel=1e-9)
    assert result.run.gpu_hours == pytest.approx(best.gpu_hours, rel=1e-9)
    assert result.mfu == pytest.approx(best.mfu, rel=1e-9)


def test_a_later_deadline_is_never_dearer():
    costs = [plan_training(question(deadline=deadline)).best[0].cost for deadline in ("1d", "5d", "30d")]
    assert costs == sorted(costs, reverse=True)


def test_twice_the_tokens_cost_twice_as_much_where_time_does_not_matter():
    once, twice = (
        plan_training(question(tokens=tokens, deadline="500w")).best[0] for tokens in ("20e9", "40e9")
    )
    assert twice.num_gpus == once.num_gpus
    assert twice.cost == pytest.approx(2 * once.cost, rel=1e-12)


def test_a_gpu_without_the_format_says_in_which_it_computes(llm_perf):
    asked = ("--model", "llama-2-7b", "--gpus", "t4,h100-sxm-80gb", "--tokens", "1e9", "--deadline", "60d")
    narrow = llm_perf("plan", "--train", *asked, "--precision", "fp8").out
    assert "has no fp8 products, so they run wider: T4-16GB (fp16)" in " ".join(narrow.split())
    assert "run wider" not in llm_perf("plan", "--train", *asked, "--precision", "fp16").out


# -- adapters ---------------------------------------------------------------------------------------------------------

QLORA = (
    "plan", "--train", "--model", "llama-3-70b", "--tokens", "100e6", "--deadline", "1d", "--framework", "hf_trainer",
    "--seq-len", "2048", "--gpus", "h100-sxm-80gb,a100-sxm-80gb,l40s", "--max-gpus", "8", "--lora-rank", "16",
)  # fmt: skip


def test_the_cheapest_machine_for_adapters_over_4_bits(llm_perf):
    found = llm_perf(*QLORA, "--base-weight-bits", "4")
    assert found.code == 0, found.out
    assert "hf_trainer LoRA rank 16 over 4 bits, cheapest first" in " ".join(found.out.split())
    again = found.out.split("the first one again:\n")[1].split("\n")
    typed = " ".join(
        line.strip(" \\")
        for line in again[: next(n for n, s in enumerate(again) if not s.endswith("\\")) + 1]
    )
    assert "--lora-rank 16" in typed
    assert "--base-weight-bits 4" in typed
    assert llm_perf(*typed.split()[1:]).code == 0
    assert all(len(line) <= 80 for line in found.out.splitlines())


def test_adapters_are_what_train_says_of_their_inputs(llm_perf):
    answer = json.loads(llm_perf(*QLORA, "--base-weight-bits", "4", "--json").out)
    for one in answer["best"]:
        result = predict_training(build_training_scenario(TrainingInputs(**one["inputs"])))
        assert result.feasible
        assert result.run.time_s == pytest.approx(one["run_s"], rel=1e-9)
        assert result.mfu == pytest.approx(one["mfu"], rel=1e-9)
        assert one["inputs"]["global_batch_size"] == 64


def adapters(**changes) -> TrainingPlanQuestion:
    fields = {
        "model": "llama-3-70b", "tokens": "100e6", "deadline": "52w", "framework": "hf_trainer", "seq_len": 2048,
        "gpus": ("h100-sxm-80gb",), "max_gpus": 8, "lora_rank": 16,
    }  # fmt: skip
    return TrainingPlanQuestion(**fields | changes)


def test_four_bits_fit_one_gpu_where_sixteen_do_not():
    """70 billion parameters: 35 GB or 140 GB on a card of 80."""
    assert plan_training(adapters(base_weight_bits=4, max_gpus=1)).best
    wide = plan_training(adapters(max_gpus=1))
    assert (wide.best, wide.nearest) == ((), None)


def test_adapters_need_no_more_gpus_than_weights():
    """16 bytes of state per parameter are gone, and so is a third of the products."""
    whole = plan_training(question(tokens="100e6", deadline="52w", global_batch_size=64)).best[0]
    adapted = plan_training(question(tokens="100e6", deadline="52w", lora_rank=16)).best[0]
    assert adapted.inputs.global_batch_size == whole.inputs.global_batch_size
    assert adapted.cost < whole.cost


def test_replicas_of_a_framework_without_sharding_hold_all_of_it():
    """Unsloth's GPUs are replicas: 70 billion parameters in 4 bits fit one of 80 GB, and nothing is shared."""
    found = plan_training(adapters(framework="unsloth", base_weight_bits=4)).best[0]
    assert found.inputs.ds_zero == 0


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (("--base-weight-bits", "4"), "base_weight_bits is for frozen weights: give --lora-rank too"),
        (("--adapter", "dora"), "adapter and lora_ends are for adapters: give --lora-rank too"),
        (("--lora-rank", "16", "--base-weight-bits", "3"), "base_weight_bits"),
        (("--lora-rank", "16", "--lora-targets", "some"), "lora_targets"),
        (
            ("--framework", "hf_gptq"),
            "framework hf_gptq trains adapters over frozen weights of 4 bits: give --lora-rank",
        ),
        (("--framework", "vllm"), "vllm is a system that generates (llm-perf infer --system vllm)"),
    ],
)
def test_what_goes_with_adapters_alone_is_one_line(llm_perf, flags, said):
    asked = ("--model", "llama-3-8b", "--tokens", "1e9", "--deadline", "30d", "--gpus", "h100-sxm-80gb")
    found = llm_perf("plan", "--train", *asked, *flags)
    assert (found.code, found.out) == (2, "")
    assert found.err.count("\n") == 1
    assert said in found.err


def test_flags_of_adapters_need_train(llm_perf):
    found = llm_perf("plan", "--model", "llama-3-8b", "--lora-rank", "16")
    assert (found.code, found.err) == (2, "llm-perf: --lora-rank is of a training run: give --train\n")


def test_what_to_type_again_is_one_command_though_names_have_blanks(llm_perf):
    found = llm_perf(
        "plan", "--train", "--model", "llama-3-8b", "--lora-rank", "16", "--base-weight-bits", "4", "--tokens", "1e6",
        "--deadline", "1d", "--framework", "unsloth", "--gpus", "rtx-4090-24gb", "--max-gpus", "1",
    )  # fmt: skip
    assert found.code == 0, found.out
    typed = found.out.split("the first one again:\n")[1].replace("\\\n", " ").splitlines()[0]
    words = shlex.split(typed)
    assert words[words.index("--gpu") + 1] == "RTX 4090-24GB"
    assert llm_perf(*words[1:]).code == 0


def test_a_run_of_minutes_has_hours_and_dollars(llm_perf):
    found = llm_perf(
        "plan", "--train", "--model", "llama-3-8b", "--lora-rank", "16", "--tokens", "1e5", "--deadline", "1d",
        "--gpus", "h100-sxm-80gb",
    )  # fmt: skip
    row = next(line for line in found.out.splitlines() if line.startswith("H100-SXM-80GB "))
    figures = re.findall(r" (\d[\d.]*)", row)[:5]  # GPUs, time in seconds, GPU-hours, dollars, MFU
    assert len(figures) == 5
    assert all(float(figure) > 0 for figure in figures)
    assert all(len(line) <= 80 for line in found.out.splitlines())
    assert ", 0 GPU-hours" not in found.out
    assert "$0\n" not in found.out
