"""What a first visitor meets: whose answer it is, what it assumes, names with a slip, copies, files that are not here."""

from __future__ import annotations

import json
from typing import Any

import pytest


def words(text: str) -> str:
    return " ".join(text.split())


# -- which system, for how many at once ------------------------------------------------------------------------


def test_a_policy_without_a_system_answers_batches_and_one_chat_and_says_which(llm_perf: Any) -> None:
    asked = ("policy", "--model", "llama-3.1-70b", "--gpu", "rtx-4090", "--host-memory", "128")
    out = llm_perf(*asked).out
    speed = out.splitlines()[1]
    for said in ("at once", "(flexgen)", "one chat", "(llama_cpp)"):
        assert said in speed
    assert "--host-memory 128" in out
    assert "llama-server -m" in out
    found = llm_perf(*asked, "--json").json
    chat = found["one_chat"]
    assert chat["policy"]["system"] == "llama_cpp"
    auto = llm_perf(*asked, "--system", "auto", "--json").json
    assert chat["policy"] == auto["policy"]
    assert chat["latency_s"] == auto["latency_s"]


def test_a_stated_batch_asks_for_a_divided_model(llm_perf: Any) -> None:
    found = llm_perf(
        "policy", "--model", "llama-3.1-70b", "--gpu", "rtx-4090", "--batch-size", "4", "--json"
    ).json
    assert found["inputs"]["batch_size"] == 4
    assert found["policy"]["system"] in ("llama_cpp", "ktransformers")


def test_a_mac_gets_the_answer_for_one_chat(llm_perf: Any) -> None:
    found = llm_perf("policy", "--model", "llama-3.1-8b", "--gpu", "m2-ultra")
    assert found.code == 0
    assert "one chat" in found.out.splitlines()[1]
    assert "batches are not answered" in found.out


# -- what is assumed is said --------------------------------------------------------------------------------------


def test_the_rate_of_host_memory_is_said_where_the_cpu_computes(infer: Any) -> None:
    asked = (
        "--model",
        "llama-3.1-70b",
        "--gpu",
        "rtx-4090",
        "--system",
        "llama_cpp",
        "--weight-format",
        "q4_k_m",
    )
    divided = words(infer(*asked, "--n-gpu-layers", "40").out)
    assert "host memory: 2 channels of 4800 MT/s, 76.8 GB/s by its sheet, 64 GiB" in divided
    assert "--host-bandwidth" in divided
    measured = words(infer(*asked, "--n-gpu-layers", "40", "--host-bandwidth", "60").out)
    assert "reads at 60 GB/s, as --host-bandwidth says" in measured
    assert "host memory:" not in infer("--model", "llama-3.1-8b", "--gpu", "rtx-4090").out


def test_the_link_that_weights_stream_over_is_said(infer: Any) -> None:
    assert "host-to-GPU link: 15.75 GB/s" in infer("--model", "opt-30b", "--gpu", "t4", "--ds-zero", "3").out


@pytest.mark.parametrize("command", ["infer", "train"])
def test_the_network_between_nodes_is_said(llm_perf: Any, command: str) -> None:
    deployed = "--model llama-3.1-8b --gpu h100-sxm-80gb --num-gpus 8 --num-nodes 2"
    asked: tuple[str, ...] = (command, *deployed.split())
    asked += ("--tp-size", "8", "--batch-size", "2") if command == "infer" else ()
    out = words(llm_perf(*asked).out)
    assert "network between nodes: 50 GB/s per GPU and direction (400 Gb/s, of dgx-h100)" in out
    assert "--network-bandwidth" in out
    assert "12.5 GB/s per GPU and direction (100 Gb/s, as asked)" in words(
        llm_perf(*asked, "--network-bandwidth", "12.5").out
    )


@pytest.mark.parametrize("command", ["infer", "train"])
def test_a_name_of_another_spec_is_said(llm_perf: Any, command: str) -> None:
    out = words(llm_perf(command, "--model", "llama3-70b", "--gpu", "H200 141GB").out)
    assert "llama3-70b is answered as meta-llama/Meta-Llama-3-70B" in out
    assert "H200 141GB is answered as H200-SXM-141GB (others: h200-nvl-141gb)" in out
    own = llm_perf(command, "--model", "opt-1.3b", "--gpu", "t4").out
    assert "is answered as" not in own


@pytest.mark.parametrize(
    ("memory", "words_of_it"),
    [
        (("--host", "ryzen-9-7950x-32gb"), "give one of the two"),
        (("--gpu", "m2-max"), "one memory"),
        (("--host-memory", "99999999"), "no machine's memory"),
    ],
)
def test_host_memory_that_cannot_be_is_refused(infer: Any, memory: tuple[str, ...], words_of_it: str) -> None:
    gpu = () if "--gpu" in memory else ("--gpu", "rtx-4090")
    gib = () if "--host-memory" in memory else ("--host-memory", "16")
    assert words_of_it in infer("--model", "llama-3.1-8b", *gpu, *memory, *gib).error


def test_a_training_at_the_edge_says_what_decides_and_what_fits_for_sure(llm_perf: Any) -> None:
    asked = ("train", "--model", "opt-1.3b", "--gpu", "a100-sxm-80gb", "--framework", "fsdp")
    out = words(llm_perf(*asked).out)
    assert "The largest part is activations" in out
    assert "is the largest that is predicted to fit" in out
    sure = out.partition("The whole interval fits with --micro-batch-size ")[2].split(".")[0]
    assert llm_perf(*asked, "--micro-batch-size", sure).out.startswith("Fits:      yes")
    assert llm_perf(*asked, "--micro-batch-size", str(int(sure) + 1)).out.startswith("Fits:      likely")


@pytest.mark.parametrize(
    ("framework", "versions"),
    [("hf_trainer", "transformers"), ("fsdp", "PyTorch"), ("deepspeed", "deepspeed")],
)
def test_a_training_says_which_version_it_stands_for(llm_perf: Any, framework: str, versions: str) -> None:
    out = llm_perf("train", "--model", "opt-1.3b", "--gpu", "a100-sxm-80gb", "--framework", framework).out
    assert versions in next(line for line in out.splitlines() if line.startswith("constants as of "))


def test_the_log_of_deepspeeds_example_is_of_systems_that_write_it(infer: Any) -> None:
    assert "model size:" not in infer("--model", "llama-3.1-8b", "--gpu", "h200", "--system", "vllm").out
    assert "model size:" in infer("--model", "opt-30b", "--gpu", "t4", "--ds-zero", "3").out


# -- names ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("flag", "typed", "first"),
    [
        ("--gpu", "rtx 4009", "rtx-4090"),
        ("--gpu", "rtx 3009", "rtx-3090"),
        ("--gpu", "h010-pcie-80gb", "h100-pcie-80gb"),
        ("--model", "lama-3.1-8b", "meta-llama_Llama-3.1-8B"),
        ("--model", "llama-3.1-b8", "meta-llama_Llama-3.1-8B"),
        ("--model", "qwen3-23b", "Qwen_Qwen3-32B"),
        ("--model", "mxitral-8x7b", "mistralai_Mixtral-8x7B-v0.1"),
    ],
)
def test_a_slip_of_the_hand_is_seen_through(infer: Any, flag: str, typed: str, first: str) -> None:
    others = {"--model": "opt-1.3b", "--gpu": "t4"} | {flag: typed}
    said = infer(*(word for pair in others.items() for word in pair)).error
    nearest = said.partition("the nearest known: ")[2].split(", ")
    assert any(one.startswith(first) for one in nearest[:2])


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("Llama 3.1 Nemotron Nano 8B", "meta-llama/Llama-3.1-8B"),
        ("Llama 3.1 Nemotron 70B Instruct", "meta-llama/Llama-3.1-70B"),
        ("Nemotron 3 Nano 30B", "nvidia/NVIDIA-Nemotron-3-Nano-30B-A3B"),
        ("01-ai/Yi-6B-Chat-4bits", "01-ai/Yi-6B in awq"),
        ("gemma-4-12b-it-Q8_0.gguf", "google/gemma-4-12B in q8_0"),
        ("mistral-7b-instruct-v0.2.Q4_K_M.gguf", "mistralai/Mistral-7B-Instruct-v0.2 in q4_k_m"),
        ("CodeLlama-70b", "codellama/CodeLlama-70b-hf"),
        ("unsloth/gpt-oss-20b", "openai/gpt-oss-20b"),
        ("neuralmagic/Llama-3.2-11B-Vision-Instruct-FP8-dynamic", "meta-llama/Llama-3.2-11B-Vision in fp8"),
        ("llama-3.1-8b-Int4-AutoRound", "meta-llama/Llama-3.1-8B in int4"),
        ("llama-3.1-8b-W8A8", "meta-llama/Llama-3.1-8B in int8"),
    ],
)
def test_a_copy_is_answered_as_the_model_and_says_so(infer: Any, typed: str, meant: str) -> None:
    found = infer("--model", typed, "--gpu", "h200")
    assert found.code in (0, 3)
    assert f"{typed} is answered as {meant}" in words(found.out)


@pytest.mark.parametrize("typed", ["ibm-granite/granite-4.1-8b", "deepseek-coder-6.7b", "starcoder2-15b"])
def test_a_models_own_name_needs_no_word(infer: Any, typed: str) -> None:
    assert f"{typed} is answered as" not in infer("--model", typed, "--gpu", "h200-nvl-141gb").out


@pytest.mark.parametrize(
    ("typed", "base"),
    [
        ("Qwen/Qwen3Guard-Gen-8B", "Qwen/Qwen3-8B"),
        ("NousResearch/Hermes-2-Pro-Llama-3-8B", "meta-llama/Meta-Llama-3-8B"),
        ("mlabonne/Meta-Llama-3.1-8B-Instruct-abliterated", "meta-llama/Llama-3.1-8B"),
        ("somebody/gpt-oss-20b", "openai/gpt-oss-20b"),
    ],
)
def test_a_fine_tune_is_refused_with_what_to_type(infer: Any, typed: str, base: str) -> None:
    said = infer("--model", typed, "--gpu", "h200").error
    assert f"unknown model {typed!r}" in said
    assert f"--model {base}" in said
    assert infer("--model", base, "--gpu", "h200-nvl-141gb").code in (0, 3)


@pytest.mark.parametrize(
    "typed",
    [
        "Qwen2.5-Omni-7B",
        "Qwen3-8B-Eagle3",
        "llama-3",
        "8b",
        "./gemma-4-12b-Q8_0.gguf",
        "qwen25-7b",
        "qwen-2-5-7b",
    ],
)
def test_no_name_is_answered_for_another_model(infer: Any, typed: str) -> None:
    """Another shape or generation, a version that is left open, a size alone, a path: no answer, and no base to type."""
    assert "--model" not in infer("--model", typed, "--gpu", "h200").error


@pytest.mark.parametrize(
    ("typed", "stored"),
    [("UD-Q4_K_XL", "q4_k_m"), ("Q4_K_XL", "q4_k_m"), ("ud-q4_k_m", "q4_k_m"), ("UD-IQ2_XXS", "iq2_xxs")],
)
def test_a_mixture_of_unsloths_is_answered_as_the_nearest_and_says_so(
    infer: Any, typed: str, stored: str
) -> None:
    asked = ("--model", "llama-3.1-8b", "--gpu", "rtx-4090", "--system", "llama_cpp", "--weight-format")
    assert f"{typed} is answered as {stored}" in infer(*asked, typed).out
    assert infer(*asked, typed, "--json").json["weight_format"]["name"] == stored


@pytest.mark.parametrize(("typed", "stored"), [("W8A8", "int8"), ("Int4-AutoRound", "int4")])
def test_formats_as_repositories_write_them(infer: Any, typed: str, stored: str) -> None:
    found = infer("--model", "llama-3.1-8b", "--gpu", "h200", "--weight-format", typed, "--json").json
    assert found["weight_format"]["name"] == stored


def test_an_unknown_format_says_the_nearest_and_where_all_stand(llm_perf: Any) -> None:
    said = llm_perf("infer", "--model", "opt-1.3b", "--gpu", "t4", "--weight-format", "q4_k_n").error
    assert "one of q4_k_m, q4_k_s" in said
    assert len(said) < 200
    listed = llm_perf("models", "formats").out
    names = {row["name"] for row in json.loads(llm_perf("models", "formats", "--json").out)["formats"]}
    assert {"q4_k_m", "awq", "fp8"} <= names
    assert all(name in listed for name in names)
    assert "models formats" in said


# -- means and machines ----------------------------------------------------------------------------------------------


def test_a_file_of_inputs_takes_means_as_flags_do(llm_perf: Any, folder: Any) -> None:
    (folder / "q.yaml").write_text("{model: opt-1.3b, gpu: t4, prompt_len: 1023.4}")
    (folder / "odd.yaml").write_text("{model: opt-1.3b, gpu: t4, prompt_len: 1.4}")
    found = llm_perf("infer", "--config", "q.yaml", "--json")
    assert found.json["inputs"]["prompt_len"] == 1023
    assert "1023.4 is taken as 1023" in found.err
    assert "prompt_len" in llm_perf("infer", "--config", "odd.yaml").error


def test_sixteen_cards_of_a_home_rig_are_answered_and_the_machine_is_said(infer: Any) -> None:
    asked = ("--model", "llama-3.1-70b", "--gpu", "rtx-3090", "--num-gpus", "16", "--tp-size", "16")
    assert "host rig-gen4 is assumed: sixteen cards on risers" in words(infer(*asked).out)
    more = infer("--model", "llama-3.1-70b", "--gpu", "rtx-3090", "--num-gpus", "20", "--tp-size", "20").error
    assert "has places for 16" in more


@pytest.mark.parametrize(
    "card", ["Radeon PRO W7800", "GTX 1650 SUPER", "RX 580", "RX 5700 XT", "RTX 3060 Laptop"]
)
def test_cards_that_people_have(infer: Any, card: str) -> None:
    found = infer("--model", "llama-3.2-1b", "--gpu", card, "--system", "llama_cpp", "--json")
    assert found.code == 0
