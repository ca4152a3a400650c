"""Ask the questions of tests/golden and write what is answered: `make accuracy`, or `python bench/answers.py`.

A test holds what was written to what is answered now: options that no published run has (stages, drafts, offload by policy,
training over several nodes) move with a change as the predictions of published runs do, and nobody saw it. Which numbers
moved, and by how much, is printed; it belongs into the pull request.

Questions that somebody thought of stand in questions.txt, and answers.jsonl has every number of their answers. Questions that
were drawn by chance (bench/choose_questions.py), so many that every line of the model is run by several, stand in drawn.jsonl
with a sum per part of the answer in which each of its numbers counts.

    python bench/answers.py            writes the files and says what moved
    python bench/answers.py --check    writes nothing; exits with 1 where something moved
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import math
import random
import shlex
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any
from zlib import crc32

ROOT = Path(__file__).parents[1]
GOLDEN = ROOT / "tests" / "golden"
QUESTIONS = GOLDEN / "questions.txt"
ANSWERS = GOLDEN / "answers.jsonl"
DRAWN = GOLDEN / "drawn.jsonl"

NOT_OF_THE_MODEL = {
    "schema_version", "inputs", "constants_inherited", "nearest_measurement", "interval", "no_interval", "cost",
    "warnings", "benchmark_log", "suggestions", "seconds", "evaluated", "searched",
}  # fmt: skip
"""What follows from evidence, prices or the clock, what was asked, and how many policies a search has: what just fits here
may not elsewhere."""
LEAST = 1e-8
"""What is smaller counts as nothing: a difference of equal numbers leaves it, by the last digits of a processor."""
WORDS = {"bottleneck", "batch_limited_by", "context_limited_by", "phase", "peak_dtype", "rule_of"}
"""Answers that are a word: it stands in the number's name."""
DIGITS = 8
TOLERANCE = 1e-6
"""Relative: what another processor's exponential may change."""
SUM_DIGITS, SUM_TOLERANCE = 7, 2e-6
"""Of sums of logarithms, which move by a number's relative change; per `SUM_OF_MANY` where more are added up."""
SUM_OF_MANY = 1000.0
"""What some hundreds of numbers come to: a front of 200 policies has thousands, and each may end in another digit."""


def questions() -> list[str]:
    """The questions that somebody thought of, as command lines."""
    lines = QUESTIONS.read_text("utf-8").splitlines()
    return [line for line in lines if line and not line.startswith("#")]


def answer(question: str) -> dict[str, float]:
    """Every number of an answer that is not 0, by its place in the JSON object.

    Raises:
        ValueError: the question is refused.
    """
    from llm_perf.cli.main import run

    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = run([*_words(question), "--json"])
    if code not in (0, 3):  # 3: it does not fit, and is answered all the same
        raise ValueError(f"{question}: {err.getvalue().strip()}")
    return {
        name: float(f"{value:.{DIGITS}g}") for name, value in _numbers(json.loads(out.getvalue())) if value
    }


def _words(question: str) -> list[str]:
    """The words of a command line; GOLDEN is the folder of what it is to read."""
    return [word.replace("GOLDEN", str(GOLDEN)) for word in shlex.split(question)]


def _numbers(found: Any, name: str = "") -> Iterator[tuple[str, float]]:
    """Numbers by their places; yes is 1, and a word is a place of its own."""
    if isinstance(found, dict):
        for key, value in found.items():
            if key != "interval" and (name or key not in NOT_OF_THE_MODEL):
                yield from _numbers(value, f"{name}.{key}" if name else key)
    elif isinstance(found, list):
        for index, value in enumerate(found):
            yield from _numbers(value, f"{name}.{index}")
    elif isinstance(found, (int, float)) and math.isfinite(found):
        yield name, float(found) if abs(found) >= LEAST else 0.0
    elif isinstance(found, str) and name.rpartition(".")[2] in WORDS:
        yield f"{name}={found}", 1.0


def written() -> dict[str, dict[str, float]]:
    """The answers of the file, by their questions."""
    return _of_file(ANSWERS, "numbers")


def moved(before: dict[str, float], after: dict[str, float]) -> list[str]:
    """What differs between two answers, in words."""
    return _moved(before, after, lambda old, new: math.isclose(old, new, rel_tol=TOLERANCE))


def _moved(
    before: dict[str, float], after: dict[str, float], equal: Callable[[float, float], bool]
) -> list[str]:
    names = dict.fromkeys((*before, *after))
    pairs = ((name, before.get(name, math.nan), after.get(name, math.nan)) for name in names)
    return [f"{name} {old:.9g} -> {new:.9g}" for name, old, new in pairs if not equal(old, new)]


# -- questions that were drawn ------------------------------------------------------------------------------------


def drawn() -> dict[str, dict[str, float]]:
    """The questions that were drawn, and the sums of their answers."""
    return _of_file(DRAWN, "sums")


def sums(question: str) -> dict[str, float]:
    """One number per part of an answer: the sum of its numbers' logarithms, each with a weight that its place gives it.

    A number that grows by a share moves the sum by about that share, whatever the others are, and two that are swapped
    move it by their weights. What is refused is ``refused``.
    """
    from llm_perf.errors import LLMPerfError

    words = _words(question)
    try:
        found = _ASKED.get(words[0], _of_command)(words)
    except LLMPerfError as error:
        return {"refused": 1.0, f"by {type(error).__name__}": 1.0}
    parts: dict[str, float] = {}
    for name, value in _numbers(found):
        if value:
            part = name.partition(".")[0]
            parts[part] = parts.get(part, 0.0) + _weight(name) * (
                _OFFSET + math.copysign(1, value) + math.log(abs(value))
            )
    return {part: round(value, SUM_DIGITS) for part, value in parts.items()}


_OFFSET = 2.0
"""That a number is there at all, and of which sign it is, counts as well."""


def _weight(name: str) -> float:
    """From 1 to 2, as the place's name has it."""
    return 1.0 + crc32(name.encode()) % 4096 / 4096


def sums_moved(before: dict[str, float], after: dict[str, float]) -> list[str]:
    """Which parts of an answer moved."""
    return _moved(
        before, after, lambda old, new: abs(old - new) <= SUM_TOLERANCE * max(abs(old) / SUM_OF_MANY, 1.0)
    )


def _of_command(words: list[str]) -> Any:
    """The JSON object of a command."""
    from llm_perf.cli.main import run
    from llm_perf.errors import SpecError

    out = io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(io.StringIO()):
        code = run([*words, "--json"])
    if code not in (0, 3) or not out.getvalue():
        raise SpecError("refused")
    return json.loads(out.getvalue())


def _given(words: list[str]) -> dict[str, Any]:
    """What a command line gives, by the names of the inputs."""
    import click

    from llm_perf.cli.main import cli
    from llm_perf.errors import SpecError

    command = cli.get_command(click.Context(cli), words[0])
    assert command is not None
    try:
        found = command.make_context(words[0], words[1:]).params
    except click.ClickException as error:
        raise SpecError(error.format_message()) from None
    return {name: value for name, value in found.items() if _is_said(name, value, words)}


def _is_said(name: str, value: Any, words: list[str]) -> bool:
    """Whether a value was given: a switch that is off was where the word for it stands there."""
    return (
        value is not None
        and value != ()
        and (value is not False or f"--no-{name.replace('_', '-')}" in words)
    )


def _inference(words: list[str]) -> Any:
    """A prediction: its numbers, each with its formula, and its passes step by step."""
    from llm_perf.analysis.economics import energy_of
    from llm_perf.analysis.inference import predict_inference
    from llm_perf.analysis.request import InferenceInputs, build_scenario
    from llm_perf.cli.inputs import questions as asked_for
    from llm_perf.report.explain import explanations
    from llm_perf.report.inference_json import energy_object, memory_objects, pipeline_object, pivot_object
    from llm_perf.systems import system_of
    from llm_perf.systems.passes import passes

    words, seed = _seed_of(words)
    given = _given(words)
    question, *_ = asked_for(given.pop("gpus", ()), None, given, InferenceInputs)
    scenario = build_scenario(question)
    result = predict_inference(_with_constants(scenario, system_of(scenario).file.constants, seed))
    energy, decode = energy_of(result), result.decode
    schedules = passes(
        system_of(result.scenario),
        result.scenario,
        result.prefill.cost,
        None if decode is None else decode.cost,
    )
    return {
        "fits": result.feasible,
        "placement": [
            [float(share) for share in (shares.gpu, shares.cpu, shares.nvme)]
            for shares in (result.placement.weights, result.placement.kv_cache, result.placement.activations)
        ],
        "memory": memory_objects(result),
        "most": {"batch": result.max_batch_size, "context": result.max_context_len},
        "prefill": _phase(result.prefill),
        "decode": None if decode is None else _phase(decode),
        "pivot": pivot_object(result),
        "pipeline": pipeline_object(result),
        "energy": None if energy is None else energy_object(energy),
        "explained": [[entry.name, entry.value] for entry in explanations(result)],
        "passes": {name: _steps(schedule) for name, schedule in schedules},
        "arrays": _arrays(result.scenario),
    }


_CONSTANTS = "--constants"
"""In front of a number, behind a question: constants have other values in their ranges, which that number chooses. Many are 0
as shipped, and what is multiplied with them is in no other answer."""


def _seed_of(words: list[str]) -> tuple[list[str], str | None]:
    """The words of a command, and what chooses constants."""
    return (words[:-2], words[-1]) if _CONSTANTS in words else (words, None)


def _with_constants(scenario: Any, constants: Mapping[str, Any], seed: str | None) -> Any:
    """The scenario with constants at one end of their ranges or the other, or as they are."""
    if seed is None:
        return scenario
    draw = random.Random(f"constants {seed}")
    values = {name: draw.choice((one.value, *(one.range or ()))) for name, one in sorted(constants.items())}
    return scenario.replace(constants=tuple(values.items()))


def _arrays(scenario: Any) -> Any:
    """The same evaluated for other batches and lengths at once, as sweeps do."""
    import numpy as np

    from llm_perf.systems import Load, system_of

    asked = scenario.workload
    batch, prompt, gen = asked.batch_size, asked.prompt_len, asked.gen_len
    load = Load(
        np.array([batch, 2 * batch, 3 * batch, 16 * batch], float),
        np.array([prompt, max(prompt // 2, 1), prompt + 7, prompt], float),
        np.array([gen, gen + 3, gen, 2 * gen], float),
    )
    found = system_of(scenario).evaluate(scenario, load)
    phases = {"prefill": found.prefill} | ({} if found.decode is None else {"decode": found.decode})
    tiers = {"gpu": found.memory.gpu, "cpu": found.memory.cpu, "nvme": found.memory.nvme}
    return {
        name: {
            "latency_s": _listed(phase.latency_s),
            "parts": {part: _listed(value) for part, value in phase.parts_s.items()},
            "busy": {part: _listed(value) for part, value in phase.busy_s.items()},
        }
        for name, phase in phases.items()
    } | {name: {use: _listed(getattr(tier, use)) for use in tier.uses} for name, tier in tiers.items()}


def _listed(value: Any) -> list[float]:
    import numpy as np

    return np.ravel(np.asarray(value, float)).tolist()


def _phase(phase: Any) -> Any:
    return {
        "latency_s": float(phase.latency_s),
        "bottleneck": phase.bottleneck,
        "parts": phase.breakdown_s,
        "busy": phase.busy_s,
    }


def _steps(schedule: Any) -> Any:
    return [
        [
            [float(block.repeats), float(step.repeats), float(step.duration_s)]
            + [float(work.seconds) for work in step.works()]
            for step in block.steps
        ]
        for block in schedule.blocks
    ]


def _requests(words: list[str]) -> Any:
    """Requests through an engine: the figures of all, and the columns of requests and of steps."""
    from llm_perf.analysis.simulation import SimulationInputs, parts_of, simulation_of
    from llm_perf.report.simulate_json import summary_object
    from llm_perf.requests.request_file import read_requests
    from llm_perf.requests.summary import tpot_of

    given = _given(words)
    gpus = given.pop("gpus")
    if "rate" in given:
        given["rate"] = float(given["rate"])
    deployment, traffic = parts_of(SimulationInputs(gpu=gpus[0], **given))
    name = traffic.requests
    file = None
    if name is not None:
        file = read_requests(name, timed=traffic.rate is None and traffic.concurrency is None)
    found = simulation_of(deployment, traffic, file)
    outcome = found.outcome
    columns = {name: getattr(outcome.steps, name) for name in _OF_STEPS}
    columns |= {name: getattr(outcome, name) for name in _OF_REQUESTS} | {"tpot_s": tpot_of(outcome)}
    return {
        **summary_object(found.summary),
        "cache": outcome.kv_capacity_tokens,
        "gpus": found.num_gpus,
        "idle": {"ttft_s": found.idle.ttft_s, "tpot_s": found.idle.tpot_s},
        "energy": found.energy_j_per_token,
        "columns": {name: _column(values) for name, values in columns.items()},
    }


_OF_STEPS = (
    "replica",
    "start_s",
    "duration_s",
    "count",
    "decode_sequences",
    "prefill_tokens",
    "kv_tokens",
    "waiting",
)
_OF_REQUESTS = (
    "arrival_s", "scheduled_s", "first_token_s", "finished_s", "cached_tokens", "preemptions", "replica", "status",
)  # fmt: skip


def _column(values: Any) -> list[float]:
    """How many there are, their sum, and their sum with weights that rise from row to row."""
    import numpy as np

    there = np.nan_to_num(np.asarray(values, float))
    return [float(len(there)), float(there.sum()), float((there * np.arange(1, len(there) + 1)).sum())]


def _steady(words: list[str]) -> Any:
    """The closed form of an engine that is kept as busy as is said, of three lengths at once, and of pools."""
    import numpy as np

    from llm_perf.analysis.request import InferenceInputs, build_scenario
    from llm_perf.analysis.simulation import SimulationInputs, parts_of
    from llm_perf.requests.steady import SteadyState

    given = _given(["simulate", *words[1:]])
    gpus = given.pop("gpus")
    deployment, traffic = parts_of(SimulationInputs(gpu=gpus[0], **given))
    prompt, output = float(traffic.prompt_len), float(traffic.gen_len)
    named = {name: getattr(deployment, name) for name in InferenceInputs.model_fields}
    scenario = build_scenario(InferenceInputs(**named | {"prompt_len": 1, "gen_len": 1}))
    state = SteadyState(scenario, int(2 * prompt + 2 * output))
    how = {"rate": traffic.rate, "concurrency": traffic.concurrency}
    found = state.at(
        np.array([prompt, max(prompt // 3, 1), prompt]),
        np.array([output, output, 2 * output]),
        **{name: value for name, value in how.items() if value is not None},
    )
    return {
        "steady": {name: _listed(getattr(found, name)) for name in found.__slots__},
        "pools": list(state.of_pools(prompt, output)),
    }


def _training(words: list[str]) -> Any:
    """A step: what the command prints, each number with its formula."""
    words, seed = _seed_of(words)
    if seed is None:
        return _of_command([*words, "--explain"])
    from llm_perf.analysis.training import predict_training
    from llm_perf.analysis.training_request import TrainingInputs, build_training_scenario
    from llm_perf.cli.inputs import questions as asked_for
    from llm_perf.report.training_explain import training_explanations
    from llm_perf.report.training_json import training_object
    from llm_perf.systems.training.framework import get_framework

    given = _given(words)
    question, *_ = asked_for(given.pop("gpus", ()), None, given, TrainingInputs)
    scenario = build_training_scenario(question)
    constants = get_framework(scenario.framework).constants
    result = predict_training(_with_constants(scenario, constants, seed))
    explained = [[entry.name, entry.value] for entry in training_explanations(result)]
    return training_object(result, {}) | {"explained": explained}


_ASKED: Mapping[str, Callable[[list[str]], Any]] = {
    "infer": _inference,
    "simulate": _requests,
    "train": _training,
    "steady": _steady,
}
"""How a command's question is asked; others by their JSON object."""


# -- files --------------------------------------------------------------------------------------------------------


def _of_file(path: Path, key: str) -> dict[str, dict[str, float]]:
    if not path.is_file():
        return {}
    rows = (json.loads(line) for line in path.read_text("utf-8").splitlines())
    return {row["asked"]: row[key] for row in rows}


def _write(path: Path, key: str, found: Mapping[str, Mapping[str, float]]) -> None:
    rows = ({"asked": question, key: numbers} for question, numbers in found.items())
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows), "utf-8")


def write_drawn(asked: Iterable[str]) -> None:
    """Write questions that were drawn, and what is answered to them."""
    _write(DRAWN, "sums", {question: sums(question) for question in asked})


def compared(
    path: Path,
    key: str,
    before: dict[str, dict[str, float]],
    after: dict[str, dict[str, float]],
    difference: Callable[[dict[str, float], dict[str, float]], list[str]],
    *,
    check: bool,
) -> int:
    """Say what moved, write it unless it is only checked, and return how many answers moved."""
    changed = {question: difference(before.get(question, {}), found) for question, found in after.items()}
    changed = {question: names for question, names in changed.items() if names}
    for question, names in changed.items():
        print(f"{question}\n    {len(names)} numbers, such as {'; '.join(names[:3])}")
    if (changed or before.keys() != after.keys()) and not check:
        # A number that did not move stays as it was written, whatever its last digits are here.
        kept = {
            question: found if question in changed else before[question] for question, found in after.items()
        }
        _write(path, key, kept)
    print(f"{len(changed)} of {len(after)} answers moved ({path.name})")
    return len(changed)


def main() -> int:
    """Ask, compare, write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--check", action="store_true", help="write nothing")
    asked = parser.parse_args()
    thought_of = {question: answer(question) for question in questions()}
    by_chance = {question: sums(question) for question in drawn()}
    changed = compared(ANSWERS, "numbers", written(), thought_of, moved, check=asked.check)
    changed += compared(DRAWN, "sums", drawn(), by_chance, sums_moved, check=asked.check)
    return 1 if changed and asked.check else 0


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    sys.exit(main())
