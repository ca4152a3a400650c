"""`--install-completion`, and what the shell is then told."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from llm_perf.cli.main import cli

ASKED = "import sys; from llm_perf.cli.main import main; main(sys.argv[1:])"
FILES = {
    "bash": ".local/share/bash-completion/completions/llm-perf",
    "zsh": ".zfunc/_llm-perf",
    "fish": ".config/fish/completions/llm-perf.fish",
}


@pytest.fixture
def home(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HOME", str(folder))
    for name in ("XDG_DATA_HOME", "XDG_CONFIG_HOME"):
        monkeypatch.delenv(name, raising=False)
    return folder


@pytest.mark.parametrize("shell", FILES)
def test_it_is_written_where_the_shell_looks(llm_perf, home, monkeypatch, shell):
    monkeypatch.setenv("SHELL", f"/usr/bin/{shell}")
    outcome = llm_perf("--install-completion")
    assert outcome.code == 0
    assert str(home / FILES[shell]) in outcome.out
    assert "_LLM_PERF_COMPLETE" in (home / FILES[shell]).read_text()
    assert ("COMP_WORDBREAKS=${COMP_WORDBREAKS//@/}" in (home / FILES[shell]).read_text()) == (
        shell == "bash"
    )
    first = (home / FILES[shell]).read_bytes()
    monkeypatch.setenv("SHELL", "")
    assert llm_perf("--install-completion", shell).code == 0
    assert (home / FILES[shell]).read_bytes() == first
    program = shutil.which(shell)
    if program is not None and shell == "bash":
        subprocess.run([program, "-n", home / FILES[shell]], check=True)


def test_another_shell_is_one_line(llm_perf, home, monkeypatch):
    monkeypatch.setenv("SHELL", "/bin/tcsh")
    assert "bash, zsh or fish: SHELL is '/bin/tcsh'" in llm_perf("--install-completion").error
    assert "bash, zsh or fish: got 'csh'" in llm_perf("--install-completion", "csh").error
    assert list(home.iterdir()) == []


def test_a_home_that_is_a_file_is_one_line(llm_perf, home, monkeypatch):
    (home / "file").write_text("")
    monkeypatch.setenv("HOME", str(home / "file"))
    outcome = llm_perf("--install-completion", "bash")
    assert outcome.code == 4
    assert outcome.err.count("\n") == 1
    assert "cannot be written" in outcome.err


@pytest.mark.parametrize(
    ("words", "found"),
    [
        ("llm-perf inf", "infer"),
        ("llm-perf infer --prompt", "--prompt-len"),
        ("llm-perf infer --gpu t", "t4-16gb"),
        ("llm-perf infer --system vl", "vllm"),
        ("llm-perf infer --model facebook_opt-1", "facebook_opt-13b"),
        ("llm-perf infer --model opt-1", "opt-13b"),
        ("llm-perf infer --system vllm@0.1", "vllm@0.10"),
        ("llm-perf train --framework fs", "fsdp"),
        ("llm-perf train --cuda-graphs l", "layers"),
        ("llm-perf train --offload-overlap z", "zenflow"),
        ("llm-perf train --recompute-modules moe_act,lay", "moe_act,layernorm"),
        ("llm-perf train --activation-recomputation norm", "norm_attn_norm"),
        ("llm-perf train --activation-recomputation sel", "selective"),
        ("llm-perf calibrate micro", "microbench"),
        ("llm-perf infer --split-mode l", "layer"),
        ("llm-perf infer --quant-bits 1", "16"),
        ("llm-perf plan --gpus h100-sxm-80gb,l4", "h100-sxm-80gb,l4-24gb"),
        ("llm-perf plan --objective th", "throughput"),
        ("llm-perf plan --batching s", "static"),
        ("llm-perf plan --precision mx", "mxfp8"),
        ("llm-perf plan --quant-bits 16,", "16,8"),
        ("llm-perf plan --weight-format q4", "q4_k_m"),
        ("llm-perf infer --kv-format f", "fp8"),
        ("llm-perf policy --system llama_cpp@", "llama_cpp@2026"),
        ("llm-perf calibrate fit --gpu t", "t4-16gb"),
        ("llm-perf calibrate observe --model opt-1", "opt-13b"),
        ("llm-perf systems show sgl", "sglang"),
        ("llm-perf gpus show l4", "l4-24gb"),
    ],
)
def test_what_the_shell_is_told(words, found, capsys, monkeypatch):
    for name, value in asked(words).items():
        monkeypatch.setenv(name, value)
    with pytest.raises(SystemExit) as ended:
        cli.main(args=[], prog_name="llm-perf", standalone_mode=False)
    told = capsys.readouterr()
    assert (ended.value.code, told.err) == (0, "")
    assert found in {line.partition(",")[2] for line in told.out.splitlines()}


@pytest.mark.parametrize(
    ("words", "found"),
    [("llm-perf inf", "infer"), ("llm-perf plan --gpus h100-sxm-80gb,l4", "h100-sxm-80gb,l4-24gb")],
)
def test_a_process_tells_the_shell(words, found):
    told = subprocess.run(
        [sys.executable, "-c", ASKED],
        env=os.environ | asked(words),
        capture_output=True,
        text=True,
        check=False,
    )
    assert (told.returncode, told.stderr) == (0, "")
    assert found in {line.partition(",")[2] for line in told.stdout.splitlines()}


def asked(words: str) -> dict[str, str]:
    """What bash sets where it asks what may follow."""
    at = str(len(words.split()) - 1)
    return {"_LLM_PERF_COMPLETE": "bash_complete", "COMP_WORDS": words, "COMP_CWORD": at}


def test_no_shell_offers_what_every_system_refuses():
    from click import Context

    from llm_perf.cli.infer import infer

    split = next(one for one in infer.params if one.name == "split_mode")
    assert [item.value for item in split.shell_complete(Context(infer), "")] == ["layer"]
