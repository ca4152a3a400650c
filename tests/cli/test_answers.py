"""Every report begins with five lines: whether it fits, how fast, how sure, what binds, what to change."""

from __future__ import annotations

import re
import shlex
from typing import Any

import pytest

from llm_perf.analysis.advice import Change
from llm_perf.analysis.inference import predict_inference
from llm_perf.analysis.request import InferenceInputs, build_scenario
from llm_perf.analysis.speedups import faster
from llm_perf.analysis.training import predict_training
from llm_perf.analysis.training_advice import training_changes_that_fit
from llm_perf.analysis.training_request import TrainingInputs, build_training_scenario
from llm_perf.analysis.training_speedups import faster_training
from llm_perf.cli.main import run
from llm_perf.report.answer import LABELS, change_line, in_width, unknown_pieces

WIDTH = 80
ANSWERS = (
    "infer --model opt-175b --gpu t4 --ds-zero 3",
    "infer --model llama-3.1-70b --gpu h100-sxm-80gb",
    "infer --model llama-3.1-8b --gpu none --host ryzen-9-7950x --weight-format q4_k_m",
    "train --model llama-3-8b --framework fsdp --num-gpus 8 --gpu a100-sxm-80gb",
    "train --model llama-3-8b --gpu a100-sxm-80gb",
    "plan --model llama-2-13b --target tpot<50ms --gpus h100*,l4* --max-gpus 2",
    "plan --model llama-2-13b --target tpot<1ms --gpus l4* --max-gpus 1",
    "simulate --model llama-3.1-8b --gpu h100-sxm-80gb --rate 5 --num-requests 50",
    "simulate --model llama-3.1-8b --gpu t4 --weight-format int8_weight_only --rate 50 --num-requests 50",
    "simulate --model llama-3.1-8b --gpu h100-sxm-80gb --rate 5,10 --num-requests 50",
    "policy --model opt-6.7b --gpu t4 --max-latency 1",
    "policy --model opt-175b --gpu t4",
    "infer --model deepseek-v3 --gpu h200-sxm-141gb",
    "infer --model opt-175b --gpu t4 --system petals",
    "infer --model llama-3.1-8b --gpu h100-sxm-80gb --batch-size 100000",
    "infer --model llama-3.1-70b --gpu h100-sxm-80gb --tp-size 4 --pp-size 2",
    "infer --model llama-3.1-8b --gpu h100-sxm-80gb --profile none",
    "infer --model mixtral-8x7b --gpu rtx-3090 --system fiddler",
    "infer --model llama-3.1-8b --gpu l4 --gpu t4 --gpu h100-sxm-80gb",
    "infer --model llama-3.1-70b --gpu l4 --gpu t4",
    "train --model llama-3.1-70b --gpu h100-sxm-80gb --num-gpus 8 --framework fsdp",
    "train --model llama-3.1-8b --gpu h100-sxm-80gb --gpu a100-sxm-80gb --framework fsdp --num-gpus 8",
    "train --model llama-3.1-405b --gpu h100-sxm-80gb --num-gpus 8 --num-nodes 4 --framework megatron --tp-size 8",
    "policy --model mixtral-8x7b --gpu rtx-3090 --host ryzen-9-7950x --system ktransformers",
    "sweep --model llama-3.1-8b --gpu l4,h100-sxm-80gb --batch-size 1:64:x2",
    "sweep --model llama-3.1-70b --gpu t4 --batch-size 1:4",
    "simulate --model llama-3.1-70b --gpu t4 --rate 1",
    "simulate --model llama-3.1-8b --gpu h100-sxm-80gb --concurrency 8 --num-requests 20",
    "policy --system llama_cpp --model llama-3.1-8b --gpu rtx-3060 --host ryzen-9-7950x",
)


@pytest.mark.parametrize("command", ANSWERS)
def test_the_first_five_lines_are_the_answer(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    code = run(shlex.split(command))
    out, err = capsys.readouterr()
    assert code in (0, 3), err
    lines = out.splitlines()
    assert [line.split(":")[0] + ":" for line in lines[:5]] == list(LABELS)
    assert lines[5] == ""
    assert all(line.partition(":")[2].strip() for line in lines[:5])
    report = out.partition("Benchmark log")[0]  # the log is the real run's, byte for byte
    assert [line for line in report.splitlines() if len(line) > WIDTH] == []
    assert "\x1b" not in out
    assert "…" not in "".join(lines[:5])
    negative = re.match(r"Fits: +(no\.|The engine does not)", lines[0]) is not None
    assert negative == (code == 3)


def test_a_gain_is_what_the_changed_question_is_predicted_to_take() -> None:
    """The figure beside a change is the ratio of two predictions that a reader can ask for."""
    question = InferenceInputs(model="llama-3.1-8b", gpu="h100-sxm-80gb", batch_size=4)
    result = predict_inference(build_scenario(question))
    gains = {gain.text: gain.factor for gain in faster(question, result, most=9)}
    changed = predict_inference(build_scenario(question.replace(weight_format="fp8")))
    assert gains["--weight-format fp8"] == pytest.approx(result.total_latency_s / changed.total_latency_s)
    more = predict_inference(build_scenario(question.replace(batch_size=16)))
    assert gains["--batch-size 16"] == pytest.approx(
        more.total_throughput_tokens_per_s / result.total_throughput_tokens_per_s
    )


def test_a_model_that_is_divided_without_need_is_told_so() -> None:
    question = InferenceInputs(
        model="qwen3-30b-a3b", gpu="rtx-4090", system="llama_cpp", n_cpu_moe=48, host="ryzen-9-7950x",
        weight_format="q4_k_m",
    )  # fmt: skip
    gains = faster(question, predict_inference(build_scenario(question)))
    whole = predict_inference(build_scenario(question.replace(n_cpu_moe=None)))
    assert gains[0].text == "without --n-cpu-moe"
    assert whole.feasible


def test_layers_on_the_cpu_are_compared_with_experts_there() -> None:
    """A mixture that does not fit: its experts alone in host memory are faster than whole layers, and by how much is said."""
    question = InferenceInputs(
        model="glm-4.5-air", gpu="rtx-4090", system="llama_cpp", n_gpu_layers=12, weight_format="q4_k_m"
    )
    gain = faster(question, predict_inference(build_scenario(question)))[0]
    assert gain.text.startswith("--n-cpu-moe ")
    assert gain.text.endswith(" without --n-gpu-layers")
    changed = predict_inference(
        build_scenario(question.replace(n_gpu_layers=None, n_cpu_moe=int(gain.text.split()[1])))
    )
    assert changed.feasible
    before = predict_inference(build_scenario(question))
    assert gain.factor == pytest.approx(before.total_latency_s / changed.total_latency_s)


def test_a_gain_in_training_is_what_the_changed_job_is_predicted_to_take() -> None:
    question = TrainingInputs(
        model="llama-3-8b", gpu="h100-sxm-80gb", num_gpus=8, framework="fsdp", activation_recomputation="full"
    )
    result = predict_training(build_training_scenario(question))
    gains = [gain for gain in faster_training(question, result, most=9) if "recomputation" in gain.text]
    assert gains
    for gain in gains:
        level = gain.text.removeprefix("--activation-recomputation ")
        changed = predict_training(
            build_training_scenario(question.replace(activation_recomputation=int(level)))
        )
        assert changed.feasible
        assert gain.factor == pytest.approx(changed.throughput_tokens_per_s / result.throughput_tokens_per_s)


@pytest.mark.parametrize(
    ("inputs", "text"),
    [
        ({"model": "qwen3-30b-a3b", "gpu": "b200", "num_gpus": 8, "ep_size": 8, "framework": "megatron_bridge",
          "seq_len": 1024, "micro_batch_size": 1}, "--cuda-graphs layers"),
        ({"model": "llama-3-8b", "gpu": "a100-sxm-80gb", "framework": "deepspeed", "optimizer_device": "cpu"},
         "--offload-overlap zenflow"),
        ({"model": "llama-3-8b", "gpu": "a100-sxm-80gb", "framework": "deepspeed", "ds_zero": 3, "optimizer_device": "cpu"},
         "--offload-overlap superoffload"),
    ],
)  # fmt: skip
def test_switches_of_a_framework_are_tried_where_it_has_them(inputs: dict[str, Any], text: str) -> None:
    question = TrainingInputs(**inputs)
    result = predict_training(build_training_scenario(question))
    gains = {gain.text: gain.factor for gain in faster_training(question, result, most=9)}
    name, value = text.removeprefix("--").replace("-", "_").split()
    changed = predict_training(build_training_scenario(question.replace(**{name: value})))
    assert gains[text] == pytest.approx(changed.throughput_tokens_per_s / result.throughput_tokens_per_s)


def test_who_asks_for_one_sequence_is_told_first_what_makes_it_faster() -> None:
    """DeepSeek-R1 has a module that drafts; more sequences at once gain more, but none of them is faster."""
    question = InferenceInputs(model="deepseek-r1", gpu="h200", num_gpus=8, tp_size=8, system="vllm")
    result = predict_inference(build_scenario(question))
    gains = faster(question, result, most=9)
    drafted = next(gain for gain in gains if gain.text == "--draft-model mtp --acceptance 0.7")
    changed = predict_inference(build_scenario(question.replace(draft_model="mtp", acceptance="0.7")))
    assert drafted.factor == pytest.approx(result.total_latency_s / changed.total_latency_s)
    assert gains[-1].of == "the throughput"
    assert gains[-1].factor > gains[0].factor
    several = question.replace(batch_size=8)
    found = faster(several, predict_inference(build_scenario(several)), most=9)
    assert [gain.factor for gain in found] == sorted((gain.factor for gain in found), reverse=True)


def test_memory_that_holds_what_is_read_from_the_file_is_told_of() -> None:
    """A desktop has 64 GiB where nothing is said: the owner of more reads what that would be worth, and how it is said."""
    question = InferenceInputs(
        model="qwen3-235b-a22b", gpu="rtx-3090", host="ryzen-9-9950x", system="llama_cpp", weight_format="q4_k_m",
        n_cpu_moe="all",
    )  # fmt: skip
    result = predict_inference(build_scenario(question))
    assert result.memory.nvme.weights_bytes > 0
    gain = faster(question, result)[0]
    assert gain.text == "--host ryzen-9-9950x-192gb"
    enough = question.replace(host="ryzen-9-9950x-192gb")
    changed = predict_inference(build_scenario(enough))
    assert changed.memory.nvme.weights_bytes == 0
    assert gain.factor == pytest.approx(result.total_latency_s / changed.total_latency_s)
    assert not [one for one in faster(enough, changed, most=9) if "--host" in one.text]


def test_switches_that_a_framework_has_not_are_not_tried() -> None:
    for framework in ("fsdp", "hf_trainer", "megatron_2022"):
        question = TrainingInputs(
            model="qwen3-30b-a3b", gpu="b200", num_gpus=8, framework=framework, seq_len=512
        )
        result = predict_training(build_training_scenario(question))
        said = [gain.text for gain in faster_training(question, result, most=99)]
        assert not [text for text in said if "graphs" in text or "overlap" in text]


@pytest.mark.parametrize(
    ("inputs", "wanted"),
    [
        ({"framework": "fsdp", "num_gpus": 8, "seq_len": 32768, "micro_batch_size": 1, "activation_recomputation": "full"},
         ["--loss chunked", "--loss fused", "--seq-len 16384"]),
        ({"gpu": "rtx-4090", "framework": "hf_trainer", "lora_rank": 16, "base_weight_bits": 4, "seq_len": 8192,
          "micro_batch_size": 1}, ["--loss chunked --activation-recomputation 4", "--framework unsloth"]),
    ],
)  # fmt: skip
def test_what_makes_training_fit_is_tried_and_fits(inputs: dict[str, Any], wanted: list[str]) -> None:
    question = TrainingInputs(**({"model": "llama-3.1-8b", "gpu": "a100-sxm-80gb"} | inputs))
    result = predict_training(build_training_scenario(question))
    changes = {change.text: change for change in training_changes_that_fit(question, result)}
    assert not result.feasible
    assert set(wanted) <= set(changes)
    for text in wanted:
        changed = question.replace(**changes[text].inputs)
        assert predict_training(build_training_scenario(changed)).feasible, text


def test_nothing_is_advised_for_what_does_not_fit() -> None:
    question = InferenceInputs(model="llama-3.1-70b", gpu="t4")
    assert faster(question, predict_inference(build_scenario(question))) == ()


def test_a_line_holds_as_many_pieces_as_it_has_room_for() -> None:
    assert in_width(["one", "two"], 8) == "one; two"
    assert in_width(["one", "two"], 7) == "one"
    assert in_width([]) == "-"


def test_what_is_too_long_loses_what_its_end_adds_and_never_ends_in_dots() -> None:
    assert in_width(["no room: 9 GiB needed, 5 usable, 4 missing"], 31) == "no room: 9 GiB needed, 5 usable"
    assert in_width(["--a 1 fits (2 token/s)"], 12) == "--a 1 fits"
    assert in_width(["a long sentence"], 10) == "a long sentence"  # nothing can go: it stays whole
    many = [Change("--one 1 --two 2 --three 3 --four-is-a-long-flag 4 --five-is-another-long-flag 5", {})]
    assert change_line(many)[0] == "--one 1 --two 2 --three 3 with 2 more flags, below, fits"
    assert unknown_pieces("no published run of it ships") == ["not known: no published run of it ships"]
    far = "weights of 0.233 GiB: farther than published runs of megatron reach (23.04 to 24.78 GiB)"
    assert unknown_pieces(far) == ["not known: weights of 0.233 GiB: farther than runs of megatron reach"]
    assert unknown_pieces("x" * 90) == ["not known", "the details say why"]
