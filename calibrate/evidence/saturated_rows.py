"""Runs of engines that never lack a request, as cases of a fit: a closed loop of as many as the engine was built for.

What is beside that, a queue that fills the engine at once and one that drains, the simulation of the row knows
(`calibrate.evidence.serving_rows.Cases.loops`).
"""

from __future__ import annotations

import csv
import gzip
from dataclasses import replace
from functools import cache
from importlib import resources
from typing import Final

from calibrate.evidence.errata import as_meant
from calibrate.evidence.request_runs import tuned
from calibrate.evidence.server_settings import settings_of
from calibrate.evidence.serving_rows import Case, positive_number
from calibrate.evidence.settings import scenario_of
from calibrate.evidence.stated import rate_kind, stated_run
from llm_perf.systems import system_of

_PHRASE: Final = "saturated in-flight batching"


@cache
def load_saturated() -> tuple[Case, ...]:
    """Cases of the rows whose engines a program built for their lengths."""
    data = (resources.files("calibrate") / "measurements" / "requests" / "requests.csv.gz").read_bytes()
    found = []
    for printed in csv.DictReader(gzip.decompress(data).decode("utf-8").splitlines()):
        row = as_meant(printed)
        measured = positive_number(row["throughput_tok_s"])
        if _PHRASE not in row["notes"] or settings_of(row).tuned_by is None or measured is None:
            continue
        run = stated_run(dict(row) | {"request_rate": "", "batch_size": "1"})
        work = tuned(scenario_of(run), row).workload
        run = replace(
            run, batch_size=work.max_num_seqs or 1, max_num_seqs=work.max_num_seqs,
            max_num_batched_tokens=work.max_num_batched_tokens,
        )  # fmt: skip
        scenario = scenario_of(run)
        file = system_of(scenario).file
        found.append(
            Case(
                row["row_id"], run, scenario, f"{file.name}@{file.release}", "throughput_tok_s", measured,
                rate_kind(row["throughput_def"]), True, row,
            )
        )  # fmt: skip
    return tuple(found)
