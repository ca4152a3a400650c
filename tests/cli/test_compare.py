"""`llm-perf compare`: real runs beside predictions, as a table, JSON and figures; one line for bad input."""

import json
import re
import shutil
from pathlib import Path

import pytest

RUNS = Path(__file__).parents[1] / "data" / "runs"
"""Two real runs of OPT-125M on a CPU of two cores, one plain and one under ZeRO-3 with its weights offloaded."""
FIGURES = {"predicted_measured", "errors", "breakdown", "roofline", "decode_context", "memory"}
CSV = (
    "system,model,gpu,batch_size,prompt_len,gen_len,weights,prefill_latency_s,decode_latency_s,total_latency_s\n"
    "zero_inference,opt-30b,t4,1,512,32,cpu,,,202\n"
    "zero_inference,opt-30b,t4,2,512,32,cpu,,,204\n"
    "fastertransformer,test-13b,a100-sxm-40gb,1,512,10,,0.06317,0.198,0.26117\n"
)


@pytest.fixture
def table(tmp_path):
    path = tmp_path / "runs.csv"
    path.write_text(CSV)
    return path


def test_real_runs_are_laid_beside_their_predictions(llm_perf):
    shown = llm_perf("compare", str(RUNS))
    assert shown.code == 0
    lines = shown.out.splitlines()
    assert lines[0] == "2 measured runs, predicted with no profile"
    assert max(map(len, lines)) <= 80
    assert sum(line.startswith("opt-125m") for line in lines) == 2


def test_the_json_has_what_every_figure_needs(llm_perf):
    found = llm_perf("compare", str(RUNS), "--json").json
    assert found["schema_version"] == 1
    assert found["profile"] == "none"
    assert {run["system"] for run in found["runs"]} == {"resident", "zero_inference"}
    for run in found["runs"]:
        measured, predicted = run["measured"], run["predicted"]
        error = predicted["total_latency_s"] / measured["total_latency_s"] - 1
        assert run["error"]["total_latency"] == pytest.approx(error)
        for phase in ("prefill", "decode"):
            assert sum(run["breakdown_s"][phase].values()) == pytest.approx(predicted[f"{phase}_latency_s"])
        steps = run["decode_steps"]
        assert len(steps["context"]) == len(steps["measured_s"]) == run["gen_len"] - 1
        assert sum(steps["predicted_s"]) == pytest.approx(predicted["decode_latency_s"], rel=0.01)
        assert run["memory_bytes"]["allocated"] > 0
        assert run["interval"] is None


def test_no_operation_is_above_the_roof_and_together_they_are_the_products_of_the_pass(llm_perf):
    for run in llm_perf("compare", str(RUNS), "--json").json["runs"]:
        roof = run["roofline"]
        for op in roof["operations"]:
            assert op["flops"] / op["seconds"] <= roof["peak_flops_per_s"] * (1 + 1e-9)
            if op["op"] != "attention":  # what attention keeps in caches comes faster than from memory
                assert op["bytes"] / op["seconds"] <= roof["bandwidth_bytes_per_s"] * (1 + 1e-9)
        for phase, passes in (("prefill", 1), ("decode", run["gen_len"] - 1)):
            operations = sum(op["seconds"] for op in roof["operations"] if op["phase"] == phase)
            parts = run["breakdown_s"][phase]
            named = sum(parts[name] for name in ("attention_projections", "attention", "mlp", "lm_head"))
            assert operations * passes == pytest.approx(named, rel=0.02)


def test_a_table_of_several_systems_and_machines(llm_perf, table):
    found = llm_perf("compare", str(table), "--json").json
    assert list(found["systems"]) == ["zero_inference", "fastertransformer"]
    assert found["all"]["total"]["runs"] == 3
    assert found["systems"]["fastertransformer"]["prefill"]["runs"] == 1
    assert found["systems"]["zero_inference"]["prefill"]["median_abs_error"] is None
    assert all(
        run["decode_steps"] is None and run["memory_bytes"]["allocated"] is None for run in found["runs"]
    )


def test_figures_are_written_as_png_and_svg(llm_perf, tmp_path):
    pytest.importorskip("matplotlib")
    folder = tmp_path / "new" / "figures"
    shown = llm_perf("compare", str(RUNS), "--plot", str(folder))
    assert shown.code == 0
    assert {path.stem for path in folder.iterdir()} == FIGURES
    assert len(list(folder.iterdir())) == 2 * len(FIGURES)
    for path in folder.glob("*.png"):
        assert path.read_bytes().startswith(b"\x89PNG")
    scatter = (folder / "predicted_measured.svg").read_text()
    for text in (
        "measured total latency (s)",
        "predicted total latency (s)",
        "±10 %",
        "zero_inference",
        "resident",
    ):
        assert text in scatter


def test_repeats_of_a_configuration_share_a_line(llm_perf, tmp_path):
    """The 36 runs that ship are two of each of 18 configurations."""
    pytest.importorskip("matplotlib")
    shipped = Path(__file__).parents[2] / "calibrate" / "measurements" / "cpu_loop"
    assert llm_perf("compare", str(shipped), "--plot", str(tmp_path)).code == 0
    for name in ("errors", "breakdown", "memory"):
        lines = re.findall(r">(opt-[^<]*)<", (tmp_path / f"{name}.svg").read_text())
        assert len(lines) == len(set(lines)) == 18, name


def test_a_figure_that_leaves_runs_out_says_so(llm_perf):
    """The bars of 18 configurations are drawn; of many GPUs and models the first panels."""
    pytest.importorskip("matplotlib")
    from llm_perf.report.plots.figures import comparison_figures

    found = llm_perf("compare", str(RUNS), "--json").json
    runs = [run | {"memory_bytes": dict(run["memory_bytes"])} for run in found["runs"]]
    few = comparison_figures(found | {"runs": runs[:3]})
    many = comparison_figures(
        found
        | {
            "runs": [
                run | {"model": f"model-{n}", "roofline": run["roofline"] | {"gpu": f"gpu-{n}"}}
                for n, run in enumerate((runs * 20)[:20])
            ]
        }
    )
    said = {
        "memory": "the first 18 of 20 configurations",
        "breakdown": "the first 18 of 20 configurations",
        "roofline": "the first 4 of 20 GPUs",
        "decode_context": "the first 9 of 20 models",
    }
    for name, text in said.items():
        assert "the first" not in few[name].get_suptitle()
        assert text in many[name].get_suptitle()


def test_figures_that_the_runs_have_nothing_for_are_left_out(llm_perf, table, tmp_path):
    pytest.importorskip("matplotlib")
    assert llm_perf("compare", str(table), "--plot", str(tmp_path / "figures")).code == 0
    stems = {path.stem for path in (tmp_path / "figures").iterdir()}
    assert stems == {"predicted_measured", "errors", "breakdown", "roofline"}


def test_disturbed_runs_are_left_out_with_the_evidence(llm_perf, tmp_path):
    record = json.loads((RUNS / "opt-125m-plain.json").read_text())
    for loop in record["raw"]["loops"]:
        loop |= {"disturbed": True, "others_cores": 0.8}
    (tmp_path / "disturbed.json").write_text(json.dumps(record))
    shutil.copy(RUNS / "opt-125m-zero3.json", tmp_path)
    found = llm_perf("compare", str(tmp_path), "--json").json
    assert len(found["runs"]) == 1
    assert "others used the machine's cores" in found["rejected"][0]["reason"]


@pytest.mark.parametrize(
    ("part", "name", "value", "mentioned"),
    [
        ("measured", "peak_gpu_memory_bytes", "much", "measured.peak_gpu_memory_bytes = 'much'"),
        ("measured", "peak_gpu_memory_bytes", -1, "measured.peak_gpu_memory_bytes = -1"),
        ("measured", "peak_gpu_memory_reserved_bytes", float("nan"), "peak_gpu_memory_reserved_bytes = nan"),
        ("machine", "baseline_rss_bytes", [], "machine.baseline_rss_bytes = []"),
        (None, "measured", "fast", "measured = 'fast': expected an object"),
    ],
)
def test_sizes_that_cannot_be_name_file_and_field(llm_perf, tmp_path, part, name, value, mentioned):
    record = json.loads((RUNS / "opt-125m-plain.json").read_text())
    (record if part is None else record[part])[name] = value
    (tmp_path / "run.json").write_text(json.dumps(record))
    error = llm_perf("compare", str(tmp_path / "run.json"), "--json").error
    assert "run.json: " in error
    assert mentioned in error


@pytest.mark.parametrize(
    ("name", "text", "mentioned"),
    [
        ("empty.json", "", "empty"),
        ("cut.json", '{"run": {', "truncated"),
        ("other.json", '{"a": 1}', "no run of llm-perf"),
        ("list.json", "[1]", "list"),
        ("run.txt", "x", "expected a .json"),
        ("empty.csv", "", "empty"),
        ("wrong.csv", "system,speed\nvllm,3\n", "speed"),
        ("ds-opt-30b.log", "prefill latency: 1 s", "opt-30b"),
    ],
)
def test_bad_files_end_with_one_line_that_names_them(llm_perf, tmp_path, name, text, mentioned):
    path = tmp_path / name
    path.write_text(text)
    shown = llm_perf("compare", str(path), "--plot", str(tmp_path / "figures"))
    assert shown.code == 2
    assert shown.out == ""
    assert len(shown.err.splitlines()) == 1
    assert name in shown.err
    assert mentioned in shown.err
    assert not (tmp_path / "figures").exists()


@pytest.mark.parametrize(
    ("arguments", "mentioned"),
    [
        ((), "RUNS"),
        (("no/such/file.json",), "no/such/file.json"),
        ((str(RUNS), str(RUNS)), "twice"),
        ((str(RUNS), "--profile", "nobody"), "nobody"),
        ((str(RUNS), "--plot", str(RUNS / "opt-125m-plain.json")), "no folder"),
    ],
    ids=["nothing", "no file", "twice", "profile", "plot"],
)
def test_bad_arguments_end_with_one_line(llm_perf, arguments, mentioned):
    shown = llm_perf("compare", *arguments)
    assert shown.code in (2, 4)
    assert shown.out == ""
    assert len(shown.err.splitlines()) == 1
    assert mentioned in shown.err


# -- traces of requests -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("file", "tool"),
    [
        ("vllm_serve.json", "vllm bench serve"),
        ("vllm_serve.txt", "vllm bench serve"),
        ("llama_bench.csv", "llama-bench"),
        ("aiperf_records.jsonl", "AIPerf"),
    ],
)
def test_a_result_of_a_benchmark_tool_is_sent_to_the_command_that_reads_it(llm_perf, file, tool):
    error = llm_perf("compare", str(RUNS.parent / "benchmarks" / file)).error
    assert error.endswith(f"llm-perf calibrate read-log reads it ({tool})")


@pytest.fixture
def trace(llm_perf, folder):
    asked = ("--model", "llama-3.1-8b", "--gpu", "h100-sxm-80gb", "--rate", "10", "--num-requests", "40")
    assert llm_perf("simulate", *asked, "--trace-out", "t.csv").code == 0
    Path("on.yaml").write_text("model: llama-3.1-8b\ngpu: a100-sxm-80gb\nsystem: vllm\n")
    return "t.csv"


def test_a_trace_of_requests_is_laid_beside_its_simulation(llm_perf, trace):
    outcome = llm_perf("compare", trace, "--inputs", "on.yaml")
    assert outcome.code == 0
    assert all(len(line) <= 80 for line in outcome.out.splitlines())
    assert "t.csv: 40 requests, measured and predicted" in outcome.out
    found = llm_perf("compare", trace, "--inputs", "on.yaml", "--json").json["traces"][0]
    assert found["tpot_s"]["error"]["p95"] > 0  # an A100 is slower than what was "measured"
    same = llm_perf("validate", "--trace", trace, "--inputs", "on.yaml", "--json").json["traces"][0]
    assert same == found


ONE = "arrival_s,prompt_tokens,output_tokens,first_token_s,last_token_s\n0,{prompt},1,0.1,0.1\n"


def test_a_trace_of_single_tokens_has_no_tpot(llm_perf, trace):
    Path("one.csv").write_text(ONE.format(prompt=100))
    found = llm_perf("compare", "one.csv", "--inputs", "on.yaml", "--json").json["traces"][0]
    assert found["tpot_s"]["requests"] == 0
    assert found["tpot_s"]["measured"]["mean"] is found["tpot_s"]["error"]["mean"] is None
    assert found["ttft_s"]["measured"]["mean"] == 0.1
    for asked in (("compare", "one.csv"), ("validate", "--trace", "one.csv")):
        outcome = llm_perf(*asked, "--inputs", "on.yaml")
        assert outcome.code == 0
        assert "nan" not in outcome.out


def test_a_trace_that_nothing_serves_is_refused_whole(llm_perf, trace):
    Path("long.csv").write_text(ONE.format(prompt=10_000_000))
    outcome = llm_perf("compare", "long.csv", "--inputs", "on.yaml", "--plot", "drawn")
    assert (outcome.code, outcome.out) == (2, "")
    assert outcome.err.count("\n") == 1
    assert "none of its requests was served" in outcome.err
    assert not Path("drawn").exists()


def test_the_shares_of_a_trace_are_drawn(llm_perf, trace):
    pytest.importorskip("matplotlib", reason="the extra 'plot' is not installed")
    assert llm_perf("compare", trace, "--inputs", "on.yaml", "--plot", "figures").code == 0
    assert Path("figures/trace-t.csv.png").exists()


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        (("t.csv",), "needs --inputs FILE"),
        (("t.csv", "other.json", "--inputs", "on.yaml"), "compare them apart"),
        (("other.json", "--inputs", "on.yaml"), "other.json is none"),
        (("t.csv", "--inputs", "on.yaml", "--gpu", "l4"), "--inputs says"),
        (("t.csv", "--inputs", "nowhere.yaml"), "nowhere.yaml"),
    ],
)
def test_what_a_trace_needs_is_said_in_one_line(llm_perf, trace, asked, said):
    assert said in llm_perf("compare", *asked).error
