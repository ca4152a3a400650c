"""Three small models trained on this machine in every way that `calibrate train` knows, beside their predictions.

    python -m calibrate.run.train.table [FILE]      # make run-train; ten minutes on two calm cores

Under DeepSpeed's four stages, FSDP2 on one rank and on two, and with peft's adapters, 32 bits, one thread, CPU seconds.
Each run is a process of its own and in FILE before the next begins: what was interrupted goes on. One such FILE ships:
``calibrate/measurements/training/cpu_runs.json``.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import Any, Final

import click

from calibrate.probe.own_process import exit_code_of, run_cli
from calibrate.run.campaign import Campaign

LLAMA: Final = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_act": "silu", "rms_norm_eps": 1e-5,
    "torch_dtype": "float32", "max_position_embeddings": 2048,
}  # fmt: skip
SHAPES: Final[dict[str, dict[str, Any]]] = {
    "llama-40m": LLAMA
    | {
        "hidden_size": 512, "intermediate_size": 1408, "num_hidden_layers": 8, "num_attention_heads": 8,
        "num_key_value_heads": 4, "vocab_size": 16000, "tie_word_embeddings": False,
    },
    "llama-37m-wide": LLAMA
    | {
        "hidden_size": 768, "intermediate_size": 2048, "num_hidden_layers": 4, "num_attention_heads": 12,
        "num_key_value_heads": 12, "vocab_size": 12000, "tie_word_embeddings": True,
    },
    "opt-23m": {
        "architectures": ["OPTForCausalLM"], "model_type": "opt", "activation_function": "relu", "hidden_size": 512,
        "word_embed_proj_dim": 512, "ffn_dim": 2048, "num_hidden_layers": 6, "num_attention_heads": 8,
        "vocab_size": 8000, "max_position_embeddings": 1024, "do_layer_norm_before": True, "torch_dtype": "float32",
    },
}  # fmt: skip
"""The models' config.json: names say the size."""

LENGTHS: Final = {"llama-40m": (256, 1), "llama-37m-wide": (128, 2), "opt-23m": (384, 1)}
"""Tokens per sequence, and sequences per pass."""

WAYS: Final[dict[str, tuple[str, ...]]] = {
    **{f"zero{stage}": ("--ds-zero", str(stage)) for stage in range(4)},
    "fsdp2": ("--framework", "fsdp"),
    "fsdp2-2ranks": ("--framework", "fsdp", "--num-gpus", "2"),
    "lora": ("--framework", "torch", "--lora-rank", "8"),
}
"""What trains them, as flags."""


def main(arguments: list[str]) -> int:
    """Make the runs that FILE does not have, and print all of them. Returns the exit code."""
    path = Path(arguments[0] if arguments else "runs/train/cpu_runs.json")

    def work() -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        found: dict[str, Any] = json.loads(path.read_text("utf-8")) if path.is_file() else {}

        def keep(case: tuple[str, str], result: dict[str, Any]) -> None:
            found[" ".join(case)] = summary(result)
            path.write_text(json.dumps(found, indent=1) + "\n", "utf-8")

        cases = [(shape, way) for shape in SHAPES for way in WAYS]
        Campaign[tuple[str, str]](
            measure=lambda case, _left_s: run(case[0], WAYS[case[1]]),
            name=" ".join,
            say=lambda text: click.echo(text, err=True),
            keep=keep,
            is_there=lambda case: " ".join(case) in found,
        ).run_all(cases)
        click.echo("\n".join(line(name, found[name]) for name in map(" ".join, cases)))

    return exit_code_of(work, "interrupted; call it again to go on")


def run(shape: str, flags: tuple[str, ...]) -> dict[str, Any]:
    """One run of ``llm-perf calibrate train``, its JSON object.

    Raises:
        LLMPerfError: it failed, with what it said.
    """
    length, sequences = LENGTHS[shape]
    with tempfile.TemporaryDirectory() as folder:
        model = Path(folder) / shape
        model.mkdir()
        (model / "config.json").write_text(json.dumps(SHAPES[shape]), "utf-8")
        return run_cli(
            "--train", "--model", str(model), "--dtype", "fp32", "--device", "cpu", "--clock", "cpu",
            "--seq-len", str(length), "--micro-batch-size", str(sequences), "--steps", "3", "--allow-concurrent",
            "--runs-dir", folder, *flags, timeout_s=None,
        )  # fmt: skip


def summary(result: dict[str, Any]) -> dict[str, Any]:
    """What of a run is kept: settings, times, memory by phase, the prediction's, errors, what was probed, versions."""
    measured, predicted, environment = result["measured"], result["predicted"], result["environment"]
    kept = ("framework", "ds_zero", "lora_rank", "micro_batch_size", "seq_len", "dtype", "ranks", "clock")
    phases = predicted["memory"]["phases"]
    return {
        "run": {name: result["run"][name] for name in kept},
        "steps_s": [step["step_s"] for step in result["raw"]["steps"]],
        "step_s": measured["step"]["latency_s"],
        "predicted_step_s": predicted["step"]["latency_s"],
        "peak_bytes": measured["peak_gpu_memory_bytes"],
        "predicted_peak_bytes": predicted["peak_gpu_memory_bytes"],
        "peak_by_phase_bytes": measured["peak_by_phase_bytes"],
        "predicted_by_phase_bytes": {name: phase["total_bytes"] for name, phase in phases.items()},
        "error": result["error"],
        "breakdown_s": predicted["step"]["breakdown_s"],
        "probe": result["machine"]["probe"],
        "environment": {name: environment[name] for name in ("cpu", "versions")},
    }


def line(name: str, one: dict[str, Any]) -> str:
    """One run as a line of text."""
    error = one["error"]
    return (
        f"{name:<24} step {one['step_s']:.3f} s, predicted {one['predicted_step_s']:.3f} ({error['step_time']:+.1%});  "
        f"peak {one['peak_bytes'] / 2**20:,.0f} MiB, predicted {one['predicted_peak_bytes'] / 2**20:,.0f} "
        f"({error['peak_gpu_memory']:+.1%})"
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
