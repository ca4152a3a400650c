"""``calibrate run``, ``train`` and ``microbench`` as commands: options of their own, and the old flags as they were."""

from __future__ import annotations

import re
from typing import Any

import pytest

OWN = {"run": "--kv-offload", "train": "--lora-rank", "microbench": "--budget"}


@pytest.mark.parametrize("word", OWN)
def test_the_help_of_a_word_has_its_options_and_no_other(llm_perf: Any, word: str) -> None:
    said = llm_perf("calibrate", word, "--help").out
    assert said.startswith(f"Usage: llm-perf calibrate {word} [OPTIONS]")
    assert {name for name, flag in OWN.items() if flag in said} == {word}
    assert "--json" in said
    assert "--fit" not in said


SAID = "--gen-len is for a generation and means nothing with {}"
FILES = "'x.json': files of runs are for {}; the first word may be "


@pytest.mark.parametrize(
    ("words", "flags", "said", "mode"),
    [
        (("train", "--gen-len", "4"), ("--run", "--train", "--gen-len", "4"), SAID, "train"),
        (("run", "--train", "--gen-len", "4"), ("--run", "--train", "--gen-len", "4"), SAID, "train"),
        (
            ("run", "--steps", "3"),
            ("--run", "--steps", "3"),
            "--steps describes a training run, which {} makes",
            "train",
        ),
        (("run", "--budget", "5s"), ("--run", "--budget", "5s"), "--budget says nothing about {}", "run"),
        (("microbench", "--gpu", "t4"), ("--microbench", "--gpu", "t4"), "--gpu says nothing about {}", "microbench"),
        (("fit", "--loops", "3", "x"), ("--fit", "--loops", "3", "x"), "--loops says nothing about {}", "fit"),
        (("run", "--microbench"), ("--run", "--microbench"), "one at a time: {} or ", "run"),
        (("run", "x.json"), ("--run", "x.json"), FILES, "fit"),
        (("train", "x.json"), ("--run", "--train", "x.json"), FILES, "fit"),
        (
            ("microbench", "--runs-dir", "x"),
            ("--microbench", "--runs-dir", "x"),
            "--runs-dir says nothing about {}: --out names its file",
            "microbench",
        ),
        (
            ("microbench", "--system", "transformers"),
            ("--microbench", "--system", "transformers"),
            "--system transformers says nothing about {}, which measures the machine",
            "microbench",
        ),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)  # fmt: skip
def test_a_word_refuses_what_its_flag_refuses_in_the_words_that_were_typed(
    llm_perf: Any, words: tuple[str, ...], flags: tuple[str, ...], said: str, mode: str
) -> None:
    by_word, by_flag = llm_perf("calibrate", *words).error, llm_perf("calibrate", *flags).error
    assert said.format(f"calibrate {mode}") in by_word
    assert said.format(f"--{mode}") in by_flag
    assert not re.search(rf"--({'|'.join((*OWN, 'fit'))})(?![\w-])", by_word)
    for name in (*OWN, "fit"):
        by_word = by_word.replace(f"calibrate {name}", f"--{name}")
    assert by_word == by_flag


def test_what_is_wrong_with_a_value_is_said_alike(llm_perf: Any) -> None:
    asked = ("--budget", "soon")
    assert (
        llm_perf("calibrate", "microbench", *asked).error
        == llm_perf("calibrate", "--microbench", *asked).error
    )


def test_a_word_that_is_none_of_them_is_told_which_there_are(llm_perf: Any) -> None:
    said = llm_perf("calibrate", "trian").error
    assert "'trian'" in said
    assert all(word in said for word in (*OWN, "fit", "read-log", "export", "observe"))


def test_a_flag_that_no_calibration_has_is_named(llm_perf: Any) -> None:
    assert "--no-such" in llm_perf("calibrate", "train", "--no-such", "1").error


def test_a_word_runs_what_its_flag_runs(llm_perf: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[dict[str, Any], str | None]] = []
    monkeypatch.setattr("calibrate.probe.extras.require_extra", lambda _name: None)
    monkeypatch.setattr(
        "calibrate.run.generation.measure_fields", lambda fields, hosts: asked.append((fields, hosts))
    )
    flags = (
        "--model",
        "opt-125m",
        "--dummy",
        "--batch-size",
        "2",
        "--hostfile",
        "hosts",
        "--local_rank",
        "0",
    )
    for word in ("run", "--run"):
        assert llm_perf("calibrate", word, *flags).code == 0
    assert asked == [({"model_name": "opt-125m", "dummy": True, "batch_size": 2}, "hosts")] * 2
