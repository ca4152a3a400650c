"""Write the files that show what is predicted of the published runs: `make accuracy`.

python bench/accuracy.py            writes them, and says which rows changed and how gm moved
python bench/accuracy.py --check    writes nothing; exits with 1 where a committed file is not what is predicted now
"""

from __future__ import annotations

import argparse
import csv
import io
import math
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from calibrate.validate.scoreboard import validate  # noqa: E402
from calibrate.validate.snapshot import PREDICTIONS, accuracy_files  # noqa: E402

SHOWN = 20


def main() -> int:
    """Compare, write, and say what changed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--check", action="store_true", help="write nothing")
    arguments = parser.parse_args()
    texts = accuracy_files(ROOT, validate())
    stale = [name for name, text in texts.items() if not same(ROOT / name, text)]
    if PREDICTIONS in stale:
        print_changes(ROOT / PREDICTIONS, texts[PREDICTIONS])
    for name in stale:
        if not arguments.check:
            (ROOT / name).write_text(texts[name], "utf-8")
        print(f"{name}: {'not what is predicted now' if arguments.check else 'written'}")
    if not stale:
        print("nothing changed")
    return 1 if stale and arguments.check else 0


def same(path: Path, text: str) -> bool:
    """Whether a file has this text already."""
    return path.is_file() and path.read_text("utf-8") == text


def print_changes(path: Path, text: str) -> None:
    """Rows whose prediction is another one, the largest change first, and each class' gm over them before and after."""
    before = ratios(path.read_text("utf-8")) if path.is_file() else {}
    after = ratios(text)
    changed = [key for key in after if before.get(key, after[key]) != after[key]]
    changed.sort(key=lambda key: -abs(math.log(after[key] / before[key])))
    print(f"{len(changed)} rows predicted otherwise, {len(after.keys() - before.keys())} newly, "
          f"{len(before.keys() - after.keys())} no longer")  # fmt: skip
    for table, row_id, name in changed[:SHOWN]:
        key = table, row_id, name
        print(f"  {table} {row_id:>5} {name:<14} ratio {before[key]:.3f} -> {after[key]:.3f}")
    if len(changed) > SHOWN:
        print(f"  and {len(changed) - SHOWN} more")
    for name in dict.fromkeys(key[2] for key in changed):
        moved = [key for key in changed if key[2] == name]
        print(
            f"  {name}: gm of the {len(moved)} changed rows {mean(before, moved):.3f} -> {mean(after, moved):.3f}"
        )


def ratios(text: str) -> dict[tuple[str, str, str], float]:
    """(table, row, class) -> ratio, of the rows that are predicted."""
    rows = csv.DictReader(io.StringIO(text))
    return {(row["table"], row["row_id"], row["class"]): float(row["ratio"]) for row in rows if row["ratio"]}


def mean(found: dict[tuple[str, str, str], float], keys: list[tuple[str, str, str]]) -> float:
    """Geometric mean of the ratios of some rows."""
    return math.exp(sum(math.log(found[key]) for key in keys) / len(keys))


if __name__ == "__main__":
    sys.exit(main())
