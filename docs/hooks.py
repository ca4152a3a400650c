"""What the documentation takes from the project when it is built, so that no page repeats what could go stale.

A page asks for it with a comment on a line of its own, invisible where Markdown is shown as it is:

- ``<!-- constants: NAME -->``: the constants of a system, ``vllm`` or ``vllm@0.2`` (or ``training/NAME``), with range and
  source, from its YAML;
- ``<!-- accuracy: NAME -->``: how the system's published runs are predicted, from `calibrate/measurements/predictions.csv`;
- ``<!-- systems -->``: all systems, ``<!-- commands -->``: all commands with their flags, from the command line itself.

The contributor's guide and the changelog become pages; links to other files outside ``docs/`` become their names.
"""

from __future__ import annotations

import csv
import inspect
import math
import posixpath
import re
import statistics
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import click
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[1]
PAGES = {"CONTRIBUTING.md": "contributing.md", "CHANGELOG.md": "changelog.md", "README.md": "index.md"}
"""Files beside ``docs/`` and the page that a link to them leads to."""

_MARKER = re.compile(
    r"^<!-- (?P<kind>constants|accuracy|systems|commands)(?:: (?P<name>[\w/@.-]+))? -->$", re.MULTILINE
)
_LINK = re.compile(r"\[(?P<text>[^\]]+)\]\((?P<target>[^)\s#:]+)(?P<anchor>#[^)\s]*)?\)")
_ROLE = re.compile(r":(?:mod|class|func|meth|attr|data):(<code>)")


def on_files(files: Files, config: Any) -> Files:
    """Add the files beside ``docs/`` that are pages."""
    for name in ("CONTRIBUTING.md", "CHANGELOG.md"):
        files.append(File.generated(config, PAGES[name], content=(ROOT / name).read_text("utf-8")))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:  # noqa: ARG001 - mkdocs' names
    """Fill in what the page asks for, and lead its links to pages."""
    source = page.file.src_uri
    folder = (
        ""
        if source in ("contributing.md", "changelog.md")
        else posixpath.join("docs", posixpath.dirname(source))
    )
    markdown = _LINK.sub(lambda match: _link(match, folder, posixpath.dirname(source)), markdown)
    return _MARKER.sub(_filled, markdown)


def on_page_content(html: str, page: Any, config: Any, files: Files) -> str:  # noqa: ARG001 - mkdocs' names
    """Drop Sphinx' roles, which docstrings use and Markdown does not know."""
    return _ROLE.sub(r"\1", html)


def on_post_build(config: Any) -> None:
    """Lay the search index beside itself as a script: from the disk, browsers load scripts but no data."""
    folder = Path(config.site_dir) / "search"
    index = (folder / "search_index.json").read_text("utf-8")
    (folder / "search_index.js").write_text(f"var __index = {index}", "utf-8")


def _link(match: re.Match[str], folder: str, page_folder: str) -> str:
    """A link as the site needs it. ``folder`` is where the Markdown lies in the project."""
    target = posixpath.normpath(posixpath.join(folder, match["target"]))
    if not (ROOT / target).exists():
        return match[0]
    if target in PAGES:
        to = PAGES[target]
    elif target.startswith("docs/"):
        to = target.removeprefix("docs/")
    else:
        text = match["text"].strip("`")
        return f"`{text}`" if "/" in text or "." in text else f"{text} (`{target}`)"
    return f"[{match['text']}]({posixpath.relpath(to, page_folder or '.')}{match['anchor'] or ''})"


def _filled(match: re.Match[str]) -> str:
    make = {"constants": constants, "accuracy": accuracy, "systems": systems, "commands": commands}[
        match["kind"]
    ]
    return make(match["name"]) if match["name"] else make()


# -- tables ---------------------------------------------------------------------------------------------------


def _table(head: Iterable[str], align: str, rows: Iterable[Iterable[str]]) -> str:
    lines = [" | ".join(head), " | ".join("--:" if a == "r" else "---" for a in align)]
    lines += [" | ".join(cell.replace("|", "\\|") for cell in row) for row in rows]
    return "\n".join(f"| {line} |" for line in lines)


def constants(name: str) -> str:
    """The constants that a system's own file sets."""
    from llm_perf.errors import SpecError
    from llm_perf.systems.constants import ConstantsFile, own_constants
    from llm_perf.systems.families import find, release_of
    from llm_perf.systems.training.framework import own_framework

    try:
        if name.startswith("training/"):
            own: ConstantsFile = own_framework(name.removeprefix("training/"))
        else:
            family, version = find(name)
            own = own_constants(family, release_of(family, version)[0])
    except SpecError as error:
        raise PluginError(f"docs ask for the constants of {name}: {error}") from None
    rows = [
        (
            f"`{key}`",
            f"{c.value:g}",
            "" if c.range is None else f"{c.range[0]:g} to {c.range[1]:g}",
            _escaped(c.source),
        )
        for key, c in own.constants.items()
    ]
    found = f"Version: {own.version}. {own.description}\n\n"
    if rows:
        found += _table(("constant", "value", "plausible range", "source"), "lrll", rows)
    if own.extends is not None:
        found += f"\n\nEverything else as in `{own.extends}`."
    if own.caveat is not None:
        found += f"\n\nThe report says: {own.caveat}"
    return found


def _escaped(text: str) -> str:
    return re.sub(r"([*_<>])", r"\\\1", text)


def accuracy(name: str) -> str:
    """How a system's published runs are predicted, by class."""
    groups: dict[str, list[dict[str, str]]] = {}
    for row in _predictions():
        if row["system"] == name:
            groups.setdefault(row["class"] or "in no accuracy class", []).append(row)
    if not groups:
        raise PluginError(f"docs ask for the accuracy of {name}, and no published run of it ships")
    if len(groups) > 1:
        groups["all"] = [row for rows in groups.values() for row in rows]
    return _table(
        ("runs", "number", "predicted", "median error", "within 10 %", "bias", "gm"),
        "lrrrrrr",
        [(label, *_statistics(rows)) for label, rows in groups.items()],
    )


def _statistics(rows: list[dict[str, str]]) -> tuple[str, ...]:
    ratios = [float(row["predicted"]) / float(row["measured"]) for row in rows if row["predicted"]]
    if not ratios:
        return (str(len(rows)), "0", "-", "-", "-", "-")
    errors = [abs(ratio - 1) for ratio in ratios]
    within = sum(error <= 0.1 for error in errors) / len(errors)
    gm = math.exp(statistics.fmean(abs(math.log(ratio)) for ratio in ratios))
    return (
        str(len(rows)),
        str(len(ratios)),
        f"{100 * statistics.median(errors):.1f} %",
        f"{100 * within:.0f} %",
        f"{100 * (statistics.median(ratios) - 1):+.0f} %",
        f"{gm:.2f}",
    )


def _predictions() -> Iterable[dict[str, str]]:
    from calibrate.evidence.published import load_measurements

    systems_of = {("inference", run.row_id): run.system for run in load_measurements()}
    with (ROOT / "calibrate" / "measurements" / "predictions.csv").open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            yield row | {"system": systems_of.get((row["table"], int(row["row_id"])), "training")}


def systems() -> str:
    """All systems, how many published runs each has, and how well they are predicted."""
    from llm_perf.systems.constants import load_constants
    from llm_perf.systems.registry import stack_names, system_names

    measured: dict[str, list[dict[str, str]]] = {}
    for row in _predictions():
        measured.setdefault(row["system"], []).append(row)
    rows = []
    for name in system_names():
        page = "stacks" if name == "resident" else name
        found = _statistics(measured[name]) if name in measured else ("0", "", "", "", "", "")
        kind = "stack" if name in stack_names() else "module"
        rows.append(
            (f"[`{name}`]({page}.md)", kind, load_constants(name).version, found[0], found[2], found[5])
        )
    return _table(("`--system`", "kind", "version", "published runs", "median error", "gm"), "lllrrr", rows)


# -- commands -------------------------------------------------------------------------------------------------


def commands() -> str:
    """Every command with its arguments and flags, as ``--help`` has them."""
    from llm_perf.cli.main import cli

    context = click.Context(cli, info_name="llm-perf", **cli.context_settings)
    return "\n\n".join(
        _command(("llm-perf", name), cli.get_command(context, name), context)
        for name in cli.list_commands(context)
    )


def _command(path: tuple[str, ...], command: Any, group: click.Context) -> str:
    # The group's context has its help flags: a command keeps those that it was first asked with.
    context = click.Context(command, info_name=" ".join(path), parent=group)
    usage = " ".join(command.collect_usage_pieces(context))
    parts = [f"{'#' * len(path)} `{' '.join(path)}`", f"```text\n{' '.join(path)} {usage}\n```"]
    parts.append(_escaped(inspect.cleandoc((command.help or "").replace("\b", ""))))
    records = [parameter.get_help_record(context) for parameter in command.get_params(context)]
    rows = [(f"`{record[0]}`", _escaped(record[1])) for record in records if record is not None]
    if rows:
        parts.append(_table(("flag", "meaning"), "ll", rows))
    # A command whose first word may be one with options of its own has them beside its own: calibrate observe.
    below = command.commands if isinstance(command, click.Group) else getattr(command, "words", {})
    parts += [_command((*path, name), sub, context) for name, sub in below.items()]
    return "\n\n".join(parts)
