"""Every reader: a small file of its tool's form, the same cut off, an empty one, and other tools' files."""

import json
import re
from pathlib import Path

import pytest

from calibrate.evidence.benchmark_run import BenchmarkRun, read_runs, runs_text
from calibrate.evidence.readers import READERS, read_file, read_text, reader_of
from calibrate.evidence.readers.source import last_part
from llm_perf.errors import SpecError

FOLDER = Path(__file__).parents[1] / "data" / "benchmarks"
FILES = sorted(FOLDER.iterdir())

READ = {
    "aiperf.json": ("AIPerf or GenAI-Perf", "JSON", 1),
    "aiperf_records.jsonl": ("AIPerf", "records", 1),
    "deepspeed.log": ("DeepSpeed, FlexGen or llm-perf", "benchmark log", 1),
    "genai_perf.csv": ("AIPerf or GenAI-Perf", "CSV", 1),
    "guidellm.json": ("GuideLLM", "JSON", 2),
    "inference_perf.json": ("inference-perf", "JSON", 1),
    "ktransformers.txt": ("ktransformers or Ollama", "printed", 1),
    "llama_bench.csv": ("llama-bench", "CSV", 2),
    "llama_bench.json": ("llama-bench", "JSON", 2),
    "llama_bench.jsonl": ("llama-bench", "JSON", 2),
    "llama_bench.md": ("llama-bench", "markdown", 3),
    "llama_bench.sql": ("llama-bench", "SQL", 2),
    "ollama.txt": ("ktransformers or Ollama", "printed", 1),
    "optimum_benchmark.json": ("optimum-benchmark", "JSON", 1),
    "sglang_metrics.prom": ("a vLLM or SGLang server", "Prometheus metrics", 1),
    "sglang_one_batch.jsonl": ("SGLang bench_one_batch", "JSONL or printed", 2),
    "sglang_one_batch.txt": ("SGLang bench_one_batch", "JSONL or printed", 1),
    "sglang_serving.jsonl": ("SGLang bench_serving", "JSONL", 1),
    "sglang_serving.txt": ("SGLang bench_serving", "printed", 1),
    "trace.csv": ("a trace", "CSV or JSONL", 1),
    "trace.jsonl": ("a trace", "CSV or JSONL", 1),
    "trtllm_bench.json": ("trtllm-bench", "JSON", 1),
    "trtllm_bench.txt": ("trtllm-bench", "printed", 1),
    "vllm_latency.json": ("vllm bench latency", "JSON or printed", 1),
    "vllm_latency.txt": ("vllm bench latency", "JSON or printed", 1),
    "vllm_metrics.prom": ("a vLLM or SGLang server", "Prometheus metrics", 1),
    "vllm_serve.json": ("vllm bench serve", "JSON", 1),
    "vllm_serve.txt": ("vllm bench serve", "printed", 1),
    "vllm_serve_detailed.json": ("vllm bench serve", "JSON", 1),
    "vllm_throughput.json": ("vllm bench throughput", "JSON or printed", 1),
    "vllm_throughput.txt": ("vllm bench throughput", "JSON or printed", 1),
}


def one(file: str) -> BenchmarkRun:
    return read_file(FOLDER / file)[0]


def value(file: str, quantity: str, statistic: str = "mean", entry: int = 0) -> float:
    found = read_file(FOLDER / file)[entry].figure(quantity, statistic)
    assert found is not None, (file, quantity)
    return found.value


def test_the_list_of_files_is_that_of_the_folder():
    assert {file.name for file in FILES} == set(READ)


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_a_file_is_read_by_what_it_holds(file, tmp_path):
    tool, form, runs = READ[file.name]
    found = reader_of(file.read_text(), "x")
    assert (found.tool, found.form) == (tool, form)
    renamed = tmp_path / "result.bin"
    renamed.write_bytes(file.read_bytes())
    assert len(read_file(renamed)) == runs


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_only_one_reader_takes_a_file(file):
    from calibrate.evidence.readers.source import Source

    taking = [reader.tool for reader in READERS if reader.matches(Source("x", file.read_text()))]
    assert taking == [READ[file.name][0]]


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_nothing_that_a_file_holds_stays_unread(file):
    assert [run.unread for run in read_file(file) if run.unread] == []


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_runs_keep_their_content_through_the_projects_own_file(file, tmp_path):
    runs = read_file(file)
    own = tmp_path / "runs.jsonl"
    own.write_text(runs_text(runs))
    assert read_runs(own) == runs
    assert read_file(own) == runs


def refusal(text: str) -> str | None:
    try:
        read_text(text, "x")
    except SpecError as error:
        return str(error)
    return None


@pytest.mark.parametrize("share", [0.35, 0.6, 0.85])
@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_a_file_that_was_cut_off_is_one_line_or_whole_runs(file, share):
    """Text logs and CSV may end between two results; what is read then is what the whole file says of them."""
    text = file.read_text()
    cut = text[: int(len(text) * share)]
    refused = refusal(cut)
    if refused is not None:
        assert refused.startswith("x")
        assert "\n" not in refused
        return
    assert file.suffix != ".json"
    if file.suffix == ".prom":  # a scrape is a set of lines, each of which is whole
        return
    for run, other in zip(read_text(cut, "x"), read_text(text, "x"), strict=False):
        assert run.figures == other.figures or set(run.figures) < set(other.figures) or run.requests


def test_json_that_was_cut_off_is_never_read():
    for file in FILES:
        if file.suffix == ".json":
            text = file.read_text()
            for share in (0.1, 0.5, 0.9, 0.99):
                with pytest.raises(SpecError):
                    read_text(text[: int(len(text) * share)], "x")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "x: is empty"),
        ("  \n", "x: is empty"),
        ("{}", "is no result of"),
        ("[]", "is no result of"),
        ("[1, 2]", "is no JSON object"),
        ("hello world\n", "is no result of"),
        ('{"a": 1', "is no whole JSON"),
        ("a,b\n1,2\n", "is no result of"),
        ("# HELP python_gc_total x\npython_gc_total 1.0\n", "is no result of"),
        ("vllm:num_requests_running{", "was cut off"),
    ],
)
def test_what_is_no_result_is_one_line(text, said):
    with pytest.raises(SpecError) as error:
        read_text(text, "x")
    assert said in str(error.value)
    assert "\n" not in str(error.value)
    assert "no whole result" not in str(error.value)


# -- units and meanings, tool by tool ------------------------------------------------------------------------------


def test_milliseconds_of_vllm_become_seconds_and_a_bound_without_a_rate_is_a_closed_loop():
    run = one("vllm_serve.json")
    assert value("vllm_serve.json", "ttft_s") == pytest.approx(0.2315)
    assert value("vllm_serve.json", "ttft_s", "p99") == pytest.approx(0.6127)
    assert run.figure("ttft_s").sd == pytest.approx(0.1204)
    assert (run.load.kind, run.load.concurrency, run.prompt.mean, run.output.mean) == (
        "closed_loop",
        32,
        1024,
        256,
    )
    assert run.engine.name == "vllm"
    assert "engine.version" in run.unknown


def test_times_of_each_request_are_kept_where_they_were_saved():
    run = one("vllm_serve_detailed.json")
    assert run.load.kind == "rate"
    assert [round(request.arrival_s, 6) for request in run.requests] == [0.0, 0.4, 1.0]
    assert run.requests[0].finished_s == pytest.approx(0.12)
    assert run.prompt.kind == "fixed"
    assert run.output.kind == "vary"


def test_a_batch_of_vllm_does_not_say_its_lengths_but_its_arguments_do():
    assert one("vllm_latency.txt").prompt.mean is None
    text = (FOLDER / "vllm_latency.txt").read_text()
    told = f"Namespace(model='Qwen/Qwen3-8B', input_len=256, output_len=128, batch_size=8, tensor_parallel_size=1)\n{text}"
    run = read_text(told, "x")[0]
    assert (run.prompt.mean, run.output.mean, run.load.concurrency) == (256, 128, 8)
    assert run.deployment.model == "Qwen/Qwen3-8B"
    assert run.figure("batch_s").value == pytest.approx(1.475279)


def test_vllms_tokens_per_second_count_prompts_too():
    assert value("vllm_throughput.txt", "total_tokens_per_s") == 17466.30
    assert value("vllm_throughput.txt", "output_tokens_per_s") == 8739.16
    assert one("vllm_throughput.txt").prompt.mean == pytest.approx(255.648)
    assert one("vllm_throughput.json").figure("output_tokens_per_s") is None


def test_sglang_states_the_server_and_how_lengths_were_drawn():
    run = one("sglang_serving.jsonl")
    assert (run.engine.version, run.deployment.model) == ("0.5.3", "Qwen2.5-7B-Instruct")
    assert (run.prompt.kind, run.prompt.low, run.prompt.high) == ("uniform", 512, 1024)
    assert value("sglang_serving.txt", "itl_s", "p95") == pytest.approx(0.016)


def test_the_printed_batch_of_sglang_leaves_its_warm_up_out():
    printed, kept = one("sglang_one_batch.txt"), read_file(FOLDER / "sglang_one_batch.jsonl")[1]
    assert (printed.load.concurrency, printed.prompt.mean, printed.output.mean) == (16, 256, 32)
    assert (kept.load.concurrency, kept.prompt.mean, kept.output.mean) == (16, 256, 32)
    assert printed.figure("step_s", "p50").value == kept.figure("step_s", "p50").value == 0.0049


def test_aiperfs_inter_token_latency_is_the_time_per_output_token():
    assert value("aiperf.json", "tpot_s") == pytest.approx(0.00322)
    assert one("aiperf.json").figure("itl_s") is None
    assert one("aiperf.json").prompt.kind == "fixed"
    assert value("genai_perf.csv", "ttft_s") == pytest.approx(1.14631)
    assert one("genai_perf.csv").tool == "genai-perf"


def test_an_aiperf_metric_in_another_unit_is_converted_and_without_one_refused():
    text = (FOLDER / "aiperf.json").read_text()
    seconds = text.replace('"unit": "ms",\n    "avg": 49.87', '"unit": "sec",\n    "avg": 0.04987')
    assert seconds != text
    assert read_text(seconds, "x")[0].figure("ttft_s").value == pytest.approx(0.04987)
    with pytest.raises(SpecError, match="has the unit 'furlongs'"):
        read_text(
            text.replace('"unit": "ms",\n    "avg": 49.87', '"unit": "furlongs",\n    "avg": 49.87'), "x"
        )


def test_requests_of_aiperf_that_failed_are_counted_and_have_no_times():
    run = one("aiperf_records.jsonl")
    assert (run.counts.completed, run.counts.failed) == (2, 1)
    assert run.requests[2].error == "RequestCancellationError"
    assert run.requests[1].arrival_s == pytest.approx(0.5)
    assert run.requests[0].first_token_s == pytest.approx(0.2559)


def test_guidellms_time_per_output_token_is_not_taken_for_ours():
    runs = read_file(FOLDER / "guidellm.json")
    assert runs[0].figure("tpot_s").value == pytest.approx(0.0072)
    assert runs[0].figure("e2e_s").value == pytest.approx(0.9494)
    assert runs[0].counts.failed == 1
    assert [run.load.kind for run in runs] == ["closed_loop", "rate"]


def test_inference_perfs_pieces_of_a_stream_are_not_taken_for_tokens():
    run = one("inference_perf.json")
    assert run.figure("tpot_s").value == pytest.approx((0.5643447 - 0.0312943) / 61.8033363, rel=1e-5)
    assert run.figure("itl_s") is None
    assert "4.12 ms by the pieces of the stream" in run.notes[0]


def test_optimum_benchmark_is_a_static_batch_with_its_machine():
    run = one("optimum_benchmark.json")
    assert (run.load.kind, run.load.concurrency) == ("batch", 4)
    assert (run.engine.name, run.engine.version) == ("transformers", "4.47.1")
    assert run.figure("decode_s").value == pytest.approx(1.71)
    text = (FOLDER / "optimum_benchmark.json").read_text()
    with pytest.raises(SpecError, match="unit 'ms'"):
        read_text(text.replace('"unit": "s"', '"unit": "ms"'), "x")


def test_trtllm_bench_states_both_scopes_of_its_output():
    run = one("trtllm_bench.json")
    scopes = {one.scope: one.value for one in run.figures if one.quantity == "output_tokens_per_s"}
    assert scopes == {"system": 16000.0, "per_gpu": 8000.0}
    assert (run.deployment.tp, run.deployment.num_gpus, run.deployment.weight_format) == (2, 2, "fp8")
    assert value("trtllm_bench.json", "tpot_s") == pytest.approx(0.02438)
    assert value("trtllm_bench.txt", "e2e_s") == pytest.approx(1.6829355)
    assert one("trtllm_bench.txt").engine.version == "1.1.0rc2"


def test_the_five_forms_of_llama_bench_say_the_same():
    for form in ("csv", "json", "jsonl", "sql"):
        prompt, generation = read_file(FOLDER / f"llama_bench.{form}")
        assert (prompt.prompt.mean, prompt.output.mean) == (512, 1)
        assert (generation.prompt.mean, generation.output.mean) == (1, 129)
        assert prompt.deployment.model == "Qwen2.5-7B-Instruct"
        assert prompt.deployment.weight_format == "q4_k_m"
        assert prompt.deployment.gpu == "NVIDIA GeForce RTX 4080"
        assert prompt.figure("prefill_s").value == pytest.approx(
            512 / prompt.figure("prefill_tokens_per_s").value
        )
    table = read_file(FOLDER / "llama_bench.md")
    assert table[1].figure("step_s").value == pytest.approx(1 / 120.60)
    assert table[2].prompt.mean == 512
    assert table[0].engine.version == "b5163"
    assert table[0].figure("weight_bytes").value == pytest.approx(4.36 * 2**30)


def test_a_rate_of_llama_bench_that_does_not_go_with_its_time_is_refused():
    text = (FOLDER / "llama_bench.csv").read_text().replace('"1067431600"', '"1067431"')
    with pytest.raises(SpecError, match="do not go with 128 tokens"):
        read_text(text, "x")


def test_durations_of_generations_have_their_unit_and_go_with_their_rates():
    assert value("ollama.txt", "prefill_s") == pytest.approx(3.345339125)
    assert one("ollama.txt").engine.name == "llama_cpp"
    assert one("ktransformers.txt").engine.name == "ktransformers"
    text = (FOLDER / "ktransformers.txt").read_text()
    with pytest.raises(SpecError, match="are not the 13"):
        read_text(text.replace("22.42567276954651s", "22.42567276954651ms"), "x")
    with pytest.raises(SpecError, match="no duration with its unit"):
        read_text(text.replace("22.42567276954651s", "22.42567276954651"), "x")
    minutes = (FOLDER / "ollama.txt").read_text().replace("12.85298764s", "0m12.85298764s")
    assert read_text(minutes, "x")[0].figure("decode_s").value == pytest.approx(12.85298764)


def test_metrics_of_a_server_say_its_cache_and_preemptions():
    vllm, sglang = one("vllm_metrics.prom"), one("sglang_metrics.prom")
    assert vllm.figure("kv_cache_tokens").value == 573 * 16
    assert (vllm.counts.preempted, sglang.counts.preempted) == (7, 2)
    assert sglang.figure("kv_cache_tokens").value == 432_000
    assert vllm.figure("ttft_s").value == pytest.approx(0.2)
    assert vllm.figure("ttft_s", "p50").value == pytest.approx(0.1 + 0.15 * 40 / 80)
    assert vllm.figure("itl_s").value == pytest.approx(0.035)
    assert (vllm.prompt.mean, vllm.output.mean, vllm.deployment.prefix_hit_rate) == (512, 128, 0)
    assert vllm.load.kind is None


def test_a_trace_keeps_each_request():
    run = one("trace.csv")
    assert (run.load.kind, len(run.requests)) == ("trace", 3)
    assert run.requests[0].first_token_s == 0.169525
    text = (FOLDER / "trace.csv").read_text().replace("0.169525", "-1")
    with pytest.raises(SpecError, match="x:2: first_token_s is -1"):
        read_text(text, "x")


def test_a_log_of_deepspeed_is_seconds_and_gib():
    assert value("deepspeed.log", "decode_s") == 1.953
    assert value("deepspeed.log", "weight_bytes") == pytest.approx(12.386 * 2**30)
    assert {"deployment.model", "deployment.gpu", "prompt.mean"} <= set(one("deepspeed.log").unknown)


def test_folders_of_models_do_not_go_into_a_record():
    assert last_part("/home/someone/models/Qwen2.5-7B-Instruct") == "Qwen2.5-7B-Instruct"
    assert last_part(r"C:\models\x") == "x"
    assert last_part("/root/.cache/huggingface/hub/models--Qwen--Qwen3-8B/snapshots/abc") == "Qwen/Qwen3-8B"
    assert last_part("Qwen/Qwen3-8B") == "Qwen/Qwen3-8B"
    assert last_part(None) is None


def test_the_projects_tables_are_read_too():
    import gzip
    from importlib import resources

    packed = resources.files("calibrate") / "measurements" / "serving" / "llm_inference_bench.csv.gz"
    lines = gzip.decompress(packed.read_bytes()).decode().splitlines()
    run = read_text("\n".join(lines[:2]) + "\n", "x")[0]
    assert run.tool == "published-table"
    assert run.deployment.model
    assert run.load.kind == "batch"
    assert run.figures


WRONG = (None, -1, 0, 1e308, "", "x", "nan", [], {}, True, [1, "a"], {"a": 1}, 10**30, "1e400", 3.7)


def mutated(value, path, wrong):
    """A copy of JSON with one value replaced."""
    if not path:
        return wrong
    copy = dict(value) if isinstance(value, dict) else list(value)
    copy[path[0]] = mutated(value[path[0]], path[1:], wrong)
    return copy


def places(value, path=()):
    items = (
        value.items() if isinstance(value, dict) else enumerate(value[:2]) if isinstance(value, list) else ()
    )
    for key, inside in items:
        yield (*path, key)
        yield from places(inside, (*path, key))


@pytest.mark.parametrize(
    "file", [f for f in FILES if f.suffix in (".json", ".jsonl")], ids=lambda file: file.name
)
def test_a_value_of_another_kind_is_read_or_one_line(file):
    """Every field in turn becomes something else: what is refused is refused in one line."""
    lines = [file.read_text()] if file.suffix == ".json" else file.read_text().splitlines()
    first = json.loads(lines[0])
    for number, path in enumerate(places(first)):
        wrong = WRONG[number % len(WRONG)]
        text = "\n".join([json.dumps(mutated(first, path, wrong)), *lines[1:]])
        refused = refusal(text)
        assert refused is None or "\n" not in refused


@pytest.mark.parametrize(
    "file", [f for f in FILES if f.suffix not in (".json", ".jsonl")], ids=lambda file: file.name
)
def test_a_damaged_text_is_read_or_one_line(file):
    text = file.read_text()
    for number, letter in enumerate(["", "\n", "9", ",", "-", "x", '"', "{", ".", " ", "|", "é"] * 4):
        at = (number * 7919) % len(text)
        refused = refusal(text[:at] + letter + text[at + 1 :])
        assert refused is None or "\n" not in refused


def test_every_field_that_vllm_writes_today_is_known(tmp_path: Path) -> None:
    """Names as public results of 2026 have them: per-second peaks, real-time factors and percentiles beside means."""
    record = {
        "date": "20260826-064255", "backend": "openai", "endpoint_type": "vllm", "label": None, "model_id": "Qwen/Qwen3-0.6B",
        "tokenizer_id": "Qwen/Qwen3-0.6B", "num_prompts": 32, "request_rate": "inf", "burstiness": 1.0, "max_concurrency": 8,
        "duration": 1.14, "completed": 32, "failed": 0, "total_input_tokens": 16384, "total_output_tokens": 4096,
        "request_throughput": 28.07, "request_goodput": None, "output_throughput": 3593.0, "total_token_throughput": 17965.0,
        "max_output_tokens_per_s": 3570.0, "max_concurrent_requests": 16, "rtfx": 0.0, "start_times": [1.0],
        **{
            f"{of}_{what}_ms": value
            for what, value in (("ttft", 47.0), ("tpot", 1.81), ("itl", 1.81), ("e2el", 277.0))
            for of in ("mean", "median", "p50", "p90", "p99")
        },
        **{f"std_{what}_ms": 0.1 for what in ("ttft", "tpot", "itl", "e2el")},
    }  # fmt: skip
    path = tmp_path / "result.json"
    path.write_text(json.dumps(record))
    (run,) = read_file(path)
    assert run.tool == "vllm-bench-serve"
    assert run.unread == ()
    assert run.figure("ttft_s").value == pytest.approx(0.047)
    assert run.load.concurrency == 8


def test_a_report_of_inference_perf_of_today_has_other_names_of_lengths():
    """Since 2026 ``prompt_tokens`` and ``output_tokens`` count, the former with what the server's cache had."""
    record = json.loads((FOLDER / "inference_perf.json").read_text())
    good = record["successes"]
    before = read_text(json.dumps(record), "x")[0]
    lengths = good.pop("prompt_len")
    good["prompt_tokens"] = {
        "total": 200.0 * 2278,
        "cached": 50.0 * 2278,
        "uncached": 150.0 * 2278,
        **lengths,
    }
    good["output_tokens"] = {"total": 63.0 * 2278, "mean": 63.0, "min": 17.0, "max": 70.0}
    run = read_text(json.dumps(record), "x")[0]
    assert run.prompt == before.prompt
    assert run.output.mean == 63.0  # the server's count, and not the client's
    assert (run.deployment.prefix_hit_rate, before.deployment.prefix_hit_rate) == (0.25, None)


def test_ranks_of_one_engine_state_its_gauges_once_each():
    """SGLang's ranks all state the engine's cache and load, and priorities come with their sum."""
    labels = 'engine_type="unified",model_name="m",pp_rank="0"'
    lines = ["sglang:prompt_tokens_total 1000.0", "sglang:cached_tokens_total 250.0"]
    for rank in range(4):
        own = f'{labels},moe_ep_rank="{rank}",tp_rank="{rank}"'
        lines += [
            f"sglang:max_total_num_tokens{{{own}}} 262144.0",
            f"sglang:token_usage{{{own}}} 0.5",
            f'sglang:num_running_reqs{{{own},priority=""}} 14.0',
            f'sglang:num_running_reqs{{{own},priority="0"}} 10.0',
            f'sglang:num_running_reqs{{{own},priority="1"}} 4.0',
        ]
    run = read_text("\n".join(lines) + "\n", "x")[0]
    stated = {one.quantity: one.value for one in run.figures}
    assert stated == {"kv_cache_tokens": 262144, "kv_cache_usage": 0.5, "running_requests": 14}
    assert run.deployment.prefix_hit_rate == 0.25
    # Two engines behind one server: each has a cache of its own.
    text = "\n".join(
        line.replace('model_name="m"', f'model_name="m",dp_rank="{dp}"')
        for dp in (0, 1)
        for line in lines[2:]
    )
    both = {one.quantity: one.value for one in read_text(text + "\n", "x")[0].figures}
    assert both == {"kv_cache_tokens": 2 * 262144, "kv_cache_usage": 0.5, "running_requests": 28}


@pytest.mark.parametrize(
    "file", ["sglang_one_batch.txt", "trtllm_bench.txt", "vllm_throughput.txt", "llama_bench.md"]
)
@pytest.mark.parametrize(
    "first", ["[2026-02-26 10:25:20 TP0] Reset pool", "[TensorRT-LLM][INFO] Engine version", "[1] 4711"]
)
def test_a_log_may_begin_with_something_in_brackets(file, first):
    """Servers and shells put times and names there, which are no JSON."""
    text = (FOLDER / file).read_text()
    plain, logged = read_text(text, "x"), read_text(f"{first}\n{text}", "x")
    assert [run.figures for run in logged] == [run.figures for run in plain]


def test_the_table_of_an_older_sglang_is_read_whole():
    text = (FOLDER / "sglang_serving.txt").read_text()
    older = re.sub("Total token throughput", "Total throughput", text, flags=re.IGNORECASE)
    (run,) = read_text(older, "x")
    assert run.unread == ()
    known = one("sglang_serving.txt")
    assert [(a.quantity, a.value) for a in run.figures] == [(b.quantity, b.value) for b in known.figures]
