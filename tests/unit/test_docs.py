"""The documentation builds without a warning, and what it shows exists: links, commands, flags, Python."""

from __future__ import annotations

import html.parser
import itertools
import re
import shlex
from collections import Counter
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import click
import pytest

from llm_perf.cli.calibrate_observe import observe
from llm_perf.cli.main import cli, run

ROOT = Path(__file__).parents[2]
PAGES = sorted((ROOT / "docs").rglob("*.md"))
TEXTS = {path.relative_to(ROOT).as_posix(): path.read_text("utf-8") for path in (*PAGES, ROOT / "README.md")}
TEXTS["CONTRIBUTING.md"] = (ROOT / "CONTRIBUTING.md").read_text("utf-8")

# -- the site -------------------------------------------------------------------------------------------------


class _Page(html.parser.HTMLParser):
    """Identifiers of a page, what it links to, and what a browser loads to show it."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.identifiers: Counter[str] = Counter()
        self.links: list[str] = []
        self.loaded: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        if "id" in given:
            self.identifiers[given["id"]] += 1
        if tag == "a" and "href" in given:
            self.links.append(given["href"])
        if tag in ("script", "img", "iframe", "source") and "src" in given:
            self.loaded.append(given["src"])
        if tag == "link" and given.get("rel") not in ("canonical", "prev", "next"):
            self.loaded.append(given["href"])


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> dict[Path, _Page]:
    """All pages, built as `make docs` does: a warning is an error."""
    from mkdocs.commands.build import build
    from mkdocs.config import load_config

    target = tmp_path_factory.mktemp("site")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        config = load_config(str(ROOT / "mkdocs.yml"), site_dir=str(target), strict=True)
        config.plugins.on_startup(command="build", dirty=False)
        build(config)
        config.plugins.on_shutdown()
    return {path: _Page(path.read_text("utf-8")) for path in target.rglob("*.html")}


def test_every_page_is_built_and_in_the_navigation(site: dict[Path, _Page]) -> None:
    root = min(path.parent for path in site)
    built = {path.relative_to(root).with_suffix("").as_posix() for path in site}
    assert {path.relative_to(ROOT / "docs").with_suffix("").as_posix() for path in PAGES} <= built
    start = site[root / "index.html"]
    reached = {(root / urlsplit(link).path).resolve() for link in start.links if not urlsplit(link).scheme}
    assert {path.resolve() for path in site if path.name != "404.html"} <= reached


def test_links_lead_somewhere(site: dict[Path, _Page]) -> None:
    pages = {path.resolve(): page for path, page in site.items()}
    broken = []
    for path, page in site.items():
        for link in page.links:
            parts = urlsplit(link)
            if parts.scheme in ("http", "https", "mailto") or path.name == "404.html":
                continue
            to = (path.parent / unquote(parts.path)).resolve() if parts.path else path.resolve()
            to = to / "index.html" if to.is_dir() else to
            anchor = unquote(parts.fragment)
            if not to.exists() or (
                anchor
                and anchor not in ("", "__skip")
                and to in pages
                and anchor not in pages[to].identifiers
            ):
                broken.append(f"{path.name}: {link}")
    assert not broken


def test_no_identifier_stands_twice_on_a_page(site: dict[Path, _Page]) -> None:
    twice = {
        path.name: [name for name, n in page.identifiers.items() if n > 1] for path, page in site.items()
    }
    assert not {name: found for name, found in twice.items() if found}


def test_nothing_comes_from_elsewhere_when_a_page_is_viewed(site: dict[Path, _Page]) -> None:
    loaded = {address for page in site.values() for address in page.loaded}
    assert loaded
    assert not [address for address in loaded if urlsplit(address).scheme or address.startswith("//")]
    root = min(path.parent for path in site)
    style = "".join(path.read_text("utf-8") for path in root.rglob("*.css"))
    assert not re.findall(r"(?:url\(|@import)\s*['\"]?(?:https?:)?//[^)]*", style)


def test_pages_take_constants_and_accuracy_from_the_project(site: dict[Path, _Page]) -> None:
    from llm_perf.systems.constants import load_constants
    from llm_perf.systems.registry import system_names

    built = {path.name: path.read_text("utf-8") for path in site if path.parent.name == "systems"}
    for name in system_names():
        page = built["stacks.html" if name == "resident" else f"{name}.html"]
        own = load_constants(name)
        parent = load_constants(own.extends).constants if own.extends else {}
        missing = [
            key
            for key, constant in own.constants.items()
            if parent.get(key) != constant and f"<code>{key}</code>" not in page
        ]
        assert not missing, name
        assert "<!-- " not in page.split("<article")[1].split("</article>")[0], name


@pytest.mark.parametrize(
    "name", sorted(path.stem for path in (ROOT / "docs" / "systems").glob("*.md") if path.stem != "index")
)
def test_a_system_says_where_tensors_live_its_constants_and_its_accuracy(name: str) -> None:
    text = TEXTS[f"docs/systems/{name}.md"]
    headings = re.findall(r"^## (.*)$", text, re.MULTILINE)
    assert {"Where tensors live", "Constants"} <= set(headings)
    assert "Accuracy" in headings or name in ("stacks", "deepspeed_inference")
    assert re.search(r"explain|know|wrong", headings[-1]), "the last section is what the model does not know"


# -- what is shown --------------------------------------------------------------------------------------------

_FENCE = re.compile(r"^```(?P<kind>\w*)\n(?P<text>.*?)^```", re.MULTILINE | re.DOTALL)
_INDENTED = re.compile(r"(?:^(?: {4}|\t).*\n)+", re.MULTILINE)
_INLINE = re.compile(r"`([^`\n]+)`")
_FLAG = re.compile(r"(?<![\w-])--[a-z][a-z0-9-]*")

FLEXGEN_FLAGS = {"--cpu", "--pin-weight", "--num-inner-iterations", "--cut-gen-len"}
"""Flags of FlexGen's own command line, which its page compares with ours."""

SGLANG_FLAGS = {
    "--dataset-name", "--random-input-len", "--random-output-len", "--random-range-ratio", "--disable-cuda-graph",
}  # fmt: skip
"""Flags of SGLang's benchmark and server, which are said in ours."""


def _blocks(text: str, *kinds: str) -> list[str]:
    found = [match["text"] for match in _FENCE.finditer(text) if match["kind"] in kinds]
    if "" in kinds:
        found += [match[0] for match in _INDENTED.finditer(_FENCE.sub("", text))]
    return found


def _command_lines() -> list[tuple[str, str]]:
    """Every call of llm-perf in a block: continued lines joined, comments dropped."""
    lines = []
    for name, text in TEXTS.items():
        for kind in ("", "console", "text", "bash", "sh"):
            prompt = "$ " if kind == "console" else ""  # what follows there is output
            for line in "".join(_blocks(text, kind)).replace("\\\n", " ").splitlines():
                if not line.strip().startswith(prompt):
                    continue
                call = line.strip().removeprefix("$ ")
                if call.startswith("llm-perf ") and "…" not in call:
                    lines.append((name, " ".join(call.split())))
    return lines


@cache
def _all_flags() -> frozenset[str]:
    """Flags of all commands, and of the programs beside them."""
    found = {"--help", "--version"}

    def collect(command: click.Command) -> None:
        for parameter in command.params:
            found.update(
                flag for flag in (*parameter.opts, *parameter.secondary_opts) if flag.startswith("--")
            )
        if isinstance(command, click.Group):
            names = command.list_commands(click.Context(command))
            for name in names:
                sub = command.get_command(click.Context(command), name)
                assert sub is not None
                collect(sub)
        for sub in getattr(command, "words", {}).values():
            collect(sub)

    collect(cli)
    collect(observe)
    for source in ("calibrate/gpu_session.py", "calibrate/run/worker.py"):
        found.update(re.findall(r"\"(--[a-z-]+)\"", (ROOT / source).read_text("utf-8")))
    return frozenset(found)


def _resolved(words: list[str]) -> tuple[click.Command, list[str]]:
    command: click.Command = cli
    while isinstance(command, click.Group) and words and not words[0].startswith("-"):
        sub = command.get_command(click.Context(command), words[0])
        assert sub is not None, f"no command {words[0]}"
        command, words = sub, words[1:]
    if words and words[0] in getattr(command, "words", {}):
        command, words = command.words[words[0]], words[1:]
    return command, words


@pytest.mark.parametrize(("page", "line"), sorted(set(_command_lines())))
def test_commands_parse(page: str, line: str) -> None:
    """Every command that is shown exists, with each of its flags, and its values have the right type."""
    words = itertools.takewhile(
        lambda word: word not in ("|", ">", ">>", "&&"), shlex.split(line, comments=True)
    )
    command, words = _resolved(list(words)[1:])
    if words == ["--help"]:
        return
    # Click keeps the help flags that a command was first parsed with: those of the group, as on the command line.
    group = click.Context(cli, **cli.context_settings)
    with command.make_context("llm-perf", list(words), parent=group) as context:
        # A command's first word may be one with options of its own: calibrate observe.
        assert context.command is command or context.command.name in words


def test_commands_are_found() -> None:
    assert len(_command_lines()) > 20


def test_flags_in_the_text_exist() -> None:
    unknown = []
    for name, text in TEXTS.items():
        if name.endswith("llm_analysis_departures.md"):
            continue
        for code in _INLINE.findall(_FENCE.sub("", text)):
            program = code.split()[0]
            if program in ("pip", "python", "deepspeed", "torchrun", "make", "apt-get"):
                continue
            unknown += [
                f"{name}: {flag}"
                for flag in _FLAG.findall(code)
                if flag not in _all_flags() | FLEXGEN_FLAGS | SGLANG_FLAGS
            ]
    assert not unknown


def _python_blocks() -> list[Any]:
    found = []
    for name, text in TEXTS.items():
        for number, block in enumerate(_blocks(text, "python"), 1):
            found.append(pytest.param(block, id=f"{name}-{number}"))
    return found


NEEDS_FILES = ("bench.json",)
"""What a block reads that only a measured machine has: such a block is imported, not run."""


@pytest.mark.parametrize("block", _python_blocks())
def test_python_runs(block: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    if any(name in block for name in NEEDS_FILES):
        block = "\n".join(line for line in block.splitlines() if line.startswith(("import ", "from ")))
        assert block
    exec(compile(block, "a page", "exec"), {})


_ELLIPSIS = "…"


def _shown_outputs() -> list[Any]:
    """(command, what is shown below it) of every console block with output; the README has a test of its own."""
    found = []
    for name, text in TEXTS.items():
        if name == "README.md":
            continue
        for block in _blocks(text, "console"):
            command, _, output = block.partition("\n")
            while command.endswith("\\"):  # the command goes on; in the output a backslash is what is printed
                more, _, output = output.partition("\n")
                command = command[:-1] + more
            if command.startswith("$ llm-perf ") and output and not output.startswith("$ "):
                found.append(pytest.param(command[len("$ llm-perf ") :], output, id=f"{name}-{command}"))
    return found


SHOWN = _shown_outputs()


def test_output_stands_in_blocks_that_are_run() -> None:
    """A block of another kind would show output that nothing compares; real runs are compared with nothing."""
    others = [
        (name, block.splitlines()[0])
        for name, text in TEXTS.items()
        for match in _FENCE.finditer(text)
        if match["kind"] != "console" and (block := match["text"]).startswith("$ ")
    ]
    assert [command for _, command in others if "calibrate --run" not in command] == []


@pytest.mark.parametrize(("command", "shown"), SHOWN)
def test_pages_show_what_is_printed(
    command: str, shown: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A line of one ellipsis first or last says that more is printed there."""
    monkeypatch.chdir(ROOT)
    run(shlex.split(command))
    printed = [line.rstrip() for line in capsys.readouterr().out.rstrip().splitlines()]
    wanted = [line.rstrip() for line in shown.rstrip().splitlines()]
    before, after = wanted[0] == _ELLIPSIS, wanted[-1] == _ELLIPSIS
    wanted = wanted[before : len(wanted) - after]
    starts = range(len(printed)) if before else (0,)
    ends = [at + len(wanted) for at in starts if printed[at : at + len(wanted)] == wanted]
    assert ends
    assert before or after or ends == [len(printed)]


def test_the_walk_through_the_code_names_what_there_is() -> None:
    """Each line of docs/walk.md is a file and something that it defines; the file that is named first is run first."""
    steps = re.findall(r"^\| (\d+) \| `([\w/.]+)` \| `(\w+)` \|", TEXTS["docs/walk.md"], re.MULTILINE)
    assert [int(number) for number, _, _ in steps] == list(range(1, len(steps) + 1))
    assert len(steps) > 15
    for _, file, name in steps:
        assert re.search(rf"^(?:def|class) {name}\b", (ROOT / file).read_text("utf-8"), re.MULTILINE), (
            file,
            name,
        )
