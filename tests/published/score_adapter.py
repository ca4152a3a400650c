"""Adapter for scoring programs that compare predictors with published measurements.

One calls ``predict_row(row)`` with the strings of a table's row and reads each quantity that the row measures. The other
calls ``predict(row, model, gpu, host)`` with a row's inputs and the entries of its own tables, and reads seconds and
bytes from what comes back. A row becomes a ``calibrate.evidence.settings.Run``, as the rows that ship do: nothing is decided
here, and every number comes from llm_perf.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from calibrate.evidence.errata import as_meant
from calibrate.evidence.published import GPU_ALIASES, SYSTEM_ALIASES, Machine
from calibrate.evidence.published.inference_rows import memory_unit_of
from calibrate.evidence.published.names import version_of
from calibrate.evidence.request_runs import answer_of, is_closed_loop, request_run, throughput_of
from calibrate.evidence.settings import Run, peak_memory_bytes, scenario_of, versioned
from calibrate.evidence.stated import cells_of, rate_kind, stated_run, stated_training_run
from calibrate.evidence.stated_hybrid import hybrid_cells, hybrid_run, is_hybrid
from calibrate.evidence.training_runs import TrainingRun, model_of, training_scenario_of
from calibrate.evidence.tuning_rows import is_tuning, memory_of, tuning_run
from llm_perf.analysis.inference import InferenceResult, predict_inference
from llm_perf.analysis.training import predict_training
from llm_perf.analysis.tuning_intervals import memory_interval
from llm_perf.config import ModelConfig
from llm_perf.config.base import GIB
from llm_perf.config.dtype import QUANT_META_BITS
from llm_perf.errors import LLMPerfError

Row = dict[str, Any]

PRINTED_UNITS = {"fastertransformer": 1e9 / 2**30}
"""FasterTransformer's guide prints GB for 2**30 bytes (calibrate/measurements/README.md); the program reads 1e9."""


class Unsupported(Exception):  # noqa: N818 - the name that the scoring program looks for
    """A row that llm_perf does not model."""


# -- a row as strings -------------------------------------------------------------------------------------------

RATES = {
    "output": ("throughput_tokens_per_s", "total_s"),
    "total": ("total_token_throughput_per_s", "total_s"),
    "prefill": ("prefill_throughput_tokens_per_s", "prefill_s"),
    "decode": ("decode_throughput_tokens_per_s", "decode_s"),
}
"""What a rate counts: the measure, and the time of which an interval is known."""


def predict_row(row: Mapping[str, str]) -> dict[str, Any]:
    """Every quantity of a row that can be predicted, under the table's names, and ``interval`` by quantity.

    Raises:
        Unsupported: the row's system, machine or setting is not modelled, or the row does not state what it takes.
    """
    row = as_meant(row)
    try:
        if row.get("framework"):
            return tuning_quantities(row) if is_tuning(row) else training_quantities(row)
        if is_hybrid(row):
            return hybrid_quantities(row)
        if row.get("request_rate"):
            return request_quantities(row)
        return closed_loop_quantities(row) if is_closed_loop(row) else inference_quantities(row)
    except LLMPerfError as error:
        raise Unsupported(str(error)) from error


def inference_quantities(row: Mapping[str, str], run: Run | None = None) -> dict[str, Any]:
    """Times, rates and memory of an inference row, or of a ``run`` in place of what it states."""
    run = stated_run(row) if run is None else run
    result = predict_inference(scenario_of(run))
    # A row that says no unit holds what its program printed, and these call 2**30 bytes a GB.
    stated = row.get("mem_unit")
    unit = memory_unit_of(cells_of({"mem_unit": stated})) if stated else GIB
    found: dict[str, Any] = {
        "ttft_s": result.ttft_s,
        "total_latency_s": result.total_latency_s,
        "peak_gpu_mem_GB": peak_memory_bytes(result) / unit,
        "peak_host_mem_GB": float(result.memory.cpu.total_bytes) / unit,
    }
    found |= {} if result.tpot_s is None else {"tpot_s": result.tpot_s}
    intervals = time_intervals(result)
    rates = {"prefill_throughput_tok_s": "prefill", "decode_throughput_tok_s": "decode"}
    kind = rate_kind(row.get("throughput_def", ""))
    for quantity, counted in (rates | ({} if kind is None else {"throughput_tok_s": kind})).items():
        name, time = RATES[counted]
        if counted == "decode" and result.tpot_s is None:
            continue
        rate = getattr(result.measures, name)
        if quantity == "throughput_tok_s" and row.get("throughput_scope") == "per_gpu":
            rate /= run.num_gpus
        found[quantity] = rate
        ends = intervals.get(time)
        if ends is not None:
            tokens = rate * seconds_of(result)[time]
            intervals[quantity] = (tokens / ends[1], tokens / ends[0])
    return found | {"interval": {name: ends for name, ends in intervals.items() if name in found}}


def hybrid_quantities(row: Mapping[str, str]) -> dict[str, Any]:
    """Rates and memory of a row on a GPU and a CPU that computes: its rates of prompts count new tokens alone."""
    run = hybrid_run(hybrid_cells(row))
    result = predict_inference(run.scenario)
    batch, unit = (
        run.scenario.workload.batch_size,
        memory_unit_of(cells_of({"mem_unit": row.get("mem_unit", "")})),
    )
    prefill_s, total_s = result.ttft_s, result.total_latency_s
    found: dict[str, Any] = {
        "ttft_s": prefill_s,
        "total_latency_s": total_s,
        "prefill_throughput_tok_s": batch * max(run.new_tokens, 1) / prefill_s,
        "peak_gpu_mem_GB": float(run.memory.gpu.total_bytes) / unit,
    }
    decoded = None
    if result.tpot_s is not None:
        decoded = batch / result.tpot_s
        found |= {"tpot_s": result.tpot_s, "decode_throughput_tok_s": decoded}
    kind = rate_kind(row.get("throughput_def", ""))
    whole = "(prefill" in row.get("throughput_def", "") or "total" in row.get("throughput_def", "")
    if kind == "prefill":
        found["throughput_tok_s"] = found["prefill_throughput_tok_s"]
    elif whole or decoded is None:
        tokens = run.gen_len if kind != "total" else run.gen_len + run.new_tokens
        found["throughput_tok_s"] = batch * tokens / total_s
    else:
        found["throughput_tok_s"] = decoded
    ends, known = {}, time_intervals(result)
    for quantity, time in (
        ("prefill_throughput_tok_s", "prefill_s"),
        ("decode_throughput_tok_s", "decode_s"),
    ):
        if time in known and quantity in found:
            seconds = seconds_of(result)[time]
            ends[quantity] = tuple(found[quantity] * seconds / end for end in reversed(known[time]))
    return found | {"interval": ends}


def request_quantities(row: Mapping[str, str]) -> dict[str, Any]:
    """Times and rates of a row whose requests come and go."""
    run = request_run(row)
    answer = answer_of(run)
    if not answer.completed:
        raise Unsupported("the engine refuses requests of these lengths")
    rate = throughput_of(answer, row, run.run.num_gpus)
    return {
        "ttft_s": answer.ttft_s,
        "tpot_s": answer.tpot_s,
        "total_latency_s": answer.e2e_s,
        "throughput_tok_s": rate,
    }


def closed_loop_quantities(row: Mapping[str, str]) -> dict[str, Any]:
    """Those of a closed loop: memory as of its batch, times as of its requests, with the interval of the batch's steps.

    An engine whose scheduler is not known is answered by the batch alone. The batch is that of the fullest replica on each,
    where they do not share the requests evenly.
    """
    run = stated_run(row)
    replicas = max(run.num_gpus // (run.tp * run.pp), 1)
    batch = inference_quantities(row, replace(run, batch_size=-(-run.batch_size // replicas) * replicas))
    try:
        found = request_quantities(row)
    except LLMPerfError:
        return batch
    steps = batch["interval"].get("tpot_s")
    interval = {}
    if steps is not None:
        low, high = (end / batch["tpot_s"] for end in steps)
        interval["tpot_s"] = (low * found["tpot_s"], high * found["tpot_s"])
    return batch | found | {"interval": interval}


def seconds_of(result: InferenceResult) -> dict[str, float]:
    """Seconds by the names that intervals have."""
    measures = result.measures
    return {
        "prefill_s": measures.prefill_latency_s,
        "decode_s": measures.decode_latency_s,
        "total_s": measures.total_latency_s,
    }


def time_intervals(result: InferenceResult) -> dict[str, tuple[float, float]]:
    """Where measured times lie, by phase and by the table's names; what is not known is left out."""
    known = result.interval
    if known is None:
        return {}
    ends = {"prefill_s": known.prefill_s, "decode_s": known.decode_s, "total_s": known.total_s}
    found = {name: (low_high[0], low_high[1]) for name, low_high in ends.items() if low_high is not None}
    steps = float(result.measures.steps)
    same = {"ttft_s": "prefill_s", "total_latency_s": "total_s"}
    found |= {name: found[phase] for name, phase in same.items() if phase in found}
    if "decode_s" in found and steps:
        low, high = found["decode_s"]
        found["tpot_s"] = (low / steps, high / steps)
    return found


def training_quantities(row: Mapping[str, str]) -> dict[str, Any]:
    """Step time, rate and memory of a training row."""
    run = stated_training_run(row)
    result = predict_training(training_scenario_of(run))
    tokens = run.global_batch * run.seq_len
    peak = float(result.memory.gpu.allocated_bytes) / GIB
    intervals = {"peak_alloc_GiB": memory_interval(peak)}
    ends = None if result.interval is None else result.interval.total_s
    if ends is not None:
        intervals |= {
            "iter_time_s": ends,
            "throughput_tok_s": (tokens / ends[1], tokens / ends[0]),
            "throughput_tok_s_per_gpu": (tokens / ends[1] / run.num_gpus, tokens / ends[0] / run.num_gpus),
        }
    return {
        "iter_time_s": result.step_time_s,
        "throughput_tok_s": tokens / result.step_time_s,
        "throughput_tok_s_per_gpu": tokens / result.step_time_s / run.num_gpus,
        "peak_alloc_GiB": peak,
        "interval": intervals,
    }


def tuning_quantities(row: Mapping[str, str]) -> dict[str, Any]:
    """Time, rate and memory of a row of fine-tuning, as its source counts them."""
    run = tuning_run({**row, "notes": row.get("notes") or row.get("notes_for_prediction", "")})
    peak = memory_of(run, predict_training(run.full).memory.gpu)
    found: dict[str, Any] = {"peak_gpu_mem_GB": peak}
    ends = {"peak_gpu_mem_GB": memory_interval(peak)}
    if run.timed is not None:
        result = predict_training(run.timed)
        rate = run.tokens / result.step_time_s
        found |= {"iter_time_s": result.step_time_s, "throughput_tok_s": rate}
        found["throughput_tok_s_per_gpu"] = rate / run.timed.num_gpus
        known = result.interval
        if known is not None and known.total_s is not None:
            low, high = known.total_s
            ends["iter_time_s"] = low, high
            ends["throughput_tok_s"] = run.tokens / high, run.tokens / low
            gpus = run.timed.num_gpus
            ends["throughput_tok_s_per_gpu"] = run.tokens / high / gpus, run.tokens / low / gpus
    return found | {"interval": ends}


# -- a row as values, with the entries of a program's own tables -----------------------------------------------


def predict(row: Row, model: Row, gpu: Row, host: Row) -> dict[str, float]:
    """Seconds and bytes of a row.

    Raises:
        Unsupported: the row's system or setting is not modelled.
    """
    if row["kind"] == "training":
        return {"iter_s": step_time_s(row, model)}
    try:
        result = predict_inference(scenario_of(run_of(row, host)))
    except LLMPerfError as error:
        raise Unsupported(str(error)) from error
    found = {
        "prefill_s": result.prefill.latency_s,
        "total_s": result.total_latency_s,
        "peak_gpu_mem_bytes": peak_memory_bytes(result) * PRINTED_UNITS.get(row["system"], 1.0),
    }
    if result.tpot_s is not None:
        found["tpot_s"] = result.tpot_s
    return found


def step_time_s(row: Row, model: Row) -> float:
    """Seconds of one optimizer step.

    Raises:
        Unsupported: the row's framework or setting is not modelled.
    """
    run = TrainingRun(
        framework=row["system_version"],
        model=row["model"],
        gpu=GPU_ALIASES.get(row["gpu"], row["gpu"]),
        num_gpus=row["gpu_count"],
        seq_len=row["seq_len"],
        global_batch=row["global_batch"],
        micro_batch=row["micro_batch"],
        tp=row["tp"],
        pp=row["pp"],
        vp=row["vp"],
        cp=row["cp"],
        ep=row["ep"],
        precision=row["precision"],
        sharding=row["sharding"],
        recompute=row["recompute"],
    )
    try:
        return predict_training(training_scenario_of(run, unlisted_model(model))).step_time_s
    except LLMPerfError as error:
        raise Unsupported(str(error)) from error


def unlisted_model(model: Row) -> ModelConfig | None:
    """A model that no spec describes, from the shapes that its row gives; None where a spec does."""
    try:
        model_of(model["name"])
    except LLMPerfError:
        return ModelConfig(
            name=model["name"],
            num_layers=model["layers"],
            n_head=model["heads"],
            hidden_dim=model["hidden"],
            vocab_size=model["vocab"],
            max_seq_len=model["max_pos"],
            num_key_value_heads=model["kv_heads"],
            ffn_embed_dim=model["ffn"],
            mlp_gated_linear_units=model["gated_mlp"],
        )
    return None


def run_of(row: Row, host: Row) -> Run:
    """The settings of a row."""
    replicas = row["dp"] if row["batch_is_per_gpu"] else 1
    return Run(
        system=versioned(
            SYSTEM_ALIASES.get(row["system"], row["system"]), version_of(row["system"], row["system_version"])
        ),
        model=row["model"],
        gpu=GPU_ALIASES.get(row["gpu"], row["gpu"]),
        batch_size=row["batch_size"] * replicas,
        prompt_len=max(row["prompt_len"], 1),
        gen_len=max(row["gen_len"], 1),
        num_gpus=row["gpu_count"],
        num_nodes=row["nodes"],
        tp=row["tp"],
        pp=row["pp"],
        weight_bits=row["weight_bits"],
        weight_group_size=group_size(row["weight_bits"], row["weight_bits_stored"]),
        activation_bits=row["act_bits"],
        kv_bits=row["kv_bits"],
        kv_group_size=group_size(row["kv_bits"], row["kv_bits_stored"]),
        weights=shares(row, "w"),
        kv_cache=shares(row, "kv"),
        hidden=shares(row, "h"),
        gpu_batch_size=row["gpu_batch_size"],
        num_gpu_batches=row["num_gpu_batches"],
        micro_batches=row["micro_batches"],
        pin_memory=flag(row["pin_memory"]),
        overlap=flag(row["overlap"]),
        cpu_attention=attention_on_cpu(row),
        machine=Machine(host["host_cpu_text"], row["host_ram_GB"], row["disk_read_GBps"]),
    )


def attention_on_cpu(row: Row) -> bool | None:
    """A row writes "" for off and for not stated; one GPU's row that states its overlap has it off."""
    if row["cpu_compute"] == "attention":
        return True
    return False if row["overlap"] != "" and row["pp"] == 1 else None


def group_size(bits: int, stored_bits: float) -> int | None:
    """Elements that share a scale and a minimum."""
    return round(QUANT_META_BITS / (stored_bits - bits)) if stored_bits > bits else None


def shares(row: Row, kind: str) -> tuple[float, float, float]:
    """Fractions on GPU, CPU and disk of one kind of tensor."""
    gpu, cpu, disk = (row[f"{kind}_{place}"] for place in ("gpu", "cpu", "disk"))
    return gpu, cpu, disk


def flag(value: Any) -> bool | None:
    """What a row writes as "", "0" and "1", or as a truth value."""
    texts: dict[str, bool | None] = {"": None, "0": False, "1": True}
    return texts[value] if isinstance(value, str) else value
