"""EXL2 and EXL3: formats whose name says how many bits a weight has."""

from __future__ import annotations

import pytest

from llm_perf.analysis.request import InferenceInputs, build_scenario
from llm_perf.config.formats import format_of_repository
from llm_perf.config.quantization import named_quantization
from llm_perf.config.scenario import Scenario
from llm_perf.errors import SpecError


def asked(system: str = "exllamav2", **inputs: str) -> Scenario:
    question = {"model": "llama-3.1-8b", "gpu": "rtx-4090", "system": system} | inputs
    return build_scenario(InferenceInputs(**question))


@pytest.mark.parametrize(
    ("system", "spelled", "said"),
    [
        ("exllamav2", "exl3-4.0bpw", "it runs 16 bits and exl2 of any bits.*systems that run it: exllamav3"),
        ("exllamav3", "exl2-4.0bpw", "it runs 16 bits and exl3 of any bits"),
        ("exllamav2", "exl2-9bpw", "from 1 to 8"),
        ("exllamav2", "exl2", "exl2-4.0bpw or exl3-4.0bpw"),
        ("llama_cpp", "exl2-4.0bpw", "has no kernels for it"),
    ],
)
def test_bits_per_weight_that_a_system_does_not_run(system: str, spelled: str, said: str) -> None:
    with pytest.raises(SpecError, match=said):
        asked(system, weight_format=spelled)


@pytest.mark.parametrize(("kept", "bits"), [("q8", 8.5), ("q6", 6.5), ("q4", 4.5)])
def test_caches_of_exllama(kept: str, bits: float) -> None:
    assert asked(kv_format=kept).dtype.stored_kv_bits == bits


@pytest.mark.parametrize("ending", ["exl2-4.25bpw-h8", "4.25bpw-h8-exl2", "exl2_4.25bpw_H8"])
def test_names_of_repositories_say_the_bits(ending: str) -> None:
    found = format_of_repository(f"x/Llama-3.1-8B-{ending}")
    assert found is not None
    assert found[0][1:] == ending.lower().replace("_", "-")
    assert named_quantization(found[1]) == named_quantization("exl2-4.25bpw-h8")
    assert asked(model=f"Llama-3.1-8B-Instruct-{ending}").dtype == asked(
        model="Llama-3.1-8B-Instruct", weight_format="exl2-4.25bpw-h8"
    ).dtype.replace(
        origin="exl2-4.25bpw-h8, as released (exl2)",
        formats=asked(model=f"Llama-3.1-8B-Instruct-{ending}").dtype.formats,
    )
