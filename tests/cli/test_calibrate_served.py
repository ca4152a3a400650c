"""``calibrate read-log``, ``fit`` and ``export`` on results of benchmark tools, as a user meets them."""

import json
import shutil
from pathlib import Path

import pytest

from calibrate.evidence.benchmark_run import read_runs
from calibrate.evidence.contributed import contribution_text, parsed_contribution, scrubbed
from calibrate.evidence.readers import read_file
from calibrate.fit.served.deployment import told_run
from calibrate.validate.contributed import compared_runs, contributed_lines, contributed_object
from llm_perf.errors import SpecError

SAMPLES = Path(__file__).parents[1] / "data" / "benchmarks"


@pytest.fixture
def samples(folder):
    for file in SAMPLES.iterdir():
        shutil.copy(file, folder / file.name)
    return folder


def batch_file(folder: Path, scale: float = 1.0) -> Path:
    """What bench_one_batch writes of an engine whose every decode step takes ``scale`` times as long as predicted."""
    from calibrate.fit.served.answers import answer_of
    from calibrate.fit.served.deployment import served_of

    run = read_file(SAMPLES / "sglang_one_batch.jsonl")[0]
    lines = []
    for batch, prompt, output in ((1, 256, 32), (8, 256, 32), (32, 1024, 64), (64, 512, 32)):
        told = told_run(
            run,
            {
                "model": "qwen2.5-7b",
                "gpu": "h100-sxm",
                "batch_size": batch,
                "prompt_len": prompt,
                "gen_len": output,
            },
        )
        answer = answer_of(served_of(told))
        step, prefill = scale * answer.of("step_s", "p50"), answer.of("prefill_s", "mean")
        total = prefill + step * (output - 1)
        lines.append(
            {"run_name": "x", "batch_size": batch, "input_len": prompt, "output_len": output,
             "prefill_latency": prefill, "prefill_throughput": batch * prompt / prefill, "median_decode_latency": step,
             "median_decode_throughput": batch / step, "total_latency": total,
             "overall_throughput": batch * (prompt + output) / total}
        )  # fmt: skip
    file = folder / "batches.jsonl"
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return file


TOLD = ("--model", "qwen2.5-7b", "--gpu", "h100-sxm", "--system", "sglang@0.5")


# -- read-log --------------------------------------------------------------------------------------------------------


def test_measured_stands_beside_predicted(llm_perf, samples):
    found = llm_perf(
        "calibrate", "read-log", "vllm_serve.json", "--gpu", "h100-sxm", "--system", "vllm@0.12", "--json"
    )
    assert found.code == 0
    (run,) = found.json["runs"]
    assert run["system"] == "vllm@0.12"
    tpot = next(one for one in run["predicted"] if (one["quantity"], one["statistic"]) == ("tpot_s", "mean"))
    assert tpot["measured"] == pytest.approx(0.0189)
    assert tpot["error"] == pytest.approx(tpot["predicted"] / tpot["measured"] - 1)
    assert run["figures"][0]["stated"].startswith("mean_ttft_ms")
    assert found.json["refused"] == []


def test_what_a_file_does_not_say_is_asked_for_and_its_figures_are_printed(llm_perf, samples):
    found = llm_perf("calibrate", "read-log", "vllm_latency.txt")
    assert found.code == 0
    assert "1.48 s" in found.out
    assert "pass --model and --gpu and --batch-size and --prompt-len" in " ".join(found.out.split())


def test_several_files_of_several_tools_are_read_at_once(llm_perf, samples):
    found = llm_perf("calibrate", "read-log", "llama_bench.md", "guidellm.json", "trace.csv", "--json")
    assert found.code == 0
    assert len(found.json["runs"]) == 6
    assert [run["predicted"][0]["predicted"] for run in found.json["runs"]] == [None] * 6


def test_runs_are_kept_and_read_again(llm_perf, samples):
    assert (
        llm_perf("calibrate", "read-log", "guidellm.json", "--gpu", "h100-sxm", "--out", "runs.jsonl").code
        == 0
    )
    runs = read_runs(samples / "runs.jsonl")
    assert [run.deployment.gpu for run in runs] == ["h100-sxm", "h100-sxm"]
    assert llm_perf("calibrate", "read-log", "runs.jsonl").code == 0


def test_a_swapped_unit_is_refused_with_the_row(llm_perf, samples):
    lines = (samples / "sglang_one_batch.jsonl").read_text().splitlines()
    wrong = json.loads(lines[1]) | {"median_decode_latency": 4.9e-6, "median_decode_throughput": 3265306.0}
    (samples / "two.jsonl").write_text(lines[0] + "\n" + json.dumps(wrong) + "\n")
    found = llm_perf("calibrate", "read-log", "two.jsonl", *TOLD, "--json")
    assert found.code == 0
    assert len(found.json["runs"]) == 1
    (refused,) = found.json["refused"]
    assert refused["source"] == "two.jsonl:2"
    assert "is faster than 1 x H100" in refused["reason"]
    (samples / "one.jsonl").write_text(json.dumps(wrong) + "\n")
    assert "is faster than" in llm_perf("calibrate", "read-log", "one.jsonl", *TOLD).error


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("missing.json",), "missing.json: cannot be read"),
        (("empty.json",), "empty.json: is empty"),
        (("cut.json",), "cut.json: is no whole JSON"),
        (("foreign.txt",), "foreign.txt: is no result of"),
        (("vllm_serve.json", "--gpu", "h100-xl"), None),
        (("vllm_serve.json", "--profile", "missing.yaml"), "missing.yaml"),
        (("vllm_serve.json", "--loops", "3"), "--loops"),
        (("vllm_serve.json", "--nonsense", "3"), "--nonsense"),
        (("vllm_serve.json", "--num-gpus", "-1"), "--num-gpus"),
        ((), "FILES"),
    ],
)
def test_bad_input_is_one_line(llm_perf, samples, arguments, said):
    (samples / "empty.json").write_text("")
    (samples / "cut.json").write_text((samples / "vllm_serve.json").read_text()[:200])
    (samples / "foreign.txt").write_text("the quick brown fox\n")
    found = llm_perf("calibrate", "read-log", *arguments)
    if said is None:  # what was read is printed all the same
        assert found.code == 0
        assert "not predicted" in found.out
        return
    assert said in found.error


def test_old_forms_of_read_log_keep_working(llm_perf, samples):
    word, flag = (
        llm_perf("calibrate", "read-log", "deepspeed.log"),
        llm_perf("calibrate", "--read-log", "deepspeed.log"),
    )
    assert word.code == flag.code == 0
    assert word.out == flag.out
    assert "decode_latency_s" in word.out
    assert (
        llm_perf("calibrate", "read-log", "deepspeed.log", "--json").json["records"][0]["decode_latency_s"]
        == 1.953
    )
    told = ("--model", "opt-6.7b", "--gpu", "a100-sxm-80gb", "--system", "zero_inference")
    sizes = ("--batch-size", "4", "--prompt-len", "512", "--gen-len", "32")
    assert "decode" in llm_perf("calibrate", "read-log", "deepspeed.log", *told, *sizes).out


BELOW = ("--model", "qwen2.5-14b", "--weight-format", "awq", "--gpu", "l40s", "--system", "vllm")


def below_file(folder: Path, tpot_ms: float = 22.1) -> Path:
    """What vllm bench prints of 64 clients whose tokens come sooner than memory can read their caches."""
    file = folder / f"below{tpot_ms:g}.txt"
    file.write_text(
        "============ Serving Benchmark Result ============\n"
        "Successful requests:                     640\n"
        "Maximum request concurrency:             64\n"
        "Benchmark duration (s):                  70.00\n"
        "Total input tokens:                      654976\n"
        "Total generated tokens:                  163712\n"
        "Request throughput (req/s):              9.14\n"
        "Output token throughput (tok/s):         2338.7\n"
        "---------------Time to First Token----------------\n"
        "Mean TTFT (ms):                          512.3\n"
        "-----Time per Output Token (excl. 1st token)------\n"
        f"Mean TPOT (ms):                          {tpot_ms:.2f}\n"
        "==================================================\n"
    )
    return file


def test_a_run_that_memory_does_not_allow_is_said_to_be_none(llm_perf, folder):
    found = llm_perf("calibrate", "read-log", str(below_file(folder)), *BELOW)
    assert found.code == 0
    first = found.out.splitlines()[:5]
    assert first[1] == "Cannot be: TPOT 22.1 ms: 51 sequences of 1,151 tokens need 23.7 ms"
    assert "TPOT 22.1 ms is outside of" in first[3]
    assert first[4] == "Next:      fewer ran at once, prompts were shared, or the cache is narrower"
    assert "need to be read at 864 GB/s" in " ".join(found.out.split())
    assert all(len(line) <= 80 for line in found.out.splitlines())
    (run,) = llm_perf("calibrate", "read-log", str(below_file(folder)), *BELOW, "--json").json["runs"]
    assert "22.1 ms is below the 23.7 ms" in run["cannot_be"]["reason"]
    low, high = next(one["interval"] for one in run["predicted"] if one["quantity"] == "tpot_s")
    assert 0.0237 < low < high


def test_a_run_in_its_interval_is_not_said_to_be_outside(llm_perf, folder):
    file = folder / "fine.txt"
    text = below_file(folder, 60).read_text().replace("2338.7", "940").replace("512.3", "1100")
    file.write_text(text.replace("9.14", "3.67").replace("70.00", "174.00"))
    shown = llm_perf("calibrate", "read-log", str(file), *BELOW).out
    assert "Off by:" in shown.splitlines()[1]
    assert "outside" not in shown


def test_a_fit_leaves_out_what_memory_does_not_allow(llm_perf, folder):
    fine = folder / "fine.txt"
    text = below_file(folder, 60).read_text().replace("2338.7", "940").replace("512.3", "1100")
    fine.write_text(text.replace("9.14", "3.67").replace("70.00", "174.00"))
    found = llm_perf(
        "calibrate", "fit", str(below_file(folder)), str(fine), *BELOW, "--out", str(folder / "mine.yaml")
    )
    assert found.code == 0, found.error
    assert "; 1 left out" in found.out.splitlines()[0]
    assert "refused: below22.1.txt:1: TPOT 22.1 ms is below" in " ".join(found.out.split())
    alone = llm_perf("calibrate", "fit", str(below_file(folder)), *BELOW, "--out", str(folder / "a.yaml"))
    assert alone.code == 2
    assert not (folder / "a.yaml").exists()


# -- fit -------------------------------------------------------------------------------------------------------------


def test_a_fit_becomes_a_profile_that_predictions_take(llm_perf, folder):
    file = batch_file(folder, 1.3)
    found = llm_perf("calibrate", "fit", file.name, *TOLD, "--out", "mine.yaml", "--json")
    assert found.code == 0, found.err
    answer = found.json
    assert answer["release"] == "sglang@0.5"
    assert answer["gm"]["decode"]["fitted"] < 1.1 < answer["gm"]["decode"]["shipped"]
    assert all(
        low <= one["value"] <= high
        for one in answer["parameters"].values()
        for low, high in [one["interval"]]
    )
    assert "one more run at concurrency" in answer["next_run"]["sentence"]
    asked = (
        "--model",
        "qwen2.5-7b",
        "--system",
        "sglang",
        "--batch-size",
        "8",
        "--prompt-len",
        "256",
        "--gen-len",
        "32",
    )
    plain = llm_perf("infer", *asked, "--gpu", "h100-sxm", "--system", "sglang@0.5", "--json").json
    with_it = llm_perf("infer", *asked, "--profile", "mine.yaml", "--json").json
    assert with_it["tpot_s"] > 1.15 * plain["tpot_s"]
    assert with_it["interval"]["profile"] == "mine"
    other = llm_perf(
        "infer", *asked, "--system", "sglang@0.4", "--gpu", "h100-sxm", "--profile", "mine.yaml", "--json"
    ).json
    assert (
        other["tpot_s"]
        == llm_perf("infer", *asked, "--system", "sglang@0.4", "--gpu", "h100-sxm", "--json").json["tpot_s"]
    )
    assert "no runs of system sglang@0.4" in " ".join(other["warnings"])
    served = ("--concurrency", "8", "--prompt-len", "256", "--gen-len", "32", "--num-requests", "16")
    simulated = llm_perf("simulate", *asked[:4], *served, "--profile", "mine.yaml", "--json")
    assert simulated.json["tpot_s"]["mean"] > 1.1 * plain["tpot_s"]
    swept = llm_perf("sweep", *asked[:4], "--gpu", "h100-sxm", "--batch-size", "8", "--profile", "mine.yaml")
    assert swept.code == 0, swept.err


def test_what_a_flag_overrules_is_said(llm_perf, samples):
    told = llm_perf(
        "calibrate", "read-log", "llama_bench.json", "--model", "llama-3.1-8b", "--gpu", "h100-sxm"
    )
    said = " ".join(told.out.split())
    assert "note: its source says model Qwen2.5-7B-Instruct; --model llama-3.1-8b goes before" in said
    assert "--gpu h100-sxm goes before" in said
    same = llm_perf(
        "calibrate", "read-log", "llama_bench.json", "--model", "qwen2.5-7b-instruct", "--gpu", "rtx-4080"
    )
    assert "goes before" not in same.out


def test_a_profile_of_a_build_holds_for_its_release(llm_perf, samples):
    assert (
        llm_perf("calibrate", "fit", "llama_bench.json", "--gpu", "rtx-4090", "--out", "mine.yaml").code == 0
    )
    asked = (
        "--model",
        "qwen2.5-7b",
        "--gpu",
        "rtx-4090",
        "--system",
        "llama_cpp",
        "--weight-format",
        "q4_k_m",
    )
    found = llm_perf("infer", *asked, "--profile", "mine.yaml")
    assert (found.code, found.err) == (0, "")
    assert "llama_cpp@2025" in found.out
    assert "profile mine" in found.out


def test_the_text_of_a_fit_says_what_it_tells_and_what_not(llm_perf, folder):
    found = llm_perf("calibrate", "fit", batch_file(folder).name, *TOLD, "--out", "mine.yaml")
    assert found.code == 0, found.err
    assert "90 % interval" in found.out
    assert "as shipped:" in found.out
    assert "one run over 2 GPUs would" in found.out
    assert "another type of GPU needs runs of its own" in found.out
    assert "profile written to mine.yaml" in found.err
    assert max(map(len, found.out.splitlines())) <= 80
    labels = [line.split(":")[0] for line in found.out.splitlines()[:5]]
    assert labels == ["Fitted", "Off by", "How sure", "Not known", "Next"]


def test_runs_beside_a_profile_are_not_said_to_be_unseen(llm_perf, folder):
    """The profile may be of these very files; without one, or with none, nothing that ships was fitted to them."""
    name = batch_file(folder).name
    assert llm_perf("calibrate", "fit", name, *TOLD, "--out", "mine.yaml").code == 0
    for profile, said in (
        ((), "nothing was fitted to them; the furthest"),
        (("--profile", "none"), "nothing was fitted to them; the furthest"),
        (("--profile", "mine.yaml"), "the profile may know them; the furthest"),
    ):
        found = llm_perf("calibrate", "read-log", name, *TOLD, *profile)
        assert found.code == 0, found.err
        sure, _, after = found.out.splitlines()[2:5]
        assert sure.startswith(f"How sure:  {said}")
        assert ("makes a profile" in after) == ("nothing" in said)


@pytest.mark.parametrize(
    ("files", "said"),
    [
        (("vllm_serve.json",), "pass --gpu"),
        (("vllm_serve.json", "deepspeed.log"), "fit them apart"),
        (
            (
                "trace.jsonl",
                "--model",
                "qwen2.5-7b",
                "--gpu",
                "h100-sxm",
                "--system",
                "sglang",
                "--out",
                "x.json",
            ),
            ".yaml",
        ),
        (("deepspeed.log", "--system", "vllm"), "--system tells of results of a benchmark tool"),
    ],
)
def test_fits_that_cannot_be_are_one_line(llm_perf, samples, files, said):
    found = llm_perf("calibrate", "fit", *files)
    assert found.code == 2 or "--out" in files
    assert said in found.err
    assert not list(samples.glob("*.yaml"))


# -- export ----------------------------------------------------------------------------------------------------------


def a_serve_run(**told):
    run = read_file(SAMPLES / "vllm_serve.json")[0]
    return told_run(run, {"gpu": "h100-sxm", "system": "vllm@0.12"} | told)


def test_an_export_is_read_fitted_and_validated(llm_perf, samples):
    flags = ("--gpu", "h100-sxm", "--system", "vllm@0.12")
    found = llm_perf("calibrate", "export", "vllm_serve.json", *flags, "--out", "mine.json")
    assert found.code == 0, found.err
    text = (samples / "mine.json").read_text()
    assert "vllm_serve.json" not in text
    assert "20251012" not in text
    runs = parsed_contribution(text, "mine.json")
    assert runs[0].date == "2025-10"
    assert runs[0].figure("tpot_s").value == pytest.approx(0.0189)
    assert llm_perf("calibrate", "read-log", "mine.json").code == 0
    compared = compared_runs(runs=runs)
    assert contributed_object(compared)["by_version"]["vllm@0.12"]["runs"] == 1
    assert "vllm@0.12" in contributed_lines(compared)[1]
    assert compared_runs("sglang", runs=runs) == []
    assert len(compared_runs(gpu="h100-sxm", runs=runs)) == 1


def test_nothing_personal_is_exported():
    run = a_serve_run()
    run = run.replace(
        environment={
            "cpu": "AMD EPYC 9354",
            "hostname": "gpu-7",
            "user": "someone",
            "versions": {"vllm": "0.12", "path": "/home/x"},
        }
    )
    clean = scrubbed(run, 1)
    assert clean.environment == {"cpu": "AMD EPYC 9354", "versions": {"vllm": "0.12"}}
    assert clean.source == "vllm-bench-serve 1"
    detailed = read_file(SAMPLES / "vllm_serve_detailed.json")[0]
    assert scrubbed(detailed, 2).requests is None
    assert scrubbed(detailed, 2).output.sd == pytest.approx(0.4714, abs=1e-3)


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("/home/someone/vllm", "a folder"),
        (r"C:\Users\someone", "a folder"),
        ("http://10.0.0.7:8000", "an address"),
        ("runs on 192.168.1.20", "an address"),
        ("node7.cluster.internal", "an address"),
        ("someone@example.com", "a mail address"),
        ("hf_abcdefghijklmnopqrstuv", "a token"),
        ("user=someone", "a user's name"),
    ],
)
def test_what_looks_personal_is_refused_by_its_field(value, said):
    run = a_serve_run()
    with pytest.raises(SpecError, match=said) as error:
        contribution_text([run.replace(notes=(value,))])
    assert "notes[0]" in str(error.value)
    text = contribution_text([run])
    with pytest.raises(SpecError, match=said):
        parsed_contribution(text.replace('"notes": []', f'"notes": [{json.dumps(value)}]'), "x.json")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (('"schema_version": 1,\n "runs"', '"schema_version": 7,\n "runs"'), "schema_version is 7"),
        (('"kind": "llm-perf contributed runs"', '"kind": "a diary"'), "no file of contributed runs"),
        (('"made_by"', '"made_for"'), "unknown field 'made_for'"),
        (('"gpu": "h100-sxm"', '"gpu": null'), "deployment.gpu is not known"),
    ],
)
def test_a_contribution_that_was_changed_is_one_line(change, said):
    text = contribution_text([a_serve_run()])
    if change[0] not in text:
        record = json.loads(text)
        record["schema_version"] = 7
        changed = json.dumps(record)
    else:
        changed = text.replace(*change)
    with pytest.raises(SpecError, match=said) as error:
        parsed_contribution(changed, "x.json")
    assert "\n" not in str(error.value)


def test_a_run_that_others_cannot_place_is_not_exported(llm_perf, samples):
    found = llm_perf("calibrate", "export", "vllm_serve.json", "--gpu", "h100-sxm", "--out", "x.json")
    assert "engine.version is not known" in found.error
    assert not (samples / "x.json").exists()


def test_contributions_that_ship_are_good(llm_perf):
    found = llm_perf("validate", "--contributed", "--json")
    assert found.code == 0
    assert found.json["refused"] == []
    assert (
        "says nothing about --contributed"
        in llm_perf("validate", "--contributed", "--leave-out", "gpu").error
    )


def test_what_constants_know_of_a_contribution_is_said_with_a_version_that_knows_nothing(llm_perf):
    from importlib import resources

    from calibrate.evidence.contributed import known_contributions

    folder = resources.files("calibrate") / "measurements" / "contributed"
    for file in known_contributions():
        assert (folder / file).is_file()
    (entry,) = llm_perf("validate", "--contributed", "--json").json["in_sample"]
    assert entry["quantities"] == ["prefill_tokens_per_s", "prefill_s"]
    assert (entry["runs"], entry["left_out"]) == (8, "llama_cpp@2025")
    assert entry["left_out_gm"] > 1.2  # its prompts are no evidence of 2026's constants
    shown = " ".join(llm_perf("validate", "--contributed").out.split())
    assert "in-sample: prefill_tokens_per_s" in shown
    assert "llama_cpp@2025 knows nothing of them: off by x/: 1." in shown


def test_whole_numbers_are_read_as_everywhere(llm_perf, samples):
    told = ("--system", "vllm@0.12", "--gpu", "h100-sxm", "--json")
    asked = llm_perf(
        "calibrate", "read-log", "vllm_serve.json", *told, "--concurrency", "1e2", "--prompt-len", "1_000"
    )
    run = asked.json["runs"][0]
    assert (run["load"]["concurrency"], run["prompt"]["mean"]) == (100, 1000)
    means = llm_perf(
        "calibrate", "read-log", "vllm_serve.json", *told, "--prompt-len", "1023.4", "--gen-len", "255.8"
    )
    assert means.json["runs"][0]["prompt"]["mean"] == 1023.4
    assert means.json["runs"][0]["output"]["mean"] == 255.8
    short = llm_perf("calibrate", "read-log", "vllm_serve.json", "--prompt-len", "0.4").error
    assert "--prompt-len must be 1 to" in short
    error = llm_perf("calibrate", "read-log", "vllm_serve.json", "--concurrency", "1.5").error
    assert "'1.5' is no whole number such as 512 or 1e9" in error


@pytest.mark.parametrize(
    ("flag", "value"),
    [
        ("--batch-size", "0"),
        ("--batch-size", "-1"),
        ("--rate", "1e30"),
        ("--rate", "nan"),
        ("--tp-size", "0"),
    ],
)
@pytest.mark.parametrize("word", ["read-log", "fit"])
def test_numbers_that_no_run_has_are_refused(llm_perf, samples, word, flag, value):
    found = llm_perf("calibrate", word, "vllm_serve.json", *TOLD, flag, value)
    assert found.code == 2
    assert found.err.count("\n") == 1
    assert flag in found.err
