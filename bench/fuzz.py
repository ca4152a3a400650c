"""Ask llm-perf what nobody would, for an hour: `make fuzz`, or `make fuzz MINUTES=5 SEED=7 ONLY=cli,files`.

The hour is one of the processor, of all processes together: on a machine that others use it takes longer, and is as much.

Every case comes from a number, so that it can be asked again: a case that fails is printed with it, kept in
``fuzz_failures.jsonl``, and belongs into a test. A failure is a traceback, an internal error, a refusal of more than one
line, a NaN, an answer that takes longer than `_LONGEST_S`, a connection without an answer, or a sweep that was killed and
does not end in the same bytes.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import logging
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from importlib import resources
from pathlib import Path
from typing import Any, Final

import click

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from llm_perf.cli.main import cli, run  # noqa: E402
from llm_perf.config.loading import known_names  # noqa: E402
from llm_perf.systems.registry import system_names  # noqa: E402

_LONGEST_S: Final = 30.0
_TELL_S: Final = 300.0
"""Seconds of the processor after which a run says how far it is."""
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
_SIZES: Final = (0, 1, 1, 1, 2, 3, 4, 8, 16, 100, 512, 4096, 10**6, 10**12, 10**13, 2**63, -1)
_RATES: Final = (
    0.0,
    0.1,
    0.5,
    1.0,
    1.0,
    2.0,
    100.0,
    1e9,
    1e-9,
    1e-300,
    5e-324,
    1e308,
    -1.0,
    float("nan"),
    float("inf"),
)
_WORDS: Final = (
    "",
    " ",
    "x",
    "auto",
    "none",
    "0",
    "1",
    "-1",
    "on",
    "1:4",
    "1:4:x2",
    "1,2",
    "nan",
    "1e400",
    "\u2028",
    "é",
    "a" * 300,
)
_TARGETS: Final = ("tpot<50ms", "p95 ttft<1s, p95 tpot<50ms", "ttft<1", "x<1s", "tpot<0ms", "p200 ttft<1s")
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
    if took > _LONGEST_S:
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


def _value(draw: random.Random, option: click.Option) -> str:
    name, kind = option.opts[0], option.type
    if isinstance(kind, click.Choice) and draw.random() < 0.9:
        return str(draw.choice(list(kind.choices)))
    if name in ("--model", "--draft-model"):
        return draw.choice(known_names("model"))
    if name == "--gpu":
        return draw.choice(known_names("GPU"))
    if name == "--host":
        return draw.choice(known_names("host"))
    if name == "--system":
        return draw.choice(system_names())
    if name == "--target" or "target" in name:
        return draw.choice(_TARGETS)
    if draw.random() < 0.1:
        return draw.choice(_WORDS)
    if (
        kind is click.INT
        or isinstance(kind, click.IntRange)
        or name.endswith(("-len", "-size", "-requests", "-gpus"))
    ):
        return str(draw.choice(_SIZES[:-4] if draw.random() < 0.8 else _SIZES))
    if kind is click.FLOAT or isinstance(kind, click.FloatRange):
        return str(draw.choice(_RATES[:7] if draw.random() < 0.8 else _RATES))
    return draw.choice((*_WORDS, "4", "16", "fp8", "awq", "q4_k_m"))


_FILES_OR_WORK: Final = ("--out", "--log-file", "--plot", "--trace-out", "--timeline", "--config", "--requests", "--prices",
                         "--profile", "--points", "--executor", "--workers", "--scheduler-address", "--run", "--html",
                         "--trainer-config", "--restart")  # fmt: skip


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
    words = [name, "--model", draw.choice(known_names("model")), "--gpu", draw.choice(known_names("GPU"))]
    if name == "plan" and draw.random() < 0.9:
        words += ["--target", draw.choice(_TARGETS)]
    if name == "simulate":
        words += [
            draw.choice(["--rate=1", "--concurrency=4", "--rate=1e3"]),
            f"--num-requests={draw.choice([1, 20, 200])}",
        ]
    asked_for = draw.sample(options, min(len(options), draw.randrange(6)))
    # What everybody gives; drawn from all the flags, it would come once in fifty commands.
    asked_for += [
        one for one in options if one.opts[0] in _USUAL and one not in asked_for and draw.random() < 0.3
    ]
    for option in asked_for:
        if option.is_flag:
            words.append(draw.choice([*option.opts, *option.secondary_opts]))
        else:
            words.append(f"{option.opts[0]}={_value(draw, option)}")
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
    *map(str, _SIZES),
    *map(str, _RATES),
    *_WORDS,
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
    flag = draw.choice((*_FILE_FLAGS, "--requests"))
    if flag == "--requests":
        rows = "\n".join(
            f"{draw.choice(_RATES)},{draw.choice(_SIZES)},{draw.choice(_SIZES)}"
            for _ in range(draw.randrange(30))
        )
        text, name = f"arrival_s,prompt_tokens,output_tokens\n{rows}\n", draw.choice(("r.csv", "r.jsonl"))
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
        asked([*words, flag, str(folder / name)])
    except Failure as failure:
        raise Failure(f"{failure}\n  {flag} {name}: {content[:2000]!r}") from None


# -- the Python API ---------------------------------------------------------------------------------------------


def fuzz_api(draw: random.Random, folder: Path) -> None:  # noqa: ARG001
    """`LLMAnalysis`, and `predict`, with any numbers."""
    from llm_perf import predict
    from llm_perf.analysis import LLMAnalysis
    from llm_perf.config import get_gpu_config_by_name, get_model_config_by_name
    from llm_perf.errors import LLMPerfError

    def size() -> Any:
        return draw.choice(_SIZES)

    given: dict[str, Any] = {}
    try:
        if draw.random() < 0.5:
            given = {"batch_size": size(), "prompt_len": size(), "gen_len": size(), "tp_size": draw.choice((1, 2, 8, 3)),
                     "hbm_memory_efficiency": draw.choice(_RATES)}  # fmt: skip
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


# -- the hardware's bounds ----------------------------------------------------------------------------------------


def fuzz_roof(draw: random.Random, folder: Path) -> None:  # noqa: ARG001
    """No answer beats the data sheets: 2 FLOPs per weight that a token meets, at the fastest format."""
    from llm_perf.errors import LLMPerfError

    kind = draw.choice((_roof_of_inference, _roof_of_inference, _roof_of_training, _roof_of_requests))
    try:
        kind(draw)
    except LLMPerfError:
        return  # what cannot be, or does not fit


def _weights_met(model: Any) -> float:
    """Matrices' weights that each token of a prompt meets: neither the token table nor the head, which the last one meets."""
    from llm_perf.counts.parameters import active_params, lm_head_params, norm_params, token_table_params

    return float(
        active_params(model) - token_table_params(model) - lm_head_params(model) - norm_params(model)
    )


def _flops_per_s(gpu: Any, gpus: int) -> float:
    return float(max(gpu.peak_tflops.values())) * 1e12 * gpus


def _not_below(seconds: float, least: float, question: dict[str, Any]) -> None:
    if not seconds >= least * (1 - 1e-6):
        raise Failure(f"{seconds:.4g} s is below the data sheets' {least:.4g} s\n  {question}")


def _roof_of_inference(draw: random.Random) -> None:
    from llm_perf import predict

    question: dict[str, Any] = {
        "model": draw.choice(known_names("model")),
        "gpu": draw.choice(known_names("GPU")),
        "system": draw.choice(system_names()),
        "weight_format": draw.choice(
            ("auto", "auto", "fp8", "awq", "gptq", "q4_k_m", "q8_0", "nf4", "mxfp4", "int8")
        ),
        "flops_efficiency": draw.choice((None, None, 1.0)),
        "hbm_memory_efficiency": draw.choice((None, None, 1.0)),
    }
    for name, most in (
        ("batch_size", 11),
        ("prompt_len", 14),
        ("gen_len", 11),
        ("tp_size", 3),
        ("pp_size", 2),
    ):
        question[name] = (
            draw.randrange(1, 2 ** draw.randrange(1, most)) if "len" in name else 2 ** draw.randrange(most)
        )
    question = {name: value for name, value in question.items() if value is not None}
    result = predict(**question).result
    if any("defect of llm-perf" in said for said in result.warnings):
        raise Failure(f"{result.warnings}\n  {question}")
    scenario = result.scenario
    phases = (result.prefill, *(() if result.decode is None else (result.decode,)))
    if scenario.gpu.absent or any("cpu" in phase.busy_s for phase in phases):
        return  # a processor computes a part
    weights, rate = _weights_met(scenario.model), _flops_per_s(scenario.gpu, scenario.parallelism.num_gpus)
    a_token = 2 * weights * question["batch_size"] / rate
    _not_below(result.prefill.latency_s, a_token * question["prompt_len"], question)
    if result.decode is not None:
        _not_below(result.decode.latency_s, a_token * (question["gen_len"] - 1), question)
    for phase in phases:
        shares = [phase.busy_s[name] / phase.latency_s for name in phase.busy_s]
        if max(shares, default=0.0) > 1.0 + 1e-9:
            raise Failure(f"busy {max(shares)} of the time\n  {question}")


def _roof_of_training(draw: random.Random) -> None:
    from llm_perf.analysis.training import predict_training
    from llm_perf.analysis.training_request import TrainingInputs, build_training_scenario
    from llm_perf.systems.training.framework import FRAMEWORKS

    question: dict[str, Any] = {
        "model": draw.choice(known_names("model")),
        "gpu": draw.choice(known_names("GPU")),
        "framework": draw.choice(FRAMEWORKS),
        "micro_batch_size": 2 ** draw.randrange(6),
        "seq_len": draw.randrange(1, 2 ** draw.randrange(1, 14)),
        "lora_rank": draw.choice((0, 0, 16)),
        "flops_efficiency": draw.choice((None, None, 1.0)),
        "precision": draw.choice((None, None, "bf16", "fp8")),
    }
    question |= {name: 2 ** draw.randrange(3) for name in ("tp_size", "pp_size", "dp_size")}
    question = {name: value for name, value in question.items() if value is not None}
    result = predict_training(build_training_scenario(TrainingInputs(**question)))
    scenario = result.scenario
    # Nothing flows back through the first layer of frozen weights; all others turn a gradient of activations each.
    passes = 3.0 if not question["lora_rank"] else 2.0 - 1.0 / scenario.model.num_layers
    tokens = result.batch.global_batch_size * question["seq_len"]
    least = passes * 2 * _weights_met(scenario.model) * tokens / _flops_per_s(scenario.gpu, scenario.num_gpus)
    _not_below(result.step_time_s, least, question)
    if any("defect of llm-perf" in said for said in result.warnings):
        raise Failure(f"{result.warnings}\n  {question}")


def _roof_of_requests(draw: random.Random) -> None:
    from llm_perf.analysis.request import InferenceInputs
    from llm_perf.analysis.simulation import ServiceInputs, simulation_of
    from llm_perf.requests.outcome import COMPLETED

    deployment = {"model": draw.choice(known_names("model")), "gpu": draw.choice(known_names("GPU")),
                  "system": draw.choice(system_names()), "tp_size": 2 ** draw.randrange(4)}  # fmt: skip
    traffic: dict[str, Any] = {"num_requests": draw.randrange(1, 60), "prompt_len": draw.randrange(1, 3000),
                               "gen_len": draw.randrange(1, 300), "replicas": draw.choice((1, 1, 2, 3))}  # fmt: skip
    traffic |= draw.choice(({"rate": 10.0 ** draw.randrange(-1, 4)}, {"concurrency": draw.randrange(1, 40)}))
    question = deployment | traffic
    found = simulation_of(InferenceInputs(**deployment), ServiceInputs(**traffic))
    scenario, outcome = found.scenario, found.outcome
    if scenario.gpu.absent or "cpu" in found.idle.prefill.busy_s:
        return
    done = outcome.status == COMPLETED
    if not done.any():
        return
    a_token = 2 * _weights_met(scenario.model) / _flops_per_s(scenario.gpu, scenario.parallelism.num_gpus)
    asked = outcome.requests
    computed = (asked.prompt_tokens - outcome.cached_tokens + asked.output_tokens - 1)[done]
    first = float(outcome.finished_s[done].max() - outcome.arrival_s.min())
    _not_below(first, a_token * float(computed.sum()) / traffic["replicas"], question)
    alone = (outcome.finished_s - outcome.arrival_s)[done] - a_token * computed
    _not_below(float(alone.min()), 0.0, question)
    if any("defect of llm-perf" in said for said in found.warnings):
        raise Failure(f"{found.warnings}\n  {question}")


# -- the server -------------------------------------------------------------------------------------------------

_MAIN: Final = "import sys; from llm_perf.cli.main import main; main(sys.argv[1:])"
_SERVER: list[tuple[subprocess.Popen[str], int]] = []


def _port() -> int:
    if not _SERVER or _SERVER[0][0].poll() is not None:
        if _SERVER:
            raise Failure("the server has ended")
        process = subprocess.Popen(
            [sys.executable, "-c", _MAIN, "serve", "--port", "0"],
            cwd=ROOT,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert process.stderr is not None
        _SERVER.append((process, int(process.stderr.readline().rpartition(":")[2].partition("/")[0])))
    return _SERVER[0][1]


def fuzz_serve(draw: random.Random, folder: Path) -> None:  # noqa: ARG001
    """One connection: a question, nonsense, or somebody who leaves."""
    from urllib.parse import urlencode

    names = ("model", "gpu", "batch_size", "gen_len", "system", "x", "host")
    values = (*_WORDS[:-1], "opt-1.3b", "t4", *map(str, _SIZES), "../x")
    query = urlencode({draw.choice(names): draw.choice(values) for _ in range(draw.randrange(5))})
    head = "HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n"
    usual = urlencode(
        {
            "model": draw.choice(known_names("model")),
            "gpu": draw.choice(known_names("GPU")),
            **{
                name: draw.choice(_SIZES[1:12])
                for name in ("batch_size", "prompt_len", "gen_len")
                if draw.random() < 0.5
            },
            **({"system": draw.choice(system_names())} if draw.random() < 0.5 else {}),
        }
    )
    asked_for = f"GET /api/view?{usual}&{query} {head}".encode()
    kind = draw.randrange(4)
    if kind == 1:
        asked_for = draw.randbytes(draw.randrange(200)) + b"\r\n\r\n"
    elif kind == 2:
        asked_for = asked_for[: draw.randrange(len(asked_for))]
    with socket.create_connection(("127.0.0.1", _port()), timeout=4 * _LONGEST_S) as client:
        client.sendall(asked_for)
        if kind == 3:
            return
        answer = b""
        try:
            while kind == 0 and (part := client.recv(65536)):
                answer += part
            answer = answer or client.recv(65536)
        except TimeoutError:
            raise Failure(f"no answer\n  {asked_for!r}") from None
        except ConnectionResetError:
            answer = b""
    if kind == 0 and not answer.startswith(b"HTTP/1.1 "):
        raise Failure(f"an empty answer\n  {asked_for!r}")
    if b" 500 " in answer[:20] or b"internal error" in answer:
        raise Failure(f"{answer[:500]!r}\n  {asked_for!r}")


# -- sweeps that are killed -----------------------------------------------------------------------------------

_SWEEP: Final = (
    "sweep", "--model", "opt-1.3b,llama-3.1-8b", "--gpu", "t4,l4", "--batch-size", "1:30", "--prompt-len", "1:30",
    "--gen-len", "1:12", "--json",
)  # fmt: skip
_CHUNKS: Final = """
import sys
sys.path.insert(0, sys.argv[1])
from llm_perf.search import sweep
sweep.CHUNK_POINTS = 500
from llm_perf.cli.main import main
main(sys.argv[2:])
"""


def fuzz_sweep(draw: random.Random, folder: Path) -> None:
    """A sweep that is killed up to four times ends in the bytes of one that was not."""
    command = [sys.executable, "-c", _CHUNKS, str(ROOT), *_SWEEP, "--out"]
    whole, cut = folder / "whole.parquet", folder / "cut.parquet"
    subprocess.run([*command, str(whole)], capture_output=True, check=True)
    for _ in range(draw.randrange(1, 5)):
        process = subprocess.Popen([*command, str(cut)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(draw.uniform(0.2, 3.0))
        process.send_signal(draw.choice((signal.SIGKILL, signal.SIGINT, signal.SIGTERM)))
        process.wait()
    done = subprocess.run([*command, str(cut)], capture_output=True, text=True, check=False)
    if done.returncode or whole.read_bytes() != cut.read_bytes() or len(list(folder.iterdir())) != 2:
        raise Failure(
            f"exit {done.returncode}, {sorted(one.name for one in folder.iterdir())}: {done.stderr[-300:]}"
        )


# -- all of it --------------------------------------------------------------------------------------------------

TARGETS: Final[dict[str, tuple[Callable[[random.Random, Path], None], float]]] = {
    "cli": (fuzz_cli, 0.45),
    "files": (fuzz_files, 0.2),
    "api": (fuzz_api, 0.1),
    "roof": (fuzz_roof, 0.1),
    "serve": (fuzz_serve, 0.1),
    "sweep": (fuzz_sweep, 0.05),
}
"""Each with its share of the processor's time; what starts a process for each case spends most of it on imports."""


def processor_s() -> float:
    """Seconds of the processor until now: this process, those that have ended, and the server."""
    own = os.times()
    spent = own.user + own.system + own.children_user + own.children_system
    for process, _ in _SERVER:
        with contextlib.suppress(OSError):
            fields = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
            spent += (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return spent


def cases(
    spent: dict[str, float], seed: int, minutes: float, *, until: float = float("inf")
) -> Iterator[tuple[str, int]]:
    """Target and seed of each case, until so many minutes of the processor are ``spent``: each target gets its share."""
    while sum(spent.values()) < 60 * minutes and time.monotonic() < until:
        target = min(spent, key=lambda name: spent[name] / TARGETS[name][1])
        start = processor_s()
        yield target, seed
        spent[target] += processor_s() - start
        seed += 1


def course(first: int, counts: dict[str, int], spent: dict[str, float], failed: int) -> str:
    """How many cases of each target, and what they took of the processor."""
    each = ", ".join(f"{name} {count:,} ({spent[name]:,.0f} s)" for name, count in counts.items())
    whole = f"{sum(counts.values()):,} cases, {sum(spent.values()):,.0f} s of the processor"
    return f"from seed {first}: {whole}: {each}; {failed} failed"


def main() -> int:
    """Run until the time is over; 1 where anything failed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=60.0, help="minutes of the processor")
    parser.add_argument(
        "--wall-minutes", type=float, default=float("inf"), help="minutes after which it ends"
    )
    parser.add_argument("--seed", type=int, default=None, help="first case; one that failed, to see it again")
    parser.add_argument("--only", default=",".join(TARGETS), help="targets, separated by commas")
    given = parser.parse_args()
    logging.disable(logging.CRITICAL)  # what a library says of its inputs
    os.environ["HF_HUB_OFFLINE"] = "1"
    first = given.seed if given.seed is not None else int(time.time()) % 10**9
    counts = dict.fromkeys(given.only.split(","), 0)
    spent = dict.fromkeys(counts, 0.0)
    failed, told = 0, 0.0
    until = time.monotonic() + 60 * given.wall_minutes
    for target, seed in cases(spent, first, given.minutes, until=until):
        folder = Path(tempfile.mkdtemp(prefix="fuzz-"))
        os.chdir(folder)  # what a flag writes goes there
        try:
            TARGETS[target][0](random.Random(f"{target} {seed}"), folder)
        except Exception as error:  # noqa: BLE001 - whatever comes out of a case is what was looked for
            failure = error if isinstance(error, Failure) else f"{type(error).__name__}: {error}"
            failed += 1
            print(f"{target} {seed}: {failure}", flush=True)
            with (ROOT / "fuzz_failures.jsonl").open("a", encoding="utf-8") as file:
                file.write(json.dumps({"target": target, "seed": seed, "failure": str(failure)}) + "\n")
        finally:
            os.chdir(ROOT)
            shutil.rmtree(folder, ignore_errors=True)
        counts[target] += 1
        if sum(spent.values()) > told + _TELL_S:
            told = sum(spent.values())
            print(course(first, counts, spent, failed), file=sys.stderr, flush=True)
    for process, _ in _SERVER:
        process.terminate()
    print(course(first, counts, spent, failed))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
