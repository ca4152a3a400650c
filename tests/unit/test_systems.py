"""Systems by name, and their constants: each with a value in its range and a source, each read somewhere."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from llm_perf.analysis.inference import predict_inference
from llm_perf.analysis.request import InferenceInputs, build_scenario
from llm_perf.config.loading import get_gpu_config_by_name
from llm_perf.config.parallelism import DSZeRO
from llm_perf.errors import SpecError, UnknownNameError
from llm_perf.systems import get_system, resolve_system, system_names, system_of
from llm_perf.systems.constants import Constant, ConstantsFile, load_constants, overridden
from llm_perf.systems.families import find, folder_of, release_of
from llm_perf.systems.registry import runs_there, stack_names
from llm_perf.systems.zero_inference.memory import live_param_bytes

FOLDER = Path(__file__).parents[2] / "llm_perf" / "systems"
FILES = [f"{family}@{release}" for family in system_names() for release in folder_of(family).all_releases]
CODE = "\n".join(
    path.read_text("utf-8")
    for path in (
        *FOLDER.rglob("*.py"),
        FOLDER.parent / "hardware" / "cpu_time.py",
        FOLDER.parent / "analysis" / "hybrid_intervals.py",
        FOLDER.parent / "hardware" / "gpu_time.py",
        FOLDER.parent / "report" / "explain.py",
    )
)


def raw(name: str) -> dict[str, Any]:
    family, version = find(name)
    data = yaml.safe_load(folder_of(family).text(f"{release_of(family, version)[0]}.yaml"))
    assert isinstance(data, dict)
    return data


# -- the files ------------------------------------------------------------------------------------------------


def test_every_system_has_a_file() -> None:
    assert {name.partition("@")[0] for name in FILES} == set(system_names())


@pytest.mark.parametrize("name", FILES)
def test_a_file_says_whose_constants_it_holds(name: str) -> None:
    found = load_constants(name)
    assert f"{found.name}@{found.release}" == name
    assert found.version
    assert len(found.description) > 20
    assert found.constants


@pytest.mark.parametrize("name", FILES)
def test_each_constant_has_a_source_and_lies_in_its_range(name: str) -> None:
    for constant, found in load_constants(name).constants.items():
        assert len(found.source.split()) >= 2, constant
        if found.range is not None:
            low, high = found.range
            assert 0 <= low < high, constant
            assert low <= found.value <= high, constant
        assert found.value >= 0, constant


@pytest.mark.parametrize("name", FILES)
def test_each_constant_is_read_by_a_system(name: str) -> None:
    """A misspelt constant would change nothing, and nobody would notice."""
    for constant in raw(name)["constants"]:
        assert f'"{constant}"' in CODE, constant


@pytest.mark.parametrize("name", stack_names())
def test_a_stack_only_changes_what_all_stacks_have(name: str) -> None:
    assert raw(name)["constants"].keys() <= raw("resident")["constants"].keys()


# -- extension and overrides ----------------------------------------------------------------------------------


def test_a_stack_extends_another() -> None:
    base, stack, own = (
        load_constants("resident"),
        load_constants("fastertransformer"),
        raw("fastertransformer"),
    )
    assert own["extends"] == "resident"
    assert stack.constants.keys() == base.constants.keys()
    for name, constant in stack.constants.items():
        assert constant.value == (
            own["constants"][name]["value"] if name in own["constants"] else base.value(name)
        )
    assert stack.value("kernels_per_layer") != base.value("kernels_per_layer")


def test_an_override_takes_the_place_of_a_constant() -> None:
    file = load_constants("resident")
    values = overridden(file, (("launch_us", 9.0),))
    assert values == {name: constant.value for name, constant in file.constants.items()} | {"launch_us": 9.0}
    assert file.value("launch_us") != 9.0


def test_an_unknown_override_is_refused_with_the_names_that_there_are() -> None:
    with pytest.raises(SpecError, match=r"system resident has no constant 'lunch_us'; it has: .*launch_us"):
        overridden(load_constants("resident"), (("lunch_us", 9.0),))


def runs_on(system: str, gpu: str) -> str:
    """The GPU, or another that a system has kernels for where it has none for this one."""
    able = (name for name in (gpu, "gaudi2", "mi300x") if runs_there(system, get_gpu_config_by_name(name)))
    return next(able)


@pytest.mark.parametrize("name", system_names())
def test_every_system_takes_overrides(name: str) -> None:
    experts = "kt_num_gpu_experts" in get_system(name).options  # such a system divides experts
    model = "mixtral-8x7b" if experts else "opt-13b"
    on_disk = get_system(name).family.usual_weights == "nvme"
    host = "dgx-h100" if on_disk else "h100-spr-host"  # the one with a disk, the one whose CPU has rates
    inputs = InferenceInputs(model=model, gpu=runs_on(name, "h100-pcie-80gb"), host=host, system=name)
    scenario = build_scenario(inputs)
    assert scenario.system == name
    constants = get_system(name).constants(scenario)
    changed = scenario.replace(constants=tuple((constant, 1.0) for constant in constants))
    assert set(get_system(name).constants(changed).values()) == {1.0}
    with pytest.raises(SpecError, match="no constant 'typo'"):
        predict_inference(scenario.replace(constants=(("typo", 1.0),)))


@pytest.mark.parametrize("name", [name for name in stack_names() if name != "resident"])
def test_a_stack_is_slower_than_its_roofline(name: str) -> None:
    """Floor and launches of a stack only add: nothing beats reading the weights once per step at full bandwidth."""
    scenario = build_scenario(
        InferenceInputs(model="opt-13b", gpu=runs_on(name, "a100-sxm-80gb"), system=name)
    )
    result = predict_inference(scenario)
    read_s = float(result.memory.gpu.weights_bytes) / scenario.gpu.hbm_bandwidth_bytes_per_s
    assert result.decode is not None
    assert result.decode.latency_per_token_s > 0.95 * read_s


# -- what a file may not hold ---------------------------------------------------------------------------------

GOOD: dict[str, Any] = {
    "value": 4.5,
    "range": [2, 10],
    "provenance": "fitted",
    "rows": 6,
    "groups": 2,
    "source": "a document",
}
PRIOR = {"value": 3, "provenance": "assumed", "source": "usual"}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"value": 11}, "outside its range"),
        ({"value": 1}, "outside its range"),
        ({"source": ""}, "source"),
        ({"source": None}, "source"),
        ({"value": float("nan")}, "value"),
        ({"value": "much"}, "value"),
        ({"range": [1]}, "range"),
        ({"unit": "us"}, "unit"),
        ({"provenance": "guessed"}, "provenance"),
        ({"provenance": None}, "provenance"),
        ({"rows": 0}, "rows"),
        ({"rows": None}, "rows"),
        ({"groups": None}, "groups"),
        ({"groups": 7}, "groups 7 are more than rows 6"),
        ({"range": None}, "range"),
        ({"provenance": "counted"}, "rows and groups belong to a fitted"),
        (
            {"provenance": "counted", "rows": None, "groups": None, "prior": PRIOR},
            "a prior belongs to a fitted",
        ),
        ({"prior": PRIOR | {"value": 11}}, "prior 11.0 is outside its range"),
        ({"prior": PRIOR | {"provenance": "fitted"}}, "provenance"),
        ({"prior": PRIOR | {"source": ""}}, "source"),
    ],
)
def test_a_constant_with_a_fault(change: dict[str, Any], said: str) -> None:
    Constant(**GOOD)
    with pytest.raises(SpecError, match=said):
        Constant(**(GOOD | change))


def test_a_constant_needs_its_source() -> None:
    with pytest.raises(SpecError, match="is required"):
        Constant(value=1.0)
    with pytest.raises(SpecError, match="provenance"):
        ConstantsFile(name="x", version="1", description="x", constants={"a": {"value": 1.0}})


# -- names ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", system_names())
def test_a_system_is_found_however_it_is_spelled(name: str) -> None:
    for spelling in (name, name.upper(), name.replace("_", "-"), name.replace("_", " ")):
        assert get_system(spelling).name == name


def test_aliases_and_unknown_names() -> None:
    assert get_system("ft").name == "fastertransformer"
    assert get_system("deepspeed-zero-inference").name == "zero_inference"
    with pytest.raises(
        UnknownNameError, match="unknown system 'fastransformer'; the nearest known: fastertransformer"
    ):
        get_system("fastransformer")


def test_the_stage_chooses_the_system() -> None:
    assert resolve_system(None, DSZeRO.NONE) == "resident"
    assert resolve_system(None, DSZeRO.STAGE_2) == "resident"
    assert resolve_system(None, DSZeRO.STAGE_3) == "zero_inference"
    assert resolve_system("zero-inference", DSZeRO.STAGE_3) == "zero_inference"
    assert resolve_system("FT", DSZeRO.NONE) == "fastertransformer"
    for name in system_names():
        if name != "zero_inference":
            with pytest.raises(SpecError, match="zero_inference"):
                resolve_system(name, DSZeRO.STAGE_3)


@pytest.mark.parametrize("name", system_names())
def test_each_system_answers_every_width_or_says_why_not(name: str) -> None:
    """A constant that one width alone needs is missing only where somebody asks for that width."""
    answered = 0
    for gpu in (runs_on(name, "h200"), "none"):
        for bits in (4, 8, 16):
            for model in ("mixtral-8x7b", "opt-13b"):
                try:
                    inputs = InferenceInputs(model=model, gpu=gpu, system=name, quant_bits=bits)
                    predict_inference(build_scenario(inputs))
                except SpecError:
                    continue
                answered += 1
    assert answered or name in (
        "airllm",
        "lia",
    )  # they need a disk, or a processor, that the usual host has not


# -- what a system holds ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("version", "ranks", "copies"), [("0.7", 1, 2), ("0.10", 1, 1), ("0.7", 4, 2), ("0.10", 4, 2)]
)
def test_what_zero_gathers_exists_twice(version: str, ranks: int, copies: int) -> None:
    """Flat and by parameter (DeepSpeed, AllGatherCoalescedHandle); a lone rank gathers from itself until 0.9."""
    asked: dict[str, Any] = {"system": f"zero_inference@{version}", "num_gpus": ranks, "batch_size": ranks}
    scenario = build_scenario(
        InferenceInputs(model="opt-66b", gpu="a100-sxm-80gb", cpu_offload=True, **asked)
    )
    constants = system_of(scenario).constants(scenario)
    bare = constants | {"max_live_hidden_squares": 0.0, "prefetch_bucket_hidden_squares": 0.0}
    largest = scenario.model.vocab_size * scenario.model.hidden_size
    assert live_param_bytes(scenario, bare) == pytest.approx(2 * copies * largest, rel=1e-12)


def test_a_program_that_allocates_as_it_goes_may_not_fit_where_it_nearly_fills_a_gpu() -> None:
    """Its peak's interval is that of PyTorch programs; an engine sets aside what is counted."""
    asked: dict[str, Any] = {"model": "llama-3-8b", "gpu": "rtx-4090", "prompt_len": 4096, "batch_size": 1}
    eager = predict_inference(build_scenario(InferenceInputs(system="transformers", **asked)))
    low, high = eager.memory_interval_bytes or (0.0, 0.0)
    assert low < float(eager.memory.gpu.total_bytes) < high
    assert eager.may_not_fit == (eager.feasible and high > eager.memory.gpu.capacity_bytes)
    engine = predict_inference(build_scenario(InferenceInputs(system="vllm", **asked)))
    assert engine.memory_interval_bytes is None
    assert engine.feasible
    assert not engine.may_not_fit


@pytest.mark.parametrize(
    ("build", "release"), [("b3000", "2024-05"), ("b4000", "2024-07"), ("b7000", "2025"), ("b7951", "2026")]
)
def test_a_build_is_of_the_version_it_was_made_in(build: str, release: str) -> None:
    assert release_of("llama_cpp", build) == (release, True)


def test_builds_are_of_llama_cpp_alone() -> None:
    with pytest.raises(SpecError, match="'b7951' is no version"):
        release_of("vllm", "b7951")
