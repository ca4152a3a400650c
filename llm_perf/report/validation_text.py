"""Predictions against published runs as tables, 80 columns wide. Reads the JSON of ``llm-perf validate``."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

WIDTH = 80

_UNITS = {
    "throughput_tokens_per_s": "tok/s",
    "total_latency_s": "s total",
    "latency_per_token_s": "s/step",
    "prefill_latency_s": "s first",
}


def validation_report(found: Mapping[str, Any], every_row: bool) -> str:
    """Summary by class and system; with ``every_row`` the rows one by one before it."""
    parts = [rows_table(found["rows"])] if every_row else []
    parts += [
        summary_table("class", found["classes"]),
        summary_table("system", found["systems"]),
        "Errors: (predicted - measured) / measured. median: of their size; bias: signed;\n"
        "gm: geometric mean of max(p/m, m/p) over the covered rows; rank: correlation.\n"
        "~ marks a value printed with one digit, which stands for its rounding interval.",
        _counted("Not predicted", _refusals(found["rows"])),
        _counted("Left out", found["excluded"]),
    ]
    return "\n\n".join(part for part in parts if part)


def summary_table(title: str, groups: Mapping[str, Mapping[str, Any]]) -> str:
    """One line per group."""
    if not groups:
        return ""
    lines = [
        f"{title:<20}{'rows':>6}{'covered':>9}{'median':>9}{'bias':>8}{'<=10%':>7}{'<=20%':>7}{'gm':>7}{'rank':>7}"
    ]
    lines += [
        f"{name:<20}{s['rows']:>6}{s['covered']:>9}{_percent(s['median_abs_error']):>9}"
        f"{_percent(s['bias'], signed=True):>8}{_percent(s['within_10']):>7}{_percent(s['within_20']):>7}"
        f"{_number(s['gm']):>7}{_number(s['rank_correlation']):>7}"
        for name, s in groups.items()
    ]
    return "\n".join(lines)


def rows_table(rows: Iterable[Mapping[str, Any]]) -> str:
    """One line per row: what ran, what was measured, what is predicted."""
    lines = [
        f"{'row':>4} {'model':<12}{'GPUs':<17}{'batch':>5}{'in':>5}{'out':>4} {'unit':<8}"
        f"{'meas.':>8}{'pred.':>8}{'error':>7}"
    ]
    lines += [_row_line(row) for row in rows]
    return "\n".join(lines)


def _row_line(row: Mapping[str, Any]) -> str:
    model = row["model"].rpartition("/")[2].removeprefix("fastertransformer-")
    gpus = f"{row['num_gpus']}x{row['gpu']}" if row["num_gpus"] > 1 else row["gpu"]
    batch = "-" if row["batch_size"] is None else str(row["batch_size"])
    start = (
        f"{row['row_id']:>4} {model[:11]:<12}{gpus[:16]:<17}{batch:>5}{row['prompt_len']:>5}{row['gen_len']:>4} "
        f"{_UNITS[row['quantity']]:<8}{_value(row['measured']):>8}"
    )
    if row["predicted"] is None:
        return start + f"{'-':>8}{'-':>7}"
    mark = "~" if row["one_digit"] else ""
    return start + f"{_value(row['predicted']):>8}{mark + _percent(row['error'], signed=True):>7}"


def _refusals(rows: Iterable[Mapping[str, Any]]) -> dict[str, int]:
    counts: dict[str, int] = {}
    for row in rows:
        if row["reason"]:
            # Rows that differ in nothing but their number have one reason.
            reason = row["reason"].replace(f"row {row['row_id']} ", "")
            counts[reason] = counts.get(reason, 0) + 1
    return dict(sorted(counts.items(), key=lambda item: -item[1]))


def _counted(title: str, counts: Mapping[str, int]) -> str:
    if not counts:
        return ""
    lines = [f"{title}:"]
    for reason, count in counts.items():
        text = f"{count:>5}  {reason}"
        lines.append(text if len(text) <= WIDTH else text[: WIDTH - 1] + "…")
    return "\n".join(lines)


def _percent(fraction: float | None, signed: bool = False) -> str:
    if fraction is None:
        return "-"
    return f"{fraction * 100:+.0f}%" if signed else f"{fraction * 100:.0f}%"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def _value(value: float) -> str:
    return f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"
