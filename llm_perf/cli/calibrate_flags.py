"""What all real runs of ``llm-perf calibrate`` share on the command line: flags that mean nothing to one, and its object."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping
from typing import Any, Final

import click

from llm_perf.errors import DoesNotFitError, SpecError

_NAMES: Final = {"model_name": "model", "num_gpus_per_node": "num-gpus", "output_file": "log-file"}
"""Flags whose fields have another name."""
_WORDS: Final = "llm_perf.calibrate.words"


def flag_of(name: str) -> str:
    """The flag of a field."""
    return f"--{_NAMES.get(name, name.replace('_', '-'))}"


def with_words(context: click.Context) -> click.Context:
    """A context in which the user wrote a mode as a word (``calibrate train``), and not as a flag."""
    context.meta[_WORDS] = True
    return context


def named(mode: str) -> str:
    """A mode as the user writes it here: ``calibrate train``, or ``--train``."""
    context = click.get_current_context(silent=True)
    in_words = context is not None and context.meta.get(_WORDS, False)
    return f"calibrate {mode}" if in_words else f"--{mode}"


def check_flags(
    given: Mapping[str, Any], known: Collection[str], implied: Mapping[str, Any], why: str
) -> None:
    """Refuse flags of another run, unless they say what this one is anyway.

    Args:
        given: Fields that were given.
        known: Those that this run has.
        implied: What others may be.
        why: What is said behind the flag.

    Raises:
        SpecError: a flag means nothing here.
    """
    for name, value in given.items():
        if name not in known and implied.get(name) != value:
            raise SpecError(f"{flag_of(name)} {why}")


def print_object(found: Mapping[str, Any]) -> None:
    """Print exactly one JSON object."""
    click.echo(json.dumps(found, allow_nan=False))


def run_and_print(
    measure: Callable[[], dict[str, Any] | None],
    show: Callable[[dict[str, Any]], None],
    as_json: bool,
    run: Mapping[str, Any] | None = None,
) -> int:
    """Run, and print the result; of a run that is not made because it does not fit, where JSON is asked for, the prediction.

    Args:
        measure: Runs it; returns None in all ranks of a launcher but the first.
        show: Prints a result for people.
        as_json: Print exactly one JSON object instead.
        run: Its settings; None where the prediction has them.

    Raises:
        DoesNotFitError: it was not made.
    """
    try:
        result = measure()
    except DoesNotFitError as error:
        if as_json and error.report is not None:
            settings = error.report["inputs"]["settings"] if run is None else run
            print_object(_without_measurement(settings, error.report, str(error)))
        raise
    if result is None:
        return 0
    if as_json:
        print_object(result)
    else:
        show(result)
    return 0


def _without_measurement(run: Mapping[str, Any], predicted: dict[str, Any], reason: str) -> dict[str, Any]:
    """The object of a run that was not made."""
    files: dict[str, Any] = {"run_file": None}
    if "benchmark_log" in predicted:
        files = {
            "benchmark_log": None,
            "predicted_benchmark_log": predicted["benchmark_log"],
            "log_file": None,
        }
    return {
        "schema_version": 1, "status": "does not fit", "reason": reason, "run": run, "measured": None,
        "predicted": predicted, "error": None, **files, "raw": None, "environment": None,
    }  # fmt: skip
