"""The pictures of the README and the documentation: made by commands that exist, shown with them, and small."""

from __future__ import annotations

import importlib.util
import re
import shlex
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import click
import pytest

from llm_perf.cli.main import cli

ROOT = Path(__file__).parents[2]
IMAGES = ROOT / "docs" / "images"
_SHOWN = re.compile(r"!\[(?P<text>[^\]]*)\]\((?P<target>[^)\s]+)\)")


def _made() -> ModuleType:
    """`bench/pictures.py`, which is a script and no package."""
    spec = importlib.util.spec_from_file_location("pictures", ROOT / "bench" / "pictures.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


MADE = _made()
README = (ROOT / "README.md").read_text("utf-8")
GALLERY = (ROOT / "docs" / "gallery.md").read_text("utf-8")
PAGES = {
    path: path.read_text("utf-8") for path in (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")))
}


def _shown() -> list[tuple[Path, str, Path]]:
    """(page, words for those who do not see it, file) of every picture."""
    return [
        (page, found["text"], (page.parent / found["target"]).resolve())
        for page, text in PAGES.items()
        for found in _SHOWN.finditer(text)
    ]


def test_every_picture_that_is_shown_exists_and_says_what_it_shows() -> None:
    shown = _shown()
    assert shown
    assert not [f"{page.name}: {file.name}" for page, _, file in shown if not file.is_file()]
    assert not [f"{page.name}: {file.name}" for page, text, file in shown if len(text.split()) < 5]


def test_every_picture_is_made_by_the_list_and_shown_somewhere() -> None:
    there = {path.name for path in IMAGES.iterdir()}
    assert there == {picture.file for picture in MADE.PICTURES}
    assert there <= {file.name for _, _, file in _shown()}


@pytest.mark.parametrize("picture", MADE.PICTURES, ids=lambda picture: picture.file)
def test_a_picture_is_small_and_made_by_a_command_that_exists(picture: Any) -> None:
    content = (IMAGES / picture.file).read_bytes()
    assert content.startswith(b"\x89PNG")
    assert len(content) <= MADE.LARGEST_BYTES
    program, name, *words = shlex.split(picture.command)
    assert program == "llm-perf"
    group = click.Context(cli, **cli.context_settings)
    command = cli.get_command(group, name)
    assert command is not None
    with command.make_context(name, list(words), parent=group):
        assert picture.question or "--plot" in words


@pytest.mark.parametrize("picture", MADE.PICTURES, ids=lambda picture: picture.file)
def test_the_gallery_shows_one_of_each_command_with_the_command(picture: Any) -> None:
    assert f"`{picture.command}`" in GALLERY
    of_command = [other.file for other in MADE.PICTURES if other.command == picture.command]
    assert any(f"(images/{file})" in GALLERY for file in of_command)


def test_there_is_a_picture_of_every_command_that_makes_one() -> None:
    context = click.Context(cli)
    commands = {name: cli.get_command(context, name) for name in cli.list_commands(context)}
    drawing = {
        name
        for name, command in commands.items()
        if command is not None and any("--plot" in parameter.opts for parameter in command.params)
    }
    assert drawing | {"serve"} == {picture.command.split()[1] for picture in MADE.PICTURES}


def test_the_words_for_the_published_runs_count_what_is_predicted_today() -> None:
    """Where this fails the picture is of other predictions: `make pictures`."""
    covered = sum(int(found) for found in re.findall(r"^[a-z0-9-]+ +(\d+)/\d+ +\d+%", README, re.MULTILINE))
    said = {text for _, text, file in _shown() if file.name == "validation.png"}
    assert said
    assert all(f"{covered:,} published runs" in text for text in said)


def test_rare_colours_stay(tmp_path: Path) -> None:
    """One marker among thousands of shades keeps its colour."""
    image = pytest.importorskip("PIL.Image").new("RGB", (256, 256))
    image.putdata([(x, y, (x + y) // 2) for y in range(256) for x in range(256)])
    image.paste((213, 94, 0), (10, 10, 13, 13))
    image.save(tmp_path / "before.png")
    MADE.shrink(tmp_path / "before.png", tmp_path / "after.png")
    with pytest.importorskip("PIL.Image").open(tmp_path / "after.png") as after:
        assert len(after.getcolors(1000)) <= 256
        red, green, blue = after.convert("RGB").getpixel((11, 11))
    assert max(abs(red - 213), abs(green - 94), abs(blue)) <= 40
