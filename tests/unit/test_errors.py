"""The error types: exit codes, one-line messages, suggestions, and the way through a worker process."""

import json
import os
import pickle
import time
from pathlib import Path

import pytest

from llm_perf import errors
from llm_perf.config.loading import get_model_config_by_name
from llm_perf.errors import (
    AmbiguousNameError,
    DoesNotFitError,
    EnvironmentFailure,
    LLMPerfError,
    MissingExtraError,
    OutputError,
    SpecError,
    UnknownNameError,
    bad_value,
)

KNOWN_MODELS = (
    "facebook_opt-125m",
    "facebook_opt-30b",
    "facebook_opt-175b",
    "meta-llama_Llama-2-7b-hf",
    "gpt2",
)

ONE_OF_EACH = (
    LLMPerfError("something"),
    SpecError("something"),
    UnknownNameError("model", "opt175b", KNOWN_MODELS),
    AmbiguousNameError("GPU", "v100", ("v100-sxm-32gb", "v100-sxm-16gb")),
    DoesNotFitError("something"),
    MissingExtraError("plot", "drawing a plot"),
    OutputError("something"),
    EnvironmentFailure("something"),
)


@pytest.mark.parametrize(
    ("kind", "code"),
    [
        (LLMPerfError, 2),
        (SpecError, 2),
        (UnknownNameError, 2),
        (AmbiguousNameError, 2),
        (MissingExtraError, 2),
        (OutputError, 2),
        (DoesNotFitError, 3),
        (EnvironmentFailure, 4),
    ],
)
def test_exit_code(kind: type[LLMPerfError], code: int) -> None:
    assert kind.exit_code == code


def test_each_public_error_is_caught_as_the_base() -> None:
    public = [kind for name in errors.__all__ if isinstance(kind := getattr(errors, name), type)]
    assert {type(error) for error in ONE_OF_EACH} == set(public)
    assert all(issubclass(kind, LLMPerfError) for kind in public)


def test_bad_input_is_a_value_error() -> None:
    # pydantic turns a ValueError inside a validator into a validation error; others pass through as they are.
    assert all(issubclass(kind, ValueError) for kind in (SpecError, UnknownNameError, AmbiguousNameError))
    assert not issubclass(DoesNotFitError, ValueError)


def test_bad_value_names_field_value_and_what_is_accepted() -> None:
    assert str(bad_value("batch_size", "-1", "a positive integer")) == (
        "batch_size = '-1': expected a positive integer"
    )


def test_unknown_name_is_a_key_error_that_prints_without_quotes() -> None:
    error = UnknownNameError("model", "opt-176b", KNOWN_MODELS)
    assert isinstance(error, KeyError)
    assert str(error).startswith("unknown model 'opt-176b'; the nearest known: facebook_opt-175b")


@pytest.mark.parametrize(
    ("name", "first"),
    [
        ("opt175b", "facebook_opt-175b"),
        ("Facebook/OPT 175", "facebook_opt-175b"),
        ("opt_125", "facebook_opt-125m"),
        ("llama", "meta-llama_Llama-2-7b-hf"),
        ("gpt-2", "gpt2"),
    ],
)
def test_nearest_name_comes_first(name: str, first: str) -> None:
    assert UnknownNameError("model", name, KNOWN_MODELS).suggestions[0] == first


def test_at_most_five_suggestions() -> None:
    error = UnknownNameError("model", "opt", [f"opt-{size}b" for size in range(9)])
    assert len(error.suggestions) == 5


def test_no_suggestion_where_nothing_is_close() -> None:
    error = UnknownNameError("model", "zzzz", KNOWN_MODELS)
    assert error.suggestions == ()
    assert (
        str(error)
        == "unknown model 'zzzz'; none of the 5 known is close to it (llm-perf models list shows them)"
    )


def test_no_suggestion_for_an_empty_name() -> None:
    assert UnknownNameError("model", "", KNOWN_MODELS).suggestions == ()


@pytest.mark.parametrize("name", ["", " ", "a\nb", "ö" * 300])
def test_odd_names_still_make_one_line(name: str) -> None:
    assert "\n" not in str(UnknownNameError("model", name, KNOWN_MODELS))


def test_ambiguous_name_lists_all_candidates() -> None:
    error = AmbiguousNameError("GPU", "v100", ("v100-sxm-32gb", "v100-sxm-16gb"))
    assert str(error) == "GPU 'v100' is ambiguous; give one of: v100-sxm-16gb, v100-sxm-32gb"


def test_an_ambiguous_name_of_very_many_says_the_first_and_where_the_rest_is() -> None:
    said = str(AmbiguousNameError("host", "xeon", [f"xeon-{number}" for number in range(100, 250)]))
    assert said.startswith("host 'xeon' is ambiguous; give one of 150: xeon-100, xeon-101, ")
    assert said.endswith("xeon-113 and 136 more (llm-perf hosts list shows them)")


def test_missing_extra_says_how_to_install_it() -> None:
    error = MissingExtraError("plot", "drawing a plot")
    assert str(error) == "drawing a plot needs the extra 'plot': pip install 'llm-perf[plot]'"


@pytest.mark.parametrize("error", ONE_OF_EACH, ids=lambda error: type(error).__name__)
def test_errors_come_back_from_a_worker_process(error: LLMPerfError) -> None:
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is type(error)
    assert str(copy) == str(error)
    assert copy.__dict__ == error.__dict__


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"model_type": "llama", "layer_types": [' + '"x", ' * 3_000_000 + '"x"]}', "500,000 entries, which no spec"),
        ("{" + ", ".join(f'"k{number}": 1' for number in range(400_000)) + "}", "50,000 fields, which no model"),
        ('{"name": "m", "layer_groups": [{' + ", ".join(f'"k{n}": 1' for n in range(60_000)) + "}]}", "50,000 fields"),
    ],
    ids=["entries", "fields", "nested fields"],
)  # fmt: skip
def test_json_without_end_is_one_line_before_it_is_parsed(text: str, said: str, tmp_path: Path) -> None:
    """Pydantic takes 5 s to name each of a million fields that no spec has."""
    file = tmp_path / "long.json"
    file.write_text(text)
    before = time.process_time()
    with pytest.raises(SpecError, match=rf"long\.json: has more than {said}"):
        get_model_config_by_name(str(file))
    assert time.process_time() - before < 1


@pytest.mark.parametrize(
    "text", ["a: " + "[" * 100_000, "a: " + "{a: " * 50_000, "a:\n  " + "- " * 100_000 + "1", "? " * 100_000]
)
def test_yaml_that_is_nested_without_end_is_one_line(text: str, tmp_path: Path) -> None:
    """The parser in C would run out of stack, and end the process."""
    file = tmp_path / "deep.yaml"
    file.write_text(text)
    with pytest.raises(SpecError, match=r"deep\.yaml: is nested too deeply"):
        get_model_config_by_name(str(file))


def test_a_pipe_or_device_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(SpecError, match="is a pipe, and nothing was written to it"):
        get_model_config_by_name(str(tmp_path / "fifo"))
    with pytest.raises(SpecError, match="/dev/zero: is no plain file"):
        get_model_config_by_name("/dev/zero")


def test_a_fault_in_a_long_file_has_its_line(tmp_path: Path) -> None:
    """A text of megabytes is not parsed twice: its line is that of the words."""
    file = tmp_path / "config.json"
    shapes = {
        "model_type": "llama",
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_attention_heads": 4,
        "vocab_size": 100,
    }
    listed = ["full_attention"] * 200_000
    file.write_text(json.dumps({**shapes, "num_hidden_layers": 2, "layer_types": listed}, indent=1))
    with pytest.raises(SpecError, match=r"config\.json:8: layer_types = 200000 entries: expected 2 entries"):
        get_model_config_by_name(str(file))


def test_who_reads_no_suggestion_waits_for_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tables try several spellings of a name, and catch an error for each."""
    looked = []
    monkeypatch.setattr(errors, "_nearest", lambda name, known: looked.append(name) or ("near",))
    error = UnknownNameError("model", "lama", KNOWN_MODELS)
    assert looked == []
    assert "the nearest known: near" in str(error)
    assert str(error) == str(error)
    assert looked == ["lama"]
