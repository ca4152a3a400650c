"""Names as people type them: of a Mac, of Ollama's library, of MLX's repositories, without hyphens; sizes that are none."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from llm_perf.config.loading import (
    get_gpu_config_by_name,
    get_host_config_by_name,
    get_model_config_by_name,
    known_names,
)
from llm_perf.config.ollama import tagged_model


@pytest.mark.parametrize(
    ("typed", "gpu"),
    [
        ("MacBook Pro M4 Max", "Apple M4 Max 40c"),
        ('MacBook Pro 16" M4 Max 128GB', "Apple M4 Max 40c 128GB"),
        ("MacBook Pro 16-inch 2023 M3 Max", "Apple M3 Max 40c"),
        ("mac mini m4 pro", "Apple M4 Pro 20c"),
        ("mac studio m2 ultra", "Apple M2 Ultra 76c"),
        # The chip that the name means without its memory, though one with fewer cores is had with as much.
        ("M1 Max 64GB", "Apple M1 Max 32c"),
        ("M1 Max 32GB", "Apple M1 Max 32c 32GB"),
        ("M1 Ultra 128GB", "Apple M1 Ultra 64c"),
        ("M2 Ultra 192GB", "Apple M2 Ultra 76c"),
        ("M2 Ultra 128GB", "Apple M2 Ultra 76c 128GB"),
        ("M2 Ultra 64GB", "Apple M2 Ultra 76c 64GB"),
        ("M2 Max 32GB", "Apple M2 Max 38c 32GB"),
        ("M3 Max 36GB", "Apple M3 Max 30c"),
        ("M4 Max 36GB", "Apple M4 Max 32c"),
        ("M1 8GB", "Apple M1 8c 8GB"),
        ("DGX Spark 128GB", "GB10-128GB"),
        ("strix halo 128 GB", "Radeon 8060S-128GB"),
        ("rtx4090", "RTX 4090-24GB"),
        ("rtx3060 12gb", "RTX 3060-12GB"),
        ("rx7900xtx", "RX 7900 XTX-24GB"),
        ("rx-7900xt", "RX 7900 XT-20GB"),
        ("RTX3090Ti", "RTX 3090Ti-24GB"),
    ],
)
def test_an_accelerator(typed: str, gpu: str) -> None:
    assert get_gpu_config_by_name(typed).name == gpu


@pytest.mark.parametrize(
    ("typed", "host"),
    [
        ("ryzen 7950x", "ryzen-9-7950x"),
        ("Ryzen7950X", "ryzen-9-7950x"),
        ("7950x 64gb", "ryzen-9-7950x-64gb"),
        ("r5 5600", "ryzen-5-5600"),
        ("13900k", "core-i9-13900k"),
        ("ultra 9 285k", "core-ultra-9-285k"),
        ("epyc9654", "epyc-9654"),
        ("2x epyc9654", "2x epyc-9654"),
        ("xeon8480+", "xeon-platinum-8480-plus"),
        ("macbook pro m4 max", "apple-m4-max"),
    ],
)
def test_a_host(typed: str, host: str) -> None:
    assert get_host_config_by_name(typed).name == host


@pytest.mark.parametrize(
    ("typed", "model", "stored"),
    [
        ("mlx-community/Qwen2.5-7B-Instruct-4bit", "Qwen2.5-7B", "mlx_4bit"),
        ("mlx-community/Meta-Llama-3.1-8B-Instruct-8bit", "Llama-3.1-8B", "mlx_8bit"),
        ("lmstudio-community/Qwen3-8B-MLX-4bit", "Qwen3-8B", "mlx_4bit"),
        ("llama3.1:latest", "Llama-3.1-8B", "q4_k_m"),
        ("llama3.2:latest", "Llama-3.2-3B", "q4_k_m"),
        ("qwen2.5:7b-instruct-q4_K_M", "Qwen2.5-7B", "q4_k_m"),
        ("deepseek-r1:latest", "DeepSeek-R1-0528-Qwen3-8B", "q4_k_m"),
        ("deepseek-r1:32b-qwen-distill-q8_0", "DeepSeek-R1-Distill-Qwen-32B", "q8_0"),
        ("gemma3:27b-it-qat", "gemma-3-27b", "q4_0"),
        ("phi3:mini", "Phi-3-mini", "q4_k_m"),
        ("qwen3:q8_0", "Qwen3-8B", "q8_0"),
        ("gpt-oss:latest", "gpt-oss-20b", "mxfp4"),
        ("deepseek-r1:671b", "DeepSeek-V3", "q4_k_m"),
        ("deepseek-v3.1:671b", "DeepSeek-V3", "q4_k_m"),
        ("llama4:scout", "Llama-4-Scout", "q4_k_m"),
        ("bartowski/Meta-Llama-3.1-8B-Instruct-GGUF:Q4_K_M", "Llama-3.1-8B", "q4_k_m"),
        ("unsloth/Qwen3-30B-A3B-GGUF:BF16", "Qwen3-30B-A3B", "16 bit"),
        ("unsloth/gpt-oss-20b-GGUF:F16", "gpt-oss-20b", "mxfp4"),
        ("unsloth/gpt-oss-20b-GGUF:UD-Q4_K_XL", "gpt-oss-20b", "mxfp4"),
        ("unsloth/gpt-oss-20b", "gpt-oss-20b", "mxfp4"),
        ("unsloth/gpt-oss-20b-BF16", "gpt-oss-20b", "16 bit"),
        ("unsloth/Llama-3.2-3B-Instruct", "Llama-3.2-3B", "16 bit"),
        ("nvidia/NVIDIA-Nemotron-3-Nano-30B-A3B-BF16", "Nemotron-3-Nano-30B-A3B", "16 bit"),
        ("nvidia/Qwen3.6-27B-NVFP4", "Qwen3.6-27B", "nvfp4_weight_only"),
        ("nvidia/Qwen3.6-35B-A3B-NVFP4", "Qwen3.6-35B-A3B", "nvfp4_weight_only"),
        ("nvidia/Qwen3.5-122B-A10B-NVFP4", "Qwen3.5-122B-A10B", "nvfp4"),
        ("mistralai/Mistral-Medium-3.5-128B", "Mistral-Medium-3.5", "fp8"),
        ("google/gemma-4-12B-it", "gemma-4-12B", "16 bit"),
        ("codellama-7b", "CodeLlama-7b", "16 bit"),
        ("ggml-org/gpt-oss-20b-GGUF:MXFP4", "gpt-oss-20b", "mxfp4"),
        ("unsloth/Qwen3-30B-A3B-GGUF:MXFP4_MOE", "Qwen3-30B-A3B", "mxfp4_gguf"),
        ("hf.co/unsloth/Qwen3-30B-A3B-GGUF:UD-Q4_K_XL", "Qwen3-30B-A3B", "q4_k_m"),
        ("llama-3.1-8b q4_k_m", "llama-3.1-8b", "q4_k_m"),
        ("hf.co/bartowski/Llama-3.2-3B-Instruct-GGUF:Q8_0", "Llama-3.2-3B", "q8_0"),
        ("https://huggingface.co/Qwen/Qwen2.5-7B-Instruct", "Qwen2.5-7B", "16 bit"),
    ],
)
def test_a_model_and_its_format(infer: Any, typed: str, model: str, stored: str) -> None:
    found = infer("--model", typed, "--gpu", "h200", "--json").json
    assert model in get_model_config_by_name(typed).name
    assert found["weight_format"]["name"] == stored


@pytest.mark.parametrize(
    "tagged", ["Qwen3-30B-A3B-GGUF:UD-TQ1_0", "gpt-oss-20b-GGUF:no-format", "gpt-oss-20b-GGUF:UD-nonsense"]
)
def test_a_format_of_the_hub_that_is_not_known_is_named(infer: Any, tagged: str) -> None:
    said = infer("--model", f"hf.co/unsloth/{tagged}", "--gpu", "t4").error
    assert f"format '{tagged.partition(':')[2]}' is not known" in said


@pytest.mark.parametrize("name", ["q4_k_m", "q8_0", "iq4_xs"])
def test_files_of_gpt_oss_are_of_one_size_whatever_they_are_called(infer: Any, name: str) -> None:
    """Its rows of 2,880 are no whole blocks of 256: gpt-oss-20b-Q4_K_M.gguf has 11.6 GB, as the file in MXFP4."""
    asked = ("--model", "gpt-oss-20b", "--gpu", "rtx-4090", "--system", "llama_cpp", "--json")
    found, kept = infer(*asked, "--weight-format", name).json, infer(*asked).json
    assert found["memory"]["gpu"]["weights_bytes"] == kept["memory"]["gpu"]["weights_bytes"]


def test_a_copy_of_another_owner_is_not_taken_for_the_model(infer: Any) -> None:
    """Who is not known to publish copies may mean a model of its own by that name."""
    assert "unknown model" in infer("--model", "somebody/gpt-oss-20b", "--gpu", "t4").error


def test_a_file_of_this_machine_is_no_repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The page takes what a tag of Ollama's means, and no files."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "config.json").write_text('{"architectures": ["OPTForCausalLM"]}')
    for name in ("own:q8_0", "hf.co/own:q8_0", "hf.co/own", "hf.co/own/config.json:q8_0", "hf.co/a/b.gguf"):
        assert tagged_model(name) is None


@pytest.mark.parametrize(
    ("host", "accepted"),
    [
        ("here-0gb", "1gb to 64tb"),
        ("epyc-9654-0gb", "1gb to 64tb"),
        ("epyc-9654-99999tb", "1gb to 64tb"),
        ("2x dgx-h100", "--host dgx-h100 --num-nodes 2"),
        ("4x dgx-spark", "--host dgx-spark --num-nodes 4"),
    ],
)
def test_a_host_that_is_none_is_refused_in_one_line(infer: Any, host: str, accepted: str) -> None:
    assert accepted in infer("--model", "opt-1.3b", "--gpu", "t4", "--host", host).error


def test_a_mac_without_its_chip_is_asked_for_it(infer: Any) -> None:
    assert "give the chip" in infer("--model", "opt-1.3b", "--gpu", "MacBook Pro").error


@pytest.mark.parametrize("kind", ["GPU", "host"])
def test_no_name_that_ships_is_taken_for_another(kind: str) -> None:
    """The spellings that are let through mean nothing else than they did: each name is still its own."""
    load = get_gpu_config_by_name if kind == "GPU" else get_host_config_by_name
    for stem in known_names(kind):
        assert load(stem) == load(stem.upper()), stem
        assert load(stem.replace("-", " ")) == load(stem), stem
