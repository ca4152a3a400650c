"""What llm-analysis says of the published runs, as a file that ships: it cannot be installed beside our dependencies.

    python bench/llm_analysis_baseline.py                     writes calibrate/measurements/baseline_llm_analysis.csv
    python bench/llm_analysis_baseline.py --table training    asks the runs of one table; the other's lines stay

Each run is asked with the model's and the GPU's own facts, as our specs have them, and the arguments below. Runs that it
has no notion of (weights or cache not on the GPU, layers split over GPUs without a pipeline, sequences split over GPUs) are
left out; how many for which reason is printed.
"""

from __future__ import annotations

import argparse
import csv
import io
import json
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT), str(Path(__file__).parent)]

from bench import THEIR_VERSION, CannotInstallError, their_python  # noqa: E402
from calibrate.evidence.published import Measurement, TrainingMeasurement, load_measurements  # noqa: E402
from calibrate.evidence.settings import Run, dtype_of, run_of  # noqa: E402
from calibrate.evidence.training_runs import training_run_of, training_scenario_of  # noqa: E402
from calibrate.validate.inference import accuracy_class  # noqa: E402
from calibrate.validate.row import Compared  # noqa: E402
from llm_perf.config.gpu import GPUConfig  # noqa: E402
from llm_perf.config.loading import get_gpu_config_by_name, get_model_config_by_name  # noqa: E402
from llm_perf.config.model import ModelConfig  # noqa: E402
from llm_perf.config.parallelism import ActivationRecomputation  # noqa: E402
from llm_perf.errors import LLMPerfError  # noqa: E402

TARGET = ROOT / "calibrate" / "measurements" / "baseline_llm_analysis.csv"
FLOPS_EFFICIENCY, HBM_MEMORY_EFFICIENCY = 0.7, 0.9
EFFICIENCIES = {"flops_efficiency": FLOPS_EFFICIENCY, "hbm_memory_efficiency": HBM_MEMORY_EFFICIENCY}
ARGUMENTS = f"{' '.join(f'{name}={value}' for name, value in EFFICIENCIES.items())}, else its defaults"
TABLES = ("inference", "training")
CLASSES = ("resident-1gpu", "resident-tp", "resident-pp", "quantised", "edge")
TRAINING_BITS = {"fp16": 16, "bf16": 16, "fp8": 8, "mxfp8": 8, "nvfp4": 4}
"""Width of a precision, by which llm-analysis chooses the peak. It knows no wider one than 16."""
RECOMPUTATION = {
    ActivationRecomputation.NONE: 0,
    ActivationRecomputation.ATTN_COMPUTE: 1,
    ActivationRecomputation.FULL: 2,
}
"""Its numbers for what is computed again: nothing, the attention, all."""
THEIR_CODE = """
import json, logging, sys
logging.disable(logging.CRITICAL)
from llm_analysis.analysis import ActivationRecomputation, DSZeRO, LLMAnalysis
from llm_analysis.config import DtypeConfig, GPUConfig, ModelConfig, ParallelismConfig

def answer(asked):
    analysis = LLMAnalysis(
        ModelConfig(**asked["model"]), GPUConfig(**asked["gpu"]), DtypeConfig(**asked["dtype"]),
        ParallelismConfig(**asked["parallelism"]), **asked["efficiencies"])
    return training(analysis, **asked["training"]) if "training" in asked else inference(analysis, asked)

def inference(analysis, asked):
    found = analysis.inference(**asked["inference"])
    steps = asked["inference"]["num_tokens_to_generate"]
    return {
        "prefill_latency_s": found["prefill_latency"],
        "latency_per_token_s": found["decode_latency"],
        "total_latency_s": found["total_latency"],
        "throughput_tokens_per_s": asked["sequences"] * steps / found["total_latency"],
    }

def training(analysis, activation_recomputation, ds_zero, **arguments):
    found = analysis.training(
        activation_recomputation=ActivationRecomputation(activation_recomputation), ds_zero=DSZeRO(ds_zero), **arguments)
    return {"iteration_time_s": found["latency_per_iter"]}

answers = []
for asked in json.load(sys.stdin):
    try:
        answers.append(answer(asked))
    except Exception as error:
        answers.append({"reason": f"{type(error).__name__}: {error}"})
json.dump(answers, sys.stdout)
"""


class NotAskedError(Exception):
    """llm-analysis has no notion of a run; the message says of what."""


def main() -> int:
    """Ask all runs, or those of one table, and write the file."""
    from calibrate.validate.scoreboard import validate

    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--table", choices=TABLES, help="ask the runs of this table only (default both)")
    wanted = parser.parse_args().table
    tables = [wanted] if wanted else list(TABLES)
    try:
        python = their_python()
    except CannotInstallError as error:
        print(error, file=sys.stderr)
        return 4
    rows, questions, not_asked = asked_of(row for row in validate().rows if row.run.table in tables)
    done = subprocess.run(
        [str(python), "-c", THEIR_CODE],
        input=json.dumps(questions),
        capture_output=True,
        text=True,
        check=True,
    )
    lines = [line_of(row, answer) for row, answer in zip(rows, json.loads(done.stdout), strict=True)]
    lines += [line for line in present_lines() if line["table"] not in tables]
    TARGET.write_text(as_text(sorted(lines, key=lambda line: TABLES.index(line["table"]))), "utf-8")
    print_counts(tables, lines, not_asked)
    return 0


def asked_of(
    rows: Iterable[Compared],
) -> tuple[list[Compared], list[dict[str, Any]], Counter[tuple[str, str]]]:
    """The runs that can be asked, their questions, and how many others there are by table and reason."""
    inference = {m.row_id: m for m in load_measurements()}
    training = {m.row_id: m for m in load_measurements("training")}
    asked, questions, not_asked = [], [], Counter[tuple[str, str]]()
    for row in rows:
        number_of_row = row.run.row_id
        try:
            if row.run.table == "inference":
                question = inference_question(inference[number_of_row])
            else:
                question = training_question(training[number_of_row])
        except NotAskedError as reason:
            not_asked[row.run.table, str(reason)] += 1
        else:
            asked.append(row)
            questions.append(question)
    return asked, questions, not_asked


def line_of(row: Compared, answer: dict[str, Any]) -> dict[str, Any]:
    """One line of the file: the row's main quantity."""
    return {
        "table": row.run.table,
        "row_id": row.run.row_id,
        "quantity": row.quantity,
        "predicted": number(answer.get(row.quantity)),
        "reason": answer.get("reason", ""),
    }


def present_lines() -> list[dict[str, Any]]:
    """The lines that the file has."""
    text = TARGET.read_text("utf-8").splitlines()
    return list(csv.DictReader(line for line in text if not line.startswith("#")))


def print_counts(tables: list[str], lines: list[dict[str, Any]], not_asked: Counter[tuple[str, str]]) -> None:
    """How many runs of each table have an answer, and why the others have none."""
    for table in tables:
        asked = [line for line in lines if line["table"] == table]
        covered = sum(line["predicted"] != "" for line in asked)
        print(f"{TARGET.relative_to(ROOT)}, {table}: {covered} of {len(asked)} runs that it was asked")
        refusals = Counter(line["reason"] for line in asked if line["reason"])
        for reason, count in refusals.most_common():
            print(f"  {count:4}  it refuses: {reason}")
        for (other, reason), count in not_asked.most_common():
            if other == table:
                print(f"  {count:4}  not asked: {reason}")


def inference_question(measurement: Measurement) -> dict[str, Any]:
    """What llm-analysis is asked about an inference row.

    Raises:
        NotAskedError: it has no notion of the run, or a spec is missing.
    """
    try:
        run = run_of(measurement)
        name = accuracy_class(run)
        if name not in CLASSES:
            raise NotAskedError(f"class {name}")
        if run.micro_batches > 1:
            raise NotAskedError("micro-batches in a pipeline")
        return question_of(run)
    except LLMPerfError as error:
        raise NotAskedError("no spec, or the source does not say enough") from error


def training_question(measurement: TrainingMeasurement) -> dict[str, Any]:
    """What llm-analysis is asked about a training row.

    It holds a model's longest sequence against the run's, where it matters for nothing else: a run's model is one for
    its sequences. A micro-batch that is not published is left to it; the time of a step does not depend on it.

    Raises:
        NotAskedError: it has no notion of the run, or a spec is missing.
    """
    try:
        scenario = training_scenario_of(training_run_of(measurement))
    except LLMPerfError as error:
        raise NotAskedError("no spec, or the source does not say enough") from error
    plan, ranks = scenario.plan, scenario.parallelism
    if ranks.cp_size > 1:
        raise NotAskedError("sequences split over GPUs")
    if plan.precision not in TRAINING_BITS:
        raise NotAskedError(f"precision {plan.precision}")
    if plan.activation_recomputation not in RECOMPUTATION:
        raise NotAskedError(f"recomputation {plan.activation_recomputation.name}")
    bits = TRAINING_BITS[plan.precision]
    model = model_arguments(scenario.model)
    return {
        "model": model | {"max_seq_len": max(plan.seq_len, model["max_seq_len"] or 0)},  # none of ALiBi
        "gpu": gpu_arguments(scenario.gpu),
        "dtype": {
            "name": f"w{bits}a{bits}e16",
            "weight_bits": bits,
            "activation_bits": bits,
            "embedding_bits": 16,
        },
        "parallelism": {
            "tp_size": ranks.tp_size,
            "pp_size": ranks.pp_size,
            "dp_size": ranks.dp_size,
            "ep_size": ranks.ep_size,
            "sp_size": ranks.sp_size,
        },
        "efficiencies": EFFICIENCIES,
        "training": {
            "batch_size_per_gpu": measurement.micro_batch_size,
            "global_batch_size": plan.global_batch_size,
            "seq_len": plan.seq_len,
            "activation_recomputation": RECOMPUTATION[plan.activation_recomputation],
            "ds_zero": int(plan.ds_zero.value),
        },
    }


def question_of(run: Run) -> dict[str, Any]:
    """Constructor and call arguments of an inference run."""
    replicas = max(run.num_gpus // (run.tp * run.pp), 1)
    dtype = dtype_of(run)
    return {
        "model": model_arguments(get_model_config_by_name(run.model)),
        "gpu": gpu_arguments(get_gpu_config_by_name(run.gpu)),
        "dtype": {
            "name": dtype.name,
            "weight_bits": dtype.weight_bits,
            "activation_bits": dtype.activation_bits,
            "embedding_bits": dtype.embedding_bits,
        },
        "parallelism": {"tp_size": run.tp, "pp_size": run.pp, "dp_size": replicas},
        "efficiencies": EFFICIENCIES,
        "inference": {
            "batch_size_per_gpu": max(run.batch_size // replicas, 1),
            "seq_len": run.prompt_len,
            "num_tokens_to_generate": run.gen_len,
            "kv_cache_dtype_bytes": run.kv_bits / 8,
        },
        "sequences": run.batch_size,
    }


def model_arguments(model: ModelConfig) -> dict[str, Any]:
    """A model in llm-analysis' terms."""
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


def gpu_arguments(gpu: GPUConfig) -> dict[str, Any]:
    """A GPU in llm-analysis' terms: the link in one direction, as its own files have it."""
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
