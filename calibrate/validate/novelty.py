"""Which facets and sizes the measured rows of serving stacks have, and what of a left-out row its fit had not seen.

``bench/stack_figures.py --novelty`` writes both: ``llm_perf/analysis/stack_facets.json``, one line per stack and family, and
``calibrate/measurements/serving/novel.csv.gz``, one line for each of ``left_out.csv.gz`` with something new.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cache
from importlib import resources
from typing import Any, Final

from llm_perf.analysis.novelty import FILE, SIZES, Question, levels_of, novelty
from llm_perf.systems.constants import own_constants
from llm_perf.systems.families import family_names, folder_of

FACETS: Final = f"llm_perf/analysis/{FILE}"
NOVEL: Final = "calibrate/measurements/serving/novel.csv.gz"
COLUMNS: Final = ("release", "row_id", "how", "levels")
FEW: Final = 6
"""Rows of a group below which it is left out together with other small ones."""

BY_OTHERS: Final = ("neighbour", "other side", "other device")
"""Lines by constants of another version."""

Line = Mapping[str, str]
Rows = Mapping[str, Mapping[str, Question]]
"""The questions of a stack's rows, by stack and by row."""


# -- what rows have -------------------------------------------------------------------------------------------


def known_of(questions: Sequence[Question]) -> dict[str, Any]:
    """What rows have, as a line of the file says it; sizes by kind of layer too, each rounded outwards."""

    def of(names: Iterable[str]) -> list[str]:
        return sorted(set(names))

    by_layer: dict[str, list[Question]] = {"all": list(questions)}
    for one in questions:
        for name in one.layers:
            by_layer.setdefault(name, []).append(one)
    return {
        "maker": of(one.maker for one in questions),
        "weights": {
            generation: of(name for one in questions if one.generation == generation for name in one.weights)
            for generation in of(one.generation for one in questions)
        },
        "layers": of(name for one in questions for name in one.layers),
        "cache": of(one.cache for one in questions),
        "parallelism": of(name for one in questions for name in one.parallelism),
        "sizes": {
            name: {size: _range([one.sizes[size] for one in found]) for size in SIZES}
            for name, found in sorted(by_layer.items())
        },
    }


def _range(values: Sequence[float]) -> list[float]:
    return [_rounded(min(values), math.floor), _rounded(max(values), math.ceil)]


def _rounded(value: float, towards: Callable[[float], int]) -> float:
    """Three digits, which no row is outside of."""
    unit = 10.0 ** (math.floor(math.log10(value)) - 2)
    return float(f"{towards(round(value / unit, 6)) * unit:.3g}")


def lineage(release: str) -> Iterator[str]:
    """A stack and those of its family that it inherits constants from."""
    family, _, version = release.partition("@")
    while True:
        yield f"{family}@{version}"
        parent = own_constants(family, version).extends
        if parent is None or not parent.startswith(f"{family}@"):
            return
        version = parent.partition("@")[2]


def of_lineage(rows: Rows, release: str, without: str = "") -> list[Question]:
    """Questions of rows that a stack's constants may have seen, but for those of one stack."""
    return [one for name in lineage(release) if name != without for one in rows.get(name, {}).values()]


def of_family(rows: Rows, family: str, without: str = "") -> list[Question]:
    """Questions of all rows of a family, but for those of one stack."""
    names = [name for name in rows if name.partition("@")[0] == family and name != without]
    return [one for name in names for one in rows[name].values()]


def facets_text(rows: Rows) -> str:
    """The file: one line per family with rows, and per stack that has some or inherits from one that has."""
    found: dict[str, list[Question]] = {}
    for family in sorted({name.partition("@")[0] for name in rows} & set(family_names())):
        found[family] = of_family(rows, family)
        for version in folder_of(family).all_releases:
            found[f"{family}@{version}"] = of_lineage(rows, f"{family}@{version}")
    lines = [
        f"{json.dumps(name)}: {json.dumps(known_of(questions), separators=(',', ':'))}"
        for name, questions in found.items()
        if questions
    ]
    return "{\n" + ",\n".join(lines) + "\n}\n"


# -- what of a left-out row its fit had not seen --------------------------------------------------------------


def folds_of(names: Sequence[str], fitted: Sequence[bool]) -> list[str]:
    """What each row is left out with: its group, or the small groups together, which asks more of a fit."""
    counts = Counter(name for name, counts in zip(names, fitted, strict=True) if counts)
    return ["" if 0 < counts[name] < FEW else name for name in names]


def novel_lines(lines: Sequence[Line], rows: Rows, fits: Callable[[str, str], bool]) -> list[Line]:
    """For each line by a fit that did not see the row, the levels of what else it had not seen; "" where nothing.

    What a version's rows without a group have is set beside the family's with these; what another version's rows have,
    beside those of all of the family but the version that the row is of.

    Args:
        lines: Those of ``left_out.csv.gz``.
        rows: Questions of all rows.
        fits: Whether a row of a stack counts in its fit.
    """
    known: dict[tuple[str, ...], Mapping[str, Any] | None] = {}
    folds: dict[tuple[str, str], dict[str, str]] = {}

    def levels(question: Question, own: tuple[str, ...], family: tuple[str, ...]) -> str | None:
        there, relatives = known[own], known[family]
        if there is None:
            return None
        in_family = None if relatives is None else novelty(question, relatives)
        return "+".join(levels_of(novelty(question, there), in_family))

    found: list[Line] = []
    own: tuple[str, ...]
    for line in lines:
        release, row_id, how = line["release"], line["row_id"], line["how"]
        question = rows.get(release, {}).get(row_id)
        if question is None or how not in ("model", "gpu", *BY_OTHERS):
            continue
        family = release.partition("@")[0]
        if how in BY_OTHERS:
            own = release, line["group"]
            relatives: tuple[str, ...] = (release, "family")
            if own not in known:
                known[own] = _known(of_lineage(rows, line["group"], without=release))
                known[relatives] = _known(of_family(rows, family, without=release))
        else:
            if (release, how) not in folds:
                folds[release, how] = _fold_of(lines, release, how, fits)
            fold = folds[release, how]
            own = (release, how, fold[row_id])
            relatives = (*own, "family")
            if own not in known:
                rest = [
                    one
                    for name, one in rows[release].items()
                    if fold.get(name) != fold[row_id] and fits(release, name)
                ]
                known[own] = _known([*rest, *of_lineage(rows, release, without=release)])
                known[relatives] = _known([*rest, *of_family(rows, family, without=release)])
        said = levels(question, own, relatives)
        if said is not None:
            found.append({"release": release, "row_id": row_id, "how": how, "levels": said})
    return found


def _known(questions: Sequence[Question]) -> Mapping[str, Any] | None:
    return known_of(questions) if questions else None


def _fold_of(
    lines: Sequence[Line], release: str, how: str, fits: Callable[[str, str], bool]
) -> dict[str, str]:
    """The fold of each row of a stack, from its lines of one kind."""
    own = [line for line in lines if line["release"] == release and line["how"] == how]
    fitted = [fits(release, line["row_id"]) for line in own]
    folds = folds_of([line["group"] for line in own], fitted)
    return {line["row_id"]: fold for line, fold in zip(own, folds, strict=True)}


def novel_text(lines: Iterable[Line]) -> bytes:
    """The file of levels, the same bytes for the same lines."""
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    return gzip.compress(text.getvalue().encode("utf-8"), mtime=0)


@cache
def read_levels() -> Mapping[tuple[str, str, str], frozenset[str]]:
    """The levels of what was new to the fit of a line, by stack, row and kind; without a key where nobody can say."""
    data = (resources.files("calibrate") / NOVEL.removeprefix("calibrate/")).read_bytes()
    return {
        (line["release"], line["row_id"], line["how"]): frozenset(filter(None, line["levels"].split("+")))
        for line in csv.DictReader(io.StringIO(gzip.decompress(data).decode("utf-8")))
    }
