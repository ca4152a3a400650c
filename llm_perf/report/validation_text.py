"""Predictions against published runs as tables, 80 columns wide. Reads the JSON of ``llm-perf validate``."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Mapping
from typing import Any

from llm_perf.systems import system_names
from llm_perf.systems.constants import load_constants

WIDTH = 80

_UNITS = {
    "throughput_tokens_per_s": "tok/s",
    "total_latency_s": "s total",
    "latency_per_token_s": "s/step",
    "prefill_latency_s": "s first",
    "iteration_time_s": "s/iter",
}
_WORST = 3


def validation_report(found: Mapping[str, Any], every_row: bool) -> str:
    """Summary by class and system; with ``every_row`` the rows one by one before it, else the worst ones after it."""
    parts = [rows_table(found["rows"])] if every_row else []
    parts += [
        summary_table("class", found["classes"]),
        summary_table("system", found["systems"]),
        _legend(found["baselines"]) if found["classes"] else "",
        stacks_table(found["stacks"]),
        _caveats(found["systems"]) if every_row else "",
        "" if every_row else _worst(found),
        _counted("Not predicted", _refusals(found["rows"])),
        _counted("Left out", found["excluded"]),
    ]
    return "\n\n".join(part for part in parts if part)


def _caveats(systems: Iterable[str]) -> str:
    """What the systems themselves say against their predictions."""
    known = system_names()
    caveats = [load_constants(name).caveat for name in systems if name in known]
    return "\n".join(textwrap.fill(f"Note: {caveat}.", WIDTH) for caveat in caveats if caveat)


def summary_table(title: str, groups: Mapping[str, Mapping[str, Any]]) -> str:
    """One line per group; on the right the gm of three predictors over all rows."""
    if not groups:
        return ""
    lines = [
        f"{title:<17}{'covered':>8}{'med':>5}{'mean':>5}{'bias':>5}{'<10%':>5}{'<20%':>5}{'in90':>5}{'rank':>5}{'gm':>5}"
        f"{'all':>5}{'roof':>5}{'l-a':>5}"
    ]
    return "\n".join(lines + [_summary_line(name, group) for name, group in groups.items()])


def _summary_line(name: str, s: Mapping[str, Any]) -> str:
    others = [s["baselines"].get(baseline, {}) for baseline in ("roofline", "llm_analysis")]
    # A predictor that covers nothing has no figure: ten for every row says no more.
    gms = [s["gm_all"] if s["covered"] else None]
    gms += [other["gm_all"] if other.get("covered") else None for other in others]
    covered = f"{s['covered']}/{s['rows']}"
    return (
        f"{name[:17]:<17}{covered:>8}{_percent(s['median_abs_error']):>5}{_percent(s['mean_abs_error']):>5}"
        f"{_bias(s['bias']):>5}{_percent(s['within_10']):>5}{_percent(s['within_20']):>5}"
        f"{_percent(s['interval_coverage']):>5}{_number(s['rank_correlation']):>5}{_number(s['gm']):>5}"
        + "".join(f"{_number(gm):>5}" for gm in gms)
    )


def _legend(baselines: Mapping[str, Mapping[str, Any]]) -> str:
    roofline = baselines["roofline"]
    return (
        "Errors: (predicted - measured) / measured; median and mean of their size, bias\n"
        "the signed median. in90: share inside the 90 % interval around a prediction\n"
        "that never saw the row's model. rank: rank correlation. gm: geometric mean of\n"
        "max(p/m, m/p) over the covered rows; all: over all rows, one not covered\n"
        "counting as 10;\n"
        f"roof: the same for a plain roofline ({roofline['flops_efficiency']:g} of every peak, "
        f"{roofline['bandwidth_efficiency']:g} of every rate);\n"
        f"l-a: the same for {baselines['llm_analysis']['version']}.\n"
        "~ marks a value printed with one digit, which stands for its rounding interval."
    )


def stacks_table(stacks: Mapping[str, Any] | None) -> str:
    """Serving stacks by version: gm of what is left out first, then as fitted and by the roofline, and what peers print."""
    if stacks is None:
        return ""
    columns = (
        "without_model",
        "without_gpu",
        "by_neighbour",
        "first_token_left_out",
        "fitted",
        "roofline",
        "llm_analysis",
    )
    heads = ("model", "gpu", "next", "ttft", "fitted", "roof", "l-a")
    lines = [f"{'serving stack':<24}{'rows':>6}" + "".join(f"{head:>7}" for head in heads)]
    for name, figures in (*stacks["versions"].items(), ("all", stacks["all"])):
        cells = "".join(f"{_number(figures[column]):>7}" for column in columns)
        lines.append(f"{name:<24}{figures['rows']:>6}{cells}")
    said = (
        "gm of static batches, single requests and decode windows. model, gpu: refitted without the row's; next: by "
        "the nearest other version; ttft: first tokens of single requests that the fit did not see; fitted: as it "
        "ships; roof, l-a: as above. Closed loops: --requests and docs/accuracy_stacks.md. Peers print of "
        "themselves, on runs of their own choice: "
        + "; ".join(_peer(name, peer) for name, peer in stacks["peers"].items())
        + f". Median error here, as fitted: {stacks['all']['fitted_median_error']:.1%}."
    )
    return "\n".join([*lines, *textwrap.wrap(said, WIDTH)])


def _peer(name: str, peer: Mapping[str, Any]) -> str:
    figures = (
        f"{key.removesuffix('_median_error').upper()} {value:.1%}"
        for key, value in peer.items()
        if key != "source"
    )
    return f"{name} {', '.join(figures)}"


def _worst(found: Mapping[str, Any]) -> str:
    """The rows that are farthest off, by class."""
    rows = {(row["class"], row["row_id"]): row for row in found["rows"]}
    lines = [f"Worst rows of each class\n{_ROW_HEADER}"]
    for name, group in found["classes"].items():
        worst = [rows[name, row_id] for row_id in group["worst"][:_WORST]]
        lines += [name, *map(_row_line, worst)] if worst else []
    return "\n".join(lines) if len(lines) > 1 else ""


_ROW_HEADER = (
    f"{'row':>4} {'model':<11}{'GPUs':<16}{'batch':>5}{'in':>6}{'out':>5} {'unit':<8}"
    f"{'meas.':>8}{'pred.':>8}{'error':>7}"
)


def rows_table(rows: Iterable[Mapping[str, Any]]) -> str:
    """One line per row: what ran, what was measured, what is predicted."""
    return "\n".join([_ROW_HEADER, *map(_row_line, rows)])


def _row_line(row: Mapping[str, Any]) -> str:
    model = row["model"].rpartition("/")[2].removeprefix("fastertransformer-")
    gpus = f"{row['num_gpus']}x{row['gpu']}" if row["num_gpus"] > 1 else row["gpu"]
    batch = _count(row["batch_size"])
    tokens = row["prompt_len"] if row["seq_len"] is None else row["seq_len"]
    start = (
        f"{row['row_id']:>4} {model[:10]:<11}{gpus[:15]:<16}{batch:>5}{_count(tokens):>6}{_count(row['gen_len']):>5} "
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


def _bias(fraction: float | None) -> str:
    """A signed percentage in five characters; twice and more as a factor, which would run into the column before."""
    return (
        f"x{1 + fraction:.1f}"
        if fraction is not None and fraction >= 0.995
        else _percent(fraction, signed=True)
    )


def _count(value: int | None) -> str:
    return "-" if value is None else str(value)


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}" if value < 9.995 else f"{value:.1f}"


def _value(value: float) -> str:
    return f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"
