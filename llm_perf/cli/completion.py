"""``llm-perf --install-completion``: what the shell completes behind TAB, written where that shell looks for it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Final

import click

from llm_perf.errors import EnvironmentFailure, SpecError

SHELLS: Final = ("bash", "zsh", "fish")

_PROGRAM: Final = "llm-perf"
_VARIABLE: Final = "_LLM_PERF_COMPLETE"
"""Set by the shell's script when it asks what may follow; click answers, and the command does not run."""


def install_completion(shell: str | None) -> str:
    """Write the script of a shell, by default of the one that ``SHELL`` names; what to do next, in words.

    Raises:
        SpecError: no shell is given, and ``SHELL`` names none that is known.
        EnvironmentFailure: there is no home folder, or it cannot be written.
    """
    from click.shell_completion import get_completion_class

    from llm_perf.cli.main import cli

    asked = f"SHELL is {os.environ.get('SHELL', '')!r}" if not shell else f"got {shell!r}"
    shell = shell or Path(os.environ.get("SHELL", "")).name
    made = get_completion_class(shell) if shell in SHELLS else None
    if made is None:
        raise SpecError(f"--install-completion needs bash, zsh or fish: {asked}")
    try:
        file = _file(shell)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(made(cli, {}, _PROGRAM, _VARIABLE).source() + "\n", encoding="utf-8")
    except (OSError, RuntimeError) as error:  # RuntimeError: a home folder cannot be told
        raise EnvironmentFailure(f"the completion cannot be written: {error}") from None
    after = f"; add fpath=({file.parent} $fpath) before compinit in ~/.zshrc" if shell == "zsh" else ""
    return f"{file} is written{after}; it works in a new {shell}"


def _file(shell: str) -> Path:
    """Where a shell looks by itself (zsh: where its users put such files)."""
    home = Path.home()
    if shell == "zsh":
        return home / ".zfunc" / f"_{_PROGRAM}"
    if shell == "fish":
        base = Path(os.environ.get("XDG_CONFIG_HOME") or home / ".config")
        return base / "fish" / "completions" / f"{_PROGRAM}.fish"
    base = Path(os.environ.get("XDG_DATA_HOME") or home / ".local" / "share")
    return base / "bash-completion" / "completions" / _PROGRAM


def names_of(flag: str) -> Callable[[click.Context, click.Parameter, str], Iterable[str]] | None:
    """What completes the value of a flag: the names that ship; None where it takes no name."""
    if flag not in ("model", "gpu", "host", "system"):
        return None

    def names(context: click.Context, parameter: click.Parameter, begun: str) -> list[str]:  # noqa: ARG001 - click's signature
        from llm_perf.config.loading import known_names
        from llm_perf.systems.registry import system_names

        known = system_names() if flag == "system" else known_names("GPU" if flag == "gpu" else flag)
        both = (
            *known,
            *(name.partition("_")[2] for name in known if flag == "model"),
        )  # the organisation is optional
        return [name for name in both if name and name.lower().startswith(begun.lower())]

    return names
