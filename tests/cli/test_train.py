"""``llm-perf train`` as a user meets it: text, JSON, replay, comparisons, what does not fit, bad input."""

from __future__ import annotations

import json
import re

import pytest

RUN = ("train", "--model", "llama-3-8b", "--gpu", "h100-sxm-80gb", "--num-gpus", "8", "--framework", "fsdp",
       "--activation-recomputation", "full", "--total-num-tokens", "1000000000000")  # fmt: skip
SMALL = ("train", "--model", "opt-1.3b", "--gpu", "a100-sxm-40gb")


def json_of(llm_perf, *arguments: str):
    result = llm_perf(*arguments, "--json")
    assert result.err == ""
    return json.loads(result.out)


def test_text_says_what_a_user_asks(llm_perf):
    result = llm_perf(*RUN)
    assert result.code == 0
    assert result.err == ""
    for words in (
        "8 x H100-SXM-80GB",
        "ZeRO-3",
        "MFU (bf16 peak)",
        "HFU",
        "optimizer state",
        "GPU-hours",
        "Cost:",
        "Energy:",
    ):
        assert words in result.out
    assert max(map(len, result.out.splitlines())) <= 80


def test_json_is_one_object_that_can_be_replayed(llm_perf, tmp_path):
    found = json_of(llm_perf, *RUN)
    assert found["schema_version"] == 1
    assert found["feasible"] is True
    batch = found["batch"]
    assert batch["micro_batch_size"] * batch["gradient_accumulation_steps"] * 8 == batch["global_batch_size"]
    assert sum(found["step"]["breakdown_s"].values()) == pytest.approx(found["step"]["latency_s"])
    assert found["run"]["gpu_hours"] == pytest.approx(found["run"]["time_s"] * 8 / 3600)
    assert found["cost"]["run"] == pytest.approx(found["cost"]["per_gpu_hour"] * found["run"]["gpu_hours"])
    file = tmp_path / "earlier.json"
    file.write_text(json.dumps(found))
    assert json_of(llm_perf, "train", "--config", str(file)) == found
    changed = json_of(llm_perf, "train", "--config", str(file), "--activation-recomputation", "0")
    assert changed["inputs"] == found["inputs"] | {"activation_recomputation": 0}


def test_explanations_are_arithmetic(llm_perf):
    for entry in json_of(llm_perf, *RUN, "--explain")["explanations"]:
        assert eval(entry["expression"], {"__builtins__": {}}) == pytest.approx(entry["value"], rel=1e-9), (
            entry["name"]
        )
    assert "arXiv 1910.02054" in llm_perf(*RUN, "--explain").out


def test_several_gpus_side_by_side(llm_perf):
    arguments = (*SMALL, "--gpu", "h100-sxm-80gb", "--num-gpus", "8")
    text = llm_perf(*arguments)
    assert text.code == 0
    assert {"A100-SXM-40GB", "H100-SXM-80GB"} <= set(text.out.split())
    assert [found["inputs"]["gpu"] for found in json_of(llm_perf, *arguments)["comparison"]] == [
        "a100-sxm-40gb",
        "h100-sxm-80gb",
    ]


@pytest.mark.parametrize("micro_batch", ["1", "4"])
def test_beside_others_a_gpu_fits_as_it_does_alone(llm_perf, micro_batch):
    """Yes, likely or no: the answer of several says of each what its own answer says."""
    names = {"a100-sxm-40gb": "A100-SXM-40GB", "a100-sxm-80gb": "A100-SXM-80GB", "h200": "H200-SXM-141GB"}
    asked = (
        "train",
        "--model",
        "llama-3-8b",
        "--framework",
        "fsdp",
        "--num-gpus",
        "8",
        "--micro-batch-size",
        micro_batch,
    )
    alone = {gpu: llm_perf(*asked, "--gpu", gpu).out.split()[1].rstrip(".") for gpu in names}
    lines = llm_perf(*asked, *(word for gpu in names for word in ("--gpu", gpu))).out.splitlines()
    for gpu, name in names.items():
        (row,) = [
            line.split()
            for line in lines[5:]
            if line.startswith(name) and line.split()[-1] in ("yes", "likely", "no")
        ]
        assert row[-1] == alone[gpu], gpu
    fitting = [verdict for verdict in alone.values() if verdict != "no"]
    expected = "no" if not fitting else "likely" if "likely" in fitting else "yes"
    assert lines[0].split()[1].rstrip(".") == expected


def test_a_gpu_that_is_too_small_is_refused_with_the_shortfall(llm_perf):
    result = llm_perf("train", "--model", "llama-3-8b", "--gpu", "t4", "--framework", "deepspeed")
    assert result.code == 3
    assert 0 < result.out.index("Does not fit. GPU memory:") < result.out.index("throughput  ")
    assert result.out.startswith("Fits:      no. GPU memory: ")
    assert "GiB missing" in " ".join(result.out.split())
    found = json_of(llm_perf, "train", "--model", "llama-3-8b", "--gpu", "a100-sxm-40gb", "--num-gpus", "8")
    assert found["feasible"] is False
    assert found["batch"]["micro_batch_size"] == 1
    assert found["max_micro_batch_size"] == 0
    assert found["suggestions"]


def test_a_suggestion_fits(llm_perf):
    arguments = ("train", "--model", "llama-3-8b", "--gpu", "a100-sxm-40gb", "--num-gpus", "8")
    change = json_of(llm_perf, *arguments)["suggestions"][0]["change"]
    assert llm_perf(*arguments, *change.split()).code == 0


@pytest.mark.parametrize(
    "more",
    [
        ("--framework", "deepspeed", "--num-gpus", "8", "--optimizer-device", "cpu"),
        ("--framework", "deepspeed", "--num-gpus", "8", "--optimizer-device", "nvme", "--weights-device", "nvme"),
        ("--framework", "deepspeed", "--num-gpus", "4", "--activations-device", "cpu"),
        ("--lora-rank", "8", "--base-weight-bits", "4", "--framework", "axolotl"),
        ("--tp-size", "8", "--pp-size", "4", "--virtual-stages", "3", "--num-gpus", "8", "--num-nodes", "8",
         "--global-batch-size", "64", "--micro-batch-size", "1"),
        ("--cp-size", "2", "--num-gpus", "2", "--seq-len", "2048"),
        ("--dp-size", "1000000007",),
        ("--optimizer", "adam8bit", "--precision", "fp16"),
        ("--optimizer", "Muon", "--master-weights-dtype-bytes", "2", "--gradient-dtype-bytes", "2"),
        ("--no-flash-attn", "--softmax-dropout", "--dropout", "--micro-batch-size", "1", "--activation-recomputation", "1"),
    ],
    ids=lambda more: " ".join(more[:4]),
)  # fmt: skip
def test_ways_to_train(llm_perf, more):
    found = json_of(llm_perf, *SMALL, *more)
    assert found["feasible"] is True, found["reason"]
    assert 0 < found["flops"]["mfu"] < 1


BAD = {
    "no model": (("train", "--gpu", "t4"), "--model is required"),
    "unknown framework": ((*SMALL, "--framework", "megatorn"), "unknown framework 'megatorn'"),
    "unknown optimizer": ((*SMALL, "--optimizer", "adma"), "unknown optimizer 'adma'"),
    "unknown precision": ((*SMALL, "--precision", "int3"), "precision"),
    "unknown level": ((*SMALL, "--activation-recomputation", "some"), "no recomputation level"),
    "level 7": ((*SMALL, "--activation-recomputation", "7"), "activation_recomputation"),
    "stage 4": ((*SMALL, "--ds-zero", "4"), "ds_zero"),
    "no batch": ((*SMALL, "--micro-batch-size", "0"), "micro_batch_size"),
    "negative batch": ((*SMALL, "--global-batch-size", "-8"), "global_batch_size"),
    "batches that contradict": (
        (*SMALL, "--micro-batch-size", "3", "--gradient-accumulation-steps", "2", "--global-batch-size", "7"),
        "but global_batch_size is 7",
    ),
    "too long": ((*SMALL, "--seq-len", "4096"), "--allow-long-context"),
    "heads": ((*SMALL, "--tp-size", "3"), "tp_size 3 does not divide"),
    "gpus": ((*SMALL, "--num-gpus", "8", "--tp-size", "3"), "does not divide that"),
    "layers of no recomputation": ((*SMALL, "--recompute-layers", "3"), "give activation_recomputation too"),
    "experts of a dense model": ((*SMALL, "--expert-imbalance", "2"), "give ep_size above 1"),
    "a huge prime number of replicas": (
        (*SMALL, "--dp-size", "1000000007", "--ep-size", "2"),
        "and larger ones",
    ),
    "places": ((*SMALL, "--num-gpus", "100"), "has places for"),
    "chunks without a pipeline": ((*SMALL, "--virtual-stages", "2"), "needs a pipeline"),
    "sharded pipeline": ((*SMALL, "--pp-size", "2", "--ds-zero", "3"), "only stages 0 and 1"),
    "weights off without stage 3": ((*SMALL, "--weights-device", "cpu", "--ds-zero", "1"), "ds_zero 3"),
    "quantised without adapters": ((*SMALL, "--base-weight-bits", "4"), "--lora-rank"),
    "no tokens": ((*SMALL, "--total-num-tokens", "0"), "total_num_tokens"),
    "efficiency": ((*SMALL, "--flops-efficiency", "0"), "flops_efficiency"),
    "a board at rest": (
        ("train", "--model", "opt-1.3b", "--gpu", "b200", "--power-limit-w", "200"),
        "more than that",
    ),
    "no file": ((*SMALL, "--config", "nowhere.yaml"), "nowhere.yaml"),
    "an infer input": ((*SMALL, "--config", "infer.yaml"), "prompt_len"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_one_line_on_stderr(llm_perf, name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "infer.yaml").write_text("prompt_len: 512\n")
    arguments, words = BAD[name]
    result = llm_perf(*arguments)
    assert result.code == 2
    assert result.out == ""
    assert result.err.count("\n") == 1
    assert words in result.err
    assert [path.name for path in tmp_path.iterdir()] == ["infer.yaml"]


def test_results_are_written_whole(llm_perf, tmp_path):
    result = llm_perf(*SMALL, "--output-dir", str(tmp_path / "new"))
    assert result.code == 0
    (file,) = (tmp_path / "new").iterdir()
    assert json.loads(file.read_text())["schema_version"] == 1
    assert str(file) in result.err


def test_the_interval_of_a_step_says_what_it_rests_on(llm_perf):
    asked = ("train", "--model", "mpt-7b", "--gpu", "a100-sxm-80gb", "--num-gpus", "8", "--framework")
    found = llm_perf(*asked, "composer", "--json").json
    low, high = found["interval"]["step_latency_s"]
    assert low < found["step"]["latency_s"] < high
    assert "published runs of all systems in training" in " ".join(llm_perf(*asked, "composer").out.split())
    other = llm_perf(*asked, "axolotl", "--json").json["interval"]
    assert other["method"].endswith("; no published run of axolotl in training ships")
    assert other["step_latency_s"][1] / other["step_latency_s"][0] > high / low


def test_lora_that_does_not_fit_is_told_to_store_its_base_in_4_bits(llm_perf):
    """QLoRA is what people do next (arXiv 2305.14314)."""
    asked = ("train", "--model", "llama-3-70b", "--gpu", "a100-sxm-80gb", "--framework", "fsdp", "--lora-rank", "16",
             "--seq-len", "2048", "--micro-batch-size", "1", "--activation-recomputation", "full")  # fmt: skip
    result = llm_perf(*asked)
    assert result.code == 3
    assert "What fits: --base-weight-bits 4\n" in result.out
    assert "Does not fit. " in result.out.split("\n\n")[2]
    assert llm_perf(*asked, "--base-weight-bits", "4").code == 0


def test_what_fits_is_said_first(llm_perf):
    verdict = llm_perf(*RUN).out.splitlines()[0]
    assert re.match(r"Fits: +(yes|likely)\. GPU [\d.]+ of [\d.]+ GiB", verdict)


def test_memory_is_told_by_phase_and_term(llm_perf):
    asked = ("train", "--model", "llama-3-8b", "--gpu", "a100-sxm-80gb", "--framework", "deepspeed", "--num-gpus", "8",
             "--ds-zero", "2", "--activation-recomputation", "full", "--micro-batch-size", "1",
             "--gradient-accumulation-steps", "1", "--seq-len", "512")  # fmt: skip
    memory = json_of(llm_perf, *asked)["memory"]
    phases = memory["phases"]
    assert list(phases) == ["load", "forward", "backward", "end of backward", "step"]
    for phase in phases.values():
        assert phase["total_bytes"] == sum(term["bytes"] for term in phase["terms"])
    fullest = phases[memory["peak"]["phase"]]["total_bytes"]
    assert fullest == max(phase["total_bytes"] for phase in phases.values())
    assert fullest == pytest.approx(memory["gpu"]["total_bytes"], abs=20)
    low, high = memory["peak"]["interval_bytes"]
    assert low < fullest < high
    assert any("temporaries" in term["name"] for term in phases["step"]["terms"])
    text = " ".join(llm_perf(*asked, "--explain").out.split())
    assert f"fullest: {memory['peak']['phase']}" in text
    assert "one GPU, step =" in text


def test_a_job_that_may_not_fit_is_told_so(llm_perf):
    asked = ("train", "--model", "gemma-3-12b", "--gpu", "h100-sxm-80gb", "--framework", "hf_trainer", "--seq-len", "14000",
             "--micro-batch-size", "1", "--gradient-accumulation-steps", "1", "--activation-recomputation", "full",
             "--lora-rank", "8", "--base-weight-bits", "8")  # fmt: skip
    assert "It may not fit: the interval reaches past what is usable." in llm_perf(*asked).out
    assert "may not fit" not in llm_perf(*asked, "--seq-len", "4000").out


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (("--loss", "quick"), "loss"),
        (("--adapter", "dora"), "--lora-rank"),
        (("--lora-ends",), "--lora-rank"),
        (("--kept-products", "half"), "activation_recomputation full"),
        (("--optimizer-in-backward", "--gradient-accumulation-steps", "2"), "optimizer_in_backward"),
        (("--optimizer-in-backward", "--ds-zero", "2", "--optimizer-device", "cpu"), "optimizer_in_backward"),
        (("--logit-bytes", "-1"), "logit_bytes"),
        (("--weights-dtype-bytes", "3"), "weights_dtype_bytes"),
        (("--recompute-modules", ","), "a name is missing: give some of core_attn, layernorm"),
        (("--recompute-modules", "layernorm,,mlp"), "a name is missing"),
        (("--recompute-modules", ""), "a name is missing"),
        *(
            (("--framework", name, "--cuda-graphs", "layers"), "launches no CUDA graphs; megatron does")
            for name in ("fsdp", "megatron_2022", "hf_trainer", "deepspeed")
        ),
    ],
)
def test_wrong_settings_of_memory_are_one_line(llm_perf, more, words):
    result = llm_perf(*SMALL, *more)
    assert (result.code, result.out, result.err.count("\n")) == (2, "", 1)
    assert words in result.err


def test_what_a_step_was_asked_to_do_stands_in_its_heading(llm_perf):
    mixture = ("train", "--model", "mixtral-8x7b", "--gpu", "h100-sxm", "--num-gpus", "8", "--ep-size", "8")
    asked = (
        "--recompute-modules",
        "moe_act,layernorm",
        "--cuda-graphs",
        "layers",
        "--fused-experts",
        "--moe-overlap",
    )
    said = "recomputation of moe_act, layernorm; CUDA graphs of layers; fused experts; experts' exchange overlapped"
    assert said in " ".join(llm_perf(*mixture, *asked).out.split())
    assert "CUDA graphs of" not in llm_perf(*mixture).out  # the interval speaks of those that nobody states
    beside = (
        "--framework",
        "deepspeed",
        "--ds-zero",
        "2",
        "--optimizer-device",
        "cpu",
        "--offload-overlap",
        "zenflow",
    )
    assert "optimizer on cpu; zenflow" in llm_perf(*SMALL, *beside).out


@pytest.mark.parametrize(("held", "meant"), [(True, "layers"), (False, "none")])
def test_graphs_of_a_result_from_when_they_were_a_switch_are_read(llm_perf, tmp_path, held, meant):
    before = json_of(llm_perf, *SMALL)
    before["inputs"]["cuda_graphs"] = held
    (tmp_path / "before.json").write_text(json.dumps(before))
    again = json_of(llm_perf, "train", "--config", str(tmp_path / "before.json"))
    asked = json_of(llm_perf, *SMALL, "--cuda-graphs", meant)
    assert again["step"] == asked["step"]
    assert again["inputs"]["cuda_graphs"] == meant


def test_validate_shows_fine_tuning(llm_perf):
    found = json_of(llm_perf, "validate", "--tuning")
    assert set(found["tables"]) == {"finetuning", "b200"}
    assert found["tables"]["finetuning"]["memory"]["all"]["rows"] == 93
    text = llm_perf("validate", "--tuning")
    assert text.code == 0
    assert "Fine-tuning: peak GPU memory" in text.out
    wrong = llm_perf("validate", "--tuning", "--gpu", "t4")
    assert (wrong.code, wrong.out, wrong.err.count("\n")) == (2, "", 1)


@pytest.mark.parametrize("tokens", [100_000, 10**8, 10**9, 10**11])
def test_a_short_run_does_not_take_no_days(llm_perf, tokens):
    asked = (*SMALL, "--total-num-tokens", str(tokens))
    took = json_of(llm_perf, *asked)["run"]["days"] * 86400
    said = re.search(r"tokens in ([0-9.e,-]+) (ms|s|days)", llm_perf(*asked).out)
    assert said is not None
    read = float(said[1].replace(",", "")) * {"ms": 1e-3, "s": 1, "days": 86400}[said[2]]
    assert read == pytest.approx(took, rel=0.05)


def test_a_framework_that_shares_no_state_says_so(llm_perf):
    """Unsloth took ZeRO-3 in silence, and a third of the memory was left out."""
    asked = ("--model", "llama-3-8b", "--gpu", "a100-sxm-80gb", "--num-gpus", "2", "--lora-rank", "16")
    done = llm_perf("train", *asked, "--framework", "unsloth", "--ds-zero", "3")
    assert done.code == 2
    assert done.err.strip() == (
        "llm-perf: ds_zero 3: framework unsloth does not share its state so; it has stage 0"
    )


def test_parts_that_recompute_are_named_by_comma(llm_perf):
    asked = (
        "--model",
        "qwen3-30b-a3b",
        "--gpu",
        "h100-sxm-80gb",
        "--num-gpus",
        "8",
        "--ep-size",
        "8",
        "--json",
    )
    for flags, said in (
        (("--recompute-modules", "core_attn,loss"), "recompute_modules.1 must be"),
        (("--recompute-modules", "moe", "--activation-recomputation", "full"), "where no level does"),
        (("--recompute-modules", "moe", "--recompute-layers", "2"), "recompute_layers"),
    ):
        done = llm_perf("train", *asked, *flags)
        assert (done.code, done.err.count("\n")) == (2, 1)
        assert said in done.err
    kept = [
        json.loads(llm_perf("train", *asked, "--micro-batch-size", "1", *flags).out)["memory"]["gpu"]
        for flags in ((), ("--recompute-modules", "core_attn,moe_act"))
    ]
    assert kept[1]["activations_bytes"] < kept[0]["activations_bytes"]


@pytest.mark.parametrize(
    ("flag", "way", "other"),
    [
        ("--zenflow-topk-ratio", "zenflow", "superoffload"),
        ("--zenflow-update-interval", "zenflow", "superoffload"),
        ("--superoffload-ratio", "superoffload", "zenflow"),
    ],
)
def test_settings_of_an_overlap_that_is_not_asked_for_are_refused(llm_perf, flag, way, other):
    asked = (*SMALL, "--framework", "deepspeed", "--ds-zero", "3", "--optimizer-device", "cpu", flag, "1")
    for given in ((), ("--offload-overlap", other)):
        result = llm_perf(*asked, *given)
        assert (result.code, result.out, result.err.count("\n")) == (2, "", 1)
        assert f"is a setting of --offload-overlap {way}: give that too" in result.err
    assert llm_perf(*asked, "--offload-overlap", way).code == 0
