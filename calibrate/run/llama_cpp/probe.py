"""A probe of this machine's CPU under llama.cpp, a minute long, and the profile that it makes.

Three models that nobody asks about (few wide layers, many narrow ones, experts) are run in three formats with one
thread and with all, in rounds over all of them and then over those that differed. Their times give the constants that class
values stand for elsewhere: what a core and what the memory can read, what unpacking costs, what a layer costs beside its
bytes.
"""

from __future__ import annotations

import contextlib
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from calibrate.probe.environment import usable_cores
from calibrate.probe.records import writable_folder
from calibrate.run.llama_cpp.build import LlamaCpp
from calibrate.run.llama_cpp.gguf_file import quantise, write_random_gguf
from calibrate.run.llama_cpp.rounds import TimedFile, Times, measure_round, thread_counts, unsettled
from llm_perf.config.gguf import load_gguf
from llm_perf.config.huggingface import from_hf_config
from llm_perf.config.model import ModelConfig

GENERATED = 12
"""Tokens that are generated in one of the two tests of each model."""
DEEP = 384
"""Tokens in the cache where attention is to be seen."""
LEAST_ROUNDS, MOST_ROUNDS = 2, 6
"""How often each file is run: twice on any machine, more where its fastest round was not met again and there is time."""
USUAL_SECONDS = 60

_STREAM_BYTES = 256 << 20
_STREAM_TURNS = 6

_COMMON = {
    "model_type": "llama", "vocab_size": 2048, "max_position_embeddings": 1024, "tie_word_embeddings": True,
    "hidden_act": "silu",
}  # fmt: skip
_SHAPES: dict[str, dict[str, Any]] = {
    "wide": {"hidden_size": 2048, "intermediate_size": 5632, "num_hidden_layers": 3, "num_attention_heads": 16},
    "deep": {
        "hidden_size": 1024, "intermediate_size": 2560, "num_hidden_layers": 10, "num_attention_heads": 16,
        "num_key_value_heads": 4,
    },
    "experts": {
        "model_type": "mixtral", "hidden_size": 1024, "intermediate_size": 768, "num_hidden_layers": 6,
        "num_attention_heads": 16, "num_key_value_heads": 16, "num_local_experts": 16, "num_experts_per_tok": 4,
        "sliding_window": None,
    },
}  # fmt: skip
_PROMPTS = {"wide": 96, "deep": 32, "experts": 128}
"""Tokens of the prompt; their lengths tell what a matrix costs beside its rows."""
_PLAN: tuple[tuple[str, str, tuple[int, ...]], ...] = (
    ("wide", "fp16", (0, DEEP)), ("wide", "q8_0", (0,)), ("wide", "q4_k_m", (0,)),
    ("deep", "fp16", (0, DEEP)), ("deep", "q8_0", (0,)), ("deep", "q4_k_m", (0,)),
    ("experts", "fp16", (0,)), ("experts", "q8_0", (0,)), ("experts", "q4_k_m", (0,)),
)  # fmt: skip
"""Model, format, and how full the cache is: of one model with as many heads of keys as of queries, and one with a quarter."""


@dataclass(frozen=True)
class ProbeRun:
    """Times of one model in one format with so many threads.

    Attributes:
        model: With the formats of its file.
        weight_format: Name of the format.
        threads: Of llama.cpp.
        prompt: Tokens of the prompt.
        depth: Tokens in the cache before.
        times: Of the prompt, and per generated token.
    """

    model: ModelConfig
    weight_format: str
    threads: int
    prompt: int
    depth: int
    times: Times

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        return {
            "model": self.model.name, "weight_format": self.weight_format, "threads": self.threads, "prompt_len": self.prompt,
            "depth": self.depth,
        } | self.times.as_dict()  # fmt: skip


@dataclass
class Probe:
    """What a probe measured. ``stream`` is bytes per second that plain reads reach, by threads."""

    runs: list[ProbeRun] = field(default_factory=list)
    stream: dict[int, float] = field(default_factory=dict)
    seconds: float = 0.0
    rounds: int = 0

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        return {
            "seconds": self.seconds,
            "rounds": self.rounds,
            "stream_bytes_per_s": {str(threads): rate for threads, rate in self.stream.items()},
            "runs": [run.as_dict() for run in self.runs],
        }


def run_probe(
    programs: LlamaCpp,
    folder: str,
    say: Callable[[str], object],
    seconds: float = USUAL_SECONDS,
) -> Probe:
    """Measure, in two rounds over all files, then over those whose fastest round was not met again while seconds are left.

    Args:
        programs: llama.cpp's.
        folder: In which the models are made, and removed.
        say: Is told what goes on.
        seconds: Within which no further round is begun that would not end.

    Raises:
        LLMPerfError: a model cannot be made, or llama.cpp fails.
    """
    start = time.perf_counter()
    with probe_files(programs, folder, say) as files:
        stream, left = Stream(), files
        for number in range(MOST_ROUNDS):
            begun = time.perf_counter()
            stream.measure()
            measure_round(programs, left, number, say)
            if number + 1 < LEAST_ROUNDS:
                continue
            each, left = (time.perf_counter() - begun) / len(left), unsettled(files)
            if not left or time.perf_counter() - start + each * len(left) > seconds:
                break
        return probe_of(files, stream, time.perf_counter() - start)


@contextlib.contextmanager
def probe_files(programs: LlamaCpp, folder: str, say: Callable[[str], object]) -> Iterator[list[TimedFile]]:
    """The probe's models as files, for as long as the block lasts.

    Raises:
        LLMPerfError: one cannot be made.
    """
    with tempfile.TemporaryDirectory(prefix="probe-", dir=writable_folder(folder, "--offload-dir")) as made:
        yield list(_files(programs, Path(made), say))


def probe_of(files: Sequence[TimedFile], stream: Stream, seconds: float) -> Probe:
    """What the rounds over a probe's files have measured so far."""
    runs = [
        ProbeRun(file.model, file.weight_format, threads, file.prompt, file.depth, times)
        for file in files
        for threads, times in file.times.items()
    ]
    rounds = max((len(run.times.decode) for run in runs), default=0)
    return Probe(runs, stream.rates, seconds, rounds)


def _files(programs: LlamaCpp, folder: Path, say: Callable[[str], object]) -> Iterator[TimedFile]:
    """Each model in each of its formats, and once more where its cache is to be full."""
    for name, weights, depths in _PLAN:
        wide = folder / f"{name}-fp16.gguf"
        path = folder / f"{name}-{weights}.gguf"
        if weights == "fp16":
            say(f"making the probe's model of {name}")
            write_random_gguf(from_hf_config(_COMMON | _SHAPES[name], f"probe-{name}"), wide)
        else:
            quantise(programs, wide, path, weights, usable_cores())
        model = load_gguf(path).replace(name=f"probe-{name}")
        for depth in depths:
            yield TimedFile(path, model, weights, _PROMPTS[name], GENERATED, depth, depth)


class Stream:
    """Bytes per second that plain reads of memory reach, by threads: the fastest of all turns.

    The largest of 64-bit numbers, in NumPy, which lets other threads run meanwhile.
    """

    def __init__(self) -> None:
        self.rates: dict[int, float] = {}

    def measure(self) -> None:
        """A few more turns with each number of threads."""
        values = np.ones(_STREAM_BYTES // 8, dtype=np.int64)
        for threads in thread_counts():
            parts = np.array_split(values, threads)
            with ThreadPoolExecutor(threads) as pool:
                for _ in range(_STREAM_TURNS):
                    start = time.perf_counter()
                    list(pool.map(np.max, parts))
                    rate = values.nbytes / (time.perf_counter() - start)
                    self.rates[threads] = max(self.rates.get(threads, 0.0), rate)
