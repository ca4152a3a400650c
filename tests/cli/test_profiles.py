"""`llm-perf calibrate --fit`, `llm-perf profiles`, and `--profile` where predictions are made."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from calibrate.fit.calibrator import Calibrator
from calibrate.fit.observation import Observation
from calibrate.fit.profile_file import build_profile


def _synthetic() -> ModuleType:
    """The machine of tests/fit, whose law is known."""
    file = Path(__file__).parents[1] / "fit" / "synthetic.py"
    spec = importlib.util.spec_from_file_location("synthetic_machine", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module", autouse=True)
def one_fit() -> Iterator[None]:
    """The same runs are fitted once, whichever test asks; each profile is built anew, under its own name."""
    known: dict[str, dict[str, Any]] = {}
    fit = Calibrator.fit

    def fitted(self: Calibrator, runs: Iterable[Observation]) -> Calibrator:
        observations = tuple(runs)
        asked = repr((self.microbench, observations))
        if asked not in known:
            known[asked] = dict(vars(fit(self, observations)))
        vars(self).update(known[asked] | {"name": self.name})
        self.profile_ = build_profile(self, observations)
        return self

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Calibrator, "fit", fitted)
        yield


@pytest.fixture(scope="module")
def runs(tmp_path_factory: Any) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    synthetic = _synthetic()
    synthetic.write_microbench(folder)
    synthetic.write_runs(folder, noise=0.03)
    return folder


@pytest.fixture(scope="module")
def profile(runs: Path, tmp_path_factory: Any) -> Path:
    from llm_perf.cli.main import run

    target = tmp_path_factory.mktemp("profiles") / "here.yaml"
    assert run(["calibrate", "--fit", str(runs), "--out", str(target)]) == 0
    return target


def test_fit_prints_what_it_found_and_writes_the_profile(llm_perf: Any, runs: Path, folder: Path) -> None:
    found = llm_perf("calibrate", "--fit", str(runs), "--out", "here.yaml", "--json").json
    assert found["runs"] == 12
    assert found["interval"]["groups"] == 2
    assert "resident.python_us_per_layer" in found["parameters"]
    assert found["not_identified"]
    assert (folder / "here.yaml").read_text().startswith("# A calibrated profile")
    text = llm_perf("calibrate", "--fit", str(runs), "--out", "again.yaml")
    assert text.code == 0
    assert "90 % interval (2 models left out)" in text.out
    assert "again.yaml" in text.err
    assert sorted(path.name for path in folder.iterdir()) == ["again.yaml", "here.yaml"]


def test_without_out_it_goes_to_the_users_folder(
    llm_perf: Any, runs: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LLM_PERF_PROFILES", str(folder / "mine"))
    assert llm_perf("calibrate", "--fit", str(runs)).code == 0
    assert (folder / "mine" / "calibrated.yaml").is_file()
    listed = llm_perf("profiles", "list", "--json").json["profiles"]
    own = next(row for row in listed if row["name"] == "calibrated")
    assert own["runs"] == 12
    assert "calibrated" in llm_perf("profiles", "list").out
    asked = ("--model", "opt-350m", "--prompt-len", "64", "--gen-len", "8", "--profile", "calibrated")
    found = llm_perf("infer", *asked, "--json").json
    assert found["interval"]["profile"] == "calibrated"


def test_infer_takes_the_profiles_machine_and_prints_its_interval(llm_perf: Any, profile: Path) -> None:
    asked = (
        "--model",
        "opt-350m",
        "--batch-size",
        "4",
        "--prompt-len",
        "64",
        "--gen-len",
        "8",
        "--profile",
        str(profile),
    )
    found = llm_perf("infer", *asked, "--json").json
    interval = found["interval"]
    assert interval["level"] == 0.9
    low, high = interval["total_latency_s"]
    assert low < found["total"]["latency_s"] < high
    slow, fast = interval["total_throughput_tokens_per_s"]
    assert slow < found["total"]["throughput_tokens_per_s"] < fast
    text = llm_perf("infer", *asked)
    assert text.code == 0
    assert "90% interval: total" in text.out
    assert all(len(line) <= 80 for line in text.out.split("Benchmark log")[0].splitlines())
    assert found["inputs"]["profile"] == str(profile)


def test_outside_and_elsewhere_are_notes(llm_perf: Any, profile: Path) -> None:
    far = llm_perf(
        "infer", "--model", "opt-1.3b", "--batch-size", "16", "--profile", str(profile), "--json"
    ).json
    assert any("outside what profile here covers" in warning for warning in far["warnings"])
    assert far["interval"]["outside_covered_range"] > 1
    other = llm_perf("infer", "--model", "opt-1.3b", "--gpu", "t4", "--profile", str(profile), "--json").json
    assert other["interval"] is None
    assert any("was fitted on" in warning for warning in other["warnings"])


def test_without_a_profile_the_interval_is_that_of_published_runs(llm_perf: Any) -> None:
    asked = ("infer", "--model", "opt-30b", "--gpu", "t4", "--ds-zero", "3", "--cpu-offload")
    found = llm_perf(*asked, "--json").json
    assert found["interval"]["profile"] is None
    assert "published runs of zero_inference" in found["interval"]["method"]
    low, high = found["interval"]["total_latency_s"]
    assert low < found["total"]["latency_s"] < high
    assert found["no_interval"] is None
    unfitted = llm_perf(*asked, "--profile", "none", "--json").json
    assert unfitted["interval"] is None
    assert "takes away what was fitted" in unfitted["no_interval"]
    text = llm_perf(*asked).out
    assert "90% interval: total" in text
    assert all(len(line) <= 80 for line in text.split("Benchmark log")[0].splitlines())


def test_where_nothing_is_known_the_report_says_why(llm_perf: Any) -> None:
    asked = ("infer", "--model", "opt-1.3b", "--gpu", "t4", "--system", "engine")
    found = llm_perf(*asked, "--json").json
    assert found["interval"] is None
    assert found["no_interval"] in " ".join(llm_perf(*asked).out.split())


@pytest.mark.parametrize("command", [("sweep", "--gpu", "t4"), ("plan", "--gpus", "t4")])
def test_reports_of_many_points_say_that_no_fit_is_used(llm_perf: Any, command: tuple[str, ...]) -> None:
    asked = (*command, "--model", "opt-1.3b")
    said = "no fitted constant is used (--profile none)"
    assert said in llm_perf(*asked, "--profile", "none").out
    assert said not in llm_perf(*asked).out


def test_policy_and_validate_take_profiles(llm_perf: Any, folder: Path) -> None:
    (folder / "t4.yaml").write_text(
        "name: t4\nsystem_constants: {zero_inference: {overlap_share: 0.5}}\n"
        "calibration: {machine: {gpu: T4-16GB, host: gcp-t4}}\n"
    )
    plain = llm_perf("validate", "--system", "zero_inference", "--json").json["rows"]
    changed = llm_perf("validate", "--system", "zero_inference", "--profile", "t4.yaml", "--json").json[
        "rows"
    ]
    moved = {a["gpu"] for a, b in zip(plain, changed, strict=True) if a["predicted"] != b["predicted"]}
    assert moved == {"T4-16GB"}  # its machine, and no other
    asked = ("--model", "opt-30b", "--gpu", "t4", "--system", "zero_inference", "--json")
    assert llm_perf("policy", *asked, "--profile", "t4.yaml").code == 0


def test_show_and_diff(llm_perf: Any, profile: Path, folder: Path) -> None:
    shown = llm_perf("profiles", "show", str(profile))
    assert shown.code == 0
    for text in (
        "this CPU (Test CPU, 2 cores)",
        "covers",
        "90 % interval",
        "not identified",
        "resident.python_us_per_layer",
    ):
        assert text in shown.out
    assert llm_perf("profiles", "show", str(profile), "--json").json["name"] == "here"
    other = folder / "other.yaml"
    text = profile.read_text()
    other.write_text(
        text.replace("name: here", "name: other", 1).replace("knee_exponent: 1.0", "knee_exponent: 2.0")
    )
    same = llm_perf("profiles", "diff", str(profile), str(profile))
    assert "set the same values" in same.out
    found = llm_perf("profiles", "diff", str(profile), str(other), "--json").json["differences"]
    assert [row["name"] for row in found] == ["gpu.efficiency.knee_exponent"]
    assert "knee_exponent" in llm_perf("profiles", "diff", str(profile), str(other)).out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("calibrate",), "nothing to do"),
        (("calibrate", "run.json"), "are for --fit"),
        (("calibrate", "--fit"), "nothing to fit"),
        (("calibrate", "--fit", "missing.json"), "missing.json: cannot be read"),
        (("calibrate", "--fit", "missing.json", "--out", "profile.txt"), "a profile is a .yaml file"),
        (("calibrate", "--fit", "missing.json", "--out", "no/such/p.yaml"), "there is no folder"),
        (("calibrate", "--microbench", "--budget", "soon"), "--budget = 'soon'"),
        (("calibrate", "--microbench", "--budget", "0"), "--budget 0"),
        (("calibrate", "--microbench", "--out", "no/such/m.json"), "there is no folder"),
        (("calibrate", "--microbench", "--out", "."), "are a .json file"),
        (("calibrate", "--microbench", "--out", f"{'long' * 99}.json"), "name too long"),
        (
            ("calibrate", "--fit", "missing.json", "--out", "none.yaml"),
            "'none' says that nothing fitted is used",
        ),
        (("calibrate", "--fit", "missing.json", "--out", "~no-such-user/p.yaml"), "home directory"),
        (("calibrate", "--fit", "missing.json", "--out", f"{'long' * 99}.yaml"), "name too long"),
        (("calibrate", "--fit", f"{'long' * 99}.json"), "cannot be read"),
        (("calibrate", "--fit", "~no-such-user/run.json"), "home directory"),
        (("calibrate", "--fit", "a.json", "--microbench"), "one at a time: --microbench or --fit"),
        (("calibrate", "--run", "--read-log", "a.log"), "one at a time: --run or --read-log"),
        (("calibrate", "--fit", "a.json", "--batch-size", "4"), "--batch-size says nothing about --fit"),
        (("calibrate", "--fit", "a.json", "--model", "opt-125m"), "--model says nothing about --fit"),
        (("calibrate", "--microbench", "--gpu", "t4"), "--gpu says nothing about --microbench"),
        (("calibrate", "--run", "--budget", "5s"), "--budget says nothing about --run"),
        (("calibrate", "--microbench", "run.json"), "'run.json': files of runs are for --fit"),
        (("profiles", "show", "no-such"), "unknown profile 'no-such'"),
        (("profiles", "show", "none"), "is no profile"),
        (("profiles", "diff", "none", "none"), "is no profile"),
        (("infer", "--model", "opt-1.3b", "--profile", "no-such"), "unknown profile"),
        (("infer", "--model", "opt-1.3b"), "--gpu is required"),
        (("validate", "--profile", "no-such"), "unknown profile"),
    ],
)
def test_bad_input_is_one_line(llm_perf: Any, folder: Path, arguments: tuple[str, ...], said: str) -> None:
    assert said in llm_perf(*arguments).error
    assert not list(folder.iterdir())  # nothing half-written


def test_what_profiles_and_fits_print_fits_80_columns(
    llm_perf: Any, runs: Path, profile: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = folder / "own"
    own.mkdir()
    monkeypatch.setenv("LLM_PERF_PROFILES", "own")
    (own / "mine.yaml").write_text(profile.read_text().replace("name: here", "name: mine", 1))
    (own / "a-name-that-is-longer-than-its-column.yaml").write_text("name: x\ngpu: 5\n")
    for arguments in (
        ("profiles", "list"),
        ("profiles", "show", "mine"),
        ("profiles", "diff", "mine", "example-epyc-2-cores"),
        ("calibrate", "--fit", str(runs), "--out", "p.yaml"),
    ):
        shown = llm_perf(*arguments)
        assert shown.code == 0
        assert [line for line in shown.out.splitlines() if len(line) > 80] == []


def test_a_difference_of_machines_is_said_and_text_is_not_cut(llm_perf: Any, profile: Path) -> None:
    lines = llm_perf("profiles", "diff", str(profile), "example-epyc-2-cores").out.splitlines()
    assert lines[0] == "one     here, fitted on this CPU (Test CPU, 2 cores)"
    assert lines[1] == "other   example-epyc-2-cores, fitted on this CPU (AMD EPYC, 2 cores)"
    place = lines.index("gpu.name")
    assert lines[place + 1 : place + 3] == [
        "  one     this CPU (Test CPU, 2 cores)",
        "  other   this CPU (AMD EPYC, 2 cores)",
    ]


BROKEN_PROFILES = [
    ("name: x\nsystem_constants: {resident: {pyton_us: 1.0}}\n", "resident has no constant 'pyton_us'"),
    ("name: x\nsystem_constants: {residnt: {step_ms: 1.0}}\n", "there is no system 'residnt'"),
    ("name: None\n", "name: 'none' says that nothing fitted is used"),
    ("name: x\nprovenance: {runs: 5}\n", "provenance.runs must be a list"),
    ("name: x\nprovenance: {residuals: {total: {bias: low}}}\n", "provenance.residuals.total must have"),
    ("name: x\nprovenance: {parameters: [1]}\n", "provenance.parameters must be a mapping"),
]


@pytest.mark.parametrize(("text", "said"), BROKEN_PROFILES)
def test_a_fault_in_a_profile_is_named_wherever_it_is_given(
    llm_perf: Any, folder: Path, text: str, said: str
) -> None:
    (folder / "p.yaml").write_text(text)
    for arguments in (
        ("profiles", "show", "p.yaml"),
        ("profiles", "diff", "p.yaml", "example-epyc-2-cores"),
        ("infer", "--model", "opt-125m", "--gpu", "t4", "--profile", "p.yaml"),
        ("validate", "--profile", "p.yaml"),
    ):
        error = llm_perf(*arguments).error
        assert "p.yaml" in error
        assert said in error


def test_a_device_that_a_profile_describes_is_checked_on_whatever_machine_it_is_used(
    llm_perf: Any, profile: Path, folder: Path
) -> None:
    """On another machine its rates are not applied, so that a fault in them would pass unseen."""
    text = profile.read_text()
    assert "flops_efficiency: 1.0" in text
    for written, said in (("-0.2", "flops_efficiency"), ("fast", "flops_efficiency")):
        (folder / "p.yaml").write_text(
            text.replace("flops_efficiency: 1.0", f"flops_efficiency: {written}", 1)
        )
        for arguments in (
            ("profiles", "show", "p.yaml"),
            ("infer", "--model", "opt-125m", "--gpu", "t4", "--profile", "p.yaml"),
        ):
            error = llm_perf(*arguments).error
            assert "p.yaml" in error
            assert said in error


def test_a_broken_profile_is_listed_as_such(
    llm_perf: Any, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LLM_PERF_PROFILES", str(folder))
    (folder / "broken.yaml").write_text("name: broken\ngpu: 5\n")
    found = llm_perf("profiles", "list")
    assert found.code == 0
    assert "broken" in found.out
    assert "cannot be read" in found.out
