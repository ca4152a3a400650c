"""A model divided between GPU and CPU as people ask about it on the command line."""

from __future__ import annotations

import json
from typing import Any

import pytest

SMALL_CARD = ("--gpu", "rtx-4060-ti-8gb", "--host", "ryzen-9-7950x")


def answer(llm_perf: Any, *arguments: str) -> dict[str, Any]:
    result = llm_perf(*arguments, "--json")
    assert result.code == 0, result.err
    found: dict[str, Any] = json.loads(result.out)
    return found


@pytest.mark.parametrize("name", ["none", "cpu"])
def test_the_cpu_alone(llm_perf: Any, name: str) -> None:
    found = answer(
        llm_perf,
        "infer",
        "--model",
        "llama-3.1-8b",
        "--gpu",
        name,
        "--host",
        "ryzen-9-7950x",
        "--weight-format",
        "q4_k_m",
    )
    assert found["placement"]["weights"] == {"gpu": 0.0, "cpu": 1.0, "nvme": 0.0}
    # bandwidth over weights is the bound that everybody knows: 83 GB/s over 4.6 GB.
    assert 9 < found["decode"]["throughput_tokens_per_s"] < 83.2 / 4.6


def test_a_host_alone_computes_and_says_so(llm_perf: Any) -> None:
    flags = ("--model", "llama-3.1-8b", "--host", "ryzen-9-7950x", "--system", "llama_cpp")
    alone, none = llm_perf("infer", *flags), llm_perf("infer", *flags, "--gpu", "none")
    assert (alone.code, alone.out) == (0, none.out)
    assert "no --gpu was given: ryzen-9-7950x computes alone" in alone.err
    assert none.err == ""


@pytest.mark.parametrize("command", ["sweep", "policy"])
def test_a_host_alone_is_searched_as_no_gpu(llm_perf: Any, command: str) -> None:
    flags = ("--model", "llama-3.1-8b", "--host", "ryzen-9-7950x")
    alone = llm_perf(command, *flags, "--system", "llama_cpp")
    none = llm_perf(command, *flags, "--system", "llama_cpp", "--gpu", "none")
    assert (alone.code, none.code) == (0, 0)
    assert alone.out.splitlines()[:5] == none.out.splitlines()[:5]  # below stands how long the search took
    assert "no --gpu was given: ryzen-9-7950x computes alone" in alone.err
    assert none.err == ""
    for asked in (("--system", "vllm"), ()):
        refused = llm_perf(command, *flags, *asked)
        assert refused.code == 2
        assert "--gpu is required" in refused.err
        assert "--system llama_cpp" in refused.err


@pytest.mark.parametrize("asked", [("--system", "vllm"), ("--system", "ktransformers"), ()])
def test_other_systems_say_who_computes_on_a_host(llm_perf: Any, asked: tuple[str, ...]) -> None:
    refused = llm_perf("infer", "--model", "llama-3.1-8b", "--host", "ryzen-9-7950x", *asked)
    assert refused.code == 2
    assert "--gpu is required" in refused.err
    assert "--system llama_cpp" in refused.err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--gpu", "none"), "name its CPU with --host"),
        (("--gpu", "none", "--host", "dgx-2", "--system", "vllm"), "system vllm needs a GPU"),
        (("--gpu", "none", "--host", "a6000-workstation"), "cores of host a6000-workstation are not known"),
        (("--gpu", "none", "--host", "ryzen-9-7950x", "--n-gpu-layers", "4"), "needs a GPU"),
        ((*SMALL_CARD, "--system", "llama_cpp", "--n-cpu-moe", "4"), "is dense: give --n-gpu-layers"),
        ((*SMALL_CARD, "--system", "llama_cpp", "--cpu-offload"), "give --n-gpu-layers or --n-cpu-moe"),
        ((*SMALL_CARD, "--system", "llama_cpp", "--split-mode", "row"), "possible: layer"),
        ((*SMALL_CARD, "--system", "ktransformers"), "has none: use --system llama_cpp"),
        ((*SMALL_CARD, "--system", "tensorrt_llm", "--cpu-offload-gb", "4"), "systems that do: vllm, sglang"),
        ((*SMALL_CARD, "--system", "vllm", "--n-gpu-layers", "4"), "does not know --n-gpu-layers"),
        ((*SMALL_CARD, "--system", "llama_cpp", "--n-gpu-layers", "many"), "n_gpu_layers"),
        (("--gpu", "none", "--system", "llama_cpp"), "here for this machine"),
        (
            ("--gpu", "rtx-4090,rtx-3090"),
            "GPUs of several kinds in one machine are not modelled yet; give one kind",
        ),
        (("--gpu", "rtx-4090 + rtx-3090"), "GPUs of several kinds in one machine are not modelled yet"),
    ],
)
def test_what_cannot_be_is_one_line_and_exit_2(llm_perf: Any, arguments: tuple[str, ...], said: str) -> None:
    result = llm_perf("infer", "--model", "llama-3.1-8b", *arguments)
    assert result.code == 2
    assert said in result.err
    assert len(result.err.strip().splitlines()) == 1


def test_a_system_that_unpacks_in_python_is_refused_for_narrow_weights(llm_perf: Any) -> None:
    result = llm_perf(
        "infer", "--model", "mixtral-8x7b", "--gpu", "rtx-a5000", "--host", "epyc-7763",
        "--system", "mixtral_offloading", "--weight-format", "int4",
    )  # fmt: skip
    assert result.code == 2
    assert "unpacks weights of less than 16 bits in Python" in result.err
    assert len(result.err.strip().splitlines()) == 1


@pytest.mark.parametrize("command", ["train", "plan"])
def test_commands_that_need_a_gpu_say_so(llm_perf: Any, command: str) -> None:
    result = llm_perf(command, "--model", "llama-3.1-8b", "--gpu", "none")
    assert result.code == 2
    assert "Traceback" not in result.err


@pytest.mark.parametrize(
    ("system", "split"),
    [("llama_cpp", "--tensor-split 23,13"), ("ktransformers", "--tensor-parallel-size 2")],
)
def test_several_gpus_are_one_deployment_of_a_divided_model(llm_perf: Any, system: str, split: str) -> None:
    asked = (
        "policy",
        "--model",
        "gpt-oss-120b",
        "--gpu",
        "rtx-3090-24gb",
        "--host",
        "ryzen-9-7950x",
        "--system",
        system,
    )
    one, two = (llm_perf(*asked, "--num-gpus", count) for count in ("1", "2"))
    assert (one.code, two.code) == (0, 0)
    assert split in " ".join(two.out.split())
    assert split.split()[0] not in one.out
    rates = [answer(llm_perf, *asked, "--num-gpus", count)["throughput_tokens_per_s"] for count in ("1", "2")]
    assert rates[1] > rates[0]


def test_the_division_is_named_first_where_a_model_does_not_fit(llm_perf: Any) -> None:
    result = llm_perf("infer", "--model", "qwen3-30b-a3b", *SMALL_CARD, "--json")
    assert result.code == 3
    first = json.loads(result.out)["suggestions"][0]
    assert first["inputs"]["system"] == "llama_cpp"
    assert first["inputs"]["n_cpu_moe"] > 0
    assert first["tokens_per_s"] > 5
    flags = first["change"].split()
    again = answer(llm_perf, "infer", "--model", "qwen3-30b-a3b", *SMALL_CARD, *flags)
    assert again["feasible"]
    assert again["decode"]["throughput_tokens_per_s"] == pytest.approx(first["tokens_per_s"], rel=0.01)


@pytest.mark.parametrize("objective", ["decode", "ttft", "mixed"])
def test_policy_finds_a_division_that_infer_repeats(llm_perf: Any, objective: str) -> None:
    question = (
        "--model",
        "gpt-oss-120b",
        "--gpu",
        "rtx-3090",
        "--host",
        "core-i9-14900k",
        "--context",
        "32768",
    )
    found = answer(llm_perf, "policy", "--system", "llama_cpp", "--objective", objective, *question)
    assert found["policy"]["n_cpu_moe"] > 10
    assert "--n-cpu-moe" in found["start_command"]
    assert "-c 32768" in found["start_command"]
    words = [f"--{name.replace('_', '-')}={value}" for name, value in found["policy"].items()]
    again = answer(llm_perf, "infer", *question[:-2], *words)
    assert again["total"]["latency_s"] == pytest.approx(found["latency_s"], rel=1e-9)
    best = min(point["tpot_s"] for point in found["front"])
    if objective == "decode":
        assert again["decode"]["latency_per_token_s"] <= best * 1.011


def test_policy_of_all_dividing_systems(llm_perf: Any) -> None:
    found = answer(llm_perf, "policy", "--model", "qwen3-30b-a3b", *SMALL_CARD, "--system", "auto")
    assert found["policy"]["system"] in ("llama_cpp", "ktransformers")
    assert found["start_command"]
    dense = answer(llm_perf, "policy", "--model", "llama-3.1-8b", *SMALL_CARD, "--system", "auto")
    assert dense["policy"]["system"] == "llama_cpp"


def test_an_objective_of_other_searches_is_refused(llm_perf: Any) -> None:
    result = llm_perf(
        "policy", "--model", "qwen3-30b-a3b", *SMALL_CARD, "--system", "llama_cpp", "--objective", "cost"
    )
    assert result.code == 2
    assert "decode, ttft or mixed" in result.err


def test_advice_leaves_out_what_the_dividing_system_does_not_know(llm_perf: Any) -> None:
    asked = (
        "infer",
        "--model",
        "llama-3-70b",
        "--gpu",
        "h100-sxm-80gb",
        "--system",
        "vllm",
        "--cpu-offload-gb",
        "40",
    )
    result = llm_perf(*asked, "--json")
    assert result.code == 3
    divided = next(one for one in json.loads(result.out)["suggestions"] if "n_gpu_layers" in one["inputs"])
    assert divided["inputs"]["cpu_offload_gb"] is None
    assert "without --cpu-offload-gb" in divided["change"]


CARDS = (
    "plan",
    "--model",
    "gpt-oss-120b",
    "--host",
    "ryzen-9-7950x",
    "--gpus",
    "rtx-3090-24gb,rtx-5060-ti-16gb,rtx-5090-32gb",
)


def test_a_card_for_a_host_is_the_smallest_that_meets_the_target(llm_perf: Any) -> None:
    found = answer(llm_perf, *CARDS, "--target", "tpot<30ms")
    assert [card["meets_targets"] for card in found["cards"]] == [True, True, False]
    first, second, _ = found["cards"]
    assert first["gpu"].startswith("RTX 3090")
    assert first["memory_gib"] < second["memory_gib"]
    assert first["tokens_per_s"] > found["without_card"]["tokens_per_s"]
    assert first["start_command"].startswith("llama-server")
    assert first["price_per_hour"] > 0
    # what infer says of the same division
    again = answer(
        llm_perf, "infer", "--model", "gpt-oss-120b", "--host", "ryzen-9-7950x", "--gpu", "rtx-3090-24gb",
        "--system", "llama_cpp", "--gen-len", "128", "--n-cpu-moe", str(first["inputs"]["n_cpu_moe"]),
    )  # fmt: skip
    assert again["tpot_s"] == pytest.approx(first["tpot_s"], rel=1e-6)


def test_cards_without_a_target_are_the_fastest_first(llm_perf: Any) -> None:
    result = llm_perf(*CARDS)
    assert result.code == 0
    rows = [line for line in result.out.splitlines() if line.startswith("RTX")][:3]
    assert [row.split()[1].split("-")[0] for row in rows] == ["5090", "3090", "5060"]
    assert "To start it:" in result.out
    assert "without a card:" in result.out
    alone = llm_perf(*CARDS, "--top", "1").out.splitlines()[
        4
    ]  # others run it, so nothing may say that none does
    assert alone == "Change:    no other card is shown that runs it (--top)"


@pytest.mark.parametrize(
    ("arguments", "said", "code"),
    [
        (("--target", "tpot<1ms"), "No card meets the targets", 3),
        (("--target", "cost<3"), "limits are on ttft, tpot", 2),
        (("--rate", "3"), "--rate goes without --host", 2),
        (("--gpus", "zzz"), "zzz", 2),
        (("--system", "vllm"), "has no policies to search", 2),
    ],
)
def test_what_no_card_can_do_is_said(llm_perf: Any, arguments: tuple[str, ...], said: str, code: int) -> None:
    result = llm_perf(*CARDS, *arguments)
    assert result.code == code
    assert said in (result.out if code == 3 else result.err)
    assert "next best" not in result.out  # one that misses the targets too is no change for the better
    assert "Traceback" not in result.err


def test_a_card_for_no_host_is_refused(llm_perf: Any) -> None:
    result = llm_perf("plan", "--model", "gpt-oss-120b", "--system", "auto")
    assert result.code == 2
    assert "--host" in result.err
