"""Three shapes, three formats, one thread and all: llama.cpp measured beside predictions, before a probe and after.

``python -m calibrate.validate.llama_cpp_table`` (``make run-llama-cpp``) takes four to seven minutes on two cores of its own.
The probe runs other models than the table's, and its profile knows none of these times. Both are measured in turn, in rounds
over all their files, so that a machine that is slower for a while is so for both, and again over files whose fastest round
was not met a second time.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from calibrate.fit.llama_cpp_profile import fitted_probe, probe_lines
from calibrate.probe.environment import usable_cores
from calibrate.probe.own_process import exit_code_of
from calibrate.probe.process import signals_interrupt
from calibrate.probe.records import SCHEMA_VERSION, RunRecord, finite, measuring, writable_folder
from calibrate.run.llama_cpp.build import LlamaCpp, required
from calibrate.run.llama_cpp.gguf_file import quantise, write_random_gguf
from calibrate.run.llama_cpp.models import SAMPLES, sample
from calibrate.run.llama_cpp.prediction import predict_llama_cpp
from calibrate.run.llama_cpp.probe import Stream, probe_files, probe_of
from calibrate.run.llama_cpp.rounds import TimedFile, Times, alternately, measure_round, quiet_s, unsettled
from calibrate.run.prediction import signed_error
from calibrate.run.session import plain_errors
from calibrate.run.settings import DEFAULT_OFFLOAD_DIR
from llm_perf.config.gguf import load_gguf

FORMATS = ("fp16", "q8_0", "q4_k_m")
PROMPT, GENERATED = 128, 24
LEAST_ROUNDS, MOST_ROUNDS = 3, 6
"""Rounds over all files, of the probe and of the table, and over those whose fastest round was not met again."""
BEFORE, AFTER = 0.20, 0.10
"""What decode may be off by: with the constants that ship, and with a profile of the machine."""
DEFAULT_FOLDER = "runs/llama_cpp"


def measure_table(programs: LlamaCpp, folder: Path, say: Callable[[str], object]) -> dict[str, Any]:
    """Probe and run everything, round by round, then predict everything.

    Args:
        programs: llama.cpp's.
        folder: For the profile and the table.
        say: Is told what goes on.

    Raises:
        LLMPerfError: something cannot be made or run.
    """
    start = time.perf_counter()
    parent = writable_folder(DEFAULT_OFFLOAD_DIR, "--offload-dir")
    record, stream, probing_s = RunRecord(folder, "llama_cpp-table"), Stream(), 0.0
    with (
        probe_files(programs, DEFAULT_OFFLOAD_DIR, say) as probes,
        tempfile.TemporaryDirectory(prefix="llama_cpp-", dir=parent) as made,
    ):
        probing_s += time.perf_counter() - start
        files = list(_files(programs, Path(made), say))
        for number in range(MOST_ROUNDS):
            again = number >= LEAST_ROUNDS
            mine, others = (unsettled(probes), unsettled(files)) if again else (probes, files)
            if not mine and not others:
                break
            stream.measure()
            begun = time.perf_counter()
            measure_round(programs, alternately(mine, others), number, say)
            # Of each pair of files one is the probe's; near enough to say what a probe alone would have taken.
            probing_s += (time.perf_counter() - begun) * len(mine) / (len(mine) + len(others))
            record.save(
                kind="llama_cpp table", status="running", runs=[_plain(*run) for run in _runs(files)],
                probe=probe_of(probes, stream, probing_s).as_dict(),
            )  # fmt: skip
    probe = fitted_probe(
        probe_of(probes, stream, probing_s), programs, str(folder / "profile.yaml"), str(folder), say
    )
    rows = [_row(*run, Path(probe["profile"])) for run in _runs(files)]
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


def _runs(files: Sequence[TimedFile]) -> Iterator[tuple[TimedFile, int, Times]]:
    """Each file with each number of threads."""
    for file in files:
        for threads, times in file.times.items():
            yield file, threads, times


def _plain(file: TimedFile, threads: int, times: Times) -> dict[str, Any]:
    """A run as plain JSON types."""
    return {
        "model": file.model.name, "weight_format": file.weight_format, "threads": threads, "prompt_len": file.prompt,
        "gen_len": file.generated + 1, "checkpoint_bytes": file.model.checkpoint_bytes,
    } | times.as_dict()  # fmt: skip


def _files(programs: LlamaCpp, folder: Path, say: Callable[[str], object]) -> Iterator[TimedFile]:
    """Each sample in each format."""
    for name in SAMPLES:
        say(f"making {name}")
        wide = folder / f"{name}-fp16.gguf"
        write_random_gguf(sample(name), wide)
        for weights in FORMATS:
            path = wide
            if weights != "fp16":
                path = wide.with_name(f"{name}-{weights}.gguf")
                quantise(programs, wide, path, weights, usable_cores())
            yield TimedFile(path, load_gguf(path).replace(name=name), weights, PROMPT, GENERATED - 1, PROMPT)


def _row(file: TimedFile, threads: int, times: Times, profile: Path) -> dict[str, Any]:
    """One run beside both predictions, per token and per prompt."""
    measured = {"prefill": quiet_s(times.prefill), "decode": quiet_s(times.decode)}
    predicted = {}
    for name, used in (("before", None), ("after", profile)):
        result = predict_llama_cpp(file.model, PROMPT, GENERATED, threads, profile=used)
        steps = result.decode.latency_s if result.decode else float("nan")
        predicted[name] = {"prefill": result.prefill.latency_s, "decode": steps / (GENERATED - 1)}
    return _plain(file, threads, times) | {
        "measured_s": measured,
        "predicted_s": predicted,
        "error": {
            name: {phase: signed_error(found[phase], measured[phase]) for phase in measured}
            for name, found in predicted.items()
        },
    }


def summary(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Errors over all rows, how many keep to what is asked of decode, and how far rounds of the same run lie apart."""
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
    for phase in ("decode", "prefill"):
        known = [row["spread"][phase] for row in rows if row.get("spread", {}).get(phase) is not None]
        if known:
            found[f"{phase}_spread"] = {"median": median(known), "max": max(known)}
    return found | {"rows": len(rows), "unsettled": sum(not row.get("settled", True) for row in rows)}


def table_lines(found: dict[str, Any]) -> list[str]:
    """The table for people: milliseconds per token and per prompt, predicted over measured before and after the probe."""
    lines = [
        f"{'':<23}{'decode, ms per token':^28}{'prompt of ' + str(PROMPT) + ', ms':^28}",
        f"{'model':<13}{'format':<7}{'t':>2} " + 2 * f"{'measured':>9}{'spread':>7}{'before':>7}{'after':>6}",
    ]
    for row in found["rows"]:
        cells = []
        for phase in ("decode", "prefill"):
            apart = row["spread"][phase]
            before, after = (1 + row["error"][name][phase] for name in ("before", "after"))
            shown = "-" if apart is None else f"{apart:.0%}"
            cells.append(f"{1e3 * row['measured_s'][phase]:>9.2f}{shown:>7}{before:>7.2f}{after:>6.2f}")
        mark = "" if row.get("settled", True) else " *"
        lines.append(f"{row['model']:<13}{row['weight_format']:<7}{row['threads']:>2} {''.join(cells)}{mark}")
    summed = found["summary"]
    for name in ("before", "after"):
        one, prompts = summed[f"decode_{name}"], summed[f"prefill_{name}"]
        lines.append(
            f"{name} the probe: tokens {one['median_abs_error']:.1%} off in the median, at most "
            f"{one['max_abs_error']:.0%}; {one['within']} of {summed['rows']} within {one['limit']:.0%};"
        )
        lines.append(f"  prompts {prompts['median_abs_error']:.1%}, at most {prompts['max_abs_error']:.0%}")
    if summed["unsettled"]:
        lines.append(
            f"* the fastest round of {summed['unsettled']} runs was not met again: others may have been there in all"
        )
    apart = summed.get("decode_spread")
    if apart is not None:
        lines.append(
            f"spread: the slowest round over the fastest; of tokens {apart['median']:.0%} in the median, at most "
            f"{apart['max']:.0%}"
        )
    others = max(
        (row["others_cores"] for row in found["rows"] if row["others_cores"] is not None), default=None
    )
    beside = "" if others is None else f"; other processes used {others:.2f} cores at most"
    return [
        *lines, "t: threads; before, after: predicted over measured, with the constants that ship and",
        f"with the probe's; {found['seconds']:.0f} s in all{beside}",
    ]  # fmt: skip


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
