"""Make the pictures of the README and the documentation anew, each with the command that is shown beside it.

python bench/pictures.py             all of them (about a minute; extras plot and explore, and Chromium for the page)
python bench/pictures.py plan.png    the named ones
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

IMAGES: Final = ROOT / "docs" / "images"
LARGEST_BYTES: Final = 150_000
"""A reader of the README loads all of them."""


@dataclass(frozen=True)
class Picture:
    """One picture of `docs/images`.

    Attributes:
        file: its name there.
        command: what is shown below it, to be run in the project's folder.
        drawn: the file that the command writes into the folder of ``--plot``; empty where that is the picture itself.
        question: what the page of ``llm-perf serve`` is asked, for a picture of it.
    """

    file: str
    command: str
    drawn: str = ""
    question: str = ""


_COMPARE: Final = (
    "llm-perf compare calibrate/measurements/cpu_loop --profile example-epyc-2-cores --plot figures"
)
PICTURES: Final = (
    Picture(
        "explorer.png",
        "llm-perf serve",
        question="/?model=facebook/opt-175b&gpu=t4-16gb&system=zero_inference",
    ),
    Picture(
        "plan.png",
        'llm-perf plan --model llama-2-70b --target "tpot<50ms, ttft<1s" --objective cost --quant-bits 16,8,4 '
        "--plot plan.png",
    ),
    Picture(
        "simulate.png",
        "llm-perf simulate --model llama-3.1-8b --gpu h100-sxm-80gb --rate 38 --prompt-len lognormal:512:300 "
        "--gen-len uniform:16:240 --plot simulate.png",
    ),
    Picture("traces.png", "llm-perf validate --requests --plot figures", "trace-vllm-0.19-qwen3-32b-tp2.png"),
    Picture("policy.png", "llm-perf policy --model opt-30b --gpu t4 --plot policy.png"),
    Picture(
        "scaling.png",
        "llm-perf scaling --model llama-13b --gpu v100-sxm2-32gb --system fastertransformer --tp-sizes 1,2,4,8 "
        "--prompt-lens 128,512 --plot scaling.png",
    ),
    Picture("breakdown.png", _COMPARE, "breakdown.png"),
    Picture("roofline.png", _COMPARE, "roofline.png"),
    Picture("errors.png", _COMPARE, "errors.png"),
    Picture("validation.png", "llm-perf validate --plot figures", "predicted_measured.png"),
)


def main(names: list[str]) -> int:
    """Make all pictures, or the named ones, and say how large each became."""
    unknown = set(names) - {picture.file for picture in PICTURES}
    if unknown:
        print(f"unknown: {', '.join(sorted(unknown))}", file=sys.stderr)
        return 2
    wanted = [picture for picture in PICTURES if not names or picture.file in names]
    os.chdir(ROOT)
    with tempfile.TemporaryDirectory() as folder:
        made: dict[str, Path] = {}
        for picture in wanted:
            place = made.setdefault(picture.command, Path(folder) / str(len(made)))
            if not place.exists():
                place.mkdir()
                screenshot(picture, place) if picture.question else draw(picture, place)
            target = IMAGES / picture.file
            shrink(place / (picture.drawn or picture.file), target)
            print(f"{target.relative_to(ROOT)}: {target.stat().st_size:,} bytes: {picture.command}")
            if target.stat().st_size > LARGEST_BYTES:
                print(f"more than {LARGEST_BYTES:,} bytes", file=sys.stderr)
                return 1
    return 0


def draw(picture: Picture, folder: Path) -> None:
    """Run a command with its ``--plot`` in a folder.

    Raises:
        SystemExit: the command failed.
    """
    from llm_perf.cli.main import run

    words = shlex.split(picture.command)[1:]
    words[words.index("--plot") + 1] = str(folder if picture.drawn else folder / picture.file)
    said = io.StringIO()
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(said):
        code = run(words)
    if code:
        raise SystemExit(f"{picture.command}: exit code {code}\n{said.getvalue()}")


def screenshot(picture: Picture, folder: Path) -> None:
    """A picture of the page that the command serves, in Chromium.

    Raises:
        SystemExit: there is no Chromium.
    """
    from playwright.sync_api import sync_playwright

    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None:
        raise SystemExit("no chromium on PATH: apt-get install chromium")
    words = shlex.split(picture.command)[1:]
    code = "import sys; from llm_perf.cli.main import main; main(sys.argv[1:])"
    with subprocess.Popen(
        [sys.executable, "-c", code, *words, "--port", "0"], cwd=ROOT, stderr=subprocess.PIPE, text=True
    ) as server:
        try:
            assert server.stderr is not None
            found = re.search(r"http://[^\s/]+", server.stderr.readline())
            if found is None:
                raise SystemExit(f"{picture.command} gave no address")
            with sync_playwright() as playwright:
                browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
                page = browser.new_page(viewport={"width": 1120, "height": 1010}, color_scheme="light")
                page.goto(found[0] + picture.question)
                page.wait_for_selector("#figure-accuracy .main-svg >> nth=0")
                page.screenshot(path=folder / picture.file)
                browser.close()
        finally:
            server.terminate()


def shrink(source: Path, target: Path) -> None:
    """A PNG as one of 256 colours, chosen so that rare ones (a single marker) stay what they are."""
    from PIL import Image

    with Image.open(source) as image:
        few: Any = image.convert("RGB").quantize(
            256, method=Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE
        )
        few.save(target, "PNG", optimize=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
