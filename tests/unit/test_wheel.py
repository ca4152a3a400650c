"""The wheel, installed into an empty environment outside the checkout, does the main job.

Nothing is downloaded: the new environment finds the base dependencies where this one has them.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from email.message import Message
from email.parser import Parser
from pathlib import Path
from typing import Any

import pytest

from llm_perf import __version__
from llm_perf.config.loading import known_names

ROOT = Path(__file__).parents[2]
PACKAGES = ("llm_perf", "calibrate", "hardware_specs", "model_specs")
DEMO = ("infer", "--model", "opt-175b", "--gpu", "t4", "--ds-zero", "3")


@pytest.fixture(scope="module")
def shipped() -> set[str]:
    """Every file of the packages in this checkout."""
    files = (path for package in PACKAGES for path in (ROOT / package).rglob("*") if path.is_file())
    return {path.relative_to(ROOT).as_posix() for path in files if "__pycache__" not in path.parts}


@pytest.fixture(scope="module")
def wheel(shipped: set[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dist")
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(ROOT)]
    done = subprocess.run(build, cwd=folder, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    (built,) = folder.iterdir()
    return built


@pytest.fixture(scope="module")
def bin_folder(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The programs of a new environment that has the wheel, and the base dependencies by their path."""
    home = tmp_path_factory.mktemp("environment")
    run = [sys.executable, "-m", "venv", "--without-pip", str(home)]
    subprocess.run(run, check=True, timeout=60)
    programs = home / ("Scripts" if os.name == "nt" else "bin")
    site = _asked(programs / "python", "import sysconfig; print(sysconfig.get_path('purelib'))")
    # The .pth files in a folder that a .pth file names are not read, so an editable installation does not come along.
    dependencies = [path for path in sys.path if Path(path).name in ("site-packages", "dist-packages")]
    (Path(site) / "dependencies.pth").write_text("".join(f"{path}\n" for path in dependencies))
    pip = [sys.executable, "-m", "pip", "--python", str(programs / "python")]
    install = ["install", "--quiet", "--no-deps", "--no-index", "--no-compile", str(wheel)]
    subprocess.run([*pip, *install], check=True, timeout=120, env=_environment())
    return programs


def _environment() -> dict[str, str]:
    """No variable that leads Python to the checkout."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("PYTHON", "PIP_", "VIRTUAL_ENV"))
    }
    return kept | {"HF_HUB_OFFLINE": "1", "PIP_DISABLE_PIP_VERSION_CHECK": "1"}


def _asked(python: Path, code: str) -> str:
    """What isolated Python prints: neither the working directory nor PYTHON* variables are looked at."""
    done = subprocess.run(
        [python, "-I", "-c", code],
        cwd=python.parents[1],
        env=_environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def _called(bin_folder: Path, folder: Path, *words: str) -> str:
    done = subprocess.run(
        [bin_folder / "llm-perf", *words],
        cwd=folder,
        env=_environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert list(folder.iterdir()) == []
    return done.stdout


def test_the_wheel_holds_code_data_and_license_and_nothing_else(wheel: Path, shipped: set[str]) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    assert wheel.name == f"llm_perf-{__version__}-py3-none-any.whl"
    code = {name for name in names if ".dist-info/" not in name}
    assert {name.partition("/")[0] for name in code} == set(PACKAGES)
    assert not [name for name in code if "__pycache__" in name or name.endswith(".pyc")]
    assert shipped <= code
    systems = {"stacks/vllm/system.yaml", "stacks/vllm/0.2.yaml", "zero_inference/system.yaml"}
    assert {
        "llm_perf/py.typed",
        "calibrate/py.typed",
        *(f"llm_perf/systems/{name}" for name in systems),
    } <= code
    assert "calibrate/measurements/published_inference.csv" in code
    assert any(name.endswith(".dist-info/licenses/LICENSE") for name in names)


def test_the_base_installation_is_small(wheel: Path) -> None:
    required = _metadata(wheel).get_all("Requires-Dist") or []
    base = {line.partition(">")[0] for line in required if "extra ==" not in line}
    assert base == {"numpy", "pyyaml", "pydantic", "click", "rich"}
    extras = set(_metadata(wheel).get_all("Provides-Extra") or [])
    assert extras >= {"search", "calibrate", "explore", "distributed", "hub", "dev", "all"}
    assert _metadata(wheel)["Requires-Python"] == ">=3.10"


def _metadata(wheel: Path) -> Message:
    name = f"llm_perf-{__version__}.dist-info/METADATA"
    return Parser().parsestr(zipfile.ZipFile(wheel).read(name).decode())


def test_the_installed_packages_are_not_the_checkouts(bin_folder: Path) -> None:
    files = ", ".join(f"{package}.__file__" for package in PACKAGES)
    code = f"import json, {', '.join(PACKAGES)}; print(json.dumps([{files}]))"
    for file in json.loads(_asked(bin_folder / "python", code)):
        assert Path(file).is_relative_to(bin_folder.parent)
        assert not Path(file).is_relative_to(ROOT)
    assert "None" in _asked(bin_folder / "python", "import importlib.util as u; print(u.find_spec('tests'))")


def test_the_demo(bin_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from llm_perf.cli.main import run

    installed: dict[str, Any] = json.loads(_called(bin_folder, tmp_path, *DEMO, "--json"))
    assert run([*DEMO, "--json"]) == 0
    assert installed == json.loads(capsys.readouterr().out)
    assert installed["nearest_measurement"]["row_id"] == 1504
    assert "Weights on: NVMe" in _called(bin_folder, tmp_path, *DEMO)


def test_the_specs(bin_folder: Path, tmp_path: Path) -> None:
    for plural, kind in (("models", "model"), ("gpus", "GPU"), ("hosts", "host")):
        rows = json.loads(_called(bin_folder, tmp_path, plural, "list", "--json"))[plural]
        assert len(rows) == len(known_names(kind))
    assert "facebook/opt-175b" in _called(bin_folder, tmp_path, "models", "list")


def test_version_and_doctor(bin_folder: Path, tmp_path: Path) -> None:
    assert _called(bin_folder, tmp_path, "--version") == f"llm-perf, version {__version__}\n"
    assert "model specs" in _called(bin_folder, tmp_path, "doctor")


def test_a_wheel_that_is_not_unpacked_says_so(tmp_path: Path) -> None:
    packed = tmp_path / "llm perf.zip"
    with zipfile.ZipFile(packed, "w") as archive:
        for file in (ROOT / "llm_perf").rglob("*.py"):
            archive.write(file, file.relative_to(ROOT))
        for package in ("hardware_specs", "model_specs"):
            archive.write(ROOT / package / "__init__.py", f"{package}/__init__.py")
    kept = [path for path in sys.path if Path(path or ".").resolve() != ROOT]
    code = f"import sys; sys.path[:] = {[str(packed), *kept]!r}; from llm_perf.cli.main import main; main()"
    for words in (
        ("infer", "--model", "opt-1.3b", "--gpu", "t4"),
        ("systems", "list"),
        ("gpus", "show", "t4"),
    ):
        done = subprocess.run(
            [sys.executable, "-c", code, *words], capture_output=True, text=True, cwd=tmp_path, check=False
        )
        assert (done.returncode, done.stdout) == (4, "")
        assert done.stderr.count("\n") == 1
        assert "install the wheel" in done.stderr
