"""``llm-perf train --trainer-config``: trainers' own files, what of them is used, and files that are wrong."""

from __future__ import annotations

import json

import pytest

DEEPSPEED = {
    "zero_optimization": {"stage": 2, "offload_optimizer": {"device": "cpu", "pin_memory": True}, "reduce_bucket_size": 2e8},
    "bf16": {"enabled": True},
    "train_micro_batch_size_per_gpu": 2,
    "gradient_accumulation_steps": "auto",
    "gradient_clipping": 1.0,
}  # fmt: skip
LLAMA_FACTORY = """
model_name_or_path: meta-llama/Meta-Llama-3-8B
finetuning_type: lora
lora_target: q_proj,v_proj
quantization_bit: 4
cutoff_len: 1024
per_device_train_batch_size: 2
gradient_accumulation_steps: 4
bf16: true
output_dir: saves
"""
AXOLOTL = """
base_model: meta-llama/Llama-2-7b-hf
adapter: qlora
load_in_4bit: true
lora_r: 32
lora_target_linear: true
sequence_len: 2048
micro_batch_size: 1
gradient_accumulation_steps: 4
optimizer: paged_adamw_8bit
liger_fused_linear_cross_entropy: true
gradient_checkpointing: true
wandb_project: mine
"""
TORCHTUNE = """
model: {_component_: torchtune.models.llama3_2.llama3_2_3b}
tokenizer: {_component_: torchtune.models.llama3.llama3_tokenizer, max_seq_len: 4096}
optimizer: {_component_: bitsandbytes.optim.PagedAdamW8bit, lr: 2e-5}
loss: {_component_: torchtune.modules.loss.CEWithChunkedOutputLoss}
batch_size: 2
optimizer_in_bwd: True
enable_activation_checkpointing: True
dtype: bf16
seed: null
"""
MEGATRON = """#!/bin/bash
TP=2
ARGS=(
    --tensor-model-parallel-size ${TP}
    --pipeline-model-parallel-size 2 # two stages
    --sequence-parallel
    --num-layers 32 --hidden-size 4096
    --seq-length 4096 --micro-batch-size 1 --global-batch-size 32
    --recompute-granularity full --recompute-method uniform --recompute-num-layers 1
    --use-distributed-optimizer --bf16 --train-iters 500
)
torchrun --nproc_per_node 8 pretrain_gpt.py ${ARGS[@]}
"""
HUGGING_FACE = {
    "per_device_train_batch_size": 1, "gradient_accumulation_steps": 8, "bf16": True, "gradient_checkpointing": True,
    "optim": "adamw_torch", "deepspeed": "ds.json", "learning_rate": 1e-5,
}  # fmt: skip


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name, text in (
        ("ds.json", json.dumps(DEEPSPEED)), ("factory.yaml", LLAMA_FACTORY), ("axolotl.yaml", AXOLOTL),
        ("tune.yaml", TORCHTUNE), ("megatron.sh", MEGATRON), ("hf.json", json.dumps(HUGGING_FACE)),
    ):  # fmt: skip
        (tmp_path / name).write_text(text)
    return tmp_path


def asked(llm_perf, *arguments: str):
    result = llm_perf("train", "--gpu", "a100-sxm-80gb", *arguments, "--json")
    assert result.code in (0, 3), result.err
    return json.loads(result.out)


EXPECTED = {
    "ds.json": (
        "DeepSpeed",
        ("--model", "llama-3-8b", "--num-gpus", "8"),
        {"framework": "deepspeed", "ds_zero": 2, "optimizer_device": "cpu", "micro_batch_size": 2, "precision": "bf16",
         "reduce_bucket_size": 2e8, "gradient_accumulation_steps": None},
        {"gradient_clipping", "zero_optimization.offload_optimizer.pin_memory"},
    ),
    "factory.yaml": (
        "LLaMA-Factory",
        (),
        {"framework": "llama_factory", "lora_rank": 8, "lora_targets": "qv", "base_weight_bits": 4, "seq_len": 1024,
         "micro_batch_size": 2, "activation_recomputation": 4},
        {"output_dir"},
    ),
    "axolotl.yaml": (
        "axolotl",
        (),
        {"framework": "axolotl", "lora_rank": 32, "lora_targets": "all", "base_weight_bits": 4, "loss": "fused",
         "optimizer": "paged_adam8bit", "seq_len": 2048},
        {"wandb_project"},
    ),
    "tune.yaml": (
        "torchtune",
        (),
        {"framework": "torchtune", "model": "llama-3.2-3b", "optimizer": "paged_adam8bit", "optimizer_in_backward": True,
         "loss": "chunked", "activation_recomputation": 4, "seq_len": 4096},
        {"optimizer.lr", "seed", "tokenizer._component_"},
    ),
    "megatron.sh": (
        "Megatron-LM",
        ("--model", "llama-3-8b"),
        {"framework": "megatron", "tp_size": 2, "pp_size": 2, "ds_zero": 1, "global_batch_size": 32, "num_gpus": 8,
         "activation_recomputation": 4, "total_num_tokens": 500 * 32 * 4096},
        {"hidden_size"},
    ),
    "hf.json": (
        "Hugging Face Trainer",
        ("--model", "llama-3-8b", "--num-gpus", "8"),
        {"framework": "deepspeed", "ds_zero": 2, "optimizer_device": "cpu", "micro_batch_size": 1, "optimizer": "adamw",
         "activation_recomputation": 4},
        {"learning_rate"},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", EXPECTED)
def test_files_of_trainers_are_read_and_what_was_not_used_is_said(llm_perf, folder, name):
    kind, more, inputs, unused = EXPECTED[name]
    found = asked(llm_perf, "--trainer-config", name, *more)
    assert found["trainer_config"]["kind"] == kind
    assert found["inputs"] | inputs == found["inputs"]
    assert unused <= set(found["trainer_config"]["unused"])
    text = " ".join(llm_perf("train", "--gpu", "a100-sxm-80gb", "--trainer-config", name, *more).out.split())
    assert f"trainer file: read as a file of {kind}; not used: " in text


def test_flags_win_over_a_trainers_file(llm_perf, folder):
    found = asked(llm_perf, "--trainer-config", "axolotl.yaml", "--lora-rank", "8", "--seq-len", "512")
    assert (found["inputs"]["lora_rank"], found["inputs"]["seq_len"]) == (8, 512)
    batch = ("--micro-batch-size", "2", "--gradient-accumulation-steps", "3")
    assert (
        asked(llm_perf, "--model", "llama-3-8b", "--trainer-config", "megatron.sh", *batch)["batch"][
            "global_batch_size"
        ]
        == 12
    )


def test_every_key_is_used_or_said(llm_perf, folder):
    """A file with one more key has one more that was not used."""
    (folder / "more.yaml").write_text(AXOLOTL + "something_new: 3\n")
    before, after = (
        set(asked(llm_perf, "--trainer-config", name)["trainer_config"]["unused"])
        for name in ("axolotl.yaml", "more.yaml")
    )
    assert after - before == {"something_new"}


BAD = {
    "is no YAML": ("x.yaml", "a: [1", "malformed YAML"),
    "is no JSON": ("x.json", '{"a": ', "malformed JSON"),
    "is nobody's": ("x.yaml", "colour: red\n", "is no trainer's file that is known"),
    "is a list": ("x.yaml", "- 1\n", "mapping"),
    "has a word for a number": ("x.json", '{"zero_optimization": {"stage": "three"}}', "stage must be a number"),
    "has no such stage": ("x.json", '{"zero_optimization": {"stage": 7}}', "zero_optimization.stage must be 0, 1, 2 or 3"),
    "has a number for a mapping": ("x.json", '{"zero_optimization": 3}', "zero_optimization must be a mapping"),
    "has an unknown optimizer": ("x.yaml", "base_model: llama-2-7b\nsequence_len: 512\noptimizer: sparkle\n", "optimizer"),
    "has an unknown adapter": ("x.yaml", "base_model: opt-125m\nsequence_len: 9\nadapter: relora\n", "must be lora or qlora"),
    "names a file that is missing": ("x.json", '{"per_device_train_batch_size": 1, "deepspeed": "gone.json"}', "gone.json"),
    "has open quotes": ("x.sh", "python t.py --micro-batch-size 1 'oops\n", "malformed arguments"),
    "freezes layers": ("x.yaml", "finetuning_type: freeze\ncutoff_len: 512\n", "finetuning_type must be full or lora"),
}  # fmt: skip


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        ({"offload_optimizer": {"device": "cpu", "super_offload": True, "ratio": 0.8}},
         {"offload_overlap": "superoffload", "superoffload_ratio": 0.8}),
        ({"zenflow": {"topk_ratio": 0.05, "update_interval": 8, "overlap_step": True}},
         {"offload_overlap": "zenflow", "zenflow_topk_ratio": 0.05, "zenflow_update_interval": 8}),
        ({"zenflow": {"topk_ratio": 0.05, "update_interval": "auto"}},
         {"offload_overlap": "none", "zenflow_topk_ratio": None, "zenflow_update_interval": None}),
    ],
)  # fmt: skip
@pytest.mark.parametrize("trainer", [False, True])
def test_overlaps_of_deepspeeds_update_on_the_cpu_are_read(llm_perf, folder, trainer, more, expected):
    zero = {"stage": 2, "offload_optimizer": {"device": "cpu"}} | more
    (folder / "ds.json").write_text(json.dumps(DEEPSPEED | {"zero_optimization": zero}))
    config = "hf.json" if trainer else "ds.json"
    found = asked(llm_perf, "--model", "llama-3-8b", "--num-gpus", "8", "--trainer-config", config)["inputs"]
    assert {name: found[name] for name in expected} == expected


@pytest.mark.parametrize("name", BAD)
def test_a_file_that_is_wrong_is_one_line_and_exit_2(llm_perf, tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    file, text, words = BAD[name]
    (tmp_path / file).write_text(text)
    result = llm_perf("train", "--model", "llama-3-8b", "--gpu", "a100-sxm-80gb", "--trainer-config", file)
    assert (result.code, result.out, result.err.count("\n")) == (2, "", 1)
    assert file in result.err or "gone.json" in result.err
    assert words in result.err


def test_missing_and_two_files_are_refused(llm_perf, folder):
    for arguments, words in (
        (("--trainer-config", "nowhere.yaml"), "nowhere.yaml"),
        (("--trainer-config", ""), "is no file"),
        (("--trainer-config", "axolotl.yaml", "--config", "axolotl.yaml"), "give one"),
    ):
        result = llm_perf("train", "--gpu", "t4", *arguments)
        assert (result.code, result.out, result.err.count("\n")) == (2, "", 1)
        assert words in result.err
