"""What is refused is refused in one line that says what would be accepted, in the user's words."""

from __future__ import annotations

import importlib
import pkgutil
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

import calibrate
import llm_perf
from llm_perf.cli.main import run
from llm_perf.config.base import Spec, plain_words

CLASS = re.compile(r"\b[A-Z][a-z]+[A-Z]\w*(?:Config|Spec|Inputs|Plan|Level|Recomputation)\b|\b\w+Config\b")
GPT = "--model llama-3-8b --gpu a100-sxm-80gb"
REFUSED = (
    (f"train {GPT} --framework hf_gptq", "--lora-rank"),
    (f"train {GPT} --base-weight-bits 4", "--lora-rank"),
    (f"train {GPT} --adapter dora", "--lora-rank"),
    (f"train {GPT} --logit-bytes 0", "greater than or equal to 1"),
    (
        f"train {GPT} --activation-recomputation 9",
        "0, 1, 2, 3, 4 (none, attn_compute, attn, norm_attn_norm, full)",
    ),
    (f"train {GPT} --framework zzz", "llm-perf systems list"),
    (f"train {GPT} --total-num-tokens many", "such as 512 or 1e9"),
    ("train --model llama-3-8b --gpu b200 --power-limit-w 5000", "at most 1500 W"),
    ("train --model llama-3-8b --gpu b200 --power-limit-w 1", "rated power"),
    ("infer --model llama-3-8b --gpu zzz", "llm-perf gpus list"),
    (f"infer {GPT} --prompt-len 1.5", "such as 512 or 1e9; llm-perf simulate takes 1.5 as the mean of many"),
    (
        "infer --model llama-3-8b --gpu h100-sxm --system sglang@0.4 --enforce-eager",
        "not known here; it is of ",
    ),
    (f"infer {GPT} --system llama_cpp --enforce-eager", "systems that do: "),
    (f"infer {GPT} --host '-2x epyc-9354'", "give epyc-9354, or 2x epyc-9354 to 8x"),
    (f"infer {GPT} --host '(2x epyc-9354'", "give epyc-9354, or 2x epyc-9354 to 8x"),
    (f"infer {GPT} --host '9x epyc-9354'", "give epyc-9354, or 2x epyc-9354 to 8x"),
    (f"infer {GPT} --host '2.5x epyc-9354'", "give epyc-9354, or 2x epyc-9354 to 8x"),
    (f"infer {GPT} --host zzz", "llm-perf hosts list"),
    (f"infer {GPT} --host -256gb", "as in ryzen-9-7950x-256gb (llm-perf hosts list)"),
    (f"infer {GPT} --host '2x epyc-9554p'", "2x epyc-9554 where there is one"),
    (f"infer {GPT} --tp-size 3", "possible: 1, 2, 4"),
    ('plan --model llama-3-8b --target "tpot<0ms"', "positive number"),
    ("plan --model llama-3-8b --max-gpus no", "such as 512 or 1e9"),
    ("policy --model opt-30b --gpu t4 --max-latency 0", "greater than 0"),
    ("infer --model opt-6.7b --gpu t4 --system lia", "a --host whose file states"),
    (
        "policy --model opt-30b --gpu t4 --objective throughput --weight-format q4_k_m",
        "--system llama_cpp, or auto",
    ),
    ("policy --system llama_cpp --model opt-6.7b --gpu t4 --weight-format zzz", "use auto or one of"),
    ("plan --model llama-3-8b --target ,", 'expected such as "tpot<50ms"'),
    ("sweep --model opt-1.3b --gpu t4 --weight-format fp16,zzz", "use auto or one of"),
    ("sweep --model opt-1.3b --gpu t4 --prices zzz", "No such file"),
    (
        "infer --model opt-1.3b --gpu t4 --quant-bits 99999999999999999999999",
        "a whole number of a usual size",
    ),
    ("infer --model qwen3-30b-a3b --gpu rtx-4090 --system llama_cpp --threads 100000", "possible: 1 to "),
    (
        f"infer {GPT} --system llama_cpp --num-gpus 4 --tp-size 2",
        "give no tp_size, since llama_cpp has stages",
    ),
    (f"infer {GPT} --num-gpus 4 --tp-size 2", "leaves dp_size 2, and batch_size 1"),
    (f"infer {GPT} --system llama_cpp -ngl 20", "-ngl is --n-gpu-layers here"),
    (
        f"train {GPT} --gradient_checkpointing true",
        "--gradient_checkpointing is --activation-recomputation full here",
    ),
    (f"train {GPT} --lora-targets qv", "lora_targets is for adapters: give --lora-rank too"),
    (f"train {GPT} --base-double-quant", "base_double_quant is for adapters: give --lora-rank too"),
    (f"infer {GPT} --tensor-parallel-size 2", "--tensor-parallel-size is --tp-size here"),
    (f"infer {GPT} --max-model-len=8192", "--max-model-len is --prompt-len and --gen-len here"),
    (f"infer {GPT} --batch_size 4", "--batch_size is --batch-size here"),
    (f"simulate {GPT} --request-rate 4", "--request-rate is --rate here"),
    (f"infer {GPT} --system llama_cpp -fa on", "-fa is not needed here: attention is taken to be fused"),
    (f"infer {GPT} --system llama_cpp -c 4096", "-c is --prompt-len and --gen-len here"),
    (f"infer {GPT} --system llama_cpp -ub 512", "-ub is --ubatch-size here"),
    (f"infer {GPT} --system llama_cpp -ot exps=CPU", "-ot is --n-cpu-moe here"),
    (f"infer {GPT} --system llama_cpp -hf x", "-hf is --model here"),
    (f"infer {GPT} --system vllm --enable-prefix-caching", "--prefix-hit-rate says what is in it"),
    (f"infer {GPT} --draft-model eagle3 --acceptance .8", "beside models there are mtp and eagle"),
    (f"infer {GPT} --draft-model mtp --acceptance .8", "possible: eagle, or a model that drafts"),
    ("infer llama-3.1-8b", "inputs have flags, as in --model NAME --gpu NAME"),
    ("plan --model llama-3.1-8b --system llama_cpp", "of a machine whose CPU computes too give --host"),
    (f"infer {GPT} --request-rate 4", "--request-rate is --rate of llm-perf simulate"),
    (f"infer {GPT} --max-concurrency 4", "--max-concurrency is --batch-size here"),
    (f"infer {GPT} --concurrency 4", "--concurrency is --batch-size here"),
    (f"infer {GPT} --rate 4", "--rate is of llm-perf simulate"),
    ("infer --model qwen3-30b-a3b --host nosuch-cpu --system llama_cpp", "hosts list"),
    ("policy --model qwen3-30b-a3b --host nosuch-cpu --system llama_cpp", "hosts list"),
    ("infer --model nosuch --gpu t4 --prompt-len 1023.4", "models list"),
    (f"infer {GPT} --ram 128", "--ram is --host-memory here"),
    (
        "infer --model turboderp/Qwen3-30B-A3B-exl3 --gpu rtx-4090",
        "--model Qwen3-30B-A3B --weight-format exl3-4.0bpw, with the bits of your branch",
    ),
    (f"train {GPT} --host-bandwidth 10", "--host-bandwidth is of llm-perf infer and simulate"),
    ("plan --model opt-13b --host-memory 100", "--host-memory is of llm-perf infer, simulate and train"),
    (f"simulate {GPT} --max_concurrency 4", "--max_concurrency is --concurrency here"),
    (f"simulate {GPT} --random-range-ratio 0.5", "--prompt-len uniform:LEAST:MOST"),
    (
        f"simulate {GPT} --random-input-len 1000",
        "--random-input-len is --prompt-len here; sglang.bench_serving draws",
    ),
    (f"simulate {GPT} --random-output 1000", "uniform:1:LENGTH"),
    (f"simulate {GPT} --random-prefix-len 50", "--random-prefix-len is --prefix-len here"),
    (f"infer {GPT} --kv_cache_free_gpu_mem_fraction 0.9", "is --gpu-memory-utilization here"),
    (f"train {GPT} --per_device_train_batch_size 1", "is --micro-batch-size here"),
    (f"infer {GPT} --num-gpus 4", "divide the model over all GPUs give tp_size 4"),
    ("infer --model opt-1.3b --gpu t4 --system airllm --num-gpus 2", "airllm runs on one; leave --num-gpus"),
    ("policy --model nonesuch --gpu t4 --system fiddler@1.0", "models list"),
    ("plan --model nonesuch --system vllm@0.14.9", "models list"),
    (
        "simulate --model qwen3-8b --gpu rtx-5090 --system llama_cpp --num-gpus 4 --rate 1",
        "or replicas by dp_size 4",
    ),
)


@pytest.mark.parametrize(("command", "accepted"), REFUSED)
def test_a_refusal_says_what_would_be_accepted(
    command: str, accepted: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(shlex.split(command)) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert accepted in err
    assert not CLASS.search(err)


def test_a_mean_length_is_taken_as_the_next_whole_one_and_said(capsys: pytest.CaptureFixture[str]) -> None:
    answers = []
    for lengths in ("--prompt-len 1023.4 --gen-len 127.9", "--prompt-len 1023 --gen-len 128"):
        assert run(shlex.split(f"infer {GPT} {lengths} --json")) == 0
        answers.append(capsys.readouterr())
    assert answers[0].out == answers[1].out
    assert "--prompt-len 1023.4 is taken as 1023" in answers[0].err
    assert "--gen-len 127.9 is taken as 128" in answers[0].err
    assert answers[1].err == ""


BENCHMARKS = {
    # vllm/benchmarks/serve.py, datasets, throughput.py and latency.py of late 2026
    "vllm": """
        label backend base-url port endpoint header max-concurrency input-len output-len tokenizer
        tokenizer-mode use-beam-search logprobs request-rate probe-request-rate disable-tqdm num-warmups
        save-result save-detailed append-result metadata result-dir result-filename ignore-eos self-timed
        percentile-metrics metric-percentiles goodput request-id-prefix top-p top-k min-p temperature
        frequency-penalty presence-penalty repetition-penalty served-model-name lora-modules lora-assignment
        ramp-up-strategy ramp-up-start-rps ramp-up-end-rps ready-check-timeout-sec chat-template-kwargs
        extra-body skip-tokenizer-init insecure plot-timeline timeline-itl-thresholds plot-dataset-stats
        num-prompts dataset-name dataset-path no-oversample disable-shuffle skip-chat-template
        custom-output-len sonnet-input-len sonnet-output-len sonnet-prefix-len sharegpt-output-len
        blazedit-min-distance random-input-len random-output-len random-range-ratio random-prefix-len
        random-batch-size random-mm-base-items-per-request hf-subset hf-split hf-name hf-output-len
        prefix-repetition-prefix-len prefix-repetition-suffix-len prefix-repetition-num-prefixes
        prefix-repetition-output-len trust-remote-code spec-bench-output-len spec-bench-category n num-iters
        num-iters-warmup output-json async-engine disable-detokenize disable-frontend-multiprocessing
        tensor-parallel-size max-model-len load-format
    """,
    # sglang/bench_serving.py, bench_one_batch.py and bench_offline_throughput.py of 0.5.10
    "sglang": """
        apply-chat-template backend base-url dataset-name dataset-path disable-ignore-eos disable-stream
        disable-tqdm extra-request-body flush-cache gsp-fast-prepare gsp-num-groups gsp-num-turns
        gsp-ordered gsp-output-len gsp-prompts-per-group gsp-question-len gsp-range-ratio
        gsp-send-routing-key gsp-system-prompt-len header image-content image-count image-format
        image-resolution logprob-start-len lora-name lora-request-distribution lora-zipf-alpha
        max-concurrency mooncake-num-rounds mooncake-slowdown-factor mooncake-workload num-prompts
        output-details output-file pd-separated plot-throughput port print-requests profile-activities
        profile-num-steps prompt-suffix random-image-count random-input-len random-output-len
        random-range-ratio ready-check-timeout-sec request-rate return-logprob return-routed-experts
        served-model-name sharegpt-context-len sharegpt-output-len tag token-ids-logprob tokenize-prompt
        tokenizer top-logprobs-num use-trace-timestamps warmup-requests correctness-test cut-len input-len
        output-len log-decode-step prompt-filename result-filename run-name do-not-exit skip-warmup
    """,
    # tensorrt_llm/bench/benchmark/throughput.py and low_latency.py
    "trtllm": """
        engine_dir backend extra_llm_api_options max_batch_size max_num_tokens max_seq_len beam_width
        kv_cache_free_gpu_mem_fraction dataset eos_id modality max_input_len warmup target_input_len
        target_output_len tp pp ep cluster_size streaming report_json iteration_log output_json request_json
        enable_chunked_context scheduler_policy medusa_choices model_path workspace log_level revision
        input-mean input-stdev output-mean output-stdev
    """,
    # tools/llama-bench/README.md
    "llama-bench": """
        numa -r repetitions prio delay -o output -oe output-err list-devices -v verbose progress no-warmup
        n-gen-warmup -fitt fit-target -fitc fit-ctx -rpc rpc -m -hf -hfr hf-repo -hff hf-file -hft hf-token
        -p n-prompt -n n-gen -pg -d n-depth -b -ub -ctk cache-type-k -ctv cache-type-v -t -C cpu-mask
        cpu-strict poll -ngl -ncmoe moe-cache repack -nr no-repack -sm -mg main-gpu -nkvo -fa flash-attn
        -dev device -lm load-mode -lzm lazy-mode -embd embeddings -ts tensor-split -ot override-tensor -nopo
        no-op-offload no-host
    """,
}
"""Options of benchmark programs that `infer` or `simulate` do not have under the same name."""


@pytest.mark.parametrize("command", ["infer", "simulate"])
@pytest.mark.parametrize("program", sorted(BENCHMARKS))
def test_every_option_of_a_benchmark_program_is_answered_in_one_line(
    command: str, program: str, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in BENCHMARKS[program].split():
        word = name if name.startswith("-") else f"--{name}"
        assert run([*f"{command} {GPT}".split(), word, "1"]) == 2, word
        err = capsys.readouterr().err
        assert err.count("\n") == 1
        said = (
            re.escape(f"llm-perf: no such option: {word} is ") + "(--|not needed here: |of llm-perf simulate)"
        )
        assert re.match(said, err), err


@pytest.mark.parametrize(
    ("text", "said"),
    [("name: mine\nmemory_gib: -3\n", "GPU mine: "), ("name: mine\nmemory: 3\n", "GPU mine: ")],
)
def test_a_fault_of_a_file_is_said_in_words(
    text: str, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "gpu.yaml").write_text(text)
    assert run(["infer", "--model", "opt-1.3b", "--gpu", str(tmp_path / "gpu.yaml")]) == 2
    err = capsys.readouterr().err
    assert said in err
    assert not CLASS.search(err)


def test_whole_numbers_are_read_as_people_write_them(capsys: pytest.CaptureFixture[str]) -> None:
    outputs = []
    for tokens in ("100000000000", "1e11", "100_000_000_000"):
        assert (
            run([*f"train {GPT} --num-gpus 8 --framework fsdp --json".split(), "--total-num-tokens", tokens])
            == 0
        )
        outputs.append(capsys.readouterr().out)
    assert outputs[0] == outputs[1] == outputs[2]


def _specs() -> Iterator[type[Spec]]:
    for package in (llm_perf, calibrate):
        for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            if module.name.startswith("llm_perf.config"):
                importlib.import_module(module.name)
    waiting = [Spec]
    while waiting:
        one = waiting.pop()
        waiting += one.__subclasses__()
        yield one


def test_no_spec_is_called_by_its_class() -> None:
    """Every message begins with the label; an abbreviation in it is one that people use."""
    labels = [one.label() for one in _specs()]
    assert len(labels) > 30
    assert not [label for label in labels if re.search("[a-z][A-Z]|_", label)]
    assert plain_words("GPUConfig") == "GPU"
    assert plain_words("LayerGroup") == "layer group"


def test_systems_that_a_refusal_lists_take_what_it_refuses(capsys: pytest.CaptureFixture[str]) -> None:
    asked = shlex.split("infer --model llama-3-8b --gpu a100-sxm-80gb --enforce-eager --json --system")
    assert run([*asked, "llama_cpp"]) == 2
    listed = capsys.readouterr().err.rpartition("systems that do: ")[2].strip().split(", ")
    assert {"vllm", "sglang"} <= set(listed)
    assert "tensorrt_llm" not in listed
    for system in listed:
        assert run([*asked, system]) == 0, system


def test_advice_keeps_the_engine_as_it_was_named(capsys: pytest.CaptureFixture[str]) -> None:
    """Ollama is llama.cpp, and a version stays: neither is a change."""
    asked = (
        "infer --model qwen3-30b-a3b --weight-format q4_k_m --gpu rtx-3060-12gb --host ryzen-5-5600 --system"
    )
    for named in ("ollama", "llama_cpp@2025"):
        assert run([*shlex.split(asked), named]) == 3
        change = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("Change:"))
        assert "--n-cpu-moe" in change
        assert "--system" not in change


def test_a_length_below_one_token_is_no_mean_that_simulate_takes(capsys: pytest.CaptureFixture[str]) -> None:
    for command in ("infer", "simulate --rate 1"):
        assert run(shlex.split(f"{command} {GPT} --prompt-len 0.4")) == 2
        assert "as the mean of many" not in capsys.readouterr().err
