"""Engines on chips that they have no kernels for, and chips in hosts that no machine has them in."""

from __future__ import annotations

from typing import Any

import pytest

from llm_perf.config.loading import get_gpu_config_by_name, known_names, usual_host
from llm_perf.systems.devices import MAKERS, machine_note
from llm_perf.systems.families import families, family_names
from llm_perf.systems.training.framework import FRAMEWORKS, get_framework

ANY_CHIP = {"resident", "engine", "host_compute"}
"""Families that stand for programs of many makers."""


@pytest.mark.parametrize(
    ("system", "gpu", "accepted"),
    [
        ("vllm", "apple-m4-max", "mlx"),
        ("vllm", "p40", "llama_cpp"),
        ("mlx", "mi300x", "vllm"),
        ("ktransformers", "apple-m4-max", "llama_cpp"),
        ("tensorrt_llm", "mi300x", "vllm"),
        ("tensorrt_llm", "t4", "sglang"),
        ("optimum_habana", "h100-sxm-80gb", "tensorrt_llm"),
        ("transformers", "gaudi2", "optimum_habana"),
        ("llama_cpp", "tpu-v5e", "resident or engine for any stack"),
    ],
)
@pytest.mark.parametrize("command", ["infer", "simulate"])
def test_an_engine_without_kernels_for_a_chip_is_refused_with_those_that_have(
    llm_perf: Any, command: str, system: str, gpu: str, accepted: str
) -> None:
    more = ("--rate", "1") if command == "simulate" else ()
    said = llm_perf(command, "--model", "qwen3-30b-a3b", "--gpu", gpu, "--system", system, *more).error
    assert f"system {system} does not run on " in said
    assert accepted in said.partition("what runs on this one: ")[2]


def test_a_version_that_ran_on_older_chips_still_does(infer: Any) -> None:
    assert infer("--model", "opt-1.3b", "--gpu", "v100-sxm2-32gb", "--system", "tensorrt_llm@0.9").code == 0
    assert "(but pascal, volta, turing)" in (
        infer("--model", "opt-1.3b", "--gpu", "v100-sxm2-32gb", "--system", "tensorrt_llm").error
    )


@pytest.mark.parametrize(
    ("system", "gpu", "word"),
    [
        ("mlx", "h100-sxm-80gb", "mlx on H100-SXM-80GB: its CUDA backend"),
        ("ktransformers", "mi300x", "its ROCm backend is a beta"),
        ("vllm", "gaudi2", "vllm-gaudi"),
    ],
)
def test_another_backend_than_the_constants_are_of_gets_a_word(
    infer: Any, system: str, gpu: str, word: str
) -> None:
    found = infer("--model", "qwen3-30b-a3b", "--gpu", gpu, "--system", system, "--json").json
    assert any(word in warning for warning in found["warnings"])


def test_a_service_without_an_engine_gets_one_that_runs_there(llm_perf: Any) -> None:
    asked = ("simulate", "--model", "llama-3.2-1b", "--rate", "1", "--num-requests", "20", "--gpu")
    assert llm_perf(*asked, "apple-m4-max").out.count("engine, scheduler") == 1
    assert llm_perf(*asked, "h100-sxm-80gb").out.count("vllm@") == 1


@pytest.mark.parametrize(
    ("framework", "gpu", "accepted"),
    [
        ("megatron", "apple-m4-max", "hf_trainer"),
        ("unsloth", "tpu-v5p", "maxtext"),
        ("maxtext", "arc-b580", "fsdp"),
    ],
)
def test_a_framework_without_kernels_for_a_chip_is_refused(
    llm_perf: Any, framework: str, gpu: str, accepted: str
) -> None:
    said = llm_perf("train", "--model", "llama-3.2-1b", "--gpu", gpu, "--framework", framework).error
    assert f"framework {framework} does not run on " in said
    assert accepted in said.partition("what runs on this one: ")[2]


def test_a_framework_that_barely_runs_on_a_chip_says_so(llm_perf: Any) -> None:
    asked = (
        "train",
        "--model",
        "qwen3-0.6b",
        "--framework",
        "axolotl",
        "--lora-rank",
        "8",
        "--json",
        "--gpu",
    )
    assert any("partially usable" in one for one in llm_perf(*asked, "apple-m4-max").json["warnings"])
    assert not any("partially usable" in one for one in llm_perf(*asked, "h100-sxm-80gb").json["warnings"])


@pytest.mark.parametrize(
    ("gpu", "host", "word"),
    [
        ("h100-sxm-80gb", "gcp-t4", "made with turing"),
        ("apple-m4-max", "epyc-9654", "shares the memory of its own processor"),
        ("rtx-4090", "strix-halo", "made with rdna3.5"),
        ("h100-sxm-80gb", "epyc-7742", "with 63 GB/s between host and GPU; host epyc-7742 has 31.5"),
    ],
)
@pytest.mark.parametrize("command", ["infer", "train"])
def test_a_chip_in_a_foreign_host_gets_a_word(
    llm_perf: Any, command: str, gpu: str, host: str, word: str
) -> None:
    more = ("--framework", "torchtune", "--lora-rank", "8") if command == "train" else ()
    found = llm_perf(command, "--model", "llama-3.2-1b", "--gpu", gpu, "--host", host, *more, "--json").json
    assert any(word in warning for warning in found["warnings"])


def test_no_chip_is_foreign_to_the_host_that_it_is_usually_in() -> None:
    for name in known_names("GPU"):
        gpu = get_gpu_config_by_name(name)
        notes = {machine_note(gpu, usual_host(gpu, count)) for count in (1, 2, 4, 8)}
        assert notes == {None}, name


def test_each_family_says_where_it_runs() -> None:
    """In words that files of accelerators have: a slip of the pen would refuse all."""
    gpus = [get_gpu_config_by_name(name) for name in known_names("GPU")]
    kinds = {gpu.maker for gpu in gpus} | {gpu.architecture for gpu in gpus}
    assert {gpu.maker for gpu in gpus} == set(MAKERS)
    rules = {family.name: family.runs_on for family in families()}
    assert {name for name, rule in rules.items() if not rule} == ANY_CHIP & set(family_names())
    frameworks = {name: get_framework(name).runs_on for name in FRAMEWORKS}
    assert None not in frameworks.values()
    for rule in (*(one for several in rules.values() for one in several), *filter(None, frameworks.values())):
        assert {*rule.devices, *rule.barely} <= kinds
        for maker, architectures in rule.but_not.items():
            assert set(architectures) <= {gpu.architecture for gpu in gpus if gpu.maker == maker}


def test_an_exception_stands_beside_its_maker(infer: Any) -> None:
    said = infer("--model", "llama-3.1-8b", "--gpu", "p40", "--system", "vllm").error
    assert "it runs on nvidia (but pascal), amd, intel, google, aws; what runs" in said
    said = infer("--model", "llama-3.1-8b", "--gpu", "gaudi2", "--system", "autoawq").error
    assert "nvidia (but pascal, volta)" in said
    assert "intel (but gaudi2, gaudi3)" in said


@pytest.mark.parametrize("system", ["llama_cpp", "exllama", "autoawq"])
def test_what_has_stages_alone_takes_no_tensor_ranks(infer: Any, system: str) -> None:
    asked = ("--model", "llama-3.1-8b", "--gpu", "rtx-4090", "--system", system)
    assert "give --pp-size 2, or --num-gpus 2 alone" in infer(*asked, "--tp-size", "2").error
    assert infer(*asked, "--num-gpus", "2").code == 0


@pytest.mark.parametrize("system", ["airllm", "lia"])
@pytest.mark.parametrize("size", ["--num-gpus", "--pp-size", "--tp-size"])
def test_what_runs_on_one_gpu_takes_no_more(infer: Any, system: str, size: str) -> None:
    said = infer(
        "--model",
        "opt-6.7b",
        "--gpu",
        "h100-sxm-80gb",
        "--host",
        "dgx-h100",
        "--system",
        system,
        size,
        "2",
    ).error
    assert f"2 GPUs: system {system} runs on one; leave" in said


def test_a_search_over_all_systems_leaves_out_those_that_do_not_run_there(llm_perf: Any) -> None:
    asked = ("policy", "--model", "opt-6.7b", "--gpu", "arc-b580", "--host", "gcp-t4")
    assert "system flexgen does not run on Arc B580-12GB" in llm_perf(*asked, "--system", "flexgen").error
    found = llm_perf(*asked, "--system", "all", "--json").json
    assert found["inputs"]["system"] == "zero_inference"
