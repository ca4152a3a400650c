"""``llm-perf --install-completion``: what the shell completes behind TAB, written where that shell looks for it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import click

from llm_perf.errors import EnvironmentFailure, SpecError

SHELLS: Final = ("bash", "zsh", "fish")

_PROGRAM: Final = "llm-perf"
_VARIABLE: Final = "_LLM_PERF_COMPLETE"
"""Set by the shell's script when it asks what may follow; click answers, and the command does not run."""

_WHOLE_NAMES: Final = "COMP_WORDBREAKS=${COMP_WORDBREAKS//@/}  # NAME@VERSION is one word\n"
"""bash takes @ for the end of a word, and would complete what stands behind it as a word of its own."""


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
        script = made(cli, {}, _PROGRAM, _VARIABLE).source() + "\n"
        file.write_text(script + (_WHOLE_NAMES if shell == "bash" else ""), encoding="utf-8")
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


def with_names(command: click.Command) -> click.Command:
    """A command whose flags that take a name of something that ships complete it; groups with the names that they show.

    Flags whose field is one of a few words offer these by themselves (`llm_perf.cli.options`).
    """
    if isinstance(command, click.Group):
        kind = _KINDS.get(f"--{(command.name or '').removesuffix('s')}")
        show = command.commands.get("show")
        if kind is not None and show is not None:
            _complete(show.params[0], kind)
        return command
    for parameter in command.params:
        kind = next((_KINDS[flag] for flag in parameter.opts if flag in _KINDS), None)
        if kind is not None:
            _complete(parameter, kind)
    return command


_KINDS: Final = {
    "--model": "model", "--draft-model": "model", "--gpu": "GPU", "--gpus": "GPU", "--host": "host", "--system": "system",
    "--framework": "framework", "--weight-format": "format", "--kv-format": "cache format",
    "--activation-recomputation": "level",
}  # fmt: skip


def _complete(parameter: click.Parameter, kind: str) -> None:
    """Complete the value of a parameter, behind commas too."""
    from click.shell_completion import CompletionItem

    def items(context: click.Context, begun: str) -> list[CompletionItem]:  # noqa: ARG001 - click's signature
        before, comma, last = begun.rpartition(",")
        return [CompletionItem(f"{before}{comma}{name}") for name in names_of(kind, last)]

    setattr(parameter, "shell_complete", items)  # noqa: B010 - click has no other way to change it


def names_of(kind: str, begun: str) -> list[str]:
    """Names of a kind that begin so."""
    known = _known(kind, begun)
    both = (
        *known,
        *(name.partition("_")[2] for name in known if kind == "model"),
    )  # the organisation is optional
    return [name for name in both if name and name.lower().startswith(begun.lower())]


def _known(kind: str, begun: str) -> Sequence[str]:
    """Every name of a kind; of a system behind ``NAME@`` its versions."""
    if "format" in kind:
        from llm_perf.config.formats import KV_FORMATS, WEIGHT_FORMATS

        return ["auto", *(WEIGHT_FORMATS if kind == "format" else KV_FORMATS)]
    if kind == "level":
        from llm_perf.analysis.training_request import SELECTIVE
        from llm_perf.config.parallelism import ActivationRecomputation

        return [*(level.name.lower() for level in ActivationRecomputation), SELECTIVE]
    if kind == "framework":
        from llm_perf.systems.training.framework import FRAMEWORKS

        return sorted(FRAMEWORKS)
    if kind == "system":
        from llm_perf.systems.families import folder_of
        from llm_perf.systems.registry import system_names

        names = system_names()
        family = begun.partition("@")[0].lower()
        if "@" in begun and family in names:
            return [f"{family}@{release}" for release in reversed(folder_of(family).all_releases)]
        return names
    from llm_perf.config.loading import known_names

    return known_names(kind)
