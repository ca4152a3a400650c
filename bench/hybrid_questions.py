"""Questions about machines that are too small, answered, beside what was measured: the table of docs/systems/hybrid.md.

    python bench/hybrid_questions.py        seconds; writes the table into the page

The questions are those of ``calibrate/measurements/hybrid/questions.yaml``.
"""

from __future__ import annotations

from pathlib import Path

from calibrate.evidence.hybrid_questions import FACTOR, load_questions

PAGE = Path(__file__).parents[1] / "docs" / "systems" / "hybrid.md"
BEGIN, END = "<!-- questions -->", "<!-- /questions -->"


def lines() -> list[str]:
    """The table, in Markdown."""
    found = ["| question | | measured, token/s | answered | ratio |", "| --- | --- | --: | --: | --: |"]
    for question in load_questions():
        for name, answered, measured in question.rates():
            ratio = answered / measured
            missed = "" if 1 / FACTOR < ratio < FACTOR else " (missed)"
            found.append(
                f"| {question.question} | {name} | {measured:g} | {answered:.3g} | {ratio:.2f}{missed} |"
            )
    why = [f"- Missed: {one.question}: {one.missed}." for one in load_questions() if one.missed]
    return [*found, "", *why]


def main() -> None:
    """Write the table into the page."""
    before, _, rest = PAGE.read_text("utf-8").partition(BEGIN)
    after = rest.partition(END)[2]
    PAGE.write_text("\n".join([f"{before}{BEGIN}", *lines(), f"{END}{after}"]), "utf-8")


if __name__ == "__main__":
    main()
