"""What llm-analysis says of the published runs, as a file that ships: it cannot be installed beside our dependencies.

    python bench/llm_analysis_baseline.py      writes calibrate/measurements/baseline_llm_analysis.csv

Each run is asked with the model's and the GPU's own facts, as our specs have them, and the arguments below. Runs that it
has no notion of (weights or cache not on the GPU, layers split over GPUs without a pipeline) are left out.
"""

from __future__ import annotations

import csv
import io
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT), str(Path(__file__).parent)]

from bench import THEIR_VERSION, CannotInstallError, their_python  # noqa: E402
from calibrate.settings import Run, dtype_of, run_of  # noqa: E402
from calibrate.validation.inference import accuracy_class  # noqa: E402
from llm_perf.config.loading import get_gpu_config_by_name, get_model_config_by_name  # noqa: E402
from llm_perf.errors import LLMPerfError  # noqa: E402

TARGET = ROOT / "calibrate" / "measurements" / "baseline_llm_analysis.csv"
FLOPS_EFFICIENCY, HBM_MEMORY_EFFICIENCY = 0.7, 0.9
ARGUMENTS = (
    f"flops_efficiency={FLOPS_EFFICIENCY} hbm_memory_efficiency={HBM_MEMORY_EFFICIENCY}, else its defaults"
)
CLASSES = ("resident-1gpu", "resident-tp", "resident-pp", "quantised", "edge")
THEIR_CODE = """
import json, logging, sys
logging.disable(logging.CRITICAL)
from llm_analysis.analysis import LLMAnalysis
from llm_analysis.config import DtypeConfig, GPUConfig, ModelConfig, ParallelismConfig

def answer(asked):
    analysis = LLMAnalysis(
        ModelConfig(**asked["model"]), GPUConfig(**asked["gpu"]), DtypeConfig(**asked["dtype"]),
        ParallelismConfig(**asked["parallelism"]), **asked["efficiencies"])
    found = analysis.inference(**asked["inference"])
    steps = asked["inference"]["num_tokens_to_generate"]
    return {
        "prefill_latency_s": found["prefill_latency"],
        "latency_per_token_s": found["decode_latency"],
        "total_latency_s": found["total_latency"],
        "throughput_tokens_per_s": asked["sequences"] * steps / found["total_latency"],
    }

answers = []
for asked in json.load(sys.stdin):
    try:
        answers.append(answer(asked))
    except Exception as error:
        answers.append({"reason": f"{type(error).__name__}: {error}"})
json.dump(answers, sys.stdout)
"""


def main() -> int:
    """Ask all runs and write the file."""
    from calibrate.validate import validate

    try:
        python = their_python()
    except CannotInstallError as error:
        print(error, file=sys.stderr)
        return 4
    rows = [row for row in validate().rows if row.run.table == "inference"]
    asked = {row.run.row_id: question for row in rows if (question := inference_question(row.run.row_id))}
    done = subprocess.run(
        [str(python), "-c", THEIR_CODE],
        input=json.dumps(list(asked.values())),
        capture_output=True,
        text=True,
        check=True,
    )
    answers = dict(zip(asked, json.loads(done.stdout), strict=True))
    lines = [
        {
            "table": "inference",
            "row_id": row.run.row_id,
            "quantity": row.quantity,
            "predicted": number(answers[row.run.row_id].get(row.quantity)),
            "reason": answers[row.run.row_id].get("reason", ""),
        }
        for row in rows
        if row.run.row_id in answers
    ]
    TARGET.write_text(as_text(lines), "utf-8")
    covered = sum(line["predicted"] != "" for line in lines)
    print(f"{TARGET.relative_to(ROOT)}: {covered} of {len(lines)} runs that it was asked")
    return 0


def inference_question(row_id: int) -> dict[str, Any] | None:
    """What llm-analysis is asked about a row; None where it has no notion of it."""
    from calibrate.published import load_measurements

    measurement = next(m for m in load_measurements() if m.row_id == row_id)
    try:
        run = run_of(measurement)
        if accuracy_class(run) not in CLASSES or run.micro_batches > 1:
            return None
        return question_of(run)
    except LLMPerfError:
        return None


def question_of(run: Run) -> dict[str, Any]:
    """Constructor and call arguments."""
    replicas = max(run.num_gpus // (run.tp * run.pp), 1)
    dtype = dtype_of(run)
    return {
        "model": model_arguments(run.model),
        "gpu": gpu_arguments(run.gpu),
        "dtype": {
            "name": dtype.name,
            "weight_bits": dtype.weight_bits,
            "activation_bits": dtype.activation_bits,
            "embedding_bits": dtype.embedding_bits,
        },
        "parallelism": {"tp_size": run.tp, "pp_size": run.pp, "dp_size": replicas},
        "efficiencies": {
            "flops_efficiency": FLOPS_EFFICIENCY,
            "hbm_memory_efficiency": HBM_MEMORY_EFFICIENCY,
        },
        "inference": {
            "batch_size_per_gpu": max(run.batch_size // replicas, 1),
            "seq_len": run.prompt_len,
            "num_tokens_to_generate": run.gen_len,
            "kv_cache_dtype_bytes": run.kv_bits / 8,
        },
        "sequences": run.batch_size,
    }


def model_arguments(name: str) -> dict[str, Any]:
    """A model in llm-analysis' terms."""
    model = get_model_config_by_name(name)
    return {
        "name": model.name,
        "num_layers": model.num_layers,
        "n_head": model.n_head,
        "hidden_dim": model.hidden_size,
        "vocab_size": model.vocab_size,
        "max_seq_len": model.max_position_embeddings,
        "num_key_value_heads": model.num_key_value_heads,
        "ffn_embed_dim": model.ffn_embed_dim,
        "expansion_ratio": model.ffn_embed_dim / model.hidden_size,
        "moe_num_experts": model.moe_num_experts,
        "moe_top_k": model.moe_top_k,
    }


def gpu_arguments(name: str) -> dict[str, Any]:
    """A GPU in llm-analysis' terms: the link in one direction, as its own files have it."""
    gpu = get_gpu_config_by_name(name)
    return {
        "name": gpu.name,
        "mem_per_GPU_in_GB": gpu.mem_per_GPU_in_GB,
        "hbm_bandwidth_in_GB_per_sec": gpu.hbm_bandwidth_in_GB_per_sec,
        "intra_node_bandwidth_in_GB_per_sec": gpu.intra_node_bandwidth_in_GB_per_sec,
        "intra_node_min_message_latency": gpu.intra_node_min_message_latency,
        "peak_fp16_TFLOPS": gpu.peak_fp16_TFLOPS,
        "peak_i8_TFLOPS": gpu.peak_i8_TFLOPS,
        "peak_i4_TFLOPS": gpu.peak_i4_TFLOPS,
        "inter_node_bandwidth_in_GB_per_sec": gpu.inter_node_bandwidth_in_GB_per_sec,
    }


def number(value: float | None) -> str:
    """Six digits; empty where there is none."""
    return "" if value is None else f"{value:.6g}"


def as_text(lines: list[dict[str, Any]]) -> str:
    """The CSV with its provenance in front."""
    text = io.StringIO()
    text.write(f"# {THEIR_VERSION}\n# {ARGUMENTS}\n# made by bench/llm_analysis_baseline.py\n")
    writer = csv.DictWriter(text, list(lines[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    return text.getvalue()


if __name__ == "__main__":
    sys.exit(main())
