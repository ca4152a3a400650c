"""Rows of the training table."""

from __future__ import annotations

from calibrate.evidence.published.cells import STATUSES, Row, rows, source_of, trust_of
from calibrate.evidence.published.records import TrainingMeasurement


def parse_training(text: str, where: str) -> tuple[TrainingMeasurement, ...]:
    """The training measurements of a table.

    Args:
        text: CSV with the columns that the README describes; others are ignored.
        where: Name of the file, for messages.

    Raises:
        SpecError: a column is missing, a cell is malformed or an id is repeated; file and line are named.
    """
    return tuple(training_measurement(row) for row in rows(text, where))


def training_measurement(row: Row) -> TrainingMeasurement:
    """One row in the project's terms."""
    definition = row.required("metric_def")
    return TrainingMeasurement(
        row_id=row.count("row_id"),
        source=source_of(row),
        trust=trust_of(row),
        status=row.choice("status", STATUSES),
        suspect=row.optional("suspect"),
        framework=row.required("framework"),
        model=row.required("model"),
        num_params=row.number("n_params"),
        num_layers=row.integer("layers"),
        hidden_size=row.integer("hidden"),
        num_heads=row.integer("heads"),
        seq_len=row.count("seq_len"),
        gpu=row.required("gpu"),
        num_gpus=row.integer("gpu_count"),
        tp=row.integer("tp"),
        pp=row.integer("pp"),
        dp=row.integer("dp"),
        vp=row.integer("vp"),
        cp=row.integer("cp"),
        ep=row.integer("ep"),
        micro_batch_size=row.integer("micro_batch"),
        global_batch_size=row.integer("global_batch_seqs"),
        grad_accumulation=row.integer("grad_accum"),
        precision=row.optional("precision"),
        sharding=row.optional("sharding"),
        recompute=row.optional("recompute"),
        iteration_time_s=row.number("iter_time_s"),
        throughput_tokens_per_s=row.number("throughput_tok_s"),
        throughput_tokens_per_s_per_gpu=row.number("throughput_tok_s_per_gpu"),
        model_flops_per_s_per_gpu=row.scaled("model_tflops_per_gpu", 1e12),
        mfu=row.scaled("mfu_pct", 0.01),
        hfu=row.scaled("hfu_pct", 0.01),
        peak_flops_per_s=row.scaled("flops_peak_used_tflops", 1e12),
        metric_definition=definition,
        derived=frozenset({"iteration_time_s"} if "iter_time deriv" in definition else ()),
        notes=row.text("notes"),
    )
