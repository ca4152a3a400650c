"""A header that is precompiled once serves all files of an operator, and what is compiled stays the same."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from calibrate.probe.torch_headers import COMPILER, HEADER, precompiled, shared_options, with_headers

pytestmark = pytest.mark.skipif(shutil.which(COMPILER) is None, reason="needs a C++ compiler")
FILE = ("-MMD", "-MF", "a.o.d", "-c", "a.cpp", "-o", "a.o")


@pytest.fixture
def options(tmp_path: Path) -> list[str]:
    """Those of a small library in torch's place, with a header and a file."""
    header = tmp_path / "include" / HEADER
    header.parent.mkdir(parents=True)
    header.write_text("#pragma once\n#include <vector>\ninline int seven() { return PLUS + 6; }\n")
    (tmp_path / "a.cpp").write_text(
        f"#include <vector>\n#include <{HEADER}>\nint main() {{ return seven() - 7; }}\n"
    )
    return ["-DPLUS=1", "-isystem", str(tmp_path / "include"), "-O0"]


def test_what_names_a_file_is_not_shared() -> None:
    assert shared_options(["-DA", *FILE, "-fPIC"]) == ["-DA", "-fPIC"]


def test_files_of_other_options_get_another_header(
    options: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    compiler = str(shutil.which(COMPILER))
    one = with_headers(compiler, tmp_path / "made", [*options, *FILE])
    assert one[4:] == [*options, *FILE]
    assert with_headers(compiler, tmp_path / "made", [*options, *FILE])[:2] == one[:2]
    assert with_headers(compiler, tmp_path / "made", ["-DPLUS=2", *options[1:], *FILE])[:2] != one[:2]


def test_links_and_files_without_torch_are_compiled_as_they_are(options: list[str], tmp_path: Path) -> None:
    compiler = str(shutil.which(COMPILER))
    assert with_headers(compiler, tmp_path, ["a.o", "-shared", "-o", "a.so"]) == [
        "a.o",
        "-shared",
        "-o",
        "a.so",
    ]
    assert with_headers(compiler, tmp_path, [*FILE]) == [*FILE]
    (tmp_path / "b.cpp").write_text("#include <vector>\n")
    plain = [*options, "-c", str(tmp_path / "b.cpp"), "-o", "b.o"]
    assert with_headers(compiler, tmp_path, plain) == plain
    # A header that cannot be compiled: the file says what is wrong, as it would have.
    broken = ["-isystem", options[2], *FILE]
    assert with_headers(compiler, tmp_path, broken) == broken


def test_within_the_block_the_compiler_uses_it_and_ninja_sees_nothing_of_it(
    options: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.chdir(tmp_path)
    before = os.environ["PATH"]
    with precompiled(tmp_path / "kept"):
        subprocess.run([COMPILER, *options, *FILE], check=True)
        (made,) = (tmp_path / "kept").rglob("*.gch")
        assert made.stat().st_size > 0
        said = subprocess.run(
            [COMPILER, "-H", *options, *FILE], check=True, capture_output=True, text=True
        ).stderr
        assert said.startswith("! "), said  # GCC marks a precompiled one so
    assert os.environ["PATH"] == before
    assert list((tmp_path / "kept").iterdir()) == []
    assert (tmp_path / "a.o.d").read_text().split() == ["a.o:", "a.cpp"]
    subprocess.run([COMPILER, "a.o", "-o", "a"], check=True)
    assert subprocess.run([tmp_path / "a"], check=False).returncode == 0


@pytest.mark.skipif(not Path("/proc/self/cmdline").exists(), reason="Linux says what runs")
def test_compilers_end_with_a_block_that_is_interrupted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What calls them may have been killed, as torch kills ninja."""
    monkeypatch.delenv("CXX", raising=False)
    left = []

    def interrupted() -> None:
        with precompiled(tmp_path / "kept"):
            (folder,) = (tmp_path / "kept").iterdir()
            sleep = (sys.executable, "-c", "import time; time.sleep(60)")
            left.extend(subprocess.Popen([*sleep, str(named)]) for named in (folder, tmp_path))
            time.sleep(0.3)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    try:
        assert left[0].wait(10) != 0
        assert left[1].poll() is None
    finally:
        left[1].kill()
        left[1].wait()


def test_a_disk_that_is_full_leaves_compiling_as_it_is(
    options: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(Path, "write_text", _no_room)
    plain = [*options, *FILE]
    assert with_headers(str(shutil.which(COMPILER)), tmp_path / "made", plain) == plain
    monkeypatch.delenv("CXX", raising=False)
    before = os.environ["PATH"]
    with precompiled(tmp_path / "kept"):
        assert os.environ["PATH"] == before


def _no_room(*_: object, **__: object) -> int:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
