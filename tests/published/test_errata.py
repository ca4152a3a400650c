"""What tables print wrongly of their own rows: what shows it is measured here."""

import math

import pytest

from calibrate.evidence.errata import as_meant
from calibrate.evidence.ratios import gm
from calibrate.evidence.serving_rows import Case, Cases, load_cases, load_rows

SMALL, LARGE = "amd/Llama-3.1-70B-Instruct-FP8-KV", "amd/Llama-3.1-405B-Instruct-FP8-KV"
MISNAMED = ("0.6.6 ROCm 6.3.1", "0.7.3 ROCm 6.3.1", "0.8.3 ROCm 6.3.1")


def cases_as(model: str) -> list[Case]:
    """The misnamed rows, read as runs of a model."""
    rows = [row for row in load_rows() if row["system_version"] in MISNAMED]
    return load_cases([dict(row) | {"model": model} for row in rows])


def test_rows_of_the_405b_are_read_as_such() -> None:
    rows = [row for row in load_rows() if row["system_version"] in MISNAMED]
    assert len(rows) == 48
    assert {row["model"] for row in rows} == {LARGE}


def test_they_are_the_405b_by_a_model_that_never_saw_them() -> None:
    """Constants of later versions, fitted to runs of the 70B, predict them as the 405B; as the 70B they are far too slow."""
    as_large, as_small = cases_as(LARGE), cases_as(SMALL)
    assert gm(Cases(as_large).log_ratios({})) < 1.06
    found = Cases(as_small).log_ratios({})
    assert math.exp(float(sorted(found)[len(found) // 2])) < 1 / 2.2


def test_no_measured_cell_is_touched() -> None:
    for row in load_rows():
        printed = dict(row) | {"model": SMALL} if row["system_version"] in MISNAMED else row
        meant = as_meant(printed)
        changed = {column for column in meant if meant[column] != printed.get(column)}
        assert changed <= {"model", "system_version"}


@pytest.mark.parametrize("cell", ["system", "system_version", "notes"])
def test_other_rows_are_as_they_are_printed(cell: str) -> None:
    row = {
        "system": "vllm",
        "system_version": MISNAMED[0],
        "model": SMALL,
        "notes": "benchmark_latency.py static batch",
    }
    assert as_meant(row)["model"] == LARGE
    other = row | {cell: "another"}
    assert as_meant(other) is other
