"""Work in a process of its own, both sides of it: here an exception, there one line on stderr and an exit code."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from typing import Any, Final, NoReturn

from llm_perf import streams
from llm_perf.errors import DoesNotFitError, EnvironmentFailure, LLMPerfError, SpecError

EXIT_INTERRUPTED: Final = 130
_ERRORS: Final[dict[int, type[LLMPerfError]]] = {2: SpecError, 3: DoesNotFitError, 4: EnvironmentFailure}
_ENTRY: Final = "from llm_perf.cli.main import main; main()"
_TO_LISTEN_S: Final = 20.0
"""What an interrupted process has to remove swap files and keep finished loops, before it is killed."""


def error_of_exit_code(code: int) -> type[LLMPerfError]:
    """The kind of error that a process ended with."""
    return _ERRORS.get(code, EnvironmentFailure)


def no_options(usage: str, given: Sequence[str], most: int) -> None:
    """Stop where what follows a module's name is an option, which it would take for a folder or a model, or too much.

    Raises:
        SpecError: with the usage.
    """
    if len(given) > most or any(argument.startswith("-") for argument in given):
        raise SpecError(f"usage: {usage}; it has no options, got {' '.join(given)}")


# -- the one that starts it ---------------------------------------------------------------------------------------


def run_python(arguments: Sequence[str], name: str, timeout_s: float | None = None) -> str:
    """Run Python with these arguments to its end; what it printed.

    Args:
        arguments: Such as ``("-m", "calibrate.run.cases")``.
        name: What errors begin with.
        timeout_s: When it is interrupted, and killed where it does not listen; None waits.

    Raises:
        LLMPerfError: it failed, with what it said last, or took longer.
        KeyboardInterrupt: it was interrupted.
    """
    process = subprocess.Popen(
        [sys.executable, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        output, said = process.communicate(timeout=timeout_s)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGINT)
        try:
            process.communicate(timeout=_TO_LISTEN_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
        raise EnvironmentFailure(f"{name}: no end after {timeout_s:.0f} s") from None
    except KeyboardInterrupt:
        process.send_signal(signal.SIGINT)
        process.communicate()
        raise
    if process.returncode:
        last = (said.strip().splitlines() or [f"exit code {process.returncode}"])[-1]
        raise error_of_exit_code(process.returncode)(f"{name}: {last.removeprefix('llm-perf: ')}")
    return output


def run_cli(*flags: str, timeout_s: float | None) -> dict[str, Any]:
    """The JSON object of ``llm-perf calibrate --run`` with these flags.

    Raises:
        LLMPerfError: it failed or took longer, with what it said.
        KeyboardInterrupt: it was interrupted.
    """
    output = run_python(("-c", _ENTRY, "calibrate", "--run", *flags, "--json"), " ".join(flags), timeout_s)
    return json.loads(output)  # type: ignore[no-any-return]


# -- the one that is started --------------------------------------------------------------------------------------


_WRONG_PATH = (FileNotFoundError, NotADirectoryError, IsADirectoryError)
"""What a program was given that is not there, or is something else: its user's to mend."""


def exit_code_of(
    work: Callable[[], int | None],
    interrupted: str = "interrupted",
    tell: Callable[[str], object] | None = None,
) -> int:
    """Do the work of a program; the code that it exits with.

    Args:
        work: Returns its own code, or None for 0.
        interrupted: What is said after Ctrl-C; nothing if empty.
        tell: Takes the one line of an error; stderr, with the program's name before it, if None.
    """
    tell = tell or (lambda text: sys.stderr.write(f"llm-perf: {text}\n"))
    streams.prepare()
    try:
        code = work() or 0
        sys.stdout.flush()
        return code
    except BrokenPipeError:  # whoever read it went away
        streams.silence(sys.stdout)
        return streams.EXIT_UNREAD
    except OSError as error:
        streams.silence(sys.stdout)
        wrong = isinstance(error, _WRONG_PATH)
        tell(" ".join((str(error) if wrong else streams.why_not(error)).split()))
        return SpecError.exit_code if wrong else EnvironmentFailure.exit_code
    except LLMPerfError as error:
        streams.end()
        tell(" ".join(str(error).split()))
        return error.exit_code
    except KeyboardInterrupt:
        if interrupted:
            tell(interrupted)
        return EXIT_INTERRUPTED


def end_process(code: int) -> NoReturn:
    """Exit at once after a failure: threads of libraries whose peer is gone may keep a process from ending."""
    sys.stdout.flush()
    sys.stderr.flush()
    if code:
        os._exit(code)
    sys.exit(0)
