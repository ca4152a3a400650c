"""Files of others that `make fuzz` spoils: trainers' own configurations, and what benchmarks of engines leave behind."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Final

_BENCHMARKS: Final = Path(__file__).resolve().parents[1] / "tests" / "data" / "benchmarks"

TRAINERS: Final[dict[str, str]] = {
    "ds.json": json.dumps(
        {
            "zero_optimization": {
                "stage": 3,
                "offload_optimizer": {"device": "cpu"},
                "reduce_bucket_size": 5e8,
            },
            "bf16": {"enabled": True},
            "train_micro_batch_size_per_gpu": 2,
            "gradient_accumulation_steps": 4,
        },
        indent=0,
    ),
    "hf.json": json.dumps(
        {
            "per_device_train_batch_size": 2,
            "gradient_accumulation_steps": 8,
            "gradient_checkpointing": True,
            "bf16": True,
            "optim": "paged_adamw_8bit",
        },
        indent=0,
    ),
    "axolotl.yaml": "base_model: meta-llama/Llama-2-7b-hf\nadapter: qlora\nload_in_4bit: true\nlora_r: 32\nlora_alpha: 16\n"
    "lora_target_linear: true\nsequence_len: 4096\nsample_packing: true\nmicro_batch_size: 2\n"
    "gradient_accumulation_steps: 4\noptimizer: adamw_bnb_8bit\nbf16: auto\ngradient_checkpointing: true\n",
    "factory.yaml": "model_name_or_path: meta-llama/Meta-Llama-3-8B\nfinetuning_type: lora\nlora_target: all\nlora_rank: 8\n"
    "quantization_bit: 4\ncutoff_len: 2048\nper_device_train_batch_size: 1\ngradient_accumulation_steps: 8\nbf16: true\n",
    "tune.yaml": "model:\n  _component_: torchtune.models.llama3_1.lora_llama3_1_8b\n  lora_rank: 8\n"
    "tokenizer:\n  _component_: torchtune.models.llama3.llama3_tokenizer\n  max_seq_len: 4096\n"
    "optimizer:\n  _component_: torch.optim.AdamW\nbatch_size: 2\ngradient_accumulation_steps: 8\n"
    "enable_activation_checkpointing: True\ndtype: bf16\n",
    "megatron.sh": "TP=2\nARGS=(\n    --tensor-model-parallel-size ${TP}\n    --pipeline-model-parallel-size 2\n"
    "    --seq-length 4096 --micro-batch-size 1\n    --global-batch-size 32\n    --recompute-granularity full\n"
    "    --use-distributed-optimizer --bf16\n)\ntorchrun pretrain_gpt.py ${ARGS[@]}\n",
}
"""A configuration of each trainer whose files are read, by the name of its file."""


def trainer_text(draw: random.Random) -> tuple[str, str]:
    """Name and text of a trainer's file."""
    return draw.choice(list(TRAINERS.items()))


def benchmark_text(draw: random.Random) -> tuple[str, str]:
    """Name and text of what a benchmark wrote."""
    file = draw.choice(sorted(_BENCHMARKS.iterdir()))
    return file.name, file.read_text("utf-8")


def request_text(draw: random.Random, times: tuple[float, ...], sizes: tuple[int, ...]) -> tuple[str, str]:
    """A trace of requests, as a table or as objects line by line, with prefixes in some."""
    with_prefixes = draw.random() < 0.5
    names = [
        "arrival_s",
        "prompt_tokens",
        "output_tokens",
        *(("prefix_id", "prefix_tokens") if with_prefixes else ()),
    ]
    calm = draw.random() < 0.5
    rows: list[dict[str, float | int]] = []
    for number in range(draw.randrange(40)):
        row = [
            0.1 * number,
            1 + draw.randrange(900),
            1 + draw.randrange(90),
            draw.randrange(3),
            draw.randrange(90),
        ]
        odd = [draw.choice(times), *(draw.choice(sizes) for _ in range(4))]
        rows.append(dict(zip(names, row if calm or draw.random() < 0.9 else odd, strict=False)))
    if draw.random() < 0.5:
        return "r.jsonl", "\n".join(map(json.dumps, rows)) + "\n"
    return "r.csv", "\n".join([",".join(names), *(",".join(map(str, row.values())) for row in rows)]) + "\n"
