"""Entry point: finds the subcommand, and turns every error into one line and an exit code."""

from __future__ import annotations

import contextlib
import gc
import importlib
import os
import sys
from collections.abc import Sequence
from types import ModuleType

import click

from llm_perf import __version__, streams
from llm_perf.errors import LLMPerfError

_COMMANDS = {
    "infer": ("llm_perf.cli.infer", "Predict one inference: placement, memory, latency, throughput."),
    "train": ("llm_perf.cli.train", "Predict training: memory, step time, utilisation, days and cost."),
    "simulate": (
        "llm_perf.cli.simulate",
        "Send requests to an engine: how long each waits, whether it keeps up.",
    ),
    "policy": ("llm_perf.cli.policy", "Search the best placement and batching for offloaded inference."),
    "plan": ("llm_perf.cli.plan", "Find the best machines for a model under targets."),
    "scaling": ("llm_perf.cli.scaling", "Show latency and throughput over batch, prompt and GPUs."),
    "report": ("llm_perf.cli.report", "Show results as one HTML page that needs nothing else."),
    "serve": ("llm_perf.cli.serve", "Explore predictions in a browser, on this machine."),
    "sweep": ("llm_perf.cli.sweep", "Predict every combination of the values of every flag."),
    "compare": ("llm_perf.cli.compare", "Lay measured runs beside their predictions, as tables and figures."),
    "validate": ("llm_perf.cli.validate", "Compare predictions with the published runs that ship."),
    "calibrate": ("llm_perf.cli.calibrate", "Measure this machine, run the real thing, fit a profile."),
    "models": ("llm_perf.cli.specs", "List the bundled models, or show one."),
    "gpus": ("llm_perf.cli.specs", "List the bundled accelerators, or show one."),
    "hosts": ("llm_perf.cli.specs", "List the bundled hosts, or show one."),
    "systems": (
        "llm_perf.cli.systems",
        "List systems and their versions, or show what the constants of one rest on.",
    ),
    "profiles": ("llm_perf.cli.profiles", "List calibrated profiles, show one, compare two."),
    "doctor": ("llm_perf.cli.doctor", "Say what is installed here and what each part of llm-perf needs."),
}

_COMPLETING = "_LLM_PERF_COMPLETE"
"""Set by the shell where it asks what may follow; no command runs then."""
EXIT_ENVIRONMENT = 4
EXIT_INTERRUPTED = 130


class _LazyGroup(click.Group):
    """Imports a subcommand only when it runs, so that the others cost no start-up time."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - the signature of click
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002 - the signature of click
        if cmd_name not in _COMMANDS:
            return None
        command: click.Command = getattr(importlib.import_module(_COMMANDS[cmd_name][0]), cmd_name)
        if _COMPLETING not in os.environ:
            return command
        from llm_perf.cli.completion import with_names

        return with_names(command)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Suggest the nearest command where there is none of the name."""
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError as error:
            import difflib

            near = difflib.get_close_matches(args[0], _COMMANDS, n=2)
            hint = f"did you mean {' or '.join(near)}?" if near else f"there are {', '.join(_COMMANDS)}"
            raise click.UsageError(f"{error.message.rstrip('.')}; {hint}", ctx) from None

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002 - the signature of click
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in _COMMANDS.items()])


def _install_completion(context: click.Context, parameter: click.Parameter, shell: str | None) -> None:  # noqa: ARG001 - click's
    if shell is None or context.resilient_parsing:
        return
    from llm_perf.cli.completion import install_completion

    click.echo(install_completion(shell))
    context.exit()


@click.group(cls=_LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="llm-perf")
@click.option(
    "--install-completion",
    is_flag=False,
    flag_value="",
    metavar="[SHELL]",
    is_eager=True,
    expose_value=False,
    callback=_install_completion,
    help="Let TAB complete in bash, zsh or fish, and exit.",
)
def cli() -> None:
    """Predict how long a large language model takes, and how much memory it needs.

    \b
    Try:  llm-perf infer --model opt-175b --gpu t4 --ds-zero 3
    """  # noqa: D301 - click wants the character itself


def _without_plugins() -> None:
    """Let pydantic look for no plugins: the specs need none, and looking reads the metadata of every installed package.

    Where the environment says so, pydantic still loads what reads them, parsers of mail and of archives among it, a thirtieth
    of a prediction's time. A pydantic that asks for plugins elsewhere finds what the environment says.
    """
    os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")
    if os.environ["PYDANTIC_DISABLE_PLUGINS"] == "__all__":
        loader = ModuleType("pydantic.plugin._loader")
        loader.get_plugins = tuple  # type: ignore[attr-defined]
        sys.modules.setdefault(loader.__name__, loader)


_without_plugins()

_COLLECT_AFTER = 500_000
"""New objects between two searches for cycles, where Python's own figure is 700: more than a prediction makes in all."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit with its code (0, 2, 3, 4, 130 or 141)."""
    streams.prepare()
    # Modules and specs stay until the end; looking among them for cycles takes a tenth of a prediction's time.
    gc.set_threshold(_COLLECT_AFTER)
    code = run(arguments)
    streams.end()
    # The process ends: what it holds needs no search for cycles, which would take a fifth of a prediction's time.
    gc.freeze()
    sys.exit(code)


def run(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return its exit code. Errors are one line on stderr, never a traceback."""
    notes: list[str] = []  # of what was taken for what: said beside an answer, since a refusal is one line
    try:
        code = cli.main(args=arguments, prog_name="llm-perf", standalone_mode=False, obj=notes)
        sys.stdout.flush()
        for note in notes:
            click.echo(f"llm-perf: {note}", err=True)
        return code if isinstance(code, int) else 0
    except click.exceptions.Exit as stop:
        return stop.exit_code
    except click.NoSuchOption as error:
        from llm_perf.cli.foreign import instead

        ours = instead(error, sys.argv[1:] if arguments is None else arguments)
        return _fail(error.format_message() if ours is None else f"no such option: {ours}", 2)
    except click.ClickException as error:
        if (
            type(error).__name__ == "NoArgsIsHelpError"
        ):  # from click 8.2 on; before, help is printed by itself
            click.echo(error.format_message(), err=True)
            return 2
        return _fail(_with_flags(error), 2)
    except LLMPerfError as error:
        return _fail(str(error), error.exit_code)
    except (KeyboardInterrupt, click.exceptions.Abort):
        return _fail("interrupted", EXIT_INTERRUPTED)
    except (BrokenPipeError, SystemExit) as ended:  # click makes one of the other
        if isinstance(ended, SystemExit) and not ended.code:
            return 0  # a shell was told what may follow
        # The reader of a pipe went away: nothing is left to say, not even at interpreter exit.
        streams.silence(sys.stdout)
        return streams.EXIT_UNREAD
    except OSError as error:  # a full disk behind stdout, above all
        streams.silence(sys.stdout)
        return _fail(streams.why_not(error), EXIT_ENVIRONMENT)
    except Exception as error:
        if os.environ.get("LLM_PERF_DEBUG"):
            raise
        return _fail(f"internal error, please report it: {type(error).__name__}: {error}", EXIT_ENVIRONMENT)


def _with_flags(error: click.ClickException) -> str:
    """A refusal; of a word that stands alone where a model has a flag, with how inputs are given."""
    message = error.format_message()
    context = error.ctx if isinstance(error, click.UsageError) else None
    models = context is not None and any("--model" in parameter.opts for parameter in context.command.params)
    alone = models and message.startswith("Got unexpected extra argument")
    return f"{message.rstrip('.')}; inputs have flags, as in --model NAME --gpu NAME" if alone else message


def _fail(message: str, code: int) -> int:
    line = " ".join(message.split())
    with contextlib.suppress(OSError):  # nobody reads it: the code says what it can
        click.echo(f"llm-perf: {line}", err=True)
    return code
