"""Cases of `make fuzz` that are asked in its own process: command lines, files, the Python API."""

from __future__ import annotations

import contextlib
import io
import json
import random
import time
from importlib import resources
from pathlib import Path
from typing import Any, Final

import click
from fuzz_texts import benchmark_text, request_text, trainer_text
from fuzz_words import RATES, SIZES, TARGETS, WORDS, gpu_name, model_name, value_of

from llm_perf.cli.main import cli, run
from llm_perf.config.loading import known_names
from llm_perf.systems.registry import system_names

LONGEST_S: Final = 30.0
"""Seconds of the processor that an answer may take."""
_COMMANDS: Final = (
    "infer",
    "infer",
    "train",
    "simulate",
    "policy",
    "plan",
    "scaling",
    "sweep",
    "systems",
    "models",
    "gpus",
)
_USUAL: Final = ("--batch-size", "--prompt-len", "--gen-len", "--system", "--host", "--weight-format", "--tp-size",
                 "--ds-zero", "--quant-bits", "--num-gpus")  # fmt: skip
_KINDS: Final = {"models": "model", "gpus": "GPU"}


class Failure(Exception):  # noqa: N818 - what was looked for
    """A case that went wrong."""


# -- the command line -------------------------------------------------------------------------------------------


def asked(words: list[str]) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of a command in this process."""
    out, err = io.StringIO(), io.StringIO()
    start = time.process_time()  # what else the machine does is not counted
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = run(words)
    took = time.process_time() - start
    if took > LONGEST_S:
        raise Failure(f"took {took:.1f} s of the processor")
    check(code, out.getvalue(), err.getvalue(), words)
    return code, out.getvalue(), err.getvalue()


def check(code: int, out: str, err: str, words: list[str]) -> None:
    """What holds whatever was asked."""
    if (
        code not in (0, 2, 3, 4)
        or "internal error" in err
        or "Traceback" in err + out
        or "defect of llm-perf" in out
    ):
        raise Failure(f"exit {code}: {err[-300:]}")
    if code == 2 and (out or err.count("\n") != 1):
        raise Failure(
            f"a refusal of {err.count(chr(10))} lines, {len(out)} characters on stdout: {err[:300]}"
        )
    if "--json" in words and code in (0, 3) and out:
        json.loads(out, parse_constant=_no_number)


def _no_number(literal: str) -> None:
    raise Failure(f"{literal} in JSON")


_FILES_OR_WORK: Final = ("--out", "--log-file", "--plot", "--trace-out", "--timeline", "--config", "--requests", "--prices",
                         "--profile", "--points", "--executor", "--workers", "--scheduler-address", "--run", "--html",
                         "--trainer-config", "--restart")  # fmt: skip


_PLANS: Final = (
    [],
    [],
    ["--rate", "2", "--weight-format", "fp8"],
    ["--concurrency", "8"],
    ["--host", "ryzen-9-7950x"],
    ["--train", "--tokens", "10e9", "--deadline", "30d"],
)
_POOLS: Final = ([], [], ["--prefill-replicas", "1"], ["--prefill-replicas", "2", "--prefill-tp-size", "2"],
                 ["--replicas", "2", "--routing", "prefix-aware", "--prefix-len", "200"], ["--turns", "3"])  # fmt: skip
_DIVIDED: Final = (
    ["--system", "llama_cpp", "--num-gpus", "2"],
    ["--system", "llama_cpp", "--num-gpus", "4", "--tp-size", "2"],
    ["--system", "llama_cpp", "--weight-format", "q4_k_m", "--n-cpu-moe", "all"],
    ["--system", "ktransformers", "--host", "2x xeon 8480+"],
    ["--system", "vllm", "--cpu-offload-gb", "20"],
)
"""Questions of some kind, which flags drawn one by one would hardly make."""


def command_line(draw: random.Random) -> list[str]:
    """A command with flags that exist and values that mostly make sense."""
    name = draw.choice(_COMMANDS)
    if name in ("systems", "models", "gpus"):
        shown = draw.choice(system_names() if name == "systems" else known_names(_KINDS[name]))
        return [name, "show", draw.choice([shown, shown[:-1], "nothing"])]
    command = cli.get_command(click.Context(cli), name)
    assert command is not None
    options = [
        one for one in command.params if isinstance(one, click.Option) and one.opts[0] not in _FILES_OR_WORK
    ]
    words = [name, "--model", model_name(draw)]
    words += [f"--gpus={draw.choice(known_names('GPU'))}"] if name == "plan" else ["--gpu", gpu_name(draw)]
    if name == "plan":
        words += draw.choice(_PLANS)
    if name == "plan" and "--train" not in words and draw.random() < 0.9:
        words += ["--target", draw.choice(TARGETS)]
    if name == "simulate":
        words += [
            draw.choice(["--rate=1", "--concurrency=4", "--rate=1e3"]),
            f"--num-requests={draw.choice([1, 20, 200])}",
            *draw.choice(_POOLS),
        ]
    if name in ("infer", "policy") and draw.random() < 0.2:
        words += draw.choice(_DIVIDED)
    asked_for = draw.sample(options, min(len(options), draw.randrange(6)))
    # What everybody gives; drawn from all the flags, it would come once in fifty commands.
    asked_for += [
        one for one in options if one.opts[0] in _USUAL and one not in asked_for and draw.random() < 0.3
    ]
    for option in asked_for:
        if option.is_flag:
            words.append(draw.choice([*option.opts, *option.secondary_opts]))
        else:
            words.append(f"{option.opts[0]}={value_of(draw, option)}")
    return words


def fuzz_cli(draw: random.Random, folder: Path) -> None:  # noqa: ARG001 - every target gets one
    """One command."""
    words = command_line(draw)
    try:
        asked(words)
    except Failure as failure:
        raise Failure(f"{failure}\n  {words}") from None


# -- files ------------------------------------------------------------------------------------------------------

_FILE_FLAGS: Final = ("--model", "--gpu", "--host", "--profile", "--config", "--prices")


_FOLDERS: Final = (
    ("model_specs", "."),
    ("hardware_specs", "gpus"),
    ("hardware_specs", "hosts"),
    ("hardware_specs", "profiles"),
)


def _bundled(draw: random.Random) -> str:
    package, folder = draw.choice(_FOLDERS)
    specs = [one for one in (resources.files(package) / folder).iterdir() if one.name.endswith(".yaml")]
    return draw.choice(sorted(specs, key=lambda one: one.name)).read_text("utf-8")


_VALUES: Final = (
    *map(str, SIZES),
    *map(str, RATES),
    *WORDS,
    "[]",
    "{}",
    "*a",
    "&a x",
    "!!python/name:os",
    "1_0",
)


def mutated(draw: random.Random, text: str) -> bytes:
    """A text with a few faults of those that people and programs make."""
    lines = text.splitlines()
    for _ in range(draw.randrange(1, 5)):
        at = draw.randrange(max(1, len(lines)))
        kind = draw.randrange(7)
        if kind == 0 and lines:
            del lines[at]
        elif kind == 1 and lines:
            lines.insert(at, lines[at])
        elif kind == 2 and lines:
            key = lines[at].partition(":")[0]
            lines[at] = f"{key}: {draw.choice(_VALUES)}"
        elif kind == 3:
            lines.insert(
                at,
                draw.choice(
                    ("extra: 1", "- 1", "? [a]", "name: x", "%YAML 9", "---", "<<: *x", "\t", "{" * 30)
                ),
            )
        elif kind == 4:
            lines = lines[:at]
        elif kind == 5 and lines:
            lines[at] = " " * draw.randrange(5) + lines[at]
        else:
            lines.append("x" * draw.choice((10, 5000)))
    found = "\n".join(lines).encode()
    if draw.random() < 0.2 and found:
        cut = draw.randrange(len(found))
        found = found[:cut] + draw.randbytes(draw.randrange(4)) + found[cut + draw.randrange(4) :]
    return found


def fuzz_files(draw: random.Random, folder: Path) -> None:
    """A spec, a config or a request file that is not quite one."""
    name = draw.choice(("m.yaml", "m.json", "config.json"))
    text = _bundled(draw)
    if name.endswith(".json") and draw.random() < 0.7:
        config = {
            "model_type": draw.choice(["llama", "qwen3", "mixtral", "deepseek_v3", "x"]),
            "hidden_size": 4096,
        }
        config |= {"num_hidden_layers": 32, "num_attention_heads": 32, "vocab_size": 32000}
        text = json.dumps(config | {"intermediate_size": 11008}, indent=0)
    words = ["infer", "--model", "opt-1.3b", "--gpu", "t4", "--json"]
    flag = draw.choice(
        (
            *_FILE_FLAGS,
            "--requests",
            "--requests",
            "--trainer-config",
            "--trainer-config",
            "read-log",
            "compare",
        )
    )
    if flag == "--trainer-config":
        name, text = trainer_text(draw)
        words = ["train", "--model", "llama-2-7b", "--gpu", "a100-sxm-80gb", "--json"]
    elif flag in ("read-log", "compare"):
        name, text = benchmark_text(draw)
        words, flag = (
            (["calibrate", "read-log", "--json"] if flag == "read-log" else ["compare", "--json"]),
            "",
        )
    elif flag == "--requests":
        name, text = request_text(draw, RATES, SIZES)
        words = [
            "simulate",
            "--model",
            "llama-3.1-8b",
            "--gpu",
            "h100-sxm-80gb",
            "--system",
            "vllm",
            "--json",
        ]
    content = mutated(draw, text)
    (folder / name).write_bytes(content)
    try:
        asked([*words, *([flag] if flag else []), str(folder / name)])
    except Failure as failure:
        raise Failure(f"{failure}\n  {' '.join(words)} {flag} {name}: {content[:2000]!r}") from None


# -- the Python API ---------------------------------------------------------------------------------------------


def fuzz_api(draw: random.Random, folder: Path) -> None:  # noqa: ARG001
    """`LLMAnalysis`, and `predict`, with any numbers."""
    from llm_perf import predict
    from llm_perf.analysis import LLMAnalysis
    from llm_perf.config import get_gpu_config_by_name, get_model_config_by_name
    from llm_perf.errors import LLMPerfError

    def size() -> Any:
        return draw.choice(SIZES)

    given: dict[str, Any] = {}
    try:
        if draw.random() < 0.5:
            given = {"batch_size": size(), "prompt_len": size(), "gen_len": size(), "tp_size": draw.choice((1, 2, 8, 3)),
                     "hbm_memory_efficiency": draw.choice(RATES)}  # fmt: skip
            found = predict(draw.choice(known_names("model")), draw.choice(known_names("GPU")), **given)
            numbers = [found.prefill_latency_s, found.ttft_s]
        else:
            given = {"batch_size_per_gpu": size(), "seq_len": size(), "num_tokens_to_generate": size()}
            analysis = LLMAnalysis(
                get_model_config_by_name(draw.choice(known_names("model"))),
                get_gpu_config_by_name(draw.choice(known_names("GPU"))),
            )
            numbers = [value for value in analysis.inference(**given).values() if isinstance(value, float)]
    except LLMPerfError:
        return
    except Exception as error:
        raise Failure(f"{type(error).__name__}: {error}\n  {given}") from error
    if any(number != number or number < 0 for number in numbers):
        raise Failure(f"{numbers}\n  {given}")
