"""Microbenchmarks as a table for people."""

from __future__ import annotations

from collections import Counter
from typing import Any

from rich.console import Group
from rich.table import Table
from rich.text import Text

from llm_perf.report.answer import Answer
from llm_perf.report.inference_text import print_report

_TITLES = {
    "launch": "launch of a tiny operation",
    "kernel_floor": "tiny kernel",
    "copy": "device memory copy (read + write)",
    "host_read": "reads of host memory, all threads",
    "transfer": "host-device copy",
    "gemm": "matrix product",
    "attention_prefill": "attention, whole prompt",
    "attention_decode": "attention, one query",
    "dequantise": "dequantisation",
    "disk": "disk",
    "layer": "framework time per layer",
    "collective": "collective",
}


def print_microbench(record: dict[str, Any]) -> None:
    """One line per kind and format: what its best and its slowest size reach."""
    groups: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for item in record["items"]:
        groups.setdefault((item["kind"], str(item["settings"].get("dtype", ""))), []).append(item)
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for heading in ("measured", "", "sizes", "to 2 %", "time", "best rate"):
        table.add_column(heading, justify="left" if heading in ("measured", "") else "right")
    for (kind, dtype), items in groups.items():
        good = [item for item in items if _time_s(item) is not None]
        known = sum(item.get("converged", False) for item in good)
        table.add_row(
            _TITLES.get(kind, kind), dtype, str(len(items)), str(known), _range(good), _best_rate(good)
        )
    reasons = Counter((item["kind"], item["error"]) for item in record["items"] if item.get("error"))
    failed = [
        Text(f"{_TITLES.get(kind, kind)}, {count} sizes: {why}") for (kind, why), count in reasons.items()
    ]
    if any(item["settings"].get("direct") is False for item in record["items"]):
        failed.append(
            Text("disk: the folder knows no direct I/O, so this is the page cache; a fit passes it over")
        )
    disturbed = sum(bool(item.get("disturbed")) for item in record["items"])
    said = Text(
        f"{record['environment']['device']['name']}, {record['spent_s']:.0f} of {record['budget_s']:.0f} s; "
        f"{disturbed} of {len(record['items'])} sizes while others used more than 0.15 cores"
    )
    print_report(Group(_answer(record, groups).text, Text(""), said, Text(""), table, *failed))


def _answer(record: dict[str, Any], groups: dict[tuple[str, str], list[dict[str, Any]]]) -> Answer:
    """What was measured, in five lines."""
    items = record["items"]
    good = [item for item in items if _time_s(item) is not None]
    known = sum(item.get("converged", False) for item in good)
    disturbed = sum(bool(item.get("disturbed")) for item in items)
    rates = {
        kind: _best_rate([item for item in of_kind if _time_s(item) is not None])
        for (kind, _), of_kind in groups.items()
    }
    failed = dict.fromkeys(_TITLES.get(item["kind"], item["kind"]) for item in items if item.get("error"))
    return Answer(
        fits=[f"{len(good)} of {len(items)} sizes", str(record["environment"]["device"]["name"])],
        speed=[f"{_TITLES.get(kind, kind)} {rate}" for kind, rate in rates.items() if rate != "-"],
        sure=[f"{known} known to 2%", f"{disturbed} while others used the machine"],
        bound=[f"not measured: {', '.join(failed)}"] if failed else ["every kind was measured"],
        change=["llm-perf calibrate fit of this file and of runs makes a profile"],
        good=bool(good),
        labels=("Measured:", "Best:", "How sure:", "Not known:", "Next:"),
    )


def _time_s(item: dict[str, Any]) -> float | None:
    value = item.get("median_s", item.get("per_layer_s"))
    return None if value is None else float(value)


def _range(items: list[dict[str, Any]]) -> str:
    times = sorted(time for item in items if (time := _time_s(item)) is not None)
    if not times:
        return "-"
    ends = [_brief(times[0])] if len(times) == 1 else [_brief(times[0]), _brief(times[-1])]
    return " .. ".join(ends)


def _brief(seconds: float) -> str:
    for unit, scale in (("s", 1.0), ("ms", 1e-3), ("us", 1e-6)):
        if seconds >= scale:
            return f"{seconds / scale:.3g} {unit}"
    return f"{seconds / 1e-9:.3g} ns"


def _best_rate(items: list[dict[str, Any]]) -> str:
    """The best of each rate over the sizes."""
    best: list[str] = []
    for work, unit in (("flops", "FLOP/s"), ("bytes", "B/s"), ("weights", "weight/s")):
        rates = [item["work"][work] / item["median_s"] for item in items if item["work"].get(work)]
        if rates and not best:
            best.append(f"{max(rates) / 1e9:.3g} G{unit}")
    return ", ".join(best) or "-"
