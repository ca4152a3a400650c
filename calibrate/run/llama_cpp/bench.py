"""llama-bench: its command line, its JSON, and the tests of a run."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from calibrate.run.llama_cpp.build import LlamaCpp
from calibrate.run.llama_cpp.child import Finished, run_program
from llm_perf.errors import EnvironmentFailure, SpecError


@dataclass(frozen=True, slots=True)
class BenchTest:
    """One test of llama-bench: so many tokens, of a prompt or one after the other, and the seconds of each repetition.

    Attributes:
        n_prompt: Tokens of a prompt, in one go.
        n_gen: Tokens, one at a time.
        n_depth: Tokens that were in the cache before.
        samples_s: Seconds of each repetition.
        fields: The object itself: model, threads, types, build.
    """

    n_prompt: int
    n_gen: int
    n_depth: int
    samples_s: tuple[float, ...]
    fields: Mapping[str, Any]

    @property
    def threads(self) -> int | None:
        """Threads of the CPU; None where it does not say."""
        value = self.fields.get("n_threads")
        return value if type(value) is int else None


def parse_bench(text: str) -> list[BenchTest]:
    """What ``llama-bench -o json`` printed.

    Raises:
        SpecError: it is no such output, or is cut off; the message says where.
    """
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        raise SpecError("llama-bench: what it printed is no JSON, or is cut off (expected -o json)") from None
    if not isinstance(found, list):
        raise SpecError(f"llama-bench: expected a list of tests, found {type(found).__name__}")
    return [_test(entry, number) for number, entry in enumerate(found)]


def _test(entry: Any, number: int) -> BenchTest:
    if not isinstance(entry, dict):
        raise SpecError(f"llama-bench: test {number}: expected an object, found {type(entry).__name__}")
    prompt, gen, depth = (_count(entry, name, number) for name in ("n_prompt", "n_gen", "n_depth"))
    if prompt + gen == 0:
        raise SpecError(f"llama-bench: test {number}: n_prompt and n_gen are both 0")
    samples = entry.get("samples_ns")
    if not isinstance(samples, list) or not samples:
        raise SpecError(f"llama-bench: test {number}: samples_ns is missing or empty")
    for sample in samples:
        if type(sample) not in (int, float) or not (math.isfinite(sample) and sample > 0):
            raise SpecError(
                f"llama-bench: test {number}: samples_ns has {sample!r}; expected nanoseconds above 0"
            )
    return BenchTest(prompt, gen, depth, tuple(sample / 1e9 for sample in samples), entry)


def _count(entry: dict[str, Any], name: str, number: int) -> int:
    value = entry.get(name, 0 if name == "n_depth" else None)  # builds before 2025 have no depth
    if type(value) is not int or value < 0:
        raise SpecError(f"llama-bench: test {number}: {name} = {value!r}: expected a whole number")
    return value


def run_bench(
    programs: LlamaCpp, model: Path, *, prompt: int, gen: int, depth: int, threads: int, **more: Any
) -> tuple[BenchTest, Finished]:
    """Run one test: ``prompt`` tokens in one go, or ``gen`` one at a time. ``more`` as `run_tests` has it.

    Raises:
        DoesNotFitError: it was killed.
        EnvironmentFailure: it failed, or printed something else than expected.
    """
    (test,), done = run_tests(
        programs, model, prompt=prompt, gen=gen, depth=depth, threads=(threads,), **more
    )
    return test, done


def run_tests(
    programs: LlamaCpp,
    model: Path,
    *,
    prompt: int,
    gen: int,
    depth: int,
    threads: Sequence[int],
    repetitions: int,
    ubatch: int = 512,
    warmup: bool = True,
    mapped: bool = True,
) -> tuple[list[BenchTest], Finished]:
    """Run the tests of one file in one process: for each number of threads a prompt, then tokens one at a time.

    Args:
        programs: llama.cpp's.
        model: A GGUF file.
        prompt: Tokens of the prompt, or 0 for none of these tests.
        gen: Tokens one at a time, or 0 likewise.
        depth: Tokens in the cache before.
        threads: Of the CPU, one after the other.
        repetitions: Timed ones of each test.
        ubatch: Prompt tokens per pass.
        warmup: With one repetition before.
        mapped: The file is mapped into memory, as llama.cpp does by itself; else copied there. Programs of one's own, which
            may be of any age, always do the former.

    Raises:
        DoesNotFitError: it was killed.
        EnvironmentFailure: it failed, or printed something else than expected.
    """
    command = [
        str(programs.bench), "-m", str(model), "-p", str(prompt), "-n", str(gen), "-d", str(depth),
        "-t", ",".join(map(str, threads)), "-r", str(repetitions), "-ub", str(ubatch), "-ngl", "0", "-o", "json",
        *(() if warmup else ("--no-warmup",)), *(() if mapped or not programs.facts else ("-lm", "none")),
    ]  # fmt: skip
    done = run_program(command)
    try:
        tests = parse_bench(done.stdout)
    except SpecError as error:
        raise EnvironmentFailure(str(error)) from None
    parts = [*([(prompt, 0)] if prompt else []), *([(0, gen)] if gen else [])]
    wanted = sorted((count, *part) for count in threads for part in parts)
    found = sorted((test.threads or threads[0], test.n_prompt, test.n_gen) for test in tests)
    if found != wanted:
        expected = "one test" if len(wanted) == 1 else f"{len(wanted)} tests"
        raise EnvironmentFailure(
            f"llama-bench: expected {expected} of {prompt} + {gen} tokens, found {len(tests)} or others"
        )
    return tests, done
