"""llama.cpp's own programs: where they are kept, and building them once from its source package.

``python -m calibrate.run.llama_cpp.build`` builds them and says how long it took; ``make llama-cpp`` calls it.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from calibrate.probe.environment import usable_cores
from calibrate.probe.own_process import exit_code_of
from calibrate.probe.process import signals_interrupt
from llm_perf import streams
from llm_perf.errors import EnvironmentFailure

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

VERSION = "0.3.36"
"""Of llama-cpp-python, whose source package holds all of llama.cpp; constraints.txt has the same."""
PROGRAMS = ("llama-bench", "llama-quantize", "llama-server")
DIRECTORY_VARIABLE = "LLM_PERF_LLAMA_CPP"
"""Names a folder with programs of one's own, which are used as they are."""
USUAL_SECONDS = 400
"""What a first build takes on two cores."""

_OPTIONS = (
    "-DCMAKE_BUILD_TYPE=Release", "-DBUILD_SHARED_LIBS=OFF", "-DGGML_NATIVE=ON", "-DGGML_CCACHE=OFF",
    "-DLLAMA_BUILD_TESTS=OFF", "-DLLAMA_BUILD_EXAMPLES=OFF", "-DLLAMA_BUILD_SERVER=ON", "-DLLAMA_BUILD_APP=OFF",
    "-DLLAMA_OPENSSL=OFF", f"-DLLAMA_BUILD_COMMIT=llama-cpp-python-{VERSION}",
)  # fmt: skip
"""The CPU backend alone, for the very processor it is built on."""
_NO_MATRIX_TILES = "-mno-amx-tile -mno-amx-int8 -mno-amx-bf16"
"""For processors with AMX: ggml's kernels of it end with a segmentation fault in prompts of quantised weights where GCC 12
compiled them (two tokens and more, llama.cpp of this version)."""
_TOGETHER = {"tools/mtmd": ("mtmd", "models"), "common": ("llama-common", "parsers")}
"""CMake's targets, and the folder of each whose small files are compiled sixteen at once: their headers are most of them.

llama.cpp does so with its own models (src/CMakeLists.txt). These read pictures and sound, and the answers of chats; what
computes is compiled file by file as ever.
"""
_JOINED = """
get_target_property(sources {target} SOURCES)
list(FILTER sources EXCLUDE REGEX "(^|/){folder}/[^/]+$")
set_source_files_properties(${{sources}} PROPERTIES SKIP_UNITY_BUILD_INCLUSION ON)
set_target_properties({target} PROPERTIES UNITY_BUILD ON UNITY_BUILD_BATCH_SIZE 16)
"""
_SOURCES = re.compile(r"[^/]+/(vendor/llama\.cpp/.+)")
_STAMP = "build.json"
_TO_END_S = 20.0
"""What an interrupted program has to end what it started."""


@dataclass(frozen=True, slots=True)
class LlamaCpp:
    """Programs that are there, and what is known of how they were made (empty for one's own)."""

    folder: Path
    facts: dict[str, Any]

    @property
    def bench(self) -> Path:
        """llama-bench."""
        return self.folder / PROGRAMS[0]

    @property
    def quantize(self) -> Path:
        """llama-quantize."""
        return self.folder / PROGRAMS[1]

    @property
    def server(self) -> Path:
        """llama-server."""
        return self.folder / PROGRAMS[2]


def build_dir() -> Path:
    """Folder of the programs: LLM_PERF_LLAMA_CPP, else one per version, options and processor under ~/.cache."""
    given = os.environ.get(DIRECTORY_VARIABLE)
    if given:
        return Path(given).expanduser()
    # Built for this processor's instructions: on another one they would end with an illegal instruction.
    facts = " ".join((*_options(), _cpu_facts()))
    key = hashlib.blake2b(facts.encode(), digest_size=4).hexdigest()
    return Path("~/.cache/llm-perf/llama_cpp").expanduser() / f"{VERSION}-{key}"


def _options() -> tuple[str, ...]:
    """What CMake is given on this processor."""
    if " amx_tile" not in _cpu_facts():
        return _OPTIONS
    return *_OPTIONS, *(f"-DCMAKE_{language}_FLAGS={_NO_MATRIX_TILES}" for language in ("C", "CXX"))


def _cpu_facts() -> str:
    """What the system says of the processor's instructions."""
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    import platform

    kept = [line for line in lines if line.startswith(("model name", "flags", "Features"))]
    return " ".join((platform.machine(), *dict.fromkeys(kept)))


def built(programs: Sequence[str] = PROGRAMS) -> LlamaCpp | None:
    """The programs, if they are there."""
    folder = build_dir()
    if not all(os.access(folder / name, os.X_OK) for name in programs):
        return None
    try:
        facts = json.loads((folder / _STAMP).read_text("utf-8"))
    except (OSError, ValueError):
        facts = {}
    return LlamaCpp(folder, facts if isinstance(facts, dict) else {})


def required(programs: Sequence[str] = PROGRAMS[:2]) -> LlamaCpp:
    """The programs; those that run a benchmark, unless a server is asked for too.

    Raises:
        EnvironmentFailure: they are not built; the message says how they are.
    """
    found = built(programs)
    if found is not None:
        return found
    given = os.environ.get(DIRECTORY_VARIABLE)
    if given:
        raise EnvironmentFailure(f"{DIRECTORY_VARIABLE}={given}: has no {' and '.join(programs)}")
    raise EnvironmentFailure(
        "llama.cpp is not built yet: make llama-cpp, or python -m calibrate.run.llama_cpp.build "
        f"(minutes, once), or {DIRECTORY_VARIABLE}=FOLDER with a {' and '.join(programs)} of your own"
    )


def build(say: Callable[[str], object]) -> LlamaCpp:
    """Download, compile and keep the programs.

    Args:
        say: Is told what goes on.

    Raises:
        EnvironmentFailure: the package, a compiler, cmake or ninja cannot be had, or compiling failed.
    """
    target = build_dir()
    with _alone(target):
        # Another process may have built them in the meantime.
        return built() or _build(target, say)


@contextmanager
def _alone(target: Path) -> Iterator[None]:
    """Wait for whoever builds into the same folder on this machine."""
    if fcntl is None:
        yield
        return
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        lock = target.with_name(f"{target.name}.lock").open("w")
    except OSError as error:
        raise EnvironmentFailure(f"{target}: cannot be written: {error.strerror or error}") from None
    with lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _build(target: Path, say: Callable[[str], object]) -> LlamaCpp:
    start = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="llm-perf-llama-cpp-") as name:
        work = Path(name)
        tools = _tools(work)
        say(f"downloading llama-cpp-python {VERSION} (77 MB)")
        source = _source(work)
        say(f"compiling {', '.join(PROGRAMS)} with {usable_cores()} jobs")
        programs = _compiled(source, work / "build", tools)
        seconds = time.perf_counter() - start
        facts = {
            "package": f"llama-cpp-python {VERSION}", "llama_cpp": _llama_version(source), "options": list(_options()),
            "compiler": _first_line([os.environ.get("CC", "cc"), "--version"]), "seconds": round(seconds, 1),
            "built": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        }  # fmt: skip
        _keep(programs, target, facts)
    return LlamaCpp(target, facts)


def _keep(programs: Path, target: Path, facts: dict[str, Any]) -> None:
    """Copy the programs into the cache, the stamp last: an interrupted copy is not taken for a build."""
    try:
        target.mkdir(parents=True, exist_ok=True)
        for program in PROGRAMS:
            part = target / f"{program}.{os.getpid()}.part"
            shutil.copy2(programs / program, part)
            part.replace(target / program)
        (target / _STAMP).write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
    except OSError as error:
        raise EnvironmentFailure(f"{target}: cannot be written: {error.strerror or error}") from None


def _source(work: Path) -> Path:
    """llama.cpp's sources out of the package.

    Raises:
        EnvironmentFailure: pip cannot download it, or it is laid out otherwise.
    """
    folder = work / "package"
    _checked(
        [sys.executable, "-m", "pip", "download", "-q", "--disable-pip-version-check", "--no-deps",
         "--no-binary", "llama-cpp-python", "-d", str(folder), f"llama-cpp-python=={VERSION}"],
        f"llama-cpp-python {VERSION} could not be downloaded",
    )  # fmt: skip
    archives = list(folder.glob("*.tar.gz"))
    if len(archives) != 1:
        raise EnvironmentFailure(f"llama-cpp-python {VERSION}: pip left no source package")
    source = unpacked(archives[0], work / "source")
    archives[0].unlink()
    return source


def unpacked(archive: Path, folder: Path) -> Path:
    """llama.cpp's part of a source package, unpacked; its folder.

    Raises:
        EnvironmentFailure: it has none, or is no archive.
    """
    try:
        with tarfile.open(archive) as package:
            for member in package:
                found = _SOURCES.fullmatch(member.name)
                parts = Path(member.name).parts
                if found is None or ".." in parts or not (member.isfile() or member.isdir()):
                    continue
                member.name = found[1]
                package.extract(member, folder, set_attrs=False)
    except (OSError, tarfile.TarError) as error:
        raise EnvironmentFailure(f"{archive.name}: cannot be unpacked: {error}") from None
    source = folder / "vendor" / "llama.cpp"
    if not (source / "CMakeLists.txt").is_file():
        raise EnvironmentFailure(f"{archive.name}: holds no vendor/llama.cpp")
    return source


def _tools(work: Path) -> dict[str, str]:
    """Paths of cmake and ninja: the system's, else those of their packages.

    Raises:
        EnvironmentFailure: a C++ compiler is missing, or the packages cannot be installed.
    """
    if not any(shutil.which(name) for name in (os.environ.get("CXX", "c++"), "g++", "clang++")):
        raise EnvironmentFailure(
            "compiling llama.cpp needs a C++ compiler (Debian and Ubuntu: apt-get install g++)"
        )
    found = {name: shutil.which(name) for name in ("cmake", "ninja")}
    missing = [name for name, path in found.items() if path is None]
    if missing:
        folder = work / "tools"
        _checked(
            [sys.executable, "-m", "pip", "install", "-q", "--disable-pip-version-check", "--no-deps",
             "--target", str(folder), *missing],
            f"{' and '.join(missing)} could not be installed",
        )  # fmt: skip
        for name in missing:
            programs = [path for path in folder.rglob(name) if path.is_file() and path.parent.name == "bin"]
            # The longest path is the program itself (cmake/data/bin/cmake), others are scripts that start it.
            found[name] = str(max(programs, key=lambda path: len(path.parts), default=name))
    return {name: str(path) for name, path in found.items()}


def _compiled(source: Path, folder: Path, tools: dict[str, str]) -> Path:
    _compile_together(source)
    configure = [
        tools["cmake"], "-S", str(source), "-B", str(folder), "-G", "Ninja", f"-DCMAKE_MAKE_PROGRAM={tools['ninja']}",
        *_options(),
    ]  # fmt: skip
    _checked(configure, "llama.cpp could not be configured")
    _checked(
        [tools["ninja"], "-C", str(folder), f"-j{usable_cores()}", *PROGRAMS],
        "llama.cpp could not be compiled",
    )
    return folder / "bin"


def _compile_together(source: Path) -> None:
    """Have CMake join files that need not be compiled one by one; a part that is not there is left out."""
    for part, (target, folder) in _TOGETHER.items():
        lists = source / part / "CMakeLists.txt"
        if lists.is_file():
            with lists.open("a", encoding="utf-8") as file:
                file.write(_JOINED.format(target=target, folder=folder))


def _llama_version(source: Path) -> str | None:
    """llama.cpp's own version, out of its CMakeLists.txt."""
    text = (source / "CMakeLists.txt").read_text("utf-8", errors="replace")
    parts = re.findall(r"set\(LLAMA_VERSION_(?:MAJOR|MINOR|PATCH) (\d+)\)", text)
    return ".".join(parts) if len(parts) == 3 else None


def _checked(command: list[str], failed: str) -> None:
    """Run a program to its end.

    Raises:
        EnvironmentFailure: it cannot be started or fails; the message ends with the line that says why.
    """
    try:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    except OSError as error:
        raise EnvironmentFailure(f"{failed}: {command[0]}: {error.strerror or error}") from None
    try:
        said, _ = process.communicate()
    except BaseException:
        _end(process)
        raise
    if process.returncode:
        raise EnvironmentFailure(f"{failed}: {_why(said)}")


def _end(process: subprocess.Popen[str]) -> None:
    """End a program as it wants to be ended: ninja and pip end their own with them, which a killed one leaves behind."""
    process.send_signal(signal.SIGINT)
    try:
        process.communicate(timeout=_TO_END_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()


def _why(text: str) -> str:
    """The first line that names an error, else the last one."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return next((line for line in lines if "error" in line.lower()), lines[-1] if lines else "no message")[
        :300
    ]


def _first_line(command: list[str]) -> str | None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return next(iter(done.stdout.splitlines()), None)


def main() -> int:
    """Build and report on stderr."""
    streams.prepare()
    # A shell starts what it runs in the background (make test) with interrupts ignored: Ctrl-C ends this one too.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    found = built()
    if found is not None:
        sys.stderr.write(f"llama.cpp is built already ({found.folder})\n")
        return 0
    sys.stderr.write(
        f"Building llama.cpp's {', '.join(PROGRAMS)}, once: about {USUAL_SECONDS} seconds on two cores.\n"
    )

    def work() -> None:
        with signals_interrupt():
            made = build(lambda text: sys.stderr.write(f"{text}\n"))
        sys.stderr.write(f"Built in {made.facts['seconds']:.0f} seconds: {made.folder}\n")

    return exit_code_of(work)


if __name__ == "__main__":
    sys.exit(main())
