"""What is predicted of every table's row whose requests come and go: two minutes.

    python bench/request_figures.py           writes calibrate/measurements/requests/predicted.csv.gz
    python bench/request_figures.py --worst 20    and shows the rows that are farthest off
    python bench/request_figures.py --only AccelMark TensorRT-LLM    these sources' rows; the others stay as they were

``make accuracy`` makes ``docs/accuracy_requests.md`` of it.
"""

from __future__ import annotations

import argparse
import gzip
import math
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from calibrate.evidence.ratios import gm  # noqa: E402
from calibrate.validate.requests import PREDICTED, Line, line_of, read_predicted, rows, table_text  # noqa: E402


def main() -> int:
    """Simulate all rows, write the file, say how far off they are."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--worst", type=int, default=0)
    parser.add_argument("--only", nargs="+", metavar="SOURCE")
    arguments = parser.parse_args()
    start = time.perf_counter()
    kept = {} if arguments.only is None else _kept(arguments.only)
    lines = [line for row in rows() for line in kept.get(row["row_id"]) or line_of(row)]
    # No name and no time in the header: the same lines are the same file.
    (ROOT / PREDICTED).write_bytes(gzip.compress(table_text(lines).encode(), mtime=0))
    print(f"{len(lines)} lines of {len(rows())} rows in {time.perf_counter() - start:.0f} s")
    done = [line for line in lines if not line["reason"]]
    ratio = {id(line): math.log(float(line["predicted"]) / float(line["measured"])) for line in done}
    for load in dict.fromkeys(line["load"] for line in done):
        for quantity in dict.fromkeys(line["quantity"] for line in done):
            found = [ratio[id(line)] for line in done if (line["load"], line["quantity"]) == (load, quantity)]
            if found:
                print(f"  {load:<12} {quantity:<18} {len(found):>5} rows, gm {gm(found):.3f}")
    for line in sorted(done, key=lambda line: -abs(ratio[id(line)]))[: arguments.worst]:
        print(f"  {math.exp(ratio[id(line)]):8.3f} {dict(line)}")
    return 0


def _kept(sources: list[str]) -> dict[str, list[Line]]:
    """The committed lines of rows of other sources, by row."""
    anew = {row["row_id"] for row in rows() if any(one in row["source_repo"] for one in sources)}
    found: dict[str, list[Line]] = {}
    for line in read_predicted():
        if line["row_id"] not in anew:
            found.setdefault(line["row_id"], []).append(line)
    return found


if __name__ == "__main__":
    sys.exit(main())
