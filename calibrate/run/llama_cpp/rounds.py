"""Files of llama.cpp timed in rounds: every file once, then every file again, so that a machine's drift meets all alike.

Neighbours of a virtual machine, clocks and the pages that a file happens to lie in change a time by a tenth to a quarter
from one minute to the next, and for seconds on end its two processors are no more than the threads of one core, so that all
of a round takes 1.5 to 1.9 times as long. What is measured in one go meets one such state; rounds over all files spread each
file's samples over the whole session, and go on for files whose fastest round was not met again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import zip_longest
from pathlib import Path
from statistics import median
from typing import Any

from calibrate.probe.environment import usable_cores
from calibrate.run.llama_cpp.bench import BenchTest, run_tests
from calibrate.run.llama_cpp.build import LlamaCpp
from calibrate.run.llama_cpp.child import Finished
from llm_perf.config.model import ModelConfig
from llm_perf.errors import EnvironmentFailure

REPETITIONS = 3
"""Timed repetitions of each test in each round; the first finds nothing warm, and counts like any that was disturbed."""

MET_AGAIN = 0.1
"""How near to the fastest round another one has to be for it to be no accident."""


def quiet_s(rounds: Sequence[Sequence[float]]) -> float:
    """Seconds where nobody disturbs: the median of the fastest round. Others only ever add time, mostly to all of a round.

    Raises:
        EnvironmentFailure: no round has a sample.
    """
    times = _each(rounds)
    if not times:
        raise EnvironmentFailure("no round of llama-bench has a time")
    return min(times)


def settled(rounds: Sequence[Sequence[float]]) -> bool:
    """Whether the fastest round was met again."""
    times = sorted(_each(rounds))
    return len(times) > 1 and times[1] <= times[0] * (1 + MET_AGAIN)


def _each(rounds: Sequence[Sequence[float]]) -> list[float]:
    return [median(samples) for samples in rounds if samples]


def spread(rounds: Sequence[Sequence[float]]) -> float | None:
    """By how much the slowest round exceeds the fastest, a fraction of the medians that times are; None of fewer than two."""
    times = _each(rounds)
    return max(times) / min(times) - 1 if len(times) > 1 else None


def is_mapped(number: int) -> bool:
    """Whether the files of a round are mapped into memory: every second one copies them.

    Pages of a virtual machine are read at rates that differ by a tenth with where they are. Files are read from where they
    are, copies from elsewhere, and the better place counts.
    """
    return number % 2 == 0


def thread_counts() -> list[int]:
    """One thread, and one for each core that this process may use."""
    return sorted({1, usable_cores()})


@dataclass(frozen=True)
class Times:
    """What the rounds measured with so many threads: seconds of the prompt and per generated token, a tuple per round."""

    prefill: list[tuple[float, ...]] = field(default_factory=list)
    decode: list[tuple[float, ...]] = field(default_factory=list)
    others: list[float] = field(default_factory=list)

    @property
    def settled(self) -> bool:
        """Whether the fastest round of both was met again."""
        return all(settled(rounds) for rounds in (self.prefill, self.decode) if rounds)

    @property
    def others_cores(self) -> float | None:
        """Cores that other processes used in the worst round."""
        return max(self.others, default=None)

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        both = {"prefill": self.prefill, "decode": self.decode}
        return {
            "samples_s": {phase: [list(samples) for samples in rounds] for phase, rounds in both.items()},
            "quiet_s": {phase: quiet_s(rounds) if any(rounds) else None for phase, rounds in both.items()},
            "settled": self.settled,
            "spread": {"prefill": spread(self.prefill), "decode": spread(self.decode)},
            "others_cores": self.others_cores,
        }


@dataclass(frozen=True)
class TimedFile:
    """One GGUF file, what is run of it, and its times by threads.

    Attributes:
        path: The file.
        model: With the formats of the file.
        weight_format: Name of the format.
        prompt: Tokens of the prompt's test.
        generated: Tokens of the other test.
        depth: Tokens in the cache when they are generated.
        prompt_depth: The same of the prompt.
        times: By number of threads.
    """

    path: Path
    model: ModelConfig
    weight_format: str
    prompt: int
    generated: int
    depth: int
    prompt_depth: int = 0
    times: dict[int, Times] = field(default_factory=lambda: {count: Times() for count in thread_counts()})

    def measure(self, programs: LlamaCpp, number: int) -> None:
        """One more round of both tests, with each number of threads."""
        common: dict[str, Any] = {
            "threads": tuple(self.times), "repetitions": REPETITIONS, "warmup": False, "mapped": is_mapped(number),
        }  # fmt: skip
        tests = [(self.prompt, 0, self.prompt_depth), (0, self.generated, self.depth)]
        if self.prompt_depth == self.depth:
            tests = [(self.prompt, self.generated, self.depth)]
        for prompt, gen, depth in tests:
            self._take(*run_tests(programs, self.path, prompt=prompt, gen=gen, depth=depth, **common))

    def _take(self, tests: Sequence[BenchTest], done: Finished) -> None:
        others = done.usage.get("others_cores")
        for test in tests:
            found = self.times[test.threads or min(self.times)]
            if test.n_prompt:
                found.prefill.append(test.samples_s)
            else:
                found.decode.append(tuple(sample / test.n_gen for sample in test.samples_s))
        if others is not None:
            for found in self.times.values():
                found.others.append(others)


def unsettled(files: Sequence[TimedFile]) -> list[TimedFile]:
    """Files of which some run's fastest round was not met again."""
    return [file for file in files if not all(times.settled for times in file.times.values())]


def alternately(*lists: Sequence[TimedFile]) -> list[TimedFile]:
    """Files of several lists, one of each in turn."""
    return [file for files in zip_longest(*lists) for file in files if file is not None]


def measure_round(
    programs: LlamaCpp, files: Sequence[TimedFile], number: int, say: Callable[[str], object]
) -> None:
    """Every file once."""
    say(f"round {number + 1} over {len(files)} files")
    for file in files:
        file.measure(programs, number)
