"""The rule of imports: rooms know only what stands before them, and nothing heavy is loaded before it is needed."""

from __future__ import annotations

import ast
import importlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from calibrate.old_names import MOVED
from llm_perf.analysis.request import InferenceInputs
from llm_perf.config import (
    DtypeConfig,
    GPUConfig,
    GPUEfficiency,
    HostConfig,
    ModelConfig,
    OffloadConfig,
    ParallelismConfig,
    Workload,
)
from llm_perf.config.base import Spec
from llm_perf.config.layers.attention import Attention
from llm_perf.config.layers.experts import MoEMLP
from llm_perf.systems.accounting import MemoryRules
from llm_perf.systems.constants import ConstantsFile
from llm_perf.systems.families import Family, family_names
from llm_perf.systems.scheduling import SchedulerRules

ROOT = Path(__file__).parents[2]
ROOMS = (
    "config",
    "counts",
    "hardware",
    "llm_analysis",
    "systems",
    "requests",
    "analysis",
    "search",
    "report",
    "api",
    "explore",
    "cli",
)
"""Of llm_perf, in the order of a prediction: a room may import itself and those before it."""
EVERYWHERE = {"", "errors", "streams", "__main__"}
"""Modules of llm_perf beside the rooms: the package itself, its errors and what it prints to, which import no room."""
HEAVY = {
    "accelerate", "dask", "deepspeed", "distributed", "huggingface_hub", "matplotlib", "pandas", "plotly", "pyarrow", "scipy",
    "sklearn", "starlette", "torch", "transformers", "uvicorn",
}  # fmt: skip
PACKAGES = ("llm_perf", "calibrate")
LONGEST = 600
"""Lines of a file."""
MODULES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
TESTS = sorted((ROOT / "tests").rglob("*.py"))


@dataclass(frozen=True)
class Import:
    """One imported module, whether a function has to run for it, and whether only a type checker sees it."""

    name: str
    line: int
    in_function: bool
    for_types: bool

    @property
    def package(self) -> str:
        return self.name.partition(".")[0]

    @property
    def room(self) -> str:
        return self.name.partition(".")[2].partition(".")[0]


def imports(path: Path) -> list[Import]:
    tree = ast.parse(path.read_text("utf-8"))
    return list(_imports(tree, in_function=False, for_types=False))


def _imports(node: ast.AST, in_function: bool, for_types: bool) -> Iterator[Import]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import):
            for alias in child.names:
                yield Import(alias.name, child.lineno, in_function, for_types)
        elif isinstance(child, ast.ImportFrom):
            assert child.level == 0, f"line {child.lineno}: a relative import"
            # `from llm_perf import report` imports a room by its name.
            for alias in child.names:
                whole = child.module in PACKAGES
                name = f"{child.module}.{alias.name}" if whole else child.module or ""
                yield Import(name, child.lineno, in_function, for_types)
        else:
            function = in_function or isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))
            yield from _imports(child, function, for_types or _is_type_checking(child))


def _is_type_checking(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING")


def relative(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@pytest.fixture(params=MODULES, ids=relative)
def module(request: pytest.FixtureRequest) -> Path:
    path = request.param
    assert isinstance(path, Path)
    return path


def room_of(path: Path) -> str:
    """The room of a module of llm_perf; "" for the package itself."""
    first = path.relative_to(ROOT).parts[1]
    name = first.removesuffix(".py")
    return "" if name == "__init__" else name


def test_every_module_stands_in_a_room() -> None:
    rooms = {room_of(path) for path in MODULES if path.is_relative_to(ROOT / "llm_perf")}
    assert rooms <= {*ROOMS, *EVERYWHERE}
    assert {"config", "counts", "hardware", "systems", "analysis", "report", "cli"} <= rooms


def test_the_list_of_rooms_names_each_and_no_other() -> None:
    lines = (ROOT / "CONTRIBUTING.md").read_text("utf-8").splitlines()
    named = [line.split("`")[1] for line in lines if line.startswith(("| `llm_perf/", "| `calibrate`"))]
    assert named == [*(f"llm_perf/{room}" for room in ROOMS), "calibrate"]
    assert all((ROOT / room).is_dir() for room in named)
    own = next(line for line in lines if line.startswith("| `calibrate`"))
    assert all(f"`{room}`" in own for room in CALIBRATE_ROOMS)


def test_rooms_know_only_those_before_them(module: Path) -> None:
    if not module.is_relative_to(ROOT / "llm_perf"):
        return
    room = room_of(module)
    allowed = set(EVERYWHERE)
    if room in ROOMS:
        allowed |= set(ROOMS[: ROOMS.index(room) + 1])
    for found in imports(module):
        if not room and found.room == "api" and found.for_types:
            continue  # the package's own names, which are loaded when they are asked for
        if found.package == "llm_perf" and found.room != "__version__":
            assert found.room in allowed, f"{relative(module)}:{found.line} imports {found.name}"


def test_only_the_command_line_knows_calibrate(module: Path) -> None:
    if not module.is_relative_to(ROOT / "llm_perf"):
        return
    for found in imports(module):
        if found.package == "calibrate":
            where = f"{relative(module)}:{found.line} imports {found.name}"
            assert room_of(module) == "cli", where
            assert found.in_function or found.for_types, where


def test_calibrate_needs_no_command_line(module: Path) -> None:
    """Inside a function it may start one: the worker of a launcher is given the flags of a command."""
    if module.is_relative_to(ROOT / "calibrate"):
        known = [found for found in imports(module) if found.name.startswith("llm_perf.cli")]
        assert all(found.in_function for found in known)


CALIBRATE_ROOMS = ("evidence", "probe", "run", "fit", "validate")
"""In the order of a calibration; the modules beside them are programs that use the rooms, which no room imports."""


def test_calibrates_rooms_know_only_those_before_them(module: Path) -> None:
    """Inside functions too: what loads late is still known."""
    if not module.is_relative_to(ROOT / "calibrate"):
        return
    room = room_of(module)
    for found in imports(module):
        if found.package == "calibrate" and room in CALIBRATE_ROOMS:
            allowed = CALIBRATE_ROOMS[: CALIBRATE_ROOMS.index(room) + 1]
            assert found.room in allowed, f"{relative(module)}:{found.line} imports {found.name}"


def test_calibrate_has_no_other_rooms() -> None:
    beside = {room_of(path) for path in (ROOT / "calibrate").rglob("*.py")} - set(CALIBRATE_ROOMS)
    assert beside == {"", "old_names", "gpu_session", "loop", "recorded"}


@pytest.mark.parametrize(("old", "new"), MOVED.items())
def test_calibrates_old_names_are_the_same_modules(old: str, new: str) -> None:
    sys.modules.pop(old, None)
    with pytest.warns(DeprecationWarning, match=f"{new} now"):
        found = importlib.import_module(old)
    assert found is importlib.import_module(new)
    spec = importlib.import_module(new).__spec__
    assert spec is not None
    assert spec.name == new


def test_heavy_packages_load_inside_functions(module: Path) -> None:
    for found in imports(module):
        if found.package in HEAVY:
            assert found.in_function or found.for_types, (
                f"{relative(module)}:{found.line} imports {found.name}"
            )


def test_specs_are_data(module: Path) -> None:
    """No module reads a spec as code, and the folders of specs hold none but their package marks."""
    assert not [found for found in imports(module) if found.package in ("hardware_specs", "model_specs")]
    for folder in ("hardware_specs", "model_specs"):
        for path in (ROOT / folder).rglob("*.py"):
            code = ast.parse(path.read_text("utf-8")).body
            assert all(isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) for node in code)


def test_no_file_is_longer_than_one_can_read(module: Path) -> None:
    assert len(module.read_text("utf-8").splitlines()) <= LONGEST


@pytest.mark.parametrize("program", sorted((ROOT / "bench").glob("*.py")), ids=lambda path: path.stem)
def test_no_program_of_bench_is_longer_either(program: Path) -> None:
    assert len(program.read_text("utf-8").splitlines()) <= LONGEST


def test_no_test_is_longer_than_one_can_read() -> None:
    lines = {relative(path): len(path.read_text("utf-8").splitlines()) for path in TESTS}
    assert {path: count for path, count in lines.items() if count > LONGEST} == {}


def known_at_import(paths: list[Path], root: Path) -> dict[str, set[str]]:
    """Module to the modules that it loads when it is imported; a package stands for what its ``__init__`` loads."""
    names = {
        path.relative_to(root).with_suffix("").as_posix().removesuffix("/__init__").replace("/", "."): path
        for path in paths
    }
    found: dict[str, set[str]] = {}
    for name, path in names.items():
        tree = ast.parse(path.read_text("utf-8"))
        late = {
            id(inner)
            for node in ast.walk(tree)
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) or _is_type_checking(node)
            for inner in ast.walk(node)
        }
        asked: set[str] = set()
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and id(node) not in late:
                asked |= {f"{node.module}.{alias.name}" for alias in node.names} | {str(node.module)}
            elif isinstance(node, ast.Import) and id(node) not in late:
                asked |= {alias.name for alias in node.names}
        # `from package import module` needs the module; `from package import name` needs the package.
        modules = {one for one in asked if one in names}
        packages = {one.rpartition(".")[0] for one in modules} & modules
        whole = {one for one in packages if _takes_a_name(tree, one, names)}
        found[name] = (modules - packages | whole) - {name}
    return found


def _takes_a_name(tree: ast.AST, package: str, modules: dict[str, Path]) -> bool:
    return any(
        isinstance(node, ast.ImportFrom)
        and node.module == package
        and any(f"{package}.{alias.name}" not in modules for alias in node.names)
        for node in ast.walk(tree)
    )


def circle_of(graph: dict[str, set[str]]) -> list[str]:
    """Modules that import one another in a circle; empty where there is none."""
    done: set[str] = set()

    def visit(name: str, way: list[str]) -> list[str]:
        if name in way:
            return way[way.index(name) :]
        if name in done:
            return []
        for other in sorted(graph[name]):
            if circle := visit(other, [*way, name]):
                return circle
        done.add(name)
        return []

    return next((circle for name in sorted(graph) if (circle := visit(name, []))), [])


def test_no_modules_import_one_another_in_a_circle() -> None:
    assert circle_of(known_at_import(MODULES, ROOT)) == []


def test_a_circle_is_found(tmp_path: Path) -> None:
    for name, text in (
        ("a", "from p import b\n"),
        ("b", "from p.c import x\n"),
        ("c", "import p.a\nx = 1\n"),
    ):
        (tmp_path / "p").mkdir(exist_ok=True)
        (tmp_path / "p" / f"{name}.py").write_text(text)
    (tmp_path / "p" / "__init__.py").write_text("")
    paths = sorted(tmp_path.rglob("*.py"))
    assert circle_of(known_at_import(paths, tmp_path)) == ["p.a", "p.b", "p.c"]
    (tmp_path / "p" / "c.py").write_text("def later():\n    import p.a\nx = 1\n")
    assert circle_of(known_at_import(paths, tmp_path)) == []


# -- what a system is called is its own business --------------------------------------------------------------

RUNNER = "what is run here, and not what is predicted: ZeRO-3 under DeepSpeed, or plain transformers"
NAMES_SYSTEMS = {
    "calibrate/gpu_session.py": RUNNER,
    "calibrate/fit/kernels.py": RUNNER,
    "calibrate/loop.py": RUNNER,
    "calibrate/run": RUNNER,
    "calibrate/fit/llama_cpp.py": RUNNER,
    "calibrate/fit/llama_cpp_profile.py": RUNNER,
    "calibrate/evidence/contributed.py": "packages whose versions an environment states",
    "calibrate/evidence/readers": "what benchmark tools call an engine",
    "calibrate/evidence/tuning_rows.py": "what tables of fine-tuning call a framework",
    "calibrate/evidence/published/names.py": "what tables of published runs call a system",
    "llm_perf/explore/controls.py": "the question that the page opens with",
}
"""Modules and folders that ask which system it is, each with its reason; nothing else may."""


def asks_for_systems(tree: ast.AST, names: set[str]) -> list[int]:
    """Lines that compare something with a system's name, or look it up in a collection of such names."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Compare):
            parts: list[ast.AST] = [node.left, *node.comparators]
        elif isinstance(node, (ast.Set, ast.Dict)):
            parts = [node]
        else:
            continue
        words = {
            word.value
            for part in parts
            for word in (ast.iter_child_nodes(part) if not isinstance(part, ast.Constant) else [part])
            if isinstance(word, ast.Constant)
        }
        if words & names:
            found.append(node.lineno)
    return found


def test_no_module_asks_which_system_it_is(module: Path) -> None:
    """A system says what sets it apart (`Family`, `System`): a new one touches its own folder alone."""
    where = relative(module)
    own = where.startswith("llm_perf/systems/") and where.count("/") > 2
    if own or any(f"{where}/".startswith(f"{name}/") for name in NAMES_SYSTEMS):
        return
    lines = asks_for_systems(ast.parse(module.read_text("utf-8")), set(family_names()))
    assert not lines, f"{where}: lines {lines} name a system"


@pytest.mark.parametrize("name", NAMES_SYSTEMS)
def test_each_exception_is_needed(name: str) -> None:
    paths = [path for path in MODULES if f"{relative(path)}/".startswith(f"{name}/")]
    assert any(asks_for_systems(ast.parse(path.read_text("utf-8")), set(family_names())) for path in paths)


def test_asking_for_a_system_is_found() -> None:
    code = (
        "a = system == 'vllm'\n"
        "b = system in ('flexgen', 'x')\n"
        "c = {'lia': 1}\n"
        "d = frozenset({'petals'})\n"
        "e = f(system='vllm')\n"
        "g = name != 'other'\n"
    )
    assert asks_for_systems(ast.parse(code), {"vllm", "flexgen", "lia", "petals"}) == [1, 2, 3, 4]


# -- the rule's own test --------------------------------------------------------------------------------------


def test_imports_are_found_wherever_they_stand(tmp_path: Path) -> None:
    path = tmp_path / "module.py"
    path.write_text(
        "import torch\n"
        "if TYPE_CHECKING:\n    import scipy\n"
        "try:\n    from matplotlib import pyplot\nexcept ImportError:\n    pass\n"
        "class A:\n    import numpy\n    def f(self):\n        from llm_perf import report\n"
        "from llm_perf.systems.base import Load\n"
    )
    assert [(found.name, found.room, found.in_function, found.for_types) for found in imports(path)] == [
        ("torch", "", False, False),
        ("scipy", "", False, True),
        ("matplotlib", "", False, False),
        ("numpy", "", False, False),
        ("llm_perf.report", "report", True, False),
        ("llm_perf.systems.base", "systems", False, False),
    ]


# -- what is really loaded ------------------------------------------------------------------------------------


def loaded(code: str, tmp_path: Path) -> set[str]:
    """Top-level packages that a fresh interpreter has loaded after some code."""
    report = "print(json.dumps(sorted({name.partition('.')[0] for name in sys.modules})), file=sys.stderr)"
    script = f"import sys, json\n{code}\n{report}"
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"},
        capture_output=True, text=True, check=True, timeout=60,
    )  # fmt: skip
    return set(json.loads(done.stderr.splitlines()[-1]))


DEMO = ["infer", "--model", "opt-175b", "--gpu", "t4", "--ds-zero", "3"]
STACK = ["infer", "--model", "llama-3.1-8b", "--gpu", "h100-sxm-80gb", "--system", "vllm"]
LIGHT = {
    "import llm_perf, calibrate": "import llm_perf, calibrate",
    "the specs": "from llm_perf.config import *",
    "the analysis": "import llm_perf.analysis as a; a.LLMAnalysis; a.infer; a.train",
    "the sweep": "import llm_perf.analysis.sweep",
    "the published measurements": "import calibrate.evidence.published, calibrate.evidence.nearest",
    "infer --json": f"from llm_perf.cli.main import run; assert run({[*DEMO, '--json']}) == 0",
    "infer --system vllm --json": f"from llm_perf.cli.main import run; assert run({[*STACK, '--json']}) == 0",
    "infer --json --explain": f"from llm_perf.cli.main import run; assert run({[*DEMO, '--json', '--explain']}) == 0",
    "two GPUs --json": f"from llm_perf.cli.main import run; assert run({[*DEMO, '--gpu', 'l4', '--json']}) == 0",
    "models list --json": "from llm_perf.cli.main import run; assert run(['models', 'list', '--json']) == 0",
    "doctor --json": "from llm_perf.cli.main import run; assert run(['doctor', '--json']) == 0",
    "a bad flag": "from llm_perf.cli.main import run; assert run(['infer', '--tp-size', 'x']) == 2",
}


@pytest.mark.parametrize("name", LIGHT)
def test_nothing_heavy_is_loaded(name: str, tmp_path: Path) -> None:
    assert loaded(LIGHT[name], tmp_path) & (HEAVY | {"rich", "pygments", "asyncio"}) == set()


@pytest.mark.parametrize("name", ["infer --json", "infer --system vllm --json"])
def test_a_prediction_loads_no_parsers_of_mail_and_archives(name: str, tmp_path: Path) -> None:
    """`importlib.metadata` and `importlib.resources` do, a tenth of the time that a prediction takes to start."""
    assert loaded(LIGHT[name], tmp_path) & {"email", "zipfile", "tempfile"} == set()


def test_loaded_parsers_of_mail_and_archives_are_seen(tmp_path: Path) -> None:
    """What proves that the check above sees what is loaded."""
    seen = "import importlib.metadata, importlib.readers, tempfile"
    assert loaded(seen, tmp_path) >= {"email", "zipfile", "tempfile"}


SPECS_OF_A_PREDICTION = (
    InferenceInputs, GPUConfig, GPUEfficiency, HostConfig, ModelConfig, Attention, MoEMLP, DtypeConfig, ParallelismConfig,
    Workload, OffloadConfig, Family, ConstantsFile, MemoryRules, SchedulerRules,
)  # fmt: skip


@pytest.mark.parametrize("spec", SPECS_OF_A_PREDICTION, ids=lambda spec: spec.__name__)
def test_annotations_of_specs_are_no_text(spec: type[Spec]) -> None:
    """Pydantic compiles those that are, one by one, at every start: a tenth of the time that a prediction takes."""
    assert [name for name, annotation in spec.__annotations__.items() if isinstance(annotation, str)] == []


def test_importing_the_packages_loads_no_room(tmp_path: Path) -> None:
    assert loaded("import llm_perf, calibrate", tmp_path) & {"numpy", "pydantic", "yaml", "click"} == set()


def test_a_report_for_people_loads_rich(tmp_path: Path) -> None:
    """What proves that the check above sees what is loaded."""
    code = f"from llm_perf.cli.main import run; assert run({DEMO}) == 0"
    assert "rich" in loaded(code, tmp_path)
