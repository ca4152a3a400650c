"""Install what is shipped as people do, and ask it the same question everywhere: `make packaging`.

The wheel of the source archive is the checkout's; it is installed for every Python of `PYTHONS` that is found, with the
newest dependencies, with the oldest that are allowed, and beside a peer's pins. There it runs read-only, as another user,
without a home, without a network, without assertions, in the C locale, and says which extra is missing where one is. A
table says what held, what failed (then it exits with 1), and what could not be tried here.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

ROOT = Path(__file__).resolve().parents[1]

PYTHONS: Final = ("3.10", "3.11", "3.12", "3.13", "3.14")
PACKAGES: Final = ("llm_perf", "calibrate", "hardware_specs", "model_specs")
OLDEST: Final = ("numpy==1.26.*", "pyyaml==6.0.*", "pydantic==2.10.*", "click==8.1.*", "rich==13.0.*")
"""The oldest dependencies that pyproject.toml allows, as far as there are wheels of them; on the oldest Python."""
PEERS: Final = {"llm-analysis": ("llm-analysis==0.2.2",)}
"""What is installed beside it, with the versions that it pins."""

ASKED: Final = ("infer", "--model", "opt-175b", "--gpu", "t4", "--ds-zero", "3", "--json")
WITHOUT: Final = {
    "serve": ("serve", "--port", "0"),
    "report": (*ASKED[:-1], "--html", "x.html"),
    "plot": ("scaling", "--model", "opt-1.3b", "--gpu", "t4", "--plot", "x.png"),
    "sweep": ("sweep", "--model", "opt-1.3b", "--gpu", "t4", "--batch-size", "1:4", "--out", "x.parquet"),
    "dask": ("sweep", "--model", "opt-1.3b", "--gpu", "t4", "--executor", "dask://127.0.0.1:9"),
    "calibrate": ("calibrate", "--run", "--model", "opt-125m"),
    "llama.cpp": ("calibrate", "run", "--system", "llama_cpp", "--model", "llama-3.2-1b"),
}
"""Commands that need an extra."""


class Fault(Exception):  # noqa: N818 - what was looked for
    """Something that was installed does not do what it should."""


class Untried(Exception):  # noqa: N818 - what cannot be tried here
    """There is no such Python, no index, or no right to."""


@dataclass(frozen=True)
class Installed:
    """An environment with the wheel in it."""

    home: Path

    @property
    def python(self) -> Path:
        """Its interpreter."""
        return self.home / "bin" / "python"

    def call(
        self,
        *words: str,
        before: tuple[str, ...] = (),
        flags: tuple[str, ...] = (),
        **environment: str | None,
    ) -> subprocess.CompletedProcess[str]:
        """llm-perf in an empty folder, with variables added, or taken away where they are None."""
        start = "from llm_perf.cli.main import main; main()"
        command = [*before, str(self.python), *flags, "-c", start, *words]
        with tempfile.TemporaryDirectory() as folder:
            Path(folder).chmod(0o755)
            done = subprocess.run(
                command, cwd=folder, env=_variables(environment), capture_output=True, text=True, errors="replace",
                timeout=300, check=False,
            )  # fmt: skip
            if left := [path.name for path in Path(folder).iterdir()]:
                raise Fault(f"{' '.join(words[:2])} leaves {left}")
        if "Traceback" in done.stderr:
            raise Fault(done.stderr.strip().splitlines()[-1])
        return done


def _variables(changed: Mapping[str, str | None]) -> dict[str, str]:
    kept = {
        name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "VIRTUAL_ENV"))
    }
    kept |= {"HF_HUB_OFFLINE": "1"} | {name: value for name, value in changed.items() if value is not None}
    return {name: value for name, value in kept.items() if changed.get(name, "") is not None}


def _run(*command: str | Path, **options: Any) -> str:
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False, **options)
    if done.returncode:
        said = (done.stderr.strip() or done.stdout.strip() or "no message").splitlines()[-1]
        raise Fault(f"{Path(command[0]).name}: {said}")
    return done.stdout


# -- what is shipped ------------------------------------------------------------------------------------------


def built(folder: Path) -> tuple[Path, Path]:
    """The wheel and the source archive of this checkout: the wheel is built from the archive."""
    _run(sys.executable, "-m", "build", "--no-isolation", "--outdir", folder, ROOT, cwd=folder)
    (wheel,), (archive,) = folder.glob("*.whl"), folder.glob("*.tar.gz")
    return wheel, archive


def contents(wheel: Path, archive: Path) -> str:
    """What git has of the packages is in the wheel, and nothing else; the archive has what tests and documentation need."""
    tracked = set(_run("git", "-C", ROOT, "ls-files", "-z").split("\0")) - {""}
    wanted = {name for name in tracked if name.startswith(tuple(f"{package}/" for package in PACKAGES))}
    names = set(zipfile.ZipFile(wheel).namelist())
    code = {name for name in names if ".dist-info/" not in name}
    if code != wanted:
        raise Fault(f"the wheel differs from the checkout: {sorted(code ^ wanted)[:5]}")
    with tarfile.open(archive) as source:
        held = {name.partition("/")[2] for name in source.getnames()}
    kept_out = {name for name in tracked - held if not name.startswith((".", "LICENSE"))}
    if kept_out:
        raise Fault(f"not in the source archive: {sorted(kept_out)[:5]}")
    if extra := {name for name in held - tracked if name not in ("PKG-INFO", "")}:
        raise Fault(f"only in the source archive: {sorted(extra)[:5]}")
    sizes = f"{wheel.stat().st_size / 2**20:.1f} and {archive.stat().st_size / 2**20:.1f} MiB"
    return f"{len(code)} and {len(held)} files, {sizes}"


# -- where it is installed ------------------------------------------------------------------------------------


def interpreter(version: str) -> Path:
    """A Python of a version: on PATH, or where pyenv keeps them.

    Raises:
        Untried: there is none.
    """
    kept = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv") / "versions"
    found = [
        *kept.glob(f"{version}.*/bin/python"),
        *map(Path, filter(None, [shutil.which(f"python{version}")])),
    ]
    for python in found:
        done = subprocess.run([python, "--version"], capture_output=True, text=True, check=False)
        if done.stdout.startswith(f"Python {version}."):
            return python
    raise Untried(f"no Python {version} here")


def installed(python: Path, wheel: Path, home: Path, *beside: str) -> Installed:
    """A new environment with the wheel and its dependencies, and packages beside it.

    Raises:
        Untried: there is no index that has them.
        Fault: they do not go together.
    """
    _run(python, "-m", "venv", home)
    pip = [
        home / "bin" / "python",
        "-m",
        "pip",
        "install",
        "-qq",
        "--disable-pip-version-check",
        "--prefer-binary",
    ]
    done = subprocess.run([*pip, str(wheel), *beside], capture_output=True, text=True, check=False)
    if done.returncode:
        said = (done.stderr.strip().splitlines() or ["no message"])[-1]
        if "No matching distribution" in said or "metadata-generation" in done.stderr:
            raise Untried(said)
        raise Fault(said)
    _run(home / "bin" / "python", "-m", "pip", "check", "--disable-pip-version-check")
    return Installed(home)


def answer(done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    """The object that an answered question printed."""
    if done.returncode or done.stderr:
        raise Fault(f"exit {done.returncode}: {done.stderr.strip()[-200:]}")
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def same(found: Any, wanted: Any) -> bool:
    """Whether two answers are one: numbers to the ninth digit, since NumPy's sums differ in the last."""
    if isinstance(wanted, dict):
        return (
            isinstance(found, dict)
            and found.keys() == wanted.keys()
            and all(same(found[k], wanted[k]) for k in wanted)
        )
    if isinstance(wanted, list):
        return isinstance(found, list) and len(found) == len(wanted) and all(map(same, found, wanted))
    if isinstance(wanted, float) and isinstance(found, float):
        return abs(found - wanted) <= 1e-9 * abs(wanted)
    return bool(found == wanted)


def answers(home: Installed, wanted: dict[str, Any], **how: Any) -> str:
    """The question is answered as it was elsewhere."""
    if not same(answer(home.call(*ASKED, **how)), wanted):
        raise Fault("another answer")
    return "the same answer"


# -- how it is run --------------------------------------------------------------------------------------------


def read_only(home: Installed, wanted: dict[str, Any]) -> str:
    """Another user asks, who may write nowhere: neither into the installation nor a home."""
    if os.geteuid() != 0 or shutil.which("setpriv") is None:
        raise Untried("needs root and setpriv, to become another user")
    become = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups")
    reached = subprocess.run([*become, home.python, "-c", ""], capture_output=True, check=False)
    if reached.returncode:
        raise Untried("another user may not reach this Python")
    before = {path: path.stat().st_mtime_ns for path in home.home.rglob("*")}
    said = answers(home, wanted, before=become, HOME="/nonexistent")
    if {path: path.stat().st_mtime_ns for path in home.home.rglob("*")} != before:
        raise Fault("the installation was written to")
    return said


def offline(home: Installed, wanted: dict[str, Any]) -> str:
    """In a network namespace that has no network."""
    if subprocess.run(["unshare", "-n", "true"], capture_output=True, check=False).returncode:
        raise Untried("needs the right to unshare -n")
    said = answers(home, wanted, before=("unshare", "-n"), HF_HUB_OFFLINE=None)
    done = home.call(
        "infer",
        "--model",
        "nobody/no-such-model",
        "--gpu",
        "t4",
        before=("unshare", "-n"),
        HF_HUB_OFFLINE=None,
    )
    if done.returncode not in (2, 4) or done.stderr.count("\n") != 1:
        raise Fault(f"a model of the hub: exit {done.returncode}: {done.stderr[-200:]}")
    return said


def c_locale(home: Installed, wanted: dict[str, Any]) -> str:
    """Also with names that the locale has no letters for."""
    how = {"LC_ALL": "C", "LANG": None, "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    said = answers(home, wanted, **how)
    for words in (
        ("infer", "--model", "opt-1.3b", "--gpu", "t4"),
        ("infer", "--help"),
        ("systems", "show", "vllm"),
    ):
        done = home.call(*words, **how)
        if done.returncode or done.stderr:
            raise Fault(f"{' '.join(words[:2])}: exit {done.returncode}: {done.stderr[-200:]}")
    done = home.call("infer", "--model", "modèle.yaml", "--gpu", "t4", **how)
    if done.returncode != 2 or done.stderr.count("\n") != 1:
        raise Fault(f"a file that is not there: exit {done.returncode}: {done.stderr[-200:]}")
    return said


def missing_extras(home: Installed) -> str:
    """Each command that needs an extra says which in one line, with the command that installs it."""
    said = []
    for name, words in WITHOUT.items():
        done = home.call(*words)
        if (
            done.returncode != 2
            or done.stdout
            or done.stderr.count("\n") != 1
            or "llm-perf[" not in done.stderr
        ):
            raise Fault(f"{name}: exit {done.returncode}: {done.stdout[:100]}{done.stderr[-300:]}")
        said.append(done.stderr.partition("llm-perf[")[2].partition("]")[0])
    return f"{len(said)} commands name {', '.join(sorted(set(said)))}"


def completion(home: Installed) -> str:
    """It is installed for three shells, into a home of its own."""
    with tempfile.TemporaryDirectory() as folder:
        for shell in ("bash", "zsh", "fish"):
            done = home.call(
                "--install-completion", shell, HOME=folder, XDG_DATA_HOME=None, XDG_CONFIG_HOME=None
            )
            if done.returncode or done.stderr:
                raise Fault(f"{shell}: {done.stderr}")
        return f"{sum(path.is_file() for path in Path(folder).rglob('*'))} files"


# -- all of it ------------------------------------------------------------------------------------------------


def checks(folder: Path, versions: list[str]) -> Iterator[tuple[str, Callable[[], str]]]:
    """Each check by what it is called; the first installation that works is the one that is asked on."""
    wheel, archive = built(folder)
    yield "wheel and source archive", lambda: contents(wheel, archive)
    homes: dict[str, Installed] = {}
    first: list[dict[str, Any]] = []

    def install(version: str, name: str, *beside: str) -> str:
        home = installed(interpreter(version), wheel, folder / name, *beside)
        found = answer(home.call(*ASKED))
        first.extend([found] * (not first))
        if not same(found, first[0]):
            raise Fault("another answer than the first")
        homes[name] = home
        versions_ = json.loads(
            _run(home.python, "-m", "pip", "list", "--format", "json", "--disable-pip-version-check")
        )
        shown = {one["name"].lower(): one["version"] for one in versions_}
        return f"numpy {shown['numpy']}, pydantic {shown['pydantic']}, click {shown['click']}, {len(shown)} packages"

    for version in versions:
        yield f"Python {version}", lambda version=version: install(version, version)
    yield f"oldest dependencies, Python {versions[0]}", lambda: install(versions[0], "oldest", *OLDEST)
    for name, packages in PEERS.items():
        yield f"beside {name}", lambda name=name, packages=packages: install("3.11", name, *packages)
    usual = next(iter(homes.values()), None)
    if usual is None:
        return
    wanted = first[0]
    yield "python -OO", lambda: answers(usual, wanted, flags=("-OO",))
    yield "LC_ALL=C, PYTHONUTF8=0", lambda: c_locale(usual, wanted)
    yield "no HOME", lambda: answers(usual, wanted, HOME=None, XDG_CACHE_HOME=None)
    yield "read-only, another user", lambda: read_only(usual, wanted)
    yield "no network", lambda: offline(usual, wanted)
    yield "missing extras", lambda: missing_extras(usual)
    yield "--install-completion", lambda: completion(usual)


def main() -> int:
    """Try everything, print the table; 1 where anything failed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--python", default=",".join(PYTHONS), help="versions, separated by commas")
    given = parser.parse_args()
    counts = dict.fromkeys(("ok", "FAILED", "skipped"), 0)
    with tempfile.TemporaryDirectory(prefix="packaging-") as folder:
        Path(folder).chmod(0o755)
        for name, check in checks(Path(folder), given.python.split(",")):
            try:
                verdict, said = "ok", check()
            except Fault as fault:
                verdict, said = "FAILED", str(fault)
            except Untried as reason:
                verdict, said = "skipped", str(reason)
            counts[verdict] += 1
            print(f"{verdict:<8} {name:<34} {said}", flush=True)
    print(", ".join(f"{count} {verdict}" for verdict, count in counts.items()))
    return 1 if counts["FAILED"] else 0


if __name__ == "__main__":
    sys.exit(main())
