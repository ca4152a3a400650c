"""Reading runs: what counts, what is rejected on evidence, and every fault named with file and field."""

from __future__ import annotations

import json
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import synthetic

from calibrate.fit import Calibrator, read_runs
from calibrate.fit.observation import Observation
from calibrate.fit.run_json import run_observation
from llm_perf.errors import SpecError

MODEL = "facebook_opt-125m"


@pytest.fixture
def record() -> dict[str, Any]:
    return synthetic.run_record(MODEL, "transformers", 1, 64)


@pytest.fixture
def written(tmp_path: Path) -> Callable[..., Path]:
    def write(record: Any, name: str = "run.json") -> Path:
        path = tmp_path / name
        path.write_text(record if isinstance(record, str) else json.dumps(record))
        return path

    return write


def refused(path: Any, *said: str) -> None:
    with pytest.raises(SpecError) as raised:
        read_runs(path if isinstance(path, list) else [path])
    message = str(raised.value)
    assert "\n" not in message
    for text in said:
        assert text in message, message


# -- which files ----------------------------------------------------------------------------------------------


def test_a_folder_of_runs_is_read_without_the_logs_that_they_wrote(
    written: Callable[..., Path], record: dict[str, Any], tmp_path: Path
) -> None:
    written(record | {"log_file": "/elsewhere/run.log"})
    written("model size: of this very run", "run.log")
    assert len(read_runs([tmp_path]).observations) == 1
    written("model size: of another run", "other.log")
    refused(tmp_path, "other.log")


# -- what counts ----------------------------------------------------------------------------------------------


def test_a_run_is_the_median_of_its_calm_repeats() -> None:
    record = synthetic.run_record(
        MODEL, "transformers", 1, 64, disturbed=(False, True, False, False), slow=10.0
    )
    found = run_observation(record, "here")
    assert isinstance(found, Observation)
    assert (found.accepted, found.rejected) == (3, 1)
    assert found.measured_s["total"] == pytest.approx(record["raw"]["loops"][0]["total_s"])
    assert found.measured_s["prefill"] + found.measured_s["decode"] == pytest.approx(
        found.measured_s["total"]
    )


def test_repeats_are_rejected_for_others_cpu_time_and_never_for_their_own() -> None:
    slow = synthetic.run_record(MODEL, "transformers", 1, 64)
    for name in ("prefill_s", "total_s", "wall_s"):
        slow["raw"]["loops"][1][name] *= 3
    found = run_observation(slow, "slow but alone")
    assert isinstance(found, Observation)
    assert (found.accepted, found.rejected) == (3, 0)
    same_times = synthetic.run_record(MODEL, "transformers", 1, 64, disturbed=(True, True, False), slow=1.0)
    rejected = run_observation(same_times, "fast but disturbed")
    assert not isinstance(rejected, Observation)
    assert "2 of 3 repeats" in rejected.reason
    assert "0.80 cores" in rejected.reason


def test_contaminated_runs_do_not_reach_the_fit(tmp_path: Path) -> None:
    """Half of the repeats sixfold slower while others worked: the same profile as without them."""
    clean = read_runs([synthetic.write_microbench(tmp_path), *synthetic.write_runs(tmp_path, noise=0.02)])
    folder = tmp_path / "busy"
    folder.mkdir()
    mixed = (True, False, True, False, True, False)
    busy = read_runs(synthetic.write_runs(folder, noise=0.02, disturbed=mixed, slow=6.0))
    one, other = (Calibrator(clean.microbench).fit(found.observations) for found in (clean, busy))
    for name, value in one.values_.items():
        assert other.values_[name] == pytest.approx(value, rel=0.15)
    assert all(found.rejected == 3 for found in busy.observations)


def test_a_folder_stands_for_its_files(tmp_path: Path) -> None:
    synthetic.write_microbench(tmp_path)
    synthetic.write_runs(tmp_path)
    found = read_runs([tmp_path])
    assert len(found.observations) == 12
    assert found.microbench is not None


# -- faults ---------------------------------------------------------------------------------------------------


def test_empty_and_truncated_files(written: Callable[..., Path], record: dict[str, Any]) -> None:
    refused(written(""), "run.json: is empty")
    whole = json.dumps(record, indent=1)
    refused(written(whole[: len(whole) // 2]), "run.json:", "truncated or malformed JSON")
    refused(written('{"a":' * 60_000 + "1" + "}" * 60_000), "run.json: is nested too deeply")
    refused(written(f'{{"a": {"1" * 5000}}}'), "run.json: has a value that cannot be")
    refused(written("[1, 2]"), "run.json", "expected the object of a run")
    refused(written({"schema_version": 1}), "run.json", "field run is missing")
    refused([], "nothing to fit")
    refused(Path("/nonexistent/run.json"), "cannot be read")


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        (("status",), "interrupted", "status"),
        (("raw", "loops"), [], "raw.loops"),
        (("raw", "loops", 1, "prefill_s"), -0.2, "raw.loops[1].prefill_s = -0.2"),
        (("raw", "loops", 0, "total_s"), 0, "raw.loops[0].total_s = 0"),
        (("raw", "loops", 0, "total_s"), None, "raw.loops[0].total_s = None"),
        (("raw", "loops", 2, "prefill_s"), "fast", "raw.loops[2].prefill_s = 'fast'"),
        (("raw", "loops", 2, "decode_steps_s"), [0.01, float("nan")], "raw.loops[2].decode_steps_s[1] = nan"),
        (("raw", "loops", 2, "decode_steps_s"), 0.01, "raw.loops[2].decode_steps_s = 0.01: expected a list"),
        (("raw", "loops", 1), 0.2, "raw.loops[1]: expected the object of a repeat, found float"),
        (("raw", "loops", 1), None, "raw.loops[1]: expected the object of a repeat, found NoneType"),
        (("raw", "loops", 1, "others_cores"), "many", "raw.loops[1].others_cores = 'many'"),
        (("run",), "opt-125m", "run = 'opt-125m': expected the settings"),
        (("run", "gen_len"), "eight", "gen_len"),
        (("run", "gen_len"), float("nan"), "gen_len"),
        (("run", "batch_size"), -4, "batch_size"),
        (("run", "model_name"), "no-such-model", "no-such-model"),
        (("run", "dtype"), None, "dtype"),
        (("environment",), None, "environment is missing"),
        (("machine", "gpu"), None, "gpu"),
        (("machine", "gpu", "hbm_bandwidth_gb_per_s"), -1, "hbm_bandwidth_gb_per_s"),
        (("machine", "gpu", "efficiency"), "good", "machine.gpu: efficiency = 'good'"),
        (("machine", "gpu", "efficiency", "collective"), [], "machine.gpu: collective = []"),
        (("machine", "gpu", "efficiency", "collective", "alpha_us"), 3, "machine.gpu: alpha_us = 3"),
        (("machine", "gpu", "efficiency", "collective", "alpha_us"), {"two": 3}, "alpha_us"),
    ],
)
def test_a_fault_names_file_and_field(
    written: Callable[..., Path], record: dict[str, Any], path: tuple[Any, ...], value: Any, said: str
) -> None:
    place = record
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    refused(written(record), "run.json", said)


def test_a_total_that_leaves_no_time_for_its_steps(
    written: Callable[..., Path], record: dict[str, Any]
) -> None:
    for loop in record["raw"]["loops"]:
        loop["total_s"] = loop["wall_s"] = loop["prefill_s"]
        loop["decode_steps_s"] = []
    refused(written(record), "run.json: raw.loops: total_s", "leaves nothing for", "prefill_s")


def test_units_that_slipped(written: Callable[..., Path], record: dict[str, Any], tmp_path: Path) -> None:
    """Milliseconds in one field contradict the others; in all of them they contradict the machine."""
    one = deepcopy(record)
    one["raw"]["loops"][0]["total_s"] *= 1e3
    refused(written(one), "raw.loops[0].total_s", "another unit")
    steps = deepcopy(record)
    steps["raw"]["loops"][0]["decode_steps_s"] = [1e3 * s for s in steps["raw"]["loops"][0]["decode_steps_s"]]
    refused(written(steps), "raw.loops[0]", "another unit")
    whole = deepcopy(record)
    for loop in whole["raw"]["loops"]:
        for name in ("prefill_s", "total_s", "wall_s"):
            loop[name] *= 1e3
        loop["decode_steps_s"] = [1e3 * s for s in loop["decode_steps_s"]]
    path = written(whole, "milliseconds.json")
    bench = synthetic.write_microbench(tmp_path)
    found = read_runs([bench, path])
    with pytest.raises(SpecError, match=r"milliseconds.json: .* another unit"):
        Calibrator(found.microbench).fit(found.observations)


def test_the_same_run_twice(written: Callable[..., Path], record: dict[str, Any]) -> None:
    first, copy = written(record, "first.json"), written(record, "copy.json")
    refused([first, first], "first.json: given twice")
    refused([first, copy], "copy.json", "raw.loops are those of", "first.json")


def test_runs_of_two_machines(written: Callable[..., Path], record: dict[str, Any]) -> None:
    other = synthetic.run_record(MODEL, "transformers", 4, 64)
    other["environment"]["cpu"]["name"] = "Other CPU"
    refused(
        [written(record, "a.json"), written(other, "b.json")], "b.json: environment:", "Other CPU", "a.json"
    )
    more = synthetic.run_record(MODEL, "transformers", 4, 64)
    more["environment"]["cpu"]["usable_cores"] = 16
    refused([written(record, "a.json"), written(more, "b.json")], "b.json: environment:", "16")


def test_microbenchmarks_of_another_machine_than_the_runs(
    written: Callable[..., Path], record: dict[str, Any], tmp_path: Path
) -> None:
    bench = synthetic.write_microbench(tmp_path)
    assert read_runs([bench, written(record)]).microbench is not None
    other = json.loads(bench.read_text())
    other["environment"]["cpu"]["usable_cores"] = 64
    refused([written(other, "other.json"), written(record)], "other.json: environment:", "64", "run.json")


MICROBENCH_FAULTS = [
    ((), "device", None, "device = None: expected cpu or cuda"),
    ((), "dtypes", [], "dtypes = []"),
    ((), "dtypes", None, "dtypes is missing"),
    ((), "environment", None, "environment is missing"),
    (("environment", "memory"), "total_bytes", -1, "environment.memory.total_bytes = -1"),
    (("environment", "cpu"), "usable_cores", "two", "environment.cpu.usable_cores = 'two'"),
    (("environment", "device"), "kind", None, "environment.device.kind is missing"),
    (("items",), 0, None, "items[0]: expected an object, found NoneType"),
    (("items", 0), "kind", None, "items[0].kind = None"),
    (("items", 0), "settings", 5, "items[0].settings"),
    (("items", 0), "median_s", None, "items[0].median_s = None"),
    (("items", 0), "median_s", -1.0, "items[0].median_s = -1.0"),
]


@pytest.mark.parametrize(("path", "key", "value", "said"), MICROBENCH_FAULTS)
def test_a_fault_in_microbenchmarks_names_file_and_field(
    written: Callable[..., Path], tmp_path: Path, path: tuple[Any, ...], key: Any, value: Any, said: str
) -> None:
    bench = json.loads(synthetic.write_microbench(tmp_path).read_text())
    place = bench
    for step in path:
        place = place[step]
    place[key] = value
    refused(written(bench, "bench.json"), "bench.json: ", said)


@pytest.mark.parametrize("value", [None, "x", -1, [], {}, float("nan")])
def test_whatever_stands_in_an_item_is_read_or_refused(
    written: Callable[..., Path], tmp_path: Path, value: Any
) -> None:
    """Each field that the laws are fitted to, of one item of each kind."""
    bench = json.loads(synthetic.write_microbench(tmp_path).read_text())
    kinds = {item["kind"]: number for number, item in reversed(list(enumerate(bench["items"])))}
    fields = {
        "gemm": ("settings.m", "settings.k", "settings.n", "settings.dtype", "work.bytes"),
        "attention_prefill": ("settings.length", "work.flops", "work.bytes"),
        "attention_decode": ("work.flops", "work.bytes"),
    }
    assert set(fields) <= set(kinds)
    for kind, names in fields.items():
        for name in names:
            broken = deepcopy(bench)
            part, _, field = name.partition(".")
            broken["items"][kinds[kind]][part][field] = value
            if name == "settings.dtype" and value == "x":
                continue  # a name like another
            refused(written(broken, "bench.json"), f"bench.json: items[{kinds[kind]}].{name} = ")


def test_other_versions_are_a_warning(written: Callable[..., Path], record: dict[str, Any]) -> None:
    other = synthetic.run_record(MODEL, "transformers", 4, 64)
    other["environment"]["versions"]["torch"] = "2.11.0"
    found = read_runs([written(record, "a.json"), written(other, "b.json")])
    assert len(found.warnings) == 1
    assert "torch 2.13.0 and 2.11.0" in found.warnings[0]


# -- logs and tables ------------------------------------------------------------------------------------------

LOG = """model size: 55.803 GB	cache size: 0.747 GB	hidden size (p): 0.008 GB
peak gpu mem: 3.0 GB	prefill latency: {prefill:.3f} s	prefill throughput: 80.000 token/s
decode latency: {decode:.3f} s	decode throughput: 0.150 token/s
total latency: {total:.3f} s	total throughput: 0.155 token/s
"""
LOG_NAME = "ds-opt-30b-bs1-prompt512-gen32-n1x1-cpu.log"


def log(prefill: float = 6.4, decode: float = 200.0, total: float | None = None) -> str:
    return LOG.format(prefill=prefill, decode=decode, total=prefill + decode if total is None else total)


def test_a_benchmark_log_is_a_run(written: Callable[..., Path]) -> None:
    path = written(log() + log(6.5, 201.0), LOG_NAME)
    found = read_runs([path], gpu="t4").observations
    assert [one.measured_s["prefill"] for one in found] == [6.4, 6.5]
    scenario = found[0].scenario
    assert (scenario.system, scenario.model.name, scenario.gpu.name) == (
        "zero_inference",
        "facebook/opt-30b",
        "T4-16GB",
    )
    assert scenario.offload.weights is not None
    assert scenario.offload.weights.cpu == 1
    assert found[0].machine.host == "gcp-t4"


def test_a_flexgen_log_is_a_run(written: Callable[..., Path]) -> None:
    name = "fo-opt-30b-gbs48-ngbs3-prompt512-gen32-percent-20-80-0-100-0-100-gpu-cache-compw.log"
    found = read_runs([written(log(150, 700), name)], gpu="t4").observations[0]
    scenario = found.scenario
    assert scenario.system == "flexgen"
    assert (scenario.workload.batch_size, scenario.dtype.weight_bits) == (144, 4)
    assert scenario.offload.weights is not None
    assert scenario.offload.weights.gpu == pytest.approx(0.2)


def test_faults_of_logs(written: Callable[..., Path]) -> None:
    path = written(log(), LOG_NAME)
    refused([path], LOG_NAME, "give --gpu")
    with pytest.raises(SpecError, match="the name does not say what ran"):
        read_runs([written(log(), "mine.log")], gpu="t4")
    for text, said in (
        ("", "is empty"),
        (log() + log(), "record 2: every figure is that of record 1"),
        (log(-1.0), "prefill_latency_s = -1.0"),
        (log(6400.0, 200.0, 206.4), "another unit"),
        (log()[:120], LOG_NAME.removesuffix(".log")),
    ):
        with pytest.raises(SpecError) as raised:
            read_runs([written(text, LOG_NAME)], gpu="t4")
        assert said in str(raised.value) or "log" in str(raised.value)


CSV = "system,model,gpu,batch_size,prompt_len,gen_len,weights,total_latency_s,prefill_latency_s\n"


def test_a_table_is_runs(written: Callable[..., Path]) -> None:
    path = written(
        CSV
        + "zero_inference,opt-30b,t4,1,512,32,cpu,205,6.4\nzero_inference,opt-30b,t4,4,512,32,0.1/0.9/0,207,\n",
        "runs.csv",
    )
    found = read_runs([path]).observations
    assert found[0].measured_s == {"prefill": 6.4, "total": 205.0}
    assert found[1].scenario.offload.weights is not None
    assert found[1].scenario.offload.weights.gpu == pytest.approx(0.1)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "is empty"),
        ("system,model,total_latency_ms\nx,y,1\n", "column 'total_latency_ms' is unknown"),
        (CSV + "zero_inference,opt-30b,t4,1,512,32,cpu,-205,\n", "runs.csv:2: total_latency_s = -205"),
        (CSV + "zero_inference,opt-30b,t4,1,512,32,cpu,,\n", "runs.csv:2: no time is given"),
        (CSV + "zero_inference,opt-30b,t4,none,512,32,cpu,205,\n", "batch_size = 'none'"),
        (CSV + "zero_inference,opt-30b,t4,1,512,32,shelf,205,\n", "weights = 'shelf'"),
        (CSV + "zero_inference,,t4,1,512,32,cpu,205,\n", "column 'model' is missing"),
        (CSV + "zero_inference,opt-30b,t4,1,512,32,cpu,205,\n" * 2, "runs.csv:3: is row 2 again"),
        (
            CSV + "zero_inference,opt-30b,t4,1,512,32,cpu,205,6,7,8\n",
            "runs.csv:2: has 11 cells, the header 9",
        ),
        (
            CSV
            + "zero_inference,opt-30b,t4,1,512,32,cpu,205,6\nzero_inference,opt-30b,t4,2,512,32,cpu,9,2,1\n",
            "runs.csv:3: has 10 cells, the header 9",
        ),
        (
            CSV + "zero_inference,opt-30b,t4,1,512,32,cpu,205,300\n",
            "prefill_latency_s = 300 is more than total",
        ),
        (
            CSV + "zero_inference,opt-30b,t4,1,512,1,cpu,205,6.4\n",
            "gen_len = 1 has no decode steps, but 198.6 s",
        ),
        ("system,model,model\nx,y,z\n", "runs.csv: column 'model' is there twice"),
    ],
)
def test_faults_of_tables(written: Callable[..., Path], text: str, said: str) -> None:
    refused(written(text, "runs.csv"), said)


def test_a_table_of_a_spreadsheet_is_read(written: Callable[..., Path]) -> None:
    path = written("\ufeff" + CSV + "zero_inference,opt-30b,t4,1,512,32,cpu,205,6.4\n", "runs.csv")
    assert len(read_runs([path]).observations) == 1


def test_a_log_that_is_none_is_named(written: Callable[..., Path]) -> None:
    path = written("nothing of this kind", "ds-opt-30b-bs1-prompt512-gen32-n1x1-cpu.log")
    with pytest.raises(SpecError, match=r"gen32-n1x1-cpu\.log: benchmark log, line 1"):
        read_runs([path], gpu="t4")


def test_other_files(written: Callable[..., Path]) -> None:
    refused(written("x", "notes.txt"), "notes.txt", "expected a .json")


def test_equal_times_on_two_machines_are_two_machines_and_under_two_systems_two_runs(tmp_path: Path) -> None:
    head = "model,gpu,batch_size,prompt_len,gen_len,system,total_latency_s\n"
    row = "opt-1.3b,{},1,512,32,{},1.5\n"
    path = tmp_path / "runs.csv"
    path.write_text(head + row.format("t4", "resident") + row.format("a40", "resident"))
    refused(path, "runs.csv:3", "gpu is 'A40-48GB'", "several machines")
    path.write_text(head + row.format("t4", "resident") + row.format("t4", "vllm"))
    assert len(read_runs([path]).observations) == 2
    again = tmp_path / "again.csv"
    again.write_text(head + row.format("t4", "resident"))
    refused([path, again], "again.csv:2", "settings and times are those of", "given twice")
