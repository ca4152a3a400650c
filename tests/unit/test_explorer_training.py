"""Questions about training on the page: the numbers, words and refusals of ``llm-perf train``."""

from __future__ import annotations

import json
from typing import Any

import pytest

from llm_perf.cli.main import run
from llm_perf.cli.serve import view_of
from llm_perf.config.loading import known_names, resolve_name
from llm_perf.errors import SpecError
from llm_perf.explore.controls import EXAMPLES, TRAINING_EXAMPLES, options

ASKED = {"model": "llama-3-8b", "gpu": "a100-sxm-80gb", "framework": "fsdp", "num_gpus": "8"}


def view(**more: str) -> dict[str, Any]:
    return view_of(tuple((ASKED | {"task": "train"} | more).items()))


def test_the_view_has_the_object_and_the_words_of_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    flags = [word for name, value in ASKED.items() for word in (f"--{name.replace('_', '-')}", value)]
    assert run(["train", *flags, "--json"]) == 0
    assert view()["result"] == json.loads(capsys.readouterr().out)
    assert run(["train", *flags]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    cells = [
        cell["text"]
        for card in view()["cards"]
        for part in card["parts"]
        for row in part.get("rows", ())
        for cell in row["cells"]
    ]
    assert len(cells) > 30
    assert not [cell for cell in cells if " ".join(cell.split()) not in printed]


def test_the_parts_of_the_step_make_the_whole() -> None:
    figures = {
        part["name"]: part["figure"]
        for card in view()["cards"]
        for part in card["parts"]
        if part["kind"] == "figure"
    }
    assert sum(bar["x"][0] for bar in figures["breakdown"]["data"]) == pytest.approx(100)
    used = view()["result"]["memory"]["gpu"]
    assert sum(bar["x"][-1] for bar in figures["memory"]["data"]) == pytest.approx(
        100 * used["total_bytes"] / used["capacity_bytes"]
    )


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"task": "dance"}, "task = 'dance': expected infer or train"),
        ({"framework": "zzz"}, "unknown framework 'zzz'"),
        ({"gen_len": "8"}, "unknown parameter 'gen_len'"),
        ({"profile": "/etc/passwd"}, "unknown parameter 'profile'"),
        ({"model": "./config.json"}, "takes the names of bundled specs, no files"),
        ({"seq_len": "1000000000"}, "at most 1000000 in a request"),
        ({"num_gpus": "0"}, "num_gpus must be greater than 0"),
        ({"lora_rank": "x" * 3000}, "longer than 2048 characters"),
    ],
)
def test_what_is_refused(more: dict[str, str], message: str) -> None:
    with pytest.raises(SpecError) as refused:
        view(**more)
    assert message in str(refused.value)


def test_a_parameter_twice_is_refused() -> None:
    with pytest.raises(SpecError, match="given once"):
        view_of((*ASKED.items(), ("task", "train"), ("num_gpus", "4")))


def test_every_example_is_answered() -> None:
    from urllib.parse import parse_qsl

    for text, query in (*EXAMPLES, *TRAINING_EXAMPLES):
        assert view_of(tuple(parse_qsl(query)))["cards"], text


def test_every_control_is_an_input_of_its_task() -> None:
    from llm_perf.analysis.request import InferenceInputs
    from llm_perf.analysis.training_request import TrainingInputs

    kinds = {"": InferenceInputs, "train": TrainingInputs}
    for task in options()["tasks"]:
        names = [entry["name"] for entry in task["controls"]]
        assert set(names) <= set(kinds[task["value"]].model_fields)
        assert len(set(names)) == len(names)


def test_models_are_chosen_by_the_names_that_they_were_published_under() -> None:
    for task in options()["tasks"]:
        (models,) = (one for one in task["controls"] if one["name"] == "model")
        names = [one["value"] for one in models["choices"]]
        assert {"deepseek-ai/DeepSeek-R1", "meta-llama/Llama-3.3-70B-Instruct", "facebook/opt-175b"} <= set(
            names
        )
        assert names == sorted(set(names), key=str.lower)
        assert {resolve_name("model", name) for name in names} == set(known_names("model"))
