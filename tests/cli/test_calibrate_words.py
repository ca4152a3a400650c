"""``calibrate run``, ``train`` and ``microbench`` as commands: options of their own, and the old flags as they were."""

from __future__ import annotations

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


@pytest.mark.parametrize(
    ("words", "flags"),
    [
        (("train", "--gen-len", "4"), ("--run", "--train", "--gen-len", "4")),
        (("run", "--train", "--gen-len", "4"), ("--run", "--train", "--gen-len", "4")),
        (("run", "--steps", "3"), ("--run", "--steps", "3")),
        (("run", "--budget", "5s"), ("--run", "--budget", "5s")),
        (("microbench", "--gpu", "t4"), ("--microbench", "--gpu", "t4")),
        (("microbench", "--budget", "soon"), ("--microbench", "--budget", "soon")),
        (("run", "--microbench"), ("--run", "--microbench")),
        (("run", "x.json"), ("--run", "x.json")),
        (("train", "x.json"), ("--run", "--train", "x.json")),
    ],
    ids=lambda words: " ".join(words),
)
def test_a_word_refuses_what_its_flag_refuses(
    llm_perf: Any, words: tuple[str, ...], flags: tuple[str, ...]
) -> None:
    assert llm_perf("calibrate", *words).error == llm_perf("calibrate", *flags).error


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
