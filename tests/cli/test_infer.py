"""`llm-perf infer` as its user meets it: the report, the JSON object, replay, files, explanations."""

from __future__ import annotations

import ast
import json
import operator
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from llm_perf.analysis.inference import predict_inference
from llm_perf.analysis.request import InferenceInputs, build_scenario
from llm_perf.config import get_model_config_by_name
from llm_perf.report.benchmark_log import (
    cache_bytes,
    hidden_bytes,
    model_bytes,
    parse_benchmark_log,
    write_benchmark_log,
)
from llm_perf.report.inference_text import log_section
from llm_perf.systems import system_names
from llm_perf.systems.registry import family_of
from tests.cli.machines import on_its_machine

DEMO = ("--model", "opt-175b", "--gpu", "t4", "--ds-zero", "3")
SMALL = ("--model", "opt-1.3b", "--gpu", "t4")
# A host of which everything is known, so that every system can be priced on it.
GIB = 2**30

CASES = {
    "demo": DEMO,
    "resident": SMALL,
    "one token": (*SMALL, "--gen-len", "1"),
    "batch": (*SMALL, "--batch-size", "8", "--kv-bits", "8"),
    "does not fit": ("--model", "opt-175b", "--gpu", "t4"),
    "from the CPU": ("--model", "opt-30b", "--gpu", "t4", "--ds-zero", "3", "--kv-offload", "--batch-size", "4"),
    "quantised": ("--model", "opt-30b", "--gpu", "a100-sxm-80gb", "--quant-bits", "4"),
    "tensor parallel": ("--model", "llama-2-70b", "--gpu", "a100-sxm-80gb", "--tp-size", "4", "--pp-size", "2"),
    "stack": ("--model", "opt-13b", "--gpu", "a100-sxm-40gb", "--system", "fastertransformer"),
    "experts": (
        "--model", "mixtral-8x7b", "--gpu", "h100-sxm-80gb", "--dp-size", "4", "--ep-size", "4", "--batch-size", "8",
    ),
    "replicas": ("--model", "opt-30b", "--gpu", "t4", "--ds-zero", "3", "--dp-size", "4", "--batch-size", "4"),
    "latent attention": ("--model", "deepseek-v2-lite", "--gpu", "a100-sxm-80gb"),
    "windows": ("--model", "gemma-2-9b", "--gpu", "l40s", "--prompt-len", "5000"),
    "encoder": ("--model", "bert-base", "--gpu", "t4", "--prompt-len", "384"),
    "priced": (*SMALL, "--cost-per-gpu-hour", "0.35"),
    "efficiencies": (*SMALL, "--flops-efficiency", "0.5", "--hbm-memory-efficiency", "0.7"),
    "32-bit": (*SMALL, "--weight-bits", "32", "--activation-bits", "32"),
    "8-bit products": ("--model", "opt-1.3b", "--gpu", "v100-sxm-32gb", "--weight-bits", "8", "--activation-bits", "8"),
}  # fmt: skip
CASES |= {f"system {name}": on_its_machine(name) for name in system_names()}


@pytest.fixture(params=CASES)
def case(request: pytest.FixtureRequest) -> tuple[str, ...]:
    return CASES[request.param]


# -- the demo -------------------------------------------------------------------------------------------------


def test_demo_report_says_where_why_what_bounds_and_what_was_measured(infer: Any) -> None:
    outcome = infer(*DEMO)
    text = " ".join(outcome.out.split())  # lines are wrapped
    assert outcome.code == 0
    assert "Weights on: NVMe" in text
    assert "325.2 GiB of weights fit neither the GPU's 16 GiB nor the host's 208 GiB" in text
    assert len(re.findall(r"^(?:prefill|decode) .*NVMe reads \(busy \d+%\)", outcome.out, re.MULTILINE)) == 2
    assert "row 1504" in text
    assert "measured 5,008 s" in text
    assert "FMInference/FlexGen" in text
    for heading in ("memory", "one GPU", "one host", "its NVMe", "largest batch", "longest context"):
        assert heading in text


def test_demo_numbers_agree_with_the_measured_run(infer: Any) -> None:
    found = infer(*DEMO, "--json").json
    assert found["feasible"] is True
    assert found["reason"] is None
    assert found["placement"]["weights"] == {"gpu": 0.0, "cpu": 0.0, "nvme": 1.0}
    assert found["prefill"]["bottleneck"] == found["decode"]["bottleneck"] == "nvme"
    assert found["total"]["latency_s"] == pytest.approx(5008, rel=0.15)
    nearest = found["nearest_measurement"]
    assert nearest["row_id"] == 1504
    total = next(entry for entry in nearest["quantities"] if entry["quantity"] == "total_latency_s")
    assert total["measured"] == pytest.approx(5008, rel=1e-3)
    assert total["error"] == pytest.approx((total["predicted"] - total["measured"]) / total["measured"])
    assert total["predicted"] == pytest.approx(found["total"]["latency_s"])
    assert found["memory"]["nvme"]["weights_bytes"] == pytest.approx(325.2 * GIB, rel=1e-3)


# -- the JSON object ------------------------------------------------------------------------------------------

MEMORY_PARTS = ("weights_bytes", "kv_cache_bytes", "activations_bytes", "buffers_bytes", "reserved_bytes")
TIERS = {"gpu", "cpu", "nvme"}
KEYS = {
    "schema_version", "inputs", "feasible", "reason", "placement", "memory", "max_batch_size", "max_context_len",
    "nearest_measurement", "prefill", "decode", "total", "benchmark_log", "interval", "cost", "energy", "pipeline",
    "pivot", "warnings", "no_interval", "system", "system_version", "ttft_s", "tpot_s",
}  # fmt: skip


def test_json_is_one_object_with_every_key(infer: Any, case: tuple[str, ...]) -> None:
    outcome = infer(*case, "--json")
    found = outcome.json
    assert outcome.out.count("\n") == 1
    assert outcome.err == ""
    assert found.keys() >= KEYS
    assert found["schema_version"] == 1
    assert found["inputs"].keys() == InferenceInputs.model_fields.keys()
    assert found["placement"].keys() >= {"weights", "kv_cache", "activations"}
    for kind in ("weights", "kv_cache", "activations"):
        assert found["placement"][kind].keys() == TIERS
        assert sum(found["placement"][kind].values()) == pytest.approx(1)
    assert found["prefill"].keys() >= {"latency_s", "throughput_tokens_per_s", "bottleneck", "breakdown_s"}
    assert found["decode"].keys() >= {
        "latency_s", "latency_per_token_s", "throughput_tokens_per_s", "bottleneck", "breakdown_s",
    }  # fmt: skip
    assert found["total"].keys() >= {"latency_s", "throughput_tokens_per_s"}
    assert isinstance(found["max_batch_size"], int)
    assert isinstance(found["max_context_len"], int)
    assert isinstance(found["benchmark_log"], str)


def test_json_memory_parts_sum_to_the_total(infer: Any, case: tuple[str, ...]) -> None:
    found = infer(*case, "--json").json
    assert found["memory"].keys() == TIERS
    for tier in found["memory"].values():
        assert tier.keys() >= {*MEMORY_PARTS, "total_bytes", "capacity_bytes"}
        assert sum(tier[part] for part in MEMORY_PARTS) == tier["total_bytes"]
    fits = all(tier["total_bytes"] <= tier["capacity_bytes"] for tier in found["memory"].values())
    assert found["feasible"] is fits
    assert (found["reason"] is None) is fits


def test_json_phases_sum_to_the_total(infer: Any, case: tuple[str, ...]) -> None:
    found = infer(*case, "--json").json
    for phase in (found["prefill"], found["decode"]):
        assert sum(phase["breakdown_s"].values()) == pytest.approx(phase["latency_s"] or 0, rel=1e-9)
        assert all(seconds >= 0 for seconds in phase["breakdown_s"].values())
    decode_s = found["decode"]["latency_s"] or 0
    assert found["prefill"]["latency_s"] + decode_s == pytest.approx(found["total"]["latency_s"])


@pytest.mark.parametrize("name", ["one token", "encoder"])
def test_without_decode_steps_decode_is_null(infer: Any, name: str) -> None:
    decode = infer(*CASES[name], "--json").json["decode"]
    for key in ("latency_s", "latency_per_token_s", "throughput_tokens_per_s", "bottleneck"):
        assert decode[key] is None
    assert decode["breakdown_s"] == {}
    log = infer(*CASES[name], "--json").json["benchmark_log"]
    assert "decode latency: 0.000 s\tdecode throughput: 0.000 token/s" in log


def test_json_equals_the_python_api(infer: Any) -> None:
    found = infer(*DEMO, "--json").json
    result = predict_inference(build_scenario(InferenceInputs(model="opt-175b", gpu="t4", ds_zero=3)))
    assert found["total"]["latency_s"] == result.total_latency_s
    assert found["max_batch_size"] == result.max_batch_size
    assert found["decode"]["breakdown_s"] == (result.decode.breakdown_s if result.decode else None)


def test_cost_is_what_all_gpus_cost(infer: Any) -> None:
    flags = ("--model", "opt-30b", "--gpu", "a100-sxm-80gb", "--tp-size", "2", "--cost-per-gpu-hour", "3.6")
    found = infer(*flags, "--json").json
    assert found["cost"]["total"] == pytest.approx(2 * 3.6 / 3600 * found["total"]["latency_s"])
    tokens = 32 / 1000
    assert found["cost"]["total_per_1k_tokens"] == pytest.approx(found["cost"]["total"] / tokens)
    assert "at $3.6 per GPU-hour." in " ".join(infer(*flags).out.split())
    assert infer(*SMALL, "--json").json["cost"]["source"]  # the list's price, where none is given


# -- the benchmark log ----------------------------------------------------------------------------------------


def _expected_log(found: dict[str, Any], path: Path) -> str:
    """What the function of the real run writes for the numbers of a JSON object."""
    model = get_model_config_by_name(found["inputs"]["model"])
    batch, length = found["inputs"]["batch_size"], found["inputs"]["prompt_len"] + found["inputs"]["gen_len"]
    gpu = found["memory"]["gpu"]
    return write_benchmark_log(
        path,
        model_bytes(model),
        cache_bytes(model, batch, length),
        hidden_bytes(model, batch, length),
        gpu["total_bytes"] - gpu["reserved_bytes"],
        found["prefill"]["latency_s"],
        found["prefill"]["throughput_tokens_per_s"],
        found["decode"]["latency_s"],
        found["decode"]["throughput_tokens_per_s"],
        found["total"]["latency_s"],
        found["total"]["throughput_tokens_per_s"],
    )


def test_log_is_the_real_runs_to_the_byte(infer: Any, case: tuple[str, ...], folder: Path) -> None:
    found = infer(*case, "--json").json
    wanted = _expected_log(found, folder / "expected.log")
    assert found["benchmark_log"] == wanted
    ends = infer(*case).out.endswith(f"\n{wanted}\n")  # as it is: neither wrapped nor stripped of its tabs
    system = found["inputs"]["system"] or (
        "zero_inference" if found["inputs"]["ds_zero"] == 3 else "resident"
    )
    assert ends == family_of(system).benchmark_log


def test_a_terminal_breaks_the_log_between_its_fields() -> None:
    asked = InferenceInputs(
        model="opt-175b", gpu="t4", ds_zero=3, batch_size=64, prompt_len=1024, gen_len=500
    )
    result = predict_inference(build_scenario(asked))
    whole, narrow = log_section(result), log_section(result, 80)
    assert max(len(line.expandtabs()) for line in whole.splitlines()) > 80
    assert max(len(line.expandtabs()) for line in narrow.splitlines()) <= 80
    assert parse_benchmark_log(narrow) == parse_benchmark_log(whole)
    assert log_section(result, 200) == whole


def test_log_file_is_appended_to(infer: Any, folder: Path) -> None:
    (folder / "runs.log").write_text("before\n")
    first, second = infer(*DEMO, "--log-file", "runs.log"), infer(*SMALL, "--log-file", "runs.log", "--json")
    assert (first.code, second.code) == (0, 0)
    demo = infer(*DEMO, "--json").json["benchmark_log"]
    assert (folder / "runs.log").read_text() == f"before\n{demo}\n{second.json['benchmark_log']}\n"


@pytest.mark.parametrize(
    ("flags", "name"),
    [
        (DEMO, "ds-opt-175b-bs1-prompt512-gen32-n1x1-disk.log"),
        (CASES["from the CPU"], "ds-opt-30b-bs4-prompt512-gen32-n1x1-cpu-kv_offload.log"),
        (CASES["quantised"], "ds-opt-30b-bs1-prompt512-gen32-n1x1-gpu-w_quant.log"),
        (
            (*CASES["tensor parallel"], "--num-nodes", "2"),
            "ds-llama-2-70b-hf-bs1-prompt512-gen32-n2x4-gpu.log",
        ),
    ],
)
def test_log_file_auto_is_named_after_the_configuration(
    infer: Any, folder: Path, flags: tuple[str, ...], name: str
) -> None:
    outcome = infer(*flags, "--log-file", "auto")
    assert [path.name.lower() for path in folder.iterdir()] == [name]
    assert next(folder.iterdir()).name in outcome.err  # where it went is no result
    assert outcome.out == infer(*flags).out


# -- files of inputs and results ------------------------------------------------------------------------------


def test_json_replays_through_config(infer: Any, case: tuple[str, ...], folder: Path) -> None:
    first = infer(*case, "--json")
    assert first.json["inputs"]["model"] in case
    (folder / "answer.json").write_text(first.out)
    again = infer("--config", "answer.json", "--json")
    assert (again.out, again.code) == (first.out, first.code)


def test_flags_win_over_the_file(infer: Any, folder: Path) -> None:
    given = {"model": "opt-6.7b", "gpu": "v100-sxm-32gb", "batch_size": 4, "gen_len": 8, "kv_bits": 8}
    (folder / "question.yaml").write_text(yaml.safe_dump(given))
    found = infer("--config", "question.yaml", "--gpu", "t4", "--batch-size", "2", "--json").json
    assert found["inputs"] | {"gpu": "t4", "batch_size": 2} == found["inputs"]
    assert found["inputs"] | {"model": "opt-6.7b", "gen_len": 8, "kv_bits": 8} == found["inputs"]
    assert infer("--config", "question.yaml", "--no-prefetch", "--json").json["inputs"]["prefetch"] is False


@pytest.mark.parametrize(
    ("name", "write"),
    [("q.yaml", yaml.safe_dump), ("q.yml", yaml.safe_dump), ("q.json", json.dumps), ("q", json.dumps)],
)
def test_config_may_be_yaml_or_json(infer: Any, folder: Path, name: str, write: Callable[[Any], str]) -> None:
    given = {"model": "opt-1.3b", "gpu": "t4", "batch_size": 3}
    (folder / name).write_text(write(given))
    plain = infer("--config", name, "--json")
    (folder / name).write_text(write({"inputs": given, "total": {"latency_s": 1.0}}))
    nested = infer("--config", name, "--json")
    assert plain.out == nested.out == infer(*SMALL, "--batch-size", "3", "--json").out


def test_output_dir_gets_one_file_per_question(infer: Any, folder: Path) -> None:
    flags = (*SMALL, "--gpu", "h100-sxm-80gb")
    outcome = infer(*flags, "--output-dir", "results/today", "--json")
    files = sorted((folder / "results/today").iterdir())
    assert len(files) == 2
    assert all(str(path.relative_to(folder)) in outcome.err for path in files)
    written = sorted(
        (json.loads(path.read_text()) for path in files), key=lambda found: found["inputs"]["gpu"]
    )
    assert written == sorted(outcome.json["comparison"], key=lambda found: found["inputs"]["gpu"])
    infer(*flags, "--output-dir", "results/today")
    assert sorted((folder / "results/today").iterdir()) == files  # the same question, the same files
    infer(*flags, "--output-dir", "results/today", "--kv-bits", "8")
    assert len(list((folder / "results/today").iterdir())) == 4


def test_output_dir_is_written_whole_or_not_at_all(
    infer: Any, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second of two files cannot be written: the first, and the new folder, are gone too."""
    write, calls = Path.write_text, []

    def full_disk(path: Path, text: str, **settings: Any) -> int:
        calls.append(path)
        if len(calls) == 2:
            write(path, text[:10], **settings)
            raise OSError(28, "No space left on device")
        return write(path, text, **settings)

    monkeypatch.setattr(Path, "write_text", full_disk)
    outcome = infer(*SMALL, "--gpu", "l4", "--output-dir", "a/b", "--log-file", "x.log")
    assert "No space left on device" in outcome.error
    assert len(calls) == 2
    assert list(folder.iterdir()) == []


def test_names_of_users_specs_are_text(infer: Any, llm_perf: Any, folder: Path) -> None:
    """Neither rich's markup nor a path: "[/x]" would be an error in markup, "../" would leave the folder."""
    spec = yaml.safe_load(llm_perf("gpus", "show", "t4").out) | {"name": "../[/x] :smile:"}
    (folder / "mine.yaml").write_text(yaml.safe_dump(spec))
    flags = ("--model", "opt-175b", "--gpu", "mine.yaml")
    for several in ((), ("--gpu", "t4")):
        outcome = infer(*flags, *several, "--output-dir", "results", "--explain")
        assert outcome.code == 3
        assert "../[/x] :smile:" in outcome.out
    assert {path.name for path in folder.iterdir()} == {"mine.yaml", "results"}
    assert {path.suffix for path in (folder / "results").iterdir()} == {".json"}


# -- several GPUs ---------------------------------------------------------------------------------------------


def test_two_gpus_are_compared(infer: Any) -> None:
    flags = ("--model", "opt-30b", "--ds-zero", "3", "--gpu", "t4", "--gpu", "h200")
    table, found = infer(*flags), infer(*flags, "--json").json
    assert table.code == 0
    assert re.search(r"^T4-16GB +host +\d", table.out, re.MULTILINE)
    assert re.search(r"^H200-SXM-141GB +GPU +\d", table.out, re.MULTILINE)
    assert found.keys() == {"schema_version", "comparison"}
    assert [entry["inputs"]["gpu"] for entry in found["comparison"]] == ["t4", "h200"]
    alone = infer("--model", "opt-30b", "--ds-zero", "3", "--gpu", "h200", "--json").json
    assert found["comparison"][1] == alone


def test_a_comparison_replays(infer: Any, folder: Path) -> None:
    first = infer(*SMALL, "--gpu", "l4", "--batch-size", "2", "--json")
    (folder / "both.json").write_text(first.out)
    assert infer("--config", "both.json", "--json").out == first.out
    (folder / "both.yaml").write_text("model: opt-1.3b\nbatch_size: 2\ngpu: [t4, l4]\n")
    assert infer("--config", "both.yaml", "--json").out == first.out
    assert infer("--config", "both.yaml", "--gpu", "l4", "--json").json["inputs"]["gpu"] == "l4"


def test_a_comparison_says_what_does_not_fit(infer: Any) -> None:
    flags = ("--model", "opt-30b", "--gpu", "t4", "--gpu", "h200")
    outcome = infer(*flags)
    assert outcome.code == 0  # one of them does
    assert re.search(r"^T4-16GB .* no$", outcome.out, re.MULTILINE)
    assert re.search(r"^H200-SXM-141GB .* yes$", outcome.out, re.MULTILINE)
    assert re.search(r"^T4-16GB: GPU memory: .*GiB missing", " ".join(outcome.out.split("\n")[9:]))
    assert infer("--model", "opt-30b", "--gpu", "t4", "--gpu", "l4").code == 3


# -- what does not fit ----------------------------------------------------------------------------------------

TOO_LARGE = {
    "weights": ("--model", "opt-175b", "--gpu", "t4"),
    "batch": ("--model", "opt-13b", "--gpu", "a100-sxm-40gb", "--batch-size", "64"),
    "8 bits": ("--model", "opt-66b", "--gpu", "a100-sxm-80gb", "--weight-bits", "8", "--batch-size", "40"),
    "stack": ("--model", "opt-30b", "--gpu", "t4", "--system", "ft", "--num-gpus", "1", "--tp-size", "1"),
    "host": (*DEMO, "--cpu-offload"),
    "cache": (*DEMO, "--batch-size", "300"),
    "replicas": ("--model", "opt-13b", "--gpu", "t4", "--dp-size", "2", "--batch-size", "2"),
}


def _with_change(flags: tuple[str, ...], change: str) -> list[str]:
    """Apply a suggestion as a reader would: leave out what it says to leave out, add the rest."""
    added, _, dropped = change.partition(" without ")
    given = list(flags)
    for flag in dropped.split(", ") if dropped else []:
        position = given.index(flag)
        del given[position : position + 2]
    return [*given, *added.split()]


@pytest.mark.parametrize("name", TOO_LARGE)
def test_what_does_not_fit_is_reported_with_a_change_that_fits(infer: Any, name: str) -> None:
    flags = TOO_LARGE[name]
    outcome, found = infer(*flags), infer(*flags, "--json").json
    assert outcome.code == 3
    assert outcome.err == ""
    assert found["feasible"] is False
    assert re.search(r"[\d,.]+ GiB needed, [\d,.]+ GiB usable, [\d,.]+ GiB missing", found["reason"])
    assert "Does not fit." in outcome.out
    suggestions = found["suggestions"]
    assert suggestions
    assert suggestions[0]["change"] in " ".join(outcome.out.split())
    for suggestion in suggestions:
        changed = infer(*_with_change(flags, suggestion["change"]), "--json")
        assert changed.code == 0, suggestion
        wanted = found["inputs"] | suggestion["inputs"]
        assert {key: value for key, value in changed.json["inputs"].items() if value != wanted[key]} == {}


def test_a_smaller_batch_that_is_suggested_is_the_largest_that_fits(infer: Any) -> None:
    flags = TOO_LARGE["batch"]
    suggested = infer(*flags, "--json").json["suggestions"][0]["inputs"]
    assert infer(*flags, "--batch-size", str(suggested["batch_size"])).code == 0
    assert infer(*flags, "--batch-size", str(suggested["batch_size"] + 1)).code == 3


# -- explanations ---------------------------------------------------------------------------------------------

OPERATORS: dict[type[ast.operator], Callable[[float, float], float]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.Pow: operator.pow,
}


def arithmetic(text: str) -> float:
    """The value of a formula, as a calculator gives it: numbers, + - * / ** and brackets, nothing else."""

    def value(node: ast.expr) -> float:
        if isinstance(node, ast.Constant) and isinstance(node.value, (int, float)):
            return node.value
        assert isinstance(node, ast.BinOp), ast.dump(node)
        return OPERATORS[type(node.op)](value(node.left), value(node.right))

    return value(ast.parse(text, mode="eval").body)


def test_each_explained_number_follows_from_its_expression(infer: Any, case: tuple[str, ...]) -> None:
    explained = infer(*case, "--json", "--explain").json["explanations"]
    assert len(explained) >= 6
    for entry in explained:
        assert entry.keys() >= {"name", "formula", "expression", "value", "unit"}
        assert arithmetic(entry["expression"]) == pytest.approx(entry["value"], rel=1e-9, abs=0), entry[
            "name"
        ]


def test_explanations_are_of_the_numbers_in_the_report(infer: Any) -> None:
    found = infer(*DEMO, "--json", "--explain").json
    values = {entry["name"]: entry["value"] for entry in found["explanations"]}
    assert values["prefill latency"] == found["prefill"]["latency_s"]
    assert values["decode latency"] == found["decode"]["latency_s"]
    assert values["total throughput"] == found["total"]["throughput_tokens_per_s"]
    assert values["NVMe memory"] == pytest.approx(found["memory"]["nvme"]["total_bytes"], abs=1)


def test_explanations_are_printed_after_the_report(infer: Any) -> None:
    plain, explained = infer(*DEMO), infer(*DEMO, "--explain")
    assert explained.out.startswith(plain.out)
    added = " ".join(explained.out.removeprefix(plain.out).split())
    for entry in infer(*DEMO, "--json", "--explain").json["explanations"]:
        assert entry["name"] in added
        assert " ".join(entry["expression"].split()) in added
        assert " ".join(entry["source"].split()) in added


@pytest.mark.parametrize(
    ("system", "version"),
    [("vllm@0.2", "0.1 to 0.2 (2023), eager, without CUDA graphs"), ("resident", None)],
)
def test_the_report_says_which_versions_its_constants_are_of(llm_perf, system, version):
    asked = ("infer", "--model", "opt-13b", "--gpu", "a100-sxm-80gb", "--system", system)
    assert llm_perf(*asked, "--json").json["system_version"] == version
    text = llm_perf(*asked).out
    family = system.partition("@")[0]
    assert (f"constants as of {family} {version}" in text) == (version is not None)
    assert version is not None or "constants as of" not in text


def test_constants_of_a_profile_are_of_no_published_version(llm_perf, folder):
    (folder / "mine.yaml").write_text("name: mine\nsystem_constants: {vllm: {python_us_per_layer: 100}}\n")
    asked = ("--model", "opt-13b", "--gpu", "a100-sxm-80gb", "--system", "vllm", "--profile", "mine.yaml")
    assert llm_perf("infer", *asked, "--json").json["system_version"] is None


@pytest.mark.parametrize("name", TOO_LARGE)
def test_what_does_not_fit_says_so_before_any_time(infer: Any, name: str) -> None:
    out = infer(*TOO_LARGE[name]).out
    assert 0 < out.index("Does not fit.") < out.index("prefill (TTFT)")


def test_a_format_that_the_gpu_holds_comes_before_a_division(infer: Any) -> None:
    """So do more GPUs of a kind that stands in eights, and streaming weights, which is slower, is none of four."""
    changes = infer("--model", "llama-3.1-70b", "--gpu", "h100-sxm-80gb", "--json").json["suggestions"]
    assert [next(iter(change["inputs"])) for change in changes] == [
        "weight_format",
        "weight_format",
        "tp_size",
        "system",
    ]
    eight, four, _, divided = changes
    assert (eight["inputs"]["weight_format"], four["inputs"]["weight_format"]) == ("fp8", "awq")
    assert four["tokens_per_s"] > eight["tokens_per_s"] > 5 * divided["tokens_per_s"]


def test_the_log_says_where_its_own_size_is_not_that_of_the_weights(infer: Any) -> None:
    """For OPT the log's formula is exact to a part in a thousand; Llama's blocks are gated, its heads share keys."""
    said = "'model size' is the log's own formula"
    assert said in infer("--model", "llama-3-8b", "--gpu", "h200").out
    assert said not in infer("--model", "opt-30b", "--gpu", "h200").out


def test_the_cache_is_told_in_tokens_and_sequences(infer: Any) -> None:
    flags = ("--model", "llama-3.1-8b", "--gpu", "h100-sxm-80gb", "--system", "vllm@0.19", "--prompt-len", "8000",
             "--gen-len", "192", "--gpu-memory-utilization", "0.95")  # fmt: skip
    outcome, gpu = infer(*flags), infer(*flags, "--json").json["memory"]["gpu"]
    assert gpu["kv_cache_capacity_tokens"] == pytest.approx(476_000, rel=0.01)  # what vLLM printed
    assert gpu["max_concurrency"] == pytest.approx(gpu["kv_cache_capacity_tokens"] / 8192, rel=1e-4)
    assert (gpu["batch_limited_by"], gpu["context_limited_by"]) == ("memory", "model positions")
    assert gpu["gpu_memory_utilization"] == 0.95
    words = " ".join(outcome.out.split())
    assert f"KV cache, of 0.95 of the memory: room for {gpu['kv_cache_capacity_tokens']:,} tokens" in words


def test_a_system_that_streams_has_no_capacity_of_the_cache(infer: Any) -> None:
    gpu = infer("--model", "opt-30b", "--gpu", "t4", "--ds-zero", "3", "--json").json["memory"]["gpu"]
    assert gpu["kv_cache_capacity_tokens"] is None
    assert gpu["max_concurrency"] is None


def test_a_serving_engine_holds_what_its_own_name_says(infer: Any) -> None:
    """``resident`` stands for today's engines: what it says of one is what that one says, and its own batch is another."""
    flags = (
        "--model",
        "llama-3.1-8b",
        "--gpu",
        "h100-sxm-80gb",
        "--prompt-len",
        "15000",
        "--gen-len",
        "1000",
    )
    outcome, resident = infer(*flags), infer(*flags, "--json").json["memory"]["gpu"]
    engine = resident["serving_engine"]
    named = infer(*flags, "--json", "--system", engine["rule_of"]).json["memory"]["gpu"]
    assert engine["rule_of"] == "vllm@0.15"
    for key in ("kv_cache_capacity_tokens", "max_concurrency", "gpu_memory_utilization"):
        assert engine[key] == named[key]
    assert named["serving_engine"] is None
    # 26.3 requests of 16,000 tokens: llm-d-planner, empirical vLLM memory results.
    assert engine["max_concurrency"] == pytest.approx(26.3, rel=0.1)
    words = " ".join(outcome.out.split())
    assert (
        f"would hold (vllm@0.15, of 0.9 of the memory) {engine['kv_cache_capacity_tokens']:,} tokens" in words
    )


@pytest.mark.parametrize(
    ("flags", "first"),
    [
        ((), "yes. GPU 16.1 of 79.2 GiB"),
        (("--batch-size", "5000", "--system", "vllm"), "of 5,000 sequences at once"),
        (("--ds-zero", "3"), "host "),
        (("--tp-size", "1", "--prompt-len", "100000", "--batch-size", "64"), "no. GPU memory: "),
    ],
)
def test_whether_it_fits_stands_before_everything_else(
    infer: Any, flags: tuple[str, ...], first: str
) -> None:
    out = infer("--model", "llama-3.1-8b", "--gpu", "h100-sxm-80gb", *flags).out
    answer, title = out.split("\n\n")[:2]
    assert title.startswith("meta-llama/Llama-3.1-8B")
    assert answer.startswith("Fits: ")
    assert first in answer.splitlines()[0]


def test_vision_is_counted_when_asked(infer: Any) -> None:
    flags = ("--model", "gemma-3-4b", "--gpu", "rtx-3090-24gb")
    text, whole = infer(*flags, "--json").json, infer(*flags, "--with-vision", "--json").json
    more = whole["memory"]["gpu"]["weights_bytes"] - text["memory"]["gpu"]["weights_bytes"]
    assert more == 2 * (4_300_079_472 - 3_880_263_168)  # google/gemma-3-4b-it, its file and its text part
    assert any(note.startswith("text part only; left out: vision tower") for note in text["warnings"])
    assert any(note.startswith("counted in weights and memory") for note in whole["warnings"])
    assert whole["decode"]["latency_s"] == text["decode"]["latency_s"]
    refused = infer("--model", "llama-3-8b", "--gpu", "l4", "--with-vision")
    assert refused.code == 2
    assert "no part beside its text is known" in refused.err
