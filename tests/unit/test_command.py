"""The command that asks a question again."""

from __future__ import annotations

import shlex

import pytest

from llm_perf.analysis.request import InferenceInputs
from llm_perf.cli.main import run
from llm_perf.report.command import infer_command


@pytest.mark.parametrize("flag", ["n_cpu_moe", "n_gpu_layers"])
def test_all_layers_are_written_as_all(flag: str, capsys: pytest.CaptureFixture[str]) -> None:
    """The number that stands for all is an inner one; what is written asks the same question."""
    inputs = InferenceInputs(model="qwen3-30b-a3b", gpu="h200", system="llama_cpp", **{flag: "all"})
    command = infer_command(inputs)
    assert f"--{flag.replace('_', '-')} all" in command
    assert run([*shlex.split(command)[1:]]) == 0
    words = capsys.readouterr().out
    with_a_number = infer_command(inputs.replace(**{flag: 48}))
    assert with_a_number.endswith(" 48")
    assert "10000" not in words
