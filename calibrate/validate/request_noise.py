"""How near the tables of requests let any prediction come: runs measured again, neighbours in concurrency, one factor each.

What is asked of a prediction can be no less than what the tables say of themselves. Nothing here goes into a prediction.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import pairwise
from statistics import fmean, median
from typing import Final

from calibrate.evidence.serving_rows import positive_number

__all__ = ["again", "floor_table", "neighbours", "one_factor_each", "twice"]

Row = Mapping[str, str]
Line = Mapping[str, str]

QUANTITIES: Final = {"tpot_s": "TPOT", "ttft_s": "TTFT", "throughput_tok_s": "throughput"}
_DEPLOYMENT: Final = (
    "source_repo", "system", "system_version", "model", "gpu", "gpu_count", "tp", "pp", "ep", "weight_dtype", "kv_dtype",
)  # fmt: skip
_LENGTHS: Final = ("prompt_len_tok", "gen_len_tok")
_LOAD: Final = ("batch_size", "request_rate", "num_prompts", "max_num_seqs")


def _gm(deviations: Sequence[float]) -> float:
    return math.exp(fmean(deviations)) if deviations else math.nan


def _cells(row: Row, columns: Iterable[str]) -> tuple[str, ...]:
    return tuple(row.get(column) or "" for column in columns)


def again(rows: Iterable[Row], quantity: str) -> dict[str, tuple[int, float]]:
    """By source: rows whose settings stand in another row of it too, and how far they are from the mean of these.

    Deviations are those of single runs: from a mean of n they are n / (n - 1) as wide in square.
    """
    same: dict[tuple[str, ...], list[float]] = defaultdict(list)
    for row in rows:
        value = positive_number(row.get(quantity))
        if value is not None:
            same[_cells(row, (*_DEPLOYMENT, *_LENGTHS, *_LOAD))].append(math.log(value))
    found: dict[str, list[float]] = defaultdict(list)
    for key, values in same.items():
        wider = math.sqrt(len(values) / max(len(values) - 1, 1))
        if len(values) > 1:
            found[key[0]] += [abs(value - fmean(values)) * wider for value in values]
    return {source: (len(values), _gm(values)) for source, values in sorted(found.items())}


def neighbours(rows: Iterable[Row], lines: Iterable[Line], quantity: str) -> tuple[int, float]:
    """Closed loops between two others that differ in concurrency alone: how many, and how far one is from these.

    From the line through its neighbours, that is, once what is predicted of all three is taken off. That is the noise of
    one row, and what the prediction gets wrong of the shape; a factor on a whole deployment, wrong or right, is not in it.
    """
    by_id = {row["row_id"]: row for row in rows}
    series: dict[tuple[str, ...], dict[int, list[float]]] = defaultdict(lambda: defaultdict(list))
    for line in lines:
        if line["reason"] or line["load"] != "closed loop" or line["quantity"] != quantity:
            continue
        row = by_id[line["row_id"]]
        off = math.log(float(line["measured"]) / float(line["predicted"]))
        series[_cells(row, (*_DEPLOYMENT, *_LENGTHS))][int(float(row["batch_size"]))].append(off)
    found: list[float] = []
    for one in series.values():
        points = [(math.log(batch), fmean(values)) for batch, values in sorted(one.items())]
        for (x0, y0), (x1, y1), (x2, y2) in zip(points, points[1:], points[2:], strict=False):
            share = (x1 - x0) / (x2 - x0)
            left = y1 - (1 - share) * y0 - share * y2
            found.append(abs(left) / math.sqrt(1 + (1 - share) ** 2 + share**2))
    return len(found), _gm(found)


def one_factor_each(
    rows: Iterable[Row], lines: Iterable[Line], loads: Sequence[str], quantity: str, by: Sequence[str]
) -> tuple[int, int, float]:
    """What would be left with a factor of its own, fitted to these very rows, for each group: rows, groups, gm."""
    by_id = {row["row_id"]: row for row in rows}
    groups: dict[tuple[str, ...], list[float]] = defaultdict(list)
    for line in lines:
        if not line["reason"] and line["load"] in loads and line["quantity"] == quantity:
            key = (line["release"], *_cells(by_id[line["row_id"]], by))
            groups[key].append(math.log(float(line["predicted"]) / float(line["measured"])))
    left = [abs(value - median(values)) for values in groups.values() for value in values]
    return len(left), len(groups), _gm(left)


def twice(rows: Iterable[Row]) -> list[tuple[Row, Row]]:
    """Runs that stand in two rows with other lengths: the same rate to the last digit, of the same deployment and load."""
    same: dict[tuple[str, ...], list[Row]] = defaultdict(list)
    for row in rows:
        if positive_number(row.get("throughput_tok_s")) is not None:
            same[_cells(row, (*_DEPLOYMENT, "request_rate", "throughput_tok_s"))].append(row)
    return [
        pair
        for found in same.values()
        for pair in pairwise(sorted(found, key=lambda row: row["row_id"]))
        if _cells(pair[0], _LENGTHS) != _cells(pair[1], _LENGTHS)
    ]


def floor_table(rows: Sequence[Row], lines: Sequence[Line]) -> Iterator[str]:
    """Lines of the page."""
    yield "| what | requests | quantity | rows | gm |"
    yield "| --- | --- | --- | --: | --: |"
    for quantity, title in QUANTITIES.items():
        for source, (count, gm) in again(rows, quantity).items():
            if count >= 20:
                yield f"| measured again, all settings equal | {source} | {title} | {count} | {gm:.3f} |"
    for quantity in ("tpot_s", "ttft_s"):
        count, gm = neighbours(rows, lines, quantity)
        title = QUANTITIES[quantity]
        yield f"| a row beside its neighbours in concurrency | closed loop | {title} | {count} | {gm:.3f} |"
    whole = ("system_version", "model", "weight_dtype", "gpu")
    divided = (*whole, "tp", "ep")
    asked: tuple[tuple[tuple[str, ...], str], ...] = (
        (("closed loop",), "tpot_s"), (("closed loop",), "ttft_s"), (("rate", "all at once"), "ttft_s"),
        (("rate", "all at once"), "throughput_tok_s"),
    )  # fmt: skip
    names: tuple[tuple[str, Sequence[str]], ...] = (
        ("a factor for each version, model, format and GPU", whole),
        ("the same, and for each division", divided),
    )
    for loads, quantity in asked:
        for name, by in names:
            count, groups, gm = one_factor_each(rows, lines, loads, quantity, by)
            yield f"| {name} ({groups} factors) | {', '.join(loads)} | {QUANTITIES[quantity]} | {count} | {gm:.3f} |"
    yield ""
