"""``--profile none`` reads no number that was fitted to whole runs: whatever these are, its predictions are the same."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from llm_perf.analysis.inference import predict_inference
from llm_perf.analysis.request import InferenceInputs, build_scenario
from llm_perf.analysis.training import predict_training
from llm_perf.analysis.training_request import TrainingInputs, build_training_scenario
from llm_perf.config.host import Rate
from llm_perf.config.loading import get_gpu_config_by_name, get_host_config_by_name, known_names
from llm_perf.systems import constants as constants_room
from llm_perf.systems import system_names
from llm_perf.systems.constants import ConstantsFile, load_constants
from llm_perf.systems.registry import runs_there
from llm_perf.systems.training.framework import FRAMEWORKS, load_framework, own_framework

OFFLOADS = {
    "zero_inference": [
        {"gpu": "t4", "cpu_offload": True},
        {"gpu": "t4", "disk_offload": True},
        {"gpu": "rtx-a6000-48gb", "host": "a6000-workstation", "cpu_offload": True, "kv_offload": True},
        {"gpu": "v100-sxm3-32gb", "host": "dgx-2", "cpu_offload": True, "pin_memory": False},
    ],
    "flexgen": [
        {"gpu": "t4", "percent": "20 80 0 100 0 100"},
        {"gpu": "t4", "percent": "0 50 0 100 0 100"},
        {"gpu": "h100-pcie-80gb", "host": "h100-spr-host", "percent": "0 100 0 100 0 100"},
    ],
    "accelerate": [{"gpu": "t4"}],
    "lia": [{"gpu": "h100-pcie-80gb", "host": "h100-spr-host"}],
    "airllm": [{"gpu": "t4"}],
    "llama_cpp": [{"gpu": "a100-sxm-80gb"}, {"gpu": "t4", "n_gpu_layers": 10}],
    **{
        name: [{"model": "mixtral-8x7b", "gpu": "t4"}, {"model": "mixtral-8x7b", "gpu": "a100-sxm-80gb"}]
        for name in ("fiddler", "ktransformers", "mixtral_offloading", "moe_infinity")
    },
}
MACHINES = ("a100-sxm-80gb", "gaudi2-96gb", "apple-m2-ultra-76c", "mi300x-192gb")


def machine_of(system: str) -> dict[str, str]:
    """The first machine that a system runs on."""
    return {"gpu": next(gpu for gpu in MACHINES if runs_there(system, get_gpu_config_by_name(gpu)))}


CASES = [
    (name, extra)
    for name in system_names()
    for extra in OFFLOADS.get(name) or [machine_of(name), machine_of(name) | {"quant_bits": 4}]
]


@contextmanager
def other_fits(monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """Every fitted number that ships has another value inside; gives how many these are."""
    changed = 0
    files: list[ConstantsFile] = [load_constants(name) for name in system_names()]
    files += [load_framework(name) for name in FRAMEWORKS]
    numbers = {
        id(one): one
        for file in files
        for stated in (file.constants, *file.hosts.values())
        for one in stated.values()
    }
    for constant in numbers.values():
        if constant.fitted:
            assert constant.range is not None
            low, high = constant.range
            other = (low + 2 * high) / 3
            monkeypatch.setitem(
                constant.__dict__, "value", (2 * low + high) / 3 if other == constant.value else other
            )
            changed += 1
    for name in known_names("host"):
        host = get_host_config_by_name(name)
        disk = (
            [] if host.disk is None else [getattr(host.disk, field) for field in type(host.disk).model_fields]
        )
        for rate in (*(getattr(host, field) for field in type(host).model_fields), *disk):
            if isinstance(rate, Rate) and rate.fitted:
                monkeypatch.setitem(rate.__dict__, "gb_per_s", rate.gb_per_s * 1.5)
                changed += 1
    for name in known_names("GPU"):
        efficiency = get_gpu_config_by_name(name).efficiency
        training = efficiency.training
        if training is not None and training.fitted:
            shipped = {path: value_at(training.model_dump(), path) for path in training.fitted}
            monkeypatch.setitem(
                efficiency.__dict__,
                "training",
                training.with_values({path: 0.9 * v for path, v in shipped.items()}),
            )
            changed += len(shipped)
    monkeypatch.setattr(constants_room, "_hosts", {})
    yield changed


def value_at(table: dict[str, Any], path: str) -> Any:
    for part in path.split("."):
        table = table[part]
    return table


def infer(system: str, extra: dict[str, Any], profile: str | None) -> tuple[float, ...]:
    question = {"model": "llama-2-7b-hf" if "t4" not in extra["gpu"] else "opt-6.7b", "batch_size": 4}
    found = predict_inference(
        build_scenario(InferenceInputs(**(question | extra | {"system": system, "profile": profile})))
    )
    assert found.decode is not None
    return found.prefill.latency_s, found.decode.latency_s, found.peak_gpu_memory_bytes


def train(framework: str, gpu: str, profile: str | None) -> tuple[float, ...]:
    # Frozen weights of 4 bits are trained by adapters alone.
    rank = 8 if own_framework(framework).defaults.get("base_weight_bits") else 0
    inputs = TrainingInputs(
        model="mpt-7b",
        gpu=gpu,
        num_gpus=8,
        framework=framework,
        micro_batch_size=1,
        lora_rank=rank,
        profile=profile,
    )
    found = predict_training(build_training_scenario(inputs))
    return found.step_time_s, found.memory.gpu.total_bytes


def test_none_reads_no_fitted_number(monkeypatch: pytest.MonkeyPatch) -> None:
    """LAW: predictions under ``--profile none`` are the same to the bit whatever the fitted numbers are."""
    trained = [
        (framework, gpu) for framework in FRAMEWORKS for gpu in ("a100-sxm-80gb", "h100-sxm-80gb", "b200")
    ]

    def all_of(profile: str | None) -> list[tuple[float, ...]]:
        return [
            *(infer(system, extra, profile) for system, extra in CASES),
            *(train(framework, gpu, profile) for framework, gpu in trained),
        ]

    bare, shipped = all_of("none"), all_of(None)
    with other_fits(monkeypatch) as changed:
        assert changed > 150
        assert all_of("none") == bare
        moved = all_of(None)
    same = [case for case, one, other in zip([*CASES, *trained], shipped, moved, strict=True) if one == other]
    # A stack that states no fitted number and inherits none that matters may stay; all others must move. Those that copy
    # experts have shares of the link of their own, and copy hidden states to no CPU.
    assert {case[0] for case in same} <= {
        "deepspeed_inference",
        "engine",
        "mixtral_offloading",
        "moe_infinity",
    }


def test_none_is_another_prediction_where_something_was_fitted() -> None:
    assert infer("vllm", machine_of("resident"), "none") != infer("vllm", machine_of("resident"), None)


@pytest.mark.parametrize("profile", [None, "none"])
def test_a_note_says_it(profile: str | None) -> None:
    inputs = InferenceInputs(model="opt-30b", gpu="t4", ds_zero=3, profile=profile)
    notes = [text for text in predict_inference(build_scenario(inputs)).warnings if "--profile none" in text]
    file = load_constants("zero_inference")
    here = sum(one.fitted for one in (*file.constants.values(), *file.hosts["gcp-t4"].values()))
    assert len(notes) == (profile is not None)
    assert all(f"{here} of zero_inference" in text and "of host gcp-t4" in text for text in notes)
