"""Write docs/accuracy_tuning.md and the widths of intervals of fine-tuning from the tables that ship.

usage: python bench/tuning_figures.py
"""

from __future__ import annotations

from pathlib import Path

from calibrate.validate.tuning import PAGE, WIDTHS, page, widths_text

ROOT = Path(__file__).resolve().parent.parent


def main() -> None:
    """Write both files."""
    (ROOT / WIDTHS).write_text(widths_text(), "utf-8")
    (ROOT / PAGE).write_text(page(), "utf-8")


if __name__ == "__main__":
    main()
