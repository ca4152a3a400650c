"""What public code says changed at a version holds where the constants of another version stand in for it."""

import pytest

from llm_perf.analysis.inference import predict_inference
from llm_perf.analysis.request import InferenceInputs, build_scenario
from llm_perf.errors import SpecError
from llm_perf.systems.constants import changes, file_of, load_constants
from llm_perf.systems.families import declaration, family_names, folder_of, numbers
from llm_perf.systems.registry import get_system, version_note
from llm_perf.systems.version_facts import VersionFact


def test_facts_are_in_order_and_of_constants_that_there_are() -> None:
    """Each says what was so before, which is what the one before it says."""
    found = 0
    for family in family_names():
        facts, known = declaration(family).facts, {}
        begun = [numbers(fact.since) for fact in facts]
        assert begun == sorted(set(begun))
        for fact in facts:
            newest = load_constants(f"{family}@{folder_of(family).releases[-1]}")
            assert fact.constants.keys() <= newest.constants.keys()
            assert all(known.get(name, value) == value for name, value in fact.before.items())
            known |= fact.constants
            found += 1
    assert found


@pytest.mark.parametrize(
    ("release", "asked", "values"),
    [
        ("4.45", "4.51.3", {"waiting_fp8_modules": 1, "fp8_linear_us": 98}),
        ("4.45", "4.48", {}),
        ("4.45", "5.2", {"waiting_fp8_modules": 0, "fp8_linear_us": 98}),
        ("4.47", "5.2", {"waiting_fp8_modules": 0}),
        ("4.47", "5.0", {}),
        ("4.47", "5.0.9", {}),
        ("4.47", "5", {"waiting_fp8_modules": 0}),
        ("4.47", "6", {"waiting_fp8_modules": 0}),
        ("4.45", "5", {"waiting_fp8_modules": 0, "fp8_linear_us": 98}),
        ("4.47", "4.51.3", {}),  # covered
        ("4.47", "4.40", {"waiting_fp8_modules": 0, "fp8_linear_us": 0}),
        ("4.47", None, {}),
    ],
)
def test_what_lies_between_a_version_and_what_stands_in_for_it_is_taken_over(
    release: str, asked: str | None, values: dict[str, float]
) -> None:
    found = changes("transformers", release, asked)
    assert {name: one.value for name, one in found.items()} == values
    assert all(one.provenance == "documented" for one in found.values())


def test_a_later_version_no_longer_waits_for_the_gpu_after_each_module() -> None:
    """Host and GPU overlap: as long as the longer of both and no longer the sum; other formats are what they were."""

    def decode_s(version: str, weight_format: str) -> float:
        asked = InferenceInputs(
            model="qwen3-8b", gpu="h20-sxm-96gb", system=f"transformers@{version}", weight_format=weight_format,
            prompt_len=6144, gen_len=64, batch_size=1,
        )  # fmt: skip
        scenario = build_scenario(asked)
        assert file_of(scenario).constants == get_system(f"transformers@{version}").file.constants
        return predict_inference(scenario).decode.latency_s

    last, same, freed = (decode_s(version, "fp8_block") for version in ("4.57", "5.0", "5.2"))
    assert last == same
    assert 0.5 * last < freed < 0.8 * last
    assert decode_s("5.2", "bf16") == decode_s("4.57", "bf16")


def test_the_note_of_a_version_that_does_not_ship_names_what_changed() -> None:
    assert str(version_note("transformers@5.2")).endswith(
        ", but for waiting_fp8_modules, which changed between"
    )
    assert str(version_note("transformers@5")).endswith(
        "waiting_fp8_modules, which changed between; 5 is taken for the newest 5.x that is known of"
    )
    assert str(version_note("transformers@5.0")).endswith("(2025))")
    assert version_note("transformers@4.51.3") is None


def test_a_fact_says_of_each_constant_what_it_was() -> None:
    stated = {"since": "2", "constants": {"step_ms": 1}, "provenance": "documented", "source": "there"}
    with pytest.raises((SpecError, ValueError), match="step_ms"):
        VersionFact.model_validate(stated | {"before": {}})
