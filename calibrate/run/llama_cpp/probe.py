"""A probe of this machine's CPU under llama.cpp, a minute long, and the profile that it makes.

Three models that nobody asks about (few wide layers, many narrow ones, experts) are run in up to three formats with one
thread and with all. Their times give the constants that class values stand for elsewhere: what a core and what the memory can
read, what unpacking costs, what a layer costs beside its bytes.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from calibrate.probe.environment import usable_cores
from calibrate.probe.records import writable_folder
from calibrate.run.llama_cpp.bench import run_bench
from calibrate.run.llama_cpp.build import LlamaCpp
from calibrate.run.llama_cpp.gguf_file import quantise, write_random_gguf
from llm_perf.config.gguf import load_gguf
from llm_perf.config.huggingface import from_hf_config
from llm_perf.config.model import ModelConfig

PROMPT, GENERATED = 64, 12
"""Tokens of the two tests of each model."""
DEEP = 384
"""Tokens in the cache where attention is to be seen."""
REPETITIONS = 3
ROUNDS = 2
"""How often each file is run."""
USUAL_SECONDS = 60

_STREAM_BYTES = 256 << 20
_STREAM_TURNS = 8

_COMMON = {
    "model_type": "llama", "vocab_size": 2048, "max_position_embeddings": 1024, "tie_word_embeddings": True,
    "hidden_act": "silu",
}  # fmt: skip
_SHAPES: dict[str, dict[str, Any]] = {
    "wide": {"hidden_size": 2048, "intermediate_size": 5632, "num_hidden_layers": 3, "num_attention_heads": 16},
    "deep": {"hidden_size": 1024, "intermediate_size": 2560, "num_hidden_layers": 14, "num_attention_heads": 16},
    "experts": {
        "model_type": "mixtral", "hidden_size": 1024, "intermediate_size": 768, "num_hidden_layers": 6,
        "num_attention_heads": 16, "num_key_value_heads": 16, "num_local_experts": 16, "num_experts_per_tok": 4,
        "sliding_window": None,
    },
}  # fmt: skip
_PLAN: tuple[tuple[str, str, tuple[int, ...]], ...] = (
    ("wide", "fp16", (0,)), ("wide", "q8_0", (0,)), ("wide", "q4_k_m", (0,)),
    ("deep", "fp16", (0, DEEP)), ("deep", "q8_0", (0,)), ("deep", "q4_k_m", (0,)),
    ("experts", "fp16", (0,)), ("experts", "q4_k_m", (0,)),
)  # fmt: skip
"""Model, format, and how full the cache is when tokens are generated."""


@dataclass(frozen=True)
class ProbeRun:
    """Times of one model in one format with so many threads.

    Attributes:
        model: With the formats of its file.
        weight_format: Name of the format.
        threads: Of llama.cpp.
        depth: Tokens in the cache before those that were generated.
        prefill_s: Seconds of a prompt of ``PROMPT`` tokens, each repetition; empty where none was run.
        decode_s: Seconds per generated token, each repetition.
        others_cores: Cores that others used meanwhile.
    """

    model: ModelConfig
    weight_format: str
    threads: int
    depth: int
    prefill_s: tuple[float, ...]
    decode_s: tuple[float, ...]
    others_cores: float | None

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        return {
            "model": self.model.name, "weight_format": self.weight_format, "threads": self.threads, "depth": self.depth,
            "prefill_s": list(self.prefill_s), "decode_s_per_token": list(self.decode_s),
            "others_cores": self.others_cores,
        }  # fmt: skip

    def with_more(self, other: ProbeRun) -> ProbeRun:
        """The same with the times of another round."""
        known = [cores for cores in (self.others_cores, other.others_cores) if cores is not None]
        return replace(
            self,
            prefill_s=self.prefill_s + other.prefill_s,
            decode_s=self.decode_s + other.decode_s,
            others_cores=max(known, default=None),
        )


@dataclass
class Probe:
    """What a probe measured. ``stream`` is bytes per second that plain reads reach, by threads."""

    runs: list[ProbeRun] = field(default_factory=list)
    stream: dict[int, float] = field(default_factory=dict)
    seconds: float = 0.0

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        return {
            "seconds": self.seconds,
            "stream_bytes_per_s": {str(threads): rate for threads, rate in self.stream.items()},
            "runs": [run.as_dict() for run in self.runs],
        }


def quiet_s(samples: Sequence[float]) -> float:
    """Seconds where nobody disturbs: the lower quartile. Others only ever add time."""
    return sorted(samples)[len(samples) // 4]


def run_probe(
    programs: LlamaCpp,
    folder: str,
    say: Callable[[str], object],
) -> Probe:
    """Measure; every file right after it was made, since memory that nobody used for a while comes back slower.

    Args:
        programs: llama.cpp's.
        folder: In which the models are made, and removed.
        say: Is told what goes on.

    Raises:
        LLMPerfError: a model cannot be made, or llama.cpp fails.
    """
    start = time.perf_counter()
    found = Probe()
    with tempfile.TemporaryDirectory(prefix="probe-", dir=writable_folder(folder, "--offload-dir")) as made:
        say("reading memory")
        found.stream = stream_rates(thread_counts())
        for name, weights, path in _files(programs, Path(made), say):
            depths = next(depths for shape, kind, depths in _PLAN if (shape, kind) == (name, weights))
            say(f"running {name} in {weights}")
            rounds = [_round(programs, path, name, weights, depths, number) for number in range(ROUNDS)]
            for run, *others in zip(*rounds, strict=True):
                for other in others:
                    run = run.with_more(other)
                found.runs.append(run)
    found.seconds = time.perf_counter() - start
    return found


def is_mapped(number: int) -> bool:
    """Whether the files of a round are mapped into memory: every second one copies them.

    Pages of a virtual machine are read at rates that differ by a tenth with where they are. Files are read from where they
    are, copies from elsewhere, and the better place counts.
    """
    return number % 2 == 0


def thread_counts() -> list[int]:
    """One thread, and one for each core that this process may use."""
    return sorted({1, usable_cores()})


def _files(programs: LlamaCpp, folder: Path, say: Callable[[str], object]) -> Iterator[tuple[str, str, Path]]:
    """Each model in each of its formats; a file is there until the next is asked for."""
    for name, weights, _ in _PLAN:
        wide = folder / f"{name}-fp16.gguf"
        if weights == "fp16":
            say(f"making the model of {name}")
            write_random_gguf(from_hf_config(_COMMON | _SHAPES[name], f"probe-{name}"), wide)
            yield name, weights, wide
            continue
        say(f"quantising {name} to {weights}")
        path = folder / f"{name}-{weights}.gguf"
        quantise(programs, wide, path, weights, usable_cores())
        yield name, weights, path
        path.unlink()


def _round(
    programs: LlamaCpp, path: Path, name: str, weights: str, depths: Sequence[int], number: int
) -> list[ProbeRun]:
    """One model with each number of threads and each filling of the cache."""
    return [
        _run(programs, path, name, weights, threads, depth, number == 0, is_mapped(number))
        for threads in thread_counts()
        for depth in depths
    ]


def _run(
    programs: LlamaCpp,
    path: Path,
    name: str,
    weights: str,
    threads: int,
    depth: int,
    prompts: bool,
    mapped: bool,
) -> ProbeRun:
    common: dict[str, Any] = {"threads": threads, "repetitions": REPETITIONS, "mapped": mapped}
    prompt: tuple[float, ...] = ()
    others = []
    if depth == 0 and prompts:
        test, done = run_bench(programs, path, prompt=PROMPT, gen=0, depth=0, **common)
        prompt = test.samples_s
        others.append(done.usage.get("others_cores"))
    test, done = run_bench(programs, path, prompt=0, gen=GENERATED, depth=depth, **common)
    others.append(done.usage.get("others_cores"))
    known = [cores for cores in others if cores is not None]
    return ProbeRun(
        load_gguf(path).replace(name=f"probe-{name}"), weights, threads, depth, prompt,
        tuple(sample / GENERATED for sample in test.samples_s), max(known, default=None),
    )  # fmt: skip


def stream_rates(counts: Sequence[int], size: int = _STREAM_BYTES) -> dict[int, float]:
    """Bytes per second that plain reads of memory reach, by threads: NumPy's reductions, which let other threads run."""
    values = np.ones(size // 8, dtype=np.int64)
    found = {}
    for threads in counts:
        parts = np.array_split(values, threads)
        seconds = []
        with ThreadPoolExecutor(threads) as pool:
            for _ in range(_STREAM_TURNS + 1):
                start = time.perf_counter()
                list(pool.map(np.bitwise_or.reduce, parts))
                seconds.append(time.perf_counter() - start)
        found[threads] = values.nbytes / quiet_s(seconds[1:])
    return found
