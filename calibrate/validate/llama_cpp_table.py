"""Three shapes, three formats, one thread and all: llama.cpp measured beside predictions, before a probe and after.

``python -m calibrate.validate.llama_cpp_table`` (``make run-llama-cpp``) takes under five minutes on two cores of its own.
The probe runs other models than the table's, and its profile knows none of these times.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from calibrate.fit.llama_cpp_profile import probe_lines, probed
from calibrate.probe.environment import usable_cores
from calibrate.probe.own_process import exit_code_of
from calibrate.probe.process import signals_interrupt
from calibrate.probe.records import SCHEMA_VERSION, RunRecord, finite, measuring, writable_folder
from calibrate.run.llama_cpp.bench import BenchTest, run_bench
from calibrate.run.llama_cpp.build import LlamaCpp, required
from calibrate.run.llama_cpp.child import Finished
from calibrate.run.llama_cpp.gguf_file import quantise, write_random_gguf
from calibrate.run.llama_cpp.models import SAMPLES, sample
from calibrate.run.llama_cpp.prediction import predict_llama_cpp
from calibrate.run.llama_cpp.probe import ROUNDS, is_mapped, quiet_s, thread_counts
from calibrate.run.prediction import signed_error
from calibrate.run.session import plain_errors
from calibrate.run.settings import DEFAULT_OFFLOAD_DIR
from llm_perf.config.gguf import load_gguf
from llm_perf.config.model import ModelConfig

FORMATS = ("fp16", "q8_0", "q4_k_m")
PROMPT, GENERATED = 128, 24
REPETITIONS = 3
BEFORE, AFTER = 0.20, 0.10
"""What decode may be off by: with the constants that ship, and with a profile of the machine."""
DEFAULT_FOLDER = "runs/llama_cpp"


def measure_table(programs: LlamaCpp, folder: Path, say: Callable[[str], object]) -> dict[str, Any]:
    """Probe, run everything, predict everything.

    Args:
        programs: llama.cpp's.
        folder: For the profile and the table.
        say: Is told what goes on.

    Raises:
        LLMPerfError: something cannot be made or run.
    """
    start = time.perf_counter()
    parent = writable_folder(DEFAULT_OFFLOAD_DIR, "--offload-dir")
    with tempfile.TemporaryDirectory(prefix="llama_cpp-", dir=parent) as made:
        out = str(folder / "profile.yaml")
        probe = probed(programs, out, DEFAULT_OFFLOAD_DIR, str(folder), say)
        record, runs = RunRecord(folder, "llama_cpp-table"), list[_Run]()
        for model, weights, path in _files(programs, Path(made), say):
            for threads in thread_counts():
                run = _Run(path, model, weights, threads)
                for number in range(ROUNDS):
                    run.measure(programs, prompt=number == 0, mapped=is_mapped(number))
                runs.append(run)
            record.save(kind="llama_cpp table", status="running", runs=[run.as_dict() for run in runs])
    rows = [_row(run, Path(probe["profile"])) for run in runs]
    record.save(status="done", rows=rows)
    return {
        "schema_version": SCHEMA_VERSION,
        "seconds": time.perf_counter() - start,
        "load": list(os.getloadavg()) if hasattr(os, "getloadavg") else None,
        "rows": rows,
        "summary": summary(rows),
        "probe": probe,
        "environment": probe["environment"],
    }


@dataclass
class _Run:
    """One sample in one format with so many threads, and its times."""

    path: Path
    model: ModelConfig
    weight_format: str
    threads: int
    prefill_s: list[float] = field(default_factory=list)
    decode_s: list[float] = field(default_factory=list)
    others: list[float] = field(default_factory=list)

    def measure(self, programs: LlamaCpp, prompt: bool, mapped: bool) -> None:
        """One more round: tokens, and the prompt if asked."""
        common: dict[str, Any] = {"threads": self.threads, "repetitions": REPETITIONS, "mapped": mapped}
        if prompt:
            self._take(*run_bench(programs, self.path, prompt=PROMPT, gen=0, depth=0, **common))
        self._take(*run_bench(programs, self.path, prompt=0, gen=GENERATED - 1, depth=PROMPT, **common))

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        return {
            "model": self.model.name, "weight_format": self.weight_format, "threads": self.threads, "prompt_len": PROMPT,
            "gen_len": GENERATED, "checkpoint_bytes": self.model.checkpoint_bytes,
            "samples_s": {"prefill": self.prefill_s, "decode": self.decode_s},
            "others_cores": max(self.others, default=None),
        }  # fmt: skip

    def _take(self, test: BenchTest, done: Finished) -> None:
        if test.n_prompt:
            self.prefill_s += test.samples_s
        else:
            self.decode_s += [sample / test.n_gen for sample in test.samples_s]
        if (others := done.usage.get("others_cores")) is not None:
            self.others.append(others)


def _files(
    programs: LlamaCpp, folder: Path, say: Callable[[str], object]
) -> Iterator[tuple[ModelConfig, str, Path]]:
    """Each sample in each format; a file is there until the next is asked for."""
    for name in SAMPLES:
        say(f"making {name}")
        wide = folder / f"{name}-fp16.gguf"
        write_random_gguf(sample(name), wide)
        for weights in FORMATS:
            path = wide
            if weights != "fp16":
                say(f"quantising {name} to {weights}")
                path = wide.with_name(f"{name}-{weights}.gguf")
                quantise(programs, wide, path, weights, usable_cores())
            yield load_gguf(path).replace(name=name), weights, path
            if path != wide:
                path.unlink()
        wide.unlink()


def _row(run: _Run, profile: Path) -> dict[str, Any]:
    """One run beside both predictions, per token and per prompt."""
    measured = {"prefill": quiet_s(run.prefill_s), "decode": quiet_s(run.decode_s)}
    predicted = {}
    for name, used in (("before", None), ("after", profile)):
        result = predict_llama_cpp(run.model, PROMPT, GENERATED, run.threads, profile=used)
        steps = result.decode.latency_s if result.decode else float("nan")
        predicted[name] = {"prefill": result.prefill.latency_s, "decode": steps / (GENERATED - 1)}
    return run.as_dict() | {
        "measured_s": measured,
        "predicted_s": predicted,
        "error": {
            name: {phase: signed_error(found[phase], measured[phase]) for phase in measured}
            for name, found in predicted.items()
        },
    }


def summary(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Errors over all rows, and how many keep to what is asked of decode."""
    found: dict[str, Any] = {}
    for name, limit in (("before", BEFORE), ("after", AFTER)):
        for phase in ("decode", "prefill"):
            sizes = [abs(row["error"][name][phase]) for row in rows]
            found[f"{phase}_{name}"] = {
                "median_abs_error": median(sizes),
                "max_abs_error": max(sizes),
                **(
                    {"limit": limit, "within": sum(size <= limit for size in sizes)}
                    if phase == "decode"
                    else {}
                ),
            }
    return found | {"rows": len(rows)}


def table_lines(found: dict[str, Any]) -> list[str]:
    """The table for people: milliseconds per token and per prompt, errors before and after the probe."""
    lines = [
        f"{'':<31}{'decode, ms per token':>27}{'prompt of ' + str(PROMPT) + ', ms':>24}",
        f"{'model':<13}{'format':<8}{'threads':>7}{'others':>7}{'measured':>10}{'before':>9}{'after':>8}"
        f"{'measured':>11}{'before':>9}{'after':>8}",
    ]
    for row in found["rows"]:
        others = "-" if row["others_cores"] is None else f"{row['others_cores']:.2f}"
        cells = [
            f"{1e3 * row['measured_s'][phase]:>{width}.2f}{row['error']['before'][phase]:>+9.0%}"
            f"{row['error']['after'][phase]:>+8.1%}"
            for phase, width in (("decode", 10), ("prefill", 11))
        ]
        lines.append(
            f"{row['model']:<13}{row['weight_format']:<8}{row['threads']:>7}{others:>7}" + "".join(cells)
        )
    for name in ("before", "after"):
        one = found["summary"][f"decode_{name}"]
        lines.append(
            f"decode {name} the probe: median {one['median_abs_error']:.1%}, largest {one['max_abs_error']:.1%}; "
            f"{one['within']} of {found['summary']['rows']} within {one['limit']:.0%}"
        )
    lines.append(f"others: cores that other processes used; {found['seconds']:.0f} s in all")
    return lines


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print, and write table.json and profile.yaml into a folder. Returns the exit code."""
    given = list(sys.argv[1:] if arguments is None else arguments)

    def say(text: str) -> None:
        sys.stderr.write(f"{text}\n")

    def work() -> None:
        with signals_interrupt(), plain_errors():
            programs = required()
            folder = writable_folder(given[0] if given else DEFAULT_FOLDER, "the folder")
            with measuring(allow_concurrent=False):
                found = finite(measure_table(programs, folder, say))
            (folder / "table.json").write_text(
                json.dumps(found, indent=1, allow_nan=False) + "\n", encoding="utf-8"
            )
        sys.stdout.write("\n".join([*probe_lines(found["probe"]), "", *table_lines(found)]) + "\n")

    return exit_code_of(work, interrupted="")


if __name__ == "__main__":
    sys.exit(main())
